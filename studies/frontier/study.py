"""Safety at equal utility: methods, controls and rivals in three settings, each adapter measured at four scales.

    python -m studies.frontier.study                        # everything that is left, then docs/results.md
    python -m studies.frontier.study --only whole:0         # one setting and seed, and no page
    python -m studies.frontier.study --only whole:0 --entries sft oracle
    python -m studies.frontier.study --page                 # the page from the results that are kept

Results are kept line by line in ``studies/frontier/results``: what has a line there is not measured again, and what
was trained under ``runs/frontier`` is not trained again, so a study can be cut into as many sittings as it takes.
The setting ``gemma`` wants the base that ``python -m studies.frontier.base --gemma`` makes first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from studies.frontier.data import hangs_on_answers, write_common, write_sets
from studies.frontier.entries import ENTRIES, UNTRAINED
from studies.frontier.ledger import add_result, check_rows, known
from studies.frontier.measure import measure, measured_tokens
from studies.frontier.page import write_page
from studies.frontier.products import widen_products
from studies.frontier.settings import COMMON, SCALES, SETTINGS, config, folder
from studies.provenance import code_version
from studies.safety.data import check_leaks, leak_files
from studies.safety.guard import make_guard

from tosslm.config import ModelConfig, load_config
from tosslm.data.tokenize import RowTokenizer
from tosslm.methods import settled
from tosslm.methods.needs import GUARD
from tosslm.model.base import Base, open_base
from tosslm.pipeline import carry_out, outputs, steps, upto, workbench
from tosslm.progress import ConsoleReporter
from tosslm.quiet import quiet_libraries
from tosslm.runs.folder import RunFolder

SEEDS = (0, 1, 2)


def prepare(setting: str, seed: int) -> None:
    """Write the sets of a setting and seed, checked for leaks."""
    own, sets = SETTINGS[setting], folder(setting, seed, "sets")
    if not (COMMON / "xstest_test.jsonl").exists():
        write_common(COMMON)
    if not sets.exists():
        write_sets(sets, own.kind, seed, own.share)
    trained = [file for file in leak_files(COMMON, sets) if file.parent == sets or file.name.startswith("demon")]
    for measured in leak_files(COMMON, sets):
        if measured not in trained and not measured.name.startswith(("beginnings", "spliced")):
            for file in trained:
                check_leaks([measured, file])


def check_drawn(split: str) -> None:
    """Refuse to go on where the plain model answers otherwise than it did for the results that are kept.

    Its answers are measured in the setting ``whole`` alone, but nearly all sets hang on them (``hangs_on_answers``).

    Args:
        split: whose answers are compared.

    Raises:
        SystemExit: they are others.
    """
    tokenizer = RowTokenizer(open_base(ModelConfig.model_validate(SETTINGS["whole"].model)).tokenizer)
    check_rows("whole", split, measured_tokens(tokenizer, SETTINGS["whole"], split))


def train(setting: str, seed: int, entry: str, base: Base) -> Path:
    """The adapter of an entry; trained where it is not there yet, on what all entries of the seed share."""
    reporter = ConsoleReporter()
    own, method = settled(load_config(*config(setting, seed, entry)))
    if GUARD in method.needs or own.references.harmful_tokens == "guard":
        make_guard(folder(setting, seed, "sets"), folder(setting, seed, "guard"), seed)
    common, as_configured = settled(load_config(*config(setting, seed)))
    bench = workbench(common, reporter, base=base)
    every = steps(common, as_configured)
    carry_out(upto(every, "data" if method.builds_on == "data" else "score"), bench, every=every)
    bench = workbench(own, reporter, base=base)
    bench.folder.adopt(RunFolder(common.run_dir), outputs(), skip=())
    every = steps(own, method)
    carry_out(upto(every, "finetune"), bench, every=every)
    return bench.layout.model


def run(
    setting: str, seed: int, entries: Sequence[str], split: str = "test", wanted: Sequence[float] = SCALES
) -> None:
    """Train and measure the entries of a setting and seed that have no result yet."""
    prepare(setting, seed)
    if hangs_on_answers(SETTINGS[setting].kind, seed):
        check_drawn(split)
    base = open_base(ModelConfig.model_validate(SETTINGS[setting].model))
    check_rows(setting, split, measured_tokens(RowTokenizer(base.tokenizer), SETTINGS[setting], split))
    about = {"seed": seed, "split": split, "base": base.identity, "code": code_version()}
    for entry in entries:
        scales = [0.0] if entry == UNTRAINED else list(wanted)
        left = [scale for scale in scales if (entry, seed, split, scale) not in known(setting)]
        if not left:
            continue
        started = time.monotonic()
        adapter = None if entry == UNTRAINED else train(setting, seed, entry, base)
        trained = time.monotonic() - started
        for scale in left:
            said = folder(setting, seed, entry) / "said" / f"{split}-{scale:g}.jsonl"
            found = measure(base, adapter, scale, SETTINGS[setting], split, said, ConsoleReporter())
            add_result(setting, about | {"entry": entry, "scale": scale, "seconds": round(trained), "metrics": found})


def _asked(only: Sequence[str]) -> Iterator[tuple[str, int]]:
    for item in only or [f"{setting}:{seed}" for seed in SEEDS for setting in SETTINGS]:
        setting, _, seed = item.partition(":")
        if setting not in SETTINGS or not seed.isdecimal():
            raise SystemExit(f"--only {item}: expected SETTING:SEED, with a setting of {', '.join(SETTINGS)}")
        yield setting, int(seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write the page from what is there")
    parser.add_argument("--only", nargs="*", default=[], metavar="SETTING:SEED", help="only these runs, and no page")
    parser.add_argument("--entries", nargs="*", choices=[UNTRAINED, *ENTRIES], help="only these entries")
    arguments: Any = parser.parse_args()
    quiet_libraries()
    widen_products()
    if not arguments.page:
        for setting, seed in _asked(arguments.only):
            run(setting, seed, arguments.entries or [UNTRAINED, *SETTINGS[setting].entries])
    if not arguments.only:
        write_page(Path("docs"))


if __name__ == "__main__":
    main()
