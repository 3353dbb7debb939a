from __future__ import annotations

import base64
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from oneagent.common.kubernetes import errors
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.dynakube_sources import directory, yaml_documents
from tests.unit.csi_driver.dynakube_sources.following import Following, eventually, following, manifest

BROKEN = "kind: DynaKube\nmetadata:\n  name: prod\n spec: [\n"


def write(path: Path, *objects: dict[str, Any]) -> None:
    """As an editor does: a new file, renamed over the old one. JSON is YAML too."""
    new = path.with_name(f".{path.name}.new")
    new.write_text("\n---\n".join(json.dumps(obj, indent=1) for obj in objects))
    new.rename(path)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    found = tmp_path / "dynakubes"
    found.mkdir()
    return found


@pytest.fixture
def found(place: Path) -> Iterator[Following]:
    write(place / "prod.yaml", manifest("prod"))
    with following(directory.DirectorySource(place)) as running:
        running.until_names("prod")
        yield running


class TestFollowing:
    def test_all_documents_of_all_yaml_files_are_read(self, place: Path) -> None:
        write(place / "two.yaml", manifest("a"), {"kind": "Namespace"}, manifest("b"))
        write(place / "one.yml", manifest("c"))
        (place / "notes.txt").write_text("not: [yaml")
        (place / ".hidden.yaml").write_text("not: [yaml")
        with following(directory.DirectorySource(place)) as running:
            assert not running.until_names("a", "b", "c").invalid
        assert len(running.reports) == 1

    def test_an_empty_directory_is_reported(self, place: Path) -> None:
        with following(directory.DirectorySource(place)) as running:
            running.until_names()

    def test_a_file_that_is_added_counts(self, found: Following, place: Path) -> None:
        write(place / "test.yaml", manifest("test"))
        found.until_names("prod", "test")

    def test_a_file_that_is_renamed_over_counts(self, found: Following, place: Path) -> None:
        write(place / "prod.yaml", manifest("prod", version="1.2.3"))
        found.until(lambda snapshot: [dk.decided_version for dk in snapshot.dynakubes.values()] == ["1.2.3"])

    def test_a_file_that_is_written_in_place_counts(self, found: Following, place: Path) -> None:
        (place / "prod.yaml").write_text(json.dumps(manifest("other")))
        found.until_names("other")

    def test_a_change_of_the_same_size_counts(self, found: Following, place: Path) -> None:
        for name in ("prob", "proc", "prod", "proe"):
            (place / "prod.yaml").write_text(json.dumps(manifest(name)))
        found.until_names("proe")

    def test_a_file_that_is_removed_takes_its_dynakubes_with_it(self, found: Following, place: Path) -> None:
        write(place / "test.yaml", manifest("test"))
        found.until_names("prod", "test")
        (place / "prod.yaml").unlink()
        found.until_names("test")

    def test_nothing_is_reported_twice(self, found: Following, place: Path) -> None:
        os.utime(place / "prod.yaml")
        write(place / "prod.yaml", manifest("prod"))
        write(place / "test.yaml", manifest("test"))
        found.until_names("prod", "test")
        assert len(found.reports) == 2

    def test_it_stops_within_a_second(self, found: Following) -> None:
        assert found.source.silent_seconds() < 60
        assert found.stopped_after() < 1.0


