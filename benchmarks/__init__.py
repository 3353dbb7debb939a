"""What the product promises in figures, measured against the real processes.

A figure that depends on the machine says little, so speed is told as a ratio: what we take against what the
same machine takes, in the same run, for the part of the work that nobody can leave out. The two are measured in
turns, so that whatever else the machine does hits both alike.
"""
