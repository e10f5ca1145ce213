"""Plans app.

The app plans a goal in stages and streams the text. There is always a report, even if it is
partial.
"""
