"""WebShop: rules, an expert that solves tasks without hidden knowledge, disjoint splits, and errors."""

from __future__ import annotations

import hashlib
import json
import lzma
import pickle
import random
import re
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from pilotrl.envs import load
from pilotrl.envs.webshop import WebShop, catalogue, generator, pages, resolve, tasks
from pilotrl.envs.webshop.catalogue import Goal, Product
from pilotrl.envs.webshop.expert import WebShopExpert
from pilotrl.envs.webshop.score import alike, score, type_factor
from pilotrl.envs.webshop.search import Index, stems
from pilotrl.envs.webshop.session import Session, Store
from pilotrl.envs.webshop.vocabulary import BRANDS, DEPARTMENTS, FILLER
from pilotrl.types import UserError

FIDELITIES = ("small", "original")


def shop(**overrides: Any) -> WebShop:
    env = load("webshop", **({"split": "dev"} | overrides))
    assert isinstance(env, WebShop)
    return env


def session_of(env: WebShop) -> Session:
    assert env._session is not None
    return env._session


def goals_of(env: WebShop) -> dict[str, tasks.Placed]:
    return tasks.worlds(env._source)


def some(env: WebShop, count: int) -> list[str]:
    return random.Random(0).sample(list(env.tasks), count)


def play(env: WebShop, task: str, choose: Any) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
    """Turns, last info, and (page, action) of every turn."""
    text, info = env.reset(options={"task": task})
    seen: list[tuple[str, str]] = []
    over = False
    while not over:
        action = choose(env, text, info)
        seen.append((text, action))
        text, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
    return len(seen), info, seen


def follow_expert(env: WebShop, text: str, info: dict[str, Any]) -> str:
    assert env.expert is not None
    return env.expert.action()


def product(**changes: Any) -> Product:
    base = Product(
        asin="B000000001",
        title="Acme Soft Cotton Shirt",
        category="fashion",
        query="shirt",
        path=frozenset({"Clothing", "Apparel", "Shirt"}),
        price=23.0,
        lowest=23.0,
        price_text="$23.0",
        bullets=("Shirt by Acme.", "It is washable."),
        description="",
        options={"color": ("red", "blue"), "size": ("large", "x-large")},
        attributes=("soft", "cotton"),
        instruction="find me soft washable shirt",
        instruction_attributes=("soft", "washable"),
    )
    return replace(base, **changes)


def goal(**changes: Any) -> Goal:
    base = Goal("B000000001-0", product(), ("soft", "washable"), {"color": "red", "size": "large"}, 30.0)
    return replace(base, **changes)


# The score


@pytest.mark.parametrize(
    ("bought", "chosen", "expected"),
    [
        ({}, {"color": "red", "size": "large"}, 1.0),
        ({}, {"color": "red"}, 4 / 5),
        ({}, {}, 3 / 5),
        ({}, {"color": "red", "size": "large tall"}, 4 / 5),  # sizes match to the letter, other options fuzzily
        ({}, {"color": "dark red", "size": "large"}, 1.0),
        ({"price": 31.0}, {"color": "red", "size": "large"}, 4 / 5),
        ({"price": 30.0}, {"color": "red", "size": "large"}, 1.0),
        ({"attributes": ("cotton",), "title": "Acme Cotton Shirt"}, {"color": "red", "size": "large"}, 4 / 5),
        (
            {"bullets": ("Shirt.",)},
            {"color": "red", "size": "large"},
            4 / 5,
        ),  # washable stood in the second bullet only
        ({"title": "Nova Wool Kettle", "query": "kettle", "path": frozenset()}, {"color": "red", "size": "large"}, 0.0),
    ],
)
def test_score_counts_attributes_options_and_price(
    bought: dict[str, Any], chosen: dict[str, str], expected: float
) -> None:
    assert score(goal(), product(**bought), chosen) == pytest.approx(expected, abs=1e-12)


def test_score_never_passes_one_by_choosing_more_options_than_asked() -> None:
    wanted = goal(options={"color": "red"})
    assert score(wanted, product(), {"color": "red", "shade": "red", "tone": "red"}) == 1.0


