"""Tests of hsd.py, in its order: every one asserts numbers, against a dense float64 oracle, an
invariant, or a hand-worked example."""

import contextlib
import copy
import fcntl
import gzip
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

import hsd
from hsd import Config, Problem, Rollout

ROOT = Path(hsd.__file__).parent
TINY, TRAIN, EVAL = (str(hsd.DATA / name) for name in ("tiny-qwen3", "train.jsonl", "eval.jsonl"))
torch.set_num_threads(1)  # of tiny matrices: more only wait for each other


@pytest.fixture(scope="session")
def tiny():
    """(tokenizer, model) of data/tiny-qwen3; tests that train copy it."""
    return (
        transformers.AutoTokenizer.from_pretrained(TINY),
        AutoModelForCausalLM.from_pretrained(TINY).requires_grad_(False),
    )


def lab(**changes):
    return Config(**{**hsd.LAB, "compile": False, **changes})


def random_model(seed=0, V=64, spread=0.2):
    """A Qwen3 of 2 layers whose random weights are large enough for log-probs that differ."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    config = Qwen3Config(vocab_size=V, **sizes, **heads, initializer_range=spread)
    return Qwen3ForCausalLM(config).eval()


def some_rollouts(count=7, V=64, seed=0):
    """Rollouts of different lengths, with made-up prompts and responses."""
    rng = random.Random(seed)

    def ids(low, high):
        return [rng.randrange(V) for _ in range(rng.randint(low, high))]

    rollouts = [Rollout(Problem("q", "1"), ids(2, 9), ids(1, 20)) for _ in range(count)]
    for r in rollouts:
        r.context, r.teacher_prompt = {"answer": "1"}, ids(9, 30)
    return rollouts


def checkpointed(model):
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def relative_error(got, want):
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


# ====================================== Part I: the paper =========================================
# ---- Problems and prompts ------------------------------------------------------------------------


def test_the_instruction_closes_every_prompt_and_hints_stand_before_it():
    assert hsd.request(Problem("1+1=?", "2")) == f"1+1=?\n\n{hsd.INSTRUCTION}"
    both = hsd.request(Problem("1+1=?", "2"), {"answer": "2", "peer": "1+1=2"})
    hints = hsd.CONTEXTS["answer"].format(2) + hsd.CONTEXTS["peer"].format("1+1=2")
    assert both == f"1+1=?\n\n{hints}{hsd.CLOSING}{hsd.INSTRUCTION}"
    code = hsd.request(Problem("add", tests=("assert f(1) == 2",)), {"peer": "x"})
    assert code.endswith(hsd.CLOSING + hsd.CODE_INSTRUCTION)


def test_the_prompts_fixed_sentences_are_single_tokens_of_the_tiny_model(tiny):
    tokenizer, _ = tiny
    for context in hsd.CONTEXTS.values():
        for piece in context.split("{}"):
            assert len(tokenizer(piece).input_ids) == 1
    assert len(tokenizer(hsd.CLOSING + hsd.INSTRUCTION).input_ids) == 1
    assert tokenizer.decode(tokenizer("12*3+4=?;\\boxed{07}").input_ids) == "12*3+4=?;\\boxed{07}"


# ---- Rollouts and their verification (section 5) -------------------------------------------------


def test_rollouts_are_groups_of_their_problem_and_end_with_a_stop_token(tiny):
    tokenizer, model = tiny
    problems = hsd.load_problems(EVAL)[:3]
    groups = hsd.sample_groups(model, tokenizer, problems, 4, lab(), "x")
    assert [[r.problem for r in group] for group in groups] == [[p] * 4 for p in problems]
    for r in (r for group in groups for r in group):
        assert r.response[-1] == tokenizer.eos_token_id and not r.truncated
        assert r.prompt == hsd.prompt_ids(tokenizer, hsd.request(r.problem))
        assert r.text == tokenizer.decode(r.response[:-1])
        assert r.response.count(tokenizer.eos_token_id) == 1


def test_a_rollout_that_is_cut_scores_0_though_its_last_number_is_right(tiny):
    tokenizer, model = tiny
    cut, config = Problem("33-6+8*9=?", "6"), lab(max_new_tokens=5, temperature=0.0)
    (group,) = hsd.sample_groups(model, tokenizer, [cut], 2, config, "x")
    assert [(r.truncated, len(r.response), r.text) for r in group] == [(True, 5, "33-6=")] * 2
    whole = Rollout(cut, [1], [1, 2], "so 6")
    hsd.verify_rollouts([*group, whole])
    assert [r.reward for r in (*group, whole)] == [0.0, 0.0, 1.0]


def test_verify_reads_the_last_box_or_the_last_fenced_block(monkeypatch):
    assert hsd.verify(Problem("q", "7"), "\\boxed{5} no, \\boxed{7}") is True
    assert hsd.verify(Problem("q", "5"), "\\boxed{5} no, \\boxed{7}") is False
    assert hsd.verify(Problem("q", "5"), "I do not know") is False
    monkeypatch.setattr(hsd, "run_tests", lambda program, tests: program == "right\n")
    code, text = Problem("f", tests=("assert f()",)), "```python\n{}\n```\nor\n```\n{}\n```\nDone"
    assert hsd.verify(code, text.format("wrong", "right")) is True
    assert hsd.verify(code, text.format("right", "wrong")) is False
    assert hsd.verify(code, "right\n") is False  # no block


def test_a_verifier_that_failed_is_told_from_a_wrong_answer(monkeypatch):
    rollouts = [Rollout(Problem("q", "1"), [1], [2], text) for text in ("1", "2", "3")]
    monkeypatch.setattr(hsd, "verify", lambda _, text: {"1": True, "2": False, "3": None}[text])
    hsd.verify_rollouts(rollouts)
    assert [(r.reward, r.unverified) for r in rollouts] == [(1, False), (0, False), (0, True)]


# ---- Peers and the teacher's context (Eq. 8, 9, 11) ----------------------------------------------


def group_of(rewards, tokenizer, problem=Problem("1+1=?", "2", "1+1=2")):
    prompt = tokenizer(problem.question).input_ids
    texts = [f"attempt {i}" for i in range(len(rewards))]
    return [
        Rollout(problem, prompt, tokenizer(text).input_ids, text, reward=float(reward))
        for text, reward in zip(texts, rewards)
    ]


def test_successful_peers_by_hand():
    assert hsd.successful_peers([1, 0, 0, 1]) == [[3], [0, 3], [0, 3], [0]]
    assert hsd.successful_peers([0, 1, 0]) == [[1], [], [1]]
    assert hsd.successful_peers([0, 0]) == [[], []]


def test_divergence_by_hand():
    for a, b, tau in (([1, 2, 3], [1, 2, 4], 2), ([5], [6], 0), ([1, 2], [1, 2, 3], 2)):
        assert hsd.divergence(a, b) == hsd.divergence(b, a) == tau
    assert hsd.divergence([], [1]) == 0 and hsd.divergence([1, 2], [1, 2]) == 2


def test_peers_are_uniform_among_successes_and_never_oneself(tiny):
    group, rng, counts = group_of([1, 0, 1, 1], tiny[0]), random.Random(0), Counter()
    for _ in range(600):
        hsd.choose_peers(group, [], "uniform", rng)
        counts.update((i, group.index(r.peer)) for i, r in enumerate(group))
    assert all(j != i and j != 1 for i, j in counts)
    assert all(150 < counts[1, j] < 250 for j in (0, 2, 3))  # 200 expected
    assert all(240 < counts[0, j] < 360 for j in (2, 3))  # 300 expected


def test_a_lone_success_falls_back_to_the_answer_and_teaches_the_others(tiny):
    group = group_of([0, 1, 0], tiny[0])
    hsd.choose_peers(group, [], "uniform", random.Random(0))
    assert [r.peer is group[1] for r in group] == [True, False, True] and group[1].peer is None
    assert hsd.answer_and_peer(group[1]) == {"answer": "2"}  # the endpoint fallback
    assert hsd.answer_and_peer(group[0]) == {"answer": "2", "peer": "attempt 1"}


def test_past_successes_serve_where_the_group_has_none_and_nowhere_else(tiny):
    group, past = group_of([0, 1, 0], tiny[0]), group_of([1], tiny[0])
    for _ in range(20):
        hsd.choose_peers(group, past, "uniform", random.Random(0))
        assert [r.peer for r in group] == [group[1], past[0], group[1]]
    hsd.choose_peers(failed := group_of([0, 0], tiny[0]), past, "uniform", random.Random(0))
    assert [r.peer for r in failed] == past * 2


def test_peer_rules_by_hand():
    problem = Problem("q", "1")
    rollout = Rollout(problem, [0], [1, 2, 3, 4])
    given = (([1, 2, 3, 9, 9], [-1.0, -1.0]), ([1, 9], [-2.0, -1.0]), ([8, 8, 8], [-0.5, -0.7]))
    peers = [Rollout(problem, [0], ids, reward=1.0, logp=torch.tensor(logp)) for ids, logp in given]
    want = {"shortest": 1, "nearest": 0, "low_perplexity": 2, "high_perplexity": 1}
    for rule, place in want.items():
        hsd.choose_peers([rollout, *peers], [], rule, random.Random(0))
        assert rollout.peer is peers[place], rule
    assert {*want, "uniform"} == {*hsd.PEER_RULES}


def test_each_method_shows_its_teacher_what_table_1_says(tiny):
    group = group_of([0, 1], tiny[0])
    hsd.choose_peers(group, [], "uniform", random.Random(0))
    answer, peer = {"answer": "2"}, {"peer": "attempt 1"}
    want = {"hsd": [answer | peer, answer], "sdpo": [peer, {}], "sdft": [{"solution": "1+1=2"}] * 2}
    for name, method in hsd.METHODS.items():
        if method.context:
            assert [method.context(r) for r in group] == want.get(name, [answer] * 2), name


def test_code_shows_its_peer_alone_and_nothing_without_one(tiny):
    group = group_of([0, 1], tiny[0], Problem("add", tests=("assert add(1, 1) == 2",)))
    hsd.choose_peers(group, [], "uniform", random.Random(0))
    for r in group:
        hsd.condition_teacher(r, hsd.answer_and_peer, tiny[0], lab())
    assert [r.context for r in group] == [{"peer": "attempt 1"}, {}]
    assert tiny[0].decode(group[1].teacher_prompt).count(hsd.CODE_INSTRUCTION) == 1


def test_only_the_peers_tokens_are_cut_and_at_their_end(tiny):
    tokenizer, _ = tiny
    group = group_of([0, 1], tokenizer, Problem("1+1+1+1=?", "4"))
    group[0].response, group[1].response = [5], tokenizer("0123456789" * 20).input_ids
    hsd.choose_peers(group, [], "uniform", random.Random(0))
    hsd.condition_teacher(group[0], hsd.answer_and_peer, tokenizer, lab(max_peer_tokens=33))
    text = tokenizer.decode(group[0].teacher_prompt)
    assert group[0].context["peer"] == "0123456789" * 3 + "012" and group[0].response == [5]
    assert hsd.request(group[0].problem, group[0].context) in text
    assert "1+1+1+1=?" in text and hsd.CLOSING + hsd.INSTRUCTION in text


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
    rows = {name: tuple(asdict(method).values())[1:] for name, method in hsd.METHODS.items()}
    assert rows == want
    contexts = {name: method.context for name, method in hsd.METHODS.items()}
    assert contexts == {
        **dict.fromkeys(("grpo", "dr_grpo", "dapo", "gspo")),
        **dict.fromkeys(("opsd", "rlsd", "grpo+opsd"), hsd.answer_alone),
        "hsd": hsd.answer_and_peer,
        "sdft": hsd.solution_alone,
        "sdpo": hsd.peer_alone,
    }


# ---- Config (section 5) --------------------------------------------------------------------------


def test_the_papers_values_are_the_defaults_and_each_has_a_help():
    paper = {"model": "Qwen/Qwen3-8B", "method": "hsd", "teacher": "live", "peer_rule": "uniform"}
    paper |= {"questions_per_step": 128, "group_size": 8, "temperature": 1.0, "top_p": 0.95}
    paper |= {"max_new_tokens": 4096, "steps": 1500, "learning_rate": 1e-6, "beta": 1e-3}
    paper |= {"eval_samples": 16, "updates_per_batch": 1, "max_grad_norm": 1.0, "thinking": False}
    assert {name: getattr(Config(), name) for name in paper} == paper
    assert all(f.metadata["help"] for f in fields(Config))
    assert hsd.LAB.keys() <= {f.name for f in fields(Config)}


def test_an_evaluation_goes_beside_its_run():
    assert Config(method="opsd").out == "runs/opsd"
    assert Config(method="opsd", steps=0).out == "runs/opsd-eval"


# ---- Credit and loss (Eq. 2, 10, 13) -------------------------------------------------------------


def hidden_states(T=37, H=16, V=101, gap=1.0, seed=0):
    """Student and teacher hidden states [T,H] that are `gap` apart, and a head [V,H]; float64."""
    g = torch.Generator().manual_seed(seed)
    student = torch.randn(T, H, generator=g, dtype=torch.float64)
    teacher = student + gap * torch.randn(T, H, generator=g, dtype=torch.float64)
    return student, teacher, torch.randn(V, H, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("weights", ["a", "b", "c", "abc"])
def test_the_gradient_in_the_logits_is_that_of_autograd(weights):
    g = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 11, 29, generator=g, dtype=torch.float64)
    tokens, w = torch.arange(11), torch.randn(3, 11, generator=g, dtype=torch.float64)
    given = [x if name in weights else None for name, x in zip("abc", w)]
    terms, gradient = hsd.chunk_terms(*logits, tokens, *given)
    s = logits[0].clone().requires_grad_()
    log_s, log_t, log_0 = s.log_softmax(-1), logits[1].log_softmax(-1), logits[2].log_softmax(-1)
    kl = (log_t.exp() * (log_t - log_s)).sum(-1)
    kl_reference = (log_s.exp() * (log_s - log_0)).sum(-1)
    parts = {"a": kl, "b": kl_reference, "c": log_s[tokens, tokens]}
    sum((w["abc".index(name)] * parts[name]).sum() for name in weights).backward()
    want = (kl, kl_reference, parts["c"], log_t[tokens, tokens], -(log_s.exp() * log_s).sum(-1))
    assert all(relative_error(got, x) < 1e-12 for got, x in zip(terms, want))
    assert relative_error(gradient, s.grad) < 1e-12


def dense(model, prompt, response):
    """log pi at each token of a response, [T,V], by a plain pass over this text alone."""
    logits = model(torch.tensor([prompt + response])).logits[0]
    return logits[len(prompt) - 1 : -1].log_softmax(-1)


def test_credit_is_teacher_minus_student_at_the_tokens_of_the_rollout():
    student, teacher = random_model(0), random_model(1)
    for r in (rollouts := some_rollouts()):
        r.logp = r.credit = None
    hsd.set_credit(hsd.Models(student, teacher, None), rollouts, lab(micro_batch_tokens=60))
    for r in rollouts:
        at = torch.tensor(r.response)[:, None]
        s, t = (
            dense(model.double(), prompt, r.response).gather(-1, at)[:, 0]
            for model, prompt in ((student, r.prompt), (teacher, r.teacher_prompt))
        )
        assert torch.allclose(r.logp.double(), s, atol=1e-4)
        assert torch.allclose(r.credit.double(), t - s, atol=1e-4)
        assert r.credit.dtype == torch.float32


def dense_loss(method, rollouts, models, config, step):
    """The loss of an update over all rollouts, for each row of Table 1, by its paper's formula."""
    distill = {"hsd": 1, "opsd": 1, "sdft": 1, "sdpo": 1, "grpo+opsd": 0.5}.get(method, 0)
    policy = {"grpo+opsd": 0.5}.get(method, 0 if distill else 1)
    low, high = {"dapo": (0.2, 0.28), "gspo": (3e-4, 4e-4)}.get(method, (0.2, 0.2))
    N, tokens, total = len(rollouts), sum(len(r.response) for r in rollouts), 0.0
    for r in rollouts:
        s, t, p0 = (
            dense(model, prompt, r.response)
            for model, prompt in zip(models, (r.prompt, r.teacher_prompt, r.prompt))
        )
        at = torch.tensor(r.response)[:, None]
        logp, t_logp = s.gather(-1, at)[:, 0], t.gather(-1, at)[:, 0]
        kl = (t.exp() * (t - s)).sum(-1) * bool(r.context)
        kl_reference = (s.exp() * (s - p0)).sum(-1)
        log_ratio, A = logp - r.logp, torch.full_like(logp, r.advantage)
        if method == "gspo":
            log_ratio = log_ratio.mean().expand(len(logp))
        if method == "rlsd":
            share = 0.5 * (1 - step / 50)
            evidence = (A.sign() * (t_logp - logp)).exp().clamp(0.8, 1.2).detach()
            A = A * (1 - share + share * evidence)
        ratio = log_ratio.exp()
        objective = torch.min(ratio * A, ratio.clamp(1 - low, 1 + high) * A)
        loss = distill * kl + config.beta * kl_reference - policy * objective
        over = {"dapo": tokens, "dr_grpo": N * config.max_new_tokens}.get(method)
        total = total + loss.sum() / (over or N * len(r.response))
    return total


