"""The site that `make docs` makes: every link leads somewhere, and a browser loads nothing from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"
ELSEWHERE = re.compile(r"\s*(?:[a-z]+:)?//", re.IGNORECASE)


def build(docs: Path, site: Path) -> subprocess.CompletedProcess[str]:
    config = docs / "site" / "properdocs.yml"
    command = [
        *(sys.executable, "-m", "properdocs", "build", "--strict"),
        f"--config-file={config}",
        f"--site-dir={site}",
    ]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = build(DOCS, folder)
    assert built.returncode == 0, built.stderr
    return folder


class Page(HTMLParser):
    """What a browser loads for a page, and the lines of its paragraphs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.lines: list[str] = []
        self._in_paragraph = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._in_paragraph = tag == "p" or (self._in_paragraph and tag not in {"pre", "table", "ul", "ol"})
        if tag == "link" and given.get("rel") != "canonical":
            self.loaded.append(given.get("href") or "")
        elif "src" in given:
            self.loaded.append(given["src"] or "")

    def handle_endtag(self, tag: str) -> None:
        self._in_paragraph = self._in_paragraph and tag != "p"

    def handle_data(self, data: str) -> None:
        if self._in_paragraph:
            self.lines += data.splitlines()


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = [Page(path.read_text()) for path in site.glob("*.html")]
    styles = [url for path in site.rglob("*.css") for url in re.findall(r"url\([\"']?([^)]*)", path.read_text())]
    loaded = {*styles, *(url for page in pages for url in page.loaded)}
    assert len(pages) > 15
    assert "picture.svg" in loaded
    assert not [url for url in loaded if ELSEWHERE.match(url)]


def test_lists_and_tables_are_shown_as_such(site: Path) -> None:
    """Other readers of Markdown take them for a paragraph, where no empty line is before them."""
    for path in site.glob("*.html"):
        lines = Page(path.read_text()).lines
        assert not [line for line in lines if re.match(r"(?:[-*|]|\d+\.|#+) |```", line)], path.name


def test_what_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    docs = shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    with (docs / "metrics.md").open("a") as page:
        page.write("\n[a](missing.md) [b](install.md#no-such-heading) [c](#nor-this)\n")
    (docs / "forgotten.md").write_text("# Not in the menu\n")
    built = build(docs, tmp_path / "site")
    assert built.returncode != 0
    for name in ("missing.md", "no-such-heading", "nor-this", "forgotten.md"):
        assert name in built.stderr
