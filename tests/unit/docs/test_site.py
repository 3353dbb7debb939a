"""The site that `make docs` makes: every link leads somewhere, and a browser loads nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from tests.unit.docs import site as sites

ELSEWHERE = re.compile(r"\s*(?:[a-z]+:)?//", re.IGNORECASE)


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


def test_code_is_highlighted_by_the_build(site: Path) -> None:
    text = (site / "install.html").read_text()
    assert '<span class="nt">apiVersion</span>' in text  # a key in YAML
    assert '<span class="se">' in text  # the end of a shell's line


def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    with (sites.copied(tmp_path) / "docs" / "metrics.md").open("a") as page:
        page.write("\n[a](missing.md) [b](install.md#no-such-heading) [c](#nor-this)\n")
    built = sites.build(tmp_path)
    assert built.returncode != 0
    printed = re.sub(r"\x1b\[[\d;]*m", "", built.stdout + built.stderr)
    for name in ("missing.md", "no-such-heading", "nor-this"):
        assert name in printed


def test_the_menu_has_every_page_once() -> None:
    """The build leaves a page that is not in it without a way there, and says nothing."""
    menu = sites.CONFIG.read_text().partition("\nnav = [")[2].partition("\n]\n")[0]
    pages = re.findall(r'"(\S+\.md)"', menu)
    assert sorted(pages) == sorted(path.name for path in sites.DOCS.glob("*.md"))
