"""Planted defects: whether the tests named for a rule notice that it is broken."""
