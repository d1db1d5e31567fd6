"""Is a curve straight where the study draws it so: a few entries between the base and the least scale.

    python -m studies.frontier.straight                      # trains and measures what is left
    python -m studies.frontier.straight --entries sft default

The study measures adapters at 0.6 and above, and below that a curve is a straight line from the base. Losses and
refusals are measured here, at 0.2 and 0.4 too, so that what is read off that line stands beside what is read off the
points. What models say after useful beginnings is not. The rows may be others than the study's (``complied`` says
when), which is no matter here: an entry is compared with itself. Results are kept in
``results/straight*.jsonl``, a file for each repetition.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from studies.frontier.curves import Curves, Values
from studies.frontier.entries import DEFAULT, ENTRIES, STANDARD, UNTRAINED
from studies.frontier.ledger import RESULTS, add_result, check_rows, known
from studies.frontier.measure import measure, measured_tokens
from studies.frontier.products import widen_products
from studies.frontier.settings import SCALES, SETTINGS, TARGETS, folder
from studies.provenance import code_version

from tosslm.config import ModelConfig
from tosslm.data.tokenize import RowTokenizer
from tosslm.model.base import open_base
from tosslm.progress import ConsoleReporter
from tosslm.quiet import quiet_libraries

SETTING, SEED, SPLIT = "embedded", 0, "test"
REPETITIONS = ("straight", "straight-again")
"""Files of results, each of rows of its own: the first has losses alone, and what is left goes into the last."""
DRAWN = (min(SCALES), 1.0)
"""At which the study measures too: where the straight line ends, and what the gain is measured by."""
ALL_SCALES = (0.2, 0.4, *DRAWN)
MEASURED = (STANDARD, "oracle-tokens", "star-dss", DEFAULT, "dr-sft")
ASKED = ("harmful", "safe")


def run(entries: Sequence[str]) -> None:
    """Train and measure what has no result yet."""
    from studies.frontier.study import prepare, train  # whose page tells what this found

    prepare(SETTING, SEED)
    setting = replace(SETTINGS[SETTING], asked=ASKED)
    base = open_base(ModelConfig.model_validate(setting.model))
    name = REPETITIONS[-1]
    check_rows(name, SPLIT, measured_tokens(RowTokenizer(base.tokenizer), setting, SPLIT))
    about = {"seed": SEED, "split": SPLIT, "base": base.identity, "code": code_version()}

    def add(entry: str, scale: float, seconds: float, adapter: Path | None = None) -> None:
        said = folder(SETTING, SEED, entry) / "said" / f"{name}-{scale:g}.jsonl"
        metrics = measure(base, adapter, scale, setting, SPLIT, said, ConsoleReporter())
        add_result(name, about | {"entry": entry, "scale": scale, "seconds": round(seconds), "metrics": metrics})

    if (UNTRAINED, SEED, SPLIT, 0.0) not in known(name):
        add(UNTRAINED, 0.0, 0.0)
    for entry in entries:
        left = [scale for scale in ALL_SCALES if (entry, SEED, SPLIT, scale) not in known(name)]
        if not left:
            continue
        started = time.monotonic()
        adapter = train(SETTING, SEED, entry, base)
        seconds = time.monotonic() - started
        for scale in left:
            add(entry, scale, seconds, adapter)


def curves_with(scales: Sequence[float], name: str, results: Path = RESULTS) -> Curves | None:
    """The entries that are measured at all scales, read at 0 and some of these; None before standard SFT is.

    Args:
        scales: at which they are read, from the least up.
        name: of the repetition.
        results: folder of what is kept.
    """
    lines = known(name, results)
    entries = dict.fromkeys(entry for entry, *_ in lines if entry != UNTRAINED)
    whole = [entry for entry in entries if all((entry, SEED, SPLIT, scale) in lines for scale in ALL_SCALES)]
    if STANDARD not in whole:
        return None
    table: dict[str, dict[str, Values]] = {}
    for entry in whole:
        points = [lines[UNTRAINED, SEED, SPLIT, 0.0], *(lines[entry, SEED, SPLIT, scale] for scale in scales)]
        table[entry] = {
            metric: Values(
                np.array([[point["metrics"][metric]["values"] for point in points]], dtype=np.float64),
                np.array(kept["weights"] or [1] * len(kept["values"]), dtype=np.float64),
            )
            for metric, kept in points[0]["metrics"].items()
        }
    return Curves(table, STANDARD, (0.0, *scales))


def told(results: Path = RESULTS) -> str | None:
    """How far what is read off the line lies from what is read off the points; None where nothing was measured."""
    found = [text for name in REPETITIONS if (text := _repetition(name, results))]
    if not found:
        return None
    return (
        f"How straight curves are below the scale {DRAWN[0]:g}: some entries of *{SETTING}*, with one seed and rows "
        f"made anew, were measured at {' and '.join(f'{scale:g}' for scale in ALL_SCALES[: -len(DRAWN)])} too "
        f"(`python -m studies.frontier.straight`). {' '.join(found)} No other entry, no other setting and nothing "
        "that is said after useful beginnings was measured so."
    )


def _repetition(name: str, results: Path) -> str | None:
    """Of a repetition's entries, at the shares of the gain that they have before the least scale of the study."""
    drawn, measured = curves_with(DRAWN, name, results), curves_with(ALL_SCALES, name, results)
    oracle = SETTINGS[SETTING].oracle
    if drawn is None or measured is None or oracle not in drawn.table:
        return None
    apart = {
        entry: {
            target: _beyond(drawn, entry, oracle, target) - _beyond(measured, entry, oracle, target)
            for target in _before_the_end(measured, entry)
        }
        for entry in drawn.table
        if entry != oracle
    }
    if not any(apart.values()):
        return None
    return (
        f"Of {', '.join(f'`{entry}`' for entry in drawn.table)}: what the line says of harm beyond the oracle, less "
        f"what the points say: {_listed(apart, 1, ' nats', 3)}.{_lead(apart)}{_refusals(drawn, measured)}"
    )


