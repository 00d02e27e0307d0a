"""Tests of hsd.py: every one asserts numbers, against a dense float64 oracle, an invariant, or a
hand-worked example."""

import copy
import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

import hsd
from hsd import Config, Problem, Rollout

ROOT = Path(hsd.__file__).parent
PAGE, PLAN = hsd.script("page.py"), hsd.script("plan.py")
ANSWERS, PROGRAMS = hsd.script("cases/answers.py"), hsd.script("cases/programs.py")


# ---- helpers -------------------------------------------------------------------------------------


def dense_terms(student_hidden, teacher_hidden, head, tokens=None):
    """The oracle: (kl, log pi_S(o), log pi_T(o)), each [T], by plain log_softmax in the inputs'
    dtype."""
    student = (student_hidden @ head.T).log_softmax(-1)
    teacher = (teacher_hidden.detach() @ head.detach().T).log_softmax(-1)
    kl = (teacher.exp() * (teacher - student)).sum(-1)
    if tokens is None:
        return kl
    at = tokens[:, None]
    return kl, student.gather(-1, at)[:, 0], teacher.gather(-1, at)[:, 0]


def hidden_states(T=37, H=16, V=101, gap=1.0, seed=0):
    """Student and teacher hidden states [T,H] that are `gap` apart, and a head [V,H]; float64."""
    g = torch.Generator().manual_seed(seed)
    student = torch.randn(T, H, generator=g, dtype=torch.float64)
    teacher = student + gap * torch.randn(T, H, generator=g, dtype=torch.float64)
    return student, teacher, torch.randn(V, H, generator=g, dtype=torch.float64)


def relative_error(got, want):
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


@pytest.fixture(scope="session")
def tiny():
    """(tokenizer, model) of data/tiny-qwen3; tests that train copy it."""
    path = ROOT / "data" / "tiny-qwen3"
    return AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)


def random_model(seed=0, dtype=torch.float32, V=64):
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).to(dtype).eval()


def some_rollouts(count=7, V=64, seed=0):
    """Rollouts of different lengths, with made-up prompts and responses."""
    rng = random.Random(seed)

    def ids(n):
        return [rng.randrange(V) for _ in range(n)]

    return [
        Rollout(
            Problem("q", "1"),
            ids(rng.randint(2, 9)),
            ids(rng.randint(1, 20)),
            "",
            False,
            context={"answer": "1"},
            teacher_prompt=ids(rng.randint(9, 30)),
        )
        for _ in range(count)
    ]


def config_for(tmp_path, **changes):
    return Config(**{"out": str(tmp_path / "run"), "compile": False, **changes})


def group_of(rewards, tokenizer, problem=None, responses=None):
    problem = problem or Problem("1+1=?", "2")
    responses = responses or [tokenizer(f"attempt {i}").input_ids for i in range(len(rewards))]
    return [
        Rollout(problem, [1], response, "", False, reward=float(r))
        for r, response in zip(rewards, responses)
    ]


# ---- credit and loss (Eq. 2, 10, 13) -------------------------------------------------------------


@pytest.mark.parametrize("T,chunk", [(37, 8), (37, 64), (37, 37), (1, 4), (64, 1)])
def test_kl_and_gradients_equal_a_dense_float64_oracle(T, chunk):
    student, teacher, head = hidden_states(T)
    weights = torch.rand(T, dtype=torch.float64)
    s64, w64 = student.clone().requires_grad_(), head.clone().requires_grad_()
    kl64 = dense_terms(s64, teacher, w64)
    (weights * kl64).sum().backward()
    s32, w32 = student.float().requires_grad_(), head.float().requires_grad_()
    loss, kl = hsd.kl_teacher_student(s32, teacher.float(), w32, weights.float(), chunk)
    loss.backward()
    assert kl.dtype == torch.float32 and kl.shape == (T,) and not kl.requires_grad
    assert relative_error(kl, kl64) < 1e-5 and relative_error(loss, (weights * kl64).sum()) < 1e-5
    assert relative_error(s32.grad, s64.grad) < 1e-5 and relative_error(w32.grad, w64.grad) < 1e-5


def test_default_weights_are_the_mean():
    student, teacher, head = (x.float() for x in hidden_states())
    loss, kl = hsd.kl_teacher_student(student, teacher, head, None, 8)
    assert loss.item() == pytest.approx(kl.mean().item(), rel=1e-6)


@pytest.mark.parametrize("target", [5.0, 0.07, 0.005])
def test_gradient_from_bf16_hidden_states_is_within_one_percent(target):
    student, teacher, head = hidden_states(T=64, H=128, V=1000)
    head = head * 0.2
    scale = 1.0
    for _ in range(60):  # a gap that gives the KL asked for
        kl = dense_terms(student, student + scale * (teacher - student), head).mean().item()
        scale *= min(2.0, max(0.5, (target / kl) ** 0.5))
    teacher = student + scale * (teacher - student)
    student, teacher, head = (x.bfloat16() for x in (student, teacher, head))
    s64, w64 = student.double().requires_grad_(), head.double().requires_grad_()
    kl64 = dense_terms(s64, teacher.double(), w64)
    kl64.mean().backward()
    assert 0.7 * target < kl64.mean().item() < 1.5 * target
    s16, w16 = student.clone().requires_grad_(), head.clone().requires_grad_()
    loss, kl = hsd.kl_teacher_student(s16, teacher, w16, None, 16)
    loss.backward()
    assert relative_error(kl, kl64) < 1e-3
    assert relative_error(s16.grad, s64.grad) < 0.01 and relative_error(w16.grad, w64.grad) < 0.01


def test_same_context_gives_exactly_zero():
    student, _, head = (x.float() for x in hidden_states())
    s, w = student.clone().requires_grad_(), head.clone().requires_grad_()
    loss, kl = hsd.kl_teacher_student(s, student, w, None, 8)
    loss.backward()
    assert loss.item() == 0 and kl.abs().max() == 0
    assert s.grad.abs().max() < 1e-7 and w.grad.abs().max() < 1e-7


def test_the_head_learns_nothing_from_the_teacher():
    student, teacher, head = (x.float() for x in hidden_states())
    t, w = teacher.clone().requires_grad_(), head.clone().requires_grad_()
    hsd.kl_teacher_student(student, t, w, None, 8)[0].backward()
    assert t.grad is None
    w64 = head.double().requires_grad_()
    student_side = (student.double() @ w64.T).log_softmax(-1)
    teacher_side = (teacher.double() @ w64.T).log_softmax(-1)
    (wrong,) = torch.autograd.grad(
        (teacher_side.exp() * (teacher_side - student_side)).sum(-1).mean(), w64, retain_graph=True
    )
    fixed = teacher_side.detach()
    (right,) = torch.autograd.grad((fixed.exp() * (fixed - student_side)).sum(-1).mean(), w64)
    assert relative_error(w.grad, right) < 1e-5 and relative_error(w.grad, wrong) > 0.3


def test_reference_kl_and_log_prob_gradients_equal_the_oracle():
    student, teacher, head = hidden_states()
    reference, reference_head = teacher.flip(0), head + 0.1
    tokens = torch.arange(len(student)) * 7 % len(head)
    g = torch.rand(3, len(student), dtype=torch.float64)
    s64, w64 = student.clone().requires_grad_(), head.clone().requires_grad_()
    kl, logp, _ = dense_terms(s64, teacher, w64, tokens)
    log_s, log_r = (s64 @ w64.T).log_softmax(-1), (reference @ reference_head.T).log_softmax(-1)
    kl_reference = (log_s.exp() * (log_s - log_r)).sum(-1)
    (g[0] @ kl + g[1] @ kl_reference + g[2] @ logp).backward()
    s, w = student.float().requires_grad_(), head.float().requires_grad_()
    terms = hsd.TokenTerms(
        *hsd.ChunkedHead.apply(
            tokens,
            8,
            hsd.token_terms,
            s,
            w,
            teacher.float(),
            head.float(),
            reference.float(),
            reference_head.float(),
        )
    )
    (
        g[0].float() @ terms.kl
        + g[1].float() @ terms.kl_reference
        + g[2].float() @ terms.student_logp
    ).backward()
    assert relative_error(terms.kl_reference, kl_reference) < 1e-5
    assert relative_error(terms.entropy, -(log_s.exp() * log_s).sum(-1)) < 1e-5
    assert relative_error(s.grad, s64.grad) < 1e-5 and relative_error(w.grad, w64.grad) < 1e-5


