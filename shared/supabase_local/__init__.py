"""A local Supabase without Docker: Postgres, the Data API, Auth and Realtime."""
