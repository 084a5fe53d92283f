"""Tables of ALFWorld's objects: which rooms and places have them, from ALFWorld (arXiv 2010.03768) and ALFRED's scenes.

A *place* holds things (`cabinet 2`); a *thing* can be carried (`mug 1`), except lamps. Names are the kind and a number.
"""

from __future__ import annotations

from functools import cache, lru_cache

GROUPS = {"table": "countertop diningtable coffeetable sidetable", "seat": "sofa armchair ottoman"}
THINGS = """
alarmclock: bedroom | sidetable desk dresser | table shelf
apple: kitchen | fridge countertop diningtable | table garbagecan microwave sinkbasin
baseballbat: bedroom | bed | table
basketball: bedroom | bed armchair | seat desk dresser table
book: bedroom living | shelf desk bed coffeetable | seat table cabinet drawer dresser
bowl: kitchen bedroom | cabinet countertop shelf | table desk dresser fridge microwave sinkbasin
box: bedroom living | sofa coffeetable dresser | seat table cabinet desk shelf
bread: kitchen | countertop diningtable | table fridge garbagecan microwave
butterknife: kitchen | drawer countertop | table sinkbasin
candle: bathroom living | countertop toilet shelf | table cabinet cart desk drawer dresser
cd: bedroom | drawer desk shelf | table cabinet dresser garbagecan safe
cellphone: bedroom living | bed desk sidetable sofa | seat table drawer dresser safe shelf
cloth: bathroom | countertop bathtubbasin cabinet | \
seat table cart desk drawer dresser garbagecan laundryhamper shelf sinkbasin toilet
creditcard: bedroom living | desk dresser sidetable coffeetable | seat table drawer safe shelf
cup: kitchen | cabinet countertop diningtable | table desk dresser fridge microwave shelf sinkbasin
dishsponge: kitchen bathroom | sinkbasin countertop | table bathtubbasin cabinet cart drawer garbagecan shelf toilet
egg: kitchen | fridge countertop | table garbagecan microwave sinkbasin
fork: kitchen | drawer countertop | table sinkbasin
glassbottle: kitchen | countertop cabinet | table desk dresser fridge microwave shelf sinkbasin
handtowel: bathroom | handtowelholder countertop | table bathtubbasin cabinet cart drawer garbagecan shelf sinkbasin toilet
kettle: kitchen | stoveburner countertop | table cabinet shelf sinkbasin
keychain: bedroom living | drawer sidetable dresser | seat table desk safe shelf
knife: kitchen | drawer countertop | table sinkbasin
ladle: kitchen | drawer countertop | table cabinet sinkbasin
laptop: bedroom living | desk sofa coffeetable bed | seat table dresser
lettuce: kitchen | fridge countertop diningtable | table garbagecan sinkbasin
mug: kitchen bedroom | coffeemachine cabinet countertop desk | table cart dresser fridge microwave shelf sinkbasin
newspaper: living | coffeetable sofa | seat table bed cabinet desk drawer dresser garbagecan shelf toilet
pan: kitchen | stoveburner cabinet | table fridge sinkbasin
pen: bedroom living | desk drawer sidetable | table dresser garbagecan shelf
pencil: bedroom living | desk drawer shelf | table dresser garbagecan
peppershaker: kitchen | cabinet countertop drawer | table shelf
pillow: bedroom living | bed sofa | seat
plate: kitchen | cabinet countertop diningtable | table desk dresser fridge microwave shelf sinkbasin
pot: kitchen | stoveburner cabinet | table fridge shelf sinkbasin
potato: kitchen | countertop fridge | table garbagecan microwave sinkbasin
remotecontrol: living | sofa coffeetable | seat table desk drawer dresser shelf
saltshaker: kitchen | cabinet countertop drawer | table shelf
soapbar: bathroom | sinkbasin bathtubbasin countertop | table cabinet cart drawer garbagecan shelf toilet
soapbottle: bathroom kitchen | countertop toilet | table cabinet cart desk drawer garbagecan shelf
spatula: kitchen | drawer countertop | table sinkbasin
spoon: kitchen | drawer countertop | table sinkbasin
spraybottle: bathroom | toilet countertop cabinet | table cart desk drawer dresser garbagecan shelf
statue: living | shelf dresser coffeetable | table cart desk safe
tennisracket: bedroom | bed dresser | table desk
tissuebox: bathroom living | sidetable countertop toilet | table cabinet cart desk drawer dresser garbagecan shelf tvstand
toiletpaper: bathroom | toiletpaperhanger cabinet toilet | table cart desk drawer dresser garbagecan shelf
tomato: kitchen | fridge countertop | table garbagecan microwave sinkbasin
towel: bathroom | towelholder |
vase: living kitchen | shelf diningtable | table cabinet cart desk dresser safe
watch: bedroom living | dresser sidetable | table desk drawer safe shelf
wateringcan: living | sidetable shelf | table cabinet desk drawer dresser
winebottle: kitchen | countertop fridge cabinet | table desk dresser garbagecan shelf
desklamp: bedroom living | desk sidetable dresser |
"""
"""Kind of thing: rooms that have it | kinds of place where it usually is | further kinds where it may be put."""

