"""Pods without CSI: what they need lies in their namespaces, and the operator gives them their agent."""

from __future__ import annotations

import base64
import http.client
import platform
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from oneagent.common import package_client
from oneagent.operator.reconcilers import injection_secret
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.e2e import dynakubes, operator_process
from tests.e2e.dynakubes import DynaKubeReader
from tests.e2e.fixture_types import Apply, WaitFor
from tests.e2e.manifests import NAMESPACE
from tests.fakes import packages, ports
from tests.fakes.tenant import Tenant

PORT: Final = ports.free()


@pytest.fixture(scope="module")
def running_operator(rights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[operator_process.Operator]:
    """One that serves packages."""
    folder = tmp_path_factory.mktemp("operator")
    (folder / "packages").mkdir()
    flags = (f"--package-address={Node.address}:{PORT}", f"--package-directory={folder / 'packages'}")
    with operator_process.running(operator_process.Operator(rights, folder / "operator.log", *flags)) as operator:
        yield operator


def test_what_they_need_lies_in_their_namespaces_without_any_api_token(
    operator: operator_process.Operator,
    tenant: Tenant,
    apply: Apply,
    dynakube_reader: DynaKubeReader,
    kubectl: Kubectl,
    wait_for: WaitFor,
) -> None:
    apply(dynakubes.namespace("nocsi-1", "nocsi"), dynakubes.namespace("nocsi-2", "other"))
    manifest = dynakubes.dynakube("nocsi", tenant.api_url, "nocsi", useCSIDriver=False)
    apply(manifest, dynakubes.secret("nocsi", tenant.token))
    dynakube_reader.wait_condition("nocsi", "CodeModulesInjection", "True", "the injection Secret: 1")

    def secrets(namespace: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = kubectl.json("-n", namespace, "get", "secrets")["items"]
        return items

    (secret,) = secrets("nocsi-1")
    assert secret["metadata"]["name"] == injection_secret.NAME
    assert packages.VERSION in dynakubes.decoded(secret)
    assert not secrets("nocsi-2")
    everywhere = kubectl.json("get", "secrets", "--all-namespaces")["items"]
    outside = [item for item in everywhere if item["metadata"]["namespace"] != NAMESPACE]
    assert outside
    assert not [item for item in outside if tenant.token in dynakubes.decoded(item)]
    apply(dynakubes.namespace("nocsi-1", "other"))
    dynakube_reader.wait_owners("nocsi-", {"nocsi-1": "", "nocsi-2": ""})
    wait_for(lambda: not secrets("nocsi-1"), "the Secret goes with the label")


def test_a_service_account_fetches_the_wanted_version_from_the_operator_over_its_own_ca(
    operator: operator_process.Operator,
    tmp_path: Path,
    tenant: Tenant,
    apply: Apply,
    dynakube_reader: DynaKubeReader,
    kubectl: Kubectl,
    wait_for: WaitFor,
) -> None:
    manifest = dynakubes.dynakube("pack", tenant.api_url, "pack", useCSIDriver=False)
    apply(manifest, dynakubes.secret("pack", tenant.token))
    dynakube_reader.wait_condition("pack", "CodeModulesVersion", "True")
    wait_for(lambda: "package server started" in operator.log.read_text(), "package server started")
    authority = kubectl.json("-n", NAMESPACE, "get", "secret", "oneagent-webhook-ca")["data"]["ca.crt"]
    token = kubectl("-n", "default", "create", "token", "default", f"--audience={package_client.AUDIENCE}").strip()

    def fetch(credential: str) -> tuple[int, bytes]:
        path = f"/v1/packages/pack/{packages.VERSION}?arch={platform.machine()}"
        return get(base64.b64decode(authority).decode(), path, credential)

    wait_for(lambda: fetch(token)[0] == 200, "the version is known to the endpoint", within=40, every=0.5)
    assert fetch(token)[1] == (tmp_path / "agent.zip").read_bytes()
    assert fetch("nobody")[0] == 401
    assert tenant.count("package") == 1


def get(authority: str, path: str, token: str) -> tuple[int, bytes]:
    """Status and body from the package endpoint, called by the name of its Service."""
    context = ssl.create_default_context(cadata=authority)
    host = f"oneagent-operator.{NAMESPACE}.svc"
    with (
        socket.create_connection((Node.address, PORT), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.read()
