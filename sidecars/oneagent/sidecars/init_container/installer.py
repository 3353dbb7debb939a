"""Without CSI: the agent comes from the operator's package endpoint into the pod's own folder, once.

    fetch to .oneagent/ (resumable, verified) → room for it? → unpack → configure → mark → rename piece by piece

The folder `agent` is renamed last, with everything that it holds, so what is preloaded appears with all that it
needs or not at all. The mark in it names the machine's boot: a container that is started again finds its agent and
downloads nothing, but after a power cut a file may have its full length and not its content, and nothing is trusted.
That costs a download after a reboot, and spares every start of a pod a sync of the node's whole disk.

What is killed for its memory can't say so, and would be started and killed again for ever. So beginnings are
counted, and after some of them a silent container gives up.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import shutil
import threading
from pathlib import Path
from typing import Final

from oneagent.common import logs, package_client
from oneagent.common import unpack as common_unpack
from oneagent.common.agent_config import ruxitagentproc
from oneagent.common.http import client as http_client
from oneagent.common.http import download, errors
from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.common.injection import contract
from oneagent.common.injection import secret as injection_secret
from oneagent.common.injection.contract import PRELOAD_LIBRARY
from oneagent.common.injection.secret import Injection
from oneagent.common.unpack import zip, zip_reader
from oneagent.sidecars.init_container import DownloadError
from oneagent.sidecars.init_container.settings import InitContainerSettings, Places

log = logging.getLogger(__name__)

MARK: Final = "agent/.installed"
WORK: Final = ".oneagent"
MOST_BEGINNINGS: Final = 3

_AGENT: Final = "agent"
_ARCHIVE: Final = "agent.zip"
_CONF: Final = "agent/conf/ruxitagentproc.conf"
_FILE_MODE: Final = 0o644
_FOLDER_MODE: Final = 0o1777
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
_MIB: Final = 1 << 20


def install(
    settings: InitContainerSettings,
    places: Places,
    *,
    silent: bool,
    wait: package_client.WaitLimits = package_client.DEFAULT_WAIT,
) -> str:
    """Have the agent in the bin folder; its version. `DownloadError` if it can't be had, and nothing is there then."""
    into, work = Path(places.bin), Path(places.bin, WORK)
    if version := _installed(into):
        log.info("the agent is there already", extra=logs.facts(version=version))
        shutil.rmtree(work, ignore_errors=True)  # Of a run that was killed when it had all but ended.
        return version
    try:
        _begin(into, work, silent=silent)
        injection = _injection(places)
        version = settings.version or injection.version
        archive = _fetch(injection, settings, Path(places.config, contract.TOKEN_FILE), work, wait)
        root = _unpack(archive, work / "tree")
        _configure(root, injection)
        _mark(root, version)
        _show(root, into, work)
    except (OSError, http_client.InvalidSettingsError, common_unpack.PackageError) as error:
        raise DownloadError(_said(error)) from error
    finally:
        # With `fail` this is done again soon, and goes on with what has come.
        if silent or (into / _AGENT).exists():
            shutil.rmtree(work, ignore_errors=True)
    return version


def _installed(into: Path) -> str:
    """The version of a whole agent from this boot of the machine; empty if there is none."""
    try:
        mark = json.loads((into / MARK).read_bytes())
        whole = mark["boot"] == _boot() and (into / PRELOAD_LIBRARY).is_file()
        return str(mark["version"]) if whole else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _begin(into: Path, work: Path, *, silent: bool) -> None:
    """An empty folder but for what can be resumed, and a count of how often it came to this."""
    work.mkdir(mode=0o700, exist_ok=True)
    _withdraw(into / _AGENT, work)
    for left in (work / "tree", *work.glob("old-*")):
        shutil.rmtree(left, ignore_errors=True)
    (work / _ARCHIVE).unlink(missing_ok=True)  # What can be resumed has another name.
    beginnings = work / "beginnings"
    with beginnings.open("a") as file:
        file.write(".")
    if silent and beginnings.stat().st_size > MOST_BEGINNINGS:
        raise DownloadError(
            f"killed {MOST_BEGINNINGS} times while it installed the agent: "
            f"raise the memory limit of the init container {contract.INIT_CONTAINER}"
        )


def _injection(places: Places) -> Injection:
    path = Path(places.config, contract.INJECTION_FILE)
    secret = f"the Secret {contract.INJECTION_SECRET} of the pod's namespace"
    try:
        injection = injection_secret.decode(path.read_bytes())
    except FileNotFoundError:
        raise DownloadError(
            f"{path} is missing: {secret} was not there when the pod started; the DynaKube's condition "
            "CodeModulesInjection says why. Once it is there, delete the pod to have it monitored"
        ) from None
    except injection_secret.InjectionSecretError as error:
        raise DownloadError(f"{secret}: {error}: delete it, and the operator writes it anew") from error
    if not injection.package_url:
        raise DownloadError(f"{secret}: packageUrl is empty: start the operator with --package-address")
    return injection


