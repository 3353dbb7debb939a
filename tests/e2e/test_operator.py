"""The operator against a real API server: what DynaKubes want becomes so, stays so, and goes with them."""

from __future__ import annotations

import base64
import http.client
import platform
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oneagent.common import mapping, packageendpoint
from oneagent.operator.concerns import injection
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl, Manifest
from tests.cluster.node import Node
from tests.e2e import installed, manifests, operators
from tests.e2e.manifests import NAMESPACE
from tests.e2e.waiting import Apply, WaitFor
from tests.fakes import packages, ports
from tests.fakes.tenant import Fault, Tenant

VERSION = packages.VERSION
NEWER = "1.278.0.20231014-094321"
OLDER = "1.276.0.20230814-094321"


@pytest.fixture(scope="module")
def rights(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubeconfig of the operator's service account, on a cluster that knows DynaKubes."""
    installed.define(cluster.kubectl)
    operators.install_rights(cluster.kubectl)
    return operators.kubeconfig(cluster, tmp_path_factory.mktemp("operator") / "kubeconfig")


@pytest.fixture
def operator(rights: Path, tmp_path: Path) -> Iterator[operators.Operator]:
    with operators.running(operators.Operator(rights, tmp_path / "operator.log")) as operator:
        yield operator
        # What it says belongs to a failure.
        print(operator.log.read_text()[-8000:])


@pytest.fixture
def tenant(tmp_path: Path) -> Iterator[Tenant]:
    with Tenant(host=Node.address) as tenant:
        tenant.release(VERSION, packages.build(tmp_path / "agent.zip", VERSION))
        yield tenant


class Cube:
    """What tests ask of a DynaKube and of namespaces."""

    def __init__(self, cluster: Cluster, wait_for: WaitFor) -> None:
        self._kubectl, self._plane, self._wait_for = cluster.kubectl, cluster.control_plane, wait_for

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._kubectl.json("-n", NAMESPACE, "get", "dynakube", name).get("status", {})
        return found

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        conditions = self.status(name).get("conditions", [])
        found: dict[str, Any] = next((item for item in conditions if item["type"] == kind), {})
        return found

    def wait_condition(self, name: str, kind: str, status: str, text: str = "", within: float = 30) -> dict[str, Any]:
        def met() -> dict[str, Any]:
            condition = self.condition(name, kind)
            return condition if condition.get("status") == status and text in condition["message"] else {}

        return self._wait_for(met, f"condition {kind} of {name} is {status} with {text!r}", within, 0.25)

    def owners(self, prefix: str) -> dict[str, str]:
        """The DynaKube that each namespace of a test is labelled with; '' for none."""
        found = self._kubectl.json("get", "namespaces")["items"]
        metadata = [item["metadata"] for item in found if item["metadata"]["name"].startswith(prefix)]
        return {item["name"]: item.get("labels", {}).get(mapping.LABEL, "") for item in metadata}

    def with_secret(self, prefix: str) -> set[str]:
        """The namespaces of a test that have what pods without CSI need."""
        found = self._kubectl.json("get", "secrets", "--all-namespaces")["items"]
        named = {item["metadata"]["namespace"] for item in found if item["metadata"]["name"] == injection.NAME}
        return {namespace for namespace in named if namespace.startswith(prefix)}

    def label(self, namespace: str, team: str) -> None:
        patch = {"metadata": {"labels": {"team": team}}}
        self._plane.call("PATCH", f"/api/v1/namespaces/{namespace}", patch)

    def delay(self, namespace: str, team: str, owner: str) -> float:
        """Seconds from a change of the team's label to the DynaKube's."""
        self.label(namespace, team)
        start = time.monotonic()
        while True:
            labels = self._plane.call("GET", f"/api/v1/namespaces/{namespace}")["metadata"]["labels"]
            if labels.get(mapping.LABEL) == owner:
                return time.monotonic() - start
            assert time.monotonic() - start < 20, f"{namespace} is still {labels}"
            time.sleep(0.005)

    def wait_owners(self, prefix: str, wanted: dict[str, str], within: float = 20) -> None:
        self._wait_for(lambda: self.owners(prefix) == wanted, f"namespaces are labelled {wanted}", within, 0.2)


@pytest.fixture
def cube(cluster: Cluster, wait_for: WaitFor) -> Cube:
    return Cube(cluster, wait_for)


def _dynakube(name: str, api_url: str, team: str, mode: str = "applicationMonitoring", **fields: Any) -> Manifest:
    selector = {"namespaceSelector": {"matchLabels": {"team": team}}} if mode in mapping.INJECTING else {}
    return {
        "apiVersion": "dynatrace.com/v1beta6",
        "kind": "DynaKube",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"apiUrl": api_url, "oneAgent": {mode: {**selector, **fields}}},
    }


