from __future__ import annotations

import pytest

from tests.fakes import provisioner


@pytest.fixture
def desk() -> provisioner.Desk:
    return provisioner.Desk()
