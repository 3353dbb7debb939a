"""The tenant double as a process of its own, as the demo runs it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from oneagent.common.tenant import client as tenant_client
from tests.fakes import tenant as double


def test_a_zip_that_appears_in_the_folder_is_released(tmp_path: Path) -> None:
    (tmp_path / "1.2.3.4-5.zip").write_bytes(b"zip")
    port_file = tmp_path / "port"
    command = [sys.executable, "-m", "tests.fakes.tenant", "--packages", str(tmp_path)]
    command += ["--port-file", str(port_file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 10
            while not port_file.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            access = tenant_client.TenantAccess(f"http://127.0.0.1:{port_file.read_text()}/api", double.TOKEN)
            with tenant_client.Tenant(access) as client:
                assert client.latest_version() == "1.2.3.4-5"
                (tmp_path / "1.2.10.0-0.zip").write_bytes(b"zip")
                assert client.latest_version() == "1.2.10.0-0"
        finally:
            process.terminate()
    assert process.returncode == 0
