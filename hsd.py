"""HSD: Hindsight Self-Distillation (arXiv 2606.15576), the whole algorithm in one file.

    python hsd.py                       the lab: a tiny Qwen3 learns on a CPU in two minutes
    python hsd.py --model Qwen/Qwen3-8B --train_data train.jsonl --eval_data eval.jsonl

A rollout fails somewhere. Outcome rewards tell every one of its tokens the same thing; HSD tells
each token its own. Sample a group of G rollouts per question and verify them. Give each rollout a
successful PEER of its own group. Put the answer and that peer into the prompt: the same model is
now a TEACHER that has seen how it ends. Train the STUDENT, the model without them, on its own
rollout, by KL(teacher || student) over the full vocabulary at every token. Where the rollout
follows its peer the two agree; where it leaves the successful path, they part. What is not here:
a critic, a reward model, a second engine for the rollouts, LoRA, DeepSpeed, configuration files.

Part I is the paper, and ends with train(), the algorithm. Part II is what makes it real.
Shapes: Q questions, G group, T response tokens, C tokens of a chunk, H hidden, V vocabulary.
"""

from __future__ import annotations

import ast
import fcntl
import functools
import gzip
import hashlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zlib
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import mpmath
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
import transformers
from safetensors import SafetensorError
from torch.distributed import fsdp
from torch.distributed.checkpoint import state_dict
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM, GenerationConfig, HfArgumentParser


# ====================================== Part I: the paper =========================================
# ---- Problems and prompts ------------------------------------------------------------------------
@dataclass(frozen=True)
class Problem:
    """One question: math, with `answer` (a*), or code, with `tests`."""

    question: str
    answer: str | None = None
    solution: str | None = None  # an offline reference; HSD's teacher never sees it
    tests: tuple = ()


# Our prompts (the paper prints none). The tiny model has one token per sentence: data/make_tiny.py.
INSTRUCTION = "Reason step by step, and put your final answer within \\boxed{}."
CODE_INSTRUCTION = "Write a complete Python program, in one ```python block."
CONTEXTS = {
    "answer": "The correct answer is known to be:\n<answer>\n{}\n</answer>\n\n",
    "peer": "Another attempt at this question was checked and found correct:\n"
    "<attempt>\n{}\n</attempt>\n\n",
    "solution": "A worked solution of this question:\n<solution>\n{}\n</solution>\n\n",
}
CLOSING = "Now solve the question yourself, from the beginning, "
CLOSING += "as if you had not been shown any of this.\n"


def request(problem, context=None):
    """The user's message: q, or [q; c_i]. The instruction closes both: no cut can take it away."""
    hints = "".join(CONTEXTS[kind].format(text) for kind, text in (context or {}).items())
    instruction = CODE_INSTRUCTION if problem.tests else INSTRUCTION
    return f"{problem.question}\n\n{hints}{CLOSING if hints else ''}{instruction}"


# ---- Rollouts and their verification (section 5) -------------------------------------------------
@dataclass
class Rollout:
    """One sampled response o_i. Its ids are the truth; its text is for verifier and people."""

    problem: Problem
    prompt: list[int]  # the student's
    response: list[int]  # with its stop token, which is trained like any other
    text: str = ""
    truncated: bool = False  # cut at max_new_tokens: there is no stop token
    reward: float = 0.0
    unverified: bool = False  # the verifier itself failed
    peer: Rollout | None = None  # o_i+ of Eq. 9
    context: dict = field(default_factory=dict)  # c_i, for request()
    teacher_prompt: list[int] = field(default_factory=list)
    advantage: float = 0.0  # of the policy-gradient methods
    weight: float = 0.0  # of each of its tokens in the loss of an update
    share: float = 0.0  # likewise in the means that are logged
    logp: torch.Tensor | None = None  # log pi(o_t), [T], and the next: see set_credit()
    credit: torch.Tensor | None = None  # A_t (Eq. 2), [T]


