"""Images for OpenTelemetry's agents: services in Java, Node.js and Python, and a collector.

They are made only where the package of agents is built, which takes npm and Maven: `make agent-package`. The services
are those of `make run AGENT=otel`, with the runtimes of Debian. They know nothing of telemetry.
"""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.cluster import commands, image_archive, images, rootfs
from tests.cluster.images import Image
from tests.demo import applications

SERVICES: Final = "localhost/services:e2e"
COLLECTOR: Final = "localhost/otelcol:e2e"
PACKAGE: Final = Path("build/agent-package/opentelemetry.zip")
COMMANDS: Final = {
    "python": ("/usr/bin/python3", "/app/main.py"),
    "nodejs": ("/usr/bin/node", "/app/main.js"),
    "java": ("/usr/lib/jvm/default-java/bin/java", "-cp", "/app", applications.JAVA_CLASS),
}
"""Command of the service in each language"""

_LANGUAGES: Final = ("agent/java/", "agent/node/", "agent/python/")
_PACKAGES: Final = ("coreutils", "dash", "default-jre-headless", "nodejs", "python3", "python3-aiohttp")
_GO: Final = Path("tests/collector")
_PROGRAM: Final = _GO / "bin/otelcol"


def why_not() -> str:
    """Return what is missing for tests with these images; empty if they are there."""
    if reason := _why_no_package():
        return reason
    missing = [reference for reference in (SERVICES, COLLECTOR) if images.find(reference) is None]
    return f"not built: {', '.join(missing)}" if missing else ""


def archive(reference: str) -> Path:
    """Return the archive of one of these images; `Unavailable` if it is not built."""
    if (found := images.find(reference)) is None:
        raise commands.CommandUnavailableError(f"{reference} is not built: python -m tests.cluster true")
    return found


def wanted() -> Iterator[Image]:
    """Yield the images to build: none without a package of all agents; `Unavailable` if one can't be built."""
    if _why_no_package():
        return
    commands.need({"java": "default-jre-headless"})
    subprocess.run(["sh", "tests/tools/build.sh", _GO], check=True)
    if (reason := _PROGRAM.parent / ".why-not").exists():
        raise commands.CommandUnavailableError(reason.read_text().strip())
    yield _services()
    yield _collector()


def _why_no_package() -> str:
    if not PACKAGE.exists():
        return "the package of agents is not built: make agent-package"
    with zipfile.ZipFile(PACKAGE) as package:
        names = package.namelist()
    missing = [language for language in _LANGUAGES if not any(name.startswith(language) for name in names)]
    return f"the package of agents lacks {', '.join(missing)}" if missing else ""


def _services() -> Image:
    sources = {"main.py": applications.PYTHON, "main.js": applications.NODE, "Service.java": applications.JAVA}

    def make(archive: Path, log: Path) -> None:
        layer, app = archive.with_suffix(".layer"), archive.parent / "app"
        rootfs.write(layer, _PACKAGES, log)
        app.mkdir()
        for name, text in sources.items():
            (app / name).write_text(text)
        # Debian's runtime has the compiler, too; what is missing is the program `javac`.
        compiler = ("java", "-m", "jdk.compiler/com.sun.tools.javac.Main", "--release", "11")
        commands.run("java", (*compiler, "-d", app, app / "Service.java"), log)
        with tarfile.open(layer, "a") as tar:
            tar.add(app, "app")
        image_archive.write(archive, SERVICES, layer, ["sleep", "infinity"])

    files = {name: text.encode() for name, text in sources.items()}
    return Image(SERVICES, images.hash_inputs(files | _own_source(), rootfs.release(), *_PACKAGES), make)


def _collector() -> Image:
    def make(archive: Path, log: Path) -> None:
        layer = archive.with_suffix(".layer")
        with tarfile.open(layer, "w") as tar:
            tar.add(_PROGRAM, "otelcol")
        image_archive.write(archive, COLLECTOR, layer, ["/otelcol"])

    return Image(COLLECTOR, images.hash_inputs({"otelcol": _PROGRAM.read_bytes()} | _own_source()), make)


def _own_source() -> dict[str, bytes]:
    return {Path(__file__).name: Path(__file__).read_bytes()}
