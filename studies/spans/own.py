"""A utility set against none: `data.utility: {from: custom}`, and the simplest thing, base minus degraded loss.

    python -m studies.spans.own demo:0 spliced:0    # what is missing of these, and its part of the page
    python -m studies.spans.own                     # that part of docs/spans.md from what is there

Two runs of each: one as the study has it, with its utility set, and one to which it is not shown. Judged are the
response tokens of the rows that both score; ``own.json`` keeps what was measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from studies.provenance import code_version
from studies.spans.part import kept, measure_missing, write_part
from studies.spans.profile import judged_tokens
from studies.spans.quality import Ranking, Resamples
from studies.spans.settings import CORPORA, run_config

import tosslm
from tosslm.errors import TosslmError
from tosslm.model.base import Base, open_base
from tosslm.progress import ConsoleReporter
from tosslm.quiet import quiet_libraries
from tosslm.ragged import split_rows
from tosslm.runs.tables import read_losses, stored_rows
from tosslm.selection.kinds import KINDS, Known

RESULTS = Path(__file__).parent / "own.json"
PAGE = Path("docs/spans.md")
BEGIN, END = "<!-- without a utility set -->", "<!-- end of the utility set -->"
DRAWS = 500
MEASURES = ("auroc", "average_precision")
PLAIN = "base loss - degraded loss"
PLAIN_POSTERIOR = f"{PLAIN}: posterior"
LABELS = {
    "utility set: token score": "token score, utility set",
    "from custom: token score": "token score, `from: custom`",
    PLAIN: "base loss - degraded loss, no utility reference",
    "utility set: posterior": "posterior, utility set",
    "from custom: posterior": "posterior, `from: custom`",
    PLAIN_POSTERIOR: "posterior of base loss - degraded loss, no utility reference",
}
_HEAD = """## Without a utility set

