"""Names of images, and what goes by them: mirrors, allow-lists, pull secrets."""

from __future__ import annotations

import base64
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneagent.common.http import client as http_client
from oneagent.common.oci import hosts, pull_secret
from oneagent.common.oci import reference as oci_reference

DIGEST = "sha256:" + "0123456789abcdef" * 4


class TestAReference:
    @pytest.mark.parametrize(
        ("text", "meant"),
        [
            ("agent", "docker.io/library/agent:latest"),
            ("team/agent:1.2", "docker.io/team/agent:1.2"),
            ("docker.io/agent", "docker.io/library/agent:latest"),
            ("index.docker.io/team/agent", "docker.io/team/agent:latest"),
            ("localhost/agent", "localhost/agent:latest"),
            ("Registry.Example/agent", "registry.example/agent:latest"),
            ("registry:5000/a/b_c/d__e/f-g.h:T_1.x-", "registry:5000/a/b_c/d__e/f-g.h:T_1.x-"),
            (f"registry.example/agent@{DIGEST}", f"registry.example/agent@{DIGEST}"),
            (f"registry.example/agent:1@{DIGEST}", f"registry.example/agent:1@{DIGEST}"),
            ("[::1]:5000/agent:1", "[::1]:5000/agent:1"),
        ],
    )
    def test_says_all_that_was_left_out(self, text: str, meant: str) -> None:
        found = oci_reference.parse(text)
        assert str(found) == meant
        assert oci_reference.parse(meant) == found

    def test_of_docker_hub_is_answered_elsewhere(self) -> None:
        assert oci_reference.parse("agent").host == "registry-1.docker.io"
        assert oci_reference.parse("registry.example:5000/agent").host == "registry.example:5000"

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "the name must consist of"),
            ("Agent", "the name must consist of"),
            ("Host/agent", "the name must consist of"),
            ("registry.example/", "the name must consist of"),
            ("registry.example/a//b", "the name must consist of"),
            ("registry.example/a:", "the tag must consist of"),
            ("registry.example/a:-x", "the tag must consist of"),
            (f"registry.example/a:{'x' * 129}", "the tag must consist of"),
            ("registry.example/a@", "the digest must be"),
            ("registry.example/a@sha256:0123", "the digest must be"),
            (f"registry.example/a@sha512:{'0' * 128}", "the digest must be"),
            (f"registry.example/a@{DIGEST.upper()}", "the digest must be"),
            ("registry.example:0/a", "the registry must be"),
            ("registry.example:99999/a", "the registry must be"),
            ("https://registry.example/a", "the registry must be"),
            ("user@registry.example/a", "the digest must be"),
            ("registry.example/" + "a" * 600, "longer than 512"),
        ],
    )
    def test_that_is_none_is_refused_with_the_reason(self, text: str, why: str) -> None:
        with pytest.raises(oci_reference.InvalidReferenceError, match=why):
            oci_reference.parse(text)

    @given(st.text(max_size=20) | st.text("aA0.:/@_-", max_size=30))
    def test_is_read_or_refused(self, text: str) -> None:
        try:
            found = oci_reference.parse(text)
        except oci_reference.InvalidReferenceError:
            return
        assert oci_reference.parse(str(found)) == found
        assert oci_reference.IMAGE.fullmatch(str(found))


