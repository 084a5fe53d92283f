"""One run, from a checked configuration to summary.json: evaluate, train, evaluate again."""

from __future__ import annotations

import json
import math
import time
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args

import safetensors.torch
import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.callbacks import LambdaCallback
from torch.utils.data import DataLoader

from pilotrl import envs
from pilotrl.analysis.learning_curve import learning_curve
from pilotrl.analysis.terminal import Display
from pilotrl.cli import sweep_progress
from pilotrl.config.schema import Config
from pilotrl.models import policy, sharding
from pilotrl.rollout import stopwatch
from pilotrl.rollout.scheduler import run_episodes
from pilotrl.runs.describe import averages, env_name, identity, is_mixture, unseen_environment_warning
from pilotrl.runs.evaluation_cache import FirstEvaluation, handed_over, recalled
from pilotrl.runs.evaluation_set import (
    EpisodesByProtocol,
    Panel,
    compared,
    followed_by_rule,
    measure,
    panel_of,
    protocols,
    remarks,
)
from pilotrl.runs.failures import check_learned, check_played
from pilotrl.runs.model_card import model_card
from pilotrl.runs.setup import TrainSetup, memory, silence_libraries
from pilotrl.runs.step_metrics import (
    clock_metrics,
    episode_metrics,
    run_info,
    success_by_env,
    totals,
    warn_of_invalid_actions,
)
from pilotrl.store.reading import read_lines
from pilotrl.store.records import to_record
from pilotrl.store.run_folder import RunFolder, write_whole
from pilotrl.tracking.tracker import Tracker
from pilotrl.training import batch_file, checkpoint, ranks, role_kl
from pilotrl.training.batch import Batch
from pilotrl.training.data import Rollouts
from pilotrl.training.module import PilotModule
from pilotrl.types import Role


def run(config: Config, path: Path) -> None:
    """Play the panel, train, play it again, and write what changed. Continues where the folder holds a checkpoint.

    Several ranks play and train together, inside of Lightning's `fit`; the first one does the rest, and writes.
    """
    silence_libraries()
    folder = RunFolder(path)
    folder.check_version()
    if _get_rank():  # as Lightning reads it from the environment of its own or of the cluster's launcher
        other = Run(config, folder, None)
        with closing(other.setup), stopwatch.limited(config.trainer.deadline):
            other.train(checkpoint.latest(folder))
        return
    with folder.lock(), folder.complains(), Display(brief=bool(sweep_progress.here)) as display:
        if not (config.model.scratch or config.model.path.startswith("pilotrl:")):
            print(memory(config))  # before anything large is loaded
        if advice := unseen_environment_warning(config):
            print(advice)
        with Tracker(path, config.tracking.uri, run_info(config, path)):
            one = Run(config, folder, display)
            for line in remarks(config, one.panel):
                print(line)
            with closing(one.setup), stopwatch.limited(config.trainer.deadline):
                summary = one.execute()
        display.finish(summary, path, config.tracking.uri)


