"""Command lines written for the Go sidecars are understood, and wrong ones are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from oneagent.sidecars import csi_client, go_flags, livenessprobe, registrar

REQUIRED = "--kubelet-registration-path=/var/lib/kubelet/plugins/x/csi.sock"


@pytest.mark.parametrize(
    "words",
    [
        ["--csi-address=/csi/csi.sock"],
        ["--csi-address", "/csi/csi.sock"],
        ["-csi-address=/csi/csi.sock"],
        ["-csi-address", "/csi/csi.sock"],
        ["--csi-address=unix:///csi/csi.sock"],
        ["--csi-address=unix:/csi/csi.sock"],
    ],
)
def test_a_flag_may_be_written_in_each_way_that_go_takes(words: list[str]) -> None:
    settings = registrar.read_settings([*words, REQUIRED])
    assert settings
    assert settings.csi_path == "/csi/csi.sock"


@pytest.mark.parametrize(
    "words",
    [
        ["-v=5"],
        ["-v", "5"],
        ["--v=5"],
        ["--logtostderr", "--alsologtostderr=false", "-stderrthreshold=INFO"],
        ["--vmodule=a=1,b=2", "--log_file_max_size=1", "--skip_headers=true"],
        ["--automaxprocs", "--enable-pprof=true", "--connection-timeout=30s"],
    ],
)
def test_flags_that_mean_something_to_go_only_are_ignored(words: list[str]) -> None:
    assert registrar.read_settings([*words, REQUIRED]) == registrar.read_settings([REQUIRED])


def test_the_registrar_defaults_to_what_the_go_program_does() -> None:
    assert registrar.read_settings([REQUIRED]) == registrar.RegistrarSettings(
        csi_path="/run/csi/socket",
        kubelet_registration_path="/var/lib/kubelet/plugins/x/csi.sock",
        plugin_registration_path=Path("/registration"),
        timeout_seconds=1.0,
        http_address="",
        stay_while_driver_serves=False,
        log_format="json",
    )


def test_the_livenessprobe_defaults_to_what_the_go_program_does() -> None:
    assert livenessprobe.read_settings([]) == livenessprobe.LivenessProbeSettings(
        csi_path="/run/csi/socket",
        probe_timeout_seconds=3.0,
        health_address=":9808",
        metrics_address="",
        metrics_path="/metrics",
        log_format="json",
    )


def test_an_http_endpoint_serves_health_and_metrics_together() -> None:
    settings = livenessprobe.read_settings(["--http-endpoint=127.0.0.1:80", "--metrics-path=/m"])
    assert (settings.health_address, settings.metrics_address, settings.metrics_path) == (
        "127.0.0.1:80",
        "127.0.0.1:80",
        "/m",
    )


def test_the_deprecated_flags_serve_health_and_metrics_apart() -> None:
    settings = livenessprobe.read_settings(["--health-port=9898", "--metrics-address=:8080"])
    assert (settings.health_address, settings.metrics_address) == (":9898", ":8080")


def test_the_deprecated_probe_mode_has_nothing_to_do() -> None:
    assert registrar.read_settings([REQUIRED, "--mode=kubelet-registration-probe"]) is None


@pytest.mark.parametrize("mode", ["", "registration", "other"])
def test_every_other_mode_registers(mode: str) -> None:
    assert registrar.read_settings([REQUIRED, f"--mode={mode}"]) == registrar.read_settings([REQUIRED])


@pytest.mark.parametrize("address", ["csi/csi.sock", "./csi.sock", "csi.sock", "../a:b/csi.sock", "/a:b/csi.sock"])
@pytest.mark.parametrize("prefix", ["", "unix:", "unix://"])
def test_the_drivers_socket_may_be_named_relative_to_the_working_directory(prefix: str, address: str) -> None:
    settings = registrar.read_settings([REQUIRED, f"--csi-address={prefix}{address}"])
    assert settings
    assert settings.csi_path == livenessprobe.read_settings([f"--csi-address={prefix}{address}"]).csi_path == address


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--kubelet-registration-path is required"),
        ([REQUIRED, "--http-endpoint=:1", "--health-port=2"], "exclude each other"),
        ([REQUIRED, "--csi-address=tcp://1.2.3.4:5"], "'tcp://1.2.3.4:5' is not the path"),
        ([REQUIRED, "--csi-address=dns:driver"], "'dns:driver' is not the path"),
        ([REQUIRED, "--csi-address=unix://"], "'unix://' is not the path"),
        ([REQUIRED, "--csi-address="], "'' is not the path"),
    ],
)
def test_values_that_cannot_work_end_the_registrar_with_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        registrar.read_settings(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--http-endpoint=:1", "--health-port=2"],
        ["--http-endpoint=:1", "--metrics-address=:2"],
        ["--http-endpoint=:1", "--metrics-path=/healthz"],
        ["--http-endpoint=:1", "--metrics-path=m"],
        ["--csi-address=vsock:2:10"],
    ],
)
def test_values_that_cannot_work_end_the_livenessprobe_with_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        livenessprobe.read_settings(words)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--no-such-flag", "--no-such-flag"),
        ("--csi-addr=/x", "--csi-addr"),
        ("--probe-timeout=3", "'3' is not a duration such as"),
        ("--probe-timeout=0", "'0' must be longer than nothing"),
        ("--health-port=http", "'http' is not a port"),
        ("--health-port=65536", "'65536' is not a port"),
        ("--logtostderr=perhaps", "'perhaps' is neither true nor false"),
        ("positional", "positional"),
    ],
)
def test_words_that_cannot_be_read_end_the_program_with_2_and_are_named(
    word: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        livenessprobe.read_settings([word])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("word", ["--version", "-version"])
def test_the_version_is_said_and_nothing_else_is_asked_for(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        registrar.read_settings([word])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("csi-node-driver-registrar ")


@pytest.mark.parametrize(("text", "value"), [("1s", 1.0), ("500ms", 0.5), ("1m30s", 90.0)])
def test_durations_are_go_durations(text: str, value: float) -> None:
    assert go_flags.seconds(text) == value


def test_a_path_stays_a_path() -> None:
    assert csi_client.parse_address("/a:b/unix:/c.sock") == "/a:b/unix:/c.sock"
