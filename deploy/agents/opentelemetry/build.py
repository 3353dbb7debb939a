"""Build a package of OpenTelemetry's agents: a directory, and a zip of it.

    python build.py [--part PART…] [--skip-missing] [--machine MACHINE] [--python PYTHON…] [--library FILE]
        [--zip FILE] DIRECTORY

| part | by | pinned by |
| --- | --- | --- |
| library | `preload/build.py`, unless `--library` names a built one | the hash of the compiler |
| java | Maven | java.lock |
| node | npm | node/package-lock.json |
| python | pip | python/requirements.lock |
| bytecode | each `--python`, by default this one and each `python3.N` on the PATH | |

Registries are those that the three clients are configured with. Only the standard library is imported, so that any
image with Python can build the package. The same inputs give the same zip, whose comment is a hash of them: with
`--zip` the package is not built again as long as they stay.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
"""Of Python; each other one starts without its agent"""
PLATFORMS = {
    "glibc": ("manylinux2014_{machine}", "manylinux_2_17_{machine}", "manylinux_2_28_{machine}"),
    "musl": ("musllinux_1_1_{machine}", "musllinux_1_2_{machine}"),
}
CLIENTS = {"java": "mvn", "node": "npm"}
"""Programs that parts need; the others need this Python only"""
PARTS = ("library", "java", "node", "python", "bytecode")
_UNUSED = re.compile(r"\.(map|d\.[cm]?ts|ts|md|markdown|flow)$")
"""Files of npm packages that no process reads"""
_LICENSE = re.compile(r"(licen[sc]e|notice|copying)", re.IGNORECASE)
_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""Of a zip"""


class BuildError(Exception):
    """The package can't be built; the message has the reason."""


def add_library(agent: Path, machine: str, built: Path | None) -> None:
    """Put the preload library and the settings in; the library is built unless it is given."""
    shutil.copytree(SOURCES / "conf", agent / "conf", dirs_exist_ok=True)
    target = agent / "lib64/libotelinject.so"
    target.parent.mkdir(parents=True, exist_ok=True)
    if built is None:
        with tempfile.TemporaryDirectory() as place:
            script = SOURCES.parents[2] / "preload/build.py"
            subprocess.run([sys.executable, script, "--machine", machine, place], check=True)
            shutil.copyfile(Path(place) / machine / target.name, target)
    else:
        shutil.copyfile(built, target)


def add_java(agent: Path) -> None:
    """Put the Java agent in; `BuildError` if it has another hash than the locked one."""
    artifact, locked = (SOURCES / "java.lock").read_text().split()
    with tempfile.TemporaryDirectory() as place:
        options = (f"-Dartifact={artifact}", f"-DoutputDirectory={place}", "-Dmdep.useBaseVersion=true")
        subprocess.run(["mvn", "--quiet", "--batch-mode", "dependency:copy", *options], check=True)
        jar = next(Path(place).glob("*.jar"))
        found = f"sha256:{hashlib.sha256(jar.read_bytes()).hexdigest()}"
        if found != locked:
            raise BuildError(f"{artifact} has {found}, locked is {locked}")
        target = agent / "java/opentelemetry-javaagent.jar"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(jar, target)


def add_node(agent: Path) -> None:
    """Install the npm packages, without what only compilers and people read."""
    target = agent / "node"
    shutil.copytree(SOURCES / "node", target, dirs_exist_ok=True)
    options = ("--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--no-bin-links", "--loglevel=error")
    subprocess.run(["npm", "ci", *options], cwd=target, check=True)
    modules = target / "node_modules"
    (modules / ".package-lock.json").unlink(missing_ok=True)
    for path in [*modules.rglob("*")]:
        if path.is_file() and _UNUSED.search(path.name) and not _LICENSE.match(path.name):
            path.unlink()
        elif path.is_dir() and path.name in ("esm", "esnext") and path.parent.name == "build":
            # For bundlers: the agent is loaded by `require`.
            shutil.rmtree(path)
    _remove_empty(modules)


def add_python(agent: Path, machine: str) -> None:
    """Unpack the wheels: those for any Python once, others for each Python and C library."""
    target = agent / "python"
    lock = SOURCES / "python/requirements.lock"
    with tempfile.TemporaryDirectory() as place:
        native: set[str] = set()
        for wheel in _download(lock, Path(place) / "all", "glibc", machine, VERSIONS[0]):
            if _is_pure(wheel):
                _unpack(wheel, target / "packages")
            else:
                native.add(_distribution(wheel))
        few = Path(place) / "native.lock"
        few.write_text("\n".join(_requirements(lock, native)))
        for libc in PLATFORMS:
            for version in VERSIONS:
                for wheel in _download(few, Path(place) / f"{libc}-{version}", libc, machine, version):
                    # Where a C library has no wheel of its own, the pure one serves; the native ones come before it.
                    _unpack(wheel, target / ("packages" if _is_pure(wheel) else f"{libc}/{version}"))
                (target / libc / version).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(SOURCES / "python/sitecustomize.py", target / libc / "sitecustomize.py")


def add_bytecode(agent: Path, pythons: Iterable[str]) -> None:
    """Compile the packages for each Python, once for the C libraries of both."""
    for python in pythons:
        version = _version(python)
        if version not in VERSIONS:
            raise BuildError(f"{python} is Python {version}; known are {', '.join(VERSIONS)}")
        # By the sources' hash, and never checked: file systems may change their times, and a version's files stay.
        options = ("-q", "-f", "-j", "0", "--invalidation-mode", "unchecked-hash", "-s", str(agent.parent), "-p", "/")
        directories = [agent / "python/packages", *(agent / f"python/{libc}/{version}" for libc in PLATFORMS)]
        files = [agent / f"python/{libc}/sitecustomize.py" for libc in PLATFORMS]
        # Without this the constants that are sets come in another order each time.
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        subprocess.run([python, "-m", "compileall", *options, *directories, *files], check=True, env=environment)
        print(f"byte code for Python {version}")