def test_compiled_kernels_equal_the_plain_ones():
    config = Config(compile=True)
    kernels = hsd.compiled_terms(config, "cpu")
    student, teacher, head = (x.float() for x in hidden_states(T=21))
    tokens = torch.arange(21)
    results = []
    for k in (hsd.token_terms, kernels):
        s, w = student.clone().requires_grad_(), head.clone().requires_grad_()
        terms = hsd.TokenTerms(
            *hsd.ChunkedHead.apply(tokens, 8, k, s, w, teacher, head, None, None)
        )
        (terms.kl.sum() + terms.student_logp.sum()).backward()
        results.append((terms.kl, terms.student_logp, s.grad, w.grad))
    for plain, compiled in zip(*results):
        assert relative_error(compiled, plain) < 1e-5


def test_both_read_the_response_positions_under_any_padding():
    """hidden_and_head equals what a padded and masked forward pass gives, whichever side is
    padded."""
    model = random_model().double()
    rollouts = some_rollouts()
    prompts, responses = [r.teacher_prompt for r in rollouts], [r.response for r in rollouts]
    got, _ = hsd.hidden_and_head(model, prompts, responses)
    width = max(len(p) + len(o) for p, o in zip(prompts, responses))
    for side in ("left", "right"):
        ids, mask, keep = [], [], []
        for p, o in zip(prompts, responses):
            row, pad = p + o, [0] * (width - len(p) - len(o))
            ids.append(pad + row if side == "left" else row + pad)
            mask.append(
                [0] * len(pad) + [1] * len(row)
                if side == "left"
                else [1] * len(row) + [0] * len(pad)
            )
            start = len(p) - 1 + (len(pad) if side == "left" else 0)
            keep.append(range(start, start + len(o)))
        mask = torch.tensor(mask)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        hidden = model.model(
            input_ids=torch.tensor(ids), attention_mask=mask, position_ids=positions
        ).last_hidden_state
        want = torch.cat([h[list(k)] for h, k in zip(hidden, keep)])
        assert (got - want).abs().max() < 1e-10


def run_update(tmp_path, rollouts, **changes):
    """One update of a random model: (metrics, gradient sums before the step)."""
    config = config_for(tmp_path, **changes)
    student, initial = random_model(), random_model(seed=1).requires_grad_(False)
    if config.gradient_checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": False})
    models = hsd.Models(student, student, initial, hsd.token_terms)
    optimizer = hsd.MasterAdamW(student, config)
    seen = []
    step = optimizer.step
    optimizer.step = lambda loss: (
        seen.extend(t.clone() for _, t in sorted(optimizer.sums.items())),
        step(loss),
    )[1]
    return hsd.update(models, optimizer, rollouts, 0, config), seen


def test_loss_and_gradient_do_not_depend_on_micro_batches_or_chunks(tmp_path):
    rollouts = some_rollouts()
    (want, want_sums), *others = [
        run_update(tmp_path, rollouts, micro_batch_tokens=budget, chunk_tokens=chunk)
        for budget, chunk in ((10**6, 256), (1, 256), (90, 7), (120, 16))
    ]
    assert (
        len(hsd.micro_batches(rollouts, 1)) == len(rollouts)
        and len(hsd.micro_batches(rollouts, 10**6)) == 1
    )
    others.append(run_update(tmp_path, rollouts, gradient_checkpointing=True))
    for got, sums in others:
        for name in ("loss", "kl", "kl_reference", "entropy", "grad_norm"):
            assert got[name] == pytest.approx(want[name], rel=1e-4)
        assert all(relative_error(a, b) < 1e-4 for a, b in zip(sums, want_sums))


def test_loss_is_the_mean_over_tokens_then_over_rollouts(tmp_path):
    rollouts = some_rollouts()
    got, _ = run_update(tmp_path, rollouts, beta=0.5)
    student, initial, kls, references = (
        random_model().double(),
        random_model(seed=1).double(),
        [],
        [],
    )

    def log_probs(model, prompt, response):
        logits = model(torch.tensor([prompt + response])).logits[0]
        return logits[len(prompt) - 1 : -1].log_softmax(-1)

    for r in rollouts:
        s, t = (
            log_probs(student, r.prompt, r.response),
            log_probs(student, r.teacher_prompt, r.response),
        )
        p0 = log_probs(initial, r.prompt, r.response)
        kls.append((t.exp() * (t - s)).sum(-1).mean().item())
        references.append((s.exp() * (s - p0)).sum(-1).mean().item())
    assert got["kl"] == pytest.approx(hsd.mean(kls), rel=1e-4)
    assert got["kl_reference"] == pytest.approx(hsd.mean(references), rel=1e-4)
    assert got["loss"] == pytest.approx(hsd.mean(kls) + 0.5 * hsd.mean(references), rel=1e-4)


def test_a_rollout_without_context_has_no_distillation_loss(tmp_path):
    rollouts = some_rollouts(2)
    full, _ = run_update(tmp_path, rollouts, beta=0.0)
    rollouts[0].context = {}
    part, _ = run_update(tmp_path, rollouts, beta=0.0)
    alone, _ = run_update(tmp_path, rollouts[1:], beta=0.0)
    assert part["kl"] == pytest.approx(alone["kl"] / 2, rel=1e-4) and part["kl"] != full["kl"]


# ---- peers and teacher context (Eq. 9, 11, 12) ---------------------------------------------------


def test_successful_peers_by_hand():
    assert hsd.successful_peers([1, 0, 0, 1]) == [[3], [0, 3], [0, 3], [0]]
    assert hsd.successful_peers([0, 1, 0]) == [[1], [], [1]]
    assert hsd.successful_peers([0, 0]) == [[], []]
    assert hsd.successful_peers([1, 1]) == [[1], [0]]


def test_lone_success_falls_back_and_teaches_the_others(tiny):
    tokenizer, _ = tiny
    group = group_of([0, 1, 0], tokenizer)
    hsd.give_contexts(group, "answer+peer", [], Config(), tokenizer, random.Random(0))
    assert [r.peer is group[1] for r in group] == [True, False, True] and group[1].peer is None
    assert group[1].context == {"answer": "2"}
    assert group[0].context == {"answer": "2", "peer": "attempt 1"}


def test_peers_are_uniform_and_never_oneself(tiny):
    tokenizer, _ = tiny
    counts = [[0] * 4 for _ in range(4)]
    rng = random.Random(0)
    group = group_of([1, 0, 1, 1], tokenizer)
    for _ in range(600):
        hsd.give_contexts(group, "answer+peer", [], Config(), tokenizer, rng)
        for i, r in enumerate(group):
            counts[i][next(j for j, other in enumerate(group) if other is r.peer)] += 1
    assert all(counts[i][i] == 0 and counts[i][1] == 0 for i in range(4))
    assert all(150 < n < 250 for n in (counts[1][0], counts[1][2], counts[1][3]))  # 200 expected
    assert all(240 < n < 360 for n in (counts[0][2], counts[0][3]))  # 300 expected


def test_only_the_peers_tokens_are_cut(tiny):
    tokenizer, _ = tiny
    question = Problem("1+1+1+1=?", "4")
    group = group_of([0, 1], tokenizer, question, [[5], tokenizer("0123456789" * 20).input_ids])
    hsd.give_contexts(
        group, "answer+peer", [], Config(max_peer_tokens=30), tokenizer, random.Random(0)
    )
    text = tokenizer.decode(group[0].teacher_prompt)
    assert group[0].context["peer"] == "0123456789" * 3
    assert question.question in text and "<answer>\n4\n</answer>" in text
    assert hsd.CLOSING + hsd.INSTRUCTION in text and group[0].response == [5]


def test_opsd_shows_the_answer_alone_and_code_its_peer_alone(tiny):
    tokenizer, _ = tiny
    group = group_of([0, 1], tokenizer)
    hsd.give_contexts(group, hsd.METHODS["opsd"].context, [], Config(), tokenizer, random.Random(0))
    assert group[0].context == {"answer": "2"}
    code = group_of([0, 1], tokenizer, Problem("add", tests=("assert add(1, 1) == 2",)))
    hsd.give_contexts(code, "answer+peer", [], Config(), tokenizer, random.Random(0))
    assert code[0].context == {"peer": "attempt 1"} and code[1].context == {}
    assert tokenizer.decode(code[1].teacher_prompt).count(hsd.CODE_INSTRUCTION) == 1


def test_thinking_mode_is_the_same_switch_for_both(tiny):
    tokenizer, _ = tiny
    problem = Problem("1+1=?", "2")
    for thinking, closed in ((False, 1), (True, 0)):
        for context in ({}, {"answer": "2"}):
            ids = hsd.prompt_ids(tokenizer, hsd.request(problem, context), thinking)
            assert tokenizer.decode(ids).count("</think>") == closed


def test_math_equal_reads_over_spaces_dollars_and_thousands():
    for a, b in (
        ("1,234", "1234"),
        ("$5", "5"),
        (" \\frac{1}{2}", "\\frac{1} {2}"),
        ("(1, 2)", "(1,2)"),
    ):
        assert hsd.math_equal(a, b)
    for a, b in (("12", "1,2"), ("5", "6"), ("1,23", "123"), ("", "0")):
        assert not hsd.math_equal(a, b)


