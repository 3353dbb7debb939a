"""`kubectl oneagent` on a real cluster: pods that have their agent and pods that have none, and what is broken."""

from __future__ import annotations

import base64
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from docs import recording

from oneagent.common import distribution
from oneagent.common.dynakube import namespace_mapping
from tests.cluster.kubectl import Kubectl
from tests.e2e import manifests
from tests.e2e.fixture_types import Apply, Running, WaitFor
from tests.e2e.manifests import NAMESPACE
from tests.e2e.webhook.applications import Applications
from tests.e2e.webhook.conftest import DYNAKUBE, VERSION
from tests.e2e.webhook.kubectl_plugin import Plugin
from tests.fakes import tenant
from tests.fakes.tenant import Tenant

NEVER_RELEASED: Final = "1.999.0.20261001-120000"


@pytest.fixture
def injected(applications: Applications) -> str:
    applications.started(manifests.application("cart", applications.namespace))
    return f"{applications.namespace}/cart"


@pytest.fixture
def mended(kubectl: Kubectl, applications: Applications, wait_for: WaitFor) -> Iterator[None]:
    """Afterwards pods are injected again, and the token is back."""
    yield
    _, secret = manifests.dynakube(DYNAKUBE, "", VERSION)
    kubectl.apply(secret)
    kubectl("-n", NAMESPACE, "scale", "deployment/oneagent-webhook", "--replicas=2")
    kubectl("-n", NAMESPACE, "rollout", "status", "deployment/oneagent-webhook", "--timeout=60s", timeout=70)
    wait_for(applications.are_injected, "the API server reaches the webhook")


def test_a_cluster_that_is_well_has_nothing_to_be_put_right(
    plugin: Plugin, injected: str, wait_for: WaitFor, record_property: Callable[[str, object], None]
) -> None:
    wait_for(lambda: not plugin.findings(), f"nothing is found, not {plugin.findings()}", 60, 2)
    began = time.monotonic()
    done = plugin("doctor")
    record_property("kubectl oneagent doctor", f"{time.monotonic() - began:.1f} s")
    assert done.returncode == 0, done.stdout
    assert "nothing needs attention" in done.stdout
    assert plugin.json("doctor")["nodes"] == 1


def test_the_table_of_nodes_shows_driver_version_and_views(plugin: Plugin, injected: str) -> None:
    (node,) = plugin.json("status")["nodes"]
    assert (node["driver"], node["registered"]) == ("ready", True)
    assert VERSION in node["versions"]
    assert node["views"] is None, "only a node that is asked for counts its views"
    (asked,) = plugin.json("status", "--node", node["node"])["nodes"]
    assert asked["views"] >= 1
    done = plugin("status")
    assert done.stdout.startswith(
        f"oneagent-csi {distribution.version()} in {NAMESPACE}: operator 1/1, webhook 2/2; 1 of"
    )
    assert node["node"] in plugin("status", "-o", "wide").stdout
    assert plugin.json("version")["drivers"] == {distribution.version(): 1}


def test_an_injected_pod_is_monitored_and_its_process_is_named(
    plugin: Plugin, injected: str, record_property: Callable[[str, object], None]
) -> None:
    found = plugin.why(injected)
    assert found["verdict"]["reason"] == "Monitored", found
    (process,) = found["on_node"]["processes"]
    assert (process["command"], process["mapped"], process["preload"]) == ("sleep", True, True)
    began = time.monotonic()
    done = plugin("why", injected)
    record_property("kubectl oneagent why", f"{time.monotonic() - began:.1f} s")
    assert done.returncode == 0
    assert "sleep: library loaded" in done.stdout


def test_the_recording_of_why_has_the_words_that_are_printed(
    plugin: Plugin, injected: str, applications: Applications
) -> None:
    """The documentation shows it for a pod with its agent, and for one that does not want any."""
    pod = manifests.application("report", applications.namespace)
    pod["metadata"]["annotations"] = {"dynatrace.com/inject": "false"}
    applications.create(pod)
    printed = plugin("why", injected).stdout + plugin("why", f"{applications.namespace}/report").stdout
    recorded = recording.read_picture(recording.picture("why"))
    first = next(number for number, line in enumerate(recorded) if line.startswith("$ kubectl oneagent why"))
    answers = "\n".join(line for line in recorded[first:] if not line.startswith("$ "))
    missing = words(answers, "shop", "demo") - words(printed, applications.namespace, DYNAKUBE)
    assert missing == set(), "run: .venv/bin/python -m docs.recording why"


def words(text: str, namespace: str, dynakube: str) -> set[str]:
    """The words of a text without those that have numbers, since versions, processes and nodes differ."""
    text = re.sub(rf"\b{re.escape(namespace)}/", "NAMESPACE/", text)
    found = re.sub(rf"\b{re.escape(dynakube)}\b", "DYNAKUBE", text).split()
    return {word for word in found if not re.search(r"\d", word)}


