"""A small run with all that has tripped consumers up, made without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tosslm
from tosslm.model.builtin import SMOLLM2

DATA = Path(__file__).parents[2] / "examples" / "demo" / "data"
_LONG = "Rinse it, let it drain, and look at it once more before you go on. "


def made_run(folder: Path) -> tosslm.Run:
    """A run on the demo's data and the built-in model's tokenizer; three tokens of ten are dropped at random.

    No model is trained or scored. Beside the demo's rows there are conversations of several turns, rows longer than
    TRL's and Axolotl's default lengths, emoji of several tokens, white space that templates strip, and answers so
    short that some of them keep no token.

    Args:
        folder: where rows and run are written.
    """
    folder.mkdir(parents=True)
    custom = folder / "custom.jsonl"
    rows = [*map(json.loads, (DATA / "custom.jsonl").read_text(encoding="utf-8").splitlines()), *_hard_rows()]
    custom.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    data: dict[str, Any] = {name: {"path": str(DATA / f"{name}.jsonl")} for name in ("harmful", "utility")}
    config = {
        "run_dir": str(folder / "run"),
        "method": "random",
        "model": {"name": SMOLLM2, "dtype": "float32", "device": "cpu"},
        "data": {"custom": {"path": str(custom)}, **data, "max_length": 4096},
        "selection": {"discard_fraction": 0.3},
    }
    return tosslm.run(config, until="select")


def _hard_rows() -> list[dict[str, Any]]:
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello 👍🏽, friend!")]
    rows = [
        [*turns, ("user", "More?"), ("assistant", "Ok."), ("user", "And then?"), ("assistant", "Then we are done.")],
        [("user", "Trailing?"), ("assistant", "Yes, white space follows.\n\n ")],
        [("user", "Leading?"), ("assistant", "\n  It does.")],
        [("user", "Name them"), ("assistant", "ünï çødé 漢字 👩‍👩‍👧 — and so on")],
        [("user", "What ends a turn?"), ("assistant", "A special token, which I do not write out.")],
        [("user", "How long?"), ("assistant", (_LONG * 90).strip())],
        [("user", _LONG * 90), ("assistant", "That was long.")],
        [("user", "How very long?"), ("assistant", (_LONG * 200).strip())],
        *([("user", f"Is {number} a number?"), ("assistant", "Yes")] for number in range(60)),
    ]
    return [{"messages": [{"role": role, "content": text} for role, text in row]} for row in rows]
