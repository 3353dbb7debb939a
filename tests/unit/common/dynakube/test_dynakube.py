from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from oneagent.common import dynakube
from oneagent.common.oci import reference as oci_reference

VERSION = "1.277.0.20230914-094321"


def manifest(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "dynatrace.com/v1beta6",
        "kind": "DynaKube",
        "metadata": {"name": "prod", "namespace": "dynatrace", "uid": "u-1", "generation": 3},
        "spec": {
            "apiUrl": "https://abc12345.live.dynatrace.com/api",
            "oneAgent": {"cloudNativeFullStack": {}},
            **spec,
        },
    }


def annotated(**flags: Any) -> dict[str, Any]:
    obj = manifest()
    prefix = "feature.dynatrace.com/"
    obj["metadata"]["annotations"] = {prefix + name.replace("_", "-"): v for name, v in flags.items()}
    return obj


def test_a_short_dynakube_gets_the_documented_defaults() -> None:
    found = dynakube.from_object(manifest())
    assert (found.name, found.namespace, found.uid, found.generation) == ("prod", "dynatrace", "u-1", 3)
    assert found.mode == "cloudNativeFullStack"
    assert found.needs_views
    assert found.needs_host_directory
    assert {found.decided_version, found.pinned_version, found.tenant, found.package_file} == {None}
    assert found.technologies == ("all",)
    assert found.tokens_secret == "prod"
    assert (found.mount_attempts, found.mount_timeout_seconds) == (10, 600.0)
    assert (found.request_threshold_minutes, found.poll_seconds) == (15, 900.0)
    assert not found.skip_cert_check
    assert found.warnings == ()


def test_every_field_that_concerns_a_node_is_read() -> None:
    obj = manifest(
        networkZone="zone-1",
        proxy={"value": "http://user:hunter2@proxy:3128", "valueFrom": "proxy-secret"},
        trustedCAs="our-cas",
        skipCertCheck=True,
        tokens="our-tokens",
        dynatraceApiRequestThreshold=5,
        oneAgent={
            "hostGroup": "group-1",
            "applicationMonitoring": {
                "codeModulesVersion": VERSION,
                "codeModulesImage": "registry.local/agent:1",
            },
        },
    )
    obj["metadata"]["annotations"] = {
        "oneagent.dynatrace.com/technologies": "java, nginx,java",
        "feature.dynatrace.com/no-proxy": "10.0.0.0/8",
        "feature.dynatrace.com/max-csi-mount-attempts": "3",
        "feature.dynatrace.com/max-csi-mount-timeout": "1m30s",
        "feature.dynatrace.com/poll-interval": "30s",
    }
    obj["status"] = {
        "codeModules": {"version": VERSION, "imageID": "registry.local/agent@sha256:00"},
        "oneAgent": {"connectionInfoStatus": {"tenantUUID": "abc12345", "endpoints": "https://a:443;https://b"}},
    }
    found = dynakube.from_object(obj)
    assert found.mode == "applicationMonitoring"
    assert found.needs_views
    assert not found.needs_host_directory
    assert found.decided_version == found.pinned_version == VERSION
    assert (found.package, found.image_id) == ("registry.local/agent:1", "registry.local/agent@sha256:00")
    assert found.technologies == ("java", "nginx")
    assert (found.network_zone, found.host_group) == ("zone-1", "group-1")
    assert (found.proxy_secret, found.no_proxy) == ("proxy-secret", "10.0.0.0/8")
    assert (found.trusted_cas, found.skip_cert_check, found.tokens_secret) == ("our-cas", True, "our-tokens")
    assert (found.tenant, found.endpoints) == ("abc12345", "https://a:443;https://b")
    assert (found.mount_attempts, found.mount_timeout_seconds) == (3, 90.0)
    assert (found.request_threshold_minutes, found.poll_seconds) == (5, 30.0)
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("mode", "views", "host"),
    [
        ("applicationMonitoring", True, False),
        ("cloudNativeFullStack", True, True),
        ("hostMonitoring", False, True),
        ("classicFullStack", False, False),
    ],
)
def test_the_mode_says_what_the_node_has_to_offer(mode: str, views: bool, host: bool) -> None:
    found = dynakube.from_object(manifest(oneAgent={mode: {}}))
    assert (found.mode, found.needs_views, found.needs_host_directory) == (mode, views, host)


