"""A seeded catalogue in WebShop's own schema, made of near-duplicates.

A store sells, of each type, a family of `confusable + 1` products. A family has a few core attributes, which most of
its members share; two attributes stand in a product's title, two more are found on its page only. Members differ in
brand, price, and in which values of their options they offer; the cheaper ones are the wanted ones, so price caps bite.
Descriptions differ in length, and some praise one attribute over and over, which leads search astray. So words find the
family, and only looking finds the product.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from pilotrl.envs.webshop.catalogue import Instructions, Items
from pilotrl.envs.webshop.vocabulary import BRANDS, DEPARTMENTS, FILLER, PHRASES, Department

STORES = {"train": 6, "valid": 1, "test": 1}
"""Stores of a split. All have the same size, so that search is as hard in the test as in training."""
CORE = 3
"""Attributes of a family that most of its titles are made of."""
SHOWN, HIDDEN = 2, 2
"""Attributes in a title; attributes on the product's page only."""
STRAY = 0.3
"""How often a title has an attribute from outside the core."""
OFFERED = 4
"""Values of an option that one product offers, at most; the family has one more."""
PRICES = (10, 95)
WANTED = 50
"""Dollars up to which a product has an instruction."""
LENGTHS = (0, 60)
"""Words of filler in a description: none, or many."""
PRAISE = 6
"""Times that a description names an attribute of the title, if it does."""


class Source(NamedTuple):
    """Everything that decides the tasks of a split, and nothing that decides how a page looks."""

    data_dir: str | None
    split: str
    seed: int
    confusable: int
    max_attributes: int
    max_options: int


class Family(NamedTuple):
    """What the near-duplicates of one type in one store have in common."""

    department: Department
    kind: str
    core: list[str]
    options: dict[str, list[str]]


def store(source: Source, index: int) -> tuple[Items, Instructions]:
    """The items and instructions of one store of the source's split; no other store has any of its ASINs."""
    items: Items = []
    instructions: Instructions = {}
    for shelf, (department, kind) in enumerate((d, kind) for d in DEPARTMENTS for kind in d.types):
        draw = random.Random(f"{source.seed} {source.split} {index} {kind}")
        family = _family(draw, department, kind, source.max_options)
        for member, brand in enumerate(draw.sample(BRANDS, source.confusable + 1)):
            tail = "".join(draw.choices("BCDFGHJKLMNPQRSTVWXYZ", k=3))
            asin = f"B{source.split[:1].upper()}{index}{shelf:02d}{member:02d}{tail}"
            attributes = _attributes(draw, family)
            price = draw.randint(*PRICES)
            items.append(_item(draw, family, asin, brand, attributes, price))
            told = _instruction(draw, kind, attributes, source.max_attributes) if price <= WANTED else {}
            instructions[asin] = {"attributes": attributes, **told}
    random.Random(f"{source.seed} {source.split} {index}").shuffle(items)
    return items, instructions


def _family(draw: random.Random, department: Department, kind: str, max_options: int) -> Family:
    names = draw.sample(sorted(department.options), min(max_options, draw.choice((1, 2, 2))))
    options = {
        name: draw.sample(department.options[name], min(OFFERED + 1, len(department.options[name]))) for name in names
    }
    return Family(department, kind, draw.sample(department.attributes, CORE), options)


def _attributes(draw: random.Random, family: Family) -> list[str]:
    """Shown ones first: most are of the core; a hidden one may be anything."""
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
    """Filler that praises one attribute often or never: search counts words, and is led astray."""
    words = draw.choices(FILLER, k=draw.choice(LENGTHS)) + [attribute] * draw.choice((0, PRAISE))
    draw.shuffle(words)
    return " ".join(words).capitalize()


def _options(draw: random.Random, family: Family) -> dict[str, list[dict[str, str]]]:
    """All of the family's options but for one in six; of each, all values but one."""
    kept = {name: values for name, values in family.options.items() if draw.random() > 1 / 6}
    return {
        name: [{"value": value} for value in draw.sample(values, max(1, len(values) - 1))]
        for name, values in kept.items()
    }


def _instruction(draw: random.Random, kind: str, attributes: list[str], max_attributes: int) -> dict[str, Any]:
    """One to three attributes, at most one of them from the product's page, in any order."""
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
