"""Beacon: benchmark specs measured in several regions, with a signed, chained receipt for each."""
