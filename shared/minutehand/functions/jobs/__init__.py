"""Writes: jobs enqueued, cancelled, retried, answered and redriven by signed-in users."""
