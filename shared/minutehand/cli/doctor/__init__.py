"""`minutehand doctor`: what is misconfigured, and the one line that fixes it."""
