"""The machine: commands, mounts, caches, CPU time, and what is said meanwhile."""

import os
import subprocess
import sys
from pathlib import Path

MIB = 1 << 20
ROOT = Path(__file__).resolve().parent.parent.parent


class Broken(Exception):
    """The setup is not what a measurement needs."""


def run(*command, timeout=120, **more):
    """Run a command; its output is part of the error when it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout, check=False, **more)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Broken(f"{' '.join(map(str, command))}: exit {done.returncode}: {said[-1] if said else 'no message'}")
    return done.stdout


def mounted(point):
    """Whether something is mounted exactly there."""
    with open("/proc/self/mountinfo", encoding="ascii", errors="replace") as table:
        return any(line.split()[4] == str(point) for line in table)


def drop_caches():
    """Everything clean and forgotten: pages of the mounts and of the images, inodes, names."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")


def say(text, passing=False):
    """Progress on stderr; what is passing is shown on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="" if passing else "\n", file=sys.stderr, flush=True)
    elif not passing:
        print(text, file=sys.stderr, flush=True)


def cpu_seconds():
    """CPU seconds that the whole machine has spent: clients, servers, the kernel's own threads."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text(encoding="ascii").split("\n")[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class Busy:
    """So many processes that compute, beside what is measured."""

    def __init__(self, count):
        self.count, self.processes = count, []

    def __enter__(self):
        self.processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(self.count)]

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()
