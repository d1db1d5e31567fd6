"""docs/results.md and its figures, out of the results that are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from studies.frontier.about import ANALYSIS, asked, missing
from studies.frontier.attack import verdicts
from studies.frontier.curves import Curves, Values
from studies.frontier.data import useful_sources
from studies.frontier.entries import DEFAULT, STANDARD, UNTRAINED
from studies.frontier.figure import draw, drawn_entries, key
from studies.frontier.ledger import RESULTS, known
from studies.frontier.settings import MODEL, SCALES, SETTINGS, TARGETS, Setting
from studies.frontier.standing import ours, target_of
from studies.frontier.tables import as_trained, drawn_lines, harm, others, table
from studies.frontier.verdict import costs, headline, standing, told_apart
from studies.safety.wording import nats, percent

from tosslm.files import write_text
from tosslm.statistics import mean_interval

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
    parts = [_head(), *headline(settings | clean, several), *_aims(settings), "", ANALYSIS, *asked(settings)]
    for name, curves in settings.items():
        parts += [f"## {_TITLES[name]}", ""]
        parts += _section(name, curves, docs, results) if curves else ["Nothing of it has been measured yet."]
        parts += _over_seeds(several[name], SETTINGS[name], seeds[name]) if name in several else []
        parts.append("")
    parts += missing(results, _comparisons([*settings.items(), *several.items()]))
    parts += _of_some_seeds(several, seeds, results)
    write_text(docs / "results.md", "\n".join(parts) + "\n")


def _of_some_seeds(several: Mapping[str, Curves], seeds: Mapping[str, Sequence[int]], results: Path) -> Iterator[str]:
    """What was measured with more than the first seed, but not with all: in no table, so it is told here."""
    for name, over in several.items():
        first, *rest = seeds[name]
        for seed in rest:
            curves, alone = (read_curves(name, results, seeds=[one]) for one in (seed, first))
            if curves is None or alone is None:
                continue
            if entries := [entry for entry in curves.table if entry in alone.table and entry not in over.table]:
                yield _also(curves, entries, SETTINGS[name], f"*{name}*: with seed {seed} too, in no table above")


def _also(curves: Curves, entries: Sequence[str], setting: Setting, head: str) -> str:
    target = target_of(curves, setting.oracle, DEFAULT)
    told = []
    for entry in [*entries, DEFAULT]:
        beyond, refused = harm(curves, entry, setting, target), curves.reading(entry, "refused", target)
        told.append(f"`{entry}` {nats(beyond) or 'not reached'}, refused {percent(refused) or 'not reached'}")
    return f"- {head}, nats beyond the oracle at {target:.0%} of the gain: {'; '.join(told)}."


def _comparisons(told: Sequence[tuple[str, Curves | None]]) -> int:
    """How many differences the sections tell, in their tables of who stands beside whom."""
    count = 0
    for name, curves in told:
        own = ours(curves) if curves else None
        if curves and own and SETTINGS[name].share:
            count += told_apart(curves, own, SETTINGS[name], target_of(curves, SETTINGS[name].oracle, own))
    return count


def measured_seeds(setting: str, results: Path = RESULTS, split: str = "test") -> list[int]:
    """Seeds with which standard SFT, the oracle and the default are measured at all scales; else those of SFT."""
    lines, own = known(setting, results), SETTINGS[setting]

    def of(*entries: str) -> list[int]:
        seeds = {seed for _, seed, *_ in lines}
        wanted = [(entry, scale) for entry in entries for scale in SCALES]
        return sorted(s for s in seeds if all((entry, s, split, scale) in lines for entry, scale in wanted))

    return of(STANDARD, own.oracle, DEFAULT) or of(STANDARD)


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
        own = [s for s in seeds if all((entry, s, split, scale) in lines for scale in scales[1:])]
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
    return Curves(table, STANDARD, scales) if STANDARD in table else None


def _head() -> str:
    return (
        "# Does token selection keep a model safe?\n\n"
        "Made by `python -m studies.frontier.study --page` from `studies/frontier/results`. Every trained adapter is "
        f"measured at scales {', '.join(f'{scale:g}' for scale in SCALES)}; methods are compared where they have the "
        "same share of standard fine-tuning's gain on useful rows, on the same prompts. Scaling the adapter needs no "
        "method: it is what each curve does by itself, and what each method has to beat. Intervals are by bootstrap "
        "over prompts, rows (useful ones by source) and seeds.\n"
    )


def _aims(settings: Mapping[str, Curves | None]) -> list[str]:
    """What was aimed at of bases and settings, and is not so."""
    bases = [
        f"{curves.curve(STANDARD, 'over_refused')[0, 0]:.0%} ({name})"
        for name, curves in settings.items()
        if curves and name in ("whole", "gemma")
    ]
    whole = settings.get("whole")
    lost = f"{_lost(whole):.0f} points of refusals, where 30 were wanted; " if whole else ""
    return (
        [
            f"- **Aimed at and not met**: plain fine-tuning on whole harmful rows loses {lost}bases that refuse at "
            f"most 20% of harmless prompts refuse {' and '.join(bases)}; this study has a safety adapter of its own, "
            "where it was to share the demo's."
        ]
        if bases
        else []
    )


def _lost(curves: Curves) -> float:
    """Percentage points of refusals that standard SFT loses as trained."""
    refused = curves.curve(STANDARD, "refused")[0]
    return 100 * float(refused[0] - refused[curves.unscaled])


def _section(name: str, curves: Curves, docs: Path, results: Path) -> list[str]:
    setting, entries = SETTINGS[name], list(curves.table)
    own = ours(curves)
    targets = [target_of(curves, setting.oracle)]
    targets += [one for one in [target_of(curves, setting.oracle, own)] if one not in targets] if own else []
    figures = []
    drawn = drawn_entries(curves, setting.harm, targets[-1])
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
        "*Most* is the greatest share of standard SFT's gain that an entry has at any measured scale; *harm* by how "
        f"much harmful text has become likelier than under `{setting.oracle}` at the same gain, nats a token, and "
        "*of base* likelier than for the base, which the oracle too may leave, either way, for the style of useful "
        "rows; all with 95% intervals.",
        "",
        f"Seed {min(_seeds(name, results))} alone, with which most entries are measured:",
        "",
        *(standing(curves, own, setting, targets[-1]) if own and setting.share else costs(curves, own)),
        *drawn_lines(curves, entries, TARGETS),
        *(line for target in targets for line in _at(curves, entries, setting, target)),
        "",
        *others(curves, entries, setting, targets),
        "",
        *as_trained(curves, entries, setting),
    ]


def _about(setting: Setting, name: str, results: Path) -> str:
    lines = {key: line for key, line in known(name, results).items() if key[2] == "test"}
    base = next(line for (entry, *_), line in lines.items() if entry == UNTRAINED)
    refused, over = (
        mean_interval(np.array(base["metrics"][metric]["values"], dtype=np.float64))
        for metric in ("refused", "over_refused")
    )
    codes = sorted({_short(line["code"]) for line in lines.values() if line["code"]})
    shown = f"{setting.harm_share:.1%}" if setting.model == MODEL else f"{setting.harm_share:.0%} (SmolLM2's tokens)"
    told = (
        f"Share of rows with harm: {setting.share:.0%}; of response tokens {shown}. Methods that "
        f"are told how much to drop are told {setting.discard_fraction:.0%}, which takes useful text too; nobody "
        f"tells `{DEFAULT}` a share. "
        if setting.share
        else f"Methods that are told how much to drop are told {setting.discard_fraction:.0%}. "
    )
    return (
        f"{told}Trained and measured in {setting.model['dtype']}. Learning rate "
        f"{setting.learning_rate:g}. The base refuses "
        f"{percent(refused)} of harmful and {percent(over)} of harmless prompts. Seeds "
        f"{', '.join(map(str, _seeds(name, results)))}; base {base['base'][:12]}, code {', '.join(codes)}, whose "
        "`requirements.lock` names the version of every library."
    )


def _short(code: str) -> str:
    """A commit, short; it says so where files were changed since."""
    return code[:12] + "-dirty" * code.endswith("-dirty")


def _seeds(name: str, results: Path) -> list[int]:
    return sorted({seed for _, seed, split, _ in known(name, results) if split == "test"})


def _asked_for(curves: Curves, setting: Setting) -> list[str]:
    """Whether refusals are lost to harm there at all: what the setting was made for."""
    if setting.kind != "whole" or setting.oracle not in curves.table:
        return []
    base, *_ = curves.curve(STANDARD, "refused")[0]
    kept = curves.curve(setting.oracle, "refused")[0, curves.unscaled]
    return [
        f"As trained, `{STANDARD}` refuses {_lost(curves):.0f} points less than the base, where a loss "
        f"of 30 was wanted, and `{setting.oracle}` keeps {kept / base:.0%} of the base's refusals, where 90% "
        "was asked for.",
        "",
    ]


def _at(curves: Curves, entries: Sequence[str], setting: Setting, target: float) -> list[str]:
    return ["", f"At {target:.0%} of standard SFT's gain:", "", *table(curves, entries, setting, target)]


def _over_seeds(curves: Curves, setting: Setting, seeds: Sequence[int]) -> list[str]:
    own = ours(curves)
    target = target_of(curves, setting.oracle, *([own] if own else []))
    told = ", ".join(map(str, seeds))
    head = f"Over seeds {told}, of data and training, those that are measured with all of them"
    return [
        "",
        f"{head}.",
        "",
        *(standing(curves, own, setting, target) if own and setting.share else []),
        "",
        f"At {target:.0%} of standard SFT's gain:",
        "",
        *table(curves, list(curves.table), setting, target),
        *drawn_lines(curves, list(curves.table), [target]),
        "",
        *as_trained(curves, list(curves.table), setting),
    ]
