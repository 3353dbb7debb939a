"""`oneagent-csi why` joins volume, view and processes of a pod, and comes to one verdict."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from oneagent.common import node_report
from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.identifiers import DynaKubeName, TenantId, Version
from oneagent.common.injection import contract, inert_library
from oneagent.common.node_report import Diagnosis, PodEvidence, PodProcess, View, Volume
from oneagent.common.terminal import Screen
from oneagent.csi_driver.cli import main, why
from oneagent.csi_driver.cli.why import Reason, collect, diagnose
from oneagent.csi_driver.cli.why import text as why_text
from oneagent.csi_driver.data_dir import DataDir, VolumeId
from oneagent.csi_driver.metadata import database, desired_versions
from oneagent.csi_driver.metadata.states import VolumeState
from oneagent.csi_driver.metadata.volumes import VolumeRecord, VolumeRepository
from oneagent.csi_driver.store import corruption_log
from oneagent.csi_driver.store.corruption_log import Corruption

VERSION = Version("1.277.0.20230914-094321")
LOADED = PodProcess(7, "java", mapped=True, preload=True, static=False)
STATIC = PodProcess(8, "proxy", mapped=False, preload=True, static=True)
UNSET = PodProcess(9, "sh", mapped=False, preload=False, static=False)
UNREADABLE = PodProcess(10, "java", mapped=None, preload=None, static=None)

VOLUME = Volume(
    id="csi-cart",
    mode="app",
    dynakube="demo",
    version=VERSION,
    state=VolumeState.MOUNTED,
    target="/pods/cart",
    attempts=0,
    reason="",
    since=1.0,
    condition="",
)
FOUND = PodEvidence(
    namespace="shop",
    pod="cart",
    taken_at=2.0,
    volume=VOLUME,
    mounted=True,
    view=View("/data/volumes/csi-cart/upper", (f"/data/agents/{VERSION}",)),
    is_corrupt=False,
    processes=(LOADED,),
    sees_pods=True,
    server_running=True,
)


def found(volume: dict[str, Any] | None = None, **fields: Any) -> PodEvidence:
    """What is seen of a pod that is monitored, but for this."""
    return dataclasses.replace(FOUND, volume=dataclasses.replace(VOLUME, **(volume or {})), **fields)


def unmounted(**volume: Any) -> PodEvidence:
    return found(volume, view=None, mounted=False, processes=())


class TestTheVerdict:
    @pytest.mark.parametrize(
        ("seen", "reason", "says"),
        [
            (found(), Reason.MONITORED, f"is monitored: its process loaded the agent, version {VERSION}"),
            (found(processes=(LOADED, LOADED)), Reason.MONITORED, "its 2 processes loaded"),
            (found(lacks_token=True), Reason.CANNOT_REPORT, "lacks the tenant's token, so its agent cannot report"),
            (
                found(processes=(LOADED, UNREADABLE)),
                Reason.PROCESSES_NOT_SEEN,
                "maps of java (process 10) can't be read",
            ),
            (found(processes=(STATIC, UNREADABLE)), Reason.NOT_LOADED, "proxy (process 8) did not load"),
            (found(processes=(LOADED, STATIC)), Reason.PARTLY_MONITORED, "of 2 processes 1 loaded the agent"),
            (found(processes=(STATIC, UNSET)), Reason.NOT_LOADED, "proxy (process 8) and 1 more did not load"),
            (found(processes=(UNREADABLE,)), Reason.PROCESSES_NOT_SEEN, "maps of java (process 10) can't be read"),
            (found(processes=()), Reason.NO_PROCESS, "no process has it mounted"),
            (found(processes=(), sees_pods=False), Reason.PROCESSES_NOT_SEEN, "processes are not visible from here"),
            (found({"state": VolumeState.WAITING}), Reason.MONITORED, "is monitored"),
            (found(is_corrupt=True, corruption="which lacks x"), Reason.VERSION_CORRUPT, "which lacks x"),
            (unmounted(), Reason.NOT_MOUNTED, "nothing is mounted at /pods/cart"),
            (found(view=None), Reason.NOT_MOUNTED, "another mount than its view is mounted"),
            (found(view=None, mounted=None, unreadable=("no table",)), Reason.UNKNOWN, "unknown: no table"),
            (unmounted(state=VolumeState.EMPTY, reason="10 failed"), Reason.NO_AGENT_MOUNTED, "without its agent"),
            (
                unmounted(state=VolumeState.WAITING, attempts=2, reason="no room"),
                Reason.WAITING,
                "can't start yet: attempt 2 failed: no room",
            ),
            (
                unmounted(state=VolumeState.WAITING, condition="the tenant is being polled"),
                Reason.WAITING,
                "can't start yet: the tenant is being polled",
            ),
            (
                found({"mode": "host"}, view=None),
                Reason.HOST_DIRECTORY,
                "has the persistent directory of DynaKube demo",
            ),
            (unmounted(mode="host"), Reason.NOT_MOUNTED, "nothing is mounted"),
            (unmounted(mode="conf", state=VolumeState.WRITTEN), Reason.FILES_ONLY, "no agent was requested for it"),
            (dataclasses.replace(FOUND, volume=None), Reason.MONITORED, "version unknown, from no volume"),
            (dataclasses.replace(FOUND, volume=None, processes=(LOADED, UNSET)), Reason.PARTLY_MONITORED, "1 loaded"),
            (dataclasses.replace(FOUND, volume=None, processes=(UNSET,)), Reason.NO_VOLUME, "no volume of the driver"),
            (dataclasses.replace(FOUND, volume=None, unreadable=("no db",)), Reason.UNKNOWN, "unknown: no db"),
        ],
    )
    def test_names_what_is_so(self, seen: PodEvidence, reason: Reason, says: str) -> None:
        diagnosis = diagnose.diagnose(seen)
        assert diagnosis.reason == reason
        assert diagnosis.sentence.startswith(("pod shop/cart ", "volume of pod shop/cart ", "view of pod shop/cart "))
        assert says in diagnosis.sentence
        assert bool(diagnosis.remedy) == (reason not in why.AS_INTENDED)

    def test_has_a_remedy_for_each_cause_once(self) -> None:
        remedy = diagnose.diagnose(found(processes=(STATIC, UNSET, STATIC))).remedy
        assert remedy.count("statically linked") == 1
        assert remedy.count("LD_PRELOAD was not set") == 1

    def test_blames_the_server_for_a_pod_that_waits_while_it_is_not_running(self) -> None:
        waits = dataclasses.replace(unmounted(state=VolumeState.WAITING), server_running=False)
        assert "server is not running" in diagnose.diagnose(waits).remedy


class Node:
    """A data folder as the server leaves it, a mount table, and a folder of processes."""

    view = "/opt/agent"

    def __init__(self, place: Path) -> None:
        self.data = DataDir(place / "data")
        self.data.create()
        library = Path(self.data.agent(VERSION), PRELOAD_LIBRARY)
        library.parent.mkdir(parents=True)
        library.write_bytes(b"library")
        self.target = "/pods/cart/mount"
        self.proc = place / "proc"
        self.mount_table = self.process(1, "server", self.target, pids="pid:[1]", mounts="mnt:[1]") / "mountinfo"

    def process(
        self, pid: int, command: str, place: str, *, pids: str = "pid:[2]", mounts: str = "", **variables: str
    ) -> Path:
        """A process that has the view mounted at a place."""
        folder = self.proc / str(pid)
        (folder / "ns").mkdir(parents=True)
        (folder / "ns/pid").symlink_to(pids)
        (folder / "ns/mnt").symlink_to(mounts or f"mnt:[{pid}]")
        (folder / "comm").write_text(f"{command}\n")
        (folder / "environ").write_text("".join(f"{name}={value}\0" for name, value in variables.items()))
        (folder / "maps").write_text(
            "7f00-7f01 r-xp 00000000 00:2f 12 /usr/lib/libc.so.6\n7f02-7f03 rw-p 00000000 00:00 0\n"
        )
        (folder / "exe").symlink_to(sys.executable)
        upper = self.data.volume(VolumeId("csi-cart")).upper
        options = f"rw,lowerdir={self.data.agent(VERSION)},upperdir={upper},workdir=w"
        (folder / "mountinfo").write_text(
            "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
            "2 1 0:9 / /etc rw - overlay overlay rw,lowerdir=/x,upperdir=/y,workdir=/z\n"
            f"3 1 0:8 / {place} rw,nosuid - overlay overlay {options}\n"
        )
        return folder

    def load(self, process: Path, path: str) -> None:
        with (process / "maps").open("a") as maps:
            maps.write(f"7f04-7f05 r-xp 00000000 00:2f 13                         {path}\n")

    def volume(self, **fields: Any) -> None:
        defaults: dict[str, Any] = {
            "id": VolumeId("csi-cart"),
            "mode": "app",
            "dynakube": "demo",
            "target": self.target,
            "state": VolumeState.MOUNTED,
            "version": VERSION,
            "pod_name": "cart",
            "pod_namespace": "shop",
            "changed_at": time.time(),
        }
        metadata = database.Database(self.data.database, self.data.database_lock)
        VolumeRepository(metadata).put(VolumeRecord(**(defaults | fields)))
        metadata.close()

    def want(self, condition: str) -> None:
        row = desired_versions.DesiredState(DynaKubeName("demo"), TenantId("abc12345"), VERSION, condition=condition)
        metadata = database.Database(self.data.database, self.data.database_lock)
        desired_versions.replace_all(metadata, self.data.dynakubes, [row])
        metadata.close()

    def evidence(self, proc: Path | None = None, pod: str = "cart", uid: str = "") -> PodEvidence:
        place = proc or self.proc
        return collect.collect_evidence(self.data, self.mount_table, place, "shop", pod, uid, now=time.time())

    def diagnose(self) -> Diagnosis:
        return diagnose.diagnose(self.evidence())


@pytest.fixture
def node(tmp_path: Path) -> Node:
    node = Node(tmp_path)
    node.volume()
    return node


class TestAProcessOfThePod:
    def test_is_one_that_has_the_view_and_is_not_the_nodes(self, node: Node) -> None:
        node.process(20, "java", node.view)
        node.process(21, "exporter", f"/host{node.target}")
        assert [process.pid for process in node.evidence().processes] == [20]

    def test_is_not_there_while_only_other_pods_have_any(self, node: Node) -> None:
        node.process(21, "exporter", f"/host{node.target}")
        assert node.diagnose().reason == Reason.NO_PROCESS

    def test_is_not_the_init_container(self, node: Node) -> None:
        node.process(20, "install-oneagent", contract.BIN_DIRECTORY)
        assert node.evidence().processes == ()

    def test_has_loaded_the_library_if_it_is_mapped_from_its_view(self, node: Node) -> None:
        java = node.process(20, "java", node.view, LD_PRELOAD=f"/x.so {node.view}/{PRELOAD_LIBRARY}")
        node.load(java, f"{node.view}/{PRELOAD_LIBRARY}")
        assert node.evidence().processes == (PodProcess(20, "java", mapped=True, preload=True, static=False),)
        assert node.diagnose().reason == Reason.MONITORED

    @pytest.mark.parametrize("path", [f"/elsewhere/{PRELOAD_LIBRARY}", "/opt/agent/agent/lib64/other.so"])
    def test_has_not_loaded_it_if_something_else_is_mapped(self, node: Node, path: str) -> None:
        node.load(node.process(20, "java", node.view), path)
        (process,) = node.evidence().processes
        assert (process.mapped, process.preload) == (False, False)

    def test_may_share_its_mounts_with_others(self, node: Node) -> None:
        node.process(20, "sh", node.view, mounts="mnt:[9]")
        node.process(100, "java", node.view, mounts="mnt:[9]")
        assert [process.command for process in node.evidence().processes] == ["sh", "java"]

    def test_may_be_linked_statically(self, node: Node, tmp_path: Path) -> None:
        program = tmp_path / "static"
        header = b"\x7fELF\x02\x01".ljust(32, b"\0") + struct.pack("<QQIHHHHHH", 64, 0, 0, 64, 56, 1, 0, 0, 0)
        program.write_bytes(header + struct.pack("<I", 1).ljust(56, b"\0"))
        exe = node.process(20, "proxy", node.view) / "exe"
        exe.unlink()
        exe.symlink_to(program)
        assert node.evidence().processes[0].static is True

    @pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n" * 20, b"\x7fELF\x02\x01".ljust(64, b"\xff")])
    def test_may_run_a_program_that_is_not_understood(self, node: Node, tmp_path: Path, content: bytes) -> None:
        program = tmp_path / "odd"
        program.write_bytes(content)
        exe = node.process(20, "odd", node.view) / "exe"
        exe.unlink()
        exe.symlink_to(program)
        assert node.evidence().processes[0].static is None

    def test_may_run_a_program_that_claims_gigabytes_of_headers(self, node: Node, tmp_path: Path) -> None:
        program = tmp_path / "greedy"
        header = b"\x7fELF\x02\x01".ljust(32, b"\0") + struct.pack("<QQIHHHHHH", 64, 0, 0, 64, 65535, 65535, 0, 0, 0)
        program.write_bytes(header)
        os.truncate(program, 5 << 30)
        exe = node.process(20, "greedy", node.view) / "exe"
        exe.unlink()
        exe.symlink_to(program)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert node.evidence().processes[0].static is None
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10

    def test_may_end_while_it_is_looked_at(self, node: Node) -> None:
        (node.process(20, "java", node.view) / "maps").unlink()
        assert node.evidence().processes == ()

    def test_cannot_play_tricks_on_a_terminal(self, node: Node) -> None:
        node.process(20, "\x1b[2Jjava", node.view)
        assert node.evidence().processes[0].command == "?[2Jjava"


class TestAPodWithoutAVolume:
    """Kubelet mounts files of the pod's own directory into its containers."""

    uid = "3f0e8a52-1111-2222-3333-444455556666"

    def container(self, node: Node, pid: int, uid: str) -> Path:
        process = node.process(pid, "java", "/somewhere")
        table = process / "mountinfo"
        root = f"/var/lib/kubelet/pods/{uid}/etc-hosts"
        table.write_text(f"{table.read_text()}4 1 8:1 {root} /etc/hosts rw - ext4 /dev/sda rw\n")
        return process

    def diagnose(self, node: Node) -> Diagnosis:
        return diagnose.diagnose(node.evidence(pod="other", uid=self.uid))

    def test_is_monitored_if_its_processes_have_the_library_from_wherever(self, node: Node) -> None:
        node.load(self.container(node, 20, self.uid), f"/opt/dynatrace/oneagent/{PRELOAD_LIBRARY}")
        node.load(self.container(node, 21, "another"), "/usr/lib/libm.so")
        assert self.diagnose(node).reason == Reason.MONITORED
        assert node.evidence(pod="other").processes == (), "without its UID it is not known which are its processes"

    def test_is_not_monitored_by_a_library_that_does_nothing(self, node: Node) -> None:
        process = self.container(node, 20, self.uid)
        node.load(process, f"/opt/dynatrace/oneagent/{PRELOAD_LIBRARY}")
        (process / "map_files").mkdir()
        (process / "map_files/7f04-7f05").write_bytes(inert_library.render("x86_64"))
        assert self.diagnose(node).reason == Reason.NO_VOLUME

    def test_is_partly_monitored_if_one_lacks_it(self, node: Node) -> None:
        node.load(self.container(node, 20, self.uid), f"/opt/dynatrace/oneagent/{PRELOAD_LIBRARY}")
        self.container(node, 21, self.uid)
        assert self.diagnose(node).reason == Reason.PARTLY_MONITORED

    def test_has_no_volume_if_none_has_it(self, node: Node) -> None:
        self.container(node, 20, self.uid)
        assert self.diagnose(node).reason == Reason.NO_VOLUME


