"""The scripted expert of WebShop: makes a list of moves, whose steps are the plan and whose first action is the next."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

from pilotrl.envs.webshop.belief import Reading
from pilotrl.envs.webshop.catalogue import NO_CAP, Product, cut, small_price
from pilotrl.envs.webshop.session import Session, first_word

TITLE_WORDS = 8
"""Number of words of a title in a step."""
BEST = "open the best match within the price"
"""Loose for every step that opens a product."""
ORDER = "order it as it is wanted"
"""Loose for every step that chooses an option, and for the purchase."""


class Move(NamedTuple):
    """A plan step, in both wordings, and its action, which is empty if the open page does not show it yet."""

    step: str
    loose: str
    action: str = ""


class WebShopExpert:
    """The expert: searches, opens the best product by title and price, checks its page, then goes back, or buys it."""

    def __init__(self, session: Session) -> None:
        self.session, self.goal, self.reading = session, session.goal, Reading(session)
        draw = random.Random(f"words {session.goal.id}")
        self._find = draw.choice(("find", "search for", "look for"))
        self._choose = draw.choice(("choose", "select", "pick"))
        self._take = draw.choice(("buy it", "buy this one"))

    def plan(self) -> list[str]:
        """Steps from the next turn to the purchase; names a product once its title and price have been seen."""
        return [move.step for move in self._moves()]

    def loose(self) -> list[str]:
        """The same steps without what is typed or clicked."""
        return [move.loose for move in self._moves()]

    def equal(self, action: str) -> str:
        """Another product of the page that is as likely, another option that is still to be chosen."""
        moves = self._moves()
        if moves and moves[0].loose == BEST:
            moves = self._openings(self.reading.likeliest(self.session.listed()))
        elif moves and moves[0].loose == ORDER:
            moves = [move for move in moves if move.step != self._take] or moves
        else:
            moves = moves[:1]
        return next((move.step for move in moves if move.action == action), "")

    def subgoals(self) -> list[str]:
        """Find a product that fits, choose its options, buy it."""
        wanted = ", ".join(map(self._named, self.goal.options.values()))
        find = f"find {self._named(self.goal.product.query)}{self._limit()}"
        return [
            self._take if step == self._take else f"choose {wanted}" if loose == ORDER else find
            for step, loose, _ in self._moves()
        ]

    def action(self) -> str:
        """The next action. Raises RuntimeError after the purchase."""
        if self.session.done:
            raise RuntimeError("the episode has ended: there is no next action")
        return self._moves()[0].action

    def thought(self) -> str:
        """What is wanted, and whether the open product, or how many of a page, may be it: `shirt wanted; $35, no gray`."""
        session, product, wanted = self.session, self.session.product, f"{self.goal.product.query} wanted"
        if product is not None:
            return f"{wanted}; {self._opinion(product)}"
        if session.page != "results":
            return f"{wanted}; none in sight"
        listed = session.listed()
        return f"{wanted}; {sum(map(self.reading.likely, listed))} of {len(listed)} may fit"

    def _opinion(self, product: Product) -> str:
        """What was seen of the open product, for and against it."""
        price = self._price(product)
        if against := self.reading.against(product):
            return f"{price}, {against}"
        if not self.reading.settled(product):
            return f"{price}, {self.reading.unseen(product)[0]} not seen yet"
        left = [name for name, value in self.goal.options.items() if self.session.chosen.get(name) != value]
        return f"{price}, fits" + (f", {' and '.join(left)} still open" if left else "")

    def _price(self, product: Product) -> str:
        return small_price(product.price) if self.session.layout.small else product.price_text

    def detour(self) -> str | None:
        """Open the first product of the page that was not opened yet; None elsewhere."""
        session = self.session
        listed = zip(session.handles(), session.listed(), strict=True) if session.page == "results" else ()
        new = [handle for handle, product in listed if product.asin not in session.opened]
        return f"click[{new[0]}]" if new else None

    def _named(self, words: str) -> str:
        """Words to be typed or clicked exactly: in brackets for small models, so that their tokens are those of the action."""
        return f"[{words}]" if self.session.layout.small else words

    def _moves(self) -> list[Move]:
        product = self.session.product
        if self.session.done:
            return []
        if self.session.page == "start":
            return self._search()
        return self._from_results() if product is None else self._from_product(product)

    def _search(self) -> list[Move]:
        words = self.reading.words()
        said = (
            f"{self._find} it with other words" if self.session.looked else f"{self._find} the product that is wanted"
        )
        move = Move(f"{self._find} {self._named(words)}", said, f"search[{words}]")
        return [move, self._open_best(), *self._finish(None)]

    def _from_results(self) -> list[Move]:
        best = self.reading.best(self.session.listed())
        return self._elsewhere() if best is None else [*self._openings([best]), *self._finish(best)]

    def _openings(self, products: list[Product]) -> list[Move]:
        """Moves to open products of the page."""
        listed = zip(self.session.listed(), self.session.handles(), strict=True)
        return [self._open(product, f"click[{handle}]") for product, handle in listed if product in products]

    def _elsewhere(self) -> list[Move]:
        """Moves when no product here is worth opening: to an earlier page that has one, the next page, or another search."""
        query, here = self.session.query, self.session.number
        for number in sorted(self.session.looked[query], reverse=True):
            best = self.reading.best(self.session.listed(query, number))
            if best is not None and number < here:
                turns = [Move("go back a page", "go back a page", "click[< prev]")] * (here - number)
                return [*turns, self._open(best), *self._finish(best)]
        if self.reading.worth_turning(query, here):
            turn = Move("look at the next page", "see more results", "click[next >]")
            return [turn, self._open_best(), *self._finish(None)]
        return self._search()

    def _from_product(self, product: Product) -> list[Move]:
        inside = self.session.page == "sub"
        back = "go back to the product"
        moves = [Move(back, back, "click[< prev]")] if inside else []
        if not self.reading.may_fit(product):
            best = self.reading.best(self.session.listed())
            then = self._elsewhere() if best is None else [self._open(best), *self._finish(best)]
            return [*moves, Move("go back to the results", "go back to the results", "click[< prev]"), *then]
        if not inside and not self.reading.settled(product):
            moves = [Move("check the features", "check its attributes", "click[features]"), Move(back, back)]
        return [*moves, *self._finish(product)]

    def _open_best(self) -> Move:
        return Move(f"open the best match{self._limit()}", BEST)

    def _limit(self) -> str:
        return f" under ${math.ceil(self.goal.cap)}" if self.goal.cap < NO_CAP else ""

    def _open(self, product: Product, action: str = "") -> Move:
        layout = self.session.layout
        words = self._named(first_word(product) if layout.short_handles else cut(product.title, TITLE_WORDS).lower())
        return Move(f"open {words} for {self._price(product)}", BEST, action)

    def _finish(self, product: Product | None) -> list[Move]:
        """Moves for the options still to be chosen on the product's page, then the purchase."""
        chosen = self.session.chosen if product is not None and product is self.session.product else {}
        options = [
            Move(f"{self._choose} {name} {self._named(value)}", ORDER, f"click[{value}]")
            for name, value in self.goal.options.items()
            if chosen.get(name) != value
        ]
        return [*options, Move(self._take, ORDER, "click[buy now]")]
