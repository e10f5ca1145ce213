"""Writes: jobs enqueued, cancelled, retried and answered by signed-in users."""