def test_a_pod_is_named_as_in_kubectl(plugin: Plugin, injected: str) -> None:
    namespace, _, pod = injected.partition("/")
    assert plugin.json("why", pod, "-n", namespace)["verdict"]["reason"] == "Monitored"
    assert plugin("why", "deploy/none", "-n", namespace).returncode == 1


def test_a_pod_of_which_the_driver_knows_nothing_is_monitored_if_it_has_the_library(
    plugin: Plugin, kubectl: Kubectl, applications: Applications, injected: str
) -> None:
    """As if the library were in its image: a process of a pod that opted out maps it."""
    pod = manifests.application("own", applications.namespace)
    pod["metadata"]["annotations"] = {"dynatrace.com/inject": "false"}
    program = (
        "import mmap, shutil, time; path = '/tmp/liboneagentproc.so'; "
        "shutil.copy('/bin/true', path); file = open(path); "
        "mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ); time.sleep(1000)"
    )
    pod["spec"]["containers"][0]["command"] = ["python3", "-c", program]
    applications.create(pod)
    ready = ("wait", "pod/own", "--for=condition=Ready", "--timeout=60s")
    kubectl("-n", applications.namespace, *ready, timeout=70)
    verdict = plugin.why(f"{applications.namespace}/own")["verdict"]
    assert verdict["reason"] in ("Monitored", "PartlyMonitored"), verdict


def test_a_pod_that_opted_out_is_told_by_the_annotation(plugin: Plugin, applications: Applications) -> None:
    pod = manifests.application("out", applications.namespace)
    pod["metadata"]["annotations"] = {"dynatrace.com/inject": "false"}
    applications.create(pod)
    verdict = plugin.why(f"{applications.namespace}/out")["verdict"]
    assert verdict["reason"] == "OptedOut"
    assert 'dynatrace.com/inject: "false"' in verdict["sentence"]
    assert plugin("why", f"{applications.namespace}/out").returncode == 1


def test_a_pod_of_a_namespace_that_nobody_selects_is_told_so(
    plugin: Plugin, kubectl: Kubectl, dynakube: str, namespace: str
) -> None:
    kubectl.apply(manifests.application("alone", namespace))
    verdict = plugin.why(f"{namespace}/alone")["verdict"]
    assert verdict["reason"] == "NamespaceNotMonitored"
    assert "give it the labels that a DynaKube selects" in verdict["remedy"]


def test_a_pod_with_an_empty_view_is_told_why_it_is_empty(
    plugin: Plugin, webhook: None, dynatrace: Tenant, namespace: str, apply: Apply, running: Running,
    wait_for: WaitFor,
) -> None:  # fmt: skip
    late, secret = manifests.dynakube("late", dynatrace.api_url, NEVER_RELEASED, max_csi_mount_attempts="1")
    late["spec"]["oneAgent"]["applicationMonitoring"]["namespaceSelector"] = {"matchLabels": {"team": "nobody"}}
    apply(secret, late)
    apply(manifests.pod("early", namespace, "late"))
    running(namespace, "early")
    found = plugin.why(f"{namespace}/early")
    assert found["verdict"]["reason"] == "NoAgentMounted"
    assert "restart the pod" in found["verdict"]["remedy"]

    def told() -> bool:
        return "AgentNotMounted" in [event["reason"] for event in plugin.why(f"{namespace}/early")["events"]]

    wait_for(told, "the Event on the pod is shown too", 60, 1)
    (problem,) = (one for one in plugin.findings() if f"{namespace}/early" in one["sentence"])
    assert problem["check"] == "Nodes"


def test_what_is_broken_is_named_with_what_to_do(
    plugin: Plugin, kubectl: Kubectl, applications: Applications, mended: None, wait_for: WaitFor
) -> None:
    kubectl("-n", NAMESPACE, "scale", "deployment/oneagent-webhook", "--replicas=0")
    kubectl("-n", NAMESPACE, "delete", "secret", DYNAKUBE)
    kubectl("-n", NAMESPACE, "wait", "pod", "-l", "app.kubernetes.io/component=webhook", "--for=delete")
    found = {finding["check"]: finding for finding in plugin.json("status")["problems"]}
    assert {"Deployments", "Tokens"} <= found.keys(), "status knows what doctor knows"
    assert plugin("status").returncode == 1
    found = {finding["check"]: finding for finding in plugin.findings()}
    assert "scaled to 0" in found["Deployments"]["sentence"]
    assert "scale deployment/oneagent-webhook --replicas=2" in found["Deployments"]["remedy"]
    assert f"the Secret {DYNAKUBE} of DynaKube {DYNAKUBE} does not exist" in found["Tokens"]["sentence"]
    assert plugin("doctor").returncode == 1

    applications.create(manifests.application("missed", applications.namespace))
    verdict = plugin.why(f"{applications.namespace}/missed")["verdict"]
    assert verdict["reason"] == "WebhookNotCalled"
    assert "no pod of the webhook is ready" in verdict["sentence"]


