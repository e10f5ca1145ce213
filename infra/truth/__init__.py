"""Holds the local Data API against PostgREST: the same requests, and what may differ."""
