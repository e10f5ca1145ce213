"""An app of the tests: one plain function as processor."""
