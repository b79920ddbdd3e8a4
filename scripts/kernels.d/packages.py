"""Debian's kernel packages, and the cache that they are unpacked into."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

# The same kernels as in a cloud image boot fastest; the other flavour has every module.
FLAVOURS = ("cloud-amd64", "amd64")
SUITES = (
    ("debian", "bullseye"),
    ("debian-security", "bullseye-security"),
    ("debian", "bookworm"),
    ("debian-security", "bookworm-security"),
    ("debian", "bookworm-backports"),
    ("debian", "trixie"),
    ("debian-security", "trixie-security"),
    ("debian", "trixie-backports"),
    ("debian", "sid"),
)
MIRROR = "http://deb.debian.org"
# The system's own sources.
SYSTEM = Path("/etc/apt")
# How apt says that a suite is not where it was.
GONE = re.compile(r"repository '(\S+) (\S+) Release' (?:does not have|no longer has) a Release file")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Seconds after which the lists of packages are fetched again.
STALE = 86400
# From 6.19 on the image is an empty package that needs these: the kernel, its modules, its configuration.
PARTS = ("linux-binary", "linux-modules", "linux-base")
PACKAGE = re.compile(r"linux-(?:image|binary|modules|base)-(\d(?:(?!-rt-)[^ ])*?)-((?:cloud-)?amd64)")


class Trouble(Exception):
    """What went wrong, in one line."""


def attempt(*command, what):
    """Run a program to its end; it speaks English."""
    words = [str(word) for word in command]
    try:
        environment = {**os.environ, "LC_ALL": "C"}
        return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    except FileNotFoundError as error:
        raise Trouble(f"{what}: {words[0]} is not installed (scripts/setup --all brings it)") from error


def succeeded(done, what):
    """Give what a program printed that must have succeeded."""
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise Trouble(f"{what}: {last}")
    return done.stdout


def run(*command, what):
    """Run a program that must succeed; give what it printed."""
    return succeeded(attempt(*command, what=what), what)


def cache():
    """The folder that holds everything."""
    named = os.environ.get("INFLIGHT_KERNELS")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(base) / "inflight" / "kernels"


def lines_of(text):
    """Sources in the style of sources.list: (URIs, suites, components) of every line for binary packages."""
    for line in text.splitlines():
        words = re.sub(r"\[.*?\]", "", line.partition("#")[0]).split()
        if len(words) > 2 and words[0] == "deb":
            yield [words[1]], [words[2]], words[3:]


def stanzas_of(text):
    """The same in the style of .sources: of every stanza that is enabled."""
    text = re.sub(r"(?m)^#.*\n?", "", text)
    for stanza in re.split(r"\n\s*\n", text):
        fields = re.findall(r"(?m)^([\w-]+):((?:.*)(?:\n[ \t].*)*)", stanza)
        words = {name.lower(): value.split() for name, value in fields}
        enabled = "".join(words.get("enabled", [])).lower() not in ("no", "false", "without", "off", "disable", "0")
        if enabled and "deb" in words.get("types", []):
            yield words.get("uris", []), words.get("suites", []), words.get("components", [])


def mirrors(apt):
    """Where the system itself gets `debian` and `debian-security` from; the public mirror where it says nothing.

    Other archives end in `debian` too. Only a source of the main component of one of our suites is taken.
    """
    found = {}
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        read = {".list": lines_of, ".sources": stanzas_of}.get(path.suffix)
        try:
            sources = list(read(path.read_text())) if read else []
        except (OSError, UnicodeDecodeError):
            continue
        for uris, suites, components in sources:
            for uri in uris:
                uri = uri.rstrip("/")
                archive = uri.rsplit("/", 1)[-1]
                ours = any((archive, suite) in SUITES for suite in suites)
                if ours and "main" in components and re.match("https?://", uri):
                    found.setdefault(archive, uri)
    return {archive: found.get(archive, f"{MIRROR}/{archive}") for archive in ("debian", "debian-security")}


class Apt:
    """An apt root of our own."""

    def __init__(self, root):
        self.root = root
        self.sources = root / "sources.list"
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (root / folder).mkdir(parents=True, exist_ok=True)

    def options(self):
        settings = {
            "Dir::Etc::sourcelist": self.sources,
            "Dir::Etc::sourceparts": "-",
            "Dir::State": self.root / "state",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": self.root / "cache",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        }
        return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]

    def update(self, force):
        """Fetch the lists of packages, unless they are fresh."""
        stamp = self.root / "updated"
        if not force and stamp.exists() and time.time() - stamp.stat().st_mtime < STALE:
            return
        if not KEYRING.exists():
            raise Trouble(f"{KEYRING} is missing: install debian-archive-keyring")
        print("fetching the lists of packages", flush=True)
        uris, what = mirrors(SYSTEM), "apt-get update"
        sources = [(uris[archive], suite) for archive, suite in SUITES]
        done = self.fetch(sources, what)
        # What has moved to an archive of old releases takes its own kernels away, and no others.
        gone = {match.groups() for match in GONE.finditer(done.stderr)} & set(sources)
        if gone and len(gone) < len(sources):
            done = self.fetch([source for source in sources if source not in gone], what)
        succeeded(done, what)
        for uri, suite in sorted(gone):
            print(f"{uri} has no suite {suite} any more: its kernels are left out")
        stamp.touch()

    def fetch(self, sources, what):
        """Fetch the lists of packages of these: (URI, suite)."""
        lines = [f"deb [signed-by={KEYRING}] {uri} {suite} main\n" for uri, suite in sources]
        self.sources.write_text("".join(lines))
        return attempt("apt-get", *self.options(), "-q", "update", what=what)

    def packages(self):
        """Every kernel package: (name, version)."""
        text = run("apt-cache", *self.options(), "dumpavail", what="apt-cache dumpavail")
        for paragraph in text.split("\n\n"):
            if paragraph.startswith("Package: linux-"):
                fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if re.match(r"[A-Z][\w-]*: ", line))
                yield fields["Package"], fields["Version"]

    def kernels(self):
        """Every kernel that can be had, oldest first."""
        parts = {}
        for name, version in self.packages():
            match = PACKAGE.fullmatch(name)
            if match and match[2] in FLAVOURS:
                parts.setdefault((version, match[1], match[2]), set()).add(name)
        found = []
        for (version, release, flavour), names in parts.items():
            split = {f"{part}-{release}-{flavour}" for part in PARTS}
            image = f"linux-image-{release}-{flavour}"
            if split <= names:
                found.append(Kernel(version, release, flavour, sorted(split)))
            elif image in names and numbers(version) < (6, 19):
                found.append(Kernel(version, release, flavour, [image]))
        return sorted(found, key=lambda kernel: (kernel.order(), -FLAVOURS.index(kernel.flavour)))

    def download(self, packages, version, into):
        """Download packages of one version into a folder; give the files."""
        wanted = [f"{package}={version}" for package in packages]
        where = os.getcwd()
        os.chdir(into)
        try:
            run("apt-get", *self.options(), "-q", "download", *wanted, what=f"download {' '.join(wanted)}")
        finally:
            os.chdir(where)
        return sorted(into.glob("*.deb"))


def numbers(version):
    """The leading numbers of a version."""
    return tuple(int(part) for part in re.match(r"\d+(\.\d+)*", version)[0].split("."))


class Kernel:
    """A kernel package."""

    def __init__(self, version, release, flavour, packages):
        self.version = version
        self.release = release
        self.flavour = flavour
        self.packages = packages

    def name(self):
        """Name of its folder in the cache."""
        return f"{self.version}-{self.flavour}"

    def series(self):
        return ".".join(map(str, numbers(self.version)[:2]))

    def order(self):
        revision = re.findall(r"\d+", self.version.partition("-")[2])
        return numbers(self.version), tuple(map(int, revision))

    def matches(self, spec):
        """`7`, `6.1`, `6.18.5`, a whole version, or the name of a folder."""
        if spec in (self.name(), self.version):
            return True
        if not re.fullmatch(r"\d+(\.\d+)*", spec):
            return False
        wanted = tuple(map(int, spec.split(".")))
        return numbers(self.version)[: len(wanted)] == wanted


def newest(kernels, spec, flavour):
    """The newest kernel that a word names; of the first flavour that has any."""
    for wanted in [flavour] if flavour else FLAVOURS:
        found = [kernel for kernel in kernels if kernel.matches(spec) and kernel.flavour == wanted]
        if found:
            return found[-1]
    known = sorted({kernel.series() for kernel in kernels}, key=numbers)
    raise Trouble(f"no kernel '{spec}'{f' of flavour {flavour}' if flavour else ''}; there are {' '.join(known)}")


def unpack(files, kernel, folder):
    """Take what is needed to boot out of packages."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack.") as scratch:
        scratch = Path(scratch)
        for file in files:
            run("dpkg-deb", "-x", file, scratch, what=f"unpack {file.name}")
        release = f"{kernel.release}-{kernel.flavour}"
        made = scratch / "kernel"
        made.mkdir()
        library = next((path for path in (scratch / "usr/lib/modules", scratch / "lib/modules") if path.is_dir()), None)
        image = next(iter([*scratch.glob("boot/vmlinuz-*"), *(library or scratch).glob("*/vmlinuz")]), None)
        if library is None or image is None or not (library / release).is_dir():
            raise Trouble(f"{kernel.name()}: the packages hold no kernel with modules for {release}")
        shutil.move(image, made / "vmlinuz")
        (made / "lib").mkdir()
        shutil.move(library, made / "lib/modules")
        config = next(iter([*scratch.glob("boot/config-*"), *(made / "lib/modules").glob("*/config")]), None)
        if config is not None:
            shutil.move(config, made / "config")
        # A package has no modules.dep: its installation script makes it.
        run("depmod", "-b", made, release, what=f"depmod {release}")
        about = {"version": kernel.version, "release": release, "flavour": kernel.flavour, "packages": kernel.packages}
        (made / "kernel.json").write_text(json.dumps(about, indent=1) + "\n")
        made.rename(folder)


