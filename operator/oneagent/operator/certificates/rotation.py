"""Decides the next step of a certificate rotation from the cluster's state and the time. Pure.

A new CA takes over in steps, each of which leaves every request verifiable:

    1. create it; the former one stays in the bundle                 (NewAuthority)
    2. publish the bundle with both everywhere                       (PublishBundle, Publish)
    3. wait until API servers use the bundle                         (SaveState published, Wait)
    4. issue the webhook's certificate by the new CA                 (Issue)
    5. wait until every endpoint has served it for the grace time    (ProbeEndpoints, SaveState served, Wait)
    6. remove the former CA from the record, then from the bundles   (SaveState, PublishBundle, Publish)

The state alone decides the step, not the steps before, so a restarted operator continues after a crash. An
additional CA never loses a request: bundles grow at once and shrink late. A certificate of a CA that is trusted
already is renewed at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from oneagent.operator.certificates import x509
from oneagent.operator.certificates.cluster_state import ClusterState, Milestone, Record, Target
from oneagent.operator.certificates.settings import CertificateSettings

# Reasons for a new CA or certificate.
MISSING_OR_BROKEN: Final = "MissingOrBroken"
OUT_OF_DATE: Final = "OutOfDate"
RENEWAL_DUE: Final = "RenewalDue"
OTHER_NAMES: Final = "OtherNames"
OTHER_ISSUER: Final = "OtherIssuer"
AUTHORITY_REPLACED: Final = "AuthorityReplaced"

_LIFE_BEFORE_RENEWAL: Final = 2 / 3
_MOST_FORMER: Final = 8
"""Bounds the bundles if a user deletes the CA's Secret repeatedly."""


@dataclass(frozen=True, slots=True)
class NewAuthority:
    reason: str
    former: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class SaveState:
    """Write the CA's Secret."""

    record: Record


@dataclass(frozen=True, slots=True)
class PublishBundle:
    """Write the bundle into the webhook's Secret."""


@dataclass(frozen=True, slots=True)
class Publish:
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Issue:
    reason: str


@dataclass(frozen=True, slots=True)
class ProbeEndpoints:
    """Check that every endpoint serves this certificate."""

    certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class Convert:
    target: Target


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float
    needs_retry: bool = False
    """Waits for something that is not watched: retry with back-off."""


Step = NewAuthority | SaveState | PublishBundle | Publish | Issue | ProbeEndpoints | Convert | Wait


def next_step(state: ClusterState, settings: CertificateSettings, now: float, all_served: bool | None = None) -> Step:
    """Return the next step; `all_served` is the result of `ProbeEndpoints` in this run."""
    if uses_cert_manager(state, settings):
        return (
            _adopt(state)
            or _trust(state, now)
            or _publish(state, own_secret=False)
            or _finish(state, settings, now, all_served)
        )
    return (
        _renew_authority(state, settings, now)
        or _trust(state, now)
        or _publish(state, own_secret=True)
        or _issue_if_due(state, settings, now)
        or _finish(state, settings, now, all_served)
    )


def uses_cert_manager(state: ClusterState, settings: CertificateSettings) -> bool:
    return settings.issuer == "cert-manager" or state.served.by_cert_manager


def renewal(certificate: x509.Certificate, settings: CertificateSettings) -> float:
    """Return the time of renewal: two thirds of the lifetime, or the threshold before expiry if earlier."""
    made = certificate.not_before + settings.skew_seconds
    third = made + (certificate.not_after - made) * _LIFE_BEFORE_RENEWAL
    return min(third, certificate.not_after - settings.threshold_seconds)


def _renew_authority(state: ClusterState, settings: CertificateSettings, now: float) -> Step | None:
    record = state.record
    if record.authority is None and state.unavailable:
        return Wait(math.inf, needs_retry=True)
    if record.authority is None:
        # The Secret may have lost the CA's certificate. API servers trust the CA of the certificate that the webhook
        # serves or has just served.
        elsewhere = (state.served.bundle, *(bundle for target in state.targets for bundle in target.bundles))
        known = (*record.trusted, *(one for bundle in elsewhere for one in x509.read_bundle(bundle)))
        return NewAuthority(MISSING_OR_BROKEN, _former_authorities(state, known, now))
    if not record.authority.certificate.is_valid(now):
        return NewAuthority(OUT_OF_DATE, _former_authorities(state, record.trusted, now))
    if now >= renewal(record.authority.certificate, settings):
        return NewAuthority(RENEWAL_DUE, _former_authorities(state, record.trusted, now))
    return None


def _adopt(state: ClusterState) -> Step | None:
    """Make cert-manager's CA the current one as soon as it is in the Secret."""
    issuers = x509.read_bundle(state.served.bundle)
    if not issuers:
        return None if state.record.current else Wait(math.inf, needs_retry=True)
    if set(issuers) == set(state.record.current) and state.record.authority is None:
        return None
    former = tuple(one for one in state.record.trusted if one not in issuers)
    return SaveState(Record(issuers, former=former[:_MOST_FORMER]))


