"""The local stack of `minutehand dev`: Supabase, the functions, the worker and AWS."""