def _secret(name: str, token: str, **more: str) -> Manifest:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"apiToken": token, **more}}


def _decoded(secret: dict[str, Any]) -> str:
    return "\n".join(base64.b64decode(value).decode(errors="replace") for value in (secret.get("data") or {}).values())


def _namespace(name: str, team: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}}


class TestModes:
    @pytest.mark.parametrize(
        ("mode", "conditions"),
        [
            ("applicationMonitoring", {"CodeModulesVersion", "NamespaceMapping"}),
            ("cloudNativeFullStack", {"CodeModulesVersion", "NamespaceMapping", "OneAgentVersion"}),
            ("hostMonitoring", {"OneAgentVersion"}),
            ("classicFullStack", {"OneAgentVersion"}),
        ],
    )
    def test_each_decides_the_versions_that_it_needs(
        self, mode: str, conditions: set[str], operator: operators.Operator, tenant: Tenant, apply: Apply, cube: Cube
    ) -> None:
        apply(_dynakube("one", tenant.api_url, "m", mode), _secret("one", tenant.token))
        for kind in conditions:
            cube.wait_condition("one", kind, "True")
        status = cube.status("one")
        kinds = {condition["type"] for condition in status["conditions"]}
        assert {"Ready", "Tokens", "OneAgentConnectionInfo"} | conditions <= kinds
        assert ("codeModules" in status) == ("CodeModulesVersion" in conditions)
        assert ("version" in status["oneAgent"]) == ("OneAgentVersion" in conditions)


class TestVersions:
    def test_the_tenants_latest_is_followed_up_but_never_down(
        self, operator: operators.Operator, tenant: Tenant, apply: Apply, cube: Cube, tmp_path: Path, wait_for: WaitFor
    ) -> None:
        asked = {"metadata": {"annotations": {"feature.dynatrace.com/poll-interval": "5s"}}}
        manifest = _dynakube("up", tenant.api_url, "v")
        apply({**manifest, "metadata": {**manifest["metadata"], **asked["metadata"]}}, _secret("up", tenant.token))
        wait_for(lambda: cube.status("up").get("codeModules", {}).get("version") == VERSION, "the latest version")
        tenant.release(NEWER, packages.build(tmp_path / "newer.zip", NEWER))
        wait_for(lambda: cube.status("up")["codeModules"]["version"] == NEWER, "the newer version", within=30)
        tenant.withdraw(NEWER)
        cube.wait_condition("up", "CodeModulesVersion", "True", "is older than")
        assert cube.status("up")["codeModules"]["version"] == NEWER

    def test_a_pinned_version_is_taken_even_if_it_is_older(
        self, operator: operators.Operator, tenant: Tenant, apply: Apply, cube: Cube, wait_for: WaitFor
    ) -> None:
        apply(_dynakube("pin", tenant.api_url, "v"), _secret("pin", tenant.token))
        wait_for(lambda: cube.status("pin").get("codeModules", {}).get("version") == VERSION, "the latest version")
        apply(_dynakube("pin", tenant.api_url, "v", version=OLDER))
        wait_for(lambda: cube.status("pin")["codeModules"]["version"] == OLDER, "the pinned version", within=5)


