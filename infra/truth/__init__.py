"""Comparison of the local Data API with PostgREST, by the same requests."""
