"""The Dynatrace tenant: its API, and when to poll it."""
