/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os.h"
#include "runner.h"
#include "support.h"

static const char *const no_environment[] = {NULL};

/* Runs a shell command; its exit status. */
static int
run_shell(const char *command, struct fl_spawn spawn)
{
    const char *const argv[] = {"/bin/sh", "-c", command, NULL};
    int status, pidfd = -1;
    pid_t pid = 0;

    spawn.argv = argv;
    if (spawn.envp == NULL) {
        spawn.envp = no_environment;
    }
    CHECK_INT(fl_spawn(&spawn, &pid, &pidfd), 0);
    CHECK_INT(waitpid(pid, &status, 0), pid);
    if (pidfd >= 0) {
        struct pollfd pollfd = {.fd = pidfd, .events = POLLIN};

        CHECK_INT(poll(&pollfd, 1, 0), 1);
        CHECK_INT(close(pidfd), 0);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int
spawn_name(const char *name, const char *path)
{
    const char *const argv[] = {name, NULL}, *const envp[] = {path, NULL};
    const struct fl_spawn spawn = {
        .argv = argv, .envp = envp, .stdio = {-1, -1, -1}};
    int pidfd = -1, err;
    pid_t pid = 0;

    err = fl_spawn(&spawn, &pid, &pidfd);
    if (err == 0) {
        CHECK_INT(waitpid(pid, NULL, 0), pid);
        if (pidfd >= 0) {
            CHECK_INT(close(pidfd), 0);
        }
    }
    else {
        CHECK_INT(pid, 0);
        CHECK_INT(pidfd, -1);
    }
    return err;
}

TEST(exit_status)
{
    const struct fl_spawn spawn = {.stdio = {-1, -1, -1}};

    CHECK_INT(run_shell("exit 0", spawn), 0);
    CHECK_INT(run_shell("exit 7", spawn), 7);
    CHECK_INT(run_shell("kill -9 $$", spawn), 128 + SIGKILL);
}

TEST(missing_and_unusable_programs)
{
    CHECK_INT(spawn_name("/nonexistent", "PATH="), -ENOENT);
    CHECK_INT(spawn_name("nonexistent", "PATH=/bin:/usr/bin"), -ENOENT);
    CHECK_INT(spawn_name("passwd", "PATH=/nonexistent:/etc"), -EACCES);
    CHECK_INT(spawn_name("passwd", "PATH=/etc:/nonexistent"), -EACCES);
    CHECK_INT(spawn_name("true", "PATH=/etc:/nonexistent:/bin"), 0);
    CHECK_INT(spawn_name("true", "PATHS=/etc"), 0);
    CHECK_INT(spawn_name("true", "PATH="), -ENOENT);
    CHECK_INT(spawn_name("", "PATH=/bin"), -EACCES);
}

TEST(standard_descriptors)
{
    struct fl_spawn spawn = {.stdio = {-1, -1, -1}};
    int fds[2];
    char text[16] = "";

    CHECK_INT(pipe2(fds, O_CLOEXEC), 0);
    spawn.stdio[1] = spawn.stdio[2] = fds[1];
    CHECK_INT(run_shell("read x; printf 1; printf 2 >&2", spawn), 0);
    CHECK_INT(read(fds[0], text, sizeof(text)), 2);
    CHECK_MEM(text, "12", 2);
    CHECK_INT(close(fds[0]), 0);
    CHECK_INT(close(fds[1]), 0);
}

TEST(only_what_is_passed_is_open)
{
    struct fl_spawn spawn = {.stdio = {-1, -1, -1}};
    const int passed = fcntl(0, F_DUPFD_CLOEXEC, 20);
    const int stray = fcntl(0, F_DUPFD, 30);
    char command[80];

    CHECK(passed >= 20 && stray >= 30);
    spawn.pass_fds = &passed;
    spawn.pass_count = 1;
    (void)snprintf(command, sizeof(command),
                   "test -e /proc/$$/fd/%d && test ! -e /proc/$$/fd/%d",
                   passed, stray);
    CHECK_INT(run_shell(command, spawn), 0);
    CHECK((fcntl(passed, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK_INT(close(passed), 0);
    CHECK_INT(close(stray), 0);
}

TEST(bad_descriptors_and_directories)
{
    const char *const argv[] = {"/bin/true", NULL};
    const int bad = 9999;
    struct fl_spawn spawn = {
        .argv = argv, .envp = no_environment, .stdio = {-1, bad, -1}};
    int pidfd;
    pid_t pid;

    CHECK_INT(fl_spawn(&spawn, &pid, &pidfd), -EBADF);
    spawn.stdio[1] = -1;
    spawn.pass_fds = &bad;
    spawn.pass_count = 1;
    CHECK_INT(fl_spawn(&spawn, &pid, &pidfd), -EBADF);
    spawn.pass_count = 0;
    spawn.cwd = "/nonexistent";
    CHECK_INT(fl_spawn(&spawn, &pid, &pidfd), -ENOENT);
    CHECK_INT(waitpid(-1, NULL, WNOHANG), -1);
}

TEST(directory_session_and_limit)
{
    const struct fl_spawn spawn = {
        .stdio = {-1, -1, -1},
        .cwd = "/etc",
        .new_session = true,
        .nofile = 77,
    };

    CHECK_INT(run_shell("test $(pwd) = /etc && test $(ulimit -n) = 77 && "
                        "read -r pid _ _ _ _ session _ </proc/$$/stat && "
                        "test $pid = $session",
                        spawn),
              0);
}

TEST(the_limit_stays_below_the_hard_one)
{
    const struct fl_spawn spawn = {.stdio = {-1, -1, -1},
                                   .nofile = UINT64_MAX};

    CHECK_INT(run_shell("test $(ulimit -S -n) = $(ulimit -H -n)", spawn), 0);
}

static void
handle(int number)
{
    (void)number;
}

/* Our handler and mask stay ours; the program has none of them. */
TEST(signals)
{
    const struct fl_spawn spawn = {.stdio = {-1, -1, -1}};
    const struct sigaction action = {.sa_handler = handle};
    struct sigaction now;
    sigset_t mask;

    CHECK_INT(sigaction(SIGUSR1, &action, NULL), 0);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)sigemptyset(&mask);
    (void)sigaddset(&mask, SIGTERM);
    CHECK_INT(sigprocmask(SIG_BLOCK, &mask, NULL), 0);
    CHECK_INT(run_shell("kill -TERM $$", spawn), 128 + SIGTERM);
    CHECK_INT(run_shell("kill -PIPE $$", spawn), 128 + SIGPIPE);
    CHECK_INT(run_shell("kill -USR1 $$", spawn), 128 + SIGUSR1);
    CHECK_INT(sigaction(SIGUSR1, NULL, &now), 0);
    CHECK(now.sa_handler == handle);
    CHECK_INT(sigprocmask(SIG_BLOCK, NULL, &mask), 0);
    CHECK(sigismember(&mask, SIGTERM));
}

static void *
spawn_many(void *data)
{
    for (int i = 0; i < 200; i++) {
        (void)spawn_name("true", "PATH=/bin:/usr/bin");
    }
    atomic_store((atomic_bool *)data, true);
    return NULL;
}

/* A fork that another thread makes meanwhile inherits the report's pipe. */
TEST(a_fork_at_the_same_time_is_not_waited_for)
{
    const uint64_t deadline = fl_os_now_us() + 8000000;
    atomic_bool done = false;
    pthread_t thread;
    pid_t children[20];
    size_t count = 0;

    CHECK_INT(pthread_create(&thread, NULL, spawn_many, &done), 0);
    while (!atomic_load(&done) && fl_os_now_us() < deadline) {
        if (count < sizeof(children) / sizeof(children[0])) {
            children[count] = fork();
            if (children[count] == 0) {
                (void)alarm(60);
                (void)pause();
                _exit(0);
            }
            count++;
        }
        (void)poll(NULL, 0, 3);
    }
    CHECK(atomic_load(&done));
    while (count > 0) {
        CHECK_INT(kill(children[--count], SIGKILL), 0);
        CHECK_INT(waitpid(children[count], NULL, 0), children[count]);
    }
    CHECK_INT(pthread_join(thread, NULL), 0);
}

TEST(an_allocation_may_fail)
{
    const char *const argv[] = {"true", NULL};
    const struct fl_spawn spawn = {
        .argv = argv, .envp = no_environment, .stdio = {-1, -1, -1}};
    int pidfd;
    pid_t pid;

    alloc_fail_after(0);
    CHECK_INT(fl_spawn(&spawn, &pid, &pidfd), -ENOMEM);
}