def test_a_dynakube_without_agent_has_no_mode() -> None:
    found = dynakube.from_object(manifest(oneAgent=None))
    assert (found.mode, found.needs_views, found.needs_host_directory) == ("none", False, False)


@pytest.mark.parametrize("version", [f"v1beta{number}" for number in range(2, 7)])
def test_newer_versions_ask_for_csi_by_their_mode_alone(version: str) -> None:
    obj = manifest(oneAgent={"applicationMonitoring": {}}) | {"apiVersion": f"dynatrace.com/{version}"}
    assert dynakube.from_object(obj).needs_views


@pytest.mark.parametrize(("asked", "views"), [({}, False), ({"useCSIDriver": True}, True)])
def test_v1beta1_asks_for_csi_explicitly(asked: dict[str, bool], views: bool) -> None:
    obj = manifest(oneAgent={"applicationMonitoring": asked}) | {"apiVersion": "dynatrace.com/v1beta1"}
    assert dynakube.from_object(obj).needs_views is views


@pytest.mark.parametrize(
    ("sections", "mode"),
    [
        ({"classicFullStack": {}}, "classicFullStack"),
        ({"classicFullStack": {"enabled": True}, "infraMonitoring": {"enabled": False}}, "classicFullStack"),
        ({"infraMonitoring": {"enabled": True}}, "hostMonitoring"),
        ({"codeModules": {"enabled": True}}, "applicationMonitoring"),
        ({"codeModules": {"enabled": True}, "infraMonitoring": {"enabled": True}}, "cloudNativeFullStack"),
    ],
)
def test_v1alpha1_has_its_modes_below_spec(sections: dict[str, Any], mode: str) -> None:
    obj = manifest(oneAgent={"version": VERSION}, **sections) | {"apiVersion": "dynatrace.com/v1alpha1"}
    obj["status"] = {"connectionInfo": {"tenantUUID": "abc12345"}}
    found = dynakube.from_object(obj)
    assert found.mode == mode
    assert found.pinned_version == (VERSION if found.needs_views else None)
    assert found.tenant == "abc12345"


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ("on", "spec.codeModules"),
        ({"enabled": "true"}, "spec.codeModules.enabled"),
    ],
)
def test_a_mode_of_v1alpha1_that_is_neither_on_nor_off_is_refused(section: Any, field: str) -> None:
    obj = manifest(oneAgent=None, codeModules=section) | {"apiVersion": "dynatrace.com/v1alpha1"}
    with pytest.raises(dynakube.DynaKubeError) as caught:
        dynakube.from_object(obj)
    assert caught.value.field == field


def test_the_flag_that_became_a_field_is_read_from_an_old_object_without_kind() -> None:
    obj: dict[str, Any] = manifest() | {"apiVersion": "dynatrace.com/v1beta1"}
    del obj["kind"]
    obj["metadata"]["annotations"] = {"feature.dynatrace.com/dynatrace-api-request-threshold": "20"}
    assert dynakube.from_object(obj).request_threshold_minutes == 20


def test_flags_are_found_under_their_old_names_too() -> None:
    obj = manifest()
    old = "alpha.operator.dynatrace.com/feature-"
    obj["metadata"]["annotations"] = {
        old + "max-csi-mount-attempts": "4",
        "feature.dynatrace.com/dynatrace-api-request-threshold": "20",
    }
    found = dynakube.from_object(obj)
    assert (found.mount_attempts, found.request_threshold_minutes) == (4, 20)


def test_the_host_group_of_an_older_manifest_is_found_among_the_arguments() -> None:
    arguments = ["--set-proxy=x", "--set-host-group=old-group"]
    found = dynakube.from_object(manifest(oneAgent={"cloudNativeFullStack": {"args": arguments}}))
    assert found.host_group == "old-group"


