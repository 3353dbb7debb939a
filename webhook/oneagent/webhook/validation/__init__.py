"""Validation of DynaKubes: errors and warnings as sentences.

    context         the DynaKube as rules read it, and the state of the cluster
    network         rules about the connection to the tenant: API URL and proxy
    agents          rules about agents: name, modes, versions, images, arguments, resources, the CSI driver
    feature_flags   rules about feature flags
    selectors       rules about selectors, and about overlaps between DynaKubes
    warnings        warnings about fields that are allowed

A rule is a function that yields a sentence for each fault. All rules run, in a fixed order, so that one answer lists
all faults. The API server itself checks types, names and changes of the tenant, and warns of old API versions.

A change that leaves `spec` and the feature flags as they are is never refused: labels and finalizers must be
writable also on a DynaKube that is older than a rule, or was created while no webhook validated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from oneagent.common import dynakube, identifiers
from oneagent.common.dynakube.api import conversion, fields
from oneagent.common.kubernetes import fields as kubernetes_fields
from oneagent.webhook.injection.inputs import Object
from oneagent.webhook.validation import agents, context, feature_flags, network, selectors
from oneagent.webhook.validation import warnings as validation_warnings
from oneagent.webhook.validation.context import Known, Rule, Subject, Verdict

__all__ = ["Known", "Verdict", "message", "validate"]

_ERRORS: Final[tuple[Rule, ...]] = (
    network.api_url_missing,
    network.api_url_invalid,
    network.tenant_changed,
    network.proxy_invalid,
    network.proxy_password_unusable,
    agents.name_unusable,
    agents.several_modes,
    agents.version_incomplete,
    agents.image_unreadable,
    agents.image_folder_unreadable,
    agents.argument_unreadable,
    agents.argument_twice,
    agents.text_with_control_characters,
    agents.csi_driver_missing,
    agents.read_only_volume_without_csi,
    agents.node_pull_without_image,
    agents.image_key_unusable,
    agents.init_resources_impossible,
    feature_flags.value_impossible,
    feature_flags.ignored_namespaces_unreadable,
    selectors.selector_invalid,
    selectors.nodes_selected_twice,
    selectors.namespaces_selected_twice,
)

_WARNINGS: Final[tuple[Rule, ...]] = (
    validation_warnings.unknown_fields,
    validation_warnings.deprecated_fields,
    validation_warnings.other_products,
    validation_warnings.short_versions,
    validation_warnings.api_url_without_tls,
    validation_warnings.proxy_password_readable,
    agents.image_key_without_image,
    feature_flags.unknown,
    feature_flags.deprecated,
    feature_flags.other_products,
)


def validate(new: Object, old: Object | None, known: Known) -> Verdict:
    """Of an object in any served version, and what it was before; raises nothing for what the API server sends."""
    try:
        seen = Subject(dict(new), _newest(new), _newest(old) if old is not None else None, known)
        errors = [] if seen.unchanged else [sentence for rule in _ERRORS for sentence in rule(seen)]
        if not errors and not seen.unchanged:
            errors = _last(seen)
        warnings = [sentence for rule in _WARNINGS for sentence in rule(seen)]
    except kubernetes_fields.FieldError as error:
        return Verdict((context.unusable(error),))
    if errors and seen.version != fields.NEWEST:
        warnings.append(f"Fields are named as in {fields.NEWEST}, which this DynaKube of {seen.version} amounts to.")
    return Verdict(tuple(errors), tuple(warnings))


def message(errors: Sequence[str]) -> str:
    numbered = (f"{number}. {error}" for number, error in enumerate(errors, 1))
    return "\n".join((f"{len(errors)} error(s) found in the Dynakube", *numbered))


def _newest(obj: Object) -> dict[str, object]:
    return conversion.convert(dict(obj), f"{identifiers.API_GROUP}/{fields.NEWEST}")


def _last(seen: Subject) -> list[str]:
    """Faults that no rule found, but a node would report."""
    try:
        dynakube.from_object(seen.new)
    except kubernetes_fields.FieldError as error:
        return [context.unusable(error)]
    return []
