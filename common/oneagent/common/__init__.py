"""What the components share: names, the tenant API, agent packages, logging and metrics."""
