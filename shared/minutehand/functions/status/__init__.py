"""The routes that read jobs, logs, events (also as a stream), explanations and statistics."""