class TestNamespaces:
    def test_two_tenants_share_a_cluster(
        self, operator: operators.Operator, tenant: Tenant, apply: Apply, cube: Cube, tmp_path: Path
    ) -> None:
        with Tenant(host=Node.address, tenant="other123", token="dt0c01.OTHER.TOKEN") as other:
            other.release(NEWER, packages.build(tmp_path / "newer.zip", NEWER))
            apply(_namespace("two-a", "a"), _namespace("two-b", "b"), _namespace("two-c", "c"))
            apply(_dynakube("first", tenant.api_url, "a"), _secret("first", tenant.token))
            apply(_dynakube("second", other.api_url, "b"), _secret("second", other.token))
            cube.wait_owners("two-", {"two-a": "first", "two-b": "second", "two-c": ""})
            cube.wait_condition("first", "Ready", "True")
            cube.wait_condition("second", "Ready", "True")
            assert cube.status("first")["codeModules"]["version"] == VERSION
            assert cube.status("second")["codeModules"]["version"] == NEWER

    def test_labels_follow_selectors_and_namespaces(
        self, operator: operators.Operator, tenant: Tenant, apply: Apply, cube: Cube
    ) -> None:
        apply(_namespace("move-a", "a"), _namespace("move-b", "b"))
        apply(_dynakube("move", tenant.api_url, "a"), _secret("move", tenant.token))
        cube.wait_owners("move-", {"move-a": "move", "move-b": ""})
        apply(_dynakube("move", tenant.api_url, "b"))
        cube.wait_owners("move-", {"move-a": "", "move-b": "move"})
        apply(_namespace("move-a", "b"))
        cube.wait_owners("move-", {"move-a": "move", "move-b": "move"})
        apply(_dynakube("move", tenant.api_url, "b", "hostMonitoring"))
        cube.wait_owners("move-", {"move-a": "", "move-b": ""})

    def test_of_two_that_match_the_first_keeps_the_namespace_and_both_are_told(
        self, operator: operators.Operator, tenant: Tenant, apply: Apply, cube: Cube, kubectl: Kubectl
    ) -> None:
        apply(_namespace("both-1", "x"))
        apply(_dynakube("old", tenant.api_url, "x"), _secret("old", tenant.token))
        cube.wait_owners("both-", {"both-1": "old"})
        apply(_dynakube("late", tenant.api_url, "x"), _secret("late", tenant.token))
        cube.wait_condition("late", "NamespaceMapping", "False", "both-1 (has old)")
        assert cube.owners("both-") == {"both-1": "old"}
        kubectl("-n", NAMESPACE, "delete", "dynakube", "old")
        cube.wait_owners("both-", {"both-1": "late"})
        cube.wait_condition("late", "NamespaceMapping", "True")

    def test_who_removes_the_label_gets_it_back_and_ignored_namespaces_never_have_it(
        self, operator: operators.Operator, tenant: Tenant, apply: Apply, cube: Cube, kubectl: Kubectl
    ) -> None:
        apply(_namespace("back-1", "bk"), _namespace("kube-back-1", "bk"))
        apply(_dynakube("back", tenant.api_url, "bk"), _secret("back", tenant.token))
        cube.wait_owners("back-", {"back-1": "back"})
        kubectl("label", "namespace", "back-1", f"{mapping.LABEL}-")
        cube.wait_owners("back-", {"back-1": "back"})
        assert cube.owners("kube-back-") == {"kube-back-1": ""}


class TestTokens:
    def test_missing_wrong_and_too_weak_tokens_are_told_and_corrections_noticed(
        self, operator: operators.Operator, tenant: Tenant, apply: Apply, cube: Cube, kubectl: Kubectl
    ) -> None:
        apply(_dynakube("tok", tenant.api_url, "t"))
        cube.wait_condition("tok", "Tokens", "False", "create the Secret tok with the key apiToken")
        apply(_secret("tok", "dt0c01.WRONG.TOKEN"))
        cube.wait_condition("tok", "Tokens", "False", "refuses the token")
        apply(_secret("tok", f"{tenant.token} \n"))
        cube.wait_condition("tok", "Tokens", "False", "white space")
        tenant.scopes = ["DataExport"]
        apply(_secret("tok", tenant.token))
        cube.wait_condition("tok", "Tokens", "False", "lacks the scope InstallerDownload")
        tenant.scopes = ["DataExport", "InstallerDownload"]
        apply(_secret("tok", tenant.token, note="renewed"))
        cube.wait_condition("tok", "Tokens", "True")
        events = kubectl("-n", NAMESPACE, "get", "events", "--field-selector", "involvedObject.name=tok")
        assert "TokensError" in events
        assert tenant.token not in events

    def test_a_pinned_version_without_any_token_still_gets_its_status(
        self, operator: operators.Operator, tenant: Tenant, apply: Apply, cube: Cube
    ) -> None:
        apply(_dynakube("bare", tenant.api_url, "bare", version=VERSION))
        cube.wait_condition("bare", "Tokens", "False", "create the Secret bare")
        assert cube.status("bare")["codeModules"]["version"] == VERSION


