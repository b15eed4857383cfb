/* Every change that one process makes below the directory $TAPE_TEST_DISK, in its order, with its bytes and what was synced, written to
   $TAPE_TEST_RECORD: to be preloaded. The kernel hands the calls over (seccomp), because some libraries call it without libc. Ways of writing that
   are not recorded (copies within the kernel, writable maps, io_uring) are refused as unknown, so that another one is taken. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/limits.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

/* The sixth argument of calls that are let through: ours. */
#define OURS 0x7461706574617065ull
#define OURS_LOW ((unsigned)OURS)

/* What a step says before its names and bytes; Rust reads the same. */
struct step {
    unsigned long long kind, file, at, bytes, name, other;
};

static char disk[PATH_MAX];
static int record = -1;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static long call(long number, long a, long b, long c, long d, long e) {
    long result = syscall(number, a, b, c, d, e, OURS);
    return result < 0 ? -errno : result;
}

/* Nothing of a record may be missing: without it the process ends. */
static void put(const void *bytes, size_t length) {
    for (const char *at = bytes; length > 0;) {
        long done = call(SYS_write, record, (long)at, length, 0, 0);
        if (done <= 0) abort();
        at += done, length -= done;
    }
}

static void tell(char kind, unsigned long long file, unsigned long long at, const char *name, const char *other, const struct iovec *parts,
                 size_t bytes) {
    struct step step = {kind, file, at, bytes, name ? strlen(name) : 0, other ? strlen(other) : 0};
    put(&step, sizeof step);
    put(name, step.name);
    put(other, step.other);
    for (; bytes > 0; parts++) {
        size_t part = parts->iov_len < bytes ? parts->iov_len : bytes;
        put(parts->iov_base, part);
        bytes -= part;
    }
}

static int below(const char *path) {
    size_t length = strlen(disk);
    return strncmp(path, disk, length) == 0 && path[length] == '/';
}

/* Where an open file is; 0 where that is not below the disk. */
static int path_of(int file, char *path) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    long length = readlink(link, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = 0;
    return below(path) || strcmp(path, disk) == 0;
}

/* A name as it was given, made absolute; 0 where it is not below the disk. */
static int named(int folder, const char *name, char *path) {
    char from[PATH_MAX];
    if (name[0] == '/') return snprintf(path, PATH_MAX, "%s", name) < PATH_MAX && below(path);
    if (folder == AT_FDCWD && !getcwd(from, sizeof from)) return 0;
    if (folder != AT_FDCWD) path_of(folder, from);
    return snprintf(path, PATH_MAX, "%s/%s", from, name) < PATH_MAX && below(path);
}

static long opened(int folder, const char *name, int flags, int mode) {
    char path[PATH_MAX];
    struct stat before, after;
    int ours = (flags & (O_CREAT | O_TRUNC)) && named(folder, name, path);
    int was = ours && stat(path, &before) == 0;
    long file = call(SYS_openat, folder, (long)name, flags, mode, 0);
    if (file < 0 || !ours || fstat(file, &after) != 0 || !S_ISREG(after.st_mode)) return file;
    if (!was) tell('c', after.st_ino, 0, path, 0, 0, 0);
    else if ((flags & O_TRUNC) && before.st_size > 0) tell('t', after.st_ino, 0, 0, 0, 0, 0);
    return file;
}

static long written(long number, int file, const struct iovec *parts, long a, long b, long c) {
    char path[PATH_MAX];
    struct stat is;
    int ours = fstat(file, &is) == 0 && S_ISREG(is.st_mode) && path_of(file, path);
    long done = call(number, file, a, b, c, 0);
    if (done <= 0 || !ours) return done;
    long long at = number == SYS_pwrite64 ? c : lseek(file, 0, SEEK_CUR) - done;
    tell('w', is.st_ino, at, 0, 0, parts, done);
    return done;
}

static long changed(long number, char kind, int from, const char *name, int to, const char *other,
                    const unsigned long *a) {
    char path[PATH_MAX], second[PATH_MAX];
    int ours = named(from, name, path);
    if (other && named(to, other, second) != ours) abort();
    long done = call(number, a[0], a[1], a[2], a[3], a[4]);
    struct stat is = {0};
    if (done < 0 || !ours) return done;
    if (kind == 'm' && lstat(path, &is) != 0) abort();
    tell(kind, is.st_ino, 0, path, other ? second : 0, 0, 0);
    return done;
}

static long synced(long number, int file) {
    char path[PATH_MAX];
    struct stat is;
    long done = call(number, file, 0, 0, 0, 0);
    if (done == 0 && fstat(file, &is) == 0 && path_of(file, path)) tell(S_ISDIR(is.st_mode) ? 'D' : 's', is.st_ino, 0, path, 0, 0, 0);
    return done;
}

static long resized(int file, long length) {
    char path[PATH_MAX];
    struct stat is;
    long done = call(SYS_ftruncate, file, length, 0, 0, 0);
    if (done == 0 && fstat(file, &is) == 0 && path_of(file, path)) tell('t', is.st_ino, length, 0, 0, 0, 0);
    return done;
}