def _before_the_end(measured: Curves, entry: str) -> list[float]:
    """Shares of the gain that an entry has before the scale where the line ends."""
    most = measured.gain(entry)[0, measured.scales.index(DRAWN[0])]
    return [target for target in TARGETS if most >= target]


def _listed(apart: Mapping[str, Mapping[float, float]], factor: float, unit: str, digits: int) -> str:
    """Differences by entry and share of the gain."""
    return "; ".join(
        f"`{entry}` "
        + ", ".join(f"{factor * value:+.{digits}f}{unit} at {target:.0%}" for target, value in own.items())
        for entry, own in apart.items()
        if own
    )


def _refusals(drawn: Curves, measured: Curves) -> str:
    """The same of refusals and of over-refusals, in points; nothing where answers were not asked for."""
    told = ""
    for metric, name in (("refused", "refusals"), ("over_refused", "over-refusals")):
        apart = {
            entry: {
                target: float((drawn.at(entry, metric, target) - measured.at(entry, metric, target))[0])
                for target in _before_the_end(measured, entry)
            }
            for entry in drawn.table
            if drawn.has(entry, metric)
        }
        if any(apart.values()):
            told += f" Of {name}, in points: {_listed(apart, 100, '', 1)}."
    return told


def _lead(apart: Mapping[str, Mapping[float, float]]) -> str:
    """By how much the line makes the default's lead over standard fine-tuning too large, where both are drawn."""
    both = {
        target: value - apart[DEFAULT][target]
        for target, value in apart.get(STANDARD, {}).items()
        if target in apart.get(DEFAULT, {})
    }
    told = ", ".join(f"{value:+.3f} nats at {target:.0%}" for target, value in both.items())
    return (
        f" So where both are drawn, `{DEFAULT}` is ahead of `{STANDARD}` by that much more than it is: {told}."
        * bool(both)
    )


def _beyond(curves: Curves, entry: str, oracle: str, target: float) -> float:
    """By how many nats harmful text is likelier than under the oracle, at equal utility."""
    harm = SETTINGS[SETTING].harm
    return float((curves.at(oracle, harm, target) - curves.at(entry, harm, target))[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", nargs="*", choices=list(ENTRIES), default=list(MEASURED), help="only these")
    arguments = parser.parse_args()
    quiet_libraries()
    widen_products()
    run(arguments.entries)
    print(told())


if __name__ == "__main__":
    main()
