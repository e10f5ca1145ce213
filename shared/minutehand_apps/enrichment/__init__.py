"""Enrichment app. Completes the accounts and contacts of a workspace with its own Apollo key."""
