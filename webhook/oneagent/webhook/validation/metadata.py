"""Rules about the metadata of pods and hosts: enrichment and resource attributes."""

from __future__ import annotations

from collections.abc import Iterator

from oneagent.common.dynakube import resource_attributes
from oneagent.common.dynakube.api import fields, json_path
from oneagent.common.dynakube.mode import MODES
from oneagent.common.injection import pod_annotations
from oneagent.webhook.validation.context import ValidationContext


def attributes_invalid(ctx: ValidationContext) -> Iterator[str]:
    for path in _fields(ctx):
        for fault in resource_attributes.faults(ctx.new, path):
            yield f"{path} {fault}. Make sure that each attribute is valid, or leave it out."


def many_attributes(ctx: ValidationContext) -> Iterator[str]:
    for paths in ((resource_attributes.FOR_ALL,), *((resource_attributes.FOR_ALL, path) for path in _own_fields(ctx))):
        count = len({key for path in paths for key in json_path.section(ctx.new, path) or {}})
        if count > resource_attributes.RECOMMENDED and json_path.section(ctx.new, paths[-1]):
            yield (
                f"{' and '.join(paths)} {'has' if len(paths) == 1 else 'have'} {count} attributes: each is stored with "
                f"every record, so more than {resource_attributes.RECOMMENDED} are expensive."
            )


def enrichment_off_without_effect(ctx: ValidationContext) -> Iterator[str]:
    if json_path.get_value(ctx.new, "spec.metadataEnrichment.enabled") is not False:
        return
    for mode in ctx.modes(fields.INJECTING_MODES):
        yield (
            f"spec.metadataEnrichment.enabled is false, but pods that get an agent by spec.oneAgent.{mode} get the "
            "metadata files in any case; a pod opts out by the annotation "
            f"{pod_annotations.INJECT_ENRICHMENT[0]}."
        )


def _own_fields(ctx: ValidationContext) -> list[str]:
    return [resource_attributes.additional(mode) for mode in ctx.modes(MODES)]


def _fields(ctx: ValidationContext) -> list[str]:
    return [resource_attributes.FOR_ALL, *_own_fields(ctx)]
