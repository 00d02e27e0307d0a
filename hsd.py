"""Hindsight Self-Distillation (HSD, arXiv 2606.15576) in one file.

    python hsd.py                       a tiny Qwen3 learns arithmetic on a CPU, in a minute
    python hsd.py --model Qwen/Qwen3-8B --train_data train.jsonl --eval_data eval.jsonl

A rollout fails somewhere. An outcome reward (GRPO) tells all of its tokens the same thing; HSD
tells each token its own. A step of HSD, see train_step():

    sample_groups       G rollouts of each question
    verify_rollouts     each gets reward 1 or 0
    choose_peers        each gets a PEER, a successful rollout of the same group
    condition_teacher   the same model, shown the answer and the peer, is the TEACHER
    token_loss          the model without them, the STUDENT, learns on its own rollout:
                        KL(teacher || student) over the full vocabulary at every token

Where a rollout follows its peer, teacher and student agree; where it leaves that path, they part.
What is not here: a critic, a reward model, a second engine for the rollouts, LoRA, DeepSpeed,
configuration files.

Part I    the paper: prompts, rollouts, peers, methods, the loss, a step. Read this part.
Part II   the engine: GRPO's advantage and loss, the loss in chunks, reading and sampling,
          several GPUs, loading a model.
Part III  what counts as right: answers, programs, rows of data sets.
Part IV   a run: evaluation, metrics, the folder with its checkpoint, the command line.
Parts II to IV can be skipped: their functions do what their names say.

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
import threading
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, get_args, get_origin, get_type_hints

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of Ctrl-C while torch is imported
# These must be set before torch is imported. A CPU's threads sleep while they wait: beside another
# busy process, threads that spin make a step ten times as long. Expandable segments: a KV cache is
# allocated anew at each token, and would fragment a GPU's memory.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # its old name; who sets that keeps it
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

import mpmath
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import transformers
from safetensors import SafetensorError
from torch.distributed import fsdp
from torch.distributed.checkpoint import state_dict
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import AutoModelForCausalLM, GenerationConfig, HfArgumentParser


# ====================================== Part I: the paper =========================================
# ---- Problems and prompts ------------------------------------------------------------------------
@dataclass(frozen=True)
class Problem:
    """One question: of math, with an answer, or of code, with tests."""

    question: str
    answer: str | None = None  # a* in the paper
    solution: str | None = None  # an offline reference; of all methods only SDFT shows it
    tests: tuple = ()
    source: str = field(default="", repr=False, compare=False)  # the name of its file


# The paper prints no prompts, so these are ours. For the tiny model each sentence is one token:
# after a change, make it anew with data/make_tiny.py.
INSTRUCTION = "Reason step by step, and put your final answer within \\boxed{}."
CODE_INSTRUCTION = "Write a complete Python program, in one ```python block."
CONTEXTS = {
    "answer": "The correct answer is known to be:\n<answer>\n{}\n</answer>\n\n",
    "peer": "Another attempt at this question was checked and found correct:\n"
    "<attempt>\n{}\n</attempt>\n\n",
    "solution": "A worked solution of this question:\n<solution>\n{}\n</solution>\n\n",
}
CLOSING = (
    "Now solve the question yourself, from the beginning, "
    "as if you had not been shown any of this.\n"
)


def user_message(problem: Problem, context=()):
    """Return what the user says: the question q, for the teacher its context c_i as (kind, text)
    pairs, each kind a key of CONTEXTS, and the instruction."""
    hints = "".join(CONTEXTS[kind].format(text) for kind, text in context)
    if hints:
        hints += CLOSING
    instruction = CODE_INSTRUCTION if problem.tests else INSTRUCTION
    return f"{problem.question}\n\n{hints}{instruction}"


# ---- Rollouts and their verification (section 5) -------------------------------------------------
@dataclass
class Rollout:
    """One sampled response o_i. Its ids are trained; its text is verified, and shown as a peer."""

    problem: Problem
    prompt: list[int]  # what the student reads before it
    response: list[int]  # ends with the stop token, which is trained like any other
    text: str = ""
    truncated: bool = False  # cut at max_new_tokens, so without a stop token
    reward: float = 0.0
    unverified: bool = False  # the verifier itself failed
    peers: list[Rollout] = field(default_factory=list)  # S_i (Eq. 8), best first
    context: list[tuple[str, str]] = field(default_factory=list)  # c_i, as user_message() takes it
    teacher_prompt: list[int] = field(default_factory=list)
    advantage: float = 0.0  # A_i of the policy-gradient methods (Eq. 1)
    loss_weight: float = 0.0  # of each of its tokens, in the loss: see set_weights()
    mean_weight: float = 0.0  # 1/(N |o_i|) whatever the method, in the means that are logged
    logp: torch.Tensor | None = None  # log pi(o_t), [T]: where set_logp() was needed
    credit: torch.Tensor | None = None  # A_t (Eq. 2), [T]: in evaluations, by set_credit()

    @property
    def peer(self):
        """o_i+ (Eq. 9), or None."""
        return self.peers[0] if self.peers else None


def sample_groups(model, tokenizer, problems, size, config, seed, phase="rollouts", prompts=None):
    """Return a group of `size` rollouts o_i for each problem, not yet verified. All draws follow
    from the string `seed`. If `prompts` is None, they are the student's."""
    if prompts is None:
        prompts = [prompt_ids(tokenizer, user_message(p), config.thinking) for p in problems]
    copies = [prompt for prompt in prompts for _ in range(size)]
    stops = model.lm.generation_config.eos_token_id
    rollouts = []
    for i, response in enumerate(sample_responses(model, copies, stops, config, seed, phase)):
        text = tokenizer.decode(response, skip_special_tokens=True)
        truncated = response[-1] not in stops
        rollouts.append(Rollout(problems[i // size], copies[i], response, text, truncated))
    return [rollouts[i : i + size] for i in range(0, len(rollouts), size)]


def verify(problem, text):
    """Return whether a response is right, or None if the sandbox for programs failed. Math: has the
    last \\boxed{}, or else number, a*'s value? Code: does the last fenced block pass all tests?"""
    if problem.tests:
        blocks = re.findall(r"```[^\n]*\n(.*?)```", text, re.DOTALL)
        return run_tests(blocks[-1], problem.tests) if blocks else False
    candidate = extract_answer(text)
    return candidate is not None and math_equal(candidate, problem.answer)


def verify_rollouts(rollouts):
    """Set the reward R_i of each rollout. One that was cut scores 0, whatever stands in it. So does
    one whose verification failed, which is counted in the metrics. Both are trained as failures."""
    mine = rollouts[RANK::RANKS]
    with ThreadPoolExecutor(THREADS) as pool:  # for programs: other processes run them
        verdicts = pool.map(lambda r: not r.truncated and verify(r.problem, r.text), mine)
        verdicts = all_gather_list(list(progress(verdicts, "verification", len(mine))))
    for rollout, verdict in zip(rollouts, verdicts):
        rollout.unverified = verdict is None
        rollout.reward = 1.0 if verdict else 0.0


# ---- Peers and the teacher's context (Eq. 8, 9, 11) ----------------------------------------------
def divergence_point(a, b):
    """Return tau (Eq. 11), the first position where two lists differ, or where one of them ends."""
    for t, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return t
    return min(len(a), len(b))


PEER_RULES = {  # a peer with the smallest key is taken; among several, one is drawn
    "uniform": lambda rollout, peer: 0,  # Eq. 9
    "shortest": lambda rollout, peer: len(peer.response),  # this and the next two: Figure 4(d)
    "low_perplexity": lambda rollout, peer: -peer.logp.mean().item(),
    "high_perplexity": lambda rollout, peer: peer.logp.mean().item(),
    "nearest": lambda rollout, peer: -divergence_point(rollout.response, peer.response),  # ours
}


def choose_peers(group, rule, rng):
    """Set each rollout's peers, S_i = { j != i : R_j = 1 } (Eq. 8): shuffled, or all would be
    pulled onto the path of one and the same peer, then sorted by the rule. The first is o_i+. A
    lone success has no peer, and is the peer of all others.

    Without a peer the teacher sees a* alone; without a* too, as in code, there is no distillation
    loss. Such a rollout still counts in N (Eq. 13).
    """
    for rollout in group:
        peers = [peer for peer in group if peer.reward == 1 and peer is not rollout]
        rng.shuffle(peers)
        rollout.peers = sorted(peers, key=lambda peer: PEER_RULES[rule](rollout, peer))


def answer_alone(rollout):
    """c_i = a*. Code has no a* that is a text."""
    return [("answer", rollout.problem.answer)] if rollout.problem.answer else []


def peer_alone(rollout):
    """c_i = o_i+, or nothing without a peer."""
    return [("peer", rollout.peer.text)] if rollout.peer else []


def answer_and_peer(rollout):
    """c_i = (a*, o_i+), or a* alone without a peer: the endpoint fallback (Eq. 9)."""
    return answer_alone(rollout) + peer_alone(rollout)


def solution_alone(rollout):
    """c_i = an offline reference solution."""
    return [("solution", rollout.problem.solution)] if rollout.problem.solution else []


def condition_teacher(rollout, context: Callable, tokenizer, config):
    """Set a rollout's context c_i, by a function like those above, and the teacher's [q; c_i]. Each
    text of the context is cut by itself, at max_peer_tokens: a cut through the whole prompt would
    take away the instruction at its end, or the question at its beginning."""
    limit = config.max_peer_tokens
    rollout.context = [(kind, cut_text(tokenizer, text, limit)) for kind, text in context(rollout)]
    message = user_message(rollout.problem, rollout.context)
    rollout.teacher_prompt = prompt_ids(tokenizer, message, config.thinking)


# ---- Methods (Table 1) ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Method:
    """One row of Table 1. With one update per batch, the default, pi_old is pi: the ratio r is 1,
    with its gradient, and nothing is clipped; gspo is then grpo. beta is for all rows."""

    context: Callable | None = None  # rollout -> (kind, text) pairs; None: there is no teacher
    distill_weight: float = 0.0  # of KL(teacher || student)
    policy_weight: float = 0.0  # of the policy loss, -min(r A, clip(r) A)
    divide_by_std: bool = True  # A = (R - mean) / std (Eq. 1); else R - mean
    ratio: str = "token"  # r = pi(o_t) / pi_old(o_t); or one r for the whole "sequence"
    clip: tuple = (0.2, 0.2)  # r is clipped to [1 - low, 1 + high]
    mean_over: str = "rollouts"  # mean over tokens, then rollouts; "tokens"; "constant" length
    mixed_only: bool = False  # drop groups that are all right or all wrong; none is drawn anew
    overlong: bool = False  # a penalty on the last fifth of max_new_tokens
    reweight: bool = False  # multiply A by a factor per token, from teacher / student


METHODS = {
    "hsd": Method(answer_and_peer, distill_weight=1.0),  # Eq. 9
    "opsd": Method(answer_alone, distill_weight=1.0),  # 2601.18734; c = a* as in Table 1
    "sdft": Method(solution_alone, distill_weight=1.0),  # 2601.19897
    # 2601.20802, as its authors run math: another success of the group, no loss without one. Theirs
    # is a mean over all distilled tokens; here, as for the others, over tokens and then rollouts.
    "sdpo": Method(peer_alone, distill_weight=1.0),
    "grpo": Method(policy_weight=1.0),  # 2402.03300, Eq. 3
    "dr_grpo": Method(policy_weight=1.0, divide_by_std=False, mean_over="constant"),  # 2503.20783
    "dapo": Method(  # 2503.14476, Eq. 8 to 13
        policy_weight=1.0, clip=(0.2, 0.28), mean_over="tokens", mixed_only=True, overlong=True
    ),
    "gspo": Method(policy_weight=1.0, ratio="sequence", clip=(3e-4, 4e-4)),  # 2507.18071
    "rlsd": Method(answer_alone, policy_weight=1.0, reweight=True),  # 2604.03128, Eq. 13 to 15
    "grpo+opsd": Method(answer_alone, distill_weight=0.5, policy_weight=0.5),
}


# ---- Config (section 5) --------------------------------------------------------------------------
def option(default, text, **more):
    """A field of Config with its help."""
    return field(default=default, metadata={"help": f"{text} [{default}]", **more})


@dataclass
class Config:
    """Each field is a flag, --field value. [x] holds with --model: the paper's value, or ours where
    marked. (default: y) holds without --model, or with --lab: it is the lab's."""

    model: str = option("Qwen/Qwen3-8B", "folder or hub name of a causal LM")
    train_data: list[str] = option(None, "problems, files of JSON Lines or .gz of it")
    mix: list[int] = option(None, "4 1: four of file 1, one of file 2; if None, shuffled (ours)")
    eval_data: list[str] = option(None, "held-out problems, likewise; each file is a benchmark")
    out: str = option(None, "folder of the run; if None, runs/METHOD (METHOD-eval for 0 steps)")
    lab: bool = option(False, "take the lab's values, also where there is a --model")
    seed: int = option(0, "of the questions' order, the rollouts and the peers")
    # what is learnt
    method: str = option("hsd", "a row of Table 1", choices=METHODS)
    teacher: str = option("live", "whose weights teach", choices=("live", "frozen", "ema"))
    ema_decay: float = option(0.99, "of --teacher ema: what a step keeps of its weights (ours)")
    peer_rule: str = option("uniform", "which of S_i is the peer (Eq. 8)", choices=PEER_RULES)
    max_peer_tokens: int = option(4096, "tokens that the teacher sees of each text (ours)")
    beta: float = option(1e-3, "weight of KL(pi || pi_0); 0 loads no reference model")
    window: int = option(0, "train on tokens before tau + window, if a peer; 0: all (ours)")
    # rollouts
    questions_per_step: int = option(128, "questions Q of one step")
    group_size: int = option(8, "rollouts G of each question")
    temperature: float = option(1.0, "of the rollouts; 0, greedy, for --steps 0 alone")
    top_p: float = option(0.95, "nucleus of the rollouts, a probability")
    max_new_tokens: int = option(4096, "tokens of a response; one cut here scores 0")
    thinking: bool = option(False, "chat template's thinking mode, for student and teacher (ours)")
    rollout_tokens: int = option(294_912, "tokens, prompts included, generated at once (ours)")
    burst_tokens: int = option(512, "tokens sampled until rows that have ended leave (ours)")
    # updates
    steps: int = option(1500, "batches of Q x G rollouts; 0 only evaluates")
    updates_per_batch: int = option(1, "optimizer steps per batch, each on its share of it (ours)")
    learning_rate: float = option(1e-6, "AdamW's constant step size")
    max_grad_norm: float = option(1.0, "norm to which a gradient is clipped (ours)")
    micro_batch_tokens: int = option(12_288, "tokens of one backward pass (ours)")
    chunk_tokens: int = option(1024, "tokens whose logits are in memory at once (ours)")
    compile: bool = option(True, "torch.compile the loss")
    gradient_checkpointing: bool = option(True, "recompute activations in backward")
    # evaluation and checkpoints
    eval_every: int = option(100, "steps between evaluations; 0: before and after only (ours)")
    eval_questions: int = option(500, "of each file of --eval_data the first so many (ours)")
    eval_samples: int = option(16, "samples per question; pass@1 is their mean")
    save_every: int = option(50, "steps between checkpoints; 0: at the end only (ours)")
    resume: bool = option(False, "go on with the run in --out, with its settings")
    overwrite: bool = option(False, "begin anew where --out holds a run")

    def __post_init__(self):
        if self.out is None:
            self.out = f"runs/{self.method}" if self.steps else f"runs/{self.method}-eval"

    @property
    def off_policy(self):
        """Whether a policy loss trains other weights than pi_old, those that sampled."""
        return METHODS[self.method].policy_weight > 0 and self.updates_per_batch > 1


# ---- Weights and loss (Eq. 2, 10, 13) ------------------------------------------------------------
def set_weights(rollouts, mean_over: str, config):
    """Set what a token weighs. Every token of the N rollouts is trained, of right and wrong ones
    alike, with 1/(N |o_i|): a mean over tokens, then rollouts. (With --window, those up to it.) It
    is set before micro-batches are cut, so that their losses add up to one sum in any case."""
    N = len(rollouts)
    tokens = sum(len(r.response) for r in rollouts)
    for r in rollouts:
        r.mean_weight = 1 / (N * len(r.response))
        r.loss_weight = r.mean_weight
        if mean_over == "tokens":  # DAPO
            r.loss_weight = 1 / tokens
        if mean_over == "constant":  # Dr. GRPO's code; its paper prints no constant
            r.loss_weight = 1 / (N * config.max_new_tokens)


class Tokens(NamedTuple):
    """What the loss needs to know of tokens beside their logits; each [T], or [C] in a chunk."""

    ids: torch.Tensor  # o_t, int64; all others are float32
    loss_weight: torch.Tensor
    mean_weight: torch.Tensor
    has_context: torch.Tensor  # 1, or 0 where c_i is empty
    advantage: torch.Tensor
    old_logp: torch.Tensor | None  # log pi_old(o_t); None: r = 1, with its gradient
    fade: torch.Tensor  # RLSD's share of its factor: .5 at step 0, 0 from step 50 on


class TokenTerms(NamedTuple):
    """What the loss consists of, for the log; each [T] float32, in nats."""

    kl: torch.Tensor  # KL(teacher || student)
    kl_reference: torch.Tensor  # KL(student || pi_0)
    student_logp: torch.Tensor  # log pi_S(o_t)
    teacher_logp: torch.Tensor  # log pi_T(o_t); minus student_logp it is the credit A_t (Eq. 2)
    entropy: torch.Tensor  # of the student


def token_loss(student_logits, teacher_logits, reference_logits, t: Tokens, method, config):
    """Return the loss of C tokens, summed, and TokenTerms: Eq. 10 and 13, and Table 1. Logits are
    [C,V] float32, or None for no teacher and no pi_0. Autograd differentiates this function in
    student_logits, chunk by chunk (Part II), so that it can simply be edited."""
    kl_teacher = kl_reference = policy = teacher_logp = torch.zeros_like(t.loss_weight)
    # A policy loss is of the pi that sampled, at the rollouts' temperature. KLs are of the model
    # itself, at temperature 1: that is what learns.
    temperature = config.temperature if method.policy_weight else 1.0
    student_logp = log_prob(student_logits / temperature, t.ids)
    if teacher_logits is not None:
        kl_teacher = distillation_loss(teacher_logits, student_logits)
        teacher_logp = log_prob(teacher_logits / temperature, t.ids)
    if reference_logits is not None:
        kl_reference = kl(student_logits, reference_logits)
    if method.policy_weight:
        policy = policy_loss(student_logp, teacher_logp, t, method)
    loss = (
        method.distill_weight * t.has_context * kl_teacher
        + config.beta * kl_reference
        + method.policy_weight * policy
    )
    student_entropy = entropy(student_logits)
    terms = TokenTerms(kl_teacher, kl_reference, student_logp, teacher_logp, student_entropy)
    return (t.loss_weight * loss).sum(), terms


def distillation_loss(teacher_logits, student_logits):
    """KL(teacher || student) at each token (Eq. 10), [C]: the place for another divergence."""
    return kl(teacher_logits, student_logits)


def kl(p_logits, q_logits):
    """KL(p || q) = sum_v p (log p - log q) at each token, [C] nats."""
    p_norm = p_logits.logsumexp(-1, keepdim=True)
    q_norm = q_logits.logsumexp(-1, keepdim=True)
    # Neither softmax() nor log_softmax(): torch.compile would keep one more [C,V] tensor for each.
    p = (p_logits - p_norm).exp()
    return (p * (p_logits - q_logits)).sum(-1) + (q_norm - p_norm)[:, 0]


def read_responses(models, rollouts):
    """Return (hidden states [T,H], head [V,H]) of student, teacher and pi_0, or None for one that
    is not there. Their product is the logits of all T response tokens. The teacher reads
    [q; c_i; o_i], student and pi_0 read [q; o_i]: see LanguageModel."""
    prompts = [r.prompt for r in rollouts]
    responses = [r.response for r in rollouts]
    teacher = reference = None
    # No gradient reaches the teacher: the loss is differentiated in the student's logits alone.
    with torch.no_grad():
        if models.teacher is not None:
            teacher = models.teacher([r.teacher_prompt for r in rollouts], responses)
        if models.reference is not None:
            reference = models.reference(prompts, responses)
    return models.student(prompts, responses), teacher, reference


def batch_loss(models, rollouts, step, config):
    """Return the loss of one micro-batch, and figures to log. The sum over an update is, for HSD,

        J = 1/N sum_i 1/|o_i| sum_t [ KL_t(teacher || student) + beta KL_t(student || pi_0) ]

    (Eq. 13). The paper leaves the estimator of KL(pi || pi_0) open: ours is the exact one over the
    vocabulary, at each prefix that was visited.
    """
    method = METHODS[config.method]
    student, teacher, reference = read_responses(models, rollouts)
    t = tokens_of(rollouts, step, models.student.device)
    if config.off_policy:
        t = with_old_logp(t, rollouts, student, method, config)
    loss, terms = chunked_loss(student, teacher, reference, t, method, config)
    figures = {"loss": loss.item(), "entropy": (t.mean_weight @ terms.entropy).item()}
    if method.context:
        figures["kl"] = (t.mean_weight @ (t.has_context * terms.kl)).item()
    if config.beta:
        figures["kl_reference"] = (t.mean_weight @ terms.kl_reference).item()
    return loss, figures


# ---- The algorithm -------------------------------------------------------------------------------
def train_step(models, optimizer, tokenizer, problems, step, config):
    """One step, in the order of the paper: groups, verdicts, peers, teacher, updates."""
    method = METHODS[config.method]
    rng = random.Random(f"{config.seed} peers {step}")
    seed = f"{config.seed} {step}"
    groups = sample_groups(models.student, tokenizer, problems, config.group_size, config, seed)
    rollouts = [r for group in groups for r in group]
    verify_rollouts(rollouts)
    if config.off_policy or config.peer_rule in ("low_perplexity", "high_perplexity"):
        set_logp(models.student, rollouts, method, config)
    for group in groups:
        choose_peers(group, config.peer_rule, rng)
        set_advantages(group, method, config)
    if method.context:
        for rollout in rollouts:
            condition_teacher(rollout, method.context, tokenizer, config)

    if method.mixed_only:
        groups_kept = [group for group in groups if 0 < sum(r.reward for r in group) < len(group)]
        rollouts = [r for group in groups_kept for r in group]
    totals = Counter()
    norms = []
    updates = max(1, min(config.updates_per_batch, len(rollouts)))
    for i in range(updates):
        share = rollouts[i::updates]
        set_weights(share, method.mean_over, config)
        share = [cut_at_window(r, config.window) for r in share]  # it keeps its loss_weight
        batches = batches_of_this_rank(micro_batches(share, config.micro_batch_tokens))
        for j, batch in enumerate(progress(batches, "update")):
            sync_gradients(models.student, last=j == len(batches) - 1)
            loss, figures = batch_loss(models, batch, step, config)
            loss.backward()
            for name, value in figures.items():
                totals[name] += value
        norms.append(optimizer_step(models.student, optimizer, config))
    if method.context and config.teacher == "ema":
        for average, new in zip(models.teacher.parameters(), models.student.parameters()):
            average.lerp_(new.detach(), 1 - config.ema_decay)
    totals = all_reduce_sums(totals)
    figures = {name: total / updates for name, total in totals.items()}
    return rollout_metrics(groups) | figures | {"grad_norm": mean(norms)}


def train(config):
    """Run the method as `config` says: data, step, log, evaluate, save. Returns what was logged."""
    check(config)
    run = Run(config)
    train_problems, eval_problems = load_data(config)
    tokenizer, models = load_models(config)
    check_lengths(models.student, tokenizer, train_problems + eval_problems, config)
    optimizer = adamw(models.student, config) if config.steps else None
    run.start(tokenizer, models, optimizer, train_problems, eval_problems)
    if run.step == 0:
        run.log(*evaluate(models, tokenizer, eval_problems, config, 0))
    for step in range(run.step, config.steps):
        start = time.time()
        problems = questions_of_step(train_problems, step, config)
        row = train_step(models, optimizer, tokenizer, problems, step, config)
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


# ====================================== Part II: the engine =======================================
# ---- What only the policy-gradient methods need (Eq. 1, Table 1) ---------------------------------
def set_advantages(group, method: Method, config):
    """Set the advantage A_i of each rollout (Eq. 1); std is the unbiased one, as in public code."""
    rewards = torch.tensor([r.reward for r in group])  # [G]
    if method.overlong:  # DAPO's Eq. 13, halved: its rewards are -1 and 1, ours 0 and 1
        lengths = torch.tensor([len(r.response) for r in group])
        rewards = rewards - 0.5 * (5 * lengths / config.max_new_tokens - 4).clamp(min=0)
    advantages = rewards - rewards.mean()
    if method.divide_by_std and len(group) > 1:
        advantages = advantages / (rewards.std() + 1e-6)
    for rollout, advantage in zip(group, advantages.tolist()):
        rollout.advantage = advantage


def policy_loss(student_logp, teacher_logp, t: Tokens, method):
    """-min(r A, clip(r, 1 - low, 1 + high) A) at each token, [C]; r = pi(o_t) / pi_old(o_t)."""
    advantage = t.advantage
    if method.reweight:  # RLSD's Eq. 13 to 15: the verifier sets the sign, the teacher the size
        credit = t.has_context * (teacher_logp - student_logp).detach()
        factor = (advantage.sign() * credit).exp().clamp(0.8, 1.2)
        advantage = advantage * (1 - t.fade + t.fade * factor)
    old_logp = student_logp.detach() if t.old_logp is None else t.old_logp
    ratio = (student_logp - old_logp).exp()
    low, high = method.clip
    return -torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def with_old_logp(t: Tokens, rollouts, student, method, config):
    """Return t with log pi_old(o_t), read before the first update."""
    old_logp = torch.cat([r.logp for r in rollouts]).to(t.ids.device)
    if method.ratio == "sequence":
        # GSPO's Eq. 7 and 14: the tokens of a response share one ratio, exp(mean), of the mean of
        # log pi - log pi_old over them. The loss takes exp(log pi - old_logp); if old_logp is
        # log pi - mean, held constant, that is exp(mean), and its gradient that of log pi times it.
        with torch.no_grad():
            _, terms = chunked_loss(student, None, None, t, method, config)
        log_ratios = (terms.student_logp - old_logp).split([len(r.response) for r in rollouts])
        means = torch.cat([x.mean().expand(len(x)) for x in log_ratios])
        old_logp = terms.student_logp - means
    return t._replace(old_logp=old_logp)


# ---- The loss, a chunk of tokens at a time -------------------------------------------------------
def entropy(logits):
    """-sum_v p log p at each token, [C] nats."""
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    return -(log_p.exp() * log_p).sum(-1)


def log_prob(logits, ids):
    """log p(o_t) at each token, [C] nats."""
    # Not gather(): its derivative would scatter into one more [C,V] tensor.
    chosen = torch.arange(logits.shape[-1], device=ids.device) == ids[:, None]
    return torch.where(chosen, logits, 0.0).sum(-1) - logits.logsumexp(-1)


def matmul_float32(a, b, out=None):
    """a @ b, summed and returned in float32. Rounded to bf16, a product has lost the difference
    between teacher and student. On a CPU it is written to `out`, if not None."""
    if a.is_cuda and b.dtype == torch.bfloat16:
        return torch.mm(a.bfloat16(), b, out_dtype=torch.float32)
    return torch.mm(a.float(), b.float(), out=out)


def add_matmul_float32(total, a, b):
    """total += a @ b, likewise."""
    if a.is_cuda and b.dtype == torch.bfloat16:
        total.add_(matmul_float32(a, b))
    else:
        total.addmm_(a.float(), b.float())


@functools.cache
def differentiated_loss(method, beta, temperature, compile: bool):
    """Return a function that returns (gradient in student_logits, (loss, TokenTerms)): token_loss,
    differentiated, and compiled unless this machine has no compiler."""
    config = Config(beta=beta, temperature=temperature)
    loss = functools.partial(token_loss, method=method, config=config)
    function = torch.func.grad_and_value(loss, has_aux=True)
    if not compile:
        return function
    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except RuntimeError as error:  # no C++ compiler, or no Triton
        print0(f"torch.compile does not work here, running without it: {first_line(error)}")
        return function
    torch.compiler.config.recompile_limit = 64  # 8 would leave a process's later methods uncompiled
    return torch.compile(function, dynamic=True)  # the last chunk of a batch is shorter


def logits_of(side, rows, buffer):
    """Return the float32 logits [C,V] of some rows of (hidden states, head), or None for None. On a
    CPU they are written to the buffer [C,V]: there, to allocate takes as long as to multiply."""
    if side is None:
        return None
    hidden, head = side
    out = None if buffer is None else buffer[: len(hidden[rows])]
    return matmul_float32(hidden[rows], head.T, out)


class ChunkedLoss(torch.autograd.Function):
    """What chunked_loss() calls. forward() makes the gradients as well, while a chunk's logits are
    there; backward() hands them out."""

    @staticmethod
    def forward(ctx, hidden, head, teacher, reference, t, method, config, needs_gradient):
        settings = (config.beta, config.temperature, config.compile)
        loss_and_gradient = differentiated_loss(method, *settings)
        hidden_grad = torch.empty_like(hidden)
        head_grad = torch.zeros_like(head, dtype=torch.float32) if needs_gradient else None
        losses = []
        terms_of_chunks = []
        sides = ((hidden, head), teacher, reference)
        T = len(hidden)
        # Chunks of about one length: torch.compile would make a function anew for a last one of 1
        C = math.ceil(T / math.ceil(T / config.chunk_tokens))
        buffers = [None if s is None or s[0].is_cuda else torch.empty(C, len(s[1])) for s in sides]
        for start in range(0, T, C):
            rows = slice(start, start + C)
            logits = [logits_of(side, rows, buffer) for side, buffer in zip(sides, buffers)]
            t_chunk = Tokens(*(None if x is None else x[rows] for x in t))
            logits_grad, (loss, terms) = loss_and_gradient(*logits, t_chunk)
            del logits
            if needs_gradient:
                hidden_grad[rows] = matmul_float32(logits_grad, head)
                add_matmul_float32(head_grad, logits_grad.T, hidden[rows])
            losses.append(loss)
            terms_of_chunks.append(terms)
        ctx.save_for_backward(hidden_grad, head_grad)
        return sum(losses), TokenTerms(*map(torch.cat, zip(*terms_of_chunks)))

    @staticmethod
    def backward(ctx, scale, _):
        hidden_grad, head_grad = ctx.saved_tensors
        hidden_grad.mul_(scale)  # in place: to call backward() twice raises
        head_grad.mul_(scale)
        return hidden_grad, head_grad.to(hidden_grad.dtype), *[None] * 6


def chunked_loss(student, teacher, reference, t: Tokens, method, config):
    """Return token_loss over T tokens, a scalar, and TokenTerms, each [T], detached.

    student, teacher and reference are (hidden states [T,H], head [V,H]); the last two may be None.
    A token's logits take .6 MB for Qwen3-8B. In memory at the peak: for C tokens the logits of all
    three and the gradient in the student's; the head's gradient, [V,H] float32, and a chunk's share
    of it; and what is there before, above all the hidden states and the activations.
    """
    sides = (*student, teacher, reference)
    return ChunkedLoss.apply(*sides, t, method, config, torch.is_grad_enabled())


def kl_teacher_student(student_hidden, teacher_hidden, head, weights=None, chunk_tokens=1024):
    """For other people's code: sum_t w_t KL(teacher || student)_t over the vocabulary (Eq. 10), and
    the KLs, [T] float32 nats, detached. From hidden states [T,H], the head [V,H] and weights [T]
    (if None, 1/T each). The gradient reaches student_hidden and, through its side alone, the head.
    """
    T = len(student_hidden)
    ones = torch.ones(T, device=student_hidden.device)
    weights = ones / T if weights is None else weights.to(ones)
    t = Tokens(ones.long() - 1, weights, weights, ones, ones, None, ones)
    sides = [(hidden, head) for hidden in (student_hidden, teacher_hidden)]
    config = Config(beta=0.0, chunk_tokens=chunk_tokens)
    loss, terms = chunked_loss(*sides, None, t, METHODS["hsd"], config)
    return loss, terms.kl


# ---- Reading -------------------------------------------------------------------------------------
class LanguageModel(torch.nn.Module):
    """A causal LM of transformers, `lm`, that returns hidden states and head together: FSDP gathers
    the weights before a module's forward and frees them after, so the head has to leave by it."""

    def __init__(self, lm):
        super().__init__()
        self.lm = lm
        self.own_generation_config = lm.generation_config  # for checkpoints; ours samples
        self.device = lm.device
        self.dtype = lm.dtype

    def forward(self, prompts, responses):
        """Return the hidden states [T,H] that predict each response token, one response after the
        other, and the head [V,H]. T = sum |o_i|."""
        self.train(torch.is_grad_enabled())  # checkpointing works in train mode only
        texts = [torch.tensor(p + o[:-1]) for p, o in zip(prompts, responses)]
        # Padding is on the right and needs no mask: under causal attention nothing sees it.
        ids = pad_sequence(texts, batch_first=True).to(self.device)  # [B,width]
        states = self.lm.base_model(ids, use_cache=False).last_hidden_state
        hidden = [h[len(t) - len(o) : len(t)] for h, t, o in zip(states, texts, responses)]
        head = self.lm.get_output_embeddings().weight
        # A view, so that FSDP's backward hook fires; or a copy, since FSDP frees the weights of
        # frozen models after their forward.
        head = head.view_as(head) if head.requires_grad else head.clone()
        return torch.cat(hidden), head


def tokens_of(rollouts, step, device):
    """Return the Tokens of some rollouts, one rollout after the other."""
    fade = 0.5 * max(0.0, 1 - step / 50)
    rows = []
    for r in rollouts:
        row = (r.loss_weight, r.mean_weight, bool(r.context), r.advantage, fade)
        rows += [row] * len(r.response)
    ids = torch.tensor([token for r in rollouts for token in r.response], device=device)
    weight, mean_weight, has_context, advantage, fade = torch.tensor(rows, device=device).T
    return Tokens(ids, weight, mean_weight, has_context, advantage, None, fade)


def pack(items, length: Callable, max_tokens):
    """Return greedy batches of consecutive items whose padded size fits max_tokens, or of one."""
    batches = []
    longest = 0
    for item in items:
        longest = max(longest, length(item))
        if not batches or (len(batches[-1]) + 1) * longest > max_tokens:
            batches.append([])
            longest = length(item)
        batches[-1].append(item)
    return batches


def micro_batches(rollouts, max_tokens):
    """Return batches whose student prompts and responses take max_tokens, longest first."""

    def length(rollout):
        return len(rollout.prompt) + len(rollout.response)

    return pack(sorted(rollouts, key=length, reverse=True), length, max_tokens)


def cut_at_window(rollout, window):
    """Return the rollout without the tokens from tau + window on (Eq. 11), if it has a peer.

    Most credit lies before, and under causal attention no token needs what comes after it. Its
    tokens keep their weight in the loss; in the logged means they stand for the whole. logp is not
    cut: check() refuses a window for the methods that need it.
    """
    if window == 0 or rollout.peer is None:
        return rollout
    tau = divergence_point(rollout.response, rollout.peer.response)
    kept = rollout.response[: tau + window]
    mean_weight = rollout.mean_weight * len(rollout.response) / len(kept)
    return replace(rollout, response=kept, mean_weight=mean_weight)


@torch.no_grad()
def read_terms(models, rollouts, method, config):
    """Yield (rollout, its TokenTerms, each [T] float32 on the CPU). Every rank reads them all."""
    for batch in progress(micro_batches(rollouts, config.micro_batch_tokens), "credit"):
        t = tokens_of(batch, 0, models.student.device)
        _, terms = chunked_loss(*read_responses(models, batch), t, method, config)
        lengths = [len(r.response) for r in batch]
        yield from zip(batch, map(TokenTerms._make, zip(*(x.cpu().split(lengths) for x in terms))))


def set_logp(model, rollouts, method, config):
    """Set logp, log pi(o_t), of each rollout; for a policy method at the rollouts' temperature."""
    for r, terms in read_terms(Models(model, None, None), rollouts, method, config):
        r.logp = terms.student_logp


def set_credit(models, rollouts, config):
    """Set the credit A_t of each rollout, log pi_T(o_t) - log pi_S(o_t) (Eq. 2)."""
    for r, terms in read_terms(models, rollouts, METHODS["hsd"], config):
        r.credit = terms.teacher_logp - terms.student_logp


# ---- Prompts and sampling ------------------------------------------------------------------------
def apply_template(tokenizer, messages, thinking, **options):
    """tokenizer.apply_chat_template, but where a template writes today's date, it writes a fixed
    one: or prompts would change between a run and its resume."""
    date = "{% macro strftime_now(format) %}14 Jun 2026{% endmacro %}"
    options |= {"chat_template": date + tokenizer.get_chat_template(), "enable_thinking": thinking}
    return tokenizer.apply_chat_template(messages, **options)


def prompt_ids(tokenizer, message, thinking=False):
    """Return the token ids of a user's message, up to where the assistant begins to write. Student
    and teacher share it: with thinking on for one alone, their first tokens would disagree for no
    reason. The name of a control token in the message stays text."""
    if tokenizer.chat_template is None:
        return tokenizer(message + "\n", split_special_tokens=True).input_ids
    options = {"add_generation_prompt": True, "sanitize_control_tokens": True, "return_dict": False}
    return apply_template(tokenizer, [{"role": "user", "content": message}], thinking, **options)


def cut_text(tokenizer, text, max_tokens):
    """Return the first max_tokens tokens of a text, as text."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    return text if len(ids) <= max_tokens else tokenizer.decode(ids[:max_tokens])


def stop_tokens(lm, tokenizer):
    """Return what ends a response: the model's and the tokenizer's EOS, and the token with which
    the chat template closes a turn. ValueError if there is none."""
    stops = lm.generation_config.eos_token_id
    stops = set(stops) if isinstance(stops, list) else {stops}
    stops = (stops | {tokenizer.eos_token_id}) - {None}
    if tokenizer.chat_template is not None:
        turns = [{"role": "user", "content": "<q>"}, {"role": "assistant", "content": "<a>"}]
        text = apply_template(tokenizer, turns, thinking=False, tokenize=False)
        if text.count("<q>") != 1 or text.count("<a>") != 1:
            raise ValueError("its chat template drops or repeats a message")
        end = text.partition("<a>")[2]
        ids = tokenizer(end, add_special_tokens=False).input_ids
        added = tokenizer.added_tokens_decoder
        closing = [token for token in ids if token in added and added[token].content.strip()]
        if closing and not stops & set(closing):
            print0(f"the chat template closes a turn with {end.strip()}: it ends a response too")
            stops.add(closing[0])
    if not stops:
        raise ValueError("neither its generation_config nor its tokenizer has an EOS token")
    return sorted(stops)


def sample_responses(model, prompts, stops, config, seed, phase):
    """Return for each prompt the ids that were sampled, up to and with the stop token.

    Another engine, vLLM say, goes here. A call of generate() lasts until its longest row ends: so
    none samples more than `burst_tokens`, and rows that have not ended go on in the next round, in
    other calls, with what they have as their prompt. A call takes as many rows as fit into
    `rollout_tokens`. Its seed is made of `seed` and its number: no generator's state needs saving,
    and ranks, which take turns, draw what one rank would.
    """
    responses = [[] for _ in prompts]
    going = list(range(len(prompts)))  # rows that have not ended; all have sampled `done` tokens
    calls_before = 0
    unshard(model)  # or the ranks would wait for each other at every token
    for done in range(0, config.max_new_tokens, config.burst_tokens):
        if not going:
            break
        new_tokens = min(config.burst_tokens, config.max_new_tokens - done)
        burst = replace(config, max_new_tokens=new_tokens)
        texts = [prompts[i] + responses[i] for i in going]
        calls = pack(texts, lambda text, n=new_tokens: len(text) + n, config.rollout_tokens)
        numbered = list(enumerate(calls, calls_before))
        sampled = []
        for number, call in progress(numbered[RANK::RANKS], f"{phase} from token {done}"):
            if STOP and phase != "rollouts":  # an evaluation leaves nothing to save
                raise KeyboardInterrupt
            with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
                torch.manual_seed(random.Random(f"{seed} {number}").getrandbits(63))
                sampled.append(generate(model, call, stops, burst))
        new = [row for call in all_gather_list(sampled) for row in call]
        for i, row in zip(going, new):
            responses[i] += row
        going = [i for i in going if responses[i][-1] not in stops]
        calls_before += len(calls)
    torch.cuda.empty_cache()  # the update needs the KV cache's memory, in blocks of other sizes
    return responses


@torch.no_grad()
def generate(model, prompts, stops, config):
    """Return the ids that follow each prompt, up to and with the first stop token."""
    settings = GenerationConfig(eos_token_id=stops, pad_token_id=stops[0])
    settings.max_new_tokens = config.max_new_tokens
    # A burst's prompts are long. Recurrent models would lose their state between chunks.
    if not model.lm._is_stateful and model.lm._supports_default_dynamic_cache():
        settings.prefill_chunk_size = 256
    settings.do_sample = config.temperature > 0
    if settings.do_sample:  # top_k=0 is no top-k; None would be the model's own
        settings.update(temperature=config.temperature, top_p=config.top_p, top_k=0)
    pad = functools.partial(pad_sequence, batch_first=True, padding_side="left")
    ids = pad([torch.tensor(p) for p in prompts]).to(model.device)  # [B,width]
    mask = pad([torch.ones(len(p), dtype=torch.long) for p in prompts]).to(model.device)
    model.eval()  # in train mode checkpointing would drop the KV cache, and the text be wrong
    options = {"generation_config": settings, "synced_gpus": False}  # each rank has all weights
    output = model.lm.generate(ids, attention_mask=mask, **options)
    responses = []
    for row in output[:, ids.shape[1] :].tolist():  # what follows the first stop token is padding
        end = next((i for i, token in enumerate(row, 1) if token in stops), len(row))
        responses.append(row[:end])
    return responses


# ---- Several processes ---------------------------------------------------------------------------
# torchrun starts one process, a rank, per GPU. Each does its share of the calls of generate() and
# of the micro-batches, and FSDP shards the weights.
RANK = int(os.environ.get("RANK", "0"))
RANKS = int(os.environ.get("WORLD_SIZE", "1"))
THREADS = max(1, os.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # of a rank
NOW = {"phase": ""}  # for the message of an out-of-memory error


def progress(iterable, phase, total=None):
    """A progress bar over a phase of the run; on a pipe a line each half minute."""
    NOW["phase"] = phase
    often = {"mininterval": 0.1} if sys.stderr.isatty() else {"mininterval": 30, "delay": 30}
    yield from tqdm(iterable, phase, total, leave=False, disable=RANK > 0, **often)


def print0(text):
    """Print a line, from one rank alone, beside any progress bar."""
    if RANK == 0:
        tqdm.write(text)


def batches_of_this_rank(batches):
    """Return every RANKS-th batch. All ranks get equally many, since each waits for all others: the
    last round is filled up with a rollout that weighs nothing."""
    if not batches:
        return []
    filler = [replace(batches[-1][-1], loss_weight=0.0, mean_weight=0.0)]
    return (batches + [filler] * (-len(batches) % RANKS))[RANK::RANKS]


def sync_gradients(model, last: bool):
    """Have FSDP reduce gradients over the ranks in the next backward pass: in the last one of an
    update alone, where a GPU has room for its own float32 sums till then."""
    if isinstance(model, fsdp.FSDPModule):
        model.set_requires_gradient_sync(last or not model.keeps_sums)


def all_gather_list(mine):
    """Return the whole list, of which each rank has every RANKS-th element."""
    parts = [mine] * RANKS
    if RANKS > 1:
        dist.all_gather_object(parts, mine)
    return [parts[i % RANKS][i // RANKS] for i in range(sum(map(len, parts)))]


def all_reduce_sums(figures: dict):
    """Return the sums of named numbers over all ranks."""
    total = torch.tensor(list(figures.values()), dtype=torch.float64)
    if RANKS > 1:
        dist.all_reduce(total)
    return dict(zip(figures, total.tolist()))


def join_ranks():
    """Join the processes that torchrun started, or on a GPU a group of one. Returns the device."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if (cuda or RANKS > 1) and not dist.is_initialized():
        one = {} if RANKS > 1 else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", **one)
    if cuda and os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(THREADS)  # torchrun's 1 is too few for an AdamW on the host
    return "cuda" if cuda else "cpu"


def unshard(model):
    """Have each rank hold the whole model, until reshard(). On one CPU both do nothing."""
    for module in model.modules():
        if isinstance(module, fsdp.FSDPModule):
            module.unshard()


def reshard(model):
    """Have each rank hold its shards alone."""
    for module in model.modules():
        if isinstance(module, fsdp.FSDPModule):
            module.reshard()


def shard(model):
    """Hand a model to FSDP: on the host if masters, sums and moments take over a quarter of a GPU.

    The student's shards are float32 masters, gathered in the model's dtype at first use and kept
    until the optimizer's step; its gradients are summed in float32. Frozen models are gathered
    layer by layer, for a forward alone.
    """
    if not dist.is_initialized():  # one CPU
        return model
    parameters = list(model.parameters())
    size = sum(p.numel() for p in parameters)
    trained = parameters[0].requires_grad
    room = math.inf
    if model.device.type == "cuda":
        room = torch.cuda.get_device_properties(model.device).total_memory
    model.keeps_sums = 6 * size + 16e9 < room  # bf16 weights, float32 sums, a micro-batch
    options = {"mp_policy": fsdp.MixedPrecisionPolicy(model.dtype, torch.float32)}
    if 16 * size / RANKS > room / 4:  # bytes of masters, sums and two moments
        options["offload_policy"] = fsdp.CPUOffloadPolicy()
    layer_names = model.lm._no_split_modules or ()
    layers = [module for module in model.modules() if type(module).__name__ in layer_names]
    for part in [*layers, model]:
        part = part.float() if trained else part
        fsdp.fully_shard(part, reshard_after_forward=not trained, **options)
        part.set_reshard_after_backward(False)
        part.set_gradient_divide_factor(1.0)  # a sum: our weights know the whole batch
        part.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    with torch.no_grad():
        model([[0]], [[0, 0]])  # FSDP's root is what runs first: it must be the whole, not a layer
    reshard(model)  # the optimizer is to see the shards
    return model


# ---- The optimizer -------------------------------------------------------------------------------
def adamw(model, config):
    """AdamW on float32 weights, with the paper's constants. On bf16 weights almost every update of
    lr 1e-6 would round to zero."""
    options = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0, "fused": True}
    return torch.optim.AdamW(model.parameters(), config.learning_rate, **options)


def optimizer_step(model, optimizer, config):
    """Clip, step, zero_grad. Returns the norm before clipping; if it is not finite, no step.
    InputError if the weights are no longer finite: they are never saved."""
    reshard(model)  # the step changes the shards
    norm = number(torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm))
    if math.isfinite(norm):
        optimizer.step()
    else:
        print0(f"step skipped: the gradient's norm is {norm}")
    optimizer.zero_grad()
    with torch.no_grad():
        if not math.isfinite(number(torch.nn.utils.get_total_norm(model.parameters()))):
            raise InputError("the weights are no longer finite: a lower --learning_rate?")
    return norm


def number(x):
    """Return the number in a tensor, which may be spread over the ranks."""
    return (x.full_tensor() if isinstance(x, DTensor) else x).item()


# ---- Loading the models --------------------------------------------------------------------------
class Models(NamedTuple):
    """The student; its teacher, the student itself if live, or None; pi_0 or None."""

    student: LanguageModel
    teacher: LanguageModel | None
    reference: LanguageModel | None


def load_lm(path, device, trained: bool):
    """A LanguageModel: bf16 on a GPU, float32 on a CPU."""
    shape = transformers.AutoConfig.from_pretrained(path)
    if hasattr(shape, "quantization_config") or shape.is_encoder_decoder:
        raise ValueError("it is quantized, or has an encoder: neither can be trained here")
    # Teacher and student must not differ by chance. Dropout is not always an nn.Dropout module.
    for part in (shape, shape.get_text_config()):
        for name, value in vars(part).items():
            if isinstance(value, float) and re.search("drop|jitter", name):
                setattr(part, name, 0.0)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    options = {"config": shape, "dtype": dtype, "output_loading_info": True}
    lm, found = AutoModelForCausalLM.from_pretrained(path, **options)
    if found["missing_keys"]:  # transformers draws them at random, and again for pi_0
        raise ValueError(f"its weights lack {min(found['missing_keys'])}")
    return LanguageModel(lm.to(device).requires_grad_(trained))


def load_models(config):
    """Return (tokenizer, Models) of a folder or hub name. InputError, one line, for whatever is
    wrong with its weights, its tokenizer or its chat template."""
    NOW["phase"] = "loading"
    device = join_ranks()
    path = config.model
    has_teacher = METHODS[config.method].context is not None
    initial = average = None
    try:
        # A good tokenizer.json is used also where a tekken.json lies beside it
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, mistral_format=False)
        if not prompt_ids(tokenizer, "1+1=?", config.thinking):
            raise ValueError("its tokenizer has no vocabulary")
        student = load_lm(path, device, trained=True)
        stops = stop_tokens(student.lm, tokenizer)
        student.own_generation_config.eos_token_id = stops
        # generate() would fill what we leave open from the model's own: pi alone shall sample
        student.lm.generation_config = GenerationConfig(eos_token_id=stops)
        check_ids(student.lm, tokenizer, stops)
        student.fingerprint = fingerprint(student)
        if config.gradient_checkpointing:
            student.lm.gradient_checkpointing_enable({"use_reentrant": False})
        probe(student, config)
        student = shard(student)
        if config.beta or has_teacher and config.teacher == "frozen":  # one copy for both
            initial = shard(load_lm(path, device, trained=False))
        if has_teacher and config.teacher == "ema":  # bf16 would round its small steps away
            average = shard(load_lm(path, device, trained=False).float())
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # transformers raises what its many parts raise
        raise InputError(f"cannot use the model {path}: {first_line(error)}") from error
    teacher = {"live": student, "frozen": initial, "ema": average}[config.teacher]
    return tokenizer, Models(
        student, teacher if has_teacher else None, initial if config.beta else None
    )


