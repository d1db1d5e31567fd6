"""Exports read back with their consumers' own code: ``make consumers``."""
