"""Rows of file data, by fio."""

import json
import os

from machine import MIB, cpu_seconds, drop_caches, run
from rows_names import Sample


class Fio:
    """One fio job on the peer's fio file."""

    repeats = True

    def __init__(self, row, title, rw, bs, *, direct=False, depth=1, image="cold", sync=False, fresh=False, bars=()):
        self.row, self.title, self.bars = row, title, dict(bars)
        self.rows = [row]
        self.rw, self.bs, self.direct, self.depth = rw, bs, direct, depth
        self.image, self.sync, self.fresh = image, sync, fresh
        self.unit = "MiB/s" if bs == "1m" else "IOPS"
        self.mark = ("c" if image == "cold" else "h") if direct else ("h" if image == "hot" else "")

    def peers(self, names):
        """On a hot image Inflight is asked to use it; loop devices with direct I/O and raw have no cached image."""
        names = [n for n in names if not n.startswith("memfs_ll")]
        if self.image != "hot":
            return [n for n in names if n != "inflight-hot"]
        if self.direct:
            return [n for n in names if n in ("inflight-hot", "fuse2fs", "ntfs-3g")]
        return [n for n in names if not n.startswith(("ext4", "raw", "inflight-hot"))]

    def measure(self, peer, settings):
        """The job's rate."""
        file = peer.fio_file
        if self.fresh and not peer.name.startswith(("raw", "pread")):
            file.unlink()
        drop_caches()
        if self.image == "hot":
            heat(peer.image)
        before = cpu_seconds()
        report = json.loads(run(*self.command(file, settings), timeout=120))
        spent = cpu_seconds() - before
        if self.fresh and not peer.name.startswith(("raw", "pread")):
            os.sync()
        side = report["jobs"][0]["write" if "write" in self.rw else "read"]
        work = side["io_bytes"] / (1 << 30) if self.bs == "1m" else side["total_ios"] / 10_000
        return {self.row: Sample(side["bw_bytes"] / MIB if self.bs == "1m" else side["iops"], spent / max(work, 1e-9))}

    def command(self, file, settings):
        """fio's command line; every job is bounded in time and in bytes."""
        sequential = not self.rw.startswith("rand")
        milliseconds = settings.fio_ms * (4 if sequential else 1)
        command = ["fio", "--name=bench", f"--filename={file}", f"--rw={self.rw}", f"--bs={self.bs}",
                   f"--size={settings.fio_size}", f"--direct={int(self.direct)}", f"--runtime={milliseconds}ms",
                   "--thread", "--group_reporting", "--output-format=json", "--randseed=7", "--norandommap",
                   "--fallocate=none", "--random_generator=tausworthe64"]
        if self.depth > 1 and self.direct:
            command += ["--ioengine=libaio", f"--iodepth={self.depth}"]
        else:
            # A queue of buffered I/O is as many threads: libaio would serve it one by one.
            command += ["--ioengine=psync", f"--numjobs={self.depth}"]
        if self.sync:
            command += ["--fdatasync=1"]
        elif "write" in self.rw:
            command += ["--end_fsync=1"]
        if self.sync or (self.direct and not sequential):
            command += ["--time_based"]
        return command


def heat(image):
    """Read the image into the page cache; holes too, they are read as they are."""
    with open(image, "rb", buffering=0) as file:
        buffer = bytearray(4 * MIB)
        end = file.seek(0, os.SEEK_END)
        at = 0
        while at < end:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            file.seek(start)
            while file.tell() < at and file.readinto(buffer):
                pass
