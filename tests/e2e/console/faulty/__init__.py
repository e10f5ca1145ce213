"""An app of the tests whose processors go wrong, each in one of the ways that processors do."""
