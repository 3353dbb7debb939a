"""The stand-in for a tenant that a cluster on a person's machine is tried with."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import yaml

from oneagent.webhook import validation
from tests.demo import tenant


def test_its_dynakube_is_taken_with_a_warning_about_tls_only() -> None:
    secret, kube = tenant.objects("http://172.18.0.1:18080/api")
    found = validation.validate(kube, None, validation.ClusterState(own_namespace=tenant.NAMESPACE))
    assert found.errors == ()
    (warning,) = found.warnings
    assert "tokens are sent unencrypted" in warning
    assert secret["metadata"] == kube["metadata"]


def test_it_writes_what_to_apply_and_ends_on_a_signal(tmp_path: Path) -> None:
    file = tmp_path / "new" / "demo.yaml"
    command = [sys.executable, "-m", "tests.demo.tenant", "--host=127.0.0.1", "--port=0", f"--file={file}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None
            line = serving.stdout.readline()
            _, kube = yaml.safe_load_all(file.read_text())
            assert f"at {kube['spec']['apiUrl']}," in line
            serving.send_signal(signal.SIGTERM)
            assert serving.wait(10) == 0
        finally:
            serving.kill()
