"""WebShop's pages: their text, in the original or a short layout, and what an action on a page means in words."""

from __future__ import annotations

import re

from pilotrl.envs.webshop.catalogue import Product, cut, original_text, small_price, small_text
from pilotrl.envs.webshop.session import SUBPAGES, Session, parse

SEP = " [SEP] "
RESULT = re.compile(r"(?P<handle>\S+) (?P<title>.*) (?P<price>\$\d+)(?: seen)?")
BUTTONS = {
    "buy now": "buy now",
    "< prev": "go back",
    "next >": "next page",
    "back to search": "back to search",
    "description": "read the description",
    "features": "read the features",
    "reviews": "read the reviews",
}
OPTION_NAMES = frozenset(
    (
        *("color", "colour", "size", "style", "scent", "flavor", "flavour", "finish", "shape", "model", "pack"),
        *("material", "pattern", "length", "width", "unit"),
    )
)
"""Words in names of options: they tell names from values on pages that print both the same way."""


def render(session: Session) -> str:
    """The text of the open page."""
    repeats = (session.page == "start" and not session.looked) or session.layout.repeat_instruction
    return SEP.join((_small if session.layout.small else _original)(session, repeats))


def _small(session: Session, repeats: bool) -> list[str]:
    if session.done:
        return [f"thank you , your score is {session.score}"]
    head = ["instruction:", small_text(session.goal)] if repeats else []
    if session.page == "start":
        return ["webshop", *head, "search"]
    if session.product is None:
        return [*head, "back to search", *_small_results(session)]
    return [*head, "back to search", "< prev", *_small_item(session, session.product), "buy now"]


def _original(session: Session, repeats: bool) -> list[str]:
    if session.done:
        return ["Thank you for shopping with us!", "Your score (min 0.0, max 1.0)", str(session.score)]
    head = ["Instruction:", original_text(session.goal)] if repeats else []
    if session.page == "start":
        return ["WebShop", *head, "Search"]
    if session.product is None:
        return [*head, "Back to Search", *_original_results(session)]
    inside = _original_sub if session.page == "sub" else _original_item
    return [*head, "Back to Search", "< Prev", *inside(session, session.product)]


def _small_results(session: Session) -> list[str]:
    turns = [text for text, (kind, _) in session.clickables().items() if kind == "turn"]
    products = [
        " ".join(
            (handle, *_title(session, product).split()[session.layout.short_handles :], small_price(product.price))
        )
        + (" seen" if product.asin in session.opened else "")
        for handle, product in zip(session.handles(), session.listed(), strict=True)
    ]
    return [f"page {session.number} of {session.pages}", *turns, *products]


def _small_item(session: Session, product: Product) -> list[str]:
    options = [f"{name}: {' , '.join(values)}" for name, values in product.options.items()]
    features = "features: " + " , ".join(attribute.lower() for attribute in product.attributes)
    return [*options, f"{_title(session, product)} {small_price(product.price)}", features]


def _title(session: Session, product: Product) -> str:
    title = cut(product.title, session.layout.title_words)
    return title.lower() if session.layout.small else title


def _original_results(session: Session) -> list[str]:
    parts = [f"Page {session.number} (Total results: {len(session.hits)})"]
    parts += [text.title() for text, (kind, _) in session.clickables().items() if kind == "turn"]
    for handle, product in zip(session.handles(), session.listed(), strict=True):
        parts += [handle.upper(), _title(session, product), product.price_text]
    return parts


def _original_item(session: Session, product: Product) -> list[str]:
    options = [part for name, values in product.options.items() for part in (name, *values)]
    facts = [_title(session, product), f"Price: {product.price_text}", "Rating: N.A."]
    return [*options, *facts, *(sub.title() for sub in SUBPAGES), "Buy Now"]


def _original_sub(session: Session, product: Product) -> list[str]:
    empty = {"description": "No Description", "features": "No Features", "reviews": "No reviews found"}[session.sub]
    texts = {"description": (product.description,), "features": product.bullets}.get(session.sub, ())
    return [text.strip() for text in texts if text.strip()] or [empty]


def resolve(observation: str, action: str, reply: str = "") -> str:
    """The action in words, from the text of its page; "" if it refers to nothing there.

    `click[b3]` becomes "open nova soft cotton shirt $23", `click[red]` "choose color red", `search[x]` "search x".
    """
    name, value = parse(action)
    if name == "search":
        return f"search {value}"
    if name != "click":
        return ""
    parts = [part.strip() for part in observation.split(SEP.strip())]
    if value in BUTTONS and value in (part.lower() for part in parts):
        return BUTTONS[value]
    return _opened(parts, value) or _option(parts, value)


def _opened(parts: list[str], value: str) -> str:
    for place, part in enumerate(parts):
        small = RESULT.fullmatch(part)
        if small and small["handle"].lower() == value:
            return f"open {value} {small['title']} {small['price']}"
        if part.lower() == value and len(parts) > place + 2 and parts[place + 2].startswith("$"):
            return f"open {parts[place + 1].lower()} {parts[place + 2]}"
    return ""


def _option(parts: list[str], value: str) -> str:
    """The choice of an option by its value, in words. Names and values printed alike are told apart by `OPTION_NAMES`."""
    for part in parts:
        name, colon, values = part.partition(": ")
        if colon and name != "features" and value in values.split(" , "):
            return f"choose {name} {value}"
    lowered = [part.lower() for part in parts]
    if "buy now" not in lowered or "< prev" not in lowered or value not in lowered:
        return ""
    first = lowered.index("< prev") + 1
    last = next((i for i, part in enumerate(lowered) if part.startswith("price: ")), 0) - 1
    if value not in lowered[first + 1 : last]:
        return ""
    place = lowered.index(value, first + 1)
    names = [part for i, part in enumerate(lowered[first:place]) if i == 0 or set(part.split()) & OPTION_NAMES]
    return f"choose {names[-1]} {value}"
