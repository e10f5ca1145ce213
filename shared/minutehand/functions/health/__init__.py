"""Whether the process lives, and whether what it stands on does."""
