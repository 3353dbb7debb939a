"""What a request may ask for, and what it gets."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.fakes import package_server as fakes
from tests.fakes import tenant as double
from tests.fakes.packages import VERSION
from tests.fakes.provisioner import eventually

URL = f"/v1/packages/demo/{VERSION}?arch=x86_64"


class TestAWantedVersion:
    def test_comes_whole_with_its_digest(self, client: httpx.Client, package: Path) -> None:
        content = package.read_bytes()
        digest = hashlib.sha256(content)
        answer = client.get(URL)
        assert (answer.status_code, answer.content) == (200, content)
        assert answer.headers["ETag"] == f'"{digest.hexdigest()}"'
        assert answer.headers["Content-Length"] == str(len(content))
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"

    def test_is_described_without_its_bytes(self, client: httpx.Client, package: Path) -> None:
        content = package.read_bytes()
        answer = client.get(f"/v1/packages/demo/{VERSION}/metadata?arch=x86_64")
        sha256 = hashlib.sha256(content).hexdigest()
        assert answer.json() == {"version": VERSION, "sha256": sha256, "size": len(content)}
        head = client.head(URL)
        assert (head.status_code, head.headers["Content-Length"], head.content) == (200, str(len(content)), b"")

    def test_is_not_sent_to_who_has_it(self, client: httpx.Client) -> None:
        etag = client.head(URL).headers["ETag"]
        answer = client.get(URL, headers={"If-None-Match": f'"other", {etag}'})
        assert (answer.status_code, answer.content) == (304, b"")

    def test_is_one_download_for_all_dynakubes_of_a_tenant(
        self, serving: fakes.RunningPackageServer, client: httpx.Client, server: double.Tenant
    ) -> None:
        serving.set_desired(
            *(fakes.desired_version(VERSION, server.api_url, dynakube=name) for name in ("demo", "other"))
        )
        for name in ("demo", "other"):
            assert client.get(f"/v1/packages/{name}/{VERSION}?arch=x86_64").status_code == 200
        assert server.count("package") == 1

    def test_is_fetched_in_the_kind_that_is_asked_for(self, client: httpx.Client, server: double.Tenant) -> None:
        client.get(f"{URL}&technologies=java,nodejs")
        client.get(f"{URL}&technologies=nodejs,java,java")
        client.get(f"/v1/packages/demo/{VERSION}?arch=aarch64&flavor=multidistro")
        first, second = (request.query for request in server.requests)
        assert (first["include"], first["arch"], first["flavor"]) == (["java", "nodejs"], ["x86"], ["default"])
        assert (second["include"], second["arch"], second["flavor"]) == (["all"], ["arm"], ["multidistro"])

    def test_comes_in_the_dynakubes_technologies_if_none_are_named(
        self, serving: fakes.RunningPackageServer, client: httpx.Client, server: double.Tenant
    ) -> None:
        serving.set_desired(fakes.desired_version(VERSION, server.api_url, technologies=("php", "java")))
        client.get(URL)
        client.get(f"{URL}&technologies=java,php")
        assert [request.query["include"] for request in server.requests] == [["java", "php"]]

    def test_is_refused_in_more_kinds_than_anybody_needs(self, client: httpx.Client, server: double.Tenant) -> None:
        statuses = [client.head(f"{URL}&technologies=t{number}").status_code for number in range(17)]
        assert statuses == [200] * 16 + [429]
        assert client.head(URL).status_code == 200
        assert server.count("package") == 17


class TestARange:
    @pytest.mark.parametrize(
        ("requested", "first", "end"),
        [("bytes=1000-", 1000, None), ("bytes=0-0", 0, 1), ("bytes=5-9", 5, 10), ("bytes=-7", -7, None)],
    )
    def test_is_sent_alone(
        self, client: httpx.Client, package: Path, requested: str, first: int, end: int | None
    ) -> None:
        content = package.read_bytes()
        etag = client.head(URL).headers["ETag"]
        answer = client.get(URL, headers={"Range": requested, "If-Range": etag})
        assert (answer.status_code, answer.content) == (206, content[first:end])
        begin = first % len(content)
        assert answer.headers["Content-Range"] == (f"bytes {begin}-{begin + len(answer.content) - 1}/{len(content)}")

    @pytest.mark.parametrize(
        "headers",
        [
            {"Range": "bytes=5-9", "If-Range": '"another"'},
            {"Range": "bytes=5-9", "If-Range": "Thu, 14 Sep 2023 09:43:20 GMT"},
            {"Range": "bytes=1-2,5-9"},
            {"Range": "bytes=9-5"},
            {"Range": "lines=1-2"},
            {"Range": "bytes=-"},
        ],
    )
    def test_of_another_package_or_none_at_all_gets_the_whole(
        self, client: httpx.Client, package: Path, headers: dict[str, str]
    ) -> None:
        answer = client.get(URL, headers=headers)
        assert (answer.status_code, answer.content) == (200, package.read_bytes())

    def test_beyond_the_end_is_refused_with_the_size(self, client: httpx.Client, package: Path) -> None:
        size = package.stat().st_size
        for requested in (f"bytes={size}-", "bytes=-0"):
            answer = client.get(URL, headers={"Range": requested})
            assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{size}")


class TestARequestForNothingWeHave:
    @pytest.mark.parametrize(
        ("url", "status", "message"),
        [
            ("/v1/packages/demo/1.2.3?arch=x86_64", 404, "DynaKube demo does not use version 1.2.3"),
            (f"/v1/packages/other/{VERSION}?arch=x86_64", 404, "DynaKube other does not use version"),
            (f"/v1/packages/demo/{VERSION}", 400, "arch is missing"),
            (f"/v1/packages/demo/{VERSION}?arch=z80", 400, "there are agents for"),
            (f"{URL}&flavor=vanilla", 400, "flavor: 'vanilla' is none of"),
            (f"{URL}&technologies=../../etc", 400, "technologies: at most 16 names"),
            (f"{URL}&technologies=a&technologies=b", 400, "each once"),
            (f"{URL}&more=1", 400, "arch, flavor and technologies"),
            ("/v1/packages/demo/..?arch=x86_64", 400, "the path must be"),
            ("/v1/packages/demo/..%2F..%2Fetc?arch=x86_64", 400, "the path must be"),
            ("/v1/packages/demo/%2e%2e?arch=x86_64", 400, "the path must be"),
            ("/v1/packages/demo/.hidden?arch=x86_64", 400, "version:"),
            ("/v1/packages/Demo/1?arch=x86_64", 400, "dynakube:"),
            ("/", 400, "the path must be"),
        ],
    )
    def test_is_refused_with_a_reason(
        self, client: httpx.Client, serving: fakes.RunningPackageServer, url: str, status: int, message: str
    ) -> None:
        before = sorted(serving.directory.iterdir())
        # As it is: the client library would put a path right before it sends it.
        request = client.build_request("GET", "/")
        request.url = request.url.copy_with(raw_path=url.encode())
        answer = client.send(request)
        assert answer.status_code == status
        error = answer.json()["error"]
        assert (error["code"], message in error["message"]) == (status, True), error
        assert sorted(serving.directory.iterdir()) == before

    def test_by_another_method_or_with_a_body_is_refused(self, client: httpx.Client) -> None:
        assert client.delete(URL).status_code == 405
        assert client.post(URL, content=b"x" * 1_000_000).status_code == 405
        assert client.request("GET", URL, content=b"x").status_code == 400

    def test_with_too_long_a_line_or_header_is_refused(self, client: httpx.Client) -> None:
        assert client.get(f"{URL}&technologies={'x' * 4000}").status_code == 400
        assert client.get(URL, headers={"X-Long": "x" * 9000}).status_code == 400

    def test_is_counted_by_its_outcome(self, client: httpx.Client, serving: fakes.RunningPackageServer) -> None:
        client.get("/v1/packages/demo/1.2.3?arch=x86_64")
        client.get(URL)
        client.get(URL, headers={"Range": "bytes=10-"})
        expected = dict.fromkeys(("not_requested", "ok", "partial"), 1)
        # The client may have the last byte before the server has counted the request.
        eventually(
            lambda: {one: serving.counted("package_requests_total", outcome=one) for one in expected} == expected
        )


def test_a_transfer_is_one_line_of_the_log_and_no_token_is_in_any(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "oneagent")
    client.get(URL)
    # The client may have the last byte before the server has logged the transfer.
    deadline = time.monotonic() + 20
    while not any(record.getMessage() == "package sent" for record in caplog.records) and time.monotonic() < deadline:
        time.sleep(0.05)
    (sent,) = [record for record in caplog.records if record.getMessage() == "package sent"]
    facts = sent.__dict__["fields"]
    assert (facts["client"], facts["version"], facts["outcome"]) == (fakes.ACCOUNT, VERSION, "ok")
    everything = json.dumps([{**record.__dict__} for record in caplog.records], default=repr)
    assert double.TOKEN not in everything
    assert not re.search(r"eyJ[\w-]+\.", everything)
