"""The stages in the paper's order, and what each is for: the one list of them, each the file here of that name.

It loads nothing, so that `toss --help` waits for nothing that a stage needs.
"""

from __future__ import annotations

PURPOSES = {
    "data": "Read and tokenise the three sets.",
    # two LoRA adapters from the aligned base
    "references": "Train the degraded and the utility reference.",
    # S = loss_utility - loss_degraded
    "score": "Score every response token of the custom set.",
    "refine": "TOSS-Pro: refine the degraded reference, and score again.",
    "select": "Choose the tokens to leave out.",
    "finetune": "Fine-tune the base on the tokens kept.",
    "evaluate": "Measure safety and utility of base and fine-tuned model.",
    "diagnose": "Measure where safety goes: position by position, and by which cause.",
    "report": "Write the report: one HTML file, for any browser, without network.",
}
"""By the stage's name, which is its command."""
