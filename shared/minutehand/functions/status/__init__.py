"""The read routes: jobs, their logs and events (also as a stream), explanations, statistics."""