def check_ids(lm, tokenizer, stops):
    """Raise ValueError for a token that has no row among the embeddings or in the head."""
    rows = min(len(lm.get_input_embeddings().weight), len(lm.get_output_embeddings().weight))
    for token in [*stops, *tokenizer.get_vocab().values()]:
        if type(token) is not int or not 0 <= token < rows:
            raise ValueError(f"its tokenizer has the token {token}, and its embeddings {rows} rows")


def fingerprint(model):
    """Return a number that tells whether weights, in bf16, are the same: the sum of their bits."""
    bits = (p.detach().bfloat16().view(torch.int16) for p in model.parameters())
    return sum(x.sum(dtype=torch.int64).item() for x in bits)


@torch.no_grad()
def probe(model, config):
    """Try on two texts what this file takes for granted of a causal LM. ValueError, which says what
    does not hold: log-probs or rollouts would be wrong, and nothing would tell."""
    head = model.lm.get_output_embeddings().weight
    embeddings = model.lm.get_input_embeddings().weight
    tolerance = 1e-4 if head.dtype == torch.float32 else 0.05  # relative
    ids = random.Random(0).choices(range(min(len(head), len(embeddings))), k=23)
    prompts = [ids[:3], ids[3:12]]
    responses = [ids[12:19], ids[19:]]

    def own_logits(responses):
        """The model's own logits, [T,V] float32, of each text by itself."""
        found = []
        for prompt, response in zip(prompts, responses):
            text = torch.tensor([prompt + response], device=model.device)
            logits = model.lm.eval()(text, attention_mask=torch.ones_like(text)).logits
            found.append(logits[0, len(prompt) - 1 : -1].float())
        return torch.cat(found)

    hidden, _ = model(prompts, responses)
    with torch.enable_grad():  # in train mode, twice: nothing may be random
        trained = [model(prompts, responses)[0] for _ in range(2)]
        torch.autograd.grad(trained[0].sum(), embeddings)  # raises if it cannot be trained
    largest = own_logits(responses).abs().max().item()
    if not math.isfinite(largest):
        raise ValueError("its weights, or its logits, are not finite")
    if max((x - hidden).abs().max() for x in trained) > tolerance * hidden.abs().max():
        raise ValueError("a pass in train mode is not what one in eval mode is")
    # On small logits a softcap does not show. So the head is scaled for a while, by a power of 2,
    # which is exact and can be undone.
    scale = 2.0 ** math.ceil(math.log2(64 / largest)) if largest else 1.0
    head.mul_(scale)
    hidden, _ = model(prompts, responses)
    logits = matmul_float32(hidden, head.T)
    want = own_logits(responses)
    continued = generate(model, prompts, [0], replace(config, temperature=0.0, max_new_tokens=6))
    next_logits = own_logits(continued)
    head.mul_(1 / scale)
    tolerated = tolerance * want.abs().max()
    if logits.shape != want.shape or (logits - want).abs().max() > tolerated:
        raise ValueError("its logits are not hidden states times head (scaled, capped, a bias?)")
    chosen = torch.tensor([token for ids in continued for token in ids], device=model.device)
    below_best = next_logits.max(-1).values - next_logits.gather(-1, chosen[:, None])[:, 0]
    if below_best.max() > tolerated:
        raise ValueError("prompts that are padded to the left do not go on as they do alone")


