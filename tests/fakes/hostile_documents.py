"""JSON that no honest server sends: what parsers stumble over, and right JSON of the wrong types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

BROKEN: Final[Mapping[str, bytes]] = {
    "nothing": b"",
    "lists in lists": b"[" * 100_000,
    "objects in objects": b'{"a":' * 100_000,
    "closed lists in lists": b"[" * 50_000 + b"]" * 50_000,
    "deep in an unknown field": b'{"unknown":' + b"[" * 90_000 + b"]" * 90_000 + b"}",
    "a million elements": b"[" + b"1," * 1_000_000 + b"1]",
    "a million empty lists": b'{"unknown":[' + b"[]," * 1_000_000 + b"[]]}",
    "a million strings": b'""' * 1_000_000,
    "a string without an end": b'{"token":"' + b'\\"' * 500_000,
    "not a number": b"NaN",
    "infinity": b'{"expires_in":Infinity,"revision":Infinity,"size":Infinity,"exp":Infinity}',
    "UTF-16": '{"token":"x"}'.encode("utf-16"),
    "UTF-8 that is none": b'{"token":"\xff\xfe","latestAgentVersion":"\xc3"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "half a surrogate pair": rb'{"latestAgentVersion":"\ud800","message":"\udc00","token":"\ud800"}',
    "NUL": b'{"token":"\x00"}',
    "a web page": b"<html><body>Sign in</body></html>",
    "YAML": b"a: &a [*a]",
}
"""Documents that are no JSON, or too deep or too many to be read."""

WRONG: Final[Mapping[str, bytes]] = {
    "null": b"null",
    "a number": b"0",
    "a text": b'"text"',
    "a list": b"[]",
    "an object": b"{}",
    "a list of nulls": b"[null,null]",
    "a huge number": b'{"revision":' + b"9" * 5000 + b',"size":' + b"9" * 5000 + b',"exp":' + b"9" * 5000 + b"}",
    "an exponent": b'{"expires_in":1e400,"revision":1e400,"size":1e400,"exp":1e400}',
    "a large date": b'{"exp":1e300,"aud":"oneagent-packages","expires_in":1e300}',
    "a negative date": b'{"exp":-1e300,"aud":"oneagent-packages","expires_in":-1e300}',
    "a huge string": b'{"latestAgentVersion":"' + b"x" * 900_000 + b'"}',
    "a name twice": b'{"token":"a","token":7,"revision":1,"revision":2}',
    "fields of other types": b'{"revision":"1","properties":{},"error":[],"errors":7,"auths":[],"manifests":"x",'
    b'"layers":{},"schemaVersion":"2","latestAgentVersion":1,"availableVersions":{"a":1},"tenantUUID":[],'
    b'"scopes":null,"sha256":1,"size":"x","token":{},"access_token":[],"critical":0,"mediaType":[],"exp":"x"}',
    "fields of nothing": b'{"revision":null,"properties":null,"error":null,"errors":null,"auths":null,"token":null}',
    "parts of other types": b'{"properties":[1],"errors":[1],"auths":{"a":1},"manifests":[1],"layers":[null],'
    b'"scopes":[1]}',
    "a size that no disk has": b'{"schemaVersion":2,"layers":[{"mediaType":"x","digest":"sha256:'
    + b"0" * 64
    + b'","size":'
    + b"9" * 300
    + b"}]}",
}
"""JSON of other types or values than documented."""

ALL: Final[Mapping[str, bytes]] = {**BROKEN, **WRONG}

DATES: Final = (
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Mon, 01 Jan 0001 00:00:00 +2359",
    "Mon, 01 Jan 0001 00:00:00 GMT",
    "Fri, 31 Dec 9999 23:59:59 -9999",
    "Thu, 01 Jan 1970 00:00:00 +999999999999",
    "Thu, 01 Jan 99999999999999 00:00:00 GMT",
    "Thu, 99 Jan 2026 99:99:99 GMT",
    "Thu, 01 Jan -1 00:00:00 GMT",
    "9" * 400,
    "999999999",
    "1e308",
    "-1",
    "\u0661\u0662",
    "(" * 100_000,
    "",
)
"""Values of `Retry-After`."""
