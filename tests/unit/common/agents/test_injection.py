"""Whatever the values are: what is read back is exactly what was meant, and nothing more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oneagent.common.agents.oneagent import container_conf, ruxitagentproc
from oneagent.common.agents.oneagent.ruxitagentproc import Property
from oneagent.common.agents.pod_files import Container

# Text that looks like the format more often than chance would have it, with surrogates and separators.
PIECES = st.sampled_from(
    ["[", "]", "#", " ", "\n", "\r", "\t", "\0", "\x85", "\u2028", "\u2029", "\ud800", "general", "a"]
)
TEXT = st.lists(PIECES | st.characters(), max_size=8).map("".join)
PROPERTIES = st.lists(st.builds(Property, TEXT, TEXT, TEXT), max_size=6)
PACKAGE = "# head\n[general]\na 1\ngeneral x y\n\n[other]\nb 2\n"


def intended(*layers: list[Property]) -> dict[tuple[str, str], str]:
    """The same merge said in another way: a dictionary that later layers write over."""
    wanted = {(prop.section, prop.key): prop.value for prop in ruxitagentproc.parse(PACKAGE)}
    for layer in layers:
        for prop in filter(None, map(ruxitagentproc.sanitize, layer)):
            wanted[prop.section, prop.key] = prop.value
    return wanted


@given(PROPERTIES, PROPERTIES)
def test_reading_the_merged_file_gives_the_intended_settings_only(api: list[Property], ours: list[Property]) -> None:
    merged = ruxitagentproc.merge(PACKAGE, api, ours)
    read = ruxitagentproc.parse(merged.text)
    emptied = {(prop.section, prop.key) for prop in filter(None, map(ruxitagentproc.sanitize, ours)) if not prop.value}
    # A later value of ours may fill again what an earlier one emptied: only the last one counts.
    wanted = {name: value for name, value in intended(api, ours).items() if value or name not in emptied}
    assert {(prop.section, prop.key): prop.value for prop in read} == wanted
    assert len(read) == len(wanted)
    assert len(merged.text.splitlines()) == merged.text.count("\n")
    merged.text.encode()


@given(PROPERTIES)
def test_merging_again_changes_nothing(api: list[Property]) -> None:
    once = ruxitagentproc.merge(PACKAGE, api, []).text
    assert ruxitagentproc.merge(once, api, []).text == once


@given(TEXT)
def test_a_harmless_value_comes_back_as_it_is(value: str) -> None:
    kept = ruxitagentproc.sanitize(Property("general", "key", value))
    assert kept is not None
    if value.isprintable():
        assert kept.value == value.strip()


@given(st.text(), PROPERTIES)
def test_any_package_file_can_be_merged(package: str, api: list[Property]) -> None:
    read = {
        (prop.section, prop.key): prop.value
        for prop in ruxitagentproc.parse(ruxitagentproc.merge(package, api, []).text)
    }
    for prop in filter(None, map(ruxitagentproc.sanitize, api)):
        assert (prop.section, prop.key) in read


@given(TEXT, TEXT, TEXT)
def test_a_container_cannot_add_lines_to_its_file(name: str, image: str, namespace: str) -> None:
    text = container_conf.render(Container(container_name=name, image_name=image, namespace=namespace))
    allowed = {"containerName", "imageName", "k8s_containername", "k8s_namespace"}
    assert text.startswith("[container]\n")
    read = ruxitagentproc.parse(text)
    assert {prop.section for prop in read} <= {"container"}
    assert {prop.key for prop in read} <= allowed
    assert len(text.splitlines()) == 1 + len(read)
    text.encode()


def test_the_container_file_holds_the_documented_keys() -> None:
    container = Container(
        container_name="app",
        image_name="registry/app:1",
        pod_name="shop-7d9-x",
        pod_uid="uid-1",
        base_pod_name="shop",
        namespace="web",
        cluster_id="cluster-1",
        node_name="node-1",
        host_tenant="abc12345",
    )
    assert container_conf.render(container) == (
        "[container]\ncontainerName app\nimageName registry/app:1\nk8s_fullpodname shop-7d9-x\n"
        "k8s_poduid uid-1\nk8s_containername app\nk8s_basepodname shop\nk8s_namespace web\n"
        "k8s_cluster_id cluster-1\nk8s_node_name node-1\n\n"
        "[host]\ntenant abc12345\nisCloudNativeFullStack true\n"
    )
