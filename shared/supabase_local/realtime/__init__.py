"""Supabase Realtime on this machine: `python -m supabase_local.realtime`."""
