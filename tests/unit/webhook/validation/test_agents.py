"""Rules about agents: modes, versions, images, arguments and the CSI driver."""

from __future__ import annotations

import pytest

from oneagent.common.dynakube.api import fields
from oneagent.common.dynakube.mode import MODES
from oneagent.webhook import validation
from tests.unit.common.dynakube.api.manifests import Manifest
from tests.unit.webhook.validation.dynakubes import FLAG, SEVERAL, UNKNOWN, errors, kube, mode, only

WITHOUT_CSI = validation.ClusterState(own_namespace="dynatrace", has_csi_driver=False, is_csi_driver_known=True)


@pytest.mark.parametrize(
    ("version", "spec", "on"),
    [
        ("v1beta6", {"oneAgent": {"hostMonitoring": {}, "applicationMonitoring": {"version": ""}}}, True),
        ("v1beta6", {"oneAgent": {"hostMonitoring": {}, "applicationMonitoring": None}}, False),
        ("v1alpha1", {"classicFullStack": {"enabled": True}, "infraMonitoring": {"enabled": True}}, True),
        ("v1alpha1", {"codeModules": {"enabled": True}, "infraMonitoring": {"enabled": True}}, False),
        ("v1alpha1", {"classicFullStack": {"enabled": False}, "infraMonitoring": {"enabled": True}}, False),
    ],
)
def test_there_is_one_mode_at_most(version: str, spec: Manifest, on: bool) -> None:
    found = errors(kube(spec, version=version))
    assert found == () if not on else only(found).startswith(SEVERAL)


@pytest.mark.parametrize(("length", "accepted"), [(48, True), (49, False)])
def test_a_name_leaves_room_for_the_names_of_pods(length: int, accepted: bool) -> None:
    found = errors(kube(name="s" * length))
    assert found == () if accepted else "has 49 characters, too many" in only(found)


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize(
    ("version", "complete"),
    [
        ("1.277.0.20230914-094321", True),
        ("", True),
        ("1.277.0", False),
        ("1.277.0.20230914", False),
        ("v1.277.0.20230914-094321", False),
        ("latest", False),
    ],
)
def test_versions_are_complete(name: str, version: str, complete: bool) -> None:
    found = errors(kube(mode(name, version=version)))
    assert found == () if complete else f"spec.oneAgent.{name}.version is '{version}'" in only(found)
    if name in fields.INJECTING_MODES and not complete:
        assert ".codeModulesVersion is " in only(errors(kube(mode(name, codeModulesVersion=version))))


def test_old_api_versions_accept_short_versions() -> None:
    result = validation.validate(kube(mode("hostMonitoring", version="1.277.0"), version="v1beta1"), None, UNKNOWN)
    assert result.errors == ()
    assert any("pins nothing" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("image", "readable"),
    [
        ("registry.example/linux/oneagent:1.277.0", True),
        ("oneagent", True),
        ("localhost:5000/a__b/c-d.e", True),
        ("[fd00::1]:5000/oneagent", True),
        (f"registry.example/oneagent:1@sha256:{'a' * 64}", True),
        ("https://registry.example/oneagent", False),
        ("registry.example/OneAgent", False),
        ("registry.example/oneagent:", False),
        ("registry.example/oneagent@sha256:abc", False),
        ("registry.example/one agent", False),
        ("file:///opt/agent.zip", False),
        ("a/" * 300 + "a", False),
    ],
)
def test_an_image_is_a_valid_reference(image: str, readable: bool) -> None:
    found = errors(kube(mode("hostMonitoring", image=image)))
    assert found == () if readable else "spec.oneAgent.hostMonitoring.image is " in only(found)
    found = errors(kube(mode("applicationMonitoring", codeModulesImage=image)))
    assert found == () if readable or image.startswith("file:") else ".codeModulesImage is " in only(found)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("oci-layout:/data/images/agent", ""),
        ("oci-layout:/data/images/agent:1.277", ""),
        (f"oci-layout:/data/images/agent@sha256:{'a' * 64}", ""),
        ("oci-layout:data/agent", "the path must be absolute, without '..', ':' and '@'"),
        ("oci-layout:///data/agent", "the path must be absolute"),
        ("oci-layout:/data/../etc", "the path must be absolute"),
        ("oci-layout:/data:", "the image's name must consist of letters"),
        ("oci-layout:/data@sha256:abc", "the digest must be sha256: and 64 lower-case hex digits"),
    ],
)
def test_an_image_in_a_directory_has_a_valid_path(image: str, why: str) -> None:
    found = errors(kube(mode("applicationMonitoring", codeModulesImage=image)))
    if why:
        assert f"codeModulesImage is '{image}', which is not an image in a directory: {why}" in only(found)
        assert "Make sure that it reads oci-layout:/absolute/path" in only(found)
    else:
        assert found == ()
    assert "hostMonitoring.image is " in only(errors(kube(mode("hostMonitoring", image=image))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set-host-group=a", "--set-host-group=b"], "has '--set-host-group' more than once"),
        (["--b=1", "--a", "--b=2", "--a=1"], "has '--a', '--b' more than once"),
        (["--set-host-tag=a", "--set-host-tag=b", "--set-host-property=a=b", "--set-host-property=c=d"], ""),
        (["ONEAGENT_ENABLE_VOLUME_STORAGE=true", "--set-host-tag=a"], ""),
        (["HOST_GROUP=a", "HOST_GROUP=b"], "has 'HOST_GROUP' more than once"),
        (["--set-host-tag=geheim\n"], ".args[0] has a line break"),
        (["--set-host-tag=a=b c"], ""),
    ],
)
def test_arguments_are_unambiguous(arguments: list[str], message: str) -> None:
    found = errors(kube(mode("cloudNativeFullStack", args=arguments)))
    assert message in only(found) if message else found == ()
    assert "geheim" not in "".join(found)


