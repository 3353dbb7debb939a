"""The share directory: files with metadata for the application's containers.

Each file is mounted into containers by its name, so it must exist before they start, even without an agent. A file is
replaced by a rename, because an earlier run may have left one that this user cannot write to. If an earlier run wrote
nothing, kubelet has created an empty directory of that name to mount, which is replaced too.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from oneagent.common.injection import contract
from oneagent.sidecars.init_container import ShareWriteError
from oneagent.sidecars.init_container.settings import InitContainerSettings

_DIRECTORY_MODE: Final = 0o755
_FILE_MODE: Final = 0o644
"""Containers run as any user."""


def write(directory: str, settings: InitContainerSettings) -> None:
    """Write all files; `ShareWriteError` names the first that fails."""
    for name, text in settings.files.render():
        path = os.path.join(directory, name)
        try:
            _make_directory(os.path.dirname(path))
            _replace(path, text.encode())
        except OSError as error:
            raise ShareWriteError(
                f"{path}: {error.strerror}: the volume {contract.SHARE_VOLUME} must be writable and have free space"
            ) from error


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    os.chmod(path, _DIRECTORY_MODE)  # Not by `mkdir`, which applies the umask.


def _replace(path: str, content: bytes) -> None:
    fresh = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    # The application may be able to write to the enrichment directory: its links are not followed.
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), _FILE_MODE)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.rmdir(path)
    os.rename(fresh, path)
