"""What selection ranks: each token's own score, or its evidence in context, written beside the mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tosslm.config import SelectionConfig
from tosslm.errors import TosslmError
from tosslm.files import parquet_writer, read_batches, write_json
from tosslm.selection.chain import BOUNDS, learn_chain, passes
from tosslm.selection.evidence import ITERATIONS, LEAST_GAIN, START, TOLERANCE, Evidence, learn_evidence, window_means
from tosslm.stages.score import HELDOUT, read_scores

EVIDENCE = "evidence.parquet"
EVIDENCE_SCHEMA = pa.schema([("row_id", pa.string()), ("evidence", pa.list_(pa.float32()))])
LEARNING_TOKENS = 2_000_000
"""The chain of a larger custom set is learnt on about this many tokens of it, in rows drawn at random."""
Parts = Iterator[tuple[list[str], np.ndarray, np.ndarray]]
InContext = Callable[[np.ndarray, np.ndarray], np.ndarray]


def ranked_values(
    config: SelectionConfig, *, scores: Path, folder: Path, seed: int, step_fingerprint: str
) -> Callable[[], Parts]:
    """Work out what selection ranks.

    Args:
        config: which evidence.
        scores: folder of a round's parts.
        folder: where ``evidence.parquet`` and ``evidence.json`` go; for ``token`` they are removed.
        seed: of the rows that a chain is learnt on, where not all are taken.
        step_fingerprint: what the file is marked with.

    Returns:
        A function; each call streams row ids, the response tokens of each row, int64 ``[R]``, and the values of all
        their tokens, float32 ``[N]``, part by part.

    Raises:
        TosslmError: a score is not finite, or the references do not tell harm from use.
    """
    for name in (EVIDENCE, "evidence.json"):
        (folder / name).unlink(missing_ok=True)
    if config.evidence == "token":
        return lambda: finite_scores(scores)
    if config.evidence == "window":
        facts: dict[str, Any] = {"evidence": "window", "window": config.window}
        in_context: InContext = lambda part, lengths: window_means(part, lengths, config.window)  # noqa: E731
    else:
        facts, in_context = learn_posterior(scores, seed)
    with parquet_writer(folder / EVIDENCE, EVIDENCE_SCHEMA, step_fingerprint) as writer:
        for row_ids, lengths, part in finite_scores(scores):
            values = in_context(part, lengths).astype(np.float32)
            columns = {"row_id": row_ids, "evidence": np.split(values, np.cumsum(lengths)[:-1])}
            writer.write_table(pa.table(columns, schema=writer.schema))
    write_json(folder / "evidence.json", facts)
    return lambda: read_evidence(folder)


def read_evidence(folder: Path) -> Parts:
    """Stream evidence in context, as ``finite_scores`` streams scores."""
    with pq.ParquetFile(folder / EVIDENCE) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            lengths = pc.list_value_length(table["evidence"]).to_numpy().astype(np.int64)
            yield table["row_id"].to_pylist(), lengths, pc.list_flatten(table["evidence"]).to_numpy()


def finite_scores(scores: Path) -> Parts:
    """As ``read_scores``, but refuses a score that is no number.

    Raises:
        TosslmError: names row and response token.
    """
    for row_ids, lengths, part in read_scores(scores):
        finite = np.isfinite(part)
        if not finite.all():
            token = int(np.argmin(finite))
            row = int(np.searchsorted(np.cumsum(lengths), token, side="right"))
            place = token - int(lengths[:row].sum())
            raise TosslmError(
                f"row {row_ids[row]}, response token {place}: the score is {part[token]}; a reference computes no "
                "number there: train it with a lower learning_rate, or use model.dtype float32"
            )
        yield row_ids, lengths, part


def learn_posterior(scores: Path, seed: int, learning_tokens: int | None = None) -> tuple[dict[str, Any], InContext]:
    """Learn evidence from the held-out rows and the chain from the custom set, never from labels of the custom set.

    Args:
        scores: folder of a round's parts, with its held-out rows.
        seed: of the rows that the chain is learnt on, where not all are taken.
        learning_tokens: about how many tokens of the custom set the chain is learnt on; None for ``LEARNING_TOKENS``.

    Returns:
        What was learnt, for ``evidence.json``; and a function that takes the scores ``[N]`` of some rows and their
        lengths ``[R]`` and gives the posterior log-odds of unsafe, float64 ``[N]``.

    Raises:
        TosslmError: there are no held-out rows, or the references do not tell harm from use.
    """
    evidence = _held_out_evidence(scores / HELDOUT)
    part, lengths = _learning_rows(scores, seed, learning_tokens or LEARNING_TOKENS)
    fit = learn_chain(evidence(part), lengths, START, iterations=ITERATIONS, tolerance=TOLERANCE)
    chain = fit.chain

    def log_odds(part: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        filtered, ahead = passes(evidence(part), lengths, chain)
        return filtered + ahead

    facts = {
        "evidence": "posterior",
        **asdict(chain),
        "unsafe_share": chain.unsafe_share,
        "learnt_on": {"rows": len(lengths), "tokens": len(part), "seed": seed},
        "iterations": len(fit.log_likelihoods),
        "log_likelihood_per_token": fit.log_likelihoods[-1],
        "held_out": {
            "knots": evidence.knots.tolist(),
            "log_ratios": evidence.ratios.tolist(),
            "useful": evidence.useful.tolist(),
            "unsafe": evidence.unsafe.tolist(),
            "harmful_rows": asdict(evidence.chain),
            "iterations": len(evidence.log_likelihoods),
            "log_likelihood_per_token": evidence.log_likelihoods[-1],
            "gain": evidence.gain,
        },
        "start": asdict(START),
        "bounds": list(BOUNDS),
        "max_iterations": ITERATIONS,
        "tolerance": TOLERANCE,
    }
    return facts, log_odds


def _held_out_evidence(path: Path) -> Evidence:
    parts: dict[str, list[np.ndarray]] = {"harmful": [], "utility": []}
    for batch in read_batches(path, ["set", "loss_degraded", "loss_utility"]):
        for row in batch:
            losses = (np.asarray(row[f"loss_{name}"], dtype=np.float32) for name in ("utility", "degraded"))
            parts[row["set"]].append(np.subtract(*losses))
    for name, rows in parts.items():
        if not rows:
            raise TosslmError(
                f"selection.evidence: posterior learns from held-out rows, and the {name} set has none; raise "
                "references.holdout, or choose token or window"
            )
    lengths = np.array([len(row) for row in parts["harmful"]])
    evidence = learn_evidence(np.concatenate(parts["utility"]), np.concatenate(parts["harmful"]), lengths)
    if evidence.is_flat:
        raise TosslmError(
            f"selection.evidence: the references do not tell harm from use: on held-out rows their scores gain "
            f"{evidence.gain:.1f} nats, and chance alone may give {LEAST_GAIN:.0f}; train the references on more "
            "rows or with another learning_rate, raise references.holdout, or choose evidence token"
        )
    return evidence


def _learning_rows(scores: Path, seed: int, learning_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores ``[N]`` and row lengths ``[R]`` that the chain is learnt on."""
    total = sum(len(part) for _, _, part in read_scores(scores))
    rng = np.random.default_rng(seed)
    parts, kept_lengths = [], []
    for _, lengths, part in finite_scores(scores):
        chosen = rng.random(len(lengths)) * total < learning_tokens
        parts.append(part[np.repeat(chosen, lengths)])
        kept_lengths.append(lengths[chosen])
    return np.concatenate(parts), np.concatenate(kept_lengths)
