"""The typed DynaKube that every component reads, the same for all API versions.

    DynaKubeError   a field that cannot be used: names the field, its value and the remedy

`from_object` is pure and lenient: an object of an older version is converted to the newest one first, unknown
fields are ignored, and a tuning value that makes no sense falls back to its default with a warning that is
carried along. It is strict where a wrong value would do harm: names that become paths or URLs, and text that
is later written into configuration files. Whatever it is given, it raises nothing but `DynaKubeError`.

Tokens are never part of it, only the name of the secret that holds them; a proxy URL, which may hold a
password, is left out of the `repr`.
"""

from __future__ import annotations

import dataclasses
import math
import re
import urllib.parse
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from oneagent.common import agents, durations, identifiers
from oneagent.common.dynakube import public_registry, secret_names, tenant_config
from oneagent.common.dynakube.api import feature_flags
from oneagent.common.dynakube.api.versions import NEWEST, VERSIONS
from oneagent.common.dynakube.mode import MODES, Mode
from oneagent.common.dynakube.tenant_config import TenantConfig
from oneagent.common.kubernetes import fields
from oneagent.common.oci import public_keys, reference

if TYPE_CHECKING:
    from oneagent.common.agents.opentelemetry.telemetry import Telemetry

_FILE: Final = "file:"
_LOCAL: Final = (_FILE, reference.LAYOUT_PREFIX)

IMAGE_KEY: Final = "code-modules-image-key"
"""The flag that has images signed."""
IMAGE_KEY_ENTRY: Final = "cosign.pub"
"""Where the keys are in a Secret that it names."""

DEFAULT_NAMESPACE: Final = "dynatrace"
DEFAULT_MOUNT_ATTEMPTS: Final = 10
FOLLOW_TAGS, FIRST_DIGEST, NO_PULL = "Always", "IfNotPresent", "Never"
PULL_POLICIES: Final = (FOLLOW_TAGS, FIRST_DIGEST, NO_PULL)
"""Follow a tag wherever it moves to, stay with its first digest, or download nothing."""
MOUNT_POLICIES: Final = ("wait-then-last-good", "wait", "last-good", "fail")
"""The first is the default."""
DEFAULT_MOUNT_TIMEOUT_SECONDS: Final = 600.0
DEFAULT_REQUEST_THRESHOLD_MINUTES: Final = 15

_API_VERSION: Final = re.compile(r"dynatrace\.com/v[0-9a-z]+")
_DNS_1035: Final = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_DIRECTORY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
FULL_VERSION: Final = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]{8}-[0-9]{6}")
SHORT_VERSION: Final = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")

