"""Tests of hsd.py, in its order: every one asserts numbers, against a dense float64 oracle, an
invariant, or a hand-worked example."""

import ast
import base64
import contextlib
import copy
import fcntl
import functools
import gzip
import importlib.util
import io
import itertools
import json
import math
import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import hsd
from hsd import Config, Models, Problem, Rollout

ROOT, Q = Path(hsd.__file__).parent, Problem("1+1=?", "2", "1+1=2")
CONTEXT = [("answer", "2")]
NAMES = ("tiny-qwen3", "train.jsonl", "eval.jsonl", "math.jsonl", "code.jsonl")
TINY, TRAIN, EVAL, MATH, CODE = (str(hsd.DATA / name) for name in NAMES)
torch.set_num_threads(1)  # the matrices are tiny: more threads only wait for each other
transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def tiny():
    """(tokenizer, model) of data/tiny-qwen3; tests that train copy it."""
    tokenizer, models = hsd.load_models(lab(teacher="live", beta=0.0))
    return tokenizer, models.student.requires_grad_(False)


def lab(**changes):
    return Config(**{**hsd.LAB, "compile": False, **changes})


def random_model(seed=0, V=64, spread=0.2):
    """A Qwen3 of 2 layers whose random weights are large enough for log-probs that differ."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    shape = Qwen3Config(vocab_size=V, **sizes, initializer_range=spread)
    return hsd.LanguageModel(Qwen3ForCausalLM(shape)).eval()


def some_rollouts(count=7):
    """Rollouts of different lengths, with made-up prompts and responses."""
    rng, rollouts = random.Random(0), []
    for _ in range(count):
        sizes = (rng.randint(2, 9), rng.randint(1, 20), rng.randint(9, 30))
        prompt, response, taught = ([rng.randrange(64) for _ in range(n)] for n in sizes)
        rollouts.append(Rollout(Q, prompt, response, context=CONTEXT, teacher_prompt=taught))
    return rollouts


def relative_error(got, want):
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def moments(optimizer):
    """.1 of the clipped gradient, after one step."""
    return torch.cat([state["exp_avg"].flatten() for state in optimizer.state.values()])


def dense(model, prompt, response):
    """log pi at each token of a response, [T,V], by a plain pass over this text alone."""
    logits = model.lm(torch.tensor([prompt + response])).logits[0]
    return logits[len(prompt) - 1 : -1].log_softmax(-1)


# ====================================== Part I: the paper =========================================
# ---- Problems and prompts ------------------------------------------------------------------------
def test_the_instruction_comes_last_and_hints_stand_before_it(tiny):
    assert hsd.user_message(Q) == f"1+1=?\n\n{hsd.INSTRUCTION}"
    hints = hsd.CONTEXTS["answer"].format(2) + hsd.CONTEXTS["peer"].format("1+1=2")
    both = hsd.user_message(Q, [("answer", "2"), ("peer", "1+1=2")])
    assert both == f"1+1=?\n\n{hints}{hsd.CLOSING}{hsd.INSTRUCTION}"
    code = hsd.user_message(Problem("add", tests=("assert f(1) == 2",)), [("peer", "x")])
    assert code.endswith(hsd.CLOSING + hsd.CODE_INSTRUCTION)
    pieces = [piece for context in hsd.CONTEXTS.values() for piece in context.split("{}")]
    for piece in [*pieces, hsd.CLOSING + hsd.INSTRUCTION]:  # each is a token of the tiny model
        assert len(tiny[0](piece).input_ids) == 1


# ---- Rollouts and their verification (section 5) -------------------------------------------------
def test_rollouts_end_with_a_stop_token_and_one_that_is_cut_scores_0(tiny):
    tokenizer, model = tiny
    problems = hsd.load_problems(EVAL)[:3]
    groups = hsd.sample_groups(model, tokenizer, problems, 4, lab(), "x")
    assert [[r.problem for r in group] for group in groups] == [[p] * 4 for p in problems]
    for r in itertools.chain(*groups):
        assert r.response.index(tokenizer.eos_token_id) == len(r.response) - 1 and not r.truncated
        assert r.prompt == hsd.prompt_ids(tokenizer, hsd.user_message(r.problem))
        assert r.text == tokenizer.decode(r.response[:-1])
    cut, config = Problem("33-6+8*9=?", "6"), lab(max_new_tokens=5, temperature=0.0)
    (group,) = hsd.sample_groups(model, tokenizer, [cut], 2, config, "x")
    assert [(r.truncated, len(r.response), r.text[:4]) for r in group] == [(True, 5, "33-6")] * 2
    right = [Rollout(cut, [1], [1, 2], "so 6", truncated) for truncated in (False, True)]
    hsd.verify_rollouts(rollouts := [*group, *right])
    assert [r.reward for r in rollouts] == [0.0, 0.0, 1.0, 0.0]


def test_verify_reads_the_last_box_or_the_last_fenced_block(monkeypatch):
    monkeypatch.setattr(hsd, "run_tests", lambda program, tests: program == "2\n")
    code, fence = Problem("f", tests=("assert f()",)), "```python\n{}\n```\n"
    for problem, form in ((Q, "\\boxed{{{}}}, "), (code, fence)):
        verdicts = [hsd.verify(problem, form.format(x) + form.format(7 - x)) for x in (5, 2)]
        assert verdicts == [True, False]
    assert hsd.verify(code, "2\n") is False and hsd.verify(Q, "I do not know") is False


# ---- Peers and the teacher's context (Eq. 8, 9, 11) ----------------------------------------------
def group_of(rewards, tokenizer, problem=Q):
    prompt = tokenizer(problem.question).input_ids
    texts = [(f"attempt {i}", float(reward)) for i, reward in enumerate(rewards)]
    ids = [tokenizer(text).input_ids for text, _ in texts]
    return [Rollout(problem, prompt, x, text, reward=r) for x, (text, r) in zip(ids, texts)]


def test_a_window_ends_so_many_tokens_after_tau():
    peer = Rollout(Q, [], [1, 2, 3, 4, 5])
    r = Rollout(Q, [], [1, 2, 9, 8, 7, 6], peers=[peer], loss_weight=0.3, mean_weight=0.1)
    cut = hsd.cut_at_window(r, 1)
    assert (cut.loss_weight, cut.mean_weight) == (0.3, pytest.approx(0.2))
    kept = [hsd.cut_at_window(r, w).response for w in (0, 1, 3, 9)]
    assert kept == [r.response, [1, 2, 9], [1, 2, 9, 8, 7], r.response]
    assert hsd.cut_at_window(peer, 1) is peer  # it has none itself
    r.response = peer.response
    assert hsd.cut_at_window(r, 1).response == r.response


def rewarded(*rewards):
    return [Rollout(Q, [0], [i], reward=float(reward)) for i, reward in enumerate(rewards)]


RNG = random.Random(0)


def chosen(group, rule="uniform"):
    """The places of each rollout's peers in its group, sorted."""
    hsd.choose_peers(group, rule, RNG)
    return [sorted(map(group.index, r.peers)) for r in group]


def test_coverage_is_what_eq_12_says_and_not_what_table_2_prints():
    """f(p, G) = (1 - p)(1 - (1 - p)^(G - 1)), largest at p* = 1 - G^(-1 / (G - 1))."""
    rng = random.Random(0)
    for G, p_star, f_star in ((4, 0.370, 0.472), (8, 0.257, 0.650), (16, 0.169, 0.779)):
        assert 1 - G ** (-1 / (G - 1)) == pytest.approx(p_star, abs=6e-4)
        groups = [rewarded(*(rng.random() < p_star for _ in range(G))) for _ in range(1500)]
        for group in groups:
            hsd.choose_peers(group, "uniform", rng)
        assert hsd.rollout_metrics(groups)["coverage"] == pytest.approx(f_star, abs=0.02)


def test_peers_and_divergence_by_hand():
    assert chosen(rewarded(1, 0, 0, 1)) == [[3], [0, 3], [0, 3], [0]]
    assert chosen(lone := rewarded(0, 1, 0)) == [[1], [], [1]]
    assert [r.peer for r in lone] == [lone[1], None, lone[1]]
    for a, b, tau in (([1, 2, 3], [1, 2, 4], 2), ([5], [6], 0), ([1], [1, 2], 1), ([1], [1], 1)):
        assert hsd.divergence_point(a, b) == hsd.divergence_point(b, a) == tau


def test_peers_are_uniform_among_successes_and_never_oneself():
    group, counts = rewarded(1, 0, 1, 1), Counter()
    for _ in range(600):
        chosen(group)
        counts.update((i, group.index(r.peer)) for i, r in enumerate(group))
    assert all(j not in (i, 1) for i, j in counts)
    assert all(150 < counts[1, j] < 250 for j in (0, 2, 3))  # 200 expected


def test_peer_rules_by_hand():
    given = (([1, 2, 3, 9, 9], [-1.0, -1.0]), ([1, 9], [-2.0, -1.0]), ([8, 8, 8], [-0.5, -0.7]))
    peers = [Rollout(Q, [0], ids, reward=1.0, logp=torch.tensor(logp)) for ids, logp in given]
    want = {"shortest": 1, "nearest": 0, "low_perplexity": 2, "high_perplexity": 1}
    for rule, place in want.items():
        chosen([r := Rollout(Q, [0], [1, 2, 3, 4]), *peers], rule)
        assert r.peer is peers[place], rule
    assert {*want, "uniform"} == {*hsd.PEER_RULES}


def test_each_method_shows_its_teacher_what_table_1_says(tiny):
    def contexts(context, problem=Q):
        chosen(group := group_of([0, 1], tiny[0], problem))
        return [context(r) for r in group]

    answer, peer = [("answer", "2")], [("peer", "attempt 1")]  # the second has the fallback
    want = {"hsd": [answer + peer, answer], "sdpo": [peer, []]}
    want["sdft"] = [[("solution", "1+1=2")]] * 2
    for name, method in hsd.METHODS.items():
        if method.context:
            assert contexts(method.context) == want.get(name, [answer] * 2), name
    assert contexts(hsd.answer_and_peer, Problem("add", tests=("assert f()",))) == [peer, []]


def test_each_text_of_a_context_is_cut_by_itself_and_at_its_end(tiny):
    r, text = Rollout(Q, [], []), "0123456789" * 20

    def context(rollout):
        return [("answer", "2"), ("solution", text), ("peer", text), ("peer", "<|im_end|>")]

    hsd.condition_teacher(r, context, tiny[0], lab(max_peer_tokens=33))
    cut = text[:33]
    assert r.context == [("answer", "2"), ("solution", cut), ("peer", cut), ("peer", "<|im_end|>")]
    assert hsd.user_message(Q, r.context) in tiny[0].decode(r.teacher_prompt)


# ---- Methods (Table 1) ---------------------------------------------------------------------------
def test_the_ten_rows_of_table_1_as_numbers():
    """(distill, policy, std, ratio, clip, mean over, mixed groups only, overlong, reweighted)."""
    clip = (0.2, 0.2)
    distilled = (1.0, 0.0, True, "token", clip, "rollouts", False, False, False)
    policy = (0.0, 1.0, True, "token", clip, "rollouts", False, False, False)
    want = {name: distilled for name in ("hsd", "opsd", "sdft", "sdpo")} | {
        "grpo": policy,
        "dr_grpo": (0.0, 1.0, False, "token", clip, "constant", False, False, False),
        "dapo": (0.0, 1.0, True, "token", (0.2, 0.28), "tokens", True, True, False),
        "gspo": (0.0, 1.0, True, "sequence", (3e-4, 4e-4), "rollouts", False, False, False),
        "rlsd": (0.0, 1.0, True, "token", clip, "rollouts", False, False, True),
        "grpo+opsd": (0.5, 0.5, True, "token", clip, "rollouts", False, False, False),
    }
    assert {name: tuple(asdict(row).values())[1:] for name, row in hsd.METHODS.items()} == want
    assert {row.context for row in hsd.METHODS.values()} == {
        None,
        hsd.answer_and_peer,
        hsd.answer_alone,
        hsd.solution_alone,
        hsd.peer_alone,
    }
    untaught = [name for name, row in hsd.METHODS.items() if row.context is None]
    assert untaught == ["grpo", "dr_grpo", "dapo", "gspo"]


# ---- Config (section 5) --------------------------------------------------------------------------
def test_the_papers_values_are_the_defaults_and_the_labs_hold_without_a_model():
    paper = {"model": "Qwen/Qwen3-8B", "method": "hsd", "teacher": "live", "peer_rule": "uniform"}
    paper |= {"questions_per_step": 128, "group_size": 8, "temperature": 1.0, "top_p": 0.95}
    paper |= {"max_new_tokens": 4096, "steps": 1500, "learning_rate": 1e-6, "beta": 1e-3}
    paper |= {"eval_samples": 16, "updates_per_batch": 1, "max_grad_norm": 1.0, "thinking": False}
    assert {name: getattr(Config(), name) for name in paper} == paper
    assert (Config().out, Config(method="opsd", steps=0).out) == ("runs/hsd", "runs/opsd-eval")
    assert hsd.settings([]) == Config(**hsd.LAB)
    assert hsd.settings(["--model", "Qwen/Qwen3-8B"]) == Config()
    assert hsd.settings(["--model=x", "--lab=false"]) == Config(model="x")
    for flag in ("--lab", "--lab=true"):
        both = hsd.settings([flag, "--model", "x"])
        assert both == Config(**{**hsd.LAB, "model": "x", "lab": True})


# ---- Credit and loss (Eq. 2, 10, 13) -------------------------------------------------------------


def test_credit_is_teacher_minus_student_at_the_tokens_of_the_rollout():
    models, rollouts = [random_model(0), random_model(1)], some_rollouts()
    config = lab(micro_batch_tokens=60, temperature=0.6)
    hsd.set_credit(Models(*models, None), rollouts, config)
    for T, method in ((1, "hsd"), (0.6, "grpo")):
        hsd.set_logp(models[0], rollouts, hsd.METHODS[method], config)
        for r in rollouts:
            at, prompts = torch.tensor(r.response)[:, None], (r.prompt, r.teacher_prompt)
            s, t = (dense(m, p, r.response) for m, p in zip(models, prompts))
            logp = (s / T).log_softmax(-1).gather(-1, at)[:, 0]
            assert torch.allclose(r.logp, logp, atol=1e-4)
            assert torch.allclose(r.credit, (t - s).gather(-1, at)[:, 0], atol=1e-4)


