"""Containers beside the driver and in pods: registrar, livenessprobe, init container."""

from oneagent.common import lazy_modules

lazy_modules.postpone(*lazy_modules.PROTOBUF)
