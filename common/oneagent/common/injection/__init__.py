"""The contract of webhook, driver, init container and operator."""