class TestUnusable:
    def test_one_that_cannot_be_read_says_so_keeps_what_was_decided_and_can_go(
        self, operator: operators.Operator, tenant: Tenant, apply: Apply, cube: Cube, kubectl: Kubectl
    ) -> None:
        apply(_namespace("odd-1", "odd"))
        apply(_dynakube("odd", tenant.api_url, "odd"), _secret("odd", tenant.token))
        cube.wait_condition("odd", "Ready", "True")
        kubectl("-n", NAMESPACE, "patch", "dynakube", "odd", "--type=merge", "-p", '{"spec": {"apiUrl": null}}')
        cube.wait_condition("odd", "Spec", "False", "spec.apiUrl")
        assert cube.status("odd")["codeModules"]["version"] == VERSION
        assert cube.owners("odd-") == {"odd-1": "odd"}
        kubectl("-n", NAMESPACE, "delete", "dynakube", "odd", "--timeout=20s")
        cube.wait_owners("odd-", {"odd-1": ""})
        assert operator.leads()

    def test_certificates_that_are_none_are_a_problem_of_this_dynakube_alone(
        self, operator: operators.Operator, tenant: Tenant, apply: Apply, cube: Cube
    ) -> None:
        authorities = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cas", "namespace": NAMESPACE}}
        apply({**authorities, "data": {"certs": "# von Jürgen"}})
        manifest = _dynakube("cas", tenant.api_url, "cas")
        apply({**manifest, "spec": {**manifest["spec"], "trustedCAs": "cas"}}, _secret("cas", tenant.token))
        apply(_dynakube("well", tenant.api_url, "well"), _secret("well", tenant.token))
        cube.wait_condition("cas", "OneAgentConnectionInfo", "False")
        cube.wait_condition("well", "Ready", "True")


class TestTenant:
    def test_a_tenant_that_fails_changes_nothing_and_is_asked_again(
        self, operator: operators.Operator, tenant: Tenant, apply: Apply, cube: Cube, kubectl: Kubectl
    ) -> None:
        apply(_namespace("fail-1", "f"))
        apply(_dynakube("fail", tenant.api_url, "f"), _secret("fail", tenant.token))
        cube.wait_condition("fail", "Ready", "True")
        before = cube.status("fail")
        faults = [
            Fault(status=429, headers={"Retry-After": "1"}),
            Fault(status=503),
            Fault(body=b"<html>not JSON</html>"),
            Fault(cut_after=3),
        ]
        for number, fault in enumerate(faults):
            tenant.plan("connection", fault)
            apply(_secret("fail", tenant.token, note=f"wrong {number}"))
            cube.wait_condition("fail", "OneAgentConnectionInfo", "False")
            status = cube.status("fail")
            assert status["codeModules"]["version"] == before["codeModules"]["version"]
            assert status["oneAgent"]["connectionInfoStatus"]["tenantUUID"] == tenant.tenant
            assert cube.owners("fail-") == {"fail-1": "fail"}
            apply(_secret("fail", tenant.token, note=f"right {number}"))
            cube.wait_condition("fail", "OneAgentConnectionInfo", "True")

    def test_a_tenant_that_does_not_answer_stops_nothing_else(
        self, operator: operators.Operator, tenant: Tenant, apply: Apply, cube: Cube
    ) -> None:
        tenant.plan("scopes", Fault(stall_after=0))
        apply(_namespace("mute-1", "q"))
        apply(_dynakube("mute", tenant.api_url, "q"), _secret("mute", tenant.token))
        cube.wait_owners("mute-", {"mute-1": "mute"}, within=10)
        cube.wait_condition("mute", "Tokens", "Unknown", "not been asked yet", within=5)


class TestPodsWithoutCsi:
    def test_what_they_need_lies_in_their_namespaces_without_any_api_token(
        self,
        operator: operators.Operator,
        tenant: Tenant,
        apply: Apply,
        cube: Cube,
        kubectl: Kubectl,
        wait_for: WaitFor,
    ) -> None:
        apply(_namespace("nocsi-1", "nocsi"), _namespace("nocsi-2", "other"))
        manifest = _dynakube("nocsi", tenant.api_url, "nocsi", useCSIDriver=False)
        apply(manifest, _secret("nocsi", tenant.token))
        cube.wait_condition("nocsi", "CodeModulesInjection", "True", "1 namespaces")

        def secrets(namespace: str) -> list[dict[str, Any]]:
            items: list[dict[str, Any]] = kubectl.json("-n", namespace, "get", "secrets")["items"]
            return items

        (secret,) = secrets("nocsi-1")
        assert secret["metadata"]["name"] == injection.NAME
        assert VERSION in _decoded(secret)
        assert not secrets("nocsi-2")
        everywhere = kubectl.json("get", "secrets", "--all-namespaces")["items"]
        outside = [item for item in everywhere if item["metadata"]["namespace"] != NAMESPACE]
        assert outside
        assert not [item for item in outside if tenant.token in _decoded(item)]
        apply(_namespace("nocsi-1", "other"))
        cube.wait_owners("nocsi-", {"nocsi-1": "", "nocsi-2": ""})
        wait_for(lambda: not secrets("nocsi-1"), "the Secret goes with the label")


