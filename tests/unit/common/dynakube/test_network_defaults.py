"""Proxy and CA bundle of DynaKubes that name none."""

from __future__ import annotations

from typing import Any

import pytest

from oneagent.common import dynakube, flags
from oneagent.common.dynakube import network_defaults
from oneagent.common.dynakube.network_defaults import NO_DEFAULTS, NetworkDefaults
from oneagent.common.http.client import InvalidSettingsError
from oneagent.common.tenant import inputs

DEFAULTS = NetworkDefaults("http://proxy.example.com:3128", "", ".example.com", "company")


def kube(**spec: Any) -> dynakube.DynaKube:
    metadata = {"name": "shop", "annotations": spec.pop("annotations", {})}
    spec = {"apiUrl": "https://abc.live.dynatrace.com/api", "oneAgent": {"applicationMonitoring": {}}, **spec}
    return dynakube.from_object(
        {"apiVersion": "dynatrace.com/v1beta6", "kind": "DynaKube", "metadata": metadata, "spec": spec}
    )


def parse(*arguments: str) -> NetworkDefaults:
    parser = flags.create_parser("test", "Test.")
    network_defaults.add_flags(flags.adder(parser))
    return network_defaults.from_flags(parser.parse_args(list(arguments)))


def test_a_dynakube_that_names_none_has_the_defaults_as_its_own() -> None:
    found = DEFAULTS.apply(kube())
    assert ("ConfigMap", "company") in inputs.named_objects(found), "nodes may read it"
    objects = inputs.Inputs({("ConfigMap", "company"): {"certs": "PEM"}})
    settings = inputs.http_settings(found, objects)
    assert (settings.proxy, settings.no_proxy, settings.trusted_cas) == (
        "http://proxy.example.com:3128",
        (".example.com",),
        "PEM",
    )


def test_what_a_dynakube_names_precedes_the_defaults() -> None:
    own = kube(proxy={"valueFrom": "own"}, trustedCAs="own")
    assert DEFAULTS.apply(own) == own
    assert NO_DEFAULTS.apply(kube()) == kube()


def test_hosts_that_a_dynakube_reaches_directly_stay_so_with_the_default_proxy() -> None:
    found = DEFAULTS.apply(kube(annotations={"feature.dynatrace.com/no-proxy": "tenant.internal"}))
    assert found.no_proxy == "tenant.internal,.example.com"


def test_a_default_that_is_missing_is_an_error_and_no_way_around_it() -> None:
    found = NetworkDefaults(proxy_secret="company-proxy").apply(kube())
    with pytest.raises(InvalidSettingsError, match="the Secret company-proxy does not exist"):
        inputs.http_settings(found, inputs.Inputs())


def test_a_password_is_not_taken_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--default-proxy=http://user:secret@proxy.example.com")
    assert "--default-proxy-secret" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse("--default-proxy=proxy.example.com")
    assert parse("--default-trusted-cas=company") == NetworkDefaults(trusted_cas="company")
    assert parse() == NO_DEFAULTS
