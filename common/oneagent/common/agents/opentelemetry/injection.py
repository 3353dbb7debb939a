"""Reads an OpenTelemetryInjection: it becomes an object in the form of a DynaKube, which every component understands.

    FieldError   a field that cannot be used: names the field, its value and the remedy

    image.reference, .pullPolicy, .pullSecret, .publicKeys      or package: file:///… or oci-layout:/…
    namespaceSelector
    exporter.endpoint, .protocol, .headersSecret, .tls.configMapName, .secretName, .ca_file
    languages, sampler.type, .argument, propagators, resourceAttributes, env

Fields with the names of the OpenTelemetry operator's Instrumentation mean the same. They become variables of the
agents, in the order of precedence there: variables that the container has, those of `env`, those of other fields. The
values of the exporter's headers and its CA are in a Secret or ConfigMap, which only nodes read: they are in no pod's
specification.

The form of a DynaKube has the fields that both kinds share, its name begins with the prefix of this kind, and
`telemetry` beside `spec` has the rest.
"""

from __future__ import annotations

import posixpath
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, Final

from oneagent.common import dynakube, identifiers
from oneagent.common.agents import opentelemetry
from oneagent.common.agents.opentelemetry import variable_lines
from oneagent.common.agents.opentelemetry.telemetry import Authority, Telemetry
from oneagent.common.dynakube import secret_names
from oneagent.common.dynakube.api import versions
from oneagent.common.dynakube.mode import Mode
from oneagent.common.kubernetes import fields, selectors
from oneagent.common.kubernetes.fields import FieldError
from oneagent.common.oci import reference

PROTOCOLS: Final = ("grpc", "http/protobuf", "http/json")
LANGUAGES: Final = ("java", "nodejs", "python")
PROPAGATORS: Final = ("tracecontext", "baggage", "b3", "b3multi", "jaeger", "xray", "ottrace", "none")
SAMPLERS: Final = (
    *("always_on", "always_off", "traceidratio", "jaeger_remote", "xray"),
    *("parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio", "parentbased_jaeger_remote"),
)
INPUTS: Final = "exporterInputs"
"""In the status, below `codeModules`: see `Telemetry.inputs`."""
MAX_NAME: Final = 63 - len(opentelemetry.PROFILE.name_prefix)
"""Characters of a name: with the prefix it is a value of a label."""
MAX_ITEMS: Final = 64
"""Entries of `env` and of `resourceAttributes`."""
MAX_BYTES: Final = opentelemetry.MAX_FILE_BYTES // 2
"""Bytes of all variables; the other half is for headers and for the package's own variables."""

_NAME: Final = re.compile(rf"[a-z]([-a-z0-9]{{0,{MAX_NAME - 2}}}[a-z0-9])?")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ATTRIBUTE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}")
_KEY: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")
_NO_CLIENT_CERTIFICATE: Final = (
    "remove it: client certificates are not possible, since each selected pod would have the private key, readable for "
    "all of its processes; give the collector a token by spec.exporter.headersSecret"
)
_MODE: Final = f"spec.oneAgent.{Mode.APPLICATION_MONITORING}"


class UnusableError(FieldError):
    """The object could not be brought into the form of a DynaKube, for the reason in the text."""

    def __init__(self, problem: str) -> None:
        Exception.__init__(self, problem)
        self.field = "spec"


def normalize(obj: Mapping[str, object]) -> dict[str, Any]:
    """Return the object in the form of a DynaKube; `FieldError` if it cannot be used."""
    own = f"{identifiers.INJECTION_GROUP}/{versions.INJECTION}"
    if (version := fields.text(obj, "apiVersion")) not in ("", own):
        raise FieldError("apiVersion", version, f"must be {own}")
    name = fields.matching(obj, _NAME, f"a DNS-1035 label of at most {MAX_NAME} characters", "metadata.name")
    if not name:
        raise FieldError("metadata.name", None, "give the OpenTelemetryInjection a name")
    metadata = dict(fields.mapping(obj, "metadata") or {})
    annotations = dict(fields.mapping(obj, "metadata.annotations") or {})
    if keys := _public_keys(obj):
        annotations[f"{identifiers.FEATURE_PREFIX}{dynakube.IMAGE_KEY}"] = keys
    selectors.parse(obj, "spec.namespaceSelector")
    section = {
        "codeModulesImage": _package(obj),
        "codeModulesImagePullPolicy": _one_of(obj, "spec.image.pullPolicy", dynakube.PULL_POLICIES) or None,
        "namespaceSelector": fields.mapping(obj, "spec.namespaceSelector"),
    }
    return {
        "apiVersion": own,
        "kind": identifiers.INJECTION_KIND,
        "metadata": {**metadata, "name": opentelemetry.PROFILE.name_prefix + name, "annotations": annotations},
        "spec": {
            "oneAgent": {Mode.APPLICATION_MONITORING.value: _without_none(section)},
            "customPullSecret": secret_names.read(obj, "spec.image.pullSecret"),
        },
        "status": fields.mapping(obj, "status") or {},
        "telemetry": {
            "variables": _variables(obj),
            "headersSecret": secret_names.read(obj, "spec.exporter.headersSecret"),
            "authority": _authority(obj),
        },
    }