def test_divergence():
    assert hsd.divergence([1, 2, 3], [1, 2, 4]) == 2 and hsd.divergence([5], [6]) == 0
    assert hsd.divergence([1, 2], [1, 2, 3]) == 2 and hsd.divergence([1, 2, 3], [1]) == 1
    assert hsd.divergence([1, 2], [1, 2]) is None and hsd.divergence([], [1]) == 0


def test_coverage_by_simulation_and_its_maximum():
    rng = random.Random(0)
    for p, G in ((0.257, 8), (0.1, 4), (0.6, 16)):
        hits = total = 0
        for _ in range(20000 // G):
            rewards = [int(rng.random() < p) for _ in range(G)]
            peers = hsd.successful_peers(rewards)
            hits += sum(1 for r, s in zip(rewards, peers) if not r and s)
            total += G
        assert hits / total == pytest.approx(hsd.coverage(p, G), abs=0.02)
    grid = [i / 10000 for i in range(1, 10000)]
    for G, p_star, f_star in (
        (4, 0.370, 0.472),
        (8, 0.257, 0.650),
        (16, 0.169, 0.779),
        (32, 0.106, 0.866),
        (64, 0.064, 0.921),
    ):
        best = max(grid, key=lambda p: hsd.coverage(p, G))
        assert best == pytest.approx(1 - G ** (-1 / (G - 1)), abs=2e-4)
        assert best == pytest.approx(p_star, abs=6e-4) and hsd.coverage(best, G) == pytest.approx(
            f_star, abs=6e-4
        )


def test_credit_share_by_hand():
    peer = Rollout(Problem("q", "1"), [0], [7, 7, 7, 7, 7], "", False)
    rollout = Rollout(Problem("q", "1"), [0], [7, 7, 8, 8, 8], "", False, peer=peer)
    rollout.credit = torch.tensor([1.0, 0.0, -4.0, 2.0, 1.0])  # tau = 2
    assert hsd.credit_share([rollout], 0) == pytest.approx(4 / 8)
    assert hsd.credit_share([rollout], 1) == pytest.approx(6 / 8)
    assert hsd.credit_share([rollout], 2) == pytest.approx(1.0)


# ---- rollouts ------------------------------------------------------------------------------------


def test_the_stop_token_is_kept_and_trained_even_if_it_pads():
    assert hsd.cut_at_stop([5, 6, 2, 2, 2], [2]) == [5, 6, 2] and hsd.cut_at_stop([5, 6], [2]) == [
        5,
        6,
    ]
    model = random_model()
    hidden, head = hsd.hidden_and_head(model, [[3, 4]], [[5, 6, 2]])
    logits = model(torch.tensor([[3, 4, 5, 6, 2]])).logits[0]
    assert len(hidden) == 3  # the third row predicts the stop token
    assert torch.allclose((hidden @ head.T)[2], logits[3], atol=1e-5)


def test_rollouts_are_seeded_verified_and_cut(tiny):
    tokenizer, model = tiny
    problems = hsd.load_problems(ROOT / "data" / "eval.jsonl")[:4]
    config = Config(rollout_batch=16)
    a, b, c = (
        hsd.sample_groups(model, tokenizer, problems, config, seed) for seed in ("x", "x", "y")
    )
    ids = [[r.response for g in groups for r in g] for groups in (a, b, c)]
    assert ids[0] == ids[1] and ids[0] != ids[2]
    assert [len(g) for g in a] == [8] * 4
    for r in (r for g in a for r in g):
        assert r.response[-1] == tokenizer.eos_token_id and not r.truncated
        assert r.reward == float(r.text.endswith("\\boxed{" + r.problem.answer + "}"))
    # Cut after "33-6=": the last number is 6, and would be right.
    cut = Problem("33-6+8*9=?", "6")
    for r in hsd.sample_groups(model, tokenizer, [cut], Config(max_new_tokens=5), "x")[0]:
        assert r.truncated and len(r.response) == 5 and r.text == "33-6="
        assert hsd.verify(cut, r.text) and r.reward == 0


def test_top_k_of_the_models_own_generation_config_does_not_leak():
    model = random_model()
    model.generation_config.top_k, model.generation_config.eos_token_id = 1, 63
    tokenizer = type("T", (), {"eos_token_id": 63})
    config = Config(max_new_tokens=6, top_p=1.0)
    drawn = {
        tuple(ids) for ids in hsd.sample(model, tokenizer, [[1, 2, 3]] * 16, config, "x", "bar")
    }
    assert len(drawn) > 10  # top_k = 1 would give one


def test_every_pass_over_the_data_has_each_question_once():
    problems = [Problem(str(i), "1") for i in range(10)]
    config = Config(questions_per_step=4)
    picked = [
        p.question for step in range(5) for p in hsd.questions_of_step(problems, step, config)
    ]
    assert sorted(picked[:10]) == sorted(picked[10:]) == [str(i) for i in range(10)]
    assert picked[:10] != picked[10:]


# ---- evaluation ----------------------------------------------------------------------------------


def test_pass_at_k_by_enumeration():
    for n, c, k in ((5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 1), (7, 1, 7), (6, 3, 4)):
        samples = [1] * c + [0] * (n - c)
        draws = list(itertools.combinations(samples, k))
        assert hsd.pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    for bad in ((4, 5, 1), (4, 1, 5), (4, 1, 0)):
        with pytest.raises(ValueError):
            hsd.pass_at_k(*bad)


# ---- problems and bad input ----------------------------------------------------------------------


def write_lines(path, *rows):
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    )
    return path


def test_the_fields_names_are_read_as_they_come(tmp_path):
    rows = [
        {"question": "a", "answer": "1 + 2 = 3\n#### 3"},
        {"problem": "b", "solution": "so $\\boxed{\\frac{1}{2}}$."},
        {"prompt": "c", "tests": ["assert f() == 1"]},
        {"problem": "d", "answer": 42},
        "",
        {"prompt": "def g():", "entry_point": "g", "test": "def check(f):\n    assert f() == 1"},
    ]
    a, b, c, d, e = hsd.load_problems(write_lines(tmp_path / "p.jsonl", *rows))
    assert (
        (a.answer, a.solution) == ("3", "1 + 2 = 3")
        and b.answer == "\\frac{1}{2}"
        and d.answer == "42"
    )
    assert c.tests == ("assert f() == 1",) and c.answer is None and e.tests[0].endswith("check(g)")


