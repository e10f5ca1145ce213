"""An app of one job type, whose stages and whose one mistake leave lines in a file."""
