"""What a trainer would learn from a set of tokens that somebody has prepared: counts, findings, rows to look at."""