DynaKubeError = fields.FieldError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DynaKube:
    name: identifiers.DynaKubeName
    namespace: str
    uid: str
    generation: int
    api_url: str
    """Ends in `/api`; empty only where the package is a local file."""
    mode: Mode
    allows_csi: bool
    """Pods get volumes of the CSI driver where the cluster has it"""
    decided_version: identifiers.Version | None
    """The operator's decision (`status.codeModules.version`)."""
    pinned_version: identifiers.Version | None
    """The user's choice; complete, as `1.277.0.20230914-094321`."""
    package: str
    """`codeModulesImage`, or the operator's decision for a public registry: a `file:` URL, an OCI layout or an image
    reference; empty for the tenant's package."""
    uses_public_registry: bool
    """Where the specification names no image, the tenant names one in a public registry."""
    public_registry: str
    """Host of the registry that the tenant has to choose; empty for its own choice."""
    image_id: str
    """The image that the operator decided (`status.codeModules.imageID`)."""
    pull_policy: str
    """One of `PULL_POLICIES`, for the image that `package` names."""
    pull_secret: str
    """Name of the secret with the credentials for the image's registry."""
    image_key: str
    """The public keys that the image has to be signed with, in PEM form, or the name of the secret that has them; empty
    if it need not be signed."""
    technologies: tuple[str, ...]
    network_zone: str
    host_group: str
    proxy: str = dataclasses.field(repr=False)
    proxy_secret: str
    """Name of the secret whose key `proxy` holds the proxy's URL."""
    no_proxy: str
    trusted_cas: str
    """Name of the ConfigMap whose key `certs` holds PEM certificates."""
    skip_cert_check: bool
    tokens_secret: str
    tenant: identifiers.TenantId | None
    cluster_id: str
    """The cluster's identity as the operator learned it: the UID of the namespace kube-system."""
    endpoints: str
    """The tenant's communication endpoints as the operator learned them."""
    tenant_config: TenantConfig | None
    """The tenant's answers that the operator has for nodes; None if no operator provides them."""
    mount_attempts: int
    mount_timeout_seconds: float
    mount_policy: str
    """One of `MOUNT_POLICIES`, for pods that start while the version is missing."""
    request_threshold_minutes: int
    poll_seconds: float
    """Interval of the tenant's polls (annotation `poll-interval`; else the request threshold)."""
    warnings: tuple[str, ...]
    agent: str = agents.DEFAULT.kind
    """Kind of the agent that pods get."""
    telemetry: Telemetry | None = None
    """Settings of OpenTelemetry's agents; None for another kind."""

    @property
    def tenant_questions(self) -> tuple[str, str, str]:
        """Everything that decides what the tenant answers about agents: its address, and the questions."""
        return (self.api_url, self.network_zone, self.host_group)

    @property
    def tenant_identity(self) -> tuple[str, ...]:
        """Everything that decides whose package the tenant's is: DynaKubes that differ here trust different servers."""
        checked = ("unchecked",) if self.skip_cert_check else ("checked", self.trusted_cas)
        return (self.api_url, *checked)

    @property
    def needs_views(self) -> bool:
        return self.allows_csi and self.mode.injects

    @property
    def needs_host_directory(self) -> bool:
        return self.mode.has_host_volume

    @property
    def image(self) -> reference.Reference | None:
        """The image that `package` names, if it names one; with its digest if that or the operator says it."""
        if not self.package or self.package.startswith(_LOCAL):
            return None
        named = reference.parse(self.package)
        decided = _reference(self.image_id)
        # A decision about another image, or another tag of it, is about to be replaced.
        if decided and not named.digest and decided.digest and decided == named.at(decided.digest):
            return decided
        return named

    @property
    def package_file(self) -> Path | None:
        """The local archive that `package` names, if it names one."""
        return _local_file(self.package)

    @property
    def image_layout(self) -> reference.LayoutReference | None:
        """The image on the node that `package` names, if it names one."""
        return reference.parse_layout(self.package) if self.package.startswith(reference.LAYOUT_PREFIX) else None

    @property
    def is_local(self) -> bool:
        """Return True if the package is on the nodes, so that it needs neither tenant nor registry."""
        return is_local(self.package)


