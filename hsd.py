"""HSD: Hindsight Self-Distillation (arXiv 2606.15576), the whole algorithm in one file.

    python hsd.py                                  the lab: a tiny Qwen3 learns on a CPU in minutes
    python hsd.py --model Qwen/Qwen3-8B --train_data train.jsonl --eval_data eval.jsonl
    python hsd.py --help                           every field, its unit, the paper's value

A rollout fails somewhere. Outcome rewards tell every one of its tokens the same thing; HSD tells
each token its own. Sample a group of G rollouts per question and verify them. Give each rollout a
successful PEER of its own group. Put the answer and that peer into the prompt: the same model is
now a TEACHER that has seen how it ends. Train the STUDENT, the model without them, on its own
rollout, by KL(teacher || student) over the full vocabulary at every token. Where the rollout
follows its peer the two agree; where it leaves the successful path, they part. One step of the
method is the body of the loop in train(), at the end of Part I.

What is not here: a critic, a reward model, a second model for the teacher, a second engine for
the rollouts, LoRA, DeepSpeed, a configuration file.

Part I is the paper: config, problems, rollouts, verification, peers and teacher context, methods,
credit and loss, evaluation, train(). Part II is what makes it real.

Shapes:  Q questions, G group, T response tokens, C tokens of a chunk, H hidden, V vocabulary.
"""
from __future__ import annotations

import gzip
import json
import math
import os
import random
import re
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, HfArgumentParser

# ==================================================================================================
# Part I: the paper
# ==================================================================================================

# ---- Config (section 5) --------------------------------------------------------------------------

DATA = Path(__file__).resolve().parent / "data"
DEFAULTS = {                       # any model: the paper    data/tiny-qwen3: the lab
    "train_data":                  (None,                    str(DATA / "train.jsonl")),
    "eval_data":                   (None,                    str(DATA / "eval.jsonl")),
    "teacher":                     ("live",                  "frozen"),
    "questions_per_step":          (128,                     16),
    "learning_rate":               (1e-6,                    1e-4),
    "steps":                       (1500,                    40),
    "max_new_tokens":              (4096,                    72),
    "gradient_checkpointing":      (True,                    False),
    "eval_every":                  (100,                     0),
    "eval_questions":              (500,                     128),
    "eval_samples":                (16,                      8),
    "save_every":                  (50,                      0),
}


def option(help, default=None):
    """A field of Config. `help` is what --help prints; default None: it follows from the model."""
    return field(default=default, metadata={"help": help})


@dataclass
class Config:
    """Everything that can be set. Each field is a flag: --field value."""
    # what is trained, on what
    model: str = option("folder or hub name of a causal LM", str(DATA / "tiny-qwen3"))
    train_data: str = option("problems, JSON Lines, plain or .gz (the README lists the keys)")
    eval_data: str = option("held-out problems, likewise")
    out: str = option("folder of the run; runs/METHOD if not given")
    # the method
    method: str = option("a row of METHODS", "hsd")
    teacher: str = option("whose weights teach: live (current), frozen (initial) or ema (.99)")
    peer_rule: str = option("which success becomes the peer: a name in PEER_RULES", "uniform")
    success_buffer: int = option("past successes kept per question, for groups without any", 0)
    beta: float = option("weight of KL(pi || pi_0); 0 loads no reference model", 1e-3)
    # rollouts
    questions_per_step: int = option("questions Q of one step")
    group_size: int = option("rollouts G of each question", 8)
    temperature: float = option("temperature of the rollouts; 0 is greedy", 1.0)
    top_p: float = option("nucleus of the rollouts", 0.95)
    max_new_tokens: int = option("tokens of a response; one that is cut here scores 0")
    max_peer_tokens: int = option("tokens of the peer that the teacher sees", 4096)
    thinking: bool = option("the chat template's thinking mode, for student and teacher", False)
    rollout_batch: int = option("sequences of one generate() call", 128)
    # the update
    steps: int = option("batches of Q x G rollouts; 0 only evaluates")
    updates_per_batch: int = option("optimizer steps per batch, each on its share of it", 1)
    learning_rate: float = option("AdamW's constant step size")
    max_grad_norm: float = option("the gradient is clipped to this norm", 1.0)
    micro_batch_tokens: int = option("padded tokens of one forward pass", 16384)
    chunk_tokens: int = option("tokens whose logits are in memory at a time", 256)
    compile: bool = option("torch.compile the loss", True)
    gradient_checkpointing: bool = option("recompute activations in the backward pass")
    seed: int = option("seed of the questions' order, the rollouts and the peers", 0)
    # looking and saving
    eval_every: int = option("steps between evaluations; 0: only before and after")
    eval_questions: int = option("held-out questions of an evaluation")
    eval_samples: int = option("samples n per question of an evaluation; pass@1 is their mean")
    save_every: int = option("steps between checkpoints; 0: only at the end")
    resume: bool = option("go on from the checkpoint in the run's folder", False)
    overwrite: bool = option("delete what the run's folder holds", False)

    def __post_init__(self):
        lab = Path(self.model).resolve() == DATA / "tiny-qwen3"
        for name, (any_model, tiny) in DEFAULTS.items():
            if getattr(self, name) is None:
                setattr(self, name, tiny if lab else any_model)
        self.out = self.out or f"runs/{self.method}"


# ---- Problems ------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Problem:
    """One question. Math has `answer` (a*); code has `tests`, and no answer that is a text."""
    question: str
    answer: str | None = None
    solution: str | None = None         # an offline reference; HSD's teacher never sees it
    tests: tuple = ()


def questions_of_step(problems, step, config):
    """The Q problems of a step (counted from 0). The order of each pass over the data follows from
    seed and pass alone, so a resumed run needs to know nothing but its step."""
    picked = []
    for position in range(step * config.questions_per_step, (step + 1) * config.questions_per_step):
        epoch, index = divmod(position, len(problems))
        order = list(range(len(problems)))
        random.Random(f"{config.seed} order {epoch}").shuffle(order)
        picked.append(problems[order[index]])
    return picked


