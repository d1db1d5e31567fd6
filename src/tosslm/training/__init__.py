"""The one training path: rows to labels, the trainer, a trained adapter."""
