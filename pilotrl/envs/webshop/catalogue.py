"""The WebShop catalogue: products and goals in WebShop's own JSON schema (arXiv 2207.01206), read and written."""

from __future__ import annotations

import itertools
import json
import lzma
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotrl.types import UserError

Items = list[dict[str, Any]]
Instructions = dict[str, dict[str, Any]]
NO_CAP = 1_000_000.0


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """One product. `price` in dollars is what is charged; `price_text` is what a page prints, which may be a range."""

    asin: str
    title: str
    category: str
    query: str
    path: frozenset[str]
    """The steps of the product category."""
    price: float
    lowest: float
    """The lower end of a price range, in dollars."""
    price_text: str
    bullets: tuple[str, ...]
    description: str
    options: dict[str, tuple[str, ...]]
    attributes: tuple[str, ...]
    instruction: str | None
    instruction_attributes: tuple[str, ...]

    @property
    def text(self) -> str:
        """All its texts, in lower case."""
        return " ".join((self.title, *self.bullets, self.description)).lower()


@dataclass(frozen=True, slots=True, eq=False)
class Goal:
    """The goal of a task: `product` is one that fits, which is not shown; any other that fits is as good."""

    id: str
    product: Product
    attributes: tuple[str, ...]
    options: dict[str, str]
    cap: float
    """Maximum price in dollars; NO_CAP if the instruction names none."""


def read(folder: str) -> tuple[Items, Instructions]:
    """WebShop's two files, plain or .xz: items_shuffle*.json and items_ins*.json. Raises UserError."""
    key = f"env.data_dir={folder}"
    if not Path(folder).is_dir():
        raise UserError(f"{key}: there is no such folder; give one with WebShop's items_shuffle*.json, or null")
    items, instructions = (_load(folder, pattern, key) for pattern in ("items_shuffle*.json*", "items_ins*.json*"))
    if not isinstance(items, list) or not isinstance(instructions, dict) or not items:
        raise UserError(f"{key}: the files do not hold WebShop's schema; download them again, or set it to null")
    return items, instructions


def _load(folder: str, pattern: str, key: str) -> Any:
    paths = sorted(p for p in Path(folder).glob(pattern) if p.suffix in (".json", ".xz"))
    if not paths:
        raise UserError(f"{key}: no {pattern} there; give a folder with WebShop's two files, or null")
    try:
        raw = paths[0].read_bytes()
        return json.loads(lzma.decompress(raw) if paths[0].suffix == ".xz" else raw)
    except (OSError, ValueError, EOFError, lzma.LZMAError) as error:
        raise UserError(f"{key}: {paths[0].name} cannot be read ({error}); download it again, or null") from error


def write(folder: str | Path, items: Items, instructions: Instructions) -> None:
    """Write the two files under WebShop's names; `read` returns the same."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, content in (
        (f"items_shuffle_{len(items)}.json", items),
        (f"items_ins_v2_{len(items)}.json", instructions),
    ):
        Path(folder, name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def products(items: Items, instructions: Instructions, seed: int) -> list[Product]:
    """Products in file order, the first of each ASIN. Raises KeyError, TypeError, ValueError on another schema."""
    unique = {str(item["asin"]): item for item in reversed(items)}
    kept = [item for item in items if unique[str(item["asin"])] is item and len(str(item["asin"])) <= 10]
    return [_product(item, instructions.get(item["asin"], {}), seed) for item in kept]


def _product(item: dict[str, Any], told: dict[str, Any], seed: int) -> Product:
    prices = _prices(item.get("pricing"))
    draw = random.Random(f"{seed} price {item['asin']}")  # the original draws ranged prices unseeded
    bullets = item["small_description"]
    return Product(
        asin=item["asin"],
        title=item["name"],
        category=item["category"],
        query=item["query"].lower().strip(),
        path=frozenset(step.strip() for step in item["product_category"].split("›")),
        price=prices[0] if len(prices) == 1 else draw.uniform(*prices),
        lowest=prices[0],
        price_text=" to ".join(f"${price}" for price in prices),
        bullets=tuple(bullets) if isinstance(bullets, list) else (bullets,),
        description=item["full_description"] or "",
        options=_options(item["customization_options"] or {}),
        attributes=tuple(told.get("attributes") or ()),
        instruction=told.get("instruction"),
        instruction_attributes=tuple(told.get("instruction_attributes") or ()),
    )


def _prices(pricing: Any) -> list[float]:
    """WebShop's raw files say "$19.99$27.99"; its cleaned ones [19.99, 27.99]. Nothing means 100 dollars."""
    if isinstance(pricing, str):
        pricing = [re.sub(r"[^\d.]", "", price) for price in pricing.split("$")[1:]]
    return [float(price) for price in pricing][:2] if pricing else [100.0]


def _options(choices: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    return {
        name.lower(): tuple(choice["value"].strip().replace("/", " | ").lower() for choice in values)
        for name, values in choices.items()
        if values is not None
    }


def goals(product: Product, seed: int) -> list[Goal]:
    """Every combination of the product's options under one price cap, as WebShop builds its synthetic goals."""
    if not product.instruction:
        return []
    draw = random.Random(f"{seed} cap {product.asin}")
    above = [10.0 * i for i in range(1, 100) if 10.0 * i > product.price][:4]
    cap = max(draw.sample(above, 2)) if len(above) >= 2 else NO_CAP
    names = sorted(product.options)
    choices = itertools.product(*(product.options[name] for name in names))
    return [
        Goal(f"{product.asin}-{i}", product, product.instruction_attributes, dict(zip(names, values, strict=True)), cap)
        for i, values in enumerate(choices)
    ]


def original_text(goal: Goal) -> str:
    """The instruction in WebShop's words."""
    options = ", and ".join(f"{name}: {value}" for name, value in goal.options.items())
    price = f", and price lower than {goal.cap:.2f} dollars" if goal.cap < NO_CAP else ""
    return f"{goal.product.instruction}{' with ' + options if options else ''}{price}"


def small_text(goal: Goal) -> str:
    """A shorter instruction, in one of several phrasings."""
    draw = random.Random(f"phrase {goal.id}")
    form, glue, start = draw.choice((("{} {}", " and ", " in "), ("{} {}", " , ", " , "), ("{}: {}", " , ", " with ")))
    options = glue.join(form.format(name, value) for name, value in goal.options.items())
    price = draw.choice((" under ${}", " for less than ${}", " , price below ${}")).format(math.ceil(goal.cap))
    return f"{goal.product.instruction}{start + options if options else ''}{price if goal.cap < NO_CAP else ''}"


def small_price(price: float) -> str:
    """Whole dollars, rounded up: caps are multiples of ten, so what fits still fits."""
    return f"${math.ceil(price)}"


def cut(title: str, words: int | None) -> str:
    """The first `words` words of a title; all of them for None."""
    return title if words is None else " ".join(title.split()[:words])


def split_of(asin: str, shares: Sequence[tuple[str, float]]) -> str:
    """The split of a product, from its ASIN alone: adding products moves none to another split."""
    at = random.Random(f"split {asin}").random()
    for name, share in shares:
        if (at := at - share) < 0:
            return name
    return shares[-1][0]
