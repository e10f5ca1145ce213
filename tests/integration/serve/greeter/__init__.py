"""An app of the tests, whose job types only the served process knows."""
