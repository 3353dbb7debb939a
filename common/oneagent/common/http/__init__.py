"""HTTP clients and servers, their errors, and downloads."""
