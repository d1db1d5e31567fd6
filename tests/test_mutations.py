"""Whatever a config file holds, it is read or refused: no other exception comes of it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tosslm.config import load_config
from tosslm.errors import InputError
from tosslm.starter import starter_config

SHORT = """run_dir: runs/x
model: {name: ~/m, adapter: a}
data:
  custom: {path: [a.jsonl, b.jsonl]}
  harmful: {path: h.jsonl, format: hh}
  utility: &u {path: u.jsonl}
evaluation: {harmful: *u, judge: {model: m, base_url: http://x}, classifier: {model: c}, gsm8k: null}
diagnosis: {adapters: {sft: x}}
finetune: {lora: {target_modules: all-linear}, betas: [0.9, 0.95]}
"""
BASES = (SHORT, starter_config())
PIECES = (
    *("\0", "\t", "{", "}", "[", "]", ": ", "- ", "&a ", "*a", "!!python/name:os.system ", "<<: *u", "~nobody/x"),
    *("2001-02-30", "0x", "1e999", ".nan", "-.inf", "!!binary x", "!!set {a}", "!!timestamp 1", "? ", "|\n", "%"),
    *("'", '"\\ud83d"', "\u202e", "\ud83d", "!!omap [1]", "!!float x", "!!int _", "=", "1:99:99", "[" * 50),
    *("null", "!!map [a]", "? [a]\n: b\n", "{{a: b}: c}", "&r [*r]", "yes", "9" * 5000, "https://a:b@c"),
)
edit = st.tuples(
    st.sampled_from(["insert", "delete", "copy", "replace"]),
    st.floats(0, 1),
    st.integers(1, 30),
    st.one_of(st.sampled_from(PIECES), st.text(max_size=8)),
)


def mutated(text: str, edits: list[tuple[str, float, int, str]]) -> str:
    for kind, where, length, piece in edits:
        place = int(where * len(text))
        end = place + length
        middle = {"insert": piece + text[place:end], "delete": "", "copy": text[place:end] * 2, "replace": piece}
        text = text[:place] + middle[kind] + text[end:]
    return text


def read_or_refused(text: str, folder: Path) -> None:
    file = folder / "c.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(InputError):
        load_config(file)


calmly = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
configs = given(base=st.sampled_from(BASES), edits=st.lists(edit, min_size=1, max_size=4))
Edits = list[tuple[str, float, int, str]]


@settings(calmly, max_examples=150)
@configs
def test_a_mutated_config_is_read_or_refused(tmp_path: Path, base: str, edits: Edits) -> None:
    read_or_refused(mutated(base, edits), tmp_path)


@pytest.mark.long
@pytest.mark.slow
@settings(calmly, max_examples=3000)
@configs
def test_many_mutated_configs(tmp_path: Path, base: str, edits: Edits) -> None:
    read_or_refused(mutated(base, edits), tmp_path)


@pytest.mark.parametrize("value", PIECES)
@pytest.mark.parametrize("key", ["run_dir", "seed", "model", "model.name", "data.custom.path", "finetune.betas"])
def test_a_strange_value_is_read_or_refused(tmp_path: Path, key: str, value: str) -> None:
    sets = {name: {"path": "x"} for name in ("custom", "harmful", "utility")}
    with contextlib.suppress(InputError):
        load_config({"data": sets}, [f"{key}={value}"])
    depth = "".join(" " * i + f"{part}:\n" for i, part in enumerate(key.split(".")))
    read_or_refused(depth.rstrip("\n") + f" {value}\n", tmp_path)


@pytest.mark.parametrize("text", ["[" * 5000, "a: &r {b: *r}", "data: &r [*r]", "{a: " * 3000])
def test_depth_without_end_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(InputError):
        load_config(file)
