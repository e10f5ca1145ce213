"""An app for tests with a coroutine and a plain function as its processors."""
