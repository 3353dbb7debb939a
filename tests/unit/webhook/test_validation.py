"""What DynaKubes are refused for, rule by rule: what is said, and what is not said of what is right."""

from __future__ import annotations

import copy
import json
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from oneagent.common.api import fields
from oneagent.webhook import validation
from tests.unit.api.manifests import CASES, Manifest, case
from tests.unit.api.strategies import SWIFTLY, described

URL = "https://abc12345.live.dynatrace.com/api"
FLAG = "metadata.annotations[feature.dynatrace.com/{}]"
WITHOUT_CSI = validation.Known(own_namespace="dynatrace", csi=False, csi_known=True)
UNKNOWN = validation.Known(own_namespace="dynatrace")

MISSING = (
    "The DynaKube's specification is missing the API URL or still has the example value set. "
    "Make sure you correctly specify the URL in your custom resource."
)
INVALID = (
    "The DynaKube's specification has an invalid API URL value set. "
    "Make sure you correctly specify the URL in your custom resource"
)
SEVERAL = "The DynaKube's specification tries to use multiple oneagent modes at the same time, which is not supported. "


def kube(
    spec: Manifest | None = None, name: str = "shop", version: str = fields.NEWEST, **flags: str
) -> dict[str, Any]:
    annotations = {f"feature.dynatrace.com/{flag.replace('_', '-')}": value for flag, value in flags.items()}
    return {
        "apiVersion": f"dynatrace.com/{version}",
        "kind": "DynaKube",
        "metadata": {"name": name, "namespace": "dynatrace", **({"annotations": annotations} if annotations else {})},
        "spec": {"apiUrl": URL, **(spec or {})},
    }


def mode(name: str, **own: Any) -> Manifest:
    return {"oneAgent": {name: own}}


def errors(
    new: Manifest, old: Manifest | None = None, known: validation.Known = UNKNOWN, others: tuple[Manifest, ...] = ()
) -> tuple[str, ...]:
    if others:
        known = validation.Known(own_namespace="dynatrace", dynakubes=others, namespaces=known.namespaces)
    return validation.validate(new, old, known).errors


def only(found: tuple[str, ...]) -> str:
    assert len(found) == 1, found
    return found[0]


class TestTheAnswer:
    def test_names_everything_that_is_wrong_numbered_and_always_in_the_same_order(self) -> None:
        new = kube({"apiUrl": "", "oneAgent": {"hostMonitoring": {"version": "1"}, "classicFullStack": {}}})
        found = errors(new)
        assert validation.message(found).splitlines() == [
            "3 error(s) found in the Dynakube",
            f"1. {MISSING}",
            f"2. {SEVERAL}Make sure that spec.oneAgent has only one of: classicFullStack, hostMonitoring.",
            "3. spec.oneAgent.hostMonitoring.version is '1', which is not a complete version. Make sure that it reads "
            "major.minor.patch.timestamp, such as 1.277.0.20230914-094321.",
        ]
        assert errors(copy.deepcopy(new)) == found

    def test_is_empty_for_what_is_right(self) -> None:
        assert validation.validate(kube(), None, UNKNOWN) == validation.Verdict()

    @pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
    def test_is_the_same_for_a_manifest_and_for_its_newest_form(self, path: Any) -> None:
        """But for short versions, which only old versions of the API took."""
        written, newest = case(path)
        assert errors(written) == tuple(said for said in errors(newest) if "is '1.200.0'" not in said)

    def test_says_for_an_older_version_by_which_names_fields_go(self) -> None:
        new = kube({"codeModules": {"namespaceSelector": {"matchLabels": {"a b": ""}}}}, version="v1alpha1")
        verdict = validation.validate(new, None, UNKNOWN)
        assert "spec.oneAgent.applicationMonitoring.namespaceSelector has the key 'a b'" in only(verdict.errors)
        assert "Fields are named as in v1beta6, which this DynaKube of v1alpha1 amounts to." in verdict.warnings

    def test_is_an_error_in_words_for_what_is_no_dynakube(self) -> None:
        assert "apiVersion is 'apps/v1'" in only(errors({**kube(), "apiVersion": "apps/v1"}))

    def test_tells_what_no_rule_speaks_of_but_nodes_would_refuse(self) -> None:
        said = only(errors(kube({"tokens": "../other"})))
        assert "spec.tokens" in said
        assert "Make sure that spec.tokens is right or left out." in said

    def test_is_never_no_to_a_change_of_something_else(self) -> None:
        wrong = kube({"apiUrl": "nowhere", **mode("hostMonitoring", version="1")})
        labelled = {**wrong, "metadata": {**wrong["metadata"], "labels": {"a": "b"}, "finalizers": []}}
        assert errors(labelled, wrong) == ()
        assert len(errors({**wrong, "spec": {**wrong["spec"], "networkZone": "eu"}}, wrong)) == 2
        assert len(errors(kube(wrong["spec"], no_proxy="a"), wrong)) == 2

    def test_is_never_no_to_the_same_in_another_version(self) -> None:
        old = kube({**mode("hostMonitoring", version="1")}, version="v1beta5")
        assert errors({**old, "apiVersion": "dynatrace.com/v1beta6"}, old) == ()

    @pytest.mark.parametrize("version", fields.VERSIONS)
    @hypothesis.given(data=st.data())
    @hypothesis.settings(SWIFTLY, max_examples=25)
    def test_comes_for_whatever_the_api_server_would_take(self, version: str, data: st.DataObject) -> None:
        new, old, other = data.draw(described(version)), data.draw(described(version)), data.draw(described("v1beta6"))
        before = copy.deepcopy((new, old, other))
        other["metadata"]["name"] = "bank"
        known = validation.Known(
            own_namespace="dynatrace", dynakubes=(other,), namespaces={"shop": {"a": "b"}}, csi_known=True
        )
        verdict = validation.validate(new, old, known)
        assert all("Make sure" in error and error.isprintable() for error in verdict.errors)
        assert all(warning.isprintable() for warning in verdict.warnings)
        before[2]["metadata"]["name"] = "bank"
        assert (new, old, other) == before


