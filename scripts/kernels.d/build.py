"""Small kernels for guests, built from a source tree or from Debian's linux-source."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from packages import Trouble, cache, newest_source, run

ROOT = Path(__file__).resolve().parents[2]
FRAGMENT = ROOT / "harness" / "kernel.config"

# What finds more and costs time: harness runs get bounds to match (--bound).
KASAN = """
CONFIG_KASAN=y
CONFIG_KASAN_GENERIC=y
CONFIG_KASAN_OUTLINE=y
CONFIG_KASAN_VMALLOC=y
CONFIG_FRAME_WARN=4096
"""
LOCKDEP = """
CONFIG_PROVE_LOCKING=y
CONFIG_DEBUG_ATOMIC_SLEEP=y
CONFIG_DEBUG_VM=y
"""
# What a kernel is that old ones do not know, or that only some have: no reason to complain.
OPTIONAL = {"CONFIG_FUSE_IO_URING", "CONFIG_FUSE_PASSTHROUGH", "CONFIG_SECRETMEM", "CONFIG_DEBUG_INFO_NONE", "CONFIG_KASAN_VMALLOC"}
PROGRAMS = ("make", "gcc", "flex", "bison", "bc", "perl")


def settings(text):
    """The options that a configuration sets: name to value."""
    return dict(re.findall(r"(?m)^(CONFIG_\w+)=(.*)$", text))


def fragment(kasan, lockdep, more):
    """The configuration that is wanted, later settings over earlier ones."""
    texts = [FRAGMENT.read_text(), KASAN if kasan else "", LOCKDEP if lockdep else ""]
    return "\n".join(texts + [Path(file).read_text() for file in more]) + "\n"


def tree(source, apt):
    """The source tree that a word names: a folder, or `debian:6.12`."""
    if not source.startswith("debian:"):
        folder = Path(source).resolve()
        if not (folder / "Kconfig").is_file():
            raise Trouble(f"{folder} is no kernel source: it has no Kconfig")
        if (folder / ".config").exists() or (folder / "include/config").exists():
            raise Trouble(
                f"{folder} has been built in place, so make builds nowhere else: give a clean tree"
                f" (`git -C {folder} worktree add ../clean`), or add {FRAGMENT.name} to its own configuration and use"
                f" `inflight-race vm --kernel {folder}`"
            )
        return folder
    apt.update(False)
    package, version = newest_source(apt, source.removeprefix("debian:"))
    folder = cache() / "source" / f"{package}_{version}"
    if not folder.is_dir():
        unpack(apt, package, version, folder)
    return folder


def unpack(apt, package, version, folder):
    """Bring a package of sources and unpack the tree that is in it."""
    print(f"{package} {version}: downloading", flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        scratch = Path(scratch)
        (file,) = apt.download([package], version, scratch)
        run("dpkg-deb", "-x", file, scratch, what=f"unpack {file.name}")
        file.unlink()
        (archive,) = scratch.glob(f"usr/src/{package}.tar.*")
        run("tar", "-xf", archive, "-C", scratch, what=f"unpack {archive.name}")
        (scratch / package).rename(folder)


def release_of(folder):
    """Version of a tree, from its Makefile."""
    fields = dict(re.findall(r"(?m)^(VERSION|PATCHLEVEL|SUBLEVEL) = (\d+)", (folder / "Makefile").read_text()))
    return ".".join(fields[name] for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))


def make(folder, output, *words):
    """One call of make, whose own output is shown."""
    done = subprocess.run(["make", "-s", "-C", str(folder), f"O={output}", *words], check=False)
    if done.returncode != 0:
        raise Trouble(f"make {words[-1]}: exit code {done.returncode}")


def configure(folder, output, text):
    """Configure a build; complain of what the tree has not or refuses."""
    wanted = output / "wanted.config"
    wanted.write_text(text)
    make(folder, output, f"KCONFIG_ALLCONFIG={wanted}", "allnoconfig")
    got = settings((output / ".config").read_text())
    refused = {name for name, value in settings(text).items() if got.get(name) != value}
    for name in sorted(refused - OPTIONAL):
        print(f"note: this tree does not take {name}={settings(text)[name]}")


def build_tree(folder, output, text):
    """Build a bzImage of a clean tree in a folder of its own."""
    configure(folder, output, text)
    make(folder, output, f"-j{os.cpu_count()}", "bzImage")


def build(wanted, apt):
    """Build a kernel; what is there of an earlier build of the same name is built upon."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise Trouble(f"not installed: {' '.join(missing)} (scripts/setup --all brings them)")
    folder = tree(wanted.source, apt)
    kinds = [kind for kind in ("kasan", "lockdep") if getattr(wanted, kind)]
    name = wanted.name or "-".join([release_of(folder), *kinds])
    output = cache() / "build" / name
    output.mkdir(parents=True, exist_ok=True)
    build_tree(folder, output, fragment(wanted.kasan, wanted.lockdep, wanted.config))
    print(f"built {output / 'arch/x86/boot/bzImage'}; run cases on it with")
    print(f"    inflight-race vm --kernel {output} -- run --group=quick")
