"""The part of the page of performance that tells of scoring, from what the two benchmarks of it measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS, VECTORS, lacking, provenance_told, spread

BARS = {
    ("authors", "float32"): 1.8,
    ("authors", "bfloat16"): 3.0,
    ("products", "float32"): 0.8,
    ("products", "bfloat16"): 0.8,
}
"""What is wanted of SmolLM2-135M: a way's seconds over ours, by dtype."""
LARGE_VOCABULARY_BAR = 3.0
"""What is wanted over the authors' way of a model with a vocabulary of 128,000 tokens or more."""
SHARED_BAR = 2.5
_HEAD = """## Scoring

Scoring reads every custom token twice, under two adapters: after the fine-tuning itself, most of the time that TOSS takes on a large set.

*The authors' way* reads each reference as a model by itself, four rows at a time in the order of the file, with logits at every position. *The products* are the linear layers on as many tokens as ours reads, each row up to its last response token and a beginning that rows share once, without padding, in batches like ours, and the head where a response token is predicted, in the same dtype; attention, norms and activations are not among them. All ways read the same rows of GSM8K in turns. With one thread seconds are those of the processor, so that other work on the machine counts less. Take the ratios, not the seconds.
"""  # noqa: E501
_LIMITS = """What the products alone would be, beside the authors' way, is the most that the processor allows where as many tokens are read: attention, norms and the rest would have to cost nothing. The adapters' own products are counted with the linear layers in the shares but not among *the products*. The bars were set by a processor with AMX, whose products are quicker beside all else; each table above names the processor that it is of. More than one thread was not measured.
"""  # noqa: E501
_TAIL = """### What is done

- A row is read up to its last response token, and the head runs only where one is predicted.
- No attention mask: rows are padded at their ends, where a causal model does not look.
- LoRA in the dtype of its layer. PEFT keeps adapters in float32 and, of a model in bfloat16, copies each input of an adapted layer to float32 and its output back. Adding an adapter to the layer's own weights would cost nothing, but in bfloat16 it loses the update: most of a small one is less than half of what a weight can be told apart by.
- On a CPU, attention by plain products in blocks of 64 tokens, and the softmax over the vocabulary a few positions at a time, 4 MB of them, which stay in the caches. PyTorch's fused attention reads bfloat16 more slowly there.
- What rows begin with in common is read once where that spares a quarter of a batch (on a CPU 256 tokens), and looked back at through the model's cache; a row that another one begins with costs nothing more. Not for models that keep a state other than attention's, whose rotary embeddings depend on the length of the text, or whose code is not transformers' own: those read each row whole. `share=False` of `tosslm.response_losses` switches it off.

Scores of one part depend on its rows and on `scoring.batch_tokens`, whoever computes them. In float32 losses stay within 1e-4 nats of those of rows read one at a time (`tests/test_reading.py`, `tests/test_losses.py`). In bfloat16 they differ by what bfloat16 rounds, {rounded}.

### What is not done

- Packing rows into one sequence: rows of a part lie sorted by length, so little of a batch is padding.
- Larger batches on a CPU than 1,024 tokens.
- Cross-entropy without logits for very large vocabularies: the head goes in chunks, so memory is bounded, but each chunk's logits are written and read once. [The loss from hidden states](#the-loss-from-hidden-states) has what other ways take on a CPU: compiled, the head would be up to a tenth quicker, for a C++ compiler on the user's machine. Apple's kernels for GPUs were never run.
- Fused norms and activations, which would need a compiler on the user's machine.
- Sharing has been measured on a CPU only, and [no GPU has been measured at all](scaling.md#never-run-anything-on-a-gpu).
"""  # noqa: E501
MEANING = {
    "authors": "authors' seconds / ours",
    "products": "products' seconds / ours",
}
GEMMA = "Gemma 3 270M"
PRODUCTS, ACTIVATION = "linear layers, head and adapters", "activation"
"""Two of the kinds that shares are of."""


