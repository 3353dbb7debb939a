"""Small programs that stand next to the driver: registrar and livenessprobe."""