static long act(long number, const unsigned long *a) {
    struct iovec one = {(void *)a[1], a[2]};
    switch (number) {
    case SYS_openat: return opened(a[0], (char *)a[1], a[2], a[3]);
    case SYS_write: return written(number, a[0], &one, a[1], a[2], 0);
    case SYS_pwrite64: return written(number, a[0], &one, a[1], a[2], a[3]);
    case SYS_writev: return written(number, a[0], (struct iovec *)a[1], a[1], a[2], 0);
    case SYS_ftruncate: return resized(a[0], a[1]);
    case SYS_fsync: case SYS_fdatasync: return synced(number, a[0]);
    case SYS_renameat2:
        if (a[4] > RENAME_NOREPLACE) return -ENOSYS;
        return changed(number, 'r', a[0], (char *)a[1], a[2], (char *)a[3], a);
    case SYS_linkat: return changed(number, 'l', a[0], (char *)a[1], a[2], (char *)a[3], a);
    case SYS_mkdirat: return changed(number, 'm', a[0], (char *)a[1], 0, 0, a);
    case SYS_unlinkat: return changed(number, 'u', a[0], (char *)a[1], 0, 0, a);
#ifdef SYS_renameat
    case SYS_renameat: return changed(number, 'r', a[0], (char *)a[1], a[2], (char *)a[3], a);
#endif
#ifdef SYS_open
    case SYS_open: return opened(AT_FDCWD, (char *)a[0], a[1], a[2]);
    case SYS_creat: return opened(AT_FDCWD, (char *)a[0], O_CREAT | O_WRONLY | O_TRUNC, a[1]);
    case SYS_rename: return changed(number, 'r', AT_FDCWD, (char *)a[0], AT_FDCWD, (char *)a[1], a);
    case SYS_link: return changed(number, 'l', AT_FDCWD, (char *)a[0], AT_FDCWD, (char *)a[1], a);
    case SYS_mkdir: return changed(number, 'm', AT_FDCWD, (char *)a[0], 0, 0, a);
    case SYS_unlink: case SYS_rmdir: return changed(number, 'u', AT_FDCWD, (char *)a[0], 0, 0, a);
#endif
    }
    return -ENOSYS;
}

static void asked(int signal, siginfo_t *info, void *context) {
    ucontext_t *now = context;
    int kept = errno;
#if defined(__x86_64__)
    greg_t *r = now->uc_mcontext.gregs;
    unsigned long a[] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8]};
#elif defined(__aarch64__)
    unsigned long long *r = now->uc_mcontext.regs;
    unsigned long a[] = {r[0], r[1], r[2], r[3], r[4]};
#else
#error "the registers of this machine are not known here"
#endif
    (void)signal;
    pthread_mutex_lock(&turn);
    long result = act(info->si_syscall, a);
    pthread_mutex_unlock(&turn);
#if defined(__x86_64__)
    r[REG_RAX] = result;
#else
    r[0] = result;
#endif
    errno = kept;
}

#define LOAD(what) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, what))
#define ON(number, answer) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, answer)
#define TELL(number) ON(number, SECCOMP_RET_TRAP)
#define REFUSE(number) ON(number, SECCOMP_RET_ERRNO | ENOSYS)

__attribute__((constructor)) static void begin(void) {
    const char *place = getenv("TAPE_TEST_DISK"), *path = getenv("TAPE_TEST_RECORD");
    if (!place || !path || !realpath(place, disk)) return;
    record = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct sigaction action = {.sa_sigaction = asked, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sock_filter filter[] = {
        LOAD(args[5]),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OURS_LOW, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        LOAD(nr),
        TELL(SYS_openat), TELL(SYS_write), TELL(SYS_pwrite64), TELL(SYS_writev), TELL(SYS_ftruncate), TELL(SYS_fsync), TELL(SYS_fdatasync),
        TELL(SYS_renameat2), TELL(SYS_linkat), TELL(SYS_mkdirat), TELL(SYS_unlinkat),
#ifdef SYS_renameat
        TELL(SYS_renameat),
#endif
#ifdef SYS_open
        TELL(SYS_open), TELL(SYS_creat), TELL(SYS_rename), TELL(SYS_link), TELL(SYS_mkdir), TELL(SYS_unlink), TELL(SYS_rmdir),
#endif
        REFUSE(SYS_pwritev), REFUSE(SYS_pwritev2), REFUSE(SYS_truncate), REFUSE(SYS_fallocate), REFUSE(SYS_copy_file_range), REFUSE(SYS_sendfile),
        REFUSE(SYS_splice), REFUSE(SYS_symlinkat), REFUSE(437 /* openat2 */), REFUSE(425 /* io_uring_setup */),
        /* A map that others see may only be read. */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 7),
        LOAD(args[3]), BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, MAP_SHARED, 0, 5),
        LOAD(args[2]), BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_WRITE, 0, 3),
        LOAD(args[4]), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0xffffffff /* of no file */, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    int begun = record >= 0 && sigaction(SIGSYS, &action, 0) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
    /* The first step says that all others will be told. */
    if (begun) tell('b', 0, 0, disk, 0, 0, 0);
}
