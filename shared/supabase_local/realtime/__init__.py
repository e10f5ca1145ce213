"""A local server for Supabase Realtime: `python -m supabase_local.realtime`."""
