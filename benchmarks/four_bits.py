"""What a base in four bits costs: its loss on held-out rows, and how far scores and dropped tokens agree.

    python -m benchmarks.four_bits            # SmolLM2-135M on 60 rows of the demo, minutes; then docs/scaling.md
    python -m benchmarks.four_bits --write    # the table alone, from the results that there are

The demo's config, both references on some of its rows: of the base in bfloat16, of the same in NF4, and, to compare
with, of the base in bfloat16 with another seed, which changes the start of the adapters and the order of rows. Where
bfloat16 is left out (``measuring.left_out``) the loss of the base in float32 is all that is measured: NF4's products
are in bfloat16 too.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from benchmarks.measuring import LEFT_OUT, Results, folder_of, kept, lacking, left_out, parser_of, provenance_told
from benchmarks.sizes import PAGE, written

import tosslm
from tosslm.config import load_config
from tosslm.model.base import open_base
from tosslm.runs.tables import reference_rows

NAME, DEMO = "four_bits", Path(__file__).parents[1] / "configs" / "demo.yaml"
ROWS = {"custom": 20, "harmful": 20, "utility": 20}
HOLDOUT, DISCARD = 0.3, 0.1
WHOLE, NF4, SEED, WIDE = "bfloat16", "nf4", "bfloat16, another seed", "float32"
CASES: dict[str, dict[str, Any]] = {
    WIDE: {"dtype": "float32", "until": "data"},
    WHOLE: {},
    NF4: {"quantize": "nf4"},
    SEED: {"seed": 1},
}


def measured(
    quantize: str | None = None, seed: int = 0, dtype: str = "bfloat16", until: str = "score"
) -> dict[str, Any]:
    """Mean losses of the base on held-out rows, in nats a token, and the score of every custom token."""
    settings = [f"data.{name}.limit={count}" for name, count in ROWS.items()]
    settings += [f"seed={seed}", f"model.dtype={dtype}", "model.device=cpu", f"references.holdout={HOLDOUT}"]
    settings += [f"model.quantize={quantize}"] if quantize else []
    with TemporaryDirectory() as folder:
        run = tosslm.run(load_config(DEMO, settings, run_dir=folder), until=until)
        model = open_base(run.config.model).model
        losses = {}
        for name in ("harmful", "utility"):
            rows = list(reference_rows(run.layout.rows(name), HOLDOUT, want_held_out=True))
            found = np.concatenate(tosslm.response_losses(model, rows))
            losses[name] = {"rows": len(rows), "tokens": len(found), "nats": float(found.mean(dtype=np.float64))}
        scores = np.concatenate(run.scores()) if until == "score" else np.zeros(0)
    return {"base_losses": losses, "scores": [round(float(score), 4) for score in scores]}


def agreement(one: list[float], other: list[float]) -> dict[str, float]:
    """How far two choices from scores of the same tokens agree.

    Returns:
        ``spearman``, of the scores; ``dropped_by_both``, the share of what the one drops that the other drops too.

    Examples:
        >>> agreement([float(i) for i in range(10)], [*range(9), 8.5])
        {'spearman': 1.0, 'dropped_by_both': 1.0}
    """
    ranks = [np.argsort(np.argsort(scores, kind="stable")) for scores in (one, other)]
    dropped = [~tosslm.select_tokens(np.array(scores, dtype=np.float32), DISCARD) for scores in (one, other)]
    return {
        "spearman": round(float(np.corrcoef(ranks[0], ranks[1])[0, 1]), 4),
        "dropped_by_both": float((dropped[0] & dropped[1]).sum() / dropped[0].sum()),
    }


def section(results: dict[str, Any]) -> str:
    """What the page says of what was measured."""
    cases, wanted = results["cases"], results["settings"].get("cases", list(CASES))
    first = next((cases[name] for name in (WHOLE, NF4, SEED) if name in cases), None)
    counts = next(iter(cases.values()))["base_losses"]
    scored = (
        f"scores are those of {len(first['scores'])} custom tokens, of which {DISCARD:.0%} are dropped. "
        if first
        else ""
    )
    held = " and ".join(f"{counts[name]['rows']} {name} rows ({counts[name]['tokens']} tokens)" for name in counts)
    lines = [
        f"`python -m benchmarks.four_bits`: the demo's config on {ROWS['custom']} custom, {ROWS['harmful']} harmful "
        f"and {ROWS['utility']} utility rows, SmolLM2-135M-Instruct with the demo's safety adapter merged before it "
        f"is quantised. Losses of the base are means over the response tokens of held-out rows, {held}; {scored}"
        f"Each base is measured once.{'' if WHOLE in wanted else f' {LEFT_OUT}'}",
        "",
        f"| base | {' | '.join(f'loss, {name}, nats' for name in counts)} | scores against {WHOLE}: Spearman | "
        f"of the tokens that {WHOLE} drops, dropped too |",
        "|---" * (3 + len(counts)) + "|",
        *(_line(name, cases) for name in CASES if name in cases),
        "",
        provenance_told(results, lacking(results, wanted)),
    ]
    return "\n".join(lines) + "\n"


def _line(name: str, cases: dict[str, Any]) -> str:
    case = cases[name]
    found = ["-", "-"]
    if case["scores"] and name != WHOLE and WHOLE in cases:
        agreed = agreement(cases[WHOLE]["scores"], case["scores"])
        found = [f"{agreed['spearman']:.2f}", f"{agreed['dropped_by_both']:.0%}"]
    losses = [f"{of['nats']:.3f}" for of in case["base_losses"].values()]
    return f"| {' | '.join([name, *losses, *found])} |"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--write", action="store_true", help="only write the table of docs/scaling.md")
    args = parser.parse_args()
    if not args.write:
        cases = {WIDE: CASES[WIDE]} if left_out("bfloat16") else CASES
        settings = {"rows": ROWS, "holdout": HOLDOUT, "discard_fraction": DISCARD, "cases": list(cases)}
        results = Results(NAME, settings, folder_of(parser, args))
        for name, how in cases.items():
            results.measure(name, partial(measured, **how))
    told = "\n".join(map(section, kept(NAME)))
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), "four bits", told), encoding="utf-8")


if __name__ == "__main__":
    main()
