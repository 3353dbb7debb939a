"""Containers beside the driver and in pods: registrar, livenessprobe, init container."""
