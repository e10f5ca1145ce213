"""The typed client of the queue's SQL functions, and the only package that knows the Data API."""