@pytest.mark.parametrize(
    ("spec", "missing"),
    [
        ({"apiUrl": None}, True),
        ({"apiUrl": " "}, True),
        ({"apiUrl": "https://ENVIRONMENTID.live.dynatrace.com/api"}, True),
        ({"apiUrl": "https://environmentid.live.dynatrace.com/api"}, True),
        ({"apiUrl": "https://<environment>/api"}, True),
        ({"apiUrl": "https://ENVIRONMENT/api"}, True),
        ({"apiUrl": "https://managed.example.com/e/<your-environment-id>/api"}, True),
        ({"apiUrl": None, **mode("hostMonitoring", codeModulesImage="file:///a.zip")}, True),
        ({"apiUrl": "https://environment.example.com/api"}, False),
        ({"apiUrl": None, **mode("applicationMonitoring", codeModulesImage="file:///a.zip")}, False),
    ],
)
def test_an_api_url_is_needed(spec: Manifest, missing: bool) -> None:
    assert errors(kube(spec)) == ((MISSING,) if missing else ())


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("https://abc12345.live.dynatrace.com", "does not end in /api"),
        ("https://abc12345.live.dynatrace.com/api/v2", "does not end in /api"),
        ("https://abc12345.live.dynatrace.com/rapi", "does not end in /api"),
        ("https://abc12345.live.dynatrace.com/api?a=b", "does not end in /api"),
        ("abc12345.live.dynatrace.com/api", "is not a URL"),
        ("ftp://abc12345.live.dynatrace.com/api", "is not a URL"),
        ("https:///api", "is not a URL"),
        ("https://[::1/api", "is not a URL"),
        ("https://a.example:99999/api", "is not a URL"),
        ("https://a..example/api", "is not a URL"),
        ("https://a b.example/api", "is not a URL"),
        ("https://abc12345/api", "has no domain"),
        ("https://me:secret@abc12345.live.dynatrace.com/api", "must not hold credentials"),
        (URL, ""),
        (f"{URL}/", ""),
        ("https://abc12345.apps.dynatrace.com/api", ""),
        ("https://managed.example.com/e/0a1b2c/api", ""),
        ("https://activegate.dynatrace.svc:9999/e/abc12345/api", ""),
        ("https://10.213.0.1:39209/api", ""),
        ("https://[fd00::1]:9999/e/abc12345/api", ""),
        ("http://127.0.0.1:80/api", ""),
    ],
)
def test_an_api_url_is_that_of_a_tenant(url: str, fault: str) -> None:
    found = errors(kube({"apiUrl": url}))
    if fault:
        said = only(found)
        assert said.startswith(INVALID)
        assert fault in said
        assert "secret" not in said
    else:
        assert found == ()


