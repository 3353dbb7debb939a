"""Which limit an error of the kernel means."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from oneagent.csi_driver.linux import limits


def error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


@pytest.mark.parametrize(
    ("number", "meaning"),
    [
        (errno.EMFILE, "no device number left for another overlay"),
        (errno.ENFILE, "fs.file-max"),
        (errno.ENOMEM, "memory is short"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "security module"),
        (errno.EPERM, "has to be privileged"),
        (errno.EBUSY, "upper or work directory"),
        (errno.ENODEV, "load the module overlay"),
        (errno.ESTALE, "belongs to other layers"),
        (errno.EROFS, "read-only"),
        (errno.EINVAL, "dmesg"),
    ],
)
def test_each_error_of_a_mount_with_a_second_meaning_is_explained(tmp_path: Path, number: int, meaning: str) -> None:
    assert meaning in limits.explain_mount(error(number, tmp_path), str(tmp_path), ())


@pytest.mark.parametrize(
    ("number", "meaning"),
    [(errno.EMFILE, "RLIMIT_NOFILE"), (errno.EDQUOT, "quota"), (errno.EMLINK, "as many entries"), (errno.ENOENT, "")],
)
def test_errors_of_files_mean_other_limits_than_those_of_mounts(tmp_path: Path, number: int, meaning: str) -> None:
    explanation = limits.explain_file(error(number, tmp_path))
    assert (meaning in explanation) if meaning else not explanation


def test_a_full_disk_with_bytes_and_inodes_free_is_said_to_have_another_limit(tmp_path: Path) -> None:
    explanation = limits.explain_file(error(errno.ENOSPC, tmp_path / "not/there"))
    assert "inodes free: a quota, or a limit of its file system" in explanation


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.EPERM])
def test_a_refused_option_is_named(tmp_path: Path, number: int) -> None:
    option = "context=system_u:object_r:container_file_t:s0"
    assert f"the mount option {option}" in limits.explain_mount(error(number, tmp_path), str(tmp_path), [option])
