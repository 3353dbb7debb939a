"""The notes of a release, and what keeps a tag from being released."""

from __future__ import annotations

import pytest
from deploy import release

CHANGELOG = """\
# Changelog

## [0.2.0] - 2026-12-01

### Added

- A thing.

## [0.1.0] - 2026-11-01

- Another one.
"""


def test_the_notes_are_the_section_of_the_version() -> None:
    assert release.notes("v0.2.0", "0.2.0", CHANGELOG) == "### Added\n\n- A thing.\n"
    assert release.notes("v0.1.0", "0.1.0", CHANGELOG, "r/i@sha256:a") == "Image: `r/i@sha256:a`\n\n- Another one.\n"


@pytest.mark.parametrize(
    ("tag", "version", "changelog", "reason"),
    [
        ("v0.2.1", "0.2.0", CHANGELOG, "the tag v0.2.1 is not v0.2.0"),
        ("0.2.0", "0.2.0", CHANGELOG, "the tag 0.2.0 is not v0.2.0"),
        ("v0.3.0", "0.3.0", CHANGELOG, "no section 0.3.0"),
        ("v0.2.0", "0.2.0", CHANGELOG.replace("2026-12-01", "Unreleased"), "has no date, but Unreleased"),
    ],
)
def test_a_tag_that_is_not_ready_is_refused_with_the_reason(
    tag: str, version: str, changelog: str, reason: str
) -> None:
    with pytest.raises(release.NotReadyError, match=reason):
        release.notes(tag, version, changelog)
