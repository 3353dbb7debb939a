"""The operator: DynaKubes in, everything that they need on the cluster kept right."""

from oneagent.common import lazy_modules

lazy_modules.postpone(*lazy_modules.KUBERNETES, *lazy_modules.HTTP)