def test_type_factor_has_its_four_values() -> None:
    long = "Lamp " + " ".join(f"{a}{b}" for a in "bcdf" for b in ("ab", "eb", "ib"))  # 13 nouns
    wanted = product(title=long, attributes=())
    other = {"attributes": (), "query": "kettle", "path": frozenset({"Home"})}
    assert type_factor(wanted, product(title=long, **other)) == 1.0
    assert type_factor(wanted, product(title="Bab Beb Kettle", **other)) == 0.5
    assert type_factor(wanted, product(title="Lamp Kettle", **other)) == 0.1
    assert type_factor(wanted, product(title="Kettle", **other)) == 0.0
    assert type_factor(wanted, product(title="Bab Beb Kettle", **(other | {"query": "shirt"}))) == 1.0


# Search


def test_search_reads_words_as_lucene_does() -> None:
    assert stems("The Women's SHIRTS, and 3.5 inch shoes") == ["women", "shirt", "3.5", "inch", "shoe"]


def test_search_looks_at_title_description_first_bullet_and_options_and_breaks_ties_by_order() -> None:
    plain = {"title": "Thing", "bullets": ("One.", "hidden"), "options": {}, "description": ""}
    places = [{"title": "Kettle Thing"}, {"description": "kettle"}, {"bullets": ("kettle", "")}]
    places += [{"options": {"color": ("kettle",)}}, {"bullets": ("One.", "kettle")}, {"title": "Kettle Thing"}]
    index = Index([product(**(plain | place)) for place in places])
    assert set(index.search("kettles")) == {0, 1, 2, 3, 5}
    assert index.search("kettle").index(0) < index.search("kettle").index(5)
    assert index.search("the zzz") == ()
    assert Index([product(), product(title="Kettle")] * 500).search("kettle shirt") == tuple(range(1, 101, 2))


# The catalogue


def test_splits_share_neither_tasks_nor_products() -> None:
    envs = [shop(split=split) for split in ("train", "dev", "test")]
    tasks = [set(goals_of(env)) for env in envs]
    products = [{p.asin for placed in goals_of(env).values() for p in placed.store.products} for env in envs]
    for one, other in combinations(range(3), 2):
        assert not tasks[one] & tasks[other]
        assert not products[one] & products[other]
    assert [len(env.tasks) >= least for env, least in zip(envs, (3000, 200, 400), strict=True)] == [True] * 3
    assert sum(map(len, products)) >= 1000


def test_tasks_are_the_same_everywhere() -> None:
    """Ids and instructions, by hash: a change of the generator changes every evaluation set, and should be deliberate."""
    env = shop(split="test", seed=0, confusable=7, max_attributes=3, max_options=2, max_turns=10, fidelity="small")
    told = "\n".join(f"{task} {catalogue.small_text(goals_of(env)[task].goal)}" for task in env.tasks)
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "81643feb80f4b18d"


def test_another_seed_gives_another_catalogue() -> None:
    assert not set(shop(seed=0).tasks) & set(shop(seed=1).tasks)


def test_no_word_passes_for_another_where_it_would_change_the_score() -> None:
    for department in DEPARTMENTS:
        plain = " ".join((*BRANDS, *FILLER, *department.types, "it is by"))
        for one, other in combinations(department.attributes, 2):
            assert not alike(one, other)
            assert one not in other
            assert other not in one
        for attribute in department.attributes:
            assert attribute not in plain
        for name, values in department.options.items():
            for value in values:
                assert value not in f"{plain} {department.attributes}"
            assert name == "size" or not any(alike(one, other) for one, other in combinations(values, 2))
        flat = [value for values in department.options.values() for value in values]
        assert len(flat) == len(set(flat))


