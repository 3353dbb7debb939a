"""A headless Chromium with one page, driven by the DevTools protocol. It reaches this machine only."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import shutil
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

CHROMIUM: Final = shutil.which("chromium")
_FLAGS: Final = (
    "--headless",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
)
_START_SECONDS: Final = 60
_ANSWER_SECONDS: Final = 30


class Page:
    """The page of a browser. Sizes are in CSS pixels."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._events: list[str] = []
        self.requested: set[str] = set()
        """URLs that the browser has asked for."""

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the result of a command of the protocol."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while (message := await self._receive()).get("id") != number:
            pass
        assert "result" in message, (method, message)
        return dict(message["result"])

    async def open(self, url: str) -> None:
        """Go to the URL, and return when everything on it is loaded."""
        self._events.clear()
        await self.call("Page.navigate", url=url)
        while "Page.loadEventFired" not in self._events:
            await self._receive()

    async def resize(self, width: int, *, dark: bool = False) -> None:
        """Make the window so wide, that of a phone below 600, for a reader who prefers these colours."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.call("Emulation.setDeviceMetricsOverride", **metrics)
        preferred = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[preferred])

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, or what its promise comes to."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = await self._socket.receive_json(timeout=_ANSWER_SECONDS)
        if method := message.get("method"):
            self._events.append(method)
        if method == "Network.requestWillBeSent":
            self.requested.add(message["params"]["request"]["url"])
        return message


@contextlib.asynccontextmanager
async def page(profile: Path) -> AsyncIterator[Page]:
    """The page of a new browser, whose files are in the empty directory `profile`."""
    assert CHROMIUM is not None
    # Root has no sandbox for it: the pages are our own.
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    command = [CHROMIUM, *_FLAGS, *root, f"--user-data-dir={profile}", "about:blank"]
    process = await asyncio.create_subprocess_exec(*command, stderr=PIPE)
    try:
        async with asyncio.timeout(_START_SECONDS):
            address = await _address(process)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{address}/json/list") as answer:
                (target,) = (target for target in await answer.json() if target["type"] == "page")
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                opened = Page(socket)
                for domain in ("Network", "Page", "Runtime"):
                    await opened.call(f"{domain}.enable")
                yield opened
    finally:
        process.terminate()
        await process.communicate()


async def _address(process: asyncio.subprocess.Process) -> str:
    """Host and port of the protocol, which the browser prints."""
    assert process.stderr is not None
    printed = b""
    while line := await process.stderr.readline():
        printed += line
        if found := re.search(rb"DevTools listening on ws://([^/]+)/", line):
            return found[1].decode()
    raise AssertionError(f"chromium ended: {printed.decode()}")


@contextlib.asynccontextmanager
async def served(directory: Path) -> AsyncIterator[str]:
    """Serve the directory; yields its URL."""
    app = web.Application()
    app.router.add_static("/", directory)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        listener = web.TCPSite(runner, "127.0.0.1", 0)
        await listener.start()
        port = runner.addresses[0][1]
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()
