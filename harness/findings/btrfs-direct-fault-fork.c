// SPDX-License-Identifier: MIT
/*
 * btrfs: a direct write, a fault in a mapping of the file and fork() wait for each other.
 *
 * Three threads of one process, each in a loop: one writes a file without checksums with O_DIRECT, one loads its pages
 * from a shared mapping after they were dropped from the page cache, one forks. The parent watches whether they move.
 * Text and explanation: btrfs-direct-fault-fork.md.
 *
 *	cc -O2 -Wall -pthread -o btrfs-direct-fault-fork btrfs-direct-fault-fork.c
 *	sudo ./btrfs-direct-fault-fork DIRECTORY-ON-BTRFS [SECONDS]
 *
 * Root is needed for the stacks alone. Output is TAP; the exit code is kselftest's: 0 nothing was seen for so many
 * seconds (60 unless told), 1 the threads hang, 4 it could not be tried.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGES	256	/* of the file, and of each write: the more, the longer it holds its range */
#define STUCK	10	/* seconds without any movement that are a deadlock */
#define SKIP	4

enum { WRITES, LOADS, FORKS, LOOPS };

static const char *const names[LOOPS] = { "direct writes", "loads", "forks" };
static atomic_ulong *counts;	/* of both processes */
static size_t page;
static char *mapping;
static char *buffer;		/* private: a fork leaves its pages shared, so pinning them takes mmap_lock */
static int direct, buffered;

static void *write_directly(void *unused)
{
	(void)unused;
	for (;;) {
		if (pwrite(direct, buffer, PAGES * page, 0) != (ssize_t)(PAGES * page))
			err(SKIP, "direct write");
		atomic_fetch_add(&counts[WRITES], 1);
	}
	return NULL;
}

static void *load(void *unused)
{
	unsigned long i;

	(void)unused;
	for (i = 0;; i++) {
		posix_fadvise(buffered, 0, 0, POSIX_FADV_DONTNEED);
		*(volatile char *)(mapping + i % PAGES * page);
		atomic_fetch_add(&counts[LOADS], 1);
	}
	return NULL;
}

static void *fork_again(void *unused)
{
	(void)unused;
	for (;;) {
		pid_t child = fork();

		if (child < 0)
			err(SKIP, "fork");
		if (child == 0)
			_exit(0);
		waitpid(child, NULL, 0);
		atomic_fetch_add(&counts[FORKS], 1);
	}
	return NULL;
}

/* An empty file whose data gets no checksums: others are written through the page cache from Linux 6.15 on. */
static void open_file(const char *dir)
{
	char path[4096];
	struct statfs fs;
	long flags = FS_NOCOW_FL;

	snprintf(path, sizeof(path), "%s/btrfs-direct-fault-fork.XXXXXX", dir);
	buffered = mkstemp(path);
	if (buffered < 0 || fstatfs(buffered, &fs))
		err(SKIP, "%s", path);
	if (fs.f_type != BTRFS_SUPER_MAGIC)
		warnx("%s is not on btrfs", dir);
	else if (ioctl(buffered, FS_IOC_SETFLAGS, &flags) || ftruncate(buffered, PAGES * page))
		warn("%s", path);
	direct = open(path, O_RDWR | O_DIRECT);
	unlink(path);
	if (fs.f_type != BTRFS_SUPER_MAGIC || direct < 0)
		exit(SKIP);
}

static int play(const char *dir)
{
	static void *(*const loops[LOOPS])(void *) = { write_directly, load, fork_again };
	pthread_t thread;
	int i;

	open_file(dir);
	mapping = mmap(NULL, PAGES * page, PROT_READ, MAP_SHARED, buffered, 0);
	buffer = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mapping == MAP_FAILED || buffer == MAP_FAILED)
		err(SKIP, "mmap");
	memset(buffer, 'x', PAGES * page);
	for (i = 0; i < LOOPS; i++)
		if (pthread_create(&thread, NULL, loops[i], NULL))
			errx(SKIP, "no thread");
	for (;;)
		pause();
}

/* What the kernel is doing for each thread. */
static void print_stacks(pid_t pid)
{
	char path[64], line[256];
	struct dirent *entry;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	tasks = opendir(path);
	while (tasks && (entry = readdir(tasks))) {
		FILE *stack;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%.20s/stack", pid, entry->d_name);
		stack = fopen(path, "r");
		printf("# thread %s\n", entry->d_name);
		while (stack && fgets(line, sizeof(line), stack))
			printf("#   %s", line);
		if (stack)
			fclose(stack);
	}
	if (tasks)
		closedir(tasks);
}

/* Whether all three go on for so long. */
static bool moves(pid_t child, int seconds)
{
	unsigned long seen[LOOPS] = { 0 };
	int i, second, still = 0;

	for (second = 0; second < seconds && still < STUCK; second++) {
		bool moved = false;

		poll(NULL, 0, 1000);
		if (waitpid(child, &i, WNOHANG) == child)
			exit(WIFEXITED(i) ? WEXITSTATUS(i) : SKIP);
		for (i = 0; i < LOOPS; i++) {
			unsigned long now = atomic_load(&counts[i]);

			moved |= now != seen[i];
			seen[i] = now;
		}
		still = moved ? 0 : still + 1;
	}
	for (i = 0; i < LOOPS; i++)
		printf("# %s: %lu\n", names[i], seen[i]);
	return still < STUCK;
}

int main(int argc, char **argv)
{
	int seconds = argc > 2 ? atoi(argv[2]) : 60;
	bool ok;
	pid_t child;

	if (argc < 2 || seconds < 1)
		errx(SKIP, "usage: %s DIRECTORY-ON-BTRFS [SECONDS]", argv[0]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	page = sysconf(_SC_PAGESIZE);
	counts = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (counts == MAP_FAILED)
		err(SKIP, "mmap");
	child = fork();
	if (child < 0)
		err(SKIP, "fork");
	if (child == 0)
		return play(argv[1]);
	printf("TAP version 13\n1..1\n");
	ok = moves(child, seconds);
	if (!ok)
		print_stacks(child);
	printf("%sok 1 direct writes, faults and forks go on\n", ok ? "" : "not ");
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return ok ? 0 : 1;
}
