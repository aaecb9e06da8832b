// Preloaded into a server: a disk whose power can be cut. Each write, truncation, flush and removal of the database and its
// log is also appended to the file that DISK_JOURNAL names, from which a test builds the files as a power cut at any moment
// might have left them. Nothing is really flushed: what is on the disk is what the journal says. While there is a file
// `failing` in the working directory, flushes of the database fail, and what they were to flush may be lost for good, as on
// Linux.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, TRUNCATE = 2, FLUSH = 3, FAILED_FLUSH = 4, REMOVE = 5 };
enum { NONE = 0, DATABASE = 1, LOG = 2 };

struct record {
    uint8_t kind, file;
    uint16_t unused;
    uint32_t length;
    // Where it was written, the new size, or how many records there were when the flush began.
    uint64_t at;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t records;
static int journal = -1;

static int ends_with(const char *path, size_t length, const char *end)
{
    size_t size = strlen(end);
    return length >= size && memcmp(path + length - size, end, size) == 0;
}

static int named(const char *path, size_t length)
{
    return ends_with(path, length, ".db") ? DATABASE : ends_with(path, length, ".db-wal") ? LOG : NONE;
}

static int file_of(int file)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path);
    return length < 0 ? NONE : named(path, (size_t)length);
}

// With the lock held.
static void append(int kind, int file, uint64_t at, const void *data, size_t length)
{
    int error = errno;
    if (journal < 0)
        journal = (int)syscall(SYS_openat, AT_FDCWD, getenv("DISK_JOURNAL"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    struct record record = { (uint8_t)kind, (uint8_t)file, 0, (uint32_t)length, at };
    struct iovec parts[2] = { { &record, sizeof record }, { (void *)data, length } };
    if (syscall(SYS_writev, journal, parts, 2) != (long)(sizeof record + length))
        abort();
    records++;
    errno = error;
}

ssize_t write(int file, const void *data, size_t length)
{
    int tracked = file_of(file);
    if (tracked == NONE)
        return syscall(SYS_write, file, data, length);
    pthread_mutex_lock(&lock);
    off_t at = lseek(file, 0, SEEK_CUR);
    ssize_t written = syscall(SYS_write, file, data, length);
    if (written > 0)
        append(WRITE, tracked, (uint64_t)at, data, (size_t)written);
    pthread_mutex_unlock(&lock);
    return written;
}

ssize_t pwrite(int file, const void *data, size_t length, off_t at)
{
    int tracked = file_of(file);
    if (tracked == NONE)
        return syscall(SYS_pwrite64, file, data, length, at);
    pthread_mutex_lock(&lock);
    ssize_t written = syscall(SYS_pwrite64, file, data, length, at);
    if (written > 0)
        append(WRITE, tracked, (uint64_t)at, data, (size_t)written);
    pthread_mutex_unlock(&lock);
    return written;
}

ssize_t pwrite64(int file, const void *data, size_t length, off_t at)
{
    return pwrite(file, data, length, at);
}

int ftruncate(int file, off_t size)
{
    int tracked = file_of(file);
    if (tracked == NONE)
        return (int)syscall(SYS_ftruncate, file, size);
    pthread_mutex_lock(&lock);
    int done = (int)syscall(SYS_ftruncate, file, size);
    if (done == 0)
        append(TRUNCATE, tracked, (uint64_t)size, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate64(int file, off_t size)
{
    return ftruncate(file, size);
}

int unlink(const char *path)
{
    int tracked = named(path, strlen(path));
    if (tracked == NONE)
        return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    pthread_mutex_lock(&lock);
    int done = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (done == 0)
        append(REMOVE, tracked, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

static int flush(long call, int file)
{
    int tracked = file_of(file);
    if (tracked == NONE)
        return (int)syscall(call, file);
    pthread_mutex_lock(&lock);
    uint64_t begun = records;
    pthread_mutex_unlock(&lock);
    // Others go on writing meanwhile.
    usleep(300);
    int fails = tracked == DATABASE && access("failing", F_OK) == 0;
    pthread_mutex_lock(&lock);
    append(fails ? FAILED_FLUSH : FLUSH, tracked, begun, NULL, 0);
    pthread_mutex_unlock(&lock);
    if (!fails)
        return 0;
    errno = EIO;
    return -1;
}

int fsync(int file)
{
    return flush(SYS_fsync, file);
}

int fdatasync(int file)
{
    return flush(SYS_fdatasync, file);
}
