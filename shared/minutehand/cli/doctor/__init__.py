"""`minutehand doctor`, which finds misconfiguration and prints a fix for each problem."""
