"""Reconcilers of a DynaKube, one condition a module; `context` has their interface."""
