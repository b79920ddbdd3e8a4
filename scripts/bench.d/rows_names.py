"""Rows of names: small files, round trips, a million entries."""

import collections
import ctypes
import os
import shutil
import time

from machine import Broken, cpu_seconds, drop_caches

# The figure, and the CPU seconds of the whole machine for a GiB or for 10,000 operations.
Sample = collections.namedtuple("Sample", "value cpu")


FILES_A_DIRECTORY = 100


class Group:
    """Several rows measured by one pass over the same files."""

    unit_of = {}
    title_of = {}
    bars_of = {}
    repeats = True

    def __init__(self):
        self.rows = list(self.title_of)

    def peers(self, names):
        return [n for n in names if n not in ("raw", "inflight-hot") and not n.startswith("pread")]


def timed(action):
    """Seconds that it takes, and CPU seconds."""
    start, before = time.perf_counter(), cpu_seconds()
    action()
    return time.perf_counter() - start, cpu_seconds() - before


class Small(Group):
    """Files of 4 KiB, a hundred to a directory: fuse2fs searches directories from end to end."""

    title_of = {"create": "create files of 4 KiB", "stat": "stat them, cold",
                "list": "list them with attributes", "read": "read them, cold", "rename": "rename them", "unlink": "unlink them"}
    unit_of = dict.fromkeys(title_of, "files/s")
    bars_of = {"create": {"peers": 5.0, "ext4": 1 / 6}, "rename": {"peers": 5.0, "ext4": 1 / 5},
               "unlink": {"peers": 5.0, "ext4": 1 / 4}, "read": {"peers": 2.0}}

    def measure(self, peer, settings):
        """All six in the order in which they can be."""
        top = peer.dir / "small"
        directories = settings.files // FILES_A_DIRECTORY
        names = [f"{top}/d{i % directories}/file-{i:05}" for i in range(settings.files)]
        top.mkdir()
        for i in range(directories):
            (top / f"d{i}").mkdir()
        drop_caches()
        seconds = {"create": timed(lambda: create_all(names))}
        drop_caches()
        seconds["stat"] = timed(lambda: [os.stat(n) for n in names])
        drop_caches()
        seconds["list"] = timed(lambda: list_all(top))
        drop_caches()
        seconds["read"] = timed(lambda: read_all(names))
        seconds["rename"] = timed(lambda: [os.rename(n, n + ".new") for n in names])
        seconds["unlink"] = timed(lambda: [os.unlink(n + ".new") for n in names])
        shutil.rmtree(top)
        return {row: Sample(settings.files / s, cpu * 10_000 / settings.files) for row, (s, cpu) in seconds.items()}


def create_all(names):
    """Create, write 4 KiB, close."""
    data = b"inflight" * 512
    for name in names:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, data)
        os.close(fd)


def read_all(names):
    """Open, read 4 KiB, close."""
    for name in names:
        fd = os.open(name, os.O_RDONLY)
        if len(os.read(fd, 8192)) != 4096:
            raise Broken(f"{name}: not the 4,096 bytes that were written")
        os.close(fd)


def list_all(top):
    """What ls -lR does."""
    for directory in os.scandir(top):
        for entry in os.scandir(directory.path):
            entry.stat()


LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, AT_STATX_FORCE_SYNC, STATX_BASIC = -100, 0x2000, 0x7FF


class Trips(Group):
    """What one question to the server costs."""

    title_of = {"getattr": "stat round trip (statx, FORCE_SYNC)", "lookup": "lookup round trip (absent names)"}
    unit_of = dict.fromkeys(title_of, "us")
    bars_of = {}

    def measure(self, peer, settings):
        """Means over a few thousand; about 1 us of each is Python's."""
        # Without a buffer: of a file with blocks of 0 bytes, as memfs_ll has them, Python makes no buffered one.
        with open(peer.dir / "trip", "wb", buffering=0) as file:
            file.write(b"x")
        path, answer, count = str(peer.dir / "trip").encode(), ctypes.create_string_buffer(256), settings.trips

        def stats():
            for _ in range(count):
                LIBC.statx(AT_FDCWD, path, AT_STATX_FORCE_SYNC, STATX_BASIC, answer)

        settings.fresh_name += count
        names = [f"{peer.dir}/absent-{settings.fresh_name + i}" for i in range(count)]
        os.sync()
        seconds = {"getattr": timed(stats), "lookup": timed(lambda: [os.access(n, os.F_OK) for n in names])}
        return {row: Sample(s / count * 1e6, cpu * 10_000 / count) for row, (s, cpu) in seconds.items()}


class Million(Group):
    """Empty files in one directory: what grows with the number of entries."""

    title_of = {"million-create": "create files in one directory", "million-list": "list it, cold", "million-unlink": "remove them"}
    unit_of = dict.fromkeys(title_of, "files/s")
    repeats = False

    def peers(self, names):
        """fuse2fs searches directories from end to end: hours."""
        return [n for n in super().peers(names) if n != "fuse2fs"]

    def measure(self, peer, settings):
        """In this order."""
        top = peer.dir / "million"
        top.mkdir()
        names = [f"{top}/entry-{i:07}" for i in range(settings.million)]
        seconds = {"million-create": timed(lambda: [os.close(os.open(n, os.O_WRONLY | os.O_CREAT)) for n in names])}
        drop_caches()
        seconds["million-list"] = timed(lambda: sum(1 for _ in os.scandir(top)))
        seconds["million-unlink"] = timed(lambda: [os.unlink(n) for n in names])
        top.rmdir()
        return {row: Sample(len(names) / s, cpu * 10_000 / len(names)) for row, (s, cpu) in seconds.items()}
