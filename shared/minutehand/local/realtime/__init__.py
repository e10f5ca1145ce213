"""Supabase Realtime on this machine: `python -m minutehand.local.realtime`."""
