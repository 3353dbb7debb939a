"""A large file comes over several connections, if the server proves that all of them send the same one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from oneagent.common.http import download as http_download
from oneagent.common.http.download.parallel import WINDOW_BYTES
from tests.fakes import tenant as double
from tests.fakes.tenant import Fault
from tests.unit.common.http.download.bench import VERSION, Bench

SIZE = 9 * WINDOW_BYTES + 12_345
WINDOWS = [f"bytes={start}-{min(start + WINDOW_BYTES, SIZE) - 1}" for start in range(0, SIZE, WINDOW_BYTES)]


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(1).randbytes(SIZE)


@pytest.fixture
def bench(tmp_path: Path, content: bytes) -> Iterator[Bench]:
    package = tmp_path / "package"
    package.write_bytes(content)
    folder = tmp_path / "tmp"
    folder.mkdir()
    with double.Tenant() as server:
        server.release(VERSION, package)
        yield Bench(server, folder, content)


def download(bench: Bench, connections: int = 3) -> None:
    """Bring it, and look at every byte."""
    http_download.download(
        bench.source(),
        bench.into,
        cancelled=bench.cancelled,
        limits=http_download.DownloadLimits(stall_seconds=5, connections=connections),
        sleep=bench.pauses.append,
    )
    assert bench.into.read_bytes() == bench.content
    assert bench.leftovers() == ["package.zip"]


def test_each_window_is_fetched_once_and_the_first_comes_with_the_first_answer(bench: Bench) -> None:
    download(bench)
    first, *others = bench.ranges()
    assert first == ""
    assert sorted(others) == sorted(WINDOWS[1:])
    assert bench.pauses == []


def test_what_an_earlier_call_left_is_not_fetched_again_and_the_rest_comes_over_one_connection(bench: Bench) -> None:
    bench.server.plan("package", Fault(cut_after=100_000))
    with pytest.raises(http_download.DownloadSourceError):
        bench.download(attempts=1)
    download(bench)
    assert bench.ranges() == ["", "bytes=100000-"]


@pytest.mark.parametrize(
    "fault",
    [Fault(cut_after=70_000), Fault(status=500), Fault(status=404), Fault(status=401)],
    ids=["cut", "broken", "gone", "expired"],
)
def test_after_a_window_that_can_not_be_had_the_rest_comes_over_one_connection(bench: Bench, fault: Fault) -> None:
    bench.server.plan("package", Fault(), Fault(), fault)
    download(bench)
    assert len(bench.pauses) == 1
    last = bench.ranges()[-1]
    assert last.endswith("-")
    assert int(last.removeprefix("bytes=").removesuffix("-")) % WINDOW_BYTES == 0


def test_a_server_that_asks_for_time_gets_it(bench: Bench) -> None:
    bench.server.plan("package", Fault(), Fault(status=429, headers={"Retry-After": "17"}))
    download(bench)
    assert [17 <= pause <= 26 for pause in bench.pauses] == [True]
    assert bench.ranges()[-1].endswith("-")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(ignore_range=True),
        Fault(headers={"Content-Range": f"bytes 1-{WINDOW_BYTES}/{SIZE}"}),
        Fault(headers={"ETag": '"other"'}),
    ],
    ids=["whole", "shifted", "changed"],
)
def test_a_window_of_something_else_is_no_part_of_the_file(bench: Bench, fault: Fault) -> None:
    bench.server.plan("package", Fault(), fault)
    download(bench)
    assert bench.ranges()[-1] == "", "it is begun anew, over one connection"


@pytest.mark.parametrize(
    "headers", [{"ETag": 'W/"weak"'}, {"ETag": "", "Last-Modified": ""}, {"Accept-Ranges": ""}], ids=str
)
def test_a_server_that_does_not_prove_what_it_sends_is_asked_once(bench: Bench, headers: dict[str, str]) -> None:
    bench.server.plan("package", Fault(headers=headers))
    download(bench)
    assert bench.ranges() == [""]


def test_one_connection_is_what_who_says_nothing_gets(bench: Bench) -> None:
    bench.download()
    assert bench.ranges() == [""]


def test_a_cancelled_download_ends_with_all_its_windows(bench: Bench) -> None:
    bench.server.bytes_per_second = 40_000_000

    def stop(received: int, _total: int | None) -> None:
        if received > 2 * WINDOW_BYTES:
            bench.cancelled.set()

    with pytest.raises(http_download.DownloadCancelledError):
        http_download.download(
            bench.source(),
            bench.into,
            cancelled=bench.cancelled,
            limits=http_download.DownloadLimits(connections=3),
            progress=stop,
        )
    assert bench.leftovers() == ["package.zip.part", "package.zip.part.json"]
    bench.cancelled.clear()
    download(bench)
    assert bench.ranges().count("") == 1, "the second call goes on"
