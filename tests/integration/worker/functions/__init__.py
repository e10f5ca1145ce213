"""An app for tests with one plain function as its processor."""