def get(apt, kernel):
    """Bring a kernel into the cache."""
    folder = cache() / kernel.name()
    if (folder / "kernel.json").exists():
        print(f"{kernel.name()}: is there")
        return
    print(f"{kernel.name()}: downloading {' '.join(kernel.packages)}", flush=True)
    with tempfile.TemporaryDirectory(dir=cache(), prefix=".download.") as scratch:
        files = apt.download(kernel.packages, kernel.version, Path(scratch))
        unpack(files, kernel, folder)
    print(f"{kernel.name()}: unpacked into {folder}")


def cached():
    """Names of the kernels in the cache."""
    return sorted(path.parent.name for path in cache().glob("*/kernel.json"))


def show(kernels):
    here = set(cached())
    for series in sorted({kernel.series() for kernel in kernels}, key=numbers):
        of_series = [kernel for kernel in kernels if kernel.series() == series]
        for flavour in FLAVOURS:
            found = [kernel for kernel in of_series if kernel.flavour == flavour]
            if found:
                also = sorted({".".join(map(str, numbers(kernel.version))) for kernel in found[:-1]}, key=numbers)
                mark = "cached" if found[-1].name() in here else ""
                print(f"{series:<6} {found[-1].name():<40} {mark:<8} {' '.join(also)}".rstrip())
    for name in sorted(here - {kernel.name() for kernel in kernels}):
        print(f"       {name:<40} cached, and not offered any more")


def remove(names):
    for name in names:
        if name not in cached():
            raise Trouble(f"{name} is not in {cache()}; there are: {' '.join(cached()) or 'none'}")
        shutil.rmtree(cache() / name)
        print(f"{name}: removed")


def newest_source(apt, series):
    """The newest package of sources of a series: (name, version)."""
    name = f"linux-source-{series}"
    versions = [version for package, version in apt.packages() if package == name]
    if not versions:
        known = sorted({package.removeprefix("linux-source-") for package, _ in apt.packages() if re.fullmatch(r"linux-source-[\d.]+", package)}, key=numbers)
        raise Trouble(f"no {name}; there are {' '.join(known)}")
    return name, max(versions, key=lambda version: [int(part) for part in re.findall(r"\d+", version)])
