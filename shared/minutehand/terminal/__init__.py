"""Building blocks of a verb: options, a connection, output, live events.

For the command's own verbs and for those of apps.
"""
