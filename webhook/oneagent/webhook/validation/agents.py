"""Rules about what runs where: the DynaKube's name, its mode, and versions, images and arguments of agents."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from oneagent.common import dynakube, identifiers
from oneagent.common.dynakube.api import feature_flags, fields, json_path
from oneagent.common.kubernetes import quantities
from oneagent.common.oci import reference
from oneagent.webhook.validation.context import Subject, quoted

_POD_SUFFIX: Final = "-oneagent-xxxxx"
_LONGEST_NAME: Final = 63 - len(_POD_SUFFIX)
_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_WITH_SHORT_VERSIONS: Final = ("v1alpha1", "v1beta1")
_REPEATABLE: Final = ("--set-host-property", "--set-host-tag")


def name_unusable(seen: Subject) -> Iterator[str]:
    """Only of a new one: a name that is there cannot be changed any more."""
    if seen.old is not None:
        return
    if not _NAME.fullmatch(seen.name):
        yield (
            f"The DynaKube's name, {quoted(seen.name)}, is not a DNS-1035 label. Make sure that it has only a-z, 0-9 "
            "and '-', begins with a letter, and does not end in '-'."
        )
    if len(seen.name) > _LONGEST_NAME:
        yield (
            f"The DynaKube's name, {quoted(seen.name)}, has {len(seen.name)} characters, too many for the names that "
            f"are made from it, such as NAME{_POD_SUFFIX}. Make sure that it has {_LONGEST_NAME} at most."
        )


def several_modes(seen: Subject) -> Iterator[str]:
    if len(found := seen.modes()) > 1:
        # Up to the full stop word for word what users of DynaKubes know and search for.
        yield (
            "The DynaKube's specification tries to use multiple oneagent modes at the same time, which is not "
            f"supported. Make sure that spec.oneAgent has only one of: {', '.join(sorted(found))}."
        )


def version_incomplete(seen: Subject) -> Iterator[str]:
    for path, value in _versions(seen):
        if not dynakube.FULL_VERSION.fullmatch(value) and not _is_short(seen, value):
            yield (
                f"{path} is {quoted(value)}, which is not a complete version. Make sure that it reads "
                "major.minor.patch.timestamp, such as 1.277.0.20230914-094321."
            )


def short_versions(seen: Subject) -> Iterator[tuple[str, str]]:
    """Old API versions took them, and they are pinned to nothing."""
    return ((path, value) for path, value in _versions(seen) if _is_short(seen, value))


def image_unreadable(seen: Subject) -> Iterator[str]:
    images = [*seen.each("image", fields.HOST_MODES), *seen.each("codeModulesImage", fields.INJECTING_MODES)]
    for path, value in images:
        if path.endswith(".codeModulesImage") and dynakube.is_local(value):
            continue
        if not reference.IMAGE.fullmatch(value):
            yield (
                f"{path} is {quoted(value)}, which is not the reference of an image. Make sure that it reads "
                "registry.example/repository:tag or registry.example/repository@sha256:digest."
            )


def image_folder_unreadable(seen: Subject) -> Iterator[str]:
    for path, value in seen.each("codeModulesImage", fields.INJECTING_MODES):
        if value.startswith(reference.LAYOUT_PREFIX):
            try:
                reference.parse_layout(value)
            except reference.InvalidLayoutError as error:
                yield (
                    f"{path} is {quoted(value)}, which is not an image in a directory: {error.why}. Make sure that it "
                    "reads oci-layout:/absolute/path/of/folder, with :name or @sha256:digest if the folder has "
                    "several images."
                )


def argument_unreadable(seen: Subject) -> Iterator[str]:
    """Arguments may be passwords: only their names are shown."""
    for path, arguments in seen.arguments():
        for number, argument in enumerate(arguments):
            if not argument.startswith("--"):
                yield (
                    f"{path}[{number}] (not shown) does not begin with '--'. Make sure that name and value of an "
                    "argument are one text, such as --set-host-tag=team=shop."
                )


def argument_twice(seen: Subject) -> Iterator[str]:
    for path, arguments in seen.arguments():
        counted = Counter(argument.partition("=")[0] for argument in arguments)
        twice = sorted(name for name, count in counted.items() if count > 1 and name not in _REPEATABLE)
        if twice:
            yield (
                f"{path} has {', '.join(map(quoted, twice))} more than once. Make sure that only "
                f"{' and '.join(_REPEATABLE)} are repeated."
            )


def text_with_control_characters(seen: Subject) -> Iterator[str]:
    """They would add lines of their own to agents' configuration."""
    found = {path: json_path.look(seen.new, path) for path in ("spec.networkZone", "spec.oneAgent.hostGroup")}
    found[feature_flags.annotation("no-proxy")] = seen.flag("no-proxy")
    for path, arguments in seen.arguments():
        found |= {f"{path}[{number}]": argument for number, argument in enumerate(arguments)}
    for path, value in found.items():
        if isinstance(value, str) and not value.isprintable():
            yield (
                f"{path} has a line break, a tab or another control character in it. Make sure that it is plain text "
                "on one line."
            )


