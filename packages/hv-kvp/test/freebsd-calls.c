// The system calls of FreeBSD's hv_kvp_daemon, as the reference has them: open, pwrite of the registration, then poll, pread and
// pwrite at offset 0. Says "done" to two requests, and ends well if both came whole.
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define MESSAGE_BYTES 7430
#define REGISTER 4

int main(void) {
  unsigned char message[MESSAGE_BYTES] = {REGISTER};
  int device = open("/dev/hv_kvp_dev", O_RDWR);
  if (device < 0 || pwrite(device, message, sizeof message, 0) != sizeof message) return 1;
  for (int count = 0; count < 2; count++) {
    struct pollfd wait = {.fd = device, .events = POLLIN};
    if (poll(&wait, 1, 10000) != 1) return 2;
    if (pread(device, message, sizeof message, 0) != sizeof message || message[0] != 1) return 3;
    memset(message, 0, 4);
    if (pwrite(device, message, sizeof message, 0) != sizeof message) return 4;
  }
  close(device);
  return 0;
}
