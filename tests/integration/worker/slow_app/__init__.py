"""An app of one job type that runs until a test lets it end."""
