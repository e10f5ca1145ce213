"""The local stack of `minutehand dev`: a local Supabase with the functions, the worker and AWS."""
