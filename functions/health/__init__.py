"""Liveness of the process, and readiness of its dependencies."""
