"""Code that all clients of an API server share."""