class TestAPullSecret:
    @pytest.mark.parametrize(
        ("key", "image", "fits"),
        [
            ("registry.example", "registry.example/a", True),
            ("registry.example", "registry.example:5000/a", False),
            ("registry.example:5000", "registry.example:5000/a", True),
            ("https://registry.example", "registry.example/a", True),
            ("https://registry.example/v2/", "registry.example/a", True),
            ("registry.example/team", "registry.example/team/a", True),
            ("registry.example/team", "registry.example/other/a", False),
            ("REGISTRY.example", "registry.example/a", True),
            ("*.example", "registry.example/a", True),
            ("*.example", "a.registry.example/a", False),
            ("*.*.example", "a.registry.example/a", True),
            ("*.example:5000", "registry.example/a", False),
            ("https://index.docker.io/v1/", "agent", True),
            ("docker.io", "team/agent", True),
            ("docker.io/team", "other/agent", False),
            ("registry.example", "registry.example.evil/a", False),
        ],
    )
    def test_fits_as_for_kubelet(self, key: str, image: str, fits: bool) -> None:
        keyring = pull_secret.parse(json.dumps({"auths": {key: {"username": "u", "password": "p"}}}), "secret")
        reference = oci_reference.parse(image)
        assert (keyring.find(reference.registry, reference.path) is not None) is fits

    def test_uses_what_is_said_most_exactly(self) -> None:
        keys = ("*.example", "registry.example", "registry.example/team", "registry.example/team/a")
        text = json.dumps({"auths": {key: {"username": key, "password": ""} for key in keys}})
        found = pull_secret.parse(text, "secret").find("registry.example", "team/agent")
        assert found == pull_secret.Credentials("registry.example/team/a", "")
        assert pull_secret.parse(text, "secret").find("other.example", "x") == pull_secret.Credentials("*.example", "")

    def test_has_user_and_password_in_one_text_or_in_two(self) -> None:
        auth = base64.b64encode(b"user:pass:word").decode()
        one = pull_secret.parse(json.dumps({"auths": {"r.example": {"auth": auth}}}), "secret")
        assert one.find("r.example", "a") == pull_secret.Credentials("user", "pass:word")

    def test_may_lack_the_padding_as_for_kubelet(self) -> None:
        auth = base64.b64encode(b"user:password").decode().rstrip("=")
        found = pull_secret.parse(json.dumps({"auths": {"r.example": {"auth": auth}}}), "secret")
        assert found.find("r.example", "a") == pull_secret.Credentials("user", "password")

    def test_with_an_entry_that_says_nothing_has_nobody_sign_in(self) -> None:
        text = json.dumps({"auths": {"https://index.docker.io/v1/": {}}, "credsStore": "desktop"})
        assert pull_secret.parse(text, "secret").find("docker.io", "library/agent") is None

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "no json",
            '{"auths": []}',
            '{"auths": {"r.example": {"auth": "%%%"}}}',
            json.dumps({"auths": {"r.example": {"auth": base64.b64encode(b"hunter2").decode()}}}),
        ],
    )
    def test_that_cannot_be_read_is_refused_without_showing_it(self, text: str) -> None:
        with pytest.raises(http_client.InvalidSettingsError, match=r"the secret x: .*(needed|has to be)") as refused:
            pull_secret.parse(text, "the secret x")
        assert "hunter2" not in str(refused.value) and "%%%" not in str(refused.value)

    def test_is_never_shown(self) -> None:
        text = json.dumps({"auths": {"r.example": {"username": "somebody", "password": "hunter2"}}})
        assert not re.search("somebody|hunter2", repr(pull_secret.parse(text, "secret")))


class TestTheNodesRules:
    def test_mirrors_come_first_in_their_order(self) -> None:
        rules = hosts.Registries(
            hosts.parse_mirrors("docker.io=one.example:5000/hub, docker.io=two.example ,*=any.example/all"),
            plain_http=frozenset(hosts.parse_list("two.example")),
        )
        assert [end.url for end in rules.endpoints(oci_reference.parse("team/agent"))] == [
            "https://one.example:5000/v2/hub/team/agent",
            "http://two.example/v2/team/agent",
            "https://registry-1.docker.io/v2/team/agent",
        ]
        assert [end.url for end in rules.endpoints(oci_reference.parse("r.example/a"))] == [
            "https://any.example/v2/all/a",
            "https://r.example/v2/a",
        ]

    @pytest.mark.parametrize(
        ("image", "allowed"),
        [
            ("registry.example/a", True),
            ("registry.example:5000/a", False),
            ("other.example/team/a", True),
            ("other.example/team", True),
            ("other.example/teamwork/a", False),
            ("a.wild.example/x", True),
            ("wild.example/x", False),
            ("agent", False),
            ("docker.io/team/a", True),
            ("[::1]:5000/a", True),
        ],
    )
    def test_only_allowed_registries_are_asked(self, image: str, allowed: bool) -> None:
        listed = hosts.parse_list("registry.example, other.example/team,*.wild.example,index.docker.io/team,[::1]:5000")
        rules = hosts.Registries(allowed=listed)
        if allowed:
            assert rules.endpoints(oci_reference.parse(image))
        else:
            with pytest.raises(http_client.InvalidSettingsError, match="--registry-allow is registry"):
                rules.endpoints(oci_reference.parse(image))

    def test_docker_hub_has_its_mirrors_by_any_of_its_names(self) -> None:
        rules = hosts.Registries(hosts.parse_mirrors("index.docker.io=one.example"))
        assert rules.endpoints(oci_reference.parse("team/agent"))[0].host == "one.example"

    @pytest.mark.parametrize(
        "text", ["mirror.example", "=mirror.example", "a=", "a=https://mirror", "a=u@mirror", "docker.io/team=mirror"]
    )
    def test_a_mirror_that_is_none_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not"):
            hosts.parse_mirrors(text)
