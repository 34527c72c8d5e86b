/*
 * Commands of network interfaces, for init.c. Structures as in net/if.h, netinet/in.h and netinet/in_var.h, an echo
 * request as in netinet/ip_icmp.h.
 */

/* A struct ifreq, and struct ifmediareq by its words. */
struct interface_request {
	char name[16];
	union {
		int32_t word[6];
		uint16_t half[12];
		uint8_t byte[24];
	};
};

struct internet_address {
	uint8_t length, family;
	uint16_t port;
	uint8_t address[4], zero[8];
};

struct address_request {
	char name[16];
	struct internet_address address, broadcast, mask;
	int32_t vhid;
};

struct echo {
	uint8_t type, code;
	uint16_t sum, id, number;
	uint8_t payload[];
};

enum { ECHO_REPLY = 0, ECHO_REQUEST = 8, ECHO_ID = 0x4856, ECHO_BYTES_MAX = 9000 };

static void copy_name(char *to, const char *name)
{
	memset(to, 0, 16);
	for (int i = 0; i < 15 && name[i]; i++)
		to[i] = name[i];
}

static bool parse_address(const char *text, struct internet_address *to)
{
	memset(to, 0, sizeof *to);
	to->length = sizeof *to;
	to->family = AF_INET;
	for (int i = 0; i < 4; i++) {
		uint32_t value = 0;
		if (*text < '0' || *text > '9')
			return false;
		for (; *text >= '0' && *text <= '9'; text++)
			value = value * 10 + (uint32_t)(*text - '0');
		if (value > 255 || *text != (i < 3 ? '.' : 0))
			return false;
		to->address[i] = (uint8_t)value;
		text++;
	}
	return true;
}

/* Asks something of an interface, by a socket that is there only for that. */
static int ask_interface(uint32_t request, void *argument)
{
	int file = system_call(SYS_SOCKET, AF_INET, SOCK_DGRAM, 0);
	if (file < 0)
		return file;
	int result = system_call(SYS_IOCTL, file, request, argument);
	system_call(SYS_CLOSE, file);
	return result;
}

static int show_interface(char **word)
{
	struct interface_request request;
	copy_name(request.name, word[1]);
	int result = ask_interface(INTERFACE_FLAGS, &request);
	if (result < 0)
		return result;
	print_field("flags ", request.half[0]);
	result = ask_interface(INTERFACE_MTU, &request);
	if (result < 0)
		return result;
	print_field("mtu ", (uint32_t)request.word[0]);
	result = ask_interface(INTERFACE_HARDWARE_ADDRESS, &request);
	if (result < 0)
		return result;
	print("ether ");
	for (int i = 2; i < 8; i++) {
		char text[4] = {"0123456789abcdef"[request.byte[i] >> 4], "0123456789abcdef"[request.byte[i] & 15],
				i < 7 ? ':' : '\n', 0};
		print(text);
	}
	memset(request.byte, 0, sizeof request.byte);
	result = ask_interface(INTERFACE_MEDIA, &request);
	if (result < 0)
		return result;
	print(request.word[2] & MEDIA_ACTIVE ? "status active\n" : "status no carrier\n");
	return 0;
}

static int set_address(char **word)
{
	struct address_request request;
	memset(&request, 0, sizeof request);
	copy_name(request.name, word[1]);
	if (!parse_address(word[2], &request.address) || !parse_address(word[3], &request.mask))
		return -EINVAL;
	request.broadcast = request.address;
	for (int i = 0; i < 4; i++)
		request.broadcast.address[i] |= (uint8_t)~request.mask.address[i];
	return ask_interface(INTERFACE_ADD_ADDRESS, &request);
}

static int set_mtu(char **word)
{
	struct interface_request request;
	uint64_t mtu;
	if (!parse_number(word[2], &mtu))
		return -EINVAL;
	copy_name(request.name, word[1]);
	memset(request.byte, 0, sizeof request.byte);
	request.word[0] = (int32_t)mtu;
	return ask_interface(INTERFACE_SET_MTU, &request);
}

/* Waits for the answer to an echo request. */
static int answered(int file, uint32_t number, uint32_t bytes)
{
	for (;;) {
		int length = system_call(SYS_RECVFROM, file, buffer, BUFFER_SIZE, 0, 0, 0);
		if (length < 0)
			return length;
		/* The IP header comes along. */
		uint32_t header = (buffer[0] & 15) * 4u;
		struct echo *reply = (struct echo *)(buffer + header);
		if ((uint32_t)length != header + sizeof *reply + bytes || reply->type != ECHO_REPLY ||
		    reply->id != ECHO_ID || reply->number != number)
			continue;
		for (uint32_t i = 0; i < bytes; i++)
			if (reply->payload[i] != (uint8_t)(i * 7 + number))
				return -EIO;
		return 0;
	}
}

static int ping(char **word)
{
	static uint8_t message[sizeof(struct echo) + ECHO_BYTES_MAX] __attribute__((aligned(4)));
	struct echo *echo = (struct echo *)message;
	struct internet_address to;
	uint64_t count, bytes;
	if (!parse_address(word[1], &to) || !parse_number(word[2], &count) || !parse_number(word[3], &bytes) ||
	    bytes > ECHO_BYTES_MAX || bytes % 2)
		return -EINVAL;
	int file = system_call(SYS_SOCKET, AF_INET, SOCK_RAW, PROTOCOL_ICMP);
	if (file < 0)
		return file;
	int32_t limit[2] = {5, 0};
	int result = system_call(SYS_SETSOCKOPT, file, SOL_SOCKET, SO_RCVTIMEO, limit, sizeof limit);
	uint32_t received = 0;
	for (uint32_t number = 1; result >= 0 && number <= count; number++) {
		uint32_t sum = 0, length = sizeof *echo + (uint32_t)bytes;
		*echo = (struct echo){.type = ECHO_REQUEST, .id = ECHO_ID, .number = (uint16_t)number};
		for (uint32_t i = 0; i < bytes; i++)
			echo->payload[i] = (uint8_t)(i * 7 + number);
		for (uint32_t i = 0; i < length; i += 2)
			sum += *(uint16_t *)(message + i);
		while (sum >> 16)
			sum = (sum >> 16) + (sum & 0xffff);
		echo->sum = (uint16_t)~sum;
		result = system_call(SYS_SENDTO, file, message, length, 0, &to, sizeof to);
		if (result >= 0)
			result = answered(file, number, (uint32_t)bytes);
		if (result >= 0)
			received++;
	}
	print_field("received ", received);
	system_call(SYS_CLOSE, file);
	return result;
}