ROOMS = {
    "kitchen": "fridge 1; microwave 1; sinkbasin 1; countertop 1 2 2 3 3 4; cabinet 4 5 6 8 9 10 13 15; coffeemachine 1; "
    "diningtable 0 0 1 1 2; drawer 0 3 3 4 5 6 8; garbagecan 1; shelf 0 0 0 3; sidetable 0 0 0 0 1; stoveburner 4; toaster 1",
    "living": "sidetable 0 1 1 2 3; sofa 1 1 1 2; armchair 0 1 1 2; cabinet 0 0 0 4; coffeetable 0 1 1 2; desk 0 0 0 1; "
    "diningtable 0 0 1; drawer 0 0 1 4 6; dresser 0 0 1; garbagecan 1; ottoman 0 0 0 1; safe 0 0 0 1; shelf 0 0 2 4 8; "
    "tvstand 0 1",
    "bedroom": "desk 0 1 1 1 2; bed 1 1 2; armchair 0 0 1; cabinet 0 0 0 4; drawer 2 3 3 5 7 10; dresser 0 0 1; garbagecan 1; "
    "laundryhamper 0 0 1; safe 0 0 0 1; shelf 0 0 1 2 5; sidetable 0 1 1 2",
    "bathroom": "sinkbasin 1 1 2; toilet 1; bathtubbasin 0 1 1; cabinet 0 0 4 4 5; cart 0 0 0 1; countertop 0 1 1 1 2; "
    "drawer 0 0 0 4 6; garbagecan 1; handtowelholder 1 2; shelf 0 0 0 2; sidetable 0 0 0 1; toiletpaperhanger 1; towelholder 1",
}
"""Kind of room: possible numbers of each kind of place, drawn uniformly."""

ESSENTIAL = frozenset(("fridge", "microwave", "sinkbasin", "desk"))
"""Kinds of place that are kept when a room is made small."""
OPENABLE = frozenset(("cabinet", "drawer", "fridge", "microwave", "safe"))
SINGLE = frozenset(("coffeemachine", "handtowelholder", "stoveburner", "toiletpaperhanger", "towelholder"))
"""Kinds of place that hold one thing only; no task asks to put two there."""
LAMPS = frozenset(("desklamp",))
KNIVES = frozenset(("butterknife", "knife"))
VESSELS = frozenset(("bowl", "box", "cup", "mug", "pan", "plate", "pot"))
"""Kinds of thing that could hold others, which only shows in the reply to examining them."""
SLICEABLE = frozenset(("apple", "bread", "egg", "lettuce", "potato", "tomato"))
TOOLS = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
"""Treatment -> kind of place where it is given."""
_TREATABLE = """
clean: apple bowl butterknife cloth cup dishsponge egg fork kettle knife ladle lettuce mug pan plate pot potato soapbar \
spatula spoon tomato
heat: apple bread cup egg mug plate potato tomato
cool: apple bowl bread cup egg lettuce mug pan plate pot potato tomato winebottle
"""
TREATABLE = {
    name: frozenset(things.split()) for name, things in (line.split(":") for line in _TREATABLE.strip().splitlines())
}
"""Treatment -> kinds of thing that it can be given."""


@lru_cache(maxsize=4096)
def kind(name: str) -> str:
    """`mug` of `mug 1`."""
    return name.partition(" ")[0]


def _kinds(text: str) -> tuple[str, ...]:
    return tuple(part for word in text.split() for part in GROUPS.get(word, word).split())


@cache
def _table() -> dict[str, tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]]:
    rows = (line.replace(":", "|").split("|") for line in THINGS.strip().splitlines())
    return {
        name: (_kinds(rooms), _kinds(usual), frozenset(_kinds(f"{usual} {also}"))) for name, rooms, usual, also in rows
    }


@cache
def found_in(room: str) -> tuple[str, ...]:
    """Kinds of thing that a kind of room may have, without lamps."""
    return tuple(name for name, (rooms, _, _) in _table().items() if room in rooms and name not in LAMPS)


@lru_cache(maxsize=4096)
def usual(thing: str) -> tuple[str, ...]:
    """Kinds of place where a kind of thing usually is; empty for an unknown kind."""
    return _table()[thing][1] if thing in _table() else ()


@lru_cache(maxsize=4096)
def can_hold(place: str, thing: str) -> bool:
    """Whether things of this kind may be put there; False for an unknown kind."""
    return thing in _table() and place in _table()[thing][2]
