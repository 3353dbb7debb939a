from __future__ import annotations

import pytest

from tests.fakes import provisioning


@pytest.fixture
def desk() -> provisioning.Desk:
    return provisioning.Desk()
