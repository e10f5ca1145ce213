"""The local stack: Postgres, Data API, Auth, Realtime, AWS and functions, under one launcher."""
