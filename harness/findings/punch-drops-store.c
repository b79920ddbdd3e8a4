// SPDX-License-Identifier: MIT
/*
 * FUSE: a hole that is punched drops a store, and an older store is back.
 *
 * The parent is the FUSE server, on /dev/fuse itself, the child its client. The server holds the answer to one FALLOCATE
 * while another thread of the client stores through a mapping. Text and explanation: punch-drops-store.md.
 *
 *	cc -O2 -Wall -pthread -o punch-drops-store punch-drops-store.c && sudo ./punch-drops-store
 *
 * Needs root (it mounts, in a mount namespace of its own) and Linux 5.4 or newer. Output is TAP; the exit code is
 * kselftest's: 0 the kernel is right, 1 it is not, 4 it could not be tried.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE		16384	/* of each file */
#define OFFSET		8192	/* of the hole, and of the stores */
#define LENGTH		4096
#define FILES		3
#define HELD_BACK_MS	1000	/* after this long the stores count as waiting for the punch */
#define SKIP		4

/* What happens beside the stores. */
enum race { NOTHING, PUNCH_BEFORE, PUNCH_BESIDE };

/* Of both processes. The client writes `holds` while no FALLOCATE is under way, and reads files when nothing is. */
static struct shared {
	char files[FILES][SIZE];	/* node id FUSE_ROOT_ID + 1 + index, name = the digit */
	bool holds;
} *shared;

/* Of the server. */
static struct {
	int dev;
	int arrived;			/* eventfd to the client: a punch was applied, and its answer is held */
	int go_on;			/* eventfd from the client: answer it */
	int client;			/* pipe whose other end the client has */
	uint64_t held;			/* the request that is held */
} server;

static void answer(uint64_t unique, int error, const void *body, size_t len)
{
	struct fuse_out_header header = {
		.len = sizeof(header) + len, .error = error, .unique = unique,
	};
	struct iovec iov[] = { { &header, sizeof(header) }, { (void *)body, len } };

	/* ENOENT: the request was interrupted; ENODEV: the mount is gone. */
	if (writev(server.dev, iov, 2) < 0 && errno != ENOENT && errno != ENODEV)
		err(SKIP, "answer");
}

static char *file_of(uint64_t node)
{
	return shared->files[node - FUSE_ROOT_ID - 1];
}

static struct fuse_attr attr_of(uint64_t node)
{
	struct fuse_attr attr = { .ino = node, .mode = S_IFDIR | 0755, .nlink = 2, .blksize = 4096 };

	if (node != FUSE_ROOT_ID) {
		attr.mode = S_IFREG | 0644;
		attr.nlink = 1;
		attr.size = SIZE;
	}
	return attr;
}

static void answer_attr(uint64_t unique, uint64_t node)
{
	struct fuse_attr_out out = { .attr_valid = 3600, .attr = attr_of(node) };

	answer(unique, 0, &out, sizeof(out));
}

static void answer_write(const struct fuse_in_header *in)
{
	const struct fuse_write_in *args = (const void *)(in + 1);
	struct fuse_write_out out = { .size = args->size };

	if (args->offset + args->size > SIZE)
		errx(SKIP, "a write behind %d bytes", SIZE);
	memcpy(file_of(in->nodeid) + args->offset, args + 1, args->size);
	answer(in->unique, 0, &out, sizeof(out));
}

static void answer_fallocate(const struct fuse_in_header *in)
{
	const struct fuse_fallocate_in *args = (const void *)(in + 1);

	if (args->mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) ||
	    args->offset + args->length > SIZE)
		return answer(in->unique, -EOPNOTSUPP, NULL, 0);
	memset(file_of(in->nodeid) + args->offset, 0, args->length);
	if (!shared->holds)
		return answer(in->unique, 0, NULL, 0);
	server.held = in->unique;
	eventfd_write(server.arrived, 1);
}

