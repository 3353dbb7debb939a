"""The node driver: gRPC services, views, metadata, agent store, provisioner, garbage collection."""
