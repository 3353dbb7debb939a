"""Three small services that know nothing of telemetry: each answers a request, and asks the next one for its part.

They listen at HOST and PORT, answer with HOSTNAME, and ask at the URL NEXT, if there is one. Which of them
run depends on the runtimes of this machine. Where Python is alone, a second one takes the place of the
others.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PYTHON: Final = """\
import asyncio, os, urllib.request
from aiohttp import web

def ask(url):
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()

async def serve(request):
    url = os.environ.get("NEXT")
    rest = await asyncio.to_thread(ask, url) if url else ""
    return web.Response(text=os.environ["HOSTNAME"] + "\\n" + rest)

application = web.Application()
application.router.add_get("/{path}", serve)

async def main():
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, os.environ["HOST"], int(os.environ["PORT"])).start()
    print("listening", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
NODE: Final = """\
const http = require('http');
const { HOST, HOSTNAME, NEXT, PORT } = process.env;
http.createServer((request, response) => {
  if (!NEXT) return response.end(HOSTNAME + '\\n');
  http.get(NEXT, answer => {
    let rest = '';
    answer.on('data', part => rest += part);
    answer.on('end', () => response.end(HOSTNAME + '\\n' + rest));
  });
}).listen(PORT, HOST, () => console.log('listening'));
"""
JAVA: Final = """\
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

public class Service {
    public static void main(String[] arguments) throws Exception {
        String next = System.getenv("NEXT");
        var address = new InetSocketAddress(System.getenv("HOST"), Integer.parseInt(System.getenv("PORT")));
        HttpServer server = HttpServer.create(address, 0);
        HttpClient client = HttpClient.newHttpClient();
        server.createContext("/", exchange -> {
            String text = System.getenv("HOSTNAME") + "\\n";
            try {
                if (next != null) {
                    var request = HttpRequest.newBuilder(URI.create(next)).build();
                    text += client.send(request, BodyHandlers.ofString()).body();
                }
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
            }
            exchange.sendResponseHeaders(200, text.length());
            exchange.getResponseBody().write(text.getBytes());
            exchange.close();
        });
        server.start();
        System.out.println("listening");
    }
}
"""
JAVA_CLASS: Final = "Service"


@dataclass(frozen=True)
class Application:
    """`binds` and `env` are what its image would have: files, as `source:target`, and variables."""

    name: str
    language: str
    command: Sequence[str]
    binds: Sequence[str] = ()
    env: Sequence[str] = ()


def find(agents: Path, place: Path) -> list[Application]:
    """Return the services in the order of their calls, of the languages that this machine and the package have.

    Their programs are written to `place`.
    """
    found = [_python("shop", place)]
    if (node := shutil.which("node")) and (agents / "node/register.js").exists():
        found.append(_node("cart", node, place))
    if (java := shutil.which("java")) and (javac := shutil.which("javac")) and (agents / "java").exists():
        found.append(_java("stock", java, javac, place))
    return found if len(found) > 1 else [*found, _python("cart", place)]


def _python(name: str, place: Path) -> Application:
    """With the packages of this environment as those of its image."""
    source = _write(place / f"{name}.py", PYTHON)
    program = str(Path(sys.executable).resolve())
    binds = (f"{source}:/app/main.py", f"{sysconfig.get_path('purelib')}:/app/packages", *_outside(sys.base_prefix))
    return Application(name, "Python", (program, "/app/main.py"), binds, ("PYTHONPATH=/app/packages",))


def _node(name: str, node: str, place: Path) -> Application:
    source, program = _write(place / f"{name}.js", NODE), str(Path(node).resolve())
    return Application(name, "Node.js", (program, "/app/main.js"), (f"{source}:/app/main.js", *_outside(program)))


def _java(name: str, java: str, javac: str, place: Path) -> Application:
    """Compiled before, because the agent leaves the JDK's own tools alone, and `java FILE.java` is one."""
    source, classes = _write(place / f"{JAVA_CLASS}.java", JAVA), place / name
    subprocess.run([javac, "-d", str(classes), str(source)], check=True)
    program = str(Path(java).resolve())
    # Debian's has its settings below /etc.
    binds = (f"{classes}:/app", *_outside(program), *map(str, Path("/etc").glob("java-*")))
    return Application(name, "Java", (program, "-cp", "/app", JAVA_CLASS), binds)


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _outside(path: str) -> tuple[str, ...]:
    """Return the directory to bind for a path that is not below /usr, which every container has."""
    return () if path.startswith("/usr/") or path == "/usr" else (path,)