@pytest.mark.parametrize("method", hsd.METHODS)
def test_loss_and_gradient_of_each_method_are_those_of_its_formula(method):
    """Three models, rollouts off-policy enough for every clip to act, one without context."""
    student, teacher, initial = models = [random_model(i) for i in range(3)]
    exact = [copy.deepcopy(model).double() for model in models]
    rollouts, noise = some_rollouts(9), torch.Generator().manual_seed(0)
    for i, r in enumerate(rollouts):
        with torch.no_grad():
            at = torch.tensor(r.response)[:, None]
            logp = dense(exact[0], r.prompt, r.response).gather(-1, at)[:, 0]
        gap = 1e-3 if method == "gspo" else 0.4
        r.logp = (logp + gap * torch.randn(len(logp), generator=noise)).float()
        r.advantage, r.context = (-1) ** i * (0.5 + i / 9), {"answer": "1"} if i != 2 else {}
    sizes = {"beta": 0.1, "chunk_tokens": 7, "max_new_tokens": 30, "updates_per_batch": 2}
    config = lab(method=method, **sizes)
    want = dense_loss(method, rollouts, exact, config, 10)
    want.backward()
    hsd.set_weights(rollouts, hsd.METHODS[method].mean_over, config)
    taught = teacher if hsd.METHODS[method].context else None
    loss, figures = hsd.batch_loss(hsd.Models(student, taught, initial), rollouts, 10, config)
    loss.backward()
    assert figures["loss"] == pytest.approx(want.item(), rel=1e-4)
    assert all(p.grad is None for model in (teacher, initial) for p in model.parameters())
    for p, p64 in zip(student.parameters(), exact[0].parameters()):
        assert relative_error(p.grad, p64.grad) < 1e-3


def test_the_figures_are_means_over_tokens_and_then_over_rollouts():
    models = [random_model(i) for i in range(3)]
    rollouts, kls, references, entropies = some_rollouts(), [], [], []
    hsd.set_weights(rollouts, "constant", lab())  # the loss's weights are not the figures'
    for r in rollouts:
        prompts = (r.prompt, r.teacher_prompt, r.prompt)
        s, t, p0 = (dense(model, p, r.response) for model, p in zip(models, prompts))
        kls.append((t.exp() * (t - s)).sum(-1).mean().item())
        references.append((s.exp() * (s - p0)).sum(-1).mean().item())
        entropies.append(-(s.exp() * s).sum(-1).mean().item())
    _, figures = hsd.batch_loss(hsd.Models(*models), rollouts, 0, lab())
    assert figures["kl"] == pytest.approx(hsd.mean(kls), rel=1e-4)
    assert figures["kl_reference"] == pytest.approx(hsd.mean(references), rel=1e-4)
    assert figures["entropy"] == pytest.approx(hsd.mean(entropies), rel=1e-4)


def test_a_teacher_that_is_the_student_with_the_same_prompt_gives_exactly_zero():
    """In train mode and with checkpointing, where a dropout or a second path would show."""
    student, rollouts = random_model(), some_rollouts()
    checkpointed(student)
    for r in rollouts:
        r.teacher_prompt = r.prompt
    hsd.set_weights(rollouts, "rollouts", lab())
    models = hsd.Models(student, student, None)
    loss, figures = hsd.batch_loss(models, rollouts, 0, lab(beta=0.0))
    loss.backward()
    assert loss.item() == figures["kl"] == 0
    assert max(p.grad.abs().max() for p in student.parameters()) < 1e-6


# ---- The algorithm -------------------------------------------------------------------------------


@pytest.fixture
def given_groups(monkeypatch):
    """Makes train_step() work on these groups, with the rewards that they have."""
    monkeypatch.setattr(hsd, "verify_rollouts", lambda rollouts: None)

    def give(groups):
        monkeypatch.setattr(hsd, "sample_groups", lambda *_: copy.deepcopy(groups))
        return [group[0].problem for group in groups]

    return give


def groups_of(tokenizer, *rewards):
    return [
        group_of(row, tokenizer, Problem(f"{i}+1=?", str(i + 1), "solution"))
        for i, row in enumerate(rewards)
    ]


def one_step(give, tokenizer, groups, step=0, buffer=None, student=None, **changes):
    """One train_step() of a random model on some groups: (figures, optimizer)."""
    config = lab(**{"beta": 0.0, "teacher": "live", **changes})
    student = student or random_model(V=len(tokenizer))
    if config.gradient_checkpointing:
        checkpointed(student)
    reference = random_model(1, V=len(tokenizer)).requires_grad_(False) if config.beta else None
    taught = hsd.METHODS[config.method].context
    models = hsd.Models(student, student if taught else None, reference)
    optimizer = hsd.MasterAdamW(student, config)
    buffer = {} if buffer is None else buffer
    figures = hsd.train_step(models, optimizer, tokenizer, give(groups), buffer, step, config)
    return figures, optimizer


def moments(optimizer):
    """.1 of the clipped gradient, after one step."""
    states = [optimizer.adamw.state[master] for _, master in sorted(optimizer.master.items())]
    return torch.cat([state["exp_avg"].flatten() for state in states if state])


def test_loss_and_gradient_do_not_depend_on_micro_batches_or_chunks(tiny, given_groups):
    groups = groups_of(tiny[0], [1, 0, 0], [0, 1, 1])
    for i, r in enumerate(r for group in groups for r in group):
        r.response = r.response * (1 + 2 * i)
    changes = [dict(micro_batch_tokens=n, chunk_tokens=c) for n, c in ((10**6, 256), (1, 256))]
    changes += [dict(micro_batch_tokens=120, chunk_tokens=7), dict(gradient_checkpointing=True)]
    (want, optimizer), *others = [
        one_step(given_groups, tiny[0], groups, beta=0.3, max_grad_norm=1e9, **change)
        for change in changes
    ]
    for got, other in others:
        for name in ("loss", "kl", "kl_reference", "entropy", "grad_norm"):
            assert got[name] == pytest.approx(want[name], rel=1e-4)
        assert relative_error(moments(other), moments(optimizer)) < 1e-4


