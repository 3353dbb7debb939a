"""A `kubectl` that reads a directory: `FakeCluster` writes it, and the program in it is this file.

    objects.json             all objects of the cluster
    refused.json             kinds that the user may not read
    unknown.json             kinds that the cluster does not have
    exec/POD                 output of a command in the pod; without this file the pod has no such container
    logs/POD/CONTAINER       log of the container; with `.previous` of its previous run
    ports/POD                local port to which a port-forward of the pod connects
    calls.jsonl              all command lines

It is a program of its own, so it imports nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

HANGING: Final = "hangs"
"""Content of `exec/POD` for a command that never ends."""
_KINDS: Final = {"ingresses": "Ingress", "networkpolicies": "NetworkPolicy"}

Object = Mapping[str, Any]


class FakeCluster:
    """A cluster that a test describes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.program = directory / "kubectl"
        self.program.write_text(f'#!/bin/sh\nexec {sys.executable} -SE {__file__} {directory} "$@"\n')
        self.program.chmod(0o755)
        self.set_objects()

    def set_objects(self, *objects: Object) -> None:
        (self._directory / "objects.json").write_text(json.dumps(objects))

    def forbid(self, *kinds: str) -> None:
        """Forbid reading these kinds, named in the plural."""
        (self._directory / "refused.json").write_text(json.dumps(kinds))

    def forget(self, *kinds: str) -> None:
        """Have no such kinds, named in the plural: their CRD was never there, or was deleted."""
        (self._directory / "unknown.json").write_text(json.dumps(kinds))

    def set_exec_output(self, pod: str, output: Any) -> None:
        self._write(f"exec/{pod}", output if output == HANGING else json.dumps(output))

    def set_log(self, pod: str, container: str, text: str) -> None:
        self._write(f"logs/{pod}/{container}", text)

    def set_port(self, pod: str, port: int) -> None:
        self._write(f"ports/{pod}", str(port))

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self._directory / "calls.jsonl").read_text().splitlines()]

    def _write(self, name: str, text: str) -> None:
        path = self._directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


def _split(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Words, and flags with their values."""
    words, flags, rest = [], {}, iter(arguments)
    for argument in rest:
        if argument == "--":
            break
        if argument in ("-n", "-c", "-o"):
            flags[argument] = next(rest)
        elif argument.startswith("-"):
            name, _, value = argument.partition("=")
            flags[name] = value
        else:
            words.append(argument)
    return words, flags


def _kind(of: str) -> str:
    """`configmaps` and `configmap` of a ConfigMap alike."""
    short = of.partition(".")[0].lower()
    return short.removesuffix("es") if short.endswith(("sses", "policies")) else short.removesuffix("s")


def _field(obj: Object, path: str) -> str:
    here: Any = obj
    for key in path.split("."):
        here = here.get(key, "") if isinstance(here, dict) else ""
    return str(here)


def _chosen(obj: Object, name: str, flags: Mapping[str, str]) -> bool:
    metadata = obj["metadata"]
    labels = metadata.get("labels") or {}
    selectors = [one for one in flags.get("--selector", "").split(",") if one]
    wanted = [one.split("=", 1) for one in selectors if "!=" not in one]
    unwanted = [one.split("!=", 1) for one in selectors if "!=" in one]
    fields = [one.split("=", 1) for one in flags.get("--field-selector", "").split(",") if one]
    return (
        (not name or metadata["name"] == name)
        and ("-n" not in flags or metadata.get("namespace") == flags["-n"])
        and all(labels.get(key) == value for key, value in wanted)
        and not any(labels.get(key) == value for key, value in unwanted)
        and all(_field(obj, key) == value for key, value in fields)
    )


def _templated(template: str, found: Iterable[Object]) -> str:
    """The two templates that are in use."""
    if ".data" in template:
        lines = [" ".join([one["metadata"]["name"], *one.get("data", {})]) for one in found]
    else:
        lines = [one["metadata"]["namespace"] for one in found]
    return "".join(f"{line}\n" for line in lines)


def _get(directory: Path, words: list[str], flags: Mapping[str, str]) -> int:
    kind, name = words[1], words[2] if len(words) > 2 else ""
    refused = directory / "refused.json"
    if refused.exists() and kind.partition(".")[0] in json.loads(refused.read_text()):
        return _fail(
            f'Error from server (Forbidden): {kind} is forbidden: User "somebody" cannot get resource "{kind}"'
        )
    unknown = directory / "unknown.json"
    if unknown.exists() and kind.partition(".")[0] in json.loads(unknown.read_text()):
        return _fail(f'error: the server doesn\'t have a resource type "{kind.partition(".")[0]}"')
    objects = json.loads((directory / "objects.json").read_text())
    found = [obj for obj in objects if obj["kind"].lower() == _kind(kind) and _chosen(obj, name, flags)]
    if "go-template" in flags["-o"]:
        print(_templated(flags["-o"], found), end="")
    elif not name:
        print(json.dumps({"kind": "List", "items": found}))
    elif found:
        print(json.dumps(found[0]))
    elif "--ignore-not-found" not in flags:
        return _fail(f'Error from server (NotFound): {kind} "{name}" not found')
    return 0


def _exec(directory: Path, words: list[str]) -> int:
    path = directory / "exec" / words[1]
    if not path.exists():
        return _fail("error: Internal error occurred: unable to upgrade connection: container not found")
    if path.read_text() == HANGING:
        time.sleep(60)
    print(path.read_text())
    return _fail("command terminated with exit code 1")


def _logs(directory: Path, words: list[str], flags: Mapping[str, str]) -> int:
    path = directory / "logs" / words[1] / (flags["-c"] + (".previous" if "--previous" in flags else ""))
    if not path.exists():
        return _fail(
            f'Error from server (BadRequest): container "{flags["-c"]}" in pod "{words[1]}" is waiting to start'
        )
    sys.stdout.write(path.read_text())
    return 0


def _forward(directory: Path, words: list[str]) -> int:
    path = directory / "ports" / words[1].removeprefix("pod/")
    if not path.exists():
        return _fail("error: unable to forward port because pod is not running")
    print(f"Forwarding from 127.0.0.1:{path.read_text()} -> 8443", flush=True)
    time.sleep(60)
    return 0


def main() -> int:
    directory, arguments = Path(sys.argv[1]), sys.argv[2:]
    with (directory / "calls.jsonl").open("a") as calls:
        os.write(calls.fileno(), f"{json.dumps(arguments)}\n".encode())
    words, flags = _split(arguments)
    match words[0]:
        case "get":
            return _get(directory, words, flags)
        case "exec":
            return _exec(directory, words)
        case "logs":
            return _logs(directory, words, flags)
        case "port-forward":
            return _forward(directory, words)
        case "config":
            print("shop", end="")
            return 0
        case "version":
            print(json.dumps({"serverVersion": {"gitVersion": "v1.35.0"}}))
            return 0
    return _fail(f"error: unknown command {words[0]!r}")


if __name__ == "__main__":
    sys.exit(main())
