"""System calls, the mount table, processes and disk usage."""
