"""What lies in a run folder, and reading it; imports neither torch nor transformers."""