@pytest.mark.parametrize(
    ("tenant", "url", "changed"),
    [
        ("abc12345", "https://xyz98765.live.dynatrace.com/api", True),
        ("abc12345", "https://gateway.example:9999/e/xyz98765/api", True),
        ("abc12345", "https://gateway.example:9999/e/abc12345/api", False),
        ("ABC12345", "https://abc12345.sprint.dynatracelabs.com/api", False),
        ("abc12345", "https://vanity.example.com/api", False),
        ("abc12345", "https://10.0.0.1/api", False),
        (None, "https://xyz98765.live.dynatrace.com/api", False),
    ],
)
def test_a_dynakube_stays_with_the_tenant_that_it_has(tenant: str | None, url: str, changed: bool) -> None:
    old = kube()
    old["status"] = {"oneAgent": {"connectionInfoStatus": {"tenantUUID": tenant}}}
    found = errors(kube({"apiUrl": url}), old)
    assert bool(found) is changed
    assert all("tenant 'xyz98765'" in said and "delete the DynaKube" in said for said in found)


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("proxy.example:3128", "is not the URL of a proxy"),
        ("socks5://proxy.example:1080", "is not the URL of a proxy"),
        ("http://", "is not the URL of a proxy"),
        ("http://me:geh eim@proxy:3128", "is not the URL of a proxy"),
        ("http://me:geheim%2C%26%27@proxy:3128", "characters that agents cannot read: '&' \"'\" ','."),
        ("http://me:geheim=+@proxy:3128", "characters that agents cannot read: '+' '='."),
        ("http://me:geheim-123!@proxy:3128", ""),
        ("http://proxy", ""),
        ("https://10.0.0.1:3128/", ""),
    ],
)
def test_a_proxy_is_one_that_agents_can_read(proxy: str, said: str) -> None:
    found = errors(kube({"proxy": {"value": proxy}}))
    assert said in only(found) if said else found == ()
    assert "geh" not in "".join(found)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Shop", "is not a DNS-1035 label"),
        ("1shop", "is not a DNS-1035 label"),
        ("shop.eu", "is not a DNS-1035 label"),
        ("shop-", "is not a DNS-1035 label"),
        ("s" * 49, "has 49 characters"),
        ("s" * 48, ""),
        ("s", ""),
    ],
)
def test_a_name_is_one_that_others_can_be_made_from(name: str, said: str) -> None:
    found = errors(kube(name=name))
    assert said in only(found) if said else found == ()


def test_a_name_that_is_there_stays() -> None:
    assert errors(kube({"networkZone": "eu"}, name="s" * 60), kube(name="s" * 60)) == ()


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


@pytest.mark.parametrize("name", fields.MODES)
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


def test_short_versions_are_taken_where_they_always_were() -> None:
    verdict = validation.validate(kube(mode("hostMonitoring", version="1.277.0"), version="v1beta1"), None, UNKNOWN)
    assert verdict.errors == ()
    assert any("pins nothing" in warning for warning in verdict.warnings)


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
def test_images_have_a_reference_that_can_be_read(image: str, readable: bool) -> None:
    found = errors(kube(mode("hostMonitoring", image=image)))
    assert found == () if readable else "spec.oneAgent.hostMonitoring.image is " in only(found)
    found = errors(kube(mode("applicationMonitoring", codeModulesImage=image)))
    assert found == () if readable or image.startswith("file:") else ".codeModulesImage is " in only(found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set-host-group=a", "--set-host-group=b"], "has '--set-host-group' more than once"),
        (["--b=1", "--a", "--b=2", "--a=1"], "has '--a', '--b' more than once"),
        (["--set-host-tag=a", "--set-host-tag=b", "--set-host-property=a=b", "--set-host-property=c=d"], ""),
        (["--proxy", "geheim"], ".args[1] (not shown) does not begin with '--'"),
        (["--set-host-tag=geheim\n"], ".args[0] has a line break"),
        (["--set-host-tag=a=b c"], ""),
    ],
)
def test_arguments_are_unambiguous(arguments: list[str], said: str) -> None:
    found = errors(kube(mode("cloudNativeFullStack", args=arguments)))
    assert said in only(found) if said else found == ()
    assert "geheim" not in "".join(found)


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"requests": {"cpu": "30m", "memory": "30Mi"}, "limits": {"cpu": 1}}, ""),
        ({"requests": {"cpu": "1"}, "limits": {"cpu": "500m"}}, "requests.cpu is more than limits.cpu"),
        ({"limits": {"nvidia.com/gpu": 1}}, "limits has 'nvidia.com/gpu'"),
        ({"requests": {"memory": "-1"}}, "requests.memory is '-1'"),
        ({"claims": [{"name": "gpu"}]}, "claims is there"),
    ],
)
def test_resources_of_init_containers_are_such_as_pods_can_have(resources: Manifest, said: str) -> None:
    found = errors(kube(mode("applicationMonitoring", initResources=resources)))
    assert said in only(found) if said else found == ()


