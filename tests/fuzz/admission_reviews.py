"""AdmissionReviews and ConversionReviews that no API server sends, judged by the webhook's own way from body to answer.

A body is a review of odd objects: fields of the wrong type, extreme numbers of them, texts with what is special
somewhere, and then some bytes altered. It is refused as a `ReviewError`, or its answer is a review with the same uid,
whose patch can be applied. An error of ours ends in an answer too; here it is a failure. So is a second, or 64 MiB.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import prometheus_client

from oneagent.webhook import admission, admission_review, conversion, events, injection, validation
from oneagent.webhook.injection.inputs import InjectionResult, Object, PodContext, Workload
from oneagent.webhook.metrics import Metrics
from tests.fuzz import alterations
from tests.fuzz.alterations import Chance

SECONDS: Final = 1.0
MIB: Final = 64
NAMESPACES: Final = 200
_LABEL: Final = "dynakube.internal.dynatrace.com/instance"
_PATHS: Final = ("/inject", "/inject", "/label-ns", "/validate", "/convert")
_KINDS: Final = {"/inject": "Pod", "/label-ns": "Namespace", "/validate": "DynaKube"}
_VERSIONS: Final = ("v1alpha1", "v1beta1", "v1beta3", "v1beta5", "v1beta6", "v2", "")
_TEXTS: Final = (
    *("", "a", "true", "false", "install-oneagent", "LD_PRELOAD", "oneagent-bin", "oneagent-share", "Always"),
    *("/opt/dynatrace/oneagent-paas", "/var/lib/kubelet/plugins", "../..", "$(A)", "$" * 50, "\x00", "\n", "\x1b[31m"),
    *("😀", "é" * 20, "a/b", "~1", "1e99", "9" * 40, "-1", "10m", "500Mi", "^a$", "(", '["^a$"]', '["("]', "[" * 500),
    *("https://abc12345.live.dynatrace.com/api", "https://[", "http://x:99999", "1.2.3.20240101-000000", "tenant:1"),
)
_KEYS: Final = (
    *("name", "value", "key", "operator", "values", "enabled", "annotations", "labels", "matchLabels", "containers"),
    *("oneagent.dynatrace.com/inject", "container.inject.dynatrace.com/a", "dynatrace.com/inject", _LABEL),
    *(
        "feature.dynatrace.com/ignored-namespaces",
        "feature.dynatrace.com/automatic-injection",
        "feature.dynatrace.com/x",
    ),
    *("conversion.internal.dynatrace.com/v1beta1", "oneagent.dynatrace.com/install-path", "spec", "metadata"),
)
_DYNAKUBE: Final[dict[str, Any]] = {
    "apiVersion": "dynatrace.com/v1beta6",
    "kind": "DynaKube",
    "metadata": {"name": "demo", "namespace": "dynatrace", "uid": "1", "resourceVersion": "1"},
    "spec": {"apiUrl": "https://abc12345.live.dynatrace.com/api", "oneAgent": {"cloudNativeFullStack": {}}},
    "status": {
        "codeModules": {"version": "1.299.0.20240801-120000"},
        "oneAgent": {"connectionInfoStatus": {"tenantUUID": "abc12345", "endpoints": "https://a.b/communication"}},
    },
}
_SETTINGS: Final = injection.Settings(image="example.com/oneagent:1", own_namespace="dynatrace", version="1")

Json = dict[str, Any]


class _Cluster:
    """An `admission.Cluster` with one DynaKube, whose namespaces are all of them."""

    is_synced = True

    def dynakubes(self) -> Sequence[Object]:
        return [_DYNAKUBE]

    async def pod_context(self, namespace: str, pod: Object) -> PodContext | None:
        labels = {_LABEL: "demo"}
        return PodContext(
            "shop", labels, {}, _DYNAKUBE, Workload("Deployment", "cart"), "id", csi=len(namespace) % 2 == 0
        )


class _Nobody:
    async def post(self, path: str, body: Object) -> None:
        raise AssertionError("no Event is written here")

    apply_path = post


def judge(chance: Chance) -> str:
    """Judge a case; what refused it, empty if it was answered."""
    path, body = case(chance)
    before, began = _resident_mib(reset=True), time.process_time()
    try:
        with _quiet():
            result = asyncio.run(_answer(path, body))
    except admission_review.ReviewError as error:
        assert 0 < len(str(error)) < 1000
        result = type(error).__name__
    assert time.process_time() - began < SECONDS, "it took too long"
    assert _resident_mib() - before < MIB, "it took too much memory"
    return result


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without a line for each review that cannot be answered; an error of ours has its traceback."""
    log = logging.getLogger("oneagent.webhook")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