class TestPackages:
    def test_a_service_account_fetches_the_wanted_version_from_the_operator_over_its_own_ca(
        self,
        rights: Path,
        tmp_path: Path,
        tenant: Tenant,
        apply: Apply,
        cube: Cube,
        kubectl: Kubectl,
        wait_for: WaitFor,
    ) -> None:
        port = ports.free()
        flags = (f"--package-address={Node.address}:{port}", f"--package-folder={tmp_path / 'packages'}")
        (tmp_path / "packages").mkdir()
        with operators.running(operators.Operator(rights, tmp_path / "operator.log", *flags)) as operator:
            apply(_dynakube("pack", tenant.api_url, "pack"), _secret("pack", tenant.token))
            cube.wait_condition("pack", "CodeModulesVersion", "True")
            wait_for(lambda: "packages are served" in operator.log.read_text(), "packages are served", within=30)
            authority = kubectl.json("-n", NAMESPACE, "get", "secret", "oneagent-webhook-ca")["data"]["ca.crt"]
            token = kubectl("-n", "default", "create", "token", "default", f"--audience={packageendpoint.AUDIENCE}")
            path = f"/v1/packages/pack/{VERSION}?arch={platform.machine()}"

            def fetch(credential: str) -> tuple[int, bytes]:
                return _get(port, base64.b64decode(authority).decode(), path, credential)

            wait_for(lambda: fetch(token.strip())[0] == 200, "the version is known to the endpoint", within=40, every=1)
            assert fetch(token.strip())[1] == (tmp_path / "agent.zip").read_bytes()
            assert fetch("nobody")[0] == 401
            assert tenant.count("package") == 1
            kubectl("-n", NAMESPACE, "delete", "dynakube", "pack")


