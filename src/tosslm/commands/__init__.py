"""The commands, one per stage; no logic."""
