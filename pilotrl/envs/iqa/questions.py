"""The questions of IQA: their wording, and the parser of it."""

from __future__ import annotations

import re
from typing import NamedTuple

THINGS = [
    "apple",
    "bowl",
    "bread",
    "container",
    "egg",
    "fork",
    "knife",
    "lettuce",
    "mug",
    "plate",
    "potato",
    "spoon",
    "tomato",
]
"""The thirteen kinds of thing of IQUAD V1."""
ANSWERS = ("True", "False", "0", "1", "2", "3")
MANY = {
    "bread": "loaves of bread",
    "knife": "knives",
    "lettuce": "heads of lettuce",
    "potato": "potatoes",
    "tomato": "tomatoes",
}
ONE = {"bread": "loaf of bread", "lettuce": "head of lettuce"}
WHERE = {"garbagecan": "garbage can"}
TEMPLATES = {
    "exists": (
        "Is there {one} in the room?",
        "Is there {one} somewhere nearby?",
        "Do we have any {many}?",
        "I think {one} is in the room. Is that correct?",
        "Please tell me if there is {one} somewhere in the room.",
    ),
    "count": (
        "How many {many} are there in the room?",
        "Count the number of {many} in this room.",
        "Please tell me how many {many} are around here?",
        "There are between 0 and 3 {many} in the room. How many are there?",
    ),
    "contains": (
        "Is there {one} in the {container}?",
        "Can you find {one} in the {container}?",
        "I think there is {one} in the {container}. Is that correct?",
        "Please tell me if there is {one} in the {container}?",
    ),
}
"""Type of question -> its phrasings."""


class Question(NamedTuple):
    """A question: does a thing exist, how many are there, or does that kind of container contain one."""

    type: str
    thing: str
    container: str = ""

    def text(self, phrasing: int) -> str:
        """One of its phrasings."""
        one = ONE.get(self.thing, self.thing)
        article = "an" if one[0] in "aeiou" else "a"
        many = MANY.get(self.thing, f"{self.thing}s")
        templates = TEMPLATES[self.type]
        container = WHERE.get(self.container, self.container)
        return templates[phrasing % len(templates)].format(one=f"{article} {one}", many=many, container=container)


def read(said: str) -> Question:
    """Parse a question. Raises ValueError for another text."""
    for thing in THINGS:
        one, many = ONE.get(thing, thing), MANY.get(thing, f"{thing}s")
        if re.search(rf"\b({one}|{many})\b", said):
            place = re.search(r" in the (fridge|cabinet|microwave|garbage can)\b", said)
            if place:
                return Question("contains", thing, place[1].replace(" ", ""))
            return Question("count" if re.search("how many|number of", said, re.I) else "exists", thing)
    raise ValueError(f"no question of IQA: {said!r}")
