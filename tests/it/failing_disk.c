// Preloaded into a server: a disk that takes the log, but not the database. While there is a file `held` in the working
// directory, flushes of the database wait; from when there is a file `failing`, they fail, once for each file that was
// open at the first failure, and succeed after that, as those of Linux do.

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FILES = 1024 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int has_failed;
static int to_be_told[FILES];

static int is_database(int file)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path);
    return length >= 3 && memcmp(path + length - 3, ".db", 3) == 0;
}

static int fails(int file)
{
    if (file >= FILES || !is_database(file))
        return 0;
    while (access("held", F_OK) == 0)
        usleep(1000);
    if (access("failing", F_OK) != 0)
        return 0;
    pthread_mutex_lock(&lock);
    for (int open = 0; open < FILES && !has_failed; open++)
        to_be_told[open] = is_database(open);
    has_failed = 1;
    int fails = to_be_told[file];
    to_be_told[file] = 0;
    pthread_mutex_unlock(&lock);
    return fails;
}

static int flush(long call, int file)
{
    if (fails(file)) {
        errno = EIO;
        return -1;
    }
    return syscall(call, file);
}

int fsync(int file)
{
    return flush(SYS_fsync, file);
}

int fdatasync(int file)
{
    return flush(SYS_fdatasync, file);
}

int close(int file)
{
    if (file >= 0 && file < FILES)
        to_be_told[file] = 0;
    return syscall(SYS_close, file);
}