class TestUnusableFiles:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            (BROKEN, 4),
            ("", 1),
            ("\x00\x01", 1),
            ("just text", 1),
            ("kind: DynaKube\nmetadata:\n  name: prod\nspec:\n  networkZone: z\n  apiUrl: nowhere\n", 6),
            ("kind: ConfigMap\n---\nkind: DynaKube\nmetadata: {}\n", 4),
            ("kind: DynaKube\nmetadata: !!timestamp x\n", 1),
            ("kind: List\nitems: []\n", 1),
            ("\n" + "[" * 100_000, 2),
        ],
    )
    def test_the_last_good_state_holds_and_the_error_names_file_and_line(
        self, found: Following, place: Path, text: str, line: int
    ) -> None:
        (place / "prod.yaml").write_text(text)
        snapshot = found.until(lambda snapshot: snapshot.invalid)
        assert set(snapshot.dynakubes) == {"prod"}
        (error,) = snapshot.invalid.values()
        assert error.startswith(f"prod.yaml:{line}: ")
        write(place / "prod.yaml", manifest("prod"))
        assert set(found.until(lambda snapshot: not snapshot.invalid).dynakubes) == {"prod"}

    def test_the_other_files_are_not_concerned(self, found: Following, place: Path) -> None:
        (place / "broken.yaml").write_text(BROKEN)
        write(place / "test.yaml", manifest("test"))
        assert found.until_names("prod", "test").invalid.keys() == {"broken.yaml:4"}

    def test_an_impossible_dynakube_is_found_under_its_name(self, found: Following, place: Path) -> None:
        write(place / "test.yaml", manifest("test", apiUrl="x"))
        assert "test.yaml:" in found.until(lambda snapshot: snapshot.invalid).invalid["test"]

    def test_a_broken_file_that_is_removed_is_forgotten(self, found: Following, place: Path) -> None:
        (place / "prod.yaml").write_text(BROKEN)
        found.until(lambda snapshot: snapshot.invalid)
        (place / "prod.yaml").unlink()
        assert not found.until_names().invalid

    def test_a_file_that_cannot_be_read_is_said(self, found: Following, place: Path) -> None:
        (place / "test.yaml").mkdir()
        snapshot = found.until(lambda snapshot: snapshot.invalid)
        assert "cannot be read" in snapshot.invalid["test.yaml:1"]

    def test_a_link_that_leads_nowhere_is_no_file(self, found: Following, place: Path) -> None:
        (place / "test.yaml").symlink_to(place / "nothing")
        write(place / "more.yaml", manifest("more"))
        assert not found.until_names("prod", "more").invalid

    def test_one_name_in_two_files_is_an_error_and_the_first_file_wins(self, found: Following, place: Path) -> None:
        write(place / "a.yaml", manifest("prod", version="1.2.3"))
        snapshot = found.until(lambda snapshot: snapshot.invalid)
        assert snapshot.dynakubes[next(iter(snapshot.dynakubes))].decided_version == "1.2.3"
        assert snapshot.invalid == {
            "prod.yaml:1": "prod.yaml:1: DynaKube prod is already defined in a.yaml:1; remove one"
        }

    def test_a_file_that_is_written_slowly_is_never_seen_empty(self, place: Path) -> None:
        done = threading.Event()
        polls: list[float] = []

        def clock() -> float:
            """Called by each poll."""
            polls.append(0.0)
            return 0.0

        write(place / "prod.yaml", manifest("prod"))

        def rewrite() -> None:
            while not done.is_set():
                with (place / "prod.yaml").open("w") as file:
                    file.write(json.dumps(manifest("prod")))
                    done.wait(0.003)

        writer = threading.Thread(target=rewrite)
        with following(directory.DirectorySource(place, clock=clock)) as found:
            found.until_names("prod")
            writer.start()
            write(place / "test.yaml", manifest("test"))
            found.until_names("prod", "test")
            before = len(polls)
            eventually(lambda: len(polls) >= before + 2)
            done.set()
            writer.join()
            assert all("prod" in report.dynakubes for report in found.reports)


class TestFolder:
    def test_a_directory_that_is_not_there_yet_is_waited_for(self, tmp_path: Path) -> None:
        place = tmp_path / "later" / "dynakubes"
        with following(directory.DirectorySource(place)) as running:
            place.mkdir(parents=True)
            write(place / "prod.yaml", manifest("prod"))
            running.until_names("prod")

    def test_waiting_for_a_directory_stops_within_a_second(self, tmp_path: Path) -> None:
        with following(directory.DirectorySource(tmp_path / "nothing")) as running:
            assert running.stopped_after() < 1.0
        assert running.reports == []

    def test_a_directory_that_is_gone_says_nothing_until_it_is_back(self, found: Following, place: Path) -> None:
        place.rename(place.with_name("old"))
        place.mkdir()
        write(place / "test.yaml", manifest("test"))
        found.until_names("test")
        write(place / "more.yaml", manifest("more"))
        found.until_names("test", "more")
        assert set() not in [set(report.dynakubes) for report in found.reports]

    def test_a_directory_behind_a_link_may_be_switched(self, tmp_path: Path) -> None:
        for version in ("1", "2"):
            (tmp_path / version).mkdir()
            write(tmp_path / version / "a.yaml", manifest(f"dk-{version}"))
        link = tmp_path / "link"
        link.symlink_to("1")
        with following(directory.DirectorySource(link)) as running:
            running.until_names("dk-1")
            (tmp_path / "new").symlink_to("2")
            (tmp_path / "new").rename(link)
            running.until_names("dk-2")

    def test_a_mounted_config_map_is_followed_through_its_switch(self, place: Path) -> None:
        """kubelet makes a new directory, and switches the link `..data` to it."""
        (place / "..2026_1").mkdir()
        write(place / "..2026_1" / "prod.yaml", manifest("prod"))
        (place / "..data").symlink_to("..2026_1")
        (place / "prod.yaml").symlink_to("..data/prod.yaml")
        with following(directory.DirectorySource(place)) as running:
            running.until_names("prod")
            (place / "..2026_2").mkdir()
            write(place / "..2026_2" / "prod.yaml", manifest("next"))
            (place / "..data_tmp").symlink_to("..2026_2")
            (place / "..data_tmp").rename(place / "..data")
            shutil.rmtree(place / "..2026_1")
            running.until_names("next")
            assert all(not report.invalid for report in running.reports)


