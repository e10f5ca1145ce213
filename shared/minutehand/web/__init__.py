"""FastAPI building blocks: app factory, callers, error bodies, idempotency, SSE.

Import the modules by name; this file imports nothing, so that a handler pays only for what it uses.
"""