@pytest.mark.parametrize("character", ["\n", "\t", "\r", "\0", "\x1b", ""])
def test_texts_for_configuration_files_stay_on_their_line(character: str) -> None:
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
    ("own", "known", "missing"),
    [
        ({"useCSIDriver": True}, WITHOUT_CSI, True),
        ({"useCSIDriver": True}, UNKNOWN, False),
        ({"useCSIDriver": True}, validation.Known(own_namespace="dynatrace", csi=True, csi_known=True), False),
        ({"useCSIDriver": False}, WITHOUT_CSI, False),
        ({}, WITHOUT_CSI, False),
    ],
)
def test_the_csi_driver_is_there_if_it_is_asked_for(
    name: str, own: Manifest, known: validation.Known, missing: bool
) -> None:
    found = errors(kube(mode(name, **own)), known=known)
    assert "CSI driver" in only(found) if missing else found == ()


@pytest.mark.parametrize(
    ("flag", "spec", "known", "said"),
    [
        ("true", mode("applicationMonitoring"), WITHOUT_CSI, "it is not installed"),
        ("true", mode("cloudNativeFullStack", useCSIDriver=False), UNKNOWN, "useCSIDriver is false"),
        ("true", mode("applicationMonitoring"), UNKNOWN, ""),
        ("true", mode("hostMonitoring"), WITHOUT_CSI, ""),
        ("false", mode("applicationMonitoring"), WITHOUT_CSI, ""),
    ],
)
def test_read_only_volumes_come_from_the_csi_driver(
    flag: str, spec: Manifest, known: validation.Known, said: str
) -> None:
    found = errors(kube(spec, injection_readonly_volume=flag), known=known)
    assert said in only(found) if said else found == ()


@pytest.mark.parametrize(
    ("flag", "spec", "said"),
    [
        ("true", mode("applicationMonitoring"), "spec.oneAgent.applicationMonitoring.codeModulesImage names none"),
        ("true", mode("cloudNativeFullStack", codeModulesImage="file:///a.zip"), "codeModulesImage names none"),
        ("true", mode("applicationMonitoring", codeModulesImage="registry.example/agent:1"), ""),
        ("true", mode("hostMonitoring"), ""),
        ("false", mode("applicationMonitoring"), ""),
    ],
)
def test_nodes_can_only_pull_an_image_that_is_named(flag: str, spec: Manifest, said: str) -> None:
    found = errors(kube(spec, node_image_pull=flag))
    assert said in only(found) if said else found == ()


@pytest.mark.parametrize(
    ("flag", "value", "form"),
    [
        ("automatic-injection", "yes", '"true" or "false"'),
        ("automatic-injection", "True", ""),
        ("max-csi-mount-attempts", "-1", "a number from 0"),
        ("max-csi-mount-attempts", "3", ""),
        ("max-csi-mount-timeout", "10 minutes", "a duration such as"),
        ("max-csi-mount-timeout", "1h30m", ""),
        ("oneagent-max-unavailable", "0", "a number from 1"),
        ("oneagent-max-unavailable", "101%", "1% to 100%"),
        ("oneagent-max-unavailable", "25%", ""),
        ("oneagent-initial-connect-retry-ms", "1.5", "milliseconds"),
        ("oneagent-initial-connect-retry-ms", "-1", ""),
        ("injection-failure-policy", "loud", '"silent" or "fail"'),
        ("injection-failure-policy", "fail", ""),
        ("injection-failure-policy", "", ""),
        ("activegate-updates", "whatever", ""),
        ("no-proxy", "a.example,*.b.example", ""),
    ],
)
def test_feature_flags_have_a_value_that_means_something(flag: str, value: str, form: str) -> None:
    found = errors(kube({}, "shop", fields.NEWEST, **{flag: value}))
    assert form in only(found) and FLAG.format(flag) in only(found) if form else found == ()