def test_choice_matters() -> None:
    """Neither random actions nor buying the first result with its options gets far; the expert does."""
    env = shop()
    draw = random.Random(0)

    def at_random(env: WebShop, text: str, info: dict[str, Any]) -> str:
        action: str = draw.choice(info["actions"])
        return f"search[{draw.choice(text.split())}]" if action == "search[words]" else action

    def first_result(env: WebShop, text: str, info: dict[str, Any]) -> str:
        action = follow_expert(env, text, info)
        opens = session_of(env).page == "results" and action != "click[next >]"
        return f"click[{session_of(env).handles()[0]}]" if opens else action

    def rate(choose: Any) -> float:
        return sum(play(env, task, choose)[1]["solved"] for task in some(env, 200)) / 200

    assert rate(at_random) < 0.03
    assert 0.2 < rate(first_result) < 0.75
    assert rate(follow_expert) == 1.0


@pytest.mark.parametrize(
    ("option", "holds"),
    [
        ({"max_options": 0}, lambda goal, store: not goal.options),
        ({"max_options": 1}, lambda goal, store: len(goal.options) <= 1),
        ({"max_attributes": 1}, lambda goal, store: len(goal.attributes) == 1),
        ({"confusable": 2}, lambda goal, store: sum(p.query == goal.product.query for p in store.products) == 3),
    ],
)
def test_difficulty_is_an_option(option: dict[str, int], holds: Any) -> None:
    assert all(holds(*placed) for placed in goals_of(shop(**option)).values())
    assert not all(holds(*placed) for placed in goals_of(shop()).values())


# Pages


def write_one(folder: Path) -> str:
    """A catalogue of three in WebShop's raw schema."""

    def item(asin: str, name: str, price: str, values: list[str]) -> dict[str, Any]:
        options = {"Color": [{"value": value} for value in values]}
        return {
            "asin": asin,
            "name": name,
            "query": "Lamps ",
            "category": "garden",
            "pricing": price,
            "product_category": "Home › Lighting › Lamps",
            "small_description": ["Bright lamp", "Easy to clean"],
            "full_description": "A lamp.",
            "customization_options": options if values else "",
            "images": [""],
        }

    items = [
        item("B00LAMP001", "Acme Brass Lamp", "$19.99$27.99", ["Red/Gold", "Blue"]),
        item("B00LAMP002", "Nova Steel Lamp", "$15.00", []),
        item("B00LAMP003", "Orion Glass Lamp", "", ["Red"]),
    ]
    told = {"attributes": ["easy clean"], "instruction": "Find me lamps", "instruction_attributes": ["easy clean"]}
    catalogue.write(folder, items, {"B00LAMP001": told, "B00LAMP002": {"attributes": []}})
    return str(folder)


def lamp(folder: Path, **overrides: Any) -> WebShop:
    folder_name = write_one(folder)
    split = catalogue.split_of("B00LAMP001", tasks.SHARES)
    return shop(data_dir=folder_name, split=split, **overrides)


def test_original_pages_word_for_word(tmp_path: Path) -> None:
    env = lamp(tmp_path, fidelity="original")
    text, _ = env.reset()
    cap = goals_of(env)[env.tasks[0]].goal.cap
    want = f"Find me lamps with color: red | gold, and price lower than {cap:.2f} dollars"
    head = f"Instruction: [SEP] {want} [SEP] Back to Search"
    item = "color [SEP] red | gold [SEP] blue [SEP] Acme Brass Lamp [SEP] Price: $19.99 to $27.99 [SEP] Rating: N.A."
    item = f"{head} [SEP] < Prev [SEP] {item} [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
    assert text == f"WebShop [SEP] Instruction: [SEP] {want} [SEP] Search"
    assert env.step("search[Brass lamp]")[0] == (
        f"{head} [SEP] Page 1 (Total results: 3) [SEP] B00LAMP001 [SEP] Acme Brass Lamp [SEP] $19.99 to $27.99"
        " [SEP] B00LAMP002 [SEP] Nova Steel Lamp [SEP] $15.0 [SEP] B00LAMP003 [SEP] Orion Glass Lamp [SEP] $100.0"
    )
    assert env.step("click[B00LAMP001]")[0] == item
    assert env.step("click[Red | gold]")[0] == item  # choosing leaves the page as it was
    assert env.step("click[features]")[0] == f"{head} [SEP] < Prev [SEP] Bright lamp [SEP] Easy to clean"
    assert env.step("click[< prev]")[0] == item
    text, reward, terminated, truncated, info = env.step("click[buy now]")
    assert "Your score (min 0.0, max 1.0) [SEP] 1.0" in text
    assert (reward, terminated, truncated, info["score"], info["solved"]) == (1.0, True, False, 1.0, True)


