"""Record commands on a terminal, and draw them as an animated picture: `python -m docs.recording run` or `why`.

    run     `make run` on this machine, in docs/run.svg
    why     `kubectl oneagent why`, in docs/why.svg; in the cluster of `make cluster`, with the variables that it prints

The commands run in a pseudo-terminal. What they write is kept with its times in build/recordings/NAME.cast (asciicast
v2, https://docs.asciinema.org/manual/asciicast/v2/); `--draw` draws such a file again.

The picture is text. Two animations are all that moves: a curtain goes down line by line, and the lines behind it go up
once the window is full. Pauses are cut to two seconds, and each line has a moment to be read; times in the text are
the command's own. Colours follow the reader's light or dark mode. With reduced motion the picture is still.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import html
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
CASTS: Final = ROOT / "build" / "recordings"

_LONGEST_PAUSE: Final = 2.0
_LINE_SECONDS: Final = 0.22
_CHAPTER_SECONDS: Final = 0.9
_COMMAND_SECONDS: Final = 1.2
_END_SECONDS: Final = 8.0

_CHARACTER: Final = 8.43
"""Width of a character at 14 px, of the widest of the fonts."""
_LINE: Final = 19
_MARGIN: Final = 16
_SGR: Final = re.compile(r"\x1b\[([0-9;]*)m")
_CLASSES: Final = {"1": "b", "2": "d", "31": "r", "32": "g", "33": "y"}
"""SGR codes and their class in the style sheet."""
_STYLE: Final = """\
text{font:14px ui-monospace,SFMono-Regular,"DejaVu Sans Mono",Menlo,Consolas,"Liberation Mono",monospace;
fill:#1f2328;white-space:pre}
.p{fill:#f6f8fa}.f{fill:#f6f8fa;stroke:#d1d9e0}
.b{font-weight:bold}.d{fill:#59636e}.r{fill:#cf222e}.g{fill:#116329}.y{fill:#7d4e00}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.p{fill:#161b22}.f{fill:#161b22;stroke:#30363d}
.d{fill:#9198a1}.r{fill:#ff7b72}.g{fill:#56d364}.y{fill:#e3b341}}
"""


@dataclasses.dataclass(frozen=True)
class Recording:
    """Commands, and the size of the terminal that they run in."""

    title: str
    commands: tuple[str, ...]
    columns: int
    rows: int
    still: str
    """Part of the last line that the still picture shows."""
    codes: tuple[int, ...] = (0,)
    """Exit codes that are no failure of the recording."""

    @property
    def height(self) -> int:
        return self.rows * _LINE


RECORDINGS: Final = {
    "run": Recording("make run", ("make run",), 112, 30, still="library loaded, LD_PRELOAD set"),
    "why": Recording(
        "kubectl oneagent why",
        ("kubectl get pods -n shop", "kubectl oneagent why cart -n shop", "kubectl oneagent why report -n shop"),
        112,
        22,
        still="annotation",
        codes=(0, 1),
    ),
}


@dataclasses.dataclass(frozen=True)
class Span:
    text: str
    classes: str


@dataclasses.dataclass
class Line:
    at: float
    spans: list[Span]
    continues: bool = False
    """The terminal wrapped it: it is the rest of the line above."""

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)


# ---------------------------------------------------------------- recording


def has_version() -> bool:
    """Return True if a node of the cluster has a version of the agent."""
    status = ["kubectl", "oneagent", "status", "-o", "json"]
    answer = subprocess.run(status, check=False, stdout=subprocess.PIPE)  # 1: something needs attention.
    return any(node["versions"] for node in json.loads(answer.stdout)["nodes"])


def create_pods() -> None:
    """Start what `why` is asked about: a pod with its agent, and one that does not want any."""
    from tests.e2e import manifests

    cart, report = (manifests.application(name, "shop") for name in ("cart", "report"))
    report["metadata"]["annotations"] = {"dynatrace.com/inject": "false"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"agent": "demo"}}}
    # A pod that came before the version would have an Event of its wait.
    deadline = time.monotonic() + 60
    while not has_version():
        assert time.monotonic() < deadline, "no node has a version after 60 s"
        time.sleep(1)
    text = manifests.as_yaml(namespace, cart, report)
    subprocess.run(["kubectl", "apply", "-f", "-"], input=text, text=True, check=True)
    wait = ["kubectl", "-n", "shop", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=90s"]
    subprocess.run(wait, check=True)


def record(recording: Recording) -> list[tuple[float, str]]:
    """Run the commands; return what they wrote, with the seconds since the start."""
    events, started = list[tuple[float, str]](), time.monotonic()
    for command in recording.commands:
        events.append((time.monotonic() - started, f"\x1b[1m$ {command}\x1b[0m\r\n"))
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", recording.rows, recording.columns, 0, 0))
        environment = {
            name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")
        }
        environment |= {"TERM": "xterm-256color", "MAKEFLAGS": "", "MAKELEVEL": ""}
        process = subprocess.Popen(
            ["sh", "-c", command], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=environment
        )
        os.close(theirs)
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            for data in _read(terminal.fileno()):
                events.append((time.monotonic() - started, data))
        if process.wait() not in recording.codes:
            raise SystemExit(f"{command}: exit code {process.returncode}\n{''.join(data for _, data in events)}")
    return events


def _read(terminal: int) -> Iterator[str]:
    rest = b""
    while True:
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # Linux reports the end of the last process so.
            data = b""
        if not data:
            break
        # A read may end within a line, or within a character.
        whole, newline, rest = (rest + data).rpartition(b"\n")
        if newline:
            yield (whole + newline).decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


def write_cast(path: Path, recording: Recording, events: Sequence[tuple[float, str]]) -> None:
    header = {"version": 2, "width": recording.columns, "height": recording.rows, "title": recording.title}
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(header), *(json.dumps([round(at, 3), "o", data]) for at, data in events)]
    path.write_text("\n".join(lines) + "\n")


def read_cast(path: Path) -> list[tuple[float, str]]:
    _, *events = (json.loads(line) for line in path.read_text().splitlines())
    return [(at, data) for at, _, data in events]


# ------------------------------------------------------------------ drawing


def to_lines(events: Sequence[tuple[float, str]], columns: int) -> list[Line]:
    """Return the terminal's lines. Of escape sequences only colours are known, and nothing may be written over."""
    found, classes = list[Line](), ""
    for at, data in events:
        for raw in data.replace("\r\n", "\n").removesuffix("\n").split("\n"):
            line = Line(at, [])
            for part in re.split(r"(\x1b\[[0-9;]*m)", raw):
                if code := _SGR.fullmatch(part):
                    classes = " ".join(_CLASSES[each] for each in code[1].split(";") if each in _CLASSES)
                elif part:
                    if not part.isprintable():
                        raise ValueError(f"cannot be drawn: {part!r}")
                    line.spans.append(Span(part, classes))
            found += _wrap(line, columns)
    return found


def _wrap(line: Line, columns: int) -> list[Line]:
    """Break a line where the terminal does."""
    lines, room = [Line(line.at, [])], columns
    for span in line.spans:
        text = span.text
        while len(text) > room:
            lines[-1].spans.append(Span(text[:room], span.classes))
            lines.append(Line(line.at, [], continues=True))
            text, room = text[room:], columns
        lines[-1].spans.append(Span(text, span.classes))
        room -= len(text)
    return lines


def schedule(lines: Sequence[Line]) -> list[float]:
    """Return when each line appears, and the end."""
    times, now, before = [], 0.0, 0.0
    for number, line in enumerate(lines):
        shortest = _LINE_SECONDS
        if line.continues or not line.text:
            shortest = 0.0
        elif number and not lines[number - 1].text:
            shortest = _CHAPTER_SECONDS
        elif number and lines[number - 1].text.startswith("$ "):
            shortest = _COMMAND_SECONDS
        now += min(max(line.at - before, shortest), _LONGEST_PAUSE)
        before = line.at
        times.append(now)
    return [*times, now + _END_SECONDS]


def draw(recording: Recording, lines: Sequence[Line]) -> str:
    """Return the picture."""
    *times, end = schedule(lines)
    full = len(lines) * _LINE
    window = recording.height
    width, height = round(recording.columns * _CHARACTER), window + 2 * _MARGIN
    curtain = [(at, (number + 1) * _LINE) for number, at in enumerate(times)]
    scroll = [(at, min(0, window - bottom)) for at, bottom in curtain if bottom > window]
    last = next((number for number, line in enumerate(lines) if recording.still and recording.still in line.text), None)
    still = min(0, window - (len(lines) if last is None else last + 1) * _LINE)
    style = _STYLE + (
        f".s{{transform:translateY({still}px)}}.c{{transform:translateY({full}px)}}\n"
        "@media(prefers-reduced-motion:no-preference){"
        f".s{{animation:s {end:.1f}s step-end infinite}}.c{{animation:c {end:.1f}s step-end infinite}}}}\n"
        f"{_keyframes('c', curtain, end)}\n{_keyframes('s', scroll, end)}\n"
    )
    rows = "\n".join(_row(number, line) for number, line in enumerate(lines))
    title = html.escape(recording.title, quote=False)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 2 * _MARGIN} {height}" '
        f'width="{width + 2 * _MARGIN}" height="{height}" role="img">\n'
        f"<title>{title}, as a terminal shows it</title>\n<style>\n{style}</style>\n"
        f'<rect class="f" x=".5" y=".5" width="{width + 2 * _MARGIN - 1}" height="{height - 1}" rx="8"/>\n'
        f'<svg x="{_MARGIN}" y="{_MARGIN}" width="{width}" height="{window}">\n'
        f'<g class="s">\n{rows}\n<rect class="p c" width="{width}" height="{full}"/>\n</g>\n</svg>\n</svg>\n'
    )


def _keyframes(name: str, steps: Sequence[tuple[float, int]], end: float) -> str:
    frames = {"0%": 0} | {f"{100 * at / end:.2f}%": place for at, place in steps}
    body = "".join(f"{share}{{transform:translateY({place}px)}}" for share, place in frames.items())
    return f"@keyframes {name}{{{body}}}"


def _row(number: int, line: Line) -> str:
    spans = "".join(
        f'<tspan class="{span.classes}">{html.escape(span.text, quote=False)}</tspan>'
        if span.classes
        else html.escape(span.text, quote=False)
        for span in line.spans
    )
    mark = ' data-continues=""' if line.continues else ""
    return f'<text y="{number * _LINE + 14}"{mark}>{spans}</text>'


def read_picture(path: Path) -> list[str]:
    """Return the lines of a picture, as the commands wrote them."""
    found = list[str]()
    for continues, row in re.findall(
        r'^<text y="\d+"( data-continues="")?>(.*)</text>$', path.read_text(), re.MULTILINE
    ):
        text = html.unescape(re.sub(r"<[^>]*>", "", row))
        if continues:
            found[-1] += text
        else:
            found.append(text)
    return found


def picture(name: str) -> Path:
    return ROOT / "docs" / f"{name}.svg"


def main() -> None:
    parser = argparse.ArgumentParser(description="Records commands, and draws them as an animated picture.")
    parser.add_argument("name", choices=RECORDINGS)
    parser.add_argument("--draw", action="store_true", help="draw the last recording again")
    given = parser.parse_args()
    recording, cast = RECORDINGS[given.name], CASTS / f"{given.name}.cast"
    if not given.draw:
        if given.name == "why":
            create_pods()
        else:
            # An environment that is out of date would be renewed in the recording.
            subprocess.run(["make", "setup"], cwd=ROOT, check=True)
        write_cast(cast, recording, record(recording))
    target = picture(given.name)
    target.write_text(draw(recording, to_lines(read_cast(cast), recording.columns)))
    sys.stdout.write(f"{target.relative_to(ROOT)}: {target.stat().st_size >> 10} KiB\n")


if __name__ == "__main__":
    main()
