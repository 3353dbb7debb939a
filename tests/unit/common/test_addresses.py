"""Addresses of IPv4 and IPv6 as flags and lists have them."""

from __future__ import annotations

import pytest

from oneagent.common import addresses, flags
from oneagent.common.oci import hosts
from oneagent.operator import main as operator
from oneagent.webhook import main as webhook


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("name", ("name", "")),
        ("name:443", ("name", "443")),
        ("127.0.0.1:443", ("127.0.0.1", "443")),
        (":443", ("", "443")),
        ("::1", ("::1", "")),
        ("[::1]", ("::1", "")),
        ("[::1]:443", ("::1", "443")),
        ("[fe80::1%eth0]:443", ("fe80::1%eth0", "443")),
        ("[::ffff:10.0.0.1]:443", ("::ffff:10.0.0.1", "443")),
        ("*.example.com", ("*.example.com", "")),
    ],
)
def test_a_host_and_its_port_are_told_apart(text: str, parts: tuple[str, str]) -> None:
    assert addresses.split_port(text) == parts


@pytest.mark.parametrize("text", ["[::1", "::1]", "[::1]443", "[name]:443", "[]:443", "1:2:3", "a b", "a/b:1", "u@h:1"])
def test_what_is_neither_is_named(text: str) -> None:
    with pytest.raises(addresses.AddressError, match="is neither a host nor host:port"):
        addresses.split_port(text)


@pytest.mark.parametrize(
    "text", ["::1:8080", "[::1]", "[::1]:", "[name]:1", ":65536", ":\u00b2", "a/b:80", "1:2:3", "::"]
)
def test_a_flag_with_a_bad_address_ends_the_command_with_one_line(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = flags.create_parser("command", "It serves.")
    flags.adder(parser)("metrics-address", "", "host:port", parse=flags.address)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([f"--metrics-address={text}"])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1
    assert f"command: error: argument --metrics-address: {text!r} is not host:port, for example :8080" in said


@pytest.mark.parametrize("text", ["[::1]:8443", ":8443", "[::]:8443"])
def test_every_flag_takes_an_address_of_ipv6(text: str) -> None:
    assert webhook.parse(["--image=x", f"--address={text}", f"--metrics-address={text}"]).address == text
    assert operator.parse([f"--package-address={text}", f"--metrics-address={text}"]).package_address == text


def test_lists_of_registries_take_addresses_of_ipv6_in_brackets() -> None:
    assert hosts.parse_list("[::1]:5000,[fd00::1]/hub") == ("[::1]:5000", "[fd00::1]/hub")
    assert hosts.parse_mirrors("[::1]:5000=[::2]:5000/hub") == {"[::1]:5000": ("[::2]:5000/hub",)}
    for text, problem in (("::1", "in brackets"), ("::1/hub", "in brackets"), ("[::1", "neither"), ("a:b", "not an")):
        with pytest.raises(ValueError, match=problem):
            hosts.parse_list(text)
