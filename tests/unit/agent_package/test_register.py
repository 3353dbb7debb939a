"""The start of the agent in Node.js: in real processes, with a stand-in for OpenTelemetry's own package."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from deploy.agents.opentelemetry import build

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not on this machine")


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    shutil.copyfile(build.SOURCES / "node/register.js", tmp_path / "register.js")
    (tmp_path / "node_modules/@opentelemetry/auto-instrumentations-node").mkdir(parents=True)
    return tmp_path


def run(agent: Path, content: str | None, before: str = "") -> tuple[int, str]:
    if content is not None:
        (agent / "node_modules/@opentelemetry/auto-instrumentations-node/register.js").write_text(content)
    (agent / "before.js").write_text(before)
    options = f"--require {agent / 'before.js'} --require {agent / 'register.js'}"
    command = [NODE or "", "-e", "console.log('application')"]
    done = subprocess.run(command, env={"NODE_OPTIONS": options}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_agent_starts_before_the_application(agent: Path) -> None:
    assert run(agent, "console.log('started')") == (0, "started\napplication\n")


@pytest.mark.parametrize("content", ["throw new Error('bad')", "syntax error", None])
def test_an_agent_that_fails_leaves_the_application_as_it_is(agent: Path, content: str | None) -> None:
    assert run(agent, content) == (0, "application\n")


@pytest.mark.parametrize(
    ("version", "starts"),
    [
        ("8.17.0", False),
        ("18.18.2", False),
        ("18.19.0", True),
        ("19.9.0", False),
        ("20.5.1", False),
        ("20.6.0", True),
        ("22.0.0", True),
    ],
)
def test_only_versions_that_the_agent_is_for_load_it(agent: Path, version: str, starts: bool) -> None:
    before = f"Object.defineProperty(process.versions, 'node', {{value: '{version}'}})"
    code, printed = run(agent, "console.log('started')", before)
    assert (code, "started" in printed) == (0, starts)


class TestSignal:
    """The agent listens to SIGTERM, and a process with a listener is no longer ended by it."""

    AGENT = "process.on('SIGTERM', async () => console.log('sent'))"

    def test_it_ends_an_application_that_does_not_listen_after_the_agent_has_sent_the_rest(self, agent: Path) -> None:
        assert self._end(agent, self.AGENT, "") == (-signal.SIGTERM, "sent\n")

    def test_an_application_that_listens_decides_by_itself(self, agent: Path) -> None:
        application = "process.on('SIGTERM', () => setTimeout(() => { console.log('own'); process.exit(3) }, 100));"
        assert self._end(agent, self.AGENT, application) == (3, "sent\nown\n")

    @pytest.mark.parametrize("content", ["Promise.reject(new Error())", "new Promise(() => {})"])
    def test_an_agent_that_cannot_send_ends_too(self, agent: Path, content: str) -> None:
        assert self._end(agent, f"process.on('SIGTERM', () => {content})", "") == (-signal.SIGTERM, "")

    def _end(self, agent: Path, content: str, application: str) -> tuple[int, str]:
        path = agent / "node_modules/@opentelemetry/auto-instrumentations-node/register.js"
        path.write_text(content)
        command = [NODE or "", "-e", f"{application} setInterval(() => {{}}, 1000); console.log('ready')"]
        options = {"NODE_OPTIONS": f"--require {agent / 'register.js'}"}
        with subprocess.Popen(command, env=options, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.terminate()
            return process.wait(10), process.stdout.read()