def normalize_stored(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same of an object of the API server; one that cannot be used becomes one whose reading fails.

    It keeps its namespaces as a DynaKube does that has become invalid: its selector counts.
    """
    try:
        return normalize(obj)
    except FieldError as error:
        metadata = obj["metadata"]
        selector = {"namespaceSelector": (obj.get("spec") or {}).get("namespaceSelector")}
        return {
            "apiVersion": obj.get("apiVersion"),
            "kind": identifiers.INJECTION_KIND,
            "metadata": {**metadata, "name": opentelemetry.PROFILE.name_prefix + metadata["name"]},
            "spec": {"oneAgent": {Mode.APPLICATION_MONITORING.value: _without_none(selector)}},
            "status": obj.get("status") or {},
            "problem": str(error),
        }


def read(obj: Mapping[str, object]) -> dynakube.DynaKube:
    """Read an object as its author has written it; `FieldError` if it cannot be used."""
    return dynakube.from_object(normalize(obj))


def telemetry(normalized: Mapping[str, object]) -> Telemetry:
    """Return the settings for agents of an object in the form of a DynaKube."""
    if problem := normalized.get("problem"):
        raise UnusableError(str(problem))
    variables = fields.mapping(normalized, "telemetry.variables")
    if variables is None:
        raise FieldError("kind", fields.text(normalized, "kind"), "must be DynaKube")
    named = tuple((key, str(value)) for key, value in variables.items())
    inputs = fields.text(normalized, f"status.codeModules.{INPUTS}")
    return Telemetry(named, fields.text(normalized, "telemetry.headersSecret"), _read_authority(normalized), inputs)


def _read_authority(normalized: Mapping[str, object]) -> Authority | None:
    kind, name, key = (fields.text(normalized, f"telemetry.authority.{part}") for part in ("kind", "name", "key"))
    return Authority("ConfigMap" if kind == "ConfigMap" else "Secret", name, key) if name else None


def _package(obj: Mapping[str, object]) -> str:
    image, local = fields.text(obj, "spec.image.reference"), fields.text(obj, "spec.package")
    if image and local:
        raise FieldError("spec.package", local, "remove it or spec.image: an agent has one source")
    if image:
        try:
            reference.parse(image)
        except reference.InvalidReferenceError as error:
            raise FieldError("spec.image.reference", image, f"must be registry/path:tag ({error.why})") from error
        return image
    if not local:
        raise FieldError("spec.image.reference", None, "set it, or spec.package, to where the agents come from")
    remedy = "must be file:///absolute/path/to/archive.zip or oci-layout:/absolute/path:name"
    if not dynakube.is_local(local):
        raise FieldError("spec.package", local, remedy)
    try:
        dynakube.check_package(local)
    except FieldError as error:
        raise FieldError("spec.package", local, remedy) from error
    return local


def _public_keys(obj: Mapping[str, object]) -> str:
    """Return public keys in PEM form, or the name of a Secret. The text may have several lines."""
    field = "spec.image.publicKeys"
    value = fields.at(obj, field)
    text = value.strip() if isinstance(value, str) else ""
    if value is not None and not text:
        # A wrong one must never pass for none: then anything would be installed.
        raise FieldError(field, value, "must be public keys in PEM form, or the name of a Secret", hidden=True)
    secret_names.refuse_reserved(field, text)
    if text and (why := dynakube.find_image_key_fault(text)):
        raise FieldError(field, text, why, hidden=True)
    return text


def _variables(obj: Mapping[str, object]) -> dict[str, str]:
    """Return the variables of agents without those from the Secret; `env` comes before other fields."""
    attributes = _attributes(obj)
    found = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": _endpoint(obj),
        "OTEL_EXPORTER_OTLP_PROTOCOL": _one_of(obj, "spec.exporter.protocol", PROTOCOLS),
        "OTEL_EXPORTER_OTLP_CERTIFICATE": _authority_path(obj),
        "OTEL_TRACES_SAMPLER": _one_of(obj, "spec.sampler.type", SAMPLERS),
        "OTEL_TRACES_SAMPLER_ARG": fields.text(obj, "spec.sampler.argument"),
        "OTEL_PROPAGATORS": ",".join(_list(obj, "spec.propagators", PROPAGATORS)),
        variable_lines.RESOURCE_ATTRIBUTES: variable_lines.join(attributes.items()),
        "OTEL_INJECTOR_LANGUAGES": ",".join(_list(obj, "spec.languages", LANGUAGES)),
        **_env(obj),
    }
    found = {name: value for name, value in found.items() if value}
    size = len(variable_lines.render(found).encode())
    if size > MAX_BYTES:
        raise FieldError("spec", f"{size} bytes of variables", f"agents can have {MAX_BYTES} bytes; shorten spec.env")
    return found


def _endpoint(obj: Mapping[str, object]) -> str:
    field = "spec.exporter.endpoint"
    text = fields.text(obj, field, hidden=True)
    if not text:
        return ""
    if "@" in text:
        raise FieldError(field, text, "must not hold credentials; put them into headersSecret", hidden=True)
    try:
        url = urllib.parse.urlsplit(text)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and " " not in text
    except ValueError:
        usable = False
    if not usable:
        raise FieldError(field, text, "must be the collector's URL, such as http://collector.telemetry:4318")
    return text


def _authority(obj: Mapping[str, object]) -> dict[str, str] | None:
    """Return kind, name and key of the object with the exporter's CA; None if there is none."""
    fields.mapping(obj, "spec.exporter.tls")
    for field in ("spec.exporter.tls.cert_file", "spec.exporter.tls.key_file"):
        if value := fields.at(obj, field):
            raise FieldError(field, value, _NO_CLIENT_CERTIFICATE)
    config_map = fields.dns_name(obj, "spec.exporter.tls.configMapName")
    secret = secret_names.read(obj, "spec.exporter.tls.secretName")
    key = fields.text(obj, "spec.exporter.tls.ca_file")
    field, kind = ("configMapName", "ConfigMap") if config_map else ("secretName", "Secret")
    named = config_map or secret
    if config_map and secret:
        raise FieldError("spec.exporter.tls.secretName", secret, "remove it or configMapName: one of them has the CA")
    if named and _authority_path(obj):
        remedy = "remove it, or have ca_file name a key: a path is a file that containers have themselves"
        raise FieldError(f"spec.exporter.tls.{field}", named, remedy)
    if not named:
        if key and not _authority_path(obj):
            remedy = "set it, or secretName, to the object with the CA, or ca_file to the path of a file in containers"
            raise FieldError("spec.exporter.tls.configMapName", None, remedy)
        return None
    if not _KEY.fullmatch(key):
        remedy = f"name the key of the {kind} {named} that has the CA, such as ca.crt"
        raise FieldError("spec.exporter.tls.ca_file", key or None, remedy)
    return {"kind": kind, "name": named, "key": key}


def _authority_path(obj: Mapping[str, object]) -> str:
    """Return the path of a CA that containers have themselves; empty if `ca_file` is none."""
    path = fields.text(obj, "spec.exporter.tls.ca_file")
    if not path.startswith("/"):
        return ""
    if posixpath.normpath(path) != path:
        remedy = "must be a key, or the plain absolute path of a file in containers"
        raise FieldError("spec.exporter.tls.ca_file", path, remedy)
    return path


def _attributes(obj: Mapping[str, object]) -> dict[str, str]:
    field = "spec.resourceAttributes"
    given = fields.mapping(obj, field) or {}
    _refuse_more(field, given)
    for key, value in given.items():
        if not _ATTRIBUTE.fullmatch(str(key)):
            raise FieldError(field, str(key), "a key has letters, digits, '.', '_', '-' and '/', at most 255")
        if not isinstance(value, str):
            raise FieldError(f"{field}.{key}", value, "must be text; put it in quotes")
        fields.printable(f"{field}.{key}", value)
    return {key: str(value) for key, value in given.items()}


def _env(obj: Mapping[str, object]) -> dict[str, str]:
    field = "spec.env"
    entries = _sequence(obj, field)
    found: dict[str, str] = {}
    for number, entry in enumerate(entries):
        place = f"{field}[{number}]"
        if not isinstance(entry, Mapping):
            raise FieldError(place, entry, "must have the fields name and value")
        if entry.get("valueFrom") is not None:
            remedy = "give a value: only the container itself can refer to Secrets, ConfigMaps and fields"
            raise FieldError(f"{place}.valueFrom", entry["valueFrom"], remedy)
        name, value = fields.text(entry, "name"), entry.get("value", "")
        if not _VARIABLE.fullmatch(name):
            raise FieldError(f"{place}.name", name or None, "must be a variable such as OTEL_LOGS_EXPORTER")
        if not isinstance(value, str):
            raise FieldError(f"{place}.value", value, "must be text; put it in quotes")
        found[name] = fields.printable(f"{place}.value", value.strip(), hidden=True)
    return found


def _list(obj: Mapping[str, object], field: str, possible: Sequence[str]) -> list[str]:
    given = _sequence(obj, field)
    for item in given:
        if item not in possible:
            raise FieldError(field, item, f"must be of {', '.join(possible)}")
    return list(dict.fromkeys(str(item) for item in given))


def _one_of(obj: Mapping[str, object], field: str, possible: Sequence[str]) -> str:
    text = fields.text(obj, field)
    if text and text not in possible:
        raise FieldError(field, text, f"must be one of {', '.join(possible)}")
    return text


def _sequence(obj: Mapping[str, object], field: str) -> Sequence[object]:
    value = fields.at(obj, field)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise FieldError(field, value, "must be a list")
    _refuse_more(field, value)
    return value


def _refuse_more(field: str, items: Sequence[object] | Mapping[str, object]) -> None:
    if len(items) > MAX_ITEMS:
        raise FieldError(field, f"{len(items)} entries", f"must have at most {MAX_ITEMS}")


def _without_none(section: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in section.items() if value is not None}
