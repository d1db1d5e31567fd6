"""docs/spans.md, from the result files of the spans study."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from studies.provenance import check_bases
from studies.spans import own, without
from studies.spans.gate import told
from studies.spans.part import kept
from studies.spans.settings import CORPORA, ROOT, SEEDS
from studies.whole import write_whole

from tosslm.statistics import Interval, mean_interval, resampled_interval

TOKEN, POSTERIOR = "token score", "posterior"
_HEAD = """# Do scores find unsafe tokens?

Written by `python -m studies.spans.study`; what it runs stands in `studies/spans/`.

TOSS drops tokens, so its scores should find unsafe *tokens*. This page puts that to the test on text whose unsafe
spans are known, with SmolLM2-135M-Instruct as the base:

- **Toxic Spans**: posts in which people marked what is toxic (SemEval-2021 Task 5; Pavlopoulos et al. 2021,
  doi:10.18653/v1/2021.semeval-1.6). The references are trained on single sentences, of which they know only whether
  one holds a marked span.
- **Spliced**: AlpacaEval answers, into half of which one or two sentences are spliced at sentence bounds; the
  sentences are from answers of HH's rejected dialogues that do not refuse.
- **Demo**: the project's own demo, with its round of TOSS-Pro.

Signals: the token score; its mean over a window of tokens (`selection.evidence: window`); the posterior log-odds of
unsafe (`selection.evidence: posterior`), learnt as a run learns them, without any mark; and the single losses that
scores are made of. For each loss the direction was fixed beforehand. Average precision (AP) says how clean the top of
a ranking is, and the top is what selection drops. All is over {seeds} seeds, which choose the reference rows (of the
demo, the order of training). Brackets hold 95% intervals, by bootstrap over rows and seeds; those of a difference are
paired.

What a run learns, it learns without marks. But the quantiles of the histograms and the start of EM, the same for all
runs, were settled with the marks of one seed of Toxic Spans and of the demo in sight; those of the spliced set were
not looked at.