# ================================ Part III: what counts as right ==================================
# ---- Answers: LaTeX becomes Python's grammar, values are compared at twelve points ---------------
# `2\frac{x}{3}` becomes `'2' * frac({x, '3'})`, and ast.parse() reads that; nothing is evaluated by
# Python. value() walks the tree at twelve points, of which each gives every letter a value; what is
# rational is exact. An answer that cannot be read is compared as text.
GROUP = r"\{(?:\\.|[^{}\\]|" * 6 + "(?!)" + r")*\}" * 6  # braces in braces, up to six deep
BOX = rf"((?<![\w)}}\]])-\$?)?\\(?:boxed|fbox)\s*({GROUP})"
PROSE = (  # what ends a formula in a sentence:
    r"(?<![\\A-Za-z\d])(?!(?:and|or|million)\b)[A-Za-z]{2,}"  # a word, but not in 3rd, 2 or 3
    r"|\b[aAI](?=\s+[\d$\\(])|(?<=\d)-(?=[a-z]{2})"  # I have a 5, a 20-year-old
    r"|\n\s*(?:[-*+]\s)?|[.?](?=\s|$)|(?<=\S):(?=\s)|\\boxed\{"  # a line, a sentence, Answer: 5
)


def extract_answer(text: str) -> str | None:
    """The last box that is not empty; else the last number with the formula it is part of."""
    for minus, box in reversed(re.findall(BOX, text)):
        if inside := box[1:-1].strip():
            return f"-{box}" if minus else inside  # of -\boxed{3}
    parts = re.split(PROSE, text[-2_000:])
    last = next((part for part in reversed(parts) if re.search(r"\d", part)), "")
    last = re.sub(r"\\[()\[\]]|\$|^[\s,;]*(?:and|or)\b|\b(?:and|or)\W*$", "", last)
    last = re.sub(r"^[A-Za-z]\s*=\s*|^\(([^,()]*)\)$", r"\1", last.strip(" *#,;:="))  # x = 5, (5)
    return last if last and not re.match(r"[+]|-\s", last) else None  # x apples + 5


