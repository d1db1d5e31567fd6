"""docs/anchor.md, from the result files of the sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from studies.anchor.data import ROWS
from studies.provenance import check_bases
from studies.whole import write_whole

from tosslm.statistics import Interval, mean_interval, paired_difference

_HEAD = """# What an anchor keeps, and what it costs

Written by `python -m studies.anchor.sweep`; the settings stand in `studies/anchor/`.
SmolLM2-135M-Instruct with the demo's safety adapter is fine-tuned on {custom} rows, a quarter of them harmful:
first answers of HH's rejected dialogues that do not refuse. The others are AlpacaEval's and GSM8K's.
Selection is by posterior evidence at d = 0.2; one seed. Weights are of the mean over anchored tokens
(`finetune.anchor_normalize: anchored`).

Refusals: share of AdvBench goals refused ({advbench} prompts). Over-refusal: share of XSTest's safe prompts refused
({xstest}). Losses are nats a token on held-out rows. Brackets hold 95% intervals, by bootstrap over prompts or rows.
This is a validation split: the defaults of `finetune.anchor_first` and `finetune.anchor_weight` were first set from
it; since then the study at equal utility ([results](results.md)) has set others.

Anchored are the dropped tokens and, by the row's name, the first tokens of each answer, or the share of all response
tokens at which KL(base || degraded reference) is largest. Choosing by that distance was to beat a fixed number of
first tokens to become an option; it did not, so it is none.

| fine-tuning | refusals | over-refusal | loss of held-out utility rows | of it, share of SFT's gain kept \
| loss of held-out harmful answers, less the base's |
|---|---|---|---|---|---|
"""


_COST = """
## Time and memory

[What an anchor costs](performance.md#what-an-anchor-costs) is measured by `python -m benchmarks.anchor`.
"""


def write_page(results: Path, page: Path) -> None:
    """Write the table of all variants that have been measured."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in results.glob("*.json")]
    by_name = {result["name"]: result for result in found}
    check_bases({name: {result.get("seed", 0): result} for name, result in by_name.items()})
    base, sft = by_name["base"], by_name.get("standard SFT")
    head = _HEAD.format(
        advbench=len(base["advbench"]), xstest=len(base["xstest"]), custom=sum(ROWS["custom"].values())
    )
    lines = [_line(name, by_name[name], base, sft) for name in _ordered(by_name)]
    write_whole(page, head + "\n".join(lines) + "\n" + _COST)


def _ordered(names: Any) -> list[str]:
    first = ["base", "standard SFT", "selection"]
    return [name for name in first if name in names] + sorted(
        (name for name in names if name not in first), key=lambda name: [_number(part) for part in name.split()]
    )


def _number(part: str) -> tuple[float, str]:
    text = part.strip(",")
    return (float(text), "") if text.replace(".", "").isdigit() else (-1.0, text)


def _line(name: str, result: dict[str, Any], base: dict[str, Any], sft: dict[str, Any] | None) -> str:
    refusals, over = (_share(mean_interval(_refused(result[prompts]))) for prompts in ("advbench", "xstest"))
    means, tokens = _means(result, "utility_loss")
    utility = _nats(mean_interval(means, tokens))
    harm_means, harm_tokens = _means(result, "harmful_loss")
    harm = (
        "" if name == "base" else _nats(paired_difference(harm_means, _means(base, "harmful_loss")[0], harm_tokens))
    )
    kept = ""
    if sft is not None and name not in ("base", "standard SFT"):
        before, after = (_total(other, "utility_loss") for other in (base, sft))
        kept = f"{(before - _total(result, 'utility_loss')) / (before - after):.0%}"
    return f"| {name} | {refusals} | {over} | {utility} | {kept} | {harm} |"


def _refused(verdicts: list[str]) -> np.ndarray:
    return np.array([float(verdict == "refusal") for verdict in verdicts])


def _means(result: dict[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    sums, tokens = (np.array(result[name][key], dtype=np.float64) for key in ("sums", "tokens"))
    return sums / tokens, tokens


def _total(result: dict[str, Any], name: str) -> float:
    return sum(result[name]["sums"]) / sum(result[name]["tokens"])


def _share(interval: Interval) -> str:
    return f"{interval.value:.0%} [{interval.low:.0%}, {interval.high:.0%}]"


def _nats(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
