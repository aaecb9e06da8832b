// Preloaded into the binary: a disk on which reads, writes and flushes wait or fail. A file in the working directory, which
// need not have any content, says which:
//
// held           flushes of the database wait
// held-log       flushes of the log wait
// held-copy      files are not copied into others
// held-cut       the log is not truncated
// failing        flushes of the database fail, once for each file that was open at the first failure, and succeed after
//                that, as those of Linux do
// failing-reads  reads of the database fail, but for as many at first as the number in this file
// full           the database takes no write
// no-room        the database and the files beside it take no write

#define _GNU_SOURCE
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

static int ends_with(int file, const char *end)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path);
    ssize_t end_length = strlen(end);
    return length >= end_length && memcmp(path + length - end_length, end, end_length) == 0;
}

static int is_database(int file)
{
    return ends_with(file, ".db");
}

static void wait_while(const char *name)
{
    while (access(name, F_OK) == 0)
        usleep(1000);
}

static int fails(int file)
{
    if (ends_with(file, ".db-wal"))
        wait_while("held-log");
    if (file >= FILES || !is_database(file))
        return 0;
    wait_while("held");
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

ssize_t copy_file_range(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t length, unsigned flags)
{
    wait_while("held-copy");
    return syscall(SYS_copy_file_range, from, from_offset, to, to_offset, length, flags);
}

int ftruncate(int file, off_t length)
{
    if (ends_with(file, ".db-wal"))
        wait_while("held-cut");
    return syscall(SYS_ftruncate, file, length);
}

int ftruncate64(int file, off64_t length)
{
    return ftruncate(file, length);
}

static int is_beside_database(int file)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path);
    return length > 0 && memmem(path, length, ".db", 3) != NULL;
}

static int is_full(int file)
{
    if (access("no-room", F_OK) == 0 && is_beside_database(file))
        return 1;
    return access("full", F_OK) == 0 && is_database(file);
}

ssize_t write(int file, const void *bytes, size_t length)
{
    if (is_full(file)) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_write, file, bytes, length);
}

ssize_t pwrite64(int file, const void *bytes, size_t length, off64_t offset)
{
    if (is_full(file)) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_pwrite64, file, bytes, length, offset);
}

ssize_t pwrite(int file, const void *bytes, size_t length, off_t offset)
{
    return pwrite64(file, bytes, length, offset);
}

static int fails_to_read(int file)
{
    static long reads;
    if (!is_database(file))
        return 0;
    FILE *failing = fopen("failing-reads", "r");
    long allowed = 0;
    int is_failing = failing != NULL && fscanf(failing, "%ld", &allowed) == 1;
    if (failing != NULL)
        fclose(failing);
    pthread_mutex_lock(&lock);
    reads = is_failing ? reads + 1 : 0;
    int fails = reads > allowed;
    pthread_mutex_unlock(&lock);
    if (fails)
        errno = EIO;
    return fails;
}

ssize_t read(int file, void *bytes, size_t length)
{
    return fails_to_read(file) ? -1 : syscall(SYS_read, file, bytes, length);
}

ssize_t pread64(int file, void *bytes, size_t length, off64_t offset)
{
    return fails_to_read(file) ? -1 : syscall(SYS_pread64, file, bytes, length, offset);
}

ssize_t pread(int file, void *bytes, size_t length, off_t offset)
{
    return pread64(file, bytes, length, offset);
}

int close(int file)
{
    if (file >= 0 && file < FILES)
        to_be_told[file] = 0;
    return syscall(SYS_close, file);
}
