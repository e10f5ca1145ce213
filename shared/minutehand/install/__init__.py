"""Installs the engine into a Supabase project, upgrades it, and removes it."""