SPELLINGS = r"""~ \left \right \displaystyle \quad \qquad; - − –; * \cdot \times × ·; ^ **; / \div;
    \frac \dfrac \tfrac; \binomial \binom \dbinom; \sqrt √ sqrt; ∞ \infty; ∪ \cup; ∈ \in;
    ≈ \approx; ≤ \le \leq \leqslant <=; ≥ \ge \geq \geqslant >=; | \lvert \rvert; { \{; } \};
    {} \emptyset \varnothing; % \% percent; ° ^\circ ^{\circ} degrees; \$ dollars; , &; ),( \\;
    \log \ln ln log; \sin sin; \cos cos; \tan tan; α \alpha; β \beta; θ \theta; π \pi pi"""
SPELLINGS = {word: row.split()[0] for row in SPELLINGS.split(";") for word in row.split()}
SIGN = r"\^\{?\\circ\}?|\\?[A-Za-z]+|\\[^A-Za-z]|[<>]=|\*\*|&|[^\x00-\x7f]"
LETTER = r"[A-Za-zα-ω](?:_(?:\d+|[A-Za-z]))?"
MATH = "sin|cos|tan|cot|sec|csc|log|exp"
WORD = r'(?<![\\A-Za-z"])(?:[A-Za-z]{3,}|[ckm]m|kg|m[lL]|ft|or|to|[Nn]o|on|am|pm)(?![A-Za-z])'
UNIT = "unit|[ckm]?m|m[lL]|kg|ft|feet|inch|inche|mile|mph|cent|pound|hour|minute|second|day|week"
UNIT = rf'(?:"(?:{UNIT}|month|year|gram|gallon|liter|people|way|meter|degree|per)s?")+|[°%£€]|\\\$'
PARTS = rf'(?:({LETTER}(?:\(\w\))?)[=∈≈])?(.*?)(?:(?:"square"|"cubic")?({UNIT})(?:\^\{{?\d\}}?)?)?'
REWRITES = (
    (r"(?<=\d)(?:\{,\}|,?\\[!,]| )\s*(?=\d{3}(?!\d))", ""),  # 1{,}000, 1\,000 -> 1000
    (r"\\[,;:!()\[\] ]|(?<!\\)\$|~|[.,;]\s*$|(?<=[\d})])\s*≈.*", " "),  # 1/3 ≈ 0.33
    (r"\\(?:text(?:bf)?|math(?:rm|bf|it)|mbox|boldsymbol)\{([^{}]*)\}", r" \1 "),
    (r"\\begin\{(?:[pb]matrix|array)\}(?:\{[clr|]+\})?", r"(\\rows,("),  # (\rows,(1,2),(3,4))
    (r"(?:\),\(\s*)?\\end\{\w+\}", "))"),
    (WORD, lambda word: f'"{word[0].lower() if word[0].istitle() else word[0]}"'),
    (r"^\s*(-?)\s*(\\\$|[£€])(.*)", r"\1\3\2"),  # \$5 -> 5\$
    (r"\|([^|]+)\|", r"\\fabs{\1}"),
    (r"\(([^()\[\]]*,[^()\[\]]*)\]|\[([^()\[\]]*,[^()\[\]]*)\)", r"(\\halfopen,(\1),(\2))"),
    (r"_\{(\d+|[A-Za-z])\}(?!\d)", r"_\1"),  # x_{1} -> x_1
    (r"\\log_(\d+)", r"\\frac1{\\log\1}\\log "),  # \log_2x -> \frac1{\log2}\log x
    (r"(\\sqrt(?:\s*\[\d+\])?)\s*(\d+|[A-Za-zα-ω])", r"\1{\2}"),  # \sqrt12 -> \sqrt{12}
    (rf"\\sqrt\s*\[(\d+)\]\s*({GROUP})", r"\\root\2{\1}"),  # \sqrt[3]{x} -> \root{x}{3}
    (r"(\\(?:frac|binomial))\s*([\dA-Za-zα-ω])", r"\1{\2}"),  # \frac12 -> \frac{1}2
    (rf"(\\frac\s*{GROUP})\s*([\dA-Za-zα-ω])", r"\1{\2}"),  # \frac{1}2 -> \frac{1}{2}
    (r"(\\frac\{[^{}]*\}\{[^{}]*\}|\d[\seE])\s*(?=[\d.])", r"\1?"),  # 1 2 and 1e5 are not read
    (r"(?<![\w.^}])(\d+)\s*(\\frac\{\d+\}\{\d+\})", r"(\1+\2)"),  # 1\frac{1}{2}
    (rf"(\\(?:{MATH})(?![a-z]))\s*+((?:[\w.° ]|\^\w|\^?{GROUP}|\\frac|\\sqrt)+)", r"\1{\2}"),
    (r"((?<![\d.])\d+|[A-Za-z]|\([^()]*\))\s*!", r"\\factorial{\1}"),
    (r"\}\s*\{", ","),  # \frac{x}{3} -> \frac{x,3}
)
NAMES = f"{MATH}|sqrt|root|fabs|binomial|factorial"
TOKEN = rf"(\\(?:{NAMES}|frac|rows|halfopen)(?![a-z])|{LETTER})|([0-9.]+)|([-+*/^,=∪%∞()\[\]{{}}])"
UNKNOWN = (  # f(x+1), x(0), dy/dx
    r"(?<![\\A-Za-z])([fghFGHP]\(|[A-Za-df-hj-z][(\[]([^A-Za-z()]*|[A-Za-z])[)\]])|\{d\w?,d\w\}"
)
PYTHON = {"^": "**", "=": "==", "∪": "|", "∞": "oo", "%": "/ '100'", "{": "({", "}": "})"}


