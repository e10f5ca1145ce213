"""The local stack: Postgres, Data API, Auth, Realtime, AWS and the functions, under one launcher."""