@pytest.mark.parametrize("value", ["-1", "ten", "1.5", "", "99999999999999999999", "1e3", "٣"])
def test_impossible_mount_attempts_fall_back_with_a_warning(value: str) -> None:
    found = dynakube.from_object(annotated(max_csi_mount_attempts=value))
    assert found.mount_attempts == 10
    assert len(found.warnings) == bool(value)
    assert all("max-csi-mount-attempts" in warning and "10 is used" in warning for warning in found.warnings)


@pytest.mark.parametrize("value", ["-1m", "soon", "10", "9" * 400 + "h", "0s" * 100_000])
def test_an_impossible_mount_timeout_falls_back_with_a_warning(value: str) -> None:
    found = dynakube.from_object(annotated(max_csi_mount_timeout=value))
    assert found.mount_timeout_seconds == 600.0
    assert "max-csi-mount-timeout" in found.warnings[0]


@pytest.mark.parametrize("value", [-1, "often", 10**30, True, 1.5])
def test_an_impossible_request_threshold_falls_back_with_a_warning(value: object) -> None:
    found = dynakube.from_object(manifest(dynatraceApiRequestThreshold=value))
    assert (found.request_threshold_minutes, len(found.warnings)) == (15, 1)


@pytest.mark.parametrize(
    ("value", "policy"), [("", "wait-then-last-good"), ("wait", "wait"), ("last-good", "last-good"), ("fail", "fail")]
)
def test_pods_wait_and_then_get_the_last_good_version_by_default(value: str, policy: str) -> None:
    found = dynakube.from_object(annotated(mount_policy=value))
    assert (found.mount_policy, found.warnings) == (policy, ())


@pytest.mark.parametrize(
    ("value", "policy"),
    [("", "Always"), ("Always", "Always"), ("IfNotPresent", "IfNotPresent"), ("Never", "Never"), ("never", "Always")],
)
def test_tags_are_followed_unless_another_pull_policy_is_named(value: str, policy: str) -> None:
    section = {"codeModulesImage": "registry.example/agent:1", "codeModulesImagePullPolicy": value}
    found = dynakube.from_object(manifest(oneAgent={"applicationMonitoring": section}))
    assert found.pull_policy == policy
    assert bool(found.warnings) == (value == "never")


def test_an_unknown_mount_policy_is_the_default_with_a_warning() -> None:
    found = dynakube.from_object(annotated(mount_policy="best"))
    assert found.mount_policy == "wait-then-last-good"
    listed = "wait-then-last-good, wait, last-good, fail"
    assert found.warnings == (f"mount-policy is 'best': not one of {listed}; wait-then-last-good is used",)


def test_zero_mount_attempts_are_a_number_like_any_other() -> None:
    assert dynakube.from_object(annotated(max_csi_mount_attempts="0")).mount_attempts == 0


def test_a_version_without_build_time_pins_nothing_and_is_warned_about() -> None:
    found = dynakube.from_object(manifest(oneAgent={"applicationMonitoring": {"version": "1.277.0"}}))
    assert found.pinned_version is None
    assert "spec.oneAgent.applicationMonitoring.version" in found.warnings[0]


def test_a_package_may_be_a_local_file_and_then_needs_no_tenant() -> None:
    package = {"codeModulesImage": "file:///srv/agents/agent%20x.zip"}
    obj = manifest(apiUrl="", oneAgent={"applicationMonitoring": package})
    assert dynakube.from_object(obj).package_file == Path("/srv/agents/agent x.zip")