async def _answer(path: str, body: bytes) -> str:
    if path == "/convert":
        review = admission_review.conversion(body)
        outcome, reason, answer = await conversion.answer(review)
        assert reason != "InternalError", reason
        _check_conversion(review, outcome, json.loads(answer)["response"])
        return reason
    request = admission_review.admission(body)
    registry = prometheus_client.CollectorRegistry()
    recorder = events.Recorder(_Nobody(), Metrics(registry))
    admissions = admission.Admission(
        _Cluster(), admission.Handlers(_inject, _validate, validation.message), recorder, "dynatrace"
    )
    decision = await admissions.decide(path, request, 10)
    assert decision.reason != admission.Reason.INTERNAL_ERROR, "an error of ours, see the log"
    answer = admission_review.admitted(
        request.uid, patch=decision.patch, warnings=decision.warnings, denied=decision.denied
    )
    _check_admission(path, request, json.loads(answer)["response"])
    return decision.reason


def _inject(pod: Object, context: PodContext) -> InjectionResult:
    return injection.inject(pod, context, _SETTINGS)


async def _validate(new: Object, old: Object | None) -> validation.ValidationResult:
    namespaces = {f"team-{number}": {"team": str(number)} for number in range(NAMESPACES)}
    state = validation.ClusterState(dynakubes=[_DYNAKUBE], namespaces=namespaces, own_namespace="dynatrace")
    return validation.validate(new, old, state)


def _check_admission(path: str, request: admission_review.Request, response: Json) -> None:
    assert response["uid"] == request.uid
    assert response["allowed"] or path == "/validate"
    assert all(len(warning) <= 1000 and "\n" not in warning for warning in response.get("warnings", ()))
    if "patch" in response:
        # Of a pod that is too large nothing but its outline was decoded: its texts may be anything.
        obj = json.loads(bytes(request.object).decode("utf-8", "replace"))
        for operation in json.loads(base64.b64decode(response["patch"])):
            _apply(obj, operation)


def _check_conversion(review: admission_review.ConversionRequest, outcome: str, response: Json) -> None:
    assert response["uid"] == review.uid
    converted = response["convertedObjects"]
    if outcome == "converted":
        assert [obj["apiVersion"] for obj in converted] == [review.desired] * len(review.objects)
    else:
        assert converted == [] and response["result"]["status"] == "Failed" and response["result"]["message"]


def _apply(obj: Any, operation: Mapping[str, Any]) -> None:
    """Apply an operation of RFC 6902, as strictly as it says."""
    *way, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
    for part in way:
        obj = obj[int(part)] if isinstance(obj, list) else obj[part]
    if isinstance(obj, list):
        index = len(obj) if last == "-" else int(last)
        assert index <= len(obj)
        if operation["op"] == "add":
            obj.insert(index, operation["value"])
        else:
            obj[index] = operation["value"]
    elif operation["op"] == "remove":
        del obj[last]
    else:
        assert operation["op"] == "add" or last in obj
        obj[last] = operation["value"]


def case(chance: Chance) -> tuple[str, bytes]:
    """The path and the body of a request."""
    path = chance.choice(_PATHS)
    review = _conversion(chance) if path == "/convert" else _admission(chance, path)
    body = json.dumps(review, ensure_ascii=chance.random() < 0.5, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )
    return path, alterations.anyhow(chance, body) if chance.random() < 0.3 else body


def _admission(chance: Chance, path: str) -> Json:
    kind = _KINDS[path]
    make = {"Pod": _pod, "Namespace": _namespace, "DynaKube": _dynakube}[kind]
    request: Json = {"uid": "705ab4f5", "operation": chance.choice(("CREATE", "CREATE", "UPDATE", "DELETE"))}
    request |= {
        "kind": {"version": "v1", "kind": kind},
        "namespace": chance.choice(("shop", "team", "", "kube-system")),
    }
    request["object"] = _spoil(chance, make(chance))
    if request["operation"] != "CREATE":
        request["oldObject"] = _spoil(chance, make(chance))
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": _spoil(chance, request, 0.1)}


def _conversion(chance: Chance) -> Json:
    count = chance.choice((0, 1, 1, 2, 5))
    objects = [_spoil(chance, _dynakube(chance)) for _ in range(count)]
    request = {"uid": "1", "desiredAPIVersion": f"dynatrace.com/{chance.choice(_VERSIONS)}", "objects": objects}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "request": request}


def _pod(chance: Chance) -> Json:
    spec: Json = {"containers": _containers(chance)}
    if chance.random() < 0.4:
        spec["initContainers"] = _containers(chance)
    if chance.random() < 0.5:
        names = ("oneagent-share", "oneagent-bin", "data", "a")
        kinds: tuple[Json, ...] = (
            {"emptyDir": {}},
            {"hostPath": {"path": chance.choice(_TEXTS)}},
            {"csi": {"driver": "csi.oneagent.dynatrace.com"}},
        )
        spec["volumes"] = [{"name": chance.choice(names), **chance.choice(kinds)} for _ in range(_count(chance))]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _metadata(chance), "spec": spec}


