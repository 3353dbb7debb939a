"""The Secret with a tenant's answers for nodes: everything that agents need comes back, and nothing else is taken."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import pytest

from oneagent.common import dynakube
from oneagent.common.agents.oneagent.ruxitagentproc import Property
from oneagent.common.identifiers import DynaKubeName, TenantId
from oneagent.common.tenant import tenant_secret
from oneagent.common.tenant.poll import TenantState
from oneagent.common.tenant.tenant_secret import TenantSecretError
from tests.fakes.provisioner import manifest

URL = "https://abc12345.example/api"
ANSWERS = TenantState(
    questions=(URL, "zone", "group"),
    tenant=TenantId("abc12345"),
    tenant_token="dt0a01.agents",
    endpoints=("https://one.example", "https://two.example"),
    properties=(Property("general", "libjava", "off"), Property("java", "spring", "é on")),
    complete=True,
)


def packed(**fields: Any) -> dict[str, str]:
    document = json.loads(tenant_secret.encode(ANSWERS)) | fields
    return {tenant_secret.KEY: tenant_secret.pack(json.dumps(document).encode())}


def test_answers_come_back_as_they_were() -> None:
    data = {tenant_secret.KEY: tenant_secret.pack(tenant_secret.encode(ANSWERS))}
    assert tenant_secret.decode(tenant_secret.unpack(data)) == ANSWERS


def test_equal_answers_have_equal_digests_whatever_else_the_poll_found() -> None:
    later = TenantState(
        polled_at=5.0, scopes=frozenset({"x"}), failures=3, problem="down", revision=7, uses_paas_token=True,
        **{name: getattr(ANSWERS, name) for name in
           ("questions", "tenant", "tenant_token", "endpoints", "properties", "complete")},
    )  # fmt: skip
    assert tenant_secret.digest(tenant_secret.encode(later)) == tenant_secret.digest(tenant_secret.encode(ANSWERS))


def test_its_name_is_no_dynakube_s_and_no_user_s_default() -> None:
    name = tenant_secret.name(DynaKubeName("shop"))
    with pytest.raises(dynakube.DynaKubeError):
        dynakube.from_object(manifest(name, URL))


def test_a_large_configuration_takes_a_fraction_of_a_secret() -> None:
    properties = tuple(Property("general", f"setting{number}", "some value") for number in range(20_000))
    state = TenantState(tenant=TenantId("a"), tenant_token="t", endpoints=("e",), properties=properties, complete=True)
    document = tenant_secret.encode(state)
    assert len(document) > 700_000
    assert len(tenant_secret.pack(document)) < 150_000


def test_what_no_secret_can_hold_is_refused() -> None:
    noise = zlib.crc32(b"seed")
    values = []
    for _ in range(200_000):
        noise = (noise * 6364136223846793005 + 1442695040888963407) % 2**64
        values.append(f"{noise:016x}")
    with pytest.raises(TenantSecretError, match="a Secret has 1,048,576"):
        tenant_secret.pack("".join(values).encode())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "nothing at the key"),
        ({tenant_secret.KEY: "?"}, "no gzip in base64"),
        ({tenant_secret.KEY: base64.b64encode(b"{}").decode()}, "no gzip in base64"),
        ({tenant_secret.KEY: base64.b64encode(zlib.compress(b"{}", wbits=31)[:-3]).decode()}, "cut off"),
        ({tenant_secret.KEY: base64.b64encode(zlib.compress(b" " * (9 << 20), wbits=31)).decode()}, "larger than"),
        (packed(tenantToken=""), "tenantToken"),
        (packed(endpoints=[]), "endpoints"),
        (packed(tenant="../../etc"), "tenant"),
        (packed(tenant="abc\n"), "tenant"),
        (packed(properties=[["a", "b"]]), "properties"),
    ],
)
def test_a_document_that_is_no_good_is_an_error_without_its_values(data: dict[str, str], said: str) -> None:
    with pytest.raises(TenantSecretError, match=said) as caught:
        tenant_secret.decode(tenant_secret.unpack(data))
    assert "dt0a01" not in str(caught.value)


def test_answers_serve_the_dynakube_that_has_asked_for_them() -> None:
    def kube(**spec: Any) -> dynakube.DynaKube:
        made = manifest("shop", URL, networkZone="zone", **spec)
        made["spec"]["oneAgent"]["hostGroup"] = "group"
        return dynakube.from_object(made)

    assert tenant_secret.serves(ANSWERS, kube())
    assert tenant_secret.serves(ANSWERS, kube(trustedCAs="other"))
    assert not tenant_secret.serves(ANSWERS, dynakube.from_object(manifest("shop", URL, networkZone="zone")))
    assert not tenant_secret.serves(TenantState(questions=ANSWERS.questions), kube())
