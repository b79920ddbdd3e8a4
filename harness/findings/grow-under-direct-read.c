// SPDX-License-Identifier: MIT
/*
 * FUSE: a truncate that *extends* a file takes its pages from under a direct read of another file into a mapping of it.
 *
 * The parent is the FUSE server, on /dev/fuse itself, the child its client. The client reads a file on a block filesystem
 * with O_DIRECT into a shared mapping of a file of the server. 15 of its 16 pages are there; the kernel holds them
 * while it faults in the last, and for that one the server lets it wait: time for another descriptor to extend the
 * file. Text and explanation: grow-under-direct-read.md.
 *
 *	cc -O2 -Wall -pthread -o grow-under-direct-read grow-under-direct-read.c
 *	sudo ./grow-under-direct-read [DIRECTORY ON ext4 OR xfs]
 *
 * Needs root (it mounts, in a mount namespace of its own) and Linux 5.4 or newer. Output is TAP; the exit code is
 * kselftest's: 0 the kernel is right, 1 it is not, 4 it could not be tried.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/magic.h>
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
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGES		16	/* of each file at first, and of the read */
#define FILES		2
#define SKIP		4

static size_t page;		/* size of a page */

struct file {
	uint64_t size;
	char *data;		/* twice the first size */
};

/* Of both processes. The client writes `hold` while nothing is under way, and reads files when nothing is. */
static struct shared {
	struct file files[FILES];	/* node id FUSE_ROOT_ID + 1 + index, name = the digit */
	bool hold;			/* the next READ of a file's last page */
} *shared;

/* Of the server. */
static struct {
	int dev;
	int arrived;			/* eventfd to the client: a READ is held */
	int go_on;			/* eventfd from the client: answer it */
	int client;			/* pipe whose other end the client has */
	char held[sizeof(struct fuse_in_header) + sizeof(struct fuse_read_in)];
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

static struct file *file_of(uint64_t node)
{
	return &shared->files[node - FUSE_ROOT_ID - 1];
}

static struct fuse_attr attr_of(uint64_t node)
{
	struct fuse_attr attr = { .ino = node, .mode = S_IFDIR | 0755, .nlink = 2, .blksize = 4096 };

