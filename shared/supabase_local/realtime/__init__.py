"""A local server that replaces Supabase Realtime: `python -m supabase_local.realtime`."""
