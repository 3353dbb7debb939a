"""Writes what follows from the model of the DynaKube API, and from the chart: `python deploy/generate.py`.

From the model: crd.yaml, the chart's template of it, and the tables in docs/dynakube.md, whose text is written by
hand: a table stands between `<!-- NAME -->` and `<!-- end -->`.

From the chart, by Helm (`make helm`): the plain manifests, of each part and of all of them. Each names a digest of
the chart and of itself, so that a test can tell without Helm whether one of the two was changed alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from oneagent.common.agents.opentelemetry import crd as injection_crd
from oneagent.common.dynakube.api import crd, feature_flags, schema, version_history, versions
from oneagent.common.dynakube.mode import MODES

_HERE: Final = Path(__file__).parent
CRD: Final = _HERE / "crd.yaml"
PAGE: Final = _HERE.parent / "docs" / "dynakube.md"
CHART: Final = _HERE / "helm" / "oneagent-csi"
HELM: Final = _HERE.parent / "tests" / "helm" / "bin" / "helm"
NAMESPACE: Final = "dynatrace"
REPOSITORY: Final = "oneagent-csi"
OLDEST_KUBERNETES: Final = "1.30.0"

_MODE: Final = re.compile(rf"oneAgent\.({'|'.join(MODES)})\.")
_KUBERNETES: Final = re.compile(r"\[\]|\*|\.(requests|limits|matchLabels|matchExpressions)$")
_DIGEST: Final = re.compile(r"^# Digest: .*\n", re.MULTILINE)
_HELMS_WORDS: Final = re.compile(
    r"^# Source: .*\n|^ +\n|[ ]+$|^ +(?:helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", re.MULTILINE
)
_KEEP: Final = """\
  # Whoever deletes it deletes every DynaKube.
  {{- $keep := dict "helm.sh/resource-policy" "keep" }}
  {{- include "oneagent.metadata" (dict "root" $ "annotations" $keep) | nindent 2 }}
"""
_OF_OPENSHIFT: Final = """\
    security.openshift.io/scc.podSecurityLabelSync: "false"
  annotations:
    # The driver belongs on every node, whatever the cluster selects as a rule.
    openshift.io/node-selector: ""
"""
_TABLE: Final = re.compile(r"(<!-- (fields|status|flags) -->\n).*?(<!-- end -->)", re.DOTALL)


class _Dumper(yaml.SafeDumper):
    """Without aliases, which not every reader of manifests knows."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def crd_yaml() -> str:
    head = "# Written by deploy/generate.py from common/oneagent/common/api.\n"
    webhook = crd.service(NAMESPACE, "oneagent-webhook", "/convert")
    return head + yaml.dump(crd.manifest(webhook), Dumper=_Dumper, sort_keys=False, width=120)


def crd_template() -> str:
    """The same in the chart, where it stays when the chart is uninstalled."""
    name, namespace = f"  name: {crd.NAME}\n", f"namespace: {NAMESPACE}\n"
    text = crd_yaml()
    assert (text.count(name), text.count(namespace), text.count("{{")) == (1, 1, 0)
    text = text.replace(name, name + _KEEP).replace(namespace, "namespace: {{ .Release.Namespace }}\n")
    return f"{{{{- if .Values.crd.install }}}}\n{text}{{{{- end }}}}\n"


def injection_crd_template() -> str:
    """The definition of OpenTelemetryInjections in the chart, where it stays when the chart is uninstalled."""
    name = f"  name: {injection_crd.NAME}\n"
    text = yaml.dump(injection_crd.manifest(), Dumper=_Dumper, sort_keys=False, width=120)
    assert (text.count(name), text.count("{{")) == (1, 0)
    head = "# Written by deploy/generate.py from common/oneagent/common/agents/opentelemetry.\n"
    keep = _KEEP.replace("every DynaKube", "every OpenTelemetryInjection")
    condition = "{{- if and .Values.crd.install .Values.opentelemetry.enabled }}\n"
    return f"{condition}{head}{text.replace(name, name + keep)}{{{{- end }}}}\n"


@dataclass(frozen=True, slots=True)
class Plain:
    """A file that is made of the chart with its default values."""

    about: str
    template: str = ""
    """The only one that is in it; all, and the namespace, if empty."""
    openshift: bool = False

    def render(self) -> str:
        """The whole file; `subprocess.CalledProcessError` or `FileNotFoundError` if Helm can't do it."""
        flags = [f"--show-only=templates/{self.template}"] if self.template else []
        found = template(*flags, values=f"openshift: {{enabled: {str(self.openshift).lower()}}}")
        if not self.template:
            found = f"---\n{self._namespace()}{found}"
        head = f"# {self.about}\n# Written by deploy/generate.py from deploy/helm/oneagent-csi.\n"
        text = head + "# Digest: \n" + _HELMS_WORDS.sub("", found)
        return _DIGEST.sub(f"# Digest: {digest(text)}\n", text, count=1)

    def _namespace(self) -> str:
        """Its labels are the last lines of the file."""
        return (_HERE / "namespace.yaml").read_text() + (_OF_OPENSHIFT if self.openshift else "")