def test_feature_flags_with_the_old_prefix_are_checked_as_well() -> None:
    new = kube(version="v1beta6")
    new["metadata"]["annotations"] = {"alpha.operator.dynatrace.com/feature-automatic-injection": "no"}
    assert "feature-automatic-injection] is 'no'" in only(errors(new))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("^prod-.*", "is not a JSON list of texts"),
        ('{"a": 1}', "is not a JSON list of texts"),
        ("[1]", "is not a JSON list of texts"),
        ("[" * 100_000, "is not a JSON list of texts"),
        ('["^a$", "(", "("]', "has a pattern that cannot be used: '('"),
        ('["(a+)+(a+)+(a+)+$"]', "has a pattern that cannot be used"),
        (json.dumps(["a"] * 201), "has 201 patterns"),
        ('["^prod-.*", "^test$"]', ""),
        ("[]", ""),
    ],
)
def test_ignored_namespaces_are_a_list_of_patterns(value: str, said: str) -> None:
    found = errors(kube(ignored_namespaces=value))
    assert said in only(found) if said else found == ()


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ({"matchExpressions": [{"key": "a", "operator": "In"}]}, "matchExpressions[0].values"),
        ({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}, "must be left out with Exists"),
        ({"matchLabels": {"a b": "c"}}, "has the key 'a b', which no label can have"),
        ({"matchLabels": {"Example.com/a": "c"}}, "which no label can have"),
        ({"matchLabels": {"a": "-b"}}, "has the value '-b' for 'a', which no label can have"),
        ({"matchLabels": {"a": "b" * 64}}, "which no label can have"),
        ({"matchLabels": {"example.com/a": "", "b_c.d": "E-f"}}, ""),
        ({}, ""),
    ],
)
def test_selectors_can_select_something(selector: Manifest, said: str) -> None:
    for spec in (
        mode("applicationMonitoring", namespaceSelector=selector),
        {"metadataEnrichment": {"enabled": True, "namespaceSelector": selector}},
    ):
        found = errors(kube(spec))
        assert said in only(found) if said else found == ()
    if "matchLabels" in selector:
        found = errors(kube(mode("classicFullStack", nodeSelector=selector["matchLabels"])))
        assert said in only(found) if said else found == ()


EU, US = {"zone": "eu"}, {"zone": "us"}


@pytest.mark.parametrize(
    ("mine", "other", "conflict"),
    [
        (mode("hostMonitoring"), mode("classicFullStack"), True),
        (mode("hostMonitoring", nodeSelector=EU), mode("cloudNativeFullStack", nodeSelector=EU), True),
        (mode("hostMonitoring", nodeSelector=EU), mode("hostMonitoring"), True),
        (mode("hostMonitoring", nodeSelector=EU), mode("hostMonitoring", nodeSelector=EU | {"a": "b"}), True),
        (mode("hostMonitoring", nodeSelector=EU), mode("hostMonitoring", nodeSelector=US), False),
        (mode("hostMonitoring", nodeSelector=EU), mode("hostMonitoring", nodeSelector={"disk": "ssd"}), False),
        (mode("hostMonitoring"), mode("applicationMonitoring"), False),
        (mode("hostMonitoring"), {}, False),
    ],
)
def test_a_node_has_one_host_agent(mine: Manifest, other: Manifest, conflict: bool) -> None:
    others = (kube(other, name="bank"), kube(mine))
    found = errors(kube(mine), others=others)
    assert "has the host agent" not in str(found)
    assert "the DynaKube 'bank'" in only(found) if conflict else found == ()
    assert errors(kube(mine, multiple_osagents_on_node="true"), others=others) == ()


def injecting(selector: Manifest | None = None) -> Manifest:
    return mode("applicationMonitoring", **({"namespaceSelector": selector} if selector else {}))


def labels(**found: str) -> Manifest:
    return {"matchLabels": found}


ENRICHING = {"metadataEnrichment": {"enabled": True, "namespaceSelector": labels(zone="eu")}}
NAMESPACES = {
    "a": {"zone": "eu", "team": "shop"},
    "b": {"zone": "eu"},
    "c": {"zone": "eu", "team": "shop"},
    "d": {"zone": "eu", "team": "shop"},
    "e": {"zone": "eu", "team": "shop"},
    "kube-system": {"zone": "us", "team": "shop"},
}