def from_object(obj: Mapping[str, object]) -> DynaKube:
    """Read a DynaKube object of any API version; `DynaKubeError` if it cannot be used.

    Or an object of another kind that has the form of a DynaKube (see `agents.opentelemetry.injection`).
    """
    telemetry = _telemetry(obj)
    obj = _in_newest_version(obj)
    name = fields.text(obj, "metadata.name") if telemetry else _name(obj)
    if not name:
        raise DynaKubeError("metadata.name", None, "give the DynaKube a name")
    mode = _mode(obj)
    own = f"spec.oneAgent.{mode}"
    uses_public_registry = public_registry.is_used(obj, mode)
    package = _package(obj, f"{own}.codeModulesImage") if mode.injects else ""
    if mode.injects and uses_public_registry and not package:
        package = str(_reference(public_registry.decided_image(obj, "codeModules")) or "")
    secret_names.check_env(obj, f"{own}.env")
    warnings: list[str] = []
    threshold = _request_threshold(obj, warnings)
    return DynaKube(
        name=identifiers.DynaKubeName(name),
        namespace=fields.dns_name(obj, "metadata.namespace") or DEFAULT_NAMESPACE,
        uid=fields.text(obj, "metadata.uid"),
        generation=_generation(obj),
        api_url=_api_url(obj, optional=is_local(package) or telemetry is not None),
        mode=mode,
        allows_csi=_allows_csi(obj, mode),
        decided_version=_decided_version(obj),
        pinned_version=_pinned_version(obj, own, warnings) if mode.injects else None,
        package=package,
        uses_public_registry=uses_public_registry,
        public_registry=public_registry.host(obj),
        image_id=fields.text(obj, "status.codeModules.imageID"),
        pull_policy=_pull_policy(obj, f"{own}.codeModulesImagePullPolicy", warnings),
        pull_secret=secret_names.read(obj, "spec.customPullSecret"),
        image_key=_image_key(obj),
        technologies=_technologies(obj),
        network_zone=fields.text(obj, "spec.networkZone"),
        host_group=fields.text(obj, "spec.oneAgent.hostGroup") or _host_group_argument(obj, own),
        proxy=fields.text(obj, "spec.proxy.value", hidden=True),
        proxy_secret=secret_names.read(obj, "spec.proxy.valueFrom"),
        no_proxy=feature_flags.text(obj, "no-proxy"),
        trusted_cas=fields.dns_name(obj, "spec.trustedCAs"),
        skip_cert_check=fields.flag(obj, "spec.skipCertCheck") or False,
        tokens_secret=secret_names.read_tokens(obj) if telemetry is None else "",
        tenant=_tenant(obj),
        cluster_id=fields.text(obj, "status.kubeSystemUUID"),
        endpoints=fields.text(obj, "status.oneAgent.connectionInfoStatus.endpoints"),
        tenant_config=tenant_config.read(obj),
        mount_attempts=_mount_attempts(obj, warnings),
        mount_timeout_seconds=_duration(obj, "max-csi-mount-timeout", DEFAULT_MOUNT_TIMEOUT_SECONDS, warnings),
        mount_policy=_mount_policy(obj, warnings),
        request_threshold_minutes=threshold,
        poll_seconds=_duration(obj, "poll-interval", max(threshold, 1) * 60.0, warnings),
        warnings=tuple(warnings),
        agent=agents.of_dynakube(name).kind,
        telemetry=telemetry,
    )


def _name(obj: Mapping[str, object]) -> str:
    return fields.matching(obj, _DNS_1035, "a DNS-1035 label such as my-dynakube", "metadata.name")


def _telemetry(obj: Mapping[str, object]) -> Telemetry | None:
    if obj.get("kind") != identifiers.INJECTION_KIND:
        return None
    from oneagent.common.agents.opentelemetry import injection

    return injection.telemetry(obj)


def _in_newest_version(obj: Mapping[str, object]) -> Mapping[str, object]:
    """The items of a list may lack `apiVersion`: then they are in the newest version."""
    kind, api_version = fields.text(obj, "kind"), fields.text(obj, "apiVersion")
    if kind == identifiers.INJECTION_KIND:
        return obj
    if kind not in ("", "DynaKube"):
        raise DynaKubeError("kind", kind, "must be DynaKube")
    if api_version and not _API_VERSION.fullmatch(api_version):
        raise DynaKubeError("apiVersion", api_version, f"must be {identifiers.API_GROUP}/{VERSIONS[0]} to {NEWEST}")
    if api_version.rpartition("/")[2] not in VERSIONS[:-1]:
        return obj
    # Most clusters serve the newest version, and conversion takes memory on every node.
    from oneagent.common.dynakube.api import conversion

    return conversion.to_newest({**obj, "kind": "DynaKube"})


def _mode(obj: Mapping[str, object]) -> Mode:
    modes = [mode for mode in MODES if fields.mapping(obj, f"spec.oneAgent.{mode}") is not None]
    if len(modes) > 1:
        listed = ", ".join(sorted(modes))
        raise DynaKubeError("spec.oneAgent", listed, "the modes exclude each other; keep one of them")
    return modes[0] if modes else Mode.NONE


def _allows_csi(obj: Mapping[str, object], mode: Mode) -> bool:
    if mode is Mode.APPLICATION_MONITORING:
        return fields.flag(obj, f"spec.oneAgent.{mode}.useCSIDriver") is not False
    return True