def _trust(state: ClusterState, now: float) -> Step | None:
    """Drop expired former CAs; keep the issuer of the served certificate, even if it is not in the record."""
    record, certificate = state.record, state.served.certificate
    former = tuple(one for one in record.former if now < one.not_after and one not in record.current)
    if certificate and certificate.is_valid(now) and not any(map(certificate.signed_by, record.trusted)):
        published = (one for target in state.targets for bundle in target.bundles for one in x509.read_bundle(bundle))
        issuer = next((one for one in published if certificate.signed_by(one) and now < one.not_after), None)
        former = (issuer, *former) if issuer else former
    return None if former == record.former else SaveState(replace(record, former=former))


def _publish(state: ClusterState, *, own_secret: bool) -> Step | None:
    bundle = x509.bundle(state.record.trusted)
    if state.record.published and not _is_trusted_everywhere(state):
        return SaveState(replace(state.record, published=None))
    if own_secret and state.served.exists and state.served.bundle != bundle:
        return PublishBundle()
    behind = (target for target in state.targets if any(one != bundle for one in target.bundles))
    possible = tuple(target for target in behind if target.name not in state.failed)
    return Publish(possible) if possible else None


def _issue_if_due(state: ClusterState, settings: CertificateSettings, now: float) -> Step | None:
    """Issue a certificate for the webhook, if one is due and API servers would accept it."""
    reason, record = _issue_reason(state, settings, now), state.record
    if not reason:
        return None
    certificate = state.served.certificate
    same_issuer = certificate is not None and certificate.signed_by(record.current[0])
    no_valid_certificate = not record.former or (certificate is not None and now >= certificate.not_after)
    if same_issuer or no_valid_certificate:
        return Issue(reason)
    if not _is_trusted_everywhere(state):
        return None
    if record.published is None or record.published.age(now) < 0:
        return SaveState(replace(record, published=Milestone(record.current[0].fingerprint, now), served=None))
    return Issue(reason) if record.published.age(now) >= settings.settle_seconds else None


def _issue_reason(state: ClusterState, settings: CertificateSettings, now: float) -> str:
    certificate, (authority,) = state.served.certificate, state.record.current
    if certificate is None or state.served.problem:
        return MISSING_OR_BROKEN
    if not certificate.is_valid(now):
        return OUT_OF_DATE
    if not certificate.hosts.issuperset(settings.hosts):
        return OTHER_NAMES
    if not certificate.signed_by(authority):
        return AUTHORITY_REPLACED if any(map(certificate.signed_by, state.record.former)) else OTHER_ISSUER
    return RENEWAL_DUE if now >= renewal(certificate, settings) else ""


def _finish(state: ClusterState, settings: CertificateSettings, now: float, all_served: bool | None) -> Step:
    """Take the steps that need a probe: activate the CRD's conversion, remove former CAs; else wait."""
    record, certificate = state.record, state.served.certificate
    narrowing = bool(record.former) and _is_issued_by_current(state, settings)
    inactive = next((one for one in state.targets if not one.converts and one.name not in state.failed), None)
    if certificate is None or not record.current or not (narrowing or inactive):
        return _wait(state, settings, now, needs_retry=bool(state.failed))
    if all_served is None:
        return ProbeEndpoints(certificate)
    if all_served and inactive:
        return Convert(inactive)
    if narrowing and (step := _narrow(record, settings, now, all_served)):
        return step
    return _wait(state, settings, now, needs_retry=bool(state.failed) or not all_served)


def _narrow(record: Record, settings: CertificateSettings, now: float, all_served: bool) -> Step | None:
    if not all_served:
        return SaveState(replace(record, served=None)) if record.served else None
    if record.served is None or record.served.age(now) < 0:
        return SaveState(replace(record, served=Milestone(record.current[0].fingerprint, now)))
    if record.served.age(now) >= settings.grace_seconds:
        return SaveState(replace(record, former=(), published=None, served=None))
    return None


def _is_issued_by_current(state: ClusterState, settings: CertificateSettings) -> bool:
    """True if the current CA issued the certificate; assumed for cert-manager, which may use intermediates."""
    certificate = state.served.certificate
    if certificate is None or state.served.problem:
        return False
    return uses_cert_manager(state, settings) or certificate.signed_by(state.record.current[0])


def _wait(state: ClusterState, settings: CertificateSettings, now: float, *, needs_retry: bool) -> Wait:
    times = [now + settings.check_seconds]
    record, certificate = state.record, state.served.certificate
    if record.authority:
        times.append(renewal(record.authority.certificate, settings))
        if certificate and certificate.signed_by(record.authority.certificate):
            times.append(renewal(certificate, settings))
    if record.published:
        times.append(record.published.since + settings.settle_seconds)
    if record.served:
        times.append(record.served.since + settings.grace_seconds)
    times.extend(one.not_after for one in record.former)
    return Wait(min((time for time in times if time > now), default=now) - now, needs_retry)


def _is_trusted_everywhere(state: ClusterState) -> bool:
    """True if every target trusts the current CA; an unread one may lack it."""
    return not state.failed and all(
        target.trusts(authority) for target in state.targets for authority in state.record.current
    )


def _former_authorities(
    state: ClusterState, known: Iterable[x509.Certificate], now: float
) -> tuple[x509.Certificate, ...]:
    """Return the former CAs to keep: first the issuer of the served certificate, then the newest."""
    served = state.served.certificate

    def order(authority: x509.Certificate) -> tuple[bool, float]:
        return served is None or not served.signed_by(authority), -authority.not_before

    alive = sorted({one for one in known if now < one.not_after}, key=order)
    return tuple(alive[:_MOST_FORMER])