# The paper prints no prompts; these are ours. Each fixed sentence is ONE token of the tiny model:
# after a change here, run data/make_tiny.py again.
INSTRUCTION = "Reason step by step, and put your final answer within \\boxed{}."
CODE_INSTRUCTION = "Write a complete Python program, in one ```python block."
CONTEXTS = {
    "answer": "The correct answer is known to be:\n<answer>\n{}\n</answer>\n\n",
    "peer": "Another attempt at this question was checked and found correct:\n"
            "<attempt>\n{}\n</attempt>\n\n",
    "solution": "A worked solution of this question:\n<solution>\n{}\n</solution>\n\n",
    "feedback": "Your attempt at this question was checked:\n<feedback>\n{}\n</feedback>\n\n",
}
CLOSING = ("Now solve the question yourself, from the beginning, "
           "as if you had not been shown any of this.\n")
FEEDBACK = "The final answer {} is wrong."


def request(problem, context=None):
    """The user's message: q for the student, [q; c_i] for the teacher, where `context` maps kinds of
    CONTEXTS to texts. The instruction closes both, so nothing that is cut can take it away."""
    hints = "".join(CONTEXTS[kind].format(text) for kind, text in (context or {}).items())
    instruction = CODE_INSTRUCTION if problem.tests else INSTRUCTION
    return f"{problem.question}\n\n{hints}{CLOSING if hints else ''}{instruction}"


def prompt_ids(tokenizer, text, thinking=False):
    """Token ids of a user's message, up to where the assistant begins to write. Student and teacher
    both come through here: with thinking on for one of them alone, they would disagree on the first
    tokens for no reason. A tokenizer without a chat template gets the plain text."""
    if tokenizer.chat_template is None:
        return tokenizer(text + "\n").input_ids
    text = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False,
                                         add_generation_prompt=True, enable_thinking=thinking)
    return tokenizer(text, add_special_tokens=False).input_ids


# ---- Rollouts (section 5) ------------------------------------------------------------------------

@dataclass
class Rollout:
    """One sampled response o_i. The ids are the truth; the text is for verifier and people."""
    problem: Problem
    prompt: list[int]                   # the student's
    response: list[int]                 # with its stop token, which is trained like any other
    text: str
    truncated: bool                     # cut at max_new_tokens: there is no stop token
    reward: float = 0.0
    peer: Rollout | None = None         # o_i+ of Eq. 9
    context: dict = field(default_factory=dict)         # c_i, for request()
    teacher_prompt: list[int] = field(default_factory=list)
    advantage: float = 0.0
    logp: torch.Tensor | None = None    # log pi_old(o_t), [T], where a method or peer rule needs it
    credit: torch.Tensor | None = None  # A_t of Eq. 2, [T], once measured


