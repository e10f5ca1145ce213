"""Enrichment: workspaces complete their accounts and contacts through their own Apollo key."""
