/*
 * The peer of the ring benchmark: a VMBus ring between two threads, in C, by the same rules as the
 * TypeScript one: a control page and a data area that need not be a power of two, space and signal rules,
 * validation of every field the other side writes, one copy in and one copy out.
 *
 * usage: ring DATA_BYTES
 * For each line "PAYLOAD_BYTES BATCH PACKETS" on standard input it prints the seconds that the consumer
 * needed, and the FNV-1a checksum of the last payload as it arrived.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct control {
	_Atomic uint32_t windex, rindex, imask, pending;
};

static uint8_t *memory;
static struct control *control;
static uint8_t *data;
static uint32_t size, payload, batch;
static uint64_t packets;
static uint8_t *source, *target;
static atomic_ulong signals;
/* The two ends and the main thread meet here before and after each round. */
static pthread_barrier_t begin, end;
/* Ends that are awake, so that neither counts the other's waking. */
static atomic_uint ready;
static double seconds;

/* A multiple of 8: the consumer copies whole units. */
enum { PAYLOAD_MAX = 65536 };

static inline uint32_t wrap(uint32_t at)
{
	return at >= size ? at - size : at;
}

static inline void copy_in(uint32_t at, const void *from, uint32_t length)
{
	uint32_t first = size - at;
	if (first >= length) {
		memcpy(data + at, from, length);
	} else {
		memcpy(data + at, from, first);
		memcpy(data, (const uint8_t *)from + first, length - first);
	}
}

static inline void copy_out(void *to, uint32_t at, uint32_t length)
{
	uint32_t first = size - at;
	if (first >= length) {
		memcpy(to, data + at, length);
	} else {
		memcpy(to, data + at, first);
		memcpy((uint8_t *)to + first, data, length - first);
	}
}

static void die(const char *what)
{
	fprintf(stderr, "ring: %s\n", what);
	exit(1);
}

static void meet(void)
{
	atomic_fetch_add(&ready, 1);
	while (atomic_load(&ready) < 2)
		;
}

static void produce(void)
{
	uint32_t staged = 0, published = 0, read = 0;
	uint32_t length = (16 + payload + 7) & ~7u, total = length + 8;

	meet();
	for (uint64_t id = 0; id < packets;) {
		uint32_t put = 0;
		while (put < batch && id < packets) {
			uint32_t used = staged >= read ? staged - read : staged - read + size;
			if (size - used <= total) {
				uint32_t seen = atomic_load(&control->rindex);
				if (seen >= size || (seen & 7))
					die("read index");
				uint32_t ahead = seen >= read ? seen - read : seen - read + size;
				uint32_t readable =
				    published >= read ? published - read : published - read + size;
				if (ahead > readable)
					die("read index moved past what was written");
				read = seen;
				used = staged >= read ? staged - read : staged - read + size;
				if (size - used <= total)
					break;
			}
			uint64_t head[2] = { 6 | 2u << 16 | (uint64_t)(length / 8) << 32, id + 1 };
			uint64_t trailer = (uint64_t)staged << 32;
			uint64_t zero = 0;
			copy_in(staged, head, 16);
			copy_in(wrap(staged + 16), source, payload);
			if (length > 16 + payload)
				copy_in(wrap(staged + 16 + payload), &zero, length - 16 - payload);
			copy_in(wrap(staged + length), &trailer, 8);
			staged = wrap(staged + total);
			put++;
			id++;
		}
		if (staged != published) {
			uint32_t before = published;
			published = staged;
			atomic_store(&control->windex, staged);
			if (atomic_load(&control->imask) == 0 && atomic_load(&control->rindex) == before)
				atomic_fetch_add(&signals, 1);
		}
	}
}

