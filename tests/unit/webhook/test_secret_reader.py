"""Secrets that a DynaKube names, read over a real connection."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from oneagent.webhook import secret_reader
from tests.fakes import kube_api
from tests.unit.webhook.following import connected


@pytest.fixture
def kube() -> Iterator[kube_api.KubeApi]:
    with kube_api.KubeApi() as found:
        found.put("secrets", secret("corp-proxy", proxy=b"http://me:geheim@proxy:3128"))
        yield found


def secret(name: str, **data: bytes) -> kube_api.Json:
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"kind": "Secret", "metadata": {"name": name}, "data": encoded}


def read(kube: kube_api.KubeApi, folder: Path, *names: str) -> dict[str, Mapping[str, str] | None]:
    async def test() -> dict[str, Mapping[str, str] | None]:
        async with connected(kube, folder) as server:
            return await secret_reader.SecretReader(server, "dynatrace").read(names)

    return asyncio.run(test())


def test_texts_are_read_by_name(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    kube.put("secrets", secret("shop", apiToken=b"a", certificate=b"\xff\xfe"))
    kube.put("secrets", {"kind": "Secret", "metadata": {"name": "empty"}})
    assert read(kube, tmp_path, "corp-proxy", "shop", "empty", "absent") == {
        "corp-proxy": {"proxy": "http://me:geheim@proxy:3128"},
        "shop": {"apiToken": "a"},
        "empty": {},
        "absent": None,
    }
    paths = {request.path for request in kube.requests}
    assert paths == {
        f"/api/v1/namespaces/dynatrace/secrets/{name}" for name in ("corp-proxy", "shop", "empty", "absent")
    }


def test_without_the_right_nothing_is_known_and_the_log_says_so(
    kube: kube_api.KubeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kube.forbidden.add("secrets")
    assert read(kube, tmp_path, "corp-proxy") == {}
    assert [record.message for record in caplog.records] == ["secret not read, DynaKube admitted"]


def test_an_api_server_that_does_not_answer_is_waited_for_a_second_for_all_of_them(
    kube: kube_api.KubeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kube.held.add("secrets")
    began = time.monotonic()
    assert read(kube, tmp_path, "corp-proxy", *(f"shop{number}" for number in range(30))) == {}
    assert time.monotonic() - began < 15, "one second, and not one for each of 31"
    kube.release("secrets")
    assert "geheim" not in caplog.text


def test_an_answer_that_is_no_secret_counts_as_none(
    kube: kube_api.KubeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kube.put("secrets", {"kind": "Secret", "metadata": {"name": "odd"}, "data": ["geheim"]})
    kube.put(
        "secrets", {"kind": "Secret", "metadata": {"name": "other"}, "data": {"proxy": "geheim", "other": "YQ=!="}}
    )
    assert read(kube, tmp_path, "odd", "other") == {"other": {}}
    assert "geheim" not in caplog.text