def test_a_package_may_be_an_image_in_a_folder_and_then_needs_neither_tenant_nor_registry() -> None:
    package = {"codeModulesImage": "oci-layout:/srv/agents:1.2"}
    found = dynakube.from_object(manifest(apiUrl="", oneAgent={"applicationMonitoring": package}))
    assert found.image_layout == oci_reference.LayoutReference(Path("/srv/agents"), "1.2")
    assert (found.is_local, found.image, found.package_file) == (True, None, None)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"metadata": {"name": "Prod"}}, ["metadata.name", "'Prod'", "DNS-1035"]),
        ({"metadata": {"name": "../../etc"}}, ["metadata.name"]),
        ({"metadata": {"name": "a" * 64}}, ["metadata.name"]),
        ({"metadata": {}}, ["metadata.name", "missing"]),
        ({"kind": "EdgeConnect"}, ["kind", "'EdgeConnect'"]),
        ({"apiVersion": "v1"}, ["apiVersion", "'v1'"]),
        ({"spec": None}, ["spec.apiUrl", "missing"]),
        ({"spec": "text"}, ["spec", "mapping"]),
    ],
)
def test_an_error_names_the_field_the_value_and_the_remedy(change: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(dynakube.DynaKubeError) as caught:
        dynakube.from_object(manifest() | change)
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"apiUrl": "https://abc/e/x"}, "spec.apiUrl"),
        ({"apiUrl": "ftp://abc/api"}, "spec.apiUrl"),
        ({"apiUrl": "https://[abc/api"}, "spec.apiUrl"),
        ({"apiUrl": "https://abc:99999/api"}, "spec.apiUrl"),
        ({"apiUrl": "https:///api"}, "spec.apiUrl"),
        ({"networkZone": "a\n[general]\ntenant evil"}, "spec.networkZone"),
        ({"networkZone": 7}, "spec.networkZone"),
        ({"trustedCAs": "../x"}, "spec.trustedCAs"),
        ({"skipCertCheck": "false"}, "spec.skipCertCheck"),
        ({"oneAgent": {"hostMonitoring": {}, "applicationMonitoring": {}}}, "spec.oneAgent"),
        ({"oneAgent": {"applicationMonitoring": {"version": "latest"}}}, "applicationMonitoring.version"),
        (
            {"oneAgent": {"applicationMonitoring": {"codeModulesImage": "file://host/a.zip"}}},
            "codeModulesImage",
        ),
        (
            {"oneAgent": {"applicationMonitoring": {"codeModulesImage": "file:///../a.zip"}}},
            "codeModulesImage",
        ),
        (
            {"oneAgent": {"applicationMonitoring": {"codeModulesImage": "file:///a%00.zip"}}},
            "codeModulesImage",
        ),
        (
            {"oneAgent": {"applicationMonitoring": {"codeModulesImage": "oci-layout:/a/../b"}}},
            "codeModulesImage",
        ),
    ],
)
def test_a_field_that_would_do_harm_is_refused(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(dynakube.DynaKubeError, match=field.replace(".", r"\.")):
        dynakube.from_object(manifest(**spec))


@pytest.mark.parametrize("version", ["../../etc", ".", "..", "a/b", "a\x00b", "-rf"])
def test_a_wanted_version_that_is_no_folder_name_is_refused(version: str) -> None:
    with pytest.raises(dynakube.DynaKubeError, match=r"status\.codeModules\.version"):
        dynakube.from_object(manifest() | {"status": {"codeModules": {"version": version}}})


@pytest.mark.parametrize(
    "spec",
    [
        {"tokens": "dt0c01.HUNTER2"},
        {"tokens": {"apiToken": "HUNTER2"}},
        {"proxy": "http://user:HUNTER2@proxy"},
        {"proxy": {"value": "http://user:HUNTER2@proxy\n"}},
        {"proxy": {"value": "http://user:HUNTER2@pr\toxy"}},
        {"proxy": {"valueFrom": "http://user:HUNTER2@proxy"}},
        {"oneAgent": {"cloudNativeFullStack": "HUNTER2"}},
        {"apiUrl": "https://user:HUNTER2@abc/api"},
        {"apiUrl": "https://user:HUNTER2@[abc/api\t."},
    ],
)
def test_a_secret_that_was_put_into_the_wrong_field_is_not_repeated(spec: dict[str, Any]) -> None:
    try:
        shown = repr(dynakube.from_object(manifest(**spec)))
    except dynakube.DynaKubeError as error:
        shown = str(error)
    assert "HUNTER2" not in shown


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=6,
)
_PATHS = [
    "apiVersion", "kind", "metadata", "metadata.name", "metadata.namespace", "metadata.uid",
    "metadata.generation", "metadata.annotations", "spec", "spec.apiUrl", "spec.proxy", "spec.proxy.value",
    "spec.proxy.valueFrom", "spec.tokens", "spec.trustedCAs", "spec.skipCertCheck", "spec.networkZone",
    "spec.oneAgent", "spec.oneAgent.hostGroup", "spec.oneAgent.cloudNativeFullStack",
    "spec.oneAgent.cloudNativeFullStack.args", "spec.oneAgent.cloudNativeFullStack.version",
    "spec.oneAgent.cloudNativeFullStack.codeModulesImage", "spec.oneAgent.cloudNativeFullStack.enabled",
    "spec.classicFullStack", "spec.codeModules", "spec.dynatraceApiRequestThreshold", "status",
    "status.codeModules", "status.codeModules.version", "status.codeModules.imageID", "status.oneAgent",
    "status.oneAgent.connectionInfoStatus.tenantUUID",
]  # fmt: skip
_FLAGS = st.sampled_from(
    ["feature.dynatrace.com/" + flag for flag in ("max-csi-mount-attempts", "max-csi-mount-timeout", "no-proxy")]
    + ["feature.dynatrace.com/poll-interval", "oneagent.dynatrace.com/technologies"]
)
_URLS = st.text(alphabet="htpsfile:/[]@%?#.0a\u2100", max_size=30)