def dense_loss(method, rollouts, models, config, step):
    """The loss of an update over all rollouts, for each row of Table 1, by its paper's formula; and
    the means of both KLs and of the student's entropy over tokens, then rollouts."""
    distill = {"hsd": 1, "opsd": 1, "sdft": 1, "sdpo": 1, "grpo+opsd": 0.5}.get(method, 0)
    policy = {"grpo+opsd": 0.5}.get(method, 0 if distill else 1)
    low, high = {"dapo": (0.2, 0.28), "gspo": (3e-4, 4e-4)}.get(method, (0.2, 0.2))
    N, tokens, total, kls = len(rollouts), sum(len(r.response) for r in rollouts), 0.0, Counter()
    for r in rollouts:
        pairs = zip(models, (r.prompt, r.teacher_prompt, r.prompt))
        s, t, p0 = (dense(model, prompt, r.response) for model, prompt in pairs)
        at = torch.tensor(r.response)[:, None]
        logp, t_logp = (
            (x / config.temperature).log_softmax(-1).gather(-1, at)[:, 0] for x in (s, t)
        )
        kl = (t.exp() * (t - s)).sum(-1) * bool(r.context)
        kl_reference = (s.exp() * (s - p0)).sum(-1)
        entropy = -(s.exp() * s).sum(-1)
        for name, x in (("kl", kl), ("kl_reference", kl_reference), ("entropy", entropy)):
            kls[name] += x.mean().item() / N
        log_ratio, A = logp - r.logp, torch.full_like(logp, r.advantage)
        if method == "gspo":
            log_ratio = log_ratio.mean().expand(len(logp))
        if method == "rlsd":
            share = 0.5 * (1 - step / 50)
            evidence = (A.sign() * (t_logp - logp) * bool(r.context)).exp().clamp(0.8, 1.2).detach()
            A = A * (1 - share + share * evidence)
        ratio = log_ratio.exp()
        objective = torch.min(ratio * A, ratio.clamp(1 - low, 1 + high) * A)
        loss = distill * kl + config.beta * kl_reference - policy * objective
        over = {"dapo": tokens, "dr_grpo": N * config.max_new_tokens}.get(method)
        total = total + loss.sum() / (over or N * len(r.response))
    return total, kls


@pytest.mark.parametrize("method", hsd.METHODS)
def test_loss_and_gradient_of_each_method_are_those_of_its_formula(method):
    """Three models, rollouts off-policy enough for every clip to act, one without context."""
    student, teacher, initial = models = [random_model(i) for i in range(3)]
    exact = [copy.deepcopy(model).double() for model in models]
    rollouts, noise = some_rollouts(9), torch.Generator().manual_seed(0)
    for i, r in enumerate(rollouts):
        at = torch.tensor(r.response)[:, None]
        logits = dense(exact[0], r.prompt, r.response) / 0.6
        logp = logits.log_softmax(-1).gather(-1, at)[:, 0].detach()
        gap = 1e-3 if method == "gspo" else 0.4
        r.logp = (logp + gap * torch.randn(len(logp), generator=noise)).float()
        r.advantage, r.context = (-1) ** i * (0.5 + i / 9), CONTEXT if i != 2 else []
    sizes = {"beta": 0.1, "chunk_tokens": 7, "max_new_tokens": 30, "updates_per_batch": 2}
    sizes["temperature"] = 0.6  # of the policy loss; KLs and entropy are those at 1
    config, taught = lab(method=method, **sizes), hsd.METHODS[method].context
    want, kls = dense_loss(method, rollouts, exact, config, 10)
    want.backward()
    hsd.set_weights(rollouts, hsd.METHODS[method].mean_over, config)
    models = Models(student, taught and teacher, initial)
    loss, figures = hsd.batch_loss(models, rollouts, 10, config)
    loss.backward()
    kls = {**kls, "loss": want.item()}
    assert figures == {k: pytest.approx(v, rel=1e-4) for k, v in kls.items() if taught or k != "kl"}
    assert all(p.grad is None for model in (teacher, initial) for p in model.parameters())
    for p, p64 in zip(student.parameters(), exact[0].parameters()):
        assert relative_error(p.grad, p64.grad) < 1e-3


# ---- The algorithm -------------------------------------------------------------------------------
@pytest.fixture
def step_on(tiny, monkeypatch):
    """A function: one train_step() of a random model on groups that have these rewards. Gives the
    figures and the optimizer."""
    monkeypatch.setattr(hsd, "verify_rollouts", lambda rollouts: None)
    tokenizer = tiny[0]

    def act(*rewards, models=None, longer=0, **changes):
        config = lab(**{"beta": 0.0, "teacher": "live", **changes})
        problems = [Problem(f"{i}+1=?", str(i + 1), "solution") for i in range(len(rewards))]
        groups = [group_of(row, tokenizer, p) for row, p in zip(rewards, problems)]
        for i, r in enumerate(itertools.chain(*groups)):
            r.response = r.response * (1 + longer * i)
        monkeypatch.setattr(hsd, "sample_groups", lambda *_: groups)
        if not models:
            student, initial = (random_model(i, V=len(tokenizer)) for i in range(2))
            taught = student if hsd.METHODS[config.method].context else None
            models = Models(student, taught, initial if config.beta else None)
        if config.gradient_checkpointing:
            models.student.lm.gradient_checkpointing_enable({"use_reentrant": False})
        optimizer = hsd.adamw(models.student, config)
        return hsd.train_step(models, optimizer, tokenizer, problems, 0, config), optimizer

    return act


def test_a_window_leaves_out_tokens_and_changes_no_others_weight_or_loss(step_on, monkeypatch):
    seen, batch_loss = [], hsd.batch_loss

    def spy(models, rollouts, step, config):
        for r in rollouts:
            sides, t = hsd.read_responses(models, [r]), hsd.tokens_of([r], step, "cpu")
            _, terms = hsd.chunked_loss(*sides, t, hsd.METHODS["hsd"], config)
            tau = hsd.divergence_point(r.response, r.peer.response) if r.peer else math.inf
            seen.append((r.loss_weight, tau, terms.kl.tolist(), terms.kl_reference.tolist()))
        return batch_loss(models, rollouts, step, config)

    monkeypatch.setattr(hsd, "batch_loss", spy)
    step_on([0, 1, 0], [0, 0, 0], longer=1, beta=0.3)
    whole = seen[:]
    seen.clear()
    figures = step_on([0, 1, 0], [0, 0, 0], longer=1, beta=0.3, window=4)[0]
    cut = sum(math.isfinite(tau) and len(kl) > tau + 4 for _, tau, kl, _ in whole)
    assert cut == 1 and sum(len(kl) == tau + 4 for _, tau, kl, _ in seen) == 1
    want = sum(
        weight * (kl + 0.3 * reference)
        for weight, tau, *terms in whole
        for t, (kl, reference) in enumerate(zip(*terms))
        if t < tau + 4
    )
    assert figures["loss"] == pytest.approx(want, rel=1e-4)


def test_loss_and_gradient_do_not_depend_on_micro_batches_or_chunks(step_on):
    (want, optimizer), *others = [
        step_on([1, 0, 0], [0, 1, 1], longer=2, beta=0.3, max_grad_norm=1e9, **changes)
        for changes in (
            {"micro_batch_tokens": 10**6},
            {"micro_batch_tokens": 1},
            {"micro_batch_tokens": 120, "chunk_tokens": 7},
            {"gradient_checkpointing": True},
        )
    ]
    for got, other in others:
        for name in ("loss", "kl", "kl_reference", "entropy", "grad_norm"):
            assert got[name] == pytest.approx(want[name], rel=1e-4)
        assert relative_error(moments(other), moments(optimizer)) < 1e-4


def test_figures_are_means_over_updates_also_where_there_are_more_than_rollouts(step_on):
    """With next to no learning rate: halves, or single rollouts, have the means of the whole."""
    still = {"learning_rate": 1e-15, "beta": 0.3}
    want = step_on([1, 0, 0], [0, 1, 1], **still)[0]
    for updates in (2, 9):
        got = step_on([1, 0, 0], [0, 1, 1], updates_per_batch=updates, **still)[0]
        for name in ("loss", "kl", "kl_reference", "entropy"):
            assert got[name] == pytest.approx(want[name], rel=1e-4)


def test_rollouts_peers_and_questions_follow_from_seed_and_step(tiny, monkeypatch):
    seen, problems = [], hsd.load_problems(TRAIN)

    def verify(rollouts):
        seen[:] = rollouts
        for r in rollouts:
            r.reward = 1.0

    def drawn(step, seed):
        config = lab(seed=seed, questions_per_step=1, group_size=8, max_new_tokens=24, beta=0.0)
        student = copy.deepcopy(tiny[1]).requires_grad_()
        models, optimizer = Models(student, student, None), hsd.adamw(student, config)
        hsd.train_step(models, optimizer, tiny[0], problems[:1], step, config)
        peers = [[r is o.peer for r in seen].index(True) for o in seen]
        order = hsd.questions_of_step(problems, step, config)
        return [r.response for r in seen], peers, order

    monkeypatch.setattr(hsd, "verify_rollouts", verify)
    first = drawn(0, seed=0)
    assert drawn(0, seed=0) == first
    for other in (drawn(1, seed=0), drawn(0, seed=1)):
        assert [x != y for x, y in zip(first, other)] == [True] * 3
    alone = lab(rollout_tokens=1, max_new_tokens=24)  # a call for each prompt, with its own seed
    (group,) = hsd.sample_groups(tiny[1], tiny[0], problems[:1], 8, alone, "0 0")
    assert len({tuple(r.response) for r in group}) > 1

    def sample(model, prompts, stops, config, seed, phase):
        seeds.append(seed)
        return [[9]] * len(prompts)

    seeds = ["0 0", "0 1"]  # of the first steps; no evaluation draws as they do
    monkeypatch.setattr(hsd, "sample_responses", sample)
    hsd.evaluate(Models(tiny[1], None, None), tiny[0], problems[:1], lab(eval_samples=2), 0)
    assert len(set(seeds)) == len(seeds) == 4


def test_an_ema_teacher_goes_the_share_of_the_way_that_it_does_not_keep(step_on):
    models = hsd.load_models(lab(teacher="ema", beta=0.0))[1]
    old = copy.deepcopy(models.teacher)
    step_on([1, 0, 0], models=models, teacher="ema", ema_decay=0.9, learning_rate=1e-2)
    for was, now, student in zip(*(m.parameters() for m in (old, models.teacher, models.student))):
        assert (student - was).abs().max() > 1e-3
        assert torch.allclose(now - was, 0.1 * (student - was), atol=1e-6)


def test_dapo_drops_groups_that_are_all_right_or_all_wrong(step_on):
    for method, same in (("dapo", True), ("grpo", False)):
        few = step_on([1, 0, 0], method=method)[0]["grad_norm"]
        many = step_on([1, 0, 0], [1, 1, 1], [0, 0, 0], method=method)[0]["grad_norm"]
        assert (many == pytest.approx(few, rel=1e-5)) == same
    assert step_on([1, 1, 1], [0, 0], method="dapo")[0]["grad_norm"] == 0


def jensen_shannon(teacher_logits, student_logits):
    middle = (teacher_logits.softmax(-1) + student_logits.softmax(-1)).div(2).log()
    return (hsd.kl(teacher_logits, middle) + hsd.kl(student_logits, middle)) / 2


@pytest.mark.parametrize("compile", [False, True])
def test_another_divergence_is_one_function_and_its_gradient_is_right(monkeypatch, compile):
    monkeypatch.setattr(hsd, "distillation_loss", jensen_shannon)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    hsd.differentiated_loss.cache_clear()
    student, teacher, head = hidden_states()
    s64, w64 = student.clone().requires_grad_(), head.clone().requires_grad_()
    p = (teacher @ head.T).softmax(-1)
    q = (s64 @ w64.T).softmax(-1)
    m = (p + q) / 2
    want = ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2
    want.sum().backward()
    s, w = (x.float().requires_grad_() for x in (student, head))
    t = hsd.Tokens(*[torch.ones(37)] * 7)._replace(ids=torch.ones(37).long(), old_logp=None)
    sides = ((s, w), (teacher.float(), head.float()), None)
    config = lab(beta=0.0, chunk_tokens=8, compile=compile)
    loss, terms = hsd.chunked_loss(*sides, t, hsd.METHODS["hsd"], config)
    loss.backward()
    assert relative_error(terms.kl, want) < 1e-4
    assert relative_error(s.grad, s64.grad) < 1e-4 and relative_error(w.grad, w64.grad) < 1e-4


# ====================================== Part II: the engine =======================================
# ---- What only the policy-gradient methods need (Eq. 1, Table 1) ---------------------------------
def test_advantages_and_dapos_length_penalty_by_hand():
    """Rewards 1, 0, 0, 0: mean 1/4, unbiased standard deviation 1/2. Of 100 tokens, no penalty up
    to 80, half at 90, all at 100; halved for 0/1 rewards."""

    def advantages(method, rewards, lengths=(3, 3, 3, 3)):
        group = [Rollout(Q, [1], [5] * n, reward=float(r)) for r, n in zip(rewards, lengths)]
        hsd.set_advantages(group, hsd.METHODS[method], lab(method=method, max_new_tokens=100))
        return pytest.approx([r.advantage for r in group], abs=1e-4)

    for method in ("grpo", "gspo", "dapo", "rlsd", "grpo+opsd"):
        assert advantages(method, [1, 0, 0, 0]) == [1.5, -0.5, -0.5, -0.5]
    assert advantages("dr_grpo", [1, 0, 0, 0]) == [0.75, -0.25, -0.25, -0.25]
    assert advantages("grpo", [1, 1, 1]) == [0, 0, 0] and advantages("grpo", [1]) == [0]
    assert advantages("grpo", [1, 1, 1, 0], (80, 90, 100, 9)) == [0.5, 0.5, 0.5, -1.5]
    shaped = torch.tensor([1, 0.75, 0.5, 0])
    want = ((shaped - shaped.mean()) / shaped.std()).tolist()
    assert advantages("dapo", [1, 1, 1, 0], (80, 90, 100, 9)) == want


# ---- The loss, a chunk of tokens at a time -------------------------------------------------------
def hidden_states(T=37, H=16, V=101, seed=0):
    """Student and teacher hidden states [T,H], and a head [V,H]; float64."""
    g = torch.Generator().manual_seed(seed)
    student, gap = torch.randn(2, T, H, generator=g, dtype=torch.float64)
    return student, student + gap, torch.randn(V, H, generator=g, dtype=torch.float64)


def dense_kl(student_hidden, teacher_hidden, head):
    """KL(teacher || student) at each token, [T], by plain log_softmax in the inputs' dtype."""
    student = (student_hidden @ head.T).log_softmax(-1)
    teacher = (teacher_hidden.detach() @ head.detach().T).log_softmax(-1)
    return (teacher.exp() * (teacher - student)).sum(-1)


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    hsd.differentiated_loss.cache_clear()
    yield
    hsd.differentiated_loss.cache_clear()


