"""The belief state of the WebShop expert: which products may fit the goal, and which one is most likely to.

It only uses what the pages so far have shown: a product's options once its page was opened, its features once they were
read, its title as far as it is printed. With `store.literal` pages name every attribute word for word, as generated ones do.
Real pages do not: there a missing word says little, so the order of results, the price and the options decide.
"""

from __future__ import annotations

from functools import lru_cache

from pilotrl.envs.webshop.catalogue import Product, cut
from pilotrl.envs.webshop.score import alike
from pilotrl.envs.webshop.search import stems
from pilotrl.envs.webshop.session import Session

MISSING = 1
"""Maximum number of wanted attributes that the title of a product worth opening may lack."""


class Reading:
    """The belief state: what `session` has shown so far."""

    def __init__(self, session: Session) -> None:
        self.session, self.goal, self.literal = session, session.goal, session.store.literal

    def words(self) -> str:
        """The next query: type and two attributes; once that is used up type and options, then the type."""
        kind, attributes = self.goal.product.query, self.goal.attributes
        tries = [" ".join((*attributes[:2], kind)), " ".join((kind, *self.goal.options.values())), kind]
        if not self.literal:
            tries.insert(0, " ".join((*attributes, kind, *self.goal.options.values())))
        return next((words for words in tries if not self._used_up(words)), tries[0])

    def _used_up(self, words: str) -> bool:
        """Whether this was searched, and no seen page of its results has a product or page left to open."""
        looked = self.session.looked.get(words)
        if looked is None:
            return False
        left = any(self.best(self.session.listed(words, number)) for number in looked)
        return not left and not self.worth_turning(words, max(looked))

    def worth_turning(self, words: str, number: int) -> bool:
        """Whether the next page may help: results are sorted, so not after a page without the wanted type."""
        listed = self.session.listed(words, number)
        more = self.session.listed(words, number + 1)
        return bool(more) and not all(self._other_type(product) for product in listed)

    def best(self, listed: list[Product]) -> Product | None:
        """The most likely product of a page, the first among equals; None if none is likely enough."""
        return next(iter(self.likeliest(listed)), None)

    def likeliest(self, listed: list[Product]) -> list[Product]:
        """The products of a page that are the most likely; none if none is likely enough."""
        ranks = {product: self._rank(product) for product in listed if self.likely(product)}
        least = min(ranks.values(), default=None)
        return [product for product, rank in ranks.items() if rank == least]

    def _rank(self, product: Product) -> tuple[bool, int]:
        """Sort key: opened products that may still fit first; then by the number of missing attributes."""
        return product.asin not in self.session.opened, self._missing(product) if self.literal else 0

    def likely(self, product: Product) -> bool:
        known = not self.literal or product.asin in self.session.opened
        return self.may_fit(product) and (known or self._missing(product) <= MISSING)

    def may_fit(self, product: Product) -> bool:
        """Whether a product may fit the goal, by what was seen so far."""
        return not self.against(product)

    def against(self, product: Product) -> str:
        """What was seen against a product, in words; empty where it may fit the goal."""
        price = product.price if self.session.layout.small else product.lowest
        if price > self.goal.cap:
            return "too dear"
        if product.asin in self.session.opened and (gone := self._not_offered(product)):
            return f"no {gone[0]}"
        if self.literal and self._other_type(product):
            return f"no {self.goal.product.query}"
        if self.literal and product.asin in self.session.read and (unseen := self.unseen(product)):
            return f"not {unseen[0]}"
        return ""

    def settled(self, product: Product) -> bool:
        """Whether reading a product's features is unnecessary: done already, or they would tell nothing new."""
        return not self.literal or product.asin in self.session.read or not self._missing(product)

    def _not_offered(self, product: Product) -> list[str]:
        return [value for name, value in self.goal.options.items() if value not in product.options.get(name, ())]

    def _missing(self, product: Product) -> int:
        return len(self.unseen(product))

    def unseen(self, product: Product) -> list[str]:
        """Wanted attributes not seen on a product: in its printed title, and in its features once read."""
        text, listed = self._title(product), tuple[str, ...]()
        if product.asin in self.session.read and self.session.layout.small:
            listed = product.attributes
        elif product.asin in self.session.read:
            text = " ".join((text, *product.bullets)).lower()
        return [
            wanted
            for wanted in self.goal.attributes
            if wanted not in text and not any(alike(own, wanted) for own in listed)
        ]

    def _other_type(self, product: Product) -> bool:
        """Whether the title has no word of the wanted type."""
        return not _share_a_word(self._title(product), self.goal.product.query)

    def _title(self, product: Product) -> str:
        return cut(product.title, self.session.layout.title_words).lower()


@lru_cache(maxsize=1 << 16)
def _share_a_word(one: str, other: str) -> bool:
    """Whether two texts share a word, by stems."""
    return not set(stems(one)).isdisjoint(stems(other))
