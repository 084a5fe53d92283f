"""The search engine of WebShop: Lucene's English analyzer and BM25 (k1 0.9, b 0.4), with bm25s."""

from __future__ import annotations

import re
from collections.abc import Sequence

import bm25s
import numpy as np
import Stemmer

from pilotrl.envs.webshop.catalogue import Product

HITS = 50
WORD = re.compile(r"\w+(?:(?:(?<=[^\W\d_])['’.](?=[^\W\d_])|(?<=\d)[.,'](?=\d))\w+)*")
POSSESSIVE = re.compile(r"['’]s$")
STOP = frozenset(
    (
        *("a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not"),
        *("of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was"),
        *("will", "with"),
    )
)


STEM = Stemmer.Stemmer("porter")


def stems(text: str) -> list[str]:
    """Tokens of Lucene's English analyzer: lower case, no possessive 's, no stop words, Porter's stemmer.

    Lucene does not stem words of one or two letters; the stemmer here would make `s` empty.
    """
    words = [POSSESSIVE.sub("", word) for word in WORD.findall(text.lower())]
    return [STEM.stemWord(word) if len(word) > 2 else word for word in words if word not in STOP]


class Index:
    """The index, over the same texts as in WebShop: title, description, first bullet and options."""

    def __init__(self, products: Sequence[Product]) -> None:
        self._bm25 = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
        self._bm25.index([stems(_document(product)) for product in products], show_progress=False)
        self._cache: dict[str, tuple[int, ...]] = {}

    def search(self, words: str) -> tuple[int, ...]:
        """Positions of up to fifty products that have any of the words, best first; ties in catalogue order."""
        if words not in self._cache:
            self._cache[words] = self._search(words)
        return self._cache[words]

    def _search(self, words: str) -> tuple[int, ...]:
        tokens = [token for token in stems(words) if token in self._bm25.vocab_dict]
        if not tokens:
            return ()
        scores = self._bm25.get_scores(tokens)
        order = np.argsort(-scores, kind="stable")[:HITS]
        return tuple(int(i) for i in order if scores[i] > 0)


def _document(product: Product) -> str:
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options.items())
    first = product.bullets[0] if product.bullets else ""
    return " ".join((product.title, product.description, first, options))
