"""Code that the components share: identifiers, the tenant API, agent packages, logging and metrics."""
