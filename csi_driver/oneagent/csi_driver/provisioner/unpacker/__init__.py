"""Unpacks packages in a child process without rights: whatever a package does to its parser, it does it there."""
