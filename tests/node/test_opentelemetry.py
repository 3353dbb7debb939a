"""Packages of OpenTelemetry's agents: installed, configured, and mounted by the driver that mounts OneAgent."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from oneagent.common.agents import oneagent, opentelemetry
from oneagent.common.agents.opentelemetry import variable_lines
from oneagent.common.injection import inert_library
from tests.fakes import node, packages, provisioner
from tests.fakes.provisioner import eventually

NAME = "otelinj.shop"
SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "headers"},
    "stringData": {"authorization": "Bearer s3cret"},
}
ATTRIBUTES: dict[str, Any] = {
    "agent": "opentelemetry",
    "dynakube": "shop",
    "containers": "app,side-car",
    "image.app": "registry.example/cart:1.4",
    "basePodName": "cart",
    "workloadKind": "Deployment",
    "workloadName": "cart",
}


def build(path: Path, marker: str = "one") -> Path:
    """A package with the agent of one language, and without a directory for its configuration."""
    with zipfile.ZipFile(path, "w") as archive:
        packages.write(archive, opentelemetry.PRELOAD_LIBRARY, b"\x7fELF" + marker.encode() * 200, 0o100755)
        packages.write(archive, "agent/java/opentelemetry-javaagent.jar", b"jar " + marker.encode())
    return path


def manifest(package: Path, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "csi.oneagent.dynatrace.com/v1alpha1",
        "kind": "OpenTelemetryInjection",
        "metadata": {"name": "shop"},
        "spec": {
            "package": f"file://{package}",
            "exporter": {"endpoint": "http://collector:4318", "headersSecret": "headers"},
            **spec,
        },
    }


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[node.Driver]:
    driver = node.Driver(tmp_path, "--publish-wait=10s")
    try:
        yield driver
    finally:
        driver.kill()
        node.unmount_all(driver)


def command(data: Path | str, *arguments: str) -> str:
    """Return the output of `oneagent-csi`."""
    program = [sys.executable, "-m", "oneagent.csi_driver.cli.main", *arguments, f"--data-dir={data}"]
    return subprocess.run(program, stdout=subprocess.PIPE, text=True, check=False).stdout


def variables(file: Path) -> dict[str, str]:
    return variable_lines.parse(file.read_text())


def test_a_pod_gets_the_agents_their_settings_and_its_own_identity(tmp_path: Path, driver: node.Driver) -> None:
    kubelet = driver.start()
    with provisioner.running(tmp_path) as process:
        process.set_dynakubes(manifest(build(tmp_path / "otel.zip")), SECRET)
        eventually(lambda: process.row(NAME).get("layer"), what=lambda: process.row(NAME))
        view = kubelet.publish("cart", **ATTRIBUTES)
        assert (view / "agent/java/opentelemetry-javaagent.jar").read_bytes() == b"jar one"
        assert variables(view / "agent/conf/opentelemetry.env") == {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer s3cret",
        }
        found = variables(view / "agent/conf/container_app.env")
        assert found["OTEL_SERVICE_NAME"] == "cart"
        attributes = variable_lines.split(found["OTEL_RESOURCE_ATTRIBUTES"])
        assert (attributes["k8s.pod.name"], attributes["k8s.container.name"]) == ("cart", "app")
        assert attributes["service.version"] == "1.4"
        assert variables(view / "agent/conf/container.env")["OTEL_SERVICE_NAME"] == "cart"
        assert {path.name for path in (view / "agent/conf").iterdir()} == {
            *("opentelemetry.env", "exporter-ca.crt", "container.env", "container_app.env", "container_side-car.env")
        }
        # A mount point of the version, which no process takes for a CA.
        assert (view / opentelemetry.AUTHORITY_FILE).read_bytes() == b""
        assert "grep libotelinject /proc/1/maps" in command(process.data.root, "why", "default/cart")
        eventually(lambda: driver.rows().get("csi-cart", {}).get("dynakube") == NAME)
        kubelet.unpublish("cart")


def test_new_pods_get_a_new_package_and_old_ones_keep_theirs(tmp_path: Path, driver: node.Driver) -> None:
    kubelet = driver.start()
    with provisioner.running(tmp_path) as process:
        process.set_dynakubes(manifest(build(tmp_path / "one.zip")), SECRET)
        eventually(lambda: process.row(NAME).get("layer"))
        old = kubelet.publish("old", **ATTRIBUTES)
        before = process.row(NAME)["version"]
        process.set_dynakubes(manifest(build(tmp_path / "two.zip", "two"), propagators=["b3"]), SECRET)
        eventually(lambda: process.row(NAME).get("good_version") not in (None, "", before))
        new = kubelet.publish("new", **ATTRIBUTES)
        jar = "agent/java/opentelemetry-javaagent.jar"
        assert [(view / jar).read_bytes() for view in (old, new)] == [b"jar one", b"jar two"]
        conf = "agent/conf/opentelemetry.env"
        assert ["OTEL_PROPAGATORS" in variables(view / conf) for view in (old, new)] == [False, True]


@pytest.mark.parametrize("read_only", [False, True])
def test_an_empty_view_has_an_inert_library_and_the_mount_points_of_containers(
    driver: node.Driver, read_only: bool
) -> None:
    kubelet = driver.start()
    node.want(driver.data, node.demo(name=NAME, version="", layer="", mount_attempts=0, mount_policy="wait"))
    volume = kubelet.publish("cart", **ATTRIBUTES, read_only=read_only)
    assert inert_library.is_inert(str(volume / opentelemetry.PRELOAD_LIBRARY))
    assert not (volume / oneagent.PRELOAD_LIBRARY).exists()
    assert (volume / "agent/conf/container.env").is_file()
    assert variables(volume / "agent/conf/container_app.env")["OTEL_SERVICE_NAME"] == "cart"


def test_a_pod_with_a_user_namespace_finds_each_mount_point(tmp_path: Path, driver: node.Driver) -> None:
    kubelet = driver.start()
    with provisioner.running(tmp_path) as process:
        process.set_dynakubes(manifest(build(tmp_path / "otel.zip")), SECRET)
        eventually(lambda: process.row(NAME).get("layer"))
        volume = kubelet.publish("cart", **ATTRIBUTES, userNamespace="true")
        for name in ("opentelemetry.env", "container.env"):
            assert (volume / "bin/agent/conf" / name).read_bytes() == b""
        assert "OTEL_EXPORTER_OTLP_ENDPOINT" in variables(volume / "agent/conf/opentelemetry.env")
        assert "none need attention" in command(process.data.root, "verify")
        kubelet.unpublish("cart")


def authority() -> tuple[str, dict[str, Any]]:
    """Return a CA's certificate, and the ConfigMap that has it, beside its key."""
    ca = trustme.CA()
    certificate, key = ca.cert_pem.bytes().decode(), ca.private_key_pem.bytes().decode()
    data = {"ca.crt": f"# The CA\n{certificate}{key}"}
    return certificate, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca"}, "data": data}


