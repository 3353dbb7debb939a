"""Rules about the Secrets of proxy and tokens."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from oneagent.webhook import validation
from tests.unit.common.dynakube.api.manifests import Manifest
from tests.unit.webhook.validation.dynakubes import errors, kube, only

PROXY: Manifest = {"proxy": {"valueFrom": "corp-proxy"}}
UNREADABLE = "has a password that agents cannot read: it must have none of space ' ` , & = + % \\."


def cluster(**secrets: Mapping[str, str] | None) -> validation.ClusterState:
    found = {name.replace("_", "-"): content for name, content in secrets.items()}
    return validation.ClusterState(own_namespace="dynatrace", secrets=found)


def warnings(new: Manifest, state: validation.ClusterState) -> tuple[str, ...]:
    return validation.validate(new, None, state).warnings


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({}, "has nothing at the key proxy: put the proxy's URL there."),
        ({"proxy": ""}, "has nothing at the key proxy: put the proxy's URL there."),
        ({"Proxy": "http://proxy:3128"}, "has nothing at the key proxy: put the proxy's URL there."),
        ({"proxy": "proxy:3128/geheim"}, "has no URL of a proxy at the key proxy: it must read http://proxy.example"),
        ({"proxy": "http://me:geheim@proxy\n"}, "has no URL of a proxy at the key proxy: it must read http://proxy.ex"),
        ({"proxy": "http://me:geheim%2C@proxy:3128"}, UNREADABLE),
    ],
)
def test_a_proxys_secret_that_agents_cannot_use_is_refused_and_not_shown(
    content: Mapping[str, str], fault: str
) -> None:
    found = only(errors(kube(PROXY), cluster=cluster(corp_proxy=content)))
    assert found.startswith(f"spec.proxy.valueFrom is 'corp-proxy': this Secret {fault}")
    assert "geheim" not in found


@pytest.mark.parametrize("url", ["http://proxy:3128", "https://me:pa%24ss@proxy.example:3128", "http://[fd00::1]"])
def test_a_proxys_secret_that_agents_can_use_is_accepted(url: str) -> None:
    result = validation.validate(kube(PROXY), None, cluster(corp_proxy={"proxy": url}, shop={"apiToken": "t"}))
    assert result == validation.ValidationResult()


def test_a_proxys_secret_that_does_not_exist_yet_is_a_warning() -> None:
    state = cluster(corp_proxy=None)
    assert errors(kube(PROXY), cluster=state) == ()
    assert only(warnings(kube(PROXY), state)) == (
        "spec.proxy.valueFrom is 'corp-proxy': this Secret does not exist yet in the namespace 'dynatrace'. Create it "
        "with the proxy's URL at the key proxy; until then the tenant is not polled."
    )


def test_a_secret_that_could_not_be_read_is_left_to_the_operator() -> None:
    assert validation.validate(kube(PROXY), None, cluster()) == validation.ValidationResult()


def test_a_proxy_in_the_dynakube_comes_before_the_secret() -> None:
    new = kube({"proxy": {"value": "http://proxy:3128", "valueFrom": "corp-proxy"}})
    assert validation.secret_names(new, "dynatrace") == ["shop"]
    assert errors(new, cluster=cluster(corp_proxy={})) == ()


def test_a_paas_token_in_use_is_a_warning() -> None:
    sentence = (
        "The Secret 'shop' has paasToken, which is used and deprecated: give apiToken the scope InstallerDownload and "
        "remove paasToken."
    )
    assert warnings(kube(), cluster(shop={"apiToken": "a", "paasToken": "geheim"})) == (sentence,)
    assert warnings(kube({"tokens": "own"}), cluster(own={"paasToken": "geheim"})) == (sentence.replace("shop", "own"),)
    assert warnings(kube(), cluster(shop={"apiToken": "a", "paasToken": ""})) == ()
    assert warnings(kube(), cluster(shop=None)) == ()


def test_a_change_of_labels_is_accepted_with_a_wrong_secret() -> None:
    assert errors(kube(PROXY), kube(PROXY), cluster(corp_proxy={})) == ()


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ({}, ["shop"]),
        (PROXY, ["corp-proxy", "shop"]),
        ({"tokens": "own"}, ["own"]),
        ({"apiUrl": None}, []),
        ({"apiUrl": None, **PROXY}, ["corp-proxy"]),
        ({"tokens": "oneagent-webhook-ca", "proxy": {"valueFrom": "oneagent-webhook-certs"}}, []),
        ({"tokens": "../configmaps/x", "proxy": {"valueFrom": "a/b"}}, []),
        ({"tokens": 7}, ["shop"]),
        ({"proxy": "x"}, []),
    ],
)
def test_only_secrets_that_the_rules_need_are_read(spec: Manifest, names: list[str]) -> None:
    assert validation.secret_names(kube(spec), "dynatrace") == names


def test_no_secret_is_read_for_a_dynakube_of_another_namespace() -> None:
    assert validation.secret_names(kube(PROXY), "other") == []


def test_older_versions_name_the_same_secrets() -> None:
    assert validation.secret_names(kube(PROXY, version="v1beta1"), "dynatrace") == ["corp-proxy", "shop"]


def test_secrets_are_in_no_representation() -> None:
    assert "geheim" not in repr(cluster(shop={"paasToken": "geheim"}))
