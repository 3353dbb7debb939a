"""Rules about agents: the DynaKube's name, its mode, and versions, images and arguments."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from oneagent.common import dynakube, identifiers
from oneagent.common.dynakube import public_registry
from oneagent.common.dynakube.api import feature_flags, fields, json_path, version_history
from oneagent.common.dynakube.mode import Mode
from oneagent.common.kubernetes import quantities
from oneagent.common.oci import reference
from oneagent.webhook.validation.context import ValidationContext, quote

_POD_SUFFIX: Final = "-oneagent-xxxxx"
_MAX_NAME_LENGTH: Final = 63 - len(_POD_SUFFIX)
_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_ARGUMENT: Final = re.compile(r"--[A-Za-z0-9]|[A-Za-z_][A-Za-z0-9_.-]*=")
"""Beginning of an argument, or of a variable of the installer"""
_REPEATABLE: Final = ("--set-host-property", "--set-host-tag")


def name_invalid(ctx: ValidationContext) -> Iterator[str]:
    """Check the name of a new DynaKube; an existing one cannot be renamed."""
    if ctx.old is not None:
        return
    if not _NAME.fullmatch(ctx.name):
        yield (
            f"The DynaKube's name, {quote(ctx.name)}, is not a DNS-1035 label. Make sure that it has only a-z, 0-9 "
            "and '-', starts with a letter, and does not end in '-'."
        )
    if len(ctx.name) > _MAX_NAME_LENGTH:
        yield (
            f"The DynaKube's name, {quote(ctx.name)}, has {len(ctx.name)} characters, too many for names of "
            f"pods, NAME{_POD_SUFFIX}. Make sure that it has at most {_MAX_NAME_LENGTH}."
        )


def namespace_wrong(ctx: ValidationContext) -> Iterator[str]:
    """Refuse a DynaKube that no component reads."""
    namespace = json_path.get_value(ctx.written, "metadata.namespace")
    if isinstance(namespace, str) and namespace and namespace != ctx.cluster.own_namespace:
        yield (
            f"The DynaKube is in the namespace {quote(namespace)}, where the operator does not look for it. Make sure "
            f"that it is in the operator's namespace, {quote(ctx.cluster.own_namespace)}."
        )


def multiple_modes(ctx: ValidationContext) -> Iterator[str]:
    if len(modes := ctx.modes()) > 1:
        # The first sentence stays word for word: users of DynaKubes search for it.
        yield (
            "The DynaKube's specification tries to use multiple oneagent modes at the same time, which is not "
            f"supported. Make sure that spec.oneAgent has only one of: {', '.join(sorted(modes))}."
        )


def version_incomplete(ctx: ValidationContext) -> Iterator[str]:
    for path, value in _versions_of(ctx):
        if not dynakube.FULL_VERSION.fullmatch(value) and not _is_short(ctx, value):
            yield (
                f"{path} is {quote(value)}, which is not a complete version. Make sure that it reads "
                "major.minor.patch.timestamp, such as 1.277.0.20230914-094321."
            )


def short_versions(ctx: ValidationContext) -> Iterator[tuple[str, str]]:
    """Return fields with a version without build time. Old API versions accept them; they pin nothing."""
    return ((path, value) for path, value in _versions_of(ctx) if _is_short(ctx, value))


def image_invalid(ctx: ValidationContext) -> Iterator[str]:
    images = [
        *ctx.text_in_modes("image", fields.HOST_MODES),
        *ctx.text_in_modes("codeModulesImage", fields.INJECTING_MODES),
    ]
    for path, value in images:
        if path.endswith(".codeModulesImage") and dynakube.is_local(value):
            continue
        if not reference.IMAGE.fullmatch(value):
            yield (
                f"{path} is {quote(value)}, which is not an image reference. Make sure that it reads "
                "registry.example/repository:tag or registry.example/repository@sha256:digest."
            )


def image_layout_invalid(ctx: ValidationContext) -> Iterator[str]:
    for path, value in ctx.text_in_modes("codeModulesImage", fields.INJECTING_MODES):
        if value.startswith(reference.LAYOUT_PREFIX):
            try:
                reference.parse_layout(value)
            except reference.InvalidLayoutError as error:
                yield (
                    f"{path} is {quote(value)}, which is not an image in a directory: {error.why}. Make sure that it "
                    "reads oci-layout:/absolute/path/of/directory, with :name or @sha256:digest if the directory has "
                    "several images."
                )


def argument_doubtful(ctx: ValidationContext) -> Iterator[str]:
    """Check the form of arguments. Messages never show a value, which may be a password."""
    for path, arguments in ctx.arguments():
        for number, argument in enumerate(arguments):
            if not _ARGUMENT.match(argument):
                yield (
                    f"{path}[{number}] (not shown) is neither --name, --name=value nor NAME=VALUE: use one string "
                    "for name and value of an argument, such as --set-host-tag=team=shop."
                )


def argument_repeated(ctx: ValidationContext) -> Iterator[str]:
    for path, arguments in ctx.arguments():
        counted = Counter(argument.partition("=")[0] for argument in arguments)
        twice = sorted(name for name, count in counted.items() if count > 1 and name not in _REPEATABLE)
        if twice:
            yield (
                f"{path} has {', '.join(map(quote, twice))} more than once. Make sure that only "
                f"{' and '.join(_REPEATABLE)} are repeated."
            )


def text_not_on_one_line(ctx: ValidationContext) -> Iterator[str]:
    """Refuse control characters, which would add lines to agents' configuration."""
    values = {path: json_path.get_value(ctx.new, path) for path in ("spec.networkZone", "spec.oneAgent.hostGroup")}
    values[feature_flags.annotation("no-proxy")] = ctx.flag("no-proxy")
    for path, arguments in ctx.arguments():
        values |= {f"{path}[{number}]": argument for number, argument in enumerate(arguments)}
    for path, value in values.items():
        if isinstance(value, str) and not value.isprintable():
            yield (
                f"{path} has a line break, a tab or another control character. Make sure that it is plain text on one "
                "line."
            )


