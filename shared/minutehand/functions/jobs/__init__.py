"""The write routes: signed-in users enqueue, cancel, retry and answer jobs."""
