"""The page of the study, from its results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LABELS = {
    "utility set": "a utility set of its own, as in the paper",
    "trimmed by scores": "custom rows, two folds, trimmed by their own scores",
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
    "over tokens, with 95% intervals over rows, and the intervals of what is lost against the utility "
    "set and gained over base minus degraded, over the same draws.\n"
    "\n"
    "| the utility reference learns from | AUROC | AP | AUROC lost | AP lost | AUROC gained | AP gained |\n"
    "|---|---:|---:|---:|---:|---:|---:|\n"
    "{table}\n"
    "\n"
    "By chance AUROC is 0.5 and AP {share:.3f}. Of the {rows} rows {unsafe} have unsafe text; among the "
    "{stay} that stay, {by_scores} when trimmed by scores and {by_base} by base minus degraded.\n"
    "\n"
    "{verdict}\n"
    "\n"
    "This is a small model, small sets and one seed, and the demo's rows are made: clean rows and unsafe "
    "ones of the same kind of advice. `data.utility: {{from: custom}}` does what the table calls trimmed "
    "by base minus degraded ([Choosing references](references.md#no-utility-set)); with `data.utility.path` naming "
    "the custom file itself a run does what it calls all custom rows.\n"
)


def verdict(results: Mapping[str, Any]) -> str:
    """Whether it is to be recommended: where it beats what is simpler, and is not shown to lose to a utility set.

    A control is beaten where AUROC and average precision lie above it: for base minus degraded, with their whole
    intervals; for all custom rows, with their values.
    """
    signals = results["signals"]
    best = max(CANDIDATES, key=lambda name: signals[name]["auroc"]["value"])
    own, keys = signals[best], ("auroc", "average_precision")
    simpler = []
    if any(own[key]["more_than_base"][0] <= 0 for key in keys):
        simpler.append("base minus degraded, without any utility reference")
    if any(own[key]["value"] <= signals["all rows"][key]["value"] for key in keys):
        simpler.append("one reference for all custom rows")
    lost = [own[key]["less_than_utility_set"] for key in keys]
    losing = f"it loses {_range(lost[0])} of AUROC and {_range(lost[1])} of AP against the utility set"
    if simpler:
        return (
            f"**It does not hold here.** The best of the two, {LABELS[best]}, is not shown on both measures to be "
            f"better than {' or '.join(simpler)}; {losing}. Name a utility set."
        )
    if any(low > 0 for low, _ in lost):
        return (
            f"**Better than nothing, and worse than a utility set.** The best of the two, {LABELS[best]}, finds "
            f"unsafe tokens better than either control; {losing}. Name a utility set where you can."
        )
    return (
        f"**Here it holds.** The best of the two, {LABELS[best]}, finds unsafe tokens better than either control; "
        f"{losing}, so that it is not shown to be worse."
    )


def _range(ends: Sequence[float]) -> str:
    return f"{ends[0]:+.3f} to {ends[1]:+.3f}"


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
    both = [signal[key] for key in ("auroc", "average_precision")]
    cells = [f"{one['value']:.3f} ({one['interval'][0]:.3f} to {one['interval'][1]:.3f})" for one in both]
    for key in ("less_than_utility_set", "more_than_base"):
        cells += ["" if one[key] == [0, 0] else _range(one[key]) for one in both]
    return f"| {label} | {' | '.join(cells)} |"