def _get(port: int, authority: str, path: str, token: str) -> tuple[int, bytes]:
    """Status and body from the package endpoint, called by the name of its Service."""
    context = ssl.create_default_context(cadata=authority)
    host = f"oneagent-operator.{NAMESPACE}.svc"
    with (
        socket.create_connection((Node.address, port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.read()


class TestDeletion:
    def test_labels_and_secrets_go_with_the_dynakube_also_if_the_operator_was_away(
        self, rights: Path, tmp_path: Path, tenant: Tenant, apply: Apply, cube: Cube, kubectl: Kubectl
    ) -> None:
        operator = operators.Operator(rights, tmp_path / "operator.log")
        with operators.running(operator):
            apply(_namespace("gone-1", "g"))
            apply(_dynakube("gone", tenant.api_url, "g", useCSIDriver=False), _secret("gone", tenant.token))
            cube.wait_condition("gone", "CodeModulesInjection", "True", "1 namespaces")
            operator.kill()
            kubectl("-n", NAMESPACE, "delete", "dynakube", "gone", "--wait=false")
            assert cube.owners("gone-") == {"gone-1": "gone"}
            operator.start()
            kubectl("-n", NAMESPACE, "wait", "--for=delete", "dynakube/gone", "--timeout=30s")
            assert cube.owners("gone-") == {"gone-1": ""}
            assert not kubectl.json("-n", "gone-1", "get", "secrets")["items"]


class TestLeader:
    def test_of_two_one_leads_and_the_other_takes_over_from_a_dead_one(
        self, rights: Path, tmp_path: Path, wait_for: WaitFor
    ) -> None:
        short = "--lease-duration=4s"
        first = operators.Operator(rights, tmp_path / "first.log", short, identity="first")
        second = operators.Operator(rights, tmp_path / "second.log", short, identity="second")
        with operators.running(first):
            wait_for(first.leads, "the first leads")
            with operators.running(second):
                time.sleep(6)
                assert not second.leads()
                first.kill()
                wait_for(second.leads, "the second takes over", within=15)
                assert second.stop() == 0
        third = operators.Operator(rights, tmp_path / "third.log", identity="third")
        with operators.running(third):
            wait_for(third.leads, "a Lease that was given back is taken at once", within=4)

    def test_stops_at_once_at_sigterm_and_answers_its_probes_before(
        self, operator: operators.Operator, wait_for: WaitFor
    ) -> None:
        wait_for(operator.leads, "it leads")
        assert operator.get("/livez") == "ok\n"
        assert operator.get("/readyz") == "ok\n"
        start = time.monotonic()
        assert operator.stop() == 0
        assert time.monotonic() - start < 10


class TestTrouble:
    def test_the_api_server_restarts(
        self, operator: operators.Operator, cluster: Cluster, tenant: Tenant, apply: Apply, cube: Cube
    ) -> None:
        apply(_namespace("again-1", "r"))
        apply(_dynakube("again", tenant.api_url, "r"), _secret("again", tenant.token))
        cube.wait_owners("again-", {"again-1": "again"})
        cluster.control_plane.apiserver.kill()
        time.sleep(2)
        cluster.control_plane.apiserver.start()
        cluster.control_plane.apiserver.wait_ready()
        apply(_namespace("again-2", "r"))
        cube.wait_owners("again-", {"again-1": "again", "again-2": "again"}, within=60)

    def test_killed_at_random_during_a_hundred_changes_it_ends_where_it_would_have(
        self, operator: operators.Operator, tenant: Tenant, apply: Apply, cube: Cube
    ) -> None:
        chance = random.Random(7)
        names = [f"chaos-{number}" for number in range(10)]
        teams = dict.fromkeys(names, "none")
        apply(*(_namespace(name, "none") for name in names))
        apply(_dynakube("red", tenant.api_url, "red", useCSIDriver=False), _secret("red", tenant.token))
        apply(_dynakube("blue", tenant.api_url, "blue", useCSIDriver=False), _secret("blue", tenant.token))
        for change in range(100):
            name = chance.choice(names)
            teams[name] = chance.choice(["red", "blue", "none"])
            cube.label(name, teams[name])
            if chance.random() < 0.1 or change == 50:
                operator.kill()
                operator.start()
        wanted = {name: team if team != "none" else "" for name, team in teams.items()}
        cube.wait_owners("chaos-", wanted, within=60)
        cube.wait_condition("red", "Ready", "True")
        cube.wait_condition("blue", "Ready", "True")
        assert cube.with_secret("chaos-") == {name for name, owner in wanted.items() if owner}


class TestScale:
    def test_a_thousand_namespaces_and_five_dynakubes(
        self,
        rights: Path,
        tmp_path: Path,
        tenant: Tenant,
        apply: Apply,
        cube: Cube,
        kubectl: Kubectl,
        wait_for: WaitFor,
        record_property: Callable[[str, object], None],
    ) -> None:
        crowd = [_namespace(f"scale-{number:04}", f"s{number % 5}") for number in range(1000)]
        kubectl("apply", "--server-side", "-f", "-", stdin=manifests.as_yaml(*crowd), timeout=300)
        for number in range(5):
            apply(_dynakube(f"s{number}", tenant.api_url, f"s{number}"), _secret(f"s{number}", tenant.token))
        with operators.running(operators.Operator(rights, tmp_path / "operator.log")) as operator:
            start = time.monotonic()
            wait_for(lambda: all(cube.owners("scale-").values()), "all namespaces are labelled", within=120, every=1)
            record_property("1,000 namespaces labelled after a start, s", round(time.monotonic() - start, 1))
            for number in range(5):
                cube.wait_condition(f"s{number}", "Ready", "True", within=60)
            moves = [(f"scale-{number:04}", f"s{(number + 1) % 5}") for number in range(100)]
            delays = sorted(cube.delay(name, team, team) for name, team in moves)
            found = f"p50 {delays[50] * 1000:.0f}, p99 {delays[98] * 1000:.0f}, worst {delays[99] * 1000:.0f}"
            record_property("from a namespace's change to its label, ms of 100", found)
            rss = int((Path(f"/proc/{operator.pid}/status").read_text().split("VmRSS:")[1]).split()[0]) // 1024
            record_property("operator's memory with 1,000 namespaces, MiB", rss)
            assert delays[98] <= 1
            kubectl("-n", NAMESPACE, "delete", "dynakubes", *(f"s{number}" for number in range(5)))
            # These go in their own time, which is minutes.
            kubectl.delete(*crowd, wait=False)