@pytest.mark.parametrize("T,chunk", [(37, 8), (37, 64), (37, 37), (1, 4), (64, 1)])
def test_kl_and_gradients_equal_a_dense_float64_oracle(T, chunk, plain):
    """Also: the head learns from the student's side alone, and nothing reaches the teacher."""
    (student, teacher, head), weights = hidden_states(T), torch.rand(T, dtype=torch.float64)
    s64, w64 = student.clone().requires_grad_(), head.clone().requires_grad_()
    kl64 = dense_kl(s64, teacher, w64)
    (weights * kl64).sum().backward()
    s, t, w = (x.float().requires_grad_() for x in (student, teacher, head))
    loss, kl = hsd.kl_teacher_student(s, t, w, weights.float(), chunk)
    (3 * loss).backward()
    assert kl.dtype == torch.float32 and kl.shape == (T,) and not kl.requires_grad
    assert relative_error(kl, kl64) < 1e-5 and relative_error(loss, (weights * kl64).sum()) < 1e-5
    assert relative_error(s.grad, 3 * s64.grad) < 1e-5 and t.grad is None
    assert relative_error(w.grad, 3 * w64.grad) < 1e-5


def test_without_a_compiler_a_line_says_so_and_the_plain_function_runs(monkeypatch, capsys):
    def no_compiler(function):
        raise RuntimeError("no g++ here\nand more")

    monkeypatch.setattr(torch, "compile", no_compiler)
    function = hsd.differentiated_loss.__wrapped__(hsd.METHODS["hsd"], 0.0, 1.0, True)
    ones = torch.ones(3)
    t = hsd.Tokens(ones.long(), ones, ones, ones, ones, None, ones)
    assert function(torch.zeros(3, 4), torch.zeros(3, 4), None, t)[1][0] == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("without it: no g++ here")


def test_the_compiled_loss_equals_the_plain_one(monkeypatch):  # slow: 6 s
    (student, teacher, head), results = (x.float() for x in hidden_states(T=21)), []
    for kernel in (torch.compile, lambda function, **_: function):
        monkeypatch.setattr(torch, "compile", kernel)
        hsd.differentiated_loss.cache_clear()
        s, w = student.clone().requires_grad_(), head.clone().requires_grad_()
        loss, kl = hsd.kl_teacher_student(s, teacher, w, None, 8)
        loss.backward()
        results.append((loss, kl, kl.mean(), s.grad, w.grad))
    hsd.differentiated_loss.cache_clear()
    assert torch.compiler.config.recompile_limit == 64  # all methods, with and without pi_0
    loss, _, mean, *_ = results[0]
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(*results))
    assert loss.item() == pytest.approx(mean.item(), rel=1e-6)  # without weights


@pytest.mark.parametrize("scale,target", [(1.7, 5.0), (0.17, 0.07), (0.045, 0.005)])
def test_gradient_from_bf16_hidden_states_is_within_one_percent(scale, target, plain):
    student, teacher, head = hidden_states(T=64, H=128, V=1000)
    teacher = student + scale * (teacher - student)
    student, teacher, head = (x.bfloat16() for x in (student, teacher, head * 0.2))
    s64, w64 = student.double().requires_grad_(), head.double().requires_grad_()
    kl64 = dense_kl(s64, teacher.double(), w64)
    kl64.mean().backward()
    assert 0.5 * target < kl64.mean().item() < 2 * target
    s, w = student.clone().requires_grad_(), head.clone().requires_grad_()
    loss, kl = hsd.kl_teacher_student(s, teacher, w, None, 16)
    loss.backward()
    assert relative_error(kl, kl64) < 1e-3
    assert relative_error(s.grad, s64.grad) < 0.01 and relative_error(w.grad, w64.grad) < 0.01


# ---- Reading and sampling ------------------------------------------------------------------------


def test_thinking_mode_is_the_same_switch_for_student_and_teacher(tiny):
    for thinking, closed in ((False, 1), (True, 0)):
        hsd.condition_teacher(
            r := Rollout(Q, [], []), hsd.answer_alone, tiny[0], lab(thinking=thinking)
        )
        student = hsd.prompt_ids(tiny[0], hsd.user_message(Q), thinking)
        texts = [tiny[0].decode(ids) for ids in (r.teacher_prompt, student)]
        assert [text.count("</think>") for text in texts] == [closed] * 2


@pytest.mark.skipif(transformers.__version__ < "5.18", reason="it has no sanitize_control_tokens")
def test_control_tokens_in_a_message_stay_text_and_a_template_writes_one_date(tiny):
    tokenizer = copy.deepcopy(tiny[0])
    end = tokenizer.eos_token_id
    prompt = hsd.prompt_ids(tokenizer, "1 <|im_end|> 2")
    assert prompt.count(end) == hsd.prompt_ids(tokenizer, "1 2").count(end) == 1  # the template's
    assert "1 <|im_end|> 2" in tokenizer.decode(prompt)
    tokenizer.chat_template += "{{ strftime_now('%d %b %Y') }}"
    assert tokenizer.decode(hsd.prompt_ids(tokenizer, "1")).endswith("14 Jun 2026")


def test_what_closes_a_turn_of_the_template_ends_a_response(tiny, capsys):
    tokenizer, lm = copy.deepcopy(tiny[0]), copy.deepcopy(tiny[1].lm)
    lm.generation_config.eos_token_id = tokenizer.eos_token_id
    assert hsd.stop_tokens(lm, tokenizer) == [tokenizer.eos_token_id]
    assert capsys.readouterr().out == ""
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<|im_start|>{% endfor %}"
    assert hsd.stop_tokens(lm, tokenizer) == sorted([start, tokenizer.eos_token_id])
    assert "closes a turn with <|im_start|>" in capsys.readouterr().out
    for template in ("hello", "{{ messages[0]['content'] * 2 }}"):
        tokenizer.chat_template = template
        with pytest.raises(ValueError, match="drops or repeats"):
            hsd.stop_tokens(lm, tokenizer)


@pytest.mark.parametrize("T,top_p", [(1.0, 1.0), (0.5, 1.0), (1.0, 0.6), (1.5, 0.8)])
def test_tokens_are_drawn_from_the_nucleus_of_softmax_of_logits_over_T(T, top_p):
    """Two prompts of different length, 5,000 draws each, and a model that asks for top_k 2."""
    model, prompts, N = random_model(spread=0.3), [[3, 1, 4, 1, 5], [9, 2]], 5000
    wish = model.lm.generation_config
    wish.top_k, wish.temperature = 2, 0.1
    config = lab(temperature=T, top_p=top_p, max_new_tokens=1)
    torch.manual_seed(0)
    drawn = hsd.generate(model, [p for p in prompts for _ in range(N)], [63], config)
    for i, prompt in enumerate(prompts):
        counts = Counter(token for (token,) in drawn[i * N : (i + 1) * N])
        logits = model.lm(torch.tensor([prompt])).logits[0, -1].detach().double()
        p, order = (logits / T).softmax(-1).sort(descending=True)
        size = int((p.cumsum(-1) < top_p - 1e-9).sum()) + 1 if top_p < 1 else len(p)
        p, observed = p[:size] / p[:size].sum(), [counts[token] for token in order.tolist()]
        assert sum(observed[size:]) == 0
        chi2 = ((torch.tensor(observed[:size]) - N * p) ** 2 / (N * p)).sum().item()
        assert chi2 < size - 1 + 5 * math.sqrt(2 * size)


def in_bursts(model, prompts, burst_tokens, stops=(10**6,), **values):
    """What sample_responses() returns."""
    config = lab(burst_tokens=burst_tokens, **values)
    return hsd.sample_responses(model, prompts, list(stops), config, "0", "rollouts")


