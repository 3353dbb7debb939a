"""Rules about API URL, proxy and name."""

from __future__ import annotations

import pytest

from tests.unit.common.dynakube.api.manifests import Manifest
from tests.unit.webhook.validation.dynakubes import MISSING, URL, errors, kube, mode, only

INVALID = (
    "The DynaKube's specification has an invalid API URL value set. "
    "Make sure you correctly specify the URL in your custom resource"
)


@pytest.mark.parametrize(
    ("spec", "missing"),
    [
        ({"apiUrl": None}, True),
        ({"apiUrl": " "}, True),
        ({"apiUrl": "https://ENVIRONMENTID.live.dynatrace.com/api"}, True),
        ({"apiUrl": "https://environmentid.live.dynatrace.com/api"}, True),
        ({"apiUrl": "https://YOUR_ENVIRONMENT_ID.live.dynatrace.com/api"}, True),
        ({"apiUrl": "https://<environment>/api"}, True),
        ({"apiUrl": "https://ENVIRONMENT/api"}, True),
        ({"apiUrl": "https://managed.example.com/e/<your-environment-id>/api"}, True),
        ({"apiUrl": None, **mode("hostMonitoring", codeModulesImage="file:///a.zip")}, True),
        ({"apiUrl": "https://environment.example.com/api"}, False),
        ({"apiUrl": None, **mode("applicationMonitoring", codeModulesImage="file:///a.zip")}, False),
        ({"apiUrl": None, **mode("applicationMonitoring", codeModulesImage="oci-layout:/a:1")}, False),
    ],
)
def test_an_api_url_is_required(spec: Manifest, missing: bool) -> None:
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
        ("https://me:secret@abc12345.live.dynatrace.com/api", "must not contain credentials"),
        (URL, ""),
        (f"{URL}/", ""),
        ("https://my-activegate/e/0a1b2c/api", ""),
        ("https://my-activegate:9999/e/0a1b2c/api/", ""),
        ("https://localhost/api", ""),
        ("https://apps.example.com/e/0a1b2c/api", ""),
        ("https://abc12345.apps.example.com/api", ""),
        ("https://apps.live.dynatrace.com/api", ""),
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
        message = only(found)
        assert message.startswith(INVALID)
        assert fault in message
        assert "secret" not in message
    else:
        assert found == ()


@pytest.mark.parametrize(
    ("host", "right"),
    [
        ("abc12345.apps.dynatrace.com", "abc12345.live.dynatrace.com"),
        ("ABC12345.Apps.Dynatrace.com", "abc12345.live.dynatrace.com"),
        ("abc12345.apps.dynatrace.com.", "abc12345.live.dynatrace.com"),
        ("abc12345.apps.dynatrace.com:443", "abc12345.live.dynatrace.com"),
        ("abc12345.sprint.apps.dynatracelabs.com", "abc12345.sprint.dynatracelabs.com"),
    ],
)
@pytest.mark.parametrize("path", ["/api", "", "/", "/ui/api/"])
def test_the_url_of_the_third_generations_interface_is_told_from_that_of_the_api(
    host: str, right: str, path: str
) -> None:
    message = only(errors(kube({"apiUrl": f"https://{host}{path}"})))
    assert "serves browsers and has no API for agents" in message
    assert f"reads https://{right}/api." in message


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
def test_a_dynakube_cannot_change_its_tenant(tenant: str | None, url: str, changed: bool) -> None:
    old = kube()
    old["status"] = {"oneAgent": {"connectionInfoStatus": {"tenantUUID": tenant}}}
    found = errors(kube({"apiUrl": url}), old)
    assert bool(found) is changed
    assert all("tenant 'xyz98765'" in message and "delete the DynaKube" in message for message in found)


@pytest.mark.parametrize(
    ("proxy", "message"),
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
def test_a_proxy_is_one_that_agents_can_read(proxy: str, message: str) -> None:
    found = errors(kube({"proxy": {"value": proxy}}))
    assert message in only(found) if message else found == ()
    assert "geh" not in "".join(found)


@pytest.mark.parametrize(
    ("name", "message"),
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
def test_a_name_fits_into_names_of_pods(name: str, message: str) -> None:
    found = errors(kube(name=name))
    assert message in only(found) if message else found == ()


def test_an_existing_name_is_not_checked() -> None:
    assert errors(kube({"networkZone": "eu"}, name="s" * 60), kube(name="s" * 60)) == ()
