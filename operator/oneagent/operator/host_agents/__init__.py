"""Host agents: the OneAgent DaemonSet of a DynaKube that has agents on nodes.

`spec` reads the DynaKube, `image` chooses the image, `daemonset` and `secrets` build the objects, `node_conflicts`
compares nodes with other DynaKubes, `rollout` measures progress: all of them are pure. `reconciler` applies them.
"""
