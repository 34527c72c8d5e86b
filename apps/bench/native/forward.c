// The peer of the network benchmark: frames from one TAP to another and back, a thread for each direction, in the simplest way
// there is: a read and a write for each frame, into and from one buffer, with its virtio_net_hdr.
//
// usage: forward NAMESPACE NAME NAMESPACE NAME OFFLOAD
// OFFLOAD is what TUNSETOFFLOAD is given. Prints a line when both are up; ends when its standard input does.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define FRAME_BYTES (10 + 65536 + 18)

static void fail(const char *what) {
  perror(what);
  exit(1);
}

/* Makes a TAP in a network namespace, which is up. */
static int open_tap(const char *namespace, const char *name, unsigned long offload) {
  char path[256];
  snprintf(path, sizeof path, "/run/netns/%s", namespace);
  int there = open(path, O_RDONLY | O_CLOEXEC);
  if (there < 0 || setns(there, CLONE_NEWNET) < 0) fail(path);
  close(there);
  int tap = open("/dev/net/tun", O_RDWR);
  if (tap < 0) fail("/dev/net/tun");
  struct ifreq request;
  memset(&request, 0, sizeof request);
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (ioctl(tap, TUNSETIFF, &request) < 0) fail("TUNSETIFF");
  if (ioctl(tap, TUNSETOFFLOAD, offload) < 0) fail("TUNSETOFFLOAD");
  int control = socket(AF_INET, SOCK_DGRAM, 0);
  if (control < 0 || ioctl(control, SIOCGIFFLAGS, &request) < 0) fail("SIOCGIFFLAGS");
  request.ifr_flags |= IFF_UP;
  if (ioctl(control, SIOCSIFFLAGS, &request) < 0) fail("SIOCSIFFLAGS");
  close(control);
  return tap;
}

struct direction {
  int from;
  int to;
};

static void *forward(void *argument) {
  const struct direction *direction = argument;
  char *frame = malloc(FRAME_BYTES);
  if (frame == NULL) fail("malloc");
  for (;;) {
    ssize_t length = read(direction->from, frame, FRAME_BYTES);
    if (length < 0) fail("read");
    // An interface that is down does not take it: it is lost, as on a wire.
    ssize_t written = write(direction->to, frame, (size_t)length);
    (void)written;
  }
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 6) {
    fprintf(stderr, "usage: forward NAMESPACE NAME NAMESPACE NAME OFFLOAD\n");
    return 2;
  }
  unsigned long offload = strtoul(argv[5], NULL, 10);
  int left = open_tap(argv[1], argv[2], offload);
  int right = open_tap(argv[3], argv[4], offload);
  struct direction directions[] = {{left, right}, {right, left}};
  for (int index = 0; index < 2; index++) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, forward, &directions[index]) != 0) fail("pthread_create");
  }
  puts("up");
  fflush(stdout);
  while (getchar() != EOF)
    ;
  return 0;
}
