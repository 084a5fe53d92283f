"""The lexicon of the rule judge: verb phrases by kind of deed, words that name no object, synonyms."""

from __future__ import annotations

import re

VERBS = {
    "search": "search; search for; search again; try a different search; try another search; run a search; do a "
    "search; find; look for; look up; query; seek; hunt for; type; enter",
    "open": "open; click; click on; view; visit; inspect; check; choose; select; pick; unlock; toggle; pull open; "
    "try; look inside; look in; look into",
    "choose": "choose; select; set; pick; click; click on; switch to; set the",
    "back": "back; go back; go back to; go back a; return; return to; previous page; click prev; step back; leave; "
    "leave this; exit",
    "home": "back to search; go back to search; go back to the search; return to search; return to the search; "
    "start over",
    "next": "next page; more result; later page; see more",
    "buy": "buy; buy now; purchase; order; check out; checkout; pay; pay for; place the order",
    "take": "take; pick up; pickup; pick; grab; collect; get; fetch; gather; obtain; lift; mine; retrieve",
    "put": "put; place; put down; set down; move; drop; leave; store; insert; deposit",
    "drop": "drop; put down; let go of; release; set down",
    "go": "go; go to; walk; walk to; head; head to; navigate to; navigate; approach; move; move to; reach; "
    "step; travel; return; return to; go back; go back to; find; look for; locate; search; explore; "
    "visit; check; enter; pass; run; get to; get closer to; get closer; go over to; toggle and go; "
    "advance; proceed to",
    "close": "close; shut",
    "heat": "heat; warm; warm up; heat up; microwave; cook",
    "cool": "cool; chill; cool down; cool off; refrigerate",
    "clean": "clean; wash; rinse; wash off; rinse off; clean off",
    "use": "use; turn on; switch on; toggle; activate; light",
    "look": "look; look at; look in; look into; look inside; look around; explore; examine; inspect; check; read; "
    "view; see; observe; survey; study; look through; find out; review",
    "inventory": "inventory; check inventory; check the inventory; check my inventory; view inventory; look at "
    "inventory; look at the inventory; check what you; see what you; list what you; check what i; see "
    "what i; list what i",
    "craft": "craft; make; build; create; produce; turn; convert",
    "turn": "turn; rotate; explore; face; turn to; turn to the; turn to face; look",
    "guess": "guess; try; play; start with; start by; try the word; guess the word; submit",
    "answer": "answer; reply; say; respond; report; tell; state; conclude",
    "press": "press; push; hit; tap; click; click on; press on",
    "": "continue; proceed; go on; move on; keep go; go on with; make progress; take action; take the next "
    "action; take the next step; take a step; do; make sure; make a move; make a good move; keep; act; go "
    "ahead; take an action",
}
"""Kind of deed -> verb phrases that can mean it. A phrase of the empty kind has no meaning of its own, such as "keep"."""

BARE = frozenset({"back", "home", "next", "buy", "inventory"})
"""Kinds of deed that need no object: a page offers only one of each."""
GENERIC = frozenset({"open", "look", "go", "press", "choose"})
"""Kinds of deed whose object may be another deed: "click the next page"."""

SYNONYMS = (
    "color colour colored coloured; gray grey; true yes; false no; forward ahead straight; up north "
    "upward upwards above; down south downward downwards below; left west; right east; television tv; "
    "sofa couch; flavor flavour; #2 two; #3 three; #4 four; #5 five; #6 six; #7 seven; #8 eight; #9 nine; "
    "#10 ten; sinkbasin sink; fridge refrigerator; countertop counter; garbagecan trash bin; bathtubbasin "
    "bathtub; log wood"
)


def stem(word: str) -> str:
    """A light stemmer: cuts plural s, -ing, -ed and a final e if enough is left."""
    word = re.sub(r"(?<=[a-z]{2})ies$", "y", word)
    word = re.sub(r"(?<=[a-z](?:x|s|z))es$|(?<=[a-z](?:ch|sh))es$|(?<=[a-z][a-z])(?<![su])(?<!i)s$", "", word)
    word = re.sub(r"(?<=[a-z]{4})(?:ing|ed)$", "", word)
    return re.sub(r"(?<=[a-z]{3})e$", "", word)


