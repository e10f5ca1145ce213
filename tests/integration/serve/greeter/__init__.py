"""An app of the tests: its job types are known to the served process alone."""
