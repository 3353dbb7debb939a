"""The image that a DynaKube's agents come from, as its registry has it today: asked once for all nodes.

A tag is looked up as often as the tenant is asked for news, and nodes follow the digest that the status then has. If
the image has to be signed, only one that is gets there: whatever else a tag moves to, the one before stays. Nodes
verify it nevertheless, for themselves. What a registry fails to answer leaves everything as it was.
"""

from __future__ import annotations

import logging
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from oneagent.common import dynakube, logs, unpack
from oneagent.common.http import client as http_client
from oneagent.common.http import errors
from oneagent.common.oci import hosts, public_keys, pull_secret, reference
from oneagent.common.oci import image as oci_image

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Followed:
    """The last answers about one name of an image."""

    named: str = ""
    image: reference.Reference | None = None
    """With its digest; None if it was never found, or never found signed."""
    signer: str = ""
    """Fingerprint of the key that has signed it."""
    problem: str = ""
    """Why the newest question failed, for people."""
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the DynaKube's objects say of its image; None for a Secret that is not there."""

    pull: Mapping[str, str] | None = field(default=None, repr=False)
    keys: Mapping[str, str] | None = field(default=None, repr=False)


def follow(
    kube: dynakube.DynaKube,
    http: http_client.HttpSettings,
    tenant_token: str,
    secrets: Secrets,
    rules: hosts.Registries,
    before: Followed,
) -> Followed:
    """Look again; for a thread. Never raises for what a registry may do."""
    if kube.image is None:
        return Followed()
    named = reference.parse(kube.package)
    facts = before if before.named == kube.package else Followed(kube.package)
    try:
        wanted = public_keys.from_setting(kube.image_key, secrets.keys, dynakube.IMAGE_KEY_ENTRY)
        access = oci_image.Access(_keyring(kube, tenant_token, secrets), rules, http)
        with oci_image.Image(named, access) as found:
            image = named.at(found.digest())
        signer = facts.signer if facts.image == image else ""
        if wanted and signer not in {key.fingerprint for key in wanted}:
            from oneagent.common.oci import signatures

            signer = signatures.find_signer(image, access, wanted).fingerprint
        return Followed(kube.package, image, signer)
    except (
        errors.HttpError,
        http_client.InvalidSettingsError,
        unpack.UnsignedImageError,
        public_keys.InvalidPublicKeysError,
    ) as error:
        log.warning("the image can't be followed", extra=logs.facts(dynakube=kube.name, reason=error))
        return replace(facts, problem=str(error), retry_after=getattr(error, "retry_after", None))
    except Exception as error:
        # As with tenants: it is a problem of this image and of no other.
        log.exception("the image can't be followed", extra=logs.facts(dynakube=kube.name))
        return replace(facts, problem=f"{type(error).__name__}: {error}", retry_after=None)


def _keyring(kube: dynakube.DynaKube, tenant_token: str, secrets: Secrets) -> pull_secret.Keyring:
    if kube.pull_secret:
        where = f"the secret {kube.pull_secret}"
        text = (secrets.pull or {}).get(pull_secret.DOCKER_CONFIG_KEY, "")
        if not text:
            raise http_client.InvalidSettingsError(
                f"{where}: has no key {pull_secret.DOCKER_CONFIG_KEY}: a pull secret is needed"
            )
        return pull_secret.parse(text, where)
    if not (kube.tenant and tenant_token):
        return pull_secret.Keyring()
    # The tenant's own registry takes what the tenant takes.
    host = urllib.parse.urlsplit(kube.api_url).netloc.lower()
    return pull_secret.for_registry(host, pull_secret.Credentials(kube.tenant, tenant_token))
