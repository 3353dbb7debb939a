"""The command `oneagent-csi`, which an administrator runs on a node."""
