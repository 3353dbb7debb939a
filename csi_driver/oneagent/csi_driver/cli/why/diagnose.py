"""Diagnosis of a pod from its evidence: a reason, a sentence, a remedy. Pure.

The mount table comes before the database: the server writes the row of a mount a moment after its answer.
"""

from __future__ import annotations

from collections.abc import Iterable

from oneagent.common import agents, remedies
from oneagent.common.identifiers import agent_version
from oneagent.common.node_report import Diagnosis, PodEvidence, PodProcess, Volume
from oneagent.csi_driver.cli.why import Reason
from oneagent.csi_driver.metadata.states import VolumeState

_RESTART_POD = "then restart the pod: a view can't be mounted into a running container"


def diagnose(evidence: PodEvidence) -> Diagnosis:
    """Diagnose a pod."""
    if evidence.volume is None:
        return _without_volume(evidence)
    if evidence.volume.mode == "host":
        return _host(evidence, evidence.volume)
    if evidence.view is None:
        return _without_view(evidence, evidence.volume)
    if evidence.is_corrupt:
        return Diagnosis(
            Reason.VERSION_CORRUPT,
            f"{_pod(evidence)} has a view of version {agent_version(evidence.volume.version)}, {evidence.corruption}",
            f"move the directory of version {evidence.volume.version} from agents/ to trash/ if the provisioner has "
            "not done so, wait until it is installed again, and restart the pod",
        )
    if evidence.lacks_token:
        return Diagnosis(
            Reason.CANNOT_REPORT,
            f"{_pod(evidence)} has a view whose configuration lacks the tenant's token, so its agent cannot report",
            "restart the pod: a driver of an older version mounted this view before the tenant had answered",
        )
    return _of_processes(evidence, evidence.volume)


def _pod(evidence: PodEvidence) -> str:
    return f"pod {evidence.namespace}/{evidence.pod}"


def _without_volume(evidence: PodEvidence) -> Diagnosis:
    if evidence.unreadable:
        return Diagnosis(
            Reason.UNKNOWN,
            f"volume of {_pod(evidence)} unknown: {'; '.join(evidence.unreadable)}",
            "run this as root on a node, with its --data-dir",
        )
    if any(process.mapped for process in evidence.processes):
        return _of_processes(evidence)
    return Diagnosis(
        Reason.NO_VOLUME,
        f"{_pod(evidence)} has no volume of the driver on this node",
        "check the pod's node (kubectl get pod -o wide). On this node it was either not injected, see its annotation "
        "oneagent.dynatrace.com/reason, or its init container downloads the agent",
    )


def _host(evidence: PodEvidence, volume: Volume) -> Diagnosis:
    if evidence.mounted:
        return Diagnosis(
            Reason.HOST_DIRECTORY,
            f"{_pod(evidence)} is a host agent and has the persistent directory of "
            f"{agents.describe_object(volume.dynakube)}",
        )
    return _without_view(evidence, volume)


def _without_view(evidence: PodEvidence, volume: Volume) -> Diagnosis:
    pod = _pod(evidence)
    if volume.state == VolumeState.WRITTEN:
        return Diagnosis(Reason.FILES_ONLY, f"{pod} has its metadata files, and no agent was requested for it")
    if volume.state == VolumeState.EMPTY:
        cause, remedy = remedies.split(volume.reason)
        return Diagnosis(
            Reason.NO_AGENT_MOUNTED,
            f"{pod} runs without its agent, with an empty view: {cause}",
            f"{remedy or 'solve the cause'}; {_RESTART_POD}",
        )
    if volume.state == VolumeState.WAITING:
        return _waiting(evidence, volume)
    if evidence.mounted is None:
        return Diagnosis(
            Reason.UNKNOWN,
            f"view of {pod} unknown: {'; '.join(evidence.unreadable)}",
            "set --mount-table to a readable mount table",
        )
    here = "another mount than its view" if evidence.mounted else "nothing"
    return Diagnosis(
        Reason.NOT_MOUNTED,
        f"{pod} has a volume, but {here} is mounted at {volume.target}",
        "restart the pod; or run this where the driver's mounts are visible: in the server's container, or on the "
        "node with --mount-table=/proc/1/mountinfo",
    )


