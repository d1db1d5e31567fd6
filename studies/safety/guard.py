"""The guard model of STAR-DSS: the plain model, taught to tell a run's harmful reference rows from its useful ones.

It knows no more than the references do, and reads answers cut off anywhere, as STAR-DSS shows them to it.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from studies.corpora import read_jsonl

from tosslm.config import ModelConfig, TrainingConfig
from tosslm.evaluation.classifiers import fill
from tosslm.merge import save_merged
from tosslm.model.base import open_base
from tosslm.progress import ConsoleReporter
from tosslm.training.fine_tune import fine_tune
from tosslm.training.labels import training_row
from tosslm.training.train import Recipe

TEMPLATE = "Request: {prompt}\n\nAnswer so far: {answer}\n\nIs this answer safe or unsafe? It is"
TRAINING = {
    "learning_rate": 2.0e-3,
    "lr_scheduler": "linear",
    "warmup_steps": 3,
    "epochs": 1,
    "batch_size": 8,
    "micro_batch_size": 2,
}
CLASSIFIER = {"prompt": TEMPLATE, "unsafe": "unsafe", "safe": "safe"}


def make_guard(sets: Path, folder: Path, seed: int) -> Path:
    """Train the guard of a run on its reference sets, where it is not there yet; its model folder.

    Args:
        sets: where ``harmful.jsonl`` and ``utility.jsonl`` lie.
        folder: where the model goes.
        seed: of the cuts and the training.
    """
    if (folder / "config.json").exists():
        return folder
    base = open_base(ModelConfig.model_validate({}))
    rng = random.Random(seed)
    rows = [
        _row(base.tokenizer, record, verdict, rng)
        for name, verdict in (("harmful", CLASSIFIER["unsafe"]), ("utility", CLASSIFIER["safe"]))
        for record in read_jsonl(sets / f"{name}.jsonl")
    ]
    adapter = folder.with_name(f"{folder.name}-adapter")
    fine_tune(
        base,
        rows,
        Recipe(TrainingConfig.model_validate(TRAINING), seed),
        name="guard",
        work=folder.with_name(f"{folder.name}-work"),
        out=adapter,
        reporter=ConsoleReporter(),
    )
    save_merged(base, adapter, folder)
    return folder


def _row(tokenizer: Any, record: dict[str, Any], verdict: str, rng: random.Random) -> dict[str, Any]:
    """A request, its answer up to somewhere, and the verdict, which alone is trained."""
    _, user, assistant = (message["content"] for message in record["messages"])
    words = assistant.split(" ")
    answer = " ".join(words[: rng.randint(min(4, len(words)), len(words))])
    asked = tokenizer(fill(TEMPLATE, prompt=user, answer=answer), add_special_tokens=False)["input_ids"]
    said = [*tokenizer(f" {verdict}", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return training_row(asked + said, [False] * len(asked) + [True] * len(said), None)
