"""docs/results.md and its figure, from the result files of the safety study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from studies.safety.clusters import advbench_clusters
from studies.safety.data import CUSTOM_ROWS, DEALT, PROMPTS, REFERENCE_ROWS
from studies.safety.figure import FIGURES, draw
from studies.safety.ladder import ladder_lines
from studies.safety.ledger import Results, ledger, read_results
from studies.safety.quality import Split, dropped_positions, dropped_shares
from studies.safety.settings import (
    CELLS,
    HEADLINE,
    MEASURED_BEFORE,
    METHODS,
    ORACLE,
    OURS,
    REFERENCES,
    RIVALS,
    STANDARD,
    UNTRAINED,
    config,
    methods_of,
)
from studies.safety.verdict import LEAST, RULE, TOGETHER, against, causes, choose, criteria, negative
from studies.safety.wording import nats, percent, points

from tosslm.files import write_text
from tosslm.methods import registry

_HEAD = """# Does token selection keep a model safe?

Written by `python -m studies.safety.study`; what it runs stands in `studies/safety/`.

SmolLM2-135M-Instruct is made safe on real refusals, on delicate prompts that are answered and on useful rows
(`studies/safety/base.py`), then fine-tuned on {custom} rows of which {share:.0%} are harmful: first answers of
HH's rejected dialogues that do not refuse. The others are answers of AlpacaEval and GSM8K. References have {harmful}
harmful and {utility} useful rows of their own. Every method trains with the same settings, on the same rows, in the
same order; those that drop tokens drop {discard:.0%} of them, but for the oracle and STAR-DSS, whose budgets are
their own. A seed draws the rows and trains everything anew. No prompt stands in two sets; the study refuses to
run otherwise.

Measured on the test split: **refusals** on {advbench} AdvBench goals, **over-refusal** on
{xstest} safe prompts of XSTest, **losses** in nats a token on {useful_rows} useful and {harmful_rows} harmful rows,
and the **margin**, mean loss of a plain refusal minus that of the harmful answer (high is unsafe). Answers are cut
off at {tokens} tokens; an incoherent one is neither a refusal nor an answer. Brackets hold 95% intervals, by
bootstrap over prompts and seeds; AdvBench's {advbench} goals, many of which are alike, are drawn as {clusters}
clusters (`studies/safety/clusters.py`).

**Harm** is what a method learns beyond the oracle: losses of harmful answers fall under the oracle too, which has
seen none of them, since it learns to answer as the useful rows do.

What to mind:

- The base's recipe was settled with prompts outside the test split. Its harmless prompts that only sound dangerous
  (`contrast.jsonl`) were written with XSTest's kinds of prompts in mind, the last of them after reading which prompts
  outside the test split a draft refused, and after seeing how many of it that draft did. None of them is one
  of XSTest's, though some come near one.
- The learning rate was settled with an earlier base, with figures of base and standard SFT in sight, at last those of
  the test split, so that there is something to lose; the number of rows by base, standard SFT and oracle of the first
  seed, outside the test split.
- The weight of the anchor was chosen among 1, 2 and 4 by the rule of the best below, on the validation split of an
  earlier draft of this base; that draft's figures of weight 1 on the test split had been seen by then.
- No AdvBench or XSTest prompt of the test split took part in setting a default. Some of its rows did: about one in
  twenty was among those that the anchor's defaults were measured on, and others were trained on there.
- "No prompt in two sets" is meant to the letter, case and spacing aside; GSM8K has questions that are near twins.
- Shares restored are ratios to the few refusals that SFT lost: their intervals are wide, and bounds of a ratio whose
  denominator may be small are rough. Read the refusals beside them.
- star-dss is not its authors' method here: as it was measured it decided hard instead of weighing by the guard's
  probability, and held the first three tokens of every answer to the base as well, all at the anchor's weight, some
  16 times theirs. It waits to be measured again, as its authors run it.
