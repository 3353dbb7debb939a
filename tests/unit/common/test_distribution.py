from __future__ import annotations

from importlib import metadata

from oneagent.common import distribution, identifiers


def test_the_version_is_that_of_the_installed_distribution() -> None:
    assert distribution.version() == metadata.version(identifiers.DISTRIBUTION)