def test_the_token_after_a_border_is_drawn_from_the_softmax_of_its_own_row():
    model, N = random_model(spread=0.3), 4000
    prompts = [[3, 1, 4], [5]] * (N // 2)
    rows = in_bursts(model, prompts, 3, max_new_tokens=4, top_p=1.0, rollout_tokens=2000)
    assert in_bursts(model, prompts, 3, max_new_tokens=4, top_p=1.0, rollout_tokens=2000) == rows
    assert len({tuple(row) for row in rows}) > 0.9 * N  # each call has its own seed
    p = torch.zeros(N, 64, dtype=torch.float64)
    for i in (0, 1):  # rows of one length
        texts = torch.tensor([prompts[i] + row[:3] for row in rows[i::2]])
        p[i::2] = model.lm(texts).logits[:, -1].detach().double().softmax(-1)
    drawn = torch.tensor([row[3] for row in rows])
    counts, expected = torch.bincount(drawn, minlength=64), p.sum(0)
    assert ((counts - expected) ** 2 / expected).sum() < 63 + 5 * math.sqrt(2 * 63)
    surprise = p.gather(1, drawn[:, None]).log().mean() - (p * p.log()).sum(1).mean()
    assert abs(surprise) < 5 * p.log().std() / math.sqrt(N)


def test_a_row_ends_in_the_burst_in_which_it_stops_and_the_others_go_on(monkeypatch):
    """Of four rows, each with its length; none has more than 10 new tokens."""
    calls, seeds, lengths = [], set(), {1: 2, 2: 4, 3: 9, 4: 99}

    def generate(model, prompts, stops, config):
        calls.append(([len(p) for p in prompts], config.max_new_tokens))
        seeds.add(torch.initial_seed())
        left = [lengths[p[0]] - p.count(7) for p in prompts]  # 7s before the stop token, 8
        return [([7] * n + [8])[: config.max_new_tokens] for n in left]

    monkeypatch.setattr(hsd, "generate", generate)
    prompts = [[1], [2], [3], [4]]
    rows = in_bursts(random_model(), prompts, 4, [8], max_new_tokens=10, rollout_tokens=18)
    assert rows == [[7, 7, 8], [7] * 4 + [8], [7] * 9 + [8], [7] * 10]
    # what a call is given: the length of each row, and how many tokens it may add
    first, second = [([1, 1, 1], 4), ([1], 4)], [([5, 5], 4), ([5], 4)]
    assert calls == first + second + [([9], 2), ([9], 2)] and len(seeds) == 6


# ---- Answers and programs (section 5) ------------------------------------------------------------
def whole(x):
    """A text of the case files: itself, or its parts, strings or [unit, times]; in tests too."""
    if isinstance(x, dict):
        return {key: whole(value) for key, value in x.items()}
    parts = [x] if isinstance(x, str) else x
    return "".join(part if isinstance(part, str) else part[0] * part[1] for part in parts)


def in_parallel(function, work):
    with ThreadPoolExecutor(8) as pool:  # they wait for other processes
        return list(pool.map(function, work))


def cases(name):
    """{kind: rows} of a case file."""
    kinds = defaultdict(list)
    for line in (hsd.DATA / "cases" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        kinds[json.loads(line)["kind"]].append(json.loads(line))
    return kinds


ANSWERS = cases("answers")


def read_as_wanted(row):
    """A row has candidate and answer, in both orders; or a text, with its answer or the find."""
    found = hsd.extract_answer(whole(row["text"])) if "text" in row else whole(row["candidate"])
    if "extract" in row:
        return found == row["extract"]
    both = [(found, whole(row["answer"])), (whole(row["answer"]), found)]
    return [found is not None and hsd.math_equal(*pair) for pair in both] == [row["want"]] * 2


def hostile_answers():
    tracemalloc.start()
    for row in ANSWERS["hostile"]:
        start = time.process_time()
        assert not hsd.math_equal(whole(row["candidate"]), "5")
        assert time.process_time() - start < 0.5  # .1 on an idle machine
    assert tracemalloc.get_traced_memory()[1] < 50e6


def start_answers(folder):
    def act():
        wrong = {k: [row for row in v if not read_as_wanted(row)] for k, v in ANSWERS.items()}
        (folder / "wrong").write_text(json.dumps(wrong))
        hostile_answers()

    return launch(with_errors, folder, act)


def test_a_hostile_answer_takes_no_time_no_memory_and_is_no_python(early, tmp_path):
    marker = tmp_path / "marker"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    assert not any(hsd.math_equal(text, "5") for text in (code, f"sqrt({code})", f"{{{code}}}"))
    assert not marker.exists()
    folder, processes = early["answer"]
    assert ended(*processes) == [0], (folder / "errors").read_text()


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_is_read_and_compared_as_the_cases_say(early, kind):
    folder, processes = early["answer"]
    ended(*processes)
    assert json.loads((folder / "wrong").read_text())[kind] == []


def test_answers_are_compared_in_many_threads_without_a_change_of_precision():
    def right(n):
        return hsd.math_equal(f"\\sec({n}) + {n}^{{1/3}}", f"1/\\cos({n}) + \\sqrt[3]{{{n}}}")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    assert all(in_parallel(right, range(1, 300))) and hsd.MP.dps == 80
    sys.setswitchinterval(interval)


def test_the_golds_of_our_problems_have_values_and_one_more_is_another():
    golds = {p.answer for p in hsd.load_problems(MATH)}
    assert [gold for gold in golds if not hsd.readable(gold)] == []
    assert not any(hsd.math_equal(f"{gold} + 1", gold) for gold in golds if gold[-1].isdigit())
    assert hsd.math_equal(text := "one and " * 99, text)  # too long to be read
    assert not hsd.readable("no solution") and not hsd.readable("x" * 100_000)


PROGRAMS = cases("programs")


def verdict_on(row):
    tests = hsd.read_tests([row["row"]])[0] if "row" in row else row["tests"]
    tests = [{k: whole(v) for k, v in t.items()} if isinstance(t, dict) else t for t in tests]
    seconds = 10.0 if row["want"] else row.get("seconds", 1.0)
    return run_tests(whole(row["program"]), tests, seconds)


run_tests = hsd.run_tests  # which another test replaces for a while


@pytest.fixture(scope="session", autouse=True)
def early(request, tmp_path_factory):
    """(folder, what was started in it) of some long tests: their processes run beside others."""
    started = {}
    starts = {"test_two_processes": start_ranks, "test_hsd_py_alone": start_alone}
    starts |= {"test_a_rank_with_nothing": start_idle, "test_ranks_that_do_not": start_apart}
    starts |= {"test_all_methods_train": start_gpu, "test_the_notebooks_cells": start_notebook}
    starts["answer"] = start_answers
    for test, start in starts.items():
        if any(test in item.name for item in request.session.items):
            folder = tmp_path_factory.mktemp(test)
            started[test] = folder, start(folder)
    return started


@pytest.fixture(scope="session", autouse=True)
def verdicts(request, early):
    """{kind: verdicts on its programs}, made in the background from the start."""
    names = " ".join(item.name for item in request.session.items)
    kinds = [kind for kind in PROGRAMS if f"nobody_stays[{kind}]" in names]
    with ThreadPoolExecutor(3) as pool:  # they wait for other processes
        yield {kind: [pool.submit(verdict_on, row) for row in PROGRAMS[kind]] for kind in kinds}
        pool.shutdown(cancel_futures=True)


def processes(seconds=0.0):
    """{number: its parent's} of the sandbox's processes; if need be, those still there later."""
    found, end = {}, time.monotonic() + seconds
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(hsd.DATA / "sandbox.py").encode() in (folder / "cmdline").read_bytes():
                parent = (folder / "stat").read_text().split(")")[-1].split()[1]
                found[int(folder.name)] = int(parent)
    return processes(end - time.monotonic()) if found and seconds > 0 else found


@pytest.mark.parametrize("kind", ["honest", "hostile", "output", "row"])
def test_honest_programs_pass_hostile_ones_fail_and_nobody_stays(verdicts, kind):
    pairs = zip(PROGRAMS[kind], verdicts[kind], strict=True)
    assert [row["name"] for row, got in pairs if got.result() is not row["want"]] == []
    if kind == list(verdicts)[-1]:
        assert not processes(3.0)


def test_programs_write_no_file_and_leave_no_process(tmp_path):
    tmp_path.chmod(0o777)
    rows = [{"want": False, **row} for row in PROGRAMS["side_effect"]]
    rows += [{**row, "tests": [{"input": "", "output": "9"}]} for row in rows]
    for row in rows:
        row["program"] = row["program"].replace("{marker}", str(tmp_path / row["name"]))
    before = (os.getcwd(), dict(os.environ))
    in_parallel(verdict_on, rows)
    assert (os.getcwd(), dict(os.environ)) == before
    assert not processes(3.0) and list(tmp_path.iterdir()) == [] and len(rows) >= 60


def test_a_program_ends_with_its_test_also_where_it_has_threads():
    """Ten tests of a program that holds 100 MB and has a thread that sleeps."""
    program = "import threading, time\nheld = b'x' * 10**8\n"
    program += "threading.Thread(target=time.sleep, args=(60,)).start()\ndef f(x): return x\n"

    def large():
        count = 0
        for number in processes():
            with contextlib.suppress(OSError, IndexError):  # it has just ended
                status = Path(f"/proc/{number}/status").read_text()
                count += int(status.split("VmRSS:")[1].split()[0]) > 80_000
        return count

    with ThreadPoolExecutor(1) as pool:
        verdict = pool.submit(hsd.run_tests, program, [f"assert f({i}) == {i}" for i in range(10)])
        most = 0
        while not verdict.done():
            most = max(most, large())
    assert verdict.result() is True and 1 <= most <= 2


def test_tests_that_test_nothing_are_refused_when_they_are_read():
    found = hsd.read_tests([row["row"] for row in PROGRAMS["refused"]])
    assert [f for f in found if not re.fullmatch(r"\w+(Error|Exception): [^\n]*", str(f))] == []


def test_solutions_pass_and_stubs_do_not():
    problems = hsd.load_problems(CODE)
    pairs = [(text, p.tests) for p in problems for text in (p.solution, "f = 0")]
    verdicts = in_parallel(lambda pair: hsd.run_tests(*pair), pairs)
    assert verdicts == [True, False] * len(problems)


@pytest.mark.parametrize("victim", ["supervisor", "parent"])
def test_a_killed_supervisor_or_parent_leaves_nobody_behind(victim):
    (parent,) = launch(hsd.run_tests, "while True: pass", ["assert f(2) == 4"], 60.0)
    while parent.pid not in (found := processes()).values() or len(found) < 2:
        time.sleep(0.05)
    supervisor = next(number for number in found if found[number] == parent.pid)
    os.kill(supervisor if victim == "supervisor" else parent.pid, 9)
    assert ended(parent) == [0 if victim == "supervisor" else -9] and not processes(3.0)


def test_a_failed_judge_is_a_0_and_a_count_what_the_kernel_lacks_one_line(tmp_path, monkeypatch):
    text, where = (hsd.DATA / "sandbox.py").read_text(), tmp_path / "sandbox.py"
    monkeypatch.setattr(hsd, "DATA", tmp_path)
    problem = Problem("f", tests=("assert f(2) == 4",))
    rollout = Rollout(problem, [1], [1], "```python\ndef f(x): return x * x\n```")
    broken = ("scripts, started", "scripts, no"), ("json.load(", "os.abort(")
    for old, new in (*broken, ('"syscall", 444', '"syscall", 9444')):
        where.write_text(text.replace(old, new))
        hsd.verify_rollouts([rollout])
        assert rollout.unverified and rollout.reward == 0
        assert hsd.rollout_metrics([[rollout]])["unverified"] == 1
    with pytest.raises(hsd.InputError, match=r"^programs take .*Landlock.*not implemented$"):
        hsd.read_tests([{"tests": ["assert f()"]}])


# ---- Problems ------------------------------------------------------------------------------------


def write_lines(path, *rows):
    lines = [row if isinstance(row, (str, bytes)) else json.dumps(row) for row in rows]
    lines = [line.encode() if isinstance(line, str) else line for line in lines]
    path.write_bytes(b"\n".join(lines))
    return str(path)


def test_the_keys_of_public_data_are_read_as_they_come_and_so_are_bom_and_gzip(tmp_path):
    boxed, humaneval = "so $\\boxed{\\frac{1}{2}}$.", "def check(f):\n    assert f() == 1"
    code, tests = (
        {"prompt": "q", "entry_point": "g", "test": humaneval},
        (f"{humaneval}\n\ncheck(g)",),
    )
    want = [
        ({"question": "q", "answer": "1 + 2 = 3\n#### 3"}, "3", "1 + 2 = 3"),
        ({"problem": "q", "solution": boxed}, "\\frac{1}{2}", boxed),
        ({"problem": "q", "answer": 42, "solution": "s"}, "42", "s"),
        ({"problem": "q", "answer": 42, "test": None, "entry_point": None}, "42", None),
        ({"prompt": "q", "tests": ["assert f()"]}, None, None, ("assert f()",)),
        ({"text": "q", "test_list": ["assert f()"]}, None, None, ("assert f()",)),
        (code, None, None, tests),
    ]
    path = write_lines(tmp_path / "p.jsonl", b"\xef\xbb\xbf", "", *(row for row, *_ in want))
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(Path(path).read_bytes()))
    for name in (path, path + ".gz"):
        assert hsd.load_problems(name) == [Problem("q", *rest) for _, *rest in want]


def zipped(data):
    """As LiveCodeBench has its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(data))).decode()


def program(text):
    return f"So:\n```python\n{text}\n```"


CASE = {"input": "1 2\n", "output": "3\n", "testtype": "stdin"}
CALL = {"input": "[1, 2]\n3", "output": "[1, 2, 3]", "testtype": "functional"}
CONTEST = {"question_title": "t", "question_content": "q", "metadata": "{}"}
CONTEST |= {"starter_code": "", "public_test_cases": json.dumps([CASE])}
METHOD = {"metadata": '{"func_name": "join"}', "starter_code": "class Solution:"}
ADD = program("print(sum(map(int, input().split())))")
EVALPLUS = """import numpy as np

def is_floats(x):
    return isinstance(x, float) or isinstance(x, list) and all(map(is_floats, x))

def assertion(out, exp, atol):
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if out != exp and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert out == exp

def check(candidate):
    for inp, exp in zip([[[0.1, 0.2]], [[4.0]]], [0.15, 4.0]):
        assertion(candidate(*inp), exp, 0)
"""
PUBLISHED = [  # the question, right responses, a wrong one
    ({"question": "q", "answer": "1 + 2 = 3\n#### 3"}, "q", "\\boxed{3}", "\\boxed{4}"),  # GSM8K
    (
        {"problem": "q", "solution": "so \\boxed{3}"},
        "q",
        "\\boxed{3}",
        "\\boxed{4}",
    ),  # MATH, Numina
    (
        {  # DAPO
            "prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "reward_model": {"ground_truth": "3", "style": "rule"},
        },
        *("q", "\\boxed{3}", "\\boxed{4}"),
    ),
    (
        {"prompt": "def mean(x):", "entry_point": "mean", "test": EVALPLUS},  # HumanEval+
        "def mean(x):",
        program("import numpy as np\ndef mean(x):\n    return np.mean(x)"),
        program("def mean(x):\n    return []"),
    ),
    (
        {"text": "q", "test_list": ["assert f(1) == 2"], "answer": "7"},  # MBPP
        *("q", program("def f(x): return x + 1"), program("def f(x): return x")),
    ),
    (
        {"question": "q", "input_output": '{"inputs": ["1 2"], "outputs": ["3"]}'},  # APPS
        *("q", ADD, program("print(2)")),
    ),
    # LiveCodeBench
    (CONTEST, "q", ADD, program("print(2)")),
    (
        {**CONTEST, "private_test_cases": zipped(json.dumps([{**CASE, "input": "2 1"}]))},
        *("q", ADD, program("print(3 if input() == '1 2' else 0)")),
    ),
    (
        {**CONTEST, **METHOD, "public_test_cases": json.dumps([CALL])},
        "q\n\nclass Solution:",
        program("class Solution:\n    def join(self, a, b): return a + [b]"),
        program("def join(a, b): return [a + [b]]"),
    ),
]


def test_a_row_of_each_published_shape_is_loaded_and_verified(tmp_path):
    problems = hsd.load_problems(write_lines(tmp_path / "p.jsonl", *(row for row, *_ in PUBLISHED)))
    assert [p.question for p in problems] == [question for _, question, *_ in PUBLISHED]
    pairs = [(p, text) for p, row in zip(problems, PUBLISHED) for text in row[2:]]
    assert in_parallel(lambda pair: hsd.verify(*pair), pairs) == [True, False] * len(PUBLISHED)
    assert all(hash(repr(p)) and pickle.loads(pickle.dumps(p)) == p for p in problems)
    assert not any(p.tests and p.answer for p in problems)  # no text is right for a program


def test_rows_that_cannot_be_used_are_left_out_and_counted_unless_they_are_most(
    tmp_path, capsys, monkeypatch
):
    good, mute = {"question": "q", "answer": "1"}, {"question": "q"}
    bad = {"question": "q", "tests": ["assert f( == 1"], "answer": "1"}
    hidden = {**CONTEST, "private_test_cases": zipped(hsd.Problem("a pickle of a class"))}
    path = write_lines(tmp_path / "p.jsonl", good, mute, bad, good, good, hidden, mute, "", good)
    said = "4 problems; left out 4: 2 without an answer (first: line 2), 2 whose tests cannot be "
    assert len(hsd.load_problems(path)) == 4
    assert f"{path}: {said}used (first: line 3: SyntaxError: " in capsys.readouterr().out
    mutes = [{"question": "q", "answer": answer} for answer in ("", None, math.nan, "nan", True)]
    write_lines(tmp_path / "p.jsonl", *[good] * 4, *mutes)
    with pytest.raises(hsd.InputError, match=r"left out 5: 5 without an answer \(first: line 5\)$"):
        hsd.load_problems(path)
    numpy = {"question": "q", "tests": ["import numpy as np\nassert np.allclose(f(), 1)"]}
    write_lines(tmp_path / "p.jsonl", good, numpy)
    assert len(hsd.load_problems(path)) == 2 and capsys.readouterr().out == ""
    monkeypatch.setattr(sys, "path", [])
    assert len(hsd.load_problems(path)) == 1
    assert "(first: line 2: ImportError: there is no numpy" in capsys.readouterr().out


BAD = """{ | Expecting
[1] | not a JSON object
7 | not a JSON object
{"answer": "1"} | no text under
{"question": ["q"], "answer": "1"} | no text under
{"prompt": [{"role": "system", "content": "q"}], "answer": "1"} | no text under
{"question": "q\\ud800", "answer": "1"} | surrogate
{"question": "q", "answer": "\\ud800"} | surrogate
{"question": "q", "answer": "1", "solution": ["s"]} | its solution is no text"""
BAD = [tuple(line.split(" | ")) for line in BAD.splitlines()]
BAD += [("[" * 100_000, "recursion"), ('{"a": ' + "[" * 100_000, "recursion")]
BAD += [('{"question": "q", "answer": ' + "7" * 5000 + "}", "4300"), (b'{"q": "\xff"}', "utf-8")]


@pytest.mark.parametrize("line,complaint", BAD, ids=range(len(BAD)))
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path, line, complaint):
    path = write_lines(tmp_path / "p.jsonl", {"question": "a", "answer": "1"}, line)
    with pytest.raises(hsd.InputError, match=rf"{path}:2: (?=.*{complaint})[^\n]+\Z"):
        hsd.load_problems(path)


def test_a_damaged_gzip_is_named_and_each_pass_has_each_question_once(tmp_path):
    data = gzip.compress(random.Random(0).randbytes(3000).hex().encode())
    for damaged in (data[:-700], data[:600] + bytes([data[600] ^ 255]) + data[601:], b"{}"):
        (path := tmp_path / "p.jsonl.gz").write_bytes(damaged)
        with pytest.raises(hsd.InputError, match=rf"{path}\S* [^\n]+\Z"):
            hsd.load_problems(str(path))
    problems, config = [Problem(str(i), "1") for i in range(10)], lab(questions_per_step=4)
    steps = [hsd.questions_of_step(problems, step, config) for step in range(5)]
    order = [int(p.question) for step in steps for p in step]
    assert order[:10] != order[10:] and sorted(order[:10]) == sorted(order[10:]) == list(range(10))


def test_files_are_mixed_by_turns_and_each_has_an_order_of_its_own(tmp_path):
    names = {"a": 6, "b": 4}
    paths = [
        write_lines(
            tmp_path / f"{name}.jsonl", *({"question": f"{i}", "answer": "1"} for i in range(n))
        )
        for name, n in names.items()
    ]
    config = lab(train_data=paths, mix=[2, 1], questions_per_step=4)
    problems, _ = hsd.load_data(config)
    drawn = [p for step in range(6) for p in hsd.questions_of_step(problems, step, config)]
    assert "".join(Path(p.source).stem for p in drawn) == "aab" * 8
    for path, n in zip(paths, names.values()):
        order = [int(p.question) for p in drawn if p.source == path]
        assert sorted(order[:n]) == sorted(order[n : 2 * n]) == list(range(n))
    config.mix = None
    drawn = [p for step in range(5) for p in hsd.questions_of_step(problems, step, config)]
    first, second = (Counter(Path(p.source).stem for p in x) for x in (drawn[:10], drawn[10:]))
    assert first == second == names
    for changes, said in (
        ({"train_data": paths, "mix": [1]}, "one number for"),
        ({"train_data": paths[:1] * 2}, "two files of one name"),
        ({"eval_data": [paths[0], str(tmp_path / "x" / "a.jsonl.gz")]}, "two files of one name"),
    ):
        with pytest.raises(hsd.InputError, match=said):
            hsd.load_data(lab(**changes))


def test_a_run_on_rows_of_all_shapes_has_a_figure_for_each_file_of_eval_data(tmp_path, capsys):
    """Two questions of the first and, cut by --eval_questions, three of the second."""
    lines = Path(EVAL).read_text().splitlines()
    paths = [write_lines(tmp_path / f"{n}.jsonl", *lines[n : 3 * n]) for n in (1, 8)]
    shapes = write_lines(tmp_path / "shapes.jsonl", *(row for row, *_ in PUBLISHED))
    short = {"steps": 2, "questions_per_step": 9, "group_size": 2, "max_new_tokens": 60}
    short |= {"eval_samples": 8, "eval_questions": 3, "out": tmp_path / "run"}
    mixed = ("--train_data", shapes, SHORT["train_data"], "--mix", "5", "4")
    assert run("--lab", *mixed, "--eval_data", *paths, **short) == 0
    *_, last, row = rows_of(tmp_path / "run")
    assert last["step"] == 2 and last["unverified"] == 0 and math.isfinite(last["loss"])
    for k in (1, 8):
        want = (2 * row[f"eval/1/pass@{k}"] + 3 * row[f"eval/8/pass@{k}"]) / 5
        assert row[f"eval/pass@{k}"] == pytest.approx(want)
    assert row["eval/1/pass@1"] != row["eval/8/pass@1"]
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name in ("1", "8"):
        assert [name, "pass@1", f"{row[f'eval/{name}/pass@1']:.3g}"] in [x[:3] for x in shown]
    assert not any("eval/1" in word for line in shown for word in line)


def test_what_leaves_a_method_idle_is_said_or_refused(tmp_path, capsys):
    code = write_lines(tmp_path / "code.jsonl", {"question": "f", "tests": ["assert f()"]})
    with pytest.raises(hsd.InputError, match="sdft: 1 problems have no solution"):
        hsd.load_data(lab(train_data=[code], method="sdft"))
    opsd = {"train_data": [code], "method": "opsd"}
    words = write_lines(tmp_path / "w.jsonl", {"question": "q", "answer": "no such thing"})
    unread = {"eval_data": [words], "steps": 0}, "1 of 1 answers have no value that can be read"
    for changes, said in ((opsd, "1 of 1 problems have no answer"), unread):
        hsd.load_data(lab(**changes))
        assert said in capsys.readouterr().out


def test_texts_longer_than_the_models_positions_are_refused_with_the_numbers(tiny):
    """A long question, answer or solution; evaluations show a peer, whatever the method does."""
    shape = copy.deepcopy(tiny[1].lm.config)
    model = SimpleNamespace(lm=SimpleNamespace(config=shape))
    positions = shape.max_position_embeddings
    problems, digits = hsd.load_problems(EVAL)[:40], "1" * positions
    for method, long, seen, hints in (
        ("grpo", Problem(digits, "2"), 60, [("answer", "2"), ("peer", "9" * 60)]),
        ("opsd", Problem("1", digits), positions, [("answer", digits), ("peer", "9" * 100)]),
        ("sdft", Problem("1", "2", digits), positions, [("solution", digits)]),
    ):
        config = lab(method=method, max_new_tokens=100, max_peer_tokens=seen)
        hsd.check_lengths(model, tiny[0], problems, config)
        tokens = len(hsd.prompt_ids(tiny[0], hsd.user_message(long, hints))) + 100
        with pytest.raises(hsd.InputError, match=f"take {tokens} of {positions} positions"):
            hsd.check_lengths(model, tiny[0], [*problems, long], config)
    longrope = {"rope_type": "longrope", "original_max_position_embeddings": 64}
    for shape.rope_parameters in (longrope, {"full_attention": longrope}):
        with pytest.raises(hsd.InputError, match="of 64 positions"):
            hsd.check_lengths(model, tiny[0], problems, config)


# ---- Evaluation and metrics ----------------------------------------------------------------------
def test_pass_at_k_by_enumeration_and_the_share_of_credit_near_tau_by_hand():
    for n, c, k in ((5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 1), (7, 1, 7), (6, 3, 4)):
        draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
        assert hsd.pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    peer = Rollout(Q, [0], [7, 7, 7, 7, 7])
    r = Rollout(Q, [0], [7, 7, 8, 8, 8], peers=[peer], credit=torch.tensor([1.0, 0, -4, 2, 1]))
    same = Rollout(Q, [0], [7, 7], peers=[peer], credit=torch.ones(2))  # it leaves no path
    for w, want in ((0, 4 / 8), (1, 6 / 8), (2, 1.0)):
        assert hsd.credit_share([r, same], w) == pytest.approx(want)
    assert math.isnan(hsd.credit_share([same], 8))


def test_an_evaluation_of_the_tiny_model_says_what_its_rollouts_say(tiny, monkeypatch):
    seen, verify = [], hsd.verify_rollouts
    monkeypatch.setattr(hsd, "verify_rollouts", lambda x: (verify(x), seen.append(x)))
    problems, models = hsd.load_problems(EVAL)[:24], Models(tiny[1], None, None)
    row, failed = hsd.evaluate(models, tiny[0], problems, lab(eval_samples=4), 7)
    rewards, hinted = ([r.reward for r in rollouts] for rollouts in seen)
    groups = [rewards[i : i + 4] for i in range(0, 96, 4)]
    assert row["step"] == 7 and row["eval/pass@1"] == pytest.approx(sum(rewards) / 96)
    assert row["eval/pass@4"] == pytest.approx(sum(map(any, groups)) / 24)
    assert row["eval/teacher_pass@1"] == pytest.approx(hsd.mean(hinted))
    assert len(hinted) == sum(map(any, groups))  # with a success somebody has a peer
    assert row["eval/teacher_pass@1"] > row["eval/pass@1"] + 0.2
    assert row["eval/credit_share@8"] == hsd.credit_share(failed, 8) > 0.4
    assert len(failed) == sum(4 - sum(g) for g in groups if any(g))
    step = hsd.rollout_metrics([seen[0][i : i + 4] for i in range(0, 96, 4)])
    assert (
        step["reward"] == pytest.approx(row["eval/pass@1"]) and step["coverage"] == len(failed) / 96
    )

    teacher = copy.deepcopy(tiny[1])
    teacher.lm.get_output_embeddings().weight.mul_(0.5)  # less sure of everything
    models = Models(tiny[1], teacher, None)
    rows = hsd.credit_rows(models, tiny[0], failed[:5], lab(micro_batch_tokens=200))
    for r, shown in zip(failed, rows):
        before = r.response[: shown["tau"]]
        for side, model, prompt in (
            ("student", tiny[1], r.prompt),
            ("teacher", teacher, r.teacher_prompt),
        ):
            p, ids = dense(model, prompt + before, [0])[0].softmax(-1).topk(5)
            tokens, shares = zip(*shown["top5"][side])
            assert list(tokens) == tiny[0].batch_decode(ids[:, None].tolist())
            assert shares == pytest.approx(p.tolist(), rel=1e-4)


def test_the_pieces_of_a_response_make_up_its_text(tiny):
    """Of bytes, where a character takes several; and of words, whose spaces are in between."""
    byte = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE(byte, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    bytes_ = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    text = "a √2 = 数 b"
    pieces = hsd.pieces(bytes_, ids := bytes_(text).input_ids)
    assert "".join(pieces) == text and len(pieces) == len(ids) > len(text)
    assert [x for x in pieces if x] == list(text)
    tokenizer = Tokenizer(WordLevel({"▁the": 0, "▁sum": 1, "s": 2}, unk_token="s"))
    tokenizer.decoder = decoders.Metaspace()
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert hsd.pieces(words, [0, 1, 2, 0]) == ["the", " sum", "s", " the"]


@pytest.mark.parametrize("reward,said", [(0.3, [14]), (0.6, [])])
def test_a_collapse_is_said_once_while_it_happens(tmp_path, capsys, reward, said):
    """After m such steps the mean of five is .9 + m (reward - .9) / 5: below .45 at m = 4."""
    steps, run = [], hsd.Run(lab(out=str(tmp_path)))
    for step in range(1, 21):
        run.log({"step": step, "kl": 0.01, "reward": 0.9 if step <= 10 else reward})
        steps += [step] if "collapses" in capsys.readouterr().out else []
    assert steps == said


# ---- Ranks ---------------------------------------------------------------------------------------
def spied(path, *flags):
    """hsd.main(), which also writes down the responses and how many numbers each rank holds."""
    load, verify, seen = hsd.load_models, hsd.verify_rollouts, {"responses": []}

    def held(model):
        return sum(getattr(p, "_local_tensor", p).numel() for p in model.parameters())

    def spy_load(config):
        tokenizer, models = load(config)
        seen["held"] = [held(models.reference), held(models.student)]
        models.reference([[1, 2]], [[3]]), models.student([[1, 2]], [[3]])
        seen["held"] += [held(models.reference), held(models.student)]
        hsd.reshard(models.student)
        seen["held"].append(held(models.student))
        return tokenizer, models

    def spy_verify(rollouts):
        seen["responses"].append([r.response for r in rollouts])
        verify(rollouts)

    hsd.load_models, hsd.verify_rollouts = spy_load, spy_verify
    hsd.main([*flags])
    Path(f"{path}-{hsd.RANK}.json").write_text(json.dumps(seen))


def launch(act, *arguments, ranks=1):
    """Processes that call a function, one for each rank. They are forks: torch is there already."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}

    def child(rank):
        os.environ.update(shared, RANK=str(rank), WORLD_SIZE=str(ranks))
        hsd.RANK, hsd.RANKS = rank, ranks
        hsd.lock.cache_clear()
        act(*arguments)

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=child, args=(rank,)) for rank in range(ranks)]
    for process in processes:
        process.start()
    return processes


