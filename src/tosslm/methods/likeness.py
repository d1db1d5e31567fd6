"""How like unsafe and how like safe examples a text is, in the hidden states of the aligned base.

What LARF and DataShield share: examples of both kinds, the layer at which the base decides to refuse, and the
comparison there. No degraded model is needed. Torch is imported where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tosslm.files import read_batches
from tosslm.methods.needs import read_safety, safety_parts
from tosslm.runs.tables import reference_rows, row_ids

if TYPE_CHECKING:
    from tosslm.workbench import Workbench

EXAMPLES = 100
"""Of each kind, at most; as many as LARF's authors take."""
PROBES = 16
"""Examples of each kind that are read twice for every layer, at most."""
SCALE_STEP = 0.2
"""A layer is made stronger and weaker by so much; LARF's authors look at 0.1, 0.2 and 0.3."""

Cut = Callable[[np.ndarray], np.ndarray]
"""Spans of a row, int ``[S, 2]`` (the first token of each, and the one after its last), of its response mask."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows with ``input_ids`` and ``response_mask``, each with a response token.

    Attributes:
        unsafe: unsafe answers.
        safe: safe answers to unsafe requests.
        useful: useful answers.
    """

    unsafe: Sequence[Mapping[str, Any]]
    safe: Sequence[Mapping[str, Any]]
    useful: Sequence[Mapping[str, Any]]


def unsafe_direction(unsafe: np.ndarray, safe: np.ndarray) -> np.ndarray:
    """From the safe states to the unsafe ones: float64 ``[H]``, the difference of their means at length 1.

    Args:
        unsafe: ``[U, H]``, at least one.
        safe: ``[V, H]``, at least one.
    """
    return np.asarray(_unit(unsafe).mean(0) - _unit(safe).mean(0))


