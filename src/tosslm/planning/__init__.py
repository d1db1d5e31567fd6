"""What a run will take: how much work each stage is, and how long a unit of it lasts here."""
