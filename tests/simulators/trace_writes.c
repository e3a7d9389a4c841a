// SPDX-License-Identifier: Apache-2.0
// Records what a process does to the files below one folder: every write, truncation, rename, unlink, fsync, mkdir and
// rmdir, in order, with the data. Preloaded into a test's child process; power.py replays the record as a disk whose
// power may fail after any step. Build: cc -shared -fPIC -o trace_writes.so trace_writes.c -ldl
//
// Environment: POSTERN_TRACE_ROOT (folder, absolute, resolved), POSTERN_TRACE_FILE (the record).
// Record: lines "<op> <a> <b> <length>\n" followed by <length> bytes; paths are relative to the root.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int record_fd = -1;
static char root[PATH_MAX];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
  const char *folder = getenv("POSTERN_TRACE_ROOT"), *file = getenv("POSTERN_TRACE_FILE");
  if (folder == NULL || file == NULL) return;
  snprintf(root, sizeof root, "%s/", folder);
  record_fd = REAL(open)(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void put(const void *data, size_t length) {
  const char *at = data;
  while (length > 0) {
    ssize_t n = REAL(write)(record_fd, at, length);
    if (n < 0) abort();
    at += n, length -= (size_t)n;
  }
}

static void record(const char *op, const char *a, const char *b, const void *data, size_t length) {
  char line[2 * PATH_MAX + 64];
  int saved = errno;
  pthread_mutex_lock(&lock);
  put(line, (size_t)snprintf(line, sizeof line, "%s %s %s %zu\n", op, a, b, length));
  put(data, length);
  pthread_mutex_unlock(&lock);
  errno = saved;
}

// Path below the root, "." for the root itself, NULL for anything else.
static const char *below(const char *path, char *buffer) {
  if (record_fd < 0) return NULL;
  if (path[0] != '/') {
    char cwd[PATH_MAX / 2];
    if (getcwd(cwd, sizeof cwd) == NULL) return NULL;
    snprintf(buffer, PATH_MAX, "%s/%.*s", cwd, PATH_MAX / 2 - 2, path);
  } else {
    snprintf(buffer, PATH_MAX, "%s", path);
  }
  size_t n = strlen(root);
  if (strncmp(buffer, root, n) == 0) return buffer + n;
  if (strlen(buffer) == n - 1 && strncmp(buffer, root, n - 1) == 0) return ".";
  return NULL;
}

static const char *of_fd(int fd, char *buffer) {
  char link[64], target[PATH_MAX];
  if (record_fd < 0 || fd == record_fd) return NULL;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, target, sizeof target - 1);
  if (n <= 0) return NULL;
  target[n] = 0;
  return below(target, buffer);
}

static void opened(const char *path, int flags, int existed, int fd) {
  char buffer[PATH_MAX];
  const char *name = fd < 0 ? NULL : below(path, buffer);
  if (name == NULL) return;
  if ((flags & O_CREAT) && !existed) record("create", name, "-", "", 0);
  else if (flags & O_TRUNC) record("truncate", name, "0", "", 0);
}

