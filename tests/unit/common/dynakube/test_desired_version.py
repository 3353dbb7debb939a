"""The choice of a version, from all that may decide it."""

from __future__ import annotations

import pytest

from oneagent.common.dynakube.desired_version import Choice, Follow, Origin, choose

OLD, NEW = "1.277.0.20230914-094321", "1.278.0.20231014-094321"


def test_the_precedence_is_image_pinned_package_tenant() -> None:
    assert choose(image="i", pinned=OLD, package="p", latest=NEW) == Choice(Origin.IMAGE)
    assert choose(pinned=OLD, package="p", latest=NEW) == Choice(Origin.PINNED, OLD)
    assert choose(package="p", latest=NEW) == Choice(Origin.PACKAGE)
    assert choose(latest=NEW) == Choice(Origin.TENANT, NEW)


@pytest.mark.parametrize("follow", Follow)
def test_the_current_version_stays_while_the_latest_is_not_known(follow: Follow) -> None:
    assert choose(current=OLD, follow=follow) == Choice(Origin.TENANT, OLD)
    assert choose(follow=follow) == Choice(Origin.TENANT)


@pytest.mark.parametrize(
    ("follow", "current", "latest", "expected"),
    [
        (Follow.ALWAYS, NEW, OLD, Choice(Origin.TENANT, OLD)),
        (Follow.UPWARDS, NEW, OLD, Choice(Origin.TENANT, NEW, older_offered=True)),
        (Follow.UPWARDS, OLD, NEW, Choice(Origin.TENANT, NEW)),
        (Follow.UPWARDS, NEW, NEW, Choice(Origin.TENANT, NEW)),
        (Follow.NEVER, OLD, NEW, Choice(Origin.TENANT, OLD)),
        (Follow.NEVER, "", NEW, Choice(Origin.TENANT, NEW)),
        (
            Follow.UPWARDS,
            "1.9.0.20230101-000000",
            "1.10.0.20230101-000000",
            Choice(Origin.TENANT, "1.10.0.20230101-000000"),
        ),
    ],
)
def test_the_latest_is_followed(follow: Follow, current: str, latest: str, expected: Choice) -> None:
    assert choose(latest=latest, current=current, follow=follow) == expected
