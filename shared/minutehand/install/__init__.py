"""Puts the engine into somebody's Supabase project, keeps it up to date, and takes it out again."""
