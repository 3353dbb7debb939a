"""Removal of the startup taint from nodes that can mount agents."""
