"""DSIR: rows are resampled by how much likelier their n-grams are in the target set. Pure NumPy.

The authors' package `data-selection` works on files through a cache folder and wants nltk and joblib; the method is
the few lines below.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from tosslm.methods.material import Material
from tosslm.methods.method import Method, keep_best_rows
from tosslm.methods.needs import UTILITY_SET

BUCKETS = 10_000
_WORDS = re.compile(r"\w+|[^\w\s]+")  # nltk's WordPunctTokenizer, which the authors use


def ngram_counts(text: str, buckets: int = BUCKETS) -> np.ndarray:
    """Counts of a text's hashed words and pairs of words, int64 ``[buckets]``."""
    words = _WORDS.findall(text.lower())
    grams = [*words, *(f"{first} {second}" for first, second in pairwise(words))]
    hashes = np.array([zlib.crc32(gram.encode()) % buckets for gram in grams], dtype=np.int64)
    return np.bincount(hashes, minlength=buckets)


def log_importance(texts: Iterable[str], target_texts: Iterable[str], buckets: int = BUCKETS) -> np.ndarray:
    """``log p_target(x) - log p_raw(x)`` of each text under bags of hashed n-grams, float64 ``[R]``.

    Args:
        texts: gone through twice.
        target_texts: gone through once.
        buckets: of the hash.
    """
    raw, target = _summed(texts, buckets), _summed(target_texts, buckets)
    log_ratio = np.log(target / target.sum() + 1e-8) - np.log(raw / raw.sum() + 1e-8)
    # Counted anew: the counts of a text are far larger than the text.
    return np.fromiter((ngram_counts(text, buckets) @ log_ratio for text in texts), dtype=np.float64)


def _summed(texts: Iterable[str], buckets: int) -> np.ndarray:
    total = np.zeros(buckets)
    for text in texts:
        total += ngram_counts(text, buckets)
    return total


def resampled(material: Material) -> np.ndarray:
    """Rows that resampling without replacement would draw last are dropped, within the budget; bool ``[N]``.

    Adding Gumbel noise to log weights and taking the highest is sampling without replacement.
    """
    noise = np.random.default_rng(material.seed).gumbel(size=len(material.lengths))
    keys = log_importance(material.texts, material.target_texts) + noise
    return keep_best_rows(material, -keys)


DSIR = Method(
    "dsir",
    summary="keeps rows by hashed n-gram importance towards the utility set",
    source="Xie et al. 2023, arXiv 2302.03169",
    badge="variant",
    differs="no least length of a row, CRC-32 instead of SHA-256 as the hash, and the budget of dropped tokens "
    "instead of a number of rows; dropped rows stay in the batches without labels",
    builds_on="data",
    choose=resampled,
    needs=(UTILITY_SET,),
    choice_covers=lambda bench: [bench.config.references.holdout],  # held-out rows are no target
    drops_share=True,
)
