"""Our own Realtime server: the one part of Supabase that no one packages without Docker.

It speaks the protocol of hosted Supabase Realtime to the unmodified official clients and reads
Postgres by streaming logical replication. Start it with `python -m minutehand.local.realtime`.
"""
