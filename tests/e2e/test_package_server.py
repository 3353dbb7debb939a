"""The package endpoint and a real API server: who is let in is what TokenReview says, with the operator's rights."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oneagent.common import package_client
from oneagent.common.http import download, errors
from oneagent.operator import api
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import SERVER, ControlPlane
from tests.cluster.kubectl import Kubectl
from tests.fakes import package_server as fakes
from tests.fakes import packages, tenant

VERSION = packages.VERSION
REVIEWER = "oneagent-reviewer"
ROLE: Any = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": REVIEWER},
    "rules": [{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}],
}
BINDING: Any = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": REVIEWER},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": REVIEWER},
    "subjects": [{"kind": "User", "name": REVIEWER, "apiGroup": "rbac.authorization.k8s.io"}],
}


@pytest.fixture(scope="module")
def control_plane(cluster: Cluster) -> ControlPlane:
    return cluster.control_plane


@pytest.fixture(scope="module")
def commands(control_plane: ControlPlane) -> Kubectl:
    kubectl = Kubectl(control_plane.admin)
    kubectl.apply(ROLE, BINDING)
    return kubectl


class Reviewer:
    """The operator's own client, with no right but to ask about tokens; connected in the loop that uses it."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        self._api: api.Api | None = None
        self.answers: list[api.Object] = []

    async def create(self, resource: api.Resource, obj: Any, namespace: str = "") -> api.Object:
        if self._api is None:
            self._api = api.Api(await api.connect(self._kubeconfig))
        answer = await self._api.create(resource, obj, namespace)
        self.answers.append(answer)
        return answer

    async def close(self) -> None:
        if self._api is not None:
            await self._api.close()


@pytest.fixture
def serving(control_plane: ControlPlane, commands: Kubectl, tmp_path: Path) -> Iterator[fakes.RunningPackageServer]:
    """The endpoint with a version of a tenant; asks the real API server."""
    kubeconfig = control_plane.authority.kubeconfig(REVIEWER, SERVER, common_name=REVIEWER)
    reviewer = Reviewer(kubeconfig)
    with tenant.Tenant() as dynatrace, fakes.RunningPackageServer(tmp_path / "endpoint", reviewer=reviewer) as serving:
        dynatrace.release(VERSION, packages.build(tmp_path / "agent.zip"))
        serving.set_desired(fakes.desired_version(VERSION, dynatrace.api_url))
        yield serving
        serving.do(reviewer.close())


@pytest.fixture
def account(commands: Kubectl) -> Iterator[str]:
    """A service account that may do nothing at all."""
    commands("create", "serviceaccount", "shop")
    yield "shop"
    commands("delete", "serviceaccount", "shop", "--ignore-not-found")


def fetch(serving: fakes.RunningPackageServer, token: str, into: Path) -> download.Downloaded:
    serving.token_file.write_text(token)
    return package_client.download_package(serving.client, fakes.package(VERSION), into, cancelled=threading.Event())


def issued(commands: Kubectl, account: str, audience: str = package_client.AUDIENCE) -> str:
    arguments = [f"--audience={audience}"] if audience else []
    return commands("create", "token", account, "--duration=1h", *arguments).strip()


class TestAServiceAccount:
    def test_fetches_with_a_token_for_the_audience(
        self, commands: Kubectl, serving: fakes.RunningPackageServer, account: str, tmp_path: Path
    ) -> None:
        got = fetch(serving, issued(commands, account), tmp_path / "got.zip")
        assert got.path.read_bytes() == (tmp_path / "agent.zip").read_bytes()
        assert serving.counted("token_reviews_total", result="accepted") == 1

    @pytest.mark.parametrize("audience", ["", "vault"])
    def test_is_refused_with_a_token_for_another_audience(
        self, commands: Kubectl, serving: fakes.RunningPackageServer, account: str, tmp_path: Path, audience: str
    ) -> None:
        with pytest.raises(errors.HttpStatusError, match="not for the audience oneagent-packages"):
            fetch(serving, issued(commands, account, audience), tmp_path / "got.zip")

    def test_is_refused_once_it_is_deleted(
        self, commands: Kubectl, serving: fakes.RunningPackageServer, account: str, tmp_path: Path
    ) -> None:
        token = issued(commands, account)
        fetch(serving, token, tmp_path / "got.zip")
        commands("delete", "serviceaccount", account)
        refused = None
        deadline = time.monotonic() + 30
        for minute in itertools.count(1):
            # What was proven holds for a minute: this is the minute after. The API server's own memory is 10 s long.
            serving.elapsed = lambda passed=60.5 * minute: time.monotonic() + passed  # type: ignore[misc]
            try:
                fetch(serving, token, tmp_path / "again.zip")
            except errors.HttpStatusError as error:
                refused = error
            if refused or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        assert refused is not None
        assert refused.status == 401
        assert serving.counted("token_reviews_total", result="refused") == 1

    def test_can_use_the_token_for_nothing_else(self, commands: Kubectl, account: str) -> None:
        token = issued(commands, account)
        with pytest.raises(Exception, match=r"(?i)unauthorized|logged in"):
            commands("--token", token, "--kubeconfig=/dev/null", f"--server={SERVER}", "--insecure-skip-tls-verify",
                     "get", "namespaces")  # fmt: skip


def test_a_token_that_somebody_else_has_signed_is_refused(serving: fakes.RunningPackageServer, tmp_path: Path) -> None:
    with pytest.raises(errors.HttpStatusError, match="401"):
        fetch(serving, fakes.token(account="default/shop"), tmp_path / "got.zip")
    assert serving.counted("token_reviews_total", result="refused") == 1


def test_without_the_right_to_ask_nobody_is_let_in(
    control_plane: ControlPlane, commands: Kubectl, serving: fakes.RunningPackageServer, account: str, tmp_path: Path
) -> None:
    token = issued(commands, account)
    commands.delete(BINDING)
    try:
        patience = package_client.WaitLimits(pending_seconds=0.5)
        serving.token_file.write_text(token)
        with pytest.raises(errors.RateLimitedError, match="cannot review the token"):
            package_client.wait_for_package(
                serving.client, fakes.package(VERSION), cancelled=threading.Event(), wait=patience
            )
        commands.apply(BINDING)
        fetch(serving, token, tmp_path / "got.zip")
    finally:
        commands.apply(BINDING)
