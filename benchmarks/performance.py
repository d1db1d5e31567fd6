"""Write the tables of ``docs/performance.md`` from what ``scoring.py`` and ``scoring_shares.py`` measured.

python -m benchmarks.performance        # reads benchmarks/measured/*.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
MEASURED = ROOT / "benchmarks" / "measured"
BEGIN, END = "<!-- measured -->", "<!-- end of measured -->"
BARS = {
    ("authors_over_ours", "float32"): 1.8,
    ("authors_over_ours", "bfloat16"): 3.0,
    ("products_over_ours", "float32"): 0.8,
    ("products_over_ours", "bfloat16"): 0.8,
}
"""What is wanted, by figure and dtype."""
SHARED_BAR = 2.5
MEANING = {
    "authors_over_ours": "authors' seconds / ours",
    "products_over_ours": "products' seconds / ours",
    "products_over_unshared": "products' seconds / ours, each row whole",
}


def found(pattern: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(MEASURED.glob(pattern))]


def told(ratio: dict[str, float], bar: float | None) -> str:
    verdict = "" if bar is None else f"{bar:g}, {'met' if ratio['median'] >= bar else 'not met'}"
    return f"{ratio['median']:.2f} | {ratio['lowest']:.2f} to {ratio['highest']:.2f} | {verdict}"


def scoring(run: dict[str, Any]) -> str:
    lines = [f"### {run['dtype']}", "", where(run), "", "| | median | spread | wanted |", "|---|---|---|---|"]
    for name, meaning in MEANING.items():
        lines.append(f"| {meaning} | {told(run[name], BARS.get((name, run['dtype'])))} |")
    seconds = ", ".join(f"{name} {sum(taken):.1f} s" for name, taken in run["seconds"].items())
    lines += [
        "",
        f"In all {seconds}; ours and the authors' losses at most {run['apart_authors']:.1e} nats apart.",
        "",
    ]
    return "\n".join(lines)


def sharing(runs: list[dict[str, Any]]) -> str:
    lines = ["### Shared beginnings", "", "| dtype | rows | speed, shared / whole | spread | wanted | nats apart |"]
    lines.append("|---|---|---|---|---|---|")
    for run in runs:
        rows = f"{run['rows']} of {run['shared']} + {run['own']} tokens"
        ratio = told(run["unshared_over_ours"], SHARED_BAR)
        lines.append(f"| {run['dtype']} | {rows} | {ratio} | {run['apart_unshared']:.1e} |")
    return "\n".join([*lines, "", *(where(run) for run in runs[:1]), ""])


def shares(runs: list[dict[str, Any]]) -> str:
    kinds = list(runs[0]["shares"])
    lines = ["### Where the time goes", "", "| | " + " | ".join(run["dtype"] for run in runs) + " |"]
    lines.append("|---|" + "---|" * len(runs))
    for kind in kinds:
        lines.append(f"| {kind} | " + " | ".join(f"{run['shares'][kind]:.0%}" for run in runs) + " |")
    return "\n".join([*lines, ""])


def where(run: dict[str, Any]) -> str:
    clock = "processor seconds" if run["clock"] == "process_time" else "seconds"
    return (
        f"{run['rows']} rows, {run['tokens']} tokens, {run['response_tokens']} of them responses, in {run['parts']} "
        f"parts; {clock}, {run['threads']} thread(s) of {run['processor']}, torch {run['versions']['torch']}, "
        f"transformers {run['versions']['transformers']}, commit {run['commit']}."
    )


def main() -> None:
    """Write the page anew."""
    parts = [*map(scoring, found("scoring-*.json")), sharing(found("sharing-*.json")), shares(found("shares-*.json"))]
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{chr(10).join(parts)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
