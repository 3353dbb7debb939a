"""Images of one to three layers. What is odd in them: names, kinds, extended headers, the tar's blocks, the packing."""

from __future__ import annotations

import gzip
import tarfile
from dataclasses import dataclass
from typing import Final, Literal

import zstandard

from oneagent.common.agents import oneagent
from tests.fakes import packages
from tests.fuzz import alterations
from tests.fuzz.alterations import Chance

_P: Final = packages.NESTED
_LIBRARY: Final = _P + oneagent.PRELOAD_LIBRARY
_BLOCK: Final = 512

_PLAIN: Final = ("a", "b", "c", "A", "agent", "bin", "1.2.3.4-5", "current", "ä")
_WHITE: Final = (
    ".wh.a",
    ".wh.b",
    ".WH.a",
    ".wh..wh..opq",
    ".wh.agent",
    ".wh.",
    ".wh..",
    ".Wh..wh..opq",
    ".wh..wh.plnk",
)
_STRANGE: Final = ("..", ".", "", "a\n", "a\\b", "C:", "n" * 101, "n" * 255, "n" * 256, "a ", "\udcff", "a\0b", "a\x7f")
_ODD_NAMES: Final = ("a\n", "a\\b", "C:", "n" * 300, "a ", "\udcff", "a\x7f")
_FRONTS: Final = (_P, _P, _P, _P, _P, _P, "", "./", f"./{_P}", f"/{_P}", f"../{_P}", "opt/", f"{_P}/", f"{_P}./")
_TARGETS: Final = (
    "a",
    "b",
    "../a",
    ".",
    "..",
    "/etc/passwd",
    "../../../../../../etc/passwd",
    "",
    "a/../b",
    "current",
    "n" * 300,
)
_KINDS: Final = b"0000000055511112222\x0034567SLKxgXDVMNAZ \xff"
_FORMATS: Final[tuple[Literal[0, 1, 2], ...]] = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)
_RECORDS: Final = (
    *("path", "path", "linkpath", "size", "mtime", "comment", "hdrcharset", "uid", "SCHILY.xattr.user.a"),
    *("path", "linkpath", "size", "mtime", "GNU.sparse.name", "GNU.sparse.major"),
)
_FIELDS: Final = ((0, 100), (100, 8), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155))
"""Name, mode, size, kind, target, magic and prefix in a header: place and length (POSIX ustar)."""
_VALUES: Final = (
    *(b"", b"0" * 11, b"00000000001", b"00000000777", b"77777777777", b"-1", b"0x10", b" 12 ", b"ustar  "),
    *(b"\xff" * 12, b"\x80" + bytes(10) + b"\x05", b"\x80" + b"\x7f" * 11, b"..", b"/", b"a/", b"\xff\xfe"),
    *(b"ustar\x0000", _P.encode()),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """`sound`: nothing is odd, so it must not be refused."""

    blobs: tuple[bytes, ...]
    sound: bool


def case(chance: Chance) -> Case:
    if chance.random() < 0.15:
        layers = [_sound_layer(chance, number) for number in range(chance.randrange(1, 4))]
        return Case(tuple(_packed(chance, layer) for layer in layers), sound=True)
    return Case(tuple(_odd_blob(chance, number) for number in range(chance.choice((1, 1, 2, 3)))), sound=False)


def _odd_blob(chance: Chance, number: int) -> bytes:
    parts = [_entry(_LIBRARY, b"0", b"\x7fELF" + bytes(9), mode=0o755)] if number == 0 or chance.random() < 0.1 else []
    parts += [_odd_entry(chance) for _ in range(chance.randrange(8))]
    if chance.random() < 0.2:
        chance.shuffle(parts)
    tar = b"".join(parts) + bytes(2 * _BLOCK)
    if chance.random() < 0.4:
        tar = _altered(chance, tar)
    blob = _packed(chance, tar)
    return alterations.anyhow(chance, blob) if chance.random() < 0.15 else blob


def _sound_layer(chance: Chance, number: int) -> bytes:
    """Names of one's own for each kind of thing, so that nothing is in the way of anything."""
    parts = [_entry(_LIBRARY, b"0", b"\x7fELF", mode=0o755)] if number == 0 else []
    files: list[str] = []
    for place in range(chance.randrange(8)):
        above, form = _P + chance.choice(("", "d/", "e/f/", "d" * 120 + "/")), chance.choice(_FORMATS[:2])
        match chance.randrange(8):
            case 6:
                parts.append(_elsewhere(chance))
            case 0:
                parts.append(_entry(f"{above}folder{place}", b"5", form=form))
            case 1 if files:
                parts.append(
                    _entry(
                        f"{above}again{number}-{place}",
                        b"1",
                        target=chance.choice(("", "/")) + chance.choice(files),
                        form=form,
                    )
                )
            case 2 if files:
                there = chance.choice(files)
                name = f"{there.rpartition('/')[0]}/link{number}-{place}"
                parts.append(_entry(name, b"2", target=there.rpartition("/")[2], form=form))
            case 3:
                parts.append(_entry(f"{above}.wh.is_transient{chance.randrange(4)}", b"0", form=form))
            case 4:
                parts.append(_entry(f"{above}passing{number}{place}", b"0", _content(chance), form=form))
            case _:
                files.append(f"{above}file{number}-{place}")
                parts.append(
                    _entry(
                        chance.choice(("", "/")) + files[-1],
                        b"0",
                        _content(chance),
                        mode=chance.choice((0o644, 0o4755, 0)),
                        form=form,
                    )
                )
    return b"".join(parts) + bytes(_BLOCK * (chance.choice((0, 1, 2, 2, 20)) if parts else 2))


def _elsewhere(chance: Chance) -> bytes:
    """Anything that refuses no image, because it is outside of the agent's directory."""
    name = chance.choice(("usr/", "/usr/a/", "usr/a/../a/", "usr/" + "d/" * 70)) + chance.choice(
        ("a", "b", *_ODD_NAMES)
    )
    kind = bytes((chance.choice(b"0123456"),))
    target = chance.choice(("usr/a", "/usr/a/b", "../../out", "none", "\udcff"))
    return _entry(name, kind, b"elsewhere" if kind == b"0" else b"", target)


def _odd_entry(chance: Chance) -> bytes:
    kind = bytes((chance.choice(_KINDS),))
    content = _content(chance) if kind in (b"0", b"7", b"\0") or chance.random() < 0.05 else b""
    target = chance.choice(_TARGETS) if kind == b"2" else _path(chance)
    before = b""
    while chance.random() < 0.15:
        before += _extended(chance)
    return before + _entry(
        _path(chance), kind, content, target, chance.choice((0o644, 0o755, 0o6777, 0)), chance.choice(_FORMATS)
    )


def _path(chance: Chance) -> str:
    parts = [chance.choice(_PLAIN) for _ in range(chance.choice((1, 1, 2, 3)))]
    if chance.random() < 0.15:
        parts[-1] = chance.choice(_WHITE)
    if chance.random() < 0.05:
        parts[chance.randrange(len(parts))] = chance.choice(_STRANGE)
    path = chance.choice(_FRONTS[:7] if chance.random() < 0.9 else _FRONTS) + "/".join(parts)
    return f"{path}/" if chance.random() < 0.05 else path


def _content(chance: Chance) -> bytes:
    return b"%d" % chance.randrange(1000) * chance.choice((0, 1, 2, 300))


def _entry(
    name: str,
    kind: bytes,
    content: bytes = b"",
    target: str = "",
    mode: int = 0o644,
    form: Literal[0, 1, 2] = tarfile.GNU_FORMAT,
) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode, info.linkname = kind, len(content), mode, target if kind in b"12" else ""
    try:
        header = info.tobuf(form, "utf-8", "surrogateescape")
    except ValueError:  # not to be said in this format
        header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return header + content + bytes(-len(content) % _BLOCK)


def _extended(chance: Chance) -> bytes:
    """A header that says something of the next one."""
    kind = chance.choice((b"x", b"x", b"x", b"L", b"K", b"g", b"X"))
    if kind in b"LK":
        return _entry("././@LongLink", kind, _path(chance).encode("utf-8", "surrogateescape") + b"\0")
    data = b""
    for _ in range(chance.randrange(1, 3)):
        value = chance.choice((_path(chance), _path(chance), "0", "5", "1", "-1", "0,5", "9" * 19, "BINARY"))
        rest = f" {chance.choice(_RECORDS)}={value}\n".encode("utf-8", "surrogateescape")
        length = len(rest) + 2 + (len(rest) > 97)
        data += b"%d" % (length if chance.random() < 0.95 else chance.randrange(200)) + rest
    return _entry("extended", kind, data)


def _altered(chance: Chance, tar: bytes) -> bytes:
    data = bytearray(tar)
    for _ in range(chance.randrange(1, 4)):
        change = chance.choice(
            (_field, _field, _field, _blocks, _blocks, alterations.byte, alterations.bit, alterations.cut)
        )
        change(chance, data)
        if chance.random() < 0.1:
            chance.choice((alterations.tail, alterations.missing, alterations.again))(chance, data)
    return bytes(data)


def _field(chance: Chance, data: bytearray) -> None:
    """Another value in a header, whose checksum is right again."""
    headers = [at for at in range(0, len(data) - _BLOCK + 1, _BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return
    start = chance.choice(headers)
    at, length = chance.choice(_FIELDS)
    value = chance.choice(_VALUES) if length > 1 else bytes((chance.choice(_KINDS),))
    data[start + at : start + at + length] = value[:length].ljust(length, b"\0")
    _sum(data, start)


def _blocks(chance: Chance, data: bytearray) -> None:
    """Blocks twice, elsewhere, or gone."""
    count = len(data) // _BLOCK
    if count < 2:
        return
    start, length = chance.randrange(count) * _BLOCK, chance.choice((1, 1, 2, 3)) * _BLOCK
    piece = bytes(data[start : start + length])
    if chance.random() < 0.7:
        del data[start : start + length]
    at = chance.randrange(count) * _BLOCK
    if chance.random() < 0.7:
        data[at:at] = piece


def _sum(data: bytearray, start: int) -> None:
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + _BLOCK])


def _packed(chance: Chance, tar: bytes) -> bytes:
    match chance.randrange(6):
        case 0:
            return gzip.compress(tar, 1, mtime=0)
        case 1:
            middle = len(tar) // 2
            return gzip.compress(tar[:middle], 1, mtime=0) + gzip.compress(tar[middle:], 1, mtime=0)
        case 2:
            return zstandard.ZstdCompressor(1, write_checksum=True).compress(tar)
        case _:
            return tar