@pytest.mark.parametrize(
    "line,complaint",
    [
        ("{", "Expecting"),
        ('{"answer": "1"}', "no text under"),
        ('{"question": "q"}', "neither an answer"),
        ("[1]", "not a JSON object"),
        ('{"question": "q", "answer": ""}', "neither an answer"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, complaint):
    path = write_lines(tmp_path / "p.jsonl", {"question": "a", "answer": "1"}, line)
    with pytest.raises(hsd.InputError, match=complaint) as error:
        hsd.load_problems(path)
    assert str(error.value).startswith(f"{path}:2: ")


def test_bad_input_is_one_line_exit_code_2_and_nothing_written(tmp_path, capsys):
    empty = write_lines(tmp_path / "empty.jsonl")
    for flags in (
        ["--train_data", str(tmp_path / "none.jsonl")],
        ["--eval_data", str(empty)],
        ["--model", str(tmp_path / "no-model")],
        ["--method", "none"],
        ["--methd", "hsd"],
        ["--top_p", "1.5"],
        ["--learning_rate", "nan"],
        ["--teacher", "none"],
    ):
        with pytest.raises(SystemExit) as stop:
            hsd.main([*flags, "--out", str(tmp_path / "run")])
        assert stop.value.code == 2 and not (tmp_path / "run").exists()
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_model_that_scales_its_logits_is_refused_by_name(tmp_path, tiny, capsys):
    tokenizer, _ = tiny
    model = random_model(V=len(tokenizer))
    model.config.logits_scaling = 8.0
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    data = str(ROOT / "data" / "eval.jsonl")
    with pytest.raises(SystemExit) as stop:
        hsd.main(["--model", str(tmp_path / "model"), "--train_data", data, "--eval_data", data])
    assert stop.value.code == 2 and "logits_scaling" in capsys.readouterr().err


def test_without_a_compiler_a_line_says_so_and_the_plain_loss_runs(monkeypatch, capsys):
    def no_compiler(_):
        def run(*_):
            raise RuntimeError("no g++ here")

        return run

    monkeypatch.setattr(torch, "compile", no_compiler)
    assert hsd.compiled_terms(Config(), "cpu") is hsd.token_terms
    assert capsys.readouterr().out.count("no g++ here") == 1


# ---- the optimizer -------------------------------------------------------------------------------


def test_bf16_weights_follow_the_float32_update_at_a_learning_rate_of_1e_6(tmp_path):
    """50 steps on noisy gradients; AdamW straight on bf16 weights goes almost nowhere."""

    def layer(dtype):
        torch.manual_seed(0)
        return torch.nn.Linear(64, 64, bias=False).to(torch.bfloat16).to(dtype)

    config = config_for(tmp_path, learning_rate=1e-6)
    ours, plain, exact = layer(torch.bfloat16), layer(torch.bfloat16), layer(torch.float32)
    start = exact.weight.detach().clone()
    optimizer = hsd.MasterAdamW(ours, config)
    others = [
        torch.optim.AdamW(m.parameters(), 1e-6, (0.9, 0.95), weight_decay=0.0)
        for m in (plain, exact)
    ]
    g = torch.Generator().manual_seed(1)
    target = torch.randn(64, 64, generator=g)
    for _ in range(50):
        gradient = (target + torch.randn(64, 64, generator=g)).bfloat16()
        (ours.weight * gradient).sum().backward()
        optimizer.step(0.0)
        for model, other in zip((plain, exact), others):
            model.weight.grad = gradient.to(model.weight.dtype)
            other.step()

    def cosine(weight):
        return torch.cosine_similarity(
            (weight - start).flatten(), (exact.weight - start).flatten(), dim=0
        ).item()

    assert cosine(optimizer.master[0]) > 0.9999
    assert cosine(plain.weight.float()) < 0.5
    assert torch.equal(ours.weight, optimizer.master[0].bfloat16())


def test_small_micro_batch_gradients_are_not_lost(tmp_path):
    model = torch.nn.Linear(1, 1, bias=False).bfloat16()
    optimizer = hsd.MasterAdamW(model, config_for(tmp_path))
    for scale in [1.0] + [1e-3] * 500:
        (model.weight * scale).sum().backward()
    assert optimizer.sums[0].item() == pytest.approx(1.5, rel=2e-3)  # a bf16 sum stays at 1.0


def test_clipping_and_skipped_steps(tmp_path):
    model = torch.nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    optimizer = hsd.MasterAdamW(model, config_for(tmp_path, learning_rate=0.1))
    (model.weight * torch.tensor([[30.0, 40.0]])).sum().backward()
    norm, skipped = optimizer.step(1.0)
    assert norm == pytest.approx(50.0) and not skipped
    exp_avg = optimizer.adamw.state[optimizer.master[0]]["exp_avg"]
    assert torch.allclose(exp_avg, 0.1 * torch.tensor([[0.6, 0.8]]), atol=1e-6)
    after = model.weight.detach().clone()
    assert not torch.equal(before, after)
    for loss, factor in ((math.nan, 1.0), (1.0, math.inf)):
        (model.weight * factor).sum().backward()
        assert optimizer.step(loss)[1] and torch.equal(model.weight, after)
        assert not optimizer.sums


# ---- the whole -----------------------------------------------------------------------------------


def test_the_prompts_fixed_sentences_are_single_tokens_of_the_tiny_model(tiny):
    tokenizer, _ = tiny
    for context in hsd.CONTEXTS.values():
        for piece in context.split("{}"):
            assert len(tokenizer(piece).input_ids) == 1
    assert len(tokenizer(hsd.CLOSING + hsd.INSTRUCTION).input_ids) == 1
    assert tokenizer.decode(tokenizer("12*3+4=?;\\boxed{07}").input_ids) == "12*3+4=?;\\boxed{07}"


def test_train_and_eval_questions_are_disjoint():
    train, held_out = (
        hsd.load_problems(ROOT / "data" / f"{name}.jsonl") for name in ("train", "eval")
    )
    assert not {p.question for p in train} & {p.question for p in held_out}


def test_hsd_steps_lower_the_kl_and_raise_the_right_token_at_tau(tiny, tmp_path):
    """Eight steps on one batch: the student comes nearer to its teacher, and where a failed rollout
    left its peer's path, the peer's token becomes likelier."""
    tokenizer, model = tiny
    config = config_for(tmp_path, learning_rate=1e-4)
    student = copy.deepcopy(model)
    models = hsd.Models(student, model.requires_grad_(False), model, hsd.token_terms)
    problems = hsd.load_problems(ROOT / "data" / "train.jsonl")[:8]
    groups = hsd.sample_groups(student, tokenizer, problems, config, "batch")
    rng = random.Random(0)
    for group in groups:
        hsd.give_contexts(group, "answer+peer", [], config, tokenizer, rng)
    rollouts = [r for group in groups for r in group]
    failed = [r for r in rollouts if r.peer and not r.reward]
    assert len(failed) >= 10

    def right_token():
        total = 0.0
        for r in failed:
            tau = hsd.divergence(r.response, r.peer.response)
            with torch.no_grad():
                logits = student(torch.tensor([r.prompt + r.response[:tau]])).logits[0, -1]
            total += logits.softmax(-1)[r.peer.response[tau]].item() / len(failed)
        return total

    before, optimizer = right_token(), hsd.MasterAdamW(student, config)
    kls = [hsd.update(models, optimizer, rollouts, 0, config)["kl"] for _ in range(8)]
    assert kls[-1] < 0.6 * kls[0]
    assert right_token() > before + 0.1


def test_a_run_from_the_command_line(tmp_path):
    """The README's command, shortened: what it prints and what it leaves behind."""
    out = tmp_path / "run"
    command = [
        sys.executable,
        str(ROOT / "hsd.py"),
        "--steps",
        "1",
        "--questions_per_step",
        "4",
        "--eval_questions",
        "8",
        "--eval_samples",
        "8",
        "--compile",
        "false",
        "--out",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 1]
    for name in (
        "step",
        "reward",
        "kl",
        "peer_share",
        "response_tokens",
        "truncated_share",
        "grad_norm",
        "seconds",
    ):
        assert isinstance(rows[1][name], (int, float))
    for name in ("eval/pass@1", "eval/pass@8", "eval/teacher_pass@1"):
        assert 0 <= rows[0][name] <= 1
    assert rows[0]["eval/teacher_pass@1"] > rows[0]["eval/pass@1"] + 0.2
    assert (
        "eval/pass@1" in done.stdout and json.loads((out / "config.json").read_text())["steps"] == 1
    )
    saved = AutoModelForCausalLM.from_pretrained(out / "checkpoint")
    start = AutoModelForCausalLM.from_pretrained(ROOT / "data" / "tiny-qwen3")
    change = max((a - b).abs().max().item() for a, b in zip(saved.parameters(), start.parameters()))
    assert 1e-5 < change < 2e-4  # one step of AdamW at the lab's learning rate
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 2 and "--overwrite" in again.stderr


# ---- the methods of Table 1 ----------------------------------------------------------------------


def advantages_of(method, rewards, lengths=None, **changes):
    lengths = lengths or [3] * len(rewards)
    group = [
        Rollout(Problem("q", "1"), [1], [5] * n, "", False, reward=r)
        for r, n in zip(rewards, lengths)
    ]
    hsd.give_advantages(group, hsd.METHODS[method], Config(method=method, **changes))
    return [r.advantage for r in group]


def test_advantages_by_hand():
    """Rewards 1, 0, 0, 0: mean 1/4, unbiased standard deviation 1/2."""
    for method in ("grpo", "gspo", "rlsd", "grpo+opsd"):
        assert advantages_of(method, [1, 0, 0, 0]) == pytest.approx(
            [1.5, -0.5, -0.5, -0.5], abs=1e-4
        )
    assert advantages_of("dr_grpo", [1, 0, 0, 0]) == pytest.approx([0.75, -0.25, -0.25, -0.25])
    assert advantages_of("grpo", [1, 1, 1]) == [0, 0, 0] and advantages_of("grpo", [0, 0]) == [0, 0]
    assert advantages_of("grpo", [1]) == [0]


def test_dapos_length_penalty_by_hand():
    """max_new_tokens 100: no penalty to 80 tokens, half of it at 90, all at 100; halved for 0/1
    rewards."""
    got = advantages_of("dapo", [1, 1, 1, 0], [80, 90, 100, 10], max_new_tokens=100)
    shaped = torch.tensor([1, 0.75, 0.5, 0])
    assert got == pytest.approx(((shaped - shaped.mean()) / shaped.std()).tolist(), abs=1e-4)


def test_token_weights_by_hand():
    rollouts = [Rollout(Problem("q", "1"), [1], [5] * n, "", False) for n in (2, 6)]
    for over, want in (
        ("rollout", [1 / 4, 1 / 12]),
        ("token", [1 / 8, 1 / 8]),
        ("constant", [1 / 20, 1 / 20]),
    ):
        hsd.give_weights(rollouts, over, Config(max_new_tokens=10))
        assert [r.weight for r in rollouts] == pytest.approx(want)


def test_the_policy_loss_clips_what_it_should():
    """A ratio of 1.5 counts as 1.2 where A > 0 (1.28 for DAPO), in full where A < 0; one of .5 the
    other way."""
    old, advantages = torch.zeros(4), torch.tensor([1.0, -1.0, 1.0, -1.0])
    logp = torch.tensor([1.5, 1.5, 0.5, 0.5]).log()
    for method, want in (("grpo", [-1.2, 1.5, -0.5, 0.8]), ("dapo", [-1.28, 1.5, -0.5, 0.8])):
        got = hsd.policy_loss(logp, old, advantages, [4], hsd.METHODS[method])
        assert got.tolist() == pytest.approx(want)


def test_gspos_ratio_is_that_of_the_sequence_normalised_by_length():
    logp, old = (
        torch.tensor([-1.0, -2.0, -3.0, -1.0]).requires_grad_(),
        torch.tensor([-1.0001, -2.0, -3.0, -1.0003]),
    )
    got = hsd.policy_loss(
        logp, old, torch.tensor([1.0, 1.0, 1.0, -1.0]), [3, 1], hsd.METHODS["gspo"]
    )
    first, second = math.exp(0.0001 / 3), math.exp(0.0003)
    assert got.tolist() == pytest.approx([-first] * 3 + [second], abs=1e-6)
    got[:3].mean().backward()
    assert logp.grad[:3].tolist() == pytest.approx([-first / 3] * 3, abs=1e-6)


def test_rlsd_keeps_the_verifiers_sign():
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, 0.0])
    credit = torch.tensor(
        [math.log(1.1), math.log(2), -math.log(2), math.log(2), -math.log(2), 3.0]
    )
    got = hsd.reweighted(advantages, credit, step=0)
    assert got.tolist() == pytest.approx([1.05, 1.1, 0.9, -0.9, -1.1, 0], abs=1e-5)
    assert hsd.reweighted(advantages, credit, step=50).tolist() == advantages.tolist()


