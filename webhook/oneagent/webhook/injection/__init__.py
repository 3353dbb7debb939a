"""Injection of a new pod: its patch, computed from its manifest and the context.

    inputs               types of the context and of the result
    pod_model            the fields of a pod that are read
    dynakube_settings    the DynaKube's settings for pods
    exclusions           rules for pods that are never injected
    operating_system     whether a pod is for Windows nodes
    existing             the injection by an earlier call
    namespace_limits     LimitRanges and quotas, and what they admit
    removal              removal of an incomplete one
    plan                 agent, enrichment, volume and paths of a pod
    ld_preload, env, mounts, volumes,
    init_container, resources
                         the parts of the injection
    extension            containers that are added to an injected pod
    skipping             results for pods without injection
    mutation             the patch, with its warnings and Events

The API server accepts the patched pod, kubelet starts it, and everything that its owner wrote is still in it. All
functions are pure: the same pod and context give the same patch, and a second call on its result gives none.
"""

from oneagent.webhook.injection.mutation import inject
from oneagent.webhook.injection.plan import Settings

__all__ = ["Settings", "inject"]