- Where a better base, curves at equal use and other settings are measured, figures will change: every method here
  stands at the one strength that its settings happen to give it.
- SafeInstr adds rows of its own. Three seeds make intervals over seeds too narrow; where a method has fewer, its
  shares and differences are taken on those seeds, its means are not.
- Refusals are told by phrases at the beginning of an answer, without judge or classifier, and the models have 135M
  parameters. Larger ones may behave otherwise.
"""
_CAUSES = """The oracle leaves out exactly the harmful rows, and refuses {forgotten} less than the base: it has seen
no harm, so these refusals were *forgotten*. Standard SFT refuses {learnt} less than the oracle; where that interval
holds zero, what harm *taught* cannot be told from nothing in refusals (the losses below tell it). The oracle is no
upper bound: methods that also drop tokens of useful rows train on fewer of them, and can forget less."""
_TONE = """Held-out harmful answers become likelier by {sft} nats a token under standard SFT, and by {oracle} under
the oracle, which has seen no harm at all: so much comes with learning to answer as the useful rows do."""
_LEARNT = """Where the degraded one does, it has learnt how such rows answer, not to give in to such goals: then
harm is little of what costs refusals here, and leaving harm out can win few of them back."""
_COLUMNS = (
    "| # | method | seeds | refusals | of those SFT lost, restored | over-refusal | incoherent | utility loss "
    "| of SFT's gain, kept | loss of harmful answers, less the base's | less the oracle's | margin |"
)


def write_page(results: Path, docs: Path) -> None:
    """Write ``results.md`` and the figure into the docs, from what has been measured."""
    headline = read_results(ledger(results, HEADLINE))
    if not {UNTRAINED, STANDARD} <= headline.keys():
        raise SystemExit(f"{ledger(results, HEADLINE)}: base and sft are not there yet; the page compares with them")
    test = Split(headline, "test")
    names = [name for name in METHODS if name in headline]
    lines = [_head(), "## All methods", "", _COLUMNS, "|" + "---|" * (_COLUMNS.count("|") - 1)]
    lines += [_method_line(number, name, test) for number, name in enumerate(names, 1)]
    over, known = (
        percent(Split(headline, split).mean(UNTRAINED, "over_refusal")) for split in ("test", "validation")
    )
    lines += [
        "",
        f"The base refuses {over} of the safe prompts, {known} of the validation split's; a base of use refuses less "
        "than 20%.",
    ]
    lines += ["", "Blue points are ours, numbers are those of the table.", ""]
    lines += [f"![{figure.about}]({figure.file})\n" for figure in FIGURES]
    lines += _verdict(Split(headline, "validation"), test)
    lines += _why(test)
    lines += _dropped(headline, names)
    lines += ladder_lines(results)
    lines += _missing(results)
    lines += _sources(names)
    write_text(docs / "results.md", "\n".join(lines).rstrip() + "\n")
    for figure in FIGURES:
        write_text(docs / figure.file, draw(figure, test, names))


def _head() -> str:
    settings = config(HEADLINE, 0)
    return _HEAD.format(
        custom=CUSTOM_ROWS,
        share=CELLS[HEADLINE].share,
        harmful=sum(REFERENCE_ROWS["harmful"].values()),
        utility=sum(REFERENCE_ROWS["utility"].values()),
        discard=settings["selection"]["discard_fraction"],
        advbench=PROMPTS["advbench"]["test"],
        xstest=PROMPTS["xstest"]["test"],
        useful_rows=DEALT["test"]["alpaca_eval"] + DEALT["test"]["gsm8k"],
        harmful_rows=DEALT["test"]["harmful"],
        tokens=settings["evaluation"]["max_new_tokens"],
        clusters=int(advbench_clusters("test")[1].max()) + 1,
    )


def _method_line(number: int, name: str, test: Split) -> str:
    trained = name != UNTRAINED
    cells = [
        str(number),
        name,
        str(len(test.seeds(name))) if trained else "",
        percent(test.mean(name, "refusal_rate")),
        percent(test.restored(name)) if trained and name != STANDARD else "",
        percent(test.mean(name, "over_refusal")),
        percent(test.mean(name, "incoherent")),
        nats(test.mean(name, "utility_loss")),
        percent(test.gain_kept(name)) if trained and name != STANDARD else "",
        nats(test.minus(name, UNTRAINED, "harmful_loss")) if trained else "",
        nats(test.harm_beyond(name)) if trained and name != ORACLE else "",
        nats(test.mean(name, "likelihood_margin")),
    ]
    return "| " + " | ".join(cells) + " |"


def _verdict(validation: Split, test: Split) -> list[str]:
    best = choose(validation)
    if best is None:
        return ["## The best of ours", "", RULE, "", "None of ours keeps so much there.", ""]
    lines = ["## The best of ours", "", f"{RULE}\n\nBy this rule it is **{best}**.", ""]
    lines += ["| on the test split | found | wanted | holds |", "|---|---|---|---|"]
    found = criteria(test, best)
    for one in found:
        wanted = "interval above 0" if one.paired else (f"{one.least:.0%}" if one.percent else f"{one.least:g}")
        figure = (percent(one.found) if one.percent else nats(one.found)) or "not to be told"
        lines.append(f"| {one.what} | {figure} | {wanted} | {'yes' if one.met else '**no**'} |")
    held = sum(one.met for one in found)
    lines += ["", f"{held} of {len(found)} promises hold. {TOGETHER}", "", *harm_learnt(best, test)]
    return [*lines, *_each_by_itself(best, test), *equals(best, test), *refined(test), *as_good(test)]


def _each_by_itself(best: str, test: Split) -> list[str]:
    """The best against each rival, in each of the three, for those who weigh otherwise."""
    told = f"{best} less each rival, paired; above zero is better, and what cannot be told from zero is no lead."
    columns = "| rival | refusals | loss of harmful answers, nats | utility loss, its less ours, nats |"
    lines = [told, "", columns, "|---|---|---|---|"]
    for rival in RIVALS:
        if rival in test.results:
            parts = against(test, best, rival)
            cells = [rival, percent(parts.refusals), nats(parts.harm), nats(parts.use)]
            lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def harm_learnt(best: str, test: Split) -> list[str]:
    """How much harm standard SFT and the best learn, beyond what the oracle does, which sees none."""
    own, sft = test.harm_beyond(best), test.harm_beyond(STANDARD)
    if own is None or sft is None:
        return []
    lines = (
        f"Harm beyond the oracle, whose change is style alone: harmful answers are likelier under standard SFT by "
        f"{nats(negative(sft))} nats a token, under {best} by {nats(negative(own))}; below zero they are less likely "
        "than under the oracle."
    )
    return [lines, ""]


def equals(best: str, test: Split) -> list[str]:
    """Which of ours the best cannot be told from, and is no more the best than they."""
    alike = [
        name
        for name in OURS
        if name != best and name in test.results and not ((one := against(test, best, name)).better or one.worse)
    ]
    told = f"{', '.join(alike)}: they are equal here" if alike else "none"
    return [f"Of ours, in refusals, harm and use together, {best} cannot be told from: {told}.", ""]


def refined(test: Split) -> list[str]:
    """What TOSS-Pro's rounds bring, form by form."""
    lines = []
    for name in OURS:
        pro = name.replace("toss", "toss-pro", 1)
        if pro in OURS and {name, pro} <= test.results.keys():
            one = against(test, pro, name)
            verdicts = {
                (True, False): "worse",
                (False, True): "better",
                (True, True): "better in one, worse in another",
            }
            verdict = verdicts.get((one.worse, one.better), "not to be told apart")
            figures = f"refusals {percent(one.refusals)}, harm {nats(one.harm)}, use {nats(one.use)} nats"
            lines.append(f"- {pro} less {name}: **{verdict}** ({figures}).")
    return ["What TOSS-Pro's round brings; above zero is better:", "", *lines, ""] if lines else []


