"""Foreign intelligence behind small protocols: a language model, online and offline.

Import from the modules themselves: a function that asks no model should not load one.
"""