def sample_groups(model, tokenizer, problems, size, config, seed, phase="rollouts", prompts=None):
    """A group of `size` rollouts o_i ~ pi(. | q) of each problem, not yet verified. `prompts`: ids
    to go on from that are not the student's (the self-teacher's)."""
    prompts = prompts or [prompt_ids(tokenizer, request(p), config.thinking) for p in problems]
    stops = model.lm.generation_config.eos_token_id
    copies, rollouts = [prompt for prompt in prompts for _ in range(size)], []
    for i, response in enumerate(sample(model, copies, stops, config, seed, phase)):
        text = tokenizer.decode(response, skip_special_tokens=True)
        truncated = response[-1] not in stops
        rollouts.append(Rollout(problems[i // size], copies[i], response, text, truncated))
    return [rollouts[i : i + size] for i in range(0, len(rollouts), size)]


def verify(problem, text):
    """R in {0, 1}. Math: is the last boxed expression, or else the last number, equal to a*? Code:
    does the last fenced block pass every test? None where the jail itself failed."""
    if problem.tests:
        blocks = re.findall(r"```[^\n]*\n(.*?)```", text, re.DOTALL)
        return run_tests(blocks[-1], problem.tests) if blocks else False
    candidate = extract_answer(text)
    return candidate is not None and math_equal(candidate, problem.answer)


# ---- Peers and the teacher's context (Eq. 8, 9, 11) ----------------------------------------------
def successful_peers(rewards):
    """S_i = { j != i : R_j = 1 } for each i of a group: [1, 0, 0, 1] -> [[3], [0, 3], [0, 3], [0]].
    A lone success has no peer itself, and is the peer of all others."""
    return [[j for j, r in enumerate(rewards) if r == 1 and j != i] for i in range(len(rewards))]


def divergence(a, b):
    """tau (Eq. 11): the first position where two token lists differ, or where one of them ends."""
    return next((t for t, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


PEER_RULES = {  # the peers with the smallest key are drawn from
    "uniform": lambda rollout, peer: 0,  # Eq. 9
    "shortest": lambda rollout, peer: len(peer.response),  # this and the next two: Figure 4(d)
    "low_perplexity": lambda rollout, peer: -peer.logp.mean().item(),
    "high_perplexity": lambda rollout, peer: peer.logp.mean().item(),
    "nearest": lambda rollout, peer: -divergence(rollout.response, peer.response),  # ours
}


def choose_peers(group, past, rule, rng):
    """Sets each rollout's peer o_i+, drawn from S_i (Eq. 8), or where S_i is empty from `past`,
    successes of earlier steps, or None. (The first success for all collapses: one path.)"""
    for rollout, successes in zip(group, successful_peers([r.reward for r in group])):
        peers = [group[j] for j in successes] or past
        keys = [PEER_RULES[rule](rollout, peer) for peer in peers]
        peers = [peer for peer, key in zip(peers, keys) if key == min(keys)]
        rollout.peer = rng.choice(peers) if peers else None


def answer_alone(rollout):
    """c_i = a*. A code problem has no a* that is a text."""
    return {"answer": rollout.problem.answer} if rollout.problem.answer else {}


def peer_alone(rollout):
    """c_i = o_i+, where there is a peer."""
    return {"peer": rollout.peer.text} if rollout.peer else {}


def answer_and_peer(rollout):
    """c_i = (a*, o_i+), or a* alone without a peer: the endpoint fallback (Eq. 9)."""
    return answer_alone(rollout) | peer_alone(rollout)


def solution_alone(rollout):
    """c_i = an offline reference solution."""
    return {"solution": rollout.problem.solution} if rollout.problem.solution else {}


def condition_teacher(rollout, context, tokenizer, config):
    """Sets c_i and the teacher's prompt [q; c_i]. Only the peer's own tokens are ever cut: a cut
    through the rendered prompt would take the instruction, or the question."""
    rollout.context = context(rollout)
    if "peer" in rollout.context and len(rollout.peer.response) > config.max_peer_tokens:
        kept = rollout.peer.response[: config.max_peer_tokens]
        rollout.context["peer"] = tokenizer.decode(kept, skip_special_tokens=True)
    text = request(rollout.problem, rollout.context)
    rollout.teacher_prompt = prompt_ids(tokenizer, text, config.thinking)


# ---- Methods (Table 1) ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Method:
    """A row of values; the baselines' formulas open Part II. With one update per batch the ratio is
    1 and nothing is clipped: then gspo's gradient is grpo's; dapo keeps its token mean, filter and
    length penalty, rlsd its weights, dr_grpo its missing norms. The baselines' beta is ours."""

    context: object = None  # a function of a rollout: {kind of CONTEXTS: text}; None: no teacher
    distill: float = 0.0  # weight of KL(teacher || student)
    policy: float = 0.0  # weight of the policy gradient -min(r A, clip(r) A)
    std: bool = True  # A = (R - mean) / std (Eq. 1); else R - mean
    ratio: str = "token"  # r of each token, or one of the whole sequence
    clip: tuple = (0.2, 0.2)  # r is clipped to [1 - low, 1 + high]
    mean_over: str = "rollouts"  # mean over tokens, then rollouts; "tokens"; "constant" length
    mixed_only: bool = False  # drop groups that are all right or all wrong
    overlong: bool = False  # a penalty on the last fifth of max_new_tokens
    reweight: bool = False  # scale A per token by the teacher/student ratio


METHODS = {
    "hsd": Method(answer_and_peer, distill=1.0),  # Eq. 9
    "opsd": Method(answer_alone, distill=1.0),  # 2601.18734; c = a* as in Table 1
    "sdft": Method(solution_alone, distill=1.0),  # 2601.19897
    # 2601.20802, as its authors run math: another success of the group, no loss without one. Theirs
    # is a mean over all distilled tokens; here, as for the others, over tokens and then rollouts.
    "sdpo": Method(peer_alone, distill=1.0),
    "grpo": Method(policy=1.0),  # 2402.03300, Eq. 3
    "dr_grpo": Method(policy=1.0, std=False, mean_over="constant"),  # 2503.20783
    "dapo": Method(  # 2503.14476, Eq. 8 to 13
        policy=1.0, clip=(0.2, 0.28), mean_over="tokens", mixed_only=True, overlong=True
    ),
    "gspo": Method(policy=1.0, ratio="sequence", clip=(3e-4, 4e-4)),  # 2507.18071
    "rlsd": Method(answer_alone, policy=1.0, reweight=True),  # 2604.03128, Eq. 13 to 15
    "grpo+opsd": Method(answer_alone, distill=0.5, policy=0.5),
}


# ---- Config (section 5) --------------------------------------------------------------------------
def option(default, text, **more):
    """A field of Config, with its help."""
    return field(default=default, metadata={"help": f"{text} [{default}]", **more})


@dataclass
class Config:
    """Each field is a flag, --field value. In brackets: the paper's value; where it gives none, as
    those say that are marked, or for what is about the run itself, ours. LAB is what the lab
    changes."""

    model: str = option("Qwen/Qwen3-8B", "folder or hub name of a causal LM")
    train_data: str = option(None, "problems, JSON Lines or .gz of it")
    eval_data: str = option(None, "held-out problems, likewise")
    out: str = option(None, "folder of the run; else runs/METHOD, or runs/METHOD-eval for 0 steps")
    lab: bool = option(False, "the lab's values; they hold wherever no --model is given")
    method: str = option("hsd", "a row of Table 1", choices=METHODS)
    teacher: str = option("live", "whose weights teach", choices=("live", "frozen", "ema"))
    peer_rule: str = option("uniform", "how S_i is drawn from (Eq. 8)", choices=PEER_RULES)
    success_buffer: int = option(0, "past successes kept per question, for groups without (ours)")
    beta: float = option(1e-3, "weight of KL(pi || pi_0); 0 loads no reference model")
    questions_per_step: int = option(128, "questions Q of one step")
    group_size: int = option(8, "rollouts G of each question")
    temperature: float = option(1.0, "temperature of the rollouts; 0 is greedy")
    top_p: float = option(0.95, "nucleus of the rollouts, a probability")
    max_new_tokens: int = option(4096, "tokens of a response; one cut here scores 0")
    max_peer_tokens: int = option(4096, "tokens of the peer that the teacher sees (ours)")
    window: int = option(0, "tokens from tau on that an update reads, if a peer; 0: all (ours)")
    thinking: bool = option(False, "chat template's thinking mode, for student and teacher (ours)")
    rollout_tokens: int = option(294_912, "tokens, prompts included, generated at once (ours)")
    steps: int = option(1500, "batches of Q x G rollouts; 0 only evaluates")
    updates_per_batch: int = option(1, "optimizer steps per batch, each on its share of it (ours)")
    learning_rate: float = option(1e-6, "AdamW's constant step size")
    max_grad_norm: float = option(1.0, "norm to which a gradient is clipped (ours)")
    micro_batch_tokens: int = option(12_288, "tokens of one backward pass (ours)")
    chunk_tokens: int = option(256, "tokens whose logits are in memory at once (ours)")
    compile: bool = option(True, "torch.compile the loss")
    gradient_checkpointing: bool = option(True, "recompute activations in backward")
    offload_optimizer: str = option("auto", "AdamW on the host", choices=("auto", "true", "false"))
    seed: int = option(0, "of the questions' order, the rollouts and the peers")
    eval_every: int = option(100, "steps between evaluations; 0: before and after only (ours)")
    eval_questions: int = option(500, "held-out questions of an evaluation (ours)")
    eval_samples: int = option(16, "samples per question; pass@1 is their mean")
    save_every: int = option(50, "steps between checkpoints; 0: at the end only (ours)")
    resume: bool = option(False, "go on with the run in --out, with its settings")
    overwrite: bool = option(False, "begin anew where --out holds a run")

    def __post_init__(self):
        self.out = self.out or f"runs/{self.method}{'' if self.steps else '-eval'}"


DATA = Path(__file__).resolve().parent / "data"
LAB = {
    "model": str(DATA / "tiny-qwen3"),
    "train_data": str(DATA / "train.jsonl"),
    "eval_data": str(DATA / "eval.jsonl"),
    "teacher": "frozen",
    "questions_per_step": 16,
    "max_new_tokens": 72,
    "rollout_tokens": 16_384,
    "steps": 40,
    "learning_rate": 1e-4,
    "micro_batch_tokens": 4096,
    "gradient_checkpointing": False,
    "eval_every": 0,
    "eval_questions": 128,
    "eval_samples": 8,
    "save_every": 10,
}


# ---- Credit and loss (Eq. 2, 10, 13) -------------------------------------------------------------
class TokenTerms(NamedTuple):
    """What the loss and the credit are made of; each [T] float32, in nats."""

    kl: torch.Tensor  # KL(teacher || student)
    kl_reference: torch.Tensor  # KL(student || pi_0)
    student_logp: torch.Tensor  # log pi_S(o_t)
    teacher_logp: torch.Tensor  # log pi_T(o_t); minus student_logp it is the credit A_t (Eq. 2)
    entropy: torch.Tensor  # of the student


def chunk_terms(student_logits, teacher_logits, reference_logits, tokens, a, b, c):
    """TokenTerms of `tokens` [C] from float32 logits [C,V], zeros for a teacher or pi_0 that is
    None; and, in the student's logits, the gradient [C,V] of sum_t a_t kl_t + b_t kl_reference_t +
    c_t student_logp_t, in closed form. A weight [C] that is None is 0."""
    student, at = student_logits.log_softmax(-1), tokens[:, None]  # [C,V], [C,1]
    p_student, gradient = student.exp(), torch.zeros_like(student)
    student_logp = student.gather(-1, at)[:, 0]  # [C]
    kl = kl_reference = teacher_logp = torch.zeros_like(student_logp)
    if teacher_logits is not None:
        teacher = teacher_logits.log_softmax(-1)
        kl = (teacher.exp() * (teacher - student)).sum(-1)
        teacher_logp = teacher.gather(-1, at)[:, 0]
        if a is not None:
            gradient = gradient + a[:, None] * (p_student - teacher.exp())
    if reference_logits is not None:
        log_ratio = student - reference_logits.log_softmax(-1)
        kl_reference = (p_student * log_ratio).sum(-1)
        if b is not None:
            gradient = gradient + b[:, None] * p_student * (log_ratio - kl_reference[:, None])
    if c is not None:
        chosen = torch.arange(student.shape[-1], device=tokens.device) == at
        gradient = gradient + c[:, None] * (chosen.float() - p_student)
    entropy = -(p_student * student).sum(-1)
    return TokenTerms(kl, kl_reference, student_logp, teacher_logp, entropy), gradient


def read_responses(models, rollouts):
    """Hidden states [T,H] and head [V,H] of student, teacher and pi_0 (or None) at the T response
    tokens of some rollouts, one rollout after the other, and these tokens [T]. The teacher reads
    [q; c_i; o_i], student and pi_0 read [q; o_i]. Gradients reach the student alone."""
    prompts, responses = [r.prompt for r in rollouts], [r.response for r in rollouts]
    with torch.no_grad():
        asked = [r.teacher_prompt for r in rollouts]
        teacher = models.teacher and models.teacher(asked, responses)
        reference = models.reference and models.reference(prompts, responses)
    student = models.student(prompts, responses)
    tokens = torch.tensor([token for response in responses for token in response])
    return (student, teacher, reference), tokens.to(student[0].device)


def batch_loss(models, rollouts, step, config):
    """What some rollouts contribute to the loss of an update, which for HSD is in all (Eq. 13)

        J = 1/N sum_i 1/|o_i| sum_t [ KL_t(teacher || student) + beta KL_t(student || pi_0) ],

    and figures to log. Each token carries its final weight, 1/(N |o_i|), so that the loss is exact
    however the micro-batches are cut. The paper leaves the estimator of KL(pi || pi_0) open: ours
    is the exact one over the vocabulary at each visited prefix."""
    method, (sides, tokens) = METHODS[config.method], read_responses(models, rollouts)
    rows = [[r.weight, r.share, bool(r.context), r.advantage] for r in rollouts for _ in r.response]
    weight, share, taught, advantage = torch.tensor(rows).T.to(tokens.device)  # [T] each
    a = method.distill * weight * taught if method.distill else None
    b = config.beta * weight if config.beta else None
    c, policy = None, 0.0
    if method.policy:
        c, policy = policy_gradient(rollouts, sides, tokens, weight, advantage, step, config)
    loss, terms = forward_terms(sides, tokens, config, (a, b, c))
    figures = {"loss": loss.item() + policy, "entropy": (share @ terms.entropy).item()}
    if method.context:
        figures["kl"] = (share * taught @ terms.kl).item()
    if config.beta:
        figures["kl_reference"] = (share @ terms.kl_reference).item()
    return loss, figures


# ---- The algorithm -------------------------------------------------------------------------------
def train_step(models, optimizer, tokenizer, problems, buffer, step, config):
    """One step, in the order of the paper: groups, verdicts, peers, teacher, updates. `buffer`
    keeps past successes by question. Returns what to log."""
    method, rng = METHODS[config.method], random.Random(f"{config.seed} peers {step}")
    seed = f"{config.seed} {step}"
    groups = sample_groups(models.student, tokenizer, problems, config.group_size, config, seed)
    rollouts = [r for group in groups for r in group]
    verify_rollouts(rollouts)
    if method.policy and config.updates_per_batch > 1 or "perplexity" in config.peer_rule:
        set_credit(models._replace(teacher=None, reference=None), rollouts, config)
    for problem, group in zip(problems, groups):
        past = buffer.setdefault(problem.question, deque(maxlen=config.success_buffer))
        choose_peers(group, past, config.peer_rule, rng)
        past.extend(replace(r, peer=None) for r in group if r.reward)
        set_advantages(group, method, config)
    for rollout in rollouts if method.context else ():
        condition_teacher(rollout, method.context, tokenizer, config)

    mixed = [group for group in groups if 0 < sum(r.reward for r in group) < len(group)]
    trained = [r for group in (mixed if method.mixed_only else groups) for r in group]
    figures, norms, n = Counter(), [], config.updates_per_batch
    for part in [trained[i::n] for i in range(n)]:
        set_weights(part, method.mean_over, config)
        part = [windowed(r, config.window) for r in part]
        for batch in dealt(micro_batches(part, config.micro_batch_tokens), models.student):
            loss, parts = batch_loss(models, batch, step, config)
            loss.backward()
            figures.update(parts)
        norms.append(optimizer_step(models.student, optimizer, config))
    if method.context and config.teacher == "ema":  # it goes 1% of the way to the student
        for old, new in zip(models.teacher.parameters(), models.student.parameters()):
            old.lerp_(new.detach(), 0.01)
    figures = {name: total / n for name, total in summed(figures).items()}
    return rollout_metrics(groups) | figures | {"grad_norm": mean(norms)}


def train(config):
    """Runs the method as `config` says: data, step, log, evaluate, save. Returns what it logged."""
    run = Run(config)
    train_problems, eval_problems = load_data(config)
    tokenizer, models = load_models(config)
    check_lengths(models.student, tokenizer, train_problems + eval_problems, config)
    optimizer = adamw(models.student, config) if config.steps else None
    run.start(tokenizer, models, optimizer)
    if run.step == 0:
        run.log(*evaluate(models, tokenizer, eval_problems, config, 0))
    for step in range(run.step, config.steps):
        start, problems = time.time(), questions_of_step(train_problems, step, config)
        row = train_step(models, optimizer, tokenizer, problems, run.buffer, step, config)
        run.log({"step": step + 1, **row, "seconds": time.time() - start})
        if run.due(step + 1, config.eval_every):
            run.log(*evaluate(models, tokenizer, eval_problems, config, step + 1))
        stopping = run.stopping()
        if stopping or run.due(step + 1, config.save_every):
            run.save(step + 1)
        if stopping:
            break
    run.finish()
    return run.rows


# ================================== Part II: what makes it real ===================================
# ---- The policy gradients of the baselines (Eq. 1, Table 1) --------------------------------------
def set_advantages(group, method, config):
    """Sets each rollout's advantage (Eq. 1); the std is the unbiased one, as in public code. DAPO's
    length penalty (its Eq. 13, -1 at the limit) is halved: its rewards are +-1, ours 0/1."""
    fifth = config.max_new_tokens / 5
    over = [max(0.0, len(r.response) / fifth - 4) if method.overlong else 0.0 for r in group]
    rewards = torch.tensor([r.reward - 0.5 * o for r, o in zip(group, over)])  # [G]
    scale = rewards.std() + 1e-6 if method.std and len(group) > 1 else 1.0
    for rollout, reward in zip(group, rewards):
        rollout.advantage = ((reward - rewards.mean()) / scale).item()


def set_weights(rollouts, mean_over, config):
    """Sets the weight of each rollout's tokens: 1/(N |o_i|); 1 / sum |o_i| (DAPO); or, to favour no
    length, 1/(N max_new_tokens) (Dr. GRPO's code; its paper prints no constant)."""
    N, tokens = len(rollouts), sum(len(r.response) for r in rollouts)
    for r in rollouts:
        r.share, constant = 1 / (N * len(r.response)), 1 / (N * config.max_new_tokens)
        r.weight = {"rollouts": r.share, "tokens": 1 / tokens, "constant": constant}[mean_over]


def policy_gradient(rollouts, sides, tokens, weight, advantage, step, config):
    """The derivative in log pi(o_t), [T], of the weighted policy loss, and that loss, a number.
    With one update per batch pi is what it was, and the log-ratio 0; otherwise, and for RLSD's
    credit, the terms come from a first pass over the heads."""
    method, log_ratio = METHODS[config.method], torch.zeros_like(advantage)
    if method.reweight or config.updates_per_batch > 1:
        with torch.no_grad():
            terms = forward_terms([*sides[:2], None], tokens, config)[1]
        if method.reweight:
            advantage = reweighted(advantage, terms.teacher_logp - terms.student_logp, step)
        if config.updates_per_batch > 1:
            log_ratio = terms.student_logp - torch.cat([r.logp for r in rollouts]).to(log_ratio)
    lengths, log_ratio = [len(r.response) for r in rollouts], log_ratio.requires_grad_()
    loss = method.policy * (weight * policy_loss(log_ratio, advantage, lengths, method)).sum()
    return torch.autograd.grad(loss, log_ratio)[0], loss.item()


def policy_loss(log_ratio, advantage, lengths, method):
    """-min(r A, clip(r, 1 - low, 1 + high) A) at each token, [T], from log r = log pi - log pi_old.
    GSPO's r (its Eq. 7) is that of the sequence, to the power 1/|o|, at each of its tokens."""
    if method.ratio == "sequence":
        log_ratio = torch.cat([part.mean().expand(len(part)) for part in log_ratio.split(lengths)])
    ratio, (low, high) = log_ratio.exp(), method.clip
    return -torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def reweighted(advantage, credit, step):
    """RLSD (its Eq. 13 to 15): the verifier keeps the sign, the teacher scales the token: A times
    1 - l + l clip((pi_T / pi_S)^sign(A), .8, 1.2), where l falls from .5 to 0 over 50 steps."""
    share = 0.5 * max(0.0, 1 - step / 50)
    return advantage * (1 - share + share * (advantage.sign() * credit).exp().clamp(0.8, 1.2))


# ---- The heads, a chunk at a time ----------------------------------------------------------------
def project(a, b, total=None, keep=0):
    """a @ b in float32 from any dtype: casting a bf16 product afterwards is too late. It is written
    to `total`, if given, or with keep=1 added to it: fresh memory costs a CPU a product's time."""
    if a.is_cuda and b.dtype == torch.bfloat16:
        product = torch.mm(a.bfloat16(), b, out_dtype=torch.float32)
        return total.add_(product) if keep else product
    total = a.new_empty((len(a), b.shape[1]), dtype=torch.float32) if total is None else total
    return total.addmm_(a.float(), b.float(), beta=keep)


@functools.cache
def compiled(function):
    """torch.compile(function), or the function and a line where this machine has no compiler."""
    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except RuntimeError as error:  # no C++ compiler, or no Triton
        say(f"torch.compile does not work here, running without it: {first_line(error)}")
        return function
    return torch.compile(function)


class FusedLoss(torch.autograd.Function):
    """chunk_terms over all tokens, with the logits of C in memory: those of 4,096 are 2.5 GB, and a
    plain KL holds six such. Its gradient is made with the terms, not from logits made anew, and
    reaches the student alone: a head that learns from the teacher's projection too is off by twice
    its norm."""

    @staticmethod
    def forward(ctx, hidden, head, others, tokens, weights, config):
        T, C = len(tokens), config.chunk_tokens
        terms_of = compiled(chunk_terms) if config.compile else chunk_terms

        def padded(x):  # to whole chunks: one shape to compile
            return None if x is None else F.pad(x, (0, 0) * (x.dim() - 1) + (0, -T % C))

        sides = [side and (padded(side[0]), side[1].T) for side in ((hidden, head), *others)]
        tokens, weights = padded(tokens), [padded(w) for w in weights]
        gradients, logits, parts = (), [None, None, None], []
        if any(w is not None for w in weights):
            gradients = torch.empty_like(sides[0][0]), torch.zeros_like(head, dtype=torch.float32)
        for start in range(0, len(tokens), C):
            rows = slice(start, start + C)
            for i, side in enumerate(sides):
                logits[i] = side and project(side[0][rows], side[1], logits[i])
            at = [None if w is None else w[rows] for w in weights]
            terms, gradient = terms_of(*logits, tokens[rows], *at)
            parts.append(terms)
            if gradients:
                gradients[0][rows] = project(gradient, head)
                project(gradient.T, sides[0][0][rows], gradients[1], keep=1)
        terms = [torch.cat(term)[:T] for term in zip(*parts)]
        ctx.save_for_backward(*gradients)
        ctx.T = T
        ctx.mark_non_differentiable(*terms)
        parts = [w[:T] @ x for w, x in zip(weights, terms[:2]) if w is not None]
        return sum(parts, torch.zeros_like(terms[0][0])), *terms

    @staticmethod
    def backward(ctx, scale, *_):
        hidden, head = (x.mul_(scale) for x in ctx.saved_tensors)  # a second backward() is loud
        return hidden[: ctx.T], head.to(hidden.dtype), None, None, None, None


def forward_terms(sides, tokens, config, weights=(None, None, None)):
    """For weights (a, b, c), each [T] or None: a scalar of value sum_t a_t kl_t + b_t
    kl_reference_t, whose gradient has that of sum_t c_t log pi(o_t) in it; and TokenTerms [T]."""
    loss, *terms = FusedLoss.apply(*sides[0], sides[1:], tokens, weights, config)
    return loss, TokenTerms(*terms)


def kl_teacher_student(student_hidden, teacher_hidden, head_weight, weights=None, chunk_tokens=256):
    """KL(teacher || student) at each token over the full vocabulary (Eq. 10), never holding the
    logits of more than `chunk_tokens` tokens. From hidden states [T,H], head_weight [V,H] and
    weights [T] (1/T each if None): the scalar sum_t w_t KL_t, whose gradient reaches student_hidden
    and, through the student's side alone, head_weight; and kl [T], float32, detached, in nats."""
    T, sides = len(student_hidden), [(h, head_weight) for h in (student_hidden, teacher_hidden)]
    weights = torch.full((T,), 1 / T) if weights is None else weights
    weights = weights.to(student_hidden.device, torch.float32)
    tokens, config = torch.zeros_like(weights, dtype=torch.long), Config(chunk_tokens=chunk_tokens)
    loss, terms = forward_terms([*sides, None], tokens, config, (weights, None, None))
    return loss, terms.kl


# ---- Reading and sampling ------------------------------------------------------------------------
class Policy(torch.nn.Module):
    """A causal LM. Its forward gives hidden states and head together, so that FSDP, which gathers
    and frees the weights around it, sees every use of either."""

    def __init__(self, lm):
        super().__init__()
        self.lm, self.device, self.dtype = lm, lm.device, lm.dtype

    def forward(self, prompts, responses):
        """(hidden states [T,H] that predict each response token, head [V,H]), T = sum |o_i|.
        Padding is on the right and needs no mask: under causal attention nothing sees it."""
        self.train(torch.is_grad_enabled())  # checkpointing works in train mode alone
        texts = [prompt + response[:-1] for prompt, response in zip(prompts, responses)]
        width = max(map(len, texts))
        ids = torch.tensor([text + [0] * (width - len(text)) for text in texts])  # [B,width]
        states = self.lm.base_model(ids.to(self.device), use_cache=False).last_hidden_state
        hidden = [h[len(t) - len(o) : len(t)] for h, t, o in zip(states, texts, responses)]
        head = self.lm.get_output_embeddings().weight
        # FSDP hangs its hooks on the view; what it will not gather again is freed after the forward
        return torch.cat(hidden), head.view_as(head) if head.requires_grad else head.clone()


def packed(items, length, budget):
    """Runs of items that, padded to the longest, take at most `budget` tokens (or of one item)."""
    runs, longest = [], 0
    for x in items:
        longest = max(longest, length(x))
        if not runs or (len(runs[-1]) + 1) * longest > budget:
            runs.append([])
            longest = length(x)
        runs[-1].append(x)
    return runs


def windowed(rollout, window):
    """What the update reads of a rollout that has a peer: it ends `window` tokens from tau on (Eq.
    11), or for 0 nowhere. Most credit lies there, and under causal attention no token needs what
    comes after it. Its tokens' weight stays; their share makes up for the others in the log."""
    if not window or not rollout.peer:
        return rollout
    whole, tau = rollout.response, divergence(rollout.response, rollout.peer.response)
    kept = whole[: tau + window]
    return replace(rollout, response=kept, share=rollout.share * len(whole) / len(kept))


def micro_batches(rollouts, budget):
    """Batches whose student prompts and responses take `budget` tokens, longest first."""
    longest_first = sorted(rollouts, key=lambda r: -len(r.prompt) - len(r.response))
    return packed(longest_first, lambda r: len(r.prompt) + len(r.response), budget)


@torch.no_grad()
def set_credit(models, rollouts, config):
    """Sets logp, log pi(o_t), and credit A_t (Eq. 2) of each rollout: [T] float32, on the CPU."""
    for batch in progress(micro_batches(rollouts, config.micro_batch_tokens), "credit"):
        _, terms = forward_terms(*read_responses(models, batch), config)
        logp, credit = terms.student_logp, terms.teacher_logp - terms.student_logp
        lengths = [len(r.response) for r in batch]
        for r, *values in zip(batch, logp.cpu().split(lengths), credit.cpu().split(lengths)):
            r.logp, r.credit = values


def prompt_ids(tokenizer, text, thinking=False):
    """Token ids of a user's message, up to where the assistant begins to write. Student and teacher
    share it: with thinking on for one alone, their first tokens would disagree for no reason. A
    control token's name in the message stays text."""
    if tokenizer.chat_template is None:
        return tokenizer(text + "\n", split_special_tokens=True).input_ids
    before, after = rendered(tokenizer, ["\0"], thinking).split("\0")
    parts = [tokenizer(part, add_special_tokens=False).input_ids for part in (before, after)]
    text = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    return parts[0] + text + parts[1]


def rendered(tokenizer, turns, thinking):
    """The chat template's text of some turns, the user's first, up to where the assistant begins to
    write. Some templates write the date: a run has but one."""
    roles = [{"role": ("user", "assistant")[i % 2], "content": x} for i, x in enumerate(turns)]
    options = {"add_generation_prompt": len(turns) % 2 > 0, "enable_thinking": thinking}
    one_date = "{% macro strftime_now(form) %}14 Jun 2026{% endmacro %}"
    options["chat_template"] = one_date + tokenizer.get_chat_template()
    text = tokenizer.apply_chat_template(roles, tokenize=False, **options)
    if lost := [turn for turn in turns if text.count(turn) != 1]:
        raise ValueError(f"its chat template drops or repeats a message: {lost}")
    return text


def stop_tokens(model, tokenizer):
    """What ends a response: the model's and the tokenizer's EOS, and the token with which the
    template closes a turn. ValueError if there is none."""
    stops = model.generation_config.eos_token_id
    stops = {*(stops if isinstance(stops, list) else [stops]), tokenizer.eos_token_id} - {None}
    if tokenizer.chat_template is not None:
        end = rendered(tokenizer, ["\0", "\1"], False).partition("\1")[2]
        ids, added = (
            tokenizer(end, add_special_tokens=False).input_ids,
            tokenizer.added_tokens_decoder,
        )
        closing = {token for token in ids if token in added and added[token].special}
        if closing and not closing & stops:
            say(f"the chat template closes a turn with {end.strip()}: now that ends a response")
            stops |= {next(token for token in ids if token in closing)}
    if not stops:
        raise ValueError("neither its generation_config nor its tokenizer has an EOS token")
    return sorted(stops)


def sample(model, prompts, stops, config, seed, phase="rollouts"):
    """One response, a list of ids, for each prompt, in calls that take `rollout_tokens`. A call's
    seed is `seed` (a str) and its place: there is no generator's state to keep, and ranks, of which
    each makes every RANKS-th call, draw as one would."""
    calls = packed(prompts, lambda p: len(p) + config.max_new_tokens, config.rollout_tokens)
    responses = []
    gather(model, whole=True)  # or ranks that sample would wait for each other at each token
    for i, call in progress(list(enumerate(calls))[RANK::RANKS], phase):
        with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(random.Random(f"{seed} {i}").getrandbits(63))
            responses.append(generate(model, call, stops, config))
    torch.cuda.empty_cache()  # the update needs what the KV cache held, in other sizes
    return [response for call in gathered(responses) for response in call]


@torch.no_grad()
def generate(model, prompts, stops, config):
    """The ids that follow each of some prompts, up to and with the first stop token: what follows
    that is padding, often with that very id. (top_k None would mean the model's own.)"""
    settings = GenerationConfig(eos_token_id=stops, pad_token_id=stops[0])
    settings.max_new_tokens, settings.do_sample = config.max_new_tokens, config.temperature > 0
    if settings.do_sample:
        settings.update(temperature=config.temperature, top_p=config.top_p, top_k=0)
    width = max(map(len, prompts))
    ids = torch.tensor([[stops[0]] * (width - len(p)) + p for p in prompts])  # [B,width]
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]).to(model.device)
    model.eval()  # in train mode, checkpointing drops the KV cache: wrong text
    more = {"attention_mask": mask, "synced_gpus": False}  # FSDP has gathered all weights
    rows = model.lm.generate(ids.to(model.device), generation_config=settings, **more)
    rows = rows[:, width:].tolist()
    ends = [next((i for i, token in enumerate(row, 1) if token in stops), None) for row in rows]
    return [row[:end] for row, end in zip(rows, ends)]


# ---- Answers: read at a point, compared by value at twelve points --------------------------------
MP = mpmath.MPContext()  # our own: nobody else's precision changes
MP.dps, TINY = 80, MP.mpf(10) ** -50  # 50 digits count; the others are for what cancels
LONGEST, WORK, BITS = 400, 10_000, 25_000  # characters, steps of about 3 us, size of a fraction
SPANS = [(2, 9, 1), (111, 999, 97), (101, 999, 1), (100001, 999999, 7), (1, 6, 7)]
SPANS.append((2, 16, Fraction(1, 60)))  # from, to, over: the last are multiples of 60
SIGN = r"\\mathbb\{R\}|\\\{\\\}|\^\{?\\circ\}?|\\?[A-Za-z]+|\\%|[<>]=|[^\x00-\x7f]"
SAME = r"""- − –; * \cdot \times × ·; / \div ÷; ≤ <= \le \leq \leqslant; ≥ >= \ge \geq \geqslant;
    < \lt; > \gt; ≠ \ne \neq; ∪ \cup; ∈ \in; ∞ \infty infinity; ≈ \approx; ± \pm; ^2 ²; ^3 ³;
    π \pi pi; α \alpha; β \beta; γ \gamma; δ \delta; ε \epsilon; θ \theta; λ \lambda; μ \mu; ρ \rho;
    σ \sigma; φ \phi \varphi; ω \omega; ( \langle; ) \rangle; \frac \dfrac \tfrac \cfrac;
    (-∞,∞) \mathbb{R}; e^ \exp; ∅ \emptyset \varnothing \{\}; \binomial \binom \dbinom;
    | \lvert \rvert \vert; % \% percent; \root{2} \sqrt √ sqrt; \log \ln ln log; \base{10}\log \lg;
    \sin sin; \cos cos; \tan tan; \asin \arcsin arcsin; \acos \arccos arccos; \atan \arctan arctan;
    \floor{ \lfloor; \ceil{ \lceil; } \rfloor \rceil; ° \degree degrees ^\circ ^{\circ};
    \$ dollar dollars; £ \pounds; € euro euros; "in" inch inches; "m" meter meters;
    "km" km kilometer kilometers; "cm" cm centimeters; "ft" ft foot feet; "h" hour hours hr;
    "g" gram grams; "s" second seconds sec; "minute" min; "L" liter liters; *10^6 million;
    \: \left \right \displaystyle \quad \qquad \vec \hat \bm \boldsymbol"""
SAME = {word: row.split()[0] for row in SAME.split(";") for word in row.split()}  # to the first
UNIT = (
    r"[ckm]?m|m?[Ll]|[ghs]|kg|ft|in|mph|mile|yard|yd|minute|day|week|month|year|gallon|cent|unit"
    r"|way|person|point|pound|lb|ounce|oz|ton|acre"
)
UNIT = rf'°|\\\$|€|£|"(?:(?:{UNIT})s?|square|cubic|per|people)"'
UNITS = rf"(?<=[\w)}}])(?:\s*/?\s*(?:{UNIT})(?:\s*(?:/[hs]\b|\^{{?\d}}?))*)+(?!\s*[\w.=])"
UNITS += r"|\\\$|€|£"
NUMBER = r"\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3}(?!\d))?|\.\d+"
UNKNOWN = (  # f(x+1), f^{-1}(0); 101_2; a letter with what belongs to it: x_1, y', P(0)
    r"[fgFG](?:\^\{-1\})?'*\([^()]*\)|\d+_(?:\d+|\{\w+\})|[A-Za-zα-ω](?:_(?:\d+|[A-Za-z]|\{[^{}]*"
    r"\}))?'*(?:(?<![eiπ])\((?:[^()A-Za-z\\]*|[A-Za-z])\))?"
)
TOKEN = rf'\\[A-Za-z]+|\\.|"[^"]*"|{UNKNOWN}|{NUMBER}|\S'
LABEL = rf'(?:{UNKNOWN}|(?:m?\\angle\s*)?[A-Z]{{1,3}}|"[A-Za-z" ]*"|\([A-Za-z](?:,\s*[A-Za-z])+\))'
WORTH = r"(?:[\w.^]|(?<=\^)\{.*?\})"  # what a function without brackets is of, as in \sin 2x
PLAIN = (  # in this order; words come into quotes, and what is then left of letters is a product
    (r"(?<=\d)(?:,\\!\s*|\{,\}|\\,| )(?=\d{3}(?!\d))", ""),  # 1{,}000 and 1 000
    (r"(?<!\\)(?:\\[()\[\]!,:;> ]|\$)|~|\\[bB]ig+[lr]?\b", " "),
    (r"^\s*\\\{\s*[A-Za-z]\s*(?:\||\\mid|:)(.*)\\\}\s*$", r"\1"),  # \{x | x > 2\}
    (r"\\begin\s*\{(?:[pbB]?matrix|array)\}(?:\s*\{[clr|]*\})?", "("),
    (r"(?:\\\\\s*)?\\end\s*\{(?:[pbB]?matrix|array)\}", ")"),
    (r"(?<=[\d\s}/])\\(?:text|mathrm|mbox)\s*\{\s*([mghsL])(/[hs])?\s*\}", r'"\1"\2'),
    (r"\\(?:text|math)(?:rm|bf|it)?\s*\{\s*([A-Za-z]{2,})\s*\}", r' "\1" '),
    (r"\\(?:(?:text|math)(?:rm|bf|it)?|mbox|operatorname)\s*\{([^{}]*)\}", r" \1 "),
    (
        r'(?<![\\A-Za-z"])(?:[A-Za-z]{4,}|and|or|to|no|mm|kg|mph|day|per|way)(?![A-Za-z])',
        r'"\g<0>"',
    ),
    (r'[,;]?\s*"(?:or|and(?!.*[<>≤≥≠]))"|;', ","),
    (r"(\\(?:sin|cos|tan|cot|sec|csc)\b[^°]{,40}?)([\d.]+)\s*°", r"\1{\2π/180}"),
    (r"(\d*\.\d*)\\overline\s*\{(\d+)\}", r"\\fabs{\1" + r"\2" * 60 + "}"),  # not exact
    (r"(\\(?:frac|binomial)(?:\s*\{[^{}]*\})?)\s*(\d)", r"\1{\2}"),
    (r"(\\(?:frac|binomial)(?:\s*\{[^{}]*\})?)\s*(\d)", r"\1{\2}"),  # both of \frac12
    (r"(?<![\d.])(\d+)\s*(\\frac\s*\{\d+\}\s*\{\d+\}|(?<=\s)\d+/\d+)", r"(\1+\2)"),  # 1 \frac12
    (r"\|([^|]+)\|", r" \\fabs{\1} "),
    (r"\\root\{2\}\s*\[([^\[\]]*)\]", r"\\root{\1}"),
    (r"\\(sin|cos|tan)\s*\^\s*\{\s*-1\s*\}", r"\\a\1 "),
    (r"(\\[a-z]{3})\s*\^\s*(\{[^{}]*\}|\w)", r"\\power{\2}\1 "),
    (r"\\log\s*_\s*(\{[^{}]*\}|\w)", r"\\base{\1}\\log "),
    (rf"(\\a?[a-z]{{3}}h?)(?![a-z])\s*({WORTH}(?: |{WORTH})*)", r"\1{\2}"),
    (r"^\s*([A-Za-z])\s*≈", r"\1="),
    (r"(?<=[\w})\]!%])\s*≈.*|[.,]\s*$", ""),
)
PLAIN = [(re.compile(pattern), new) for pattern, new in PLAIN]
PAIRS = {"{}": ",", "\\{\\}": ","} | {kind: kind for kind in ("()", "(]", "[)", "[]")}
OPENERS, CLOSERS = ("(", "[", "{", "\\{"), ("", ")", "]", "}", "\\}")


@functools.lru_cache(256)
def unknown(name):
    """An unknown's values at the points: of both signs, whole or not, large or below one."""
    draw = random.Random(name)
    values = [Fraction(draw.randint(a, b) * s, c) for a, b, c in SPANS for s in (1, -1)]
    return [values[2], *draw.sample(values, len(values))]


def size(x):
    """The bits of a fraction; 0 for all other numbers."""
    return x.numerator.bit_length() + x.denominator.bit_length() if isinstance(x, Fraction) else 0


def power(a, b):
    """a^b; the real root where there is one, as in (-8)^{1/3}."""
    if abs(b) * size(a) > BITS or a and abs(b * MP.log(abs(a))) > BITS:
        raise OverflowError("a power")
    if size(a) and size(b) and b.denominator == 1:
        return a ** int(b)
    real = size(a) and size(b) and a < 0 and b.denominator % 2
    return (-1) ** b.numerator * MP.power(-a, b) if real else MP.power(a, b)


WHOLE = frozenset(range(2500))  # what has an exact factorial
OPERATORS = {  # how tightly it binds, and what it does if it makes no list
    **{sign: (strength, None) for strength, sign in enumerate(["\\\\", "&", ",", "∪"], 1)},
    "+": (6, lambda a, b: a + b),
    "-": (6, lambda a, b: a + -b),
    "*": (7, lambda a, b: a * b),
    "/": (7, lambda a, b: a * b**-1),
    "": (7, lambda a, b: a * b if a and b else MP.nan),  # side by side; 0 would hide a word
    "^": (8, power),
    "!": (9, lambda n: Fraction(math.factorial(int(n))) if n in WHOLE else MP.factorial(n)),
}
TWO = {"\\frac": OPERATORS["/"][1], "\\root": lambda n, x: power(x, n**-1)}
TWO |= {"\\power": lambda n, x: power(x, n), "\\base": lambda b, x: x * MP.log(b) ** -1}
TWO["\\binomial"] = lambda n, k: MP.binomial(n, k) if abs(n) + abs(k) < 1e99 else MP.nan
ONE = "fabs floor ceil log sin cos tan cot sec csc asin acos atan sinh cosh tanh"
ONE = {f"\\{name}": getattr(MP, name) for name in re.findall("[a-z]+", ONE)}
CONSTANTS = {"e": MP.exp(1), "i": MP.mpc(0, 1), "π": MP.pi * 1, "∞": MP.inf, "∅": (",",)}


def same(a, b):
    """Have two readings one value? In lists and unions the order does not count."""
    if not isinstance(a, tuple) and not isinstance(b, tuple):
        scale = abs(a) + abs(b) if a and b else 1  # what cancels is not quite 0
        return a == b or not (size(a) and size(b)) and abs(a + -b) < TINY * scale
    if not isinstance(a, tuple) or not isinstance(b, tuple) or a[0] != b[0] or len(a) != len(b):
        return False
    if a[0] not in ",∪":
        return all(map(same, a[1:], b[1:]))
    return all(0 < sum(same(x, y) for y in a[1:]) == sum(same(x, y) for y in b[1:]) for x in a[1:])


class Reader:
    """Evaluates answers as it reads them, by operator precedence. A list is (what is between or
    around its items, *items)."""

    work = WORK  # what is left of it

    def equal(self, x, y):
        """Have two texts one value at every point where both have one, and at half of them?"""
        lettered = re.search(r"_|(?<![\\A-Za-z])[A-Za-zα-ω]", x + y)  # else all points are one
        points = range(1, 13) if lettered else [1]
        agreed = 0
        for k in points:
            try:
                if not same(self.value(x, k), self.value(y, k)):
                    return False
                agreed += 1
            except (ValueError, ArithmeticError, LookupError, TypeError, RecursionError):
                continue  # x or y has no value here
        return agreed >= len(points) / 2

    def value(self, text, k):
        """The value at point k: of 1±x a list, of x < y the difference by its size at point 0."""
        self.work -= 20
        if "±" in text:
            a, b = (self.value(text.replace("±", sign, 1), k) for sign in "+-")
            a, b = (x[1:] if isinstance(x, tuple) and x[0] == "," else [x] for x in (a, b))
            return (",", *a, *(x for x in b if not any(same(x, y) for y in a)))
        if len(parts := text.split(",")) > 1 and all(re.search("[=≠<>≤≥]", p) for p in parts):
            return (",", *(self.value(part, k) for part in parts))
        found, sides = [], re.split("([=≠<>≤≥])", text)
        for left, sign, right in zip(sides[::2], sides[1::2], sides[2::2]):
            here, first = (self.value(left, p) + -self.value(right, p) for p in (k, 0))
            if sign == "=" and same(here, Fraction(0)) and same(first, Fraction(0)):
                continue  # a true 1 + 1 = 2 is 2
            if same(here, first):
                raise ValueError("it says nothing")
            scale = first if sign in "=≠" else abs(first) if sign in "<≤" else -abs(first)
            found.append((sign.replace(">", "<").replace("≥", "≤"), here * scale**-1))
        if found:
            return (",", *found)
        self.tokens, self.k = ["", *reversed(re.findall(TOKEN, sides[-1]))], k
        value = self.expression()
        if self.tokens != [""]:
            raise ValueError("left over")
        return value

    def apply(self, f, *numbers):
        """f of numbers, if that is a number and not too much work."""
        value = f(*numbers) if len(numbers) > 1 or abs(numbers[0]) < 1e99 else MP.nan
        self.work -= 1 + (size(value) / 1000) ** 2 if size(value) else 20
        infinite = not abs(value) < math.inf and numbers != (0, math.inf)  # but -∞; or NaN
        if size(value) > BITS or infinite:
            raise OverflowError("too large, or not a number")
        return value

    def expression(self, above=0):
        """All that binds more tightly than `above`. Side by side means times."""
        value = self.operand(above)
        while (sign := self.tokens[-1]) not in CLOSERS and OPERATORS.get(sign, [7])[0] > above:
            strength, f = OPERATORS[self.tokens.pop() if sign in OPERATORS else ""]
            others = [] if sign == "!" else [self.expression(strength - (sign == "^"))]
            if f:
                value = self.apply(f, value, *others)
            else:
                flat = isinstance(value, tuple) and value[0] == sign
                value = (sign, *(value[1:] if flat else [value]), *others)
        return value

    def operand(self, above=7):
        """A number, a letter, a group, or a command with its arguments; all of them with a sign."""
        token, self.work = self.tokens.pop(), self.work - 4
        if self.work < 0:
            raise OverflowError("too much work")
        if token in ("+", "-"):
            return self.apply(OPERATORS[token][1], Fraction(0), self.expression(max(above, 6)))
        if token in OPENERS:
            value, kind = self.expression(), PAIRS[token + self.tokens.pop()]  # KeyError: unclosed
            return (kind, *value[1:]) if isinstance(value, tuple) and value[0] == "," else value
        if token in TWO:
            return self.apply(TWO[token], self.operand(), self.operand())
        if token in ONE:
            return self.apply(ONE[token], self.operand())
        if token in CONSTANTS:
            return CONSTANTS[token]
        if re.fullmatch(NUMBER, token):
            return Fraction(token)
        name = re.fullmatch(UNKNOWN, token)[0]  # TypeError: a word
        return unknown(re.sub(r"[\s{}]", "", name))[self.k]


def bare(text, percent="/100"):
    """A text without units; its label; its value without label: of 1 < x it is (1, ∞)."""
    text = re.sub(r"(?<=[\d)}])\s*%(?!\s*[\w(\\])", percent, re.sub(UNITS, " ", text)).strip()
    text = re.sub(r"((?<=\d)\s+|\\frac\s*\{\d+\}\s*\{\d+\}\s*)(?=[\d.])", "?", text)  # two numbers
    parts = text.split(",")
    if len(parts) > 1 and all(re.search("[<>≤≥]", part) for part in parts):
        _, labels, values = zip(*map(bare, parts))
        return text, labels[0], "∪".join(values) if len({*labels}) == 1 else text
    ends = re.split(r"\s*([<>≤≥])\s*", text)[:: -1 if re.search("[>≥]", text) else 1]
    if len(ends) == 3:
        ends = [*ends, "<", "∞"] if re.fullmatch(LABEL, ends[2]) else ["-∞", "<", *ends]
    if len(ends) == 5 and re.fullmatch(LABEL, ends[2]):
        left, right = "(["[ends[1] in "≤≥"], ")]"[ends[3] in "≤≥"]
        return text, ends[2], f"{left}{ends[0]},{ends[4]}{right}"
    label = rf"(^|,)\s*({LABEL}|\\[a-z]+\{{[A-Zα-ω]+\s*\}})\s*[=∈]"
    labels = [match[1].strip('(") ') for match in re.findall(label, text)]
    value = re.sub(label, r"\1", text)
    return text, ",".join(dict.fromkeys(labels)), f"({value})" if len({*labels}) > 1 else value


def plain(text):
    """The text, or what is in its last box, in one form of the several in use."""
    if "\\boxed{" in text or "\\fbox{" in text:
        text = extract_answer(text[-9_000:]) or text
    text = text if len(text) <= LONGEST else ""
    if not re.search(
        r"[(\[;]|^\{|\\\{|,(?!\d{3}(?!\d))|\b0,|\d{4},", text
    ):  # nothing says that it is a list
        text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = re.sub(SIGN, lambda m: f" {SAME[m[0]]} " if m[0] in SAME else m[0], text)
    for pattern, new in PLAIN:
        text = pattern.sub(new, text)
    return " ".join(text.split())


def readable(answer):
    """Can an answer be read as a value? One that cannot matches as text only."""
    value = bare(plain(answer))[2]
    return Reader().equal(value, value)


def math_equal(candidate, answer):
    """Are two final answers the same text, or of one value at all points? Bounded for any input."""
    a, b = plain(candidate), plain(answer)
    key, other = (re.sub(r'"|(?<=[A-Za-z])"?\.|(?<!\d)\s+|\s+(?!\d)', "", text) for text in (a, b))
    words = re.search(r"(?<![\\A-Za-z])[A-Za-z]{3}|\d[ap]m|^no$|^\(\w\)$", key, re.IGNORECASE)
    if key == other or words and key.lower() == other.lower():
        return bool(key)
    units, others = (
        {unit.strip('s"') for unit in re.findall(UNIT + "|%", text)} for text in (a, b)
    )
    if units and others and not (units <= others or others <= units):
        return False
    reader = Reader()
    for percent in ("/100", "")[: 1 + ("%" in a + b)]:
        (x, label, value), (y, other, worth) = bare(a, percent), bare(b, percent)
        alike = label == other or not label or not other
        if reader.equal(x, y) or alike and reader.equal(value, worth):
            return True
    return False


PROSE = (  # what ends an expression in prose, but for the group, which is a part of it
    r"\\(?:boxed|fbox)\s*\{|(\\(?:text|mathrm|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+)"
    r"|(?<![\\A-Za-z\d])(?!(?:and|or|million)\b)[A-Za-z]{2,}|\b[aAI](?=\s+[\d$\\(])"
    r"|\n\s*(?:[-*+]\s)?|[.?](?=\s|$)|(?<=\S):(?=\s)|(?<=\d)-(?=[a-z]{2})"
)


def extract_answer(text):
    """The last box that is not empty; else the last number and what it is part of, or None."""
    opened, boxes = [], []
    for brace in re.finditer(r"((?<![\w)}\]])-\$?)?\\(?:boxed|fbox)\s*\{|(?<!\\)[{}]", text):
        if brace[0] != "}":
            opened.append(brace)
        elif opened and "box" in (start := opened.pop())[0]:
            inside = text[start.end() : brace.start()].strip()
            boxes += [(start.end(), f"-{{{inside}}}" if start[1] else inside)] * bool(inside)
    if boxes:
        return max(boxes)[1]
    parts = re.sub(PROSE, lambda m: m[1] or "\0", text[-2_000:]).split("\0")
    last = next((part for part in reversed(parts) if re.search(r"\d", part)), "")
    last = re.sub(r"\\[()\[\]]|\$|^[\s,;]*(?:and|or)\b|\b(?:and|or)\W*$", "", last).strip(" *#,;:=")
    last = re.sub(r"^(?:[A-Za-z]\s*=\s*)?[(\[]?([^()\[\],=]*)[)\]]?$", r"\1", last)
    whole = sum(map(last.count, "([{")) == sum(map(last.count, ")]}"))
    return last if whole and last and not re.search(r"^[+/^<>]|^-\s|[-+*/^<>]$", last) else None


# ---- Programs (section 5) ------------------------------------------------------------------------
def read_tests(row):
    """The tests of one JSON object with the keys of ours, MBPP, HumanEval or APPS; () where there
    are none. A test is a text of asserts, one with what sets it up, {"setup", "test"}, or that of a
    script, {"input", "output"}. Raises InputError for any other, and for one that tests nothing."""
    tests, imports = row.get("tests") or row.get("test_list") or [], row.get("test_imports") or []
    tests, imports = (part if isinstance(part, list) else [part] for part in (tests, imports))
    if setup := "\n".join(map(str, [*imports, row.get("test_setup_code") or ""])).strip():
        tests = [{"setup": setup, "test": test} for test in tests]
    if "test" in row and "entry_point" in row:
        tests = [f"{row['test']}\n\ncheck({row['entry_point']})"]
    try:
        if cases := row.get("input_output"):
            tests = read_apps(json.loads(cases) if isinstance(cases, str) else cases)
        for test in tests:
            parts = {"test": test} if isinstance(test, str) else dict(test)
            if {*parts} == {"input", "output"} and {*map(type, parts.values())} == {str}:
                continue
            ast.parse(parts.pop("setup", ""))
            nodes = ast.walk(ast.parse(parts.pop("test")))
            if parts or not any(isinstance(node, (ast.Assert, ast.Call)) for node in nodes):
                raise ValueError("it asserts and calls nothing")
    except Exception as error:  # data of any shape
        raise InputError(f"a test cannot be used: {type(error).__name__}: {error}") from error
    return tuple(tests)


def read_apps(cases):
    """The tests of APPS: inputs and outputs of a script or, with a fn_name, of a function."""
    pairs = list(zip(cases["inputs"], cases["outputs"], strict=True))
    if name := cases.get("fn_name"):
        return [CALL.format(json.dumps(pair), name) for pair in pairs]
    pairs = [["\n".join(x) if isinstance(x, list) else x for x in pair] for pair in pairs]
    return [{"input": given, "output": output} for given, output in pairs]


# JSON knows no tuples, and some outputs lie in a list of one
CALL = """import json
given, want = json.loads({0!r})
try:
    function = Solution().{1}
except NameError:
    function = {1}
assert want in (got := json.loads(json.dumps(function(*given))), [got])"""


def run_tests(program, tests, timeout=10.0, required=False):
    """Does a program pass every test, each in `timeout` seconds? data/sandbox.py confines it to
    computing, within limits, and keeps from it what it ought to produce. That is no boundary
    against holes in the kernel: run code tasks in a container. None where the sandbox failed;
    InputError, in one line, where the program is `required` to pass: the check at the start."""
    options = ["-I", "-S", "-X", "utf8", "-X", "int_max_str_digits=0"]  # results of any length
    command = [sys.executable, *options, str(DATA / "sandbox.py"), str(os.getpid())]
    for part in (tests[i : i + 50] for i in range(0, len(tests), 50)):  # two open files for each
        scripts = [isinstance(test, dict) and "input" in test for test in part]
        question = "\n".join(map(json.dumps, ([program, scripts, timeout], part))).encode()
        most = {"timeout": len(part) * timeout + 60, "env": {}, "start_new_session": True}
        try:
            done = subprocess.run(command, check=False, input=question, capture_output=True, **most)
            status, reason = done.returncode, done.stderr.decode(errors="replace").strip()
        except (OSError, subprocess.TimeoutExpired) as error:
            status, reason = None, str(error)
        if required and status != 90:
            reason = reason.rpartition("\n")[2]
            raise InputError(f"programs take x86_64 Linux 5.13, Landlock and seccomp: {reason}")
        if status != 90:  # 91: wrong; the alarm: the time is over; others: the sandbox failed
            return False if status in (91, -signal.SIGALRM) else None
    return True


def verify_rollouts(rollouts):
    """Sets each rollout's reward: 0 where it was cut, or where the jail itself failed."""
    mine = rollouts[RANK::RANKS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # threads that wait for other processes
        verdicts = pool.map(lambda r: not r.truncated and verify(r.problem, r.text), mine)
        verdicts = gathered(list(progress(verdicts, "verification", len(mine))))
    for rollout, verdict in zip(rollouts, verdicts):
        rollout.reward, rollout.unverified = float(verdict or 0), verdict is None


# ---- Problems ------------------------------------------------------------------------------------
class InputError(ValueError):
    """What the user gave cannot be used. main() prints it as one line and exits with 2."""


def first_line(error):
    """What an exception says, in one line."""
    return f"{error}".strip().partition("\n")[0] or type(error).__name__


def parse_problem(row):
    """A Problem from one JSON object, with the keys of GSM8K, MATH, AIME, HumanEval, MBPP, APPS or
    ours. Raises ValueError where there is no question, or neither an answer nor tests."""
    if not isinstance(row, dict):
        raise InputError("not a JSON object")
    question = next((row[k] for k in ("question", "problem", "prompt", "text") if row.get(k)), "")
    answer, solution, tests = row.get("answer"), row.get("solution"), read_tests(row)
    if isinstance(answer, str) and "####" in answer:  # GSM8K
        solution, answer = (part.strip() for part in answer.rsplit("####", 1))
    if answer in (None, "") and isinstance(solution, str) and "\\boxed" in solution:  # MATH
        answer = extract_answer(solution)
    answer = str(answer).strip() if type(answer) in (int, float, str) else ""
    if not isinstance(question, str) or not question.strip():
        raise InputError("no text under question, problem, prompt or text")
    if not tests and answer in ("", "nan", "inf", "-inf"):
        raise InputError("neither an answer, nor a solution with \\boxed{}, nor tests")
    # ValueError for NaN and for lone surrogates
    json.dumps([question, answer, solution, tests], ensure_ascii=False, allow_nan=False).encode()
    return Problem(question.strip(), None if tests else answer, solution, tests)


def load_problems(path):
    """The problems of a JSON Lines file, plain or .gz. Raises InputError with file and line."""
    problems, number = [], 0
    try:
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
            lines = file.read().split(b"\n")
        for number, line in enumerate(lines, 1):
            if text := line.decode("utf-8-sig").strip():
                problems.append(parse_problem(json.loads(text)))
    # ValueError: of JSON, of UTF-8, of a number too long, or ours
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        where = f"{path}:{number}" if number else path
        raise InputError(f"{where}: {first_line(error)}") from None
    if not problems:
        raise InputError(f"{path} holds no problem")
    return problems


def load_data(config):
    """(training, held-out) problems. Says, or refuses, what would leave the method idle."""
    if not config.eval_data or config.steps and not config.train_data:
        raise InputError("this model needs --train_data and --eval_data")
    problems = load_problems(config.train_data) if config.steps else []
    held_out = load_problems(config.eval_data)[: config.eval_questions]
    if any(p.tests for p in problems + held_out):  # InputError where nothing confines programs
        run_tests("", [{"input": "", "output": ""}], required=True)
    answers = [p.answer for p in problems + held_out if p.answer]
    if unread := sum(not readable(answer) for answer in progress(answers, "answers")):
        say(
            f"{unread} of {len(answers)} answers have no value that can be read: they match as text"
        )
    context, asked = METHODS[config.method].context, len(problems)
    lacking = sum(context is not None and not context(Rollout(p, [], [])) for p in problems)
    if lacking and context is solution_alone:
        raise InputError(f"--method {config.method}: {lacking} problems have no solution")
    if lacking and context is answer_alone:
        say(f"{lacking} of {asked} problems have no answer to show: no teacher for them")
    alone = context in (answer_alone, solution_alone) and not METHODS[config.method].policy
    if config.group_size == 1 and not alone:
        say("--group_size 1: there are no peers, and every advantage is 0")
    return problems, held_out


def check_lengths(model, tokenizer, problems, config):
    """InputError where a question, a peer and a response may take more positions than there are."""
    longest = sorted(problems, key=lambda p: len(p.question))[-32:]
    texts = [request(p, {"answer": p.answer or "", "peer": ""}) for p in longest]
    tokens = max(len(prompt_ids(tokenizer, text, config.thinking)) for text in texts)
    tokens += min(config.max_peer_tokens, config.max_new_tokens) + config.max_new_tokens
    positions = getattr(model.lm.config.get_text_config(), "max_position_embeddings", math.inf)
    if tokens > positions:  # math.inf: recurrent models have none
        reason = f"question, peer and response may take {tokens} tokens of {positions} positions"
        raise InputError(f"{reason}: lower --max_new_tokens or --max_peer_tokens")


def questions_of_step(problems, step, config):
    """The Q problems of a step (counted from 0). The order of each pass over the data follows from
    seed and pass alone, so a resumed run needs to know nothing but its step."""
    n, Q, picked = len(problems), config.questions_per_step, []
    for position in range(step * Q, (step + 1) * Q):
        if not picked or position % n == 0:
            order = random.Random(f"{config.seed} order {position // n}").sample(problems, n)
        picked.append(order[position % n])
    return picked


# ---- Evaluation and metrics ----------------------------------------------------------------------
def evaluate(models, tokenizer, problems, config, step):
    """Held-out pass@k; the self-teacher's accuracy, one sample of the same weights with answer and
    peer in the prompt, where there is a peer; credit near tau. Returns the row to log, and at most
    128 failed rollouts with their credit."""
    n, seed, rng = config.eval_samples, f"{config.seed} eval", random.Random(config.seed)
    student, teacher = models.student, models.teacher or models.student
    groups = sample_groups(student, tokenizer, problems, n, config, seed, "evaluation")
    rollouts = [r for group in groups for r in group]
    verify_rollouts(rollouts)
    row, successes = {"step": step}, [int(sum(r.reward for r in group)) for group in groups]
    for k in sorted({1, min(n, 8), n}):
        row[f"eval/pass@{k}"] = mean(pass_at_k(n, c, k) for c in successes)
    for group in groups:
        choose_peers(group, [], "uniform", rng)
    for r in rollouts:
        condition_teacher(r, answer_and_peer, tokenizer, config)
    taught = [group[0] for group in groups if group[0].peer]
    asked, prompts = [r.problem for r in taught], [r.teacher_prompt for r in taught]
    seed, phase = f"{seed} teacher", "self-teacher"
    hinted = sample_groups(student, tokenizer, asked, 1, config, seed, phase, prompts)
    verify_rollouts([r for (r,) in hinted])
    row["eval/teacher_pass@1"] = mean(r.reward for (r,) in hinted)
    failed = [r for r in rollouts if r.peer and not r.reward][:128]
    set_credit(Models(student, teacher, None), failed, config)
    return row | {"eval/credit_share@8": credit_share(failed, 8)}, failed


def pass_at_k(n, c, k):
    """The unbiased estimate of pass@k from c successes in n >= k samples (2107.03374)."""
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def credit_share(rollouts, w):
    """Share of sum_t |A_t| within |t - tau| <= w, pooled over failed rollouts (Table 5)."""
    near = total = 0.0
    for r in rollouts:
        tau = divergence(r.response, r.peer.response)
        if tau < len(r.response):  # else it is its peer's beginning, and leaves it nowhere
            near += r.credit[max(0, tau - w) : tau + w + 1].abs().sum().item()
            total += r.credit.abs().sum().item()
    return near / total if total else math.nan


def mean(values):
    """The mean; nan where there is nothing."""
    return torch.tensor(list(values), dtype=torch.float64).mean().item()


def rollout_metrics(groups):
    """Figures of a step's rollouts. `coverage`: failed, and with a peer (Eq. 12)."""
    rollouts, rates = [r for g in groups for r in g], [mean(r.reward for r in g) for g in groups]
    return {
        "reward": mean(rates),
        "peer_share": mean(r.peer is not None for r in rollouts),
        "coverage": mean(r.peer is not None and not r.reward for r in rollouts),
        "all_right_share": mean(p == 1 for p in rates),
        "all_wrong_share": mean(p == 0 for p in rates),
        "response_tokens": mean(len(r.response) for r in rollouts),
        "truncated_share": mean(r.truncated for r in rollouts),
        "unverified": sum(r.unverified for r in rollouts),
    }


def collapsing(rows):
    """Is KL(teacher || student) three times its lowest, and the reward .05 below its best? Both are
    means of five steps, the last ones against all."""
    steps = [row for row in rows if row.get("kl") is not None]
    fives = [steps[i : i + 5] for i in range(len(steps) - 4)]
    kl, reward = ([mean(row[key] for row in five) for five in fives] for key in ("kl", "reward"))
    return bool(fives) and kl[-1] > 3 * min(kl) and reward[-1] < max(reward) - 0.05


# ---- Ranks ---------------------------------------------------------------------------------------
# torchrun starts a process per GPU. Calls and micro-batches are dealt out; FSDP shards the weights.
RANK, RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
NOW = {"phase": "loading"}  # for the message of an out-of-memory error
SECONDS = Counter()  # by phase


def progress(iterable, phase, total=None):
    """A progress bar, where there is a terminal, over a phase of the run, whose time it takes."""
    NOW["phase"], start = phase, time.time()
    yield from tqdm(iterable, phase, total, leave=False, disable=True if RANK else None)
    SECONDS[phase] += time.time() - start


def say(text):
    """A line on the terminal, from one rank alone, beside any progress bar."""
    if RANK == 0:
        tqdm.write(text)


def dealt(batches, policy):
    """This rank's batches of an update. All get equally many, since a collective waits for all: the
    last round is filled up with a rollout that weighs nothing. FSDP reduces gradients, and takes
    them to the host, with the last batch alone, where there is room for their sums till then."""
    filler = [replace(r, weight=0.0, share=0.0) for r in batches[-1][-1:]] if batches else []
    mine = (batches + [filler] * (-len(batches) % RANKS))[RANK::RANKS]
    for i, batch in enumerate(progress(mine, "update"), 1):
        if isinstance(policy, fsdp.FSDPModule):
            policy.set_requires_gradient_sync(i == len(mine) or not policy.keeps_sums)
        yield batch


def gathered(mine):
    """The whole list, of which each rank has every RANKS-th element."""
    parts = [mine] * RANKS
    if RANKS > 1:
        dist.all_gather_object(parts, mine)
    return [parts[i % RANKS][i // RANKS] for i in range(sum(map(len, parts)))]


def summed(figures):
    """The sums over all ranks of some named numbers. All ranks wait for it."""
    total = torch.tensor(list(figures.values()), dtype=torch.float64)
    if RANKS > 1:
        dist.all_reduce(total)
    return dict(zip(figures, total.tolist()))


def join_ranks():
    """Joins the processes that torchrun started, or on a GPU a group of one. Gives the device."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if (cuda or RANKS > 1) and not dist.is_initialized():
        one = {} if RANKS > 1 else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", **one)
    return "cuda" if cuda else "cpu"


def gather(policy, whole):
    """Has each rank hold the whole model, or its shards alone. Nothing to do on one CPU."""
    for module in policy.modules():
        if isinstance(module, fsdp.FSDPModule):
            module.unshard() if whole else module.reshard()


def shard(policy, config):
    """Has FSDP keep a model: the ranks' shards, on the host where they would take over a quarter of
    a GPU. The student's are its float32 masters, gathered in the dtype of `policy` at first use and
    kept until the optimizer's step, and its gradients are summed in float32; all other models are
    gathered layer by layer, for a forward alone."""
    if not dist.is_initialized():  # one CPU
        return policy
    parameters = list(policy.parameters())
    size, trained = sum(p.numel() for p in parameters), parameters[0].requires_grad
    cuda, choice = policy.device.type == "cuda", config.offload_optimizer
    room = torch.cuda.get_device_properties(policy.device).total_memory if cuda else math.inf
    policy.keeps_sums = 6 * size + 16e9 < room  # bf16 weights, float32 sums, a micro-batch
    # masters, sums and moments take 16 bytes a weight
    offload = choice == "true" or choice == "auto" and 16 * size / RANKS > room / 4
    options = {"mp_policy": fsdp.MixedPrecisionPolicy(policy.dtype, torch.float32)}
    options |= {"offload_policy": fsdp.CPUOffloadPolicy()} if offload else {}
    kinds = policy.lm._no_split_modules or ()
    for part in [*(m for m in policy.modules() if type(m).__name__ in kinds), policy]:
        part = part.float() if trained else part
        fsdp.fully_shard(part, reshard_after_forward=not trained, **options)
        part.set_reshard_after_backward(False)
        part.set_gradient_divide_factor(1.0)  # a sum: our weights know the whole batch
        part.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    with torch.no_grad():
        policy([[0]], [[0, 0]])  # what runs first is FSDP's root: all of it, not a layer
    gather(policy, whole=False)  # the optimizer is to see the shards
    return policy


# ---- The optimizer -------------------------------------------------------------------------------
def adamw(policy, config):
    """AdamW (.9, .95, eps 1e-8, no decay) on float32 weights: at lr 1e-6, on bf16 weights it would
    change 2% of them in 50 steps."""
    options = {"betas": (0.9, 0.95), "weight_decay": 0.0, "fused": True}
    return torch.optim.AdamW(policy.parameters(), config.learning_rate, **options)


def optimizer_step(policy, optimizer, config):
    """Clips, steps, clears; skips where the norm is not finite. Gives the norm before."""
    gather(policy, whole=False)  # the step changes the shards
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
    norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()
    if math.isfinite(norm):
        optimizer.step()
    else:
        say(f"step skipped: the gradient's norm is {norm}")
    optimizer.zero_grad()
    return norm


# ---- Loading the models --------------------------------------------------------------------------
class Models(NamedTuple):
    """The student; its teacher (the student itself, if live) or None; pi_0 or None."""

    student: torch.nn.Module
    teacher: torch.nn.Module | None
    reference: torch.nn.Module | None


def load_shape(path):
    """A model's configuration, with every dropout and jitter at 0: teacher and student must not
    differ by chance. (They are not always nn.Dropout modules.)"""
    shape = transformers.AutoConfig.from_pretrained(path)
    if hasattr(shape, "quantization_config") or shape.is_encoder_decoder:
        raise ValueError("it is quantized, or has an encoder: neither can be trained here")
    for part in (shape, shape.get_text_config()):
        for name, value in vars(part).items():
            if isinstance(value, float) and re.search("drop|jitter", name):
                setattr(part, name, 0.0)
    return shape


def load_models(config):
    """(tokenizer, Models) of a folder or hub name: bf16 on a GPU, float32 on a CPU. InputError, one
    line, for whatever a folder, a tokenizer or a template does wrong."""
    device, path, context = join_ranks(), config.model, METHODS[config.method].context
    local = path.count("/") > 1 or "/" in path and Path(path).parent.exists()
    if local and not Path(path).exists():  # else a hub would be asked for runs/hsd
        raise InputError(f"there is no folder {path}")

    def load(trained=False):
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        options = {"config": shape, "dtype": dtype, "output_loading_info": True}
        model, found = AutoModelForCausalLM.from_pretrained(path, **options)
        if found["missing_keys"]:  # else they would be drawn at random, and again for pi_0
            raise ValueError(f"its weights lack {min(found['missing_keys'])}")
        return Policy(model.to(device).requires_grad_(trained))

    try:
        shape = load_shape(path)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        if not prompt_ids(tokenizer, "1+1=?", config.thinking):
            raise ValueError("its tokenizer has no vocabulary")
        student = load(trained=True)
        # generate() fills what we leave open from here: pi alone may shape the rollouts
        stops = stop_tokens(student.lm, tokenizer)
        student.lm.generation_config = GenerationConfig(eos_token_id=stops)
        if config.gradient_checkpointing:
            student.lm.gradient_checkpointing_enable({"use_reentrant": False})
        probe(student, config)
        student = shard(student, config)
        initial = average = None  # one copy is both pi_0 and frozen teacher
        if config.beta or context and config.teacher == "frozen":
            initial = shard(load(), config)
        if context and config.teacher == "ema":
            average = shard(load().float(), config)  # bf16 would round its steps of 1% away
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # transformers raises what its many parts raise
        raise InputError(f"cannot use the model {path}: {first_line(error)}") from error
    teacher = {"live": student, "frozen": initial, "ema": average}[config.teacher]
    return tokenizer, Models(student, context and teacher, initial if config.beta else None)


def probe(model, config):
    """Tries on a few tokens what this file takes for granted of a causal LM. ValueError, which says
    what does not hold: log-probs would be wrong, or rollouts, and nothing would tell."""
    lm = model.lm
    head, embeddings = lm.get_output_embeddings().weight, lm.get_input_embeddings().weight
    ids = random.Random(0).choices(range(min(len(head), len(embeddings))), k=23)
    prompts, responses = [ids[:3], ids[3:12]], [ids[12:19], ids[19:]]

    def alone(responses):
        """The model's own logits, [T,V] float32, of each text by itself."""
        texts = [torch.tensor([p + r], device=model.device) for p, r in zip(prompts, responses)]
        logits = [lm.eval()(text, attention_mask=torch.ones_like(text)).logits for text in texts]
        return torch.cat([x[0, len(p) - 1 : -1].float() for p, x in zip(prompts, logits)])

    with torch.no_grad():
        hidden = model(prompts, responses)[0]
        # Random weights make small logits, where a softcap does not show. Powers of 2 are exact.
        size = alone(responses).abs().max().item()
        if not math.isfinite(size):
            raise ValueError("its weights, or its logits, are not finite")
        scale = 2.0 ** math.ceil(math.log2(64 / size)) if size else 1.0
        head.mul_(scale)
        want, got = alone(responses), project(model(prompts, responses)[0], head.T)
        greedy = replace(config, temperature=0.0, max_new_tokens=6)
        continued = generate(model, prompts, [0], greedy)
        ahead = alone(continued)
        head.mul_(1 / scale)
    close = 1e-4 if head.dtype == torch.float32 else 0.05
    if got.shape != want.shape or not (got - want).abs().max() <= close * want.abs().max():
        raise ValueError("its logits are not hidden states times head (scaled, capped, a bias?)")
    tokens = torch.tensor([[token] for ids in continued for token in ids], device=ahead.device)
    if (ahead.max(-1).values - ahead.gather(-1, tokens)[:, 0]).max() > close * want.abs().max():
        raise ValueError("prompts that are padded to the left do not go on as they do alone")
    trained = [model(prompts, responses)[0] for _ in range(2)]
    if max((x - hidden).abs().max() for x in trained) > close * hidden.abs().max():
        raise ValueError("a pass in train mode is not what one in eval mode is")
    torch.autograd.grad(trained[0].sum(), lm.get_input_embeddings().weight)  # can it be trained?


# ---- The folder of a run -------------------------------------------------------------------------
MAY_DIFFER = ("steps", "save_every", "eval_every", "resume", "overwrite", "out", "lab")


def read_json(path):
    """The JSON object in a file. InputError if there is none."""
    try:
        return {**json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, RecursionError, TypeError) as error:
        raise InputError(f"cannot read {path}: {first_line(error)}") from None


def digests(folder):
    """{name: SHA-256} of the files in a checkpoint, but for its manifest."""
    paths = {p for p in folder.rglob("*") if p.is_file()} - {folder / "manifest.json"}
    names = {p: str(p.relative_to(folder)) for p in paths}
    return {names[p]: hashlib.file_digest(p.open("rb"), "sha256").hexdigest() for p in paths}


@functools.cache  # a process may come back to its folder
def lock(folder):
    """Makes a run's folder and keeps other processes out of it while this one lives."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{folder}: another process is at work there") from None


class Run:
    """The folder of a run: config.json, metrics.jsonl (a flat object for each step and evaluation),
    credit.jsonl, credit.html, checkpoint/ (a Hugging Face folder, with what it takes to go on). All
    draws follow from seed and step: there is no generator's state to keep."""

    def __init__(self, config):
        self.config, self.out, self.last = config, Path(config.out), None
        self.step, self.rows, self.buffer, self.credit, self.warned = 0, [], {}, [], False
        about, read = self.out / "config.json", (config.model, config.train_data, config.eval_data)
        read = [Path(path or "-").resolve() for path in read]
        if RANK == 0 and self.out.exists():
            lock(self.out)
        if config.resume and (config.overwrite or not config.steps):
            raise InputError("--resume goes on: neither --overwrite nor --steps 0 goes with it")
        if config.resume:
            self.read_state()
        elif about.exists() and not config.overwrite and read_json(about).get("steps"):
            raise InputError(f"{self.out} is in use: --resume, --overwrite or another --out?")
        elif any(self.out.resolve() in (path, *path.parents) for path in read):
            raise InputError(f"{self.out} holds what this run is to read: choose another --out")

    def read_state(self):
        """Reads the last checkpoint. InputError if it is not whole, or of other settings."""
        folders = [self.out / name for name in ("checkpoint", "checkpoint.old")]
        self.last = last = next((folder for folder in folders if folder.exists()), folders[0])
        saved, found = {"run.json": ""} | read_json(last / "manifest.json"), digests(last)
        if wrong := sorted(name for name in saved | found if saved.get(name) != found.get(name)):
            raise InputError(f"cannot resume: {last / wrong[0]} is not what was saved")
        state = read_json(last / "run.json")
        for name, old in state["config"].items():
            if (new := vars(self.config).get(name)) != old and name not in MAY_DIFFER:
                raise InputError(f"cannot resume: --{name} was {old} and is {new}")
        self.step, self.rows, self.credit = state["step"], state["rows"], state["credit"]
        for question, kept in state["buffer"].items():
            kept = [Rollout(Problem(question), [], ids, text) for ids, text in kept]
            self.buffer[question] = deque(kept, self.config.success_buffer)

    def start(self, tokenizer, models, optimizer):
        """Takes weights, moments and teacher from the checkpoint, and writes what the run is."""
        self.tokenizer, self.models, self.optimizer = tokenizer, models, optimizer
        if self.last:
            dcp.load(self.tensors(), checkpoint_id=self.last / "tensors")  # in place, each rank its
        if RANK == 0:
            lock(self.out)
            for end in ("", ".new", ".old") if self.config.overwrite else ():
                shutil.rmtree(self.out / f"checkpoint{end}", ignore_errors=True)
            versions = {"torch": torch.__version__, "transformers": transformers.__version__}
            self.write("config.json", [asdict(self.config) | versions])
            self.write("metrics.jsonl", self.rows)
        policy, config, resident = models.student, self.config, "nowhere: there are no steps"
        if optimizer:
            resident = f"on {optimizer.param_groups[0]['params'][0].device}, float32"
        size = sum(p.numel() for p in policy.parameters())
        say(f"{config.model}: {size:,} parameters, {policy.dtype} on {policy.device} x {RANKS}")
        say(f"master weights and AdamW's moments: {resident}")
        say(
            f"tokens: {config.rollout_tokens:,} a call, {config.micro_batch_tokens:,} a micro-batch"
        )

    def write(self, name, rows):
        """Writes a file of the folder, a JSON text a line: whole, or not at all."""
        if RANK:
            return
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self.out / f"{name}.new").write_text(text, encoding="utf-8")
        (self.out / f"{name}.new").rename(self.out / name)

    def tensors(self):
        """What the optimizer's steps change: weights, moments, an EMA teacher."""
        model, optim = state_dict.get_state_dict(self.models.student, self.optimizer)
        state = {"model": model, "optim": optim}
        if self.config.teacher == "ema" and self.models.teacher:
            state["teacher"] = state_dict.get_model_state_dict(self.models.teacher)
        return state

    def save(self, step):
        """Writes checkpoint/ beside the last one, its digests at the end; then takes its place."""
        new, last, old = (self.out / f"checkpoint{end}" for end in (".new", "", ".old"))
        buffer = {q: [[r.response, r.text] for r in kept] for q, kept in self.buffer.items()}
        state = {"step": step, "rows": self.rows, "credit": self.credit, "buffer": buffer}
        state["config"], policy = asdict(self.config), self.models.student
        gather(policy, whole=False)
        whole = state_dict.StateDictOptions(full_state_dict=True, cpu_offload=True)  # for rank 0
        weights = state_dict.get_model_state_dict(policy.lm, options=whole)
        try:
            if RANK == 0:
                shutil.rmtree(new, ignore_errors=True)
                weights = {name: weight.to(policy.dtype) for name, weight in weights.items()}
                policy.lm.save_pretrained(new, state_dict=weights)
                self.tokenizer.save_pretrained(new)
                (new / "run.json").write_text(json.dumps(state))
            dcp.save(self.tensors(), checkpoint_id=new / "tensors")  # all ranks
            if RANK == 0:
                (new / "manifest.json").write_text(json.dumps(digests(new)))
                if last.exists():
                    shutil.rmtree(old, ignore_errors=True)
                    last.rename(old)
                new.rename(last)
                shutil.rmtree(old, ignore_errors=True)
        except (OSError, RuntimeError, SafetensorError, CheckpointException) as error:
            reason = f"cannot save: {first_line(error)}; the last checkpoint is intact"
            raise InputError(reason) from None

    def due(self, step, every):
        """Is it time for what happens every so many steps, and at the end?"""
        return step == self.config.steps or bool(every) and step % every == 0

    def stopping(self):
        """Has any rank been asked to stop?"""
        return summed({"signals": len(STOP)})["signals"] > 0

    def log(self, row, failed=None):
        """Adds a flat row to metrics.jsonl (nan as null), written anew, and prints the main
        figures. With the failed rollouts of an evaluation, writes their credit too."""
        self.rows.append({k: v if math.isfinite(v) else None for k, v in row.items()})
        shown = ("reward", "kl", "peer_share", "response_tokens", "seconds")
        figures = [f"{k} {v:.3g}" for k, v in row.items() if k in shown or "/" in k]
        say(f"step {row['step']:>4}  " + "  ".join(figures))
        if row["step"] == 1 and row.get("reward") == 0:
            say("every reward of the first step is 0: there is nothing to learn from yet")
        if collapsing(self.rows) and not self.warned:
            self.warned = True
            advice = "--teacher frozen, or " if self.config.teacher == "live" else ""
            why = "KL(teacher || student) is three times its lowest, and the reward falls"
            say(f"this run collapses: {why}. Begin anew with {advice}a lower --learning_rate")
        self.write("metrics.jsonl", self.rows)
        if failed is not None:
            self.credit = credit_rows(self.models, self.tokenizer, failed, self.config)
            self.write("credit.jsonl", self.credit)

    def finish(self):
        """Draws credit.html: data/page.html with rows and credit in it, or the bare data."""
        if RANK:
            return
        c = self.config
        tokens = sum(row.get("response_tokens", 0) for row in self.rows if row["step"] > self.step)
        tokens *= c.questions_per_step * c.group_size
        for phase in ("rollouts", "update") if tokens else ():
            say(f"{phase}: {tokens / SECONDS[phase]:,.0f} tokens of responses a second")
        if torch.cuda.is_available():
            say(f"at most {torch.cuda.max_memory_allocated() / 1e9:.1f} GB of GPU memory")
        method, template = self.config.method, DATA / "page.html"
        runs = [{"name": self.out.name, "label": method, "rows": self.rows}]
        data = {"title": f"{method} on {Path(self.config.model).name}", "rollouts": self.credit}
        text, page = json.dumps(data | {"runs": runs}), "<meta charset=utf-8><pre>__DATA__</pre>"
        if template.exists():
            page = template.read_text(encoding="utf-8")
        else:
            say(f"{template} is missing: credit.html is the bare data")
        page = page.replace("__DATA__", text.replace("<", "\\u003c"))
        (self.out / "credit.html").write_text(page, encoding="utf-8")
        for r in self.credit[:1]:
            path = "".join(r["tokens"][: r["tau"]]) + "><" + "".join(r["tokens"][r["tau"] :])
            say(f"\n{r['question']}\n  failed  {path}\n  peer    {''.join(r['peer_tokens'])}")
        say(f"\nthe credit, token by token: {self.out / 'credit.html'}")


@torch.no_grad()
def credit_rows(models, tokenizer, failed, config):
    """What the page shows of failed rollouts: tokens, tau, credit under HSD's context and under the
    answer alone, and teacher's and student's top-5 at tau."""
    models = Models(models.student, models.teacher or models.student, None)
    alone, rows = [replace(r) for r in failed], []
    for r in alone:
        condition_teacher(r, answer_alone, tokenizer, config)
    set_credit(models, alone, config)

    def words(ids):
        return [tokenizer.decode([token], skip_special_tokens=True) for token in ids]

    for r, other in zip(failed, alone):
        tau, top5 = divergence(r.response, r.peer.response), {}
        for name, prompt in (("teacher", r.teacher_prompt), ("student", r.prompt)):
            hidden, head = getattr(models, name)([prompt + r.response[:tau]], [[0]])
            p, tokens = project(hidden, head.T)[0].softmax(-1).topk(5)
            top5[name] = list(zip(words(tokens.tolist()), p.tolist()))
        row = {"question": r.problem.question, "answer": r.problem.answer or "", "reward": r.reward}
        row |= {"tau": tau, "tokens": words(r.response), "peer_tokens": words(r.peer.response)}
        row |= {"credit": r.credit.tolist(), "credit_answer_only": other.credit.tolist()}
        rows.append(row | {"top5": top5})
    return rows


# ---- Command line --------------------------------------------------------------------------------
STOP = []  # signals that have come: save after this step, and end
MAY_BE_0 = ("steps", "beta", "temperature", "eval_every", "save_every", "success_buffer", "seed")
MAY_BE_0 += ("window",)


def check(config):
    """Raises InputError, naming the field, where a value of Config makes no sense."""
    for f in fields(Config):
        value, kind = getattr(config, f.name), str if f.default is None else type(f.default)
        right = isinstance(value, kind) and value in f.metadata.get("choices", [value])
        right = right and value not in ("", "None") or value is f.default
        if kind in (int, float):
            top = 1 if f.name == "top_p" else sys.float_info.max
            right = right and 0 <= value <= top and (value > 0 or f.name in MAY_BE_0)
        if not right:
            raise InputError(f"--{f.name} {value}: out of range")
    if config.window and METHODS[config.method].policy:
        raise InputError(f"--window: the policy gradient of {config.method} is of whole rollouts")
    if config.success_buffer and "perplexity" in config.peer_rule:
        raise InputError("--success_buffer keeps no perplexities: choose another --peer_rule")


def settings(argv):
    """The Config of a command line: the paper's values, or the lab's, or those of the run to go on
    with, and over them the flags."""

    def refuse(message):
        raise InputError(message.removeprefix("argument "))

    def parsed():
        config, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
        if unknown:
            raise InputError(f"{unknown[0]}: there is no such flag")
        return config

    parser = HfArgumentParser(Config, description=Config.__doc__, allow_abbrev=False)
    parser.error = refuse
    # argparse takes -1e-4 for a flag; joined to the flag before it, it is a number to refuse
    argv = re.sub(r"\0(?=-[\d.])", "=", "\0".join(argv)).split("\0") if argv else []
    if "--lab" in argv or not any(re.match("--model(=|$)", flag) for flag in argv):
        parser.set_defaults(**LAB)
    config = parsed()
    if config.resume:
        saved = read_json(Path(config.out) / "config.json")
        saved = {k: saved[k] for k in saved if k not in ("torch", "transformers", "overwrite")}
        if gone := saved.keys() - vars(config).keys():
            raise InputError(f"{config.out}/config.json: there is no field {', '.join(gone)}")
        parser.set_defaults(**saved)
        config = parsed()
    return config


def main(argv=None):
    """The command line. Bad input: one line on stderr, exit code 2. A signal: 128 + its number."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")  # of libraries: a user can do nothing about them
    STOP.clear()

    def stop(number, _):
        STOP.append(number)
        if len(STOP) > 1:
            raise KeyboardInterrupt
        say("saving after this step; once more to stop at once")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    complaint = ""
    try:
        config = settings(sys.argv[1:] if argv is None else argv)
        check(config)
        train(config)
    except (InputError, OSError) as error:
        complaint = error
    except torch.OutOfMemoryError:
        sizes = "--micro_batch_tokens or --chunk_tokens"
        lower = {"loading": "--beta to 0", "update": sizes, "credit": sizes}
        lower = lower.get(NOW["phase"], "--rollout_tokens or --max_new_tokens")
        complaint = f"out of GPU memory, phase: {NOW['phase']}; lower {lower}"
    except KeyboardInterrupt:
        complaint = "stopped at once; the last checkpoint, if there is one, is intact"
    if complaint:
        print(f"hsd.py: {complaint}", file=sys.stderr)
    if STOP or complaint:
        raise SystemExit(128 + STOP[0] if STOP else 2)


if __name__ == "__main__":
    main()
