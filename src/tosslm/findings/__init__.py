"""The sentences and numbers that page and terminal both tell, as plain text."""
