"""WebShop's tasks and their stores, built once a process for each set of arguments."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from pilotrl.envs.webshop import catalogue, generator
from pilotrl.envs.webshop.catalogue import Goal
from pilotrl.envs.webshop.expert import WebShopExpert
from pilotrl.envs.webshop.generator import Source
from pilotrl.envs.webshop.session import Layout, Session, Store
from pilotrl.types import UserError

SHARES = (("train", 0.8), ("dev", 0.1), ("test", 0.1))
"""Shares of the splits among the products with goals in a user's own catalogue."""
TASKS_PER_PRODUCT = 3


class Placed(NamedTuple):
    """A goal with its store."""

    goal: Goal
    store: Store


@cache
def worlds(source: Source) -> dict[str, Placed]:
    """Goals of a split by id, in catalogue order, each with its store."""
    if source.data_dir is not None:
        return _from_files(source, source.data_dir)
    placed: dict[str, Placed] = {}
    for index in range(generator.STORES[source.split]):
        files = generator.store(source, index)
        store = Store(catalogue.products(*files, source.seed))
        for product in store.products:
            goals = catalogue.goals(product, source.seed)
            step = max(1, len(goals) // TASKS_PER_PRODUCT)
            placed |= {goal.id: Placed(goal, store) for goal in goals[::step][:TASKS_PER_PRODUCT]}
    return placed


def _from_files(source: Source, folder: str) -> dict[str, Placed]:
    store = _stocked(folder, source.seed)
    kept = [product for product in store.products if catalogue.split_of(product.asin, SHARES) == source.split]
    return {goal.id: Placed(goal, store) for product in kept for goal in catalogue.goals(product, source.seed)}


@cache
def _stocked(folder: str, seed: int) -> Store:
    files = catalogue.read(folder)
    try:
        return Store(catalogue.products(*files, seed))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"env.data_dir={folder}: a product is not in WebShop's schema ({error!r}); download it again, or null"
        ) from error


@cache
def efficient(source: Source, layout: Layout, task: str) -> int | None:
    """Turns that the expert needs; None if it does not solve the task within the limit."""
    goal, store = worlds(source)[task]
    session = Session(store, goal, layout)
    expert = WebShopExpert(session)
    for turn in range(1, layout.max_turns + 1):
        session.act(expert.action())
        if session.done:
            return turn if session.score == 1.0 else None
    return None


@cache
def solvable(source: Source, layout: Layout) -> list[str]:
    """Ids of the generated tasks that the expert solves; with a user's own files, of all tasks."""
    tasks = list(worlds(source))
    if source.data_dir is not None:
        return tasks
    return [task for task in tasks if efficient(source, layout, task) is not None]
