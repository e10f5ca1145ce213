"""The worker function: one tick per invocation."""