Written by `python -m studies.spans.own`. With `data.utility: {{from: custom}}` rows of the custom set stand in for a
utility set ([Choosing references](references.md#no-utility-set)). One row of the table is one signal on the tokens
that runs with and without a utility set both score, seed {seeds}; intervals hold 95% of {draws} draws of rows, and
*more than base* is the difference to the line of its kind that has no utility reference, over the same draws. The
posterior of that line is learnt from the held-out rows of the run with `from: custom`.

| | signal | AUROC | AP | AUROC, more than base | AP, more than base |
|---|---|---|---|---|---|
"""


def _run(corpus: str, seed: int, name: str, **data: Any) -> tuple[tosslm.Run, str | None]:
    """A run up to its selection, and why there is no posterior where its evidence is refused."""
    tree = run_config(corpus, seed) | {"refinement": {"rounds": 0}}
    tree |= {"run_dir": f"{tree['run_dir']}-{name}", "data": tree["data"] | data}
    reporter = ConsoleReporter()
    scored = tosslm.run(tree, until="score", reporter=reporter)
    try:
        return tosslm.run(tree, until="select", reporter=reporter), None
    except TosslmError as error:
        return scored, str(error)


def _signals(run: tosslm.Run, refused: str | None) -> dict[str, dict[str, np.ndarray]]:
    """Token scores, degraded losses and, unless it was refused, log-odds; of each row, by its id."""
    parts = list(read_losses(run.scores_folder()))
    ids = [row_id for part in parts for row_id in part[0]]
    lengths, utility, degraded = (np.concatenate([part[i] for part in parts]) for i in (1, 2, 3))
    found = {"token score": utility - degraded, "degraded": degraded}
    if refused is None:
        found["posterior"] = np.concatenate(run.evidence())
    return {name: dict(zip(ids, split_rows(values, lengths.tolist()), strict=True)) for name, values in found.items()}


def measure(corpus: str, seed: int) -> dict[str, Any]:
    """What each signal is worth, with intervals over rows, and what each run drops."""
    code = code_version()
    with_set, refused = _run(corpus, seed, "utility-set")
    of_custom, refused_too = _run(corpus, seed, "own-utility", utility={"from": "custom"})
    own, other = _signals(of_custom, refused_too), _signals(with_set, refused)
    rows = of_custom.rows
    base = open_base(of_custom.config.model)
    losses = np.concatenate(tosslm.response_losses(base.model, rows))
    values = {PLAIN: losses - np.concatenate([own["degraded"][row_id] for row_id in rows["row_id"]])}
    if refused_too is None:
        values[PLAIN_POSTERIOR] = _posterior(of_custom, base, values[PLAIN])
    for told, signals in (("utility set", other), ("from custom", own)):
        for name in {"token score", "posterior"} & set(signals):
            values[f"{told}: {name}"] = np.concatenate([signals[name][row_id] for row_id in rows["row_id"]])
    inside, marked, lengths = judged_tokens(corpus, rows)
    _, numbers = np.unique(np.repeat(np.arange(len(lengths)), lengths)[inside], return_inverse=True)
    unsafe, draws = marked[inside], Resamples.draw(int(numbers[-1]) + 1, DRAWS)
    curves = {name: draws.of(Ranking(unsafe, one[inside], numbers)) for name, one in values.items()}
    facts = {"base": base.identity, "code": code, "rows": int(numbers[-1]) + 1, "tokens": len(unsafe)}
    return facts | {
        "marked": float(unsafe.mean()),
        "signals": {name: _quality(one, curves[_control(name, curves)]) for name, one in curves.items()},
        "dropped": {
            told: _dropped(corpus, run, set(rows["row_id"]))
            for told, run, why in (("utility set", with_set, refused), ("from custom", of_custom, refused_too))
            if why is None
        },
        "refused": {"utility set": refused, "from custom": refused_too},
        "trusted": _trusted(of_custom),
    }


def _control(name: str, curves: Mapping[str, np.ndarray]) -> str:
    """The signal of the same kind that has no utility reference."""
    return PLAIN_POSTERIOR if name.endswith("posterior") and PLAIN_POSTERIOR in curves else PLAIN


def _posterior(run: tosslm.Run, base: Base, scores: np.ndarray) -> np.ndarray:
    """Log-odds as selection learns them, with the base in the place of the utility reference."""
    layout = run.layout
    columns = ("row_id", "input_ids", "response_mask")
    read = {row["row_id"]: row for name in ("harmful", "utility") for row in stored_rows(layout.rows(name), columns)}
    held = list(stored_rows(layout.heldout(0)))
    plain = tosslm.response_losses(base.model, [read[row["row_id"]] for row in held])
    found: dict[str, list[np.ndarray]] = {"harmful": [], "utility": []}
    for row, losses in zip(held, plain, strict=True):
        found[row["set"]].append(losses - np.asarray(row["loss_degraded"], dtype=np.float32))
    lengths = np.array([sum(mask) for mask in run.rows["response_mask"]])
    learn = KINDS["posterior"].learn
    assert learn is not None
    _, log_odds = learn(Known(found, scores, lengths, run.config.seed, 1))
    return log_odds(scores, lengths)


def _quality(own: np.ndarray, base: np.ndarray) -> dict[str, Any]:
    """Value and interval of each measure, and the same of what it is more than the base's."""
    return {
        measured: {
            "value": [float(one[0]), *_interval(one)],
            "more_than_base": [float((one - other)[0]), *_interval(one - other)],
        }
        for measured, one, other in zip(MEASURES, own, base, strict=True)
    }


def _interval(values: np.ndarray) -> list[float]:
    return [float(end) for end in np.quantile(values[1:], [0.025, 0.975])]


def _dropped(corpus: str, run: tosslm.Run, shared: set[str]) -> dict[str, float]:
    """Shares of the marked and of the other tokens that go, over the rows that both runs score."""
    rows = run.rows
    inside, marked, lengths = judged_tokens(corpus, rows)
    both = inside & np.repeat([row_id in shared for row_id in rows["row_id"]], lengths)
    gone = ~np.concatenate(run.keep())
    return {"marked": float(gone[both & marked].mean()), "others": float(gone[both & ~marked].mean())}


def _trusted(run: tosslm.Run) -> dict[str, dict[str, int]]:
    """Rows of each group that stay after the trim, and how many of them have marked text."""
    groups = json.loads(run.layout.trusted.read_text(encoding="utf-8"))["groups"]
    rows = stored_rows(run.layout.rows("utility"), ["row_id", "unsafe_spans"])
    spans = {row["row_id"]: row["unsafe_spans"] for row in rows}
    return {
        name: {
            "of": group["of"],
            "rows": len(group["row_ids"]),
            "marked": sum(bool(spans[row_id]) for row_id in group["row_ids"]),
        }
        for name, group in groups.items()
    }


def section(results: dict[str, Any]) -> str:
    """The part of the page that tells of it."""
    lines, told = [], []
    for key in sorted(results):
        corpus, result = CORPORA[key.partition(":")[0]].title, results[key]
        for name, label in LABELS.items():
            if quality := result["signals"].get(name):
                cells = [_cell(quality[one]["value"]) for one in MEASURES]
                cells += [
                    "" if name in (PLAIN, PLAIN_POSTERIOR) else _cell(quality[one]["more_than_base"], "+")
                    for one in MEASURES
                ]
                lines.append(f"| {corpus} | {label} | {' | '.join(cells)} |")
        told.append(_told(corpus, result))
    seeds = ", ".join(sorted({key.partition(":")[2] for key in results}))
    head = _HEAD.format(seeds=seeds, draws=DRAWS)
    return "\n".join([BEGIN, head + "\n".join(lines), "", *told, END]) + "\n"


def _told(corpus: str, result: dict[str, Any]) -> str:
    trusted = result["trusted"].values()
    said = [
        f"{corpus}: {result['tokens']:,} tokens in {result['rows']:,} rows, {result['marked']:.1%} marked. Of "
        f"{sum(one['of'] for one in trusted)} rows that stand in, {sum(one['rows'] for one in trusted)} stay after "
        f"the trim, {sum(one['marked'] for one in trusted)} of them with marked text."
    ]
    for name, dropped in result["dropped"].items():
        said.append(
            f"`auto` drops {dropped['marked']:.1%} of the marked tokens and {dropped['others']:.1%} of the others "
            + ("with the utility set." if name == "utility set" else "with `from: custom`.")
        )
    said += [f"The posterior is refused ({name}): {why}" for name, why in result["refused"].items() if why]
    return " ".join(said) + "\n"


def _cell(value: list[float], sign: str = "") -> str:
    return f"{value[0]:{sign}.3f} [{value[1]:{sign}.3f}, {value[2]:{sign}.3f}]"


def main() -> None:
    """Measure what is missing, and write results and the part of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="CORPUS:SEED")
    quiet_libraries()
    measure_missing(RESULTS, parser.parse_args().runs, measure)
    if results := kept(RESULTS):
        write_part(PAGE, BEGIN, END, section(results))


if __name__ == "__main__":
    main()
