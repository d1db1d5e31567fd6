"""The stages of a run, one file a command: what each reads, covers and writes, and the thin edge that does it."""