def csi_driver_missing(ctx: ValidationContext) -> Iterator[str]:
    for mode in ctx.modes(fields.INJECTING_MODES):
        path = f"spec.oneAgent.{mode}.useCSIDriver"
        if json_path.get_value(ctx.new, path) is True and ctx.cluster.lacks_csi_driver:
            yield (
                f"{path} is true, but the CSI driver is not installed on this cluster. Make sure that the driver is "
                "installed first, or leave the field out."
            )


def read_only_volume_without_csi(ctx: ValidationContext) -> Iterator[str]:
    flag = "injection-readonly-volume"
    for mode in ctx.modes(fields.INJECTING_MODES):
        path = f"spec.oneAgent.{mode}.useCSIDriver"
        is_off = json_path.get_value(ctx.new, path) is False
        if ctx.flag(flag).lower() == "true" and (is_off or ctx.cluster.lacks_csi_driver):
            reason = f"{path} is false" if is_off else "it is not installed on this cluster"
            yield (
                f"{feature_flags.annotation(flag)} is true, but read-only volumes need the CSI driver, and {reason}. "
                "Make sure that the CSI driver is used, or leave the flag out."
            )


def node_pull_without_image(ctx: ValidationContext) -> Iterator[str]:
    """A public registry names the image where the DynaKube does not."""
    flag = "node-image-pull"
    is_public = public_registry.is_requested(ctx.new)
    for mode in ctx.modes(fields.INJECTING_MODES):
        path = f"spec.oneAgent.{mode}.codeModulesImage"
        image = ctx.text(path)
        if ctx.flag(flag).lower() == "true" and (dynakube.is_local(image) if image else not is_public):
            yield (
                f"{feature_flags.annotation(flag)} is true, but {path} names no image for nodes to pull. Make sure "
                "that it does, or leave the flag out."
            )


