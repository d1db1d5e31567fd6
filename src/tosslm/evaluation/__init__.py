"""Evaluation: answers of a model, and what they say of its safety and its use."""