def _api_url(obj: Mapping[str, object], *, optional: bool) -> str:
    field = "spec.apiUrl"
    text = fields.text(obj, field, hidden=True).rstrip("/")
    if not text:
        if optional:
            return ""
        raise DynaKubeError(field, None, "set the tenant's API URL, https://<environment>/api")
    if "@" in text:
        raise DynaKubeError(field, text, "must not hold credentials; they belong in the secret", hidden=True)
    try:
        url = urllib.parse.urlsplit(text)
        usable = url.scheme in ("https", "http") and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
    else:
        usable = usable and url.path.endswith("/api") and not url.query and not url.fragment
    if not usable or " " in text:
        raise DynaKubeError(field, text, "must be a URL that ends in /api, https://<environment>/api")
    return text


def _decided_version(obj: Mapping[str, object]) -> identifiers.Version | None:
    field = "status.codeModules.version"
    text = fields.text(obj, field)
    if text and not identifiers.is_version(text):
        form = f"a version such as 1.277.0.20230914-094321 ({identifiers.VERSION_FORM})"
        raise DynaKubeError(field, text, f"must be {form}")
    return identifiers.Version(text) if text else None


def _tenant(obj: Mapping[str, object]) -> identifiers.TenantId | None:
    form = "a tenant's UUID such as abc12345"
    text = fields.matching(obj, _DIRECTORY_NAME, form, "status.oneAgent.connectionInfoStatus.tenantUUID")
    return identifiers.TenantId(text) if text else None


def _pinned_version(obj: Mapping[str, object], own: str, warnings: list[str]) -> identifiers.Version | None:
    for field in (f"{own}.codeModulesVersion", f"{own}.version"):
        text = fields.text(obj, field)
        if FULL_VERSION.fullmatch(text):
            return identifiers.Version(text)
        if SHORT_VERSION.fullmatch(text):
            # Older versions allow it: there the operator looked up the rest.
            warnings.append(f"{field} is {text!r}: not complete, so it pins nothing; add the build's time")
        elif text:
            raise DynaKubeError(field, text, "must be a complete version such as 1.277.0.20230914-094321")
    return None


def _technologies(obj: Mapping[str, object]) -> tuple[str, ...]:
    listed = fields.annotation(obj, "oneagent.dynatrace.com/technologies").split(",")
    return tuple(dict.fromkeys(item.strip() for item in listed if item.strip())) or ("all",)


def _host_group_argument(obj: Mapping[str, object], own: str) -> str:
    """The host group as older manifests give it: `--set-host-group=…` among the host agent's arguments."""
    arguments = fields.at(obj, f"{own}.args")
    for argument in arguments if isinstance(arguments, list) else ():
        if isinstance(argument, str) and argument.startswith("--set-host-group="):
            return fields.printable(f"{own}.args", argument.partition("=")[2])
    return ""


def _generation(obj: Mapping[str, object]) -> int:
    value = fields.at(obj, "metadata.generation")
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _package(obj: Mapping[str, object], field: str) -> str:
    text = fields.text(obj, field)
    check_package(text, field)
    return text


def check_package(text: str, field: str = "codeModulesImage") -> None:
    """Refuse a text that names no package; empty names none, and may."""
    try:
        if text.startswith(reference.LAYOUT_PREFIX):
            reference.parse_layout(text)
        elif text.startswith(_FILE):
            _local_file(text)
        elif text:
            reference.parse(text)
    except reference.InvalidLayoutError as error:
        raise DynaKubeError(field, text, f"must be oci-layout:/absolute/path:name ({error.why})") from error
    except reference.InvalidReferenceError as error:
        remedy = (
            "must be file:///absolute/path/to/archive.zip, oci-layout:/absolute/path:name or an image, "
            f"registry/path:tag ({error.why})"
        )
        raise DynaKubeError(field, text, remedy) from error


def is_local(package: str) -> bool:
    """Return True if a `codeModulesImage` names something on the nodes, readable or not."""
    return package.startswith(_LOCAL)


