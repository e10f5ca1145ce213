"""Measurements of the engine and of other queues; no test asserts their results."""