def with_errors(folder, act):
    """Act, and write to a file why it has failed."""
    sys.stderr = open(folder / "errors", "w")  # noqa: SIM115 (the process ends soon)
    act()


def ended(*processes):
    """Their exit codes."""
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def start_ranks(folder):
    small = {"questions_per_step": 5, "group_size": 4, "eval_questions": 6, "eval_samples": 2}
    small |= {"steps": 2, "rollout_tokens": 1500, "burst_tokens": 24}
    small |= {"micro_batch_tokens": 700, "compile": False}
    flags = [f"--{k}={v}" for k, v in small.items()]
    one, two = (folder / name for name in ("one", "two"))
    processes = launch(spied, one, *flags, f"--out={one}")
    return processes + launch(spied, two, *flags, f"--out={two}", ranks=2)


def test_two_processes_give_the_rollouts_losses_and_weights_of_one(early):
    folder, processes = early["test_two_processes"]
    one, two = (folder / name for name in ("one", "two"))
    assert ended(*processes) == [0, 0, 0]
    names = ("one-0", "two-0", "two-1")
    whole, *halves = (json.loads((folder / f"{n}.json").read_text()) for n in names)
    assert [half["responses"] for half in halves] == [whole["responses"]] * 2
    size = whole["held"][0]
    assert whole["held"] == [size] * 5
    for half in halves:  # pi_0 and student before and after a forward; the student, put back
        assert [round(n / size, 1) for n in half["held"]] == [0.5, 0.5, 0.5, 1.0, 0.5]
    for a, b in zip(rows_of(one), rows_of(two), strict=True):
        assert a == {k: v and pytest.approx(v, rel=2e-4, abs=1e-7) for k, v in b.items()}
    paths = [Path(TINY), one / "checkpoint", two / "checkpoint"]
    names = [sorted(safe_open(p / "model.safetensors", "pt").keys()) for p in paths]
    assert names[0] == names[1] == names[2]  # a tied head once
    start, a, b = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in paths)
    moved, apart = (sum((a[k] - x[k]).square().sum().item() for k in a) for x in (start, b))
    assert apart < 1e-4 * moved
    assert run("--resume", out=two, steps=3) == 0  # what two have saved, one goes on from
    assert [row["step"] for row in rows_of(two)] == [0, 1, 2, 2, 3, 3]
    more = ("--resume", "--steps=3", f"--out={one}")
    assert ended(*launch(spied, one, *more, ranks=2)) == [0, 0]
    last = [rows_of(out)[-2] for out in (one, two)]
    assert last[0] == {k: v and pytest.approx(v, rel=2e-3, abs=1e-6) for k, v in last[1].items()}


def start_idle(folder):
    small = {"questions_per_step": 1, "group_size": 1, "eval_questions": 1, "eval_samples": 1}
    flags = [f"--{k}={v}" for k, v in {**small, "steps": 2}.items()]
    processes = []
    for method in ("hsd", "dapo"):
        more = [f"--method={method}", f"--out={folder / method}"]
        processes += launch(hsd.main, [*flags, *more], ranks=2)
    return processes


def test_a_rank_with_nothing_to_do_keeps_the_others_company(early):
    """One question, one rollout, one micro-batch; dapo drops it, and trains on nothing."""
    folder, processes = early["test_a_rank_with_nothing"]
    assert ended(*processes) == [0, 0, 0, 0]
    for method in ("hsd", "dapo"):
        assert [row["step"] for row in rows_of(folder / method)] == [0, 1, 2, 2]


def start_apart(folder):
    def act(*flags):
        (folder / str(hsd.RANK)).mkdir()
        os.chdir(folder / str(hsd.RANK))
        time.sleep = lambda seconds: None
        Path("said").write_text(run(*flags))

    return launch(act, "--out=here", "--steps=1", "--eval_questions=1", ranks=2)


def test_ranks_that_do_not_share_the_folder_of_a_run_are_told_so(early):
    folder, processes = early["test_ranks_that_do_not"]
    assert ended(*processes) == [0, 0]
    for rank in (0, 1):
        assert "here is not one folder for all ranks" in (folder / f"{rank}/said").read_text()
    assert not (folder / "0/here/checkpoint").exists() and not (folder / "1/here").exists()