def test_rollouts_peers_and_order_follow_from_seed_and_step(tiny, monkeypatch):
    tokenizer, model = tiny
    seen, problems = [], hsd.load_problems(TRAIN)
    monkeypatch.setattr(hsd, "verify_rollouts", seen.append)

    def drawn(step, seed):
        config = lab(seed=seed, questions_per_step=2, group_size=2, max_new_tokens=12, beta=0.0)
        student = copy.deepcopy(model).requires_grad_()
        models, picked = hsd.Models(student, student, None), problems[:2]
        optimizer = hsd.MasterAdamW(student, config)
        hsd.train_step(models, optimizer, tokenizer, picked, {}, step, config)
        order = hsd.questions_of_step(problems, step, config)
        return [r.response for r in seen[-1]], order

    first, order = drawn(0, seed=0)
    assert drawn(0, seed=0) == (first, order)
    for other, its_order in (drawn(1, seed=0), drawn(0, seed=1)):
        assert other != first and its_order != order


def test_the_peer_that_is_drawn_follows_from_seed_and_step(tiny, given_groups, monkeypatch):
    groups, chosen, choose = groups_of(tiny[0], [1] * 8), [], hsd.choose_peers

    def spy(group, *rest):
        choose(group, *rest)
        chosen.append([r.peer.text for r in group])

    monkeypatch.setattr(hsd, "choose_peers", spy)
    for step, seed in ((0, 0), (0, 0), (1, 0), (0, 1)):
        one_step(given_groups, tiny[0], groups, step, seed=seed)
    same, again, later, other = chosen
    assert same == again and later != same != other


def test_hsd_steps_lower_the_kl_and_raise_the_peers_token_at_tau(tiny, given_groups, monkeypatch):
    """Six steps on one batch: the student comes nearer to its teacher, and where a failed rollout
    left its peer's path, the peer's token becomes likelier."""
    tokenizer, model = tiny
    config, student = lab(beta=0.0), copy.deepcopy(model).requires_grad_()
    monkeypatch.undo()
    problems, rng = hsd.load_problems(TRAIN)[:4], random.Random(0)
    groups = hsd.sample_groups(student, tokenizer, problems, 8, config, "batch")
    hsd.verify_rollouts([r for group in groups for r in group])
    monkeypatch.setattr(hsd, "sample_groups", lambda *_: groups)
    for group in groups:
        hsd.choose_peers(group, [], "uniform", rng)
    pairs = [(r, r.peer) for g in groups for r in g if r.peer and not r.reward]
    assert len(pairs) >= 8

    @torch.no_grad()
    def right_token():
        chances = []
        for r, peer in pairs:
            tau = hsd.divergence(r.response, peer.response)
            chances.append(dense(student, r.prompt, r.response)[tau].exp()[peer.response[tau]])
        return hsd.mean(chances)

    before, optimizer = right_token(), hsd.MasterAdamW(student, config)
    models = hsd.Models(student, model, None)
    steps = [
        hsd.train_step(models, optimizer, tokenizer, problems, {}, 0, config) for _ in range(6)
    ]
    assert steps[-1]["kl"] < 0.6 * steps[0]["kl"] and right_token() > before + 0.1


def test_an_ema_teacher_goes_one_percent_of_the_way(tiny, given_groups):
    config = lab(teacher="ema", beta=0.0, learning_rate=1e-2)
    tokenizer, models = hsd.load_models(config)
    old = copy.deepcopy(models.teacher)
    problems = given_groups(groups_of(tokenizer, [1, 0, 0]))
    optimizer = hsd.MasterAdamW(models.student, config)
    hsd.train_step(models, optimizer, tokenizer, problems, {}, 0, config)
    for was, now, student in zip(*(m.parameters() for m in (old, models.teacher, models.student))):
        assert (student - was).abs().max() > 1e-3
        assert torch.allclose(now - was, 0.01 * (student - was), atol=1e-6)


@pytest.mark.parametrize("method", hsd.METHODS)
def test_every_method_moves_the_weights_and_logs_what_it_has(method, tiny, given_groups):
    start = random_model(V=len(tiny[0])).get_output_embeddings().weight
    groups = groups_of(tiny[0], [1, 0, 0], [0, 1, 1])
    figures, optimizer = one_step(given_groups, tiny[0], groups, method=method)
    assert (optimizer.weights[0] - start).abs().max() > 5e-5
    assert ("kl" in figures) == (hsd.METHODS[method].context is not None)
    assert "kl_reference" not in figures and math.isfinite(figures["loss"])


def test_dapo_drops_groups_that_are_all_right_or_all_wrong(tiny, given_groups):
    kinds = [1, 0, 0], [1, 1, 1], [0, 0, 0]
    mixed, _, _ = groups = groups_of(tiny[0], *kinds)
    for method, same in (("dapo", True), ("grpo", False)):
        few, many = (
            one_step(given_groups, tiny[0], g, method=method)[0]["grad_norm"]
            for g in ([mixed], groups)
        )
        assert (many == pytest.approx(few, rel=1e-5)) == same
    _, optimizer = one_step(given_groups, tiny[0], groups[1:], method="dapo")
    assert torch.equal(optimizer.weights[0], random_model(V=len(tiny[0])).model.embed_tokens.weight)


def test_grpo_on_an_all_right_group_has_no_gradient(tiny, given_groups):
    groups = groups_of(tiny[0], [1, 1, 1])
    assert one_step(given_groups, tiny[0], groups, method="grpo")[0]["grad_norm"] == 0


def test_opsd_equals_hsd_where_nothing_succeeded_and_only_there(tiny, given_groups):
    for rewards, same in (([0, 0, 0], True), ([0, 1, 0], False)):
        a, b = (
            one_step(given_groups, tiny[0], groups_of(tiny[0], rewards), method=method)[0]["loss"]
            for method in ("hsd", "opsd")
        )
        assert (a == b) == same


def test_later_updates_of_a_batch_compare_with_the_log_probs_of_before(
    tiny, given_groups, monkeypatch
):
    seen, policy_loss = [], hsd.policy_loss

    def spy(log_ratio, advantage, lengths, method):
        seen.append((log_ratio.abs().max().item(), len(lengths)))
        return policy_loss(log_ratio, advantage, lengths, method)

    monkeypatch.setattr(hsd, "policy_loss", spy)
    changes = {"method": "grpo", "updates_per_batch": 2, "learning_rate": 1e-2}
    one_step(given_groups, tiny[0], groups_of(tiny[0], [1, 0, 1, 0]), **changes)
    assert [n for _, n in seen] == [2, 2] and seen[0][0] < 1e-5 < 1e-2 < seen[1][0]


def test_the_buffer_keeps_the_last_successes_of_a_question(tiny, given_groups):
    buffer, tokenizer = {}, tiny[0]

    def texts():
        return [[r.text for r in kept] for kept in buffer.values()]

    one_step(given_groups, tokenizer, groups_of(tokenizer, [1, 0], [0, 0]), 0, buffer)
    assert texts() == [[], []]  # success_buffer 0
    buffer.clear()
    for step, rewards in enumerate(([0, 1], [1, 0], [1, 1])):
        groups = groups_of(tokenizer, rewards, [0, 0])
        figures, _ = one_step(given_groups, tokenizer, groups, step, buffer, success_buffer=2)
        assert figures["peer_share"] == [1 / 4, 2 / 4, 2 / 4][step]
    assert texts() == [["attempt 0", "attempt 1"], []]


# ================================== Part II: what makes it real ===================================
# ---- The policy gradients of the baselines (Eq. 1, Table 1) --------------------------------------


def advantages_of(method, rewards, lengths=None, **changes):
    lengths = lengths or [3] * len(rewards)
    group = [
        Rollout(Problem("q", "1"), [1], [5] * n, reward=float(r)) for r, n in zip(rewards, lengths)
    ]
    hsd.set_advantages(group, hsd.METHODS[method], lab(method=method, **changes))
    return [r.advantage for r in group]


def test_advantages_by_hand():
    """Rewards 1, 0, 0, 0: mean 1/4, unbiased standard deviation 1/2."""
    for method in ("grpo", "gspo", "dapo", "rlsd", "grpo+opsd"):
        got = advantages_of(method, [1, 0, 0, 0])
        assert got == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-4)
    assert advantages_of("dr_grpo", [1, 0, 0, 0]) == [0.75, -0.25, -0.25, -0.25]
    assert advantages_of("grpo", [1, 1, 1]) == [0, 0, 0] and advantages_of("grpo", [1]) == [0]


def test_dapos_length_penalty_by_hand():
    """max_new_tokens 100: none up to 80 tokens, half at 90, all at 100; halved for 0/1 rewards."""
    got = advantages_of("dapo", [1, 1, 1, 0], [80, 90, 100, 10], max_new_tokens=100)
    shaped = torch.tensor([1, 0.75, 0.5, 0])
    assert got == pytest.approx(((shaped - shaped.mean()) / shaped.std()).tolist(), abs=1e-4)
    plain = advantages_of("grpo", [1, 1, 1, 0], [80, 90, 100, 10], max_new_tokens=100)
    assert plain == pytest.approx([0.5, 0.5, 0.5, -1.5], abs=1e-4)


def test_token_weights_by_hand():
    rollouts = [Rollout(Problem("q", "1"), [1], [5] * n) for n in (2, 6)]
    rows = {"rollouts": [1 / 4, 1 / 12], "tokens": [1 / 8] * 2, "constant": [1 / 20] * 2}
    for over, want in rows.items():
        hsd.set_weights(rollouts, over, lab(max_new_tokens=10))
        assert [r.weight for r in rollouts] == pytest.approx(want)
        assert [r.share for r in rollouts] == pytest.approx([1 / 4, 1 / 12])


def test_the_policy_loss_clips_what_it_should():
    """r = 1.5 counts as 1.2 where A > 0 (1.28 for DAPO), in full where A < 0; .5 the other way."""
    log_ratio, advantage = torch.tensor([1.5, 1.5, 0.5, 0.5]).log(), torch.tensor([1.0, -1, 1, -1])
    for method, want in (("grpo", [-1.2, 1.5, -0.5, 0.8]), ("dapo", [-1.28, 1.5, -0.5, 0.8])):
        got = hsd.policy_loss(log_ratio, advantage, [4], hsd.METHODS[method])
        assert got.tolist() == pytest.approx(want)


def test_gspos_ratio_is_that_of_the_sequence_normalised_by_length():
    log_ratio = torch.tensor([1e-4, 2e-4, 0, 3e-4, 5e-4, 7e-4]).requires_grad_()
    advantage = torch.tensor([1.0, 1, 1, -1, 1, 1])
    got = hsd.policy_loss(log_ratio, advantage, [3, 1, 2], hsd.METHODS["gspo"])
    want = [-math.exp(1e-4)] * 3 + [math.exp(3e-4)] + [-1.0004] * 2  # the last is clipped
    assert got.tolist() == pytest.approx(want, abs=2e-7)
    got.sum().backward()
    want = [-math.exp(1e-4)] * 3 + [math.exp(3e-4), 0, 0]
    assert log_ratio.grad.tolist() == pytest.approx(want, abs=1e-6)


def test_rlsd_keeps_the_verifiers_sign():
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, 0.0])
    credit = torch.tensor([1.1, 2, 0.5, 2, 0.5, 20]).log()
    got = hsd.reweighted(advantages, credit, step=0)
    assert got.tolist() == pytest.approx([1.05, 1.1, 0.9, -0.9, -1.1, 0], abs=1e-5)
    assert hsd.reweighted(advantages, credit, step=50).tolist() == advantages.tolist()


# ---- The heads, a chunk at a time ----------------------------------------------------------------


