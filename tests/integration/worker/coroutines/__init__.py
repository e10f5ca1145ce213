"""An app for tests with one coroutine as its processor."""
