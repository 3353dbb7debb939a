"""Responses that a download refuses, and the files that it leaves behind when it stops."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from oneagent.common.http import client as http_client
from oneagent.common.http import download, errors
from tests.fakes.tenant import TOKEN, Fault
from tests.unit.common.http.download.bench import SIZE, VERSION, Bench


def test_a_wrong_digest_leaves_nothing_behind(bench: Bench) -> None:
    bench.server.plan("package", Fault(flip=SIZE // 2))
    with pytest.raises(download.ContentMismatchError, match="SHA-256"):
        bench.download(expected_sha256=hashlib.sha256(bench.content).hexdigest())
    assert bench.leftovers() == []


def test_a_wrong_size_is_refused_before_a_byte_is_written(bench: Bench) -> None:
    with pytest.raises(download.ContentMismatchError, match=f"{SIZE} bytes, 7 were expected"):
        bench.download(expected_size=7)
    assert bench.leftovers() == []


def test_an_answer_that_ends_before_its_content_length_is_never_taken_for_whole(bench: Bench) -> None:
    bench.server.plan("package", *[Fault(headers={"Content-Length": str(SIZE + 1)}, cut_after=SIZE)] * 2)
    with pytest.raises(download.DownloadSourceError):
        bench.download(attempts=2)
    assert not bench.into.exists()


def test_an_answer_that_does_not_say_where_it_ends_is_refused(bench: Bench) -> None:
    bench.server.plan("package", Fault(headers={"Content-Length": ""}, cut_after=1000))
    with pytest.raises(download.DownloadSourceError, match="neither a Content-Length nor chunks"):
        bench.download()


def test_a_login_page_is_not_a_package(bench: Bench) -> None:
    bench.server.plan("package", Fault(headers={"Content-Type": "text/html; charset=utf-8"}))
    with pytest.raises(download.DownloadSourceError, match="login page"):
        bench.download()
    assert bench.server.count("package") == 1


def test_a_coding_that_was_not_asked_for_is_refused(bench: Bench) -> None:
    bench.server.plan("package", Fault(headers={"Content-Encoding": "gzip"}))
    with pytest.raises(download.DownloadSourceError, match="is encoded"):
        bench.download()


@pytest.mark.parametrize("coding", ["aws-chunked", "binary", "", "identity"])
def test_a_word_that_is_no_coding_is_none(bench: Bench, coding: str) -> None:
    bench.server.plan("package", Fault(headers={"Content-Encoding": coding}))
    bench.download()
    assert bench.into.read_bytes() == bench.content


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "aws-chunked,gzip"},
        {"Content-Type": "text/html"},
        {"Content-Length": "", "Connection": "close"},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [SIZE, None])
def test_where_a_digest_is_known_no_header_decides(bench: Bench, headers: dict[str, str], size: int | None) -> None:
    bench.server.plan("package", Fault(headers=headers))
    bench.download(expected_sha256=hashlib.sha256(bench.content).hexdigest(), expected_size=size)
    assert bench.into.read_bytes() == bench.content
    assert bench.server.count("package") == 1


def test_wrong_bytes_with_an_odd_header_are_told_with_it(bench: Bench) -> None:
    bench.server.plan("package", Fault(headers={"Content-Type": "text/html"}, flip=7))
    with pytest.raises(download.ContentMismatchError, match=r"login page\?\): its SHA-256 is"):
        bench.download(expected_sha256=hashlib.sha256(bench.content).hexdigest())


def test_a_login_page_costs_no_bytes_that_have_come(bench: Bench) -> None:
    bench.server.plan(
        "package",
        Fault(cut_after=1000),
        Fault(status=200, headers={"Content-Type": "text/html", "ETag": '"page"'}, body=b"<html>log in"),
    )
    digest = hashlib.sha256(bench.content).hexdigest()
    with pytest.raises(download.DownloadSourceError, match="login page"):
        bench.download(expected_sha256=digest, expected_size=SIZE)
    bench.download(expected_sha256=digest, expected_size=SIZE)
    assert bench.ranges()[-1] == "bytes=1000-"


@pytest.mark.parametrize("status", [429, 503])
def test_the_servers_pause_is_kept(bench: Bench, status: int) -> None:
    bench.server.plan("package", Fault(status=status, headers={"Retry-After": "17"}), Fault(status=status))
    bench.download()
    assert len(bench.pauses) == 2
    assert 17 <= bench.pauses[0] <= 17 * 1.5
    assert 1 <= bench.pauses[1] <= 2


def test_a_pause_too_long_for_one_call_is_handed_to_the_caller(bench: Bench) -> None:
    bench.server.plan("package", Fault(status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(download.DownloadSourceError) as failed:
        bench.download()
    assert failed.value.retry_after == 3600
    assert bench.pauses == []


def test_pauses_grow_and_tries_are_counted(bench: Bench) -> None:
    bench.server.plan("package", *[Fault(status=500)] * 4)
    with pytest.raises(download.DownloadSourceError, match="answered 500: planned by the test"):
        bench.download(attempts=4)
    assert bench.server.count("package") == 4
    assert [0.5 <= pause <= 1 for pause in bench.pauses[:1]] == [True]
    assert bench.pauses == sorted(bench.pauses)


def test_a_refused_token_is_not_tried_again_and_not_shown(bench: Bench) -> None:
    bench.server.token = "another"
    source = bench.source()
    bench.server.token = "and-another"
    with pytest.raises(download.DownloadSourceError, match=r"apiToken.*InstallerDownload") as failed:
        bench.download(source=source)
    assert bench.server.count("package") == 1
    assert "another" not in f"{failed.value}{source!r}"


def test_a_version_that_is_not_there_is_not_tried_again(bench: Bench) -> None:
    source = download.HttpSource(
        bench.source().url.replace(VERSION, "1.2.3"), headers={"Authorization": f"Api-Token {TOKEN}"}
    )
    with pytest.raises(download.DownloadSourceError, match=r"Version 1\.2\.3 not found"):
        bench.download(source=source)
    assert bench.server.count("package") == 1


def test_a_stalled_connection_is_broken_and_continued(bench: Bench) -> None:
    bench.server.plan("package", Fault(stall_after=5000))
    bench.download(stall_seconds=0.2)
    assert bench.ranges() == ["", "bytes=5000-"]
    assert bench.into.read_bytes() == bench.content


def test_a_server_that_is_gone_is_named_with_the_reason(bench: Bench) -> None:
    source = download.HttpSource("http://127.0.0.1:9/package?token=secret", http=http_client.HttpSettings())
    with pytest.raises(download.DownloadSourceError, match=r"127\.0\.0\.1:9/package: cannot connect") as failed:
        bench.download(source=source, attempts=2)
    assert isinstance(failed.value.cause, errors.UnreachableError)
    assert "secret" not in str(failed.value)


def test_what_does_not_fit_is_not_begun(bench: Bench) -> None:
    with pytest.raises(download.DiskFullError, match="more are needed") as full:
        bench.download(free=SIZE + 99, reserve=100)
    assert full.value.needed == SIZE
    assert bench.leftovers() == []


def test_what_just_fits_is_fetched(bench: Bench) -> None:
    bench.download(free=SIZE + 100, reserve=100)
    assert bench.into.exists()


def test_only_what_is_missing_has_to_fit(bench: Bench) -> None:
    bench.server.plan("package", Fault(cut_after=SIZE - 10))
    with pytest.raises(download.DownloadSourceError):
        bench.download(attempts=1)
    bench.download(free=10)
    assert bench.into.read_bytes() == bench.content


def test_a_folder_that_is_not_there_is_named(bench: Bench) -> None:
    bench.folder.rmdir()
    with pytest.raises(download.DiskFailedError, match="No such file"):
        bench.download()
    bench.folder.mkdir()


def test_cancelling_keeps_what_came(bench: Bench) -> None:
    bench.server.plan("package", Fault(cut_after=1000))
    with pytest.raises(download.DownloadCancelledError):
        download.download(bench.source(), bench.into, cancelled=bench.cancelled, sleep=lambda _: bench.cancelled.set())
    assert bench.part.stat().st_size == 1000


def test_cancelling_ends_a_pause_at_once(bench: Bench) -> None:
    bench.server.plan("package", Fault(status=503, headers={"Retry-After": "50"}))
    threading.Timer(0.2, bench.cancelled.set).start()
    with pytest.raises(download.DownloadCancelledError):
        download.download(bench.source(), bench.into, cancelled=bench.cancelled)


class TestALocalPackage:
    def test_is_hashed_and_used_where_it_is(self, bench: Bench, tmp_path: Path) -> None:
        path = tmp_path / "a package"
        done = bench.download(source=download.parse_source(f"file://{tmp_path}/package"))
        assert (done.path, done.size, done.is_temporary) == (tmp_path / "package", SIZE, False)
        assert done.sha256 == hashlib.sha256(bench.content).hexdigest()
        assert download.parse_source(f"file://localhost{tmp_path}/a%20package") == download.LocalFile(path)
        assert bench.leftovers() == []

    def test_with_a_wrong_digest_is_refused_and_kept(self, bench: Bench, tmp_path: Path) -> None:
        with pytest.raises(download.ContentMismatchError):
            bench.download(source=download.LocalFile(tmp_path / "package"), expected_sha256="0" * 64)
        assert (tmp_path / "package").exists()

    def test_must_be_a_regular_file(self, bench: Bench, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for name, said in (
            ("pipe", "not a regular file"),
            ("tmp", "Is a directory|not a regular"),
            ("no", "No such"),
        ):
            with pytest.raises(download.UnusableFileError, match=said):
                bench.download(source=download.LocalFile(tmp_path / name))

    @pytest.mark.parametrize("url", ["ftp://x/y", "file://host/y", "file:relative", "/plain", "https://"])
    def test_or_a_url_of_a_kind_we_know(self, url: str) -> None:
        with pytest.raises(download.UnusableFileError, match="is needed"):
            download.parse_source(url)
