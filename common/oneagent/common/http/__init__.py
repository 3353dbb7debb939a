"""HTTP clients and servers, and what they fail with."""
