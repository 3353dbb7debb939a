"""The linter of policies, and what it may find in the chart's manifests."""

from __future__ import annotations

import json
import subprocess
from typing import Final

from deploy import generate

PROGRAM: Final = generate.HELM.parents[2] / "linter" / "bin" / "kube-score"

Finding = tuple[str, str, str]
"""An object's name, a check, and a place in the object."""

MEANT: Final[frozenset[Finding]] = frozenset(
    {("oneagent-csi-driver", "container-security-context-privileged", "server")}
)

_ACCEPTED: Final = {
    # A container with a CPU limit is slow when it matters; requests share the CPU fairly.
    "container-resources",
    # Containers write to the node's disk, which the driver budgets, or to volumes with a limit of their own.
    "container-ephemeral-storage-request-and-limit",
    # The image of a version never changes, and a node that has it needs no registry to start the driver.
    "container-image-pull-policy",
    # The driver is root. Numbers for the others are the image's, or OpenShift's.
    "container-security-context-user-group-id",
}


def findings(manifests: str) -> set[Finding]:
    """Critical findings in manifests, as YAML; without those of checks that the chart does not follow."""
    command = [str(PROGRAM), "score", "-o", "json", "--kubernetes-version=v1.30", "-"]
    done = subprocess.run(command, input=manifests, capture_output=True, text=True, check=False)
    return {
        (item["object_name"].rsplit("/")[-1], check["check"]["id"], comment["path"])
        for item in json.loads(done.stdout)
        for check in item["checks"]
        if check["grade"] == 1 and not check["skipped"] and check["check"]["id"] not in _ACCEPTED
        for comment in check["comments"]
    }
