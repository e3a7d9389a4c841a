// SPDX-License-Identifier: Apache-2.0
// A disk that takes its time to make things durable: preloaded into a process, it lets fsync(2) and fdatasync(2) wait as
// many milliseconds as the file named by POSTERN_SLOW_DISK says at that moment.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef int (*sync_function)(int);

static void take_time(void) {
    const char *name = getenv("POSTERN_SLOW_DISK");
    FILE *file = name ? fopen(name, "re") : NULL;
    long milliseconds = 0;
    if (!file) return;
    if (fscanf(file, "%ld", &milliseconds) != 1) milliseconds = 0;
    fclose(file);
    if (milliseconds <= 0) return;
    struct timespec pause = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

int fsync(int descriptor) {
    take_time();
    return ((sync_function)dlsym(RTLD_NEXT, "fsync"))(descriptor);
}

int fdatasync(int descriptor) {
    take_time();
    return ((sync_function)dlsym(RTLD_NEXT, "fdatasync"))(descriptor);
}
