/* SPDX-License-Identifier: Apache-2.0
 * Preloaded where the kernel has no /dev/udmabuf: libcamera's buffers are plain memory files then. To build:
 * gcc -shared -fPIC -O1 -o udmabuf.so udmabuf.c */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/udmabuf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int opened(const char *name, const char *path, int flags, int mode) {
  int (*next)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, name);
  return next(path != NULL && strcmp(path, "/dev/udmabuf") == 0 ? "/dev/null" : path, flags, mode);
}

#define OPEN(name)                                \
  int name(const char *path, int flags, ...) {    \
    va_list rest;                                 \
    va_start(rest, flags);                        \
    int mode = va_arg(rest, int);                 \
    va_end(rest);                                 \
    return opened(#name, path, flags, mode);      \
  }
OPEN(open)
OPEN(open64)

int ioctl(int file, unsigned long request, ...) {
  va_list rest;
  va_start(rest, request);
  void *argument = va_arg(rest, void *);
  va_end(rest);
  if (request == UDMABUF_CREATE) {
    return fcntl(((struct udmabuf_create *)argument)->memfd, F_DUPFD_CLOEXEC, 0);
  }
  if (request == DMA_BUF_IOCTL_SYNC) {
    return 0; /* memory files are coherent */
  }
  return (int)syscall(SYS_ioctl, file, request, argument);
}
