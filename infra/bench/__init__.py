"""Measurements of the engine and of other queues.

No test asserts the results of the measurements.
"""