def plain(text: str) -> str:
    """An answer in one spelling of the several in use, nearer to Python's grammar."""
    if re.search(BOX, text):
        text = extract_answer(text) or text
    text = text if len(text) <= 400 else ""
    if not re.search(r"[(\[;]|\\\{|^\{|\b0,|\d{4},|,(?!\d{3}(?!\d))", text):  # it is no list
        text = re.sub(r"(?<=\d),(?=\d{3})", "", text)  # 1,000 -> 1000
    text = re.sub(SIGN, lambda sign: SPELLINGS.get(sign[0], sign[0]), text)
    for pattern, new in REWRITES:
        text = re.sub(pattern, new, text)
    return "".join(text.split())


@functools.lru_cache(10_000)
def tree(text: str) -> ast.expr:
    """An answer as a tree, with a `*` between what stands side by side, and quotes for numbers."""
    text = re.sub(r'[,;]?"(?:or|and)"|;', ",", text)  # 1 or 2 -> 1,2
    if re.sub(TOKEN, "", text) or re.search(UNKNOWN, text) or text.isalpha() and len(text) > 1:
        raise ValueError("no formula")
    words = []
    before = ","
    for name, number, sign in re.findall(TOKEN, text):
        if sign in ("", "(", "[", "{", "∞") and before[0] not in "([{-+*/^,=∪\\":
            words.append("*")
        if number:
            words.append(f"'{number}'")  # as text: a float has too few digits
        else:
            words.append(PYTHON.get(sign, sign) or name.lstrip("\\"))
        before = name or number or sign
    return ast.parse(f"{{{' '.join(words)}}}", mode="eval").body


