// SPDX-License-Identifier: MIT
/*
 * FUSE: after a truncate that overtakes an asynchronous direct write, i_size stays behind the server's size.
 *
 * The parent is the FUSE server, on /dev/fuse itself, the child its client. The server holds one WRITE while another
 * thread of the client truncates the file. Text and explanation: truncate-async-write.md.
 *
 *	cc -O2 -Wall -pthread -o truncate-async-write truncate-async-write.c && sudo ./truncate-async-write
 *
 * Needs root (it mounts, in a mount namespace of its own) and Linux 5.4 or newer. Output is TAP; the exit code is
 * kselftest's: 0 the kernel is right, 1 it is not, 4 it could not be tried.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE		16384	/* of each file at first */
#define OFFSET		8192	/* of the write, inside of it */
#define LENGTH		4096
#define FILES		3
#define HELD_BACK_MS	1000	/* after this long a truncate counts as one that waits for the write */
#define SKIP		4

/* Where the server stops a WRITE. */
enum stop { NOWHERE, BEFORE_APPLYING, AFTER_APPLYING };

struct file {
	uint64_t size;
	char data[SIZE];
};

/* Of both processes. The client writes `stop` while no WRITE is under way, and reads files when none is. */
static struct shared {
	struct file files[FILES];	/* node id FUSE_ROOT_ID + 1 + index, name = the digit */
	enum stop stop;
} *shared;

/* Of the server. */
static struct {
	int dev;
	int arrived;			/* eventfd to the client: a WRITE is held */
	int go_on;			/* eventfd from the client: answer it */
	int client;			/* pipe whose other end the client has */
	char held[sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in) + LENGTH];
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
	if (size > SIZE)
		errx(SKIP, "a file of %llu bytes", (unsigned long long)size);
	if (size < file->size)
		memset(file->data + size, 0, file->size - size);
	file->size = size;
}

static void apply_write(const char *request)
{
	const struct fuse_in_header *in = (const void *)request;
	const struct fuse_write_in *args = (const void *)(in + 1);
	struct file *file = file_of(in->nodeid);

	if (args->offset + args->size > SIZE)
		errx(SKIP, "a write behind %d bytes", SIZE);
	if (args->offset + args->size > file->size)
		resize(file, args->offset + args->size);
	memcpy(file->data + args->offset, args + 1, args->size);
}

static void answer_write(const char *request)
{
	const struct fuse_in_header *in = (const void *)request;
	const struct fuse_write_in *args = (const void *)(in + 1);
	struct fuse_write_out out = { .size = args->size };

	answer(in->unique, 0, &out, sizeof(out));
}

static void take_write(const char *request, size_t len)
{
	enum stop stop = shared->stop;

	if (stop == NOWHERE || len > sizeof(server.held)) {
		apply_write(request);
		answer_write(request);
		return;
	}
	if (stop == AFTER_APPLYING)
		apply_write(request);
	memcpy(server.held, request, len);
	eventfd_write(server.arrived, 1);
}

static void release_write(void)
{
	if (shared->stop == BEFORE_APPLYING)
		apply_write(server.held);
	shared->stop = NOWHERE;
	answer_write(server.held);
}

static void answer_read(const struct fuse_in_header *in)
{
	const struct fuse_read_in *args = (const void *)(in + 1);
	struct file *file = file_of(in->nodeid);
	uint64_t begin = args->offset < file->size ? args->offset : file->size;
	uint64_t len = args->size < file->size - begin ? args->size : file->size - begin;

	answer(in->unique, 0, file->data + begin, len);
}

