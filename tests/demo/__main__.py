"""`python -m tests.demo [--keep] [--agent otel]`: the main job on embedded defaults. Run it with `make run`.

It needs a mount namespace of its own, which make gives it, as root or without. Exit code 0 if every step worked; 1
with the reason and the ends of all logs if one did not; 3 if there is no library, or no package of agents, to
demonstrate with.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NoReturn

import grpc

from tests.demo import library, place, telemetry_story, telling
from tests.demo.programs import ProgramFailedError, Programs
from tests.demo.story import Story
from tests.demo.telemetry_story import TelemetryStory

NO_LIBRARY: Final = 3

_TRY: Final = """
All of it stays up until Ctrl-C. Talk to the driver from another terminal, in this folder:

  export CSI_ENDPOINT=unix://{socket}
  csc={csc}
  $csc identity plugin-info
  $csc node get-info
  $csc node publish --cap SINGLE_NODE_WRITER,mount, --target-path {target} \\
      --vol-context csi.storage.k8s.io/pod.name=try,csi.storage.k8s.io/pod.namespace=default,mode=app,{context} \\
      csi-try
  $csc node stats csi-try:{target}
  $csc node unpublish --target-path {target} csi-try

The mounts are in a mount namespace of their own. To look at them, and at the node's status:

  {enter} find {target}
  .venv/bin/oneagent-csi status --data-dir {data} --mount-table /proc/{pid}/mountinfo

Logs: {logs}
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description="Shows the main job.")
    parser.add_argument("--keep", action="store_true", help="stay up until Ctrl-C, and say what to try")
    parser.add_argument(
        "--agent",
        choices=("oneagent", "otel"),
        default="oneagent",
        help="stand-in of OneAgent, or OpenTelemetry's agents",
    )
    given = parser.parse_args()
    if _is_the_machines_namespace():
        parser.error("this mounts: run it in a mount namespace of its own, with `make run`")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        return run(given.agent, keep=given.keep)
    except (library.NoLibraryError, telemetry_story.NoPackageError) as error:
        telling.say(str(error))
        return NO_LIBRARY
    except KeyboardInterrupt:
        telling.say("\ninterrupted; everything is put away")
        return 130


def run(agent: str, *, keep: bool) -> int:
    """Tell the story; the exit code."""
    found = library.find() if agent == "oneagent" else None
    with place.folder() as folder:
        programs, containers = Programs(folder), Programs(folder)
        try:
            story = Story(folder, programs, found) if found else TelemetryStory(folder, programs, containers)
            story.beginning()
            story.middle()
            if keep:
                stay(story)
            story.end()
        except (ProgramFailedError, grpc.RpcError, OSError, subprocess.SubprocessError) as error:
            telling.say(f"\nFAILED: {_sentence(error)}\n{programs.tails()}")
            return 1
        except Exception:
            telling.say(f"\nFAILED\n{programs.tails()}")
            raise
        finally:
            containers.end()
            programs.end()
    telling.step("nothing is left behind")
    return 0


def stay(story: Story | TelemetryStory) -> None:
    """Say what to try, and wait for Ctrl-C."""
    story.kubelet.target("try").parent.mkdir(parents=True)
    built = Path("tests/tools/bin/csc")
    enter = f"nsenter --target {os.getpid()} --mount" + ("" if os.getuid() == 0 and _is_real_root() else " --user")
    telling.say(
        _TRY.format(
            socket=story.socket,
            context=story.volume_context,
            csc=built if built.exists() else f"{built}  # once it is built, with `make tools`",
            target=story.kubelet.target("try"),
            data=story.data.root,
            logs=f"{story.folder}/*.log",
            enter=enter,
            pid=os.getpid(),
        )
    )
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        telling.say("")


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _sentence(error: Exception) -> str:
    if isinstance(error, grpc.Call):
        return f"{error.code().name}: {error.details()}"
    return str(error)


def _is_real_root() -> bool:
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def _is_the_machines_namespace() -> bool:
    try:
        return Path("/proc/self/ns/mnt").readlink() == Path("/proc/1/ns/mnt").readlink()
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
