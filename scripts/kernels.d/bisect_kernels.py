"""git bisect over kernels: each step is built small, booted, and judged by a case or by a program."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from build import ROOT, build_tree, fragment
from packages import Trouble, cache, run

# What `git bisect run` takes an exit code for.
GOOD, BAD, UNTOLD = 0, 1, 125


def judged(code):
    """Exit code of `inflight-race` as git bisect takes it: harm, no harm, or not told (not run, broken, no proof)."""
    return {0: GOOD, 1: BAD}.get(code, UNTOLD)


def program():
    """The harness: $INFLIGHT_RACE, that of the release build, or the one on PATH."""
    built = ROOT / "target" / "release" / "inflight-race"
    return os.environ.get("INFLIGHT_RACE") or (str(built) if built.exists() else "inflight-race")


def step(tree, output, wanted):
    """Build what is checked out, and judge it; gives a code for git bisect."""
    try:
        build_tree(tree, output, fragment(wanted.kasan, wanted.lockdep, wanted.config))
    except Trouble as trouble:
        print(f"kernels: not told: {trouble}", flush=True)
        return UNTOLD
    command = [*wanted.words]
    if command[:1] == ["run"]:
        command.append("--raw")
    code = subprocess.run([program(), "vm", "--kernel", str(output), "--", *command], check=False).returncode
    return judged(code)


def bisect(wanted):
    """Drive git bisect in a worktree of its own; the tree that was named stays as it is."""
    run("git", "-C", wanted.tree, "rev-parse", "--verify", f"{wanted.good}^{{commit}}", what=f"good commit {wanted.good}")
    run("git", "-C", wanted.tree, "rev-parse", "--verify", f"{wanted.bad}^{{commit}}", what=f"bad commit {wanted.bad}")
    output = cache() / "build" / "bisect"
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache(), prefix=".bisect.") as scratch:
        tree = Path(scratch) / "tree"
        run("git", "-C", wanted.tree, "worktree", "add", "--detach", tree, wanted.bad, what="git worktree add")
        try:
            return drive(tree, output, wanted)
        finally:
            run("git", "-C", wanted.tree, "worktree", "remove", "--force", tree, what="git worktree remove")


def drive(tree, output, wanted):
    kinds = [f"--{kind}" for kind in ("kasan", "lockdep") if getattr(wanted, kind)]
    configs = [word for file in wanted.config for word in ("--config", str(Path(file).resolve()))]
    here = [sys.executable, str(ROOT / "scripts" / "kernels"), "step", str(tree), str(output), *kinds, *configs, "--", *wanted.words]
    run("git", "-C", tree, "bisect", "start", wanted.bad, wanted.good, what="git bisect start")
    done = subprocess.run(["git", "-C", str(tree), "bisect", "run", "sh", "-c", shlex.join(here)], check=False)
    log = run("git", "-C", tree, "bisect", "log", what="git bisect log")
    run("git", "-C", tree, "bisect", "reset", what="git bisect reset")
    print(log, end="")
    if done.returncode != 0:
        raise Trouble("git bisect came to no single commit; its log is above")