class TestSecrets:
    def test_secret_and_config_map_documents_are_served(self, place: Path) -> None:
        secret = {
            "kind": "Secret",
            "metadata": {"name": "prod"},
            "data": {"apiToken": base64.b64encode(b"one").decode(), "paasToken": "eA=="},
            "stringData": {"paasToken": "two"},
        }
        config_map = {"kind": "ConfigMap", "metadata": {"name": "cas"}, "data": {"certs": "PEM"}}
        write(place / "all.yaml", manifest("prod"), secret, config_map)
        source = directory.DirectorySource(place)
        assert source.secret("prod") == {"apiToken": "one", "paasToken": "two"}
        assert source.config_map("cas") == {"certs": "PEM"}

    def test_a_token_file_is_a_secret(self, place: Path) -> None:
        (place / "prod.token").write_text("dt0c01.x\n")
        assert directory.DirectorySource(place).secret("prod") == {"apiToken": "dt0c01.x"}

    def test_a_secret_document_is_used_in_place_of_a_token_file(self, place: Path) -> None:
        (place / "prod.token").write_text("file")
        secret = {"kind": "Secret", "metadata": {"name": "prod"}, "stringData": {"apiToken": "document"}}
        write(place / "secret.yaml", secret)
        assert directory.DirectorySource(place).secret("prod") == {"apiToken": "document"}

    def test_a_changed_secret_is_served(self, found: Following, place: Path) -> None:
        with pytest.raises(errors.NotFoundError, match=r"prod\.token"):
            found.source.secret("prod")
        (place / "prod.token").write_text("new")
        assert found.source.secret("prod") == {"apiToken": "new"}

    def test_what_is_not_there_says_what_to_add(self, place: Path) -> None:
        with pytest.raises(errors.NotFoundError, match="add a ConfigMap document"):
            directory.DirectorySource(place).config_map("cas")

    @pytest.mark.parametrize("name", ["../prod", "", "/etc/passwd", "..", "x/y"])
    def test_a_name_leads_out_of_the_directory_nowhere(self, place: Path, name: str) -> None:
        (place.parent / "prod.token").write_text("x")
        with pytest.raises(errors.NotFoundError):
            directory.DirectorySource(place).secret(name)

    @pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"x" * 100_000])
    def test_a_token_file_without_a_token_is_an_error(self, place: Path, content: bytes) -> None:
        (place / "prod.token").write_bytes(content)
        with pytest.raises(errors.UnavailableError, match=r"prod\.token"):
            directory.DirectorySource(place).secret("prod")

    @pytest.mark.parametrize(
        "text",
        [
            "kind: Secret\nmetadata: {name: x}\ndata: {apiToken: HUNTER2!}\n",
            "kind: Secret\nmetadata: {name: x}\ndata: HUNTER2\n",
            "kind: Secret\nmetadata: {name: x}\nstringData: {apiToken: [HUNTER2]}\n",
            "kind: Secret\nmetadata: {name: x}\nstringData:\n  apiToken: HUNTER2\n bad: [\n",
            "kind: Secret\nmetadata: {name: x}\nstringData:\n  apiToken: 'HUNTER2\n",
            "kind: Secret\nstringData: {apiToken: *HUNTER2}\n",
        ],
    )
    def test_an_error_does_not_show_what_a_secret_holds(self, text: str) -> None:
        with pytest.raises(yaml_documents.DocumentError) as caught:
            yaml_documents.parse(text.encode())
        assert "HUNTER2" not in str(caught.value)

    def test_content_does_not_show_its_secrets(self) -> None:
        text = b"kind: Secret\nmetadata: {name: x}\nstringData: {apiToken: HUNTER2}\n"
        assert "HUNTER2" not in repr(yaml_documents.parse(text))


def test_events_go_to_the_log(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    pod = dynakube_sources.PodReference("shop", "cart-0", "uid")
    directory.DirectorySource(place).event(pod, "Warning", "NoAgentMounted", "no agent")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.__dict__["fields"] == {"object": "shop/cart-0", "reason": "NoAgentMounted", "text": "no agent"}


_TAGS = st.sampled_from(
    ["!!timestamp ", "!!int ", "!!float ", "!!bool ", "!!binary ", "!!set ", "!!omap ", "!!python/name:os ", "<<: "]
)
_LINES = st.sampled_from(
    ["kind: DynaKube", "metadata:", "  name: prod", "spec: &a", "  x: *a", "---", "...", "? [a]", "%YAML 9", "- 1"]
)


@hypothesis.given(st.lists(st.tuples(_TAGS | st.just(""), _LINES | st.text(max_size=12)), max_size=8))
@hypothesis.settings(max_examples=300, deadline=None)
def test_nothing_but_a_document_error_comes_of_any_text(lines: list[tuple[str, str]]) -> None:
    text = "\n".join(f"{line} {tag}x" if tag else line for tag, line in lines)
    try:
        yaml_documents.parse(text.encode("utf-8", "surrogatepass"))
    except yaml_documents.DocumentError as error:
        assert error.line >= 1


@hypothesis.given(st.binary(max_size=60))
def test_nothing_but_a_document_error_comes_of_any_bytes(data: bytes) -> None:
    try:
        yaml_documents.parse(data)
    except yaml_documents.DocumentError as error:
        assert error.line >= 1
