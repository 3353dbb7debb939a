"""What every client of an API server shares."""