class TestFromTheServersContainer:
    def test_processes_of_pods_are_not_seen(self, node: Node) -> None:
        assert node.diagnose().reason == Reason.PROCESSES_NOT_SEEN

    def test_nothing_at_all_is_still_an_answer(self, node: Node, tmp_path: Path) -> None:
        found = node.evidence(tmp_path / "nowhere")
        assert "can't be read" in found.unreadable[0]
        assert diagnose.diagnose(found).reason == Reason.PROCESSES_NOT_SEEN


class TestTheVolume:
    def test_is_the_newest_of_those_of_pods_with_this_name(self, node: Node) -> None:
        node.volume(id=VolumeId("csi-old"), target="/pods/old", changed_at=5.0)
        volume = node.evidence().volume
        assert volume is not None
        assert volume.id == "csi-cart"

    def test_tells_what_keeps_its_dynakube_from_its_version(self, node: Node) -> None:
        node.volume(state=VolumeState.WAITING)
        node.mount_table.write_text("")
        node.want("the tenant is being polled")
        assert "the tenant is being polled" in node.diagnose().sentence

    def test_of_a_version_without_its_library_is_corrupt(self, node: Node) -> None:
        Path(node.data.agent(VERSION), PRELOAD_LIBRARY).unlink()
        assert node.diagnose().reason == Reason.VERSION_CORRUPT

    def test_of_a_version_that_has_left_the_store_is_not(self, node: Node) -> None:
        node.data.discard(node.data.agent(VERSION))
        assert node.evidence().is_corrupt is False

    def test_of_a_version_that_was_corrupted_under_the_view_says_so(self, node: Node) -> None:
        os.makedirs(node.data.volume(VolumeId("csi-cart")).upper, exist_ok=True)
        corruption_log.record(node.data, VERSION, Corruption(time.time() + 1, "agent/x (content)"))
        assert node.diagnose().reason == Reason.VERSION_CORRUPT
        assert "agent/x (content)" in node.diagnose().sentence
        corruption_log.record(node.data, VERSION, Corruption(time.time() - 60, "agent/x (content)"))
        assert node.diagnose().reason != Reason.VERSION_CORRUPT

    def test_cannot_be_told_without_a_database_or_a_mount_table(self, node: Node) -> None:
        node.mount_table.write_text("no table")
        assert node.diagnose().reason == Reason.UNKNOWN
        node.data.database.unlink()
        assert node.diagnose().reason == Reason.UNKNOWN


