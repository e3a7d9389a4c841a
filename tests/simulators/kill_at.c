// SPDX-License-Identifier: Apache-2.0
// Runs a command, and kills it with everything that it started just before the Nth system call of them all that changes
// a file, a folder or what is durable. With N of 0 it runs to its end and prints how many there were.
//   kill_at N COUNTS COMMAND...    the number is written to the file COUNTS; exit status 137 after a kill
// Build: cc -O1 -o kill_at kill_at.c. Linux on x86-64 and arm64.
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const int CHANGES[] = {
#ifdef __x86_64__
    SYS_open, SYS_creat, SYS_rename, SYS_unlink, SYS_rmdir, SYS_mkdir, SYS_link, SYS_symlink, SYS_chmod, SYS_chown,
    SYS_lchown,
#endif
    SYS_openat, SYS_renameat2, SYS_renameat, SYS_unlinkat, SYS_mkdirat, SYS_linkat, SYS_symlinkat, SYS_fchmodat,
    SYS_fchmod, SYS_fchownat, SYS_fchown, SYS_write, SYS_writev, SYS_pwrite64, SYS_copy_file_range, SYS_sendfile,
    SYS_ftruncate, SYS_truncate, SYS_fallocate, SYS_utimensat, SYS_fsync, SYS_fdatasync, SYS_sync, SYS_syncfs,
};
enum { NUMBER = sizeof CHANGES / sizeof *CHANGES, WRITES = 3 /* O_ACCMODE */, CREATES = 0100 /* O_CREAT */ };

// Have the kernel stop at those calls; of the ones that open, at those that may write.
static void filter(void) {
  struct sock_filter code[3 * NUMBER + 8];
  int n = 0;
  code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
  for (int i = 0; i < NUMBER; i++) {
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)CHANGES[i], 0, 1);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
  }
  code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  struct sock_fprog program = {.len = (unsigned short)n, .filter = code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    perror("seccomp");
    _exit(125);
  }
}

// Whether the call that ``process`` stands before changes anything; its first arguments say so.
static int changes(pid_t process) {
  struct __ptrace_syscall_info info;
  if (ptrace(PTRACE_GET_SYSCALL_INFO, process, (void *)sizeof info, &info) <= 0) return 1;
  unsigned long long flags = 0;
  if (info.seccomp.nr == SYS_openat) flags = info.seccomp.args[2];
#ifdef __x86_64__
  else if (info.seccomp.nr == SYS_open) flags = info.seccomp.args[1];
#endif
  else if (info.seccomp.nr == SYS_write || info.seccomp.nr == SYS_writev) return info.seccomp.args[0] > 2;
  else return 1;
  return (flags & WRITES) != 0 || (flags & CREATES) != 0;
}

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  long wanted = atol(argv[1]), seen = 0;
  pid_t first = fork();
  if (first == 0) {
    setpgid(0, 0);
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
    filter();
    execvp(argv[3], argv + 3);
    _exit(127);
  }
  int status, ended = 1;
  waitpid(first, &status, 0);
  long options = PTRACE_O_TRACESECCOMP | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |
                 PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
  if (ptrace(PTRACE_SETOPTIONS, first, NULL, (void *)options) != 0) return 125;
  ptrace(PTRACE_CONT, first, NULL, NULL);
  for (;;) {
    pid_t process = waitpid(-1, &status, __WALL);
    if (process < 0) break;
    if (!WIFSTOPPED(status)) {
      if (process == first) ended = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      continue;
    }
    int event = status >> 16, number = WSTOPSIG(status);
    if (event == PTRACE_EVENT_SECCOMP && changes(process) && ++seen == wanted) {
      ended = 137;
      kill(-first, SIGKILL);
      while (waitpid(-1, &status, __WALL) > 0) continue; // none of them runs on
      break;
    }
    int pass = event != 0 || number == SIGTRAP || number == SIGSTOP ? 0 : number;
    ptrace(PTRACE_CONT, process, NULL, (void *)(long)pass);
  }
  FILE *out = fopen(argv[2], "w");
  if (out != NULL) fprintf(out, "%ld\n", seen), fclose(out);
  return ended;
}
