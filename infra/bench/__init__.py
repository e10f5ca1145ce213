"""Measurements of the engine beside other queues, of live updates and of age; no test asserts."""
