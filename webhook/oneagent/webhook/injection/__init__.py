"""What becomes of a pod that is being created: decided from its manifest and a few facts, without asking anybody.

    pods, kubes          what is read of a pod and of a DynaKube
    rules                whom nothing is done to, and why (`common.skips`)
    plan                 what is to be in the pod
    preload, variables,
    mounts, volumes,
    initcontainer,
    resources            the parts that it is made of
    present              what an earlier call has put in
    mutation             all of it in order: the patch, and what is said of it

The promise: the pod that comes out is one that the API server takes and kubelet starts, and all that its owner wrote
is still in it. Nothing here does anything but compute, so the same pod and facts give the same patch, and a second
call over its result gives none.
"""

from oneagent.webhook.injection.mutation import inject
from oneagent.webhook.injection.plan import Settings

__all__ = ["Settings", "inject"]
