"""Compares the local Data API with PostgREST, by sending the same requests to both."""