def csi_driver_missing(seen: Subject) -> Iterator[str]:
    for mode in seen.modes(fields.INJECTING_MODES):
        path = f"spec.oneAgent.{mode}.useCSIDriver"
        if json_path.look(seen.new, path) is True and seen.known.no_csi:
            yield (
                f"The DynaKube asks for the CSI driver ({path}), which is not installed on this cluster. Make sure "
                "that it is installed before, or leave the field out."
            )


def read_only_volume_without_csi(seen: Subject) -> Iterator[str]:
    flag = "injection-readonly-volume"
    for mode in seen.modes(fields.INJECTING_MODES):
        path = f"spec.oneAgent.{mode}.useCSIDriver"
        refused = json_path.look(seen.new, path) is False
        if seen.flag(flag).lower() == "true" and (refused or seen.known.no_csi):
            reason = f"{path} is false" if refused else "it is not installed on this cluster"
            yield (
                f"{feature_flags.annotation(flag)} asks for read-only volumes, which only the CSI driver can give, but "
                f"{reason}. Make sure that the CSI driver is used, or leave the flag out."
            )


def node_pull_without_image(seen: Subject) -> Iterator[str]:
    flag = "node-image-pull"
    for mode in seen.modes(fields.INJECTING_MODES):
        path = f"spec.oneAgent.{mode}.codeModulesImage"
        image = seen.text(path)
        if seen.flag(flag).lower() == "true" and (not image or dynakube.is_local(image)):
            yield (
                f"{feature_flags.annotation(flag)} has nodes pull the agent's image, but {path} names none. Make sure that "
                "it does, or leave the flag out."
            )


def image_key_unusable(seen: Subject) -> Iterator[str]:
    """Without its value, which may be a private key by mistake."""
    place = f"{identifiers.FEATURE_PREFIX}{dynakube.IMAGE_KEY}"
    annotations = json_path.section(seen.new, "metadata.annotations") or {}
    if place in annotations and (why := dynakube.find_image_key_fault(seen.flag(dynakube.IMAGE_KEY))):
        yield (
            f"{feature_flags.annotation(dynakube.IMAGE_KEY)} (not shown) {why}. Make sure that it is right; leave it out "
            "only if images need not be signed."
        )


def image_key_without_image(seen: Subject) -> Iterator[str]:
    if not seen.flag(dynakube.IMAGE_KEY):
        return
    images = [value for _, value in seen.each("codeModulesImage", fields.INJECTING_MODES)]
    if not any(not value.startswith("file:") for value in images):
        yield (
            f"{feature_flags.annotation(dynakube.IMAGE_KEY)} has images signed, but no codeModulesImage names one: packages "
            "that do not come from an image are installed without a signature."
        )


def init_resources_impossible(seen: Subject) -> Iterator[str]:
    for mode in seen.modes(fields.INJECTING_MODES):
        path = f"spec.oneAgent.{mode}.initResources"
        for fault in quantities.faults(json_path.section(seen.new, path) or {}):
            yield (
                f"{path} is nothing that a container can have: {fault}. Make sure that requests are no more than "
                "limits, or leave the field out."
            )


def _versions(seen: Subject) -> Iterator[tuple[str, str]]:
    yield from seen.each("version")
    yield from seen.each("codeModulesVersion", fields.INJECTING_MODES)


def _is_short(seen: Subject, value: str) -> bool:
    return seen.version in _WITH_SHORT_VERSIONS and bool(dynakube.SHORT_VERSION.fullmatch(value))
