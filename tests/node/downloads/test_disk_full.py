"""A disk that fills up while a package arrives: a file system of two megabytes proves it."""

from __future__ import annotations

import ctypes
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from oneagent.common import identifiers
from oneagent.common.http import download
from oneagent.common.tenant import client as tenant_client
from tests.fakes import tenant as double

VERSION = identifiers.Version("1.277.0.20230914-094321")
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if _libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=2m") != 0:
        pytest.skip("needs a mount namespace")
    try:
        yield folder
    finally:
        _libc.umount2(os.fsencode(folder), 2)


def test_a_disk_that_fills_up_is_cleaned_again(tmp_path: Path, small_disk: Path) -> None:
    package = tmp_path / "package"
    package.write_bytes(random.Random(1).randbytes(4 << 20))
    with double.Tenant() as server:
        server.release(VERSION, package)
        access = tenant_client.TenantAccess(server.api_url, server.token)
        with pytest.raises(download.DiskFullError, match="the disk is full"):
            download.download(
                tenant_client.package_source(access, VERSION, machine="x86_64"),
                small_disk / "package.zip",
                cancelled=threading.Event(),
                free=lambda _: 1 << 40,  # another writer was faster than the look at the free space
            )
        assert list(small_disk.iterdir()) == []
        with pytest.raises(download.DiskFullError, match="more are needed"):
            download.download(
                tenant_client.package_source(access, VERSION, machine="x86_64"),
                small_disk / "package.zip",
                cancelled=threading.Event(),
            )
    assert list(small_disk.iterdir()) == []
