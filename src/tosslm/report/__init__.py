"""The report: one HTML file that shows what the data would have done to the model, and what was left out and why."""
