"""What is compared: filesystems in an image file each, and the processes that serve them."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from machine import Broken, mounted, run


class Peer:
    """A filesystem in an image file, and the process that serves it."""

    def __init__(self, name, work, size):
        self.name, self.size = name, size
        self.image = work / f"{name}.img"
        self.dir = work / name
        self.log = work / f"{name}.log"
        self.server = None
        self.peak_kib = 0
        self.fio_file = self.dir / "fio"

    def make(self):
        """Make the image."""
        with open(self.image, "wb") as image:
            image.truncate(self.size)
        run(*self.mkfs())
        self.dir.mkdir()

    def mount(self):
        """Start the server and wait until the mount is there."""
        with open(self.log, "ab") as log:
            # A session of its own: Ctrl-C goes to this script, which unmounts; the server must not be gone before.
            self.server = subprocess.Popen(self.serve(), stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 20
        while not mounted(self.dir):
            if self.server.poll() is not None or time.monotonic() > deadline:
                raise Broken(f"{self.name} did not mount: {self.log.read_text(errors='replace').strip()[-300:]}")
            time.sleep(0.01)
        os.stat(self.dir)

    def unmount(self):
        """Unmount, keep the peak of the server's memory, and wait until the image is free."""
        self.note_memory()
        if mounted(self.dir):
            run("umount", self.dir, timeout=60)
        if self.server is not None:
            self.server.wait(timeout=60)
            self.server = None

    def note_memory(self):
        """VmHWM is the peak since the server started."""
        if self.server is None or self.server.poll() is not None:
            return
        for line in Path(f"/proc/{self.server.pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                self.peak_kib = max(self.peak_kib, int(line.split()[1]))

    def destroy(self):
        """Leave nothing, whatever state this is in. Never raises."""
        for lazy in ([], ["-l"]):
            if mounted(self.dir):
                subprocess.run(["umount", *lazy, str(self.dir)], capture_output=True, check=False, timeout=60)
        if self.server is not None:
            try:
                self.server.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait()
        self.image.unlink(missing_ok=True)

    def mkfs(self):
        raise NotImplementedError

    def serve(self):
        raise NotImplementedError


class Inflight(Peer):
    """This project."""

    def __init__(self, name, work, size, binary, options=""):
        super().__init__(name, work, size)
        self.binary, self.options = binary, options

    def mkfs(self):
        return [self.binary, "mkfs", "--force", self.image]

    def serve(self):
        options = ["-o", self.options] if self.options else []
        return [self.binary, "mount", "--foreground", *options, self.image, self.dir]


class Fuse2fs(Peer):
    """ext4's own library behind FUSE."""

    def mkfs(self):
        return ["mkfs.ext4", "-q", "-F", self.image]

    def serve(self):
        return ["fuse2fs", "-f", "-o", "rw", self.image, self.dir]


class Ntfs3g(Peer):
    """NTFS behind FUSE; big_writes because without it every write is 4 KiB."""

    def mkfs(self):
        return ["mkntfs", "-q", "-F", "-Q", self.image]

    def serve(self):
        return ["ntfs-3g", "-o", "no_detach,big_writes", self.image, self.dir]


class OnLoop(Peer):
    """On a loop device with direct I/O, so that pages are cached once."""

    loop = None

    def attach(self):
        if self.loop is None:
            self.loop = run("losetup", "--find", "--show", "--direct-io=on", self.image).strip()

    def unmount(self):
        super().unmount()
        if self.loop is not None:
            run("losetup", "--detach", self.loop)
            self.loop = None

    def destroy(self):
        super().destroy()
        if self.loop is not None:
            subprocess.run(["losetup", "--detach", self.loop], capture_output=True, check=False)
            self.loop = None


class Ext4(OnLoop):
    """The kernel's ext4."""

    def mkfs(self):
        return ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image]

    def mount(self):
        self.attach()
        run("mount", "-t", "ext4", self.loop, self.dir)


class Raw(Peer):
    """No filesystem: fio on a file beside the images."""

    def make(self):
        self.dir.mkdir()

    def mount(self):
        pass


class Exfat(OnLoop):
    """exFAT behind FUSE, which root may mount from a block device only."""

    def mkfs(self):
        return ["mkfs.exfat", self.image]

    def mount(self):
        self.attach()
        super().mount()

    def serve(self):
        return ["mount.exfat-fuse", "-d", self.loop, self.dir]


class Pread(Peer):
    """Sixty lines that answer READ with pread(2) and WRITE with pwrite(2): one file, no filesystem."""

    def __init__(self, name, work, size, program):
        super().__init__(name, work, size)
        self.program, self.transport = program, name.rpartition("-")[2]
        self.fio_file = self.dir / "f"

    def make(self):
        with open(self.image, "wb") as image:
            image.truncate(self.size)
        self.dir.mkdir()

    def serve(self):
        return [self.program, self.image, self.dir, self.transport]


class Libfuse(Peer):
    """An example of libfuse's that the user has built: memfs_ll stores nothing, passthrough_hp passes on."""

    def __init__(self, name, work, size, program):
        super().__init__(name, work, size)
        self.program, self.source = program, work / f"{name}.source"

    def make(self):
        self.dir.mkdir()
        self.source.mkdir()
        self.image.touch()

    def serve(self):
        ring = ["-o", "io_uring"] if self.name.endswith("-uring") else []
        how = ["--foreground", *ring, self.source] if "passthrough" in self.name else ["-f", *ring]
        return [self.program, *how, self.dir]


OURS = ["inflight", "inflight-uring", "inflight-dev", "inflight-fuser"]
STRANGERS = ["fuse2fs", "ntfs-3g", "exfat", "ext4", "raw"]
SERVERS = ["pread-uring", "pread-dev", "memfs_ll", "memfs_ll-uring", "passthrough_hp", "passthrough_hp-uring"]
DEFAULT = ["inflight", "fuse2fs", "ntfs-3g", "ext4", "raw"]
TOOLS = {"fuse2fs": ["fuse2fs", "mkfs.ext4"], "ntfs-3g": ["ntfs-3g", "mkntfs"], "exfat": ["mount.exfat-fuse", "mkfs.exfat"],
         "ext4": ["mkfs.ext4", "losetup"]}


def program_of(name):
    """The program of libfuse's that MEMFS_LL or PASSTHROUGH_HP names."""
    return os.environ.get(name.removesuffix("-uring").upper(), "")


def missing(name):
    """What the peer needs and the machine does not have, or nothing."""
    if name.startswith(("memfs_ll", "passthrough_hp")) and not os.access(program_of(name), os.X_OK):
        return f"${name.removesuffix('-uring').upper()} names no program"
    absent = [t for t in TOOLS.get(name, []) if not shutil.which(t)]
    return f"{absent[0]} is not installed" if absent else ""


def make_peer(name, work, settings):
    """The peer of that name."""
    size = settings.image_size
    if name.startswith("inflight"):
        transport = name.partition("-")[2]
        way = "read=buffered" if transport == "hot" else f"transport={transport}" if transport else ""
        return Inflight(name, work, size, settings.inflight, ",".join(filter(None, [settings.options, way])))
    if name.startswith("pread"):
        return Pread(name, work, size, settings.inflight.parent / "examples" / "pread_server")
    if name.startswith(("memfs_ll", "passthrough_hp")):
        return Libfuse(name, work, size, program_of(name))
    return {"fuse2fs": Fuse2fs, "ntfs-3g": Ntfs3g, "exfat": Exfat, "ext4": Ext4, "raw": Raw}[name](name, work, size)