static void consume(void)
{
	uint32_t read = 0, published = 0, write = 0;
	struct timespec from, to;

	meet();
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (uint64_t id = 0; id < packets;) {
		uint32_t taken = 0;
		while (taken < batch && id < packets) {
			uint32_t available = write >= read ? write - read : write - read + size;
			if (available == 0) {
				uint32_t seen = atomic_load(&control->windex);
				if (seen >= size || (seen & 7))
					die("write index");
				uint32_t known =
				    write >= published ? write - published : write - published + size;
				uint32_t now = seen >= published ? seen - published : seen - published + size;
				if (now < known)
					die("write index moved back");
				write = seen;
				available = write >= read ? write - read : write - read + size;
				if (available == 0)
					break;
			}
			if (available < 24)
				die("truncated packet");
			uint64_t head[2];
			copy_out(head, read, 16);
			uint32_t type = head[0] & 0xffff, offset = (head[0] >> 16 & 0xffff) * 8;
			uint32_t length = (head[0] >> 32 & 0xffff) * 8, flags = head[0] >> 48;
			if (offset < 16 || offset > length)
				die("header length");
			if (length + 8 > available)
				die("packet length");
			if (flags & ~1u)
				die("flags");
			if (type != 6 && type != 7 && type != 9 && type != 11)
				die("type");
			if (head[1] != id + 1)
				die("transaction id");
			copy_out(target, wrap(read + offset), length - offset);
			read = wrap(read + length + 8);
			taken++;
			id++;
		}
		uint32_t freed = read >= published ? read - published : read - published + size;
		if (freed != 0) {
			published = read;
			atomic_store(&control->rindex, read);
			uint32_t wanted = atomic_load(&control->pending);
			if (wanted != 0) {
				uint32_t seen = atomic_load(&control->windex);
				uint32_t used = seen >= read ? seen - read : seen - read + size;
				uint32_t room = size - used;
				if (room - freed <= wanted && room > wanted)
					atomic_fetch_add(&signals, 1);
			}
		}
	}
	clock_gettime(CLOCK_MONOTONIC, &to);
	seconds = to.tv_sec - from.tv_sec + (to.tv_nsec - from.tv_nsec) / 1e9;
}

/* The payload that both sides of the benchmark carry. */
static uint8_t payload_byte(uint32_t index)
{
	return index * 7 + (index >> 8) * 13 + 1;
}

static uint32_t checksum(const uint8_t *bytes, uint32_t length)
{
	uint32_t hash = 0x811c9dc5;
	for (uint32_t at = 0; at < length; at++)
		hash = (hash ^ bytes[at]) * 0x01000193;
	return hash;
}

static void *run(void *producer)
{
	for (;;) {
		pthread_barrier_wait(&begin);
		if (producer != NULL)
			produce();
		else
			consume();
		pthread_barrier_wait(&end);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	char line[128];
	pthread_t producer, consumer;

	if (argc != 2 || (size = strtoul(argv[1], NULL, 10)) == 0) {
		fprintf(stderr, "usage: ring DATA_BYTES\n");
		return 2;
	}
	source = malloc(PAYLOAD_MAX);
	target = malloc(PAYLOAD_MAX);
	if (source == NULL || target == NULL ||
	    posix_memalign((void **)&memory, 4096, 4096 + (size_t)size) != 0)
		die("out of memory");
	control = (struct control *)memory;
	data = memory + 4096;
	memset(data, 0, size);
	for (uint32_t index = 0; index < PAYLOAD_MAX; index++)
		source[index] = payload_byte(index);
	pthread_barrier_init(&begin, NULL, 3);
	pthread_barrier_init(&end, NULL, 3);
	if (pthread_create(&producer, NULL, run, &ready) != 0 ||
	    pthread_create(&consumer, NULL, run, NULL) != 0)
		die("no thread");
	while (fgets(line, sizeof line, stdin) != NULL) {
		if (sscanf(line, "%" SCNu32 " %" SCNu32 " %" SCNu64, &payload, &batch, &packets) != 3 ||
		    payload == 0 || payload > PAYLOAD_MAX || batch == 0)
			die("bad line");
		memset(target, 0, PAYLOAD_MAX);
		memset(control, 0, 4096);
		atomic_store(&control->imask, 1);
		atomic_store(&ready, 0);
		pthread_barrier_wait(&begin);
		pthread_barrier_wait(&end);
		if (atomic_load(&signals) != 0)
			die("an end that polls was to be signalled");
		printf("%.9f %" PRIu32 "\n", seconds, checksum(target, payload));
		fflush(stdout);
	}
	return 0;
}
