"""An app of the tests with one plain function as processor."""
