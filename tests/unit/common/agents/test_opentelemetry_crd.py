"""The definition of OpenTelemetryInjections describes what is read of them."""

from __future__ import annotations

import re
from pathlib import Path

from oneagent.common.agents.opentelemetry import crd, injection
from oneagent.common.dynakube.api import schema


def test_each_field_that_is_read_is_described_and_no_other() -> None:
    text = Path(injection.__file__).read_text()
    read = set(re.findall(r'"spec\.([A-Za-z_.]+)"', text)) - {"image", "exporter.tls"}
    described = {
        path for path, field in schema.fields(crd.spec()) if "properties" not in field or path == "namespaceSelector"
    }
    leaves = {path for path in described if not re.search(r"\[\]|\*|match", path)}
    assert read == leaves


def test_a_misspelt_field_is_found() -> None:
    obj = {"spec": {"exporter": {"endpoint": "x", "endpiont": "y"}, "env": [{"name": "A", "valeu": "1"}], "lang": []}}
    assert list(crd.unknown_fields(obj)) == ["spec.exporter.endpiont", "spec.env[0].valeu", "spec.lang"]
