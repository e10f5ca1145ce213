"""Liveness of the process, and readiness of what it depends on."""
