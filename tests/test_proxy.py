"""References of a smaller model in the base's place: the same rows, its own tokens, the base's positions."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import tosslm
from conftest import demo_rows
from tosslm import InputError
from tosslm.compare import compare
from tosslm.config import load_config
from tosslm.data.proxied import proxy_row
from tosslm.data.tokenize import RowTokenizer
from tosslm.data.tokenized import Limits
from tosslm.errors import RowError
from tosslm.merge import merge
from tosslm.plan import make_plan
from tosslm.progress import SilentReporter
from tosslm.runs.tables import stored_rows
from tosslm.shares import score_shard
from tosslm.stages.shard import Shard

TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def small_tokenizer(template: str | None = TEMPLATE) -> Any:
    """A byte-level BPE of 500 tokens, so that words are cut smaller than SmolLM2 cuts them."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = [turn["content"] for row in demo_rows("custom", 20) for turn in row["messages"]]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="</s>", chat_template=template)


def save_model(folder: Path, tokenizer: Any, positions: int = 2048) -> Path:
    torch.manual_seed(3)
    shape: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=positions, **shape, **heads)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def proxy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("proxy"), small_tokenizer())


def with_proxy(config: dict[str, Any], **references: Any) -> dict[str, Any]:
    return config | {"references": config["references"] | references}


def files_of(folder: Path, pattern: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob(pattern))}


def sums(run: tosslm.Run, column: str) -> list[float]:
    return [sum(row[column]) for path in sorted(run.scores_folder(0).glob("part-*")) for row in stored_rows(path)]


def test_a_proxys_references_are_those_it_would_have_as_the_base_and_its_losses_keep_their_sums(
    tiny_config: dict[str, Any], proxy_folder: Path, tmp_path: Path
) -> None:
    """Base and proxy swapped: the same adapters to the byte, and of each answer the same loss under both."""
    tiny_config["refinement"] = {"rounds": 0}
    proxied = tosslm.run(with_proxy(tiny_config, model=str(proxy_folder)), until="score")
    model = {"name": str(proxy_folder), "dtype": "float32", "device": "cpu"}
    alone = tosslm.run(tiny_config | {"run_dir": str(tmp_path / "own"), "model": model}, until="score")
    for name in ("references/utility", "references/degraded/round-0"):
        ours, theirs = (files_of(run.layout.of(name), "adapter_model*") for run in (proxied, alone))
        assert ours == theirs, name
    for column in ("loss_degraded", "loss_utility"):
        assert sums(proxied, column) == pytest.approx(sums(alone, column), rel=1e-5)
    counted = proxied.stages["proxy"]["sets"]["custom"]
    assert counted["response_tokens"] == alone.stages["data"]["sets"]["custom"]["response_tokens"]
    assert counted["unscored"] == counted["same_rows"] == 0
    assert [len(row) for row in proxied.scores()] == [sum(mask) for mask in proxied.rows["response_mask"]]