def _waiting(evidence: PodEvidence, volume: Volume) -> Diagnosis:
    cause, remedy = remedies.split(volume.reason or volume.condition or "its view is being mounted")
    attempt = f"attempt {volume.attempts} failed: " if volume.attempts else ""
    if evidence.server_running is False:
        remedy = "the server is not running on this node: see the log of its container"
    elif remedy:
        remedy = f"{remedy}; the pod then starts by itself"
    else:
        remedy = f"wait while the version is being installed; if it can't be, {remedies.GENERAL}"
    return Diagnosis(Reason.WAITING, f"{_pod(evidence)} can't start yet: {attempt}{cause}", remedy)


def _of_processes(evidence: PodEvidence, volume: Volume | None = None) -> Diagnosis:
    """Without a volume the agent came into the pod by other means: an init container, its image, the host."""
    pod = _pod(evidence)
    version = agent_version(volume.version) or "unknown" if volume is not None else "unknown, from no volume"
    if not evidence.processes:
        return _no_process(evidence)
    mapped = [process for process in evidence.processes if process.mapped]
    absent = [process for process in evidence.processes if process.mapped is False]
    unread = [process for process in evidence.processes if process.mapped is None]
    if not absent and not unread:
        count = "its process" if len(mapped) == 1 else f"its {len(mapped)} processes"
        return Diagnosis(Reason.MONITORED, f"{pod} is monitored: {count} loaded the agent, version {version}")
    if mapped and absent:
        return Diagnosis(
            Reason.PARTLY_MONITORED,
            f"{pod} is partly monitored: of {len(mapped) + len(absent)} processes {len(mapped)} loaded the agent, "
            f"version {version}; not {_named(absent)}",
            _remedy(absent),
        )
    if absent:
        return Diagnosis(
            Reason.NOT_LOADED,
            f"{pod} has its view of version {version}, but {_named(absent)} did not load the agent",
            _remedy(absent),
        )
    return Diagnosis(
        Reason.PROCESSES_NOT_SEEN,
        f"{pod} has its view of version {version}, but the maps of {_named(unread)} can't be read",
        "run this as root on the node",
    )


def _no_process(evidence: PodEvidence) -> Diagnosis:
    start = f"{_pod(evidence)} has its view"
    profile = agents.of_dynakube(evidence.volume.dynakube if evidence.volume is not None else "")
    library = profile.library_name.removesuffix(".so")
    if not evidence.sees_pods:
        return Diagnosis(
            Reason.PROCESSES_NOT_SEEN,
            f"{start}; its processes are not visible from here",
            "run this as root where the node's processes are visible (--proc), or in the container: "
            f"grep {library} /proc/1/maps",
        )
    return Diagnosis(
        Reason.NO_PROCESS,
        f"{start}, but no process has it mounted",
        "wait if the pod's containers are starting or have ended; else kubelet's directory is mounted into the "
        "server's container without mount propagation Bidirectional, or the containers don't mount the volume",
    )


def _named(processes: Iterable[PodProcess]) -> str:
    first, *rest = processes
    more = f" and {len(rest)} more" if rest else ""
    return f"{first.command} (process {first.pid}){more}"


def _remedy(absent: Iterable[PodProcess]) -> str:
    """Return the remedies for processes without the library, each once."""
    return "; ".join(dict.fromkeys(_cause(process) for process in absent))


def _cause(process: PodProcess) -> str:
    if process.static:
        return "a statically linked program loads no library: link it dynamically, or run it unmonitored"
    if process.preload is False:
        return (
            "LD_PRELOAD was not set when the program started: check the container's spec, image and start script, "
            "and annotations that exclude the container from injection"
        )
    return (
        "LD_PRELOAD was set and ignored: by a set-uid program, or one for another architecture or C library than "
        "the agent's; the first lines of the container's log may name the library"
    )
