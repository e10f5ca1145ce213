"""Enrichment app, which completes a workspace's accounts and contacts with its own Apollo key."""
