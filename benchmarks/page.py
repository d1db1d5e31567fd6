"""The page of performance, written from what the benchmarks measured.

    python -m benchmarks.page

A benchmark has a part in it by a file in ``benchmarks/results`` and a function ``section`` that makes text of it, and
one below that by each file of another kind of processor; scoring, measured by two, has ``scoring_page``.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from benchmarks import scoring_page
from benchmarks.measuring import RESULTS, VECTORS, kept

from tosslm.files import write_text

PAGE = Path(__file__).parents[1] / "docs/performance.md"
ORDER = ("head", "cost", "anchor", "select_stage", "tuples", "selection", "evidence", "memory", "report")
_HEAD = """# Performance

Time and memory, each measured by a script of `benchmarks/` that anyone can run again: `make bench` runs all of them, goes on where it was killed, and writes this page from `benchmarks/results/`. Where a processor multiplies bfloat16 over 100 times slower than float32, as those with AVX2 alone do, it leaves bfloat16 out and says so; figures of another kind of processor stand beside those that are there. Figures are medians, with the lowest and the highest beside them; a section that measured once says so. A bar is what this project has set itself; where one is not met, it says so.
"""  # noqa: E501
_TAIL = """## The demo on two cores with AVX2

Wanted: `make demo` within 6 minutes; **not met**, by 5 min 58 s on a quick processor held to AVX2, and by 17 min 33 s on one that has AVX2 alone. Once, on two idle cores of the processor above, held to AVX2 by `ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2`, with `model: {dtype: float32}` in `configs/demo.yaml` (which `auto` chooses where there is AVX2 alone), in a fresh clone of commit `5365951` with its environment made beforehand: 11 min 58 s. By the manifests: both references 106 s, scores 41 s, fine-tuning 57 s, diagnosis 29 s, all of `toss run` 236 s; then, for the comparison, answers and losses of base and three models 124 s, fine-tunings of three methods 132 s, TOSS-Pro's round 86 s, and start-up, loading and the report the rest. In bfloat16 the same takes 5 min 23 s with the install. The run alone is within the bar, the comparison with plain fine-tuning and the paper's way is what goes beyond it. Since then a comparison takes over the mask and model of the run where a method makes the very same, which spares the demo one of these three fine-tunings. A processor that has AVX2 alone (the EPYC of the other tables, two cores, otherwise idle, once, commit `a78195c`, the environment made beforehand) took 23 min 33 s: `toss run` 7 min 37 s by its manifest ([its stages](scaling.md#how-near-it-comes) another time), fine-tunings of two more methods 2 min 47 s, TOSS-Pro's round 3 min 8 s, answers and losses of base and three models 5 min 4 s, the same of base and the run's own model once more for the report 2 min 28 s, and start-up, loading and signals the rest. Those 2 min 28 s are spared since then, for a run takes over what its comparison has measured; the whole was not timed again.

## What is not constant in the number of rows

- **The report, and the page of `toss review`,** hold some tens of bytes for each row while they are made, to choose the rows that they show among all, and no token; the table has how many. Tokens lie in files without a name in the run folder meanwhile, 16 bytes each, 4 more for each further ranking and 1 where people decided. The file itself stays below 25 MB. Of more than 200,000 marked tokens, the curve against marks rests on the upper 18 bits of each score.
- **Methods that choose tokens by themselves** are read part by part where the choice allows it. Not at all with the rows grow those that keep every token (`sft` and what trains otherwise on all of it, `sft-kl` with its even weights) and those that rank tokens by a value of their own (`first-k`, `degraded-only`, `utility-only`, whose cut is counted as TOSS's is). The others are handed the whole set as flat arrays, about 25 bytes a row, with scores another 8 a token, and give back a mask of a byte a token; texts are read from the disk as they are needed and not held. The two methods of the table were measured when they were still handed all rows and texts as lists; the same benchmark since, of 1,000, 10,000 and 100,000 rows: `random` 160, 169 and 222 MB, `dsir` 165, 163 and 169, `first-k` 160, 162 and 164, `rows` 164, 167 and 174. What more they hold, and why:
    - `random`: a permutation of all tokens, 8 bytes each, for a draw of exactly as many as the others drop.
    - `rows`: a mean score a row, to rank them; its scores stream.
    - `dsir`: the n-grams of all rows are counted before any row can be weighed, so the texts are read twice; a weight a row is held.
    - `oracle`: each row's source, so that it can say that none of them is a harmful one; `oracle-tokens`: a mark a token, for the same reason.
    - `larf`: a number a row to rank, from the base's hidden states, which stream; `datashield`: 8 bytes a token of the same.
    - `toss-soft`: its threshold is a ranking of all scores, and its weights are made of them in float64, some 40 bytes a token; `dr-sft`: the base's losses, which the model is asked for once, beside both references'.
    - `seal`: the token ids of all rows, 4 bytes each, since its batches are drawn from anywhere in the set, and a weight a row.
    - `star-dss`, `star-dss-hard`: every answer up to the end of each of its segments, as text, for the guard to read in batches of like length: the square of an answer's length.
    - Methods of other packages: what they hold themselves, unless they say by `EachRow`, `Ranked` or `RankedRows` that their choice can be made part by part ([Writing a method](api/methods.md)).
- **Reference sets** take an id a row, and their held-out rows are held whole; TOSS-Pro's rounds hold the ids of the rows that join.
- **Decisions by hand** are held, a byte for each token of the rows that they name.
- **Python's `Run.scores()`, `Run.keep()`, `Run.evidence()`, `Run.rows` and `masked_dataset`** load what they return; `Run.iter_scores()` and `Run.iter_evidence()` do not.
- **Parquet files that are written** keep what they know of each group of rows until they are closed, some tens of bytes a row in an export. Packs for Megatron-Bridge, each as long as many rows, are written 64 at a time.
- **`selection.scope: row`** streams, but asks NumPy row by row, so it is slow on many short rows.
"""  # noqa: E501


def page(results: Path = RESULTS) -> str:
    """The page's text, of the files of results that there are."""
    parts = [_HEAD, *([text] if (text := scoring_page.section(results)) else [])]
    for name in ORDER:
        for number, found in enumerate(kept(name, results)):
            text = import_module(f"benchmarks.{name}").section(found) + "\n"
            vectors = found["machine"]["vectors"]
            kind = VECTORS.get(vectors, "another processor")
            parts.append("#" + text.replace("\n", f", {kind}\n", 1) if number else text)
    return "\n".join([*parts, _TAIL])


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write_text(PAGE, page())