# ---- A GPU ---------------------------------------------------------------------------------------
class OnGpu(torch.Tensor):
    """A tensor on "gpu:0", which is not there: its numbers are `held` on the CPU. As on CUDA it is an
    error to mix devices, or to ask for an out_dtype where operands are not bf16."""

    is_cuda = True  # hsd.py asks
    __torch_function__ = torch._C._disabled_torch_function_impl  # __torch_dispatch__ sees it all

    @staticmethod
    def __new__(cls, held):
        options = {"strides": held.stride(), "dtype": held.dtype, "device": "gpu:0"}
        tensor = torch.Tensor._make_wrapper_subclass(cls, held.shape, **options)
        tensor.held = held
        return tensor

    def tolist(self):  # torch's own refuses a subclass
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        aten = torch.ops.aten
        leaves, shape = tree_flatten((args, kwargs or {}))
        operands = [x for x in leaves if isinstance(x, torch.Tensor)]
        of_one_device = operands
        if op in (aten.copy_.default, aten._to_copy.default):
            of_one_device = []
        if op in (aten.index.Tensor, aten.index_put_.default) and isinstance(args[0], cls):
            of_one_device = [x for x in args[2:3] if x.dim()]  # indices may be on the CPU
        if torch.Tag.pointwise in op.tags:  # single numbers too, unless they are written
            written = op._schema.is_mutable and args[0]
            of_one_device = [x for x in operands if x.dim() or x is written]
        assert all(isinstance(x, cls) for x in of_one_device), f"{op}: operands on two devices"
        if op == aten.mm.dtype:  # which no CPU has
            assert {x.dtype for x in operands} == {torch.bfloat16}, f"{op}: operands are not bf16"
            return cls(args[0].held.float() @ args[1].held.float())
        held = ["cpu" if isinstance(x, torch.device) else getattr(x, "held", x) for x in leaves]
        args, kwargs = tree_unflatten(held, shape)
        result = op(*args, **kwargs)
        if torch.device("cpu") in [x for x in leaves if isinstance(x, torch.device)]:
            return result
        known = dict(zip(map(id, held), leaves))  # what is written in place is returned itself
        return tree_map_only(torch.Tensor, lambda x: known.get(id(x), cls(x)), result)


def train_on_gpu():
    """hsd.py on such tensors. A backend cannot be taken back, so this process is to end."""
    _setup_privateuseone_for_python_backend("gpu")
    library = torch.library.Library("_", "IMPL")

    def make(op, *args, **kwargs):
        return OnGpu.__torch_dispatch__(op, (), args, kwargs)

    library.fallback(make, "PrivateUse1")  # where no operand is there yet
    torch._C._set_only_lift_cpu_tensors(True)  # or torch.tensor() would go past __torch_dispatch__
    torch.__future__.set_swap_module_params_on_conversion(True)  # in module.to()
    torch.autograd.set_multithreading_enabled(False)  # a fork lacks autograd's threads
    torch.set_num_threads(1)  # or transformers' threads race for the fork's new thread pool
    torch.compile = lambda function, **_: function
    a, b = torch.ones(2, 5, 5)
    with pytest.raises(AssertionError, match="two devices"):
        hsd.matmul_float32(a.to("gpu"), b)
    with pytest.raises(AssertionError, match="not bf16"):
        torch.mm(a.to("gpu"), b.to("gpu"), out_dtype=torch.float32)
    results = []
    for device in ("cpu", "gpu"):
        s, t, w = (x.to(device, torch.bfloat16).requires_grad_() for x in hidden_states())
        loss, kl = hsd.kl_teacher_student(s, t, w, torch.ones(37), 8)
        loss.backward()
        results.append([x.cpu() for x in (loss, kl, s.grad, w.grad)])
    for x, y, tolerance in zip(*results, (1e-5, 1e-5, 0.01, 0.01)):
        assert relative_error(x, y) < tolerance
    hsd.join_ranks = lambda: "gpu"
    hsd.verify_rollouts = lambda rollouts: setattr(rollouts[0], "reward", 1.0)
    few = {"group_size": 2, "max_new_tokens": 2, "chunk_tokens": 1, "updates_per_batch": 2}
    tokenizer, models = hsd.load_models(lab(teacher="ema"))  # of which the teacher is float32
    assert (models.student.device.type, models.student.dtype) == ("gpu", torch.bfloat16)
    optimizer = hsd.adamw(models.student, lab())
    for name, method in hsd.METHODS.items():
        now = models if method.context else models._replace(teacher=None)
        figures = hsd.train_step(now, optimizer, tokenizer, [Q], 0, lab(**few, method=name))
        assert 0 < figures["grad_norm"] < math.inf and math.isfinite(figures["loss"]), name
    hsd.set_credit(models, rollouts := some_rollouts(2), lab())
    assert {r.credit.device.type for r in rollouts} == {"cpu"}


def start_gpu(folder):
    return launch(with_errors, folder, train_on_gpu)


def test_all_methods_train_on_a_gpu_that_refuses_what_cuda_refuses(early):
    folder, processes = early["test_all_methods_train"]
    assert ended(*processes) == [0], (folder / "errors").read_text()


# ---- The optimizer -------------------------------------------------------------------------------


@pytest.fixture
def process_group():
    """One process, with which shard() does what it does on a GPU."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_masters_and_sums_of_gradients_are_float32_and_what_computes_is_bf16(process_group):
    """1 + 50 micro-batches of weight .001: sums in bf16 would stay at the first."""
    config = lab(learning_rate=1e-6, max_grad_norm=1e9)
    policy, plain = (hsd.LanguageModel(random_model().lm.bfloat16()) for _ in range(2))
    policy, optimizer = hsd.shard(policy), hsd.adamw(policy, config)
    for scale in [1.0] + [1e-3] * 50:
        hidden, head = policy([[1, 2]], [[3, 4]])
        (scale * (hidden.sum() + head.sum())).float().backward()
    assert hidden.dtype == head.dtype == torch.bfloat16
    hidden, head = plain([[1, 2]], [[3, 4]])
    (hidden.sum() + head.sum()).float().backward()
    start = [p.detach().float() for p in plain.parameters()]
    hsd.reshard(policy)
    for p, q in zip(policy.parameters(), plain.parameters(), strict=True):
        assert p.dtype == torch.float32
        assert relative_error(p.grad.full_tensor(), 1.05 * q.grad.float()) < 0.01
    hsd.optimizer_step(policy, optimizer, config)
    for p, before in zip(policy.parameters(), start):  # in bf16 none would move
        moved = (p.detach().full_tensor() - before).abs()
        assert moved.max() == pytest.approx(1e-6, rel=0.2)


def test_gradients_are_clipped_and_skipped_if_not_finite():
    for max_norm, want in ((1.0, [0.06, 0.08]), (10.0, [0.6, 0.8]), (100.0, [3.0, 4.0])):
        config = lab(learning_rate=0.1, max_grad_norm=max_norm)
        layer = torch.nn.Linear(2, 1, bias=False)
        layer.weight.data.copy_(torch.tensor([[1.0, 2.0]]))
        optimizer = hsd.adamw(layer, config)
        (layer.weight * torch.tensor([[30.0, 40.0]])).sum().backward()
        assert hsd.optimizer_step(layer, optimizer, config) == pytest.approx(50.0)  # before
        assert moments(optimizer).tolist() == pytest.approx(want, rel=1e-4)
        (layer.weight * math.inf).sum().backward()
        assert not math.isfinite(hsd.optimizer_step(layer, optimizer, config))
        assert layer.weight.tolist() == [pytest.approx([0.9, 1.9], rel=1e-4)]  # of the first step
        assert layer.weight.grad is None


# ---- Loading the models --------------------------------------------------------------------------
@pytest.mark.parametrize("teacher", ["live", "frozen", "ema"])
def test_the_teacher_is_whose_it_is_said_to_be(teacher):
    for beta in (0.0, 1e-3):
        student, taught, reference = hsd.load_models(lab(teacher=teacher, beta=beta))[1]
        assert (taught is student) == (teacher == "live") and reference is not student
        assert (reference is not None) == (beta > 0)
        assert (taught is reference) == (teacher == "frozen" and beta > 0)  # one copy is both
        for model in {student, taught, reference} - {None}:
            for p, q in zip(model.parameters(), student.parameters()):
                assert p.requires_grad == (p is q) == (model is student) and torch.equal(p, q)
    assert hsd.load_models(lab(method="grpo", teacher=teacher, beta=0.0))[1][1:] == (None, None)


def toy(path, tokenizer, family, edit=None, **values):
    """A folder with a random model of this family, about as large as data/tiny-qwen3."""
    base = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48}
    base |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    base |= {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": tokenizer.eos_token_id}
    if "text_config" in values:
        base, values = {}, {"text_config": base | values["text_config"]}
    torch.manual_seed(0)
    shape = AutoConfig.for_model(family, **(base | values))
    encoder = family == "t5" and transformers.T5ForConditionalGeneration(shape)
    model = encoder or AutoModelForCausalLM.from_config(shape)
    with torch.no_grad():
        (edit or id)(model)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
FEW = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8}
HYBRID = {"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2}
HYBRID |= {"linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "attn_layer_indices": [1]}
FAMILIES = {name: {} for name in ["qwen2", "olmo2", "smollm3", "stablelm", "falcon", "biogpt"]}
FAMILIES |= {name: {"head_dim": 8} for name in ["qwen3", "gemma", "glm4", "seed_oss"]}
FAMILIES |= {
    "llama": {"attention_dropout": 0.1, "tie_word_embeddings": True},
    "mistral": {"sliding_window": 8},
    "phi3": {"resid_pdrop": 0.1},
    "gpt2": GPT2,
    "gpt_neox": {"hidden_dropout": 0.1},
    "starcoder2": {"embedding_dropout": 0.1},
    "bloom": {"n_layer": 2, "n_head": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},  # dropout that is no module; biogpt too
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4},
    "gpt_bigcode": {**GPT2, "n_inner": 48},
    "phimoe": {"num_local_experts": 4, "router_jitter_noise": 0.1},
    "mixtral": {"num_local_experts": 4, "router_jitter_noise": 0.1},
    "qwen3_moe": FEW,
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "expand": 2},
    "qwen3_next": {**FEW, **HYBRID, "shared_expert_intermediate_size": 24},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 32, "mamba_n_heads": 4, "head_dim": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "bamba": MAMBA,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_of_every_family_are_those_of_its_own_logits(tmp_path, tiny, family):
    """In train mode, with checkpointing, a batch of two lengths; and they give a gradient."""
    config = lab(beta=0.0, teacher="live", gradient_checkpointing=True, chunk_tokens=4)
    config.model = toy(tmp_path / "model", tiny[0], family, **FAMILIES[family])
    student = hsd.load_models(config)[1].student
    head = student.lm.get_output_embeddings().weight
    head.data.mul_(64)  # logits as far apart as those of a trained model
    prompts, responses = [[5, 6, 7], [8, 9, 10, 11, 12, 3]], [[20, 21, 22, 23], [30, 31]]
    tokens = torch.tensor([20, 21, 22, 23, 30, 31])
    t = hsd.Tokens(*[torch.ones(6)] * 7)._replace(ids=tokens, old_logp=None)
    sides = (student(prompts, responses), None, None)
    loss, terms = hsd.chunked_loss(*sides, t, hsd.METHODS["grpo"], config)
    loss.backward()
    want = torch.cat([dense(student.eval(), p, o) for p, o in zip(prompts, responses)])
    assert torch.allclose(terms.student_logp, want.gather(-1, tokens[:, None])[:, 0], atol=1e-4)
    assert 0 < head.grad.abs().max() < math.inf
    long = [5, 6, *range(9, 109), *range(9, 109), *range(9, 109)]  # its prompt takes two chunks
    whole, *bursts = (
        in_bursts(student, [[5, 6, 7], long], n, max_new_tokens=25, temperature=0.0)
        for n in (25, 24, 7)
    )
    assert bursts == [whole] * 2


CAP, HEAD = {"head_dim": 8, "final_logit_softcapping": 30.0}, "not hidden states times head"
REFUSED = {  # family: (what is said, how its weights are edited, its values)
    "gemma2": (HEAD, None, CAP),
    "gemma3_text": (HEAD, None, CAP),
    "gemma4": (HEAD, None, {"text_config": CAP}),
    "granite": (HEAD, None, {"logits_scaling": 8.0}),
    "cohere": (HEAD, None, {"logit_scale": 0.5}),
    "phi": (HEAD, lambda model: model.lm_head.bias.normal_(), {}),
    "llama": ("not finite", lambda model: model.lm_head.weight[7].fill_(math.nan), {}),
    "rwkv": ("padded to the left", None, {"attention_hidden_size": 32}),
    "t5": ("has an encoder", None, {"d_model": 32, "d_kv": 8, "num_layers": 2}),
    "qwen3": (", and its embeddings 111 rows", None, {"vocab_size": 111}),
    "olmo2": ("has the token -1", None, {"eos_token_id": -1}),
    "qwen2": ("is quantized", None, {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
}


@pytest.mark.parametrize("family", REFUSED)
def test_a_model_that_is_not_what_it_is_taken_for_is_refused(tmp_path, tiny, family, capsys):
    complaint, edit, values = REFUSED[family]
    path = toy(tmp_path / "model", tiny[0], family, edit, **values)
    short = {"steps": 0, "eval_questions": 1, "max_new_tokens": 1}  # if it is not refused
    line = run(model=path, out=tmp_path / "run", eval_data=EVAL, **short)
    assert line.startswith(f"hsd.py: cannot use the model {path}: ") and complaint in line
    assert "\n" not in line and capsys.readouterr().err == ""
    assert not (tmp_path / "run").exists()


# ---- The folder of a run -------------------------------------------------------------------------
SHORT = {"steps": 3, "questions_per_step": 2, "group_size": 4, "eval_questions": 4}
SHORT |= {"eval_samples": 2, "max_new_tokens": 32, "teacher": "ema"}
SHORT |= {"save_every": 1, "compile": False}
SMALL = tempfile.TemporaryDirectory()
for name, path in (("train_data", TRAIN), ("eval_data", EVAL)):  # few, and short ones
    SHORT[name] = str(Path(SMALL.name, name))
    lines = sorted(Path(path).read_text().splitlines(True), key=len)
    Path(SHORT[name]).write_text("".join(lines[:32]))


@pytest.fixture(autouse=True)
def handlers():
    kept = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def run(*flags, **values):
    """What hsd.main() exits with: 0, a number, or the line that says what is wrong."""
    try:
        hsd.main([*flags, *(f"--{name}={value}" for name, value in values.items())])
    except SystemExit as stop:
        return stop.code
    return 0


def rows_of(out):
    """metrics.jsonl without what must differ between runs: the time."""
    rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def result_of(out):
    """All that must be bit-equal: rows, weights, the optimizer's state, the teacher."""
    last = Path(out) / "checkpoint"
    tensors = list(contents(last / "tensors", "*.distcp").values())
    return rows_of(out), (last / "model.safetensors").read_bytes(), tensors


