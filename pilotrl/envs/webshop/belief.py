"""What a player can tell from the pages it has seen: may this product fit, and which of a page is the likeliest?

Honest by construction: a product's options count once its page was opened, its features once they were read, its title
as far as it is printed. `store.literal` says that pages name every attribute word by word, as generated ones do. Real
pages do not: there a missing word says little, so the order of the results, the price and the options decide.
"""

from __future__ import annotations

from functools import lru_cache

from pilotrl.envs.webshop.catalogue import Product, cut
from pilotrl.envs.webshop.score import alike
from pilotrl.envs.webshop.search import stems
from pilotrl.envs.webshop.session import Session

MISSING = 1
"""Wanted attributes that a title may leave out before other pages are looked at."""


class Reading:
    """One player's view of `session`."""

    def __init__(self, session: Session) -> None:
        self.session, self.goal, self.literal = session, session.goal, session.store.literal

    def words(self) -> str:
        """What to search for: type and two attributes; once that is used up type and options, then the type."""
        kind, attributes = self.goal.product.query, self.goal.attributes
        tries = [" ".join((*attributes[:2], kind)), " ".join((kind, *self.goal.options.values())), kind]
        if not self.literal:
            tries.insert(0, " ".join((*attributes, kind, *self.goal.options.values())))
        return next((words for words in tries if not self._used_up(words)), tries[0])

    def _used_up(self, words: str) -> bool:
        """The player searched this, and no page of the results that it saw has anything left to open or turn to."""
        looked = self.session.looked.get(words)
        if looked is None:
            return False
        left = any(self.best(self.session.listed(words, number)) for number in looked)
        return not left and not self.worth_turning(words, max(looked))

    def worth_turning(self, words: str, number: int) -> bool:
        """Results are sorted: once a page shows nothing of the wanted type, later ones will not."""
        listed = self.session.listed(words, number)
        more = self.session.listed(words, number + 1)
        return bool(more) and not all(self._other_type(product) for product in listed)

    def best(self, listed: list[Product]) -> Product | None:
        """The likeliest product of a page, the first among equals; None where none is likely enough."""
        return min(filter(self._likely, listed), key=self._rank, default=None)

    def _rank(self, product: Product) -> tuple[bool, int]:
        """One that was opened and still may fit comes first; then what lacks least."""
        return product.asin not in self.session.opened, self._missing(product) if self.literal else 0

    def _likely(self, product: Product) -> bool:
        known = not self.literal or product.asin in self.session.opened
        return self.may_fit(product) and (known or self._missing(product) <= MISSING)

    def may_fit(self, product: Product) -> bool:
        """Nothing seen so far speaks against it."""
        price = product.price if self.session.layout.small else product.lowest
        if price > self.goal.cap or (product.asin in self.session.opened and not self._offers(product)):
            return False
        if not self.literal:
            return True
        return not self._other_type(product) and (product.asin not in self.session.read or not self._missing(product))

    def settled(self, product: Product) -> bool:
        """Its features need not be read: they were, or the title says all, or they would not tell."""
        return not self.literal or product.asin in self.session.read or not self._missing(product)

    def _offers(self, product: Product) -> bool:
        return all(value in product.options.get(name, ()) for name, value in self.goal.options.items())

    def _missing(self, product: Product) -> int:
        """Wanted attributes not seen on it: in the title as printed, and in the features once they were read."""
        text, listed = self._title(product), tuple[str, ...]()
        if product.asin in self.session.read and self.session.layout.small:
            listed = product.attributes
        elif product.asin in self.session.read:
            text = " ".join((text, *product.bullets)).lower()
        return sum(
            wanted not in text and not any(alike(own, wanted) for own in listed) for wanted in self.goal.attributes
        )

    def _other_type(self, product: Product) -> bool:
        """No word of the wanted type stands in the title."""
        return not _share_a_word(self._title(product), self.goal.product.query)

    def _title(self, product: Product) -> str:
        return cut(product.title, self.session.layout.title_words).lower()


@lru_cache(maxsize=1 << 16)
def _share_a_word(one: str, other: str) -> bool:
    """Whatever its ending."""
    return not set(stems(one)).isdisjoint(stems(other))