def _image_key(obj: Mapping[str, object]) -> str:
    """A wrong one must never pass for none: then anything would be installed."""
    key = feature_flags.given_as(obj, IMAGE_KEY)
    if not key:
        return ""
    text = fields.lines(obj, key)
    secret_names.refuse_reserved(f"metadata.annotations[{key}]", text)
    if why := find_image_key_fault(text):
        raise DynaKubeError(f"metadata.annotations[{key}]", text, why, hidden=True)
    return text


def find_image_key_fault(text: str) -> str:
    """Return why the text cannot be keys of images; empty if it can. Never quotes it: it could be a private key."""
    if not public_keys.is_pem(text):
        remedy = f"has to be public keys in PEM form, or the name of a Secret whose entry {IMAGE_KEY_ENTRY} has them"
        return "" if fields.is_dns_name(text) else remedy
    try:
        public_keys.parse(text)
    except public_keys.InvalidPublicKeysError as error:
        return str(error)
    return ""


def _reference(text: str) -> reference.Reference | None:
    """A status may hold anything: what cannot be read is as if it were not there."""
    try:
        return reference.parse(text)
    except reference.InvalidReferenceError:
        return None


def _local_file(package: str) -> Path | None:
    if not package.startswith(_FILE):
        return None
    try:
        url = urllib.parse.urlsplit(package)
    except ValueError:
        url = urllib.parse.urlsplit("")
    path = PurePosixPath(urllib.parse.unquote(url.path))
    usable = url.netloc in ("", "localhost") and not url.query and not url.fragment
    if not usable or not path.is_absolute() or ".." in path.parts or not str(path).isprintable():
        raise DynaKubeError("codeModulesImage", package, "must be file:///absolute/path/to/archive.zip")
    return Path(path)


# A wrong tuning value is worth a warning, not a pod without an agent.


def _mount_attempts(obj: Mapping[str, object], warnings: list[str]) -> int:
    text = feature_flags.text(obj, "max-csi-mount-attempts")
    default = DEFAULT_MOUNT_ATTEMPTS
    return _number("max-csi-mount-attempts", text, default, warnings) if text else default


def _mount_policy(obj: Mapping[str, object], warnings: list[str]) -> str:
    text = feature_flags.text(obj, "mount-policy")
    if not text or text in MOUNT_POLICIES:
        return text or MOUNT_POLICIES[0]
    warnings.append(
        f"mount-policy is {text[:80]!r}: not one of {', '.join(MOUNT_POLICIES)}; {MOUNT_POLICIES[0]} is used"
    )
    return MOUNT_POLICIES[0]


def _pull_policy(obj: Mapping[str, object], field: str, warnings: list[str]) -> str:
    text = fields.text(obj, field)
    if not text or text in PULL_POLICIES:
        return text or FOLLOW_TAGS
    warnings.append(f"{field} is {text[:80]!r}: not one of {', '.join(PULL_POLICIES)}; {FOLLOW_TAGS} is used")
    return FOLLOW_TAGS


def _request_threshold(obj: Mapping[str, object], warnings: list[str]) -> int:
    value = fields.at(obj, "spec.dynatraceApiRequestThreshold")
    text = fields.scalar(value) or feature_flags.text(obj, "dynatrace-api-request-threshold")
    default = DEFAULT_REQUEST_THRESHOLD_MINUTES
    return _number("dynatraceApiRequestThreshold", text, default, warnings) if text else default


def _number(field: str, text: str, default: int, warnings: list[str]) -> int:
    if re.fullmatch(r"[0-9]{1,6}", text):
        return int(text)
    warnings.append(f"{field} is {text[:80]!r}: not a number from 0 to 999999; {default} is used")
    return default


def _duration(obj: Mapping[str, object], flag: str, default: float, warnings: list[str]) -> float:
    text = feature_flags.text(obj, flag)[:80]
    try:
        seconds = durations.parse(text) if text else default
        if math.isfinite(seconds) and len(text) < 80:
            return seconds
    except (ValueError, OverflowError):
        pass
    warnings.append(f"{flag} is {text!r}: not a duration such as 90s or 10m; {default:g}s is used")
    return default
