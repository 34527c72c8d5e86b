// Has a stock KVP daemon, which opens a character device, serve the unix socket of `serveDevice` instead, as it is:
//
//   cc -shared -fPIC -o device-socket.so device-socket.c
//   HV_KVP_DEVICE=DIR/vmbus/hv_kvp HV_KVP_ROOT=DIR LD_PRELOAD=$PWD/device-socket.so hv_kvp_daemon -n
//
// HV_KVP_DEVICE is the socket that an open of /dev/vmbus/hv_kvp or /dev/hv_kvp_dev connects to. HV_KVP_ROOT, if it is
// set, is where the daemon's directory is, /var/lib/hyperv or /var/db/hyperv: below it, as below another root.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* The connection that stands for the device. */
static int device = -1;
/* It was refused, as the device of another daemon is, for all that is known: it ended before it brought anything. */
static int refused;

static int is_device(const char *path) {
  return getenv("HV_KVP_DEVICE") != NULL &&
         (strcmp(path, "/dev/vmbus/hv_kvp") == 0 || strcmp(path, "/dev/hv_kvp_dev") == 0);
}

/* Where a path of the daemon's directory is; others stay. */
static const char *moved(const char *path, char *buffer, size_t size) {
  const char *root = getenv("HV_KVP_ROOT");
  int own = strncmp(path, "/var/lib/hyperv", 15) == 0 || strncmp(path, "/var/db/hyperv", 14) == 0;
  if (root == NULL || !own) return path;
  snprintf(buffer, size, "%s%s", root, path);
  return buffer;
}

static int connect_device(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  const char *path = getenv("HV_KVP_DEVICE");
  if (refused) {
    errno = EBUSY;
    return -1;
  }
  if (strlen(path) >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  strcpy(address.sun_path, path);
  device = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (device < 0) return -1;
  refused = 1;
  if (connect(device, (struct sockaddr *)&address, sizeof address) == 0) return device;
  int error = errno;
  close(device);
  device = -1;
  errno = error;
  return -1;
}

int open(const char *path, int flags, ...) {
  char buffer[4096];
  va_list list;
  va_start(list, flags);
  mode_t mode = flags & O_CREAT ? va_arg(list, mode_t) : 0;
  va_end(list);
  if (is_device(path)) return connect_device();
  return NEXT(open)(moved(path, buffer, sizeof buffer), flags, mode);
}

FILE *fopen(const char *path, const char *mode) {
  char buffer[4096];
  return NEXT(fopen)(moved(path, buffer, sizeof buffer), mode);
}

int access(const char *path, int mode) {
  char buffer[4096];
  return NEXT(access)(moved(path, buffer, sizeof buffer), mode);
}

int mkdir(const char *path, mode_t mode) {
  char buffer[4096];
  return NEXT(mkdir)(moved(path, buffer, sizeof buffer), mode);
}

/* A read of a device brings one message, all of it. */
ssize_t read(int descriptor, void *buffer, size_t size) {
  if (descriptor != device || device < 0) return NEXT(read)(descriptor, buffer, size);
  ssize_t length = recv(descriptor, buffer, size, MSG_WAITALL);
  if (length > 0) refused = 0;
  return length;
}

/* A write to a device that is gone is an error, and no signal. */
ssize_t write(int descriptor, const void *buffer, size_t size) {
  if (descriptor != device || device < 0) return NEXT(write)(descriptor, buffer, size);
  return send(descriptor, buffer, size, MSG_NOSIGNAL);
}

/* FreeBSD's device is read and written at offset 0, which a socket does not have. */
ssize_t pread(int descriptor, void *buffer, size_t size, off_t offset) {
  if (descriptor != device || device < 0) return NEXT(pread)(descriptor, buffer, size, offset);
  return read(descriptor, buffer, size);
}

ssize_t pwrite(int descriptor, const void *buffer, size_t size, off_t offset) {
  if (descriptor != device || device < 0) return NEXT(pwrite)(descriptor, buffer, size, offset);
  return write(descriptor, buffer, size);
}
