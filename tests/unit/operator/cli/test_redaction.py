"""What looks like a secret leaves no trace in what is shown to others, and the rest stays."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneagent.operator.cli.support_archive import redaction

SECRETS = st.text("ABCDEFGHJKLMNPQRSTUVWXYZ23456789", min_size=12, max_size=64)
FORMS = [
    "dt0c01.{secret}.{secret}",
    "Authorization: Api-Token {secret}",
    "authorization: bearer {secret}",
    "https://user:{secret}@proxy.example.com:3128/x",
    "https://tenant.example.com/api?Api-Token={secret}&x=1",
    "--set-tenant-token={secret}",
    "PASSWORD={secret}",
    '{{"tenantToken": "{secret}", "x": 1}}',
    '{{"msg": "got {{\\"password\\": \\"{secret}\\"}}"}}',
    "-----BEGIN EC PRIVATE KEY-----\n{secret}\n-----END EC PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\n{secret}\nand cut off",
    "eyJhbGciOi.{secret}.{secret}",
]
AROUND = st.text(st.characters(codec="utf-8", exclude_categories=("Lu", "Nd"), exclude_characters="\"'"), max_size=20)


@given(form=st.sampled_from(FORMS), secret=SECRETS, before=AROUND, after=AROUND)
@settings(max_examples=300)
def test_a_secret_is_taken_out_wherever_it_stands(form: str, secret: str, before: str, after: str) -> None:
    shown = redaction.redact_text(f"{before} {form.format(secret=secret)} {after}")
    assert secret not in shown
    assert redaction.HIDDEN in shown


@pytest.mark.parametrize("before", ["bearer", "Basic", "password=", "https://"])
def test_a_private_key_is_taken_out_behind_what_begins_another_secret(before: str) -> None:
    key = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIB\n-----END EC PRIVATE KEY-----"
    for between in (" ", ""):
        assert "MHcCAQEEIB" not in redaction.redact_text(f"{before}{between}{key}")


@pytest.mark.parametrize(
    "text",
    [
        "version 1.290.0.20261001-120000 can't be installed: it answered 401 (check apiToken in Secret shop)",
        "https://tenant.example.com/api/v1/deployment",
        "tokens: shop\nsecretName: oneagent-webhook-certs\n",
        "image: registry.example.com/oneagent-csi@sha256:0123456789abcdef",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redaction.redact_text(text) == text


def test_variables_that_are_named_like_secrets_and_sign_ins_of_proxies_go() -> None:
    found = redaction.redact(
        {
            "env": [{"name": "DB_PASSWORD", "value": "hunter22"}, {"name": "LEVEL", "value": "debug"}],
            "proxy": {"value": "user:hunter22@proxy.example.com:3128"},
        }
    )
    assert "hunter22" not in json.dumps(found)
    assert found["env"][1] == {"name": "LEVEL", "value": "debug"}
    assert found["proxy"]["value"] == "***@proxy.example.com:3128"


@given(form=st.sampled_from(FORMS), secret=SECRETS)
def test_texts_within_an_object_are_gone_through_and_it_stays_an_object(form: str, secret: str) -> None:
    told = f'it said \\ "{form.format(secret=secret)}\\" and so on'
    content = json.dumps(redaction.redact({"conditions": [{"message": told}]}))
    shown = redaction.redact_text(content)
    assert secret not in shown
    assert json.loads(shown)["conditions"][0]["message"].startswith('it said \\ "')


@pytest.mark.parametrize("line", ["x-" * 100_000, "token" * 40_000, "-eyJaaaaa" * 20_000, '"token":"' * 20_000])
def test_a_long_line_takes_no_more_time_than_its_length(line: str) -> None:
    def seconds(of: str) -> float:
        began = time.process_time()
        redaction.redact_text(of)
        return time.process_time() - began

    assert seconds(line) < 100 * max(seconds(line[: len(line) // 10]), 0.01)


def test_annotations_that_are_called_like_a_secret_go_and_names_of_secrets_stay() -> None:
    told = {"example.com/join-token": "hunter22", "dbPassword": "hunter22", "tokens": "shop", "secretName": "certs"}
    found = redaction.redact({"metadata": {"annotations": told}})["metadata"]["annotations"]
    assert found == {**told, "example.com/join-token": "***", "dbPassword": "***"}


def test_copies_of_an_object_in_itself_go() -> None:
    copy = "kubectl.kubernetes.io/last-applied-configuration"
    found = redaction.redact({"metadata": {"annotations": {copy: "{}", "team": "shop"}, "managedFields": [1]}})
    assert found == {"metadata": {"annotations": {"team": "shop"}}}


def test_of_a_configmap_the_keys_are_left() -> None:
    made = {"metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"certs": "hunter22"}, "binaryData": {"b": "aGk="}}
    assert redaction.keys_only(made) == {"metadata": {"name": "a"}, "keys": ["b", "certs"]}