def contents(folder, names="*"):
    return {p: p.read_bytes() for p in Path(folder).rglob(names) if p.is_file()}


class Killed(BaseException):
    """What nothing in hsd.py catches: the process is as if it had been killed there."""


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """(a run of 3 steps, its result_of(); the same run, killed after the checkpoint of step 2)."""
    folder, save = tmp_path_factory.mktemp("runs"), hsd.Run.save
    assert run(**SHORT, out=folder / "whole") == 0

    def die(self, step):
        save(self, step)
        if step == 2:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(hsd.Run, "save", die)
        run(**SHORT, out=folder / "killed")
    return folder / "whole", result_of(folder / "whole"), folder / "killed"


@pytest.fixture
def killed(finished, tmp_path):
    return shutil.copytree(finished[2], tmp_path / "run")


def test_an_evaluation_has_its_own_folder_no_checkpoint_and_a_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = map(asdict, hsd.load_problems(EVAL)[:8])
    path = write_lines(tmp_path / "e.jsonl", {"question": "</script><b>", "answer": "0"}, *rows)
    short = {"eval_samples": 8, "eval_questions": 9, "eval_data": path, "steps": 0}
    short["max_new_tokens"] = 60
    assert [run(**{**SHORT, **short}) for _ in range(2)] == [0, 0]  # again: nothing is lost
    out = tmp_path / "runs" / "hsd-eval"
    assert not (out / "checkpoint").exists() and len(rows_of(out)) == 1
    page = (out / "credit.html").read_text()
    assert "</script><b>" not in page and "__DATA__" not in page
    shown = list(map(json.loads, (out / "credit.jsonl").read_text().splitlines()))
    for r in shown:
        assert r["tau"] == hsd.divergence_point(r["tokens"], r["peer_tokens"]) < len(r["tokens"])
        assert len(r["credit"]) == len(r["credit_answer_only"]) == len(r["tokens"])
        assert "<|im_end|>" not in r["tokens"] and r["reward"] == 0
        assert {len(side) for side in r["top5"].values()} == {5}
    peaks = [
        abs(r["credit"][r["tau"]]) >= max(map(abs, r["credit"][: r["tau"] + 1])) for r in shown
    ]
    assert sum(peaks) > 0.6 * len(peaks) > 0  # the credit lands where the path is left


