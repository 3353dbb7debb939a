from __future__ import annotations

import pytest

from tests.fakes import provisioner


@pytest.fixture
def source() -> provisioner.FakeDynaKubeSource:
    return provisioner.FakeDynaKubeSource()
