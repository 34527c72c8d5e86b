/*
 * The first and only process of the FreeBSD test guest: a command line on the console, without a C library.
 *
 * It runs the commands of the kernel environment variable hvis.run (separated by ';'), then those typed on
 * the console. Each answers with lines of its own and ends with "ok NAME" or "failed NAME errno N"; the
 * prompt is "hvis> ".
 *
 *   disk DEVICE                         sector size, media size, stripe size, identity, physical path
 *   write PATH OFFSET BYTES SEED        writes a pattern (a file is made when absent), syncs it, prints its SHA-256
 *   hash PATH OFFSET BYTES              prints the SHA-256 of what it reads
 *   trim DEVICE OFFSET BYTES            frees a range of a disk
 *   put PATH TEXT..., cat PATH, remove PATH, directory PATH
 *   mount DEVICE DIRECTORY [rw|ro], remount DIRECTORY rw|ro, unmount DIRECTORY, sync
 *   get NAME, set NAME TEXT...          a sysctl variable
 *   interface NAME                      flags, MTU, address and link of a network interface
 *   address NAME ADDRESS MASK, mtu NAME BYTES
 *   ping ADDRESS COUNT BYTES            sends so many echo requests, each when the one before was answered
 *   hold DEVICE [WORD]                  opens a device and keeps it open, after it has written a 32-bit word to it
 *   date, sleep MILLISECONDS, reboot, halt, poweroff
 *
 * When the kernel is asked to shut down in order, by a host for instance, it signals its first process, which does so.
 *
 * Numbers are decimal. How it is built and put into an image: docs/freebsd-guest.md.
 */
#include <stdbool.h>
#include <stdint.h>
#include "sha256.h"
#include "system.h"

static uint32_t length_of(const char *text)
{
	uint32_t n = 0;
	while (text[n])
		n++;
	return n;
}

static bool same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static void print(const char *text)
{
	system_call(SYS_WRITE, 1, text, length_of(text));
}

/* Without a library there is no 64-bit division: digits come from long division by 10 in 16-bit steps. */
static void print_number(uint64_t value)
{
	char digits[24];
	int at = sizeof digits - 1;
	digits[at] = 0;
	do {
		uint32_t rest = 0;
		uint64_t quotient = 0;
		for (int shift = 48; shift >= 0; shift -= 16) {
			uint32_t part = rest << 16 | (uint32_t)(value >> shift & 0xffff);
			quotient = quotient << 16 | part / 10;
			rest = part % 10;
		}
		digits[--at] = (char)('0' + rest);
		value = quotient;
	} while (value);
	print(digits + at);
}

static void print_field(const char *name, uint64_t value)
{
	print(name);
	print_number(value);
	print("\n");
}

static bool parse_number(const char *text, uint64_t *value)
{
	if (!text || !*text)
		return false;
	for (*value = 0; *text; text++) {
		if (*text < '0' || *text > '9')
			return false;
		*value = *value * 10 + (uint64_t)(*text - '0');
	}
	return true;
}

static void print_hash(struct hash *hash)
{
	char text[65];
	hash_end(hash);
	for (int i = 0; i < 64; i++)
		text[i] = "0123456789abcdef"[hash->state[i / 8] >> (28 - i % 8 * 4) & 15];
	text[64] = 0;
	print("sha256 ");
	print(text);
	print("\n");
}

enum { BUFFER_SIZE = 65536, WORDS_MAX = 16 };
static uint8_t buffer[BUFFER_SIZE] __attribute__((aligned(4096)));

#include "network.h"