def as_good(test: Split) -> list[str]:
    """Which methods of others keep the first two promises as well, and what harm they learn."""
    alike = [
        f"{name} ({nats(test.minus(name, UNTRAINED, 'harmful_loss'))})"
        for name in RIVALS
        if name in test.results
        and all((share := figure(name)) and share.value >= LEAST for figure in (test.restored, test.gain_kept))
    ]
    told = (
        f"keep the first two promises too; in brackets their third: {', '.join(alike)}"
        if alike
        else "keeps the first two promises"
    )
    return [f"Of the methods that are not ours, {'these' if alike else 'none'} {told}.", ""]


def _why(test: Split) -> list[str]:
    lines = ["## Why", ""]
    if parts := causes(test):
        learnt, forgotten = parts
        lines += [
            _CAUSES.format(forgotten=points(forgotten), learnt=points(learnt)),
            "",
        ]
    harm = {name: test.minus(name, UNTRAINED, "harmful_loss") for name in (ORACLE, STANDARD) if name in test.results}
    if (oracle := harm.get(ORACLE)) and (sft := harm.get(STANDARD)):
        lines += [
            _TONE.format(sft=nats(negative(sft)), oracle=nats(negative(oracle))),
            "",
        ]
    references = [name for name in REFERENCES if f"{name}-reference" in test.results]
    if references:
        told = "; ".join(
            f"{name} {percent(test.mean(f'{name}-reference', 'refusal_rate'))}, by seed {_by_seed(test, name)}"
            for name in references
        )
        lines += [f"Do the references themselves refuse the same goals? {told}. {_LEARNT}", ""]
    return lines


