"""One run: peers are made, measured in turn, and gone afterwards."""

import json
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from machine import Broken, Busy, mounted, run, say
from peers import make_peer
from rows_data import Fio
from rows_tools import Tree, make_tree


class Run:
    """Peers, results and the cleaning up."""

    def __init__(self, settings):
        self.settings = settings
        self.work = Path(tempfile.mkdtemp(prefix="inflight-bench.", dir=settings.dir))
        self.peers, self.samples, self.failures = [], {}, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for peer in self.peers:
            peer.destroy()
        if not any(mounted(peer.dir) for peer in self.peers):
            shutil.rmtree(self.work, ignore_errors=True)

    def prepare(self, benchmarks):
        """Make and mount every peer, and lay out the fio files so that the images have their blocks."""
        names = list(self.settings.peers)
        if "inflight" in names and any("hot" in row for b in benchmarks for row in b.rows):
            names.append("inflight-hot")
        fio = any(isinstance(b, Fio) for b in benchmarks)
        if any(isinstance(b, Tree) for b in benchmarks):
            self.settings.tar = self.work / "tree.tar"
            make_tree(self.settings.tar, self.settings.tree_files)
        for name in names:
            say(f"preparing {name}")
            peer = make_peer(name, self.work, self.settings)
            self.peers.append(peer)
            peer.make()
            peer.mount()
            if fio and not name.startswith("memfs_ll"):
                run("fio", "--name=layout", f"--filename={peer.fio_file}", "--rw=write", "--bs=1m", "--end_fsync=1",
                    f"--size={self.settings.fio_size}", "--fallocate=none")

    def measure(self, benchmarks):
        """Row by row, round by round, peer by peer."""
        for number, benchmark in enumerate(benchmarks, 1):
            begun = time.monotonic()
            names = benchmark.peers([p.name for p in self.peers])
            for turn in range(self.settings.rounds if benchmark.repeats else 1):
                for peer in [p for p in self.peers if p.name in names]:
                    say(f"[{number}/{len(benchmarks)}] {benchmark.rows[0]} round {turn + 1} {peer.name}", passing=True)
                    self.once(benchmark, peer)
            say(f"[{number}/{len(benchmarks)}] {' '.join(benchmark.rows)}: {time.monotonic() - begun:.0f} s")
        for peer in self.peers:
            peer.note_memory()

    def once(self, benchmark, peer):
        """One measurement; a peer that fails is reported and does not end the run."""
        name = "inflight" if peer.name == "inflight-hot" else peer.name
        try:
            with Busy(self.settings.busy):
                measured = benchmark.measure(peer, self.settings)
            for row, sample in measured.items():
                self.samples.setdefault(row, {}).setdefault(name, []).append(sample)
        except (Broken, OSError, subprocess.TimeoutExpired, json.JSONDecodeError) as error:
            self.failures.append(f"{benchmark.rows[0]}, {peer.name}: {error}")
            for left in ("small", "tree", "million"):
                shutil.rmtree(peer.dir / left, ignore_errors=True)
            if peer.server is not None and peer.server.poll() is not None:
                raise Broken(f"the server of {peer.name} ended: {peer.log.read_text(errors='replace')[-300:]}") from error
