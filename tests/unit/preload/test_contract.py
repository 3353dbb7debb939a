"""The files that the driver writes for the library: names, limits and languages are the same on both sides."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oneagent.common.agents import opentelemetry
from oneagent.common.agents.opentelemetry import injection, variable_lines
from tests import preload
from tests.preload import View

LANGUAGES = {"java": "java", "nodejs": "node", "python": "python"}


def test_library_and_files_have_one_name() -> None:
    source = (preload.SOURCES.parents[1] / "preload/otelinject.c").read_text()
    assert f'"/{opentelemetry.PRELOAD_LIBRARY}"' in source
    for path in (*opentelemetry.PROFILE.config_files, opentelemetry.PROFILE.container_path):
        directory, _, name = path.rpartition("/")
        assert f'"/{directory}/"' in source
        assert f'"{name}"' in source


def test_the_largest_file_that_the_driver_writes_is_read() -> None:
    source = (preload.SOURCES.parents[1] / "preload/otelinject.c").read_text()
    match = re.search(r"MAX_FILE = (\d+) \* 1024", source)
    assert match
    assert int(match[1]) << 10 >= opentelemetry.MAX_FILE_BYTES


@pytest.mark.parametrize("language", injection.LANGUAGES)
def test_the_library_knows_each_language_of_an_injection(view: View, programs: Path, language: str) -> None:
    text = variable_lines.render({"OTEL_INJECTOR_LANGUAGES": language})
    view.configure("opentelemetry", text)
    assert [name for name in LANGUAGES.values() if len(view.environment(programs / name)) > 1] == [LANGUAGES[language]]


def test_values_come_through_as_they_were_rendered(view: View, programs: Path) -> None:
    attributes = variable_lines.join([("k8s.pod.name", "shop"), ("odd", 'a,b=c%d "e" ä')])
    view.configure("container", variable_lines.render({variable_lines.RESOURCE_ATTRIBUTES: attributes}))
    found = view.environment(programs / "java", OTEL_RESOURCE_ATTRIBUTES="own=1")
    assert variable_lines.split(found["OTEL_RESOURCE_ATTRIBUTES"]) == {
        "own": "1",
        "k8s.pod.name": "shop",
        "odd": 'a,b=c%d "e" ä',
    }