def section(results: Path = RESULTS) -> str:
    """What was measured of scoring, in ``results/scoring``; nothing where nothing was."""

    def found(pattern: str) -> list[dict[str, Any]]:
        files = sorted((results / "scoring").glob(pattern))
        return [json.loads(path.read_text(encoding="utf-8")) for path in files]

    runs, shared, taken = (found(f"{name}-*.json") for name in ("scoring", "sharing", "shares"))
    if not runs:
        return ""
    tables = [*map(scoring, runs), *([sharing(shared)] if shared else []), *([shares(taken)] if taken else [])]
    return "\n".join([_HEAD, *tables, missed(runs, taken), _TAIL.replace("{rounded}", rounded([*runs, *shared]))])


def ratios(cases: Mapping[str, Any], over: str) -> dict[str, float]:
    """Of the parts: the seconds of a way over those of ours."""
    return spread([case["seconds"][over] / case["seconds"]["ours"] for case in cases.values()])


def lacks(run: dict[str, Any]) -> str:
    """What is lacking of the parts that the settings mean."""
    rows = run["settings"]["rows"]
    size = -(-rows // run["settings"]["parts"])
    return lacking(run, [f"rows {start} to {start + size}" for start in range(0, rows, size)])


def told(run: dict[str, Any], over: str, bar: float | None) -> str:
    """The ratios of a way over ours, and whether they are what is wanted; of a part of the rows nothing is judged."""
    ratio = ratios(run["cases"], over)
    met = f"not judged, {lacks(run)}" if lacks(run) else "met" if ratio["median"] >= (bar or 0) else "not met"
    verdict = "" if bar is None else f"{bar:g}, {met}"
    return f"{ratio['median']:.2f} | {ratio['low']:.2f} to {ratio['high']:.2f} | {verdict}"


def title(run: dict[str, Any]) -> str:
    """Model, dtype and kind of processor."""
    settings, vectors = run["settings"], run["machine"]["vectors"]
    model, processor = GEMMA if settings["gemma"] else None, VECTORS.get(vectors)
    return ", ".join(filter(None, (model, settings["dtype"], processor)))


def scoring(run: dict[str, Any]) -> str:
    """A model and dtype, with what the products alone would have made of the authors' seconds."""
    cases, bars = run["cases"], bars_of(run)
    lines = [f"### {title(run)}", "", where(run), "", "| | median | spread | wanted |", "|---|---|---|---|"]
    for name, meaning in MEANING.items():
        lines.append(f"| {meaning} | {told(run, name, bars.get(name))} |")
    names = next(iter(cases.values()))["seconds"]
    seconds = {name: sum(case["seconds"][name] for case in cases.values()) for name in sorted(names)}
    every = ", ".join(f"{name} {taken:.1f} s" for name, taken in seconds.items())
    lines += [
        "",
        f"In all {every}; ours and the authors' losses at most {apart(run):.1e} nats apart. The products "
        f"alone would be {alone(run):.2f} times as fast as the authors' way.{multiplied(run)}",
        "",
    ]
    return "\n".join(lines)


def multiplied(run: dict[str, Any]) -> str:
    """How many tokens the products multiplied, where ours reads fewer than rows have."""
    if not multiplies_more(run):
        known = [case["read"] for case in run["cases"].values() if "read" in case]
        return f" Ours read {sum(known):,} tokens, and as many were multiplied." if known else ""
    return (
        " These products multiplied what rows begin with in common once for each row, which ours reads once: more "
        "tokens than ours, so that they took longer than they had to, and ours compares too well with them."
    )


def multiplies_more(run: dict[str, Any]) -> bool:
    """Whether results are of before the products shared beginnings too; Gemma's rows share nothing worth a batch."""
    return not run["settings"]["gemma"] and not all("read" in case for case in run["cases"].values())


def bars_of(run: dict[str, Any]) -> dict[str, float]:
    """What is wanted of a run's model and dtype, by way."""
    dtype = run["settings"]["dtype"]
    if run["settings"]["gemma"]:
        return {"authors": LARGE_VOCABULARY_BAR}
    return {way: bar for (way, of), bar in BARS.items() if of == dtype}


def alone(run: dict[str, Any]) -> float:
    """How many times as fast as the authors' way the products alone would be, over all parts."""
    theirs, products = (
        sum(case["seconds"][way] for case in run["cases"].values()) for way in ("authors", "products")
    )
    return float(theirs / products)


def missed(runs: list[dict[str, Any]], taken: list[dict[str, Any]]) -> str:
    """The bars that are not met, and which kinds of operations have the largest shares there."""
    known = {title(one): one["cases"]["shares"] for one in taken}
    lines = []
    for run in runs:
        if lacks(run):
            lines.append(f"- {title(run)}: not judged, {lacks(run)}.")
            continue
        medians = {way: ratios(run["cases"], way)["median"] for way in MEANING}
        short = [
            f"{MEANING[way]} {medians[way]:.2f}, not {bar:g}"
            for way, bar in bars_of(run).items()
            if medians[way] < bar
        ]
        if short:
            beyond = alone(run) < bars_of(run)["authors"] and not multiplies_more(run)
            lines.append(
                f"- {title(run)}: {'; '.join(short)}. The products alone would be {alone(run):.2f} times as fast as "
                f"the authors' way{', and so miss the bar themselves' if beyond else ''}."
                f"{largest(known[title(run)]) if title(run) in known else ''}"
            )
    return "\n".join(["### What is not met", "", *(lines or ["Every bar is met."]), "", _LIMITS])


def largest(shares: dict[str, float]) -> str:
    """The two kinds beside the linear layers that take most."""
    named = sorted((kind for kind in shares if kind != PRODUCTS), key=lambda kind: -shares[kind])[:2]
    every = " and ".join(f"*{kind}* ({shares[kind]:.0%})" for kind in named)
    return f" Beside the linear layers ({shares[PRODUCTS]:.0%} of the time) most goes to {every}."


def rounded(runs: list[dict[str, Any]]) -> str:
    """How far that puts single tokens' losses apart, where it was measured."""
    found = [apart(run) for run in runs if run["settings"]["dtype"] == "bfloat16"]
    return (
        f"by which single tokens are up to {max(found):.1f} nats apart in the tables above"
        if found
        else "how far was not measured"
    )


def apart(run: dict[str, Any]) -> float:
    """The largest difference of two ways' losses, in nats."""
    return max(case["apart"] for case in run["cases"].values())


def sharing(runs: list[dict[str, Any]]) -> str:
    lines = ["### Shared beginnings", "", "| dtype | rows | speed, shared / whole | spread | wanted | nats apart |"]
    lines.append("|---|---|---|---|---|---|")
    for run in runs:
        settings, cases = run["settings"], run["cases"]
        rows = f"{sum(case['rows'] for case in cases.values())} of {settings['shared']} + {settings['own']} tokens"
        lines.append(f"| {title(run)} | {rows} | {told(run, 'unshared', SHARED_BAR)} | {apart(run):.1e} |")
    return "\n".join([*lines, "", "\n\n".join(dict.fromkeys(map(where, runs))), ""])


def shares(runs: list[dict[str, Any]]) -> str:
    kinds = list(runs[0]["cases"]["shares"])
    lines = ["### Where the time goes", "", "| | " + " | ".join(map(title, runs)) + " |"]
    lines.append("|---|" + "---|" * len(runs))
    for kind in kinds:
        found = [run["cases"]["shares"][kind] for run in runs]
        lines.append(f"| {kind} | " + " | ".join(f"{share:.0%}" for share in found) + " |")
    rows = sorted({run["settings"]["rows"] for run in runs})
    lines += [
        "",
        f"The first {' or '.join(map(str, rows))} rows of GSM8K, read once, as torch's profiler sees it.",
    ]
    return "\n".join([*lines, "", *sources(runs), ""])


def sources(runs: list[dict[str, Any]]) -> list[str]:
    """On what machine and from which code the runs are: one line where that is one, else one of each kind."""
    found: dict[str, list[str]] = {}
    for run in runs:
        found.setdefault(provenance_told(run), []).append(title(run))
    return list(found) if len(found) == 1 else [f"{'; '.join(names)}: {line}\n" for line, names in found.items()]


def where(run: dict[str, Any]) -> str:
    rows, tokens, responses = (
        sum(case[key] for case in run["cases"].values()) for key in ("rows", "tokens", "response_tokens")
    )
    clock = {case["clock"] for case in run["cases"].values()}
    told = "processor seconds" if clock == {"process_time"} else "seconds"
    return (
        f"{rows} rows, {tokens} tokens, {responses} of them responses, in {len(run['cases'])} parts; {told}. "
        f"{provenance_told(run, lacks(run))}"
    )