def test_a_token_that_the_tenant_rejects_is_named_with_where_it_belongs_and_pods_are_injected_all_the_same(
    plugin: Plugin, kubectl: Kubectl, applications: Applications, mended: None, wait_for: WaitFor
) -> None:
    _, secret = manifests.dynakube(DYNAKUBE, "", VERSION)
    kubectl.apply({**secret, "stringData": {"apiToken": "dt0c01.WRONG.TOKEN"}})

    def told() -> bool:
        return any(
            f"DynaKube {DYNAKUBE}: Tokens: the tenant rejects the token" in problem["sentence"]
            and f"put a valid token into the Secret {DYNAKUBE}" in problem["sentence"]
            for problem in plugin.json("status")["problems"]
        )

    wait_for(told, "the status names the token", 60, 1)
    assert "DynaKubes" in {finding["check"] for finding in plugin.findings()}
    pod = applications.started(manifests.application("meanwhile", applications.namespace))
    assert applications.monitored(pod)


@pytest.fixture
def operator_again(kubectl: Kubectl) -> Iterator[None]:
    """Afterwards the operator runs again."""
    yield
    kubectl("-n", NAMESPACE, "scale", "deployment/oneagent-operator", "--replicas=1")
    kubectl("-n", NAMESPACE, "rollout", "status", "deployment/oneagent-operator", "--timeout=60s", timeout=70)


def test_a_label_that_was_taken_off_by_hand_is_named_by_status_why_and_doctor(
    plugin: Plugin, kubectl: Kubectl, applications: Applications, mended: None, operator_again: None, wait_for: WaitFor
) -> None:
    """Only while operator and webhook are away: either puts it on again at once."""
    for component in ("operator", "webhook"):
        kubectl("-n", NAMESPACE, "scale", f"deployment/oneagent-{component}", "--replicas=0")
    for component in ("operator", "webhook"):
        kubectl("-n", NAMESPACE, "wait", "pod", "-l", f"app.kubernetes.io/component={component}", "--for=delete")
    kubectl("label", "namespace", applications.namespace, f"{namespace_mapping.LABEL}-")
    found = [finding["sentence"] for finding in plugin.json("status")["problems"]]
    assert [
        any(f"oneagent-{name} is scaled to 0" in sentence for sentence in found) for name in ("operator", "webhook")
    ] == [True, True]
    assert any(f"namespace {applications.namespace} belongs to DynaKube" in sentence for sentence in found)
    assert {"Deployments", "Namespaces"} <= {finding["check"] for finding in plugin.findings()}
    applications.create(manifests.application("unlabelled", applications.namespace))
    verdict = plugin.why(f"{applications.namespace}/unlabelled")["verdict"]
    assert (verdict["reason"], "has no label" in verdict["sentence"]) == ("WebhookNotCalled", True)
    began = time.monotonic()
    kubectl("-n", NAMESPACE, "scale", "deployment/oneagent-operator", "--replicas=1")

    def is_labelled() -> bool:
        problems = plugin.json("status")["problems"]
        return not any(problem["check"] == "Namespaces" for problem in problems)

    wait_for(is_labelled, "the operator leads again and labels it", 60, 0.5)
    assert time.monotonic() - began < 25, "its Lease was released"


def test_an_archive_has_what_helps_and_no_secret(
    plugin: Plugin, kubectl: Kubectl, injected: str, tmp_path: Path
) -> None:
    target = tmp_path / "support.tar.gz"
    done = plugin("support-archive", f"--file={target}", f"--pod={injected}")
    assert done.returncode == 0, done.stdout + done.stderr
    with tarfile.open(target) as archive:
        members = {
            member.name.partition("/")[2]: file.read().decode()
            for member in archive.getmembers()
            if (file := archive.extractfile(member)) is not None
        }
    assert '"Monitored"' in members[f"why/{injected}.json"]
    assert any(name.startswith("logs/oneagent-csi-driver-") and name.endswith("/server.log") for name in members)
    assert '"apiToken"' in members["secrets.json"]
    secrets = kubectl.json("-n", NAMESPACE, "get", "secrets")["items"]
    values = {value for secret in secrets for key, value in secret["data"].items() if not key.endswith(".crt")}
    assert base64.b64encode(tenant.TOKEN.encode()).decode() in values
    for name, content in members.items():
        for value in values:
            assert value not in content, name
            assert base64.b64decode(value).decode(errors="replace") not in content, name
