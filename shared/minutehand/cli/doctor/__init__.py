"""`minutehand doctor`: finds misconfiguration and prints a line that fixes each problem."""
