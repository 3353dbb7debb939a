"""A package, so that what is installed for its tests is gone when the last of them has run."""
