"""Files that agents read: the tenant's configuration and a container's identity."""
