"""The provisioner: keeps the wanted versions in the agent store, and removes the ones that nobody uses."""
