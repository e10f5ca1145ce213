"""Beacon: benchmark specs measured in several regions, with a signed receipt for each."""