def test_kill_9_in_a_step_and_resume_is_bit_equal(finished, tmp_path, monkeypatch):
    step = hsd.train_step

    def killed(*arguments):
        if arguments[-2] == 2:
            os.kill(os.getpid(), 9)
        return step(*arguments)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(hsd, "train_step", killed)
        process = launch(hsd.main, [f"--{k}={v}" for k, v in {**SHORT, "out": out}.items()])
    assert ended(*process) == [-9] and [row["step"] for row in rows_of(out)] == [0, 1, 2]
    with open(out / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "rew')  # a row that was cut
    assert run("--resume", out=out) == 0 and result_of(out) == finished[1]


SAVING = [(hsd.dcp, "save", 1), (Path, "write_text", 1), (Path, "rename", 2), (Path, "rename", 3)]
SAVING = [(*row, Killed) for row in [*SAVING, (shutil, "rmtree", 1), (shutil, "rmtree", 3)]]
SAVING += [(hsd.dcp, "save", 1, OSError(28, "No space left on device"))]


@pytest.mark.parametrize("place,name,count,error", SAVING)
def test_a_save_that_was_killed_or_failed_leaves_what_resumes_bit_equal(
    finished, killed, monkeypatch, place, name, count, error
):
    save, act, calls = hsd.Run.save, getattr(place, name), itertools.count(1)

    def fail(*arguments, **more):
        if next(calls) == count:
            raise error
        return act(*arguments, **more)

    def saving(self, step):
        monkeypatch.setattr(place, name, fail)
        save(self, step)

    monkeypatch.setattr(hsd.Run, "save", saving)
    if error is Killed:
        with pytest.raises(Killed):
            run("--resume", out=killed)
    else:
        assert "No space left" in run("--resume", out=killed)
    monkeypatch.undo()
    assert run("--resume", out=killed) == 0 and result_of(killed) == finished[1]


SIGNALS = [("INT", 130), ("TERM", 143), ("HUP", 129), ("TERM INT", 143)]


@pytest.mark.parametrize("names,code", SIGNALS)
def test_a_signal_saves_after_the_step_a_second_ends_at_once(
    finished, killed, monkeypatch, names, code
):
    step = hsd.train_step

    def signalled(*arguments):
        for name in names.split():
            signal.raise_signal(getattr(signal, f"SIG{name}"))
        return step(*arguments)

    monkeypatch.setattr(hsd, "train_step", signalled)
    assert run("--resume", out=killed, steps=4) == code
    assert [row["step"] for row in rows_of(killed)] == [0, 1, 2, 3][: 5 - len(names.split())]
    monkeypatch.undo()
    assert run("--resume", out=killed, steps=3) == 0
    assert result_of(killed)[1:] == finished[1][1:]


def test_a_signal_in_an_evaluation_ends_it_before_its_next_call(finished, killed, monkeypatch):
    generate, calls = hsd.generate, []

    def signalled(*arguments):
        if hsd.NOW["phase"].startswith("evaluation"):
            calls.append(1)
            if len(calls) == 1:  # a second signal would end it in any case
                signal.raise_signal(signal.SIGTERM)
        return generate(*arguments)

    monkeypatch.setattr(hsd, "generate", signalled)
    before = contents(killed / "checkpoint")
    assert run("--resume", out=killed, rollout_tokens=300) == 143 and len(calls) == 1
    assert contents(killed / "checkpoint") == before
    monkeypatch.undo()
    assert run("--resume", out=killed, rollout_tokens=hsd.LAB["rollout_tokens"]) == 0
    assert result_of(killed) == finished[1]


SAVED = "chat_template.jinja config.json generation_config.json manifest.json model.safetensors "
SAVED += "run.json tensors/.metadata tensors/__0_0.distcp tokenizer.json tokenizer_config.json"


@pytest.mark.parametrize("damage", ["removed", "cut", "changed"])
@pytest.mark.parametrize("name", SAVED.split())
def test_a_checkpoint_is_whole_or_refused_in_one_line(killed, name, damage):
    last = killed / "checkpoint"
    assert sorted(str(path.relative_to(last)) for path in contents(last)) == SAVED.split()
    data = (path := killed / "checkpoint" / name).read_bytes()
    n = len(data) // 2
    path.write_bytes(data[:n] + (bytes([data[n] ^ 1]) + data[n + 1 :]) * (damage == "changed"))
    if damage == "removed":
        path.unlink()
    before = contents(killed)
    line = run("--resume", out=killed)
    assert "\n" not in line and contents(killed) == before
    assert name in line or name == "manifest.json"


def edited(**changes):
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGE = [  # (a part of the folder, what happens to it, what is said or else it resumes)
    ("config.json", b"", "cannot read"),
    ("config.json", b"\xff", "cannot read"),
    ("config.json", b"[1]", "cannot read"),
    ("config.json", b"[" * 100_000, "cannot read"),
    ("config.json", Path.unlink, "cannot read"),
    ("config.json", edited(rollout_batch=8), "another hsd.py, by its rollout_batch"),
    ("config.json", edited(method="nope"), "--method"),
    ("config.json", edited(steps="many"), "--steps"),
    ("config.json", edited(steps=[3]), "--steps"),
    ("config.json", edited(seed=7), "--seed was 0 and is 7"),
    ("checkpoint", shutil.rmtree, "cannot read"),
    ("checkpoint/manifest.json", b"{}", "run.json is not what was saved"),
    ("checkpoint/manifest.json", lambda path: (path.unlink(), os.mkfifo(path)), "it is a pipe"),
    ("checkpoint/.DS_Store", b"x", None),
    ("metrics.jsonl", Path.unlink, None),
    ("metrics.jsonl", b"{\xff\n[[[", None),
    ("credit.jsonl", Path.unlink, None),
    ("checkpoint.new", lambda path: (path.mkdir(), (path / "run.json").touch()), None),
    ("checkpoint", lambda path: path.rename(path.with_name("checkpoint.old")), None),
]


@pytest.mark.parametrize("name,harm,said", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_line_or_resumes_bit_equal(
    finished, killed, capsys, name, harm, said
):
    (killed / name).write_bytes(harm) if isinstance(harm, bytes) else harm(killed / name)
    before = contents(killed)
    code, error = run("--resume", out=killed), capsys.readouterr().err
    if said:
        assert (
            said in (error.splitlines()[-1] if code == 2 else code) and contents(killed) == before
        )
    else:
        assert (code, error) == (0, "") and result_of(killed) == finished[1]


@pytest.mark.parametrize("step", [-1, 0, 1, 3, 10**30, True, "2", None])
def test_a_state_that_no_run_has_saved_is_refused_though_its_digest_fits(killed, step):
    path, manifest = (killed / "checkpoint" / f"{name}.json" for name in ("run", "manifest"))
    edited(step=step)(path)
    edited(**{"run.json": hsd.digest(path)})(manifest)
    assert "run.json is not what a run saves" in run("--resume", out=killed)
    for odd in ({"rows": []}, {"rows": [{"step": 2}], "config": 7}, {"config": {}, "inputs": [1]}):
        edited(step=2, **odd)(path)
        edited(**{"run.json": hsd.digest(path)})(manifest)
        assert "run.json is not what a run saves" in run("--resume", out=killed)


def test_the_tensors_of_another_run_are_refused_and_a_loop_of_links_too(killed, tmp_path):
    model = toy(tmp_path / "model", hsd.load_models(lab())[0], "qwen3", head_dim=8)
    other = {**SHORT, "steps": 1, "model": model, "train_data": TRAIN, "eval_data": EVAL}
    small = {"micro_batch_tokens": 4096, "rollout_tokens": 4096, "out": tmp_path / "other"}
    assert run(**{**other, **small}) == 0
    tensors = killed / "checkpoint" / "tensors"
    shutil.rmtree(tensors)
    shutil.copytree(tmp_path / "other" / "checkpoint" / "tensors", tensors)
    names = {f"tensors/{path.name}": hsd.digest(path) for path in tensors.iterdir()}
    edited(**names)(killed / "checkpoint" / "manifest.json")
    assert "cannot resume: " in run("--resume", out=killed)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "loop" in run(out=tmp_path / "loop", **SHORT)


def test_a_flag_that_contradicts_the_run_is_refused_by_name(killed):
    before, flags = contents(killed), {"learning_rate": 1e-3, "seed": 5, "beta": 0.0}
    for name, value in {**flags, "method": "opsd", "teacher": "live"}.items():
        assert f"--{name} was " in run("--resume", out=killed, **{name: value})
        assert contents(killed) == before


def test_other_problems_or_weights_are_not_resumed_on_but_moved_ones_are(
    finished, killed, tmp_path
):
    model, train = shutil.copytree(TINY, tmp_path / "m"), Path(tmp_path / "t")
    shutil.copy(SHORT["train_data"], train)
    flags = {"out": killed, "model": model, "train_data": train}
    before = contents(killed)
    for path, flag in ((train, "train_data"), (model / "model.safetensors", "model")):
        data = path.read_bytes()
        path.write_bytes(data[:-20] + bytes(20) if flag == "model" else data.split(b"\n", 1)[1])
        assert f"cannot resume: what --{flag} names is not" in run("--resume", **flags)
        assert contents(killed) == before
        path.write_bytes(data)
    lines = train.read_text().splitlines()
    halves = [write_lines(tmp_path / f"{n}.jsonl", *lines[n : n + 16]) for n in (0, 16)]
    split = ("--resume", f"--out={killed}", "--train_data", *halves)  # --mix would draw others
    assert "cannot resume: what --train_data names is not" in run(*split)
    assert run("--resume", **flags) == 0 and result_of(killed) == finished[1]


def test_what_runs_out_of_memory_is_resumed_in_smaller_pieces(killed, capsys):
    sizes = {"micro_batch_tokens": 500, "chunk_tokens": 16, "rollout_tokens": 9000}
    assert run("--resume", out=killed, **sizes) == 0
    assert capsys.readouterr().out.count("not bit by bit") == 3
    assert [row["step"] for row in rows_of(killed)] == [0, 1, 2, 3, 3]


def test_a_second_process_in_the_same_folder_is_refused(killed):
    fcntl.flock(os.open(killed, os.O_RDONLY), fcntl.LOCK_EX)  # as another process does
    before = contents(killed)
    for flags in (["--resume"], ["--overwrite", "--steps=1"]):
        assert "another process is at work there" in run(*flags, out=killed)
        assert contents(killed) == before


def test_a_run_that_was_overwritten_can_be_resumed_and_keeps_what_is_not_ours(finished, killed):
    (killed / "thesis.tex").write_text("mine")
    assert "is in use" in run(out=killed, **SHORT)
    assert run("--overwrite", out=killed, **SHORT) == 0 and result_of(killed) == finished[1]
    assert (killed / "thesis.tex").read_text() == "mine"
    assert run("--resume", out=killed) == 0 and result_of(killed) == finished[1]


def test_a_folder_that_is_not_ours_is_left_alone(killed, tmp_path):
    (notes := tmp_path / "notes").mkdir()
    (notes / "metrics.jsonl").write_text("mine")
    before = contents(tmp_path)
    for out, steps in itertools.product((notes, killed / "checkpoint", Path(TINY)), (0, 3)):
        for flags in ([], ["--overwrite"]):
            line = run(*flags, **{**SHORT, "steps": steps}, out=out)
            assert "holds" in line and contents(tmp_path) == before


def test_weights_that_are_not_finite_are_never_saved(killed, finished, monkeypatch):
    act = hsd.torch.optim.AdamW.step

    def diverge(self, *arguments, **options):
        act(self, *arguments, **options)
        self.param_groups[0]["params"][0].data[0] = math.nan

    monkeypatch.setattr(hsd.torch.optim.AdamW, "step", diverge)
    before = contents(killed / "checkpoint")
    assert "no longer finite" in run("--resume", out=killed)
    assert contents(killed / "checkpoint") == before
    monkeypatch.undo()
    assert run("--resume", out=killed) == 0 and result_of(killed) == finished[1]


def test_the_checkpoint_is_a_model_like_the_first_readable_and_with_its_own_defaults(finished):
    last = finished[0] / "checkpoint"
    assert len({path.stat().st_mode for path in last.iterdir() if path.is_file()}) == 1
    own, first = (
        json.loads((Path(x) / "generation_config.json").read_text()) for x in (last, TINY)
    )
    ends = first.pop("eos_token_id")
    assert own.pop("eos_token_id") == (ends if isinstance(ends, list) else [ends])
    for rows in (own, first):
        rows.pop("transformers_version", None)
    assert own == first


def test_what_a_run_is_to_read_is_never_deleted(killed, tmp_path):
    model, data = shutil.copytree(TINY, tmp_path / "model"), shutil.copy(TRAIN, killed / "t.jsonl")
    (tmp_path / "link").symlink_to(killed)
    before = contents(tmp_path)
    for steps, flags in itertools.product((3, 0), ([], ["--overwrite"])):
        for path, train_data, out in (
            (killed / "checkpoint", TRAIN, killed),
            (tmp_path / "link" / "checkpoint", TRAIN, killed),
            (model, data, killed),
            (model, TRAIN, model),
        ):
            read = {"model": path, "train_data": train_data, "eval_data": EVAL, "steps": steps}
            assert ": " in run(*flags, **{**SHORT, **read}, out=out)
            assert contents(tmp_path) == before


ALONE = {**SHORT, "model": TINY, "train_data": TRAIN, "eval_data": EVAL, "micro_batch_tokens": 4096}


def start_alone(folder, *more):
    shutil.copy(ROOT / "hsd.py", folder)
    flags = [f"--{k}={v}" for k, v in {**ALONE, "steps": 1}.items()]
    options = {"cwd": folder, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "text": True}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "hsd.py", *flags, "--out=run", *more]
    return subprocess.Popen(command, **options, **pipes)


def test_hsd_py_alone_trains_saves_resumes_and_draws_a_plain_page(early, monkeypatch):
    folder, done = early["test_hsd_py_alone"]
    out, error = done.communicate()
    assert (done.returncode, error) == (0, "")
    assert out.splitlines()[-1].endswith("run/credit.html")
    assert "pass@1" in (folder / "run" / "credit.html").read_text()
    again = start_alone(folder, "--resume", "--steps=2")
    code = write_lines(folder / "code.jsonl", {"question": "f", "tests": ["assert f()"]})
    monkeypatch.setattr(hsd, "DATA", folder / "data")
    line = run(**{**ALONE, "train_data": code, "out": folder / "code"})
    assert re.fullmatch(r"hsd.py: programs take x86_64 Linux .*sandbox.py.* No such file.*", line)
    assert not (folder / "code").exists()
    assert (again.communicate()[1], again.returncode) == ("", 0)
    assert [row["step"] for row in rows_of(folder / "run")] == [0, 1, 1, 2, 2]


# ---- Command line --------------------------------------------------------------------------------
def test_what_torch_reads_when_it_is_imported_is_set_before_unless_the_user_has():
    head = (ROOT / "hsd.py").read_text().partition("\nimport torch\n")[0]
    head = "\n".join(line for line in head.splitlines() if "environ" in line)
    ours = {"OMP_WAIT_POLICY": "PASSIVE", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    for user, want in (
        ({}, ours),
        ({"OMP_WAIT_POLICY": "a", "PYTORCH_ALLOC_CONF": "b"}, {}),
        ({"OMP_WAIT_POLICY": "a", "PYTORCH_CUDA_ALLOC_CONF": "b"}, {}),
    ):
        environ = dict(user)
        exec(head, {"os": SimpleNamespace(environ=environ)})  # noqa: S102 (lines of ours)
        assert environ == user | want


def test_help_lists_every_field_and_the_choices(capsys):
    assert run("--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert all(f"--{f.name} " in text for f in fields(Config))
    for rows in (hsd.METHODS, hsd.PEER_RULES, ("live", "frozen", "ema")):
        assert "{" + ",".join(rows) + "}" in text


WRONG = """--learning_rate -1e-4|--learning_rate=-1e-4|--learning_rate nan|--top_p 1.5|--top_p 0
--temperature inf|--temperature -1|--beta -1|--max_grad_norm 0|--steps -1|--steps 1.5|--seed x
--group_size 0|--max_new_tokens 0|--chunk_tokens 0|--compile maybe|--method none|--teacher none
--peer_rule longest|--out None|--method|--methd hsd|--group 4
--step 3|--model no/such/folder|--model ./nowhere|--model /no/where|--train_data missing.jsonl
--eval_data missing.jsonl|--resume --out missing|hsd --seed 1
--ema_decay 2|--mix 0 1|--mix x|--window 8 --method grpo|--window -1
--window 8 --method grpo+opsd|--temperature 0|--eval_samples 10000000000000"""


@pytest.mark.parametrize("flags", re.split(r"[|\n]", WRONG))
def test_a_bad_flag_is_one_line_that_names_it_and_nothing_is_written(
    tmp_path, monkeypatch, capsys, flags
):
    monkeypatch.chdir(tmp_path)
    flags = flags.split(" ")
    data = [f"--train_data={TRAIN}", f"--eval_data={EVAL}"] if "--model" in flags else []
    code, error = run(*data, *flags), capsys.readouterr().err
    line = error.splitlines()[-1] if code == 2 else code  # 2: argparse has refused it
    assert line.startswith("hsd.py: ") and "\n" not in line and list(tmp_path.iterdir()) == []
    assert flags[0].lstrip("-").split("=")[0] in line or flags[-1].split("/")[-1] in line


def test_ctrl_c_while_torch_is_imported_is_no_traceback(tmp_path):
    command = [sys.executable, str(ROOT / "hsd.py")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == b"" and process.returncode == -signal.SIGINT


def test_out_of_gpu_memory_says_which_phase_and_what_to_lower(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(hsd, "batch_loss", full)
    line = run(**SHORT, out=tmp_path / "run")
    assert "phase: update; lower --micro_batch_tokens" in line


# ---- The lab -------------------------------------------------------------------------------------
def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    spec.loader.exec_module(found := importlib.util.module_from_spec(spec))
    return found


@pytest.fixture(scope="module")
def the_lab():
    return module(hsd.DATA / "lab.py")


PATHS = {  # of 22-6+6-1=?: its first wrong token, and the choices before it
    "22-6=16;16+6-1=21;\\boxed{21}": (20, [3, 10]),
    "22-6+6=22;22-1=21;\\boxed{21}": (20, [3]),
    "22-6+6=22;22-1=31;\\boxed{31}": (12, [3]),
    "22-6=16;16-1=15;\\boxed{15}": (9, [3]),
    "22-6=17;17+6=23;23-1=22;\\boxed{22}": (5, [3]),
    "22-6=16;16+6=22;22-1=21;\\boxed{22}": (23, [3, 10]),
}


@pytest.mark.parametrize("text", PATHS)
def test_the_lab_knows_the_first_wrong_token_and_where_right_paths_part(the_lab, tiny, text):
    ids = tiny[0](text, add_special_tokens=False).input_ids + [tiny[0].eos_token_id]
    r = Rollout(hsd.Problem("22-6+6-1=?", "21"), [], ids, text)
    the_lab.read_path(r, tiny[0])
    assert (r.first, r.choices) == PATHS[text]


def test_the_labs_figures_of_a_credit_are_those_worked_out_by_hand(the_lab):
    r = Rollout(Q, [], [0, 1, 2, 3], peers=[Rollout(Q, [], [0, 9], text="22-6=16;")])
    r.credit = torch.tensor([0.0, -2.0, 0.0, -6.0])
    r.choices, r.first, r.side = [1], 3, "22-6"
    want = {"hit": 1, "blamed": 0, "error": 0.75, "choice": 0.25, "tau": 1, "said": 1, "mean": -2}
    assert the_lab.figures(r) == want


def test_the_credit_of_several_teachers_is_that_of_their_mean_probability(the_lab, tiny):
    problem = hsd.load_problems(EVAL)[0]
    r, *peers = hsd.sample_groups(tiny[1], tiny[0], [problem], 4, lab(), "x")[0]
    models, each = Models(tiny[1], None, None), []
    for some, name in [
        (peers, "mean of up to 4 teachers"),
        *(([x], "nearest peer") for x in peers),
    ]:
        r.ranked = dict.fromkeys(("uniform", "nearest"), some)
        each += [the_lab.credits(models, tiny[0], [r], name, lab())[0].credit]
    torch.testing.assert_close(each[0], torch.stack(each[1:]).exp().mean(0).log())


def test_the_labs_controls_change_what_they_say_and_nothing_else(the_lab, tiny):
    problems = hsd.load_problems(EVAL)[:2]
    group = group_of([1, 0, 0, 1], tiny[0], problems[0])

    def changed(**spec):
        return the_lab.changes(spec, lab(beta=0.1), problems, tiny[0])

    hsd.verify_rollouts(group)  # no answer is right
    for noise, want in ((0.0, 0.0), (1.0, 1.0)):
        changed(noise=noise)["verify_rollouts"](group)
        assert [r.reward for r in group] == [want] * 4
    group = group_of([1, 0, 0, 1], tiny[0], problems[0])
    changed(peers="failed")["choose_peers"](group, "uniform", RNG)
    texts = [r.peer.text for r in group]
    assert set(texts) <= {"attempt 1", "attempt 2"} and texts[1:3] == ["attempt 2", "attempt 1"]
    changed(peers="other")["choose_peers"](group, "uniform", RNG)
    assert {r.peer.text for r in group} == {problems[1].solution}
    group = group[:1]
    group[0].response, group[0].peers = [7] * 8, group_of([1, 1], tiny[0], problems[0])
    changed(teachers=4)["set_weights"](group, "rollouts", lab())
    assert [r.loss_weight for r in group] == pytest.approx([1 / 16, 1 / 16])
    assert [r.mean_weight for r in group] == pytest.approx([1 / 8, 0])
    assert group[1].context == [("answer", problems[0].answer), ("peer", group[0].peers[1].text)]


def test_the_tables_are_those_of_the_labs_rows(the_lab):
    rows = the_lab.read_rows(hsd.DATA / "lab")
    readmes = {True: ROOT / "README.md", False: hsd.DATA / "lab" / "README.md"}
    for name, table in the_lab.tables(rows).items():
        text = readmes[name == "summary"].read_text()
        assert f"<!-- lab:{name} -->\n{table}\n<!-- /lab:{name} -->" in text
    for run, said in zip(the_lab.of(rows["stability"], row="live"), (23, 18), strict=True):
        steps = [{"reward": reward} for reward in run["reward"]]
        assert next(n for n in range(25) if hsd.collapsing(steps[:n])) == said


# ---- The notebook --------------------------------------------------------------------------------
CELLS = json.loads((hsd.DATA / "walk.ipynb").read_text(encoding="utf-8"))["cells"]


@pytest.fixture
def forkable(monkeypatch):
    """What forks replace is put back after the test."""
    for table in ("METHODS", "PEER_RULES"):
        monkeypatch.setattr(hsd, table, dict(getattr(hsd, table)))
    for name in ("distillation_loss", "verify", "sample_responses"):
        monkeypatch.setattr(hsd, name, getattr(hsd, name))


def run_cells():
    """In the notebook's folder, without Jupyter. Once weights have changed, another machine's
    rounding may change each figure, and the words alone are compared."""
    os.chdir(hsd.DATA)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # its figures are a CPU's
    sys.modules["IPython.display"] = None  # to import it fails
    names = {}
    for cell in CELLS:
        if cell["cell_type"] == "code":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec("".join(cell["source"]), names)  # noqa: S102 (lines of ours)
            texts = [output["text"] for output in cell["outputs"] if "text" in output]
            pair = printed.getvalue(), "".join(itertools.chain(*texts))
            figure = r"-?[\d.]+" if "optimizer" in names else r"-?\d+\.\d+"
            said, want = (re.sub(figure, " x ", text).split() for text in pair)
            assert said == want, cell["id"]
            if "optimizer" not in names:
                got, want = (list(map(float, re.findall(figure, text))) for text in pair)
                assert got == pytest.approx(want, rel=0.02, abs=0.002), cell["id"]


def start_notebook(folder):
    return launch(with_errors, folder, run_cells)


def test_the_notebooks_cells_run_and_print_what_is_committed(early):
    folder, processes = early["test_the_notebooks_cells"]
    assert ended(*processes) == [0], (folder / "errors").read_text()


def test_the_notebook_has_every_function_of_part_i_and_the_forks_of_the_readme():
    sources = ["".join(cell["source"]) for cell in CELLS]
    part = re.split(r"# =+ Part \w+: .*\n", Path(hsd.__file__).read_text())[1]
    functions = [x.name for x in ast.walk(ast.parse(part)) if isinstance(x, ast.FunctionDef)]
    functions.remove("__post_init__")
    assert set(functions) <= set(re.findall(r"\w+", " ".join(sources))) and len(functions) > 20
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    forks = re.split(r"\n+(?=# |if __name__)", code)[1:-1]
    dense_sources = [re.sub(r"\n+", "\n", source) for source in sources]
    assert len(forks) == 6 and all(any(f in source for source in dense_sources) for f in forks)


# ---- README --------------------------------------------------------------------------------------
def test_each_fork_of_the_readme_does_what_it_says(forkable, tiny, monkeypatch, tmp_path):
    """Its code, run as it stands: a method, a context, a rule, a divergence, a verifier."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "fork.py").write_text(code)
    fork = module(tmp_path / "fork.py")
    problem = Problem("47-6+5=?", "46", "47-6=41;41+5=46;\\boxed{46}")
    group = hsd.sample_groups(tiny[1], tiny[0], [problem], 6, lab(), "x")[0]
    assert all(r.response[-1] == tiny[0].eos_token_id for r in group)  # from the other engine
    wrong = ("\\boxed{46}", "47-6+5=47;\\boxed{46}", "47-6=41;41+5=46;\\boxed{47}")
    assert hsd.verify(problem, problem.solution)
    assert not any(hsd.verify(problem, text) for text in wrong)
    student = copy.deepcopy(tiny[1]).requires_grad_()
    monkeypatch.setattr(hsd, "verify", lambda problem, text: True)  # else none has a peer
    models, problems = Models(student, student, None), hsd.load_problems(EVAL)[:2]
    small = {"peer_rule": "longest", "group_size": 4, "beta": 0.0, "max_new_tokens": 30}
    for method in ("two_peers", "grpo+hsd"):
        config = lab(method=method, **small)
        figures = hsd.train_step(models, hsd.adamw(student, config), tiny[0], problems, 0, config)
        assert 0 < figures["kl"] < math.log(2) and figures["grad_norm"] > 0  # JS is below log 2
    group = [Rollout(Q, [0], [1] * n, reward=1.0, text=f"{n}") for n in (2, 5, 3)]
    hsd.choose_peers(group, "longest", RNG)
    assert [len(r.peer.response) for r in group] == [5, 3, 5]
    shown = [[("answer", "2"), ("peer", x), ("peer", y)] for x, y in ("53", "32", "52")]
    assert [fork.two_peers(r) for r in group] == shown