static void answer_init(const struct fuse_in_header *in)
{
	const struct fuse_init_in *args = (const void *)(in + 1);
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION, .minor = 31, .max_readahead = args->max_readahead,
		.flags = args->flags & (FUSE_ASYNC_DIO | FUSE_BIG_WRITES), .max_write = 128 << 10,
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

static void serve_request(const char *request, size_t len)
{
	const struct fuse_in_header *in = (const void *)request;
	struct fuse_open_out open_out = { .fh = 0 };

	switch (in->opcode) {
	case FUSE_INIT:		return answer_init(in);
	case FUSE_LOOKUP:	return answer_lookup(in);
	case FUSE_GETATTR:	return answer_attr(in->unique, in->nodeid);
	case FUSE_SETATTR:	return answer_setattr(in);
	case FUSE_OPEN:		return answer(in->unique, 0, &open_out, sizeof(open_out));
	case FUSE_READ:		return answer_read(in);
	case FUSE_WRITE:	return take_write(request, len);
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
			release_write();
		len = read(server.dev, request, sizeof(request));
		if (len > 0)
			serve_request(request, len);
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
	if (mount("truncate-async-write", dir, "fuse", MS_NOSUID | MS_NODEV, options))
		err(SKIP, "mount");
}

struct call {
	int fd;
	int done;	/* eventfd */
	ssize_t result;
};

static bool within(int event, int ms)
{
	struct pollfd poll_fd = { .fd = event, .events = POLLIN };

	return poll(&poll_fd, 1, ms) == 1;
}

static void *truncate_to_0(void *arg)
{
	struct call *call = arg;

	call->result = ftruncate(call->fd, 0);
	eventfd_write(call->done, 1);
	return NULL;
}

static char *new_bytes(void)
{
	char *bytes;

	if (posix_memalign((void **)&bytes, 4096, LENGTH))
		errx(SKIP, "no memory");
	memset(bytes, 'N', LENGTH);
	return bytes;
}

static void *write_synchronously(void *arg)
{
	struct call *call = arg;

	call->result = pwrite(call->fd, new_bytes(), LENGTH, OFFSET);
	return NULL;
}

static void *write_asynchronously(void *arg)
{
	struct call *call = arg;
	aio_context_t context = 0;
	struct iocb iocb = {
		.aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = call->fd,
		.aio_buf = (uintptr_t)new_bytes(), .aio_nbytes = LENGTH, .aio_offset = OFFSET,
	};
	struct iocb *list[] = { &iocb };
	struct io_event event;

	if (syscall(SYS_io_setup, 1, &context) || syscall(SYS_io_submit, context, 1, list) != 1 ||
	    syscall(SYS_io_getevents, context, 1, 1, &event, NULL) != 1)
		err(SKIP, "aio");
	call->result = event.res;
	return NULL;
}

/* Whether the clients see what the server has. */
static bool agrees(int fd, const struct file *file)
{
	char bytes[SIZE + 1];
	struct stat stat;
	ssize_t got;

	if (fstat(fd, &stat))
		err(SKIP, "fstat");
	got = pread(fd, bytes, sizeof(bytes), 0);
	printf("# fstat: %lld, pread: %zd, the server has %llu\n", (long long)stat.st_size, got,
	       (unsigned long long)file->size);
	return (uint64_t)stat.st_size == file->size && (uint64_t)got == file->size &&
	       !memcmp(bytes, file->data, got);
}

static bool race(const char *dir, int index, void *(*write)(void *), enum stop stop)
{
	struct call writing = { .result = -1 }, cutting = { .result = -1 };
	pthread_t writer, cutter;
	char path[256];
	eventfd_t count;

	snprintf(path, sizeof(path), "%s/%d", dir, index);
	writing.fd = open(path, O_RDWR | O_DIRECT);
	cutting.fd = open(path, O_RDWR);
	cutting.done = eventfd(0, EFD_CLOEXEC);
	if (writing.fd < 0 || cutting.fd < 0)
		err(SKIP, "%s", path);
	shared->stop = stop;
	pthread_create(&writer, NULL, write, &writing);
	if (!within(server.arrived, 10000))
		errx(SKIP, "no WRITE arrived");
	eventfd_read(server.arrived, &count);
	pthread_create(&cutter, NULL, truncate_to_0, &cutting);
	if (!within(cutting.done, HELD_BACK_MS))
		printf("# ftruncate waits for the write\n");
	eventfd_write(server.go_on, 1);
	pthread_join(writer, NULL);
	pthread_join(cutter, NULL);
	if (writing.result != LENGTH || cutting.result)
		errx(SKIP, "write: %zd, ftruncate: %zd", writing.result, cutting.result);
	return agrees(cutting.fd, &shared->files[index]);
}

static int client(const char *dir)
{
	static const struct {
		const char *name;
		void *(*write)(void *);
		enum stop stop;
	} tests[] = {
		{ "control: pwrite, held before it is applied", write_synchronously, BEFORE_APPLYING },
		{ "control: aio, held after it was applied", write_asynchronously, AFTER_APPLYING },
		{ "aio, held before it is applied", write_asynchronously, BEFORE_APPLYING },
	};
	const int count = sizeof(tests) / sizeof(tests[0]);
	bool right = true;
	int i;

	printf("TAP version 13\n1..%d\n", count);
	for (i = 0; i < count; i++) {
		bool ok = race(dir, i, tests[i].write, tests[i].stop);

		printf("%sok %d %s\n", ok ? "" : "not ", i + 1, tests[i].name);
		right &= ok;
	}
	return right ? 0 : 1;
}

int main(void)
{
	char dir[] = "/tmp/truncate-async-write.XXXXXX";
	int i, status = SKIP << 8, alive[2];

	setvbuf(stdout, NULL, _IOLBF, 0);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	server.arrived = eventfd(0, EFD_CLOEXEC);
	server.go_on = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (shared == MAP_FAILED || pipe(alive) || !mkdtemp(dir))
		err(SKIP, "%s", dir);
	for (i = 0; i < FILES; i++) {
		shared->files[i].size = SIZE;
		memset(shared->files[i].data, 'O', SIZE);
	}
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