def public_registry_with_classic(ctx: ValidationContext) -> Iterator[str]:
    if not ctx.modes((Mode.CLASSIC_FULL_STACK,)):
        return
    flags = [feature_flags.annotation(name) for name in public_registry.FLAGS if ctx.flag(name).lower() == "true"]
    if settings := [*flags, *([public_registry.OVERRIDE] if ctx.text(public_registry.OVERRIDE) else [])]:
        yield (
            f"{' and '.join(settings)} cannot be used with {Mode.CLASSIC_FULL_STACK}, whose agents come from the "
            f"tenant's own registry. Make sure that the mode is another one, such as {Mode.CLOUD_NATIVE_FULL_STACK}, "
            "or leave it out."
        )


def public_registry_not_used(ctx: ValidationContext) -> Iterator[str]:
    if ctx.text(public_registry.OVERRIDE) and not public_registry.is_requested(ctx.new):
        flag = feature_flags.annotation(public_registry.FLAGS[0])
        yield f"{public_registry.OVERRIDE} has no effect: {flag} is not true."


def node_pull_without_csi(ctx: ValidationContext) -> Iterator[str]:
    flag = "node-image-pull"
    if ctx.flag(flag).lower() == "true" and ctx.modes(fields.INJECTING_MODES) and ctx.cluster.lacks_csi_driver:
        yield (
            f"{feature_flags.annotation(flag)} is true, but images need the CSI driver, which is not installed on this "
            "cluster: pods get no agent from them."
        )


def never_pulled_without_digest(ctx: ValidationContext) -> Iterator[str]:
    for path, policy in ctx.text_in_modes("codeModulesImagePullPolicy", fields.INJECTING_MODES):
        image_path = path.removesuffix("PullPolicy")
        image = ctx.text(image_path)
        if policy == dynakube.NO_PULL and image and not dynakube.is_local(image) and "@" not in image:
            yield (
                f"{path} is {policy}, but {image_path} has no digest, so no node has it: add the digest, and preload "
                "the image on the nodes."
            )


def image_key_invalid(ctx: ValidationContext) -> Iterator[str]:
    """Check the public keys of images. The message hides the value, which may be a private key by mistake."""
    key = f"{identifiers.FEATURE_PREFIX}{dynakube.IMAGE_KEY}"
    annotations = json_path.section(ctx.new, "metadata.annotations") or {}
    if key in annotations and (why := dynakube.find_image_key_fault(ctx.flag(dynakube.IMAGE_KEY))):
        yield (
            f"{feature_flags.annotation(dynakube.IMAGE_KEY)} (not shown) {why}. Make sure that it is valid; leave it "
            "out only if images need no signature."
        )


def image_key_without_image(ctx: ValidationContext) -> Iterator[str]:
    if not ctx.flag(dynakube.IMAGE_KEY):
        return
    images = [value for _, value in ctx.text_in_modes("codeModulesImage", fields.INJECTING_MODES)]
    if not any(not value.startswith("file:") for value in images):
        yield (
            f"{feature_flags.annotation(dynakube.IMAGE_KEY)} has no effect: no codeModulesImage names an image, "
            "and packages from other sources are installed without a signature."
        )


def init_resources_invalid(ctx: ValidationContext) -> Iterator[str]:
    modes = [f"spec.oneAgent.{mode}" for mode in ctx.modes(fields.INJECTING_MODES)]
    for path in (f"{section}.initResources" for section in (*modes, "spec.metadataEnrichment")):
        for fault in quantities.faults(json_path.section(ctx.new, path) or {}):
            yield (
                f"{path} has resources that the API server refuses: {fault}. Make sure that they are valid, with "
                "requests no more than limits, or leave the field out."
            )


def _versions_of(ctx: ValidationContext) -> Iterator[tuple[str, str]]:
    yield from ctx.text_in_modes("version")
    yield from ctx.text_in_modes("codeModulesVersion", fields.INJECTING_MODES)


def _is_short(ctx: ValidationContext, value: str) -> bool:
    return ctx.version in version_history.WITH_SHORT_VERSIONS and bool(dynakube.SHORT_VERSION.fullmatch(value))