def _by_seed(test: Split, name: str) -> str:
    return ", ".join(f"{share:.0%}" for share in test.by_seed(f"{name}-reference", "refusal_rate"))


def _dropped(results: Results, names: Sequence[str]) -> list[str]:
    shown = [name for name in names if name not in (UNTRAINED, STANDARD)]
    if not shown:
        return []
    sources = list(dropped_shares(results[shown[0]]))
    lines = ["## What is dropped", "", "Shares of response tokens, by source and by position in the answer.", ""]
    lines.append("| method | " + " | ".join(sources) + " | token 1 | 2 to 5 | 6 to 20 | later |")
    lines.append("|---" * (len(sources) + 5) + "|")
    for name in shown:
        shares = dropped_shares(results[name])
        places = dropped_positions(results[name])
        cells = [f"{shares[source]:.0%}" for source in sources]
        cells += [f"{share:.0%}" for share in (places[0], places[1:5].mean(), places[5:20].mean(), places[20])]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _sources(names: Sequence[str]) -> list[str]:
    lines = ["## Where the methods are from", "", "| method | what it does | source | what differs here |"]
    lines.append("|---" * 4 + "|")
    for name in names:
        method = registry()[name]
        differs = MEASURED_BEFORE.get(name, method.differs)
        lines.append(f"| {name} | {method.summary} | {method.source} | {differs} |")
    return [*lines, ""]


def _missing(results: Path) -> list[str]:
    left: list[str] = []
    for cell, setting in CELLS.items():
        found = read_results(ledger(results, cell))
        lacking = {
            name: [s for s in setting.seeds if name in methods_of(cell, s) and s not in found.get(name, {})]
            for name in setting.methods
        }
        told = [
            f"{name} (seed {', '.join(map(str, seeds))})" if cell == HEADLINE else name
            for name, seeds in lacking.items()
            if seeds
        ]
        if told:
            left.append(f"- {cell}: {', '.join(told)}")
    return ["## Not measured yet", "", *left, ""] if left else []
