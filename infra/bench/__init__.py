"""Measurements of the engine and of other queues. No test asserts their results."""