def graded(lengths, rewards, seed=0):
    rollouts = some_rollouts(len(lengths), seed=seed)
    for r, n, reward in zip(rollouts, lengths, rewards):
        r.response, r.reward, r.context, r.teacher_prompt = (
            (r.response * 20)[:n],
            reward,
            {},
            r.prompt,
        )
    return rollouts


def test_grpo_on_an_all_right_group_has_no_gradient(tmp_path):
    group = graded([3, 5, 4], [1, 1, 1])
    config = config_for(tmp_path, method="grpo", beta=0.0)
    hsd.give_advantages(group, hsd.METHODS["grpo"], config)
    _, sums = run_update(tmp_path, group, method="grpo", beta=0.0)
    assert all(total.abs().max() == 0 for total in sums)


def test_dr_grpo_has_no_length_bias_and_grpo_has(tmp_path):
    """The same token, five times or twenty: under Dr. GRPO its gradient counts once per time it
    occurs."""
    norms = {}
    for method in ("grpo", "dr_grpo"):
        for n in (5, 20):
            rollout = Rollout(Problem("q", "1"), [7], [9] * n, "", False, advantage=1.0)
            config = config_for(tmp_path, method=method)
            hsd.give_weights([rollout], hsd.METHODS[method].mean, config)
            norms[method, n] = rollout.weight
    assert norms["dr_grpo", 5] == norms["dr_grpo", 20] and norms["grpo", 5] == 4 * norms["grpo", 20]


def learn_once(tmp_path, tokenizer, groups, **changes):
    """One learn() of a random model on some groups: (metrics, weights after it)."""
    config = config_for(tmp_path, **{"beta": 0.0, "teacher": "live", **changes})
    student = random_model(V=len(tokenizer))
    taught = hsd.METHODS[config.method].context
    models = hsd.Models(student, student if taught else None, None)
    optimizer = hsd.MasterAdamW(student, config)
    metrics = hsd.learn(models, optimizer, groups, {}, tokenizer, 0, config)
    return metrics, torch.cat([p.detach().flatten() for p in student.parameters()])


def fresh_groups(tokenizer, *rewards):
    groups = [
        group_of(r, tokenizer, Problem(f"{i}+1=?", str(i + 1), "solution"))
        for i, r in enumerate(rewards)
    ]
    for group in groups:
        for i, r in enumerate(group):
            r.prompt, r.text = tokenizer(r.problem.question).input_ids, f"\\boxed{{{i}}}"
    return groups


def test_what_a_method_does_not_have_is_not_logged_as_zero(tiny, tmp_path):
    tokenizer, _ = tiny
    for method, has_kl in (("grpo", False), ("hsd", True)):
        groups = fresh_groups(tokenizer, [1, 0, 0])
        metrics, _ = learn_once(tmp_path, tokenizer, groups, method=method)
        assert math.isfinite(metrics["kl"]) == has_kl and math.isnan(metrics["kl_reference"])


def test_every_method_learns_and_dapo_drops_constant_groups(tiny, tmp_path):
    tokenizer, _ = tiny
    start = torch.cat([p.flatten() for p in random_model(V=len(tokenizer)).parameters()])
    for method in hsd.METHODS:
        _, weights = learn_once(
            tmp_path, tokenizer, fresh_groups(tokenizer, [1, 0, 0], [0, 1, 1]), method=method
        )
        assert (weights - start).norm() > 1e-3, method
    mixed = learn_once(tmp_path, tokenizer, fresh_groups(tokenizer, [1, 0, 0]), method="dapo")[1]
    more = learn_once(
        tmp_path, tokenizer, fresh_groups(tokenizer, [1, 0, 0], [1, 1, 1], [0, 0, 0]), method="dapo"
    )[1]
    assert torch.equal(mixed, more)
    metrics, none = learn_once(tmp_path, tokenizer, fresh_groups(tokenizer, [1, 1]), method="dapo")
    assert torch.equal(none, start) and metrics["skipped_steps"] == 1


def test_opsd_equals_hsd_where_nothing_succeeded(tiny, tmp_path):
    tokenizer, _ = tiny
    for rewards, same in (([0, 0, 0], True), ([0, 1, 0], False)):
        a, b = (
            learn_once(tmp_path, tokenizer, fresh_groups(tokenizer, rewards), method=m)[1]
            for m in ("hsd", "opsd")
        )
        assert torch.equal(a, b) == same


def test_contexts_of_the_relatives(tiny):
    tokenizer, _ = tiny

    def contexts(method, rewards):
        (group,) = fresh_groups(tokenizer, rewards)
        hsd.give_contexts(
            group, hsd.METHODS[method].context, [], Config(), tokenizer, random.Random(0)
        )
        return [r.context for r in group]

    assert contexts("sdpo", [0, 1]) == [{"peer": "attempt 1"}, {}]
    (cut,) = fresh_groups(tokenizer, [0])
    cut[0].truncated = True
    hsd.give_contexts(cut, "feedback", [], Config(), tokenizer, random.Random(0))
    assert cut[0].context == {"feedback": "It is not correct."}
    assert contexts("sdpo", [0, 0])[1] == {"feedback": "The final answer 1 is wrong."}
    assert contexts("sdft", [0, 1]) == [{"solution": "solution"}] * 2
    assert (
        contexts("grpo", [0, 1]) == [{}, {}] and contexts("rlsd", [0, 1]) == [{"answer": "1"}] * 2
    )


def test_several_updates_per_batch_use_the_log_probs_of_before(tiny, tmp_path):
    """Two updates: the second one's ratio is no longer 1, so its clip acts; both see half of the
    rollouts."""
    tokenizer, _ = tiny
    groups = fresh_groups(tokenizer, [1, 0, 1, 0])
    seen, original = [], hsd.policy_loss

    def spy(logp, old_logp, advantages, lengths, method):
        seen.append(((logp - old_logp).abs().max().item(), len(lengths)))
        return original(logp, old_logp, advantages, lengths, method)

    hsd.policy_loss = spy
    try:
        learn_once(
            tmp_path, tokenizer, groups, method="grpo", updates_per_batch=2, learning_rate=1e-2
        )
    finally:
        hsd.policy_loss = original
    assert [n for _, n in seen] == [2, 2] and seen[0][0] < 1e-5 < 1e-2 < seen[1][0]


def test_peer_rules_by_hand():
    rollout = Rollout(Problem("q", "1"), [0], [1, 2, 3, 4], "", False)
    peers = [
        Rollout(Problem("q", "1"), [0], ids, "", False, logp=torch.tensor(logp))
        for ids, logp in (([1, 2, 3, 9, 9], [-1.0]), ([1, 9], [-2.0]), ([8, 8, 8], [-0.5]))
    ]
    rng = random.Random(0)
    for rule, want in (
        ("shortest", 1),
        ("nearest", 0),
        ("low_perplexity", 2),
        ("high_perplexity", 1),
    ):
        assert hsd.choose_peer(rollout, peers, rule, rng) is peers[want]
    drawn = [peers.index(hsd.choose_peer(rollout, peers, "uniform", rng)) for _ in range(300)]
    assert min(drawn.count(i) for i in range(3)) > 70
    assert hsd.choose_peer(rollout, [], "shortest", rng) is None


