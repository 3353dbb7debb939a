"""Configuration files that agents read: the tenant's settings and a container's identity."""