MP = mpmath.MPContext()  # our own: nobody else's precision changes
MP.dps = 80  # 50 of them count; the others are for what cancels
MP_LOCK = threading.Lock()  # its functions change its precision for a while
CONSTANTS = {"e": MP.e * 1, "i": MP.mpc(0, 1), "π": MP.pi * 1, "oo": MP.inf}
FUNCTIONS = {name: getattr(MP, name) for name in NAMES.split("|")} | {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a + -b,  # a Fraction less an mpf is refused
    ast.Mult: lambda a, b: a * b if a and b else MP.nan,  # 0 would hide a word: 0 am
    ast.Div: lambda a, b: a * b**-1,
    "frac": lambda a, b: a * b**-1,
}


@functools.lru_cache(10_000)
def letter(name: str, point: int) -> Fraction:
    """A letter's value at a point: of either sign, whole or not, large or small."""
    rng = random.Random(f"7 {name} {point}")  # |a + b| is not |a| + |b| for any two letters
    return Fraction(rng.choice((-1, 1)) * rng.randint(1, 9999), (1, 30, 1000, 10_000)[point % 4])


def value(node: ast.expr, point: int):
    """A tree's value at a point: a number, or of a list its kind and then its items."""
    match node:
        case ast.Constant(str(number)):
            return Fraction(number)
        case ast.Name(name):
            return CONSTANTS[name] if name in CONSTANTS else letter(name, point)
        case ast.UnaryOp(sign, x):
            return -value(x, point) if isinstance(sign, ast.USub) else value(x, point)
        case ast.Compare(x, _, others):
            sides = [value(side, point) for side in (x, *others)]
            return sides[0] if all(same(side, sides[0]) for side in sides) else ("sides", *sides)
        case ast.BinOp(x, ast.BitOr(), y):
            return ("union", value(x, point), value(y, point))
        case ast.Tuple(items) | ast.List(items) | ast.Set(items):
            items = [value(item, point) for item in items]
            return items[0] if len(items) == 1 else (type(node).__name__, *items)
        case ast.BinOp(x, ast.Pow(), y):
            x = value(x, point)
            y = value(y, point)
            if x and abs(y * MP.log(abs(x))) > 23_000:
                raise OverflowError("more than 9,999 digits")
            result = x ** int(y) if y == int(y.real) else MP.power(x, y)
        case ast.BinOp(x, operator, y):
            result = FUNCTIONS[type(operator)](value(x, point), value(y, point))
        case ast.Call(ast.Name(name), [ast.Set(items)]) | ast.Call(ast.Name(name), items, []):
            result = FUNCTIONS[name](*(value(item, point) for item in items))
        case _:
            raise ValueError("no formula")
    exact = isinstance(result, Fraction)
    size = abs(result.numerator) + result.denominator if exact else abs(result)
    if not size < (10**9999 if exact else 1e50):  # or NaN
        raise OverflowError("more digits than are known")
    return result


@functools.lru_cache(10_000)
def same(a, b) -> bool:
    """Are two values one? In sets, unions and equations the order does not count."""
    if isinstance(a, tuple) and isinstance(b, tuple) and a[0] == b[0] and len(a) == len(b):
        if a[0] not in ("Set", "union", "sides"):
            return all(map(same, a[1:], b[1:]))
        counts = [[sum(same(x, y) for y in items[1:]) for x in a[1:]] for items in (a, b)]
        return counts[0] == counts[1]  # each item is as often in one as in the other
    if {type(a), type(b)} <= {tuple, Fraction} or tuple in (type(a), type(b)):
        return a == b
    return a == b or abs(a + -b) < MP.mpf(10) ** -50 * (abs(a) + abs(b) if a and b else 1)


def equal(a: str, b: str) -> bool:
    """Have two texts one value at every point where both have one, and at half of the points?"""
    points = 12 if re.search(r"(?<![\\a-z])[A-Za-zα-ω]", a + b) else 1
    agreed = 0
    for point in range(points):
        try:
            with MP_LOCK:
                if not same(value(tree(a), point), value(tree(b), point)):
                    return False
            agreed += 1
        except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
            continue  # a or b has no value there
    return agreed >= points / 2


def math_equal(candidate: str, answer: str) -> bool:
    """Are two answers one text, or of one value, with no other label and no other unit?"""
    a = plain(candidate)
    b = plain(answer)
    if a == b:
        return a != "" or candidate == answer != ""  # of a text too long to be read
    label, a, unit = re.fullmatch(PARTS, a).groups("")
    other_label, b, other_unit = re.fullmatch(PARTS, b).groups("")
    if label and other_label and label != other_label:  # x = 5 and y = 5
        return False
    if unit and other_unit and unit != other_unit:
        return False
    percent = "%" in (unit, other_unit)  # 50% is 50 or 0.5
    return equal(a, b) or percent and equal(a + unit, b + other_unit)


def readable(answer: str) -> bool:
    """Has an answer a value? One without can match as text only."""
    text = re.fullmatch(PARTS, plain(answer))[2]
    return equal(text, text)


# ---- Programs (section 5) ------------------------------------------------------------------------
def sandbox(task, lines, timeout=None):
    """Run data/sandbox.py, which may read numpy, SymPy and mpmath. Return how it ended."""
    options = ["-I", "-S", "-X", "utf8", "-X", "int_max_str_digits=0"]  # results of any length
    paths = [Path(folder, name) for name in ("numpy", "sympy", "mpmath") for folder in sys.path]
    packages = [str(path) for path in paths if (path / "__init__.py").is_file()]
    command = [sys.executable, *options, str(DATA / "sandbox.py"), str(task), *packages]
    limits = {"timeout": timeout, "env": {}, "start_new_session": True}
    text = "\n".join(lines).encode()
    return subprocess.run(command, check=False, input=text, capture_output=True, **limits)


def read_tests(rows):
    """Return for each row of code data a list of tests, or a text that says why they cannot be
    used. What which data set means by them is known to data/sandbox.py. InputError where it cannot
    confine programs."""
    if not rows:
        return []
    done = sandbox("read", map(json.dumps, rows))
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise InputError(f"programs take x86_64 Linux 5.13, Landlock and seccomp: {reason}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def run_tests(program, tests, timeout=10.0):
    """Return whether a program passes every test, each in `timeout` seconds, or None if the sandbox
    failed.

    data/sandbox.py confines the program to computing, within limits, and keeps from it what it
    ought to produce. It is no boundary against holes in the kernel: run code tasks in a container.
    """
    for start in range(0, len(tests), 50):  # each takes two open files
        part = tests[start : start + 50]
        is_script = [isinstance(test, dict) and "input" in test for test in part]
        lines = [json.dumps([program, is_script, timeout]), json.dumps(part)]
        try:
            status = sandbox(os.getpid(), lines, len(part) * timeout + 60).returncode
        except (OSError, subprocess.TimeoutExpired):
            return None
        if status in (91, -signal.SIGALRM):  # wrong; out of time
            return False
        if status != 90:
            return None
    return True


# ---- Rows of data sets ---------------------------------------------------------------------------
TESTS = ("tests", "test_list", "test", "input_output", "public_test_cases")  # keys of code data


def parse_problem(row):
    """Return the Problem in a JSON object with the keys of GSM8K, MATH, NuminaMath, AIME, DAPO,
    HumanEval, MBPP, APPS, LiveCodeBench or ours; its tests are not read. Raise InputError if there
    is no question."""
    if not isinstance(row, dict):
        raise InputError("not a JSON object")
    keys = ("question", "problem", "prompt", "text", "question_content")
    question = next((row[key] for key in keys if row.get(key)), "")
    if isinstance(question, list):  # DAPO: messages
        said = [x for x in question if isinstance(x, dict) and x.get("role") == "user"]
        question = said[-1].get("content") if said else ""
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"no text under {', '.join(keys)}")
    if isinstance(starter := row.get("starter_code"), str):
        question = f"{question.strip()}\n\n{starter}"
    answer = row.get("answer")
    solution = row.get("solution")
    if isinstance(row.get("reward_model"), dict):  # DAPO
        answer = row["reward_model"].get("ground_truth")
    if isinstance(answer, str) and "####" in answer:  # GSM8K
        solution, answer = (part.strip() for part in answer.rsplit("####", 1))
    if answer in (None, "") and isinstance(solution, str) and "\\boxed" in solution:  # MATH
        answer = extract_answer(solution)
    answer = str(answer).strip() if type(answer) in (int, float, str) else ""
    if not isinstance(solution, str | None):
        raise InputError("its solution is no text")
    # raises ValueError for lone surrogates
    json.dumps([question, answer, solution], ensure_ascii=False).encode()
    answer = None if answer in ("", "nan", "inf", "-inf") else answer
    return Problem(question.strip(), answer, solution)


def read_rows(path):
    """Return two dicts by line of a JSON Lines file, plain or .gz: its problems and, where they are
    of code, its JSON objects. InputError names file and line of what is no problem."""
    problems = {}
    rows = {}
    number = 0
    open_file = gzip.open if path.endswith(".gz") else open
    try:
        with open_file(path, "rb") as file:
            lines = file.read().split(b"\n")
        for number, line in enumerate(lines, 1):
            if text := line.decode("utf-8-sig").strip():
                row = json.loads(text)
                problems[number] = parse_problem(row)
                if any(row.get(key) for key in TESTS):
                    rows[number] = row
    # ValueError: of JSON, of UTF-8, of a number too long, or ours
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        where = f"{path}:{number}" if number else path
        raise InputError(f"{where}: {first_line(error)}") from None
    if not problems:
        raise InputError(f"{path} holds no problem")
    return problems, rows


def load_problems(path):
    """Return the problems of a file. Those without an answer, or whose tests cannot be used, are
    left out and counted; if they are more than half, InputError."""
    problems, rows = read_rows(path)
    tests = dict(zip(rows, read_tests(rows.values()), strict=True))
    kept = []
    unanswered = []
    untestable = []
    for number, problem in problems.items():
        found = tests.get(number)
        if isinstance(found, str):
            untestable.append(f"line {number}: {found}")
        elif found:
            kept.append(replace(problem, answer=None, tests=tuple(found)))
        elif problem.answer is None:
            unanswered.append(f"line {number}")
        else:
            kept.append(problem)
    reasons = {"without an answer": unanswered, "whose tests cannot be used": untestable}
    reasons = [f"{len(x):,} {why} (first: {x[0]})" for why, x in reasons.items() if x]
    left_out = len(problems) - len(kept)
    said = f"{path}: {len(kept):,} problems; left out {left_out:,}: {', '.join(reasons)}"
    if left_out > len(kept):
        raise InputError(said)
    if left_out:
        print0(said)
    return kept


# ======================================== Part IV: a run ==========================================
# ---- Data ----------------------------------------------------------------------------------------
def load_files(flag, paths, names, most=None):
    """Return the problems of some files, of each the first `most`; if None, all."""
    if len(set(names)) < len(names):
        raise InputError(f"{flag} {' '.join(paths)}: two files of one name")
    problems = []
    for path, name in zip(paths, names):
        problems += [replace(p, source=name) for p in load_problems(path)[:most]]
    return problems


def load_data(config):
    """Return (training, held-out) problems. Says, or refuses, what would leave the method idle."""
    if not config.eval_data or config.steps and not config.train_data:
        raise InputError("this model needs --train_data and --eval_data")
    problems = []
    if config.steps:
        if config.mix and len(config.mix) != len(config.train_data):
            raise InputError(f"--mix {config.mix}: one number for each file of --train_data")
        problems = load_files("--train_data", config.train_data, config.train_data)
    names = [re.sub(r"\.jsonl(\.gz)?$", "", Path(path).name) for path in config.eval_data]
    held_out = load_files("--eval_data", config.eval_data, names, config.eval_questions)
    answers = [p.answer for p in problems + held_out if p.answer]
    unread = sum(not readable(answer) for answer in progress(answers, "answers"))
    if unread:
        print0(f"{unread} of {len(answers)} answers have no value that can be read: texts to match")
    method = METHODS[config.method]
    unsolved = sum(not p.solution for p in problems)
    unanswered = sum(not p.answer for p in problems)
    if method.context is solution_alone and unsolved:
        raise InputError(f"--method {config.method}: {unsolved} problems have no solution")
    if method.context is answer_alone and unanswered:
        print0(f"{unanswered} of {len(problems)} problems have no answer: no teacher for them")
    return problems, held_out