def template(*flags: str, values: str = "") -> str:
    """Render the chart with these values, as YAML; `subprocess.CalledProcessError`, `FileNotFoundError`.

    Where they name no image it is `REPOSITORY`, which users of the plain manifests replace.
    """
    chosen = yaml.safe_load(values) or {}
    chosen.setdefault("image", {}).setdefault("repository", REPOSITORY)
    command = [
        *(str(HELM), "template", CHART.name, str(CHART), "--values=-", f"--namespace={NAMESPACE}"),
        *(f"--kube-version={OLDEST_KUBERNETES}", *flags),
    ]
    return subprocess.run(command, input=json.dumps(chosen), check=True, capture_output=True, text=True).stdout


def digest(text: str) -> str:
    """Of a plain manifest, whatever digest it names itself, and of what it was made of."""
    made = hashlib.sha256(_DIGEST.sub("", text, count=1).encode())
    for path in sorted([_HERE / "namespace.yaml", *(path for path in CHART.rglob("*") if path.is_file())]):
        # The notes and the page are for Helm's users only.
        if path.name not in ("NOTES.txt", "README.md"):
            made.update(f"{path.relative_to(_HERE)}\n".encode() + path.read_bytes())
    return made.hexdigest()[:32]


def named_digest(text: str) -> str:
    """The digest that a plain manifest names."""
    found = _DIGEST.search(text)
    return found[0].split()[-1] if found else ""


def page() -> str:
    tables = {
        "fields": lambda: _table(("field", "type", "meaning"), _fields("spec")),
        "status": lambda: _table(("field", "type", "meaning"), _fields("status")),
        "flags": lambda: _table(("flag", "default", "in its place"), _flags()),
    }
    return _TABLE.sub(lambda match: f"{match[1]}\n{tables[match[2]]()}\n{match[3]}", PAGE.read_text())


def _fields(part: str) -> Iterator[tuple[str, ...]]:
    """The fields of a part of the newest version. What modes have in common stands once."""
    rows: dict[tuple[str, str], schema.Schema] = {}
    for path, field in schema.fields(version_history.described(versions.NEWEST)):
        if path.startswith(f"{part}.") and not _KUBERNETES.search(path):
            rows.setdefault((_MODE.sub("oneAgent.MODE.", path), field["description"]), field)
    for (path, description), field in rows.items():
        default = f" Default: `{json.dumps(field['default'])}`." if "default" in field else ""
        yield f"`{path}`", _kind(field), description + default


def _kind(field: schema.Schema) -> str:
    names = {"array": "list", "object": "section" if "properties" in field else "mapping", "boolean": "switch"}
    if schema.INT_OR_STRING in field:
        return "integer or string"
    kind = str(field["type"])
    return names.get(kind, kind)


def _flags() -> Iterator[tuple[str, ...]]:
    for feature in sorted(feature_flags.FEATURES.values(), key=lambda feature: feature.name):
        if feature.handled:
            default = f"`{feature.default}`" if feature.default else ""
            yield f"`{feature.name}`", default, f"`{feature.instead}`" if feature.instead else ""


def _table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


FILES: Final[Mapping[Path, Callable[[], str]]] = {
    CRD: crd_yaml,
    CHART / "templates" / "crd.yaml": crd_template,
    CHART / "templates" / "opentelemetry-crd.yaml": injection_crd_template,
    PAGE: page,
}
_PART: Final = "everything that it needs on a cluster, but for the namespace and the CRD (namespace.yaml, crd.yaml)."
_WHOLE: Final = "Whoever deletes the namespace or the definition that are in here deletes every DynaKube."
PLAIN: Final[Mapping[Path, Plain]] = {
    _HERE / "csi-driver.yaml": Plain(f"The node driver: {_PART}", "csi-driver.yaml"),
    _HERE / "operator.yaml": Plain(f"The operator: {_PART}", "operator.yaml"),
    _HERE / "webhook.yaml": Plain(f"The webhook: {_PART}", "webhook.yaml"),
    _HERE / "kubernetes.yaml": Plain(f"Everything, for `kubectl apply --server-side -f`. {_WHOLE}"),
    _HERE / "openshift.yaml": Plain(f"Everything, for `oc apply --server-side -f`. {_WHOLE}", openshift=True),
}


def main() -> int:
    for path, render in FILES.items():
        path.write_text(render())
    try:
        for path, plain in PLAIN.items():
            path.write_text(plain.render())
    except FileNotFoundError:
        print("The plain manifests are not written: there is no Helm here. Run: make helm", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
