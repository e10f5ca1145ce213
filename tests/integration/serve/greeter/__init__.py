"""An app for tests. Only the served process knows its job types."""