	if (node != FUSE_ROOT_ID) {
		attr.mode = S_IFREG | 0644;
		attr.nlink = 1;
		attr.size = file_of(node)->size;
	}
	return attr;
}

static void answer_attr(uint64_t unique, uint64_t node)
{
	struct fuse_attr_out out = { .attr_valid = 3600, .attr = attr_of(node) };

	answer(unique, 0, &out, sizeof(out));
}

static void resize(struct file *file, uint64_t size)
{
	if (size > 2 * PAGES * page)
		errx(SKIP, "a file of %llu bytes", (unsigned long long)size);
	if (size < file->size)
		memset(file->data + size, 0, file->size - size);
	file->size = size;
}

static void answer_write(const struct fuse_in_header *in)
{
	const struct fuse_write_in *args = (const void *)(in + 1);
	struct fuse_write_out out = { .size = args->size };
	struct file *file = file_of(in->nodeid);

	if (args->offset + args->size > file->size)
		resize(file, args->offset + args->size);
	memcpy(file->data + args->offset, args + 1, args->size);
	answer(in->unique, 0, &out, sizeof(out));
}

static void answer_read(const struct fuse_in_header *in)
{
	const struct fuse_read_in *args = (const void *)(in + 1);
	struct file *file = file_of(in->nodeid);
	uint64_t begin = args->offset < file->size ? args->offset : file->size;
	uint64_t len = args->size < file->size - begin ? args->size : file->size - begin;

	answer(in->unique, 0, file->data + begin, len);
}

static void take_read(const struct fuse_in_header *in)
{
	const struct fuse_read_in *args = (const void *)(in + 1);

	if (!shared->hold || args->offset + args->size <= (PAGES - 1) * page)
		return answer_read(in);
	shared->hold = false;
	memcpy(server.held, in, sizeof(server.held));
	eventfd_write(server.arrived, 1);
}

static void release_read(void)
{
	answer_read((const void *)server.held);
}

static void answer_init(const struct fuse_in_header *in)
{
	const struct fuse_init_in *args = (const void *)(in + 1);
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION, .minor = 31, .max_readahead = args->max_readahead,
		.flags = args->flags & (FUSE_BIG_WRITES), .max_write = 128 << 10,
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

static void answer_setattr(const struct fuse_in_header *in)
{
	const struct fuse_setattr_in *args = (const void *)(in + 1);

	if (args->valid & FATTR_SIZE)
		resize(file_of(in->nodeid), args->size);
	answer_attr(in->unique, in->nodeid);
}

static void serve_request(const char *request)
{
	const struct fuse_in_header *in = (const void *)request;
	struct fuse_open_out open_out = { .fh = 0 };

	switch (in->opcode) {
	case FUSE_INIT:		return answer_init(in);
	case FUSE_LOOKUP:	return answer_lookup(in);
	case FUSE_GETATTR:	return answer_attr(in->unique, in->nodeid);
	case FUSE_SETATTR:	return answer_setattr(in);
	case FUSE_OPEN:		return answer(in->unique, 0, &open_out, sizeof(open_out));
	case FUSE_READ:		return take_read(in);
	case FUSE_WRITE:	return answer_write(in);
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
			release_read();
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
	if (mount("grow-under-direct-read", dir, "fuse", MS_NOSUID | MS_NODEV, options))
		err(SKIP, "mount");
}

static bool within(int event, int ms)
{
	struct pollfd polled = { .fd = event, .events = POLLIN };

	return poll(&polled, 1, ms) == 1;
}

struct reading {
	int source;
	char *into;
	ssize_t result;
};

static void *read_directly(void *arg)
{
	struct reading *reading = arg;

	reading->result = pread(reading->source, reading->into, PAGES * page, 0);
	return NULL;
}

static void *extend(void *fd)
{
	return (void *)(intptr_t)ftruncate(*(int *)fd, (PAGES + 2) * page);
}

/* Pages of the mapping that are in the page cache, the last, which is being read, left out. */
static int resident(char *mapping)
{
	unsigned char in_cache[PAGES];
	int i, count = 0;

	if (mincore(mapping, PAGES * page, in_cache))
		err(SKIP, "mincore");
	for (i = 0; i < PAGES - 1; i++)
		count += in_cache[i] & 1;
	return count;
}

/* Waits until the pages are gone; a kernel that leaves them where they are costs the second. */
static void wait_for_the_pages_to_go(char *mapping)
{
	int i, left = PAGES;

	for (i = 0; i < 100 && left; i++) {
		left = resident(mapping);
		poll(NULL, 0, left ? 10 : 0);
	}
	printf("# pages in the page cache after the truncate: %d of %d\n", left, PAGES - 1);
}

/* Pages that have not what was read. */
static int lost(const char *bytes, const char *expected)
{
	int i, count = 0;

	for (i = 0; i < PAGES; i++)
		count += memcmp(bytes + i * page, expected + i * page, page) != 0;
	return count;
}

static bool race(const char *dir, int source, const char *expected, int index, bool grow)
{
	struct reading reading = { .source = source, .result = -1 };
	pthread_t reader, grower;
	void *grown = NULL;
	char path[256];
	eventfd_t count;
	int fd, in_memory, in_file;

	snprintf(path, sizeof(path), "%s/%d", dir, index);
	fd = open(path, O_RDWR);
	reading.into = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || reading.into == MAP_FAILED || madvise(reading.into, PAGES * page, MADV_RANDOM))
		err(SKIP, "%s", path);
	memset(reading.into, 'S', (PAGES - 1) * page);
	shared->hold = true;
	pthread_create(&reader, NULL, read_directly, &reading);
	if (!within(server.arrived, 10000))
		errx(SKIP, "the last page was not asked for");
	eventfd_read(server.arrived, &count);
	if (grow) {
		pthread_create(&grower, NULL, extend, &fd);
		wait_for_the_pages_to_go(reading.into);
	}
	eventfd_write(server.go_on, 1);
	pthread_join(reader, NULL);
	if (grow)
		pthread_join(grower, &grown);
	if (reading.result != (ssize_t)(PAGES * page) || grown)
		errx(SKIP, "read: %zd, ftruncate: %ld", reading.result, (long)(intptr_t)grown);
	in_memory = lost(reading.into, expected);
	if (fsync(fd) && errno != ENOSYS)
		err(SKIP, "fsync");
	munmap(reading.into, PAGES * page);
	in_file = lost(shared->files[index].data, expected);
	printf("# pages without what read() brought: %d in memory, %d in the file\n", in_memory, in_file);
	return !in_memory && !in_file;
}

/* A file of PAGES pages of new bytes, open for direct reads, without a name. */
static int new_source(const char *dir, char *bytes)
{
	char path[256];
	struct statfs fs;
	int fd, direct;

	snprintf(path, sizeof(path), "%s/grow-under-direct-read.XXXXXX", dir);
	fd = mkstemp(path);
	if (fd < 0 || write(fd, bytes, PAGES * page) != (ssize_t)(PAGES * page) || fsync(fd))
		err(SKIP, "%s", path);
	direct = open(path, O_RDONLY | O_DIRECT);
	if (direct < 0)
		warn("%s with O_DIRECT", path);
	unlink(path);
	if (direct < 0 || fstatfs(fd, &fs))
		exit(SKIP);
	if (fs.f_type != EXT4_SUPER_MAGIC && fs.f_type != XFS_SUPER_MAGIC)
		errx(SKIP, "%s is on neither ext4 nor xfs: others may copy, or fault pages in before", dir);
	return direct;
}

static int client(const char *dir, const char *source_dir)
{
	char *bytes = malloc(PAGES * page);
	bool right;
	int i, source;

	for (i = 0; i < PAGES; i++)
		memset(bytes + i * page, 'a' + i, page);
	source = new_source(source_dir, bytes);
	printf("TAP version 13\n1..2\n");
	right = race(dir, source, bytes, 0, false);
	printf("%sok 1 control: a direct read into a mapping\n", right ? "" : "not ");
	if (!race(dir, source, bytes, 1, true)) {
		printf("not ok 2 the file is extended meanwhile\n");
		return 1;
	}
	printf("ok 2 the file is extended meanwhile\n");
	return right ? 0 : 1;
}

int main(int argc, char **argv)
{
	char dir[] = "/tmp/grow-under-direct-read.XXXXXX";
	int i, status = SKIP << 8, alive[2];

	page = sysconf(_SC_PAGESIZE);
	setvbuf(stdout, NULL, _IOLBF, 0);
	shared = mmap(NULL, sizeof(*shared) + FILES * 2 * PAGES * page, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	server.arrived = eventfd(0, EFD_CLOEXEC);
	server.go_on = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (shared == MAP_FAILED || pipe(alive) || !mkdtemp(dir))
		err(SKIP, "%s", dir);
	for (i = 0; i < FILES; i++) {
		shared->files[i].size = PAGES * page;
		shared->files[i].data = (char *)(shared + 1) + i * 2 * PAGES * page;
		memset(shared->files[i].data, 'O', PAGES * page);
	}
	mount_it(dir);
	switch (fork()) {
	case -1:
		err(SKIP, "fork");
	case 0:
		close(server.dev);	/* the connection ends with the server */
		exit(client(dir, argc > 1 ? argv[1] : "."));
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
