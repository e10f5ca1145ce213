"""Reads: jobs, their logs and events (also as a stream), explanations and statistics."""
