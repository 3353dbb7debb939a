"""Flags, their environment, and the values that they take."""

from __future__ import annotations

import argparse
import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneagent.common import durations, flags
from oneagent.csi_driver.server import main


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("1s", 1),
        ("10m", 600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("500ms", 0.5),
        ("1m0.5s", 60.5),
        ("2us", 2e-6),
        ("2µs", 2e-6),
        ("2μs", 2e-6),
        ("3ns", 3e-9),
        ("90m", 5400),
    ],
)
def test_durations_are_read_as_go_writes_them(text: str, seconds: float) -> None:
    assert durations.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "1", "s", "-1s", "+1s", "1 s", "1d", "1h-1m", "1s1", "one", " 1s", "1s ", "1..5s", "."]
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as 90s"):
        durations.parse(text)


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_parts_add_up(hours: int, minutes: int, seconds: int, milliseconds: int) -> None:
    text = f"{hours}h{minutes}m{seconds}s{milliseconds}ms"
    assert durations.parse(text) == pytest.approx(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000)


def given_to(command_line: list[str], default: object, **options: object) -> object:
    parser = flags.create_parser("program", "does it")
    flags.adder(parser)("some-name", default, "what it is", **options)  # type: ignore[arg-type]
    return parser.parse_args(command_line).some_name


def test_a_flag_goes_before_the_environment_and_that_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given_to([], "default") == "default"
    monkeypatch.setenv("ONEAGENT_SOME_NAME", "environment")
    assert given_to([], "default") == "environment"
    assert given_to(["--some-name=flag"], "default") == "flag"


def test_a_variable_may_have_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSI_ENDPOINT", "unix:///x.sock")
    assert given_to([], "", env="CSI_ENDPOINT") == "unix:///x.sock"


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_switches_are_switched_by_the_environment_too(monkeypatch: pytest.MonkeyPatch, text: str, value: bool) -> None:
    monkeypatch.setenv("ONEAGENT_SOME_NAME", text)
    assert given_to([], not value) is value
    assert given_to(["--some-name"], False) is True
    assert given_to(["--no-some-name"], True) is False


@pytest.mark.parametrize(
    ("default", "options", "bad", "message"),
    [
        (1.0, {"parse": flags.duration}, "soon", "argument --some-name: 'soon' is not a duration"),
        ("", {"parse": flags.address}, "nowhere", "argument --some-name: 'nowhere' is not host:port"),
        ("", {"parse": flags.absolute_path}, "a/b", "argument --some-name: 'a/b' is not an absolute path"),
        (0, {"parse": flags.size}, "10 apples", "argument --some-name: '10 apples' is not a size"),
        ("a", {"choices": ("a", "b")}, "c", "argument --some-name: invalid choice: 'c'"),
    ],
)
def test_a_bad_value_is_refused_by_its_name_wherever_it_comes_from(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    default: object,
    options: dict[str, object],
    bad: str,
    message: str,
) -> None:
    with pytest.raises(SystemExit):
        given_to([f"--some-name={bad}"], default, **options)
    assert message in capsys.readouterr().err
    if "choices" not in options:  # argparse holds defaults to be right
        monkeypatch.setenv("ONEAGENT_SOME_NAME", bad)
        with pytest.raises(SystemExit):
            given_to([], default, **options)
        assert message in capsys.readouterr().err


def test_a_switch_that_is_neither_true_nor_false_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONEAGENT_SOME_NAME", "maybe")
    with pytest.raises(SystemExit):
        given_to([], False)
    assert "$ONEAGENT_SOME_NAME: 'maybe' is neither true nor false" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("5", 5), ("1Ki", 1024), ("500Mi", 500 << 20), ("10Gi", 10 << 30), ("2Ti", 2 << 40)]
)
def test_sizes(text: str, size: int) -> None:
    assert flags.size(text) == size


@pytest.mark.parametrize("text", ["", "Mi", "1M", "1.5Gi", "-1", "1MiMi", "1GG"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size"):
        flags.size(text)


@pytest.mark.parametrize("text", ["", ":8080", "127.0.0.1:0", "[::1]:9090", "host.name:65535"])
def test_addresses(text: str) -> None:
    assert flags.address(text) == text


@pytest.mark.parametrize("text", ["8080", "host", "host:", ":x", ":65536", "http://x:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not host:port"):
        flags.address(text)


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        ("unix:///csi/csi.sock", "/csi/csi.sock"),
        ("unix:/csi/csi.sock", "/csi/csi.sock"),
        ("unix://csi/csi.sock", "/csi/csi.sock"),
        ("/csi/csi.sock", "/csi/csi.sock"),
    ],
)
def test_an_endpoint_may_be_written_in_every_way_that_is_in_use(endpoint: str, path: str) -> None:
    assert str(main.socket_path(endpoint)) == path


def test_the_help_names_every_flag_with_its_variable_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.parse(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for field in main.Config.__dataclass_fields__:
        assert f"--{field.replace('_', '-').removesuffix('-seconds')}" in shown
    assert "(default 1m, or $ONEAGENT_PUBLISH_WAIT)" in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.5, "500ms"), (30, "30s"), (60, "1m"), (90, "90s"), (300, "5m"), (86400, "24h"), (2592000, "720h")],
)
def test_a_default_is_shown_as_it_may_be_typed(seconds: float, text: str) -> None:
    assert durations.render(seconds) == text
    assert durations.parse(text) == seconds


@given(st.integers(0, 10**7))
def test_every_duration_may_be_typed_as_it_is_shown(milliseconds: int) -> None:
    assert durations.parse(durations.render(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


def test_a_size_is_shown_as_it_may_be_typed_and_each_flag_names_what_it_takes() -> None:
    parser = flags.create_parser("program", "does it")
    flags.adder(parser)("budget", 4 << 30, "most", parse=flags.size)
    flags.adder(parser)("wait", 60.0, "time", parse=flags.duration)
    shown = " ".join(parser.format_help().split())
    assert "--budget SIZE most (default 4Gi," in shown
    assert "--wait DURATION time (default 1m," in shown


@pytest.mark.parametrize("arguments", [["--nothing"], ["--log-format", "text", "--nothing"]])
def test_a_daemon_reports_a_bad_command_line_in_its_log_and_ends_with_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["oneagent-csi-server", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    if len(arguments) == 1:
        assert json.loads(line)["reason"] == "unrecognized arguments: --nothing"
    else:
        assert line.endswith("reason=unrecognized arguments: --nothing")


def test_a_daemon_that_can_not_start_says_so_in_its_log(capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> int:
        raise SystemExit("--data-dir: /x is unsafe")

    logging.getLogger().handlers.clear()
    assert flags.run_daemon(run) == 2
    assert json.loads(capsys.readouterr().err)["reason"] == "--data-dir: /x is unsafe"


def test_every_program_has_its_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.parse(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("oneagent-csi-server ")
