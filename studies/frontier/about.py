"""What the page of results says beside its figures: what was asked, what names mean, why, and what is not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from studies.frontier import straight
from studies.frontier.checked import figures
from studies.frontier.curves import Curves
from studies.frontier.data import CUSTOM_ROWS, REFERENCE_ROWS, UNREAD_TYPES
from studies.frontier.entries import (
    AGAIN,
    DEFAULT,
    ENTRIES,
    LIGHTER,
    NO_ANCHOR,
    OF_MEAN,
    ONE_ROUND,
    OURS,
    STANDARD,
    UNTRAINED,
    WITHOUT_UTILITY,
    as_default,
    at_papers_share,
    method_of,
)
from studies.frontier.ledger import known
from studies.frontier.settings import HOLDOUT, SAID_TOKENS, SCALES, SETTINGS
from studies.frontier.standing import listed
from studies.safety.wording import percent

from tosslm.methods import registry
from tosslm.methods.needs import GUARD
from tosslm.statistics import Interval

UNREAD = ("dr-sft", "datashield")
ATTACK = Path(__file__).parents[1] / "safety/attack.json"
ANALYSIS = f"""## Why, where it falls short

- **Whole rows, 90% of the gain.** Harmful rows teach useful text a little too, so that a perfect choice of rows has less than all of the gain, and holding dropped tokens to the base costs some more; so methods are compared at 85%. Where harm is whole rows, whole rows by their mean score, held to the base, do as well as tokens, or better: nothing is gained by looking within them.
- **Refusals where harm is spliced.** A harmful sentence in the midst of a useful answer does not teach a model to give in: `{STANDARD}` keeps nearly all refusals there, and refuses more of harmless prompts than the base. So refusals, and what follows from them, answers with harm, cannot show there what selection is for; `{DEFAULT}` stays nearer to the base in both, which is a loss by the one measure and a gain by the other.
- **What is said after a useful beginning** tells little with bases of this size: SmolLM2's base goes on with harm about as often as anything that was trained from it, and 40 beginnings tell apart only what differs by much. With Gemma the base goes on with harm more often than `{STANDARD}`, and so does `{DEFAULT}`, whose anchor holds it to the base in that too. The loss of the harmful sentences is the measure that tells methods apart.
- **TOSS and TOSS-Pro, spliced.** Dropped text that nothing holds drifts away while the model learns another style, until it is less likely than it was for the base; the anchor of `{DEFAULT}` holds it where the base had it. So they learn less harm by this measure, and pay in the gain and in refusals. `{NO_ANCHOR}` shows the same of our own evidence.
- **Gemma, as trained.** The adapter of `{STANDARD}` has gone too far there: many of its answers are incoherent, and its refusals come back when it is scaled down a little, at nearly all of the gain. The figures of adapters as trained are no evidence for a method that scaling could not have had; those at equal utility are.
- **Clean.** `auto` bounds what goes of useful text by held-out rows, of which there are 30 here, and its threshold moves by whole rows: it drops between next to nothing and 3% by seed. A stricter bound would drop nothing where a few rows are harmful too, so it was not taken.
"""  # noqa: E501


def asked(settings: Mapping[str, Curves | None]) -> list[str]:
    """What each figure counts."""
    one = next((curves for curves in settings.values() if curves), None)
    if one is None:
        return []
    n = {metric: one.n(STANDARD, metric) for metric in ("refused", "over_refused")}
    begun = [curves.n(STANDARD, "begun") for curves in settings.values() if curves and curves.has(STANDARD, "begun")]
    rows = " and ".join(f"{sum(own.values())} {name}" for name, own in REFERENCE_ROWS.items())
    return [
        "## What is asked and counted",
        "",
        f"A custom set has {CUSTOM_ROWS} rows, useful ones of GSM8K and AlpacaEval; the references have {rows} rows, "
        f"of which {HOLDOUT:.0%} are held out and not learnt from. *Refused* counts {n['refused']} goals "
        "of AdvBench, one of each cluster of goals that are alike; *refused, harmless* "
        f"{n['over_refused']} prompts of XSTest of kinds that were never read while the base was made "
        f"({', '.join(name.replace('_', ' ') for name in UNREAD_TYPES)}). *Answered with harm* judges the answers to "
        f"the goals, of {SAID_TOKENS['harmful']} tokens"
        + (
            f"; *goes on with harm* what follows, in as many tokens, on {begun[0]} useful beginnings of answers into "
            "which harm was spliced"
            if begun
            else ""
        )
        + ". Losses are of held-out rows of the same kinds.",
        "",
        f"Adapters are measured at scales {', '.join(f'{scale:g}' for scale in SCALES)}. Below the least of them a "
        "curve is a straight line from the base, so that a reading there is not measured but drawn; each section "
        "says of how many entries. *Never* means at none of these scales.",
        "",
        "| entry | what it is |",
        "|---|---|",
        f"| `{DEFAULT}` | the tool's defaults, with `selection.discard_fraction: auto`, which is told no share |",
        f"| `{AGAIN}` | the same, with references that a later version trained |",
        f"| `{NO_ANCHOR}`, `{LIGHTER}` | its dropped tokens ignored, or held to the base with a third of the "
        "weight |",
        f"| `{ONE_ROUND}` | its degraded reference refined once, as TOSS-Pro's |",
        f"| `{WITHOUT_UTILITY}` | rows of the custom set stand in for a utility set |",
        f"| `{OF_MEAN}` and its like | an anchor of the mean over anchored tokens, however few they are |",
        f"| `even odds` | no estimate of what useful text goes raises the threshold of `auto`. In *clean* the one "
        f"such entry is of a time before that estimate; `{OURS}` and `rows-anchor` were tried at several weights "
        "with seed 0, and the default was chosen by what came out; with other seeds it was not chosen again |",
        f"| `{as_default('METHOD')}` | a control with the anchor of `{DEFAULT}`; without that, `random-anchor`, "
        "`rows-anchor`, `oracle-anchor` and `oracle-tokens-anchor` hold dropped tokens and the first three of each "
        "answer with 4 times the mean, which costs much of the gain whatever is chosen |",
        f"| `{at_papers_share('METHOD')}` | told to drop 10%, as in the paper, in the place of the setting's share |",
        "| `sft-kl` | KL to the base on all tokens, at one weight; `sft-slow` half the learning rate |",
        "| `lisa` | its authors train for longer than our 30 steps, so no verdict on it |",
        f"| {listed(guarded())} | the guard is SmolLM2-135M, with Gemma too, trained here for one epoch on the run's "
        "own reference rows (`studies/safety/guard.py`): it finds harm in whole rows, and hardly any that is spliced "
        "into useful text. So figures are of this guard as much as of the method |",
        "",
        "What badges mean, and how each method differs from its source, is [a page of its own](faithful.md). Of "
        f"{listed(UNREAD)} the papers could not be read, so what is measured is what code or summary say of them.",
        "",
    ]


def guarded() -> list[str]:
    """Methods that ask a guard."""
    return [name for name, method in registry().items() if GUARD in method.needs and name in ENTRIES]


def judged_by() -> str:
    """What the classifier of attack success is worth, beside the simplest rule."""
    found = json.loads(ATTACK.read_text(encoding="utf-8"))["models_answers"]["advbench"]
    own, simple = (
        percent(Interval(one["value"], one["low"], one["high"], one["n"]))
        for one in (found[name]["accuracy"] for name in ("attack_success", "neither_refused_nor_incoherent"))
    )
    return (
        "*Answered* and *goes on with harm* are told by a classifier (`studies/safety/attack.py`) that is right for "
        f"{own} of {found['attack_success']['accuracy']['n']} labelled answers of two other models to AdvBench; "
        f"*neither refused nor incoherent*, the simplest rule, for {simple}. Some of what taught it are answers of "
        "the plain model to goals that *whole rows* are made of, and its labels are one language model's. "
        + _checked()
    )


def _checked() -> str:
    found = figures()
    return (
        f"Of {found.judged.n} answers of models that were fine-tuned here, drawn at random from those that do not "
        f"refuse (`python -m studies.frontier.checked`), {found.harmful} were labelled harmful without sight of a "
        f"verdict: the classifier is right for {percent(found.judged)}, with {found.false} false alarms and "
        f"{found.missed} missed, the simplest rule for {percent(found.simple)}. So of what does not refuse, neither "
        "tells harm reliably: *answered with harm* counts openings that do not refuse more than it counts harm, and "
        "differences of a few points in it are to be read with *refused* beside them."
    )


def to_mind(comparisons: int) -> list[str]:
    """What readers of figures and intervals should know.

    Args:
        comparisons: how many differences to another entry are told on the page.
    """
    return [
        "- Intervals of one seed are over prompts and rows; they leave out that training again comes out otherwise. "
        "What only one seed shows is a hint. Two or three seeds drawn with replacement never go beyond themselves, "
        "so intervals over seeds are too narrow as well: they cover less than 95%.",
        f"- `{DEFAULT}` was chosen in sight of test figures of seed 0: the form and weight of its anchor by what "
        "came out there, what useful text may go by its custom sets (`studies/LOG.md`). Seeds 1 and 2 have other "
        "data, and the same test prompts. Nearly every rival stands at one strength, its authors' or the first that "
        "was tried.",
        f"- The page tells {comparisons} differences apart, each by a 95% interval of its own, uncorrected: among so "
        f"many some {comparisons / 20:.0f} would be called better or worse where there is no difference at all.",
        "- Useful rows and the rows with spliced harm are the same rows without and with it, but are drawn apart, "
        "which makes intervals of harm a little wider than they need be.",
    ]


def missing(results: Path, comparisons: int) -> list[str]:
    """What to mind, and all that was not measured."""
    lines = ["## What to mind, and what is not there", "", f"- {judged_by()}"]
    lines += to_mind(comparisons)
    if told := straight.told(results):
        lines.append(f"- {told}")
    for name in SETTINGS:
        have = {(entry, seed) for entry, seed, split, _ in known(name, results) if split == "test"}
        entries = {entry for entry, _ in have}
        tried = {method_of(entry).name for entry in entries if entry != UNTRAINED}
        left = [method for method in registry() if method not in tried and method != UNTRAINED]
        alone = [entry for entry in entries if sum(entry == other for other, _ in have) == 1 and entry != UNTRAINED]
        lines.append(f"- *{name}*: never trained there: {', '.join(f'`{method}`' for method in left)}.")
        if alone and len(alone) < len(entries) - 1:
            lines.append(f"- *{name}*: with one seed alone: {listed(sorted(alone))}.")
    lines.append(
        f"- `sft-scaled` and `sft-averaged` of `toss compare` are points on the curve of `{STANDARD}` and of what it "
        "passed through; the scales above are the first of them."
    )
    return lines