def dense_kl(student_hidden, teacher_hidden, head):
    """KL(teacher || student) at each token, [T], by plain log_softmax in the inputs' dtype."""
    student = (student_hidden @ head.T).log_softmax(-1)
    teacher = (teacher_hidden.detach() @ head.detach().T).log_softmax(-1)
    return (teacher.exp() * (teacher - student)).sum(-1)


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setattr(hsd, "compiled", lambda function: function)


@pytest.mark.parametrize("T,chunk", [(37, 8), (37, 64), (37, 37), (1, 4), (64, 1)])
def test_kl_and_gradients_equal_a_dense_float64_oracle(T, chunk, plain):
    student, teacher, head = hidden_states(T)
    weights = torch.rand(T, dtype=torch.float64)
    s64, w64 = student.clone().requires_grad_(), head.clone().requires_grad_()
    kl64 = dense_kl(s64, teacher, w64)
    (weights * kl64).sum().backward()
    s32, w32 = student.float().requires_grad_(), head.float().requires_grad_()
    loss, kl = hsd.kl_teacher_student(s32, teacher.float(), w32, weights.float(), chunk)
    (3 * loss).backward()
    assert kl.dtype == torch.float32 and kl.shape == (T,) and not kl.requires_grad
    assert relative_error(kl, kl64) < 1e-5 and relative_error(loss, (weights * kl64).sum()) < 1e-5
    assert relative_error(s32.grad, 3 * s64.grad) < 1e-5
    assert relative_error(w32.grad, 3 * w64.grad) < 1e-5


def test_the_compiled_loss_equals_the_plain_one(monkeypatch):  # slow: 20 s
    student, teacher, head = (x.float() for x in hidden_states(T=21))
    results = []
    for kernel in (hsd.compiled, lambda function: function):
        monkeypatch.setattr(hsd, "compiled", kernel)
        s, w = student.clone().requires_grad_(), head.clone().requires_grad_()
        loss, kl = hsd.kl_teacher_student(s, teacher, w, None, 8)
        loss.backward()
        results.append((loss, kl, s.grad, w.grad))
        assert loss.item() == pytest.approx(kl.mean().item(), rel=1e-6)  # no weights: the mean
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(*results))


def test_without_a_compiler_a_line_says_so_and_the_plain_loss_runs(monkeypatch, capsys):
    def no_compiler(_):
        raise RuntimeError("no g++ here\nand more")

    hsd.compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", no_compiler)
    assert hsd.compiled(dense_kl) is dense_kl
    assert capsys.readouterr().out.splitlines()[0].endswith("running without it: no g++ here")
    hsd.compiled.cache_clear()


@pytest.mark.parametrize("target", [5.0, 0.07, 0.005])
def test_gradient_from_bf16_hidden_states_is_within_one_percent(target, plain):
    student, teacher, head = hidden_states(T=64, H=128, V=1000)
    head, scale = head * 0.2, 1.0
    for _ in range(60):  # a gap that gives the KL asked for
        kl = dense_kl(student, student + scale * (teacher - student), head).mean().item()
        scale *= min(2.0, max(0.5, (target / kl) ** 0.5))
    teacher = student + scale * (teacher - student)
    student, teacher, head = (x.bfloat16() for x in (student, teacher, head))
    s64, w64 = student.double().requires_grad_(), head.double().requires_grad_()
    kl64 = dense_kl(s64, teacher.double(), w64)
    kl64.mean().backward()
    assert 0.7 * target < kl64.mean().item() < 1.5 * target
    s16, w16 = student.clone().requires_grad_(), head.clone().requires_grad_()
    loss, kl = hsd.kl_teacher_student(s16, teacher, w16, None, 16)
    loss.backward()
    assert relative_error(kl, kl64) < 1e-3
    assert relative_error(s16.grad, s64.grad) < 0.01 and relative_error(w16.grad, w64.grad) < 0.01


def test_the_head_learns_nothing_from_the_teacher(plain):
    student, teacher, head = (x.float() for x in hidden_states())
    t, w = teacher.clone().requires_grad_(), head.clone().requires_grad_()
    hsd.kl_teacher_student(student, t, w, None, 8)[0].backward()
    assert t.grad is None
    w64 = head.double().requires_grad_()
    log_s, log_t = ((x.double() @ w64.T).log_softmax(-1) for x in (student, teacher))
    kl, fixed = (log_t.exp() * (log_t - log_s)).sum(-1).mean(), log_t.detach()
    (wrong,) = torch.autograd.grad(kl, w64, retain_graph=True)
    (right,) = torch.autograd.grad((fixed.exp() * (fixed - log_s)).sum(-1).mean(), w64)
    assert relative_error(w.grad, right) < 1e-5 and relative_error(w.grad, wrong) > 0.3


# ---- Reading and sampling ------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_reading_equals_a_padded_and_masked_pass_whichever_side_is_padded(side):
    model, rollouts = random_model().double(), some_rollouts()
    prompts, responses = [r.teacher_prompt for r in rollouts], [r.response for r in rollouts]
    got, _ = hsd.read(model, prompts, responses)
    width = max(len(p) + len(o) for p, o in zip(prompts, responses))
    ids, mask, keep = [], [], []
    for p, o in zip(prompts, responses):
        pad, ones = [0] * (width - len(p) - len(o)), [1] * len(p + o)
        ids.append(pad + p + o if side == "left" else p + o + pad)
        mask.append(pad + ones if side == "left" else ones + pad)
        start = len(p) - 1 + (len(pad) if side == "left" else 0)
        keep.append(slice(start, start + len(o)))
    mask = torch.tensor(mask)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    states = model.model(torch.tensor(ids), attention_mask=mask, position_ids=positions)[0]
    want = torch.cat([h[rows] for h, rows in zip(states, keep)])
    assert got.shape == want.shape and (got - want).abs().max() < 1e-10


def test_runs_of_items_keep_to_their_budget_padding_included():
    assert hsd.packed([3, 3, 4, 1], lambda x: x, 8) == [[3, 3], [4, 1]]
    assert hsd.packed([9, 1, 9], lambda x: x, 8) == [[9], [1], [9]]
    rollouts = some_rollouts(30)
    batches = hsd.micro_batches(rollouts, 60)
    assert sorted(map(id, rollouts)) == sorted(id(r) for batch in batches for r in batch)
    for batch in batches:
        lengths = [len(r.prompt) + len(r.response) for r in batch]
        assert len(batch) * max(lengths) <= 60 and lengths == sorted(lengths, reverse=True)


def test_thinking_mode_is_the_same_switch_for_student_and_teacher(tiny):
    tokenizer, _ = tiny
    for thinking, closed in ((False, 1), (True, 0)):
        config, rollout = lab(thinking=thinking), group_of([0], tokenizer)[0]
        hsd.condition_teacher(rollout, hsd.answer_alone, tokenizer, config)
        student = hsd.prompt_ids(tokenizer, hsd.request(rollout.problem), thinking)
        for ids in (rollout.teacher_prompt, student):
            assert tokenizer.decode(ids).count("</think>") == closed


def test_a_base_models_tokenizer_without_a_template_gets_the_bare_text(tiny):
    bare = copy.deepcopy(tiny[0])
    bare.chat_template = None
    assert bare.decode(hsd.prompt_ids(bare, "1+1=?")) == "1+1=?\n"


def test_the_stop_tokens_are_the_models_and_the_tokenizers(tiny):
    tokenizer, model = copy.deepcopy(tiny[0]), random_model()
    model.generation_config.eos_token_id = [7, 5]
    assert hsd.stop_tokens(model, tokenizer) == sorted({5, 7, tokenizer.eos_token_id})
    model.generation_config.eos_token_id = tokenizer.eos_token = None
    with pytest.raises(hsd.InputError, match="EOS"):
        hsd.stop_tokens(model, tokenizer)


@pytest.mark.parametrize("T,top_p", [(1.0, 1.0), (0.5, 1.0), (1.0, 0.6), (1.5, 0.8)])
def test_tokens_are_drawn_from_the_nucleus_of_softmax_of_logits_over_T(T, top_p):
    """Two prompts of different length, 20,000 draws each, and a model that asks for top_k 2."""
    model, prompts, N = random_model(spread=0.3), [[3, 1, 4, 1, 5], [9, 2]], 20_000
    model.generation_config.top_k, model.generation_config.temperature = 2, 0.1
    config = lab(temperature=T, top_p=top_p, max_new_tokens=1)
    torch.manual_seed(0)
    drawn = hsd.generate(model, [p for p in prompts for _ in range(N)], [63], config)
    for i, prompt in enumerate(prompts):
        counts = Counter(token for (token,) in drawn[i * N : (i + 1) * N])
        with torch.no_grad():
            p = (model(torch.tensor([prompt])).logits[0, -1].double() / T).softmax(-1)
        p, order = p.sort(descending=True)
        size = int((p.cumsum(-1) < top_p - 1e-9).sum()) + 1 if top_p < 1 else len(p)
        p, observed = p[:size] / p[:size].sum(), [counts[token] for token in order.tolist()]
        assert sum(observed[size:]) == 0
        chi2 = ((torch.tensor(observed[:size]) - N * p) ** 2 / (N * p)).sum().item()
        assert chi2 < size - 1 + 5 * math.sqrt(2 * size)


def test_a_batch_of_prompts_of_different_length_goes_on_as_each_alone():
    model, prompts = random_model(spread=0.5), [[3, 1, 4, 1, 5, 9, 2, 6], [5, 3], [5, 8, 9]]
    config = lab(temperature=0.0, max_new_tokens=12)
    for prompt, response in zip(prompts, hsd.generate(model, prompts, [63], config)):
        text = list(prompt)
        while len(text) < len(prompt) + 12 and text[-1] != 63:
            with torch.no_grad():
                text.append(model(torch.tensor([text])).logits[0, -1].argmax().item())
        assert response == text[len(prompt) :]


def test_the_first_stop_token_is_kept_and_what_follows_is_not():
    model = random_model()
    rows = [[5, 6, 2, 2, 2], [5, 2, 7, 7, 2], [5, 6, 7, 8, 9], [3, 2, 2, 2, 2]]
    model.generate = lambda ids, **_: torch.cat([ids, torch.tensor(rows)], 1)
    got = hsd.generate(model, [[1]] * 4, [2, 3], lab())
    assert got == [[5, 6, 2], [5, 2], [5, 6, 7, 8, 9], [3]]


def test_the_stop_token_is_read_and_trained_like_any_other():
    student, teacher = random_model(0), random_model(1)
    r = Rollout(Problem("q", "1"), [3, 4], [5, 6, 2], teacher_prompt=[7], context={"answer": "1"})
    (sides, tokens) = hsd.read_responses(hsd.Models(student, teacher, None), [r])
    assert tokens.tolist() == [5, 6, 2]
    for (hidden, head), model, prompt in zip(sides, (student, teacher), (r.prompt, [7])):
        got = (hidden @ head.T).log_softmax(-1)
        assert torch.allclose(got, dense(model, prompt, r.response), atol=1e-5)
    hsd.set_weights([r], "rollouts", lab())
    _, figures = hsd.batch_loss(hsd.Models(student, teacher, None), [r], 0, lab(beta=0.0))
    s, t = dense(student, r.prompt, r.response), dense(teacher, [7], r.response)
    assert figures["kl"] == pytest.approx((t.exp() * (t - s)).sum().item() / 3, rel=1e-4)


def test_responses_depend_on_the_seed_and_come_in_the_prompts_order(monkeypatch):
    model, sizes, generate = random_model(), [], hsd.generate
    prompts = [[1] * n for n in (2, 5, 3, 7, 4)] * 4
    config = lab(max_new_tokens=6, rollout_tokens=40)

    def spy(model, call, *rest):
        sizes.append((len(call), max(map(len, call))))
        return generate(model, call, *rest)

    monkeypatch.setattr(hsd, "generate", spy)
    a, b, c = (hsd.sample(model, prompts, [63], config, seed) for seed in ("x", "x", "y"))
    assert a == b != c and len(a) == 20
    assert all(n * (longest + 6) <= 40 for n, longest in sizes) and max(n for n, _ in sizes) > 1
    monkeypatch.setattr(hsd, "generate", lambda _, call, *rest: [[len(p)] for p in call])
    assert hsd.sample(model, prompts, [63], config, "x") == [[len(p)] for p in prompts]


