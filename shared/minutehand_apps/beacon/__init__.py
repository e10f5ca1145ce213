"""Beacon app, which runs benchmark questions in several regions and signs a receipt of each run."""
