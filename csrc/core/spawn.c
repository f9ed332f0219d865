/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/syscall.h>
#endif

#include "os.h"

/* Numbers below this are targets of dup2 in the child. */
#define FIRST_FREE_FD 3
/* Where closing one by one ends, if the kernel cannot close a range. */
#define CLOSE_LIMIT 65536
/* For a child that is no vfork() after all (under valgrind), in ms. */
#define REPORT_WAIT 50

/* --- in the child ------------------------------------------------------- */
/*
 * The child shares the parent's memory until it has exec'ed (vfork: copying a
 * large process' page tables for an exec costs milliseconds). So it calls
 * only what is safe in a signal handler and writes only its own stack.
 */

/* Python ignores these for itself; a program is to start with them. */
static bool
ignored_by_python(int number)
{
    return number == SIGPIPE || number == SIGXFSZ;
}

/*
 * Handlers back to default before any can run here. What the user chose to
 * ignore (nohup) stays ignored, as with any program started from a shell.
 */
static void
reset_signals(void)
{
    struct sigaction fresh = {0}, action;
    sigset_t none;

    fresh.sa_handler = SIG_DFL;
    for (int number = 1; number < NSIG; number++) {
        if (sigaction(number, NULL, &action) == 0
            && (action.sa_handler != SIG_IGN || ignored_by_python(number)))
        {
            /* Fails for the few that cannot be changed. */
            (void)sigaction(number, &fresh, NULL);
        }
    }
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Copies of the three descriptors that no dup2 below can overwrite. */
static int
lift_stdio(const struct fl_spawn *spawn, int lifted[3])
{
    for (int i = 0; i < 3; i++) {
        const int fd = spawn->stdio[i];

        lifted[i] = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, FIRST_FREE_FD)
                            : open("/dev/null", O_RDWR | O_CLOEXEC);
        if (lifted[i] >= 0 && lifted[i] < FIRST_FREE_FD) {
            lifted[i] = fcntl(lifted[i], F_DUPFD_CLOEXEC, FIRST_FREE_FD);
        }
        if (lifted[i] < 0) {
            return -errno;
        }
    }
    return 0;
}

static int
set_stdio(const struct fl_spawn *spawn)
{
    int lifted[3] = {-1, -1, -1};
    int err = lift_stdio(spawn, lifted);

    for (int i = 0; err == 0 && i < 3; i++) {
        /* The target of dup2 is not close-on-exec; its source is. */
        if (dup2(lifted[i], i) < 0) {
            err = -errno;
        }
    }
    return err;
}

static void
mark_cloexec_from(int first)
{
#if defined(SYS_close_range) && defined(CLOSE_RANGE_CLOEXEC)
    if (syscall(SYS_close_range, (unsigned)first, ~0u, CLOSE_RANGE_CLOEXEC)
        == 0) {
        return;
    }
#endif
    for (int fd = first; fd < CLOSE_LIMIT; fd++) {
        (void)fcntl(fd, F_SETFD, FD_CLOEXEC); /* most are not open */
    }
}

static int
pass_descriptors(const struct fl_spawn *spawn)
{
    mark_cloexec_from(FIRST_FREE_FD);
    for (size_t i = 0; i < spawn->pass_count; i++) {
        if (fcntl(spawn->pass_fds[i], F_SETFD, 0) < 0) {
            return -errno;
        }
    }
    return 0;
}

static int
limit_descriptors(const struct fl_spawn *spawn)
{
    struct rlimit limit;

    if (spawn->nofile == 0) {
        return 0;
    }
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) {
        return -errno;
    }
    limit.rlim_cur = spawn->nofile < limit.rlim_max ? spawn->nofile
                                                    : limit.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &limit) < 0 ? -errno : 0;
}

/*
 * Tries the paths in turn. That one is missing must not hide that another is
 * there and cannot be run.
 */
static int
exec_first(const struct fl_spawn *spawn, char *const *paths)
{
    int err = -ENOENT;

    for (; *paths != NULL; paths++) {
        (void)execve(*paths, (char *const *)(uintptr_t)spawn->argv,
                     (char *const *)(uintptr_t)spawn->envp);
        if (errno != ENOENT && errno != ENOTDIR) {
            err = -errno;
        }
    }
    return err;
}

/* Only ever returns the reason why it failed. */
static int
become_program(const struct fl_spawn *spawn, char *const *paths)
{
    int err;

    reset_signals();
    if (spawn->new_session && setsid() < 0) {
        return -errno;
    }
    if (spawn->cwd != NULL && chdir(spawn->cwd) < 0) {
        return -errno;
    }
    err = set_stdio(spawn);
    if (err == 0) {
        err = pass_descriptors(spawn);
    }
    if (err == 0) {
        err = limit_descriptors(spawn);
    }
    return err < 0 ? err : exec_first(spawn, paths);
}

static void
child_main(const struct fl_spawn *spawn, char *const *paths, int report_fd)
{
    const int err = become_program(spawn, paths);

    /* If even this fails, the parent still sees an early end. */
    (void)!write(report_fd, &err, sizeof(err));
    _exit(127);
}

