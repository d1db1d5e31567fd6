"""Diagnosis: where in an answer safety goes, what of it selection left out, and which cause weighs more."""
