"""The provisioner: keeps the desired versions in the agent store and removes unused ones."""

from oneagent.common import lazy_modules

lazy_modules.postpone(*lazy_modules.HTTP, *lazy_modules.PROMETHEUS)