def _containers(chance: Chance) -> list[Json]:
    return [_container(chance, number) for number in range(max(1, _count(chance)))]


def _container(chance: Chance, number: int) -> Json:
    container: Json = {"name": chance.choice((f"c{number}", "web", "install-oneagent")), "image": chance.choice(_TEXTS)}
    if chance.random() < 0.4:
        container["env"] = [
            {"name": chance.choice(_TEXTS), "value": chance.choice(_TEXTS)} for _ in range(chance.randrange(4))
        ]
    if chance.random() < 0.4:
        container["volumeMounts"] = [
            {"name": "data", "mountPath": chance.choice(_TEXTS)} for _ in range(chance.randrange(4))
        ]
    if chance.random() < 0.3:
        amounts = {
            "cpu": chance.choice(_TEXTS),
            "memory": chance.choice(_TEXTS),
            "ephemeral-storage": chance.choice(_TEXTS),
        }
        container["resources"] = {"limits": amounts, "requests": dict(amounts)}
    if chance.random() < 0.2:
        container |= {"restartPolicy": "Always", "command": ["install-oneagent"]}
    return container


def _namespace(chance: Chance) -> Json:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": _metadata(chance)}


def _dynakube(chance: Chance) -> Json:
    modes = ("cloudNativeFullStack", "applicationMonitoring", "classicFullStack", "hostMonitoring")
    one_agent: Json = {chance.choice(modes): _value(chance, 0) if chance.random() < 0.3 else _mode(chance)}
    spec: Json = {"apiUrl": chance.choice(_TEXTS), "oneAgent": one_agent, "proxy": {"value": chance.choice(_TEXTS)}}
    obj = {"apiVersion": f"dynatrace.com/{chance.choice(_VERSIONS)}", "kind": "DynaKube", "metadata": _metadata(chance)}
    return {**obj, "spec": spec} | ({"status": _value(chance, 0)} if chance.random() < 0.2 else {})


def _mode(chance: Chance) -> Json:
    terms = [
        {"key": chance.choice(_KEYS), "operator": chance.choice(("In", "Exists", "?"))} for _ in range(_count(chance))
    ]
    return {
        "namespaceSelector": {"matchLabels": _texts(chance), "matchExpressions": terms},
        "nodeSelector": _texts(chance),
        "args": [chance.choice(_TEXTS) for _ in range(chance.randrange(3))],
        "codeModulesImage": chance.choice(_TEXTS),
    }


def _metadata(chance: Chance) -> Json:
    metadata: Json = {"name": chance.choice(_TEXTS), "generateName": "web-5d4f-", "labels": _texts(chance)}
    metadata["annotations"] = _texts(chance)
    if chance.random() < 0.3:
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": chance.choice(_TEXTS), "controller": True}
        metadata["ownerReferences"] = [owner]
    return metadata


def _texts(chance: Chance) -> dict[str, str]:
    return {chance.choice(_KEYS): chance.choice(_TEXTS) for _ in range(chance.randrange(5))}


def _count(chance: Chance) -> int:
    """How many there are of something: few, seldom more than are taken."""
    return chance.choice((0, 1, 1, 2, 2, 3, 5)) if chance.random() < 0.98 else chance.choice((499, 501, 3000))


def _value(chance: Chance, depth: int) -> Any:
    """Anything that JSON can say."""
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: chance.choice(_TEXTS),
        lambda: chance.choice(_TEXTS) * chance.choice((1, 100, 5000)),
        lambda: chance.choice((None, True, False, 0, -1, 1.5, 10**18, -(10**30), 1e300)),
        lambda: [_value(chance, depth + 1) for _ in range(chance.randrange(4))] if depth < 4 else [],
        lambda: (
            {chance.choice(_KEYS): _value(chance, depth + 1) for _ in range(chance.randrange(4))} if depth < 4 else {}
        ),
    )
    return chance.choice(kinds)()


def _spoil(chance: Chance, obj: Json, likelihood: float = 0.5) -> Any:
    """Put something else into a place or two of an object."""
    if chance.random() > likelihood:
        return obj
    for _ in range(chance.randrange(1, 3)):
        here: Any = obj
        while isinstance(here, dict | list) and here:
            places: list[Any] = list(here) if isinstance(here, dict) else list(range(len(here)))
            place = chance.choice(places)
            if not isinstance(here[place], dict | list) or not here[place] or chance.random() < 0.3:
                here[place] = _value(chance, 0)
                break
            here = here[place]
    return obj


def _resident_mib(*, reset: bool = False) -> float:
    """The peak since the last reset, as the kernel has it."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
