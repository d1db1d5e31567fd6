"""What a method does in a training that rows with labels do not say, in sentences."""

from __future__ import annotations

from tosslm.methods.method import Method


def undone(method: Method) -> list[str]:
    """What a method does in training beside choosing and weighing tokens."""
    found = []
    if method.hold:
        found.append(
            f"{method.name} holds the run's model to the base by what a weight lacks to 1; here nothing holds it."
        )
    others = {
        "mixes in rows of its own": method.extra_rows,
        "changes the loss of a token": method.token_loss,
        "does something around each training step": method.step,
        "changes the trained weights": method.after,
    }
    if doing := [text for text, hook in others.items() if hook]:
        found.append(f"{method.name} {' and '.join(doing)}; no trainer reads that from data.")
    return found
