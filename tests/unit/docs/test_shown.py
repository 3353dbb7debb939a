"""The site as a browser shows it, on a screen and on a phone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.unit.docs import browser

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not on this machine")

PARTS = 3
"""Parts of the pages, which as many workers open side by side."""
PHONE = 390
SCREEN = 1440
# Elements that reach beyond the window, and are not in a box that is in the window and scrolls.
BEYOND = """(width => {
    const fits = element => element.getBoundingClientRect().right <= width + 1;
    const scrolls = element => ["auto", "scroll"].includes(getComputedStyle(element).overflowX);
    const beyond = [];
    const walk = element => {
        if (!fits(element)) beyond.push(element.outerHTML.slice(0, 200));
        else if (scrolls(element)) return;
        [...element.children].forEach(walk);
    };
    walk(document.querySelector("article"));
    const tables = [...document.querySelectorAll("article table")];
    return {width: document.scrollingElement.scrollWidth, beyond, tables: tables.filter(table => !fits(table)).length};
})"""
BACKGROUND = "getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number)"
# The search is in a shadow tree, which the theme makes when it is first opened. Both wait for what they return.
SEARCH = """(look => new Promise(done => {
    const again = () => {
        const hosts = [...document.querySelectorAll("*")].filter(element => element.shadowRoot);
        const found = hosts.map(host => look(host.shadowRoot)).find(Boolean);
        found ? done(found) : setTimeout(again, 50);
    };
    again();
}))"""
SEARCH_OPEN = f"{SEARCH}(tree => tree.activeElement?.role == 'combobox')"
SEARCH_RESULTS = f"""{SEARCH}(tree => {{
    const options = [...tree.querySelectorAll("[role=option]")].map(option => option.innerText);
    return options.length ? options : null;
}})"""


def look(site: Path, profile: Path, how: Callable[[browser.Page, str], Awaitable[None]]) -> None:
    """Run `how` with a browser's page and the URL of the site."""

    async def run() -> None:
        async with browser.served(site) as url, browser.page(profile) as page:
            await how(page, url)

    asyncio.run(run())


@pytest.mark.parametrize("part", range(PARTS))
def test_no_page_is_wider_than_its_window_and_none_asks_another_host(site: Path, tmp_path: Path, part: int) -> None:
    names = sorted(path.name for path in site.glob("*.html"))[part::PARTS]
    assert len(names) > 5

    async def how(page: browser.Page, url: str) -> None:
        tables = 0
        for name in names:
            await page.open(f"{url}/{name}")
            for width in (PHONE, SCREEN):
                await page.resize(width)
                seen = await page.evaluate(f"{BEYOND}({width})")
                assert seen["width"] <= width, (name, seen)
                assert seen["beyond"] == [], (name, width)
                tables += seen["tables"]
        assert tables > 3
        assert not [asked for asked in page.requested if not asked.startswith((f"{url}/", "data:", "blob:"))]

    look(site, tmp_path, how)


def test_colours_are_those_that_the_reader_prefers_until_the_button_is_pressed(site: Path, tmp_path: Path) -> None:
    async def how(page: browser.Page, url: str) -> None:
        for dark in (False, True):
            await page.resize(SCREEN, dark=dark)
            await page.open(f"{url}/index.html")
            assert (max(await page.evaluate(BACKGROUND)) < 80) == dark
        pressed = "document.querySelector('[data-md-component=palette] label:not([hidden])').click()"
        await page.evaluate(pressed)
        assert min(await page.evaluate(BACKGROUND)) > 200
        await page.open(f"{url}/install.html")
        assert min(await page.evaluate(BACKGROUND)) > 200

    look(site, tmp_path, how)


def test_the_search_names_the_page_and_the_section(site: Path, tmp_path: Path) -> None:
    async def how(page: browser.Page, url: str) -> None:
        await page.open(f"{url}/index.html")
        await page.evaluate("document.querySelector('.md-search__button').click()")
        await page.evaluate(SEARCH_OPEN)
        await page.call("Input.insertText", text="gc-interval")
        found = await page.evaluate(SEARCH_RESULTS)
        assert any("oneagent-csi-provisioner" in text and "Configuration" in text for text in found), found

    look(site, tmp_path, how)


def test_each_block_of_code_has_a_button_that_copies_it(site: Path, tmp_path: Path) -> None:
    async def how(page: browser.Page, url: str) -> None:
        for name in ("install", "air-gap", "migration"):
            await page.open(f"{url}/{name}.html")
            blocks = await page.evaluate("document.querySelectorAll('article pre').length")
            buttons = await page.evaluate(
                "document.querySelectorAll('article .highlight button[data-md-type=copy]').length"
            )
            assert buttons == blocks > 3, name

    look(site, tmp_path, how)
