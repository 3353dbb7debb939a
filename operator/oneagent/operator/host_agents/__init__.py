"""Host agents: the OneAgent DaemonSet of a DynaKube that has agents on nodes.

`fields` reads what the DynaKube asks for, `images` decides which image runs, `manifest` and `secrets` say what the
objects look like, `nodes` whether another DynaKube has the nodes already, `rollout` how far it is: all of them
pure. `concern` does it.
"""
