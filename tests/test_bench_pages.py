"""What the pages make of results: bars missed and why, what was not measured, and rows that the hub has."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from benchmarks import plan, scoring_page, scoring_shares, select_stage
from benchmarks.measuring import left_out
from benchmarks.plan import Command, taken_by_stage, timed
from studies.corpora import public_records
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

import tosslm
from support.pages import ROOT
from support.public_hub import public_hub
from tosslm.files import write_json

MACHINE = {"processor": "p", "vectors": "", "cores": 1, "threads": "1", "memory_gb": 1, "system": "Linux"}
ABOUT = {"machine": MACHINE, "versions": {"torch": "2"}, "commit": "a" * 40}
SHAPE: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 2}
KINDS = (scoring_page.PRODUCTS, "attention", "softmax over the vocabulary", scoring_page.ACTIVATION, "rest")


def scored(dtype: str, *, authors: float, products: float, gemma: bool = False) -> dict[str, Any]:
    """Results of scoring in one part, in which ours took ten seconds."""
    case: dict[str, Any] = {"rows": 4, "tokens": 40, "response_tokens": 20, "read": 30, "clock": "process_time"}
    case["apart"] = 0.4
    case["seconds"] = {"authors": authors, "ours": 10.0, "products": products}
    settings = {"dtype": dtype, "gemma": gemma, "rows": 4, "parts": 1}
    return ABOUT | {"settings": settings, "cases": {"rows 0 to 4": case}}


def shared_out(dtype: str, shares: tuple[float, ...], *, gemma: bool = False, commit: str = "a") -> dict[str, Any]:
    settings = {"dtype": dtype, "gemma": gemma, "rows": 8}
    return ABOUT | {
        "settings": settings,
        "cases": {"shares": dict(zip(KINDS, shares, strict=True))},
        "commit": commit * 40,
    }


def test_a_missed_bar_is_told_with_the_kinds_that_take_most_beside_the_products() -> None:
    runs = [
        scored("bfloat16", authors=31, products=7.9),
        scored("float32", authors=19, products=9),
        scored("bfloat16", authors=28, products=9.5, gemma=True),
    ]
    taken = [
        shared_out("bfloat16", (0.7, 0.12, 0.01, 0.02, 0.15)),
        shared_out("bfloat16", (0.6, 0.05, 0.2, 0.1, 0.05), gemma=True),
    ]
    told = scoring_page.missed(runs, taken)
    assert (
        "- bfloat16: products' seconds / ours 0.79, not 0.8. The products alone would be 3.92 times as fast as the "
        "authors' way. Beside the linear layers (70% of the time) most goes to *rest* (15%) and *attention* (12%)."
    ) in told
    assert "- float32" not in told
    assert (
        "- Gemma 3 270M, bfloat16: authors' seconds / ours 2.80, not 3. The products alone would be 2.95 times as "
        "fast as the authors' way, and so miss the bar themselves. Beside the linear layers (60% of the time) most "
        "goes to *softmax over the vocabulary* (20%) and *activation* (10%)."
    ) in told


def test_a_part_of_the_rows_is_told_as_that_and_not_judged() -> None:
    run = scored("float32", authors=19, products=9)
    run["settings"] |= {"rows": 8, "parts": 2}
    told = scoring_page.scoring(run)
    assert "| authors' seconds / ours | 1.90 | 1.90 to 1.90 | 1.8, not judged, 1 of 2 measured |" in told
    missed = scoring_page.missed([run], [])
    assert "- float32: not judged, 1 of 2 measured." in missed
    assert "Every bar is met" not in missed


def test_products_of_more_tokens_than_ours_reads_are_no_limit() -> None:
    run = scored("float32", authors=15, products=9)
    assert "and so miss the bar themselves" in scoring_page.missed([run], [])
    assert "Ours read 30 tokens, and as many were multiplied." in scoring_page.scoring(run)
    del run["cases"]["rows 0 to 4"]["read"]  # of before they shared beginnings too
    assert "and so miss the bar themselves" not in scoring_page.missed([run], [])
    assert "compares too well with them" in scoring_page.scoring(run)


def test_machines_of_shared_beginnings_have_a_paragraph_each() -> None:
    runs = []
    for processor in ("one", "other"):
        run = scored("float32", authors=19, products=9) | {"machine": MACHINE | {"processor": processor}}
        run["settings"] |= {"shared": 300, "own": 100}
        run["cases"]["rows 0 to 4"]["seconds"]["unshared"] = 30.0
        runs.append(run)
    paragraphs = scoring_page.sharing(runs).split("\n\n")
    assert [text.count("commit") for text in paragraphs if "commit" in text] == [1, 1]


def test_shares_name_their_rows_and_code() -> None:
    old = shared_out("float32", (0.8, 0.1, 0.05, 0.0, 0.05), gemma=True)
    new = shared_out("float32", (0.8, 0.1, 0.04, 0.01, 0.05), commit="b")
    told = scoring_page.shares([new, old])
    assert "| activation | 1% | 0% |" in told
    assert "The first 8 rows of GSM8K, read once" in told
    assert "float32: p (no wide vectors)" in told
    assert f"commit `{'a' * 12}`" in told
    assert f"commit `{'b' * 12}`" in told
    assert scoring_page.shares([new, new]).count("commit") == 1


@pytest.mark.slow
@pytest.mark.parametrize("of", ["llama", "gemma"])
def test_activations_of_both_models_are_told_apart(of: str) -> None:
    """Llama's is SiLU, Gemma's GELU."""
    model: Any = (
        LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=2))
        if of == "llama"
        else Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, num_key_value_heads=1, head_dim=8))
    )
    rows = [{"input_ids": list(range(60)), "response_mask": [False] * 20 + [True] * 40}]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        tosslm.response_losses(model.eval(), rows)
    found = scoring_shares.shares(profile.key_averages())
    assert sum(found.values()) == pytest.approx(1)
    assert all(share > 0 for share in found.values()), found


def test_what_a_processor_is_slow_at_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for fast, left in ((True, []), (False, ["bfloat16"])):
        monkeypatch.setattr("tosslm.model.device.multiplies_bfloat16_fast", lambda fast=fast: fast)
        assert [dtype for dtype in ("float32", "bfloat16") if left_out(dtype)] == left
        assert ("bfloat16 is not measured" in capsys.readouterr().out) is bool(left)


def test_figures_of_two_kinds_of_processors_stand_beside_each_other(tmp_path: Path) -> None:
    for vectors in ("avx2", "avx512_bf16"):
        run = scored("float32", authors=19, products=9) | {"machine": MACHINE | {"vectors": vectors}}
        write_json(tmp_path / f"scoring/scoring-float32-{vectors}.json", run)
        write_json(tmp_path / f"plan-{vectors}.json", run | {"cases": {"demo 1": planned(**SIZES)}})
    told = scoring_page.section(tmp_path)
    assert told.index("### float32, AVX2\n") < told.index("### float32, AVX512-BF16\n")
    assert plan.sections(tmp_path).count("**demo**") == 2


def test_sizes_with_few_repeats_are_named() -> None:
    case = {"seconds": 1.0, "cpu_seconds": 1.0, "peak_mb": 100.0}
    repeats = {1: 5, 1000: 1}
    cases = {f"{m}M {kind} {i}": case for m, n in repeats.items() for kind in select_stage.KINDS for i in range(n)}
    settings = {"million": list(repeats), "repeats": list(repeats.values())}
    told = select_stage.section(ABOUT | {"settings": settings, "cases": cases})
    assert "| 1,000M | posterior | 1 | 1.0 (1.0 to 1.0) | 1.0 | 1.0 | 100 |" in told
    assert "fewer than 5, too few for a spread: 1 of 1,000 million tokens." in told
    assert "token, constant memory: **met** (100 MB for 1, 100 MB for 1,000 million tokens; 10% more" in told


def planned(**more: Any) -> dict[str, Any]:
    """A plan of two stages and the run after it."""
    seconds = {"expected": {"score": 30.0, "report": 3.0}, "taken": {"score": 20.0, "report": 1.0}}
    processor = {f"{name}_processor": stages for name, stages in seconds.items()}
    machine = {"device": "cpu", "threads": 1, "dtype": "float32"}
    own = {"case": "demo", "plan_seconds": 5.0, "processors": {"plan": 1.0, "run": 1.0}, "machine": machine}
    return own | seconds | processor | more


SIZES: dict[str, Any] = {"expected_disk": {"score": 4e6, "report": 1e6}, "taken_disk": {"score": 3e6, "report": 5e5}}
SIZES |= {"expected_memory": {"score": 2e9, "report": 5e8}, "taken_memory": 1.5e9}


def test_memory_and_disk_stand_beside_what_the_plan_expects() -> None:
    told = plan.section(ABOUT | {"settings": {"repeats": 1}, "cases": {"demo 1": planned(**SIZES)}})
    assert "| score | 30.0 | 20.0 | 1.50 | 1.50 | 4,000 / 3,000 |" in told
    assert "| all | 33.0 | 21.0 | 1.57 | 1.57 | 5,000 / 3,500 |" in told
    assert "expected to take 2,000 MB (score); the run's process held 1,500 MB at most" in told
    assert "Of the stages that took more than 2 s, beyond 25%: score (1.50)." in told
    assert "Not all cases are there: 1 of 2 measured." in told


def test_what_a_stage_took_is_that_of_all_its_steps(tmp_path: Path) -> None:
    for name, size in (("a", 10), ("b", 200), ("c", 3000)):
        (tmp_path / name).write_bytes(bytes(size))
    entries = {
        "utility": {"seconds": 2.0, "files": {"a": "-"}},
        "degraded": {"seconds": 3.0, "files": {"b": "-"}},
        "scores": {"seconds": 4.0, "files": {"c": "-"}},
    }
    stage_of = {"utility": "references", "degraded": "references", "scores": "score"}
    run = Command("", seconds=20, processor=15, peak_bytes=1, at={"utility": 5.0, "degraded": 7.5, "scores": 11.0})
    assert taken_by_stage(entries, stage_of, run, tmp_path) == {
        "seconds": {"references": 5.0, "score": 4.0},
        "processor": {"references": 2.5, "score": 3.5},  # what went before the first step is not known
        "disk": {"references": 210, "score": 3000},
    }


@pytest.mark.slow
def test_a_command_is_measured_by_itself() -> None:
    done = timed(["--help"])
    assert "finetune" in done.printed
    assert 0 < done.processor <= 1.1 * done.seconds
    assert 10e6 < done.peak_bytes < 10e9
    with pytest.raises(SystemExit, match="toss run nowhere: ended with 2"):
        timed(["run", "nowhere"])


def parquet(records: list[dict[str, Any]]) -> bytes:
    written = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), written)
    return written.getvalue()


ASKED = """
import itertools, json
from studies.corpora import public_records
names = ("gsm8k_train", "gsm8k_test", "hh_harmless_test")
print(json.dumps({name: list(itertools.islice(public_records(name), 2)) for name in names}))
"""


@pytest.mark.slow
def test_what_benchmarks_read_is_of_the_hub_where_the_folder_has_it_not(tmp_path: Path) -> None:
    """The hub is one of this machine, so a process of its own is told its address."""
    train, test = ([{"question": f"{name} {n}?", "answer": f"#### {n}"} for n in range(3)] for name in ("a", "b"))
    harmless = [{"chosen": f"\n\nHuman: {n}\n\nAssistant: no", "rejected": "x"} for n in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in harmless).encode()
    files = {
        "openai/gsm8k": {
            "main/train-00000-of-00001.parquet": parquet(train),
            "main/test-00000-of-00001.parquet": parquet(test),
        },
        "Anthropic/hh-rlhf": {"harmless-base/test.jsonl.gz": gzip.compress(lines)},
    }
    with public_hub(files) as hub:
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_TOKEN": ""}
        found = in_python(ASKED, own | {"TOSSLM_DATA": str(tmp_path / "none")})
    assert json.loads(found.stdout) == {
        "gsm8k_train": train[:2],
        "gsm8k_test": test[:2],
        "hh_harmless_test": harmless[:2],
    }
    assert "none/gsm8k_test.jsonl.gz: not there; reading hf://datasets/openai/gsm8k/main/test" in found.stderr


def in_python(code: str, own: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What a Python of its own prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True, check=True)


def test_the_folders_file_is_read_where_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": "1 + 1?", "answer": "#### 2"}]
    (tmp_path / "gsm8k_test.jsonl.gz").write_bytes(gzip.compress(json.dumps(rows[0]).encode() + b"\n"))
    monkeypatch.setenv("TOSSLM_DATA", str(tmp_path))
    assert list(public_records("gsm8k_test")) == rows
