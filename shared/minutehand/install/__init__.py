"""Puts the engine into someone's Supabase project, keeps it up to date, and takes it out again."""