def test_original_results_come_ten_a_page_and_fifty_at_most() -> None:
    env = shop(fidelity="original")
    env.reset(options={"task": env.tasks[0]})
    first = env.step("search[shirt lamp coffee vegan red small padded]")[0]
    assert "Page 1 (Total results: 50) [SEP] Next > [SEP] B" in first
    assert len(re.findall(r"\$\d", first.partition("Page 1")[2])) == 10
    second = env.step("click[next >]")[0]
    assert "Page 2 (Total results: 50) [SEP] < Prev [SEP] Next > [SEP] B" in second
    for _ in range(3):
        last = env.step("click[next >]")[0]
    assert "Page 5 (Total results: 50) [SEP] < Prev [SEP] B" in last
    assert not env.step("click[next >]")[4]["valid"]


def test_small_pages_are_short_and_tell_the_instruction_once() -> None:
    env = shop()
    for task in some(env, 50):
        told = catalogue.small_text(goals_of(env)[task].goal)
        _, _, seen = play(env, task, follow_expert)
        assert told in seen[0][0]
        assert not any(told in text for text, _ in seen[1:])
        assert all(len(text.split()) <= 70 and text == text.lower().replace("[sep]", "[SEP]") for text, _ in seen[1:])


def test_going_back_to_search_does_not_tell_the_instruction_again() -> None:
    env = shop()
    first, _ = env.reset(options={"task": env.tasks[0]})
    env.step("search[shirt]")
    assert "instruction" in first
    assert env.step("click[back to search]")[0] == "webshop [SEP] search"


def test_small_prices_are_whole_dollars_that_still_fit_a_cap() -> None:
    assert [catalogue.small_price(price) for price in (23.0, 19.99, 20.0)] == ["$23", "$20", "$20"]


def test_small_results_mark_what_was_opened() -> None:
    env = shop()
    task = env.tasks[0]
    env.reset(options={"task": task})
    env.step(f"search[{goals_of(env)[task].goal.product.query}]")
    env.step(f"click[{session_of(env).handles()[1]}]")
    text = env.step("click[< prev]")[0]
    assert [part.endswith(" seen") for part in text.split(" [SEP] ")[-5:]] == [False, True, False, False, False]


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"page_size": 2}, "Page 1 (Total results: 3) [SEP] Next > [SEP] B00LAMP001"),
        ({"title_words": 1}, "B00LAMP002 [SEP] Nova [SEP] $15.0"),
        ({"handles": "short"}, "NOVA [SEP] Nova Steel Lamp [SEP] $15.0"),
        ({"repeat_instruction": False}, "? Back to Search"),
        ({"max_turns": 1}, "! truncated"),
    ],
)
def test_every_presentation_option_overrides_the_fidelity(tmp_path: Path, option: dict[str, Any], told: str) -> None:
    def said(env: WebShop) -> str:
        env.reset()
        text, _, _, truncated, _ = env.step("search[brass lamp]")
        return f"? {text} ! {'truncated' if truncated else 'goes on'}"

    assert told in said(lamp(tmp_path, fidelity="original", **option))
    assert told not in said(lamp(tmp_path, fidelity="original"))


def test_going_back_forgets_the_options_chosen() -> None:
    env = shop()
    task = next(task for task in env.tasks if goals_of(env)[task].goal.options)
    env.reset(options={"task": task})
    while not session_of(env).chosen:
        assert env.expert is not None
        env.step(env.expert.action())
    env.step("click[< prev]")
    assert session_of(env).chosen == {}


# The contract


@pytest.mark.parametrize("fidelity", FIDELITIES)
@pytest.mark.parametrize(
    "action", ["", "click", "click[]", "click[zzz]", "buy now", "think[red]", "click[b1]", "search[]"]
)
def test_what_is_not_understood_costs_a_turn_and_changes_nothing(fidelity: str, action: str) -> None:
    env = shop(fidelity=fidelity)
    before, _ = env.reset(options={"task": env.tasks[0]})
    for turn in range(1, env.max_turns + 1):
        text, reward, terminated, truncated, info = env.step(action)
        assert (text, reward, terminated, info["valid"], info["solved"]) == (before, 0.0, False, False, False)
        assert truncated == (turn == env.max_turns)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(action)


