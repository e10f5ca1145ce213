"""The version of the distribution, which the one of minutehand pins."""

VERSION = "0.1.0"