Asked = Callable[..., int]


class TestTheCommand:
    @pytest.fixture
    def asked(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
        def ask(*words: str) -> int:
            folders = [f"--data-dir={node.data.root}", f"--mount-table={node.mount_table}", f"--proc={node.proc}"]
            monkeypatch.setattr("sys.argv", ["oneagent-csi", "why", *folders, *words])
            return main.main()

        yield ask

    def test_says_the_verdict_first_and_ends_with_0_for_a_monitored_pod(
        self, node: Node, asked: Asked, capsys: pytest.CaptureFixture[str]
    ) -> None:
        node.load(node.process(20, "java", node.view, LD_PRELOAD=PRELOAD_LIBRARY), f"{node.view}/{PRELOAD_LIBRARY}")
        assert asked("shop/cart") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("Pod shop/cart is monitored")
        assert "process    20 java: library loaded, LD_PRELOAD set" in lines

    def test_ends_with_1_and_says_what_to_do_for_any_other(
        self, asked: Asked, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert asked("shop/other") == 1
        assert "What to do: check the pod's node" in capsys.readouterr().out

    def test_ends_with_3_if_it_can_not_be_told(self, node: Node, asked: Asked) -> None:
        assert asked("--proc=/nowhere", "shop/cart") == main.CANNOT_TELL

    def test_gives_programs_json(self, node: Node, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
        node.process(20, "java", node.view)
        assert asked("-o", "json", "shop/cart") == 1
        answer = json.loads(capsys.readouterr().out)
        assert answer["format"] == node_report.FORMAT
        assert answer["verdict"]["reason"] == "NotLoaded"
        assert answer["volume"]["id"] == "csi-cart"
        assert answer["processes"][0]["pid"] == 20
        assert asked("-o", "yaml", "shop/cart") == 1
        assert yaml.safe_load(capsys.readouterr().out)["verdict"] == answer["verdict"]

    @pytest.mark.parametrize("pod", ["cart", "/cart", "shop/", "a/b/c"])
    def test_ends_with_2_if_it_is_not_told_a_pod(self, asked: Asked, pod: str) -> None:
        with pytest.raises(SystemExit) as ended:
            asked(pod)
        assert ended.value.code == 2

    def test_tells_of_what_could_not_be_read(self) -> None:
        seen = found(unreadable=("no table",), processes=(UNREADABLE,))
        text = "\n".join(why_text.lines(seen, diagnose.diagnose(seen), Screen()))
        assert "not read   no table" in text
        assert "maps can't be read, environment can't be read" in text

    def test_shows_no_control_character_of_others(self) -> None:
        seen = found(unreadable=("a\x1b[2Jb\nforged\x9b",))
        text = "\n".join(why_text.lines(seen, diagnose.diagnose(seen), Screen()))
        assert "not read   a?[2Jb?forged?" in text
        assert all(line.isprintable() for line in text.split("\n"))
