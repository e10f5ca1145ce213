"""Beacon app. Runs benchmark specs in several regions and signs a receipt of each execution."""
