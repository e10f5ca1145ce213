"""Foreign intelligence behind small protocols: language models, speech to text.

Import from the modules themselves: a function that asks no model should not load one.
"""