@pytest.mark.parametrize(
    ("arguments", "doubtful"),
    [
        (["--proxy", "geheim"], [1]),
        (["-geheim", "geheim=", "=geheim", "--", "a b=geheim"], [0, 2, 3, 4]),
        (["APP_LOG_CONTENT_ACCESS=1", "--set-app-log-content-access=true", "--help", "app.log=geheim"], []),
    ],
)
def test_an_argument_in_neither_form_is_a_warning(arguments: list[str], doubtful: list[int]) -> None:
    found = validation.validate(kube(mode("hostMonitoring", args=arguments)), None, UNKNOWN)
    assert found.errors == ()
    assert [warning.partition(" ")[0] for warning in found.warnings] == [
        f"spec.oneAgent.hostMonitoring.args[{number}]" for number in doubtful
    ]
    assert "geheim" not in "".join(found.warnings)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"requests": {"cpu": "30m", "memory": "30Mi"}, "limits": {"cpu": 1}}, ""),
        ({"requests": {"cpu": "1"}, "limits": {"cpu": "500m"}}, "requests.cpu is more than limits.cpu"),
        ({"limits": {"nvidia.com/gpu": 1}}, "limits has 'nvidia.com/gpu'"),
        ({"requests": {"memory": "-1"}}, "requests.memory is '-1'"),
        ({"claims": [{"name": "gpu"}]}, "claims is not allowed"),
    ],
)
def test_resources_of_init_containers_are_valid(resources: Manifest, message: str) -> None:
    enrichment = {"metadataEnrichment": {"enabled": True, "initResources": resources}}
    for spec in (mode("applicationMonitoring", initResources=resources), enrichment):
        found = errors(kube(spec))
        assert message in only(found) if message else found == ()


@pytest.mark.parametrize("character", ["\n", "\t", "\r", "\0", "\x1b", ""])
def test_text_for_configuration_files_is_one_line(character: str) -> None:
    text = f"eu{character}rope"
    for path, new in (
        ("spec.networkZone", kube({"networkZone": text})),
        ("spec.oneAgent.hostGroup", kube({"oneAgent": {"hostGroup": text}})),
        (FLAG.format("no-proxy"), kube(no_proxy=text)),
    ):
        found = errors(new)
        assert only(found).startswith(f"{path} has a line break") if character else found == ()


@pytest.mark.parametrize("name", fields.INJECTING_MODES)
@pytest.mark.parametrize(
    ("own", "cluster", "missing"),
    [
        ({"useCSIDriver": True}, WITHOUT_CSI, True),
        ({"useCSIDriver": True}, UNKNOWN, False),
        (
            {"useCSIDriver": True},
            validation.ClusterState(own_namespace="dynatrace", has_csi_driver=True, is_csi_driver_known=True),
            False,
        ),
        ({"useCSIDriver": False}, WITHOUT_CSI, False),
        ({}, WITHOUT_CSI, False),
    ],
)
def test_the_csi_driver_is_installed_if_required(
    name: str, own: Manifest, cluster: validation.ClusterState, missing: bool
) -> None:
    found = errors(kube(mode(name, **own)), cluster=cluster)
    assert "CSI driver" in only(found) if missing else found == ()


@pytest.mark.parametrize(
    ("flag", "spec", "cluster", "message"),
    [
        ("true", mode("applicationMonitoring"), WITHOUT_CSI, "it is not installed"),
        ("true", mode("cloudNativeFullStack", useCSIDriver=False), UNKNOWN, "useCSIDriver is false"),
        ("true", mode("applicationMonitoring"), UNKNOWN, ""),
        ("true", mode("hostMonitoring"), WITHOUT_CSI, ""),
        ("false", mode("applicationMonitoring"), WITHOUT_CSI, ""),
    ],
)
def test_read_only_volumes_come_from_the_csi_driver(
    flag: str, spec: Manifest, cluster: validation.ClusterState, message: str
) -> None:
    found = errors(kube(spec, injection_readonly_volume=flag), cluster=cluster)
    assert message in only(found) if message else found == ()