static int disk(char **word)
{
	uint32_t sector = 0;
	uint64_t media = 0, stripe = 0;
	int file = system_call(SYS_OPEN, word[1], O_RDONLY, 0);
	if (file < 0)
		return file;
	int result = system_call(SYS_IOCTL, file, DISK_SECTOR_SIZE, &sector);
	if (result >= 0)
		result = system_call(SYS_IOCTL, file, DISK_MEDIA_SIZE, &media);
	if (result >= 0) {
		print_field("sector ", sector);
		print_field("media ", media);
		if (system_call(SYS_IOCTL, file, DISK_STRIPE_SIZE, &stripe) >= 0)
			print_field("stripe ", stripe);
		if (system_call(SYS_IOCTL, file, DISK_IDENTITY, buffer) >= 0)
			print("identity "), print((char *)buffer), print("\n");
		if (system_call(SYS_IOCTL, file, DISK_PHYSICAL_PATH, buffer) >= 0)
			print("path "), print((char *)buffer), print("\n");
	}
	system_call(SYS_CLOSE, file);
	return result;
}

static int write_pattern(char **word)
{
	uint64_t offset, bytes, seed, done = 0;
	struct hash hash;
	if (!parse_number(word[2], &offset) || !parse_number(word[3], &bytes) || !parse_number(word[4], &seed))
		return -EINVAL;
	int file = system_call(SYS_OPEN, word[1], O_RDWR | O_CREAT, 0644), result = 0;
	if (file < 0)
		return file;
	hash_begin(&hash);
	uint32_t state = (uint32_t)seed * 2654435761u | 1;
	system_call(SYS_LSEEK, file, offset, 0);
	while (result >= 0 && done < bytes) {
		uint32_t part = bytes - done < BUFFER_SIZE ? (uint32_t)(bytes - done) : BUFFER_SIZE;
		for (uint32_t i = 0; i < BUFFER_SIZE; i += 4) { /* xorshift32 */
			state ^= state << 13;
			state ^= state >> 17;
			state ^= state << 5;
			*(uint32_t *)(buffer + i) = state;
		}
		result = system_call(SYS_WRITE, file, buffer, part);
		if (result >= 0 && (uint32_t)result != part)
			result = -EIO;
		if (result >= 0)
			hash_update(&hash, buffer, part), done += part;
	}
	if (result >= 0) {
		result = system_call(SYS_FSYNC, file);
		if (result < 0) /* a disk has no fsync */
			result = system_call(SYS_IOCTL, file, DISK_FLUSH, 0);
	}
	print_field("bytes ", done);
	print_hash(&hash);
	int closed = system_call(SYS_CLOSE, file);
	return result < 0 ? result : closed;
}

static int hash_file(char **word)
{
	uint64_t offset, bytes, done = 0;
	struct hash hash;
	if (!parse_number(word[2], &offset) || !parse_number(word[3], &bytes))
		return -EINVAL;
	int file = system_call(SYS_OPEN, word[1], O_RDONLY, 0), result = 1;
	if (file < 0)
		return file;
	hash_begin(&hash);
	system_call(SYS_LSEEK, file, offset, 0);
	while (result > 0 && done < bytes) {
		uint32_t part = bytes - done < BUFFER_SIZE ? (uint32_t)(bytes - done) : BUFFER_SIZE;
		result = system_call(SYS_READ, file, buffer, part);
		if (result > 0)
			hash_update(&hash, buffer, (uint32_t)result), done += (uint32_t)result;
	}
	print_field("bytes ", done);
	print_hash(&hash);
	system_call(SYS_CLOSE, file);
	return result;
}

static int trim(char **word)
{
	uint64_t range[2];
	if (!parse_number(word[2], &range[0]) || !parse_number(word[3], &range[1]))
		return -EINVAL;
	int file = system_call(SYS_OPEN, word[1], O_RDWR, 0);
	if (file < 0)
		return file;
	int result = system_call(SYS_IOCTL, file, DISK_DELETE, range);
	system_call(SYS_CLOSE, file);
	return result;
}

static int put(char **word)
{
	int file = system_call(SYS_OPEN, word[1], O_RDWR | O_CREAT | O_TRUNC, 0644), result = 0;
	if (file < 0)
		return file;
	for (int i = 2; result >= 0 && word[i]; i++) {
		result = system_call(SYS_WRITE, file, word[i], length_of(word[i]));
		if (result >= 0)
			result = system_call(SYS_WRITE, file, word[i + 1] ? " " : "\n", 1);
	}
	if (result >= 0)
		result = system_call(SYS_FSYNC, file);
	system_call(SYS_CLOSE, file);
	return result;
}

