"""DynaKubes, Secrets and ConfigMaps of one YAML file.

    DocumentError   the file cannot be used: the line, and the DynaKube if its name is known

Other documents are ignored, so the file may be a whole deployment. Errors name the line of the field and never show
the content of a Secret.

libyaml is used for its speed, but PyYAML's wrapper recurses in C: a file with some ten thousand opening brackets
would end the process. So the depth is checked first, in the stream of events, which does not recurse.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final

import yaml

from oneagent.common import dynakube, identifiers
from oneagent.common.agents import opentelemetry
from oneagent.common.agents.opentelemetry import injection
from oneagent.common.kubernetes import fields

_MAX_DEPTH: Final = 100


class DocumentError(Exception):
    def __init__(self, line: int, message: str, about: str = "") -> None:
        super().__init__(message)
        self.line = line
        self.about = about


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    dynakubes: tuple[tuple[int, dynakube.DynaKube], ...] = ()
    """Each with its first line."""
    secrets: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict, repr=False)
    config_maps: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)


def parse(data: bytes) -> Content:
    """Parse a file; `DocumentError` if any part of it cannot be used."""
    dynakubes: list[tuple[int, dynakube.DynaKube]] = []
    secrets: dict[str, Mapping[str, str]] = {}
    config_maps: dict[str, Mapping[str, str]] = {}
    if not data.strip():
        # Probably truncated by an editor that is about to write it.
        raise DocumentError(1, "is empty: remove the file to remove what it defined")
    for node, obj in _documents(data):
        kind = obj.get("kind")
        try:
            if kind == "DynaKube":
                dynakubes.append((_line(node), dynakube.from_object(obj)))
            elif kind == identifiers.INJECTION_KIND:
                dynakubes.append((_line(node), injection.read(obj)))
            elif kind == "Secret" and (name := fields.text(obj, "metadata.name")):
                secrets.setdefault(name, _read_secret(obj))
            elif kind == "ConfigMap" and (name := fields.text(obj, "metadata.name")):
                config_maps.setdefault(name, _read_strings(obj, "data"))
        except fields.FieldError as error:
            about = _name(obj, kind)
            raise DocumentError(_line_of_field(node, error.field), str(error), about) from error
    return Content(tuple(dynakubes), secrets, config_maps)


def _documents(data: bytes) -> Iterator[tuple[yaml.Node, dict[str, object]]]:
    try:
        text = data.decode("utf-8-sig")
        _check_depth(text)
        loader = yaml.CSafeLoader(text)
    except UnicodeDecodeError as error:
        raise DocumentError(data.count(b"\n", 0, error.start) + 1, "is not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise _yaml_error(error, 1) from error
    line = 1
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            line = _line(node)
            obj = loader.construct_document(node)
            if obj is None:
                continue
            if not isinstance(obj, dict) or not isinstance(obj.get("kind"), str):
                raise DocumentError(line, "is not a Kubernetes object: a mapping with apiVersion and kind")
            if obj["kind"].endswith("List"):
                raise DocumentError(line, f"is a {obj['kind']}: write its items as documents of their own")
            yield node, obj
    except (DocumentError, GeneratorExit):
        raise
    except yaml.YAMLError as error:
        raise _yaml_error(error, line) from error
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        # PyYAML's own errors about nonsense such as `!!timestamp x` or an impossible date.
        raise DocumentError(line, f"holds a value that cannot be read ({type(error).__name__})") from error
    finally:
        loader.dispose()


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise DocumentError(line, f"is nested more than {_MAX_DEPTH} deep")


def _yaml_error(error: yaml.YAMLError, line: int) -> DocumentError:
    """Omit PyYAML's text: it quotes the lines around, which may be those of a Secret."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        line = error.problem_mark.line + 1
    problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else "unreadable characters"
    return DocumentError(line, f"is not YAML: {problem}")


def _read_secret(obj: Mapping[str, object]) -> Mapping[str, str]:
    decoded: dict[str, str] = {}
    for key, value in _read_strings(obj, "data").items():
        try:
            decoded[key] = base64.b64decode("".join(value.split()), validate=True).decode()
        except ValueError:
            raise fields.FieldError(
                f"data.{key}", value, "must be base64; plain text goes to stringData", hidden=True
            ) from None
    return decoded | _read_strings(obj, "stringData")


def _read_strings(obj: Mapping[str, object], field: str) -> dict[str, str]:
    found = fields.at(obj, field)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise fields.FieldError(field, found, "must be a mapping of text", hidden=True)
    strings: dict[str, str] = {}
    for key, value in found.items():
        if not isinstance(value, str):
            raise fields.FieldError(f"{field}.{key}", value, "must be text; put it in quotes", hidden=True)
        strings[str(key)] = value
    return strings


def _name(obj: Mapping[str, object], kind: object) -> str:
    """Return the name of a DynaKube, or of the one that an object becomes; empty if it has none."""
    prefixes = {"DynaKube": "", identifiers.INJECTION_KIND: opentelemetry.PROFILE.name_prefix}
    try:
        name = fields.text(obj, "metadata.name")
    except fields.FieldError:
        return ""
    return prefixes[str(kind)] + name if name and kind in prefixes else ""


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _line_of_field(node: yaml.Node, path: str) -> int:
    """Return the line of a field, or of its innermost parent that exists."""
    line = _line(node)
    for key in path.split("."):
        children = node.value if isinstance(node, yaml.MappingNode) else []
        found = next((pair for pair in children if pair[0].value == key), None)
        if found is None:
            break
        line, node = _line(found[0]), found[1]
    return line
