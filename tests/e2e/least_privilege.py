"""Least privilege, judged when all tests have run: a plugin of pytest that reads the API server's audit log.

A call that was refused fails every run. A right that no call has needed fails a run of the whole ring, if its tests
have passed: what is left out, or ends early, may be what a right is for.

Where workers of pytest-xdist have a cluster each, they send what was called on theirs, and what all of them have
needed counts together.
"""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.cluster import audit, rbac, sandbox
from tests.cluster.audit import Call, Outcome

NEVER_CALLED: Final = {
    ("use", "securitycontextconstraints"): "asked for by OpenShift's admission when it chooses a pod's SCC",
}
"""Rights that show in no log, because nobody makes a call for which they are needed."""

GRANTED_LATER: Final = {("oneagent-csi-driver", "get", kind) for kind in ("secrets", "configmaps")} | {
    (f"oneagent-{part}", verb, "opentelemetryinjections")
    for part in ("csi-driver", "operator", "webhook")
    for verb in ("list", "watch")
}
"""Calls that may be refused.

The operator grants nodes some rights by name, just after they have seen the DynaKube. Those to OpenTelemetryInjections
come with a value of the chart only, so the manifests do not have them, and pods outlive them when the chart goes.
"""


def findings(grants: Collection[rbac.Grant], calls: Collection[Call], *, whole: bool) -> list[str]:
    """What is wrong, a line each; `whole` tells that everything was done for which there is a right."""
    lacking = (call for call in rbac.lacking(grants, calls) if not _is_granted_later(call))
    found = [f"wanted, and not granted: {call}" for call in lacking]
    if whole:
        left = (one for one in rbac.unused(grants, calls) if (one.verb, one.resource) not in NEVER_CALLED)
        found += [f"granted, and needed by no test: {grant}" for grant in left]
    return found


def _is_granted_later(call: Call) -> bool:
    return (
        call.outcome is Outcome.FORBIDDEN and (call.user.rpartition(":")[2], call.verb, call.resource) in GRANTED_LATER
    )


class Privileges:
    def __init__(self, namespace: str, ring: Path, manifests: Path) -> None:
        """`ring` is the folder with all tests, `manifests` a file with all roles."""
        self._namespace, self._ring, self._manifests = namespace, ring, manifests
        self._calls = set[Call]()
        self._part = False
        self._findings: list[str] = []

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._part = self._part or bool(items)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        single = any("::" in argument for argument in config.args)
        self._part = self._part or single or not {item.path for item in items} >= set(self._ring.rglob("test_*.py"))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """One of the workers has ended."""
        told = getattr(node, "workeroutput", {})
        self._part = self._part or told.get("part", True)
        for fields in told.get("calls", ()):
            self._calls.add(Call(**{**fields, "outcome": Outcome(fields["outcome"])}))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if folder := os.environ.get(sandbox.FOLDER_VARIABLE):
            self._calls |= _made(Path(folder) / "control-plane" / "audit.log", self._namespace)
        if (output := getattr(session.config, "workeroutput", None)) is not None:
            output["part"] = self._part
            output["calls"] = [{**dataclasses.asdict(call), "outcome": call.outcome.value} for call in self._calls]
            return
        grants = rbac.granted(yaml.load_all(self._manifests.read_text(), yaml.CSafeLoader))
        good = session.exitstatus == pytest.ExitCode.OK
        whole = good and not self._part and bool(self._calls)
        self._findings = findings(grants, self._calls, whole=whole)
        if self._findings and good:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._calls:
            return
        terminalreporter.section("rights")
        for line in _listed(self._calls):
            terminalreporter.write_line(line)

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """The last lines of all are why a run without a failed test has failed."""
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if self._findings and isinstance(reporter, pytest.TerminalReporter):
            reporter.section("rights, by the audit log")
            for line in self._findings:
                reporter.write_line(line)


def _made(log: Path, namespace: str) -> set[Call]:
    return set(audit.calls(audit.lines(log), namespace)) if log.exists() else set()


def _listed(calls: Iterable[Call]) -> list[str]:
    """What each service account has called, a line each."""
    called = collections.defaultdict[str, set[str]](set)
    for call in calls:
        called[call.user].add(f"{call.verb} {call.resource}")
    return [f"{user} called: {', '.join(sorted(made))}" for user, made in sorted(called.items())]
