"""The provisioner: keeps the desired versions in the agent store and removes unused ones."""
