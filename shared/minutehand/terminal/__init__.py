"""Building blocks of verbs, the command's own and those of apps."""
