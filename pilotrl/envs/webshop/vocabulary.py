"""The closed vocabulary of generated WebShop catalogues: plain words, so that a small tokenizer learns every one.

Within a department no attribute matches another one, a type or a brand, since the score matches words fuzzily.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Department:
    """A department of the shop: types of product, their attributes, and their options."""

    category: str
    path: str
    types: tuple[str, ...]
    attributes: tuple[str, ...]
    options: dict[str, tuple[str, ...]]


COLORS = ("red", "blue", "green", "black", "white", "pink", "gray", "brown", "purple", "orange")
SIZES = ("small", "medium", "large", "huge")

DEPARTMENTS = (
    Department(
        "fashion",
        "Clothing › Apparel",
        ("shirt", "jacket", "sweater", "dress", "hoodie", "skirt"),
        ("cotton", "linen", "wool", "fleece", "slim", "loose", "stretchy", "warm", "breathable", "washable", "striped"),
        {"color": COLORS, "size": SIZES},
    ),
    Department(
        "fashion",
        "Clothing › Footwear",
        ("sneakers", "boots", "sandals", "slippers", "loafers", "clogs"),
        ("leather", "rubber", "padded", "waterproof", "wide", "canvas", "suede", "vegan", "flat", "quilted", "grippy"),
        {"color": COLORS, "size": ("6", "7", "8", "9", "10", "11")},
    ),
    Department(
        "garden",
        "Home › Furniture",
        ("desk", "chair", "sofa", "bench", "shelf", "stool"),
        ("wooden", "metal", "folding", "modern", "rustic", "sturdy", "compact", "padded", "tall", "velvet", "glass"),
        {"color": COLORS, "finish": ("oak", "walnut", "maple", "pine", "cherry", "ash")},
    ),
    Department(
        "garden",
        "Home › Kitchen",
        ("kettle", "pan", "mug", "knife", "bowl", "blender"),
        ("steel", "ceramic", "nonstick", "insulated", "quiet", "cordless", "heavy", "stackable", "copper", "vintage"),
        {"color": COLORS, "size": SIZES},
    ),
    Department(
        "garden",
        "Home › Bedding",
        ("blanket", "pillow", "curtain", "rug", "towel", "mattress"),
        ("plush", "thick", "soft", "quilted", "cooling", "bamboo", "knitted", "floral", "organic", "washable", "silky"),
        {"color": COLORS, "size": ("twin", "full", "queen", "king")},
    ),
    Department(
        "garden",
        "Home › Decor",
        ("lamp", "candle", "vase", "mirror", "clock", "lantern"),
        (
            "solar",
            "vintage",
            "brass",
            "crystal",
            "wireless",
            "bright",
            "handmade",
            "carved",
            "tiny",
            "modern",
            "marble",
        ),
        {"color": COLORS, "shape": ("round", "square", "oval", "star", "heart")},
    ),
    Department(
        "electronics",
        "Electronics › Devices",
        ("headphones", "speaker", "charger", "keyboard", "tablet", "camera"),
        ("smart", "portable", "fast", "slim", "durable", "magnetic", "wireless", "rugged", "digital", "quiet"),
        {"color": COLORS, "model": ("basic", "plus", "pro", "max", "lite")},
    ),
    Department(
        "beauty",
        "Beauty › Care",
        ("shampoo", "lotion", "soap", "perfume", "lipstick", "serum"),
        ("natural", "vegan", "gentle", "organic", "creamy", "soothing", "hydrating", "mineral", "herbal", "matte"),
        {"scent": ("rose", "lemon", "mint", "vanilla", "coconut", "peach"), "size": ("travel", "regular", "jumbo")},
    ),
    Department(
        "grocery",
        "Grocery › Pantry",
        ("coffee", "tea", "cookies", "cereal", "granola", "popcorn"),
        ("sugarless", "organic", "vegan", "crunchy", "roasted", "spicy", "salty", "kosher", "keto", "smoky", "fresh"),
        {"flavor": ("vanilla", "caramel", "honey", "mocha", "maple", "ginger"), "pack": ("single", "double", "family")},
    ),
    Department(
        "garden",
        "Sports › Outdoor",
        ("tent", "backpack", "bottle", "hammock", "cooler", "helmet"),
        ("waterproof", "folding", "insulated", "sturdy", "compact", "padded", "rugged", "windproof", "canvas", "solar"),
        {"color": COLORS, "size": SIZES},
    ),
)

BRANDS = (
    "acme", "nova", "orion", "zenith", "luna", "delta", "vertex", "aspen", "cobalt", "ember", "falcon", "gemini",
    "harbor", "indigo", "jasper", "kodiak", "lotus", "mesa", "nimbus", "onyx", "pioneer", "quest", "raven", "summit",
    "titan", "umbra", "vista", "willow", "xenon", "yonder", "zephyr", "atlas", "bison", "comet", "dune", "echo",
)  # fmt: skip

FILLER = (
    "made", "every", "day", "home", "office", "gift", "idea", "kids", "friends", "quality", "design", "easy", "years",
    "value", "people", "love", "favorite", "weekend", "life", "ideal", "choice", "simple", "maker", "box", "guide",
)  # fmt: skip
"""Filler words of descriptions. They match no attribute, and only lengthen the indexed text."""

PHRASES = {
    1: ("find me {a} {t}", "i need {a} {t}", "i am looking for {t} that is {a}", "show me {a} {t}"),
    2: (
        "find me {a} {b} {t}",
        "i need {a} {t} that is {b}",
        "i am looking for {t} , {a} and {b}",
        "show me {a} and {b} {t}",
    ),
    3: (
        "find me {a} {b} {t} that is {c}",
        "i need {a} {t} , {b} and {c}",
        "i am looking for {t} that is {a} , {b} and {c}",
        "show me {a} {b} {c} {t}",
    ),
}
"""Phrasings of an instruction with attributes `a`, `b`, `c` and type `t`, by number of attributes."""