def _set(obj: dict[str, Any], path: str, value: object) -> None:
    *way, last = path.split(".")
    here: Any = obj
    for key in way:
        if not isinstance(here.get(key), dict):
            here[key] = {}
        here = here[key]
    here[last] = value


@hypothesis.given(st.dictionaries(st.text(), _JUNK, max_size=4))
@hypothesis.settings(max_examples=100, deadline=None)
def test_nothing_but_a_dynakube_error_comes_of_any_object(obj: dict[str, Any]) -> None:
    with pytest.raises(dynakube.DynaKubeError):
        dynakube.from_object(obj)


@hypothesis.given(
    st.dictionaries(st.sampled_from(_PATHS), _JUNK | _URLS, max_size=3),
    st.dictionaries(_FLAGS, _JUNK, max_size=3),
)
@hypothesis.settings(max_examples=400, deadline=None)
def test_whatever_a_field_holds_the_result_is_safe_or_a_dynakube_error(
    changes: dict[str, object], flags: dict[str, object]
) -> None:
    obj = copy.deepcopy(manifest())
    obj["metadata"]["annotations"] = flags
    for path, value in changes.items():
        _set(obj, path, value)
    try:
        found = dynakube.from_object(obj)
    except dynakube.DynaKubeError as error:
        assert str(error)
        return
    assert hash(found.package_file) is not None
    assert all("/" not in part and not part.startswith(".") for part in (found.name, found.tokens_secret))
    assert found.mount_attempts >= 0
    assert 0 <= found.mount_timeout_seconds < float("inf")
    assert found.poll_seconds >= 0
    for text in (found.network_zone, found.host_group, found.no_proxy, found.proxy, *found.technologies):
        assert text.isprintable()