static void answer_read(const struct fuse_in_header *in)
{
	const struct fuse_read_in *args = (const void *)(in + 1);
	uint64_t begin = args->offset < SIZE ? args->offset : SIZE;
	uint64_t len = args->size < SIZE - begin ? args->size : SIZE - begin;

	answer(in->unique, 0, file_of(in->nodeid) + begin, len);
}

static void answer_init(const struct fuse_in_header *in)
{
	const struct fuse_init_in *args = (const void *)(in + 1);
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION, .minor = 31, .max_readahead = args->max_readahead,
		.flags = args->flags & FUSE_BIG_WRITES, .max_write = 128 << 10,
		.max_background = 16, .congestion_threshold = 12,
	};

	answer(in->unique, 0, &out, sizeof(out));
}

static void answer_lookup(const struct fuse_in_header *in)
{
	const char *name = (const char *)(in + 1);
	struct fuse_entry_out out = { .entry_valid = 3600, .attr_valid = 3600 };

	if (in->nodeid != FUSE_ROOT_ID || name[0] < '0' || name[0] >= '0' + FILES || name[1])
		return answer(in->unique, -ENOENT, NULL, 0);
	out.nodeid = FUSE_ROOT_ID + 1 + (name[0] - '0');
	out.attr = attr_of(out.nodeid);
	answer(in->unique, 0, &out, sizeof(out));
}

static void serve_request(const char *request)
{
	const struct fuse_in_header *in = (const void *)request;
	struct fuse_open_out open_out = { .fh = 0 };

	switch (in->opcode) {
	case FUSE_INIT:		return answer_init(in);
	case FUSE_LOOKUP:	return answer_lookup(in);
	case FUSE_GETATTR:
	case FUSE_SETATTR:	return answer_attr(in->unique, in->nodeid);
	case FUSE_OPEN:		return answer(in->unique, 0, &open_out, sizeof(open_out));
	case FUSE_READ:		return answer_read(in);
	case FUSE_WRITE:	return answer_write(in);
	case FUSE_FALLOCATE:	return answer_fallocate(in);
	case FUSE_FLUSH:
	case FUSE_RELEASE:	return answer(in->unique, 0, NULL, 0);
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:	return;
	default:		return answer(in->unique, -ENOSYS, NULL, 0);
	}
}

/* Serves until the client has ended. */
static void serve(void)
{
	static char request[256 << 10] __attribute__((aligned(8)));
	struct pollfd polled[] = {
		{ .fd = server.client }, { .fd = server.dev, .events = POLLIN },
		{ .fd = server.go_on, .events = POLLIN },
	};
	eventfd_t count;
	ssize_t len;

	while (poll(polled, 3, -1) < 0 || !polled[0].revents) {
		if (polled[2].revents && !eventfd_read(server.go_on, &count))
			answer(server.held, 0, NULL, 0);
		len = read(server.dev, request, sizeof(request));
		if (len > 0)
			serve_request(request);
		else if (errno == ENODEV)
			polled[1].fd = -1;
	}
}

static void mount_it(const char *dir)
{
	char options[64];

	server.dev = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (server.dev < 0)
		err(SKIP, "/dev/fuse");
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		err(SKIP, "a mount namespace");
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", server.dev);
	if (mount("punch-drops-store", dir, "fuse", MS_NOSUID | MS_NODEV, options))
		err(SKIP, "mount");
}

struct racer {
	int fd;
	char *mapping;
	int done;	/* eventfd */
	int result;
};

static bool within(int event, int ms)
{
	struct pollfd poll_fd = { .fd = event, .events = POLLIN };

	return poll(&poll_fd, 1, ms) == 1;
}

static void *punch(void *arg)
{
	struct racer *racer = arg;

	racer->result = fallocate(racer->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, OFFSET, LENGTH);
	return NULL;
}

