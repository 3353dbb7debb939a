"""What a DynaKube's tenant says, asked seldom and in a thread: the tenant allows 50 requests a minute.

A question that fails leaves the last answer in place, so a tenant that is away changes nothing on the cluster. The
concerns never wait for a tenant; they decide from the last answers, and are woken when there are new ones.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from oneagent.common import backoff, dynakube, logs
from oneagent.common.agent_config import ruxitagentproc
from oneagent.common.http import client as http_client
from oneagent.common.http import errors
from oneagent.common.identifiers import TenantId, Version
from oneagent.common.oci import hosts
from oneagent.common.tenant import client as tenant_client
from oneagent.operator import images

log = logging.getLogger(__name__)

TOKEN_KEYS: Final = ("apiToken", "paasToken")
NEEDED_SCOPE: Final = "InstallerDownload"
NO_TOKENS: Final = "no Secret with the tokens"

_MOST_A_MINUTE: Final = 45
_QUESTIONS: Final = 5
_FIRST_PAUSE_SECONDS: Final = 15.0
_SHORTEST_PAUSE_SECONDS: Final = 10.0
_LONGEST_PAUSE_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a question is asked with: read from the DynaKube's objects beforehand."""

    tokens: Mapping[str, str] | None = field(repr=False)
    """The Secret's content; None if there is no such Secret."""
    proxy: str = field(default="", repr=False)
    trusted_cas: str = field(default="", repr=False)
    missing: str = ""
    """Another object that the DynaKube names and that is not there."""
    image: images.Secrets = field(default_factory=images.Secrets)
    """What the image's registry is asked with."""


@dataclass(frozen=True, slots=True)
class TenantState:
    """The last answers; `problem` is why the newest question failed, for people. Never holds an API token."""

    asked_at: float = 0.0
    tenant: TenantId | None = None
    tenant_token: str = field(default="", repr=False)
    endpoints: tuple[str, ...] = ()
    no_endpoint: bool = False
    """The tenant has no endpoint for the network zone."""
    latest: Version | None = None
    revision: int = 0
    properties: tuple[ruxitagentproc.Property, ...] = field(default=(), repr=False)
    scopes: frozenset[str] | None = None
    """None: the tenant does not tell, or was never asked."""
    refused: bool = False
    """The tenant refused the token itself."""
    image: images.Followed = field(default_factory=images.Followed)
    problem: str = ""
    failures: int = 0
    retry_after: float | None = None


Sleep = Callable[[float], object]


class Limit:
    """Keeps the questions to each tenant below what it allows; for many threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, sleep: Sleep = time.sleep) -> None:
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._asked: dict[str, collections.deque[float]] = collections.defaultdict(collections.deque)

    def wait(self, api_url: str) -> None:
        """Return when one more round of questions fits into the last minute."""
        while (seconds := self._take(api_url)) > 0:
            self._sleep(seconds)

    def _take(self, api_url: str) -> float:
        """0 if the questions may be asked now, else after how many seconds to come back."""
        with self._lock:
            now = self._clock()
            asked: collections.deque[float] = self._asked[api_url]
            while asked and asked[0] <= now - 60:
                asked.popleft()
            if len(asked) + _QUESTIONS > _MOST_A_MINUTE:
                seconds: float = asked[0] + 60 - now
                return seconds
            asked.extend([now] * _QUESTIONS)
            return 0.0


def pause(facts: TenantState, usual_seconds: float) -> float:
    """How long to wait after an answer before asking again."""
    usual_seconds = max(usual_seconds, _SHORTEST_PAUSE_SECONDS)
    if not facts.problem and not facts.image.problem:
        return usual_seconds
    pause = backoff.exponential(facts.failures, _FIRST_PAUSE_SECONDS, usual_seconds)
    later = max(facts.retry_after or 0.0, facts.image.retry_after or 0.0)
    return max(backoff.at_least(pause, min(later, _LONGEST_PAUSE_SECONDS)), _SHORTEST_PAUSE_SECONDS)


def access(kube: dynakube.DynaKube, inputs: Inputs) -> tenant_client.TenantAccess:
    """How to reach the tenant; `InvalidSettingsError` names what cannot work."""
    tokens = inputs.tokens or {}
    return tenant_client.TenantAccess(
        api_url=kube.api_url,
        api_token=tokens.get("apiToken", ""),
        paas_token=tokens.get("paasToken", ""),
        network_zone=kube.network_zone,
        http=travel(kube, inputs),
    )


def travel(kube: dynakube.DynaKube, inputs: Inputs) -> http_client.HttpSettings:
    """How requests for a DynaKube travel, to its tenant or to a registry."""
    return http_client.HttpSettings(
        proxy=inputs.proxy or kube.proxy,
        no_proxy=tuple(part for part in kube.no_proxy.replace(" ", "").split(",") if part),
        trusted_cas=inputs.trusted_cas,
        skip_cert_check=kube.skip_cert_check,
    )


def ask(
    kube: dynakube.DynaKube,
    inputs: Inputs,
    before: TenantState,
    limit: Limit,
    now: Callable[[], float],
    rules: hosts.Registries,
) -> TenantState:
    """Ask for everything; for a thread. Never raises for what a tenant or a registry may do."""
    facts = _ask_tenant(kube, inputs, before, limit, now)
    tokens = inputs.tokens or {}
    token = tokens.get("paasToken", "") or tokens.get("apiToken", "")
    image = images.follow(kube, travel(kube, inputs), token, inputs.image, rules, before.image)
    failed = facts.problem or image.problem
    return replace(facts, image=image, failures=before.failures + 1 if failed else 0)


def _ask_tenant(
    kube: dynakube.DynaKube, inputs: Inputs, before: TenantState, limit: Limit, now: Callable[[], float]
) -> TenantState:
    facts = replace(before, problem="", retry_after=None, refused=False, asked_at=now())
    if not kube.api_url:
        return replace(facts, tenant=kube.tenant)
    try:
        if inputs.tokens is None:
            raise http_client.InvalidSettingsError(
                f"{NO_TOKENS}: create the Secret {kube.tokens_secret} with the key apiToken"
            )
        if inputs.missing:
            raise http_client.InvalidSettingsError(inputs.missing)
        reach = access(kube, inputs)
        limit.wait(kube.api_url)
        with tenant_client.Tenant(reach) as api:
            facts = replace(facts, scopes=api.scopes())
            connection = api.connection()
            facts = replace(facts, no_endpoint=connection is None)
            if connection:
                facts = replace(
                    facts,
                    tenant=connection.tenant,
                    tenant_token=connection.tenant_token,
                    endpoints=connection.endpoints,
                )
            facts = replace(facts, latest=api.latest_version())
            if config := api.module_config(facts.revision, host_group=kube.host_group):
                facts = replace(facts, revision=config.revision, properties=config.properties)
    except (errors.HttpError, http_client.InvalidSettingsError) as error:
        log.warning("the tenant can't be asked", extra=logs.facts(dynakube=kube.name, reason=error))
        return replace(
            facts,
            problem=str(error),
            refused=isinstance(error, errors.HttpStatusError) and error.status in (401, 403),
            retry_after=getattr(error, "retry_after", None),
        )
    except Exception as error:
        # Whatever somebody's URL, certificates or proxy make of the libraries below: it is a problem of this tenant.
        log.exception("the tenant can't be asked", extra=logs.facts(dynakube=kube.name))
        return replace(facts, problem=f"{type(error).__name__}: {error}")
    return facts
