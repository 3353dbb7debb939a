"""What containers and service accounts may do, as the manifests say it, and that it is no more than meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml
from deploy import generate

from oneagent.operator.reconcilers import node_access
from tests.cluster import rbac
from tests.e2e import least_privilege

_PLUGIN: Final = "/var/lib/kubelet/plugins/csi.oneagent.dynatrace.com"
_PODS: Final = "/var/lib/kubelet/pods"
_FOLDERS: Final = {
    "server": {(_PLUGIN, ""), (f"{_PLUGIN}/data", ""), (_PODS, "Bidirectional"), ("/proc", "read-only")},
    "provisioner": {(f"{_PLUGIN}/data", ""), (_PODS, "HostToContainer, read-only")},
    "registrar": {(_PLUGIN, "read-only"), ("/var/lib/kubelet/plugins_registry", "")},
    "livenessprobe": {(_PLUGIN, "read-only")},
}
"""What containers see of the host, by container; the others see nothing."""
_TOKENS: Final = {"provisioner", "operator", "webhook"}
_READING: Final = {"get", "list", "watch"}

Container = tuple[dict[str, Any], dict[str, Any]]


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.load_all((generate.CRD.parent / f"{name}.yaml").read_text(), yaml.CSafeLoader))


@pytest.fixture(scope="module", params=["kubernetes", "openshift"])
def shipped(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return manifests(request.param)


@pytest.fixture(scope="module")
def containers(shipped: list[dict[str, Any]]) -> dict[str, Container]:
    """By name, with their pods."""
    return {container["name"]: (pod, container) for pod in _pods(shipped) for container in _containers(pod)}


@pytest.fixture(scope="module")
def grants(shipped: list[dict[str, Any]]) -> frozenset[rbac.Grant]:
    return rbac.granted(shipped)


def _pods(shipped: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for manifest in shipped:
        if manifest["kind"] in ("DaemonSet", "Deployment"):
            yield manifest["spec"]["template"]["spec"]


def _containers(pod: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (*pod.get("initContainers", ()), *pod["containers"])


def test_only_the_server_is_privileged(containers: dict[str, Container]) -> None:
    for name, (_, container) in containers.items():
        own = dict(container["securityContext"])
        assert own.pop("readOnlyRootFilesystem")
        if name == "server":
            assert own == {"privileged": True}
            continue
        added = own["capabilities"].pop("add", [])
        assert own == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert added == (["DAC_OVERRIDE", "FOWNER"] if name == "provisioner" else [])


def test_only_the_driver_is_root(containers: dict[str, Container]) -> None:
    for name, (pod, _) in containers.items():
        own = pod["securityContext"]
        assert own["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["runAsNonRoot"] is (name not in _FOLDERS)


def test_no_pod_shares_anything_of_its_node(containers: dict[str, Container]) -> None:
    for pod, container in containers.values():
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & pod.keys()
        assert not [port for port in container.get("ports", ()) if "hostPort" in port]


def test_containers_see_of_the_host_what_they_need(containers: dict[str, Container]) -> None:
    seen = {}
    for name, (pod, container) in containers.items():
        volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
        folders = set()
        for mount in container.get("volumeMounts", ()):
            if path := volumes[mount["name"]].get("hostPath", {}).get("path"):
                how = [mount["mountPropagation"]] if "mountPropagation" in mount else []
                folders.add((path, ", ".join([*how, *(["read-only"] if mount.get("readOnly") else [])])))
        seen[name] = folders
    assert {name: folders for name, folders in seen.items() if folders} == _FOLDERS


def test_only_who_talks_to_the_api_server_has_a_token(
    shipped: list[dict[str, Any]], containers: dict[str, Container]
) -> None:
    accounts = {one["metadata"]["name"]: one for one in shipped if one["kind"] == "ServiceAccount"}
    found = set()
    for name, (pod, container) in containers.items():
        account = accounts[pod["serviceAccountName"]]
        projected = {
            volume["name"]
            for volume in pod.get("volumes", ())
            for source in volume.get("projected", {}).get("sources", ())
            if "serviceAccountToken" in source
        }
        automatic = pod.get("automountServiceAccountToken", account.get("automountServiceAccountToken", True))
        if automatic or projected & {mount["name"] for mount in container.get("volumeMounts", ())}:
            found.add(name)
    assert found == _TOKENS


def test_no_role_gives_more_of_itself(grants: frozenset[rbac.Grant]) -> None:
    """Nor what is as good: programs in pods, tokens, certificates, the way around the API server."""
    assert not {grant.verb for grant in grants} & {"escalate", "bind", "impersonate", "approve", "sign"}
    subresources = {grant.resource for grant in grants if "/" in grant.resource}
    assert subresources == {"dynakubes/status", "customresourcedefinitions/status"}
    assert not {grant.resource for grant in grants} & {"serviceaccounts", "certificatesigningrequests"}
    roles = {grant for grant in grants if grant.group == "rbac.authorization.k8s.io"}
    assert {(_account(grant), grant.verb, grant.resource, grant.namespace, grant.name) for grant in roles} == {
        ("oneagent-operator", verb, "roles", "dynatrace", node_access.ROLE) for verb in ("get", "patch")
    }


def test_no_role_can_delete_collections(grants: frozenset[rbac.Grant]) -> None:
    verbs = {"get", "list", "watch", "create", "update", "patch", "delete", "use"}
    assert {grant.verb for grant in grants} <= verbs


def test_host_agents_have_no_rights(grants: frozenset[rbac.Grant]) -> None:
    theirs = {grant for grant in grants if grant.user.endswith(":dynatrace-dynakube-oneagent")}
    assert {grant.verb for grant in theirs} <= {"use"}


def test_secrets_are_read_by_who_needs_them(grants: frozenset[rbac.Grant]) -> None:
    own, certificates = "dynatrace", "oneagent-webhook-certs"
    injection, pull = "oneagent-injection", "oneagent-image-pull"
    assert {
        (_account(grant), grant.verb, grant.namespace, grant.name) for grant in grants if grant.resource == "secrets"
    } == {
        ("oneagent-webhook", "list", own, certificates),
        ("oneagent-webhook", "watch", own, certificates),
        # Those that DynaKubes name, by users' names.
        ("oneagent-webhook", "get", own, ""),
        *(
            ("oneagent-operator", verb, own, "")
            for verb in ("get", "list", "watch", "create", "update", "patch", "delete")
        ),
        # A policy holds it to the names.
        ("oneagent-operator", "create", "", ""),
        *(("oneagent-operator", verb, "", name) for verb in ("patch", "delete") for name in (injection, pull)),
    }


def test_nodes_read_what_the_operator_writes_into_one_role(shipped: list[dict[str, Any]]) -> None:
    """With rules in the manifest, an upgrade would take away those of the operator."""
    named = {one["kind"]: one for one in shipped if one["metadata"]["name"] == node_access.ROLE}
    assert named.keys() == {"Role", "RoleBinding"}
    assert "rules" not in named["Role"]
    assert [subject["name"] for subject in named["RoleBinding"]["subjects"]] == ["oneagent-csi-driver"]


def test_the_operator_may_do_what_it_grants_to_nodes(grants: frozenset[rbac.Grant]) -> None:
    """The API server refuses it otherwise."""
    objects: list[tuple[Any, str]] = [("Secret", "shop"), ("ConfigMap", "authorities")]
    own = {grant for grant in grants if (_account(grant), grant.namespace) == ("oneagent-operator", "dynatrace")}
    held = {(grant.resource, grant.verb) for grant in own if not grant.name}
    rules = node_access.build_rules(objects)
    assert {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]} <= held


def test_outside_of_their_namespace_they_write_what_is_listed_here(grants: frozenset[rbac.Grant]) -> None:
    written = {
        (_account(grant), grant.verb, grant.resource, grant.name)
        for grant in grants
        if grant.namespace != "dynatrace" and grant.verb not in _READING and grant.resource != "secrets"
    }
    operator, definition = "oneagent-operator", "dynakubes.dynatrace.com"
    assert written == {
        ("oneagent-csi-driver", "create", "events", ""),
        ("oneagent-webhook", "create", "events", ""),
        (operator, "create", "events", ""),
        (operator, "create", "tokenreviews", ""),
        (operator, "patch", "namespaces", ""),
        (operator, "patch", "nodes", ""),
        (operator, "patch", "mutatingwebhookconfigurations", "oneagent-webhook"),
        (operator, "patch", "validatingwebhookconfigurations", "oneagent-webhook"),
        (operator, "patch", "customresourcedefinitions", definition),
        (operator, "patch", "customresourcedefinitions/status", definition),
        (operator, "update", "dynakubes", ""),
    }


def test_rights_that_no_test_can_prove_are_still_granted() -> None:
    """Otherwise they need no exception."""
    granted = {(grant.verb, grant.resource) for grant in rbac.granted(manifests("openshift"))}
    assert granted >= least_privilege.NEVER_CALLED.keys()


def _account(grant: rbac.Grant) -> str:
    return grant.user.rpartition(":")[2]
