"""What follows from what was seen of a pod: one sentence, and what to do. Pure.

The mount table comes before the database: the server writes the row of a mount a moment after its answer.
"""

from __future__ import annotations

from collections.abc import Iterable

from oneagent.csi_driver.cli.why import Evidence, PodProcess, Reason, Verdict, Volume
from oneagent.csi_driver.metadata.states import VolumeState

_ONCE_GONE = "put the cause right, then restart the pod: a view can't be put under a container that runs"


def judge(found: Evidence) -> Verdict:
    """The verdict on a pod."""
    if found.volume is None:
        return _without_volume(found)
    if found.volume.mode == "host":
        return _host(found, found.volume)
    if found.view is None:
        return _without_view(found, found.volume)
    if found.damaged:
        return Verdict(
            Reason.VERSION_DAMAGED,
            f"{_who(found)} has a view of version {found.volume.version}, {found.damage}",
            f"move the folder of version {found.volume.version} from agents/ to trash/ if the provisioner has not done "
            "so, wait until it is installed again, and restart the pod",
        )
    return _of_processes(found, found.volume)


def _who(found: Evidence) -> str:
    return f"pod {found.namespace}/{found.pod}"


def _without_volume(found: Evidence) -> Verdict:
    if found.unreadable:
        return Verdict(
            Reason.NOT_KNOWN,
            f"what this node has for {_who(found)} can't be told: {'; '.join(found.unreadable)}",
            "run this on a node, with its --data-dir, as root",
        )
    return Verdict(
        Reason.NO_VOLUME,
        f"{_who(found)} has no volume of the driver on this node",
        "see which node the pod is on (kubectl get pod -o wide). If it is this one it was not injected: its "
        "annotation oneagent.dynatrace.com/reason says why; or its agent is downloaded by its init container",
    )


def _host(found: Evidence, volume: Volume) -> Verdict:
    if found.mounted:
        return Verdict(
            Reason.HOST_FOLDER,
            f"{_who(found)} is a host agent and has the persistent folder of DynaKube {volume.dynakube}",
        )
    return _without_view(found, volume)


def _without_view(found: Evidence, volume: Volume) -> Verdict:
    who = _who(found)
    if volume.state == VolumeState.EMPTY:
        return Verdict(
            Reason.EMPTY_VIEW, f"{who} runs without its agent, with an empty view: {volume.reason}", _ONCE_GONE
        )
    if volume.state == VolumeState.WAITING:
        why = volume.reason or volume.condition or "its view is being mounted"
        return Verdict(
            Reason.WAITING,
            f"{who} can't start yet: {f'attempt {volume.attempts} failed: ' if volume.attempts else ''}{why}",
            "the server is not running on this node: see its container's log"
            if found.server_running is False
            else "wait if the version is on its way; else oneagent-csi status shows what is in the way",
        )
    if found.mounted is None:
        return Verdict(
            Reason.NOT_KNOWN,
            f"whether {who} has its view can't be told: {'; '.join(found.unreadable)}",
            "name a mount table that can be read with --mount-table",
        )
    here = "something else than its view" if found.mounted else "nothing"
    return Verdict(
        Reason.NOT_MOUNTED,
        f"{who} was given a volume, but {here} is mounted at {volume.target}",
        "restart the pod; or look where the driver's mounts are seen: in the server's container, or with "
        "--mount-table=/proc/1/mountinfo on the node",
    )


def _of_processes(found: Evidence, volume: Volume) -> Verdict:
    who, version = _who(found), volume.version or "not known"
    if not found.processes:
        return _no_process(found)
    mapped = [process for process in found.processes if process.mapped]
    absent = [process for process in found.processes if process.mapped is False]
    unread = [process for process in found.processes if process.mapped is None]
    if not absent and not unread:
        count = "its process" if len(mapped) == 1 else f"its {len(mapped)} processes"
        return Verdict(Reason.MONITORED, f"{who} is monitored: {count} loaded the agent, version {version}")
    if mapped and absent:
        return Verdict(
            Reason.PARTLY_MONITORED,
            f"{who} is monitored in part: of {len(mapped) + len(absent)} processes {len(mapped)} loaded the agent, "
            f"version {version}; not {_named(absent)}",
            _remedy(absent),
        )
    if absent:
        return Verdict(
            Reason.NOT_LOADED,
            f"{who} has its view of version {version}, but {_named(absent)} did not load the agent",
            _remedy(absent),
        )
    return Verdict(
        Reason.PROCESSES_NOT_SEEN,
        f"{who} has its view of version {version}, but the maps of {_named(unread)} can't be read",
        "run this as root of the node",
    )


def _no_process(found: Evidence) -> Verdict:
    start = f"{_who(found)} has its view"
    if not found.sees_pods:
        return Verdict(
            Reason.PROCESSES_NOT_SEEN,
            f"{start}; whether its processes loaded the agent can't be told from here",
            "run this where the node's processes are seen, as root (--proc names their folder), or look into the "
            "container: grep liboneagentproc /proc/1/maps",
        )
    return Verdict(
        Reason.NO_PROCESS,
        f"{start}, but no process has it mounted",
        "wait if the pod's containers are starting or have ended; else kubelet's folder is mounted into the server's "
        "container without mount propagation Bidirectional, or the containers don't mount the volume",
    )


def _named(processes: Iterable[PodProcess]) -> str:
    first, *rest = processes
    more = f" and {len(rest)} more" if rest else ""
    return f"{first.command} (process {first.pid}){more}"


def _remedy(absent: Iterable[PodProcess]) -> str:
    """What to do, by why the processes did not load the library; each cause is said once."""
    return "; ".join(dict.fromkeys(_cause(process) for process in absent))


def _cause(process: PodProcess) -> str:
    if process.static:
        return "a program that is linked statically loads no library: link it dynamically, or do without the agent"
    if process.preload is False:
        return (
            "LD_PRELOAD was not set as the program started: see what its container's manifest, image or start script "
            "makes of it, and whether the container is excluded from injection"
        )
    return (
        "LD_PRELOAD was set and not followed: set-uid programs don't, nor programs for another architecture or C "
        "library than the agent's; the container's first lines of output may name the library"
    )
