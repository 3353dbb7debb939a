"""The program of `kubectl.FakeCluster`. It runs hundreds of times, so it imports no module that takes time to load."""

from __future__ import annotations

import marshal
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    Object = Mapping[str, Any]

HANGING = "hangs"
"""Content of `exec/POD` for a command that never ends."""


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


def _load(directory: str, name: str) -> Any:
    """Return what `FakeCluster` has marshalled, None if it has not."""
    try:
        with open(f"{directory}/{name}", "rb") as file:
            return marshal.load(file)
    except FileNotFoundError:
        return None


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return None


def _get(directory: str, words: list[str], flags: Mapping[str, str]) -> int:
    kind, name = words[1], words[2] if len(words) > 2 else ""
    plural = kind.partition(".")[0]
    if plural in (_load(directory, "refused") or ()):
        return _fail(
            f'Error from server (Forbidden): {kind} is forbidden: User "somebody" cannot get resource "{kind}"'
        )
    if plural in (_load(directory, "unknown") or ()):
        return _fail(f'error: the server doesn\'t have a resource type "{plural}"')
    found = [
        (obj, text)
        for obj, text in _load(directory, "objects")
        if obj["kind"].lower() == _kind(kind) and _chosen(obj, name, flags)
    ]
    if "go-template" in flags["-o"]:
        print(_templated(flags["-o"], [obj for obj, _ in found]), end="")
    elif not name:
        print(f'{{"kind": "List", "items": [{", ".join(text for _, text in found)}]}}')
    elif found:
        print(found[0][1])
    elif "--ignore-not-found" not in flags:
        return _fail(f'Error from server (NotFound): {kind} "{name}" not found')
    return 0


def _exec(directory: str, words: list[str]) -> int:
    output = _read(f"{directory}/exec/{words[1]}")
    if output is None:
        return _fail("error: Internal error occurred: unable to upgrade connection: container not found")
    if output == HANGING:
        time.sleep(60)
    print(output)
    return _fail("command terminated with exit code 1")


def _logs(directory: str, words: list[str], flags: Mapping[str, str]) -> int:
    log = _read(f"{directory}/logs/{words[1]}/{flags['-c']}{'.previous' if '--previous' in flags else ''}")
    if log is None:
        return _fail(
            f'Error from server (BadRequest): container "{flags["-c"]}" in pod "{words[1]}" is waiting to start'
        )
    sys.stdout.write(log)
    return 0


def _forward(directory: str, words: list[str]) -> int:
    port = _read(f"{directory}/ports/{words[1].removeprefix('pod/')}")
    if port is None:
        return _fail("error: unable to forward port because pod is not running")
    print(f"Forwarding from 127.0.0.1:{port} -> 8443", flush=True)
    time.sleep(60)
    return 0


def main() -> int:
    directory, arguments = sys.argv[1], sys.argv[2:]
    with open(f"{directory}/calls", "a") as calls:
        os.write(calls.fileno(), f"{arguments!a}\n".encode())
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
            print('{"serverVersion": {"gitVersion": "v1.35.0"}}')
            return 0
    return _fail(f"error: unknown command {words[0]!r}")


if __name__ == "__main__":
    sys.exit(main())
