"""Rules about the Secrets that a DynaKube names: the proxy and the tokens.

A missing Secret is a warning, because manifests may be applied in any order. No value of a Secret is part of a
message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from oneagent.common.dynakube import secret_names
from oneagent.common.kubernetes import fields
from oneagent.common.tenant import proxy_secret
from oneagent.webhook.injection.inputs import Object
from oneagent.webhook.validation.context import ValidationContext, quote

_PROXY = "spec.proxy.valueFrom"


def names(obj: Object, own_namespace: str) -> list[str]:
    """Return the Secrets whose contents the rules need, of a DynaKube in the newest version."""
    if fields.at(obj, "metadata.namespace") != own_namespace:
        return []
    found = (_proxy(obj), _tokens(obj))
    return [name for name in found if fields.is_dns_name(name) and name not in secret_names.RESERVED]


def proxy_invalid(ctx: ValidationContext) -> Iterator[str]:
    name = _proxy(ctx.new)
    content = ctx.cluster.secrets.get(name)
    if content is not None and (fault := proxy_secret.find_fault(content)):
        yield f"{_PROXY} is {quote(name)}: this Secret {fault}."


def proxy_missing(ctx: ValidationContext) -> Iterator[str]:
    name = _proxy(ctx.new)
    if name in ctx.cluster.secrets and ctx.cluster.secrets[name] is None:
        yield (
            f"{_PROXY} is {quote(name)}: this Secret does not exist yet in the namespace "
            f"{quote(ctx.cluster.own_namespace)}. Create it with the proxy's URL at the key {proxy_secret.KEY}; until "
            "then the tenant is not polled."
        )


def paas_token_used(ctx: ValidationContext) -> Iterator[str]:
    name = _tokens(ctx.new)
    if (ctx.cluster.secrets.get(name) or {}).get("paasToken"):
        yield (
            f"The Secret {quote(name)} has paasToken, which is used and deprecated: give apiToken the scope "
            "InstallerDownload and remove paasToken."
        )


def _proxy(obj: Mapping[str, object]) -> str:
    """Return the name of the proxy's Secret; empty if none is read, because `value` comes before it."""
    return "" if _text(obj, "spec.proxy.value") else _text(obj, _PROXY)


def _tokens(obj: Mapping[str, object]) -> str:
    """Return the name of the tokens' Secret; empty if no tenant is polled."""
    return (_text(obj, "spec.tokens") or _text(obj, "metadata.name")) if _text(obj, "spec.apiUrl") else ""


def _text(obj: Mapping[str, object], field: str) -> str:
    value = fields.at(obj, field)
    return value.strip() if isinstance(value, str) else ""
