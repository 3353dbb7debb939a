"""`kubectl` as a child process: the user's own access to the cluster.

Contexts, logins, proxies and credential plugins work as in the user's shell, and nothing of them is handled here. Every
call has a timeout, and none prompts on the terminal.

    KubectlError               the arguments, and what kubectl printed
      KubectlNotFoundError     the object, or its kind, does not exist
      KubectlForbiddenError    the user lacks the permission
      KubectlTimeoutError      no response within the timeout
      KubectlUnusableError     kubectl is not installed, or has no access to a cluster
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

Object = Mapping[str, Any]
"""A Kubernetes object, as in JSON."""

MAX_PARALLEL: Final = 8
"""Calls in parallel: each is a process, and a connection to the API server."""
_CHUNK_BYTES: Final = 1 << 16
_MAX_ERROR_CHARACTERS: Final = 500
_UNUSABLE_MESSAGES: Final = (
    "connection to the server",
    "Unable to connect to the server",
    "Error in configuration",
    "You must be logged in to the server",
    "error: stat ",
    "error: error loading config file",
    "invalid configuration",
    "error: context ",
    "current-context must exist",
)
"""Messages of kubectl after which every other call would fail alike."""
_LOG_LINE: Final = re.compile(r"[EWI][0-9]{4} ")
"""Log lines of its libraries, which precede its own message."""


class KubectlError(Exception):
    """kubectl has ended with an error."""


class KubectlNotFoundError(KubectlError):
    """The object or its kind does not exist."""


class KubectlForbiddenError(KubectlError):
    """The user lacks the permission."""


class KubectlTimeoutError(KubectlError):
    """The call was killed after its timeout."""


class KubectlUnusableError(KubectlError):
    """kubectl has no access to the cluster."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    program: str
    flags: tuple[str, ...]
    """The user's context, kubeconfig and the like."""
    namespace: str
    """Namespace of the installation."""
    timeout_seconds: float

    def __call__(self, *arguments: str, timeout_seconds: float | None = None) -> str:
        """Return its output; any `KubectlError`."""
        done = self._run(arguments, timeout_seconds)
        if done.returncode:
            raise _error(arguments, done.stderr)
        return done.stdout

    def get(self, kind: str, name: str, *flags: str) -> Object | None:
        """Return one object; None if it does not exist."""
        text = self("get", kind, name, *flags, "--ignore-not-found", "-o", "json")
        obj: Object | None = json.loads(text) if text.strip() else None
        return obj

    def list_objects(self, kind: str, *flags: str) -> tuple[Object, ...]:
        """List objects of a kind in the default namespace, or in that of the flags."""
        return tuple(json.loads(self("get", kind, *flags, "-o", "json"))["items"])

    def list_own(self, kind: str, *flags: str) -> tuple[Object, ...]:
        """List objects of a kind in the installation's namespace."""
        return self.list_objects(kind, "-n", self.namespace, *flags)

    def current_namespace(self) -> str:
        """Return the namespace of kubectl's context; any `KubectlError`."""
        return self("config", "view", "--minify", "-o", "jsonpath={..namespace}").strip() or "default"

    def exec_json(self, pod: str, container: str, *command: str) -> Any:
        """Run a command in a container, and return its JSON output whatever its exit code."""
        arguments = ("exec", "-n", self.namespace, pod, "-c", container, "--", *command, "-o", "json")
        done = self._run(arguments)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise _error(arguments, done.stderr or "it printed no JSON") from None

    def tail(self, limit_bytes: int, *arguments: str) -> bytes:
        """Return the end of its output, with no more in memory; any `KubectlError`."""
        kept = b""
        with self.running(*arguments) as process:
            assert process.stdout is not None
            while chunk := process.stdout.read(_CHUNK_BYTES):
                kept = (kept + chunk)[-limit_bytes:] if limit_bytes else b""
            _, stderr = process.communicate()
        if process.returncode == -signal.SIGKILL:
            raise KubectlTimeoutError(f"{_named(arguments)}: not done within {self.timeout_seconds:g} s")
        if process.returncode:
            raise _error(arguments, stderr.decode(errors="replace"))
        return kept

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run it during the block; it is killed at the end, and after the timeout."""
        try:
            process = subprocess.Popen(
                self._command(arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            raise self._unusable(error) from error
        limit = threading.Timer(self.timeout_seconds, process.kill)
        limit.start()
        with process:
            try:
                yield process
            finally:
                limit.cancel()
                if process.poll() is None:
                    process.kill()

    def _run(
        self, arguments: tuple[str, ...], timeout_seconds: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        limit = timeout_seconds or self.timeout_seconds
        try:
            return subprocess.run(
                self._command(arguments),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise KubectlTimeoutError(f"{_named(arguments)}: no response within {limit:g} s") from error
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> KubectlUnusableError:
        return KubectlUnusableError(
            f"{self.program} can't be run: {error.strerror}; install it, or name it with --kubectl"
        )

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        """Return the command line, flags first: after `--` they would be arguments of another command."""
        return [self.program, *self.flags, *arguments]


def thread_pool() -> ThreadPoolExecutor:
    """Return a pool of threads for parallel calls."""
    return ThreadPoolExecutor(MAX_PARALLEL, thread_name_prefix="kubectl")


def _named(arguments: tuple[str, ...]) -> str:
    shown = [argument for argument in arguments if not argument.startswith("go-template")]
    return f"kubectl {' '.join(shown[:8])}"


def _error(arguments: tuple[str, ...], stderr: str) -> KubectlError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not _LOG_LINE.match(line)]
    message = "; ".join(lines)[-_MAX_ERROR_CHARACTERS:] or "it failed without a message"
    text = f"{_named(arguments)}: {message}"
    if "(NotFound)" in message or "the server doesn't have a resource type" in message:
        return KubectlNotFoundError(text)
    if "(Forbidden)" in message:
        return KubectlForbiddenError(text)
    if any(sign in message for sign in _UNUSABLE_MESSAGES):
        return KubectlUnusableError(text)
    return KubectlError(text)
