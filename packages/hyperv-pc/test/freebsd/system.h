/*
 * System calls of FreeBSD 14 on i386 without a C library: numbers, ioctl codes and structures as in
 * sys/kern/syscalls.master, sys/sys/disk.h, sys/sys/signal.h, sys/sys/sysctl.h, sys/sys/mount.h, sys/sys/reboot.h,
 * sys/sys/socket.h, sys/sys/sockio.h and sys/net/if_media.h.
 */
#include <stdint.h>

enum {
	SYS_READ = 3, SYS_WRITE = 4, SYS_OPEN = 5, SYS_CLOSE = 6, SYS_UNLINK = 10, SYS_UNMOUNT = 22, SYS_RECVFROM = 29,
	SYS_SYNC = 36, SYS_IOCTL = 54, SYS_REBOOT = 55, SYS_FSYNC = 95, SYS_SOCKET = 97, SYS_SETSOCKOPT = 105,
	SYS_SENDTO = 133, SYS_MKDIR = 136, SYS_SYSCTL = 202, SYS_CLOCK_GETTIME = 232, SYS_NANOSLEEP = 240,
	SYS_NMOUNT = 378, SYS_KENV = 390, SYS_SIGACTION = 416, SYS_LSEEK = 478,
};
enum { O_RDONLY = 0, O_RDWR = 2, O_CREAT = 0x200, O_TRUNC = 0x400 };
enum { EIO = 5, EINVAL = 22 };
enum { REBOOT = 0, HALT = 0x8, POWER_OFF = 0x4000 };
enum { SIGNAL_REBOOT = 2, SIGNAL_POWER_OFF = 31 };
enum { MOUNT_UPDATE = 0x10000 };
enum { KENV_GET = 0 };
enum { OID_FIND = 3, OID_FORMAT = 4, OID_DEPTH_MAX = 24 };
enum { TYPE_NODE = 1, TYPE_INT, TYPE_STRING, TYPE_S64, TYPE_OPAQUE, TYPE_UINT, TYPE_LONG, TYPE_ULONG, TYPE_U64 };
enum { AF_INET = 2, SOCK_DGRAM = 2, SOCK_RAW = 3, PROTOCOL_ICMP = 1, SOL_SOCKET = 0xffff, SO_RCVTIMEO = 0x1006 };
enum { MEDIA_ACTIVE = 2 };
#define INTERFACE_FLAGS 0xc0206911u
#define INTERFACE_ADD_ADDRESS 0x8044692bu
#define INTERFACE_MTU 0xc0206933u
#define INTERFACE_SET_MTU 0x80206934u
#define INTERFACE_MEDIA 0xc0286938u
#define INTERFACE_HARDWARE_ADDRESS 0xc020693eu
#define DISK_SECTOR_SIZE 0x40046480u
#define DISK_MEDIA_SIZE 0x40086481u
#define DISK_FLUSH 0x20006487u
#define DISK_DELETE 0x80106488u
#define DISK_IDENTITY 0x41006489u
#define DISK_STRIPE_SIZE 0x4008648bu
#define DISK_PHYSICAL_PATH 0x4400648du

struct signal_action {
	void (*handler)(int signal);
	int flags;
	uint32_t mask[4];
};

/* A result of 0 or more, or minus the error number. */
int system_call(int number, ...);
__asm__(
	".globl system_call\n"
	"system_call:\n"
	"	popl %ecx\n" /* the kernel wants one word, then the arguments: the return address takes */
	"	popl %eax\n" /* the place of the number */
	"	pushl %ecx\n"
	"	int $0x80\n"
	"	jnc 1f\n"
	"	negl %eax\n"
	"1:	movl (%esp), %ecx\n"
	"	pushl %ecx\n"
	"	ret\n"
	".globl _start\n"
	"_start:\n"
	"	xorl %ebp, %ebp\n"
	"	andl $-16, %esp\n"
	"	call init\n");

/* The compiler may call these two by itself. */
void *memcpy(void *to, const void *from, unsigned long length)
{
	for (unsigned long i = 0; i < length; i++)
		((volatile uint8_t *)to)[i] = ((const uint8_t *)from)[i];
	return to;
}

void *memset(void *to, int value, unsigned long length)
{
	for (unsigned long i = 0; i < length; i++)
		((volatile uint8_t *)to)[i] = (uint8_t)value;
	return to;
}