def test_the_buffer_serves_past_successes_of_the_same_question(tiny, tmp_path):
    tokenizer, _ = tiny
    config, past = config_for(tmp_path, success_buffer=2, beta=0.0, teacher="live"), {}
    student = random_model(V=len(tokenizer))
    models, optimizer = hsd.Models(student, student, None), hsd.MasterAdamW(student, config)

    def step(*rewards):
        groups = fresh_groups(tokenizer, *rewards)
        hsd.learn(models, optimizer, groups, past, tokenizer, 0, config)
        return groups

    first = step([1, 0], [0, 0])
    assert first[0][0].peer is None and first[1][0].peer is None  # nothing of the same step
    second = step([0, 0], [0, 0])
    assert all(r.peer.response == first[0][0].response for r in second[0])
    assert all(r.peer is None for r in second[1])  # another question
    step([1, 1])
    assert len(past["0+1=?"]) == 2 and first[0][0].problem.question == "0+1=?"
    config.success_buffer = 0
    step([1, 1])
    assert not any(past.values())


# ---- runs: resume, seeds, checkpoints, pages -----------------------------------------------------

SHORT = dict(
    questions_per_step=4, group_size=4, eval_questions=8, eval_samples=4, compile=False, steps=4
)


def rows_of(out):
    """metrics.jsonl without what must differ between runs: the time."""
    rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_same_seed_same_metrics_and_resume_after_kill_9_is_bit_equal(tmp_path):
    flags = [
        f"--{k}={v}" for k, v in {**SHORT, "steps": 6, "success_buffer": 2, "save_every": 3}.items()
    ]
    hsd.main([*flags, "--out", str(tmp_path / "whole")])
    code = (
        "import os, hsd; Run = hsd.script('run.py')['Run']; save = Run.save\n"
        "def then_die(run, step): save(run, step); os.kill(os.getpid(), 9)\n"
        f"Run.save = then_die; hsd.main({[*flags, '--out', str(tmp_path / 'killed')]})"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -9
    assert [row["step"] for row in rows_of(tmp_path / "killed")] == [0, 1, 2, 3]
    with open(tmp_path / "killed" / "metrics.jsonl", "a") as file:
        file.write('{"step": 4}\n')  # a row written after the checkpoint
    with pytest.raises(SystemExit):
        hsd.main([*flags, "--seed=5", "--resume", "--out", str(tmp_path / "killed")])
    hsd.main([*flags, "--resume", "--out", str(tmp_path / "killed")])
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")
    a, b = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name / "checkpoint")
        for name in ("whole", "killed")
    )
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))


def test_a_failed_save_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    config = config_for(tmp_path, **{**SHORT, "steps": 1})
    hsd.train(config)
    before = (tmp_path / "run" / "checkpoint" / "state.pt").read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    config = config_for(tmp_path, **{**SHORT, "steps": 2}, resume=True)
    with pytest.raises(hsd.InputError, match="No space left.*last checkpoint is intact"):
        hsd.train(config)
    assert (tmp_path / "run" / "checkpoint" / "state.pt").read_bytes() == before
    monkeypatch.undo()
    (tmp_path / "run" / "checkpoint" / "state.pt").write_bytes(before[:1000])
    with pytest.raises(hsd.InputError, match="cannot resume"):
        hsd.train(config)


def test_sigterm_saves_after_the_step(tmp_path):
    flags = [f"--{k}={v}" for k, v in {**SHORT, "out": tmp_path / "run"}.items()]
    code = (
        "import os, signal, hsd; learn = hsd.learn\n"
        "def then_stop(*a): os.kill(os.getpid(), signal.SIGTERM); return learn(*a)\n"
        f"hsd.learn = then_stop; hsd.main({flags})"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [0, 1]
    assert torch.load(tmp_path / "run" / "checkpoint" / "state.pt", weights_only=True)["step"] == 1


def test_resume_takes_a_folder_and_overwrite_leaves_what_is_not_ours(tmp_path):
    assert Config(resume="runs/x").out == "runs/x" and Config(resume="runs/x").resume is True
    assert Config().resume is False and Config(resume=True, out="y").out == "y"
    out = tmp_path / "run"
    hsd.train(config_for(tmp_path, **{**SHORT, "steps": 0}))
    (out / "thesis.tex").write_text("mine")
    hsd.train(config_for(tmp_path, **{**SHORT, "steps": 0}, overwrite=True))
    assert (out / "thesis.tex").read_text() == "mine" and len(rows_of(out)) == 1
    with pytest.raises(hsd.InputError, match="no checkpoint"):
        hsd.train(config_for(tmp_path, **{**SHORT, "steps": 0}, resume=True))


def test_warnings_of_collapse():
    step = {"reward": 0.5, "entropy": 1.0, "response_tokens": 50, "truncated_share": 0.0}
    first = {"step": 0, "eval/pass@1": 0.3, "eval/pass@8": 0.8, "eval/teacher_pass@1": 0.9}
    good = (
        [first]
        + [{"step": i, **step} for i in range(18)]
        + [{**first, "eval/pass@1": 0.9, "eval/teacher_pass@1": None}]
    )
    assert PAGE["signs_of_collapse"](good) == [] and PAGE["signs_of_collapse"]([first]) == []
    bad = (
        good
        + [{**step, "reward": 0.1, "truncated_share": 0.9}] * 7
        + [{**first, "eval/pass@8": 0.4}]
    )
    found = PAGE["signs_of_collapse"](bad)
    assert [line.split()[1] for line in found] == ["reward", "eval/pass@1", "eval/pass@8", "more"]
    assert "reward fell from 0.5 to 0.1" in found[0] and "from 0.9 to 0.3" in found[1]


def test_the_report_draws_seeds_together_and_methods_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, method, seed in (("a", "hsd", 0), ("b", "hsd", 1), ("c", "grpo", 0)):
        (tmp_path / name).mkdir()
        config = {"method": method, "seed": seed, "out": name, "beta": 0.001}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    PAGE["report"]("abc", "report.html")
    text = (tmp_path / "report.html").read_text()
    runs = json.loads(text.split('type="application/json">')[1].split("</script>")[0])["runs"]
    assert [run["label"] for run in runs] == ["method hsd", "method hsd", "method grpo"]
    with pytest.raises(hsd.InputError, match="no run in missing"):
        PAGE["report"](["a", "missing"], "report.html")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        hsd.main(["--steps", "0", "--eval_questions", "1", "--out", str(tmp_path / "file" / "run")])
    errors = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and "Not a directory" in errors[-1] and len(errors) < 3


def test_the_page_holds_what_was_measured_and_no_markup_of_the_model(tmp_path):
    config = config_for(tmp_path, **{**SHORT, "steps": 0})
    hsd.train(config)
    text = (tmp_path / "run" / "credit.html").read_text()
    data = json.loads(text.split('type="application/json">')[1].split("</script>")[0])
    assert 0 < len(data["rollouts"]) <= 128
    for i, r in enumerate(data["rollouts"]):
        assert r["tau"] == hsd.divergence(r["tokens"], r["peer_tokens"])
        assert len(r["credit"]) == len(r["credit_answer_only"]) == len(r["tokens"])
        assert (r["top5"] is not None) == (i < 8)
    for side in data["rollouts"][0]["top5"].values():
        assert len(side) == 5 and 0 < sum(p for _, p in side) <= 1.0001
    assert data["runs"][0]["rows"][0]["step"] == 0
    PAGE["write_page"](tmp_path / "x.html", "x", warnings=["</script><img src=x>"])
    assert "</script><img" not in (tmp_path / "x.html").read_text()


# ---- verifiers -----------------------------------------------------------------------------------


def in_parallel(function, work, threads=2):
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, work))


@pytest.mark.parametrize("name,want", [("EQUAL", True), ("DIFFERENT", False)])
def test_answers_that_are_and_are_not_equivalent(name, want):
    pairs = [pair for a, b in ANSWERS[name] for pair in ((a, b), (b, a))]
    verdicts = in_parallel(lambda pair: hsd.math_equal(*pair), pairs)
    assert [pair for pair, verdict in zip(pairs, verdicts) if verdict is not want] == []
    assert len(ANSWERS["EQUAL"]) + len(ANSWERS["DIFFERENT"]) >= 120


def test_hostile_answers_are_refused_and_nothing_is_evaluated(tmp_path):
    marker = tmp_path / "marker"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    hostile = [*ANSWERS["HOSTILE"], code, f"sqrt({code})", f"\\frac{{{code}}}{{1}}"]
    verdicts = in_parallel(lambda text: hsd.math_equal(text, "5"), hostile)
    assert [ascii(t)[:80] for t, verdict in zip(hostile, verdicts) if verdict] == []
    assert not marker.exists()


