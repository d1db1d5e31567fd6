"""Which setting of whole rows shows harm: the validation split, with base, standard SFT and the oracle alone.

    python -m studies.frontier.search

Wanted: the oracle keeps at least 90% of the base's refusals, and SFT loses at least 30 points. What was found stands
in the lab book; ``settings.py`` has what was chosen.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from studies.frontier.entries import STANDARD, UNTRAINED
from studies.frontier.ledger import known
from studies.frontier.products import widen_products
from studies.frontier.settings import SETTINGS
from studies.frontier.study import run

from tosslm.quiet import quiet_libraries

KINDS = ("whole", "embedded")


def search(kind: str, share: float, learning_rate: float) -> None:
    """Train and measure one candidate on the validation split, and print what it shows."""
    name = f"search-{kind}-{share:g}-{learning_rate:g}"
    SETTINGS[name] = replace(SETTINGS[kind], share=share, learning_rate=learning_rate)
    entries = (UNTRAINED, STANDARD, SETTINGS[kind].oracle)
    run(name, 0, entries, split="validation", wanted=(1.0,))
    print(f"{name}: refused, over-refused, then losses")
    for (entry, _, _, scale), line in known(name).items():
        means = {metric: sum(kept["values"]) / len(kept["values"]) for metric, kept in line["metrics"].items()}
        print(
            f"  {entry} x {scale:g}: " + ", ".join(f"{metric} {mean:.3f}" for metric, mean in means.items()),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default=KINDS[0])
    parser.add_argument("--share", type=float, nargs="+", default=[0.5])
    parser.add_argument("--learning-rate", type=float, nargs="+", default=[5e-4, 1e-3])
    arguments = parser.parse_args()
    quiet_libraries()
    widen_products()
    for share in arguments.share:
        for rate in arguments.learning_rate:
            search(arguments.kind, share, rate)


if __name__ == "__main__":
    main()
