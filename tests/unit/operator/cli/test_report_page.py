"""The page of a support archive: it shows texts of others as they are, and never as markup."""

from __future__ import annotations

from html.parser import HTMLParser

from oneagent.operator.cli import status
from oneagent.operator.cli.doctor import checks
from oneagent.operator.cli.support_archive import report_page
from tests.unit.operator.cli import snapshots
from tests.unit.operator.cli.snapshots import but


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


def test_what_nodes_say_is_text_and_no_markup() -> None:
    cluster = but(reports=(snapshots.report(problems=["<script>alert('x')</script> & \x1b[2J"]),))
    page = Page(report_page.render(status.summarize(cluster), checks.run_checks(cluster), "2026-01-01T00:00:00Z"))
    assert "script" not in page.tags
    assert "<script>alert('x')</script> & ?[2J" in page.words


def test_each_check_is_listed_with_its_result() -> None:
    cluster = but(secrets={})
    page = Page(report_page.render(status.summarize(cluster), checks.run_checks(cluster), "2026-01-01T00:00:00Z"))
    for check in checks.CHECKS:
        assert check.name in page.words
    assert "does not exist" in page.words
