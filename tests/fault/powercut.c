/* A power cut, emulated: what a process wrote under one folder and did not sync is gone.

   LD_PRELOADed. Every change to a file under POWERCUT_DIR is done, and its undoing remembered; a
   sync of the file forgets the undoing of its writes, a sync of the folder that of names (created,
   renamed, removed). At the POWERCUT_AFTER-th change or sync the power goes: what is remembered is
   undone, and the process ends with 99. With POWERCUT_SEED each unsynced write survives by the toss
   of a coin, as it may on a disk that reorders; with none, nothing unsynced survives.

   Why not dm-flakey or FUSE: both cut by the clock or from outside, need root and a kernel module or
   /dev/fuse, which CI containers and build machines lack, and a mount a cut. This cuts between any
   two calls, at a chosen one, a hundred times a minute and for everybody. It does not see writes to
   mapped memory (SQLite's -shm, which is rebuilt) nor what a drive does behind its own cache. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FDS 1024

struct change { /* of a file's content: what lay at `offset` before */
  struct change *before;
  off_t offset, old_size;
  size_t length;
  char *old;
};
struct file {
  struct file *next;
  ino_t inode;
  char path[512];
  struct change *changes;
};
enum kind { CREATED, RENAMED, REMOVED };
struct name { /* a change of the folder itself */
  struct name *before;
  enum kind kind;
  char from[512], to[512], kept[512];
};

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static struct file *files, *open_files[FDS];
static char folder_fd[FDS];
static struct name *names;
static char folder[512], attic[512];
static long countdown, kept_count;
static unsigned seed;

static int (*real_open)(const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_rename)(const char *, const char *);
static int (*real_unlink)(const char *);

__attribute__((constructor)) static void begin(void) {
  real_open = dlsym(RTLD_NEXT, "open64");
  real_close = dlsym(RTLD_NEXT, "close");
  real_write = dlsym(RTLD_NEXT, "write");
  real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
  real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
  real_fsync = dlsym(RTLD_NEXT, "fsync");
  real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
  real_rename = dlsym(RTLD_NEXT, "rename");
  real_unlink = dlsym(RTLD_NEXT, "unlink");
  const char *where = getenv("POWERCUT_DIR"), *after = getenv("POWERCUT_AFTER");
  const char *chance = getenv("POWERCUT_SEED");
  if (!where || !after) return;
  snprintf(folder, sizeof folder, "%s", where);
  snprintf(attic, sizeof attic, "%s.attic", where);
  mkdir(attic, 0700);
  countdown = atol(after);
  seed = chance ? (unsigned)atol(chance) : 0;
}

static int ours(const char *path) {
  size_t length = strlen(folder);
  return length && !strncmp(path, folder, length) && path[length] == '/';
}

static struct file *file_of(const char *path) {
  struct stat facts;
  if (stat(path, &facts)) return NULL;
  for (struct file *file = files; file; file = file->next)
    if (file->inode == facts.st_ino) return file;
  struct file *file = calloc(1, sizeof *file);
  file->inode = facts.st_ino;
  snprintf(file->path, sizeof file->path, "%s", path);
  file->next = files;
  return files = file;
}

static void forget_changes(struct file *file) {
  while (file->changes) {
    struct change *change = file->changes;
    file->changes = change->before;
    free(change->old);
    free(change);
  }
}

static void undo_changes(struct file *file) {
  int fd = real_open(file->path, O_RDWR);
  for (struct change *change = file->changes; fd >= 0 && change; change = change->before) {
    if (seed && rand_r(&seed) % 2) continue;
    if (change->length) real_pwrite(fd, change->old, change->length, change->offset);
    struct stat facts;
    fstat(fd, &facts);
    if (facts.st_size != change->old_size) real_ftruncate(fd, change->old_size);
  }
}

static void undo_name(struct name *name) {
  if (name->kind == CREATED) real_unlink(name->from);
  if (name->kind == RENAMED) real_rename(name->to, name->from);
  if (name->kind == REMOVED) real_rename(name->kept, name->from);
  if (name->kind == RENAMED && name->kept[0]) real_rename(name->kept, name->to);
}

/* One step nearer to the cut; before the step itself is done. */
static void step(void) {
  if (!countdown || --countdown) return;
  for (struct file *file = files; file; file = file->next) undo_changes(file);
  for (struct name *name = names; name; name = name->before) undo_name(name);
  char shm[600];
  snprintf(shm, sizeof shm, "%s/outbox.db-shm", folder);
  real_unlink(shm);
  syscall(SYS_exit_group, 99);
}

static void remember(int fd, off_t offset, size_t length, int truncate) {
  struct file *file = open_files[fd];
  struct stat facts;
  fstat(fd, &facts);
  if (truncate) length = facts.st_size > offset ? (size_t)(facts.st_size - offset) : 0;
  struct change *change = calloc(1, sizeof *change);
  change->old_size = facts.st_size;
  change->offset = offset;
  if (offset < facts.st_size) {
    size_t there = (size_t)(facts.st_size - offset);
    change->length = there < length ? there : length;
    change->old = malloc(change->length + 1);
    char proc[64];
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd); /* it may be open for writing only */
    int reader = real_open(proc, O_RDONLY);
    if (pread(reader, change->old, change->length, offset) != (ssize_t)change->length) abort();
    real_close(reader);
  }
  change->before = file->changes;
  file->changes = change;
}

