"""The page on commands names every check and every verdict that there are, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from oneagent.common.injection import skip_reasons
from oneagent.csi_driver.cli.why import Reason as OnNode
from oneagent.operator.cli import why
from oneagent.operator.cli.doctor import checks
from oneagent.operator.cli.why import diagnose

PAGE = Path("docs/commands.md").read_text()


def first_column(title: str) -> list[str]:
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return re.findall(r"`(\w+)`", "\n".join(lines))


def test_every_check_is_explained_and_no_other() -> None:
    assert sorted(first_column("doctor")) == sorted(check.name for check in checks.CHECKS)


def test_every_verdict_of_the_cluster_is_explained_and_of_the_others_an_example() -> None:
    own = {value for name, value in vars(why.Reason).items() if not name.startswith("_")}
    decided = {skip_reasons.NAMESPACE_NOT_MONITORED.reason, skip_reasons.NAMESPACE_IGNORED.reason}
    assert sorted(first_column("why")) == sorted(own | decided | {OnNode.MONITORED, skip_reasons.OPTED_OUT.reason})


def test_the_verdicts_of_nodes_that_are_looked_at_are_those_that_nodes_give() -> None:
    assert {diagnose.NO_VOLUME, diagnose.NO_PROCESS} == {OnNode.NO_VOLUME, OnNode.NO_PROCESS}
