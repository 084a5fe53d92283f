"""WebShop's score of a purchase (arXiv 2207.01206, section 3)."""

from __future__ import annotations

import re
from functools import lru_cache

from rapidfuzz.fuzz import token_set_ratio

from pilotrl.envs.webshop.catalogue import Goal, Product
from pilotrl.envs.webshop.search import STOP

FUZZY = 85
EXACT = ("size",)
"""Options that must match exactly: "large" is not "x-large"."""


@lru_cache(maxsize=1 << 16)
def alike(one: str, other: str) -> bool:
    """Whether two phrases match fuzzily: their sets of words overlap by more than 85 %."""
    return one == other or token_set_ratio(one, other) > FUZZY


def score(goal: Goal, bought: Product, chosen: dict[str, str]) -> float:
    """(attributes hit + options hit + price within the cap) / (attributes + options + 1), times the type factor.

    `chosen` maps option names to the values clicked. In [0, 1]; 1 only if everything fits.
    """
    attributes = sum(has_attribute(bought, attribute) for attribute in goal.attributes)
    options = min(len(goal.options), sum(_option_hit(goal, name, value, bought) for name, value in chosen.items()))
    hits = attributes + options + (bought.price <= goal.cap)
    return hits / (len(goal.attributes) + len(goal.options) + 1) * type_factor(goal.product, bought)


def has_attribute(product: Product, attribute: str) -> bool:
    """Whether a product has an attribute: a fuzzy match among its attributes, or word for word in its texts."""
    return any(alike(own, attribute) for own in product.attributes) or attribute in product.text


def _option_hit(goal: Goal, name: str, value: str, bought: Product) -> bool:
    wanted = goal.options.values()
    return value in bought.text or (value in wanted if name in EXACT else any(alike(one, value) for one in wanted))


def type_factor(wanted: Product, bought: Product) -> float:
    """1 for the right kind of product, 0.5, 0.1 or 0 for another: by query, categories and nouns of the titles."""
    nouns = _nouns(wanted)
    overlap = len(nouns & _nouns(bought)) / len(nouns) if nouns else 0.2
    if overlap == 0:
        return 0.0
    if overlap < 0.1:
        return 0.1
    related = wanted.query == bought.query or len(wanted.path & bought.path) >= 2 or overlap > 0.2
    return 1.0 if related else 0.5


@lru_cache(maxsize=1 << 16)
def _nouns(product: Product) -> frozenset[str]:
    """Title words without stop words and adjectives; the original uses a tagger of 600 MB for the nouns."""
    describing = {word for attribute in product.attributes for word in attribute.lower().split()}
    words = re.findall(r"[^\W\d_]{2,}", product.title.lower())
    return frozenset(word for word in words if word not in STOP and word not in describing)
