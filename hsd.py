"""HSD: Hindsight Self-Distillation (arXiv 2606.15576), the whole algorithm in one file.

    python hsd.py                       the lab: a tiny Qwen3 learns on a CPU in minutes
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
import argparse, functools, gzip, json, math, os, queue, random, re             # noqa: E401
import runpy, signal, subprocess, sys, threading, time                          # noqa: E401
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
import transformers
from safetensors import SafetensorError
from tqdm import tqdm
from torch.distributed.fsdp import fully_shard
from transformers import (AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig,
                          DynamicCache, GenerationConfig, HfArgumentParser)

# ====================================== Part I: the paper =========================================
# ---- Config (section 5) --------------------------------------------------------------------------
DATA = Path(__file__).resolve().parent / "data"
sys.modules.setdefault("hsd", sys.modules[__name__])    # what the scripts in data/ import

@functools.cache
def script(name):
    """The functions of a script in data/, by name."""
    return runpy.run_path(str(DATA / name))

def option(help, paper, lab=None, **more):
    """A field of Config: the paper's value, and where it differs the lab's, for data/tiny-qwen3."""
    value, shown = (paper, str(paper)) if lab is None else ((paper, lab), f"{paper}; lab {lab}")
    return field(default=value, metadata={"help": f"{help} [{shown}]", **more})

@dataclass
class Config:
    """Each field is a flag, --field value. In brackets: the paper's value, or ours; the lab's."""
    model: str = option("folder or hub name of a causal LM", str(DATA / "tiny-qwen3"))
    train_data: str = option("problems, JSON Lines or .gz of it", None, str(DATA / "train.jsonl"))
    eval_data: str = option("held-out problems, likewise", None, str(DATA / "eval.jsonl"))
    out: str = option("folder of the run; None: runs/METHOD", None)
    method: str = option("hsd, opsd, sdft, sdpo, grpo, dr_grpo, dapo, gspo, rlsd, grpo+opsd", "hsd")
    teacher: str = option("who teaches: live, frozen (initial) or ema (.99)", "live", "frozen")
    peer_rule: str = option("uniform, nearest, shortest, low_ or high_perplexity", "uniform")
    success_buffer: int = option("past successes kept per question, for groups without any", 0)
    beta: float = option("weight of KL(pi || pi_0); 0 loads no reference model", 1e-3)
    questions_per_step: int = option("questions Q of one step", 128, 16)
    group_size: int = option("rollouts G of each question", 8)
    temperature: float = option("temperature of the rollouts; 0 is greedy", 1.0)
    top_p: float = option("nucleus of the rollouts", 0.95)
    max_new_tokens: int = option("tokens of a response; one cut here scores 0", 4096, 72)
    max_peer_tokens: int = option("tokens of the peer that the teacher sees", 4096)
    thinking: bool = option("the chat template's thinking mode, student and teacher alike", False)
    rollout_batch: int = option("sequences generated at a time", 64, 128)
    steps: int = option("batches of Q x G rollouts; 0 only evaluates", 1500, 40)
    updates_per_batch: int = option("optimizer steps per batch, each on its share of it", 1)
    learning_rate: float = option("AdamW's constant step size", 1e-6, 1e-4)
    micro_batch_tokens: int = option("student tokens of one backward pass", 12288, 16384)
    chunk_tokens: int = option("tokens whose logits are in memory at a time", 256)
    compile: bool = option("torch.compile the loss", True)
    gradient_checkpointing: bool = option("recompute activations in backward", True, False)
    seed: int = option("seed of the questions' order, the rollouts and the peers", 0)
    eval_every: int = option("steps between evaluations; 0: before and after only", 100, 0)
    eval_questions: int = option("held-out questions of an evaluation", 500, 128)
    eval_samples: int = option("samples per question; pass@1 is their mean", 16, 8)
    save_every: int = option("steps between checkpoints; 0: at the end only", 50, 10)
    show_credit: int = option("failed rollouts to print at the end, coloured by credit", 1)
    resume: str = option("go on with the run in this folder", None, nargs="?", const=True)
    overwrite: bool = option("begin anew where the folder holds a run", False)

    def __post_init__(self):
        lab = Path(self.model).resolve() == DATA / "tiny-qwen3"
        for name, value in list(vars(self).items()):
            if isinstance(value, tuple):
                setattr(self, name, value[lab])
        if str(self.resume).lower() not in ("none", "false", "true"):
            self.out = self.resume
        self.resume = str(self.resume).lower() not in ("none", "false")
        self.out = self.out or f"runs/{self.method}"

# ---- Problems and prompts ------------------------------------------------------------------------
@dataclass(frozen=True)
class Problem:
    """One question: math, with `answer` (a*), or code, with `tests`."""
    question: str
    answer: str | None = None
    solution: str | None = None         # an offline reference; HSD's teacher never sees it
    tests: tuple = ()

# Our prompts (the paper prints none). The tiny model has one token per sentence: data/make_tiny.py.
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
    """The user's message: q, or [q; c_i]. The instruction closes both: no cut can take it away."""
    hints = "".join(CONTEXTS[kind].format(text) for kind, text in (context or {}).items())
    instruction = CODE_INSTRUCTION if problem.tests else INSTRUCTION
    return f"{problem.question}\n\n{hints}{CLOSING if hints else ''}{instruction}"

# ---- Rollouts (section 5) ------------------------------------------------------------------------
@dataclass
class Rollout:
    """One sampled response o_i. Its ids are the truth; its text is for verifier and people."""
    problem: Problem
    prompt: list[int]                   # the student's
    response: list[int]                 # with its stop token, which is trained like any other
    text: str
    truncated: bool                     # cut at max_new_tokens: there is no stop token
    reward: float = 0.0
    peer: Rollout | None = None         # o_i+ of Eq. 9
    context: dict = field(default_factory=dict)         # c_i, for request()
    teacher_prompt: list[int] = field(default_factory=list)
    advantage: float = 0.0              # of the policy-gradient methods
    weight: float = 0.0                 # of each of its tokens in the batch's loss
    logp: torch.Tensor | None = None    # log pi(o_t), [T]; this and what follows: see measure()
    credit: torch.Tensor | None = None  # A_t (Eq. 2), [T]

