"""The metadata DB: what was asked for, and how often it failed."""