def check_lengths(model, tokenizer, problems, config):
    """Raise InputError if the teacher's prompt and a response may take more positions than there
    are: under the context of the method or, as in evaluations, under HSD's."""
    tokens = 0
    most_peers = max(config.group_size, config.eval_samples) - 1
    for context in {METHODS[config.method].context or answer_and_peer, answer_and_peer}:
        peers = [[Rollout(p, [], [])] * most_peers for p in problems]  # as yet without a text
        rollouts = [Rollout(p, [], [], peers=group) for p, group in zip(problems, peers)]
        longest = sorted(rollouts, key=lambda r: len(user_message(r.problem, context(r))))[-32:]
        for r in longest:
            condition_teacher(r, context, tokenizer, config)
            shown = sum(kind == "peer" for kind, _ in r.context)
            peer_tokens = shown * min(config.max_peer_tokens, config.max_new_tokens)
            tokens = max(tokens, len(r.teacher_prompt) + peer_tokens + config.max_new_tokens)
    shape = vars(model.lm.config.get_text_config())
    positions = shape.get("max_position_embeddings", math.inf)  # recurrent models have none
    rope = shape.get("rope_parameters") or {}
    for part in (rope, *rope.values()):  # one of all layers, or one of each kind of layer
        if isinstance(part, dict) and part.get("rope_type") == "longrope":
            # Beyond these a text's positions depend on the longest text of its batch
            positions = min(positions, part["original_max_position_embeddings"])
    if tokens > positions:
        reason = f"the teacher's prompt and a response may take {tokens} of {positions} positions"
        raise InputError(f"{reason}: lower --max_new_tokens or --max_peer_tokens")


def questions_of_step(problems, step, config):
    """Return the Q problems of a step, counted from 0. The order of a pass over a file follows from
    seed and pass alone, so a resumed run needs to know nothing but its step."""
    Q = config.questions_per_step
    files = [problems]
    if config.mix:
        names = dict.fromkeys(p.source for p in problems)  # in their order
        files = [[p for p in problems if p.source == name] for name in names]
    counts = config.mix or [1]
    # the file of each question in a cycle: for --mix 4 1 it is 0 0 0 0 1
    turns = [i for i, count in enumerate(counts) for _ in range(count)]

    @functools.cache
    def order_of_pass(i, number):
        return random.Random(f"{config.seed} order {number}").sample(files[i], len(files[i]))

    found = []
    for place in range(step * Q, (step + 1) * Q):
        cycle, turn = divmod(place, len(turns))
        i = turns[turn]
        before = cycle * counts[i] + turns[:turn].count(i)  # taken from this file so far
        number, k = divmod(before, len(files[i]))
        found.append(order_of_pass(i, number)[k])
    return found


# ---- Evaluation and metrics ----------------------------------------------------------------------
def evaluate(models, tokenizer, problems, config, step):
    """Return a row to log, and at most 128 failed rollouts with their credit. Contexts are HSD's,
    for all methods. teacher_pass@1 is of the student, so shown; the credit is of the run's teacher,
    or of the student where there is none."""
    n = config.eval_samples
    seed = f"{config.seed} eval"
    rng = random.Random(config.seed)
    student, teacher, _ = models
    groups = sample_groups(student, tokenizer, problems, n, config, seed, "evaluation")
    rollouts = [r for group in groups for r in group]
    verify_rollouts(rollouts)
    row = {"step": step}
    benchmarks = {"eval": groups}
    names = dict.fromkeys(p.source for p in problems)
    if len(names) > 1:
        for name in names:
            benchmarks[f"eval/{name}"] = [g for g in groups if g[0].problem.source == name]
    for name, part in benchmarks.items():
        successes = [int(sum(r.reward for r in group)) for group in part]
        for k in sorted({1, min(n, 8), n}):
            row[f"{name}/pass@{k}"] = mean(pass_at_k(n, c, k) for c in successes)
    for group in groups:
        choose_peers(group, "uniform", rng)
    for r in rollouts:
        condition_teacher(r, answer_and_peer, tokenizer, config)
    with_peer = [[r for r in group if r.peer] for group in groups]
    hinted = [group[0] for group in with_peer if group]  # of each question one
    asked = [r.problem for r in hinted]
    options = {"phase": "self-teacher", "prompts": [r.teacher_prompt for r in hinted]}
    groups = sample_groups(student, tokenizer, asked, 1, config, f"{seed} teacher", **options)
    hinted = [r for (r,) in groups]
    verify_rollouts(hinted)
    row["eval/teacher_pass@1"] = mean(r.reward for r in hinted)
    failed = [r for r in rollouts if r.peer and not r.reward][:128]
    set_credit(Models(student, teacher or student, None), failed, config)
    row["eval/credit_share@8"] = credit_share(failed, 8)
    return row, failed


def pass_at_k(n, c, k):
    """The unbiased estimate of pass@k from c successes in n >= k samples (2107.03374)."""
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def credit_share(rollouts, w):
    """Share of sum_t |A_t| within |t - tau| <= w, pooled over failed rollouts (Table 5)."""
    near = total = 0.0
    for r in rollouts:
        tau = divergence_point(r.response, r.peer.response)
        if tau < len(r.response):  # a prefix of its peer never diverges
            near += r.credit[max(0, tau - w) : tau + w + 1].abs().sum().item()
            total += r.credit.abs().sum().item()
    return near / total if total else math.nan


def mean(values):
    """The mean; nan where there is nothing."""
    return torch.tensor(list(values), dtype=torch.float64).mean().item()


def rollout_metrics(groups):
    """Figures of a step's rollouts."""
    rollouts = [r for group in groups for r in group]
    rates = [mean(r.reward for r in group) for group in groups]
    return {
        "reward": mean(rates),
        "peer_share": mean(r.peer is not None for r in rollouts),
        "coverage": mean(r.peer is not None and not r.reward for r in rollouts),  # Eq. 12
        "all_right_share": mean(p == 1 for p in rates),
        "all_wrong_share": mean(p == 0 for p in rates),
        "response_tokens": mean(len(r.response) for r in rollouts),
        "truncated_share": mean(r.truncated for r in rollouts),
        "unverified": sum(r.unverified for r in rollouts),
    }


def collapsing(rows):
    """Whether the mean reward of the last five steps is less than half that of the best five."""
    rewards = [row["reward"] for row in rows if "reward" in row]
    fives = [mean(rewards[i : i + 5]) for i in range(len(rewards) - 4)]
    return bool(fives) and fives[-1] < max(fives) / 2


def pieces(tokenizer, ids):
    """Return a text for each token; together they are the decoded response. A token by itself has
    no text where a character takes several, and loses its space where spaces are between words."""
    texts = []
    start = end = 0  # what is before `end` is in `texts`; it is decoded from `start` on
    for i in range(1, len(ids) + 1):
        before = tokenizer.decode(ids[start:end], skip_special_tokens=True)
        text = tokenizer.decode(ids[start:i], skip_special_tokens=True)
        if text.endswith("\ufffd") and i < len(ids):  # a part of a character
            texts.append("")
        else:
            texts.append(text[len(before) :])
            start = end
            end = i
    return texts


@torch.no_grad()
def credit_rows(models, tokenizer, failed, config):
    """Return what the page shows of failed rollouts: also their credit under the answer alone."""
    models = Models(models.student, models.teacher or models.student, None)
    alone = [replace(r) for r in failed]
    for r in alone:
        condition_teacher(r, answer_alone, tokenizer, config)
    set_credit(models, alone, config)

    def top5(model, prompts):
        """For each prompt, the five likeliest next tokens and their probabilities."""
        found = []
        for batch in pack(prompts, len, config.micro_batch_tokens):
            hidden, head = model(batch, [[0]] * len(batch))
            p, ids = matmul_float32(hidden, head.T).softmax(-1).topk(5)  # [B,5]
            tokens = [tokenizer.batch_decode([[token] for token in row]) for row in ids.tolist()]
            found += [list(zip(*pair)) for pair in zip(tokens, p.tolist())]
        return found

    taus = [divergence_point(r.response, r.peer.response) for r in failed]
    before = [r.response[:tau] for r, tau in zip(failed, taus)]
    teacher = top5(models.teacher, [r.teacher_prompt + x for r, x in zip(failed, before)])
    student = top5(models.student, [r.prompt + x for r, x in zip(failed, before)])
    rows = []
    for i, (r, tau) in enumerate(zip(failed, taus)):
        row = {"question": r.problem.question, "answer": r.problem.answer or "", "reward": r.reward}
        row |= {"tau": tau, "tokens": pieces(tokenizer, r.response)}
        row["peer_tokens"] = pieces(tokenizer, r.peer.response)
        row |= {"credit": r.credit.tolist(), "credit_answer_only": alone[i].credit.tolist()}
        row["top5"] = {"teacher": teacher[i], "student": student[i]}
        rows.append(row)
    return rows


# ---- The folder of a run -------------------------------------------------------------------------
MAY_DIFFER = ("steps", "save_every", "eval_every", "resume", "overwrite", "out", "lab")
MAY_DIFFER += ("model", "train_data", "eval_data")  # what they hold may not: Run.start()
# These change the order of sums or, the first two, the draws, and nothing else
NOT_BIT_EQUAL = ("rollout_tokens", "burst_tokens", "micro_batch_tokens", "chunk_tokens", "compile")


def read_json(path):
    """Return the JSON object in a file. InputError if there is none."""
    try:
        if path.is_fifo():
            raise OSError("it is a pipe")
        return {**json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, RecursionError, TypeError) as error:
        raise InputError(f"cannot read {path}: {first_line(error)}") from None


def digest(path):
    """Return the SHA-256 of a file; None if there is none."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache  # a process may come back to its folder
def lock(folder):
    """Make a run's folder and keep other processes out of it while this one lives."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{folder}: another process is at work there") from None