def test_an_answer_that_takes_too_long_costs_its_process_and_no_other(monkeypatch):
    assert hsd.math_equal("1/2", "0.5") is True
    while not hsd.IDLE.empty():
        hsd.IDLE.get().communicate()
    assert hsd.math_equal("1/2", "0.5") and hsd.IDLE.qsize() == 1
    worker = hsd.IDLE.get()
    hsd.IDLE.put(worker)
    start = time.monotonic()
    slow = "9999999999999999999999^{x^{19999}}"
    assert hsd.math_equal(slow, "5") is False and 4 < time.monotonic() - start < 20
    assert worker.returncode == -signal.SIGALRM and hsd.IDLE.qsize() == 0
    assert hsd.math_equal(slow, slow) is True  # the same text needs no process
    assert hsd.math_equal("1/2", "0.5") is True
    # one that somebody ends while it is idle is replaced, not taken for a wrong answer
    idle = hsd.IDLE.get()
    idle.communicate()
    hsd.IDLE.put(idle)
    assert hsd.math_equal("1/2", "0.5") is True


def test_the_last_box_or_else_the_last_number():
    for text, answer in ANSWERS["EXTRACT"]:
        assert hsd.extract_answer(text) == answer, text


def test_honest_programs_pass():
    rows = PROGRAMS["HONEST"]
    verdicts = in_parallel(lambda row: hsd.run_tests(*row[1:]), rows)
    assert [row[0] for row, passed in zip(rows, verdicts) if passed is not True] == []
    assert len(rows) >= 30


def test_hostile_programs_fail_and_leave_this_process_alone():
    rows, before = PROGRAMS["HOSTILE"], (os.getcwd(), dict(os.environ))
    folders = set(Path(tempfile.gettempdir()).glob("hsd-*"))
    verdicts = in_parallel(lambda row: hsd.run_tests(*row[1:], timeout=1.0), rows, 4)
    assert [row[0] for row, passed in zip(rows, verdicts) if passed is not False] == []
    assert len(rows) >= 25 and (os.getcwd(), dict(os.environ)) == before
    assert set(Path(tempfile.gettempdir()).glob("hsd-*")) == folders


def test_programs_leave_nothing_behind(tmp_path):
    rows = [
        (program.replace("{marker}", str(tmp_path / name)), test)
        for name, program in PROGRAMS["SIDE_EFFECTS"]
        for test in ("assert f(3) == 9", {"input": "", "output": "9"})
    ]
    in_parallel(lambda row: hsd.run_tests(row[0], [row[1]], timeout=1.0), rows, 4)
    time.sleep(2)
    assert list(tmp_path.iterdir()) == []


def test_what_a_program_may_do_to_its_arguments():
    clear = "def f(x):\n    x.clear()\n    return x\ndef g(x):\n    x.sort()\n"
    assert hsd.run_tests(clear, ["a = [2, 1]\ng(a)\nassert a == [1, 2]"])
    assert not hsd.run_tests(clear, ["a = [2, 1]\nassert f(a) == sorted(a)"])


def test_a_builtin_name_is_the_real_one_unless_it_is_what_is_tested():
    program = "def sum(a, b):\n    return a + b\ndef abs(x):\n    return 0\ndef f(x):\n    return x\n"
    assert hsd.run_tests(program, ["assert sum(10, 15) == 25"])
    assert not hsd.run_tests(program, ["assert abs(f(2) - 4) < 1e-6"])


def test_bad_tests_are_an_error_and_no_reward(tmp_path):
    for bad in (3, {"input": "x"}, {"input": "x", "output": 3}, None):
        with pytest.raises(hsd.InputError, match="a test is asserts"):
            hsd.run_tests("x = 1", [bad])
    with pytest.raises(hsd.InputError, match="What is it"):
        hsd.verify(Problem("What is it?"), "5")
    data = tmp_path / "x.jsonl"
    data.write_text('{"question": "a", "answer": 1}\n{"question": "b", "tests": [7]}\n')
    with pytest.raises(hsd.InputError, match=r"x.jsonl:2: a test is asserts"):
        hsd.load_problems(data)


def test_verify_takes_the_last_fenced_block():
    problem = Problem("Double it.", tests=("assert f(2) == 4",))
    wrong, right = "def f(x):\n    return 0\n", "def f(x):\n    return 2 * x\n"
    text = "First\n```python\n{}```\nthen\n```python\n{}```\nDone."
    assert hsd.verify(problem, text.format(wrong, right)) is True
    assert hsd.verify(problem, text.format(right, wrong)) is False
    assert hsd.verify(problem, right) is False  # no block


def test_where_nothing_confines_programs_they_are_refused(monkeypatch):
    """A kernel without Landlock, played by a sandbox.py that calls a number no kernel has."""
    text = (ROOT / "data" / "sandbox.py").read_text().replace("= 444, 445, 446", "= 9444, 445, 446")
    assert "9444" in text
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sandbox.py").write_text(text)
        monkeypatch.setattr(hsd, "DATA", Path(folder))
        with pytest.raises(hsd.InputError, match="cannot be tested here: .*does not confine"):
            hsd.run_tests("def f(x): return x", ["assert f(1) == 1"])
        with pytest.raises(hsd.InputError, match="cannot be tested here"):
            hsd.run_tests("print(1)", [{"input": "", "output": "1"}])


def test_our_problems_have_answers_that_can_be_read_and_tests_that_can_be_failed():
    math, code = (hsd.load_problems(ROOT / "data" / f"{name}.jsonl") for name in ("math", "code"))
    assert len(math) >= 100 and len(code) >= 30
    assert len({p.question for p in math + code}) == len(math) + len(code)
    variants = in_parallel(
        lambda p: (
            hsd.math_equal(f"\\displaystyle {p.answer}.", p.answer),
            hsd.math_equal(f"{p.answer} + 1" if p.answer[-1].isdigit() else "0", p.answer),
        ),
        math,
    )
    assert variants == [(True, False)] * len(math)
    assert not any(in_parallel(lambda p: hsd.run_tests("def f(x): return 0", p.tests), code))
    kinds = {type(test) for problem in code for test in problem.tests}
    assert kinds == {str, dict}


def test_our_code_problems_are_solved_by_their_solutions():
    make = hsd.script("make_problems.py")
    solutions = {make["with_example"](p): p.solution for p in make["CODE"]}
    code = hsd.load_problems(ROOT / "data" / "code.jsonl")
    assert all(in_parallel(lambda p: hsd.run_tests(solutions[p.question], p.tests), code))


def test_a_run_on_programs_learns_from_their_verdicts(tiny, tmp_path):
    """Peers of code: the context is the peer alone, and feedback never quotes a number in it."""
    tokenizer, _ = tiny
    problem = Problem("Add.", tests=("assert f(1) == 2",))
    group = [Rollout(problem, [1], [30, 31], "x 7", False, reward=float(i == 0)) for i in range(3)]
    config = config_for(tmp_path)
    hsd.give_contexts(group, "answer+peer", [], config, tokenizer, random.Random(0))
    assert [list(r.context) for r in group] == [[], ["peer"], ["peer"]]
    hsd.give_contexts(group, "feedback", [], config, tokenizer, random.Random(0))
    assert group[1].context == {"feedback": "It is not correct."}


# ---- one GPU, many GPUs --------------------------------------------------------------------------


def test_a_prompt_that_several_share_is_read_once_and_changes_nothing(monkeypatch):
    model, rollouts = random_model(), some_rollouts(9)
    model.config.max_position_embeddings = 1024
    rng = random.Random(1)
    prompts = [[rng.randrange(64) for _ in range(300)] for _ in range(2)]
    prompts = [prompts[0]] * 4 + [prompts[1]] * 3 + [r.prompt for r in rollouts[7:]]
    responses = [r.response for r in rollouts]
    read, forward = [], model.base_model.forward

    def counting(input_ids, **more):
        read.append(input_ids.numel())
        return forward(input_ids, **more)

    monkeypatch.setattr(model.base_model, "forward", counting)
    with torch.no_grad():
        shared, _ = hsd.hidden_and_head(model, prompts, responses)
        tokens = sum(read)
    for p, r, got in zip(prompts, responses, shared.split([len(r) for r in responses])):
        want = forward(torch.tensor([p + r[:-1]])).last_hidden_state[0, len(p) - 1 :]
        assert torch.allclose(got, want, atol=2e-5)
    assert tokens < 2 * 300 + 4 * 9 * max(map(len, responses)) < 7 * 300
    apart, _ = hsd.hidden_and_head(model, prompts, responses)  # with gradients nothing is shared
    assert torch.allclose(apart, shared, atol=2e-5) and apart.requires_grad


