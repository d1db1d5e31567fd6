"""Rows as users have them, and rows as tokens."""