class TestTheKeyOfImages:
    FLAG = "feature.dynatrace.com/code-modules-image-key"
    PEM = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"

    def obj(self, value: Any, flag: str = FLAG) -> dict[str, Any]:
        obj = manifest()
        obj["metadata"]["annotations"] = {flag: value}
        return obj

    @pytest.mark.parametrize("value", [PEM, f"{PEM}\n{PEM}", "image-keys"])
    @pytest.mark.parametrize("flag", [FLAG, "alpha.operator.dynatrace.com/feature-code-modules-image-key"])
    def test_is_pem_or_the_name_of_a_secret(self, value: str, flag: str) -> None:
        assert dynakube.from_object(self.obj(f"{value}\n", flag)).image_key == value

    def test_is_asked_for_only_where_it_is_given(self) -> None:
        assert dynakube.from_object(manifest()).image_key == ""

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ("", "has to be public keys in PEM form, or the name of a Secret whose entry cosign.pub has them"),
            (None, "has to be public keys in PEM form"),
            ("Image Keys", "has to be public keys in PEM form"),
            ("../keys", "has to be public keys in PEM form"),
            (f"{PEM} and more", "is not a list of public keys in PEM form"),
            ("-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----", "has a private key in it"),
        ],
    )
    def test_never_passes_for_none_if_it_is_wrong(self, value: Any, said: str) -> None:
        with pytest.raises(dynakube.DynaKubeError) as caught:
            dynakube.from_object(self.obj(value))
        assert said in str(caught.value)
        assert f"metadata.annotations[{self.FLAG}]" in str(caught.value)
        assert "c2VjcmV0" not in str(caught.value)


def test_a_tenants_identity_is_its_address_and_how_its_server_is_checked() -> None:
    def identity(**spec: Any) -> tuple[str, ...]:
        return dynakube.from_object(manifest(**spec)).tenant_identity

    same = [identity(), identity(networkZone="zone"), identity(proxy={"value": "http://proxy.example:3128"})]
    assert set(same) == {identity()}
    others: list[dict[str, Any]] = [
        {"apiUrl": "https://other.example/api"},
        {"skipCertCheck": True},
        {"trustedCAs": "company"},
        {"skipCertCheck": True, "trustedCAs": "company"},
    ]
    assert len({identity(), *(identity(**spec) for spec in others)}) == 4


PUBLIC = f"public.ecr.aws/dynatrace/dynatrace-codemodules:1.327.30@sha256:{'1' * 64}"


def public(mode: str = "applicationMonitoring", source: str = "public-registry", **section: str) -> dict[str, Any]:
    obj = annotated(use_public_registry="true")
    obj["spec"]["oneAgent"] = {mode: section}
    obj["status"] = {"codeModules": {"imageID": PUBLIC, "source": source}}
    return obj


class TestAPublicRegistry:
    def test_has_the_package_that_the_operator_has_decided(self) -> None:
        found = dynakube.from_object(public())
        assert (found.package, str(found.image)) == (PUBLIC, PUBLIC)
        assert found.uses_public_registry

    @pytest.mark.parametrize("source", ["tenant", "custom-image", ""])
    def test_is_waited_for_until_the_operator_has_decided(self, source: str) -> None:
        assert dynakube.from_object(public(source=source)).package == ""

    def test_comes_after_an_image_of_the_user(self) -> None:
        assert dynakube.from_object(public(codeModulesImage="registry.example/a:1")).package == "registry.example/a:1"

    def test_is_nothing_to_a_dynakube_that_does_not_want_it(self) -> None:
        obj = public()
        del obj["metadata"]["annotations"]
        assert dynakube.from_object(obj).package == ""

    @pytest.mark.parametrize("mode", ["hostMonitoring", "classicFullStack"])
    def test_has_no_package_where_nothing_is_injected(self, mode: str) -> None:
        found = dynakube.from_object(public(mode))
        assert (found.package, found.uses_public_registry) == ("", mode == "hostMonitoring")

    @pytest.mark.parametrize("host", ["public.ecr.aws", "registry-1.docker.io", "registry.example:5000"])
    def test_may_be_chosen_by_its_host(self, host: str) -> None:
        assert dynakube.from_object(manifest(publicRegistryOverride=host)).public_registry == host

    @pytest.mark.parametrize("host", ["https://public.ecr.aws", "public.ecr.aws/dynatrace", "-a", "a b", "a:b"])
    def test_is_refused_if_it_is_no_host(self, host: str) -> None:
        with pytest.raises(dynakube.DynaKubeError, match=r"spec\.publicRegistryOverride is .*: must be the host"):
            dynakube.from_object(manifest(publicRegistryOverride=host))