def test_rows_that_go_together_are_of_like_length_and_none_is_lost():
    rng = random.Random(0)
    prompts = [[1] * rng.randint(1, 50) for _ in range(40)]
    responses = [[1] * rng.randint(1, 200) for _ in range(40)]
    passes = hsd.rows_to_read(prompts, responses)
    assert sorted(i for rows, _ in passes for i in rows) == list(range(40))
    for rows, prefix in passes:
        lengths = [len(prompts[i]) + len(responses[i]) for i in rows]
        assert not prefix and min(lengths) >= 0.875 * max(lengths)


def test_micro_batches_keep_to_their_budget_and_keep_prefixes_together():
    rollouts = some_rollouts(30)
    for i, r in enumerate(rollouts):
        r.teacher_prompt = [i % 4] * 5
    batches = hsd.micro_batches(rollouts, 60)
    assert sorted(map(id, rollouts)) == sorted(id(r) for b in batches for r in b)
    for batch in batches:
        assert len(batch) == 1 or sum(len(r.prompt) + len(r.response) for r in batch) <= 60
    order = [r.teacher_prompt[0] for batch in batches for r in batch]
    assert len([i for i in range(1, 30) if order[i] != order[i - 1]]) == 3


def test_continuous_batching_gives_the_tokens_of_generate(tiny):
    tokenizer, model = tiny
    problems = hsd.load_problems(ROOT / "data" / "eval.jsonl")[:24]
    prompts = [hsd.prompt_ids(tokenizer, hsd.request(p)) for p in problems]
    stops = hsd.stop_tokens(model, tokenizer)
    greedy = hsd.sampling_settings(Config(temperature=0.0, max_new_tokens=72), stops)
    whole = [hsd.cut_at_stop(ids, stops) for ids in hsd.generate(model.eval(), prompts, greedy)]
    batch = hsd.generate_batch(model, prompts, greedy, 0, 16)
    assert [hsd.cut_at_stop(ids, stops) for ids in batch] == whole
    drawn = hsd.sampling_settings(Config(temperature=1.0, max_new_tokens=72), stops)
    some = prompts[:4] * 8
    responses = [hsd.cut_at_stop(ids, stops) for ids in hsd.generate_batch(model, some, drawn, 1, 32)]
    assert all(r[-1] in stops or len(r) == 72 for r in responses)
    assert len({tuple(r) for r in responses[::4]}) > 1  # copies of a prompt differ
    assert model.config._attn_implementation == "sdpa"
    before = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():  # no stale cache: the next call sees changed weights
        for p in model.parameters():
            p.mul_(1.1)
    changed = [hsd.cut_at_stop(ids, stops) for ids in hsd.generate(model, prompts, greedy)]
    batch = hsd.generate_batch(model, prompts, greedy, 0, 16)
    with torch.no_grad():
        for p, old in zip(model.parameters(), before):
            p.copy_(old)
    assert [hsd.cut_at_stop(ids, stops) for ids in batch] == changed != whole


def test_a_failed_rollout_raises(tiny, monkeypatch):
    tokenizer, model = tiny
    settings = hsd.sampling_settings(Config(max_new_tokens=8), hsd.stop_tokens(model, tokenizer))

    def broken(*_, **__):
        raise ValueError("no luck")

    monkeypatch.setattr(model.base_model.layers[0], "forward", broken)
    with pytest.raises((RuntimeError, ValueError), match="no luck"):
        hsd.generate_batch(model, [[5, 6, 7]], settings, 0, 4)


def test_two_processes_give_the_rollouts_losses_and_weights_of_one(tmp_path):
    flags = {
        **{"steps": 2, "questions_per_step": 5, "group_size": 4, "eval_questions": 6},
        **{"eval_samples": 2, "rollout_batch": 8, "micro_batch_tokens": 700, "compile": False},
        **{"show_credit": 0, "save_every": 1},
    }
    flags = [f"--{k}={v}" for k, v in flags.items()]
    hsd.main([*flags, "--out", str(tmp_path / "one")])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, str(ROOT / "hsd.py"), *flags, "--out", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True)
    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert len(one) == len(two) == 4
    for a, b in zip(one, two):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=2e-4, abs=1e-7), name
    a, b = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name / "checkpoint").state_dict()
        for name in ("one", "two")
    )
    start = AutoModelForCausalLM.from_pretrained(ROOT / "data" / "tiny-qwen3").state_dict()
    moved = math.sqrt(sum((a[k] - start[k]).square().sum().item() for k in a))
    apart = math.sqrt(sum((a[k] - b[k]).square().sum().item() for k in a))
    assert apart < 0.01 * moved
    # what two have saved, one goes on from
    flags = ["--steps=3" if flag == "--steps=2" else flag for flag in flags]
    hsd.main([*flags, "--resume", "--out", str(tmp_path / "two")])
    assert [row["step"] for row in rows_of(tmp_path / "two")] == [0, 1, 2, 2, 3, 3]


def test_gradient_checkpointing_changes_no_gradient(tmp_path):
    sums = []
    for checkpointing in (False, True):
        model, rollouts = random_model(), some_rollouts(6)
        config = config_for(tmp_path, gradient_checkpointing=checkpointing, beta=0.0)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        models = hsd.Models(model, model, None)
        for r in rollouts:
            r.context, r.weight = {"peer": "x"}, 1 / len(r.response)
        hsd.batch_loss(models, rollouts, 0, config)[0].backward()
        sums.append([p.grad for p in model.parameters()])
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(*sums))
    assert any(x.abs().max() > 1e-3 for x in sums[0])


SMALL = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 256, "head_dim": 8}
SMALL |= {"num_attention_heads": 8, "num_key_value_heads": 2}
QWEN3_8B = Qwen3Config(
    vocab_size=151_936,
    hidden_size=4096,
    intermediate_size=12_288,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=False,
)


def test_the_memory_plan_of_qwen3_8b_by_hand():
    config = Config(model="elsewhere")  # the paper's values
    plan = PLAN["memory_plan"](config, QWEN3_8B, gpu=85e9, host=128e9, ranks=1)
    parts = {name: (where, size) for name, where, _, size in plan.parts}
    N = 8_190_735_360
    assert parts["weights"] == ("gpu", 2 * N) == parts["pi_0 or frozen teacher"]
    assert parts["gradient sums, float32"] == ("gpu", 4 * N)
    assert parts["master weights and moments, float32"] == ("host", 12 * N)
    assert plan.complaint() is None and plan.optimizer_device == "host"
    assert 70e9 < plan.needs("gpu") < 82.5e9 and plan.needs("host") == 12 * N
    small = PLAN["memory_plan"](config, QWEN3_8B, gpu=48e9, host=128e9, ranks=1)
    assert "GB of GPU memory, and 45.5 are here: try a smaller --micro" in small.complaint()
    poor = PLAN["memory_plan"](config, QWEN3_8B, gpu=150e9, host=64e9, ranks=1)
    assert "98.3 GB of host memory, and 64.0 are here" in poor.complaint()
    eight = PLAN["memory_plan"](config, QWEN3_8B, gpu=85e9, host=1e12, ranks=8)
    assert eight.optimizer_device == "gpu" and eight.complaint() is None
    text = PLAN["memory_plan"](Config(model="x", method="grpo", beta=0.0), QWEN3_8B, 1, 1, 1).table()
    assert "pi_0" not in text and "weights" in text


def test_a_run_that_cannot_fit_is_refused_before_anything_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PLAN["make_plan"].__globals__, "this_machine", lambda: (0, 1e6))
    with pytest.raises(SystemExit) as stop:
        hsd.main(["--steps", "0", "--out", str(tmp_path / "run")])
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert "GB of host memory" in capsys.readouterr().err.splitlines()[-1]


def test_qwen3_8bs_own_configuration_is_read_by_the_program(tmp_path, capsys):
    """Random weights of its shape but for the sizes: untied head, bf16 weights, stop tokens."""
    config = Qwen3Config(**{**QWEN3_8B.to_dict(), **SMALL})
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.generation_config.eos_token_id = [1, 2]
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(ROOT / "data" / "tiny-qwen3").save_pretrained(tmp_path / "model")
    flags = [f"--{k}={v}" for k, v in {**SHORT, "steps": 1, "gradient_checkpointing": True}.items()]
    data = [f"--{k}_data={ROOT / 'data' / k}.jsonl" for k in ("train", "eval")]
    hsd.main([*flags, *data, f"--model={tmp_path / 'model'}", f"--out={tmp_path / 'run'}"])
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [0, 1, 1]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint")
    assert type(again) is Qwen3ForCausalLM and not again.config.tie_word_embeddings
    # not a multiple of anything: a stop token of the model's own generation_config ends a rollout
    assert set(again.generation_config.eos_token_id) == {1, 2}