def sample_groups(model, tokenizer, problems, config, seed, size=None, prompts=None):
    """`size` (G, if not given) verified rollouts of each problem, from the student's prompts if none
    are given -> a list of groups. A rollout that was cut scores 0."""
    size, stops = size or config.group_size, stop_tokens(model, tokenizer)
    prompts = prompts or [prompt_ids(tokenizer, request(p), config.thinking) for p in problems]
    responses = sample(model, tokenizer, [p for p in prompts for _ in range(size)], config, seed)
    rollouts = [Rollout(problems[i // size], prompts[i // size], response,
                        tokenizer.decode(response, skip_special_tokens=True),
                        truncated=response[-1] not in stops)
                for i, response in enumerate(responses)]
    for rollout, right in zip(rollouts, verify_all([(r.problem, r.text) for r in rollouts])):
        rollout.reward = float(right and not rollout.truncated)
    return [rollouts[i:i + size] for i in range(0, len(rollouts), size)]


# ---- Verification (section 5) --------------------------------------------------------------------

def verify(problem, text):
    """R in {0, 1}. Math: the last boxed expression (else the last number) of the response equals a*.
    How answers are compared is told in Part II. Raises InputError where there is no answer."""
    if problem.answer is None:
        raise InputError(f"nothing to verify against in {problem.question[:60]!r}")
    candidate = extract_answer(text)
    return candidate is not None and math_equal(candidate, problem.answer)


# ---- Peers and teacher context (Eq. 8, 9, 11, 12) ------------------------------------------------

def successful_peers(rewards):
    """S_i = { j != i : R_j = 1 } for each rollout i of a group. A lone success has no peer, and is
    the peer of all others.

    >>> successful_peers([1, 0, 0, 1])
    [[3], [0, 3], [0, 3], [0]]
    """
    return [[j for j, r in enumerate(rewards) if r == 1 and j != i] for i in range(len(rewards))]


def divergence(a, b):
    """tau: the first position (from 0) where two token sequences differ; the shorter length where
    one begins the other; None where they are equal (Eq. 11)."""
    differ = (t for t, (x, y) in enumerate(zip(a, b)) if x != y)
    return next(differ, None if len(a) == len(b) else min(len(a), len(b)))


def coverage(p, G):
    """f(p, G) = (1 - p) (1 - (1 - p)^(G-1)): the share of rollouts that fail and have a peer, at
    pass rate p (Eq. 12). Largest at p* = 1 - G^(-1/(G-1)). The paper's Table 2 prints other numbers
    than this, its own, formula gives."""
    return (1 - p) * (1 - (1 - p) ** (G - 1))


PEER_RULES = {                      # the candidate with the smallest key; ties fall to chance
    "uniform": lambda rollout, peer: 0,                         # Eq. 9
    "shortest": lambda rollout, peer: len(peer.response),       # this and the next two: Figure 4(d)
    "low_perplexity": lambda rollout, peer: -peer.logp.mean().item(),
    "high_perplexity": lambda rollout, peer: peer.logp.mean().item(),
    "nearest": lambda rollout, peer: -len(os.path.commonprefix([rollout.response, peer.response])),
}                                   # nearest is ours: the credit lands on the last branching point


def choose_peer(rollout, candidates, rule, rng):
    """A successful rollout for o_i+, or None where there is none. (To take always the first, or the
    shortest, lets all copy one path: training collapses. Uniform is the default.)"""
    keys = [PEER_RULES[rule](rollout, peer) for peer in candidates]
    best = [peer for peer, key in zip(candidates, keys) if key == min(keys)]
    return rng.choice(best) if best else None


def give_contexts(group, kinds, past, config, tokenizer, rng):
    """Sets peer, context c_i and teacher_prompt [q; c_i] of each rollout of a group. For HSD, kinds
    "answer+peer", that is Eq. 9: the answer and a peer of S_i, or the answer alone where S_i is
    empty (the endpoint fallback). `past` are successes of earlier steps, for when the group has
    none. Only the peer's own tokens are ever cut (a cut through the rendered prompt would lose the
    instruction, or the question). Where a kind "a|b" is asked for, b is shown if there is no a."""
    for rollout, peers in zip(group, successful_peers([r.reward for r in group])):
        candidates = [group[j] for j in peers] or past
        rollout.peer = choose_peer(rollout, candidates, config.peer_rule, rng)
        texts = {"answer": rollout.problem.answer, "solution": rollout.problem.solution}
        if rollout.peer:
            path = rollout.peer.response[:config.max_peer_tokens]
            texts["peer"] = tokenizer.decode(path, skip_special_tokens=True)
        if not rollout.reward:
            texts["feedback"] = FEEDBACK.format(extract_answer(rollout.text))
        rollout.context = {}
        for kind in kinds.split("+"):
            shown = next((k for k in kind.split("|") if texts.get(k)), None)
            if shown:
                rollout.context[shown] = texts[shown]
        rollout.teacher_prompt = prompt_ids(tokenizer, request(rollout.problem, rollout.context),
                                            config.thinking)


# ---- Methods (Table 1) ---------------------------------------------------------------------------

@dataclass(frozen=True)
class Method:
    """A row of values: what the teacher is shown, and the weights of the two losses. With one update
    per batch the ratio is 1 and nothing is clipped: gspo's gradient is then grpo's; dapo keeps its
    token mean, filter and length penalty; dr_grpo its missing normalisations; rlsd its reweighting
    (a clip of its own, not of the ratio). The distillation methods have no ratio at all."""
    context: str = ""               # kinds of CONTEXTS, see give_contexts; "": there is no teacher
    distill: float = 0.0            # weight of KL(teacher || student)
    policy: float = 0.0             # weight of the policy gradient -min(r A, clip(r) A)
    std: bool = True                # A = (R - mean) / std; else R - mean
    ratio: str = "token"            # r of each token, or one of the whole sequence
    clip: tuple = (0.2, 0.2)        # r is clipped to [1 - low, 1 + high]
    mean: str = "rollout"           # over a rollout's tokens, then rollouts; or "token"; or "constant"
    mixed_only: bool = False        # drop groups that are all right or all wrong
    overlong: bool = False          # a penalty for the last fifth of max_new_tokens
    reweight: bool = False          # scale A per token by the teacher/student ratio


METHODS = {
    "hsd":       Method("answer+peer", distill=1.0),            # Eq. 9
    "opsd":      Method("answer", distill=1.0),                 # 2601.18734; c = a* as in Table 1
    "sdft":      Method("solution", distill=1.0),               # 2601.19897
    "sdpo":      Method("peer|feedback", distill=1.0),          # 2601.20802, Eq. 1
    "grpo":      Method(policy=1.0),                            # 2402.03300, Eq. 3
    "dr_grpo":   Method(policy=1.0, std=False, mean="constant"),                    # 2503.20783
    "dapo":      Method(policy=1.0, clip=(0.2, 0.28), mean="token", mixed_only=True,
                        overlong=True),                         # 2503.14476, Eq. 8 to 13
    "gspo":      Method(policy=1.0, ratio="sequence", clip=(3e-4, 4e-4)),           # 2507.18071
    "rlsd":      Method("answer", policy=1.0, reweight=True),   # 2604.03128, Eq. 13 to 15
    "grpo+opsd": Method("answer", distill=0.5, policy=0.5),
}


def give_advantages(group, method, config):
    """Sets the advantage of each rollout of a group (Eq. 1). The standard deviation is the unbiased
    one, as in the public implementations (the papers do not say); a group of equal rewards gets 0.
    DAPO's length penalty (its Eq. 13, from 0 to -1 over the last fifth) is halved, because its
    rewards are +-1 and ours 0/1."""
    soft = config.max_new_tokens / 5
    over = [max(0.0, (len(r.response) - 4 * soft) / soft) if method.overlong else 0 for r in group]
    rewards = torch.tensor([r.reward - 0.5 * o for r, o in zip(group, over)])       # [G]
    advantages = rewards - rewards.mean()
    if method.std and len(group) > 1:
        advantages = advantages / (rewards.std() + 1e-6)
    for rollout, advantage in zip(group, advantages.tolist()):
        rollout.advantage = advantage


def policy_loss(logp, old_logp, advantages, lengths, method):
    """-min(r A, clip(r, 1 - low, 1 + high) A) at each token, [T]. GSPO's ratio (its Eq. 7) is that of
    the whole sequence to the power 1/|o|: each token of the sequence carries it."""
    log_ratio = logp - old_logp
    if method.ratio == "sequence":
        log_ratio = torch.cat([part.mean().expand(len(part)) for part in log_ratio.split(lengths)])
    ratio, (low, high) = log_ratio.exp(), method.clip
    return -torch.min(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def reweighted(advantages, credit, step):
    """RLSD (Eq. 13 to 15): the verifier keeps the sign, the teacher scales the token: A times the mix
    (1 - l) + l clip((pi_T / pi_S)^sign(A), .8, 1.2), where l falls from .5 to 0 over 50 steps."""
    share = 0.5 * max(0.0, 1 - step / 50)
    weight = (advantages.sign() * credit).exp().clamp(0.8, 1.2)
    return advantages * (1 - share + share * weight)


def token_weights(rollouts, method, config):
    """w_i of each rollout's tokens in the sum over all tokens of the batch: 1/(N |o_i|), the mean over
    rollouts of their means; 1 / sum |o_i| (DAPO); or 1/(N max_new_tokens), which favours no length
    (Dr. GRPO; its paper prints no constant, its code divides by the limit)."""
    N, tokens = len(rollouts), sum(len(r.response) for r in rollouts)
    return {id(r): {"rollout": 1 / (N * len(r.response)), "token": 1 / tokens,
                    "constant": 1 / (N * config.max_new_tokens)}[method.mean] for r in rollouts}


# ---- Credit and loss (Eq. 2, 10, 13) -------------------------------------------------------------

class TokenTerms(NamedTuple):
    """What one pass over response tokens gives; each [T] float32, in nats."""
    kl: torch.Tensor                # KL(teacher || student)
    kl_reference: torch.Tensor      # KL(student || pi_0)
    student_logp: torch.Tensor      # log pi_S(o_t)
    teacher_logp: torch.Tensor      # log pi_T(o_t); minus student_logp it is the credit A_t (Eq. 2)
    entropy: torch.Tensor           # of the student


def token_terms(student_logits, teacher_logits, reference_logits, tokens):
    """TokenTerms from float32 logits [C,V], at tokens [C]. No teacher, no reference: zeros."""
    student = student_logits.log_softmax(-1)                                        # [C,V]
    zero, at = torch.zeros_like(student[:, 0]), tokens[:, None]
    kl, kl_reference, teacher_logp = zero, zero, zero
    if teacher_logits is not None:
        teacher = teacher_logits.log_softmax(-1)
        kl = (teacher.exp() * (teacher - student)).sum(-1)
        teacher_logp = teacher.gather(-1, at)[:, 0]
    if reference_logits is not None:
        kl_reference = (student.exp() * (student - reference_logits.log_softmax(-1))).sum(-1)
    entropy = -(student.exp() * student).sum(-1)
    return kl, kl_reference, student.gather(-1, at)[:, 0], teacher_logp, entropy


def token_gradient(student_logits, teacher_logits, reference_logits, tokens, g_kl, g_ref, g_logp):
    """The gradient of sum_t (g_kl KL + g_ref KL_reference + g_logp log pi_S(o_t)) with respect to the
    student's logits [C,V]; the teacher and pi_0 are constants:

        d KL(T || S)    = pi_S - pi_T
        d KL(S || pi_0) = pi_S (log pi_S - log pi_0 - KL(S || pi_0))
        d log pi_S(o)   = 1[v = o] - pi_S

    The first line is why all this is float32: at a KL of .006, where most tokens lie, it is the small
    difference of two large numbers, and from bf16 logits it comes out wrong by a third."""
    student = student_logits.log_softmax(-1)                                        # [C,V]
    pi = student.exp()
    gradient = (-g_logp[:, None] * pi).scatter_add(-1, tokens[:, None], g_logp[:, None])
    if teacher_logits is not None:
        gradient = gradient + g_kl[:, None] * (pi - teacher_logits.softmax(-1))
    if reference_logits is not None:
        gap = student - reference_logits.log_softmax(-1)
        gradient = gradient + g_ref[:, None] * pi * (gap - (pi * gap).sum(-1, keepdim=True))
    return gradient


def kl_teacher_student(student_hidden, teacher_hidden, head_weight, weights=None, chunk_tokens=256):
    """KL(teacher || student) over the full vocabulary at each token (Eq. 10), with the logits of no
    more than `chunk_tokens` tokens in memory at any time.

    student_hidden, teacher_hidden [T,H], head_weight [V,H]; weights [T], 1/T each if None. Returns
    the scalar sum_t w_t KL_t, whose gradient reaches student_hidden and, through the student's side
    alone, head_weight; and kl [T], float32, detached, in nats."""
    tokens = torch.zeros(len(student_hidden), dtype=torch.long, device=student_hidden.device)
    kl = ChunkedHead.apply(student_hidden, head_weight, teacher_hidden, head_weight, None, None,
                           tokens, chunk_tokens, PLAIN)[0]
    weights = torch.full_like(kl, 1 / len(kl)) if weights is None else weights.to(kl)
    return (weights * kl).sum(), kl.detach()


class Models(NamedTuple):
    """The student, its teacher (the student itself, if live), pi_0 (None where beta is 0), and the
    token_terms and token_gradient to use, compiled or plain."""
    student: torch.nn.Module
    teacher: torch.nn.Module
    reference: torch.nn.Module | None
    kernels: Kernels


def score(models, rollouts, config):
    """TokenTerms of all response tokens of some rollouts, one rollout after the other. The teacher
    reads [q; c_i; o_i], student and pi_0 read [q; o_i], each at the positions of o_i alone: the
    head, whose logits are most of the memory, never sees a prompt. Gradients reach the student."""
    prompts, responses = [r.prompt for r in rollouts], [r.response for r in rollouts]
    student_side = hidden_and_head(models.student, prompts, responses)
    with torch.no_grad():
        teacher_side = hidden_and_head(models.teacher, [r.teacher_prompt for r in rollouts], responses)
        reference_side = hidden_and_head(models.reference, prompts, responses)
    tokens = torch.tensor([o for response in responses for o in response])                  # [T]
    return TokenTerms(*ChunkedHead.apply(*student_side, *teacher_side, *reference_side,
                                         tokens.to(student_side[0].device), config.chunk_tokens,
                                         models.kernels))


def batch_loss(models, rollouts, weights, method, step, config):
    """The part of the loss that some rollouts (with `weights`, one per token of each) contribute, and
    the figures to log; in all, for HSD (Eq. 13),

        J = 1/N sum_i 1/|o_i| sum_t [ KL_t(teacher || student) + beta KL_t(student || pi_0) ]

    The paper leaves the estimator of KL(pi || pi_0) open. Ours is the exact KL over the vocabulary
    at each visited prefix: never negative, and its logits are at hand. A rollout that has no
    context (code without a peer) has no distillation loss."""
    terms, lengths = score(models, rollouts, config), [len(r.response) for r in rollouts]

    def per_token(values):                                                                  # [T]
        return torch.tensor(values).repeat_interleave(torch.tensor(lengths)).to(terms.kl)
    w, taught = per_token(weights), per_token([float(bool(r.context)) for r in rollouts])
    kl, kl_reference = w * taught * terms.kl, w * terms.kl_reference
    loss = (method.distill * kl + config.beta * kl_reference).sum()
    if method.policy:
        advantages = per_token([r.advantage for r in rollouts])
        if method.reweight:
            advantages = reweighted(advantages, terms.teacher_logp - terms.student_logp.detach(), step)
        old = terms.student_logp.detach()
        if config.updates_per_batch > 1:
            old = torch.cat([r.logp for r in rollouts]).to(old)
        policy = policy_loss(terms.student_logp, old, advantages, lengths, method)
        loss = loss + method.policy * (w * policy).sum()
    return loss, {"loss": loss, "kl": kl.sum(), "kl_reference": kl_reference.sum(),
                  "entropy": w @ terms.entropy}


def update(models, optimizer, rollouts, step, config):
    """One optimizer step on some rollouts. Each token carries its final weight into its micro-batch,
    so the sum, and what is logged, is exact however the micro-batches are cut."""
    method, figures = METHODS[config.method], dict.fromkeys(["loss", "kl", "kl_reference", "entropy"], 0.0)
    weights = token_weights(rollouts, method, config)
    models.student.train()                      # gradient checkpointing works in train mode only
    for batch in tqdm(micro_batches(rollouts, config.micro_batch_tokens), "update", leave=False):
        loss, parts = batch_loss(models, batch, [weights[id(r)] for r in batch], method, step, config)
        loss.backward()
        for name, value in parts.items():
            figures[name] += value.item()
    norm, skipped = optimizer.step(figures["loss"]) if rollouts else (0.0, True)
    return {**figures, "grad_norm": norm, "skipped_steps": int(skipped)}


# ---- Evaluation (sections 3, 5) ------------------------------------------------------------------

def pass_at_k(n, c, k):
    """The unbiased estimate of pass@k from c successes in n samples, 1 - C(n-c, k) / C(n, k) (Chen et
    al. 2021, 2107.03374). Raises ValueError where 0 <= c <= n or 1 <= k <= n does not hold."""
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} from {c} successes in {n} samples")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


@torch.no_grad()
def measure(models, rollouts, config):
    """Sets logp, log pi(o_t), and credit A_t (Eq. 2) of each rollout: [|o_i|] float32, on the CPU."""
    for batch in micro_batches(rollouts, config.micro_batch_tokens):
        terms, lengths = score(models, batch, config), [len(r.response) for r in batch]
        credit = (terms.teacher_logp - terms.student_logp).cpu().split(lengths)
        for i, logp in enumerate(terms.student_logp.cpu().split(lengths)):
            batch[i].logp, batch[i].credit = logp, credit[i]


def credit_share(rollouts, w):
    """Share of sum_t |A_t| that lies within |t - tau| <= w, pooled over failed rollouts (Table 5)."""
    near = total = 0.0
    for rollout in rollouts:
        tau, credit = divergence(rollout.response, rollout.peer.response), rollout.credit.abs()
        near += credit[max(0, tau - w):tau + w + 1].sum().item()
        total += credit.sum().item()
    return near / total if total else math.nan


def evaluate(models, tokenizer, problems, config, step):
    """Held-out pass@1 (mean over n samples) and pass@k; the accuracy of the self-teacher: ONE sample
    of the same current weights with answer and peer in the prompt, on questions that have a peer;
    and the share of credit within 8 tokens of the divergence, over up to 128 failed rollouts."""
    n, name, rng = config.eval_samples, f"{config.seed} eval", random.Random(config.seed)
    groups = sample_groups(models.student, tokenizer, problems, config, name, size=n)
    successes = [int(sum(r.reward for r in group)) for group in groups]
    row = {"step": step} | {f"eval/pass@{k}": mean(pass_at_k(n, c, k) for c in successes)
                            for k in sorted({1, min(n, 8), n})}
    for group in groups:
        give_contexts(group, "answer+peer", [], config, tokenizer, rng)
    taught = [group[0] for group in groups if group[0].peer]
    hinted = sample_groups(models.student, tokenizer, [r.problem for r in taught], config,
                           f"{name} teacher", 1, [r.teacher_prompt for r in taught])
    row["eval/teacher_pass@1"] = mean(group[0].reward for group in hinted)
    failed = [r for group in groups for r in group if r.peer and not r.reward][:128]
    measure(models._replace(teacher=models.teacher or models.student), failed, config)
    row["eval/credit_share@8"] = credit_share(failed, 8)
    return row


# ---- The algorithm -------------------------------------------------------------------------------

def train(config):
    """Runs the method as `config` says. Returns the metric rows: what metrics.jsonl holds."""
    train_problems, eval_problems = load_problems(config.train_data), load_problems(config.eval_data)
    eval_problems = eval_problems[:config.eval_questions]
    tokenizer, models = load_models(config)
    optimizer, run = MasterAdamW(models.student, config), Run(config)
    run.log(evaluate(models, tokenizer, eval_problems, config, step=0))
    for step in range(config.steps):
        start = time.time()
        problems = questions_of_step(train_problems, step, config)
        groups = sample_groups(models.student, tokenizer, problems, config, f"{config.seed} {step}")
        metrics = learn(models, optimizer, groups, run.past, tokenizer, step, config)
        run.log({"step": step + 1, **rollout_metrics(groups), **metrics,
                 "seconds": time.time() - start})
        last = step + 1 == config.steps
        if last or config.eval_every and (step + 1) % config.eval_every == 0:
            run.log(evaluate(models, tokenizer, eval_problems, config, step + 1))
        if last or config.save_every and (step + 1) % config.save_every == 0:
            run.save(models, tokenizer)
    run.table()
    return run.rows


def learn(models, optimizer, groups, past, tokenizer, step, config):
    """What a step does with its groups of verified rollouts: peers and contexts, advantages, updates."""
    method, rng = METHODS[config.method], random.Random(f"{config.seed} peers {step}")
    everything = [r for group in groups for r in group]
    if config.updates_per_batch > 1 or "perplexity" in config.peer_rule:
        measure(models._replace(teacher=None, reference=None), everything, config)
    for group in groups:
        successes = past.setdefault(group[0].problem.question, [])
        give_contexts(group, method.context, successes, config, tokenizer, rng)
        give_advantages(group, method, config)
        successes += [replace(r, peer=None) for r in group if r.reward]
        del successes[:max(0, len(successes) - config.success_buffer)]
    rollouts = [r for group in groups for r in group
                if not method.mixed_only or 0 < sum(r.reward for r in group) < len(group)]
    rows = [update(models, optimizer, rollouts[i::config.updates_per_batch], step, config)
            for i in range(config.updates_per_batch)]
    move_teacher(models, config)
    return {name: mean(row[name] for row in rows) for name in rows[0]}


# ==================================================================================================
# Part II: what makes it real
# ==================================================================================================

# ---- Reading problems ----------------------------------------------------------------------------

class InputError(ValueError):
    """What the user gave cannot be used. main() prints it as one line and exits with 2."""


def parse_problem(row):
    """A Problem from one JSON object, with the keys of GSM8K, MATH, AIME, HumanEval, MBPP or ours.
    Raises InputError where there is no question, or neither an answer nor tests."""
    if not isinstance(row, dict):
        raise InputError("not a JSON object")
    question = next((row[key] for key in ("question", "problem", "prompt", "text") if row.get(key)), None)
    if not isinstance(question, str) or not question.strip():
        raise InputError("no text under question, problem or prompt")
    answer, solution = row.get("answer"), row.get("solution")
    tests = row.get("tests") or row.get("test_list") or ()
    if "test" in row and "entry_point" in row:                          # HumanEval
        tests = [f"{row['test']}\n\ncheck({row['entry_point']})"]
    if isinstance(answer, str) and "####" in answer:                    # GSM8K
        solution, answer = (part.strip() for part in answer.rsplit("####", 1))
    if answer is None and isinstance(solution, str) and "\\boxed" in solution:          # MATH
        answer = extract_answer(solution)
    if not tests and (isinstance(answer, bool) or not isinstance(answer, (str, int, float))
                      or not str(answer).strip()):
        raise InputError("neither an answer, nor a solution with \\boxed{}, nor tests")
    return Problem(question.strip(), None if tests else str(answer).strip(), solution, tuple(tests))


def load_problems(path):
    """The problems of a JSON Lines file, plain or .gz. Raises InputError, with file and line number."""
    if path is None:
        raise InputError("--train_data and --eval_data are needed with this model")
    problems = []
    try:
        with (gzip.open if str(path).endswith(".gz") else open)(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        problems.append(parse_problem(json.loads(line)))
                    except (json.JSONDecodeError, InputError) as error:
                        raise InputError(f"{path}:{number}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    if not problems:
        raise InputError(f"{path} holds no problem")
    return problems


# ---- Sampling ------------------------------------------------------------------------------------

def stop_tokens(model, tokenizer):
    """The ids that end a response: those of the model's generation_config and the tokenizer's."""
    stops = model.generation_config.eos_token_id
    stops = {*(stops if isinstance(stops, list) else [stops]), tokenizer.eos_token_id} - {None}
    if not stops:
        raise InputError("neither the model's generation_config nor the tokenizer has an EOS token")
    return sorted(stops)


@torch.no_grad()
def sample(model, tokenizer, prompts, config, seed, desc="rollouts"):
    """One response, a list of ids, for each prompt. Each call of generate() is seeded by `seed` (a
    str) and its place alone: to repeat a draw, no state of a generator has to be kept."""
    stops, responses = stop_tokens(model, tokenizer), []
    # A field left None would be filled from the model's own generation_config (Qwen3: top_k 20).
    settings = GenerationConfig(
        max_new_tokens=config.max_new_tokens, eos_token_id=stops, pad_token_id=stops[0],
        **(dict(do_sample=True, temperature=config.temperature, top_p=config.top_p, top_k=0)
           if config.temperature > 0 else dict(do_sample=False)))
    model.eval()                # in train mode, gradient checkpointing drops the KV cache: wrong text
    devices = [model.device] if model.device.type == "cuda" else []
    with tqdm(total=len(prompts), desc=desc, leave=False) as bar, torch.random.fork_rng(devices):
        for start in range(0, len(prompts), config.rollout_batch):
            batch = prompts[start:start + config.rollout_batch]
            width = max(map(len, batch))
            ids = torch.tensor([stops[:1] * (width - len(p)) + p for p in batch])       # [B,width]
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
            torch.manual_seed(random.Random(f"{seed} {start}").getrandbits(63))
            out = model.generate(ids.to(model.device), attention_mask=mask.to(model.device),
                                 generation_config=settings)
            responses += [cut_at_stop(row, stops) for row in out[:, width:].tolist()]
            bar.update(len(batch))
    return responses


def cut_at_stop(ids, stops):
    """The ids up to and with the first stop token. What follows is padding, and may be the same id:
    a comparison with the pad token would leave the stop token untrained."""
    return ids[:next((i + 1 for i, token in enumerate(ids) if token in stops), len(ids))]


# ---- Answers -------------------------------------------------------------------------------------

def extract_answer(text):
    """The last boxed expression of a text (braces may nest), else its last number, else None."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start >= 0:
        begin, depth = text.index("{", start), 0
        for i in range(begin, len(text)):
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            if depth == 0:
                return text[begin + 1:i].strip()
    numbers = re.findall(r"-?\d+(?:,\d{3})*(?:\.\d+)?", text)
    return numbers[-1] if numbers else None


def math_equal(candidate, answer):
    """Are two final answers the same, white space aside?"""
    return "".join(candidate.split()) == "".join(answer.split())


def verify_all(pairs):
    """verify() of many (problem, text) pairs, in order."""
    return [verify(problem, text) for problem, text in pairs]


# ---- The head, a chunk at a time -----------------------------------------------------------------
# fp32 logits of 4,096 tokens of Qwen3 are 2.5 GB, and a plain KL holds six such tensors. Here the
# logits of `chunk_tokens` tokens exist at a time, and the backward pass makes them again.

class Kernels(NamedTuple):
    """token_terms and token_gradient, compiled or plain."""
    terms: object
    gradient: object


PLAIN = Kernels(token_terms, token_gradient)


def load_kernels(config, device):
    """The kernels, compiled if asked for and if this machine can; else a line says why not."""
    if not config.compile:
        return PLAIN
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except RuntimeError as error:               # no C++ compiler, no Triton
        print(f"torch.compile does not work here ({str(error).splitlines()[0]}): running without it")
        return PLAIN
    return Kernels(torch.compile(token_terms), torch.compile(token_gradient))


def project(a, b):
    """a @ b with float32 output from any dtype. Casting a bf16 product afterwards would be too late."""
    if a.is_cuda and b.dtype == torch.bfloat16:
        return torch.mm(a.bfloat16(), b, out_dtype=torch.float32)
    return a.float() @ b.float()


class ChunkedHead(torch.autograd.Function):
    """TokenTerms from hidden states [T,H] and heads [V,H]. Gradients reach the student's hidden states
    and head alone: a shared head that also learns from the teacher's projection is off by more than
    twice its norm. The head's gradient is summed over chunks in float32."""

    @staticmethod
    def chunks(hiddens, heads, tokens, C):
        """Per chunk: its rows, logits of student, teacher and pi_0, its tokens. The last chunk is padded
        with zero rows to C, so that one shape compiles."""
        for start in range(0, len(tokens), C):
            rows = slice(start, min(start + C, len(tokens)))
            pad = start + C - rows.stop
            yield rows, [None if hidden is None else project(F.pad(hidden[rows], (0, 0, 0, pad)), head.T)
                         for hidden, head in zip(hiddens, heads)], F.pad(tokens[rows], (0, pad))

    @staticmethod
    def forward(ctx, student_hidden, student_head, teacher_hidden, teacher_head, reference_hidden,
                reference_head, tokens, C, kernels):
        hiddens = student_hidden, teacher_hidden, reference_hidden
        heads = student_head, teacher_head, reference_head
        ctx.save_for_backward(*hiddens, *heads, tokens)
        ctx.C, ctx.kernels = C, kernels
        parts = []
        for rows, logits, at in ChunkedHead.chunks(hiddens, heads, tokens, C):
            parts.append([term[:rows.stop - rows.start] for term in kernels.terms(*logits, at)])
        kl, kl_reference, student_logp, teacher_logp, entropy = map(torch.cat, zip(*parts))
        ctx.mark_non_differentiable(teacher_logp, entropy)
        return kl, kl_reference, student_logp, teacher_logp, entropy

    @staticmethod
    def backward(ctx, g_kl, g_reference, g_logp, *_):
        *sides, tokens = ctx.saved_tensors
        hiddens, heads = sides[:3], sides[3:]
        hidden_gradient = torch.empty_like(hiddens[0])                                  # [T,H]
        head_gradient = torch.zeros_like(heads[0], dtype=torch.float32)                 # [V,H]
        for rows, logits, at in ChunkedHead.chunks(hiddens, heads, tokens, ctx.C):
            n = rows.stop - rows.start
            g = [F.pad(g[rows], (0, ctx.C - n)) for g in (g_kl, g_reference, g_logp)]
            logit_gradient = ctx.kernels.gradient(*logits, at, *g)[:n]                  # [n,V]
            hidden_gradient[rows] = project(logit_gradient, heads[0]).to(hidden_gradient.dtype)
            head_gradient += project(logit_gradient.T, hiddens[0][rows])
        return hidden_gradient, head_gradient.to(heads[0].dtype), *[None] * 7


def hidden_and_head(model, prompts, responses):
    """The hidden states [T,H] that predict each response token, T = sum |o_i|, and the head [V,H].
    Padding stands to the right and needs no mask: under causal attention no real token sees it."""
    if model is None:
        return None, None
    rows = [p + r[:-1] for p, r in zip(prompts, responses)]         # the last token predicts nothing
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state         # [B,width,H]
    hidden = torch.cat([h[len(p) - 1:len(row)] for h, p, row in zip(hidden, prompts, rows)])
    return hidden, model.get_output_embeddings().weight


def micro_batches(rollouts, budget):
    """The rollouts in batches of at most `budget` padded tokens, at least one rollout each, sorted by
    length, longest first: what does not fit fails at once, not an hour later."""
    def length(r):
        return max(len(r.prompt), len(r.teacher_prompt)) + len(r.response)
    batches, width = [], 0
    for rollout in sorted(rollouts, key=length, reverse=True):
        if not batches or (len(batches[-1]) + 1) * width > budget:
            batches.append([])
            width = length(rollout)
        batches[-1].append(rollout)
    return batches


# ---- Master weights ------------------------------------------------------------------------------

class MasterAdamW:
    """AdamW (.9, .95, eps 1e-8, no decay) on float32 master weights, gradients summed in float32.
    At lr 1e-6 a step is smaller than the spacing of bf16 numbers: AdamW straight on bf16 weights
    changes 2% of them in 50 steps; and a bf16 sum over 128 micro-batches loses the small ones."""

    def __init__(self, model, config):
        self.max_norm = config.max_grad_norm
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.master = [p.detach().to(torch.float32, copy=True) for p in self.weights]
        self.sums = [torch.zeros_like(p, dtype=torch.float32) for p in self.weights]
        self.adamw = torch.optim.AdamW(self.master, config.learning_rate, (0.9, 0.95), 1e-8,
                                       weight_decay=0.0, fused=True)
        for weight, total in zip(self.weights, self.sums):
            weight.register_post_accumulate_grad_hook(lambda w, total=total: self.collect(w, total))

    @staticmethod
    def collect(weight, total):
        """Called when a micro-batch's gradient of one weight is complete: sums it up and frees it."""
        total += weight.grad
        weight.grad = None

    @torch.no_grad()
    def step(self, loss):
        """Clips, steps, zeroes the sums. Returns the norm before clipping, and whether the step was
        skipped because the loss or the norm is not finite."""
        norm = torch.stack([total.norm() for total in self.sums]).norm().item()
        skipped = not (math.isfinite(loss) and math.isfinite(norm))
        if skipped:
            tqdm.write(f"step skipped: loss {loss}, gradient norm {norm}")
        else:
            for master, total in zip(self.master, self.sums):
                master.grad = total.mul_(min(1.0, self.max_norm / (norm + 1e-6)))
            self.adamw.step()
            for weight, master in zip(self.weights, self.master):
                weight.copy_(master)
        for total in self.sums:
            total.zero_()
        return norm, skipped


# ---- Loading, logging, saving --------------------------------------------------------------------

def load_models(config):
    """(tokenizer, Models) of a folder or hub name: bf16 on a GPU, float32 on a CPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32

    def load(trained):
        model = AutoModelForCausalLM.from_pretrained(config.model, dtype=dtype).to(device)
        return model.requires_grad_(trained)
    try:
        tokenizer, student = AutoTokenizer.from_pretrained(config.model), load(trained=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"cannot load the model {config.model}: {reason}") from None
    if config.gradient_checkpointing:
        student.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    taught = METHODS[config.method].context != ""
    frozen = config.beta > 0 or taught and config.teacher == "frozen"
    initial = load(trained=False) if frozen else None           # one copy serves as pi_0 and teacher
    teacher = {"live": student, "frozen": initial}.get(config.teacher) if taught else None
    if taught and config.teacher == "ema":
        teacher = load(trained=False)
    return tokenizer, Models(student, teacher, initial if config.beta > 0 else None,
                             load_kernels(config, device))


@torch.no_grad()
def move_teacher(models, config):
    """After each step, an ema teacher goes 1% of the way to the student."""
    if models.teacher is not None and config.teacher == "ema":
        for old, new in zip(models.teacher.parameters(), models.student.parameters()):
            old.lerp_(new, 0.01)


def mean(values):
    """The mean; nan where there is nothing."""
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def rollout_metrics(groups):
    """What a step's rollouts look like, as a flat dict."""
    rollouts = [r for group in groups for r in group]
    return {"reward": mean(r.reward for r in rollouts),
            "peer_share": mean(float(r.peer is not None) for r in rollouts),
            "all_right_share": mean(float(all(r.reward for r in group)) for group in groups),
            "all_wrong_share": mean(float(not any(r.reward for r in group)) for group in groups),
            "response_tokens": mean(len(r.response) for r in rollouts),
            "truncated_share": mean(float(r.truncated) for r in rollouts)}


class Run:
    """The run's folder: config.json, metrics.jsonl, checkpoint/."""

    def __init__(self, config):
        self.config, self.rows, self.past, self.out = config, [], {}, Path(config.out)
        if self.out.exists() and any(self.out.iterdir()):
            if not config.overwrite:
                raise InputError(f"{self.out} holds a run: give --overwrite, --resume or another --out")
            shutil.rmtree(self.out)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "config.json").write_text(json.dumps(asdict(config), indent=1))

    def log(self, row):
        """Appends a flat row to metrics.jsonl and prints its main figures."""
        self.rows.append(row)
        with open(self.out / "metrics.jsonl", "a") as file:
            file.write(json.dumps({k: None if v != v else v for k, v in row.items()}) + "\n")
        shown = ("reward", "kl", "peer_share", "response_tokens", "seconds")
        figures = [f"{name} {value:.3g}" for name, value in row.items() if name in shown or "/" in name]
        tqdm.write(f"step {row['step']:>4}  " + "  ".join(figures))

    def save(self, models, tokenizer):
        """Writes checkpoint/ in Hugging Face format."""
        models.student.save_pretrained(self.out / "checkpoint")
        tokenizer.save_pretrained(self.out / "checkpoint")

    def table(self):
        """Prints the first and the last evaluation side by side."""
        before, *_, after = [row for row in self.rows if "eval/pass@1" in row] * 2
        print(f"\n{'held-out':<24}{'before':>8}{'after':>8}")
        for name in before:
            if name != "step":
                print(f"{name:<24}{before[name]:>8.3f}{after[name]:>8.3f}")


def check(config):
    """Raises InputError, naming the field, where a value of Config makes no sense."""
    for name, allowed in (("method", METHODS), ("teacher", ("live", "frozen", "ema")),
                          ("peer_rule", PEER_RULES)):
        if getattr(config, name) not in allowed:
            raise InputError(f"--{name} {getattr(config, name)}: choose from {', '.join(allowed)}")
    for name, least in (("group_size", 1), ("questions_per_step", 1), ("max_new_tokens", 1), ("chunk_tokens", 1),
                        ("micro_batch_tokens", 1), ("rollout_batch", 1), ("eval_questions", 1), ("eval_samples", 1),
                        ("steps", 0), ("beta", 0), ("temperature", 0), ("learning_rate", 0)):
        if getattr(config, name) < least:
            raise InputError(f"--{name} {getattr(config, name)}: at least {least} is needed")


def main(argv=None):
    """The command line. Bad input: one line on stderr, exit code 2."""
    config, = HfArgumentParser(Config).parse_args_into_dataclasses(argv)
    try:
        check(config)
        train(config)
    except InputError as error:
        print(f"hsd.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
