"""The WebShop simulator: the session of one episode, with the open page, what can be clicked, and what a click does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pilotrl.envs.webshop.catalogue import Goal, Product
from pilotrl.envs.webshop.score import score
from pilotrl.envs.webshop.search import Index

Page = Literal["start", "results", "item", "sub", "done"]
SUBPAGES = ("description", "features", "reviews")
ACTION = re.compile(r"(.+)\[(.+)\]")


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of pages. `small` pages are lower case, print features on the product page, and have no sub-pages."""

    small: bool
    page_size: int
    title_words: int | None
    short_handles: bool
    repeat_instruction: bool
    max_turns: int


def parse(action: str) -> tuple[str, str]:
    """Name and argument, in lower case, of `name[argument]`; two empty strings for anything else."""
    match = ACTION.match(action.strip())
    return (match[1], match[2].lower()) if match else ("", "")


def first_word(product: Product) -> str:
    """First word of a product's title, in lower case, letters and digits only; the brand of a generated product."""
    return next(iter(re.findall(r"[a-z0-9]+", product.title.lower())), product.asin.lower())


class Store:
    """A store: products and the search index over them."""

    def __init__(self, products: Sequence[Product]) -> None:
        self.literal = all(attribute in product.text for product in products for attribute in product.attributes)
        """Whether every attribute is in its product's texts word for word: so in generated catalogues, not in WebShop's."""
        self.products = products
        self.index = Index(products)


@dataclass(slots=True)
class Session:
    """The session of one episode in `store` with `goal`. `act` is the only way to change its state."""

    store: Store
    goal: Goal
    layout: Layout
    page: Page = "start"
    query: str = ""
    number: int = 1
    """Number of the results page, from 1."""
    product: Product | None = None
    sub: str = ""
    chosen: dict[str, str] = field(default_factory=dict)
    looked: dict[str, set[int]] = field(default_factory=dict)
    """Query -> numbers of its results pages that were shown."""
    opened: set[str] = field(default_factory=set)
    """ASINs whose product page was shown."""
    read: set[str] = field(default_factory=set)
    """ASINs whose features were shown."""
    score: float = 0.0

    @property
    def done(self) -> bool:
        """Whether something was bought."""
        return self.page == "done"

    @property
    def hits(self) -> tuple[int, ...]:
        """Results of the current search: positions in the store, best first."""
        return self.store.index.search(self.query)

    def listed(self, words: str | None = None, number: int | None = None) -> list[Product]:
        """The products of a results page: by default of the current search and page."""
        words, number = self.query if words is None else words, self.number if number is None else number
        start = (number - 1) * self.layout.page_size
        return [self.store.products[i] for i in self.store.index.search(words)[start : start + self.layout.page_size]]

    @property
    def pages(self) -> int:
        """Number of results pages of this search, at least 1."""
        return max(1, -(-len(self.hits) // self.layout.page_size))

    def handles(self) -> list[str]:
        """The text to click for each product of the page: its title's first word, numbered if it repeats; or its ASIN."""
        listed = self.listed()
        if not self.layout.short_handles:
            return [product.asin.lower() for product in listed]
        names = [first_word(product) for product in listed]
        again = [names[:place].count(name) for place, name in enumerate(names)]
        return [f"{name}{count + 1}" if count else name for name, count in zip(names, again, strict=True)]

    def clickables(self) -> dict[str, tuple[str, str]]:
        """Lower-case text of everything that can be clicked now -> (kind of element, which one)."""
        if self.page in ("start", "done"):
            return {}
        clicks = {"back to search": ("start", "")}
        if self.page == "results":
            return clicks | self._result_clicks()
        clicks["< prev"] = ("prev", "")
        if self.page == "item" and self.product is not None:
            for name, values in self.product.options.items():
                clicks |= dict.fromkeys(values, ("option", name))
            if not self.layout.small:
                clicks |= {sub: ("sub", sub) for sub in SUBPAGES}
            clicks["buy now"] = ("buy", "")
        return clicks

    def _result_clicks(self) -> dict[str, tuple[str, str]]:
        clicks = {"< prev": ("turn", "-1")} if self.number > 1 else {}
        if self.number < self.pages:
            clicks["next >"] = ("turn", "1")
        return clicks | {handle: ("open", str(place)) for place, handle in enumerate(self.handles())}

    def act(self, action: str) -> bool:
        """Carries out `search[words]` or `click[value]`; returns False, and changes nothing, if it is not possible now."""
        name, argument = parse(action)
        if name == "search":
            self._search(argument)
            return True
        click = self.clickables().get(argument) if name == "click" else None
        if click is not None:
            self._click(*click, argument)
        return click is not None

    def _search(self, words: str) -> None:
        self.query = words
        self._turn_to(1)

    def _turn_to(self, number: int) -> None:
        self.page, self.number, self.product, self.chosen = "results", number, None, {}
        self.looked.setdefault(self.query, set()).add(number)

    def _click(self, kind: str, which: str, value: str) -> None:
        if kind == "start":
            self.page, self.product, self.chosen = "start", None, {}
        elif kind == "turn":
            self._turn_to(self.number + int(which))
        elif kind == "open":
            self._open(self.listed()[int(which)])
        elif kind == "option":
            self.chosen[which] = value
        elif kind == "sub":
            self._read(which)
        elif kind == "prev" and self.page == "sub":
            self.page = "item"
        elif kind == "prev":
            self._turn_to(self.number)
        else:
            self._buy()

    def _open(self, product: Product) -> None:
        self.page, self.product, self.chosen = "item", product, {}
        self.opened.add(product.asin)
        if self.layout.small:
            self.read.add(product.asin)

    def _read(self, sub: str) -> None:
        self.page, self.sub = "sub", sub
        if sub == "features" and self.product is not None:
            self.read.add(self.product.asin)

    def _buy(self) -> None:
        assert self.product is not None
        self.score = score(self.goal, self.product, self.chosen)
        self.page = "done"
