"""Rules about host agents: their arguments, variables and updates.

Values of arguments may be passwords, so messages show only names and places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from oneagent.common.dynakube import rolling_update
from oneagent.common.dynakube.api import feature_flags, fields, json_path
from oneagent.common.dynakube.mode import Mode
from oneagent.common.kubernetes import fields as kubernetes_fields
from oneagent.webhook.validation.context import ValidationContext, describe_field_error

_HOST_ID_SOURCE: Final = "--set-host-id-source"
_HOST_TAG: Final = "--set-host-tag"
_HOST_GROUP: Final = "--set-host-group"
_VOLUME_STORAGE: Final = "ONEAGENT_ENABLE_VOLUME_STORAGE"
_INSTALLER: Final = ("ONEAGENT_INSTALLER_SCRIPT_URL", "ONEAGENT_INSTALLER_TOKEN")
"""Read by an installer that downloads the agent. Images hold the agent."""


def host_id_source_reserved(ctx: ValidationContext) -> Iterator[str]:
    """Refuse another host id in the mode where applications find their host by it."""
    for path, arguments in ctx.arguments():
        if f".{Mode.CLOUD_NATIVE_FULL_STACK}." in path and any(_name(one) == _HOST_ID_SOURCE for one in arguments):
            yield (
                f"{path} has {_HOST_ID_SOURCE}, which the operator sets to the node's name, so that agents in pods "
                "find their host. Make sure that it is left out."
            )


def host_tag_repeated(ctx: ValidationContext) -> Iterator[str]:
    for path, arguments in ctx.arguments():
        first: dict[str, int] = {}
        for number, argument in enumerate(arguments):
            if _name(argument) != _HOST_TAG:
                continue
            tag = argument.partition("=")[2].strip()
            if first.setdefault(tag, number) != number:
                yield (
                    f"{path}[{number}] has the same {_HOST_TAG} as {path}[{first[tag]}] (not shown). Make sure that "
                    "each tag is given once."
                )


def volume_storage_off(ctx: ValidationContext) -> Iterator[str]:
    """Refuse an agent that writes where it may only read."""
    if ctx.flag("oneagent-readonly-host-fs").lower() == "false":
        return
    for path, variables in _variables(ctx):
        value = variables.get(_VOLUME_STORAGE)
        if Mode.CLASSIC_FULL_STACK not in path and value is not None and value.strip().lower() != "true":
            yield (
                f"{path} switches {_VOLUME_STORAGE} off, but the host's file system is read-only, and the agent writes "
                "to its volume instead. Make sure that the variable is left out, or that "
                f'{feature_flags.annotation("oneagent-readonly-host-fs")} is "false".'
            )


def rolling_update_invalid(ctx: ValidationContext) -> Iterator[str]:
    for mode in ctx.modes(fields.HOST_MODES):
        path = f"spec.oneAgent.{mode}.rollingUpdate"
        if not json_path.section(ctx.new, path):
            continue  # A rule about feature flags looks at the flag.
        try:
            rolling_update.read(ctx.new, path)
        except kubernetes_fields.FieldError as error:
            yield describe_field_error(error)


def max_unavailable_without_effect(ctx: ValidationContext) -> Iterator[str]:
    for mode in ctx.modes(fields.HOST_MODES):
        path = f"spec.oneAgent.{mode}.rollingUpdate"
        if ctx.flag(rolling_update.FLAG) and json_path.section(ctx.new, path):
            yield f"{feature_flags.annotation(rolling_update.FLAG)} has no effect: {path} comes before it."


def host_group_argument(ctx: ValidationContext) -> Iterator[str]:
    for path, arguments in ctx.arguments():
        if any(_name(argument) == _HOST_GROUP for argument in arguments):
            field = "spec.oneAgent.hostGroup"
            if ctx.text(field):
                yield f"{path} has {_HOST_GROUP}, which has no effect: {field} comes before it."
            else:
                yield f"{path} has {_HOST_GROUP}: use {field} instead."


def installer_variables(ctx: ValidationContext) -> Iterator[str]:
    for path, variables in _variables(ctx):
        if found := [name for name in _INSTALLER if name in variables]:
            yield (
                f"{path} has {' and '.join(found)}, which only images read that download their agent. Such images are "
                "not supported: use one that has the agent."
            )


def _name(argument: str) -> str:
    return argument.partition("=")[0].strip()


def _variables(ctx: ValidationContext) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    """Yield path and variables of each host agent; None for a value from elsewhere."""
    for mode in ctx.modes(fields.HOST_MODES):
        path = f"spec.oneAgent.{mode}.env"
        entries = json_path.get_value(ctx.new, path)
        found: dict[str, str | None] = {}
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, Mapping) and isinstance(name := entry.get("name"), str):
                value = entry.get("value", "")
                found[name] = value if isinstance(value, str) and "valueFrom" not in entry else None
        yield path, found
