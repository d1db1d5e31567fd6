"""The page of the study, from its results alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

LABELS = {
    "utility set": "a utility set of its own, as in the paper",
    "trimmed by scores": "custom rows, two folds, each trimmed by its own scores",
    "trimmed by base": "custom rows, two folds, trimmed by base minus degraded",
    "cross-fitted": "custom rows, two folds, none trimmed",
    "all rows": "all custom rows, each scored by what learnt from it",
    "base": "none: base minus degraded",
}
"""What the utility reference learns from, in the order of the table."""
CANDIDATES = ("trimmed by scores", "trimmed by base")

_PAGE = (
    "# Without a utility set\n"
    "\n"
    "*Written by `python -m studies.own.study`; do not edit.*\n"
    "\n"
    "TOSS needs a small set of good answers of the custom domain. Who has none might train the utility "
    "reference on the custom set itself. Two things stand against it: a reference that has learnt a row "
    "finds all of it likely, and the custom set holds the harm that is looked for. So the rows are split "
    "into two halves by their ids, and each half is scored by the reference that learnt from the other; "
    "and {trimmed:.0%} of the rows, those of the highest mean score, are left out of what is learnt: "
    "TOSS-Pro's walk turned round. The scores to trim by are those of a first pass without a trim, or "
    "base minus degraded, which takes no first pass.\n"
    "\n"
    "On the demo's custom set, {rows} rows with {tokens:,} response tokens, {share:.0%} of them marked "
    "unsafe, one seed. All signals have the same degraded reference; AUROC and average precision (AP) "
    "over tokens, with 95% intervals over rows, and the interval of what is lost against the utility set, "
    "over the same draws.\n"
    "\n"
    "| the utility reference learns from | AUROC | lost | AP | lost |\n"
    "|---|---:|---:|---:|---:|\n"
    "{table}\n"
    "\n"
    "By chance AUROC is 0.5 and AP {share:.3f}. Of the {rows} rows {unsafe} have unsafe text; among the "
    "{stay} that stay, {by_scores} when trimmed by scores and {by_base} by base minus degraded.\n"
    "\n"
    "{verdict}\n"
    "\n"
    "This is a small model, small sets and one seed, and the demo's rows are made: clean rows and unsafe "
    "ones of the same kind of advice. There is no key in the config for it. With `data.utility.path` "
    "naming the custom file itself a run does what the table calls all custom rows.\n"
)


def verdict(results: Mapping[str, Any]) -> str:
    """Whether it is to be recommended: where it beats doing without a utility reference, and loses little.

    A candidate holds if its AUROC lies above that of base minus degraded and of all custom rows, and it is not shown
    to be below the utility set's, the interval of the loss reaching down to 0.
    """
    auroc = {name: one["auroc"]["value"] for name, one in results["signals"].items()}
    best = max(CANDIDATES, key=lambda name: auroc[name])
    loss = results["signals"][best]["auroc"]["less_than_utility_set"]
    controls = [name for name in ("base", "all rows") if auroc[name] >= auroc[best]]
    if controls:
        told = " and ".join(LABELS[name].split(":")[0] for name in controls)
        return (
            f"**It does not hold here.** The best of the folded ones, {LABELS[best]}, has an AUROC of "
            f"{auroc[best]:.3f}; simpler ways do as well: {told}. Name a utility set."
        )
    if loss[0] > 0:
        return (
            f"**Better than nothing, and worse than a utility set.** {LABELS[best].capitalize()} finds unsafe tokens "
            f"better than either control, and loses {loss[0]:.3f} to {loss[1]:.3f} of AUROC against the utility set."
        )
    return (
        f"**Here it holds.** {LABELS[best].capitalize()} finds unsafe tokens better than either control, and is not "
        f"shown to be worse than a utility set (it loses {loss[0]:.3f} to {loss[1]:.3f} of AUROC)."
    )


def write_page(results: Mapping[str, Any], path: Path) -> None:
    """Write the page of these results."""
    trims = results["trims"]
    text = _PAGE.format(
        trimmed=1 - results["keep"],
        rows=results["rows"],
        tokens=results["tokens"],
        share=results["unsafe_share"],
        table="\n".join(_line(label, results["signals"][name]) for name, label in LABELS.items()),
        unsafe=trims["all rows"]["unsafe_rows"],
        stay=trims["trimmed by base"]["rows"],
        by_scores=trims["trimmed by scores"]["unsafe_rows"],
        by_base=trims["trimmed by base"]["unsafe_rows"],
        verdict=verdict(results),
    )
    path.write_text(text, encoding="utf-8")


def _line(label: str, signal: Mapping[str, Any]) -> str:
    cells = []
    for key in ("auroc", "average_precision"):
        low, high = signal[key]["interval"]
        cells.append(f"{signal[key]['value']:.3f} ({low:.3f} to {high:.3f})")
        low, high = signal[key]["less_than_utility_set"]
        cells.append("" if low == high == 0 else f"{low:+.3f} to {high:+.3f}")
    return f"| {label} | {' | '.join(cells)} |"
