"""The model side: the base and its adapters, the head, the loss of every response token."""
