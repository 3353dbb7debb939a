"""Validation of DynaKubes: errors and warnings as sentences.

    context         the DynaKube as rules read it, and the state of the cluster
    network         rules about the connection to the tenant: API URL and proxy
    agents          rules about agents: name, modes, versions, images, arguments, resources, the CSI driver
    host_agents     rules about host agents: arguments, variables, updates
    metadata        rules about enrichment and resource attributes
    secrets         rules about the Secrets of proxy and tokens
    feature_flags   rules about feature flags
    selectors       rules about selectors, and about overlaps between DynaKubes
    warnings        warnings about fields that are allowed
    field_hints     hints at the right field for an unknown one
    similar_names   guesses at misspelt names

A rule is a function that yields a sentence for each fault. All rules run, in a fixed order, so that one answer lists
all faults. The API server itself checks types, names and changes of the tenant, and warns of old API versions.

A change that leaves `spec` and the feature flags as they are is never refused: labels and finalizers must be
writable also on a DynaKube that is older than a rule, or was created while no webhook validated.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Final

from oneagent.common import dynakube, identifiers
from oneagent.common.dynakube.api import conversion, versions
from oneagent.common.kubernetes import fields as kubernetes_fields
from oneagent.webhook.injection.inputs import Object
from oneagent.webhook.validation import (
    agents,
    context,
    feature_flags,
    host_agents,
    metadata,
    network,
    secrets,
    selectors,
)
from oneagent.webhook.validation import warnings as validation_warnings
from oneagent.webhook.validation.context import ClusterState, Rule, ValidationContext, ValidationResult

__all__ = ["ClusterState", "ValidationResult", "message", "secret_names", "validate"]

_ERRORS: Final[tuple[Rule, ...]] = (
    network.api_url_missing,
    network.api_url_invalid,
    network.tenant_changed,
    network.proxy_invalid,
    network.proxy_password_invalid,
    secrets.proxy_invalid,
    agents.name_invalid,
    agents.namespace_wrong,
    agents.multiple_modes,
    agents.version_incomplete,
    agents.image_invalid,
    agents.image_layout_invalid,
    agents.argument_repeated,
    agents.text_not_on_one_line,
    agents.csi_driver_missing,
    agents.read_only_volume_without_csi,
    agents.node_pull_without_image,
    agents.public_registry_with_classic,
    agents.image_key_invalid,
    agents.init_resources_invalid,
    host_agents.host_id_source_reserved,
    host_agents.host_tag_repeated,
    host_agents.volume_storage_off,
    host_agents.rolling_update_invalid,
    metadata.attributes_invalid,
    feature_flags.value_invalid,
    feature_flags.ignored_namespaces_invalid,
    selectors.selector_invalid,
    selectors.nodes_overlap,
    selectors.namespaces_overlap,
)

_MAX_SENTENCES: Final = 50

_WARNINGS: Final[tuple[Rule, ...]] = (
    validation_warnings.unknown_fields,
    validation_warnings.deprecated_fields,
    validation_warnings.carried_settings,
    validation_warnings.fields_without_effect,
    validation_warnings.other_products,
    validation_warnings.short_versions,
    validation_warnings.api_url_without_tls,
    validation_warnings.proxy_password_in_plain_text,
    secrets.proxy_missing,
    secrets.paas_token_used,
    metadata.enrichment_off_without_effect,
    metadata.many_attributes,
    host_agents.host_group_argument,
    host_agents.installer_variables,
    host_agents.max_unavailable_without_effect,
    agents.node_pull_without_csi,
    agents.public_registry_not_used,
    agents.never_pulled_without_digest,
    agents.argument_doubtful,
    agents.image_key_without_image,
    feature_flags.unknown,
    feature_flags.deprecated,
    feature_flags.misspelt_prefix,
    feature_flags.misplaced,
    feature_flags.without_effect,
)


def validate(new: Object, old: Object | None, cluster: ClusterState) -> ValidationResult:
    """Validate an object in any served version. Never raises for what the API server sends."""
    try:
        ctx = ValidationContext(dict(new), _newest(new), _newest(old) if old is not None else None, cluster)
        errors = [] if ctx.unchanged else _sentences(_ERRORS, ctx)
        if not errors and not ctx.unchanged:
            errors = _remaining_errors(ctx)
        warnings = _sentences(_WARNINGS, ctx)
    except kubernetes_fields.FieldError as error:
        return ValidationResult((context.describe_field_error(error),))
    if errors and ctx.version != versions.NEWEST:
        warnings.append(f"The errors name fields of {versions.NEWEST}; this DynaKube was written in {ctx.version}.")
    return ValidationResult(tuple(errors), tuple(warnings))


def secret_names(new: Object, own_namespace: str) -> list[str]:
    """Return the Secrets whose contents `validate` needs; none of a DynaKube that cannot be read."""
    try:
        return secrets.names(_newest(new), own_namespace)
    except kubernetes_fields.FieldError:
        return []


def _sentences(rules: Iterable[Rule], ctx: ValidationContext) -> list[str]:
    """Run the rules, up to as many sentences as a user can read."""
    sentences = itertools.chain.from_iterable(rule(ctx) for rule in rules)
    return list(itertools.islice(sentences, _MAX_SENTENCES))


def message(errors: Sequence[str]) -> str:
    numbered = (f"{number}. {error}" for number, error in enumerate(errors, 1))
    return "\n".join((f"{len(errors)} error(s) found in the Dynakube", *numbered))


def _newest(obj: Object) -> dict[str, object]:
    return conversion.convert(dict(obj), f"{identifiers.API_GROUP}/{versions.NEWEST}")


def _remaining_errors(ctx: ValidationContext) -> list[str]:
    """Return faults of the user's that no rule found, but that a node would report. The status is the operator's."""
    try:
        dynakube.from_object({key: value for key, value in ctx.new.items() if key != "status"})
    except kubernetes_fields.FieldError as error:
        return [context.describe_field_error(error)]
    return []
