"""An app of the tests with one coroutine processor."""
