"""One episode of AdaPlan (arXiv 2508.00344, Algorithm 1): plan, act, observe, until the environment or a limit ends it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from pilotrl.envs import Env, Expert, Info, LooseExpert, begun, concurrent, stepped, thought_of
from pilotrl.envs.tools import system_of, tools_of
from pilotrl.prompts.context import Context
from pilotrl.prompts.parsing import number, parse_lasting, parse_plan
from pilotrl.rollout import replies
from pilotrl.rollout.agent import AgentSpec, EpisodeGenerator, EpisodeSpec, Key, PendingPlan, due, likelihood, seed_of
from pilotrl.rollout.replies import ReplyForm
from pilotrl.rollout.stopwatch import phase
from pilotrl.teacher import EXACT, LOOSE, meant, serving, subgoals, taken, taught
from pilotrl.types import Call, Episode, Plan, Reply, Request, Role, Task, Turn, UserError, WrittenPlan

KEEP = "keep"
"""The planner's reply with which it keeps the current plan, where the prompt asks whether to write a new one."""


def episode_of(env: Env, spec: EpisodeSpec, key: Key) -> EpisodeGenerator:
    """One episode as a generator: plan, act, observe, until the environment or a limit ends it."""
    aside = concurrent(env, spec.task.id)
    runner = EpisodeRunner(env, spec, key, *(yield from _answer(aside, partial(begun, env, spec.task.id))))
    while runner.episode.outcome == "broken":  # its initial value, until the episode ends
        if not (yield from runner.plan()) or (action := (yield from runner.act())) is None:
            runner.episode.outcome, runner.episode.ended_by = "truncated", "context"  # full: no further step
            break
        runner.observe(action, *(yield from _answer(aside, partial(stepped, env, action))))
    return runner.episode


def _answer(aside: bool, call: Callable[[], Any]) -> Generator[Callable[[], Any], Future[Any], Any]:
    """What an environment answers: at once, or `aside`, while other episodes go on."""
    return (yield call).result() if aside else phase("environment")(call)()


