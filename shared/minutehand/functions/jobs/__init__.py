"""The write routes, by which signed-in users enqueue, cancel, retry and answer jobs."""
