"""`install-oneagent --help`, and flags that put its folders elsewhere. In a pod there are no flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from oneagent.common.injection import contract
from oneagent.common.injection.contract import Variable
from oneagent.sidecars.init_container.settings import Places

VARIABLES: Final = (
    (Variable.FAILURE_POLICY, "silent: always end with 0; fail: end with 1 if not all is in place"),
    (Variable.MODE, "provisioned: a CSI volume has the agent; installer: download it"),
    (Variable.ONEAGENT_INJECTED, "true if the pod gets an agent"),
    (Variable.ENRICHMENT_INJECTED, "true if the pod gets files of metadata"),
    (Variable.DYNAKUBE, "the DynaKube that the pod belongs to"),
    (Variable.VERSION, "of the agent, if this pod has one of its own (installer)"),
    (Variable.FLAVOR, "default or multidistro (installer)"),
    (Variable.TECHNOLOGIES, "such as java,nodejs, or all; the DynaKube's if empty (installer)"),
    (Variable.INSTALL_PATH, "where the application's containers see the agent"),
    (Variable.VIEW_READ_ONLY, "true if the application's containers can't write to the agent's volume"),
    (Variable.HOST_TENANT, "the host agents' tenant, if the pod is monitored by it too"),
    (Variable.CONNECT_RETRY, "milliseconds; the agent retries its first connection for so long"),
    (Variable.POD_NAME, "the pod's name"),
    (Variable.POD_UID, "the pod's UID"),
    (Variable.BASE_POD_NAME, "the pod's name without what is random in it"),
    (Variable.NAMESPACE, "the pod's namespace"),
    (Variable.NODE_NAME, "the pod's node"),
    (Variable.CLUSTER_ID, "UID of the namespace kube-system"),
    (Variable.WORKLOAD_KIND, "kind of what the pod belongs to"),
    (Variable.WORKLOAD_NAME, "name of what the pod belongs to"),
    (Variable.CONTAINERS, "how many containers get the agent"),
    (Variable.CONTAINER_NAME.format(number="<n>"), "each one's name, from 1 on"),
    (Variable.CONTAINER_IMAGE.format(number="<n>"), "each one's image"),
)


def read(words: Sequence[str]) -> Places:
    width = max(len(name) for name, _ in VARIABLES)
    parser = argparse.ArgumentParser(
        prog="install-oneagent",
        description="Gets the agent of a pod ready before its containers start. The webhook puts it into pods as the "
        f"init container {contract.INIT_CONTAINER}, and sets everything by variables.",
        epilog="variables:\n" + "\n".join(f"  {name:{width}}  {meaning}" for name, meaning in VARIABLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    usual = Places()
    parser.add_argument("--bin", default=usual.bin, help="folder of the agent (default %(default)s)")
    parser.add_argument("--share", default=usual.share, help="folder of the containers' files (default %(default)s)")
    parser.add_argument("--config", default=usual.config, help="folder of Secret and token (default %(default)s)")
    parser.add_argument("--termination-log", default=usual.termination_log, help="file (default %(default)s)")
    given = parser.parse_args(words)
    return Places(given.bin, given.share, given.config, given.termination_log)