def sample_groups(model, tokenizer, problems, config, seed, size=0, prompts=(), bar="rollouts"):
    """A group of `size` (else G) verified rollouts per problem. One that was cut scores 0."""
    size, stops = size or config.group_size, stop_tokens(model, tokenizer)
    prompts = prompts or [prompt_ids(tokenizer, request(p), config.thinking) for p in problems]
    copies = [prompt for prompt in prompts for _ in range(size)]
    responses = sample(model, tokenizer, copies, config, seed, bar)
    rollouts = [Rollout(problems[i // size], prompts[i // size], response,
                        tokenizer.decode(response, skip_special_tokens=True),
                        truncated=response[-1] not in stops)
                for i, response in enumerate(responses)]
    mine = rollouts[RANK::RANKS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:        # threads that wait for other processes
        right = pool.map(lambda r: not r.truncated and verify(r.problem, r.text), mine)
        right = gathered(list(progress(right, "verify", len(mine))))
    for rollout, is_right in zip(rollouts, right):
        rollout.reward = float(is_right)
    return [rollouts[i:i + size] for i in range(0, len(rollouts), size)]

# ---- Verification (section 5) --------------------------------------------------------------------
def verify(problem, text):
    """R in {0, 1}. Math: is the last boxed expression, or else the last number, equivalent to a*?
    Code: does the last fenced block pass every test? InputError where there is neither."""
    if problem.tests:
        blocks = re.findall(r"```[^\n]*\n(.*?)```", text, re.DOTALL)
        return bool(blocks) and run_tests(blocks[-1], problem.tests)
    if problem.answer is None:
        raise InputError(f"neither an answer nor tests for {problem.question[:60]!r}")
    candidate = extract_answer(text)
    return candidate is not None and math_equal(candidate, problem.answer)

# ---- Peers and teacher context (Eq. 8, 9, 11, 12) ------------------------------------------------
def successful_peers(rewards):
    """S_i = { j != i : R_j = 1 } for each i of a group: [1, 0, 0, 1] -> [[3], [0, 3], [0, 3], [0]].
    A lone success has no peer itself, and is the peer of all others."""
    return [[j for j, r in enumerate(rewards) if r == 1 and j != i] for i in range(len(rewards))]

def divergence(a, b):
    """tau (Eq. 11): the first position where two token lists differ, or one ends; None if equal."""
    shared = len(os.path.commonprefix([list(a), list(b)]))
    return None if shared == len(a) == len(b) else shared

def coverage(p, G):
    """The share of rollouts that fail and have a peer, at pass rate p (Eq. 12); largest at p* = 1 -
    G^(-1/(G-1)). The paper's Table 2 prints other numbers than this, its own, formula gives."""
    return (1 - p) * (1 - (1 - p) ** (G - 1))

PEER_RULES = {                      # the candidate with the smallest key; ties at random
    "uniform": lambda rollout, peer: 0,                         # Eq. 9
    "shortest": lambda rollout, peer: len(peer.response),       # this and the next two: Figure 4(d)
    "low_perplexity": lambda rollout, peer: -peer.logp.mean().item(),
    "high_perplexity": lambda rollout, peer: peer.logp.mean().item(),
    "nearest": lambda rollout, peer: -len(os.path.commonprefix([rollout.response, peer.response])),
}                                   # nearest is ours: the credit lands on the last branching point

def choose_peer(rollout, candidates, rule, rng):
    """o_i+, or None without candidates. (All on one path, the first or shortest, collapses.)"""
    keys = [PEER_RULES[rule](rollout, peer) for peer in candidates]
    best = [peer for peer, key in zip(candidates, keys) if key == min(keys)]
    return rng.choice(best) if best else None

def give_contexts(group, kinds, past, config, tokenizer, rng):
    """Sets peer, context c_i and teacher_prompt [q; c_i] of each rollout of a group. Kinds
    "answer+peer" are Eq. 9: the answer and a peer from S_i, or the answer alone where S_i is empty
    (the endpoint fallback), unless `past`, successes of earlier steps, has one. "a|b" shows b where
    there is no a. Only the peer's own tokens are ever cut: a cut through the rendered prompt would
    take the instruction, or the question."""
    for rollout, peers in zip(group, successful_peers([r.reward for r in group])):
        candidates = [group[j] for j in peers] or past
        rollout.peer = choose_peer(rollout, candidates, config.peer_rule, rng)
        texts = {"answer": rollout.problem.answer, "solution": rollout.problem.solution}
        if rollout.peer:
            path = rollout.peer.response[:config.max_peer_tokens]
            texts["peer"] = tokenizer.decode(path, skip_special_tokens=True)
        if not rollout.reward:
            said = not (rollout.truncated or rollout.problem.tests) and extract_answer(rollout.text)
            texts["feedback"] = FEEDBACK.format(said) if said else "It is not correct."
        shown = [next((kind for kind in either.split("|") if texts.get(kind)), None)
                 for either in kinds.split("+")]
        rollout.context = {kind: texts[kind] for kind in shown if kind}
        text = request(rollout.problem, rollout.context)
        rollout.teacher_prompt = prompt_ids(tokenizer, text, config.thinking)

# ---- Methods (Table 1) ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Method:
    """A row of values; the formulas are in Part II. With one update per batch the ratio is 1 and no
    ratio is clipped: then gspo's gradient is grpo's; dapo keeps its token mean, filter and length
    penalty, rlsd its weights, dr_grpo its missing norms. beta is ours, for all of them."""
    context: str = ""               # kinds of CONTEXTS, see give_contexts; "": there is no teacher
    distill: float = 0.0            # weight of KL(teacher || student)
    policy: float = 0.0             # weight of the policy gradient -min(r A, clip(r) A)
    std: bool = True                # A = (R - mean) / std (Eq. 1); else R - mean
    ratio: str = "token"            # r of each token, or one of the whole sequence
    clip: tuple = (0.2, 0.2)        # r is clipped to [1 - low, 1 + high]
    mean: str = "rollout"           # of a rollout's tokens, then rollouts; "token"; "constant"
    mixed_only: bool = False        # drop groups that are all right or all wrong
    overlong: bool = False          # a penalty on the last fifth of max_new_tokens
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

# ---- Credit and loss (Eq. 2, 10, 13) -------------------------------------------------------------
class TokenTerms(NamedTuple):
    """What one pass over response tokens gives; each [T] float32, in nats."""
    kl: torch.Tensor                # KL(teacher || student)
    kl_reference: torch.Tensor      # KL(student || pi_0)
    student_logp: torch.Tensor      # log pi_S(o_t)
    teacher_logp: torch.Tensor      # log pi_T(o_t); minus student_logp it is the credit A_t (Eq. 2)
    entropy: torch.Tensor           # of the student

def token_terms(student_logits, teacher_logits, reference_logits, tokens):
    """TokenTerms of tokens [C] from logits [C,V]; zeros for a teacher or pi_0 that is None.
    float32, because the KL's gradient is pi_S - pi_T: at a KL of .006, where most tokens lie, that
    is a small difference of large numbers, and from bf16 logits it comes out wrong by a third."""
    student = student_logits.log_softmax(-1)                                                # [C,V]
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

def kl_teacher_student(student_hidden, teacher_hidden, head_weight, weights=None, chunk_tokens=256):
    """KL(teacher || student) at each token over the full vocabulary (Eq. 10), never holding the
    logits of more than `chunk_tokens` tokens. From hidden states [T,H], head_weight [V,H] and
    weights [T] (1/T each if None): the scalar sum_t w_t KL_t, whose gradient reaches student_hidden
    and, through the student's side alone, head_weight; and kl [T], float32, detached, in nats."""
    tokens = torch.zeros(len(student_hidden), dtype=torch.long, device=student_hidden.device)
    kl = ChunkedHead.apply(tokens, chunk_tokens, token_terms, student_hidden, head_weight,
                           teacher_hidden, head_weight, None, None)[0]
    weights = torch.full_like(kl, 1 / len(kl)) if weights is None else weights.to(kl)
    return (weights * kl).sum(), kl.detach()

def score(models, rollouts, config):
    """TokenTerms of the response tokens of some rollouts, one rollout after the other: the teacher
    reads [q; c_i; o_i], student and pi_0 read [q; o_i]. Gradients reach the student alone."""
    prompts, responses = [r.prompt for r in rollouts], [r.response for r in rollouts]
    student_side = hidden_and_head(models.student, prompts, responses)
    with torch.no_grad():
        teacher_prompts = [r.teacher_prompt for r in rollouts]
        teacher_side = hidden_and_head(models.teacher, teacher_prompts, responses)
        reference_side = hidden_and_head(models.reference, prompts, responses)
    tokens = torch.tensor([o for response in responses for o in response])                  # [T]
    sides = *student_side, *teacher_side, *reference_side
    return TokenTerms(*ChunkedHead.apply(tokens.to(student_side[0].device), config.chunk_tokens,
                                         models.terms, *sides))

def batch_loss(models, rollouts, step, config):
    """What some rollouts contribute to the loss of a step, which for HSD is in all (Eq. 13)

        J = 1/N sum_i 1/|o_i| sum_t [ KL_t(teacher || student) + beta KL_t(student || pi_0) ],

    and figures to log. The paper leaves the estimator of KL(pi || pi_0) open: ours is the exact one
    over the vocabulary at each visited prefix. Without any context there is no distillation."""
    method, terms = METHODS[config.method], score(models, rollouts, config)
    lengths = [len(r.response) for r in rollouts]
    def per_token(values):                                                                  # [T]
        return torch.tensor(values).repeat_interleave(torch.tensor(lengths)).to(terms.kl)
    w = per_token([r.weight for r in rollouts])
    taught = per_token([float(bool(r.context)) for r in rollouts])
    loss = (w * (method.distill * taught * terms.kl + config.beta * terms.kl_reference)).sum()
    if method.policy:
        advantages, old = per_token([r.advantage for r in rollouts]), terms.student_logp.detach()
        if method.reweight:
            advantages = reweighted(advantages, terms.teacher_logp - old, step)
        if config.updates_per_batch > 1:
            old = torch.cat([r.logp for r in rollouts]).to(old)
        policy = policy_loss(terms.student_logp, old, advantages, lengths, method)
        loss = loss + method.policy * (w * policy).sum()
    share = per_token([bool(r.weight) / len(r.response) for r in rollouts])     # for sums of means
    return loss, {"kl": share @ (taught * terms.kl).detach(), "entropy": share @ terms.entropy,
                  "kl_reference": share @ terms.kl_reference.detach()}

def update(models, optimizer, rollouts, step, config):
    """One optimizer step on N rollouts. Each token carries its final weight, 1/(N |o_i|) for HSD:
    loss, gradient and figures are exact however the micro-batches are cut."""
    N, figures = len(rollouts), dict.fromkeys(["loss", "kl", "kl_reference", "entropy"], 0.0)
    give_weights(rollouts, METHODS[config.method].mean, config)
    for batch in progress(dealt(micro_batches(rollouts, config.micro_batch_tokens)), "update"):
        loss, parts = batch_loss(models, batch, step, config)
        loss.backward()
        figures["loss"] += loss.item()
        for name, value in parts.items():
            figures[name] += value.item() / N
    figures = dict(zip(figures, summed(list(figures.values()))))
    norm, skipped = optimizer.step(figures["loss"]) if rollouts else (math.nan, True)
    for name, model in (("kl", models.teacher), ("kl_reference", models.reference)):
        figures[name] = math.nan if model is None else figures[name]
    return {**figures, "grad_norm": norm, "skipped_steps": int(skipped)}

# ---- Evaluation (sections 3, 5) ------------------------------------------------------------------
def evaluate(models, tokenizer, problems, config, step):
    """Held-out pass@k; the self-teacher's accuracy, one sample of the same weights with answer and
    peer in the prompt, where there is a peer; credit near tau, over 128 failed rollouts at most."""
    config = replace(config, peer_rule="uniform")
    n, name, rng = config.eval_samples, f"{config.seed} eval", random.Random(config.seed)
    groups = sample_groups(models.student, tokenizer, problems, config, name, n, bar="evaluation")
    successes = [int(sum(r.reward for r in group)) for group in groups]
    row = {"step": step} | {f"eval/pass@{k}": mean(pass_at_k(n, c, k) for c in successes)
                            for k in sorted({1, min(n, 8), n})}
    for group in groups:
        give_contexts(group, "answer+peer", [], config, tokenizer, rng)
    taught = [group[0] for group in groups if group[0].peer]
    hinted = sample_groups(models.student, tokenizer, [r.problem for r in taught], config,
                           f"{name} teacher", 1, [r.teacher_prompt for r in taught], "self-teacher")
    row["eval/teacher_pass@1"] = mean(group[0].reward for group in hinted)
    failed = [r for group in groups for r in group if r.peer and not r.reward][:128]
    teacher = models.teacher or models.student
    measure(models._replace(teacher=teacher, reference=None), failed, config)
    row["eval/credit_share@8"] = credit_share(failed, 8)
    return row, failed

# ---- The algorithm -------------------------------------------------------------------------------
def train(config):
    """Runs the method as `config` says. Returns the metric rows: what metrics.jsonl holds."""
    join_ranks()
    train_problems = load_problems(config.train_data)
    eval_problems = load_problems(config.eval_data)[:config.eval_questions]
    device = script("plan.py")["announce"](config)      # of the optimizer's state
    tokenizer, models = load_models(config)
    optimizer = MasterAdamW(models.student, config, device)
    run = script("run.py")["Run"](config, models, optimizer, tokenizer)
    if run.step == 0:
        row, run.failed = evaluate(models, tokenizer, eval_problems, config, 0)
        run.log(row)
    for step in range(run.step, config.steps):
        start = time.time()
        problems = questions_of_step(train_problems, step, config)
        groups = sample_groups(models.student, tokenizer, problems, config, f"{config.seed} {step}")
        metrics = learn(models, optimizer, groups, run.past, tokenizer, step, config)
        run.failed = []                                 # their credit is that of older weights
        run.log({"step": step + 1, **rollout_metrics(groups), **metrics,
                 "seconds": time.time() - start})
        if run.due(step + 1, config.eval_every):
            row, run.failed = evaluate(models, tokenizer, eval_problems, config, step + 1)
            run.log(row)
        stopping = most(STOP.is_set())
        if run.due(step + 1, config.save_every) or stopping:
            run.save(step + 1)
        if stopping:
            break
    run.finish()
    return run.rows

def learn(models, optimizer, groups, past, tokenizer, step, config):
    """What a step does with its verified groups: peers and contexts, advantages, updates."""
    method, rng = METHODS[config.method], random.Random(f"{config.seed} peers {step}")
    rollouts = [r for group in groups for r in group]
    if config.updates_per_batch > 1 or "perplexity" in config.peer_rule:
        measure(models._replace(teacher=None, reference=None), rollouts, config)
    for group in groups:
        successes = past.setdefault(group[0].problem.question, [])
        give_contexts(group, method.context, successes, config, tokenizer, rng)
        give_advantages(group, method, config)
        successes += [replace(r, peer=None) for r in group if r.reward]
        del successes[:max(0, len(successes) - config.success_buffer)]
    if method.mixed_only:
        rollouts = [r for g in groups for r in g if 0 < sum(other.reward for other in g) < len(g)]
    parts = [rollouts[i::config.updates_per_batch] for i in range(config.updates_per_batch)]
    rows = [update(models, optimizer, part, step, config) for part in parts if part or not rollouts]
    if method.context and config.teacher == "ema":              # it goes 1% of the way each step
        for old, new in zip(models.teacher.parameters(), models.student.parameters()):
            old.lerp_(new.detach().float(), 0.01)
    return {name: mean(row[name] for row in rows) for name in rows[0]}

# ================================== Part II: what makes it real ===================================
# ---- Reading problems ----------------------------------------------------------------------------
class InputError(ValueError):
    """What the user gave cannot be used. main() prints it as one line and exits with 2."""

def parse_problem(row):
    """A Problem from one JSON object, with the keys of GSM8K, MATH, AIME, HumanEval, MBPP or ours.
    Raises InputError where there is no question, or neither an answer nor tests."""
    if not isinstance(row, dict):
        raise InputError("not a JSON object")
    question = next((row[k] for k in ("question", "problem", "prompt", "text") if row.get(k)), None)
    if not isinstance(question, str) or not question.strip():
        raise InputError("no text under question, problem or prompt")
    answer, solution = row.get("answer"), row.get("solution")
    tests = row.get("tests") or row.get("test_list") or []
    tests = tests if isinstance(tests, list) else [tests]
    check_tests(tests)
    if "test" in row and "entry_point" in row:                              # HumanEval
        tests = [f"{row['test']}\n\ncheck({row['entry_point']})"]
    if isinstance(answer, str) and "####" in answer:                        # GSM8K
        solution, answer = (part.strip() for part in answer.rsplit("####", 1))
    if answer in (None, "") and isinstance(solution, str) and "\\boxed" in solution:      # MATH
        answer = extract_answer(solution)
    if tests:
        return Problem(question.strip(), None, solution, tuple(tests))
    if not isinstance(answer, (str, int, float)) or not str(answer).strip():
        raise InputError("neither an answer, nor a solution with \\boxed{}, nor tests")
    return Problem(question.strip(), str(answer).strip(), solution)

def load_problems(path):
    """The problems of a JSON Lines file, plain or .gz. Raises InputError with file and line."""
    if path is None:
        raise InputError("this model needs --train_data and --eval_data")
    problems, opener = [], gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            problems += [parse_problem(json.loads(line))] if line.strip() else []
        except (json.JSONDecodeError, InputError) as error:
            raise InputError(f"{path}:{number}: {error}") from None
    if not problems:
        raise InputError(f"{path} holds no problem")
    return problems

def questions_of_step(problems, step, config):
    """The Q problems of a step (counted from 0). The order of each pass over the data follows from
    seed and pass alone, so a resumed run needs to know nothing but its step."""
    n, Q = len(problems), config.questions_per_step
    positions = range(step * Q, (step + 1) * Q)
    orders = {epoch: random.Random(f"{config.seed} order {epoch}").sample(problems, n)
              for epoch in {position // n for position in positions}}
    return [orders[position // n][position % n] for position in positions]

# ---- Sampling ------------------------------------------------------------------------------------
def prompt_ids(tokenizer, text, thinking=False):
    """Token ids of a user's message, up to where the assistant begins to write. Student and teacher
    share it: with thinking on for one alone, their first tokens would disagree for no reason."""
    if tokenizer.chat_template is None:
        return tokenizer(text + "\n").input_ids
    text = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False,
                                         add_generation_prompt=True, enable_thinking=thinking)
    return tokenizer(text, add_special_tokens=False).input_ids

def stop_tokens(model, tokenizer):
    """The ids that end a response: those of the model's generation_config and the tokenizer's."""
    stops = model.generation_config.eos_token_id
    stops = {*(stops if isinstance(stops, list) else [stops]), tokenizer.eos_token_id} - {None}
    if not stops:
        raise InputError("neither the model's generation_config nor the tokenizer has an EOS token")
    return sorted(stops)

def cut_at_stop(ids, stops):
    """The ids up to and with the first stop token; what follows is padding, often with that id."""
    return ids[:next((i + 1 for i, token in enumerate(ids) if token in stops), len(ids))]

def sampling_settings(config, stops):
    """What generate() needs to know. (top_k None would mean the model's own: 20 for Qwen3.)"""
    draw = {"do_sample": True, "temperature": config.temperature, "top_p": config.top_p, "top_k": 0}
    return GenerationConfig(max_new_tokens=config.max_new_tokens, eos_token_id=stops,
                            pad_token_id=stops[0], **(draw if config.temperature > 0 else {}))

def sample(model, tokenizer, prompts, config, seed, bar):
    """One response, a list of ids, for each prompt, by generate() or, where flash attention makes
    it pay, continuous batching. A call's seed is `seed` (a str) and its place: no generator's state
    has to be kept, and ranks, of which each makes every RANKS-th call, draw as one would."""
    stops, calls, cuda = stop_tokens(model, tokenizer), [], model.device.type == "cuda"
    settings = sampling_settings(config, stops)
    batched = cuda and transformers.utils.is_flash_attn_2_available()
    size = -(-len(prompts) // RANKS) if batched else config.rollout_batch
    model.eval()                    # in train mode, checkpointing drops the KV cache: wrong text
    for start in progress(range(0, len(prompts), size)[RANK::RANKS], bar):
        draw = random.Random(f"{seed} {start}").getrandbits(63)
        with torch.random.fork_rng([model.device] if cuda else []):
            torch.manual_seed(draw)
            some = prompts[start:start + size]
            calls.append(generate_batch(model, some, settings, draw, config.rollout_batch)
                         if batched else generate(model, some, settings))
    torch.cuda.empty_cache()        # the update needs what the KV cache held, in other sizes
    return [cut_at_stop(ids, stops) for call in gathered(calls) for ids in call]

@torch.no_grad()
def generate(model, prompts, settings):
    """The ids that follow each of some prompts, all in one batch, padded at the end."""
    width, pad = max(map(len, prompts)), settings.pad_token_id
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])                 # [B,width]
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    ids, mask = ids.to(model.device), mask.to(model.device)
    return model.generate(ids, attention_mask=mask, generation_config=settings)[:, width:].tolist()

def generate_batch(model, prompts, settings, seed, at_once):
    """The same by continuous batching: where one of `at_once` responses ends, the next begins. Its
    cache lives for this call alone. (Of a failure, transformers' generate_batch() only logs.)"""
    size = {} if model.device.type == "cuda" else {"num_blocks": 80, "max_batch_tokens": 1024}
    batching = ContinuousBatchingConfig(seed=seed, max_requests_per_batch=at_once, **size)
    attention, manager, results = model.config._attn_implementation, None, {}
    try:
        manager = model.init_continuous_batching(settings, batching)
        manager.warmup()                            # makes the cache, captures CUDA graphs
        order = manager.add_requests(prompts)       # before it starts: the draws depend on batches
        manager.start()
        while len(results) < len(order):
            result = manager.get_result(timeout=1)
            if result.error if result else not manager.is_running():
                raise RuntimeError(f"rollouts failed: {result and result.error}")
            if result:
                results[result.request_id] = result.generated_tokens
    finally:                                        # of Ctrl-C too
        if manager:
            manager.stop(hard_stop=True)
        model.set_attn_implementation(attention)
    return [results[request] for request in order]

# ---- Answers and programs ------------------------------------------------------------------------
def extract_answer(text):
    """The last boxed expression of a text (braces may nest), else its last number, else None."""
    opened, last = [], (-1, -1)
    for brace in re.finditer(r"\\(?:boxed|fbox)\s*\{|(?<!\\)[{}]", text):
        if brace[0] != "}":
            opened.append(brace.end() if len(brace[0]) > 1 else None)
        elif opened and (start := opened.pop()):
            last = max(last, (start, brace.start()))
    numbers = re.findall(r"(?:(?<![\w)}])-)?\d+(?:,\d{3})*(?:\.\d+)?", text)
    return text[slice(*last)].strip() if last[0] >= 0 else numbers[-1] if numbers else None

def child(script, *arguments, stderr=subprocess.DEVNULL, **options):
    """A process that runs a script of data/: it has no torch, no model, no GPU, none of our
    environment and files, and a process group of its own."""
    command = [sys.executable, "-I", "-X", "utf8", str(DATA / script), *map(str, arguments)]
    return subprocess.Popen(command, env={}, start_new_session=True, stderr=stderr, **options)

def math_equal(candidate, answer):
    """Are two final answers, plain or LaTeX, equivalent? Equal texts are; for the rest
    data/answers.py asks SymPy, in a process that the kernel ends after 5 s. Answers are never
    evaluated as Python. Raises nothing that a candidate could provoke."""
    if candidate.split() == answer.split():
        return True
    try:
        worker = IDLE.get_nowait()
    except queue.Empty:
        worker = child("answers.py", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if worker.poll() is not None:                       # it was ended while idle, by somebody else
        return math_equal(candidate, answer)
    print(json.dumps([candidate, answer]), file=worker.stdin, flush=True)
    verdict = worker.stdout.readline()
    if not verdict:                                     # too long, or too much memory
        worker.communicate()
        return False
    IDLE.put(worker)
    return json.loads(verdict)

def check_tests(tests):
    """Raises InputError where a test is of neither kind."""
    for test in tests:
        pair = isinstance(test, dict) and [type(test.get(key)) for key in ("input", "output")]
        if pair != [str, str] and not isinstance(test, str):
            raise InputError(f"a test is asserts, or has an input and an output: {str(test)[:60]}")

def run_tests(program, tests, timeout=10.0):
    """Does a program pass every test, each in `timeout` seconds? A test is a text of asserts
    (HumanEval, MBPP), or {"input", "output"} for a script whose output is compared by tokens (APPS,
    LiveCodeBench). data/sandbox.py confines the program to computing, within limits, and keeps from
    it what it ought to produce. That is no boundary against holes in the kernel: run code tasks in
    a container. InputError where the kernel cannot confine: it takes Linux 5.13, Landlock."""
    check_tests(tests)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with child("sandbox.py", "supervise", text=True, **pipes) as process:
        verdict, errors = process.communicate(json.dumps([program, list(tests), timeout]))
    if process.returncode:
        raise InputError(f"programs cannot be tested here: {errors.strip().splitlines()[-1]}")
    return json.loads(verdict)

# ---- The policy gradients of the baselines -------------------------------------------------------
def give_advantages(group, method, config):
    """Sets each rollout's advantage (Eq. 1); the std is the unbiased one, as in public code. DAPO's
    length penalty (its Eq. 13, -1 at the limit) is halved: its rewards are +-1, ours 0/1."""
    fifth = config.max_new_tokens / 5
    over = [max(0.0, len(r.response) / fifth - 4) if method.overlong else 0.0 for r in group]
    rewards = torch.tensor([r.reward - 0.5 * o for r, o in zip(group, over)])                # [G]
    advantages = rewards - rewards.mean()
    if method.std and len(group) > 1:
        advantages = advantages / (rewards.std() + 1e-6)
    for rollout, advantage in zip(group, advantages.tolist()):
        rollout.advantage = advantage

def give_weights(rollouts, mean, config):
    """Sets the weight of each rollout's tokens: 1/(N |o_i|); 1 / sum |o_i| (DAPO); or, to favour no
    length, 1/(N max_new_tokens) (Dr. GRPO's code; its paper prints no constant)."""
    N, tokens = len(rollouts), sum(len(r.response) for r in rollouts)
    for r in rollouts:
        r.weight = 1 / {"rollout": N * len(r.response), "token": tokens,
                        "constant": N * config.max_new_tokens}[mean]

def policy_loss(logp, old_logp, advantages, lengths, method):
    """-min(r A, clip(r, 1 - low, 1 + high) A) at each token, [T]. GSPO's ratio (its Eq. 7) is that
    of the whole sequence, to the power 1/|o|; each token of the sequence carries it."""
    log_ratio = logp - old_logp
    if method.ratio == "sequence":
        log_ratio = torch.cat([part.mean().expand(len(part)) for part in log_ratio.split(lengths)])
    ratio, (low, high) = log_ratio.exp(), method.clip
    return -torch.min(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)

def reweighted(advantages, credit, step):
    """RLSD (its Eq. 13 to 15): the verifier keeps the sign, the teacher scales the token: A times
    1 - l + l clip((pi_T / pi_S)^sign(A), .8, 1.2), where l falls from .5 to 0 over 50 steps."""
    share = 0.5 * max(0.0, 1 - step / 50)
    weight = (advantages.sign() * credit).exp().clamp(0.8, 1.2)
    return advantages * (1 - share + share * weight)

# ---- The head, a chunk at a time -----------------------------------------------------------------
def project(a, b):
    """a @ b with float32 output from any dtype. Casting a bf16 product afterwards is too late."""
    if a.is_cuda and b.dtype == torch.bfloat16:
        return torch.mm(a.bfloat16(), b, out_dtype=torch.float32)
    return a.float() @ b.float()

class ChunkedHead(torch.autograd.Function):
    """TokenTerms from hidden states [T,H] and heads [V,H], with the logits of C tokens in memory
    (those of 4,096 are 2.5 GB, and a plain KL holds six such); backward makes them again. Gradients
    reach the student alone: a head that learns from the teacher too is off by twice its norm."""
    @staticmethod
    def chunks(tokens, C, sides):
        """Each chunk's rows, logits and tokens, the last one padded to C: one shape to compile."""
        for start in range(0, len(tokens), C):
            rows = slice(start, min(start + C, len(tokens)))
            pad = start + C - rows.stop
            logits = [None if h is None else project(F.pad(h[rows], (0, 0, 0, pad)), head.T)
                      for h, head in zip(sides[::2], sides[1::2])]
            yield rows, logits, F.pad(tokens[rows], (0, pad))

    @staticmethod
    def forward(ctx, tokens, C, terms, *sides):
        """`sides`: hidden states and head of the student, of the teacher, and of pi_0 (or None)."""
        ctx.save_for_backward(tokens, *sides)
        ctx.C, ctx.terms = C, terms
        parts = [[term[:rows.stop - rows.start] for term in terms(*logits, at)]
                 for rows, logits, at in ChunkedHead.chunks(tokens, C, sides)]
        kl, kl_reference, student_logp, teacher_logp, entropy = map(torch.cat, zip(*parts))
        ctx.mark_non_differentiable(teacher_logp, entropy)
        return kl, kl_reference, student_logp, teacher_logp, entropy

    @staticmethod
    def backward(ctx, *g_terms):
        tokens, *sides = ctx.saved_tensors
        hidden, head = sides[:2]
        hidden_gradient = torch.empty_like(hidden)                                          # [T,H]
        head_gradient = torch.zeros_like(head, dtype=torch.float32)                         # [V,H]
        for rows, logits, at in ChunkedHead.chunks(tokens, ctx.C, sides):
            n = rows.stop - rows.start
            weights = [F.pad(g[rows], (0, ctx.C - n)) for g in g_terms]
            with torch.enable_grad():
                terms = ctx.terms(logits[0].requires_grad_(), *logits[1:], at)
                weighted = sum((term * w).sum() for term, w in zip(terms[:3], weights))
            logit_gradient = torch.autograd.grad(weighted, logits[0])[0][:n]                # [n,V]
            hidden_gradient[rows] = project(logit_gradient, head).to(hidden_gradient.dtype)
            head_gradient += project(logit_gradient.T, hidden[rows])
        return None, None, None, hidden_gradient, head_gradient.to(head.dtype), *[None] * 4

def compiled_terms(config, device):
    """token_terms, compiled if asked for and if this machine can; if it cannot, a line says why."""
    if not config.compile:
        return token_terms
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except RuntimeError as error:               # no C++ compiler, or no Triton
        print(f"torch.compile does not work here, running without it: {str(error).splitlines()[0]}")
        return token_terms
    return torch.compile(token_terms)

def hidden_and_head(model, prompts, responses):
    """The hidden states [T,H] that predict each response token, T = sum |o_i|, and the head [V,H].
    Padding stands to the right and needs no mask: under causal attention no real token sees it."""
    if model is None:
        return None, None
    # Checkpointing works in train mode alone, and there it would drop the cache.
    hidden, model = [None] * len(prompts), model.train(torch.is_grad_enabled())
    passes = rows_to_read(prompts, responses)
    for rows, prefix in passes:
        cache = DynamicCache(config=model.config) if prefix else None
        if prefix:
            model.base_model(torch.tensor([prefix], device=model.device), past_key_values=cache)
            cache.batch_repeat_interleave(len(rows))
        texts = [(prompts[i] + responses[i][:-1])[len(prefix):] for i in rows]
        width = max(map(len, texts))                    # the last token predicts nothing
        ids = torch.tensor([text + [0] * (width - len(text)) for text in texts])        # [B,width]
        out = model.base_model(ids.to(model.device), past_key_values=cache, use_cache=bool(prefix))
        for i, text, states in zip(rows, texts, out.last_hidden_state):                 # [width,H]
            hidden[i] = states[len(text) - len(responses[i]):len(text)]
    for _ in range(most(len(passes)) - len(passes)):    # each pass of a sharded model is all ranks'
        model.base_model(ids[:1, :1].to(model.device))
    return torch.cat(hidden), model.get_output_embeddings().weight

def rows_to_read(prompts, responses):
    """[(rows, prefix)]: which rows go through a model together. Without gradients, a long prompt of
    several is read once, as their prefix, and its keys and values serve all: HSD's teacher, for
    one question and one peer. The others go by length, to pad little."""
    sharing, alone, passes = {}, [], []
    for i, prompt in enumerate(prompts):
        sharing.setdefault(tuple(prompt), []).append(i)
    for prompt, rows in sharing.items():
        if len(rows) > 1 and len(prompt) >= 256 and not torch.is_grad_enabled():
            passes.append((rows, list(prompt[:-1])))    # its last token predicts each one's first
        else:
            alone += rows
    length = {i: len(prompts[i]) + len(responses[i]) for i in alone}
    for i in sorted(alone, key=length.get, reverse=True):
        if not passes or passes[-1][1] or length[i] < 0.875 * length[passes[-1][0][0]]:
            passes.append(([], []))
        passes[-1][0].append(i)
    return passes

def micro_batches(rollouts, budget):
    """Batches of at most `budget` student tokens (or of one rollout), longest first. Rollouts with
    one teacher prompt stay together, so that it is read once."""
    def length(r):
        return len(r.prompt) + len(r.response)
    together, batches, room = {}, [], 0
    for r in sorted(rollouts, key=length, reverse=True):
        together.setdefault(tuple(r.teacher_prompt), []).append(r)
    for r in (r for group in together.values() for r in group):
        if not batches or length(r) > room:
            batches.append([])
            room = budget
        batches[-1].append(r)
        room -= length(r)
    return batches

@torch.no_grad()
def measure(models, rollouts, config):
    """Sets logp, log pi(o_t), and credit A_t (Eq. 2) of each rollout: [T] float32, on the CPU."""
    batches, results = micro_batches(rollouts, config.micro_batch_tokens), []
    for batch in dealt(batches):
        terms, lengths = score(models, batch, config), [len(r.response) for r in batch]
        credit = (terms.teacher_logp - terms.student_logp).cpu().split(lengths)
        results.append(list(zip(terms.student_logp.cpu().split(lengths), credit)))
    for batch, result in zip(batches, gathered(results)):
        for rollout, (logp, credit) in zip(batch, result):
            rollout.logp, rollout.credit = logp, credit

# ---- Ranks ---------------------------------------------------------------------------------------
# torchrun starts a process per GPU. Each holds all bf16 weights: no rollout waits for another GPU.
# It samples and verifies its part and hears of the others'; then only micro-batches are dealt out.
# What no GPU could hold is shared: sums, master weights, moments have an owner; pi_0 is sharded.
RANK, RANKS = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
IDLE = queue.SimpleQueue()          # answers.py processes that wait for their next question
STOP = threading.Event()            # set by Ctrl-C or SIGTERM: save after this step, and end
progress = functools.partial(tqdm, leave=False, disable=RANK > 0)

def say(text):
    """A line on the terminal, from one rank alone, beside any progress bar."""
    if RANK == 0:
        tqdm.write(text)

def join_ranks():
    """Where torchrun started this process: finds the others, and takes its GPU."""
    if RANKS > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")

def dealt(batches):
    """This rank's batches of rollouts. All get equally many, since a collective waits for all: the
    last round is filled up with a rollout that weighs nothing."""
    filler = [replace(r, weight=0.0) for r in batches[-1][-1:]] if batches else []
    return (batches + [filler] * (-len(batches) % RANKS))[RANK::RANKS]

def gathered(mine):
    """The whole list, of which each rank has every RANKS-th element."""
    if RANKS == 1:
        return mine
    parts = [None] * RANKS
    dist.all_gather_object(parts, mine)
    return [parts[i % RANKS][i // RANKS] for i in range(sum(map(len, parts)))]

def summed(values):
    """The sums of some numbers over all ranks."""
    total = torch.tensor(values, dtype=torch.float64)
    if RANKS > 1:
        dist.all_reduce(total)
    return total.tolist()

def most(value):
    """The largest value on any rank; all wait for it."""
    return max(gathered([value]))

# ---- Master weights ------------------------------------------------------------------------------
class MasterAdamW:
    """AdamW (.9, .95, eps 1e-8, no decay) on float32 master weights, gradients summed in float32.
    At lr 1e-6 AdamW straight on bf16 weights changes 2% of them in 50 steps. Each weight has an
    owner among the ranks: only there are its sum, master and moments. `device` holds the latter."""
    def __init__(self, model, config, device="cpu"):
        self.sums = {}                      # of gradients; none while the rollouts need the room
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.owner, load = [], [0] * RANKS
        for weight in self.weights:
            self.owner.append(load.index(min(load)))
            load[self.owner[-1]] += weight.numel()
        self.master = {i: weight.detach().to(device, torch.float32, copy=True)
                       for i, weight in enumerate(self.weights) if self.owner[i] == RANK}
        self.adamw = torch.optim.AdamW(self.master.values(), config.learning_rate, (0.9, 0.95),
                                       1e-8, weight_decay=0.0, fused=True)
        for i, weight in enumerate(self.weights):
            weight.register_post_accumulate_grad_hook(lambda w, i=i: self.collect(w, i))

    def collect(self, weight, i):
        """Runs when a micro-batch's gradient of one weight is complete: adds and frees it."""
        gradient, weight.grad = weight.grad, None
        if RANKS > 1:
            gradient = gradient.float()
            dist.reduce(gradient, self.owner[i])
        if i in self.sums:
            self.sums[i].add_(gradient)
        elif self.owner[i] == RANK:
            self.sums[i] = gradient.float()

    @torch.no_grad()
    def step(self, loss):
        """Clips, steps, clears; skips where loss or norm is not finite. Gives (norm, skipped)."""
        squares = [total.norm().double().square().item() for total in self.sums.values()]
        norm = math.sqrt(*summed([sum(squares)]))
        if skipped := not (math.isfinite(loss) and math.isfinite(norm)):
            say(f"step skipped: loss {loss}, gradient norm {norm}")
            self.sums.clear()
        scale = min(1.0, 1.0 / (norm + 1e-6))                   # clipping at 1.0
        while self.sums:                    # one by one: there is no room for all gradients twice
            i, total = self.sums.popitem()
            self.master[i].grad = total.mul_(scale).to(self.master[i].device)
            self.adamw.step()
            self.master[i].grad = None
            self.weights[i].copy_(self.master[i])
        if RANKS > 1:
            for weight, owner in zip(self.weights, self.owner):
                dist.broadcast(weight.detach(), owner)
        return norm, skipped

# ---- Metrics -------------------------------------------------------------------------------------
def pass_at_k(n, c, k):
    """The unbiased estimate of pass@k from c successes in n samples (2107.03374), or ValueError."""
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} from {c} successes in {n} samples")
    return 1 - math.comb(n - c, k) / math.comb(n, k)

def credit_share(rollouts, w):
    """Share of sum_t |A_t| within |t - tau| <= w, pooled over failed rollouts (Table 5)."""
    taus = [divergence(r.response, r.peer.response) for r in rollouts]
    near = sum(r.credit[max(0, t - w):t + w + 1].abs().sum().item() for r, t in zip(rollouts, taus))
    total = sum(r.credit.abs().sum().item() for r in rollouts)
    return near / total if total else math.nan

def mean(values):
    """The mean; nan where there is nothing."""
    values = list(values)
    return sum(values) / len(values) if values else math.nan

def rollout_metrics(groups):
    """Figures of a step's rollouts; `coverage_expected` is Eq. 12 at the groups' pass rates."""
    rollouts, rates = [r for g in groups for r in g], [mean(r.reward for r in g) for g in groups]
    return {"reward": mean(rates), "peer_share": mean(float(r.peer is not None) for r in rollouts),
            "coverage": mean(float(r.peer is not None and not r.reward) for r in rollouts),
            "coverage_expected": mean(coverage(p, len(groups[0])) for p in rates),
            "all_right_share": mean(float(p == 1) for p in rates),
            "all_wrong_share": mean(float(p == 0) for p in rates),
            "response_tokens": mean(len(r.response) for r in rollouts),
            "truncated_share": mean(float(r.truncated) for r in rollouts)}

# ---- Loading the models --------------------------------------------------------------------------
class Models(NamedTuple):
    """The student; its teacher (itself, if live) or None; pi_0 or None; token_terms."""
    student: torch.nn.Module
    teacher: torch.nn.Module | None
    reference: torch.nn.Module | None
    terms: object = token_terms

SCALED_HEADS = ("final_logit_softcapping logits_soft_cap output_logit_soft_cap logit_scale "
                "logits_scaling lm_head_multiplier logits_mup_width_multiplier").split()

def load_models(config):
    """(tokenizer, Models) of a folder or hub name: bf16 on a GPU, float32 on a CPU."""
    transformers.utils.logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32

    def load(trained=False):
        model = AutoModelForCausalLM.from_pretrained(config.model, dtype=dtype).to(device)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0              # teacher and student must not differ by chance
        return model.requires_grad_(trained)
    taught = METHODS[config.method].context != ""
    frozen = config.beta > 0 or taught and config.teacher == "frozen"
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.model)
        initial = load() if frozen else None                # one copy is both pi_0 and teacher
        for layer in initial.modules() if frozen and RANKS > 1 else ():
            if type(layer).__name__ in initial._no_split_modules:
                fully_shard(layer)
        student = load(trained=True)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"cannot load the model {config.model}: {reason}") from None
    odd = [name for name in SCALED_HEADS if vars(student.config).get(name) not in (None, 1, 1.0)]
    if odd or student.get_output_embeddings().bias is not None:
        raise InputError(f"{config.model}: a head with {', '.join(odd) or 'bias'} is not supported")
    # generate() fills what we leave open from here: nothing but pi itself may shape the rollouts
    student.generation_config = GenerationConfig(eos_token_id=stop_tokens(student, tokenizer))
    if config.gradient_checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": False})
    teacher = {"live": student, "frozen": initial}.get(config.teacher) if taught else None
    if taught and config.teacher == "ema":
        teacher = load().float()                            # bf16 would round its steps of 1% away
    return tokenizer, Models(student, teacher, initial if config.beta > 0 else None,
                             compiled_terms(config, device))

# ---- Command line --------------------------------------------------------------------------------
def check(config):
    """Raises InputError, naming the field, where a value of Config makes no sense."""
    for name, allowed in (("method", METHODS), ("teacher", ("live", "frozen", "ema")),
                          ("peer_rule", PEER_RULES)):
        if getattr(config, name) not in allowed:
            raise InputError(f"--{name} {getattr(config, name)}: choose from {', '.join(allowed)}")
    zero = "steps beta temperature eval_every save_every success_buffer seed show_credit".split()
    for name, value in vars(config).items():
        top = 1 if name == "top_p" else sys.float_info.max
        if type(value) in (int, float) and not (0 < value <= top or value == 0 and name in zero):
            raise InputError(f"--{name} {value}: out of range")
    if config.success_buffer and "perplexity" in config.peer_rule:
        raise InputError("--success_buffer keeps no perplexities: choose another --peer_rule")

def main(argv=None):
    """The command line. Bad input: one line on stderr, exit code 2."""
    style = argparse.HelpFormatter
    parser = HfArgumentParser(Config, description=Config.__doc__, formatter_class=style)
    config, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    STOP.clear()

    def stop(*_):
        if STOP.is_set():
            raise KeyboardInterrupt
        STOP.set()
        say("saving after this step; once more to stop at once")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        if unknown:
            raise InputError(f"unknown: {' '.join(unknown)}")
        check(config)
        train(config)
    except (InputError, OSError) as error:
        print(f"hsd.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None

if __name__ == "__main__":
    main()
