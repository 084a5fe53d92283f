"""The generator of a WebShop catalogue, from a seed, in WebShop's own schema and made of near-duplicates.

A store sells, of each type, a family of `confusable + 1` products. A family has a few core attributes, which most of
its members share; two attributes stand in a product's title, two more are found on its page only. Members differ in
brand, price, and in which values of their options they offer; goals are on the cheaper ones, so that price caps matter.
Descriptions differ in length, and some repeat one attribute many times, which misleads search. So a query finds the
family, and only opening pages finds the product.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from pilotrl.envs.webshop.catalogue import Instructions, Items
from pilotrl.envs.webshop.vocabulary import BRANDS, DEPARTMENTS, FILLER, PHRASES, Department

STORES = {"train": 6, "dev": 1, "test": 1, "unseen": 3}
"""Number of stores of each split. All are of about one size, so that search is as hard in the test as in training. Those of
unseen sell all types, and only types that no other split sells are wanted there: hence more of them."""
CORE = 3
"""Number of core attributes of a family, which most of its titles use."""
SHOWN, HIDDEN = 2, 2
"""Number of attributes in a title, and of those on the product's page only."""
STRAY = 0.3
"""Probability that a title has an attribute from outside the core."""
OFFERED = 4
"""Maximum number of values of an option that one product offers; the family has one more."""
PRICES = (10, 95)
WANTED = 50
"""Maximum price in dollars of a product that a goal is made for."""
LENGTHS = (0, 60)
"""Words of filler in a description: none, or many."""
PRAISE = 6
"""Number of times that a description repeats an attribute of the title, if it does."""


class Source(NamedTuple):
    """The arguments that decide the tasks of a split; those that decide how a page looks are in `Layout`."""

    data_dir: str | None
    split: str
    seed: int
    confusable: int
    max_attributes: int
    max_options: int


class Family(NamedTuple):
    """The common properties of the near-duplicates of one type in one store."""

    department: Department
    kind: str
    core: list[str]
    options: dict[str, list[str]]


def store(source: Source, index: int) -> tuple[Items, Instructions]:
    """The items and instructions of one store of the source's split; no other store has any of its ASINs."""
    items: Items = []
    instructions: Instructions = {}
    novel = unseen_types(source.seed)
    for shelf, (department, kind) in enumerate((d, kind) for d in DEPARTMENTS for kind in d.types):
        if kind in novel and source.split != "unseen":
            continue
        draw = random.Random(f"{source.seed} {source.split} {index} {kind}")
        family = _family(draw, department, kind, source.max_options)
        for member, brand in enumerate(draw.sample(BRANDS, source.confusable + 1)):
            tail = "".join(draw.choices("BCDFGHJKLMNPQRSTVWXYZ", k=3))
            asin = f"B{source.split[:1].upper()}{index}{shelf:02d}{member:02d}{tail}"
            attributes = _attributes(draw, family)
            price = draw.randint(*PRICES)
            items.append(_item(draw, family, asin, brand, attributes, price))
            wanted = price <= WANTED and (kind in novel) == (source.split == "unseen")
            told = _instruction(draw, kind, attributes, source.max_attributes) if wanted else {}
            instructions[asin] = {"attributes": attributes, **told}
    random.Random(f"{source.seed} {source.split} {index}").shuffle(items)
    return items, instructions


def unseen_types(seed: int) -> frozenset[str]:
    """The types that only stores of unseen sell, one of each department."""
    return frozenset(random.Random(f"{seed} unseen {d.path}").choice(d.types) for d in DEPARTMENTS)


def _family(draw: random.Random, department: Department, kind: str, max_options: int) -> Family:
    names = draw.sample(sorted(department.options), min(max_options, draw.choice((1, 2, 2))))
    options = {
        name: draw.sample(department.options[name], min(OFFERED + 1, len(department.options[name]))) for name in names
    }
    return Family(department, kind, draw.sample(department.attributes, CORE), options)


def _attributes(draw: random.Random, family: Family) -> list[str]:
    """Attributes of a product, those in the title first: mostly core ones; hidden ones may be any."""
    others = [attribute for attribute in family.department.attributes if attribute not in family.core]
    shown = draw.sample(family.core, SHOWN)
    if draw.random() < STRAY:
        shown[draw.randrange(SHOWN)] = draw.choice(others)
    rest = [attribute for attribute in family.core + others if attribute not in shown]
    return shown + draw.sample(rest, HIDDEN)


def _item(
    draw: random.Random, family: Family, asin: str, brand: str, attributes: list[str], price: int
) -> dict[str, Any]:
    kind = family.kind
    return {
        "name": " ".join((brand, *attributes[:SHOWN], kind)).title(),
        "asin": asin,
        "category": family.department.category,
        "query": kind,
        "product_category": f"{family.department.path} › {kind.title()}",
        "pricing": f"${price}.00",
        "small_description": [
            f"{kind.capitalize()} by {brand.title()}.",
            *(f"It is {attribute}." for attribute in attributes),
        ],
        "full_description": _description(draw, draw.choice(attributes[:SHOWN])),
        "customization_options": _options(draw, family),
        "images": [""],
    }


def _description(draw: random.Random, attribute: str) -> str:
    """A description of filler that repeats one attribute often or never, which misleads search by word counts."""
    words = draw.choices(FILLER, k=draw.choice(LENGTHS)) + [attribute] * draw.choice((0, PRAISE))
    draw.shuffle(words)
    return " ".join(words).capitalize()


def _options(draw: random.Random, family: Family) -> dict[str, list[dict[str, str]]]:
    """The options of a product: each of the family's with probability 5/6, with all its values but one."""
    kept = {name: values for name, values in family.options.items() if draw.random() > 1 / 6}
    return {
        name: [{"value": value} for value in draw.sample(values, max(1, len(values) - 1))]
        for name, values in kept.items()
    }


def _instruction(draw: random.Random, kind: str, attributes: list[str], max_attributes: int) -> dict[str, Any]:
    """An instruction with one to three attributes in any order, at most one of them from the product's page only."""
    count = min(max_attributes, draw.choice((1, 2, 2, 3)))
    shown, hidden = attributes[:SHOWN], attributes[SHOWN:]
    inner = 1 if count > SHOWN or draw.random() < 0.4 else 0
    wanted = draw.sample(shown, count - inner) + draw.sample(hidden, inner)
    draw.shuffle(wanted)
    words = dict(zip("abc", wanted, strict=False)) | {"t": kind}
    return {
        "instruction": draw.choice(PHRASES[count]).format(**words),
        "instruction_attributes": wanted,
    }
