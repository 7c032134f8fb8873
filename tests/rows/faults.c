/* Makes the n-th write, fsync, rename or close in one folder fail. Loaded with LD_PRELOAD by fault_driver.py. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char folder[PATH_MAX];
static atomic_long calls, failing;
static int failing_errno;

/* Count calls in `path` from now on; let call number `n` fail with `error`, 0 for none. */
void fault_arm(const char *path, long n, int error)
{
    snprintf(folder, sizeof folder, "%s/", path);
    failing_errno = error;
    failing = n;
    calls = 0;
}

long fault_calls(void) { return calls; }

void fault_disarm(void) { folder[0] = 0; }

static int fails(const char *path)
{
    if (!folder[0] || strncmp(path, folder, strlen(folder)) != 0)
        return 0;
    long now = atomic_fetch_add(&calls, 1) + 1;
    if (now != failing)
        return 0;
    errno = failing_errno;
    return 1;
}

static int fails_fd(int fd)
{
    char link[64], path[PATH_MAX];
    if (!folder[0])
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 2);
    if (length < 0)
        return 0;
    path[length] = 0;
    if (strlen(path) + 1 == strlen(folder) && strncmp(path, folder, length) == 0)
        strcat(path, "/");  /* the folder itself: its fsync */
    return fails(path);
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(ssize_t, "write", int, const void *, size_t);
    return fails_fd(fd) ? -1 : real(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return fails_fd(fd) ? -1 : real(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return fails_fd(fd) ? -1 : real(fd, data, size, at);
}

int ftruncate64(int fd, off64_t size)
{
    REAL(int, "ftruncate64", int, off64_t);
    return fails_fd(fd) ? -1 : real(fd, size);
}

int ftruncate(int fd, off_t size)
{
    REAL(int, "ftruncate", int, off_t);
    return fails_fd(fd) ? -1 : real(fd, size);
}

int fsync(int fd)
{
    REAL(int, "fsync", int);
    return fails_fd(fd) ? -1 : real(fd);
}

int fdatasync(int fd)
{
    REAL(int, "fdatasync", int);
    return fails_fd(fd) ? -1 : real(fd);
}

int rename(const char *from, const char *to)
{
    REAL(int, "rename", const char *, const char *);
    return fails(from) ? -1 : real(from, to);
}

int close(int fd)
{
    REAL(int, "close", int);
    int failed = fails_fd(fd);  /* a close that fails has closed */
    int result = real(fd);
    if (!failed)
        return result;
    errno = failing_errno;
    return -1;
}
