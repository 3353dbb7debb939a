"""What a DynaKube's tenant says, asked seldom: the tenant allows 50 requests a minute for the whole cluster.

A question that fails leaves the last answer in place. Each DynaKube is asked for in its own task, so a tenant
that hangs delays nobody else; the answers are plain values that the reconcile loop picks up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from oneagent.common import dynakube, logs
from oneagent.common.agent_config import ruxitagentproc
from oneagent.common.http import client as http_client
from oneagent.common.http import errors
from oneagent.common.identifiers import TenantId, Version
from oneagent.common.kubernetes import errors as api_errors
from oneagent.common.tenant import client as tenant_client
from oneagent.csi_driver import dynakube_sources

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TenantState:
    """The last answers; `problem` is why the newest question failed, for people. Never holds an API token."""

    asked_at: float
    tenant: TenantId | None = None
    tenant_token: str = field(default="", repr=False)
    endpoints: tuple[str, ...] = ()
    latest: Version | None = None
    digest: str = ""
    """Of the image that the DynaKube names by a tag; if it has to be signed, of the last one that was found to be."""
    keys: frozenset[str] | None = None
    """Fingerprints of the keys that the image has to be signed with; None until they could be read once."""
    refused: str = ""
    """Why the image that is named now is not followed."""
    revision: int = 0
    properties: tuple[ruxitagentproc.Property, ...] = field(default=(), repr=False)
    complete: bool = False
    """Whether the tenant has answered all questions once: what it then fails to say is as it was."""
    problem: str = ""
    retry_after: float | None = None


def access(kube: dynakube.DynaKube, source: dynakube_sources.DynaKubeSource) -> tenant_client.TenantAccess:
    """How to reach the tenant, with the DynaKube's secrets; `SourceError` or `InvalidSettingsError` if that is unclear."""
    tokens = source.secret(kube.tokens_secret)
    return tenant_client.TenantAccess(
        api_url=kube.api_url,
        api_token=tokens.get("apiToken", ""),
        paas_token=tokens.get("paasToken", ""),
        network_zone=kube.network_zone,
        http=travel(kube, source),
    )


def travel(kube: dynakube.DynaKube, source: dynakube_sources.DynaKubeSource) -> http_client.HttpSettings:
    """How requests for a DynaKube travel, to its tenant or to a registry."""
    proxy = kube.proxy
    if kube.proxy_secret:
        proxy = source.secret(kube.proxy_secret).get("proxy", "")
    certificates = source.config_map(kube.trusted_cas).get("certs", "") if kube.trusted_cas else ""
    return http_client.HttpSettings(
        proxy=proxy,
        no_proxy=tuple(part for part in kube.no_proxy.replace(" ", "").split(",") if part),
        trusted_cas=certificates,
        skip_cert_check=kube.skip_cert_check,
    )


def ask(
    kube: dynakube.DynaKube,
    source: dynakube_sources.DynaKubeSource,
    before: TenantState | None,
    now: Callable[[], float],
) -> TenantState:
    """Ask the tenant for all that is not known from the DynaKube. Never raises for what a tenant may do."""
    facts = replace(before or TenantState(0.0), asked_at=now(), problem="", retry_after=None)
    if not kube.api_url:
        return replace(facts, tenant=kube.tenant or TenantId(kube.name), complete=True)
    try:
        with tenant_client.Tenant(access(kube, source)) as api:
            if connection := api.connection():
                facts = replace(
                    facts,
                    tenant=connection.tenant,
                    tenant_token=connection.tenant_token,
                    endpoints=connection.endpoints,
                )
            if not (kube.wanted_version or kube.pinned_version or kube.package):
                facts = replace(facts, latest=api.latest_version())
            if config := api.module_config(facts.revision, host_group=kube.host_group):
                facts = replace(facts, revision=config.revision, properties=config.properties)
                _warn_of_refused(kube, config)
    except (errors.HttpError, http_client.InvalidSettingsError, api_errors.ApiError) as error:
        log.warning("the tenant can't be asked", extra=logs.facts(dynakube=kube.name, reason=error))
        return replace(facts, problem=str(error), retry_after=getattr(error, "retry_after", None))
    return replace(facts, complete=True)


def _warn_of_refused(kube: dynakube.DynaKube, config: tenant_client.ModuleConfig) -> None:
    """Once for each revision; `agentconf.merge` leaves these out."""
    refused = [f"[{prop.section}] {prop.key}" for prop in config.properties if ruxitagentproc.sanitize(prop) is None]
    if refused:
        log.warning(
            "the tenant's configuration has impossible names",
            extra=logs.facts(dynakube=kube.name, refused=", ".join(refused)),
        )
