"""Plans app.

Plans a goal in stages, streams the text, and always has a report, if only a partial one.
"""