class EpisodeRunner:
    """Runs one episode: holds its environment, its context and its current plan."""

    def __init__(self, env: Env, spec: EpisodeSpec, key: Key, text: str, info: Info) -> None:
        self.env, self.key, self.agent = env, key, _worded(spec.agent, spec.task, env)
        self.episode = Episode(spec.task, spec.group, spec.sample, text, par=info.get("par"))
        kind, tools = self.agent.replies, tools_of(env, spec.task.id)
        self.form: ReplyForm = replies.OF[kind](kind, self.agent.thinks, tools)
        self.context = Context(self.agent.chat, self.agent.prompts, self.agent.context, self.agent.window)
        if (system := system_of(env, spec.task.id)) or self.form.offered:
            self.context.introduce(system, self.form.offered)
        self.context.observe(text)
        self.steps: Plan = ()
        self.meant: Plan = ()
        self.current = 1  # number of the step in force
        self.well_formed, self.own, self.reply_text, self.unread, self.means = True, False, "", "", ""

    @property
    def turn(self) -> int:
        return len(self.episode.turns) + 1

    @property
    def lasting(self) -> int:  # number of the step in force, where steps last; else 0
        return self.current if self.agent.lasts else 0

    @property
    def left(self) -> Plan:  # the step in force and those after it
        return self.steps[self.current - 1 :]

    def plan(self) -> Generator[Request | PendingPlan, Any, bool]:
        """P(t-1) becomes P(t): steps that are done stay, the rest is rewritten. Returns False if the context is full."""
        agent, self.well_formed, self.current = self.agent, True, self.lasting or self.turn
        if not due(agent.plans, self.turn):
            return True
        again = agent.plans == "asked" and self.turn > 1
        steps: Plan | None
        meaning: Plan = ()
        ask = agent.prompts["replan" if again else "plan"].format(next=self.current)
        if agent.teacher_plans or agent.demonstrates:
            steps, meaning, room = yield from self._taught(ask, again)
            if not room:
                return False
        elif (call := (yield from self._select(ask))) is None:
            return False
        elif (steps := self._parsed(call)) is None:
            self.well_formed = False  # the current plan stays as it was
            return True
        if self.lasting and steps and not steps[0]:  # the step in force is done
            self.current, steps = self.current + 1, steps[1:]
        past = ("",) * (self.current - 1)  # for past turns without a step, so that step i is for action i
        self.steps = (*self.steps[: self.current - 1], *past[len(self.steps) :], *steps)
        self.meant = (*past, *meaning)
        return True

    def _taught(self, ask: str, again: bool) -> Generator[PendingPlan, Any, tuple[Plan, Plan, bool]]:
        """The teacher's steps from the one in force on, what they mean, and whether the context has room for them."""
        teacher = self.agent.teacher
        steps: Any = taught(teacher, self.env, self.episode, self.steps, self.lasting)
        if isinstance(steps, Future):
            steps = yield from self._await(steps)
        if not isinstance(steps, tuple | list):
            raise UserError(f"teacher: gave {steps!r} for a plan; must be a sequence of steps")
        meaning = () if self.lasting else meant(teacher, self.env)
        said = KEEP if again and tuple(steps) == self.left else number(tuple(steps), self.current)
        return tuple(steps), meaning, self._told(ask, said, learned=not meaning)

    def _parsed(self, call: Call) -> Plan | None:
        """The steps that a planner's call wrote; None if they cannot be parsed."""
        text = self.agent.chat.decode(call.ids)
        if self.agent.plans == "asked" and self.turn > 1 and text.strip() == KEEP:
            return self.left
        return parse_lasting(text, self.current, bool(self.left)) if self.lasting else parse_plan(text, self.turn)

    def _reference(self) -> Plan:
        """The expert's plan for this state, as a reference for the judge; empty without a judge of plans or an expert."""
        return (subgoals if self.lasting else EXACT.steps)(self.env) if self.agent.graded else ()

    def _await(self, pending_plan: PendingPlan) -> Generator[PendingPlan, PendingPlan, Plan]:
        """The teacher's steps from this turn on; those of the current plan if the teacher gave no readable reply."""
        steps = (yield pending_plan).result()
        return self.left if steps is None else steps

    def act(self) -> Generator[Request, Reply, str | None]:
        """The action for this turn; None if the context is full."""
        ask = self._executor_prompt()
        self.means = serving(self.env, self.left) if self.lasting else "".join(self.meant[self.turn - 1 : self.turn])
        if self.agent.demonstrates and ((action := self._demonstrate(ask)) is None or not self.own):
            return action
        if (call := (yield from self._call("executor", ask))) is None:
            return None
        self._record(ask, call, learned=not self.agent.demonstrates)
        self.reply_text = self.agent.chat.decode(call.ids)
        action, self.unread = self.form.read(self.reply_text, call.stop == "length")
        self.well_formed &= not self.unread
        self.means = taken(self.env, self.means, action)
        return action

    def _executor_prompt(self) -> str:
        """The request for an action: by default to carry out the current plan step, if there is one."""
        prompts, step = self.agent.prompts, "".join(self.left[:1])
        if self.agent.thinks or self.agent.shows != "step":
            return self._after_plan(step)
        return prompts["act"].format(next=self.current, step=step) if step else prompts["act_free"]

    def _after_plan(self, step: str) -> str:
        """The request of an executor that thinks, or sees more of the plan than the current step or less (`agent.shows`)."""
        agent, prompts, turn = self.agent, self.agent.prompts, self.current
        if agent.thinks:
            ask = prompts["think"]
        elif step or (agent.shows == "none" and agent.plans != "never"):
            ask = prompts["act_turn"].format(next=turn)
        else:
            ask = prompts["act_free"]
        if agent.shows == "none" or not step:
            return ask
        first = 1 if agent.context == "current" else turn  # where the history holds no plan, past steps are shown too
        shown = number((step,), turn) if agent.shows == "step" else number(self.steps[first - 1 :], first)
        return prompts["plan_in_force"].format(plan=shown) + "\n" + ask

    def observe(self, action: str, text: str, reward: float, terminated: bool, truncated: bool, info: Info) -> None:
        """Append a turn to the episode: an action, and what the environment answered."""
        turn = Turn(self.steps, self.reply_text, action, text, info["valid"], self.well_formed, info["score"])
        turn.meant, turn.unread, turn.step = self.means, self.unread, self.lasting
        self.context.observe(*self.form.answer(turn, info))
        turn.reward, self.episode.score = reward, info["score"]
        self.episode.turns.append(turn)
        if terminated or truncated or len(self.episode.turns) == self.agent.max_turns:
            self.episode.outcome = "solved" if info["solved"] else "failed" if terminated else "truncated"
            self.episode.ended_by = "environment" if terminated else "turn_limit"

    def _call(self, role: Role, ask: str, candidate: int = 0) -> Generator[Request, Reply, Call | None]:
        """One generation by the model, not yet added to the context; None if the context has no room for it."""
        agent, limit = self.agent, self.agent.max_tokens[role]
        prompt = self.context.prompt(ask, self.steps if role == "planner" else ())
        if len(prompt) + limit > agent.max_length:
            return None
        seed = seed_of(*self.key, self.turn, role, candidate)
        session, adapter = (self.episode.group, self.episode.sample), agent.adapters[role]
        reply = yield Request(session, prompt, limit, agent.temperature, agent.top_p, seed, adapter)
        self.episode.tokens += len(reply.ids)
        where = agent.version, adapter, self.turn, self.lasting
        return Call(role, prompt, reply.ids, reply.logprobs, reply.stop, self.steps, *where)

    def _select(self, ask: str) -> Generator[Request, Reply, Call | None]:
        """The policy's plan: of several sampled candidates the one with the highest mean log-probability a token.

        That is the sample-and-rank of arXiv 2001.09977: it needs only the recorded log-probabilities, favours no short plans,
        and calls no judge. Candidates are sampled one after another, so that each reuses the keys and values of their prompt
        in the session's slot. The selected call is recorded first. None if the context is full.
        """
        calls, reference = list[Call](), self._reference()
        for candidate in range(self.agent.candidates):
            call = yield from self._call("planner", ask, candidate)
            if call is None:
                return None
            call.selected = False
            if self.agent.graded:  # without the empty step that stands for one that is done
                steps = self._parsed(call)
                call.written = WrittenPlan(steps and tuple(filter(None, steps)), reference)
            calls.append(call)
        best = max(calls, key=likelihood)
        best.selected = True
        self._record(ask, best)
        self.episode.calls += [call for call in calls if call is not best]
        return best

    def _record(self, ask: str, call: Call, learned: bool = True) -> None:
        self.episode.calls += [call] * learned
        self.context.replied(ask, "plan" if call.role == "planner" else "action", call.ids)

    def _expert(self) -> Expert:
        if (expert := self.env.expert) is None:
            raise UserError(f"stage.planner=teacher: {self.episode.task.env} ships no expert; set stage.planner=policy")
        return expert

    def _told(self, ask: str, said: str, learned: bool) -> bool:
        """Add a plan that the teacher wrote; as a call if it is demonstrated and `learned`. False: the context has no room."""
        if not (self.agent.demonstrates and learned):
            self.context.replied(ask, "plan", said)
            return True
        if call := self._shown("planner", ask, said):
            self._record(ask, call)
        return call is not None

    def _shown(self, role: Role, ask: str, *pieces: str) -> Call | None:
        """A reply of the expert: text, markup, text, ... None if the context has no room for it."""
        prompt, ids = self.context.prompt(ask, self.steps if role == "planner" else ()), self.agent.chat.reply(*pieces)
        if len(prompt) + len(ids) > self.agent.max_length:
            return None
        where = self.agent.version, self.agent.adapters[role], self.turn, self.lasting
        return Call(role, prompt, ids, [0.0] * len(ids), "end", self.steps, *where)

    def _demonstrate(self, ask: str) -> str | None:
        """The expert's action, or a detour of it; None if the context is full. At some turns the policy's `own` one follows.

        The draw of a detour is seeded by task and paradigm, so that a demonstration is the same in every epoch.
        """
        agent, expert = self.agent, self._expert()
        self.own = Random(seed_of(*self.key, self.turn, "own")).random() < agent.own_actions
        draw = Random(seed_of(self.episode.task.id, agent.plans, agent.thinks, self.turn, "detour"))
        action = (draw.random() < agent.detours and expert.detour()) or expert.action()
        pieces = self.form.written(action, thought_of(expert) if agent.thinks else "")
        self.reply_text = "".join(pieces)
        if (call := self._shown("executor", ask, *pieces)) is None:
            return None
        if self.own:
            self.episode.calls.append(call)
        else:
            self._record(ask, call)
        return action


def _worded(agent: AgentSpec, task: Task, env: Env) -> AgentSpec:
    """The agent of one episode: a share of demonstrations, the same ones in every epoch, has loose plans if the expert has."""
    chosen = agent.demonstrates and Random(seed_of(task.id, agent.plans, "loose")).random() < agent.loose
    return replace(agent, teacher=LOOSE) if chosen and isinstance(env.expert, LooseExpert) else agent