def _stems(text: str) -> frozenset[str]:
    return frozenset(stem(word) for word in text.split())


FILLERS = _stems(
    "a an the to of on in into onto at for from with by and or then now next please that this which is "
    "are be it its them you your i my me s off out over using costing priced cost price toward towards "
    "along each again just first should must need will can there here one inside"
)
"""Stop words: they say nothing about the object."""

VAGUE = _stems(
    "best better good matching match matches suitable relevant correct fitting appropriate cheapest cheap "
    "product item result thing something anything useful page button option word object whatever "
    "necessary needed required wanted desired any some other another goal task instruction plan step "
    "progress action move way likely promising top list available until done all remaining letter guess "
    "question possible nearby different final detail information room rest area place surrounding"
)
"""Words that refer to an object without naming it; a step with only these is followed by any action of its kind."""

ATTRIBUTES = _stems("color size style scent flavor finish shape model pack material pattern length width type")
"""Names of product options: they count only if the step names no value."""

ALONE = _stems("drop toggle look")
"""Actions that are always one word."""

TRUTH = _stems("true false")
"""Answers to yes-or-no questions."""

ANY_KIND = _stems("planks wool logs log wood slab fence")
"""Names that stand for any thing of the kind, such as planks for oak planks; a thing's name is the whole name otherwise."""

MEANS = _stems("using from with out")
"""Words before the ingredients of what is made."""

MOST = re.compile(
    r"\b(?:under|below|within|(?:less|lower|cheaper|no more|not more) than|at most|up to|max(?:imum)?(?: of)?)"
    r" \$?\s?(\d+(?:\.\d+)?)|\$\s?(\d+(?:\.\d+)?) or (?:less|lower|below|cheaper)"
)
LEAST = re.compile(
    r"\b(?:over|above|more than|at least) \$\s?(\d+(?:\.\d+)?)|(?:at )?\$\s?(\d+(?:\.\d+)?) or (?:more|higher|above)"
)
"""Upper and lower bounds on a price."""

PURPOSE = re.compile(
    r"(?: in order to| so that| so as to| because|,? and see|,? to (?:see|look|check|find|search|get|reach|make|heat"
    r"|warm|cook|cool|clean|wash|take|pick|put|face|buy|craft)\b).*"
)
"""The purpose of a step, which is not part of what it asks for."""

SEEKING = re.compile(
    r"\b(?:find|look for|locate|search for|seek|hunt for) .*?(?:\b(?:on|in|at|inside|near|under|by) (?P<place>.*))?$"
    r"|\b(?:search|check|explore) (?P<room>.*?) for .*$"
)
"""Steps that look for an object: in environments with places, the place counts, if one is named."""


def _same() -> dict[str, str]:
    table: dict[str, str] = {}
    for group in SYNONYMS.split(";"):
        first, *others = group.split()
        table |= {key: stem(first) for word in (first, *others) for key in (word, stem(word))}
    return table


SAME = _same()
"""Word or stem -> the stem that represents it and its synonyms."""


def _key(phrase: str) -> tuple[str, ...]:
    return tuple(SAME.get(word, stem(word)) for word in phrase.split())


def _phrases() -> dict[tuple[str, ...], frozenset[str]]:
    table: dict[tuple[str, ...], set[str]] = {}
    for kind, phrases in VERBS.items():
        for phrase in phrases.split(";"):
            table.setdefault(_key(phrase), set()).update({kind} - {""})
    return {key: frozenset(kinds) for key, kinds in table.items()}


PHRASES = _phrases()
"""Verb phrase -> kinds of deed that it can mean in a step: "check" may be looking, opening or going there."""
DEEDS = {phrase: kinds & BARE or kinds for phrase, kinds in PHRASES.items()} | {
    _key(kind): frozenset({kind}) for kind in VERBS if kind
}
"""The same for an action, whose verb has one meaning: "choose" is choosing."""
LONGEST = max(map(len, PHRASES))

ANYWHERE = _stems(
    "up down left right ahead behind back around east west north south forward backward feature features description "
    "review reviews attribute detail home cart yes no true false answer word wall door way side inventory nothing"
)
"""Words that a step may name without having seen them: directions, answers, parts of every page."""
