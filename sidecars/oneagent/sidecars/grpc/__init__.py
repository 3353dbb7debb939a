"""gRPC over HTTP/2 without grpcio, for its memory."""