def find_pythons() -> list[str]:
    """Return this Python and each other one on the PATH, one of a version."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = {version: shutil.which(f"python{version}") for version in VERSIONS if version != own}
    works = {
        version: path
        for version, path in found.items()
        # A version manager's stand-in is there and does not run.
        if path and subprocess.run([path, "-c", ""], check=False, capture_output=True).returncode == 0
    }
    return [*([sys.executable] if own in VERSIONS else []), *works.values()]


def hash_inputs(library: Path, pythons: Iterable[str], *more: str) -> str:
    """Return a hash of all that a package is made of: locks, scripts, the library, and the Pythons of its byte code."""
    inputs = hashlib.sha256("\n".join((*map(_version, pythons), *more)).encode())
    own = sorted(path for path in SOURCES.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    for path in (library, *own):
        content = path.read_bytes()
        inputs.update(f"\n{path.name} {len(content)}\n".encode() + content)
    return inputs.hexdigest()


def is_made_of(path: Path, inputs: str) -> bool:
    """Return True if the zip is there, complete, and made of these inputs."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == inputs.encode()
    except (FileNotFoundError, zipfile.BadZipFile):
        return False


def write_zip(tree: Path, path: Path, inputs: str = "") -> None:
    """Write a zip of all below `tree`: in the order of their names, with the same times and modes everywhere."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        archive.comment = inputs.encode()
        for source in sorted(tree.rglob("*")):
            if not source.is_file():
                continue
            entry = zipfile.ZipInfo(source.relative_to(tree).as_posix(), _EARLIEST)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, source.read_bytes())
    part.rename(path)


def _version(python: str) -> str:
    command = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _download(lock: Path, to: Path, libc: str, machine: str, version: str) -> list[Path]:
    platforms = [f"--platform={each.format(machine=machine)}" for each in PLATFORMS[libc]]
    tags = ("--implementation=cp", f"--abi=cp{version.replace('.', '')}", "--abi=abi3", "--abi=none")
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary=:all:")
    command = [sys.executable, "-m", "pip", "download", *options, *platforms, *tags, f"--python-version={version}"]
    subprocess.run([*command, "--dest", to, "--requirement", lock], check=True)
    return sorted(to.glob("*.whl"))


def _requirements(lock: Path, names: set[str]) -> Iterable[str]:
    """The entries of a lock file, each over several lines, that are of some distributions."""
    for entry in re.split(r"\n(?=\S)", lock.read_text()):
        if re.split(r"[=;\s]", entry, maxsplit=1)[0].replace("-", "_").lower() in names:
            yield entry.strip()


def _distribution(wheel: Path) -> str:
    return wheel.name.partition("-")[0].lower()


def _is_pure(wheel: Path) -> bool:
    return wheel.name.endswith("-none-any.whl")


def _unpack(wheel: Path, to: Path) -> None:
    """Unpack a wheel's packages and metadata; commands and other files are for an installation."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".data/" not in name and not name.endswith("/RECORD")]
        archive.extractall(to, names)


def _remove_empty(tree: Path) -> None:
    for directory, _, _ in os.walk(tree, topdown=False):
        if not os.listdir(directory):
            os.rmdir(directory)


def _make_readable(tree: Path) -> None:
    """Containers of any user read a view."""
    for path in [tree, *tree.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def main() -> int:
    parser = argparse.ArgumentParser(prog="build.py", description="Build a package of OpenTelemetry's agents.")
    parser.add_argument("--part", action="append", choices=PARTS, help="what to build (default: everything)")
    parser.add_argument("--skip-missing", action="store_true", help="leave out parts whose program is not on the PATH")
    parser.add_argument("--machine", default=platform.machine(), help="as uname -m has it (default: this one)")
    parser.add_argument("--python", action="append", help="a Python to compile byte code with")
    parser.add_argument("--library", type=Path, metavar="FILE", help="a preload library that is built already")
    parser.add_argument("--zip", type=Path, metavar="FILE", help="also write a zip")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="what becomes the top of the package")
    given = parser.parse_args()
    agent = given.directory.absolute() / "agent"
    missing = {part for part, client in CLIENTS.items() if given.skip_missing and shutil.which(client) is None}
    for part in sorted(missing):
        print(f"{part} is left out: {CLIENTS[part]} is not on the PATH")
    parts = {*(given.part or PARTS)} - missing
    pythons, inputs = given.python or find_pythons(), ""
    try:
        if given.zip and given.library:
            inputs = hash_inputs(given.library, pythons, given.machine, *sorted(parts))
            if agent.is_dir() and is_made_of(given.zip, inputs):
                print(f"{given.zip} is up to date")
                return 0
            given.zip.unlink(missing_ok=True)
            shutil.rmtree(agent, ignore_errors=True)
        if "library" in parts:
            add_library(agent, given.machine, given.library)
        if "java" in parts:
            add_java(agent)
        if "node" in parts:
            add_node(agent)
        if "python" in parts:
            add_python(agent, given.machine)
        if "bytecode" in parts:
            add_bytecode(agent, pythons)
    except (BuildError, subprocess.CalledProcessError, OSError) as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 1
    _make_readable(given.directory)
    if given.zip:
        write_zip(given.directory, given.zip, inputs)
        print(f"{given.zip}: {given.zip.stat().st_size >> 20} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
