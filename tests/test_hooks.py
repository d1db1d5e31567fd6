"""What a method may do around training steps, to the trained weights, and from a package of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from conftest import DEMO, demo_rows, write_rows
from support.dying import DyingReporter, KilledError
from test_training import base_of, make_rows
from tosslm.config import TrainingConfig
from tosslm.errors import InputError, TosslmError
from tosslm.methods import averaged, find_methods, registry, scaled
from tosslm.model.base import Base
from tosslm.progress import Reporter, SilentReporter
from tosslm.training.hooks import TrainingHook, Weights
from tosslm.training.labels import write_training_rows
from tosslm.training.train import Recipe, train_adapter

SETTINGS = {"learning_rate": 0.01, "epochs": 2, "batch_size": 4, "micro_batch_size": 2, "checkpoint_steps": 1}


def train(base: Base, folder: Path, reporter: Reporter | None = None, **recipe: Any) -> dict[str, np.ndarray]:
    train_adapter(
        base,
        write_training_rows(folder / "rows.arrow", make_rows(8)),
        Recipe(TrainingConfig.model_validate(SETTINGS), seed=3, **recipe),
        name="test",
        work=folder,
        out=folder / "out",
        notes={},
        reporter=reporter or SilentReporter(),
    )
    return load_file(folder / "out" / "adapter_model.safetensors")


class Watching(TrainingHook):
    """Keeps what happened when, and the trainable weights after each step."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.gradients: list[float] = []
        self.weights: list[dict[str, np.ndarray]] = []

    def begin(self, trainer: Any) -> None:
        self.told.append(("begin", 0))

    def before_step(self, trainer: Any, step: int) -> None:
        self.told.append(("before", step))
        assert all(weight.grad is None for weight in trainer.model.parameters())

    def before_update(self, trainer: Any, step: int) -> None:
        self.told.append(("update", step))
        norms = [weight.grad.norm() for weight in trainer.model.parameters() if weight.grad is not None]
        self.gradients.append(float(torch.stack(norms).norm()))

    def after_step(self, trainer: Any, step: int) -> None:
        self.told.append(("after", step))
        self.weights.append(trainable(trainer.model))

    def end(self, trainer: Any) -> None:
        self.told.append(("end", 0))


