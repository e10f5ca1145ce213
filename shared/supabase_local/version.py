"""The version of the distribution, which minutehand pins."""

VERSION = "0.1.0"
