"""An app of the tests: one coroutine processor."""
