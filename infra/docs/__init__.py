"""The documentation's site, with all pages, an index by question, and the reference."""
