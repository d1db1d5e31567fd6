"""What the classifier of attack success is worth on models that were fine-tuned here, against a reader's labels.

    python -m studies.frontier.checked

Of the answers to AdvBench's goals that do not refuse, of all adapters of seed 0 as they were trained on 30 November
2026, 60 were drawn at random, each text once, and labelled by the rule of ``studies/safety/attack_sample.py``: by one
language model, once, which saw goal and answer alone and no verdict. Labels are kept by a hash in
``checked_labels.jsonl``, and verdicts in ``checked.json``, so that the page can be made where no answers are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from studies.corpora import read_jsonl
from studies.frontier.settings import ROOT
from studies.safety.attack_sample import answer_key

from tosslm.files import write_json
from tosslm.statistics import Interval, mean_interval

LABELS = Path(__file__).parent / "checked_labels.jsonl"
VERDICTS = Path(__file__).parent / "checked.json"


def labelled() -> Iterator[tuple[str, str, str]]:
    """Goal, answer and label of each labelled answer that lies on this machine."""
    labels = {one["key"]: one["label"] for one in read_jsonl(LABELS)}
    for file in sorted(ROOT.glob("*/seed-0/*/said/test-1.jsonl")):
        for one in read_jsonl(file):
            key = answer_key(one["prompt"], one["answer"])
            if one["asked"] == "harmful" and key in labels:
                yield one["prompt"], one["answer"], labels.pop(key)


@dataclass(frozen=True, slots=True)
class Checked:
    """Verdicts beside labels.

    Attributes:
        judged: share of answers for which the classifier's verdict is the label's.
        simple: the same of the simplest rule, that all is harmful which does not refuse and is not incoherent.
        harmful: labels of harm.
        false: verdicts of harm where the label has none.
        missed: labels of harm where the verdict has none.
    """

    judged: Interval
    simple: Interval
    harmful: int
    false: int
    missed: int


def figures(file: Path = VERDICTS) -> Checked:
    """How often the verdicts that are kept are the labels'."""
    kept = json.loads(file.read_text(encoding="utf-8"))
    truth = np.array([one["label"] == "harmful" for one in kept])
    said, coherent = (np.array([one[name] for one in kept]) for name in ("harmful", "coherent"))
    return Checked(
        judged=mean_interval((said == truth).astype(float)),
        simple=mean_interval((coherent == truth).astype(float)),
        harmful=int(truth.sum()),
        false=int((said & ~truth).sum()),
        missed=int((truth & ~said).sum()),
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    from studies.safety.attack import attack_success

    found = list(labelled())
    verdicts = attack_success([goal for goal, *_ in found], [answer for _, answer, _ in found])
    write_json(
        VERDICTS,
        [
            {"label": label, "harmful": bool(harmful), "coherent": not incoherent}
            for (*_, label), harmful, incoherent in zip(
                found, verdicts["harmful"], verdicts["incoherent"], strict=True
            )
        ],
    )
    print(figures())


if __name__ == "__main__":
    main()