def trainable(model: Any) -> dict[str, np.ndarray]:
    return {
        name.replace(".default", ""): weight.detach().numpy().copy()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


def test_a_hook_is_called_around_every_step_with_the_gradients_there(tiny_model_folder: Path, tmp_path: Path) -> None:
    hook = Watching()
    base = base_of(tiny_model_folder)
    made = train(base, tmp_path / "watched", hook=hook)
    rounds = [(when, step) for step in range(1, 5) for when in ("before", "update", "after")]
    assert hook.told == [("begin", 0), *rounds, ("end", 0)]
    assert all(0 < norm <= 1.0001 for norm in hook.gradients)  # clipped to max_grad_norm
    plain = train(base, tmp_path / "plain")
    assert all(np.array_equal(made[name], plain[name]) for name in plain)  # who only watches changes nothing
    assert all(np.array_equal(hook.weights[-1][name], plain[name]) for name in plain)


def test_a_hook_that_projects_gradients_away_stops_the_training(tiny_model_folder: Path, tmp_path: Path) -> None:
    class Stopping(TrainingHook):
        def before_update(self, trainer: Any, step: int) -> None:
            for weight in trainer.model.parameters():
                if weight.grad is not None:
                    weight.grad.zero_()

    made = train(base_of(tiny_model_folder), tmp_path, hook=Stopping())
    assert all(not value.any() for name, value in made.items() if "lora_B" in name)


def test_the_averaged_adapter_is_the_mean_over_steps(tiny_model_folder: Path, tmp_path: Path) -> None:
    base, hook = base_of(tiny_model_folder), Watching()
    train(base, tmp_path / "plain", hook=hook)
    made = train(base, tmp_path / "averaged", hook=averaged.Averaging())
    for name, value in made.items():
        np.testing.assert_allclose(
            value, np.mean([weights[name] for weights in hook.weights], axis=0), rtol=1e-4, atol=1e-9
        )


def test_a_training_with_a_hook_that_was_killed_starts_over(tiny_model_folder: Path, tmp_path: Path) -> None:
    """What the hook had gathered is gone with the process, so a checkpoint would go on with half of it."""
    base = base_of(tiny_model_folder)
    whole = train(base, tmp_path / "whole", hook=averaged.Averaging())
    with pytest.raises(KilledError):
        train(base, tmp_path / "killed", reporter=DyingReporter(2))  # leaves a checkpoint
    assert list((tmp_path / "killed/checkpoints").glob("checkpoint-*"))
    hook = averaged.Averaging()
    made = train(base, tmp_path / "killed", hook=hook)
    assert all(np.array_equal(made[name], whole[name]) for name in whole)


def test_the_scaled_adapter_moves_the_model_by_so_much_less(tiny_model_folder: Path, tmp_path: Path) -> None:
    base = base_of(tiny_model_folder)
    plain, made = train(base, tmp_path / "plain"), train(base, tmp_path / "scaled", after=scaled.scaled)
    products = {name.replace("lora_A", "lora_?"): name for name in plain if "lora_A" in name}
    assert products
    for pair, first in products.items():
        second = pair.replace("lora_?", "lora_B")
        update, less = (one[second] @ one[first] for one in (plain, made))
        np.testing.assert_allclose(less, scaled.SCALE * update, rtol=1e-5, atol=1e-8)


def test_weights_that_do_not_fit_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    def halved(weights: Weights) -> Weights:
        return {name: weight[:1] for name, weight in weights.items()}

    with pytest.raises(TosslmError, match="gave back other weights"):
        train(base_of(tiny_model_folder), tmp_path, after=halved)


PACKAGE = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "frugal-methods"
version = "1.0"
[project.entry-points."tosslm.methods"]
frugal = "frugal:METHODS"
[tool.setuptools]
py-modules = ["frugal"]
""",
    "frugal.py": '''
"""Keeps every other token, and halves the adapter."""
import numpy as np
from tosslm.methods.method import Method

def every_other(material):
    return np.arange(int(material.lengths.sum())) % 2 == 0

def halved(weights):
    return {name: weight / 2 if ".lora_B." in name else weight for name, weight in weights.items()}

METHODS = [Method("frugal", summary="keeps every other token", source="none", badge="control",
                  builds_on="data", choose=every_other, after=halved)]
''',
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a small package with a method is installed."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name, text in PACKAGE.items():
        (source / name).write_text(text)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, capture_output=True)
    return target


def toss(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = f"import sys; sys.path.insert(0, {str(installed)!r}); from tosslm.cli import main; main()"
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.long
def test_a_package_of_ones_own_adds_a_method(installed: Path, tmp_path: Path, tiny_model_folder: Path) -> None:
    for name, count in (("custom", 8), ("harmful", 4), ("utility", 4)):
        write_rows(tmp_path / f"{name}.jsonl", demo_rows(name, count))
    config = {
        "run_dir": str(tmp_path / "run"),
        "model": {"name": str(tiny_model_folder), "dtype": "float32", "device": "cpu"},
        "data": {name: {"path": str(tmp_path / f"{name}.jsonl")} for name in ("custom", "harmful", "utility")},
        "selection": {"evidence": "token", "discard_fraction": 0.1},
        "finetune": {**SETTINGS, "epochs": 1},
        "evaluation": {"safe": {"path": str(DEMO / "data/prompts.jsonl"), "limit": 1}, "max_new_tokens": 1},
    }
    (tmp_path / "toss.yaml").write_text(yaml.safe_dump(config))
    assert "frugal: keeps every other token" in toss(installed, "compare", "x", "--methods", "help").stdout
    done = toss(installed, "compare", str(tmp_path / "toss.yaml"), "--methods", "sft,frugal", "--json")
    assert done.returncode == 0, done.stderr
    assert [record["method"] for record in json.loads(done.stdout)["records"]] == ["sft", "frugal"]
    folder = tmp_path / "run/compare/frugal/seed-0"
    told = json.loads((folder / "selection/selection.json").read_text())
    assert told["method"] == "frugal"
    assert told["discarded"] == told["tokens"] // 2
    # Without the package the folder is refused, not taken for plain TOSS.
    lost = subprocess.run(
        [sys.executable, "-m", "tosslm", "run", str(folder)], capture_output=True, text=True, check=False
    )
    assert lost.returncode == 2
    assert "method: 'frugal' is unknown" in lost.stderr


def test_a_package_that_takes_a_known_name_is_refused(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "frugal.py").write_text((installed / "frugal.py").read_text().replace('"frugal"', '"sft"'))
    for info in installed.glob("*.dist-info"):
        (tmp_path / info.name).symlink_to(info)
    refused = toss(tmp_path, "compare", "x", "--methods", "help")
    assert refused.returncode == 2
    assert "a method 'sft' is there already" in refused.stderr


def test_every_method_says_where_it_is_from_and_how_true_it_is() -> None:
    for name, method in registry().items():
        assert (method.name, bool(method.summary), bool(method.source)) == (name, True, True)
        assert method.badge in ("faithful", "variant", "simplified", "control", "own")
        if method.badge in ("variant", "simplified"):
            assert method.differs != "nothing"
    with pytest.raises(InputError, match="no method tos"):
        find_methods(["tos"])
