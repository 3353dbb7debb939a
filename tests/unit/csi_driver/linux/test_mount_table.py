"""The mount table is read as the kernel writes it, with everything that it escapes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.linux.mount_table import Mount


def line(target: str, options: str, *, fs_type: str = "overlay", root: str = "/", flags: str = "rw,relatime") -> str:
    return f"42 29 0:38 {root} {target} {flags} shared:7 master:1 - {fs_type} overlay {options}\n"


def overlay(options: str) -> mount_table.Overlay:
    (mount,) = mount_table.parse([line("/t", options)])
    found = mount_table.as_overlay(mount)
    assert found is not None
    return found


def test_the_fields_of_a_line() -> None:
    table = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 unbindable - ext3 /dev/root rw,errors=continue\n"
    assert mount_table.parse([table]) == [Mount(36, "/mnt1", "/mnt2", "ext3", False, ("rw", "errors=continue"), "98:0")]


def test_a_line_without_optional_fields() -> None:
    (mount,) = mount_table.parse(["36 35 98:0 / /mnt ro - tmpfs none rw\n"])
    assert mount.read_only
    assert mount.super_options == ("rw",)


@pytest.mark.parametrize(
    ("flags", "options", "expected"), [("ro,nosuid", "rw", True), ("rw", "ro", True), ("rw", "rw,x=ro", False)]
)
def test_a_mount_is_read_only_by_itself_or_by_its_file_system(flags: str, options: str, expected: bool) -> None:
    (mount,) = mount_table.parse([line("/t", options, flags=flags)])
    assert mount.read_only is expected


def test_octal_escapes_are_undone_once() -> None:
    (mount,) = mount_table.parse([line(r"/a\040b\011c\012d\134e\134040f", "rw", root=r"/x\040y")])
    assert mount.target == "/a b\tc\nd\\e\\040f"
    assert mount.root == "/x y"


@pytest.mark.parametrize(
    ("written", "name"), [(b"/caf\xc3\xa9", "/café"), (b"/caf\xc3\xa9\\040x", "/café x"), (b"/\xff", "/\udcff")]
)
def test_names_are_as_python_gives_them_elsewhere(tmp_path: Path, written: bytes, name: str) -> None:
    """UTF-8, with other bytes as surrogates, as in `os.readlink`."""
    table = tmp_path / "mountinfo"
    table.write_bytes(line("TARGET", "rw").encode().replace(b"TARGET", written))
    (mount,) = mount_table.read(table)
    assert mount.target == name


def test_a_carriage_return_in_a_name_ends_no_line(tmp_path: Path) -> None:
    """The kernel does not escape it. A pod chooses such a name by a subPath."""
    table = tmp_path / "mountinfo"
    table.write_bytes(
        b"".join(line(name, "rw").encode() for name in ("/a", "TARGET", "/c")).replace(b"TARGET", b"/b\r\x1c\x85x")
    )
    assert [mount.target for mount in mount_table.read(table)][::2] == ["/a", "/c"]


def test_the_layers_of_an_overlay_topmost_first() -> None:
    found = overlay(
        "rw,lowerdir=/data/config-layers/t/1:/data/agents/1.0,upperdir=/data/v/upper,workdir=/data/v/work,uuid=on"
    )
    assert found.lower == ("/data/config-layers/t/1", "/data/agents/1.0")
    assert found.upper == "/data/v/upper"


def test_an_overlay_without_an_upper_layer() -> None:
    assert overlay("ro,lowerdir=/a:/b").upper is None


def test_layers_that_were_given_one_by_one() -> None:
    assert overlay("rw,lowerdir+=/a,lowerdir+=/b:c,datadir+=/d").lower == ("/a", "/b:c")


@pytest.mark.parametrize(
    ("options", "lower"),
    [
        ("lowerdir=/a=b:/c=", ("/a=b", "/c=")),
        (r"lowerdir=/a\134:b:/c", ("/a:b", "/c")),
        (r"lowerdir=/a\134,b:/c", ("/a,b", "/c")),
        (r"lowerdir=/a\134\134b:/c", ("/a\\b", "/c")),
        (r"lowerdir=/a\040b:/c", ("/a b", "/c")),
        ("lowerdir=/a::/data", ("/a", "/data")),
    ],
)
def test_names_with_the_characters_that_overlay_treats_as_special(options: str, lower: tuple[str, ...]) -> None:
    assert overlay(f"rw,{options},upperdir=/u").lower == lower
    assert overlay(f"rw,{options},upperdir=/u").upper == "/u"


def test_only_overlays_are_overlays() -> None:
    mounts = mount_table.parse([line("/a", "rw,lowerdir=/x", fs_type="tmpfs"), line("/b", "rw,lowerdir=/x")])
    assert [found.mount.target for found in mount_table.overlays(mounts)] == ["/b"]


def test_of_two_mounts_at_one_target_the_later_one_is_on_top() -> None:
    mounts = mount_table.parse([line("/a", "rw,lowerdir=/x"), line("/ab", "rw"), line("/a", "rw,lowerdir=/y")])
    top = mount_table.top_at(mounts, "/a")
    assert top is mounts[2]
    assert mount_table.top_at(mounts, "/") is None


def test_below_is_a_matter_of_folders_and_not_of_letters() -> None:
    mounts = mount_table.parse([line(target, "rw") for target in ("/a", "/a/b", "/ab", "/", "/b/a")])
    assert [mount.target for mount in mount_table.at_or_below(mounts, "/a")] == ["/a", "/a/b"]
    assert [mount.target for mount in mount_table.at_or_below(mounts, "/a/")] == ["/a", "/a/b"]
    assert len(mount_table.at_or_below(mounts, "/")) == 5


@pytest.mark.parametrize("text", ["", "garbage", "1 2 3 4 5 6 7 8 9", "36 35 98:0 / /mnt rw - tmpfs"])
def test_what_is_no_line_of_a_mount_table_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="not a line of a mount table"):
        mount_table.parse([text])


def test_this_machines_own_table_can_be_read() -> None:
    assert mount_table.top_at(mount_table.read(), "/proc") is not None


def escaped(name: str) -> str:
    """As the kernel's `ovl_show_options` and `seq_escape` write it."""
    for char in "\\:,":
        name = name.replace(char, "\\" + char)
    return "".join(f"\\{ord(char):03o}" if char in " \t\n\\" else char for char in name)


@given(st.lists(st.text("ab/=:,\\ \t.é", min_size=1).map(lambda name: "/" + name), min_size=1, max_size=4))
def test_every_name_of_a_layer_survives_the_escapes(layers: list[str]) -> None:
    text = f"rw,lowerdir={':'.join(map(escaped, layers))},upperdir={escaped(layers[0])},workdir=/w"
    found = overlay(text.encode().decode("latin-1"))
    assert found.lower == tuple(layers)
    assert found.upper == layers[0]


class TestThePathsMount:
    def mount(self, target: str, number: int) -> Mount:
        return Mount(number, "/", target, "ext4", False, ())

    def test_is_the_deepest_above_it_and_of_equal_ones_the_topmost(self) -> None:
        root, data, other, over = (
            self.mount(target, number) for number, target in enumerate(["/", "/data", "/database", "/data"])
        )
        mounts = [root, data, other, over]
        assert mount_table.mount_containing(mounts, "/data/agents") is over
        assert mount_table.mount_containing(mounts, "/database") is other
        assert mount_table.mount_containing(mounts, "/datum") is root
        assert mount_table.mount_containing([], "/data") is None