def test_stepping_before_a_reset_or_after_the_purchase_raises() -> None:
    env = shop()
    with pytest.raises(RuntimeError, match="reset"):
        env.step("search[x]")
    assert env.expert is None
    play(env, env.tasks[0], follow_expert)
    assert env.expert is not None
    assert env.expert.plan() == []
    for call in (lambda: env.step("search[x]"), env.expert.action):
        with pytest.raises(RuntimeError, match="ended"):
            call()


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_a_task_run_twice_starts_and_goes_the_same(fidelity: str) -> None:
    env, other = shop(fidelity=fidelity), shop(fidelity=fidelity)
    for task in some(env, 10):
        assert play(env, task, follow_expert) == play(other, task, follow_expert)


def test_listed_actions_are_the_ones_understood() -> None:
    env = shop(fidelity="original")
    draw = random.Random(0)
    for task in some(env, 20):
        _, info = env.reset(options={"task": task})
        for _ in range(env.max_turns):
            action = draw.choice([action for action in info["actions"] if action != "click[buy now]"])
            _, _, _, _, info = env.step(action.replace("words", "red shirt"))
            assert info["valid"]


def test_an_environment_pickles_in_the_middle_of_an_episode() -> None:
    env = shop()
    for task in some(env, 5):
        env.reset(options={"task": task})
        assert env.expert is not None
        env.step(env.expert.action())
        env.step(env.expert.action())
        copy = pickle.loads(pickle.dumps(env))
        assert copy.expert.plan() == env.expert.plan()
        assert copy.step("click[buy now]") == env.step("click[buy now]")
    assert len(pickle.dumps(env)) < 2000


def test_speed() -> None:
    """An order of magnitude below what is usual on a quiet core: 15,000 steps and 50,000 resets a second."""
    env = shop()
    tasks = some(env, 200)
    start = time.perf_counter()
    steps = sum(play(env, task, follow_expert)[0] for task in tasks)
    assert steps / (time.perf_counter() - start) > 1000
    start = time.perf_counter()
    for task in tasks:
        env.reset(options={"task": task})
    assert len(tasks) / (time.perf_counter() - start) > 200


# The expert


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_expert_solves_every_task_in_par(fidelity: str) -> None:
    env = shop(fidelity=fidelity)
    for task in env.tasks:
        par = env.reset(options={"task": task})[1]["par"]
        turns, info, _ = play(env, task, follow_expert)
        assert info["solved"]
        assert turns == par <= env.max_turns


def test_few_generated_tasks_are_rejected() -> None:
    env = shop()
    assert len(env.tasks) > 0.6 * len(goals_of(env))  # the rest needs more turns


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_the_expert_recovers_from_random_actions(fidelity: str) -> None:
    env = shop(fidelity=fidelity, max_turns=60)
    draw = random.Random(1)
    for task in some(env, 100):
        _, info = env.reset(options={"task": task})
        for _ in range(draw.randint(1, 12)):
            action = draw.choice([action for action in info["actions"] if action != "click[buy now]"])
            words = draw.choice(("zzz", "red", goals_of(env)[task].goal.product.query))
            _, _, _, _, info = env.step(draw.choice((action.replace("words", words), "click[nothing]")))
        over = False
        while not over:
            assert env.expert is not None
            plan, action = env.expert.plan(), env.expert.action()
            assert plan[-1].startswith("buy")
            _, _, terminated, truncated, info = env.step(action)
            assert info["valid"], (plan, action)
            over = terminated or truncated
        assert info["solved"]


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_a_step_says_what_to_achieve_and_never_the_action(fidelity: str) -> None:
    env = shop(fidelity=fidelity)
    for task in some(env, 60):
        env.reset(options={"task": task})
        over = False
        while not over:
            assert env.expert is not None
            action, plan = env.expert.action(), env.expert.plan()
            inner = action.partition("[")[2][:-1]
            for step in plan:
                assert action not in step
                assert "click[" not in step
                assert "search[" not in step
                assert 2 <= len(step.split()) <= 11
                assert not re.search(r"\bb\d\b|\bb[vt]\d{5}", step)
            named = (*goals_of(env)[task].goal.options.values(), "features")
            brand = fidelity == "small" and plan[0].startswith("open ")
            assert inner not in plan[0] or action.startswith("search[") or inner in named or brand
            _, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_expert_knows_only_what_was_seen(fidelity: str) -> None:
    """Whatever no page has shown is made different: the expert plans and acts the same."""
    env = shop(fidelity=fidelity)
    for task in some(env, 60):
        env.reset(options={"task": task})
        over = False
        while not over:
            session = session_of(env)
            assert env.expert is not None
            blind = WebShopExpert(replace(session, store=_veiled(session)))
            if session.product is not None:
                blind.session.product = next(p for p in blind.session.store.products if p.asin == session.product.asin)
            assert blind.plan() == env.expert.plan()
            assert blind.action() == env.expert.action()
            assert blind.thought() == env.expert.thought()
            _, _, terminated, truncated, _ = env.step(env.expert.action())
            over = terminated or truncated


