"""The init container without CSI, against a real package endpoint: a whole agent, or none."""

from __future__ import annotations

import datetime
import json
import os
import random
import signal
import socket
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import trustme

from oneagent.common import package_client
from oneagent.common.injection import secret
from oneagent.sidecars.init_container import DownloadError, installer
from tests.fakes import package_server as fakes
from tests.fakes import packages, ports, tls_port
from tests.fakes import tenant as double
from tests.unit.sidecars.init_container.pod_environment import Pod, variables, wanted

VERSION = packages.VERSION
LARGE = "1.301.0.20240101-000000"
NO_AGENT = "1.302.0.20240101-000000"
A_DAY = datetime.timedelta(days=1)
FILLER, LARGE_FILLER = 1 << 20, 24 << 20


class World:
    """A pod in a namespace with its Secret, and the operator that serves the package."""

    def __init__(self, pod: Pod, serving: fakes.RunningPackageServer, tenant: double.Tenant) -> None:
        self.pod, self.serving, self.tenant = pod, serving, tenant
        self.injection = secret.Injection(
            dynakube="demo",
            tenant="abc12345",
            tenant_token="dt0a01.agents",
            endpoints=("https://ag-1.example/communication", "https://ag-2.example/communication"),
            version=VERSION,
            package_url=serving.url,
            package_ca=serving.ca_file.read_text(),
            host_group="shops",
            properties=(("general", "libjava", "off"), ("new", "key", "a value")),
        )
        self.tell()
        self.token(fakes.token())

    def tell(self, **changed: object) -> None:
        """Write the Secret."""
        text = secret.encode(msgspec.structs.replace(self.injection, **changed))
        (self.pod.config / "injection.json").write_text(text)

    def token(self, text: str) -> None:
        (self.pod.config / "token").write_text(text)

    def install(self, environ: Mapping[str, str] | None = None, *, silent: bool = True) -> str:
        settings, patience = wanted("installer", **environ or {}), package_client.WaitLimits(away_seconds=0.0)
        return installer.install(settings, self.pod.places, silent=silent, wait=patience)

    @property
    def left(self) -> set[str]:
        """What is in the bin folder."""
        return {path.name for path in self.pod.bin.iterdir()}


class Operator(NamedTuple):
    serving: fakes.RunningPackageServer
    tenant: double.Tenant


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    place = tmp_path_factory.mktemp("operator")
    built = {
        VERSION: packages.build(place / "agent.zip", prefix=packages.NESTED, filler=FILLER),
        LARGE: packages.build(place / "large.zip", filler=LARGE_FILLER),
        NO_AGENT: place / "other.zip",
    }
    with zipfile.ZipFile(built[NO_AGENT], "w") as archive:
        packages.write(archive, "agent/readme", b"nothing to preload")
    with double.Tenant() as tenant, fakes.RunningPackageServer(place / "endpoint") as serving:
        for version, package in built.items():
            tenant.release(version, package)
        serving.set_desired(*(fakes.desired_version(version, tenant.api_url) for version in built))
        yield Operator(serving, tenant)


@pytest.fixture
def world(tmp_path: Path, operator: Operator) -> World:
    return World(Pod(tmp_path / "pod"), *operator)


def await_(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)


def test_an_agent_is_downloaded_unpacked_and_configured(world: World) -> None:
    assert world.install() == VERSION
    assert world.left == {"agent", "manifest.json"}
    agent = world.pod.bin / "agent"
    assert world.pod.preloaded
    assert os.readlink(agent / "bin/current") == VERSION
    assert (agent / "filler.bin").stat().st_size == FILLER
    assert (agent / "conf/ruxitagentproc.conf").read_text() == (
        "[general]\nlibjava off\nhostGroup shops\n"
        "serverAddress {https://ag-1.example/communication;https://ag-2.example/communication}\n"
        "tenant abc12345\ntenantToken dt0a01.agents\n\n[new]\nkey a value\n"
    )


def test_every_user_may_read_it_and_make_files_of_its_own(world: World) -> None:
    before = os.umask(0o077)
    try:
        world.install()
    finally:
        os.umask(before)
    everything = [world.pod.bin / "agent", *(world.pod.bin / "agent").rglob("*")]
    assert {path.stat().st_mode & 0o7777 for path in everything if path.is_dir()} == {0o1777}
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in everything)
    assert (world.pod.bin / "agent/conf/ruxitagentproc.conf").stat().st_mode & 0o777 == 0o644


def test_a_container_that_starts_again_asks_for_nothing(world: World) -> None:
    world.install()
    log = world.pod.bin / "agent/log/app.log"
    log.write_text("an application's")
    (world.pod.config / "injection.json").unlink()
    assert world.install() == VERSION
    assert log.exists()


