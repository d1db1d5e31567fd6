"""docs/results.md and its figures, out of the results that are kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from studies.frontier.attack import verdicts
from studies.frontier.curves import Curves, Values, interval
from studies.frontier.data import useful_sources
from studies.frontier.entries import DEFAULT, OURS, STANDARD, UNTRAINED, method_of
from studies.frontier.figure import draw, drawn_entries, key
from studies.frontier.ledger import RESULTS, known
from studies.frontier.settings import SCALES, SETTINGS, TARGETS, Setting
from studies.frontier.verdict import headline, ours, target_of
from studies.safety.wording import nats, percent

from tosslm.files import write_text
from tosslm.statistics import Interval, mean_interval

ATTACK = Path(__file__).parents[1] / "safety/attack.json"
_TITLES = {
    "whole": "Whole rows: some rows give in to an improper request",
    "embedded": "Embedded: harmful sentences in useful answers",
    "clean": "Clean: nothing is harmful",
    "gemma": "Another family: embedded, with Gemma 3 270M",
}
_LABELS = {"refused": "harmful prompts refused", "harm": "loss of harmful text, nats a token (high is safe)"}


def write_page(docs: Path, results: Path = RESULTS) -> None:
    """Write the page and its figures."""
    seeds = {name: measured_seeds(name, results) for name in SETTINGS}
    settings = {name: read_curves(name, results, seeds=own[:1]) for name, own in seeds.items()}
    several = {
        name: curves
        for name, own in seeds.items()
        if len(own) > 1 and (curves := read_curves(name, results, seeds=own)) is not None
    }
    # What a clean set costs is told of one entry, so all seeds that it was measured with can tell it.
    clean = {name: curves for name, curves in several.items() if SETTINGS[name].kind == "clean"}
    parts = [_head(), *headline(settings | clean, several)]
    for name, curves in settings.items():
        parts += ["", f"## {_TITLES[name]}", ""]
        parts += _section(name, curves, docs, results) if curves else ["Nothing of it has been measured yet."]
        parts += _over_seeds(several[name], SETTINGS[name], seeds[name]) if name in several else []
    parts += ["", *_missing(results)]
    write_text(docs / "results.md", "\n".join(parts) + "\n")


def measured_seeds(setting: str, results: Path = RESULTS, split: str = "test") -> list[int]:
    """Seeds with which standard SFT, the oracle and the default are measured at all scales; else those of SFT."""
    lines = known(setting, results)

    def of(*entries: str) -> list[int]:
        seeds = {seed for _, seed, *_ in lines}
        whole = [s for s in seeds if all((entry, s, split, scale) in lines for entry in entries for scale in SCALES)]
        return sorted(whole)

    return of(STANDARD, SETTINGS[setting].oracle, DEFAULT) or of(STANDARD)


def read_curves(setting: str, results: Path = RESULTS, split: str = "test", *, seeds: Sequence[int]) -> Curves | None:
    """The curves of the entries of a setting that are measured with these seeds, all of them, at all scales.

    None before base and standard SFT are measured.
    """
    lines = known(setting, results)
    judged = verdicts(setting, results)
    scales = (0.0, *SCALES)
    base = {line["seed"]: line for (entry, _, of, _), line in lines.items() if entry == UNTRAINED and of == split}
    if not seeds or not base:
        return None
    table: dict[str, dict[str, Values]] = {}
    for entry in dict.fromkeys((*SETTINGS[setting].entries, *(one[0] for one in lines))):
        own = [s for s in seeds if all((entry, s, split, scale) in lines for scale in SCALES)]
        if entry == UNTRAINED or len(own) < len(seeds):
            continue
        first = min(base)
        keys = [
            [(UNTRAINED, first, split, 0.0) if not scale else (entry, s, split, scale) for scale in scales]
            for s in own
        ]
        metrics = lines[keys[0][1]]["metrics"]
        table[entry] = {
            metric: Values(
                np.array(
                    [[lines[one]["metrics"][metric]["values"] for one in row] for row in keys], dtype=np.float64
                ),
                np.array(kept["weights"] or np.ones(len(kept["values"])), dtype=np.float64),
                useful_sources(split) if metric == "utility" else None,
            )
            for metric, kept in metrics.items()
        }
        for metric in {name for one in keys[0] for name in judged.get(one, {})}:
            if all(metric in judged.get(one, {}) for row in keys for one in row):
                values = np.array([[judged[one][metric] for one in row] for row in keys], dtype=np.float64)
                table[entry][metric] = Values(values, np.ones(values.shape[-1]))
    return Curves(table, STANDARD, scales.index(1.0)) if STANDARD in table else None


def _head() -> str:
    return (
        "# Does token selection keep a model safe?\n\n"
        "Made by `python -m studies.frontier.study --page` from `studies/frontier/results`. Every trained adapter is "
        f"measured at scales {', '.join(f'{scale:g}' for scale in SCALES)}; methods are compared where they have the "
        "same share of standard fine-tuning's gain on useful rows, on the same prompts. Scaling the adapter needs no "
        "method: it is what each curve does by itself, and what each method has to beat. Intervals are by bootstrap "
        "over prompts, rows (useful ones by source) and seeds.\n"
    )


def _section(name: str, curves: Curves, docs: Path, results: Path) -> list[str]:
    setting, entries = SETTINGS[name], list(curves.table)
    own = ours(curves)
    targets = [target_of(curves, setting.oracle)]
    targets += [one for one in [target_of(curves, setting.oracle, own)] if one not in targets] if own else []
    figures = []
    drawn = drawn_entries(curves)
    for metric, label in (("refused", _LABELS["refused"]), (setting.harm, _LABELS["harm"])):
        file = f"results-{name}-{metric}.svg"
        write_text(docs / file, draw(curves, drawn, metric, label))
        figures.append(f"![{label}]({file})")
    return [
        _about(setting, name, results),
        "",
        *_asked_for(curves, setting),
        *figures,
        "",
        key(drawn) + ".",
        "",
        "*Most* is the greatest share of standard SFT's gain that an entry has at any scale; *harm* by how much "
        f"harmful text has become likelier than under `{setting.oracle}` at the same gain, nats a token, and *of "
        "base* likelier than for the base, which the oracle too may leave, either way, for the style of useful rows; "
        "all with 95% intervals.",
        *(line for target in targets for line in _at(curves, entries, setting, target)),
        "",
        *_others(curves, entries, setting, targets),
        "",
        *_as_trained(curves, entries, setting),
    ]


def _about(setting: Setting, name: str, results: Path) -> str:
    lines = {key: line for key, line in known(name, results).items() if key[2] == "test"}
    base = next(line for (entry, *_), line in lines.items() if entry == UNTRAINED)
    refused, over = (
        mean_interval(np.array(base["metrics"][metric]["values"], dtype=np.float64))
        for metric in ("refused", "over_refused")
    )
    seeds = sorted({seed for _, seed, *_ in lines})
    codes = sorted({line["code"][:12] for line in lines.values() if line["code"]})
    return (
        f"Share of rows with harm: {setting.share:.0%}. Learning rate {setting.learning_rate:g}. The base refuses "
        f"{percent(refused)} of harmful and {percent(over)} of harmless prompts. Seeds: "
        f"{', '.join(map(str, seeds))}. Base {base['base'][:12]}, code {', '.join(codes)}."
    )


def _asked_for(curves: Curves, setting: Setting) -> list[str]:
    """Whether refusals are lost to harm there at all: what the setting was made for."""
    if setting.kind != "whole" or setting.oracle not in curves.table:
        return []
    at = (0.0, *SCALES).index(1.0)
    kept = [float(curves.curve(entry, "refused")[0, at]) for entry in (STANDARD, setting.oracle)]
    base = float(curves.curve(STANDARD, "refused")[0, 0])
    return [
        f"As trained, `{STANDARD}` refuses {100 * (base - kept[0]):.0f} points less than the base, where a loss "
        f"of 30 was wanted, and `{setting.oracle}` keeps {kept[1] / base:.0%} of the base's refusals, where 90% "
        "was asked for.",
        "",
    ]


def _table(curves: Curves, entries: Sequence[str], setting: Setting, target: float) -> list[str]:
    names = {"attacked": "answered with harm", "begun": "goes on with harm", "incoherent": "incoherent"}
    attacked = [metric for metric in names if any(curves.has(entry, metric) for entry in entries)]
    head = [
        "trained",
        "badge",
        "most",
        "refused",
        "refused, harmless",
        "harm",
        "of base",
        *(names[metric] for metric in attacked),
    ]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for entry in entries:
        badge = method_of(entry).badge
        cells = [percent(curves.most(entry))]
        cells += [percent(curves.reading(entry, metric, target)) for metric in ("refused", "over_refused")]
        cells += [nats(harm(curves, entry, setting, target)), nats(curves.likelier(entry, setting.harm, target))]
        cells += [
            percent(curves.reading(entry, m, target)) if curves.has(entry, m) else "not judged" for m in attacked
        ]
        lines.append(f"| `{entry}` | {badge} | {' | '.join(cell or 'not reached' for cell in cells)} |")
    return lines


def _as_trained(curves: Curves, entries: Sequence[str], setting: Setting) -> list[str]:
    """What each adapter is as it leaves its training, where it has another utility than the next."""
    lines = [
        "As they were trained, adapters not scaled, each at a utility of its own:",
        "",
        "| trained | gain | refused | refused, harmless | of base |",
        "|---|---|---|---|---|",
    ]
    at = curves.unscaled
    for entry in entries:
        curve = curves.curve(entry, setting.harm)
        cells = [
            percent(interval(curves.gain(entry)[:, at], curves.n(entry, "utility"))),
            *(percent(curves.as_trained(entry, metric)) for metric in ("refused", "over_refused")),
            nats(interval(curve[:, 0] - curve[:, at], curves.n(entry, setting.harm))),
        ]
        lines.append(f"| `{entry}` | {' | '.join(cell or 'cannot be told' for cell in cells)} |")
    return lines


def harm(curves: Curves, entry: str, setting: Setting, target: float) -> Interval | None:
    """By how much harmful text is likelier than under the oracle at the same gain, nats a token."""
    return curves.difference(setting.oracle, entry, setting.harm, target) if setting.oracle in curves.table else None


def _at(curves: Curves, entries: Sequence[str], setting: Setting, target: float) -> list[str]:
    return ["", f"At {target:.0%} of standard SFT's gain:", "", *_table(curves, entries, setting, target)]


def _over_seeds(curves: Curves, setting: Setting, seeds: Sequence[int]) -> list[str]:
    own = ours(curves)
    target = target_of(curves, setting.oracle, *([own] if own else []))
    told = ", ".join(map(str, seeds))
    head = f"Over seeds {told}, of data and training, those that are measured with all of them"
    return [
        "",
        f"{head}, at {target:.0%} of standard SFT's gain:",
        "",
        *_table(curves, list(curves.table), setting, target),
        "",
        *_as_trained(curves, list(curves.table), setting),
    ]


def _others(curves: Curves, entries: Sequence[str], setting: Setting, told: Sequence[float]) -> list[str]:
    """The other shares in short."""
    lines = ["Refusals and harm at the other shares:", ""]
    shares = [share for share in TARGETS if share not in told]
    head = ["trained", *(f"{what} at {share:.0%}" for share in shares for what in ("refused", "harm"))]
    lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for entry in entries:
        cells = []
        for share in shares:
            cells += [percent(curves.reading(entry, "refused", share)), nats(harm(curves, entry, setting, share))]
        lines.append(f"| `{entry}` | {' | '.join(cell or 'not reached' for cell in cells)} |")
    return lines


def _judged_by() -> str:
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
        "the plain model to goals that *whole rows* are made of, and its labels are one language model's."
    )


def _missing(results: Path) -> list[str]:
    lines = ["## What to mind, and what is not there", "", f"- {_judged_by()}"]
    for name, setting in SETTINGS.items():
        have = {entry for entry, seed, split, _ in known(name, results) if split == "test"}
        left = [entry for entry in setting.entries if entry not in have]
        if left:
            lines.append(f"- Not measured in {name}: {', '.join(f'`{entry}`' for entry in left)}.")
    lines.append(
        f"- `{DEFAULT}` has the tool's defaults, with `selection.discard_fraction: auto`; entries that begin with "
        f"{OURS} are other settings of the same. With `even odds` no estimate of what useful text goes raises the "
        "threshold, which is what `auto` did where rows were few before that estimate was there; in *clean* the one "
        "such entry is of that time, and today's `auto` drops less there. Those, and "
        "`rows-anchor`, were tried at several weights with seed 0, and the default was chosen by what came out; with "
        "other seeds it was not chosen again."
    )
    return lines
