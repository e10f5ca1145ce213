"""The local stack of `minutehand dev`, with Supabase, the functions, the worker and AWS."""