class Run:
    """The parts of one run, and their order."""

    def __init__(self, config: Config, folder: RunFolder, display: Display | None) -> None:
        self.config, self.folder, self.display = config, folder, display
        self.start = time.perf_counter()
        if config.trainer.threads:
            torch.set_num_threads(config.trainer.threads)
        torch.manual_seed(config.seed)
        self.setup = TrainSetup.of(config, folder.path)
        self.spent = self.setup.spent()

    @cached_property
    def panel(self) -> Panel:
        """What is played before and after."""
        return panel_of(self.setup)

    def execute(self) -> dict[str, Any]:
        """What the first rank does, in order; returns the summary."""
        folder = self.folder
        folder.check_there()  # loading the model took a while
        last = checkpoint.latest(folder)
        if last is not None and (folder / "panel.json").exists():
            self.panel.check_same(folder / "panel.json")
        folder.cut(checkpoint.offsets(last) if last else {})
        for _ in read_lines(folder.metrics) if last else ():  # else the end of the run would find what is broken
            pass
        write_whole(folder / "panel.json", json.dumps(self.panel.record(), indent=2) + "\n")
        with folder.lines("metrics.jsonl") as self.metrics_file, folder.lines("episodes.jsonl") as self.episodes_file:
            module = self.train(last)
        summary = self.summary(module)
        write_whole(folder.policy / "README.md", model_card(self.config, folder, summary))
        learning_curve(folder.metrics, folder / "learning_curve.png")
        write_whole(folder.summary, json.dumps(summary, indent=2) + "\n")
        return summary

    def begin(self, module: PilotModule, last: Path | None) -> None:
        """What is played before the first step, and not again where a run goes on."""
        self.before = self.evaluated("before", 0) if last is None else recalled(self.folder, "before")
        self.load_probe(last)
        if self.config.train.validate_every:
            self.held_out = self.rollouts("dev", self.config.train.validate_tasks, 1, module).batch(0)
        stopwatch.lap()

    def end(self, module: PilotModule) -> None:
        """What is played and computed after the last step, and the policy. Of weights in shards all ranks give theirs."""
        self.after = self.evaluated("after", int(module.version))
        self.drift = self.probe and dict.fromkeys(get_args(Role)) | self.probe.drift(module.policy)
        self.folder.check_there()
        first, actor = ranks.number() == 0, self.setup.policy
        policy.save(actor.model, self.setup.tokenizer, self.folder.policy, writes=first)
        value = {} if actor.value is None else sharding.gathered(actor.value, first)
        if value:
            write_whole(self.folder.value, safetensors.torch.save(value))
        self.weights_sha256 = policy.weights_sha256(actor)
        self.asked_late = ranks.summed(self.spending())

    def evaluated(self, when: str, step: int) -> EpisodesByProtocol:
        """Play the panel, unless the parent or another job of the sweep has played it just so, and keep its episodes."""

        def show(protocol: str, done: int, total: int) -> None:
            if self.display:
                self.display.panel(f"{when}: {protocol}", done, total)

        known, taken = EpisodesByProtocol(), dict[str, str]()
        first = self.first_evaluation() if when == "before" else None
        if when == "before" and self.config.parent is not None:
            weights = policy.weights_sha256(self.setup.policy)
            known = {} if ranks.number() else handed_over(self.config, self.panel.sha256, weights)
        if first is not None and ranks.number() == 0:
            first.begin()
            others, taken = first.known(protocols(self.setup).keys() - known)
            known |= others
        for protocol, job in taken.items():
            print(f"evaluation {when}: {protocol}: taken from folder {job} of this sweep, where the same was played")
        (known, *_) = ranks.everyones([known])  # other folders are written meanwhile: the first rank has looked for all
        played = measure(self.setup, self.panel, known, show, step)
        for protocol, episodes in played.items() if ranks.number() == 0 else ():
            for episode in episodes:
                self.episodes_file.write(to_record(episode, f"{when}/{protocol}", step))
        if first is not None and ranks.number() == 0:
            first.remember(played, taken)
        return played

    def first_evaluation(self) -> FirstEvaluation | None:
        """What jobs of a sweep share; None where this run is none."""
        actor = self.setup.policy
        device = next(actor.parameters()).device.type
        return FirstEvaluation.of(self.folder, self.config, self.panel.sha256, actor, device)

    def load_probe(self, last: Path | None) -> None:
        """What drift is measured on: a few evaluation tasks at the temperature of training, with the policy's own plans."""
        config, setup, path, heat = self.config, self.setup, self.folder.probe, self.config.train.temperature
        few = self.panel.tasks[: config.drift.tasks]
        panel = replace(self.panel, tasks=few, samples=1, temperature=heat, top_p=1.0)
        self.probe: role_kl.Probe | None = None
        if not config.drift.every:
            return
        if last is not None:
            self.probe = role_kl.Probe.load(path, setup.policy, heat, config.train.micro_tokens)
            return
        specs, make_env = panel.specs(setup.agent_spec(teacher_plans=False), False), partial(setup.env, panel.split)
        episodes = run_episodes(ranks.share(specs), make_env, setup.engine, ("drift", panel.sha256))
        self.probe = role_kl.Probe.of(ranks.everyones(episodes), setup.policy, heat, config.train.micro_tokens)
        if ranks.number() == 0:
            self.probe.save(path)

    def module(self) -> PilotModule:
        """The Lightning module."""
        setup, train = self.setup, self.config.train
        return PilotModule(
            setup.policy,
            setup.algorithm,
            seed=self.config.seed,
            steps=train.steps,
            minibatches=train.minibatches,
            micro_tokens=train.micro_tokens,
            temperature=train.temperature,
            lr=train.lr,
            lr_schedule=train.lr_schedule,
            lr_warmup=train.lr_warmup,
            weight_decay=train.weight_decay,
            grad_clip=train.grad_clip,
            value_lr=getattr(setup.algorithm, "value_lr", 0.0),
            muon_lr=train.muon_lr,
            copied=getattr(setup.engine, "copies", False) and not setup.algorithm.demonstrations,
            lag=train.lag,
        )

    def train(self, last: Path | None) -> PilotModule:
        """Hand module and data source to Lightning."""
        config, module = self.config, self.module()
        train, trainer = config.train, config.trainer
        lightning = Trainer(
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            strategy=ranks.strategy(trainer.strategy, trainer.devices * trainer.num_nodes),
            plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
            max_epochs=1,
            callbacks=[
                LambdaCallback(
                    on_train_start=lambda _, module: self.begin(module, last),
                    on_train_batch_start=lambda _, module, batch, __: self.before_step(batch, module),
                    on_train_batch_end=lambda _, module, ___, batch, __: self.after_step(batch, module),
                    on_train_end=lambda _, module: self.end(module),
                ),
                checkpoint.Checkpoints(self.folder, config.checkpoint.every, train.steps, self.setup.pools.rates),
            ],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=self.folder.path,
        )
        self.source = self.rollouts(config.env["split"], train.tasks, train.group_size, module)
        if last is not None:
            checkpoint.check_weights(last, module)
        lightning.fit(module, DataLoader(self.source, batch_size=None), ckpt_path=last, weights_only=True)
        return module

    def rollouts(self, split: str, tasks: int, group_size: int, module: PilotModule) -> Rollouts:
        """The data source of a split; the one for validation plays the same tasks every time."""
        config, setup, validates = self.config, self.setup, split == "dev"
        return Rollouts(
            env=envs.name_of(config.env),
            split=split,
            make_env=lambda: setup.env(split),
            engine=setup.engine,
            agent_specs=[replace(one, own_actions=0.0) if validates else one for one in setup.agent_specs()],
            scoring=setup.scoring,
            trains=config.stage.trains,
            observation_weight=0.0 if validates else config.stage.observation_weight,
            steps=1 if validates else config.train.steps,
            tasks=tasks,
            group_size=group_size,
            seed=config.seed,
            shuffle_rewards=config.train.shuffle_rewards,
            version=(lambda: 0) if validates else (lambda: int(module.version)),
            on_episode=self.on_episode,
            finished=self.finished,
            **({} if validates else setup.sampling()),
            first=None if validates else config.stage.demonstrations,
            run_episodes=module.lagged.wrapped(setup.run_episodes),
        )

    def on_episode(self, step: int, done: int, total: int) -> None:
        if self.display:
            self.display.rollout(step, self.config.train.steps, done, total)

    def finished(self) -> bool:
        """The loss on held-out demonstrations has stopped falling. Read from metrics.jsonl: a resumed run knows it too."""
        if not (patience := self.config.train.patience):
            return False
        lines = read_lines(self.folder.metrics)
        losses = [line["valid/loss"] for line in lines if line.get("valid/loss") is not None]
        return len(losses) > patience and min(losses[-patience:]) > min(losses[:-patience])

    def keeps_calls(self, batch: Batch) -> bool:
        """Whether the step's calls are kept: the first step's, so that a short run has some, and every so many steps'."""
        return bool(every := self.config.checkpoint.calls_every) and (batch.step == 0 or (batch.step + 1) % every == 0)

    @stopwatch.phase("save")
    def before_step(self, batch: Batch, module: PilotModule) -> None:
        """Before a step is learned from whose calls are kept: what the trainer makes of its tokens."""
        if self.keeps_calls(batch):
            batch.recomputed = module.recomputed(batch)

    @stopwatch.phase("save")
    def after_step(self, batch: Batch, module: PilotModule) -> None:
        """One line for the step, one for each episode, and what the terminal shows. The first rank writes."""
        self.folder.check_there()
        config, step, episodes = self.config, batch.step + 1, [*batch.episodes, *batch.discarded]
        counted = {**self.source.counts(batch), **ranks.summed(self.spending()), "tokens/trained": len(batch.logprobs)}
        check_learned(module, step)
        share = config.train.max_broken
        check_played(episodes, share * len(episodes), f"step {step}", f"train.max_broken={share}")
        with stopwatch.phase("other", watched=False):
            if (often := config.train.validate_every) and step % often == 0:
                counted["valid/loss"] = module.held_out_loss(self.held_out)
            if self.probe and (step % config.drift.every == 0 or step == config.train.steps):
                counted |= {f"drift/{role}": value for role, value in self.probe.drift(module.policy).items()}
        if ranks.number():
            return
        for number, episode in enumerate(episodes):
            self.episodes_file.write(to_record(episode, "train", step, discarded=number >= len(batch.episodes)))
        counted |= episode_metrics(episodes, self.setup.scoring.own)
        timed = clock_metrics(step, stopwatch.lap(), episodes, counted, module.device)
        metrics = {"step": step, "time": time.time(), **counted, **module.metrics, **timed}
        metrics |= success_by_env(episodes) if is_mixture(self.config) else {}
        line = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self.metrics_file.write(line)
        if batch.step == 0:
            warn_of_invalid_actions(env_name(self.config), line["env/invalid_actions"])
        if self.keeps_calls(batch):
            self.folder.calls.mkdir(exist_ok=True)
            batch_file.write(batch, self.folder.calls / f"step-{step:06d}.safetensors")
        if self.display:
            self.display.update(step, config.train.steps, line)

    def spending(self) -> dict[str, float]:
        """What endpoints were asked since this was called before."""
        before, self.spent = self.spent, self.setup.spent()
        return {name: value - before[name] for name, value in self.spent.items()}

    def summary(self, module: PilotModule) -> dict[str, Any]:
        """summary.json, as docs/metrics.md describes it."""
        config, lines = self.config, list(read_lines(self.folder.metrics))
        asked = {name: sum((line.get(name, 0) for line in lines), late) for name, late in self.asked_late.items()}
        return {
            **identity(config),
            "panel": self.panel.summary(),
            **compared(self.before, self.after, averages(config), self.panel.by_level),
            "rule": followed_by_rule(self.setup, self.panel),
            "train": {"steps": int(module.version)} | totals(lines),
            "drift": self.drift,
            "endpoints": asked,
            "weights_sha256": self.weights_sha256,
            "seconds": time.perf_counter() - self.start,
        }
