"""The version of this distribution. minutehand requires exactly this version."""

VERSION = "0.1.0"
