"""Measurements of the worker over HTTP: pick-up, drain, ticks, chaos. Never asserted by tests."""