static int cat(char **word)
{
	int file = system_call(SYS_OPEN, word[1], O_RDONLY, 0), result;
	if (file < 0)
		return file;
	while ((result = system_call(SYS_READ, file, buffer, BUFFER_SIZE)) > 0)
		system_call(SYS_WRITE, 1, buffer, result);
	system_call(SYS_CLOSE, file);
	return result;
}

struct vector {
	const char *base;
	uint32_t length;
};

/* An update merges with the options of before, so "rw" must be said, not only "ro" left out. */
static int mount_ufs(const char *device, const char *directory, const char *access, int flags)
{
	const char *text[] = {"fstype", "ufs", "fspath", directory, access, "", "from", device};
	struct vector vector[8];
	int count = device ? 8 : 6;
	for (int i = 0; i < count; i++)
		vector[i] = (struct vector){text[i], *text[i] ? length_of(text[i]) + 1 : 0};
	vector[5].base = 0;
	return system_call(SYS_NMOUNT, vector, count, flags);
}

static int mount(char **word)
{
	return mount_ufs(word[1], word[2], word[3] ? word[3] : "rw", 0);
}

static int remount(char **word)
{
	return mount_ufs(0, word[1], word[2], MOUNT_UPDATE);
}

static int find_variable(const char *name, int *id, uint32_t *depth)
{
	int find[2] = {0, OID_FIND};
	uint32_t size = OID_DEPTH_MAX * sizeof *id;
	int result = system_call(SYS_SYSCTL, find, 2, id, &size, name, length_of(name));
	*depth = size / sizeof *id;
	return result;
}

static int get(char **word)
{
	int id[OID_DEPTH_MAX + 2] = {0, OID_FORMAT};
	uint32_t depth, size = BUFFER_SIZE;
	int result = find_variable(word[1], id + 2, &depth);
	if (result >= 0)
		result = system_call(SYS_SYSCTL, id, depth + 2, buffer, &size, 0, 0);
	if (result < 0)
		return result;
	uint32_t kind = *(uint32_t *)buffer & 15;
	size = BUFFER_SIZE - 1;
	result = system_call(SYS_SYSCTL, id + 2, depth, buffer, &size, 0, 0);
	if (result < 0)
		return result;
	buffer[size] = 0;
	if (kind == TYPE_STRING) {
		print((char *)buffer);
	} else if (kind == TYPE_NODE || kind == TYPE_OPAQUE || size > 8) {
		return -EINVAL;
	} else {
		uint64_t value = 0;
		memcpy(&value, buffer, size);
		print_number(value);
	}
	print("\n");
	return 0;
}

static int set(char **word)
{
	int id[OID_DEPTH_MAX];
	uint32_t depth;
	uint64_t number;
	int result = find_variable(word[1], id, &depth);
	if (result < 0)
		return result;
	if (parse_number(word[2], &number))
		return system_call(SYS_SYSCTL, id, depth, 0, 0, &number, sizeof(int));
	return system_call(SYS_SYSCTL, id, depth, 0, 0, word[2], length_of(word[2]));
}

static int hold(char **word)
{
	uint64_t value;
	int file = system_call(SYS_OPEN, word[1], O_RDWR, 0);
	if (file < 0 || !word[2])
		return file;
	if (!parse_number(word[2], &value))
		return -EINVAL;
	return system_call(SYS_WRITE, file, &value, sizeof(uint32_t));
}

static int date(void)
{
	struct {
		int32_t seconds, nanoseconds;
	} now;
	int result = system_call(SYS_CLOCK_GETTIME, 0, &now);
	print_field("seconds ", (uint32_t)now.seconds);
	return result;
}

static int pause_for(char **word)
{
	uint64_t milliseconds;
	if (!parse_number(word[1], &milliseconds))
		return -EINVAL;
	int32_t interval[2] = {(int32_t)((uint32_t)milliseconds / 1000),
			       (int32_t)((uint32_t)milliseconds % 1000 * 1000000)};
	return system_call(SYS_NANOSLEEP, interval, 0);
}