def test_expert_reads_the_features_before_it_relies_on_them() -> None:
    env = shop(fidelity="original")
    read = 0
    for task in some(env, 60):
        _, _, seen = play(env, task, follow_expert)
        bought = session_of(env).product
        assert bought is not None
        told = all(attribute in bought.title.lower() for attribute in goals_of(env)[task].goal.attributes)
        assert told or "click[features]" in [action for _, action in seen]
        read += not told
    assert read


def _veiled(session: Session) -> Store:
    """The same results in the same order; unseen pages, features and products say something else."""
    shown = {p.asin for query, numbers in session.looked.items() for n in numbers for p in session.listed(query, n)}

    def veil(seen: Product) -> Product:
        if seen.asin not in shown:
            seen = replace(seen, title="Nothing", price=1.0, lowest=1.0, price_text="$1.0")
        if not session.layout.small:  # prints a range, and charges what was drawn from it
            seen = replace(seen, price=-1.0)
        if seen.asin not in session.opened:
            seen = replace(seen, options={"color": ("unseen",)})
        if seen.asin not in session.read:
            seen = replace(seen, attributes=("unseen",), bullets=("unseen",))
        return replace(seen, description="unseen", instruction=None, instruction_attributes=())

    veiled = object.__new__(Store)
    veiled.products, veiled.literal = [veil(p) for p in session.store.products], session.store.literal
    veiled.index = session.store.index
    return veiled


def test_detours_are_possible_and_cost_nothing_but_turns() -> None:
    env, taken = shop(max_turns=60), 0
    for task in some(env, 60):
        _, info = env.reset(options={"task": task})
        while not info["solved"]:
            assert env.expert is not None
            detour = env.expert.detour()
            if detour is not None and detour != env.expert.action():
                _, _, terminated, _, info = env.step(detour)
                assert info["valid"]
                assert not terminated
                assert env.expert.detour() != detour
                taken += 1
            _, _, over, _, info = env.step(env.expert.action())
            assert info["solved"] == over
        assert env.expert is not None
        assert env.expert.detour() is None
    assert taken > 60


# resolve


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_resolve_says_what_every_possible_click_means(fidelity: str) -> None:
    env = shop(fidelity=fidelity)
    for task in some(env, 30):
        text, _ = env.reset(options={"task": task})
        over = False
        while not over:
            session = session_of(env)
            for value, (kind, which) in session.clickables().items():
                said = resolve(text, f"click[{value}]")
                if kind == "open":
                    shown = session.listed()[int(which)]
                    price = f"${shown.price:.0f}" if fidelity == "small" else shown.price_text
                    name = shown.title.lower()
                    if fidelity == "small":  # whose first word may carry a number
                        name = f"{value} {name.partition(' ')[2]}"
                    assert said == f"open {name} {price}"
                elif kind == "option":
                    assert said == f"choose {which} {value}"
                else:
                    assert said in pages.BUTTONS.values()
            assert env.expert is not None
            text, _, terminated, truncated, _ = env.step(env.expert.action())
            over = terminated or truncated


