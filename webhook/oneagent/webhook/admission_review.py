"""The JSON at the border to the API server: AdmissionReview and ConversionReview, both in their version v1.

    ReviewError        a body that is no review of the expected kind (400)
      OversizeError    larger than anything an API server sends (413)
      LateError        it did not come in time (408)
      BusyError        there are too many of them at the time (503)
    ObjectError        an object in a review that can't be used
      TooLargeError    it would take more memory than one request may
      InvalidError     no JSON, or nothing with metadata as every object has it

JSON of a megabyte can become objects of a hundred: `[{},{},…]` does. So the values of an object are counted before it
is decoded; commas and brackets in its strings count, too, and a stored object has room for them.

Only what is used of a review is read. The objects in it stay as they came, to be decoded by who needs them: a
struct would lose the fields that it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec

from oneagent.common import typed_json
from oneagent.webhook.injection.inputs import Object

ADMISSION: Final = ("admission.k8s.io/v1", "AdmissionReview")
CONVERSION: Final = ("apiextensions.k8s.io/v1", "ConversionReview")

OBJECT_BYTES: Final = 3 << 20
"""An API server takes no larger object from a user, and stores none of half the size."""
OBJECT_VALUES: Final = 200_000
DYNAKUBE_BYTES: Final = 3 << 19
DYNAKUBE_VALUES: Final = 20_000
REVIEW_VALUES: Final = 100_000
"""Of all objects of a ConversionReview"""
_WARNINGS: Final = 50
_WARNING_LENGTH: Final = 1000

Tree = dict[str, Any]

_Text = Annotated[str, msgspec.Meta(max_length=1024)]
"""Names and such, so that logs, Events and caches stay small."""


class ReviewError(Exception):
    """The body can't be answered; the text is what the caller gets."""

    status = 400


class OversizeError(ReviewError):
    status = 413


class LateError(ReviewError):
    status = 408


class BusyError(ReviewError):
    status = 503


class ObjectError(Exception):
    """Its text is for users."""


class TooLargeError(ObjectError):
    """With the size and the bound."""


class InvalidError(ObjectError):
    """With the place."""


class Kind(msgspec.Struct, frozen=True):
    group: _Text = ""
    version: _Text = ""
    kind: _Text = ""


class Request(msgspec.Struct, frozen=True, rename="camel"):
    """The request of an AdmissionReview."""

    uid: _Text
    operation: _Text
    kind: Kind = Kind()
    name: _Text | None = ""
    """Empty for an object whose name the API server makes later"""
    namespace: _Text | None = ""
    sub_resource: _Text | None = ""
    dry_run: bool | None = False
    object: msgspec.Raw = msgspec.Raw(b"null")
    old_object: msgspec.Raw = msgspec.Raw(b"null")


class AdmissionReview(msgspec.Struct, frozen=True, rename={"api_version": "apiVersion"}):
    api_version: str = ""
    kind: str = ""
    request: Request | None = None


class ConversionRequest(msgspec.Struct, frozen=True, rename={"desired": "desiredAPIVersion"}):
    uid: _Text
    desired: _Text
    objects: list[msgspec.Raw]


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
    converted_objects: Sequence[msgspec.Raw] = ()


