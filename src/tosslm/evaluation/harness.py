"""Tasks of lm-eval on a model in memory, through lm-eval's own Python interface."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tosslm.errors import InputError
from tosslm.statistics import Interval

_LIST = "`lm-eval ls tasks` lists the tasks"
_HALF_WIDTH = 1.959964
"""Standard errors on each side of a mean that hold 95% of a normal distribution."""


def check_lm_eval(tasks: Sequence[str], limit: int | None = None) -> None:
    """Refuse at the door what is known without any task's data.

    Args:
        tasks: names of lm-eval's tasks or groups.
        limit: documents of each task.

    Raises:
        InputError: lm-eval is not installed, has no such task, or would give no standard error.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise InputError(
            f'evaluation.lm_eval: lm-eval cannot be imported ({error}); install it: pip install "tosslm[lm-eval]"'
        ) from None
    if limit == 1:
        raise InputError("evaluation.lm_eval_limit: one document has no standard error; set 2 or more, or null")
    known = set(TaskManager().all_tasks)
    if unknown := [task for task in tasks if task not in known]:
        raise InputError(f"evaluation.lm_eval: no task or group {unknown[0]!r}; {_LIST}")


def check_tasks(tasks: Sequence[str]) -> None:
    """Load the tasks, all those of a group, and their data, so that none is found missing after hours.

    Args:
        tasks: names of lm-eval's tasks or groups.

    Raises:
        InputError: one is not there, its data cannot be had, or it has no document.
    """
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    for asked in tasks:
        try:
            loaded = _single_tasks(manager, asked)
            empty = [name for name, task in loaded.items() if next(iter(task.eval_docs), None) is None]
        except Exception as error:  # lm-eval's, those of the data sets' library, the network's
            raise InputError(
                f"evaluation.lm_eval: {asked} cannot be loaded ({type(error).__name__}: {str(error)[:300]}); "
                f"{_LIST}; their data come from the Hugging Face Hub"
            ) from error
        if empty or not loaded:
            raise InputError(f"evaluation.lm_eval: {', '.join(empty) or asked} has no documents; leave it out")


def _single_tasks(manager: Any, asked: str) -> dict[str, Any]:
    """A task, or all of a group, by their names."""
    if hasattr(manager, "load"):
        return dict(manager.load([asked])["tasks"])
    return dict(_flat(manager.load_task_or_group([asked])))  # lm-eval up to 0.4.10


def _flat(loaded: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """The tasks of a mapping in which a group's own are a mapping."""
    for name, task in loaded.items():
        if isinstance(task, Mapping):
            yield from _flat(task)
        else:
            yield str(name), task


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
        InputError: a task is unknown, or one has no such metric.
    """
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
        raise InputError(f"evaluation.lm_eval: {error}; {_LIST}") from error
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