static void remember_name(enum kind kind, const char *from, const char *to, const char *kept) {
  struct name *name = calloc(1, sizeof *name);
  name->kind = kind;
  snprintf(name->from, sizeof name->from, "%s", from);
  snprintf(name->to, sizeof name->to, "%s", to);
  snprintf(name->kept, sizeof name->kept, "%s", kept);
  name->before = names;
  names = name;
}

static void move(const char *from, const char *to) {
  struct file *file = file_of(from);
  if (file) snprintf(file->path, sizeof file->path, "%s", to);
}

/* Take a file out of the way instead of deleting it. */
static int keep(const char *path, char *kept, size_t size) {
  snprintf(kept, size, "%s/%ld", attic, kept_count++);
  move(path, kept);
  return real_rename(path, kept);
}

static int tracked(int fd) { return fd >= 0 && fd < FDS && open_files[fd]; }

static int open_any(const char *path, int flags, mode_t mode) {
  if (!ours(path) && strcmp(path, folder)) return real_open(path, flags, mode);
  pthread_mutex_lock(&lock);
  struct stat facts;
  int is_new = stat(path, &facts) != 0;
  if ((flags & O_CREAT) && is_new) step();
  int truncates = !is_new && (flags & O_TRUNC) && (flags & O_ACCMODE) != O_RDONLY;
  int fd = real_open(path, truncates ? flags & ~O_TRUNC : flags, mode);
  if (fd >= 0 && fd < FDS) {
    folder_fd[fd] = !ours(path);
    open_files[fd] = folder_fd[fd] ? NULL : file_of(path);
    if (is_new) remember_name(CREATED, path, "", "");
    if (truncates) {
      step();
      remember(fd, 0, 0, 1);
      real_ftruncate(fd, 0);
    }
  }
  pthread_mutex_unlock(&lock);
  return fd;
}

#define OPEN(name)                                   \
  int name(const char *path, int flags, ...) {       \
    va_list more;                                    \
    va_start(more, flags);                           \
    mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; \
    va_end(more);                                    \
    return open_any(path, flags, mode);              \
  }
OPEN(open)
OPEN(open64)

int close(int fd) {
  pthread_mutex_lock(&lock);
  if (fd >= 0 && fd < FDS) open_files[fd] = NULL, folder_fd[fd] = 0;
  pthread_mutex_unlock(&lock);
  return real_close(fd);
}

ssize_t write(int fd, const void *data, size_t length) {
  if (!tracked(fd)) return real_write(fd, data, length);
  pthread_mutex_lock(&lock);
  step();
  struct stat facts;
  fstat(fd, &facts);
  off_t offset = fcntl(fd, F_GETFL) & O_APPEND ? facts.st_size : lseek(fd, 0, SEEK_CUR);
  remember(fd, offset, length, 0);
  ssize_t done = real_write(fd, data, length);
  pthread_mutex_unlock(&lock);
  return done;
}

static ssize_t pwrite_any(int fd, const void *data, size_t length, off_t offset) {
  if (!tracked(fd)) return real_pwrite(fd, data, length, offset);
  pthread_mutex_lock(&lock);
  step();
  remember(fd, offset, length, 0);
  ssize_t done = real_pwrite(fd, data, length, offset);
  pthread_mutex_unlock(&lock);
  return done;
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
  return pwrite_any(fd, data, length, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset) {
  return pwrite_any(fd, data, length, offset);
}

static int ftruncate_any(int fd, off_t size) {
  if (!tracked(fd)) return real_ftruncate(fd, size);
  pthread_mutex_lock(&lock);
  step();
  remember(fd, size, 0, 1);
  int done = real_ftruncate(fd, size);
  pthread_mutex_unlock(&lock);
  return done;
}
int ftruncate(int fd, off_t size) { return ftruncate_any(fd, size); }
int ftruncate64(int fd, off_t size) { return ftruncate_any(fd, size); }

static int sync_any(int fd, int (*real)(int)) {
  pthread_mutex_lock(&lock);
  if (tracked(fd)) {
    step();
    forget_changes(open_files[fd]);
  } else if (fd >= 0 && fd < FDS && folder_fd[fd]) {
    step();
    while (names) {
      struct name *name = names;
      names = name->before;
      free(name);
    }
  }
  pthread_mutex_unlock(&lock);
  return real(fd);
}
int fsync(int fd) { return sync_any(fd, real_fsync); }
int fdatasync(int fd) { return sync_any(fd, real_fdatasync); }

int rename(const char *from, const char *to) {
  if (!ours(from)) return real_rename(from, to);
  pthread_mutex_lock(&lock);
  step();
  char kept[600] = "";
  struct stat facts;
  if (!stat(to, &facts)) keep(to, kept, sizeof kept);
  move(from, to);
  int done = real_rename(from, to);
  remember_name(RENAMED, from, to, kept);
  pthread_mutex_unlock(&lock);
  return done;
}

int unlink(const char *path) {
  if (!ours(path)) return real_unlink(path);
  pthread_mutex_lock(&lock);
  struct stat facts;
  int done = -1;
  if (stat(path, &facts)) {
    errno = ENOENT;
  } else {
    step();
    char kept[600];
    done = keep(path, kept, sizeof kept);
    remember_name(REMOVED, path, "", kept);
  }
  pthread_mutex_unlock(&lock);
  return done;
}