class _Owner(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str | None = None
    generate_name: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[_Owner] | None = None


class _Object(msgspec.Struct, frozen=True):
    metadata: _Metadata | None = None


class _Annotated(msgspec.Struct, frozen=True):
    annotations: msgspec.Raw = msgspec.Raw(b"null")


class _Outline(msgspec.Struct, frozen=True):
    metadata: _Annotated | None = None


_Review = TypeVar("_Review", AdmissionReview, ConversionReview)
_admissions: Final = msgspec.json.Decoder(AdmissionReview)
_conversions: Final = msgspec.json.Decoder(ConversionReview)
_objects: Final[msgspec.json.Decoder[Tree | None]] = msgspec.json.Decoder(Tree | None)
_encode: Final = msgspec.json.Encoder().encode


def admission(body: bytes) -> Request:
    """Return the request of an AdmissionReview; `ReviewError`."""
    request = _read(_admissions, body, ADMISSION).request
    if request is None:
        raise ReviewError("the AdmissionReview has no request")
    return request


def conversion(body: bytes) -> ConversionRequest:
    """Return the request of a ConversionReview; `ReviewError`."""
    if _count_values(body, REVIEW_VALUES) > REVIEW_VALUES:
        raise OversizeError(f"the ConversionReview is too large: at most {REVIEW_VALUES} values are converted at once")
    request = _read(_conversions, body, CONVERSION).request
    if request is None:
        raise ReviewError("the ConversionReview has no request")
    return request


def decoded(raw: msgspec.Raw, *, most_bytes: int = OBJECT_BYTES, most_values: int = OBJECT_VALUES) -> Tree | None:
    """Return an object of a request; None if there is none; `ObjectError`."""
    obj = decoded_tree(raw, most_bytes=most_bytes, most_values=most_values)
    try:
        msgspec.convert(obj, _Object | None)
    except msgspec.ValidationError as error:
        raise InvalidError(str(error)) from error
    return obj


def decoded_dynakube(raw: msgspec.Raw) -> Tree | None:
    """Return a DynaKube to validate, which takes more work than other objects; `ObjectError`."""
    return decoded(raw, most_bytes=DYNAKUBE_BYTES, most_values=DYNAKUBE_VALUES)


def decoded_tree(raw: msgspec.Raw, *, most_bytes: int = OBJECT_BYTES, most_values: int = OBJECT_VALUES) -> Tree | None:
    """Return an object of any form; `ObjectError`."""
    size = memoryview(raw).nbytes
    if size > most_bytes:
        raise TooLargeError(f"it has {size} bytes, and at most {most_bytes} are read")
    if (values := _count_values(raw, most_values)) > most_values:
        raise TooLargeError(f"it has {values} values, and at most {most_values} are read")
    try:
        return _objects.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidError(f"it is no object in JSON: {error}") from error


def has_annotations(raw: msgspec.Raw) -> bool | None:
    """Return whether an object of any size has annotations; None if none can be added."""
    try:
        metadata = typed_json.decode(raw, _Outline).metadata
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    annotations = b"" if metadata is None else bytes(metadata.annotations).strip()
    return annotations.startswith(b"{") if annotations.startswith((b"{", b"null")) else None


def admitted(
    uid: str, *, patch: Sequence[Object] = (), warnings: Sequence[str] = (), denied: Status | None = None
) -> bytes:
    """The AdmissionReview that answers."""
    # A warning is sent as an HTTP header: the API server drops one with a line break.
    lines = tuple(" ".join(warning[:_WARNING_LENGTH].split()) for warning in warnings[:_WARNINGS])
    patch_type, encoded_patch = ("JSONPatch", _encode(patch)) if patch else ("", b"")
    return _answer(ADMISSION, _Response(uid, denied is None, denied, patch_type, encoded_patch, lines))


def converted(uid: str, objects: Sequence[msgspec.Raw]) -> bytes:
    return _answer(CONVERSION, _Converted(uid, Status("Success"), objects))


def unconverted(uid: str, message: str) -> bytes:
    return _answer(CONVERSION, _Converted(uid, Status("Failed", message)))


def encoded(obj: Object) -> msgspec.Raw:
    return msgspec.Raw(_encode(obj))


def _count_values(text: bytes | msgspec.Raw, most: int) -> int:
    """Return an upper bound of the number of values in a JSON text, and of keys.

    Each takes a byte at least, so what has no more than `most` bytes is not counted.
    """
    size = memoryview(text).nbytes
    if size <= most:
        return size
    text = bytes(text)
    return text.count(b",") + text.count(b"[") + text.count(b"{")


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


typed_json.prepare(_Outline, _Object)
