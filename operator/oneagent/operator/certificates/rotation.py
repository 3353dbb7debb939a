"""What is to be done next about the certificates, from what the cluster holds and the time. Pure.

A new CA takes over in steps, each of which leaves every request verifiable:

    1. it is made; the former one stays in the bundle                (NewAuthority)
    2. the bundle with both is published everywhere                  (Share, Publish)
    3. API servers have had the time to heed it                      (Remember published, Wait)
    4. the webhook's certificate is issued by the new CA             (Issue)
    5. every endpoint serves it, and has done so for the grace time  (Ask, Remember served, Wait)
    6. the former CA is forgotten, then leaves the bundles           (Remember, Share, Publish)

A step is named by what is missing, never by what was done before: whoever comes after a crash goes on from there.
Trusting one CA more never loses a request, so bundles are widened at once and narrowed late. A certificate of the
CA that is trusted already needs none of this and is renewed at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from oneagent.operator.certificates import x509
from oneagent.operator.certificates.cluster_state import ClusterState, Milestone, Record, Target
from oneagent.operator.certificates.settings import Settings

# Why something is made anew.
MISSING_OR_BROKEN: Final = "MissingOrBroken"
OUT_OF_DATE: Final = "OutOfDate"
RENEWAL_DUE: Final = "RenewalDue"
OTHER_NAMES: Final = "OtherNames"
OTHER_ISSUER: Final = "OtherIssuer"
AUTHORITY_REPLACED: Final = "AuthorityReplaced"

_LIFE_BEFORE_RENEWAL: Final = 2 / 3
_MOST_FORMER: Final = 8
"""A bound for what somebody who deletes the CA's Secret again and again can make of the bundles."""


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
    """Whether every endpoint serves this certificate."""

    certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class Convert:
    target: Target


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float
    in_vain: bool = False
    """Something is missing that comes without our being told."""


Step = NewAuthority | SaveState | PublishBundle | Publish | Issue | ProbeEndpoints | Convert | Wait


def next_step(held: ClusterState, settings: Settings, now: float, answer: bool | None = None) -> Step:
    """`answer` is the endpoints' to `ProbeEndpoints`, in this round."""
    if by_cert_manager(held, settings):
        return _adopt(held) or _trust(held, now) or _publish(held, share=False) or _rest(held, settings, now, answer)
    return (
        _renew_authority(held, settings, now)
        or _trust(held, now)
        or _publish(held, share=True)
        or _serve(held, settings, now)
        or _rest(held, settings, now, answer)
    )


def by_cert_manager(held: ClusterState, settings: Settings) -> bool:
    return settings.issuer == "cert-manager" or held.served.by_cert_manager


def renewal(certificate: x509.Certificate, settings: Settings) -> float:
    """When it is renewed: at two thirds of its life, or the threshold before its end if that is earlier."""
    made = certificate.not_before + settings.skew_seconds
    third = made + (certificate.not_after - made) * _LIFE_BEFORE_RENEWAL
    return min(third, certificate.not_after - settings.threshold_seconds)


def _renew_authority(held: ClusterState, settings: Settings, now: float) -> Step | None:
    record = held.record
    if record.authority is None and held.unread:
        return Wait(math.inf, in_vain=True)
    if record.authority is None:
        # Whoever broke the Secret may have taken the CA's certificate with it. What API servers trust by now is
        # what the webhook serves, or has just served.
        elsewhere = (held.served.bundle, *(bundle for target in held.targets for bundle in target.bundles))
        known = (*record.trusted, *(one for bundle in elsewhere for one in x509.read_bundle(bundle)))
        return NewAuthority(MISSING_OR_BROKEN, _former(held, known, now))
    if not record.authority.certificate.valid(now):
        return NewAuthority(OUT_OF_DATE, _former(held, record.trusted, now))
    if now >= renewal(record.authority.certificate, settings):
        return NewAuthority(RENEWAL_DUE, _former(held, record.trusted, now))
    return None


def _adopt(held: ClusterState) -> Step | None:
    """cert-manager's CA becomes the current one as soon as it is in the Secret."""
    issuers = x509.read_bundle(held.served.bundle)
    if not issuers:
        return None if held.record.current else Wait(math.inf, in_vain=True)
    if set(issuers) == set(held.record.current) and held.record.authority is None:
        return None
    former = tuple(one for one in held.record.trusted if one not in issuers)
    return SaveState(Record(issuers, former=former[:_MOST_FORMER]))


def _trust(held: ClusterState, now: float) -> Step | None:
    """Former CAs that have expired go. One whose certificate is served stays, even if our record is another's."""
    record, certificate = held.record, held.served.certificate
    former = tuple(one for one in record.former if now < one.not_after and one not in record.current)
    if certificate and certificate.valid(now) and not any(map(certificate.signed_by, record.trusted)):
        published = (one for target in held.targets for bundle in target.bundles for one in x509.read_bundle(bundle))
        issuer = next((one for one in published if certificate.signed_by(one) and now < one.not_after), None)
        former = (issuer, *former) if issuer else former
    return None if former == record.former else SaveState(replace(record, former=former))


