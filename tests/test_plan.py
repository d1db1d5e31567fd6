"""What a run will take: counts worked out by hand, seconds, money, and the stages that a run then has."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmarks.plan import sections
from benchmarks.sizes import PAGE, SHAPES, planned, table, written
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner, Result

import tosslm
from tosslm.cli import app
from tosslm.config import Config, TrainingConfig, load_config
from tosslm.data.sets import SetCounts
from tosslm.diagnosis.causes import FIRST_TOKENS
from tosslm.errors import InputError
from tosslm.evaluation.workload import Asked
from tosslm.methods import settled
from tosslm.model.adapters import fresh_adapter
from tosslm.model.attention import block_attention
from tosslm.model.head import SplitHead
from tosslm.model.shape import Shape
from tosslm.pipeline import steps
from tosslm.plan import make_plan
from tosslm.planning.pace import Batches, Device, expected_pace
from tosslm.planning.sample import MOST, MicroBatch, RowSample, asked_at_once, mean_batch, micro_batches
from tosslm.planning.sizes import activation_bytes, training_bytes
from tosslm.planning.stages import assumed, stage_records, total
from tosslm.planning.work import OWN_TOKENS, Pace, Work, anchored_rows, begun, stage_work
from tosslm.progress import SilentReporter


def config_of(**sections: dict[str, Any]) -> Config:
    return load_config({"data": {name: {"path": name} for name in ("custom", "harmful", "utility")}, **sections})


def counts(rows: int, length: int, response: int) -> SetCounts:
    return SetCounts(rows=rows, tokens=rows * length, response_tokens=rows * response, longest=length)


SETS = {"custom": counts(100, 50, 20), "harmful": counts(40, 30, 10), "utility": counts(20, 60, 30)}
TRAINING = {"epochs": 3, "batch_size": 8, "micro_batch_size": 4}


def toss(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def work_of(config: Config, asked: Asked | None = None, anchored: float = 0.0) -> dict[str, Work]:
    return {one.stage: one for one in stage_work(config, SETS, SETS, asked or Asked(), anchored=anchored)}


def test_a_training_holds_no_more_rows_than_a_step_has() -> None:
    shape = Shape(parameters=0, layers=2, hidden=8, vocabulary=16, bytes_per_value=4)
    least, more = (
        training_bytes(TrainingConfig(batch_size=4, micro_batch_size=micro), SETS["custom"], shape)
        for micro in (4, 8)
    )
    assert more == least


def test_the_base_answers_as_many_tokens_as_a_plan_counts() -> None:
    assert OWN_TOKENS == FIRST_TOKENS


def test_the_work_of_each_stage_is_what_one_counts_by_hand() -> None:
    config = config_of(references=TRAINING | {"holdout": 0.25}, finetune=TRAINING)
    work = work_of(config, Asked(read=1000, written=240, steps=24), anchored=0.2)
    assert work["data"].base == {"tokenise": 100 * 50 + 40 * 30 + 20 * 60}
    # 30 harmful rows in micro-batches of 4 are 8, in batches of 8 are 4; 15 utility rows are 4 and 2; three epochs.
    assert work["references"].base == {"reference_batch": 3 * (8 + 4), "reference_step": 3 * (4 + 2)}
    assert work["references"].trained == 3 * (30 * 30 + 15 * 60)
    # Two references read the custom rows, and the held-out 10 harmful and 5 utility ones.
    assert work["score"].base == {"read": 2 * (5000 + 300 + 300)}
    assert work["finetune"].base["finetune_batch"] == pytest.approx(0.8 * 75)
    assert work["finetune"].base["anchored_batch"] == pytest.approx(0.2 * 75)
    assert work["finetune"].base["finetune_step"] == 3 * 13
    assert work["evaluate"].base == {"read": 2 * 1000, "answer_step": 2 * 24}
    # Three models on 15 held-out rows; half of 10 harmful prompts, of 20 tokens, are taken to be refused: those are
    # read with an answer and with the row's own, of 10.
    assert work["diagnose"].base == {"diverge": 45, "own_answer": 10, "read": 2 * 3 * 5 * (20 + min(10, OWN_TOKENS))}


def test_rounds_train_on_what_joined_and_read_again() -> None:
    rounds = {"rounds": 2, "samples_per_round": 12}
    work = work_of(config_of(references=TRAINING | {"holdout": 0.25}, refinement=rounds))
    # 30 harmful rows and 12, then 24 more: 42 and 54; in micro-batches of 4 that is 11 and 14, in batches 6 and 7.
    assert work["refine"].base == {
        "reference_batch": 3 * (11 + 14),
        "reference_step": 3 * (6 + 7),
        "read": 2 * (5000 + 300 + 300),
    }
    assert work["refine"].trained == 3 * (2 * 30 * 30 + (12 + 24) * 50)


def test_seconds_and_money_are_counts_at_a_pace_and_a_price() -> None:
    pace: Pace = {"read": 2.0, "load": 30.0}
    work = [Work("score", {"read": 1800}, read=1800), Work("diagnose", {"read": 900, "diverge": 0})]
    records = stage_records(begun(work), pace, {}, {"score": (9, 4), "diagnose": (9, 1)}, price=2.0)
    assert [record["seconds"] for record in records] == [3630, 1800]
    assert [record["cost"] for record in records] == [pytest.approx(2.0167, rel=1e-2), 1.0]
    assert total(records) == {"seconds": 5430, "disk_bytes": 5, "cost": pytest.approx(3.0167, rel=1e-2)}
    assert "cost" not in stage_records(work, pace, {}, {"score": (9, 4), "diagnose": (9, 1)})[0]


def test_libraries_and_weights_wait_for_the_first_stage_that_needs_them() -> None:
    config = config_of()
    first = {one.stage: one.base for one in begun(work_of(config).values())}
    assert (first["references"]["begin"], first["references"]["load"]) == (1, 1)
    assert not any("load" in units for stage, units in first.items() if stage != "references")
    # A proxy is loaded for the references, the base for the fine-tuning.
    apart = begun(stage_work(config, SETS, SETS, Asked(), anchored=0.0, proxied=True))
    assert {one.stage for one in apart if "load" in one.references} == {"references"}
    assert {one.stage for one in apart if "load" in one.base} == {"finetune"}


def test_how_many_rows_the_base_reads_again() -> None:
    custom, token = SETS["custom"], {"evidence": "token", "discard_fraction": 0.1}
    anchor = {"dropped": "anchor", "anchor_weight": 1.0, "anchor_first": 0}
    assert anchored_rows(config_of(finetune={"dropped": "ignore"}), custom) == 0
    assert anchored_rows(config_of(finetune=anchor), custom) == 0.5
    assert anchored_rows(config_of(finetune=anchor | {"anchor_first": 3}), custom) == 1
    # 20 response tokens, each dropped with a probability of a tenth.
    assert anchored_rows(config_of(finetune=anchor, selection=token), custom) == pytest.approx(1 - 0.9**20)
    assert anchored_rows(config_of(finetune=anchor, selection=token | {"discard_fraction": 0.0}), custom) == 0


def test_a_plan_says_what_it_assumes_and_leaves_out() -> None:
    pace: Pace = {"finetune_batch": 1.0, "anchored_batch": 2.0, "finetune_step": 0.0}
    finetune = TRAINING | {"dropped": "anchor", "anchor_weight": 1.0, "anchor_first": 0}
    config = config_of(finetune=finetune, evaluation={"lm_eval": ["hellaswag"]})
    said = " ".join(assumed(config, SETS["custom"], pace, own_work="seal"))
    assert "With none of them it takes 1 min 15 s, with all 2 min 30 s." in said
    assert "where 2.1 GB are enough for it; then the base reads in the first epoch alone" in said
    once = config_of(finetune=finetune | {"epochs": 1})
    assert "in the first epoch alone" not in " ".join(assumed(once, SETS["custom"], pace))
    assert "tasks of lm-eval are not counted" in said
    assert "the method seal" in said
    (alone,) = assumed(config_of(finetune={"dropped": "ignore"}), SETS["custom"], pace)
    assert alone.startswith("diagnose: the base is taken to refuse 50% of the held-out harmful prompts")
    served = config_of(finetune={"dropped": "ignore"}, scoring={"engine": "vllm"})
    assert "how fast the server is" in " ".join(assumed(served, SETS["custom"], pace))
    shared = config_of(finetune={"dropped": "ignore"}, scoring={"engine": "ray", "workers": 3})
    assert "ray shares it among 3 workers, where" in " ".join(assumed(shared, SETS["custom"], pace))
    for elsewhere in (served, shared):
        assert assumed(elsewhere, SETS["custom"], pace, left_out=("references", "score", "diagnose")) == []


def test_a_pace_from_multiplications() -> None:
    """Ten multiplications or additions a second; a body of 40 parameters beside embedding and head of 6 each."""
    shape = Shape(parameters=52, layers=1, hidden=2, vocabulary=3, bytes_per_value=2, tied=False)
    assert (shape.body, shape.head) == (40, 6)
    batches = Batches(MicroBatch(20, 5), MicroBatch(30, 6), padding=1.5, responses=0.5, length=10, answer=4, asked=5)
    pace = expected_pace(config_of(diagnosis={"positions": 3}), shape, Device(10.0, 26.0, 1e9), batches)
    body, head = 2 * 40 / 10, 2 * 6 / 10
    assert pace["read"] == pytest.approx(1.5 * body + 0.5 * head)
    assert pace["reference_batch"] == pytest.approx(2.3 * 20 * body + 3 * 5 * head)
    assert pace["anchored_batch"] - pace["finetune_batch"] == pytest.approx(30 * body + 6 * head)
    assert pace["diverge"] == pytest.approx(10 * body + 3 * head)
    assert pace["answer_step"] == pytest.approx(16 * (body + head))
    assert pace["own_answer"] == pytest.approx(16 * 5 * (body + head) / 5 + 6 * body)
    slow = expected_pace(config_of(), shape, Device(1e12, 26.0, 1e9), batches)
    assert slow["answer_step"] == pytest.approx(52 * 2 / 26)  # every weight is read once
    assert slow["own_answer"] == pytest.approx(16 * 52 * 2 / 26 / 5)  # for five prompts at a time


def test_the_base_is_asked_as_many_prompts_at_once_as_are_held_out_and_fit() -> None:
    rows = [{"input_ids": [i] * (i + 2), "response_mask": [False] * i + [False, True]} for i in range(20)]
    few = asked_at_once(rows, 2, new_tokens=4, budget=1000)
    assert [prompt[0] for prompt in few] == [10, 0]
    assert all(len(prompt) == prompt[0] + 1 for prompt in few)
    # The median batch of 20 prompts: 30 padded tokens hold two of 14 or 15.
    many = asked_at_once(rows, 20, new_tokens=4, budget=30)
    assert len(many) * (max(map(len, many)) + 4) <= 30 < (len(many) + 1) * (max(map(len, many)) + 4)


def test_a_sample_is_every_nth_row_and_its_batches_hold_each_once() -> None:
    sample = RowSample()
    for length in range(1, 3 * MOST + 1):
        sample.add({"input_ids": [7] * length, "response_mask": [length % 2 == 0] * length})
    assert [len(row["input_ids"]) for row in sample.rows] == list(range(1, 3 * MOST + 1, sample.step))
    assert MOST / 2 <= len(sample.rows) <= MOST
    batches = micro_batches(sample.rows[:10], 8, 4)
    assert [len(batch) for batch in batches] == [4, 4]
    lengths = [len(row["input_ids"]) for batch in batches for row in batch]
    assert lengths == sorted(lengths, reverse=True)  # both are of one optimizer batch
    assert len({len(row["input_ids"]) for batch in batches for row in batch}) == 8
    assert [len(batch) for batch in micro_batches(sample.rows[:3], 8, 4)] == [3]
    assert mean_batch([]) == MicroBatch(1.0, 1.0)


def test_a_price_is_a_column_and_a_total(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "toss.json"
    path.write_text(json.dumps(tiny_config))
    result = toss("plan", str(path), "--price", "360000", "--json")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["price"] == 360000
    assert all(stage["cost"] == pytest.approx(100 * stage["seconds"], rel=0.02) for stage in plan["stages"])
    assert plan["total"]["cost"] == pytest.approx(sum(stage["cost"] for stage in plan["stages"]), rel=1e-4)
    shown = toss("plan", str(path), "--price", "2.5").stdout
    assert "cost" in shown
    assert "at 2.5 an hour of this device" in shown
    assert "cost" not in toss("plan", str(path)).stdout
    refused = toss("plan", str(path), "--price", "-1")
    assert refused.exit_code == 2
    assert "--price: -1 is no price" in refused.stderr


def test_a_price_is_a_number_from_0(tiny_config: dict[str, Any]) -> None:
    for price in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="no price of an hour"):
            make_plan(load_config(tiny_config), measure=False, reporter=SilentReporter(), price=price)


@pytest.mark.long
@pytest.mark.parametrize("changes", [{}, {"refinement": {"rounds": 0}}, {"evaluation": True}])
def test_a_plan_has_every_stage_that_the_run_then_has(tiny_config: dict[str, Any], changes: dict[str, Any]) -> None:
    if "evaluation" in changes:
        own = {"path": tiny_config["data"]["harmful"]["path"]}
        changes = {"evaluation": {"harmful": own, "max_new_tokens": 2, "refusals": ["No."]}}
    config, method = settled(load_config(tiny_config | changes))
    plans = [make_plan(config, measure=measure, reporter=SilentReporter()) for measure in (False, True)]
    run = tosslm.run(config)
    stage_of = {step.name: step.stage for step in steps(config, method)}
    done = {stage_of[name] for name in run.manifest["stages"]}
    assert plans[0]["speed"]["seconds"] is None
    assert plans[1]["speed"]["seconds"] > 0
    for plan in plans:
        seconds = {stage["stage"]: stage["seconds"] for stage in plan["stages"]}
        assert {stage for stage, length in seconds.items() if length > 0} == done
        assert plan["total"]["seconds"] == pytest.approx(sum(seconds.values()), rel=1e-4)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_layer_keeps_of_a_token_is_counted_within_a_quarter(dtype: torch.dtype, targets: Any) -> None:
    """Storages that are kept for the backward pass of two blocks less those of one, parameters left out."""
    rows, length, hidden = 2, 64, 96
    settings = TrainingConfig.model_validate({"lora": {"target_modules": targets}})

    def kept(layers: int) -> int:
        sizes = {"hidden_size": hidden, "intermediate_size": 256, "num_hidden_layers": layers, "vocab_size": 16}
        model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=3, num_key_value_heads=1))
        base: Any = SimpleNamespace(model=model.to(dtype).requires_grad_(False))
        with fresh_adapter(base, settings.lora, 0) as adapted:
            weights = {weight.untyped_storage().data_ptr() for weight in adapted.parameters()}
            seen: dict[int, int] = {}

            def pack(tensor: torch.Tensor) -> torch.Tensor:
                storage = tensor.untyped_storage()
                seen.update({} if storage.data_ptr() in weights else {storage.data_ptr(): storage.nbytes()})
                return tensor

            ids = torch.zeros(rows, length, dtype=torch.long)
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), block_attention(adapted):
                loss = SplitHead(adapted).hidden_states(ids, None).sum()
                counted = sum(seen.values())
                loss.backward()
            return counted

    each = (kept(2) - kept(1)) / (rows * length)
    shape = Shape(parameters=0, layers=1, hidden=hidden, vocabulary=16, bytes_per_value=dtype.itemsize)
    assert activation_bytes(settings, shape) == pytest.approx(each, rel=0.25)


def test_larger_models_are_worked_out_by_the_same_arithmetic() -> None:
    """Scoring 112,000 rows of 350 tokens twice with 8 billion parameters, at 35% of 989 TFLOPS, by hand."""
    score = next(stage for stage in planned("8B", 112_000) if stage["stage"] == "score")
    shape = SHAPES["8B"][0]
    assert shape.body == pytest.approx(6.98e9, rel=0.001)
    tokens = 2 * (112_000 + 0.1 * 22_400) * 350
    flops = 2 * tokens * (1.05 * shape.body + 200 / 350 * 4096 * 128_256)
    assert score["seconds"] == pytest.approx(flops / (0.35 * 989e12), rel=0.01)


def test_the_page_has_the_tables_as_they_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page, "sizes", table()) == page
    assert written(page, "plan", sections()) == page