class Run:
    """The folder of a run: config.json, metrics.jsonl, credit.jsonl, credit.html, and checkpoint/,
    a Hugging Face folder with what it takes to go on. No generator's state is in it: all draws
    follow from seed and step."""

    def __init__(self, config):
        self.config = config
        self.out = Path(config.out)
        self.last = None  # the checkpoint to go on from
        self.step = 0
        self.rows = []
        if RANK == 0 and self.out.exists():
            lock(self.out)
        about = self.out / "config.json"
        ours = about.exists() and "peer_rule" in read_json(about)
        reads = [config.model, *(config.train_data or []), *(config.eval_data or [])]
        reads = [Path(path).resolve() for path in reads if Path(path).exists()]
        out = Path(os.path.realpath(self.out))  # resolve() would raise in a loop of links
        if config.resume and (config.overwrite or not config.steps):
            raise InputError("--resume goes on: neither --overwrite nor --steps 0 goes with it")
        if config.resume:
            self.read_state()
        elif self.out.exists() and any(self.out.iterdir()) and not ours:
            raise InputError(f"{self.out} holds something, but no run: choose another --out")
        elif ours and not config.overwrite and read_json(about).get("steps"):
            raise InputError(f"{self.out} is in use: --resume, --overwrite or another --out?")
        elif any(out in (path, *path.parents) for path in reads):
            raise InputError(f"{self.out} holds what this run is to read: choose another --out")

    def read_state(self):
        """Read the last checkpoint. InputError if it is not whole, or of other settings."""
        folders = [self.out / "checkpoint", self.out / "checkpoint.old"]
        self.last = next((folder for folder in folders if folder.exists()), folders[0])
        saved = read_json(self.last / "manifest.json")
        for name in ["run.json", *saved]:
            if saved.get(name) is None or saved[name] != digest(self.last / name):
                raise InputError(f"cannot resume: {self.last / name} is not what was saved")
        state = read_json(self.last / "run.json")
        try:
            self.step = state["step"]
            self.rows = state["rows"]
            self.inputs = dict(state["inputs"])
            saved_config = dict(state["config"])
            right = type(self.step) is int and self.step == self.rows[-1]["step"] > 0
        except (KeyError, IndexError, TypeError, ValueError):
            right = False
        if not right:
            raise InputError(f"cannot resume: {self.last / 'run.json'} is not what a run saves")
        for name, old in saved_config.items():
            new = vars(self.config).get(name)
            if new != old and name in NOT_BIT_EQUAL:
                print0(f"--{name} was {old}: the run goes on, but not bit by bit as it would have")
            elif new != old and name not in MAY_DIFFER:
                raise InputError(f"cannot resume: --{name} was {old} and is {new}")

    def start(self, tokenizer, models, optimizer, train_problems, eval_problems):
        """Take weights, moments and teacher from the checkpoint, and write what the run is."""
        self.tokenizer = tokenizer
        self.models = models
        self.optimizer = optimizer
        inputs = {"--model": models.student.fingerprint}
        for flag, problems in (("--train_data", train_problems), ("--eval_data", eval_problems)):
            sizes = list(Counter(p.source for p in problems).values())  # which --mix needs
            inputs[flag] = hashlib.sha256(repr((problems, sizes)).encode()).hexdigest()
        if self.last:
            for flag, now in inputs.items():
                if now != self.inputs.get(flag):
                    raise InputError(f"cannot resume: what {flag} names is not what it was")
            # Into the very tensors that model, optimizer and teacher hold, each rank its shards
            try:
                dcp.load(self.tensors(), checkpoint_id=self.last / "tensors")
            except (CheckpointException, RuntimeError, ValueError) as error:
                raise InputError(f"cannot resume: {first_line(error)}") from None
        self.inputs = inputs
        if RANK == 0:
            lock(self.out)
        if RANK == 0 and self.config.overwrite:
            for name in ("checkpoint", "checkpoint.new", "checkpoint.old"):
                shutil.rmtree(self.out / name, ignore_errors=True)
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        self.write("config.json", [asdict(self.config) | versions])
        if self.config.steps:
            self.check_shared()
        self.write("metrics.jsonl", self.rows)
        weights = next(models.student.parameters())  # on the host where FSDP offloads them
        size = sum(p.numel() for p in models.student.parameters())
        where = f"{models.student.dtype} on {models.student.device} x {RANKS}"
        print0(f"{self.config.model}: {size:,} parameters, {where}; masters on {weights.device}")

    def write(self, name, rows):
        """Write a file of the folder, a JSON text a line: whole, or not at all."""
        if RANK == 0:
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (self.out / f"{name}.new").write_text(text, encoding="utf-8")
            (self.out / f"{name}.new").rename(self.out / name)

    def check_shared(self):
        """Raise InputError if a rank does not see the folder of rank 0: checkpoints would lack what
        it saves."""
        for _ in range(60):  # a network's disk may show a new file late
            if len(set(all_gather_list([digest(self.out / "config.json")]))) == 1:
                return
            time.sleep(1)
        raise InputError(f"{self.out} is not one folder for all ranks: choose one that they share")

    def tensors(self):
        """Return what the optimizer's steps change: weights, moments, an EMA teacher."""
        model, optim = state_dict.get_state_dict(self.models.student, self.optimizer)
        state = {"model": model, "optim": optim}
        if self.config.teacher == "ema" and self.models.teacher is not None:
            state["teacher"] = state_dict.get_model_state_dict(self.models.teacher)
        return state

    def save(self, step):
        """Write checkpoint.new/, its digests last; then let it take checkpoint/'s place."""
        new, last, old = (self.out / f"checkpoint{end}" for end in (".new", "", ".old"))
        student = self.models.student
        state = {"step": step, "rows": self.rows, "config": asdict(self.config)}
        state["inputs"] = self.inputs
        reshard(student)
        to_rank_0 = state_dict.StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = state_dict.get_model_state_dict(student.lm, options=to_rank_0)
        try:
            if RANK == 0:
                shutil.rmtree(new, ignore_errors=True)
                tied = student.lm.all_tied_weights_keys  # a tied head is not saved twice
                weights = {k: v.to(student.dtype) for k, v in weights.items() if k not in tied}
                student.lm.save_pretrained(new, state_dict=weights)
                student.own_generation_config.to_json_file(new / "generation_config.json")
                self.tokenizer.save_pretrained(new)
                (new / "run.json").write_text(json.dumps(state))
                for path in new.glob("*.safetensors"):  # they are written for the owner alone
                    path.chmod((new / "run.json").stat().st_mode)
            dcp.save(self.tensors(), checkpoint_id=new / "tensors")  # all ranks
            if RANK == 0:
                paths = [path for path in new.rglob("*") if path.is_file()]
                manifest = {str(path.relative_to(new)): digest(path) for path in paths}
                (new / "manifest.json").write_text(json.dumps(manifest))
                if last.exists():
                    shutil.rmtree(old, ignore_errors=True)
                    last.rename(old)
                new.rename(last)
                shutil.rmtree(old, ignore_errors=True)
        except (OSError, RuntimeError, SafetensorError, CheckpointException) as error:
            reason = f"cannot save: {first_line(error)}; the last checkpoint is intact"
            raise InputError(reason) from None

    def due(self, step, every):
        """Whether it is time for what happens every so many steps, and at the end."""
        return step == self.config.steps or every > 0 and step % every == 0

    def stopping(self):
        """Whether any rank was asked to stop."""
        return all_reduce_sums({"signals": len(STOP)})["signals"] > 0

    def log(self, row, failed=None):
        """Add a flat row to metrics.jsonl, nan as null, and print its main figures. With the failed
        rollouts of an evaluation, write their credit and the page too."""
        collapsed = collapsing(self.rows)
        self.rows.append({k: v if math.isfinite(v) else None for k, v in row.items()})
        self.write("metrics.jsonl", self.rows)
        shown = ("reward", "kl", "peer_share", "response_tokens", "seconds")
        lines = {"": []}  # and one for each benchmark
        for key, value in row.items():
            name, _, figure = key.rpartition("/")
            if key in shown or name == "eval":
                lines[""].append(f"{key} {value:.3g}")
            elif name:
                lines.setdefault(name, []).append(f"{figure} {value:.3g}")
        print0(f"step {row['step']:>4}  " + "  ".join(lines.pop("")))
        for name, figures in lines.items():
            print0(f"    {name.removeprefix('eval/'):<24}  " + "  ".join(figures))
        if row["step"] == 1 and row.get("reward") == 0:
            print0(f"every reward is 0; rollouts that were cut: {row['truncated_share']:.0%}")
        if collapsing(self.rows) and not collapsed:
            live = METHODS[self.config.method].context and self.config.teacher == "live"
            advice = "--teacher frozen, or " if live else ""
            why = "the reward of five steps is less than half its best"
            print0(f"this run collapses: {why}. Begin anew with {advice}a lower --learning_rate")
        if failed is not None:
            credit = credit_rows(self.models, self.tokenizer, failed, self.config)
            self.write("credit.jsonl", credit)
            self.write_page(credit)
            for r in credit[:1]:
                path = "".join(r["tokens"][: r["tau"]]) + "><" + "".join(r["tokens"][r["tau"] :])
                peer = "".join(r["peer_tokens"])
                print0(f"  {r['question']}\n    failed  {path}\n    peer    {peer}")

    def write_page(self, credit):
        """Write credit.html, data/page.html with rows and credit in it; or these alone."""
        page = "<meta charset=utf-8><pre>__DATA__</pre>"
        if (DATA / "page.html").exists():
            page = (DATA / "page.html").read_text(encoding="utf-8")
        title = f"{self.config.method} on {Path(self.config.model).name}"
        runs = [{"name": self.out.name, "label": self.config.method, "rows": self.rows}]
        data = json.dumps({"title": title, "rollouts": credit, "runs": runs})
        page = page.replace("__DATA__", data.replace("<", "\\u003c"))  # no text ends the script
        if RANK == 0:
            (self.out / "credit.html").write_text(page, encoding="utf-8")

    def finish(self):
        """Say where the results are."""
        if torch.cuda.is_available():
            print0(f"at most {torch.cuda.max_memory_allocated() / 1e9:.1f} GB of GPU memory")
        print0(f"the credit of failed rollouts, token by token: {self.out / 'credit.html'}")


# ---- Command line --------------------------------------------------------------------------------
class InputError(ValueError):
    """What the user gave cannot be used. main() prints it as one line."""


def first_line(error):
    """What an exception says, in one line."""
    return f"{error}".strip().partition("\n")[0] or type(error).__name__


DATA = Path(__file__).resolve().parent / "data"
LAB = {"model": str(DATA / "tiny-qwen3")}  # the defaults where no --model is given
LAB |= {"train_data": [str(DATA / "train.jsonl")], "eval_data": [str(DATA / "eval.jsonl")]}
LAB |= {"steps": 40, "learning_rate": 4e-4, "questions_per_step": 16}
LAB |= {"max_new_tokens": 72, "rollout_tokens": 16_384, "micro_batch_tokens": 4096}
LAB |= {"gradient_checkpointing": False, "save_every": 8}
LAB |= {"compile": False}  # for 142 logits it takes longer than it gains
LAB |= {"eval_every": 0, "eval_questions": 64, "eval_samples": 8}
MAY_BE_0 = ("steps", "beta", "temperature", "eval_every", "save_every", "seed", "window")
STOP = []  # signals that have come: save after this step, and end


def makes_sense(f, value, kind):
    """Whether a value may stand in field f; of a list, each item by itself."""
    if type(value) is not kind or value not in f.metadata.get("choices", [value]):
        return False
    if kind is bool:
        return True
    if kind is str:
        return value not in ("", "None")
    most = 10**9 if kind is int else sys.float_info.max
    most = 1 if f.name in ("top_p", "ema_decay") else most
    return 0 < value <= most or value == 0 and f.name in MAY_BE_0


def check(config):
    """Raise InputError, naming the field, if a value of Config makes no sense."""
    types = get_type_hints(Config)
    for f in fields(Config):
        value = getattr(config, f.name)
        kind = types[f.name]
        values = [value]
        if get_origin(kind) is list and isinstance(value, list):
            values = value
            (kind,) = get_args(kind)
        if value is not f.default and not all(makes_sense(f, x, kind) for x in values):
            raise InputError(f"--{f.name} {value}: out of range")
    if config.steps and not config.temperature:
        raise InputError("--temperature 0: all rollouts of a group would be one and the same")
    if config.window and METHODS[config.method].policy_weight:
        raise InputError(f"--window: the policy gradient of {config.method} is of whole rollouts")


def parse_flags(argv, defaults):
    """Return the Config of a command line. A wrong flag ends it with a line and exit code 2."""
    options = {"prog": "hsd.py", "usage": "hsd.py [--field value ...]", "allow_abbrev": False}
    parser = HfArgumentParser(Config, description=Config.__doc__, **options)
    parser.set_defaults(**defaults)
    config, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    if unknown:
        parser.error(f"there is no flag {unknown[0]}")
    return config


def settings(argv):
    """Return the Config of a command line: the paper's values, the lab's, or those of the run to go
    on with, and over them the flags."""
    given = parse_flags(argv, LAB | {"model": None})
    defaults = {}
    if given.lab or given.model is None:
        defaults = LAB
    if given.resume:
        defaults = read_json(Path(given.out) / "config.json")
        for name in ("torch", "transformers"):
            defaults.pop(name, None)
        if other := sorted(defaults.keys() ^ vars(given).keys()):
            raise InputError(f"{given.out} is a run of another hsd.py, by its {', '.join(other)}")
        defaults["overwrite"] = False
    return parse_flags(argv, defaults)


def main(argv=None):
    """The command line. Bad input ends it with one line on stderr, signal N with code 128 + N."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")  # of libraries: a user can do nothing about them
    STOP.clear()

    def stop(number, _):
        STOP.append(number)
        if len(STOP) > 1:
            raise KeyboardInterrupt
        print0("saving after this step; once more to stop at once")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        config = settings(argv)
        train(config)
    except (InputError, OSError) as error:
        sys.exit(f"hsd.py: {error}")
    except torch.OutOfMemoryError:
        training = "--micro_batch_tokens or --chunk_tokens"
        lower = {"update": training, "credit": training, "loading": "--beta to 0"}
        lower = lower.get(NOW["phase"], "--rollout_tokens or --max_new_tokens")
        sys.exit(f"hsd.py: out of GPU memory, phase: {NOW['phase']}; lower {lower}")
    except KeyboardInterrupt:
        print0("stopped at once; the last checkpoint, if there is one, is intact")
    if STOP:
        sys.exit(128 + STOP[0])


if __name__ == "__main__":
    main()