def _publish(held: ClusterState, *, share: bool) -> Step | None:
    bundle = x509.bundle(held.record.trusted)
    if held.record.published and not _everywhere(held):
        return SaveState(replace(held.record, published=None))
    if share and held.served.exists and held.served.bundle != bundle:
        return PublishBundle()
    behind = (target for target in held.targets if any(one != bundle for one in target.bundles))
    possible = tuple(target for target in behind if target.name not in held.failed)
    return Publish(possible) if possible else None


def _serve(held: ClusterState, settings: Settings, now: float) -> Step | None:
    """A new certificate for the webhook, if one is due and API servers would take it."""
    reason, record = _why_issue(held, settings, now), held.record
    if not reason:
        return None
    certificate = held.served.certificate
    same_issuer = certificate is not None and certificate.signed_by(record.current[0])
    nothing_to_lose = not record.former or (certificate is not None and now >= certificate.not_after)
    if same_issuer or nothing_to_lose:
        return Issue(reason)
    if not _everywhere(held):
        return None
    if record.published is None or record.published.age(now) < 0:
        return SaveState(replace(record, published=Milestone(record.current[0].fingerprint, now), served=None))
    return Issue(reason) if record.published.age(now) >= settings.settle_seconds else None


def _why_issue(held: ClusterState, settings: Settings, now: float) -> str:
    certificate, (authority,) = held.served.certificate, held.record.current
    if certificate is None or held.served.fault:
        return MISSING_OR_BROKEN
    if not certificate.valid(now):
        return OUT_OF_DATE
    if not certificate.hosts.issuperset(settings.hosts):
        return OTHER_NAMES
    if not certificate.signed_by(authority):
        return AUTHORITY_REPLACED if any(map(certificate.signed_by, held.record.former)) else OTHER_ISSUER
    return RENEWAL_DUE if now >= renewal(certificate, settings) else ""


def _rest(held: ClusterState, settings: Settings, now: float, answer: bool | None) -> Step:
    """What takes the endpoints' word: the CRD is converted by the webhook, the former CAs go. Then there is time."""
    record, certificate = held.record, held.served.certificate
    narrowing = bool(record.former) and _is_new(held, settings)
    inactive = next((one for one in held.targets if not one.converts and one.name not in held.failed), None)
    if certificate is None or not record.current or not (narrowing or inactive):
        return _wait(held, settings, now, in_vain=bool(held.failed))
    if answer is None:
        return ProbeEndpoints(certificate)
    if answer and inactive:
        return Convert(inactive)
    if narrowing and (step := _narrow(record, settings, now, answer)):
        return step
    return _wait(held, settings, now, in_vain=bool(held.failed) or not answer)


def _narrow(record: Record, settings: Settings, now: float, answer: bool) -> Step | None:
    if not answer:
        return SaveState(replace(record, served=None)) if record.served else None
    if record.served is None or record.served.age(now) < 0:
        return SaveState(replace(record, served=Milestone(record.current[0].fingerprint, now)))
    if record.served.age(now) >= settings.grace_seconds:
        return SaveState(replace(record, former=(), published=None, served=None))
    return None


def _is_new(held: ClusterState, settings: Settings) -> bool:
    """Whether the Secret's certificate is the current CA's. cert-manager may issue by intermediates: it is believed."""
    certificate = held.served.certificate
    if certificate is None or held.served.fault:
        return False
    return by_cert_manager(held, settings) or certificate.signed_by(held.record.current[0])


def _wait(held: ClusterState, settings: Settings, now: float, *, in_vain: bool) -> Wait:
    times = [now + settings.check_seconds]
    record, certificate = held.record, held.served.certificate
    if record.authority:
        times.append(renewal(record.authority.certificate, settings))
        if certificate and certificate.signed_by(record.authority.certificate):
            times.append(renewal(certificate, settings))
    if record.published:
        times.append(record.published.since + settings.settle_seconds)
    if record.served:
        times.append(record.served.since + settings.grace_seconds)
    times.extend(one.not_after for one in record.former)
    return Wait(min((time for time in times if time > now), default=now) - now, in_vain)


def _everywhere(held: ClusterState) -> bool:
    """Whether the current CA is trusted wherever API servers look. What could not be read may lack it."""
    return not held.failed and all(
        target.trusts(authority) for target in held.targets for authority in held.record.current
    )


def _former(held: ClusterState, known: Iterable[x509.Certificate], now: float) -> tuple[x509.Certificate, ...]:
    """The known CAs that may still be needed; first the one whose certificate is served, then the newest."""
    served = held.served.certificate

    def order(authority: x509.Certificate) -> tuple[bool, float]:
        return served is None or not served.signed_by(authority), -authority.not_before

    alive = sorted({one for one in known if now < one.not_after}, key=order)
    return tuple(alive[:_MOST_FORMER])
