"""What learning evidence gains where there is nothing to learn, and where there is.

    python -m studies.spans.flat

Prints quantiles of ``Evidence.gain`` over simulated held-out rows: harmful scores drawn as useful ones are, and with
three tenths of the tokens one standard deviation higher.
"""

from __future__ import annotations

import numpy as np

from tosslm.selection.evidence import LEAST_GAIN, learn_evidence

SHAPES = ((18, 45), (180, 18), (200, 60))
REPEATS = 200


def gains(rows: int, tokens: int, unsafe_share: float, rng: np.random.Generator) -> np.ndarray:
    found = []
    for _ in range(REPEATS):
        useful = rng.normal(size=rows * tokens)
        harmful = rng.normal(size=rows * tokens) + (rng.random(rows * tokens) < unsafe_share)
        found.append(learn_evidence(useful, harmful, np.full(rows, tokens)).gain)
    return np.array(found)


def main() -> None:
    rng = np.random.default_rng(0)
    print(f"{'rows x tokens':<16}{'unsafe':>8}{'5%':>8}{'50%':>8}{'95%':>8}{'below least gain':>18}")
    for rows, tokens in SHAPES:
        for share in (0.0, 0.3):
            found = gains(rows, tokens, share, rng)
            quantiles = "".join(f"{value:>8.1f}" for value in np.percentile(found, [5, 50, 95]))
            print(
                f"{f'{rows} x {tokens}':<16}{share:>8.0%}{quantiles}{(found < LEAST_GAIN).mean():>18.1%}", flush=True
            )


if __name__ == "__main__":
    main()