@pytest.mark.parametrize(
    ("flag", "spec", "message"),
    [
        ("true", mode("applicationMonitoring"), "spec.oneAgent.applicationMonitoring.codeModulesImage names no image"),
        ("true", mode("cloudNativeFullStack", codeModulesImage="file:///a.zip"), "codeModulesImage names no image"),
        ("true", mode("cloudNativeFullStack", codeModulesImage="oci-layout:/a"), "codeModulesImage names no image"),
        ("true", mode("applicationMonitoring", codeModulesImage="registry.example/agent:1"), ""),
        ("true", mode("hostMonitoring"), ""),
        ("false", mode("applicationMonitoring"), ""),
    ],
)
def test_nodes_can_only_pull_a_named_image(flag: str, spec: Manifest, message: str) -> None:
    found = errors(kube(spec, node_image_pull=flag))
    assert message in only(found) if message else found == ()


@pytest.mark.parametrize("flag", ["public_registry", "use_public_registry"])
def test_nodes_can_pull_an_image_that_a_public_registry_names(flag: str) -> None:
    assert errors(kube(mode("applicationMonitoring"), node_image_pull="true", **{flag: "true"})) == ()
    assert errors(kube(mode("applicationMonitoring"), node_image_pull="true", **{flag: "false"}))
    local = mode("applicationMonitoring", codeModulesImage="file:///a.zip")
    assert errors(kube(local, node_image_pull="true", **{flag: "true"}))


def test_nodes_pull_no_image_without_the_driver() -> None:
    new = kube(mode("applicationMonitoring", codeModulesImage="registry.example/agent:1"), node_image_pull="true")
    sentence = f"{FLAG.format('node-image-pull')} is true, but images need the CSI driver, which is not installed"
    result = validation.validate(new, None, WITHOUT_CSI)
    assert result.errors == ()
    assert any(warning.startswith(sentence) for warning in result.warnings)
    assert not any(warning.startswith(sentence) for warning in validation.validate(new, None, UNKNOWN).warnings)


@pytest.mark.parametrize(
    ("image", "policy", "told"),
    [
        ("registry.example/agent:1", "Never", True),
        (f"registry.example/agent@sha256:{'1' * 64}", "Never", False),
        ("oci-layout:/srv/images:agent", "Never", False),
        ("registry.example/agent:1", "IfNotPresent", False),
    ],
)
def test_an_image_that_is_never_pulled_needs_its_digest(image: str, policy: str, told: bool) -> None:
    section = mode("cloudNativeFullStack", codeModulesImage=image, codeModulesImagePullPolicy=policy)
    result = validation.validate(kube(section), None, UNKNOWN)
    assert result.errors == ()
    assert [warning.partition(", ")[0] for warning in result.warnings] == (
        ["spec.oneAgent.cloudNativeFullStack.codeModulesImagePullPolicy is Never"] if told else []
    )


@pytest.mark.parametrize(
    ("spec", "flags", "named"),
    [
        ({}, {"use_public_registry": "true"}, FLAG.format("use-public-registry")),
        ({}, {"public_registry": "true"}, FLAG.format("public-registry")),
        ({"publicRegistryOverride": "public.ecr.aws"}, {}, "spec.publicRegistryOverride"),
        (
            {"publicRegistryOverride": "public.ecr.aws"},
            {"use_public_registry": "true"},
            f"{FLAG.format('use-public-registry')} and spec.publicRegistryOverride",
        ),
        ({}, {"use_public_registry": "false"}, ""),
    ],
)
@pytest.mark.parametrize("name", MODES)
def test_classic_agents_come_from_no_public_registry(
    name: str, spec: Manifest, flags: dict[str, str], named: str
) -> None:
    found = errors(kube({**spec, **mode(name)}, **flags))
    if named and name == "classicFullStack":
        assert only(found).startswith(f"{named} cannot be used with classicFullStack")
    else:
        assert found == ()


def test_a_registry_that_is_not_used_is_told() -> None:
    spec = {"publicRegistryOverride": "public.ecr.aws", **mode("applicationMonitoring")}
    assert validation.validate(kube(spec), None, UNKNOWN).warnings == (
        f"spec.publicRegistryOverride has no effect: {FLAG.format('use-public-registry')} is not true.",
    )
    assert validation.validate(kube(spec, use_public_registry="true"), None, UNKNOWN).warnings == ()
    wrong = kube({**spec, "publicRegistryOverride": "https://public.ecr.aws"}, use_public_registry="true")
    assert "spec.publicRegistryOverride is 'https://public.ecr.aws'" in only(errors(wrong))
