"""The documentation's site: the pages, an index by question, and the reference."""
