"""The built-in model, bases, and adapters."""