@pytest.mark.long
def test_a_proxy_of_the_same_tokenizer_scores_to_the_bit_as_if_nothing_were_carried(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    """The base itself as its proxy, with rows that are cut in an answer, through a round of TOSS-Pro."""
    tiny_config["data"] |= {"max_length": 60}
    plain = tosslm.run(tiny_config, until="select")
    of_base = {"model": tiny_config["model"]["name"], "adapter": tiny_config["model"]["adapter"]}
    proxied = tosslm.run(with_proxy(tiny_config | {"run_dir": str(tmp_path / "proxied")}, **of_base), until="select")
    assert plain.stages["data"]["sets"]["custom"]["truncated"] > 0
    assert proxied.stages["proxy"]["sets"]["custom"]["same_rows"] == 24
    for round_ in (0, 1):
        folders = [run.layout.of(f"scores/round-{round_}") for run in (plain, proxied)]
        for file in sorted(folders[0].iterdir()):
            assert list(stored_rows(file)) == list(stored_rows(folders[1] / file.name)), file.name
    assert all((a == b).all() for a, b in zip(plain.keep(), proxied.keep(), strict=True))


@pytest.mark.long
def test_a_run_with_a_proxy_says_so_wherever_it_is_read(
    tiny_config: dict[str, Any], proxy_folder: Path, tmp_path: Path
) -> None:
    run = tosslm.run(with_proxy(tiny_config, model=str(proxy_folder)))
    told = f"The scores are a proxy's: the references were trained on {proxy_folder}, not on the base"
    assert any(told in warning for warning in run.manifest["warnings"])
    assert told in (run.layout.model / "README.md").read_text()
    assert "trained on the proxy" in run.layout.log.read_text()
    assert told in html.unescape(run.layout.report.read_text())
    assert run.stages["proxy"]["chat_template"] == "its own"
    degraded = run.layout.of("references/degraded/round-1")
    assert (degraded / "HAZARDOUS.md").is_file()
    assert json.loads((degraded / "adapter_config.json").read_text())["base_model_name_or_path"] == str(proxy_folder)
    diagnosis = json.loads((run.layout.diagnosis / "diagnosis.json").read_text())
    assert set(diagnosis["means"]["harmful"]) == {"base", "model"}
    assert "shift" not in diagnosis["means"]["harmful"]["model"]
    assert merge(run, tmp_path / "merged").is_dir()
    again = tosslm.run(with_proxy(tiny_config, model=str(proxy_folder)))
    assert again.manifest["stages"] == run.manifest["stages"]


@pytest.mark.long
def test_another_proxy_is_another_run_and_the_same_one_elsewhere_is_not(
    tiny_config: dict[str, Any], proxy_folder: Path, tmp_path: Path
) -> None:
    tiny_config["refinement"] = {"rounds": 0}

    def prints(proxy: Path) -> dict[str, str]:
        run = tosslm.run(with_proxy(tiny_config, model=str(proxy)), until="score")
        return {name: entry["fingerprint"] for name, entry in run.stages.items()}

    first = prints(proxy_folder)
    elsewhere, other = tmp_path / "elsewhere", tmp_path / "other"
    save_model(elsewhere, small_tokenizer())
    save_model(other, small_tokenizer(TEMPLATE.replace("</s>\n", "</s>")))
    assert prints(elsewhere) == first
    changed = prints(other)
    assert {name for name in first if changed[name] != first[name]} == {
        "proxy",
        "references/utility",
        "references/degraded/round-0",
        "scores/round-0",
    }


def test_a_proxy_without_a_chat_template_reads_rows_in_the_bases(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    folder = save_model(tmp_path / "plain", small_tokenizer(None))
    run = tosslm.run(with_proxy(tiny_config | {"refinement": {"rounds": 0}}, model=str(folder)), until="select")
    assert run.stages["proxy"]["chat_template"] == "the base's"
    read = next(stored_rows(run.layout.proxy_rows("custom")))
    text = small_tokenizer().decode(read["input_ids"])
    assert text.startswith("<|im_start|>system")
    assert sum(read["response_mask"]) > sum(run.rows[0]["response_mask"])
    assert run.stages["proxy"]["sets"]["custom"]["unscored"] == 0


def test_a_degraded_reference_is_no_proxy_and_is_merged_into_none(
    tiny_config: dict[str, Any], proxy_folder: Path, tiny_adapter_folder: Path, tmp_path: Path
) -> None:
    hazard = tmp_path / "renamed"
    hazard.mkdir()
    for file in tiny_adapter_folder.iterdir():
        (hazard / file.name).write_bytes(file.read_bytes())
    (hazard / "HAZARDOUS.md").write_text("x")
    with pytest.raises(InputError, match=r"references\.model: .*renamed is an adapter, not a model"):
        tosslm.run(with_proxy(tiny_config, model=str(hazard)))
    with pytest.raises(InputError, match=r"references\.adapter: .*renamed is marked HAZARDOUS\.md"):
        tosslm.run(with_proxy(tiny_config, model=str(proxy_folder), adapter=str(hazard)))


def test_a_proxy_without_room_for_a_row_is_refused_by_the_plan_already(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    folder = save_model(tmp_path / "short", small_tokenizer(), positions=40)
    config = load_config(with_proxy(tiny_config, model=str(folder)))
    with pytest.raises(InputError, match=r"references\.model: .*harmful\.jsonl:1: the proxy cannot read the row: "):
        make_plan(config, measure=False, reporter=SilentReporter())


@pytest.mark.long
@pytest.mark.parametrize("measure", [False, True])
def test_the_plan_counts_the_proxys_size_and_tokens(
    tiny_config: dict[str, Any], proxy_folder: Path, measure: bool
) -> None:
    config = load_config(with_proxy(tiny_config, model=str(proxy_folder)))
    plan = make_plan(config, measure=measure, reporter=SilentReporter())
    parameters = sum(p.numel() for p in LlamaForCausalLM.from_pretrained(proxy_folder).parameters())
    assert plan["proxy"]["parameters"] == parameters != plan["model"]["parameters"]
    stages = {stage["stage"]: stage for stage in plan["stages"]}
    read, base = (sum(counts["tokens"] for counts in part["sets"].values()) for part in (plan["proxy"], plan))
    assert read != base
    held_out = 0.2 * sum(plan["proxy"]["sets"][name]["tokens"] for name in ("harmful", "utility"))
    assert stages["score"]["tokens_read"] == round(2 * (plan["proxy"]["sets"]["custom"]["tokens"] + held_out))
    assert stages["finetune"]["tokens_trained"] == plan["sets"]["custom"]["tokens"] * 2


def test_keys_of_a_proxy_need_a_proxy() -> None:
    data = {name: {"path": "x"} for name in ("custom", "harmful", "utility")}
    with pytest.raises(InputError, match=r"references: adapter is of a proxy, and none is named"):
        load_config({"data": data, "references": {"adapter": "somewhere"}})


def stored(messages: list[dict[str, str]], tokenize: RowTokenizer) -> dict[str, Any]:
    made = tokenize(messages)
    record = {"row_id": "a", "messages": json.dumps(messages), "input_ids": made.input_ids}
    return record | {"response_mask": made.response_mask, "offsets": made.offsets}


def test_a_proxy_reads_as_much_of_a_cut_row_as_the_base_does(smollm2_tokenizer: Any) -> None:
    answer = "Rinse the wool in cold water, press it gently, and let it dry flat in the shade."
    messages = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": answer}]
    whole = stored(messages, RowTokenizer(smollm2_tokenizer))
    row = stored(messages, RowTokenizer(smollm2_tokenizer, max_length=len(whole["input_ids"]) - 8))
    end = row["offsets"][-1][2]
    assert 0 < end < len(answer)
    found = proxy_row(row, RowTokenizer(small_tokenizer()), Limits(), "all").record
    assert found["offsets"][-1][1] < end <= found["offsets"][-1][2]
    assert len(found["offsets"]) == sum(found["response_mask"])
    assert found["response_mask"][-1]
    uncut = proxy_row(whole, RowTokenizer(small_tokenizer()), Limits(), "all").record
    assert found["input_ids"] == uncut["input_ids"][: len(found["input_ids"])]
    assert uncut["offsets"][-1] == [-1, -1, -1]


def test_room_is_asked_for_what_is_read_and_not_for_what_was_cut(smollm2_tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "word " * 400}]
    row = stored(messages, RowTokenizer(smollm2_tokenizer, max_length=40))
    tokenize = RowTokenizer(small_tokenizer())
    needed = len(proxy_row(row, tokenize, Limits(), "all").record["input_ids"])
    assert needed < 200
    assert proxy_row(row, tokenize, Limits(positions=needed), "all").record["input_ids"]
    with pytest.raises(RowError, match="positions"):
        proxy_row(row, tokenize, Limits(positions=needed - 1), "all")


def test_scores_of_later_rounds_take_the_utility_losses_of_the_first(
    tiny_config: dict[str, Any], proxy_folder: Path
) -> None:
    run = tosslm.run(with_proxy(tiny_config, model=str(proxy_folder)), until="refine")
    first, second = (list(stored_rows(run.layout.of(f"scores/round-{r}") / "part-00000.parquet")) for r in (0, 1))
    assert [row["loss_utility"] for row in first] == [row["loss_utility"] for row in second]
    assert any(not np.array_equal(a["loss_degraded"], b["loss_degraded"]) for a, b in zip(first, second, strict=True))
    assert run.stages["refinement/round-1"]["joined"] == 3


@pytest.mark.long
def test_methods_of_a_comparison_share_the_proxys_scores(tiny_config: dict[str, Any], proxy_folder: Path) -> None:
    asked = {"harmful_rows": tiny_config["data"]["harmful"]}
    config = load_config(
        with_proxy(tiny_config | {"refinement": {"rounds": 0}, "evaluation": asked}, model=str(proxy_folder))
    )
    assert compare(config, ["sft", "toss"])["failed"] == []
    run = tosslm.load_run(config.run_dir)
    toss = tosslm.load_run(run.layout.method("toss", 7))
    assert toss.stages["scores/round-0"]["fingerprint"] == run.stages["scores/round-0"]["fingerprint"]
    told = "The scores are a proxy's"
    assert told in (toss.layout.model / "README.md").read_text()
    assert told not in (run.layout.method("sft", 7) / "model/README.md").read_text()
    means = json.loads((run.layout.compared_curves / "diagnosis.json").read_text())["means"]["harmful"]
    assert "shift" not in means["sft"]


@pytest.mark.parametrize("key", ["model", "adapter"])
def test_a_run_folder_that_holds_the_proxy_is_refused(
    tiny_config: dict[str, Any], proxy_folder: Path, tiny_adapter_folder: Path, key: str
) -> None:
    named = {"model": str(proxy_folder), "adapter": str(tiny_adapter_folder)}
    tiny_config["model"]["adapter"] = None
    with pytest.raises(InputError, match=rf"^references\.{key}: .* lies in the run folder"):
        tosslm.run(with_proxy(tiny_config | {"run_dir": named[key]}, **named))


@pytest.mark.long
def test_shards_of_a_proxy_write_the_bytes_of_one_process(
    tiny_config: dict[str, Any], proxy_folder: Path, tmp_path: Path
) -> None:
    config = with_proxy(tiny_config, model=str(proxy_folder)) | {"refinement": {"rounds": 0}}
    tosslm.run(config, until="references")
    shutil.copytree(config["run_dir"], tmp_path / "alone")
    alone = tosslm.run(config | {"run_dir": str(tmp_path / "alone")}, until="score").stages["scores/round-0"]
    for share in (2, 0, 1):
        score_shard(config, Shard(share, 3))
    shared = tosslm.run(config, until="score").stages["scores/round-0"]
    assert shared["files"] == alone["files"]
    assert shared["tokens"] == 0 < alone["tokens"]  # all of it was taken, nothing was computed again