#define OPEN(function)                                             \
  int function(const char *path, int flags, ...) {                 \
    va_list list;                                                  \
    va_start(list, flags);                                         \
    mode_t mode = va_arg(list, mode_t);                            \
    va_end(list);                                                  \
    int existed = access(path, F_OK) == 0;                         \
    int fd = REAL(function)(path, flags, mode);                    \
    opened(path, flags, existed, fd);                              \
    return fd;                                                     \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(function)                                           \
  int function(int at, const char *path, int flags, ...) {         \
    va_list list;                                                  \
    va_start(list, flags);                                         \
    mode_t mode = va_arg(list, mode_t);                            \
    va_end(list);                                                  \
    int existed = faccessat(at, path, F_OK, 0) == 0;               \
    int fd = REAL(function)(at, path, flags, mode);                \
    if (path[0] == '/') opened(path, flags, existed, fd);          \
    return fd;                                                     \
  }
OPENAT(openat)
OPENAT(openat64)

static void wrote(int fd, const void *data, ssize_t n, off_t offset) {
  char buffer[PATH_MAX], where[32];
  const char *name = n <= 0 ? NULL : of_fd(fd, buffer);
  if (name == NULL) return;
  snprintf(where, sizeof where, "%lld", (long long)offset);
  record("write", name, where, data, (size_t)n);
}

ssize_t write(int fd, const void *data, size_t length) {
  off_t offset = 0;
  struct stat status;
  if (record_fd >= 0 && fd != record_fd && fstat(fd, &status) == 0 && S_ISREG(status.st_mode))
    offset = (fcntl(fd, F_GETFL) & O_APPEND) ? status.st_size : lseek(fd, 0, SEEK_CUR);
  ssize_t n = REAL(write)(fd, data, length);
  wrote(fd, data, n, offset);
  return n;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
  ssize_t n = REAL(pwrite)(fd, data, length, offset);
  wrote(fd, data, n, offset);
  return n;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
  ssize_t n = REAL(pwrite64)(fd, data, length, offset);
  wrote(fd, data, n, offset);
  return n;
}

#define ON_FD(function, op)                                        \
  int function(int fd) {                                           \
    char buffer[PATH_MAX];                                         \
    int result = REAL(function)(fd);                               \
    const char *name = result != 0 ? NULL : of_fd(fd, buffer);     \
    if (name != NULL) record(op, name, "-", "", 0);                \
    return result;                                                 \
  }
ON_FD(fsync, "fsync")
ON_FD(fdatasync, "fsync")

#define FTRUNCATE(function, type)                                  \
  int function(int fd, type length) {                              \
    char buffer[PATH_MAX], size[32];                               \
    int result = REAL(function)(fd, length);                       \
    const char *name = result != 0 ? NULL : of_fd(fd, buffer);     \
    snprintf(size, sizeof size, "%lld", (long long)length);        \
    if (name != NULL) record("truncate", name, size, "", 0);       \
    return result;                                                 \
  }
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)

#define ON_PATH(function, op)                                      \
  int function(const char *path) {                                 \
    char buffer[PATH_MAX];                                         \
    int result = REAL(function)(path);                             \
    const char *name = result != 0 ? NULL : below(path, buffer);   \
    if (name != NULL) record(op, name, "-", "", 0);                \
    return result;                                                 \
  }
ON_PATH(unlink, "unlink")
ON_PATH(rmdir, "rmdir")

int mkdir(const char *path, mode_t mode) {
  char buffer[PATH_MAX];
  int result = REAL(mkdir)(path, mode);
  const char *name = result != 0 ? NULL : below(path, buffer);
  if (name != NULL) record("mkdir", name, "-", "", 0);
  return result;
}

int symlink(const char *target, const char *path) {
  char buffer[PATH_MAX];
  int result = REAL(symlink)(target, path);
  const char *name = result != 0 ? NULL : below(path, buffer);
  if (name != NULL) record("symlink", name, "-", target, strlen(target));
  return result;
}

int rename(const char *from, const char *to) {
  char a[PATH_MAX], b[PATH_MAX];
  int result = REAL(rename)(from, to);
  const char *source = result != 0 ? NULL : below(from, a), *target = below(to, b);
  if (source != NULL && target != NULL) record("rename", source, target, "", 0);
  return result;
}

// What mv and rm call, whose folder is the working folder: flags that refuse an existing target change nothing here.
int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
  char a[PATH_MAX], b[PATH_MAX];
  int result = REAL(renameat2)(from_at, from, to_at, to, flags);
  const char *source = result != 0 ? NULL : below(from, a), *target = below(to, b);
  if (source != NULL && target != NULL) record("rename", source, target, "", 0);
  return result;
}

int unlinkat(int at, const char *path, int flags) {
  char buffer[PATH_MAX];
  int result = REAL(unlinkat)(at, path, flags);
  const char *name = result != 0 || (flags & AT_REMOVEDIR) ? NULL : below(path, buffer);
  if (name != NULL && (at == AT_FDCWD || path[0] == '/')) record("unlink", name, "-", "", 0);
  return result;
}

void sync(void) {
  REAL(sync)();
  if (record_fd >= 0) record("sync", ".", "-", "", 0);
}

// Called by the traced program: what it has promised so far.
void postern_mark(const char *text) {
  if (record_fd >= 0) record("mark", "-", "-", text, strlen(text));
}
