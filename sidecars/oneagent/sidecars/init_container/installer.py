"""Installation without CSI: the agent comes from the operator's package server into the pod's emptyDir, once.

    download to .oneagent/ (resumable, verified) → check free space → unpack → configure → mark → rename entries

The directory `agent` is renamed last, with all of its content, so the preloaded library appears complete or not at
all. The marker in it names the machine's boot: a restarted container finds its agent and downloads nothing. After a
power cut a file may have its full length without its content, so a marker of another boot does not count. That costs
a download after a reboot, and saves every pod's start a sync of the node's whole disk.

An OOM kill leaves no message, and kubelet would restart the container without end. So attempts are counted, and
after some of them a silent container gives up.
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
from oneagent.common.agents import oneagent
from oneagent.common.agents.oneagent import ruxitagentproc
from oneagent.common.http import client as http_client
from oneagent.common.http import download, errors, tls_faults
from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.common.injection import contract
from oneagent.common.injection import secret as injection_secret
from oneagent.common.injection.secret import Injection
from oneagent.common.unpack import zip, zip_reader
from oneagent.sidecars.init_container import DownloadError
from oneagent.sidecars.init_container.settings import InitContainerSettings, Places

log = logging.getLogger(__name__)

MARKER: Final = "agent/.installed"
WORK: Final = ".oneagent"
MAX_ATTEMPTS: Final = 3

_AGENT: Final = "agent"
_ARCHIVE: Final = "agent.zip"
_FILE_MODE: Final = 0o644
_DIRECTORY_MODE: Final = 0o1777
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
_MIB: Final = 1 << 20
_RENEW_SECRET: Final = f"delete the Secret {contract.INJECTION_SECRET}, and the operator writes it again"


def install(
    settings: InitContainerSettings,
    places: Places,
    *,
    silent: bool,
    wait: package_client.WaitLimits = package_client.DEFAULT_WAIT,
) -> str:
    """Install the agent and return its version; `DownloadError` on failure, which leaves no part of an agent."""
    into, work = Path(places.bin), Path(places.bin, WORK)
    if version := _installed(into):
        log.info("agent already installed", extra=logs.fields(version=version))
        shutil.rmtree(work, ignore_errors=True)  # Left by a run that was killed near its end.
        return version
    try:
        _prepare(into, work, silent=silent)
        injection = _injection(places)
        version = settings.version or injection.version
        archive = _fetch(injection, settings, Path(places.config, contract.TOKEN_FILE), work, wait)
        root = _unpack(archive, work / "tree")
        _configure(root, injection)
        _write_marker(root, version)
        _publish(root, into, work)
    except (OSError, http_client.InvalidSettingsError, common_unpack.PackageError) as error:
        raise DownloadError(_format_error(error)) from error
    finally:
        # With `fail` the container is restarted soon, and resumes the download.
        if silent or (into / _AGENT).exists():
            shutil.rmtree(work, ignore_errors=True)
    return version


def _installed(into: Path) -> str:
    """Return the version of a complete agent of this boot; empty if there is none."""
    try:
        mark = json.loads((into / MARKER).read_bytes())
        whole = mark["boot"] == _boot() and (into / oneagent.PRELOAD_LIBRARY).is_file()
        return str(mark["version"]) if whole else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _prepare(into: Path, work: Path, *, silent: bool) -> None:
    """Clear the work directory except for a resumable download, and count the attempt."""
    work.mkdir(mode=0o700, exist_ok=True)
    _move_away(into / _AGENT, work)
    for left in (work / "tree", *work.glob("old-*")):
        shutil.rmtree(left, ignore_errors=True)
    (work / _ARCHIVE).unlink(missing_ok=True)  # A resumable download has another name.
    attempts = work / "attempts"
    with attempts.open("a") as file:
        file.write(".")
    if silent and attempts.stat().st_size > MAX_ATTEMPTS:
        raise DownloadError(
            f"killed {MAX_ATTEMPTS} times while it installed the agent: "
            f"raise the memory limit of the init container {contract.INIT_CONTAINER}"
        )


def _injection(places: Places) -> Injection:
    path = Path(places.config, contract.INJECTION_FILE)
    secret = f"the Secret {contract.INJECTION_SECRET} of the pod's namespace"
    try:
        injection = injection_secret.decode(path.read_bytes())
    except FileNotFoundError:
        raise DownloadError(
            f"{path} is missing: {secret} did not exist when the pod started; the DynaKube's condition "
            "CodeModulesInjection has the reason. Once it exists, delete the pod to have it monitored"
        ) from None
    except injection_secret.InjectionSecretError as error:
        raise DownloadError(f"{secret}: {error}: delete it, and the operator writes it again") from error
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
        package_file = package_client.download_package(
            endpoint, package, work / _ARCHIVE, cancelled=threading.Event(), wait=wait
        )
    except (download.DownloadError, errors.HttpError) as error:
        # The authority of the package server comes in the Secret.
        text = str(error).replace(tls_faults.ADD_AUTHORITY, _RENEW_SECRET)
        raise DownloadError(f"version {package.version} was not downloaded: {text}{_remedy(error)}") from error
    log.info(
        "package downloaded",
        extra=logs.fields(
            version=package.version,
            bytes=package_file.size,
            sha256=package_file.sha256,
            seconds=round(package_file.seconds, 2),
        ),
    )
    return package_file.path


def _remedy(error: download.DownloadError | errors.HttpError) -> str:
    """Return the remedy for an error of the package server; empty if the error has its own."""
    match error.cause if isinstance(error, download.DownloadSourceError) else error:
        case errors.UnreachableError(stage=errors.Stage.TLS):
            return ""
        case errors.UnreachableError() | errors.RateLimitedError():
            return ": is the operator running, and do network policies let this pod reach it?"
        case errors.HttpStatusError(status=404):
            return ": the DynaKube's status names the version that pods can have"
        case download.DiskFullError(needed=needed):
            return f": {_space_remedy(needed)}"
        case _:
            return ""


def _space_remedy(needed: int) -> str:
    space = f"{needed // _MIB + 1} MiB are" if needed else "more space is"
    return f"{space} needed in the volume {contract.BIN_VOLUME}, an emptyDir on the node's disk"


def _unpack(archive: Path, scratch: Path) -> Path:
    needed, free = zip_reader.unpacked_size(archive), download.free_bytes(archive.parent)
    if needed > free:
        raise DownloadError(f"the agent does not fit, {free // _MIB} MiB are free: {_space_remedy(needed)}")
    try:
        root = zip.unpack_agent(archive, scratch).root
    except common_unpack.UnpackFailedError:
        raise
    except common_unpack.PackageError:
        archive.unlink(missing_ok=True)  # A corrupt package would fail again.
        raise
    archive.unlink()
    return root


def _configure(root: Path, injection: Injection) -> None:
    """Merge the agent's configuration in place, as the node driver does in a view."""
    file = root / oneagent.AGENT_CONFIG_FILE
    package = file.read_text(errors="replace") if file.exists() else ""
    own_properties = ruxitagentproc.general_properties(
        host_group=injection.host_group or None,
        tenant=injection.tenant,
        tenant_token=injection.tenant_token or None,
        endpoints=injection.endpoints or None,
        proxy=injection.proxy or None,
    )
    merged = ruxitagentproc.merge(
        package, [ruxitagentproc.Property(*prop) for prop in injection.properties], own_properties
    )
    for directory in (root / _AGENT, file.parent):
        directory.mkdir(exist_ok=True)
        directory.chmod(_DIRECTORY_MODE)
    file.unlink(missing_ok=True)
    file.write_text(merged.text, errors="replace")
    file.chmod(_FILE_MODE)


def _write_marker(root: Path, version: str) -> None:
    mark = root / MARKER
    mark.write_text(json.dumps({"version": version, "boot": _boot()}))
    mark.chmod(_FILE_MODE)


def _publish(root: Path, into: Path, work: Path) -> None:
    """Move each entry to its place, the preloaded library last."""
    for entry in sorted(root.iterdir(), key=lambda entry: entry.name == _AGENT):
        _move_away(into / entry.name, work)
        entry.rename(into / entry.name)


def _move_away(path: Path, work: Path) -> None:
    """Rename an entry of an earlier run, since it may have files that only another user can remove."""
    if path.exists() or path.is_symlink():
        path.rename(work / f"old-{os.urandom(4).hex()}")


def _boot() -> str:
    return _BOOT_ID.read_text().strip()


def _format_error(error: Exception) -> str:
    text = f"the agent could not be installed: {error}"
    if isinstance(error, OSError):
        where = f" ({os.fsdecode(error.filename)})" if error.filename else ""
        text = f"the agent could not be installed: {error.strerror or error}{where}"
    return f"{text}: {_space_remedy(0)}" if getattr(error, "errno", None) in _NO_SPACE else text