@pytest.mark.parametrize(
    ("mine", "other", "said"),
    [
        (injecting(), injecting(), "selects namespaces that the DynaKube 'bank' selects too"),
        (injecting(labels(zone="eu")), injecting(), "selects namespaces (a, b, c and 2 more) that"),
        (injecting(labels(zone="asia")), injecting(labels(zone="asia")), "selects namespaces that"),
        (injecting(labels(zone="asia")), injecting(labels(zone="asia", team="shop")), "selects namespaces that"),
        (injecting(labels(zone="eu")), injecting(labels(team="shop")), "selects namespaces (a, c, d and 1 more) that"),
        (injecting(labels(zone="us")), injecting(labels(team="shop")), ""),
        (injecting(labels(zone="eu")), injecting(labels(zone="us")), ""),
        (injecting(labels(zone="eu")), ENRICHING, "selects namespaces (a, b, c and 2 more) that"),
        (ENRICHING, injecting(labels(zone="us")), ""),
        (injecting(), mode("hostMonitoring"), ""),
        (injecting(), injecting({"matchExpressions": [{"key": "a", "operator": "In"}]}), ""),
    ],
)
def test_a_namespace_has_one_dynakube(mine: Manifest, other: Manifest, said: str) -> None:
    known = validation.Known(own_namespace="dynatrace", namespaces=NAMESPACES if "(" in said or not said else None)
    found = errors(kube(mine), known=known, others=(kube(other, name="bank"), kube(mine)))
    assert said in only(found) if said else found == ()


def test_namespaces_may_be_parted_by_what_each_dynakube_ignores() -> None:
    mine = kube(injecting(), ignored_namespaces='["^prod-"]')
    other = kube(injecting(), name="bank", ignored_namespaces='["^test-"]')
    known = validation.Known(own_namespace="dynatrace", namespaces={"prod-a": {}, "test-a": {}})
    assert errors(mine, known=known, others=(other,)) == ()
    known = validation.Known(own_namespace="dynatrace", namespaces={"prod-a": {}, "shop": {}})
    assert "namespaces (shop) that the DynaKube 'bank'" in only(errors(mine, known=known, others=(other,)))


@pytest.mark.parametrize(
    ("new", "warnings"),
    [
        (kube({"networkZon": "a"}), ["spec.networkZon is not a field of v1beta6: nothing here reads it."]),
        (kube({"line\nbreak": 1}), ["'spec.line\\nbreak' is not a field of v1beta6: nothing here reads it."]),
        (
            kube({"namespaceSelector": {}}),
            ["spec.namespaceSelector is not a field of v1beta6: it is one of v1beta1."],
        ),
        (kube({"namespaceSelector": {}}, version="v1beta1"), []),
        (
            kube({f"a{number}": 1 for number in range(12)}),
            [
                *(f"spec.a{number} is not a field of v1beta6: nothing here reads it." for number in range(10)),
                "2 more fields are unknown, too.",
            ],
        ),
        (
            kube(mode("hostMonitoring", autoUpdate=True), version="v1beta5"),
            [
                "spec.oneAgent.hostMonitoring.autoUpdate is deprecated: Deprecated. Whether host agents are updated to "
                "the tenant's newest version."
            ],
        ),
        (
            kube({"activeGate": {"capabilities": []}, "logMonitoring": {}, "enableIstio": True}),
            [
                "spec.activeGate is kept, but nothing here acts on it: it belongs to ActiveGate.",
                "spec.enableIstio is kept, but nothing here acts on it.",
            ],
        ),
        (
            kube({"apiUrl": "http://127.0.0.1/api"}),
            ["spec.apiUrl begins with http: tokens go over the network for everybody to read."],
        ),
        (
            kube({"proxy": {"value": "http://me:pass@proxy:3128"}}),
            ["spec.proxy.value holds a password, which whoever reads DynaKubes can read: use spec.proxy.valueFrom."],
        ),
        (
            kube(no_porxy="a"),
            [
                f"{FLAG.format('no-porxy')} is a feature flag that nobody knows: feature.dynatrace.com/no-proxy may be "
                "meant."
            ],
        ),
        (
            kube(zzz="a"),
            [f"{FLAG.format('zzz')} is a feature flag that nobody knows: it has no effect."],
        ),
        (
            kube(metadata_enrichment="true"),
            [f"{FLAG.format('metadata-enrichment')} is deprecated: use spec.metadataEnrichment.enabled in its place."],
        ),
        (kube(metadata_enrichment="true", version="v1beta1"), []),
        (
            kube(activegate_updates="true"),
            [f"{FLAG.format('activegate-updates')} is kept, but nothing here acts on it."],
        ),
    ],
)
def test_what_is_allowed_but_better_said_is_a_warning(new: Manifest, warnings: list[str]) -> None:
    assert validation.validate(new, None, UNKNOWN) == validation.Verdict((), tuple(warnings))
