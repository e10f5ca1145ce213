"""The typed client of the queue's SQL functions, over the Data API or a connection to Postgres."""