def test_after_a_reboot_nothing_is_trusted(world: World) -> None:
    world.install()
    mark = world.pod.bin / installer.MARKER
    mark.write_text(json.dumps({"version": VERSION, "boot": "another"}))
    (world.pod.bin / "agent/filler.bin").chmod(0o600)
    (world.pod.bin / "agent/filler.bin").write_bytes(b"\0" * FILLER)
    world.install()
    assert (world.pod.bin / "agent/filler.bin").read_bytes() == random.Random(VERSION).randbytes(FILLER)
    assert world.left == {"agent", "manifest.json"}


@pytest.mark.parametrize("mark", ["", "{", "[]", '{"version": 1}', '{"version":"1","boot":null}'])
def test_a_mark_that_cant_be_read_is_none(world: World, mark: str) -> None:
    (world.pod.bin / "agent/lib64").mkdir(parents=True)
    (world.pod.bin / "agent/lib64/liboneagentproc.so").write_text("half a library")
    (world.pod.bin / installer.MARKER).write_text(mark)
    world.tell(package_url="")
    with pytest.raises(DownloadError, match="packageUrl is empty: start the operator with --package-address"):
        world.install()
    assert world.left == set()


def test_a_version_flavor_and_technologies_of_the_pods_own_are_asked_for(world: World) -> None:
    own = {"VERSION": LARGE, "FLAVOR": "multidistro", "TECHNOLOGIES": "nodejs, java"}
    assert world.install(own) == LARGE
    query = world.tenant.requests[-1].query
    assert query["flavor"] == ["multidistro"]
    assert sorted(query["include"]) == ["java", "nodejs"]


