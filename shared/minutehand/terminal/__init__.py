"""What a verb in a terminal is made of: options, a connection, output, live events.

For the command's own verbs and for those of apps.
"""
