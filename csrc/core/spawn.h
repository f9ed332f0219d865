/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Starting a program from a process with threads, signal handlers and any
 * number of descriptors, so that the program sees none of them.
 */
#ifndef FL_SPAWN_H
#define FL_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct fl_spawn {
    const char *const *argv; /* at least a name; ended by NULL */
    const char *const *envp; /* ended by NULL */
    int stdio[3];            /* descriptors for 0, 1, 2; -1: /dev/null */
    const int *pass_fds;     /* open in the program under their numbers */
    size_t pass_count;
    const char *cwd;  /* NULL: ours */
    bool new_session; /* setsid(): no controlling terminal */
    uint64_t nofile;  /* soft limit of descriptors, cut to the hard one;
                         0: ours */
};

/*
 * Runs argv[0], looked for in the PATH of `envp` if it has no slash. In it no
 * signal is blocked or handled, only those are ignored that the user had
 * ignored before Python started, and only the listed descriptors are open. All
 * descriptors passed in stay the caller's here.
 *
 * 0: it runs; `*ret_pid` is to be waited for, `*ret_pidfd` (close-on-exec) is
 * the caller's, or -1 where the system has none. Negative: nothing was left
 * behind, and the number is what chdir, dup2 or exec said.
 */
int
fl_spawn(const struct fl_spawn *spawn, pid_t *ret_pid, int *ret_pidfd);

#endif
