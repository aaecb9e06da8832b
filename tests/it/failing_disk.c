// Preloaded into a server: a disk that fails to take the database, but not its log, from when there is a file `failing`
// in the working directory.

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(int file)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 3 || memcmp(path + length - 3, ".db", 3) != 0)
        return 0;
    return access("failing", F_OK) == 0;
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
