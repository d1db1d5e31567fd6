"""What the commands print: tables, and rows in colour."""
