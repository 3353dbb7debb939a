"""The JSON at the border to the API server: AdmissionReview and ConversionReview, both in their version v1.

    ReviewError        a body that is no review of the expected kind (400)
      OversizeError    larger than anything an API server sends (413)
      LateError        it did not come in time (408)

Only what is used of a review is read. The objects in it stay as they came, to be decoded by who needs them: a
struct would lose the fields that it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from oneagent.webhook.injection.inputs import Object

ADMISSION: Final = ("admission.k8s.io/v1", "AdmissionReview")
CONVERSION: Final = ("apiextensions.k8s.io/v1", "ConversionReview")


class ReviewError(Exception):
    """The body can't be answered; the text is what the caller gets."""

    status = 400


class OversizeError(ReviewError):
    status = 413


class LateError(ReviewError):
    status = 408


class Kind(msgspec.Struct, frozen=True):
    group: str = ""
    version: str = ""
    kind: str = ""


class Request(msgspec.Struct, frozen=True, rename="camel"):
    """The request of an AdmissionReview."""

    uid: str
    operation: str
    kind: Kind = Kind()
    name: str | None = ""
    """Empty for an object whose name the API server makes later"""
    namespace: str | None = ""
    sub_resource: str | None = ""
    dry_run: bool | None = False
    object: msgspec.Raw = msgspec.Raw(b"null")
    old_object: msgspec.Raw = msgspec.Raw(b"null")


class AdmissionReview(msgspec.Struct, frozen=True, rename={"api_version": "apiVersion"}):
    api_version: str = ""
    kind: str = ""
    request: Request | None = None


class ConversionRequest(msgspec.Struct, frozen=True, rename={"desired": "desiredAPIVersion"}):
    uid: str
    desired: str
    objects: list[dict[str, Any]]


class ConversionReview(msgspec.Struct, frozen=True, rename={"api_version": "apiVersion"}):
    api_version: str = ""
    kind: str = ""
    request: ConversionRequest | None = None


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """A metav1.Status."""

    status: str = ""
    message: str = ""
    reason: str = ""
    code: int = 0


class _Response(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    uid: str
    allowed: bool
    status: Status | None = None
    patch_type: str = ""
    patch: bytes = b""
    warnings: Sequence[str] = ()


class _Converted(msgspec.Struct, frozen=True, rename="camel"):
    uid: str
    result: Status
    converted_objects: Sequence[Object] = ()


_Review = TypeVar("_Review", AdmissionReview, ConversionReview)
_admissions: Final = msgspec.json.Decoder(AdmissionReview)
_conversions: Final = msgspec.json.Decoder(ConversionReview)
_objects: Final[msgspec.json.Decoder[dict[str, Any] | None]] = msgspec.json.Decoder(dict[str, Any] | None)
_encode: Final = msgspec.json.Encoder().encode


def admission(body: bytes) -> Request:
    """Return the request of an AdmissionReview; `ReviewError`."""
    request = _read(_admissions, body, ADMISSION).request
    if request is None:
        raise ReviewError("the AdmissionReview has no request")
    return request


def conversion(body: bytes) -> ConversionRequest:
    """Return the request of a ConversionReview; `ReviewError`."""
    request = _read(_conversions, body, CONVERSION).request
    if request is None:
        raise ReviewError("the ConversionReview has no request")
    return request


def decoded(raw: msgspec.Raw) -> dict[str, Any] | None:
    """An object of a request; None if there is none."""
    return _objects.decode(raw)


def admitted(
    uid: str, *, patch: Sequence[Object] = (), warnings: Sequence[str] = (), denied: Status | None = None
) -> bytes:
    """The AdmissionReview that answers."""
    # A warning is sent as an HTTP header: the API server drops one with a line break.
    lines = tuple(" ".join(warning.split()) for warning in warnings)
    response = _Response(uid, denied is None, denied, warnings=lines)
    if patch:
        response = msgspec.structs.replace(response, patch_type="JSONPatch", patch=_encode(patch))
    return _answer(ADMISSION, response)


def converted(uid: str, objects: Sequence[Object]) -> bytes:
    return _answer(CONVERSION, _Converted(uid, Status("Success"), objects))


def unconverted(uid: str, message: str) -> bytes:
    return _answer(CONVERSION, _Converted(uid, Status("Failed", message)))


def _read(decoder: msgspec.json.Decoder[_Review], body: bytes, wanted: tuple[str, str]) -> _Review:
    version, kind = wanted
    try:
        review = decoder.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ReviewError(f"the body is no {kind} in JSON: {error}") from error
    if (review.api_version, review.kind) != wanted:
        given = f"apiVersion {review.api_version[:80]!r} and kind {review.kind[:80]!r}"
        raise ReviewError(f"the body has {given}: must be {version} and {kind}")
    return review


def _answer(wanted: tuple[str, str], response: msgspec.Struct) -> bytes:
    return _encode({"apiVersion": wanted[0], "kind": wanted[1], "response": response})