/* --- in the parent ------------------------------------------------------ */

/* The descriptors from which the child copies may be 0, 1 or 2 themselves. */
static int
open_report(int fds[2])
{
    int lifted;

    if (pipe2(fds, O_CLOEXEC) < 0) {
        return -errno;
    }
    lifted = fcntl(fds[1], F_DUPFD_CLOEXEC, FIRST_FREE_FD);
    if (lifted < 0) {
        const int err = -errno;

        fl_os_close(fds[0]);
        fl_os_close(fds[1]);
        return err;
    }
    fl_os_close(fds[1]);
    fds[1] = lifted;
    return 0;
}

/*
 * vfork() with every signal blocked, so that no handler of ours runs in the
 * child on our memory before it has reset them.
 */
static pid_t
start_child(const struct fl_spawn *spawn, char *const *paths, int report_fd)
{
    sigset_t all, before;
    pid_t pid;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    pid = vfork(); /* NOLINT(clang-analyzer-security.insecureAPI.vfork) */
    if (pid == 0) {
        /* NOLINTNEXTLINE(clang-analyzer-unix.Vfork): see "in the child" */
        child_main(spawn, paths, report_fd);
    }
    if (pid < 0) {
        pid = -errno;
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pid;
}

static void
reap(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
}

/*
 * What the child reported, 0 for nothing. After vfork() all of it is there;
 * only where that is a plain fork is there something to wait for. The end of
 * the pipe is not awaited any longer: a process that another thread forked
 * at that moment may hold it open for as long as it lives.
 */
static int
read_report(int fd)
{
    struct pollfd pollfd = {.fd = fd, .events = POLLIN};
    int failure = 0, ready;

    do {
        ready = poll(&pollfd, 1, REPORT_WAIT);
    } while (ready < 0 && errno == EINTR);
    if (ready > 0
        && fl_os_read(fd, &failure, sizeof(failure))
               != (ssize_t)sizeof(failure))
    {
        failure = 0;
    }
    return failure;
}

/* Starts the child and waits until it is the program, or says why not. */
static int
launch(const struct fl_spawn *spawn, char *const *paths, pid_t *ret_pid)
{
    int report[2], failure = 0, err = open_report(report);
    pid_t pid;

    if (err < 0) {
        return err;
    }
    pid = start_child(spawn, paths, report[1]);
    fl_os_close(report[1]);
    if (pid > 0) {
        failure = read_report(report[0]);
    }
    if (failure < 0) {
        reap(pid);
        pid = failure;
    }
    fl_os_close(report[0]);
    if (pid < 0) {
        return (int)pid;
    }
    *ret_pid = pid;
    return 0;
}

/* --- where the program is ----------------------------------------------- */

static const char *
search_path(const char *const *envp)
{
    for (; *envp != NULL; envp++) {
        if (strncmp(*envp, "PATH=", 5) == 0) {
            return *envp + 5;
        }
    }
    return "/bin:/usr/bin";
}

static size_t
count_entries(const char *path)
{
    size_t count = 1;

    for (; *path != '\0'; path++) {
        count += *path == ':';
    }
    return count;
}

/* Writes "directory/name" at `out`; an empty directory is the current one. */
static char *
write_entry(char *out, const char *directory, size_t size, const char *name)
{
    if (size > 0) {
        memcpy(out, directory, size);
        out += size;
        *out++ = '/';
    }
    memcpy(out, name, strlen(name) + 1);
    return out + strlen(name) + 1;
}

/*
 * Lists the paths to try, ended by NULL, in one piece of memory. It has to be
 * done before the fork: the child must not allocate.
 */
static int
list_programs(const char *name, const char *const *envp, char ***ret)
{
    const char *path = strchr(name, '/') != NULL ? "" : search_path(envp);
    const size_t count = count_entries(path);
    const size_t text = strlen(path) + count * (strlen(name) + 2);
    char **list = malloc((count + 1) * sizeof(*list) + text);
    char *out;

    if (list == NULL) {
        return -ENOMEM;
    }
    out = (char *)(list + count + 1);
    for (size_t i = 0; i < count; i++) {
        const size_t size = strcspn(path, ":");

        list[i] = out;
        out = write_entry(out, path, size, name);
        path += size + (path[size] == ':');
    }
    list[count] = NULL;
    *ret = list;
    return 0;
}

int
fl_spawn(const struct fl_spawn *spawn, pid_t *ret_pid, int *ret_pidfd)
{
    char **paths = NULL;
    int err = list_programs(spawn->argv[0], spawn->envp, &paths);

    if (err == 0) {
        err = launch(spawn, paths, ret_pid);
        free(paths);
    }
    if (err == 0) {
        /* It is our child and unreaped, so the number cannot be another's. */
        const int pidfd = fl_os_pidfd_open(*ret_pid);

        *ret_pidfd = pidfd >= 0 ? pidfd : -1;
    }
    return err;
}
