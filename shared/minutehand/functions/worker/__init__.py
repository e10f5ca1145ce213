"""The worker function, which runs one tick per invocation."""
