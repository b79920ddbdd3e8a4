"""Rows of whole tools: tar, git, rm, SQLite."""

import os
import random
import sqlite3
import tarfile
import tempfile

from machine import MIB, drop_caches, run
from rows_names import Group, Sample, timed


class Tree(Group):
    """A source tree: unpacked, read cold, added to git, removed."""

    title_of = {"unpack": "unpack a source tree", "tree-read": "read it, cold", "git": "git add, commit, status",
                "rm": "rm -rf"}
    unit_of = dict.fromkeys(title_of, "s")
    bars_of = {"unpack": {"ext4": 1 / 2}, "git": {"ext4": 1 / 1.5}, "rm": {"ext4": 1 / 3}}

    def measure(self, peer, settings):
        """Whole commands, as a user would run them."""
        top = peer.dir / "tree"
        top.mkdir()
        drop_caches()
        seconds = {"unpack": timed(lambda: run("tar", "-xf", settings.tar, "-C", top))}
        drop_caches()
        everything = "find . -type f -print0 | xargs -0 cat | wc -c"
        seconds["tree-read"] = timed(lambda: run("sh", "-c", everything, cwd=top))
        git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0",
               "-c", "init.defaultBranch=main", "-c", "safe.directory=*"]
        script = [["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"], ["status", "--porcelain"]]
        clean = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
        seconds["git"] = timed(lambda: [run(*git, *command, cwd=top, env=clean) for command in script])
        seconds["rm"] = timed(lambda: run("rm", "-rf", top))
        return {row: Sample(s, cpu * 10_000 / settings.tree_files) for row, (s, cpu) in seconds.items()}


def make_tree(path, count):
    """A tar of so many text files in the sizes of a source tree, the same bytes every time."""
    dice = random.Random(20)
    words = [bytes(dice.choices(b"abcdefghijklmnopqrstuvwxyz_", k=dice.randint(2, 10))) for _ in range(4000)]
    tree = tempfile.SpooledTemporaryFile(max_size=64 * MIB)
    with tarfile.open(path, "w") as tar:
        for i in range(count):
            size = min(int(dice.lognormvariate(8.1, 1.4)) + 1, 512 << 10)
            text = b" ".join(dice.choices(words, k=size // 6 + 1))[:size]
            member = tarfile.TarInfo(f"src/m{i % 97 // 10}/c{i % 97}/file_{i}.rs")
            member.size, member.mode, member.mtime = len(text), 0o644, 1_700_000_000
            tree.seek(0)
            tree.truncate()
            tree.write(text)
            tree.seek(0)
            tar.addfile(member, tree)


class Sqlite(Group):
    """A database: each insert a transaction, which is some creates, unlinks and fsyncs."""

    title_of = {"sqlite": "SQLite, one insert a transaction", "sqlite-wal": "the same with a write-ahead log"}
    unit_of = dict.fromkeys(title_of, "tx/s")

    def peers(self, names):
        """What stores nothing has nothing to sync."""
        return [n for n in super().peers(names) if not n.startswith("memfs_ll")]

    def measure(self, peer, settings):
        """Both journals."""
        found = {}
        for row, journal in (("sqlite", "DELETE"), ("sqlite-wal", "WAL")):
            file = peer.dir / f"{row}.db"
            database = sqlite3.connect(file, isolation_level=None)
            database.execute(f"PRAGMA journal_mode={journal}")
            database.execute("PRAGMA synchronous=FULL")
            database.execute("CREATE TABLE t (key INTEGER PRIMARY KEY, text TEXT)")
            seconds, cpu = timed(lambda base=database: [base.execute("INSERT INTO t (text) VALUES (?)", (str(i) * 20,))
                                                        for i in range(settings.transactions)])
            database.close()
            for left in peer.dir.glob(f"{row}.db*"):
                left.unlink()
            found[row] = Sample(settings.transactions / seconds, cpu * 10_000 / settings.transactions)
        return found
