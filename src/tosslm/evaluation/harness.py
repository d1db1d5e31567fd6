"""Tasks of lm-eval on a model in memory, through lm-eval's own Python interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tosslm.errors import InputError
from tosslm.statistics import Interval

_HALF_WIDTH = 1.959964
"""Standard errors on each side of a mean that hold 95% of a normal distribution."""


def check_lm_eval() -> None:
    """Refuse at the door where lm-eval is not installed.

    Raises:
        InputError: it is not.
    """
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise InputError(
            f'evaluation.lm_eval: lm-eval cannot be imported ({error}); install it: pip install "tosslm[lm-eval]"'
        ) from None


def lm_eval_metrics(
    model: Any, tokenizer: Any, tasks: Sequence[str], *, batch_size: int = 16, limit: int | None = None, seed: int = 0
) -> dict[str, Interval]:
    """Every metric of the tasks that has a standard error.

    Args:
        model: a transformers causal LM, with adapters as they are set.
        tokenizer: its tokenizer.
        tasks: names of lm-eval's tasks or groups.
        batch_size: of its requests.
        limit: documents of each task.
        seed: of its few-shot examples.

    Returns:
        ``lm_eval/TASK/METRIC`` to value and 95% interval, from lm-eval's standard error.

    Raises:
        InputError: lm-eval is not installed, a task is unknown, or one has no such metric.
    """
    check_lm_eval()
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    language_model = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    try:
        found = lm_eval.simple_evaluate(
            model=language_model,
            tasks=list(tasks),
            limit=limit,
            log_samples=False,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except (KeyError, ValueError) as error:
        raise InputError(f"evaluation.lm_eval: {error}; `lm-eval ls tasks` lists the tasks") from error
    intervals = _intervals(found)
    for task in tasks:
        if task in found["results"] and not any(name.startswith(f"lm_eval/{task}/") for name in intervals):
            raise InputError(
                f"evaluation.lm_eval: {task} gave no metric with a standard error (it has "
                f"{', '.join(found['results'][task]) or 'none'}); raise evaluation.lm_eval_limit, or leave it out"
            )
    return intervals


def _intervals(found: Mapping[str, Any]) -> dict[str, Interval]:
    intervals: dict[str, Interval] = {}
    for task, values in found["results"].items():
        counts = found.get("n-samples", {}).get(task, {})
        n = int(counts.get("effective", values.get("sample_len", 0)))
        for key, value in values.items():
            metric, _, variant = key.partition(",")
            error = values.get(f"{metric}_stderr,{variant}")
            if isinstance(value, int | float) and isinstance(error, int | float):
                name = f"lm_eval/{task}/{metric}" + ("" if variant in ("", "none") else f",{variant}")
                reach = _HALF_WIDTH * error
                intervals[name] = Interval(float(value), value - reach, value + reach, n)
    return intervals
