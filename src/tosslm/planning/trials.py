"""What is timed: the passes of a run's stages, on rows of its sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from tosslm.config import Config, TrainingConfig
from tosslm.diagnosis.causes import FIRST_TOKENS, own_answers
from tosslm.diagnosis.divergence import DEGRADED, row_divergences, up_to
from tosslm.evaluation.decoding import generated_ids
from tosslm.model.adapters import without_adapter
from tosslm.model.attention import block_attention
from tosslm.model.head import SplitHead
from tosslm.model.losses import batch_budget, padded_batch, plan_batches, response_losses
from tosslm.planning.measure import Trial
from tosslm.planning.sample import asked_at_once, mean_batch, micro_batches, nearest, padded
from tosslm.planning.turns import Work
from tosslm.planning.work import REFERENCES, Unit, held_out_rows
from tosslm.progress import SilentReporter
from tosslm.training.trainer import anchored_divergence

Row = Mapping[str, Any]
Rows = Sequence[Row]
Samples = Mapping[str, Rows]
_NEW_TOKENS = 8
_READ_BATCHES = 2
_DIAGNOSED = 2
_DEAR = {"diverge": 3.0, "anchored_batch": 2.0, "batch": 1.5, "read": 1.5, "step": 0.1}
"""About how long one turn of each takes beside an answer's."""


def reference_trials(config: Config, samples: Samples) -> list[Trial]:
    """What the references' model does: its training, and scoring; the dear ones first (see ``base_trials``)."""
    settings = config.references
    batch, step = _training(settings, [*samples["harmful"], *samples["utility"]], "reference_batch", "reference_step")
    return [batch, reading_trial(config, samples["custom"]), step]


def base_trials(config: Config, tokenizer: Any, samples: Samples, *, evaluates: bool) -> list[Trial]:
    """What the base does beside that: the fine-tuning, answers, diagnosis.

    The dear ones come first, so that they are timed before cheap ones use up what all of them share.
    """
    settings = config.finetune
    trials = [
        Trial("diverge", settings.lora, lambda model: _diverging(config, model, samples), weight=_DEAR["diverge"])
    ]
    if settings.anchors:
        trials.append(_passing(settings, samples["custom"], "anchored_batch", anchored=True))
    batch, step = _training(settings, samples["custom"], "finetune_batch", "finetune_step")
    own = Trial("own_answer", settings.lora, lambda model: _answering_itself(config, model, tokenizer, samples))
    answer = Trial("answer_step", settings.lora, lambda model: _answering(config, model))
    return [*trials, batch, own, *([answer] if evaluates else []), step]


def reading_trial(config: Config, rows: Rows) -> Trial:
    """Scoring, batch by batch as it makes them of rows of like length."""
    lengths = [len(row["input_ids"]) for row in rows]
    budget = config.scoring.batch_tokens

    def prepare(model: Any) -> tuple[Work, float]:
        batches = plan_batches(lengths, batch_budget(model, budget))
        # From the midst of each share, so that neither the longest rows nor the remainder stands for all.
        places = [(2 * i + 1) * len(batches) // (2 * _READ_BATCHES) for i in range(min(_READ_BATCHES, len(batches)))]
        read = [[rows[i] for i in batches[place]] for place in places]
        tokens = sum(len(row["input_ids"]) for batch in read for row in batch)
        return lambda: [response_losses(model, batch, batch_tokens=budget) for batch in read], tokens

    return Trial("read", config.references.lora, prepare, weight=_DEAR["read"])


def _training(settings: TrainingConfig, rows: Rows, batch: Unit, step: Unit) -> tuple[Trial, Trial]:
    return _passing(settings, rows, batch, anchored=False), Trial(
        step, settings.lora, _stepping, weight=_DEAR["step"]
    )


def _passing(settings: TrainingConfig, rows: Rows, unit: Unit, *, anchored: bool) -> Trial:
    """A micro-batch of about the mean size, forward and backward."""
    batches = micro_batches(rows, settings.batch_size, settings.rows_at_once)
    mean = mean_batch(batches).padded
    batch = nearest(batches, mean)

    def prepare(model: Any) -> tuple[Work, float]:
        model.train()
        return _pass(model, batch, anchored=anchored), padded(batch) / mean

    dear = _DEAR["anchored_batch" if anchored else "batch"]
    return Trial(unit, settings.lora, prepare, checkpointed=settings.gradient_checkpointing, weight=dear)


def _pass(model: Any, batch: Rows, *, anchored: bool) -> Work:
    """The fine-tuning's loss and its gradients; with anchors the later half of the answers is anchored."""
    split = SplitHead(model)
    input_ids, _, predicts = (part.to(model.device) for part in padded_batch(batch))
    responses = predicts[:, :-1]
    later = responses & (2 * responses.cumsum(1) > responses.sum(1, keepdim=True))
    kept = responses & ~later if anchored else responses
    targets = input_ids[:, 1:][kept]
    places = torch.cat([torch.zeros_like(later[:, :1]), later], dim=1)
    inputs = {"input_ids": input_ids, "attention_mask": None, "anchored": places}

    def work() -> None:
        with block_attention(model):
            hidden = split.hidden_states(input_ids[:, :-1], None)
            loss = split.summed_loss(hidden[kept], targets)
            if anchored:
                loss = loss + anchored_divergence(split, hidden, inputs, lambda: without_adapter(model))
            loss.backward()

    return work


def _stepping(model: Any) -> tuple[Work, float]:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)

    def work() -> None:
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    return work, 1


def _answering(config: Config, model: Any) -> tuple[Work, float]:
    """New tokens after prompts of one token, so that reading them is a step like the others."""
    prompts = [[token] for token in range(config.evaluation.batch_size)]
    settings = GenerationConfig(
        max_new_tokens=_NEW_TOKENS, min_new_tokens=_NEW_TOKENS, do_sample=False, eos_token_id=0, pad_token_id=0
    )
    return lambda: generated_ids(model, prompts, settings), _NEW_TOKENS


def _answering_itself(config: Config, model: Any, tokenizer: Any, samples: Samples) -> tuple[Work, float]:
    """The first tokens of the base's own answers to a batch of harmful prompts."""
    budget, rows = config.scoring.batch_tokens, samples["harmful"]
    asked = asked_at_once(rows, held_out_rows(config, len(rows)), FIRST_TOKENS, batch_budget(model, budget))
    return lambda: own_answers(model, tokenizer, asked, budget), len(asked)


def _diverging(config: Config, model: Any, samples: Samples) -> tuple[Work, float]:
    """Rows of both sets under the base and two adapters, as in a run: the model's, and the degraded reference's.

    They count as so many held-out rows as they have tokens up to the last that is measured.
    """
    model.add_adapter(DEGRADED, model.peft_config["default"])
    rows: list[Row] = []
    counted = 0.0
    for name in REFERENCES:
        lengths = [len(up_to(row, config.diagnosis.positions)["input_ids"]) for row in samples[name]]
        rows += samples[name][:_DIAGNOSED]
        counted += sum(lengths[:_DIAGNOSED]) / (sum(lengths) / len(lengths))
    names = ("default", DEGRADED)
    settings, budget = config.diagnosis, config.scoring.batch_tokens

    def work() -> None:
        with SilentReporter().task("", len(rows)) as task:
            row_divergences(model, rows, names, positions=settings.positions, batch_tokens=budget, task=task)

    return work, (1 + len(names)) * counted