def _fetch(
    injection: Injection, settings: InitContainerSettings, token: Path, work: Path, wait: package_client.WaitLimits
) -> Path:
    package = package_client.Package(
        DynaKubeName(injection.dynakube),
        Version(settings.version or injection.version),
        platform.machine(),
        settings.flavor,
        settings.technologies,
    )
    authority = work / "ca.crt"
    authority.write_text(injection.package_ca)
    endpoint = package_client.Endpoint(injection.package_url, token, authority)
    try:
        found = package_client.download_package(
            endpoint, package, work / _ARCHIVE, cancelled=threading.Event(), wait=wait
        )
    except (download.DownloadError, errors.HttpError) as error:
        raise DownloadError(f"version {package.version} was not downloaded: {error}{_remedy(error)}") from error
    log.info(
        "package downloaded",
        extra=logs.facts(
            version=package.version, bytes=found.size, sha256=found.sha256, seconds=round(found.seconds, 2)
        ),
    )
    return found.path


def _remedy(error: download.DownloadError | errors.HttpError) -> str:
    """What somebody can do about an endpoint that does not answer as it should; empty if the error says it itself."""
    match error.cause if isinstance(error, download.DownloadSourceError) else error:
        case errors.UnreachableError(stage=errors.Stage.TLS):
            return f": delete the Secret {contract.INJECTION_SECRET}, and the operator writes it anew"
        case errors.UnreachableError() | errors.RateLimitedError():
            return ": is the operator running, and do network policies let this pod reach it?"
        case errors.HttpStatusError(status=404):
            return ": the DynaKube's status names the version that pods can have"
        case download.DiskFullError(needed=needed):
            return f": {_room(needed)}"
        case _:
            return ""


def _room(needed: int) -> str:
    wanted = f"{needed // _MIB + 1} MiB are" if needed else "more room is"
    return f"{wanted} needed in the volume {contract.BIN_VOLUME}, an emptyDir on the node's disk"


def _unpack(archive: Path, scratch: Path) -> Path:
    needed, free = zip_reader.unpacked_size(archive), download.free_bytes(archive.parent)
    if needed > free:
        raise DownloadError(f"the agent does not fit, {free // _MIB} MiB are free: {_room(needed)}")
    try:
        root = zip.unpack_agent(archive, scratch).root
    except common_unpack.UnpackFailedError:
        raise
    except common_unpack.PackageError:
        archive.unlink(missing_ok=True)  # What is damaged would be damaged again.
        raise
    archive.unlink()
    return root


def _configure(root: Path, injection: Injection) -> None:
    """The agent's own configuration, merged in its place as the node's driver merges it into a view."""
    file = root / _CONF
    package = file.read_text(errors="replace") if file.exists() else ""
    ours = ruxitagentproc.general_properties(
        host_group=injection.host_group or None,
        tenant=injection.tenant,
        tenant_token=injection.tenant_token or None,
        endpoints=injection.endpoints or None,
        proxy=injection.proxy or None,
    )
    merged = ruxitagentproc.merge(package, [ruxitagentproc.Property(*prop) for prop in injection.properties], ours)
    for folder in (root / _AGENT, file.parent):
        folder.mkdir(exist_ok=True)
        folder.chmod(_FOLDER_MODE)
    file.unlink(missing_ok=True)
    file.write_text(merged.text, errors="replace")
    file.chmod(_FILE_MODE)


def _mark(root: Path, version: str) -> None:
    mark = root / MARK
    mark.write_text(json.dumps({"version": version, "boot": _boot()}))
    mark.chmod(_FILE_MODE)


def _show(root: Path, into: Path, work: Path) -> None:
    """Put each piece into its place, what is preloaded last."""
    for piece in sorted(root.iterdir(), key=lambda piece: piece.name == _AGENT):
        _withdraw(into / piece.name, work)
        piece.rename(into / piece.name)


def _withdraw(path: Path, work: Path) -> None:
    """Take away what an earlier run has left, at once: in its folders may be files that only another user removes."""
    if path.exists() or path.is_symlink():
        path.rename(work / f"old-{os.urandom(4).hex()}")


def _boot() -> str:
    return _BOOT_ID.read_text().strip()


def _said(error: Exception) -> str:
    said = f"the agent could not be installed: {error}"
    if isinstance(error, OSError):
        where = f" ({os.fsdecode(error.filename)})" if error.filename else ""
        said = f"the agent could not be installed: {error.strerror or error}{where}"
    return f"{said}: {_room(0)}" if getattr(error, "errno", None) in _NO_SPACE else said