def test_sampling_leaves_the_callers_generator_alone():
    model, before = random_model(), torch.get_rng_state()
    hsd.sample(model, [[1, 2]], [63], lab(max_new_tokens=2), "x")
    assert torch.equal(torch.get_rng_state(), before)


# ---- Answers and programs (section 5) ------------------------------------------------------------


def whole(x):
    """A text of the case files: itself, or its parts, strings or [unit, times]; in tests as well."""
    if isinstance(x, dict):
        return {key: whole(value) for key, value in x.items()}
    parts = [x] if isinstance(x, str) else x
    return "".join(part if isinstance(part, str) else part[0] * part[1] for part in parts)


def cases(name, *kinds):
    with open(hsd.DATA / "cases" / f"{name}.jsonl", encoding="utf-8") as file:
        return [row for row in map(json.loads, file) if row["kind"] in kinds]


def in_parallel(function, work, threads=4):
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, work))


@pytest.mark.parametrize("kind", ["equal", "different", "hostile"])
def test_answers_that_are_and_are_not_equivalent(kind):
    rows = cases("answers", kind)
    pairs = [(whole(row["candidate"]), whole(row["answer"])) for row in rows]
    swapped = [(b, a) for a, b in pairs] if kind != "hostile" else []
    verdicts = in_parallel(lambda pair: hsd.math_equal(*pair), pairs + swapped, 2)
    want = [row["want"] for row in rows] * 2
    assert [p for p, got, ok in zip(pairs + swapped, verdicts, want) if got is not ok] == []
    assert len(rows) >= 100


def test_nothing_of_an_answer_is_evaluated(tmp_path):
    code = f"__import__('pathlib').Path({str(tmp_path / 'marker')!r}).touch()"
    for text in (code, f"sqrt({code})", f"\\frac{{{code}}}{{1}}"):
        assert hsd.math_equal(text, "5") is False
    assert list(tmp_path.iterdir()) == []


def test_the_last_box_or_else_the_last_number():
    for row in cases("answers", "extract"):
        assert hsd.extract_answer(whole(row["text"])) == row["extract"], row


def verdicts_on_programs(rows, **changes):
    def verdict(row):
        return hsd.run_tests(whole(row["program"]), [whole(t) for t in row["tests"]], **changes)

    return [row["name"] for row, got in zip(rows, in_parallel(verdict, rows)) if got != row["want"]]


def test_honest_programs_pass():
    assert verdicts_on_programs(rows := cases("programs", "honest")) == [] and len(rows) >= 50


def test_hostile_programs_fail_and_leave_this_process_alone():  # slow: 40 s
    rows, before = cases("programs", "hostile"), (os.getcwd(), dict(os.environ))
    assert verdicts_on_programs(rows, timeout=1.0) == [] and len(rows) >= 100
    assert (os.getcwd(), dict(os.environ)) == before


def test_programs_leave_nothing_behind(tmp_path):
    def attempt(row):
        program = whole(row["program"]).replace("{marker}", str(tmp_path / row["name"]))
        for test in ("assert f(3) == 9", {"input": "", "output": "9"}):
            hsd.run_tests(program, [test], timeout=1.0)

    in_parallel(attempt, cases("programs", "side_effect"))
    time.sleep(2)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_confines_programs_they_are_refused(monkeypatch, tmp_path):
    """A kernel without Landlock, played by a sandbox.py that calls a number no kernel has."""
    text = (hsd.DATA / "sandbox.py").read_text().replace("= 444, 445, 446", "= 9444, 445, 446")
    (tmp_path / "sandbox.py").write_text(text)
    monkeypatch.setattr(hsd, "DATA", tmp_path)
    with pytest.raises(hsd.InputError, match="cannot be tested here: .*does not confine"):
        hsd.run_tests("def f(x): return x", ["assert f(1) == 1"])


def test_our_code_problems_are_solved_by_their_solutions_and_by_nothing_less():
    code = hsd.load_problems(str(hsd.DATA / "code.jsonl"))
    assert len(code) >= 30 and {type(test) for p in code for test in p.tests} == {str, dict}
    assert all(in_parallel(lambda p: hsd.run_tests(p.solution, p.tests), code))
    assert not any(in_parallel(lambda p: hsd.run_tests("def f(x): return 0", p.tests), code))


# ---- Problems ------------------------------------------------------------------------------------


def write_lines(path, *rows):
    lines = [row if isinstance(row, (str, bytes)) else json.dumps(row) for row in rows]
    lines = [line.encode() if isinstance(line, str) else line for line in lines]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return str(path)


@pytest.mark.parametrize(
    "row,answer,solution,tests",
    [
        ({"question": "q", "answer": "1 + 2 = 3\n#### 3"}, "3", "1 + 2 = 3", ()),
        ({"problem": "q", "solution": "so $\\boxed{\\frac{1}{2}}$."}, "\\frac{1}{2}", ..., ()),
        ({"problem": "q", "answer": 42}, "42", None, ()),
        ({"question": "q", "answer": "7", "solution": "s"}, "7", "s", ()),
        ({"prompt": "q", "tests": ["assert f() == 1"]}, None, None, ("assert f() == 1",)),
        ({"text": "q", "test_list": ["assert f()"]}, None, None, ("assert f()",)),
        (
            {"prompt": "q", "entry_point": "g", "test": "def check(f):\n    assert f() == 1"},
            None,
            None,
            ("def check(f):\n    assert f() == 1\n\ncheck(g)",),
        ),
    ],
)
def test_the_keys_of_public_data_are_read_as_they_come(tmp_path, row, answer, solution, tests):
    (got,) = hsd.load_problems(write_lines(tmp_path / "p.jsonl", row))
    solution = row["solution"] if solution is ... else solution
    assert got == Problem("q", answer, solution, tests)


def test_blank_lines_a_byte_order_mark_and_gzip_are_read(tmp_path):
    row = {"question": "a", "answer": "1"}
    path = write_lines(tmp_path / "p.jsonl", b"\xef\xbb\xbf" + json.dumps(row).encode(), "", row)
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(Path(path).read_bytes()))
    assert hsd.load_problems(path) == hsd.load_problems(path + ".gz") == [Problem("a", "1")] * 2


