"""What kubelet asks for is checked field by field, in the order that callers rely on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from oneagent.common.agents.pod_files import Container, PodFiles
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.data_dir import TargetPath, VolumeId
from oneagent.csi_driver.linux import syscalls
from oneagent.csi_driver.server import request_validation
from oneagent.csi_driver.server.errors import InvalidRequestError
from oneagent.csi_driver.server.request_validation import POD_NAME, POD_NAMESPACE, POD_UID

ROOT = "/var/lib/kubelet"
TARGET = f"{ROOT}/pods/1/volumes/kubernetes.io~csi/oneagent-bin/mount"

Request = csi_pb2.NodePublishVolumeRequest
Change = Callable[[Request], object]


def good() -> Request:
    request = Request(
        volume_id="csi-1",
        target_path=TARGET,
        volume_context={
            POD_NAME: "shop",
            POD_NAMESPACE: "default",
            POD_UID: "1",
            "mode": "app",
            "dynakube": "demo",
        },
    )
    request.volume_capability.mount.SetInParent()
    return request


def checked(request: Request) -> request_validation.PublishRequest:
    return request_validation.publish(request, ROOT)


def setting(**fields: str) -> Change:
    def change(request: Request) -> None:
        for name, value in fields.items():
            setattr(request, name, value)

    return change


def context(key: str, value: str) -> Change:
    return lambda request: request.volume_context.update({key: value})


def without(key: str) -> Change:
    return lambda request: request.volume_context.pop(key)


def flag(value: str) -> Change:
    return lambda request: request.volume_capability.mount.mount_flags.append(value)


def test_a_good_request_becomes_a_value() -> None:
    request = good()
    request.readonly = True
    request.volume_context.update({"retryTimeout": "1m30s", "containers": "app,side-car", "unknown": "is ignored"})
    request.volume_capability.mount.mount_flags.extend(["noexec", 'context="system_u:object_r:x_t:s0:c1,c2"'])
    assert checked(request) == request_validation.PublishRequest(
        volume=VolumeId("csi-1"),
        target=TargetPath(TARGET),
        mode="app",
        dynakube=DynaKubeName("demo"),
        files=PodFiles(Container(pod_name="shop", namespace="default", pod_uid="1"), (("app", ""), ("side-car", ""))),
        read_only=True,
        retry_timeout_seconds=90.0,
        mount_flags=syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC,
        mount_options=('context="system_u:object_r:x_t:s0:c1,c2"',),
    )


def no_capability(request: Request) -> None:
    request.ClearField("volume_capability")


def block(request: Request) -> None:
    request.volume_capability.block.SetInParent()


def no_access_type(request: Request) -> None:
    request.volume_capability.ClearField("mount")


def no_context(request: Request) -> None:
    request.volume_context.clear()


IN_ORDER: list[tuple[str, Change]] = [
    ("volume_id: is missing", setting(volume_id="")),
    ("target_path: is missing", setting(target_path="")),
    ("volume_capability: is missing", no_capability),
    ("volume_context: is missing", no_context),
    (f"volume_context[{POD_NAME}]: is missing", without(POD_NAME)),
    (f"volume_context[{POD_NAMESPACE}]: is missing", without(POD_NAMESPACE)),
    ("volume_context[mode]: is missing", without("mode")),
    ("volume_context[dynakube]: is missing", without("dynakube")),
    ("volume_context[retryTimeout]: 'soon' is not a duration", context("retryTimeout", "soon")),
]


@pytest.mark.parametrize("first", range(len(IN_ORDER)))
def test_of_several_faults_the_first_one_in_order_is_told(first: int) -> None:
    request = good()
    for _, spoil in reversed(IN_ORDER[first:]):
        spoil(request) if spoil is not no_context or first == 3 else None
    with pytest.raises(InvalidRequestError) as refusal:
        checked(request)
    assert str(refusal.value).startswith(IN_ORDER[first][0])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        *((spoil, message) for message, spoil in IN_ORDER),
        (block, "volume_capability: block access is not supported"),
        (no_access_type, "volume_capability: has no access type"),
        *(
            (setting(volume_id=bad), "volume_id: ")
            for bad in ("../x", "a/b", ".", "..", ".x", "a b", "x" * 129, "ä", "a\n")
        ),
        *(
            (setting(target_path=bad), "target_path: ")
            for bad in (
                "/etc",
                ROOT,
                ROOT + "/",
                "/var/lib/kubelet2/x",
                "relative/path",
                f"{ROOT}/../x",
                f"{ROOT}/pods/../../../etc",
                f"{ROOT}//pods/x",
                f"{ROOT}/pods/x/",
                f"{ROOT}/./x",
                f"{ROOT}/x\0y",
                f"{ROOT}/x\x1by",
                f"{ROOT}/x\u202ey",
                f"{ROOT}/{'x' * 256}",
                f"{ROOT}/{'é' * 128}",
                f"{ROOT}{'/x' * 2100}",
            )
        ),
        (context(POD_NAME, ""), f"volume_context[{POD_NAME}]: is missing"),
        *(
            (context(name, bad), f"volume_context[{name}]: {problem}")
            for name in (POD_NAME, POD_NAMESPACE, POD_UID, "mode", "dynakube", "retryTimeout")
            for bad, problem in (
                ("x" * 254, "has 254 characters, and at most 253 are accepted"),
                ("x\x1b[2J", "'x\\x1b[2J' contains a control character"),
                ("x\n", "'x\\n' contains a control character"),
            )
        ),
        (context("mode", "APP"), "volume_context[mode]: 'APP' is unknown; use app, conf or host"),
        *(
            (context("dynakube", bad), "volume_context[dynakube]: ")
            for bad in ("Upper", "1digit", "-a", "a-", "a.b", "a_b", "../x", "a/b", "x" * 64, "a\n")
        ),
        *(
            (context("retryTimeout", bad), "volume_context[retryTimeout]: ")
            for bad in ("10", "1 m", "-5s", "1d", "ten minutes", "1h30", "s")
        ),
        *(
            (context("containers", bad), "volume_context[containers]: ")
            for bad in (
                "A",
                "a,b c",
                "../x",
                "a,-b",
                "x" * 64,
                "a,b,a",
                ",".join(map(str, range(1001))),
                "," * (64 << 10) + ",",
            )
        ),
        *(
            (flag(bad), "volume_capability.mount.mount_flags: ")
            for bad in (
                "lowerdir=/etc",
                "upperdir=/x",
                "workdir=/x",
                "suid",
                "dev",
                "exec",
                "bind",
                "remount",
                "ro,lowerdir=/x",
                "context=a,lowerdir=/x",
                'context="a",lowerdir=/x',
                'context="a,lowerdir=/x"',
                'context="a',
                "context=",
                'context=""',
                "mycontext=a",
                "context=a\\,b",
                "context=a\nb",
            )
        ),
    ],
)
def test_what_can_not_be_used_is_refused_with_the_name_of_its_field(spoil: Change, message: str) -> None:
    request = good()
    spoil(request)
    with pytest.raises(InvalidRequestError) as refusal:
        checked(request)
    assert str(refusal.value).startswith(message)
    assert str(refusal.value).startswith(f"{refusal.value.field}: ")


@pytest.mark.parametrize(
    "label", ["context=system_u:object_r:x_t:s0", 'fscontext="a:b"', 'defcontext="a"', "rootcontext=a:b"]
)
def test_selinux_options_go_to_the_mount_as_they_are(label: str) -> None:
    request = good()
    flag(label)(request)
    assert checked(request).mount_options == (label,)


@pytest.mark.parametrize(("length", "accepted"), [(4095, True), (4096, False)])
def test_an_selinux_option_may_be_as_long_as_a_path(length: int, accepted: bool) -> None:
    request, option = good(), "context=".ljust(length, "a")
    flag(option)(request)
    if accepted:
        assert checked(request).mount_options == (option,)
    else:
        with pytest.raises(InvalidRequestError, match="is not allowed"):
            checked(request)


@pytest.mark.parametrize("longest", ["x" * 128, "csi-" + "0123456789abcdef" * 4, "A.b_c-D"])
def test_ids_as_long_as_the_specification_allows_are_taken(longest: str) -> None:
    assert request_validation.volume_id(longest) == longest


def test_a_path_elsewhere_is_no_error_for_statistics() -> None:
    assert request_validation.volume_path("some/path", ROOT) == ""
    assert request_validation.volume_path(TARGET, ROOT) == TARGET
    with pytest.raises(InvalidRequestError, match="volume_path: is missing"):
        request_validation.volume_path("", ROOT)