/* An older store, which goes to the server, and a newer one, which stays in the page cache. */
static void *store_twice(void *arg)
{
	struct racer *racer = arg;

	memset(racer->mapping + OFFSET, '1', LENGTH);
	racer->result = sync_file_range(racer->fd, OFFSET, LENGTH, SYNC_FILE_RANGE_WAIT_BEFORE |
					SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
	memset(racer->mapping + OFFSET, '2', LENGTH);
	eventfd_write(racer->done, 1);
	return NULL;
}

/* Whether the page is what the newer store left, or zeroes where the punch may have been the last. */
static bool is_legal(const char *mapping, const char *file, enum race race)
{
	bool newer = true, zero = true;
	int i;

	for (i = OFFSET; i < OFFSET + LENGTH; i++) {
		newer &= mapping[i] == '2';
		zero &= mapping[i] == 0;
	}
	printf("# byte %d: %02x for the client, %02x in the server (31: the older store, 32: the newer)\n",
	       OFFSET, mapping[OFFSET], file[OFFSET]);
	return newer || (race == PUNCH_BESIDE && zero);
}

static bool play(const char *dir, int index, enum race race)
{
	struct racer punching = { .result = 0 }, storing = { .result = -1 };
	pthread_t puncher, storer;
	char path[256];
	eventfd_t count;

	snprintf(path, sizeof(path), "%s/%d", dir, index);
	punching.fd = open(path, O_RDWR);
	storing.fd = open(path, O_RDWR);
	storing.done = eventfd(0, EFD_CLOEXEC);
	storing.mapping = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, storing.fd, 0);
	if (punching.fd < 0 || storing.mapping == MAP_FAILED)
		err(SKIP, "%s", path);
	shared->holds = race == PUNCH_BESIDE;
	if (race != NOTHING)
		pthread_create(&puncher, NULL, punch, &punching);
	if (race == PUNCH_BEFORE)
		pthread_join(puncher, NULL);
	if (race == PUNCH_BESIDE && !within(server.arrived, 10000))
		errx(SKIP, "no FALLOCATE arrived");
	pthread_create(&storer, NULL, store_twice, &storing);
	if (!within(storing.done, HELD_BACK_MS))
		printf("# the stores wait for the punch\n");
	if (race == PUNCH_BESIDE) {
		eventfd_read(server.arrived, &count);
		eventfd_write(server.go_on, 1);
		pthread_join(puncher, NULL);
	}
	pthread_join(storer, NULL);
	if (punching.result || storing.result)
		errx(SKIP, "fallocate: %d, sync_file_range: %d", punching.result, storing.result);
	return is_legal(storing.mapping, shared->files[index], race);
}

static int client(const char *dir)
{
	static const struct {
		const char *name;
		enum race race;
	} tests[] = {
		{ "control: two stores", NOTHING },
		{ "control: a punch, and behind it two stores", PUNCH_BEFORE },
		{ "a punch beside two stores", PUNCH_BESIDE },
	};
	const int count = sizeof(tests) / sizeof(tests[0]);
	bool right = true;
	int i;

	printf("TAP version 13\n1..%d\n", count);
	for (i = 0; i < count; i++) {
		bool ok = play(dir, i, tests[i].race);

		printf("%sok %d %s\n", ok ? "" : "not ", i + 1, tests[i].name);
		right &= ok;
	}
	return right ? 0 : 1;
}

int main(void)
{
	char dir[] = "/tmp/punch-drops-store.XXXXXX";
	int status = SKIP << 8, alive[2];

	setvbuf(stdout, NULL, _IOLBF, 0);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	server.arrived = eventfd(0, EFD_CLOEXEC);
	server.go_on = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (shared == MAP_FAILED || pipe(alive) || !mkdtemp(dir))
		err(SKIP, "%s", dir);
	memset(shared->files, 'O', sizeof(shared->files));
	mount_it(dir);
	switch (fork()) {
	case -1:
		err(SKIP, "fork");
	case 0:
		close(server.dev);	/* the connection ends with the server */
		exit(client(dir));
	}
	close(alive[1]);
	server.client = alive[0];
	alarm(60);	/* ends the server, so the connection, so whatever of the client hangs */
	serve();
	wait(&status);
	umount2(dir, MNT_DETACH);
	rmdir(dir);
	return WIFEXITED(status) ? WEXITSTATUS(status) : SKIP;
}