class TestKilled:
    @pytest.mark.parametrize("stage", [".oneagent/agent.zip*", ".oneagent/tree", ".oneagent/tree/agent/*", "agent"])
    def test_anywhere_it_leaves_a_whole_agent_or_none(self, world: World, stage: str) -> None:
        process = world.pod.start(variables("installer", VERSION=LARGE))
        await_(lambda: process.poll() is not None or bool([*world.pod.bin.glob(stage)]))
        process.kill()
        process.communicate()
        if world.pod.preloaded:
            assert (world.pod.bin / "agent/filler.bin").stat().st_size == LARGE_FILLER
            assert (world.pod.bin / installer.MARKER).exists()
        assert world.install({"VERSION": LARGE}) == LARGE
        assert (world.pod.bin / "agent/filler.bin").stat().st_size == LARGE_FILLER
        assert installer.WORK not in world.left

    @pytest.mark.parametrize(
        ("number", "policy", "code", "said"),
        [
            (signal.SIGTERM, "silent", 0, "stopped by a signal"),
            (signal.SIGTERM, "fail", 1, "stopped by a signal"),
            (signal.SIGALRM, "silent", 0, "not done after 300 s"),
        ],
    )
    def test_by_a_signal_it_ends_orderly(
        self, world: World, number: signal.Signals, policy: str, code: int, said: str
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silence:
            world.tell(package_url=f"https://127.0.0.1:{silence.getsockname()[1]}")
            process = world.pod.start(variables("installer", policy))
            silence.settimeout(20)
            with silence.accept()[0]:
                process.send_signal(number)
                process.communicate(timeout=20)
        assert process.returncode == code
        assert said in world.pod.message.read_text()
        assert (installer.WORK in world.left) is (policy == "fail")

    def test_again_and_again_it_gives_up_if_it_may(self, world: World) -> None:
        work = world.pod.bin / installer.WORK
        work.mkdir()
        (work / "attempts").write_text("." * installer.MAX_ATTEMPTS)
        with pytest.raises(DownloadError, match="raise the memory limit of the init container install-oneagent"):
            world.install()
        assert world.left == set()
        work.mkdir()
        (work / "attempts").write_text("." * installer.MAX_ATTEMPTS)
        assert world.install(silent=False) == VERSION


class TestTrouble:
    @pytest.mark.parametrize(("policy", "code"), [("silent", 0), ("fail", 1)])
    def test_a_missing_secret_is_explained(self, world: World, policy: str, code: int) -> None:
        (world.pod.config / "injection.json").unlink()
        assert world.pod.run(variables("installer", policy))[0] == code
        message = world.pod.message.read_text()
        assert "the Secret oneagent-injection of the pod's namespace did not exist" in message
        assert "condition CodeModulesInjection" in message
        assert world.pod.library.exists() is (policy == "silent"), (
            "an application without its agent loads the inert library"
        )
        assert not world.pod.preloaded

    def test_the_inert_library_of_a_run_that_failed_gives_way_to_the_agent(self, world: World) -> None:
        world.pod.place_inert_library()
        assert world.install() == VERSION
        assert world.pod.preloaded

    def test_a_secret_that_cant_be_read_is_explained_without_its_values(self, world: World) -> None:
        (world.pod.config / "injection.json").write_text('{"dynakube": "demo", "tenantToken": ["dt0a01.secret"]}')
        with pytest.raises(DownloadError, match=r"oneagent-injection .*\$\.tenantToken.*delete it") as found:
            world.install()
        assert "dt0a01" not in str(found.value)

    def test_a_field_of_a_later_operator_is_no_trouble(self, world: World) -> None:
        path = world.pod.config / "injection.json"
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "later": {"x": 1}}))
        assert world.install() == VERSION

    def test_an_endpoint_with_another_authority_is_not_believed(self, world: World) -> None:
        world.tell(package_ca="")
        with pytest.raises(
            DownloadError, match=r"its certificate is not trusted.*: delete the Secret oneagent-injection"
        ) as found:
            world.install()
        assert "trustedCAs" not in str(found.value)

    def test_a_certificate_that_is_over_is_helped_by_another_one_or_the_clock(self, world: World) -> None:
        authority, now = trustme.CA(), datetime.datetime.now(datetime.UTC)
        over = authority.issue_cert("127.0.0.1", not_before=now - 2 * A_DAY, not_after=now - A_DAY)
        with tls_port.serving(over) as port:
            world.tell(package_ca=authority.cert_pem.bytes().decode(), package_url=f"https://127.0.0.1:{port}")
            with pytest.raises(DownloadError, match=r"renew it, or correct this node's clock") as found:
                world.install()
        assert "delete the Secret" not in str(found.value)

    def test_an_authority_that_is_none_is_named(self, world: World) -> None:
        world.tell(package_ca="-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
        with pytest.raises(DownloadError, match="not a list of certificates in PEM form"):
            world.install()

    @pytest.mark.parametrize("text", ["", "two words"])
    def test_a_token_that_is_none_is_named(self, world: World, text: str) -> None:
        world.token(text)
        with pytest.raises(DownloadError, match="token: not a service account's token"):
            world.install()

    def test_a_token_for_another_audience_is_refused(self, world: World) -> None:
        world.token(fakes.token("another"))
        with pytest.raises(DownloadError, match=f"audience {package_client.AUDIENCE} is needed"):
            world.install()

    @pytest.mark.parametrize(
        ("environ", "said"),
        [
            ({"FLAVOR": "musl"}, "flavor: 'musl' is none of default, multidistro"),
            ({"TECHNOLOGIES": "Java!"}, "technologies: at most"),
            ({"VERSION": "../../1"}, "version"),
        ],
    )
    def test_what_no_endpoint_can_have_is_not_asked_for(self, world: World, environ: dict[str, str], said: str) -> None:
        world.tell(package_url=f"https://127.0.0.1:{ports.free()}")  # Nobody is there: who asks learns of nothing else.
        with pytest.raises(DownloadError, match=said):
            world.install(environ)

    def test_a_package_that_is_no_agent_is_not_shown(self, world: World) -> None:
        with pytest.raises(DownloadError, match="could not be installed: the package has no agent/lib64/"):
            world.install({"VERSION": NO_AGENT})
        assert world.left == set()

    def test_a_folder_that_refuses_is_named(self, world: World) -> None:
        (world.pod.bin / installer.WORK).write_text("a file")
        with pytest.raises(DownloadError, match=r"could not be installed: File exists \(.*\.oneagent\)"):
            world.install()

    def test_an_endpoint_that_is_away_is_not_waited_for_for_long(self, world: World) -> None:
        world.tell(package_url=f"https://127.0.0.1:{ports.free()}")
        with pytest.raises(
            DownloadError, match=r"Connection refused.*is the operator running, and do network policies"
        ):
            world.install()

    @pytest.mark.parametrize("silent", [True, False])
    def test_only_what_is_tried_again_keeps_what_has_come(self, world: World, silent: bool) -> None:
        work = world.pod.bin / installer.WORK
        work.mkdir()
        (work / "agent.zip.part").write_bytes(b"begun")
        world.token("")
        with pytest.raises(DownloadError):
            world.install(silent=silent)
        assert (work / "agent.zip.part").exists() is not silent
        world.token(fakes.token())
        world.install(silent=silent)
        assert world.left == {"agent", "manifest.json"}