def trusting(package: Path) -> dict[str, Any]:
    tls = {"configMapName": "ca", "ca_file": "ca.crt"}
    exporter = {"endpoint": "https://collector:4318", "headersSecret": "headers", "tls": tls}
    obj = manifest(package, exporter=exporter)
    obj["metadata"]["annotations"] = {"feature.dynatrace.com/poll-interval": "200ms"}
    return obj


@pytest.mark.parametrize("user_namespace", [False, True])
def test_new_pods_get_the_collector_s_ca_and_running_ones_keep_theirs(
    tmp_path: Path, driver: node.Driver, user_namespace: bool
) -> None:
    kubelet = driver.start()
    more: dict[str, Any] = {"userNamespace": "true"} if user_namespace else {}
    with provisioner.running(tmp_path) as process:
        package, (certificate, config_map) = build(tmp_path / "otel.zip"), authority()
        process.set_dynakubes(trusting(package), SECRET, config_map)
        eventually(lambda: process.row(NAME).get("layer"), what=lambda: process.row(NAME))
        first = process.row(NAME)["layer"]
        old = kubelet.publish("old", **ATTRIBUTES, **more)
        assert (old / opentelemetry.AUTHORITY_FILE).read_text() == certificate
        assert "OTEL_EXPORTER_OTLP_HEADERS" in variables(old / opentelemetry.CONFIG_FILE)
        assert "none need attention" in command(process.data.root, "verify")
        if user_namespace:
            assert (old / "bin" / opentelemetry.AUTHORITY_FILE).read_bytes() == b"", "over which it is mounted"
        renewed, config_map = authority()
        process.set_dynakubes(trusting(package), SECRET, config_map)
        eventually(lambda: process.row(NAME).get("layer") not in ("", first), what=lambda: process.row(NAME))
        new = kubelet.publish("new", **ATTRIBUTES, **more)
        assert (new / opentelemetry.AUTHORITY_FILE).read_text() == renewed
        assert (old / opentelemetry.AUTHORITY_FILE).read_text() == certificate
        process.set_dynakubes(manifest(package), SECRET)
        second = process.row(NAME)["layer"]
        eventually(lambda: process.row(NAME).get("layer") != second)
        none = kubelet.publish("none", **ATTRIBUTES, **more)
        assert (none / opentelemetry.AUTHORITY_FILE).read_bytes() == b""


