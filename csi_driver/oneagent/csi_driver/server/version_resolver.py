"""The version that a volume can mount now, or the reason why there is none."""

from __future__ import annotations

from oneagent.common import agents
from oneagent.common.identifiers import Version, agent_version
from oneagent.csi_driver.metadata.desired_versions import DesiredStateReader
from oneagent.csi_driver.metadata.states import VolumeState
from oneagent.csi_driver.server.publish_attempt import PublishAttempt
from oneagent.csi_driver.store import AgentStore


class VersionResolver:
    """Looks into the rows of DynaKubes and the store; thread-safe."""

    def __init__(self, store: AgentStore, desired: DesiredStateReader) -> None:
        self._store = store
        self._desired = desired

    def resolve(self, attempt: PublishAttempt) -> None:
        """Set the desired state, and the version to mount or the reason why there is none.

        A mounted volume keeps its version. The store is read before the rows: the provisioner completes the rows of a
        version before it makes it visible, so rows that are read later name its config layer.
        """
        request, record = attempt.request, attempt.record
        before = self._desired.get_cached(request.dynakube)
        seen = before.version if before is not None and self._store.has(before.version) else ""
        desired = self._desired.get(request.dynakube)
        if desired is not None and (before is None or before.version != desired.version):
            seen = desired.version if self._store.has(desired.version) else ""
            desired = self._desired.get(request.dynakube)
        attempt.desired, attempt.version, attempt.reason = desired, None, ""
        if record is not None and record.state == VolumeState.MOUNTED and self._store.has(Version(record.version)):
            attempt.version = Version(record.version)
        elif desired is None:
            attempt.reason = f"{agents.describe_object(request.dynakube, quoted=True)} is not known on this node"
        elif not desired.version:
            named = agents.describe_object(request.dynakube, quoted=True)
            attempt.reason = desired.condition or f"no version is known yet for {named}"
        elif desired.version != seen:
            attempt.reason = desired.condition or f"version {agent_version(desired.version)} is not in the store yet"
        else:
            if not desired.layer:
                copied = self._desired.get_copied(request.dynakube)
                if copied is not None and copied.version == desired.version:
                    attempt.desired = desired = copied
            if desired.layer:
                attempt.version = desired.version
            else:
                named = agents.describe_object(request.dynakube, quoted=True)
                attempt.reason = desired.condition or f"the configuration of {named} is not known"

    def is_unknown(self, attempt: PublishAttempt) -> bool:
        """Return whether the DynaKube does not exist: there is nothing to wait for, and kubelet will ask again."""
        return attempt.desired is None and self._desired.is_unknown(attempt.request.dynakube)