@pytest.mark.parametrize(
    "line,complaint",
    [
        ("{", "Expecting"),
        ("[1]", "not a JSON object"),
        ("7", "not a JSON object"),
        ("[" * 100_000, "recursion"),
        ('{"question": ' + "[" * 100_000, "recursion"),
        ('{"answer": "1"}', "no text under"),
        ('{"question": ["q"], "answer": "1"}', "no text under"),
        ('{"question": "q"}', "neither an answer"),
        ('{"question": "q", "answer": ""}', "neither an answer"),
        ('{"question": "q", "answer": NaN}', "neither an answer"),
        ('{"question": "q", "answer": true}', "neither an answer"),
        ('{"question": "q", "answer": ' + "7" * 5000 + "}", "4300"),
        ('{"question": "q\\ud800", "answer": "1"}', "surrogate"),
        ('{"question": "q", "answer": "\\ud800"}', "surrogate"),
        (b'{"question": "\xff", "answer": "1"}', "utf-8"),
        ('{"question": "q", "tests": [7]}', "a test is asserts"),
        ('{"question": "q", "tests": [{"input": "x"}]}', "a test is asserts"),
    ],
    ids=range(17),
)
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path, line, complaint):
    path = write_lines(tmp_path / "p.jsonl", {"question": "a", "answer": "1"}, line)
    with pytest.raises(hsd.InputError, match=complaint) as error:
        hsd.load_problems(path)
    assert str(error.value).startswith(f"{path}:2: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["cut", "byte", "no gzip", "missing", "folder", "empty"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, damage):
    path, rows = tmp_path / "p.jsonl.gz", b'{"question": "a", "answer": "1"}\n' * 1000
    data = gzip.compress(random.Random(0).randbytes(3000).hex().encode() + rows)
    changed = data[:600] + bytes([data[600] ^ 255]) + data[601:]
    kinds = {"cut": data[:-700], "byte": changed, "no gzip": rows, "empty": gzip.compress(b"\n")}
    if damage in kinds:
        path.write_bytes(kinds[damage])
    elif damage == "folder":
        path.mkdir()
    with pytest.raises(hsd.InputError, match=re.escape(str(path))) as error:
        hsd.load_problems(str(path))
    assert "\n" not in str(error.value)


def test_train_and_eval_questions_are_disjoint():
    train, held_out = (hsd.load_problems(path) for path in (TRAIN, EVAL))
    assert not {p.question for p in train} & {p.question for p in held_out}


def test_every_pass_over_the_data_has_each_question_once_in_an_order_of_the_seed():
    problems = [Problem(str(i), "1") for i in range(10)]

    def order(seed):
        config = lab(questions_per_step=4, seed=seed)
        steps = [hsd.questions_of_step(problems, step, config) for step in range(5)]
        return [int(p.question) for step in steps for p in step]

    assert sorted(order(0)[:10]) == sorted(order(0)[10:]) == list(range(10))
    assert order(0)[:10] != order(0)[10:] and order(0) == order(0) != order(1)


def test_what_leaves_a_method_idle_is_said_or_refused(tmp_path, capsys):
    solved = {"question": "a", "answer": "1", "solution": "s"}
    bare = write_lines(tmp_path / "bare.jsonl", solved, {"question": "b", "answer": "2"})
    code = write_lines(tmp_path / "code.jsonl", {"question": "f", "tests": ["assert f()"]})
    with pytest.raises(hsd.InputError, match="sdft: 1 of 2 problems have no solution"):
        hsd.load_data(lab(method="sdft", train_data=bare))
    with pytest.raises(hsd.InputError, match="--train_data and --eval_data"):
        hsd.load_data(lab(train_data=None))
    for changes, complaint in (
        ({"train_data": code, "method": "opsd"}, "1 of 1 problems have no answer"),
        ({"group_size": 1}, "--group_size 1: there are no peers"),
        ({"group_size": 1, "method": "grpo"}, "--group_size 1"),
    ):
        hsd.load_data(lab(**changes))
        assert complaint in capsys.readouterr().out
    hsd.load_data(lab(method="opsd", group_size=1))  # needs no peers
    assert capsys.readouterr().out == ""


# ---- Evaluation and metrics ----------------------------------------------------------------------


def test_pass_at_k_by_enumeration():
    for n, c, k in ((5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 1), (7, 1, 7), (6, 3, 4)):
        draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
        assert hsd.pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_the_share_of_credit_near_tau_by_hand():
    peer = Rollout(Problem("q", "1"), [0], [7, 7, 7, 7, 7])
    rollout = Rollout(Problem("q", "1"), [0], [7, 7, 8, 8, 8], peer=peer)
    rollout.credit = torch.tensor([1.0, 0.0, -4.0, 2.0, 1.0])  # tau = 2
    for w, want in ((0, 4 / 8), (1, 6 / 8), (2, 1.0)):
        assert hsd.credit_share([rollout], w) == pytest.approx(want)
    same = Rollout(Problem("q", "1"), [0], [7, 7], peer=peer, credit=torch.ones(2))
    assert hsd.credit_share([rollout, same], 0) == pytest.approx(4 / 8)  # it leaves no path
    assert math.isnan(hsd.credit_share([same], 8)) and math.isnan(hsd.credit_share([], 8))


def test_the_figures_of_a_step_by_hand(tiny):
    groups = groups_of(tiny[0], [1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0])
    for group in groups:
        hsd.choose_peers(group, [], "uniform", random.Random(0))
    groups[1][0].truncated, groups[1][1].unverified = True, True
    for i, r in enumerate(r for group in groups for r in group):
        r.response = [1] * (i + 1)
    assert hsd.rollout_metrics(groups) == {
        "reward": 7 / 16,
        "peer_share": 11 / 16,
        "coverage": 5 / 16,
        "all_right_share": 1 / 4,
        "all_wrong_share": 1 / 4,
        "response_tokens": 8.5,
        "truncated_share": 1 / 16,
        "unverified": 1,
    }


def test_an_evaluation_of_the_tiny_model_says_what_its_rollouts_say(tiny, monkeypatch):
    tokenizer, model = tiny
    seen, verify = [], hsd.verify_rollouts

    def spy(rollouts):
        verify(rollouts)
        seen.append([r.reward for r in rollouts])

    monkeypatch.setattr(hsd, "verify_rollouts", spy)
    problems, models = hsd.load_problems(EVAL)[:24], hsd.Models(model, None, None)
    row, failed = hsd.evaluate(models, tokenizer, problems, lab(eval_samples=4), 7)
    rewards, hinted = seen
    groups = [rewards[i : i + 4] for i in range(0, 96, 4)]
    assert row["step"] == 7 and row["eval/pass@1"] == pytest.approx(sum(rewards) / 96)
    assert row["eval/pass@4"] == pytest.approx(sum(map(any, groups)) / 24)
    assert row["eval/teacher_pass@1"] == pytest.approx(sum(hinted) / len(hinted))
    assert len(hinted) == sum(map(any, (g[1:] for g in groups)))  # the first has a peer
    assert row["eval/teacher_pass@1"] > row["eval/pass@1"] + 0.2
    assert row["eval/credit_share@8"] == hsd.credit_share(failed, 8) > 0.4
    assert len(failed) == sum(4 - sum(g) for g in groups if any(g))
    assert all(r.peer.reward and not r.reward and len(r.credit) == len(r.response) for r in failed)
    assert hsd.evaluate(models, tokenizer, problems, lab(eval_samples=4), 7)[0] == row


# ---- Ranks ---------------------------------------------------------------------------------------


def test_all_ranks_get_equally_many_batches_and_a_filler_weighs_nothing(monkeypatch):
    batches = [[Rollout(Problem("q", "1"), [1], [i], weight=1.0, share=1.0)] for i in range(5)]
    monkeypatch.setattr(hsd, "RANKS", 2)
    for rank, want in ((0, [(0, 1), (2, 1), (4, 1)]), (1, [(1, 1), (3, 1), (4, 0)])):
        monkeypatch.setattr(hsd, "RANK", rank)
        mine = [r for (r,) in hsd.dealt(batches, "x")]
        assert [(r.response[0], r.weight) for r in mine] == want
        assert [r.share for r in mine] == [r.weight for r in mine]


SPY = """if True:
    import hsd, json, sys
    load, verify, seen = hsd.load_models, hsd.verify_rollouts, {"responses": []}
    def spy_load(config):
        tokenizer, models = load(config)
        sizes = [(p.numel(), getattr(p, "_local_tensor", p).numel())
                 for layer in models.reference.model.layers for p in layer.parameters()]
        seen["whole"], seen["here"] = map(sum, zip(*sizes))
        return tokenizer, models
    def spy_verify(rollouts):
        seen["responses"].append([r.response for r in rollouts])
        verify(rollouts)
    hsd.load_models, hsd.verify_rollouts = spy_load, spy_verify
    hsd.main(sys.argv[2:])
    open(f"{sys.argv[1]}-{hsd.RANK}.json", "w").write(json.dumps(seen))
"""


def launch(code, *arguments, ranks=1):
    """Processes that run some code beside hsd.py, one for each rank."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command, processes = [sys.executable, "-c", code, *map(str, arguments)], []
    for rank in range(ranks):
        place = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "PYTHONPATH": str(ROOT)}
        environment = {**os.environ, **shared, **place}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **pipes))
    return processes


def test_two_processes_give_the_rollouts_losses_and_weights_of_one(tmp_path):  # slow: 15 s
    small = dict(questions_per_step=5, group_size=4, eval_questions=6, eval_samples=2, steps=2)
    small |= dict(rollout_tokens=1500, micro_batch_tokens=700, compile=False, save_every=1)
    flags = [f"--{k}={v}" for k, v in small.items()]
    processes = [
        process
        for name, ranks in (("one", 1), ("two", 2))
        for process in launch(SPY, tmp_path / name, *flags, f"--out={tmp_path / name}", ranks=ranks)
    ]
    for process in processes:
        assert process.communicate()[1] == "" and process.returncode == 0
    one, first, second = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one-0", "two-0", "two-1")
    )
    assert one["responses"] == first["responses"] == second["responses"]
    assert one["here"] == one["whole"] == first["whole"]
    assert first["here"] <= 0.6 * first["whole"] >= second["here"]  # pi_0 is sharded
    rows, others = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    for a, b in zip(rows, others, strict=True):
        assert a == {name: pytest.approx(b[name], rel=2e-4, abs=1e-7) for name in b}
    start, a, b = (
        AutoModelForCausalLM.from_pretrained(path).state_dict()
        for path in (TINY, tmp_path / "one" / "checkpoint", tmp_path / "two" / "checkpoint")
    )
    moved, apart = (sum((a[k] - x[k]).square().sum().item() for k in a) for x in (start, b))
    assert apart < 1e-4 * moved
    # what two have saved, one goes on from
    assert run("--resume", out=tmp_path / "two", steps=3) == 0
    assert [row["step"] for row in rows_of(tmp_path / "two")] == [0, 1, 2, 2, 3, 3]


# ---- The optimizer -------------------------------------------------------------------------------


def test_bf16_weights_follow_the_float32_update_at_a_learning_rate_of_1e_6():
    """50 steps on noisy gradients; AdamW straight on bf16 weights goes almost nowhere."""

    def layer(dtype):
        torch.manual_seed(0)
        return torch.nn.Linear(64, 64, bias=False).to(torch.bfloat16).to(dtype)

    ours, plain, exact = layer(torch.bfloat16), layer(torch.bfloat16), layer(torch.float32)
    ours.device, start = torch.device("cpu"), exact.weight.detach().clone()
    optimizer = hsd.MasterAdamW(ours, lab(learning_rate=1e-6, max_grad_norm=1e9))
    others = [
        torch.optim.AdamW(m.parameters(), 1e-6, (0.9, 0.95), weight_decay=0.0)
        for m in (plain, exact)
    ]
    g = torch.Generator().manual_seed(1)
    target = torch.randn(64, 64, generator=g)
    for _ in range(50):
        gradient = (target + torch.randn(64, 64, generator=g)).bfloat16()
        (ours.weight * gradient).sum().backward()
        optimizer.step()
        for model, other in zip((plain, exact), others):
            model.weight.grad = gradient.to(model.weight.dtype)
            other.step()

    def cosine(weight):
        steps = [(w - start).flatten() for w in (weight, exact.weight)]
        return torch.cosine_similarity(*steps, dim=0).item()

    assert cosine(optimizer.master[0]) > 0.9999 and optimizer.master[0].dtype == torch.float32
    assert cosine(plain.weight.float()) < 0.5
    assert torch.equal(ours.weight, optimizer.master[0].bfloat16())


def layer_of(*weights, dtype=torch.float32):
    layer = torch.nn.Linear(len(weights), 1, bias=False).to(dtype)
    layer.device = torch.device("cpu")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights]))
    return layer


def test_small_micro_batch_gradients_are_not_lost_in_a_bf16_sum():
    layer = layer_of(1.0, dtype=torch.bfloat16)
    optimizer = hsd.MasterAdamW(layer, lab())
    for scale in [1.0] + [1e-3] * 500:
        (layer.weight * scale).sum().backward()
    assert optimizer.sums[0].item() == pytest.approx(1.5, rel=2e-3)  # a bf16 sum stays at 1.0


def test_the_gradient_is_clipped_to_its_norm_and_the_norm_before_is_logged():
    for max_norm, want in ((1.0, [0.06, 0.08]), (10.0, [0.6, 0.8]), (100.0, [3.0, 4.0])):
        layer = layer_of(1.0, 2.0)
        optimizer = hsd.MasterAdamW(layer, lab(learning_rate=0.1, max_grad_norm=max_norm))
        (layer.weight * torch.tensor([[30.0, 40.0]])).sum().backward()
        assert optimizer.step() == pytest.approx(50.0)
        assert moments(optimizer).tolist() == pytest.approx(want, rel=1e-4)
        assert layer.weight.tolist() == [pytest.approx([0.9, 1.9], rel=1e-4)]  # AdamW's first step


def test_a_gradient_that_is_not_finite_is_skipped_and_said(capsys):
    layer = layer_of(1.0, 2.0)
    optimizer = hsd.MasterAdamW(layer, lab(learning_rate=0.1))
    (layer.weight * math.inf).sum().backward()
    assert not math.isfinite(optimizer.step()) and not optimizer.sums
    assert layer.weight.tolist() == [[1.0, 2.0]] and "step skipped" in capsys.readouterr().out


def test_what_is_saved_is_taken_over_and_goes_on_bit_equal():
    a, b = layer_of(1.0, 2.0, dtype=torch.bfloat16), layer_of(5.0, 6.0, dtype=torch.bfloat16)
    first, second = (hsd.MasterAdamW(layer, lab(learning_rate=1e-3)) for layer in (a, b))
    for i in range(3):
        if i == 2:
            second.load(copy.deepcopy(first.state()))
        for layer, optimizer in ((a, first), (b, second)):
            (layer.weight * torch.tensor([[0.3, i - 1.5]])).sum().backward()
            optimizer.step()
    assert torch.equal(first.master[0], second.master[0]) and torch.equal(a.weight, b.weight)


# ---- Loading the models --------------------------------------------------------------------------


@pytest.mark.parametrize("method,teacher", [("hsd", t) for t in ("live", "frozen", "ema")])
def test_the_teacher_is_whose_it_is_said_to_be(method, teacher):
    for beta in (0.0, 1e-3):
        _, models = hsd.load_models(lab(method=method, teacher=teacher, beta=beta))
        student, taught, reference = models
        assert (taught is student) == (teacher == "live") and reference is not student
        assert (reference is not None) == (beta > 0)
        assert (taught is reference) == (teacher == "frozen" and beta > 0)  # one copy is both
        assert all(p.requires_grad for p in student.parameters())
        for model in {taught, reference} - {student, None}:
            assert not any(p.requires_grad for p in model.parameters())
            for p, q in zip(model.parameters(), student.parameters()):
                assert p is not q and torch.equal(p, q)


def test_a_method_without_context_loads_no_teacher():
    _, models = hsd.load_models(lab(method="grpo", teacher="frozen", beta=0.0))
    assert models.teacher is models.reference is None


def toy(tmp_path, tokenizer, family, edit=None, **values):
    """A folder with a random model of this family, about as large as data/tiny-qwen3."""
    base = dict(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48)
    base |= dict(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    base |= dict(pad_token_id=0, bos_token_id=0, eos_token_id=tokenizer.eos_token_id)
    parts = {k: {**base, **v} if k == "text_config" else v for k, v in values.items()}
    torch.manual_seed(0)
    shape = AutoConfig.for_model(family, **(parts if "text_config" in parts else base | parts))
    model = getattr(transformers, shape.architectures[0]) if shape.is_encoder_decoder else None
    model = model(shape) if model else AutoModelForCausalLM.from_config(shape)
    with torch.no_grad():
        if edit:
            edit(model)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


GPT2 = dict(n_embd=32, n_layer=2, n_head=4, n_positions=256)
XGLM = dict(d_model=32, ffn_dim=48, num_layers=2, attention_heads=4)
FEW = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, head_dim=8)
HYBRID = dict(layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2)
HYBRID |= dict(linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8)
MAMBA = dict(num_heads=8, head_dim=8, state_size=8, n_groups=1, expand=2)
FAMILIES = {
    "llama": {"attention_dropout": 0.1},
    "qwen2": {},
    "qwen3": {"head_dim": 8, "tie_word_embeddings": True},
    "mistral": {"sliding_window": 8},
    "gemma": {"head_dim": 8},
    "phi3": {"resid_pdrop": 0.1},
    "gpt2": GPT2,
    "gpt_neox": {"hidden_dropout": 0.1},
    "olmo2": {},
    "smollm3": {},
    "starcoder2": {"embedding_dropout": 0.1},
    "stablelm": {},
    "falcon": {},
    "glm4": {"head_dim": 8},
    "bloom": {"n_layer": 2, "n_head": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},  # dropout that is no module, from here
    "xglm": XGLM,
    "biogpt": {},
    "gpt_bigcode": {**GPT2, "n_inner": 48},
    "seed_oss": {"head_dim": 8},
    "phimoe": {"num_local_experts": 4, "router_jitter_noise": 0.1},  # experts, from here
    "mixtral": {"num_local_experts": 4, "router_jitter_noise": 0.1},
    "qwen3_moe": FEW,
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    "mamba2": MAMBA,  # without attention, or with a part of it, from here
    "qwen3_next": {**FEW, **HYBRID, "shared_expert_intermediate_size": 24},
    "falcon_h1": dict(mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, head_dim=8),
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "bamba": dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, attn_layer_indices=[1]),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_of_every_family_are_those_of_its_own_logits(tmp_path, tiny, family):
    """In train mode, with checkpointing, a batch of two lengths; and they give a gradient."""
    config = lab(beta=0.0, teacher="live", gradient_checkpointing=True, chunk_tokens=4)
    config.model = toy(tmp_path, tiny[0], family, **FAMILIES[family])
    student = hsd.load_models(config)[1].student
    head = student.get_output_embeddings().weight
    with torch.no_grad():
        head.mul_(64)  # logits as far apart as those of a trained model
    prompts, responses = [[5, 6, 7], [8, 9, 10, 11, 12, 3]], [[20, 21, 22, 23], [30, 31]]
    tokens, sides = torch.tensor(sum(responses, [])), [hsd.read(student, prompts, responses)]
    weights = (None, None, torch.ones(6))
    loss, terms = hsd.forward_terms([*sides, None, None], tokens, config, weights)
    loss.backward()
    with torch.no_grad():
        want = torch.cat([dense(student.eval(), p, o) for p, o in zip(prompts, responses)])
    assert torch.allclose(terms.student_logp, want.gather(-1, tokens[:, None])[:, 0], atol=1e-4)
    assert 0 < head.grad.abs().max() < math.inf


HEAD = "logits are not hidden states times head"
REFUSED = {  # family: (its values, how its weights are edited, what is said)
    "gemma2": (dict(head_dim=8, final_logit_softcapping=30.0), None, HEAD),
    "gemma3_text": (dict(head_dim=8, final_logit_softcapping=30.0), None, HEAD),
    "gemma4": (dict(text_config=dict(head_dim=8, final_logit_softcapping=30.0)), None, HEAD),
    "granite": (dict(logits_scaling=8.0), None, HEAD),
    "cohere": (dict(logit_scale=0.5), None, HEAD),
    "phi": ({}, lambda model: model.lm_head.bias.fill_(0.1).neg_(), None),
    "gptj": (dict(GPT2, rotary_dim=8), lambda model: model.lm_head.bias.normal_(), HEAD),
    "llama": ({}, lambda model: model.lm_head.weight[7].fill_(math.nan), HEAD),
    "rwkv": (dict(attention_hidden_size=32), None, "padded to the left"),
    "t5": (dict(d_model=32, d_kv=8, num_layers=2, architectures=["T5Model"]), None, "T5Config"),
}


@pytest.mark.parametrize("family", REFUSED)
def test_a_model_that_is_not_what_it_is_taken_for_is_refused(tmp_path, tiny, family, capsys):
    values, edit, complaint = REFUSED[family]
    path = toy(tmp_path, tiny[0], family, edit, **values)
    data = dict(train_data=TRAIN, eval_data=EVAL, eval_questions=1)
    assert run(model=path, out=tmp_path / "run", compile=False, **data) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hsd.py: cannot use the model {path}: ") and complaint in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["config.json", "tokenizer.json", "model.safetensors", "chat"])
def test_a_model_folder_that_cannot_be_read_is_one_line(tmp_path, capsys, damage):
    model = shutil.copytree(TINY, tmp_path / "model")
    if damage == "chat":
        (model / "chat_template.jinja").write_text("{{ raise_exception('no users\nhere') }}")
    else:
        (model / damage).write_bytes((model / damage).read_bytes()[:100])
    data = dict(train_data=TRAIN, eval_data=EVAL, out=tmp_path / "run")
    assert run(model=model, **data) == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1


# ---- The folder of a run -------------------------------------------------------------------------
SHORT = dict(steps=3, questions_per_step=2, group_size=4, eval_questions=4, eval_samples=2)
SHORT |= dict(max_new_tokens=60, teacher="ema", success_buffer=2, save_every=1, compile=False)


@pytest.fixture(autouse=True)
def handlers():
    kept = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def run(*flags, **values):
    """The exit code of hsd.main() with these flags."""
    with pytest.raises(SystemExit) if False else contextlib.nullcontext():
        try:
            hsd.main([*flags, *(f"--{name}={value}" for name, value in values.items())])
        except SystemExit as stop:
            return stop.code
    return 0


def rows_of(out):
    """metrics.jsonl without what must differ between runs: the time."""
    rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def weights_of(out):
    files = ("model.safetensors", "teacher.pt", "optimizer-0.pt")
    return [(Path(out) / "checkpoint" / name).read_bytes() for name in files]


def contents(folder):
    return {p: p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


class Killed(BaseException):
    """What nothing in hsd.py catches: the process is as if it had been killed there."""


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """(a run of 3 steps; the same killed after the checkpoint of step 2)."""
    folder, save = tmp_path_factory.mktemp("runs"), hsd.Run.save
    assert run(**SHORT, out=folder / "whole") == 0

    def die(self, step):
        save(self, step)
        if step == 2:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(hsd.Run, "save", die)
        run(**SHORT, out=folder / "killed")
    return folder / "whole", folder / "killed"


@pytest.fixture
def killed(finished, tmp_path):
    return shutil.copytree(finished[1], tmp_path / "run")


def test_a_run_leaves_what_it_measured_and_a_checkpoint_that_loads(finished):
    out = finished[0]
    names = {"config.json", "metrics.jsonl", "credit.jsonl", "credit.html", "checkpoint"}
    assert {path.name for path in out.iterdir()} == names
    assert [row["step"] for row in rows_of(out)] == [0, 1, 2, 3, 3]
    about = json.loads((out / "config.json").read_text())
    assert {k: about[k] for k in SHORT} == SHORT and about["torch"] == torch.__version__
    a, b = (AutoModelForCausalLM.from_pretrained(path) for path in (out / "checkpoint", TINY))
    moved = max((x - y).abs().max().item() for x, y in zip(a.parameters(), b.parameters()))
    assert 1e-4 < moved < 4e-4  # three steps of AdamW at the lab's learning rate


def test_the_page_holds_what_was_measured_and_no_markup_of_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(hsd, "INSTRUCTION", hsd.INSTRUCTION)
    rows = [{"question": "</script><img src=x>", "answer": "1"}]
    path = write_lines(tmp_path / "e.jsonl", *rows, *map(asdict, hsd.load_problems(EVAL)[:8]))
    short = dict(SHORT, steps=0, eval_samples=8, eval_questions=9, eval_data=path)
    assert run(**short, out=tmp_path / "run") == 0
    page = (tmp_path / "run" / "credit.html").read_text()
    assert "</script><img" not in page and "__DATA__" not in page
    rollouts = [json.loads(line) for line in open(tmp_path / "run" / "credit.jsonl")]
    assert 0 < len(rollouts) <= 128
    for r in rollouts:
        assert r["tau"] == hsd.divergence(r["tokens"], r["peer_tokens"]) < len(r["tokens"])
        assert len(r["credit"]) == len(r["credit_answer_only"]) == len(r["tokens"])
        assert "<|im_end|>" not in r["tokens"] and r["reward"] == 0
        for side in r["top5"].values():
            assert len(side) == 5 and 0 < sum(p for _, p in side) <= 1.0001
    peak = [max(r["credit"][: r["tau"] + 1], key=abs) == r["credit"][r["tau"]] for r in rollouts]
    assert sum(peak) > 0.6 * len(peak)  # the credit lands where the path is left


def test_a_rollout_and_a_peer_that_are_equal_with_different_verdicts_are_shown(tiny):
    failed, peer = group_of([0, 1], tiny[0])
    failed.response, failed.peer = peer.response, peer
    hsd.condition_teacher(failed, hsd.answer_and_peer, tiny[0], lab())
    models = hsd.Models(tiny[1], None, None)
    hsd.set_credit(hsd.Models(tiny[1], tiny[1], None), [failed], lab())
    (row,) = hsd.credit_rows(models, tiny[0], [failed], lab())
    assert row["tau"] == len(row["tokens"])


def test_kill_9_in_a_step_and_resume_is_bit_equal(finished, tmp_path):  # slow: 8 s
    code = """if True:
        import hsd, os, sys
        step = hsd.train_step
        def die(*a):
            return os.kill(os.getpid(), 9) if a[-2] == 2 else step(*a)
        hsd.train_step = die
        hsd.main(sys.argv[1:])
    """
    flags = [f"--{k}={v}" for k, v in {**SHORT, "out": tmp_path / "run"}.items()]
    (process,) = launch(code, *flags)
    process.communicate()
    assert process.returncode == -9
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [0, 1, 2]
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "rew')  # a row that was cut
    assert run("--resume", out=tmp_path / "run") == 0
    assert rows_of(tmp_path / "run") == rows_of(finished[0])
    assert weights_of(tmp_path / "run") == weights_of(finished[0])


@pytest.mark.parametrize(
    "place,name,count",
    [(torch, "save", 1), (Path, "write_text", 1), (Path, "write_text", 2), (Path, "rename", 1)]
    + [(Path, "rename", 2), (shutil, "rmtree", 1), (shutil, "rmtree", 3)],
    ids=lambda x: x if isinstance(x, (str, int)) else "",
)
def test_killed_anywhere_in_a_save_and_resumed_is_bit_equal(
    finished, killed, monkeypatch, place, name, count
):
    save, act, calls = hsd.Run.save, getattr(place, name), []

    def die(*arguments, **more):
        calls.append(name)
        if len(calls) == count:
            raise Killed
        return act(*arguments, **more)

    def saving(self, step):
        monkeypatch.setattr(place, name, die)
        save(self, step)

    monkeypatch.setattr(hsd.Run, "save", saving)
    with pytest.raises(Killed):
        run("--resume", out=killed)
    monkeypatch.undo()
    assert run("--resume", out=killed) == 0
    assert rows_of(killed) == rows_of(finished[0]) and weights_of(killed) == weights_of(finished[0])


def test_a_failed_save_leaves_the_last_checkpoint(finished, killed, monkeypatch, capsys):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    before = contents(killed / "checkpoint")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        assert run("--resume", out=killed) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line and "last checkpoint is intact" in line
    assert contents(killed / "checkpoint") == before
    assert run("--resume", out=killed) == 0 and weights_of(killed) == weights_of(finished[0])


@pytest.mark.parametrize("name,code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_saves_after_the_step_and_is_the_exit_code(
    finished, killed, monkeypatch, name, code
):
    step = hsd.train_step
    shutil.rmtree(killed)

    def signalled(*arguments):
        signal.raise_signal(getattr(signal, name))
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(hsd, "train_step", signalled)
        assert run(**SHORT, out=killed) == code
    assert [row["step"] for row in rows_of(killed)] == [0, 1]
    assert run("--resume", out=killed) == 0 and weights_of(killed) == weights_of(finished[0])


def test_a_second_signal_ends_at_once_without_a_traceback(finished, killed, monkeypatch, capsys):
    def signalled(*_):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(hsd, "train_step", signalled)
        assert run("--resume", out=killed) == 143
    assert "the last checkpoint is intact" in capsys.readouterr().err.splitlines()[-1]
    assert run("--resume", out=killed) == 0 and weights_of(killed) == weights_of(finished[0])


def test_a_second_process_in_the_same_folder_is_refused(killed, capsys):
    holder = os.open(killed, os.O_RDONLY)  # as another process has it
    fcntl.flock(holder, fcntl.LOCK_EX)
    before = contents(killed)
    for flags in (["--resume"], ["--overwrite", "--steps=1"]):
        assert run(*flags, out=killed) == 2 and contents(killed) == before
        assert "another process is at work there" in capsys.readouterr().err
    os.close(holder)
    assert run("--resume", out=killed) == 0


SAVED = ["chat_template.jinja", "config.json", "generation_config.json", "manifest.json"]
SAVED += ["model.safetensors", "optimizer-0.pt", "state.json", "teacher.pt", "tokenizer.json"]
SAVED += ["tokenizer_config.json"]


def test_these_are_the_files_of_a_checkpoint(finished):
    assert sorted(path.name for path in (finished[1] / "checkpoint").iterdir()) == SAVED


@pytest.mark.parametrize("damage", ["removed", "cut", "changed"])
@pytest.mark.parametrize("name", SAVED)
def test_a_checkpoint_is_whole_or_refused_in_one_line(killed, capsys, name, damage):
    path = killed / "checkpoint" / name
    data = path.read_bytes()
    middle = len(data) // 2
    path.unlink()
    if damage != "removed":
        rest = bytes([data[middle] ^ 1]) + data[middle + 1 :] if damage == "changed" else b""
        path.write_bytes(data[:middle] + rest)
    before = contents(killed)
    assert run("--resume", out=killed) == 2 and contents(killed) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line or damage != "changed" and "manifest.json" in line


def garbled(name, text):
    return lambda folder: (folder / name).write_bytes(text)


def edited(**changes):
    def edit(folder):
        about = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**about, **changes}))

    return edit


def half_a_save(folder):
    (folder / "checkpoint.new").mkdir()
    (folder / "checkpoint.new" / "state.json").write_text("{")


DAMAGE = {  # what is done to the folder: is it refused?
    "config.json is gone": (lambda folder: (folder / "config.json").unlink(), True),
    "config.json is empty": (garbled("config.json", b""), True),
    "config.json is cut": (garbled("config.json", b'{"model": "x", "st'), True),
    "config.json is no text": (garbled("config.json", b"\xff\xfe\x00"), True),
    "config.json is no object": (garbled("config.json", b"[1]"), True),
    "config.json is deep": (garbled("config.json", b"[" * 100_000), True),
    "a field that no longer exists": (edited(rollout_batch=8), True),
    "an unknown method": (edited(method="nope"), True),
    "steps that are no number": (edited(steps="many"), True),
    "steps that are a list": (edited(steps=[3]), True),
    "another seed": (edited(seed=7), True),
    "no checkpoint": (lambda folder: shutil.rmtree(folder / "checkpoint"), True),
    "an empty checkpoint": (
        lambda folder: [f.unlink() for f in (folder / "checkpoint").iterdir()],
        True,
    ),
    "a file more": (garbled("checkpoint/optimizer-1.pt", b"x"), True),
    "metrics.jsonl is gone": (lambda folder: (folder / "metrics.jsonl").unlink(), False),
    "metrics.jsonl is garbled": (garbled("metrics.jsonl", b"{\xff\n[[["), False),
    "credit.jsonl is gone": (lambda folder: (folder / "credit.jsonl").unlink(), False),
    "half a checkpoint.new": (half_a_save, False),
    "checkpoint is checkpoint.old": (
        lambda folder: (folder / "checkpoint").rename(folder / "checkpoint.old"),
        False,
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_line_or_resumes_bit_equal(
    finished, killed, capsys, damage
):
    harm, refused = DAMAGE[damage]
    harm(killed)
    before = contents(killed)
    code, errors = run("--resume", out=killed), capsys.readouterr().err.splitlines()
    if refused:
        assert code == 2 and len(errors) == 1 and contents(killed) == before
        assert "field rollout_batch" in errors[0] or damage != "a field that no longer exists"
    else:
        assert (code, errors) == (0, []) and rows_of(killed) == rows_of(finished[0])
        assert weights_of(killed) == weights_of(finished[0])


@pytest.mark.parametrize(
    "name,value",
    [("learning_rate", 1e-3), ("seed", 5), ("model", "elsewhere"), ("method", "opsd")]
    + [("train_data", EVAL), ("teacher", "live"), ("group_size", 8), ("beta", 0.0)],
)
def test_a_flag_that_contradicts_the_run_is_refused_by_name(killed, capsys, name, value):
    before = contents(killed)
    assert run("--resume", out=killed, **{name: value}) == 2 and contents(killed) == before
    assert f"--{name} was " in capsys.readouterr().err.splitlines()[-1]


def test_more_steps_and_another_save_every_may_be_asked_for_on_resuming(killed):
    assert run("--resume", out=killed, steps=4, save_every=0, eval_every=0) == 0
    assert [row["step"] for row in rows_of(killed)] == [0, 1, 2, 3, 4, 4]


def test_a_run_that_was_overwritten_can_be_resumed_and_keeps_what_is_not_ours(finished, killed):
    (killed / "thesis.tex").write_text("mine")
    assert run(out=killed, **SHORT) == 2  # in use
    assert run("--overwrite", out=killed, **SHORT) == 0
    assert (killed / "thesis.tex").read_text() == "mine"
    assert rows_of(killed) == rows_of(finished[0]) and weights_of(killed) == weights_of(finished[0])
    assert run("--resume", out=killed) == 0 and weights_of(killed) == weights_of(finished[0])


@pytest.mark.parametrize(
    "flags", [["--overwrite"], [], ["--steps=0"], ["--steps=0", "--overwrite"]]
)
def test_what_a_run_is_to_read_is_never_deleted(killed, tmp_path, capsys, flags):
    model, elsewhere = shutil.copytree(TINY, tmp_path / "model"), tmp_path / "link"
    data = shutil.copy(TRAIN, killed / "train.jsonl")
    elsewhere.symlink_to(killed)
    read = dict(train_data=TRAIN, eval_data=EVAL)
    before = contents(tmp_path)
    for changes in (
        {"model": killed / "checkpoint", "out": killed},
        {"model": elsewhere / "checkpoint", "out": killed},
        {"model": model, "train_data": data, "out": killed},
        {"model": model, "out": model},
    ):
        assert run(*flags, **{**read, **changes}) == 2 and contents(tmp_path) == before


def test_an_evaluation_goes_to_a_folder_of_its_own_and_writes_no_checkpoint(
    finished, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # again without --overwrite: nothing is lost
        short = dict(SHORT, steps=0, model=finished[0] / "checkpoint")
        assert run("--lab", **short) == 0
    out = tmp_path / "runs" / "hsd-eval"
    assert not (out / "checkpoint").exists() and len(rows_of(out)) == 1
    assert rows_of(out)[0]["eval/pass@1"] == rows_of(finished[0])[-1]["eval/pass@1"]


def test_hsd_py_alone_trains_saves_resumes_and_draws_a_plain_page(tmp_path):  # slow: 20 s
    shutil.copy(ROOT / "hsd.py", tmp_path)
    values = dict(SHORT, steps=1, model=TINY, train_data=TRAIN, eval_data=EVAL, out="run")
    values |= dict(learning_rate=1e-4, micro_batch_tokens=4096)
    flags = [f"--{k}={v}" for k, v in values.items()]
    code = write_lines(tmp_path / "code.jsonl", {"question": "f", "tests": ["assert f()"]})

    def alone(*flags):
        command = [sys.executable, "hsd.py", *flags]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    done = alone(*flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{tmp_path / 'data' / 'page.html'} is missing" in done.stdout
    assert "pass@1" in (tmp_path / "run" / "credit.html").read_text()
    assert done.stdout.splitlines()[-1].endswith("run/credit.html")
    again = alone("--resume", "--out=run", "--steps=2")
    assert (again.returncode, again.stderr) == (0, "")
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [0, 1, 1, 2, 2]
    refused = alone(*flags, f"--train_data={code}", "--out=code")
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    assert "programs cannot be tested here" in refused.stderr and not (tmp_path / "code").exists()


# ---- Command line --------------------------------------------------------------------------------


def test_help_lists_every_field_and_the_choices(capsys):
    assert run("--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert all(f"--{f.name} " in text for f in fields(Config))
    for rows in (hsd.METHODS, hsd.PEER_RULES, ("live", "frozen", "ema")):
        assert "{" + ",".join(rows) + "}" in text


@pytest.mark.parametrize(
    "flags",
    ["--learning_rate -1e-4", "--learning_rate=-1e-4", "--learning_rate nan", "--top_p 1.5"]
    + ["--top_p 0", "--temperature inf", "--temperature -1", "--beta -1", "--max_grad_norm 0"]
    + ["--steps -1", "--steps 1.5", "--group_size 0", "--max_new_tokens 0", "--chunk_tokens 0"]
    + ["--seed x", "--compile maybe", "--method none", "--teacher none", "--peer_rule longest"]
    + ["--offload_optimizer maybe", "--out None", "--out=", "--method", "--methd hsd"]
    + ["--group 4", "--step 3", "--model no/such/folder", "--model nowhere", "--model /no/where"]
    + ["--train_data missing.jsonl", "--eval_data missing.jsonl", "--resume --out missing"]
    + ["--success_buffer 2 --peer_rule low_perplexity", "hsd --seed 1"],
)
def test_a_bad_flag_is_one_line_that_names_it_and_nothing_is_written(
    tmp_path, monkeypatch, capsys, flags
):
    monkeypatch.chdir(tmp_path)
    flags = flags.split(" ")
    lab_data = [f"--train_data={TRAIN}", f"--eval_data={EVAL}"] if "--model" in flags else []
    assert run(*lab_data, *flags) == 2 and list(tmp_path.iterdir()) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hsd.py: ") and "Traceback" not in line
    assert flags[0].lstrip("-").split("=")[0] in line or flags[-1].split("/")[-1] in line


def test_the_lab_holds_without_a_model_and_with_its_switch():
    assert hsd.settings([]) == hsd.settings(["--lab"]).__class__(**hsd.LAB)
    paper = hsd.settings(["--model", "Qwen/Qwen3-8B"])
    assert paper == Config() and paper.learning_rate == 1e-6
    both = hsd.settings(["--lab", "--model", "x", "--steps", "0"])
    assert both == Config(**{**hsd.LAB, "model": "x", "steps": 0, "lab": True})


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(**dict(SHORT, steps=0), out=tmp_path / "file" / "run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Not a directory" in line


def test_out_of_gpu_memory_says_which_phase_and_what_to_lower(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(hsd, "batch_loss", full)
    assert run(**SHORT, out=tmp_path / "run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "phase: update; lower --micro_batch_tokens" in line
