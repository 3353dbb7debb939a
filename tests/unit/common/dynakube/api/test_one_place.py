"""Only `dynakube.api` knows older versions: a field that moves is a change there, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oneagent.common.dynakube.api import feature_flags, versions

ROOT = Path(__file__).parents[5]
ROOTS = ("common", "csi_driver", "operator", "webhook", "sidecars")
API = ROOT / "common/oneagent/common/dynakube/api"


@pytest.mark.parametrize("root", ROOTS)
def test_no_other_module_names_a_version_or_the_old_prefix_of_flags(root: str) -> None:
    names = re.compile("|".join(map(re.escape, (*versions.VERSIONS, feature_flags.OLD_PREFIX))))
    modules = [module for module in (ROOT / root / "oneagent").rglob("*.py") if not module.is_relative_to(API)]
    assert modules
    assert [str(module) for module in modules if names.search(module.read_text())] == []