For single words some twenty kinds of evidence were tried (`studies/spans/candidates.py`; the table is in the lab
book, `studies/LOG.md`): a state of the row above the chain, mixtures of short and long runs, words in the place of
tokens, powers of the evidence. Freer chains are worse there; evidence of whole words with a quarter of the context's
was above the token score on all three sets with one seed, and below the posterior by 0.06 and 0.10 where harm comes
in sentences. It was the best of many on that one seed and was not confirmed on others, so none of them is an option.
"""


def write_page(page: Path, root: Path = ROOT) -> None:
    """Write the page from the runs that are done.

    Args:
        page: the file.
        root: where the runs lie.
    """
    parts = [_HEAD.format(seeds=len(SEEDS))]
    for name, corpus in CORPORA.items():
        runs = [root / name / f"seed-{seed}" for seed in SEEDS if (root / name / f"seed-{seed}/quality.npz").exists()]
        if runs:
            facts = [json.loads((run / "facts.json").read_text(encoding="utf-8")) for run in runs]
            check_bases({name: dict(enumerate(facts))})
            curves = [dict(np.load(run / "quality.npz", allow_pickle=False)) for run in runs]
            parts.append(_section(corpus.title, facts, curves, told(name)))
            parts.append(_why(runs, facts, curves))
    if results := kept(without.RESULTS):
        parts.append(without.section(results))
    if found := kept(own.RESULTS):
        parts.append(own.section(found))
    write_whole(page, "\n".join(parts))


def _section(title: str, facts: list[dict[str, Any]], curves: list[dict[str, np.ndarray]], anew: str | None) -> str:
    first = facts[0]
    lines = [
        f"## {title}",
        "",
        f"{first['rows']:,} rows, {first['tokens']:,} response tokens, {first['unsafe_share']:.1%} of them marked; "
        f"{len(facts)} seeds.",
        "",
        "| signal | AUROC | AP | AP less that of the token score |",
        "|---|---|---|---|",
    ]
    for signal in curves[0]:
        auroc, precision = (resampled_interval(_stack(curves, signal, measure), first["rows"]) for measure in (0, 1))
        change = _change(first["rows"], curves, signal)
        difference = "" if signal == TOKEN else _figure(change, sign=True)
        lines.append(f"| {signal} | {_figure(auroc)} | {_figure(precision)} | {difference} |")
    lines += ["", _verdict(_change(first["rows"], curves, POSTERIOR)), "", _learnt(facts, anew), ""]
    if first["task"]:
        lines += _task([run["task"] for run in facts])
    return "\n".join(lines)


def _stack(curves: list[dict[str, np.ndarray]], signal: str, measure: int) -> np.ndarray:
    return np.stack([run[signal][measure] for run in curves])


def _change(rows: int, curves: list[dict[str, np.ndarray]], signal: str) -> Interval:
    """How much higher a signal's average precision is than the token score's."""
    return resampled_interval(_stack(curves, signal, 1) - _stack(curves, TOKEN, 1), rows)


def _verdict(change: Interval) -> str:
    if change.low > 0:
        return "Posterior evidence beats token evidence here: the interval of the difference in AP is above zero."
    if change.high < 0:
        return "Posterior evidence is worse than token evidence here, by AP."
    return "By AP, posterior and token evidence cannot be told apart here: the interval holds zero."


def _learnt(facts: list[dict[str, Any]], anew: str | None) -> str:
    spans = facts[0]["mean_span"]
    lines = [
        f"A marked span has {spans:.1f} tokens on average. What was learnt of it without marks:",
        "",
        "| seed | enter | leave | unsafe share | mean length of an unsafe run | gain on held-out rows, nats |",
        "|---|---|---|---|---|---|",
    ]
    for seed, run in enumerate(facts):
        found = run["evidence"]
        lines.append(
            f"| {seed} | {found['enter']:.3f} | {found['leave']:.3f} | {found['unsafe_share']:.1%} | "
            f"{1 / found['leave']:.1f} | {found['held_out']['gain']:.0f} |"
        )
    return "\n".join([*lines, "", _tested([run["evidence"]["held_out"] for run in facts], anew)])


def _tested(held_out: list[dict[str, Any]], anew: str | None) -> str:
    """Whether chance explains the gains; by references trained anew, where these runs were put to an earlier gate."""
    if not all("chance" in one for one in held_out):
        unknown = (
            "What permuted labels of these held-out rows gain ([the gate](method.md#evidence-in-context) of today) "
            "was not measured."
        )
        return (
            "These runs passed an earlier gate, a fixed bound of 15 nats for independent tokens. Scores of one row "
            f"go together, and chance can pass that bound. {anew or unknown}"
        )
    values = ", ".join(f"{one['chance']['p']:.3f}" for one in held_out)
    return f"With permuted labels of the held-out rows gains are as large with p = {values}, seed by seed."


def _why(runs: list[Path], facts: list[dict[str, Any]], curves: list[dict[str, np.ndarray]]) -> str:
    """Average precision along the length of unsafe runs, against the length that was learnt."""
    found = [json.loads((run / "run_lengths.json").read_text(encoding="utf-8")) for run in runs]
    learnt = [1 / run["evidence"]["leave"] for run in facts]
    token = np.mean([run[TOKEN][1][0] for run in curves])
    lengths = list(found[0])
    means = {n: float(np.mean([run[n] for run in found])) for n in lengths}
    best = max(lengths, key=lambda n: means[n])
    lines = [
        f"**Why.** Unsafe runs were learnt to be {min(learnt):.1f} to {max(learnt):.1f} tokens long; marked spans "
        f"have {facts[0]['mean_span']:.1f}. With other run lengths, at the same unsafe share, AP would have been as "
        f"in the table, best at {best} tokens ({means[best]:.3f}, against {token:.3f} of the token score). None of "
        "them could be chosen without the marks."
        + (f" {_TOO_LONG}" if means[best] > token > _posterior(curves) else ""),
        "",
        "| mean length of an unsafe run, tokens | " + " | ".join(lengths) + " |",
        "|---" * (len(lengths) + 1) + "|",
        "| AP, mean over seeds | " + " | ".join(f"{means[n]:.3f}" for n in lengths) + " |",
        "",
    ]
    return "\n".join(lines)


def _posterior(curves: list[dict[str, np.ndarray]]) -> float:
    return float(np.mean([run[POSTERIOR][1][0] for run in curves]))


_TOO_LONG = (
    "So the chain itself does help here, but learning makes its runs too long: what the references find likely in "
    "sentences that hold a marked word is more than that word, and people marked the word alone. Where harm is in "
    "single words, rank tokens."
)


def _task(runs: list[Mapping[str, list[float]]]) -> list[str]:
    lines = [
        "### The task's own measure",
        "",
        f"Mean F1 over the characters of each of the {len(runs[0][TOKEN]):,} test posts at hand (1 where both marks "
        "and prediction are empty, 0 where one is). A word is predicted when one of its tokens is above a threshold, "
        "chosen on 300 training posts. The lexicon knows the marks of all other training posts, and so does the "
        "published winner, which had 0.708 on all 2,000 test posts (Zhu et al. 2021, HITSZ-HLT, "
        "doi:10.18653/v1/2021.semeval-1.63); the references know sentences' labels only.",
        "",
        "| signal | F1 |",
        "|---|---|",
    ]
    for signal in runs[0]:
        lines.append(f"| {signal} | {_figure(mean_interval(np.array([run[signal] for run in runs])))} |")
    return [*lines, ""]


def _figure(found: Interval, *, sign: bool = False) -> str:
    form = "+.3f" if sign else ".3f"
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"