@pytest.mark.parametrize("fidelity", FIDELITIES)
@pytest.mark.parametrize(
    "action", ["", "buy now", "click[zzz]", "click[b9]", "click[]", "press[red]", "click[buy now]", "["]
)
def test_resolve_of_what_cannot_be_done_there_is_empty(fidelity: str, action: str) -> None:
    env = shop(fidelity=fidelity)
    start, _ = env.reset()
    results = env.step("search[red shirt]")[0]
    assert resolve(start, action) == resolve(results, action) == ""


def test_resolve_of_a_search_is_its_words() -> None:
    assert resolve("anything", "search[Soft shirts]") == "search soft shirts"


# The user's files and the user's errors


@pytest.mark.parametrize("packed", [False, True])
def test_a_catalogue_written_and_read_back_is_the_same(tmp_path: Path, packed: bool) -> None:
    env = shop()
    items, instructions = generator.store(env._source, 0)
    catalogue.write(tmp_path, items, instructions)
    if packed:
        for path in list(tmp_path.iterdir()):
            Path(f"{path}.xz").write_bytes(lzma.compress(path.read_bytes()))
            path.unlink()
    assert catalogue.read(str(tmp_path)) == (items, instructions)
    splits = [shop(data_dir=str(tmp_path), split=split) for split in ("train", "dev", "test")]
    back = {task: placed for env in splits for task, placed in goals_of(env).items()}
    assert set(goals_of(env)) <= set(back)
    for task, (goal, _) in goals_of(env).items():
        assert catalogue.small_text(back[task].goal) == catalogue.small_text(goal)
        assert catalogue.original_text(back[task].goal) == catalogue.original_text(goal)
    turns, info, _ = play(splits[0], splits[0].tasks[0], follow_expert)
    assert (turns, info["solved"]) == (splits[0].reset()[1]["par"], True)


def test_ranged_prices_are_drawn_once_and_seeded(tmp_path: Path) -> None:
    prices = [goals_of(lamp(tmp_path / name, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    drawn = [next(iter(goals.values())).goal.product.price for goals in prices]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(19.99 <= price <= 27.99 for price in drawn)


def _corrupt(folder: Path, name: str, content: bytes) -> None:
    write_one(folder)
    for path in folder.glob("items_shuffle*"):
        path.unlink()
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("items_shuffle_1.json", b"[{", "cannot be read"),
        ("items_shuffle_1.json", b"\xff\xfe", "cannot be read"),
        ("items_shuffle_1.json.xz", b"no xz", "cannot be read"),
        ("items_shuffle_1.json.xz", lzma.compress(b"[]" * 1000)[:40], "cannot be read"),
        ("items_shuffle_1.json", b"{}", "schema"),
        ("items_shuffle_1.json", b"[]", "schema"),
        ("items_shuffle_1.json", json.dumps([{"asin": "B1"}]).encode(), "schema"),
        ("items_shuffle_1.json", json.dumps([1]).encode(), "schema"),
        ("other.json", b"[]", "items_shuffle"),
    ],
)
def test_an_invalid_catalogue_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    _corrupt(tmp_path, name, content)
    with pytest.raises(UserError, match=said) as error:
        shop(data_dir=str(tmp_path))
    line = str(error.value)
    assert line.startswith(f"env.data_dir={tmp_path}: ")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data_dir", "/nowhere"),
        ("split", "valid"),
        ("fidelity", "tiny"),
        ("handles", "long"),
        ("page_size", 0),
        ("max_turns", 0),
        ("max_turns", 2),
        ("title_words", -1),
        ("confusable", 36),
        ("max_attributes", 4),
        ("max_options", -1),
    ],
)
def test_an_invalid_value_is_refused_with_its_key(key: str, value: Any) -> None:
    with pytest.raises(UserError) as error:
        shop(**{key: value})
    assert str(error.value).startswith(f"env.{key}={value}: ")