def test_without_its_ca_no_pod_gets_headers_or_an_endpoint(tmp_path: Path) -> None:
    with provisioner.running(tmp_path) as process:
        package = build(tmp_path / "otel.zip")
        process.set_dynakubes(trusting(package), SECRET)
        eventually(
            lambda: "the ConfigMap ca does not exist: create it" in process.row(NAME).get("condition", ""),
            what=lambda: process.row(NAME),
        )
        assert not process.row(NAME)["layer"]


def test_a_package_of_another_kind_of_agent_is_not_mounted(tmp_path: Path, driver: node.Driver) -> None:
    with provisioner.running(tmp_path) as process:
        otel, own = build(tmp_path / "otel.zip"), packages.build(tmp_path / "oneagent.zip")
        process.set_dynakubes(manifest(own), provisioner.manifest(image=f"file://{otel}"), SECRET)
        eventually(
            lambda: "is an agent of OneAgent, not of OpenTelemetry" in process.row(NAME).get("condition", ""),
            what=lambda: process.row(NAME),
        )
        eventually(lambda: "is an agent of OpenTelemetry, not of OneAgent" in process.row("demo").get("condition", ""))
        assert (process.row(NAME)["layer"], process.row("demo")["layer"]) == ("", "")


def test_without_its_headers_no_pod_sends_to_a_collector_that_would_refuse(tmp_path: Path) -> None:
    with provisioner.running(tmp_path) as process:
        process.set_dynakubes(manifest(build(tmp_path / "otel.zip")))
        eventually(
            lambda: "the Secret headers does not exist" in process.row(NAME).get("condition", ""),
            what=lambda: process.row(NAME),
        )
        assert not process.row(NAME)["layer"]


def test_an_unknown_kind_of_agent_is_refused(driver: node.Driver) -> None:
    kubelet = driver.start()
    with pytest.raises(grpc.RpcError) as refused:
        kubelet.publish("cart", **{**ATTRIBUTES, "agent": "other"})
    assert refused.value.details() == ("volume_context[agent]: 'other' is unknown; use oneagent, opentelemetry")


def test_the_pod_s_name_is_found_in_its_view_if_the_database_is_lost(tmp_path: Path, driver: node.Driver) -> None:
    kubelet = driver.start()
    with provisioner.running(tmp_path) as process:
        process.set_dynakubes(manifest(build(tmp_path / "otel.zip")), SECRET)
        eventually(lambda: process.row(NAME).get("layer"))
        kubelet.publish("cart", **ATTRIBUTES)
    driver.kill()
    for file in Path(driver.data.database).parent.glob(f"{Path(driver.data.database).name}*"):
        file.unlink()
    driver.start()
    row = driver.rows()["csi-cart"]
    assert (row["pod_namespace"], row["pod_name"]) == ("default", "cart"), json.dumps(row)