static int stop(int how)
{
	print("stopping\n");
	system_call(SYS_SYNC);
	return system_call(SYS_REBOOT, how);
}

static void asked_to_stop(int signal)
{
	stop(signal == SIGNAL_REBOOT ? REBOOT : HALT | POWER_OFF);
}

static int run(char **word, int words)
{
	const char *name = word[0];
	if (same(name, "disk") && words == 2)
		return disk(word);
	if (same(name, "write") && words == 5)
		return write_pattern(word);
	if (same(name, "hash") && words == 4)
		return hash_file(word);
	if (same(name, "trim") && words == 4)
		return trim(word);
	if (same(name, "put") && words >= 3)
		return put(word);
	if (same(name, "cat") && words == 2)
		return cat(word);
	if (same(name, "remove") && words == 2)
		return system_call(SYS_UNLINK, word[1]);
	if (same(name, "directory") && words == 2)
		return system_call(SYS_MKDIR, word[1], 0755);
	if (same(name, "mount") && words >= 3)
		return mount(word);
	if (same(name, "remount") && words == 3)
		return remount(word);
	if (same(name, "unmount") && words == 2)
		return system_call(SYS_UNMOUNT, word[1], 0);
	if (same(name, "sync") && words == 1)
		return system_call(SYS_SYNC);
	if (same(name, "get") && words == 2)
		return get(word);
	if (same(name, "set") && words == 3)
		return set(word);
	if (same(name, "interface") && words == 2)
		return show_interface(word);
	if (same(name, "address") && words == 4)
		return set_address(word);
	if (same(name, "mtu") && words == 3)
		return set_mtu(word);
	if (same(name, "ping") && words == 4)
		return ping(word);
	if (same(name, "hold") && (words == 2 || words == 3))
		return hold(word);
	if (same(name, "date") && words == 1)
		return date();
	if (same(name, "sleep") && words == 2)
		return pause_for(word);
	if (same(name, "reboot") && words == 1)
		return stop(REBOOT);
	if (same(name, "halt") && words == 1)
		return stop(HALT);
	if (same(name, "poweroff") && words == 1)
		return stop(HALT | POWER_OFF);
	return -EINVAL;
}

static void run_line(char *line)
{
	char *word[WORDS_MAX + 1];
	int words = 0;
	while (*line && words < WORDS_MAX) {
		while (*line == ' ')
			*line++ = 0;
		if (!*line)
			break;
		word[words++] = line;
		while (*line && *line != ' ')
			line++;
	}
	if (!words)
		return;
	word[words] = 0;
	int result = run(word, words);
	print(result < 0 ? "failed " : "ok ");
	print(word[0]);
	if (result < 0)
		print(" errno "), print_number((uint64_t)-result);
	print("\n");
}

void init(void)
{
	static char line[1024];
	/* The kernel hands over no open file: these become 0, 1 and 2. */
	for (int i = 0; i < 3; i++)
		system_call(SYS_OPEN, "/dev/console", O_RDWR, 0);
	struct signal_action action = {.handler = asked_to_stop};
	system_call(SYS_SIGACTION, SIGNAL_REBOOT, &action, 0);
	system_call(SYS_SIGACTION, SIGNAL_POWER_OFF, &action, 0);
	print("hvis: init is up\n");
	if (system_call(SYS_KENV, KENV_GET, "hvis.run", line, sizeof line) > 0) {
		for (char *at = line, *end = line; *at; at = end) {
			while (*end && *end != ';')
				end++;
			if (*end)
				*end++ = 0;
			run_line(at);
		}
	}
	for (;;) {
		print("hvis> ");
		int length = system_call(SYS_READ, 0, line, sizeof line - 1);
		if (length <= 0) { /* nobody can type: wait rather than spin */
			char *word[] = {"sleep", "1000", 0};
			pause_for(word);
			continue;
		}
		line[length] = 0;
		for (int i = 0; i < length; i++)
			if (line[i] == '\n' || line[i] == '\r')
				line[i] = 0;
		run_line(line);
	}
}
