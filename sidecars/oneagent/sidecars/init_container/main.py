"""`install-oneagent`: prepares a pod's agent and the files about its containers, then ends.

The webhook adds it to pods as an init container and configures it by variables. Its exit code depends on the failure
policy. With `silent` it is always 0, and the pod starts, if necessary unmonitored. With `fail` it is 1 until everything
is in place, and the pod waits. Either way one log line and the termination message, which `kubectl describe pod`
shows, have the problem and the remedy.

Every pod waits for it, mostly on a tenth of a core, so HTTP client and flag parser are imported only when needed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from functools import partial
from types import FrameType
from typing import Final, NoReturn

from oneagent.common import logs
from oneagent.common.agents import oneagent
from oneagent.common.agents.oneagent.init_variables import Variable
from oneagent.common.injection import contract, inert_library
from oneagent.sidecars.init_container import InstallError, NoAgentError, container_files, settings
from oneagent.sidecars.init_container.settings import InitContainerSettings, Places

log = logging.getLogger(__name__)

LONGEST_SECONDS: Final = 300.0
"""With `silent`: the longest time that an application waits for its agent."""

_MAX_MESSAGE_LENGTH: Final = 4096
"""Bytes of a termination message; kubelet shows no more."""
_USAGE: Final = 2
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)


class _Stopped(BaseException):
    """A signal arrived. A `BaseException`, so that no library handles it as an error."""


def main() -> NoReturn:
    places = Places()
    if sys.argv[1:]:
        places = settings.read_places(sys.argv[1:])
    # Python's normal exit has the code 120 if its last output cannot be written, as on a full disk.
    os._exit(_install(os.environ, places))


def _install(environ: Mapping[str, str], places: Places) -> int:
    """Run everything and return the exit code."""
    logs.setup("json", "info")
    if settings.is_by_hand(environ):
        print(f"install-oneagent: {_problem_of(environ)}. See --help", file=sys.stderr)
        return _USAGE
    silent = settings.is_silent(environ)
    problems: list[str] = []
    began = time.monotonic()
    try:
        _catch_signals(LONGEST_SECONDS if silent else 0.0)
        _run(environ, places, silent, problems)
        _ignore_signals()
    except _Stopped as stopped:
        problems.append(str(stopped))
    if not problems:
        log.info("done", extra=logs.fields(seconds=round(time.monotonic() - began, 3)))
        return 0
    if silent and environ.get(Variable.MODE) == settings.INSTALLER:
        _write_inert_library(places.bin)
    outcome = "the pod starts anyway" if silent else "the pod waits, because its failure policy is fail"
    message = f"{'. '.join(problems)}. So {outcome}."
    log.log(logging.WARNING if silent else logging.ERROR, message)
    _write_termination_message(places.termination_log, message)
    return 0 if silent else 1


def _run(environ: Mapping[str, str], places: Places, silent: bool, problems: list[str]) -> None:
    """Run all steps, and add failures to the problems."""
    try:
        container_settings = settings.read(environ)
        for part in (
            partial(container_files.write, places.share, container_settings),
            partial(_agent, container_settings, places, silent),
        ):
            # A failed step does not stop the next one.
            try:
                part()
            except InstallError as error:
                problems.append(str(error))
    except InstallError as error:
        problems.append(str(error))
    except MemoryError:
        problems.append("out of memory: raise the memory limit of the init container")
    except Exception as error:
        log.exception("internal error")
        problems.append(f"internal error: {type(error).__name__}: see its log")


def _agent(container_settings: InitContainerSettings, places: Places, silent: bool) -> None:
    if container_settings.mode == settings.PROVISIONED:
        check_view(places.bin, container_settings.files.pod.node_name)
    elif container_settings.mode == settings.INSTALLER:
        from oneagent.sidecars.init_container import installer

        installer.install(container_settings, places, silent=silent)


def check_view(directory: str, node: str) -> None:
    """Raise `NoAgentError` unless the view has the library that `LD_PRELOAD` names.

    The driver publishes the agent before this container starts, or an empty view. An application would only see that
    its library can't be preloaded; the error says why.
    """
    volume, where = f"the volume {contract.BIN_VOLUME}", f"on node {node}" if node else "on this pod's node"
    library = os.path.join(directory, oneagent.PRELOAD_LIBRARY)
    try:
        is_there = os.path.isfile(library)
        if is_there and not inert_library.is_inert(library):
            return
        empty = is_there or "agent" not in os.listdir(directory)
    except OSError as error:
        raise NoAgentError(
            f"{volume} can't be read: {error.strerror} ({directory}): see the log of the CSI driver {where}"
        ) from error
    if empty:
        raise NoAgentError(
            f"{volume} is empty: the CSI driver had no agent for this pod {where}; the pod's Events and the DynaKube's "
            "conditions say why. Put that right and delete the pod to have it monitored"
        )
    raise NoAgentError(
        f"{volume} has no {oneagent.PRELOAD_LIBRARY}: the agent {where} is incomplete, or for another CPU "
        "architecture; set another version in the DynaKube and delete the pod to have it monitored"
    )


def _catch_signals(longest_seconds: float) -> None:
    """Stop in order when the pod is deleted, or after the time limit, if there is one."""

    def stop(number: int, _frame: FrameType | None) -> None:
        _ignore_signals()  # One signal is enough: the remaining clean-up is bounded.
        if number == signal.SIGALRM:
            raise _Stopped(f"not done after {longest_seconds:g} s: is the network or the node's disk slow?")
        raise _Stopped("stopped by a signal before it was done: the pod is being deleted, or its node shut down")

    for number in _SIGNALS:
        signal.signal(number, stop)
    signal.setitimer(signal.ITIMER_REAL, longest_seconds)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _write_inert_library(directory: str) -> None:
    """Spare the application its loader's message; it starts without the library, too."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            inert_library.write(descriptor)
        finally:
            os.close(descriptor)


def _write_termination_message(path: str, message: str) -> None:
    """Write the termination message; without such a file, only the log has it."""
    with contextlib.suppress(OSError), open(path, "wb") as file:
        file.write(message.encode(errors="replace")[:_MAX_MESSAGE_LENGTH].decode(errors="ignore").encode())


def _problem_of(environ: Mapping[str, str]) -> str:
    try:
        settings.read(environ)
    except InstallError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main()