def unsafe_likeness(states: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Mean cosine similarity to unsafe states, less that to safe ones (LARF, arXiv 2507.18631).

    Args:
        states: ``[S, H]``.
        direction: ``[H]``, by ``unsafe_direction``.

    Returns:
        float64 ``[S]``, from -2 to 2; high is like the unsafe ones.

    Examples:
        >>> direction = unsafe_direction(unsafe=np.array([[3.0, 0.0]]), safe=np.array([[0.0, 5.0]]))
        >>> unsafe_likeness(np.eye(2), direction).tolist()
        [1.0, -1.0]
    """
    return np.asarray(_unit(states) @ direction)


def most_sensitive(stronger: np.ndarray, weaker: np.ndarray) -> int:
    """The layer with which refusing gains most (LARF, arXiv 2507.18631).

    Args:
        stronger: ``[L]``, how much refusing is preferred where a layer is made stronger.
        weaker: ``[L]``, the same where it is made weaker.

    Returns:
        The first layer with the greatest difference, from 0. What a change of either sign spoils falls out of it.
    """
    return int(np.argmax(stronger - weaker))


def read_examples(bench: Workbench) -> Examples:
    """Examples of a run, at most ``EXAMPLES`` of each kind, drawn by the seed.

    Safe ones are rows of ``compare.safety``; unsafe and useful ones are rows of the harmful and the utility set, from
    the part that references learn from.

    Raises:
        InputError: there is no safe one, or one is bad.
    """
    random = np.random.default_rng(bench.config.seed)
    unsafe, useful = (_drawn_rows(bench, name, random) for name in ("harmful", "utility"))
    rows = read_safety(bench.config, bench.reporter.say)
    tokens = [bench.tokenizer(rows[i].messages, context=rows[i].context) for i in _drawn(len(rows), random)]
    safe = [{"input_ids": row.input_ids, "response_mask": row.response_mask} for row in tokens]
    return Examples(unsafe, safe, useful)


def sensitive_layer(bench: Workbench, examples: Examples) -> int:
    """The layer of the base whose strength bears most on refusing, from 0; every layer is tried."""
    from tosslm.model.layers import decoder_layers, scaled_layer

    model = bench.base.model
    unsafe, safe = _spread(examples.unsafe), _spread(examples.safe)
    layers = range(len(decoder_layers(model)))
    factors = (1 + SCALE_STEP, 1 - SCALE_STEP)
    margins = np.zeros((len(factors), len(layers)))
    with bench.reporter.task("safety-sensitive layer", margins.size) as task:
        for layer in layers:
            for row, factor in enumerate(factors):
                with scaled_layer(model, layer, factor):
                    margins[row, layer] = _refusal_margin(bench, unsafe, safe)
                task.advance(1, 0)
    found = most_sensitive(*margins)
    bench.reporter.say(f"safety-sensitive layer: {found}, of {len(layers)} from 0")
    return found


def span_likeness(bench: Workbench, cut: Cut, *, useful_too: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each custom row's spans, and how like unsafe examples each is in the base's safety-sensitive layer.

    Rows are read as a stream; of each only its spans' values stay.

    Args:
        bench: of the run.
        cut: makes spans, of rows and of examples alike.
        useful_too: whether useful answers stand among the safe ones.

    Yields:
        int ``[S, 2]`` and float64 ``[S]``.
    """
    examples = read_examples(bench)
    layer = sensitive_layer(bench, examples)
    unsafe, safe = (
        np.concatenate([states for _, states in _states(bench, rows, cut, layer)])
        for rows in (examples.unsafe, [*examples.safe, *(examples.useful if useful_too else ())])
    )
    direction, path = unsafe_direction(unsafe, safe), bench.layout.rows("custom")
    with bench.reporter.task("hidden states", len(row_ids(path))) as task:
        for rows in read_batches(path, ("input_ids", "response_mask"), bench.config.scoring.rows_per_part):
            for spans, states in _states(bench, rows, cut, layer, task.advance):
                yield spans, unsafe_likeness(states, direction)


def likeness_parts(bench: Workbench) -> list[Any]:
    """What a result depends on that compares with examples, beside the data."""
    return [bench.base.identity, bench.config.references.holdout, *safety_parts(bench)]


def _refusal_margin(
    bench: Workbench, unsafe: Sequence[Mapping[str, Any]], safe: Sequence[Mapping[str, Any]]
) -> float:
    """How much likelier safe answers are than unsafe ones, in nats a token: a difference of means over rows."""
    from tosslm.model.losses import response_losses

    tokens = bench.config.scoring.batch_tokens
    means = [
        np.mean([losses.mean() for losses in response_losses(bench.base.model, rows, batch_tokens=tokens)])
        for rows in (unsafe, safe)
    ]
    return float(means[0] - means[1])


def _states(
    bench: Workbench,
    rows: Sequence[Mapping[str, Any]],
    cut: Cut,
    layer: int,
    advance: Callable[[int, int], None] | None = None,
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Spans of each row, int ``[S, 2]``, and their mean states, float32 ``[S, H]``."""
    from tosslm.model.layers import layer_states

    spans = [cut(np.asarray(row["response_mask"], dtype=bool)) for row in rows]
    tokens = bench.config.scoring.batch_tokens
    return zip(
        spans, layer_states(bench.base.model, rows, spans, layer, batch_tokens=tokens, advance=advance), strict=True
    )


def _drawn_rows(bench: Workbench, name: str, random: np.random.Generator) -> list[dict[str, Any]]:
    """Drawn rows of a reference set, never held-out ones; no more than those are in memory."""
    path, share = bench.layout.rows(name), bench.config.references.holdout
    ids = [row["row_id"] for row in reference_rows(path, share, want_held_out=False, columns=("row_id",))]
    drawn = {ids[i] for i in _drawn(len(ids), random)}
    return [row for row in reference_rows(path, share, want_held_out=False) if row["row_id"] in drawn]


def _drawn(count: int, random: np.random.Generator) -> list[int]:
    """Numbers below ``count``, in order: all of them, or ``EXAMPLES`` drawn ones."""
    return sorted(random.permutation(count)[:EXAMPLES].tolist())


def _spread(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """At most ``PROBES`` of the rows, from beginning to end: a file's first ones are often of one kind."""
    return rows[:: math.ceil(len(rows) / PROBES)]


def _unit(states: np.ndarray) -> np.ndarray:
    """States, ``[S, H]``, at length 1, float64."""
    wide = states.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.finfo(np.float64).tiny))
