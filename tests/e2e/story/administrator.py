"""Administrator who follows the documentation, with own values for its examples."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from deploy import generate

from tests.cluster.control_plane import BIN
from tests.e2e import helm
from tests.e2e.manifests import NAMESPACE
from tests.e2e.story import documented_commands, private_registry
from tests.fakes import tenant
from tests.fakes.registry import PASSWORD, USER

CHART: Final = str(generate.CHART.relative_to(Path.cwd()))
SHOP: Final = "my-shop"
"""The namespace of applications that the page speaks of."""
DYNAKUBE: Final = "shop"

_IMAGE: Final = "--set image.repository=registry.example.com/oneagent-csi"
_PULL_SECRET: Final = "image.pullSecrets[0].name=registry"
# All that is not as a user has it: what is on this machine, and what would make the test wait.
_VALUES: Final = {
    "image": helm.IMAGE,
    "csidriver": {"server": {"flags": {"publish-wait": "3s"}}, "provisioner": {"flags": {"gc-interval": "3s"}}},
}


class Administrator:
    """With a terminal in the folder of this checkout, and a cluster."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self._values = folder / "values.yaml"
        self._values.write_text(json.dumps(_VALUES))
        path = f"{BIN}:{generate.HELM.parent}:{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "KUBECONFIG": str(kubeconfig)}

    def types(self, commands: str, within: float = 150) -> str:
        """What is printed; an `AssertionError` with all of it if a command fails."""
        done = subprocess.run(
            ["sh", "-eux", "-c", commands],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def installs(self, *settings: str, chart: str = CHART, registry: str = "", before: str = "") -> None:
        """By Helm, as in the section of that name; with settings of values, KEY=VALUE.

        `registry` is the host of a private one that has the image; `before` are commands for the namespace that is
        there by then.
        """
        (commands,) = documented_commands.blocks(documented_commands.INSTALL, "By Helm")
        if before:
            commands = documented_commands.replaced(commands, "helm install", f"{before}\nhelm install")
        if registry:
            (secret,) = documented_commands.blocks(documented_commands.INSTALL, "A private registry")
            for example, own in (
                ("USER", USER),
                ("PASSWORD", shlex.quote(PASSWORD)),
                ("registry.example.com", registry),
            ):
                secret = documented_commands.replaced(secret, example, own)
            commands = documented_commands.replaced(commands, "helm install", f"{secret}helm install")
            name = f"{registry}/{private_registry.PATH}"
            settings = (*settings, f"image.repository={name}", "image.pullPolicy=IfNotPresent", _PULL_SECRET)
        self.runs_helm(documented_commands.replaced(commands, CHART, chart), *settings)

    def runs_helm(self, commands: str, *settings: str) -> None:
        """Commands that install the chart, with the cluster's image in the place of the page's."""
        values = shlex.join([f"--values={self._values}", *_set(settings)])
        self.types(documented_commands.replaced(commands, _IMAGE, values))

    def monitors(self, api_url: str, *, version: str = "v1beta6") -> None:
        """Token, DynaKube and label, as in the section on the first DynaKube; with the manifest of an older version."""
        commands, older = documented_commands.blocks(documented_commands.INSTALL, "The first DynaKube")
        commands = documented_commands.replaced(commands, "TOKEN", tenant.TOKEN)
        if version != "v1beta6":
            commands = documented_commands.with_manifest(commands, older)
        assert f"dynatrace.com/{version}\n" in commands
        self.types(documented_commands.replaced(commands, "https://TENANT.live.dynatrace.com/api", api_url))

    def changes(self, what: str, *arguments: str) -> None:
        """Something about the DynaKube of that section, by a subcommand of kubectl: annotate, patch, wait."""
        self.types(shlex.join(["kubectl", "-n", NAMESPACE, what, "dynakube", DYNAKUBE, *arguments]))

    def wants(self, version: str | None, decided: str) -> None:
        """A version for applications, or None in particular; until the operator has decided on this one."""
        spec = {"oneAgent": {"applicationMonitoring": {"version": version}}}
        self.changes("patch", "--type=merge", "-p", json.dumps({"spec": spec}))
        self.sees(decided)

    def sees(self, version: str) -> None:
        """That the operator has decided on a version."""
        self.changes("wait", f"--for=jsonpath=.status.codeModules.version={version}", "--timeout=30s")

    def upgrades(self, *settings: str) -> None:
        """To the chart of this checkout, with other values."""
        (commands,) = documented_commands.blocks(documented_commands.INSTALL, "Upgrade")
        self.types(f"{commands.strip()} {shlex.join(_set(settings))}")

    def uninstalls(self) -> None:
        self.types(documented_commands.blocks(documented_commands.INSTALL, "Uninstall")[0])

    def cleans_up_the_node(self) -> None:
        """What the same section says at its end; the terminal is on the node."""
        self.types(documented_commands.blocks(documented_commands.INSTALL, "Uninstall")[1])


def _set(settings: Iterable[str]) -> list[str]:
    return [f"--set={setting}" for setting in settings]
