"""The agent's configuration: what stays, what is replaced, what is added."""

from __future__ import annotations

from pathlib import PurePosixPath

from oneagent.common.agents.oneagent import ruxitagentproc
from oneagent.common.agents.oneagent.ruxitagentproc import Property

PACKAGE = """\
# The agent's own settings

[general]
# who we are
tenant none
logLevel info
proxy http://package:1
[agentType]
java on
libraryPath64 ../lib64/libjava.so
"""


def merged(api: list[Property] | None = None, ours: list[Property] | None = None) -> str:
    return ruxitagentproc.merge(PACKAGE, api or [], ours or []).text


def test_with_nothing_to_say_the_package_file_stays_as_it_is() -> None:
    assert merged() == PACKAGE


def test_a_known_key_is_replaced_where_it_stands_and_comments_stay() -> None:
    text = merged([Property("general", "logLevel", "debug"), Property("agentType", "java", "off")])
    assert text == PACKAGE.replace("logLevel info", "logLevel debug").replace("java on", "java off")


def test_unknown_keys_come_sorted_at_the_end_of_their_section() -> None:
    text = merged([Property("general", "zeta", "1"), Property("general", "alpha", "two words")])
    assert "proxy http://package:1\nalpha two words\nzeta 1\n[agentType]" in text


def test_unknown_sections_come_sorted_at_the_end_of_the_file() -> None:
    text = merged([Property("zz", "a", "1"), Property("nn", "b", "2")])
    assert text == PACKAGE + "\n[nn]\nb 2\n\n[zz]\na 1\n"


def test_ours_wins_over_the_tenant_and_the_tenant_over_the_package() -> None:
    api = [Property("general", "tenant", "api"), Property("general", "logLevel", "api")]
    text = merged(api, ruxitagentproc.general_properties(tenant="ours"))
    assert "tenant ours\nlogLevel api\n" in text


def test_an_empty_proxy_of_ours_removes_it_whoever_named_it() -> None:
    text = merged([Property("general", "proxy", "http://api:2")], ruxitagentproc.general_properties(proxy=""))
    assert "proxy" not in text


def test_endpoints_become_one_server_address() -> None:
    assert ruxitagentproc.general_properties(endpoints=["https://a", "https://b"]) == [
        Property("general", "serverAddress", "{https://a;https://b}")
    ]
    assert ruxitagentproc.general_properties(endpoints=[]) == [Property("general", "serverAddress", "")]
    assert ruxitagentproc.general_properties() == []


def test_a_key_that_stands_twice_is_written_once() -> None:
    twice = "[general]\na 1\na 2\n[x]\n[general]\na 3\n"
    assert ruxitagentproc.merge(twice, [Property("general", "a", "4")], []).text == "[general]\na 4\n[x]\n[general]\n"


def test_the_order_of_the_answer_does_not_matter() -> None:
    props = [Property("general", key, "1") for key in "cab"] + [
        Property("s", "k", "1"),
        Property("a", "k", "1"),
    ]
    assert merged(props) == merged(props[::-1])


def test_line_ends_of_windows_become_ours_only_where_we_write() -> None:
    text = ruxitagentproc.merge("[general]\r\na 1\r\nb 2\r\n", [Property("general", "a", "3")], []).text
    assert ruxitagentproc.parse(text) == [Property("general", "a", "3"), Property("general", "b", "2")]


def test_relative_library_paths_become_absolute_below_the_install_path() -> None:
    package = PACKAGE + "libraryPath32 ../../../../etc/evil.so\nlibraryPathX /already/there.so\n"
    text = ruxitagentproc.merge(package, [], [], install_path=PurePosixPath("/opt/agent")).text
    assert "libraryPath64 /opt/agent/agent/lib64/libjava.so\n" in text
    assert "libraryPath32 /opt/agent/agent/etc/evil.so\n" in text
    assert "libraryPathX /already/there.so\n" in text


def test_values_with_line_breaks_cannot_open_a_section() -> None:
    text = merged([Property("general", "rules", "x\n[evil]\r\nk v\u2028[more]\x85\x00\t")])
    assert "rules x[evil]k v[more]\n" in text
    assert {prop.section for prop in ruxitagentproc.parse(text)} == {"general", "agentType"}


def test_what_could_be_read_as_something_else_is_refused_and_named() -> None:
    odd = [
        Property("general", "two words", "1"),
        Property("general", "[general]", "1"),
        Property("general", "#comment", "1"),
        Property("general", "\n", "1"),
        Property("a]b", "key", "1"),
        Property(" ", "key", "1"),
    ]
    result = ruxitagentproc.merge(PACKAGE, odd, [])
    assert result.text == PACKAGE
    assert result.refused[:3] == ("[general] two words", "[general] [general]", "[general] #comment")
    assert len(result.refused) == len(odd)
