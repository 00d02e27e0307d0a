"""The lab: is the credit right, and does it help? What a tiny model can tell, since the truth is
known there: each question has one right path, so a failed rollout's first wrong token is known.

    python data/lab.py            what data/lab/ lacks; then the tables of both README.md, and lab.svg
    python data/lab.py --quick    a small part in runs/lab/, to see it work

base       The model before training, on n = 4, 8, 16 steps of which k = 2 are of kinds that it gets
           wrong; and coverage (Eq. 12) for G = 4, 8, 16
credit     How well does the credit of each context find the first wrong token? Controls: a wrong
           sibling, and the right path of another question
value      The ideal credit of Proposition 1, log V(h o_t) - log V(h), from 64 continuations of
           every prefix; V is the student's own chance of success
rates      Each method, and the controls, at three learning rates, on validation questions
early      After 1,024 rollouts, at the best rate for that: five seeds, held-out questions
late       After 2,048 rollouts, likewise
length     hsd, grpo, grpo+opsd on n = 4, 8, 16, after 1,024 rollouts, three seeds
stability  The live teacher, 5,120 rollouts, and what may mend it, two seeds
variants   HSD and GRPO as in `late`, with one thing changed, three seeds

To measure anew, delete the rows: data/lab/*.json.
"""

import argparse
import copy
import itertools
import json
import math
import os
import random
import statistics
import sys
from dataclasses import fields, replace
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"  # two runs at once; threads that spin slow both
import torch
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import hsd

peer = hsd.answer_and_peer
CONTEXTS = {
    "answer and peer (HSD)": peer,
    "peer alone (SDPO)": hsd.peer_alone,
    "reference solution (SDFT)": hsd.solution_alone,
    "answer alone (OPSD)": hsd.answer_alone,
    "control: a failed sibling": lambda r: [("peer", r.sibling.text)],
    "control: another question's path": lambda r: [("peer", r.other.solution)],
}


# ---- Is the credit right? ------------------------------------------------------------------------
def failed_rollouts(models, tokenizer, problems, config, count):
    """At most `count` failed rollouts that have a peer and a failed sibling, one a question; each
    with .sibling, another failed one, .other, a question, .first, its first wrong token, and .rate,
    the share of its group's 16 that are right."""
    groups = hsd.sample_groups(models.student, tokenizer, problems, 16, config, "lab")
    hsd.verify_rollouts([r for group in groups for r in group])
    rng, found = random.Random(0), []
    for group, other in zip(groups, problems[1:] + problems[:1]):
        hsd.choose_peers(group, "uniform", rng)
        failed = [r for r in group if not r.reward and not r.truncated]
        if len(failed) < 2 or not failed[0].peer:
            continue
        r, r.sibling = failed[:2]
        r.other, r.rate = other, hsd.mean(x.reward for x in group)
        r.path = tokenizer(r.problem.solution, add_special_tokens=False).input_ids
        r.first = hsd.divergence_point(r.response, r.path)
        found += [r] if r.first < len(r.path) else []
    return found[:count]


def credits(models, tokenizer, rollouts, context, config):
    """Copies of some rollouts, with their credit A_t (Eq. 2), [T], under a context."""
    read = [copy.copy(r) for r in rollouts]
    for r in read:
        hsd.condition_teacher(r, context, tokenizer, config)
    hsd.set_credit(hsd.Models(models.student, models.student, None), read, config)
    return read


def figures(credit, first):
    """Of one rollout: is its most negative token the first wrong one; the share of |A| on that one
    and the next; how many of the other tokens have more credit (the AUROC of -A); mean |A| on all
    others. A constant has rank .5, and hits one time in T."""
    size, T = credit.abs(), len(credit)
    if not (credit != credit[0]).any():
        return [1 / T, min(2, T - first) / T, 0.5, size[0].item()]
    others = torch.cat([credit[:first], credit[first + 1 :]])
    auroc = ((others > credit[first]).float() + 0.5 * (others == credit[first])).mean()
    near = size[first : first + 2].sum()
    rest = (size.sum() - near) / max(1, T - 2)
    hit = float(credit.argmin() == first)
    return [hit, (near / size.sum()).item(), auroc.item(), rest.item()]


def interval(values, draws=2000):
    """(mean, lowest, highest): the middle 95% of the means of resampled rollouts."""
    x, g = torch.tensor(values), torch.Generator().manual_seed(0)
    means = x[torch.randint(len(x), (draws, len(x)), generator=g)].mean(1)
    ends = means.quantile(torch.tensor([0.025, 0.975]))
    return [x.mean().item(), *ends.tolist()]


def summary(name, read):
    """A row: the figures of a context over rollouts, with intervals; mean |A| by tenth."""
    each = zip(*(figures(r.credit, r.first) for r in read))
    row = {k: interval(v) for k, v in zip(("hit", "share", "auroc", "elsewhere"), each)}
    tenths = [[x.abs().mean() for x in r.credit.tensor_split(10)] for r in read]
    row["tenths"] = torch.tensor(tenths).nanmean(0).tolist()
    return {"context": name, "rollouts": len(read), **row}


def localisation(read):
    """Rows, by difficulty (Tables 4 and 5): median tau and peak, share of |A| near tau."""
    rows = []
    for name, low, high in (("hard", 0, 0.2), ("medium", 0.2, 0.5), ("easy", 0.5, 1)):
        if some := [r for r in read if low < r.rate <= high]:
            row = {"difficulty": name, "rollouts": len(some)}
            row["tau"] = statistics.median(r.first for r in some)
            row["peak"] = statistics.median(r.credit.abs().max().item() for r in some)
            rows.append(row | {f"within {w}": hsd.credit_share(some, w) for w in (2, 4, 8, 16)})
    return rows


def credit_rows(models, tokenizer, problems, config, count):
    """A row for each context; failed siblings also apart, by whether they go wrong later; and the
    localisation of HSD's credit."""
    rollouts, rows, where = failed_rollouts(models, tokenizer, problems, config, count), [], []
    for name, context in CONTEXTS.items():
        read = credits(models, tokenizer, rollouts, context, config)
        rows.append(summary(name, read))
        where += localisation(read) if context is peer else []
        for text, want in (("later", True), ("there or before", False)) if "sib" in name else ():
            some = [
                r
                for r in read
                if (hsd.divergence_point(r.sibling.response, r.path) > r.first) == want
            ]
            if some:
                rows.append(summary(f"control: a failed sibling that errs {text}", some))
    for r in read:
        r.credit = torch.full((len(r.response),), -1.0)
    return [*rows, summary("a constant (GRPO)", read), *where]


def values(models, tokenizer, rollout, config, n=64):
    """V(h), [T+1], the student's chance of success from every prefix of a rollout: n continuations
    each, with half a success and half a failure added."""
    T, student = len(rollout.response), models.student
    prompts, problems = (
        [rollout.prompt + rollout.response[:t] for t in range(T)],
        [rollout.problem] * T,
    )
    groups = hsd.sample_groups(student, tokenizer, problems, n, config, "values", prompts=prompts)
    for t, group in enumerate(groups):
        for r in group:
            whole = rollout.response[:t] + r.response
            r.text = tokenizer.decode(whole, skip_special_tokens=True)
    hsd.verify_rollouts([r for group in groups for r in group])
    successes = [sum(r.reward for r in group) for group in groups] + [n * rollout.reward]
    return [(s + 0.5) / (n + 1) for s in successes]


def value_rows(models, tokenizer, problems, config, count):
    """How often the largest fall of log V is at the first wrong token, V before and after it, and
    the correlation of each context's credit with the ideal one, over all tokens."""
    rollouts = failed_rollouts(models, tokenizer, problems, config, count)
    V = [values(models, tokenizer, r, config) for r in rollouts]
    ideal = [torch.tensor([math.log(b / a) for a, b in itertools.pairwise(v)]) for v in V]
    agree = [float(x.argmin() == r.first) for x, r in zip(ideal, rollouts)]
    before = [v[r.first] for v, r in zip(V, rollouts)]
    after = [v[r.first + 1] for v, r in zip(V, rollouts)]
    rows = [{"agree": interval(agree), "before": interval(before), "after": interval(after)}]
    rows[0]["rollouts"] = len(rollouts)
    for name, context in CONTEXTS.items():
        read = credits(models, tokenizer, rollouts, context, config)
        pair = torch.stack([torch.cat([r.credit for r in read]), torch.cat(ideal)])
        rows.append({"context": name, "correlation": torch.corrcoef(pair)[0, 1].item()})
    return rows


def base_rows(models, tokenizer, problems, config, count):
    """A row for each length, with 8 samples of each of count / 2 questions, and how many tokens of a
    failed rollout had a chance below .9; for each G, coverage as it is, and by Eq. 12 from p, which
    64 other samples tell."""
    rows = []
    for n in (4, 8, 16):
        chains = hsd.load_problems(str(HERE / f"questions/eval-{n}.jsonl"))[: count // 2]
        row, failed = hsd.evaluate(models, tokenizer, chains, config, 0)
        hsd.set_logp(models.student, failed, hsd.METHODS["hsd"], config)
        row["unsure"] = hsd.mean((r.logp < math.log(0.9)).sum() for r in failed)
        rows.append({"n": n, "questions": len(chains), **row})
    groups = hsd.sample_groups(models.student, tokenizer, problems[:count], 80, config, "coverage")
    hsd.verify_rollouts([r for group in groups for r in group])
    rewards = torch.tensor([[r.reward for r in group] for group in groups])  # [Q,80]
    others = rewards[:, 16:].sum(1).int().tolist()
    for G in (4, 8, 16):
        right = rewards[:, :16].reshape(-1, G).sum(1)
        covered = ((G - right) * (right > 0)).mean().item() / G
        # f(p, G) is pass@G less p, of which this is the unbiased estimate
        eq12 = hsd.mean(hsd.pass_at_k(64, c, G) - c / 64 for c in others)
        rows.append({"G": G, "coverage": covered, "Eq. 12": eq12})
    return rows


INSTRUMENTS = {"value": value_rows, "credit": credit_rows, "base": base_rows}


# ---- Does it help? -------------------------------------------------------------------------------
# gspo's gradient is grpo's, where each batch takes one update: its runs would be grpo's
PLAIN = {name: {"method": name} for name in hsd.METHODS if name != "gspo"}
PLAIN["control: a failed sibling"] = {"method": "sdpo", "peers": "failed"}
PLAIN["control: another question's path"] = {"method": "sdpo", "peers": "other"}
LENGTH = {name: PLAIN[name] for name in ("hsd", "grpo", "grpo+opsd")}
MORE_METHODS = {
    "no fallback": hsd.Method(lambda r: peer(r) if r.peer else [], distill_weight=1.0),
    "failures only": hsd.Method(lambda r: [] if r.reward else peer(r), distill_weight=1.0),
    "peer or answer": hsd.Method(
        lambda r: hsd.peer_alone(r) or hsd.answer_alone(r), distill_weight=1.0
    ),
}
VARIANTS = {  # HSD, or GRPO, with one thing changed; Q x G is always 128
    "`--window w`, w =": {f"{w}": {"window": w} for w in (2, 4, 8, 16)},
    "likewise, with the weights of what is kept, w =": {"8": {"window": 8, "kept": 1}},
    "without": {"the fallback": {"method": "no fallback"}, "a*": {"method": "peer or answer"}},
    "G =": {f"{G}": {"group_size": G, "questions_per_step": 128 // G} for G in (4, 16)},
    "beta =": {f"{beta:g}": {"beta": beta} for beta in (0.0, 0.1)},
    "wrong verdicts": {f"{p:.0%}": {"noise": p} for p in (0.05, 0.2)},
    "grpo, wrong verdicts": {f"{p:.0%}": {"noise": p, "method": "grpo"} for p in (0.05, 0.2)},
    "the live teacher": {m: {"method": m, "teacher": "live"} for m in ("opsd", "grpo+opsd")},
}
CHANGED = {f"{k} {x}": flags for k, some in VARIANTS.items() for x, flags in some.items()}
LIVE = {"method": "hsd", "teacher": "live", "learning_rate": 3e-4, "steps": 40, "every": 10}
STABILITY = {
    "live": {},
    "frozen": {"teacher": "frozen"},
    "ema": {"teacher": "ema"},
    "live, no fallback": {"method": "no fallback"},
    "live, failures only": {"method": "failures only"},
    "live, eps 1e-4": {"eps": 1e-4},
    "live, beta .3": {"beta": 0.3},
    "live, rate to 0": {"decay": True},
    "live, context mode held": {"anchor": 0.3},
}
SHORT = {"steps": 8, "every": 8}
EXPERIMENTS = {  # rows, seeds, what all runs share, and which evaluation chooses the rate
    "rates": (PLAIN, [100], {}, None),
    "length rates": (LENGTH, [100], {}, None),
    "early": (PLAIN, range(5), SHORT, 0),
    "late": (PLAIN, range(5), {}, 1),
    "length": (LENGTH, range(3), SHORT, 0),
    "stability": (STABILITY, range(2), LIVE, None),
    "variants": (CHANGED, range(3), {}, 1),
}
RATES = (3e-4, 1e-3, 3e-3)  # at the last all methods stay below .6; on fixed n it is not tried
FIELDS = {field.name for field in fields(hsd.Config)}


def changes(spec, config, problems):
    """The functions of hsd.py that a spec replaces while it trains."""
    rng, verify, weigh = random.Random(config.seed), hsd.verify_rollouts, hsd.set_weights
    others = dict(zip((p.question for p in problems), problems[1:] + problems[:1]))

    def peers(group, rule, rng):
        for r in group:
            r.peers = [x for x in group if x is not r and not x.reward]
            if spec["peers"] == "other":
                other = others[r.problem.question]
                r.peers = [hsd.Rollout(other, [], [], other.solution)]
            rng.shuffle(r.peers)

    def noisy(rollouts):
        verify(rollouts)
        for r in rollouts:
            r.reward = 1 - r.reward if rng.random() < spec.get("noise", 0) else r.reward

    def weights(part, *rest):
        weigh(part, *rest)
        for r in part if "kept" in spec else ():
            r.loss_weight *= len(r.response) / len(hsd.cut_at_window(r, config.window).response)
        # copies that bring beta's term alone, read under the teacher's prompt
        for r in part[:] if "anchor" in spec else ():
            own = {"loss_weight": r.loss_weight * spec["anchor"] / config.beta}
            own["mean_weight"] = 0.0
            part.append(replace(r, prompt=r.teacher_prompt, context=[], **own))

    chooser = peers if "peers" in spec else hsd.choose_peers
    return {"verify_rollouts": noisy, "set_weights": weights, "choose_peers": chooser}


def learn(spec):
    """One run: figures of each step, and its evaluations."""
    hsd.METHODS.update(MORE_METHODS)
    n, asked = spec["n"], "valid" if "rates" in spec["experiment"] else "eval"
    more = {"steps": 16, "eval_questions": 128}
    more |= {"max_new_tokens": 48 + 8 * n, "rollout_tokens": 32_768} if n else {}
    for name, stem in (("train_data", "train"), ("eval_data", asked)):
        path = f"questions/{stem}-{n}" if n else stem.replace("valid", "questions/valid")
        more[name] = [str(HERE / f"{path}.jsonl")]
    config = hsd.Config(**hsd.LAB | more | {k: v for k, v in spec.items() if k in FIELDS})
    problems, held_out = hsd.load_data(config)
    tokenizer, models = hsd.load_models(config)
    optimizer, rows, evaluations = hsd.adamw(models.student, config), [], []
    optimizer.param_groups[0]["eps"] = spec.get("eps", 1e-8)
    changed = changes(spec, config, problems)
    for step in range(config.steps):
        rate = config.learning_rate * (1 - step / config.steps if "decay" in spec else 1)
        optimizer.param_groups[0]["lr"] = rate
        batch = hsd.questions_of_step(problems, step, config)
        with mock.patch.multiple(hsd, **changed):
            rows.append(hsd.train_step(models, optimizer, tokenizer, batch, step, config))
        if (step + 1) % spec.get("every", 8) == 0:
            row = hsd.evaluate(models, tokenizer, held_out, config, step + 1)[0]
            evaluations.append({k: round(v, 4) for k, v in row.items()})
    curves = ("reward", "kl", "grad_norm", "peer_share", "response_tokens")
    curves = {k: [round(row[k], 5) for row in rows] for k in curves if k in rows[0]}
    return [curves | {"evaluations": evaluations}]


def measure(spec):
    """(spec, its rows), in a process of its own."""
    torch.set_num_threads(1)
    hsd.transformers.utils.logging.disable_progress_bar()
    hsd.progress = lambda iterable, *_: iterable  # the bar is of all runs
    if "seed" in spec:
        return spec, learn(spec)
    more = {"beta": 0.0, "teacher": "live", "compile": False, "max_new_tokens": 176}
    config = hsd.Config(**hsd.LAB | more)
    tokenizer, models = hsd.load_models(config)
    problems = hsd.load_problems(config.eval_data[0])[: 3 * spec["count"]]
    rows = INSTRUMENTS[spec["experiment"]](models, tokenizer, problems, config, spec["count"])
    return spec, rows


# ---- All runs ------------------------------------------------------------------------------------
def of(rows, **want):
    """The rows that have these values."""
    return [row for row in rows if all(row.get(k) == v for k, v in want.items())]


def best_rate(rows, row, n, when):
    """The learning rate with the highest pass@1 on validation questions, once all are tried."""
    tried = of(rows["length rates" if n else "rates"], row=row, n=n)
    scores = {r["learning_rate"]: r["evaluations"][when]["eval/pass@1"] for r in tried}
    return max(scores, key=scores.get) if len(scores) == len(RATES[: 2 if n else 3]) else None


def specs(rows, quick):
    """What is to be measured, as far as the learning rates are known."""
    counts = {"value": 64, "credit": 128, "base": 128}
    found = [{"experiment": k, "count": 8 if quick else n} for k, n in counts.items()]
    if quick:
        spec = {"experiment": "early", "seed": 0, "n": None, "learning_rate": 1e-3, **SHORT}
        return found + [{**spec, "row": row, **flags} for row, flags in PLAIN.items()]
    for name, (table, seeds, shared, when) in EXPERIMENTS.items():
        lengths = (16, 8, 4) if "length" in name else (None,)
        for seed, n, row in itertools.product(seeds, lengths, table):
            spec = {"experiment": name, "row": row, "seed": seed, "n": n, **shared, **table[row]}
            like = row if row in PLAIN else spec.get("method", "hsd")
            like = like if like in PLAIN else "hsd"
            rates = RATES[: 2 if n else 3]
            if "rates" not in name:
                rates = [spec.get("learning_rate") or best_rate(rows, like, n, when)]
            found += [{**spec, "learning_rate": rate} for rate in rates if rate]
    return found


def order(row):
    """Of the rows in a file."""
    keys = {"row": "", "n": 0, "learning_rate": 0, "seed": 0}
    return [row.get(key) or first for key, first in keys.items()]


def run(rows, folder, quick):
    """Measures what is missing, two at a time, and writes each result when it is there."""
    with get_context("spawn").Pool(2) as pool:
        while todo := [s for s in specs(rows, quick) if not of(rows[s["experiment"]], **s)]:
            for spec, new in tqdm(pool.imap_unordered(measure, todo), "lab", len(todo)):
                name, path = spec["experiment"], folder / f"{spec['experiment']}.json"
                rows[name] = sorted(rows[name] + [spec | row for row in new], key=order)
                lines = ",\n".join(map(json.dumps, rows[name]))
                (folder / "new").write_text(f"[\n{lines}\n]\n")
                (folder / "new").rename(path)


# ---- Tables and figure ---------------------------------------------------------------------------
def table(columns, rows):
    """Markdown."""
    rows = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def spread(values, form=".3f"):
    """The mean and its standard error."""
    x = torch.tensor(values, dtype=torch.float64)
    error = f" ± {x.std().item() / len(x) ** 0.5:{form}}" if len(x) > 1 else ""
    return f"{x.mean().item():{form}}{error}"


def shown(runs, when, key="eval/pass@1", form=".3f"):
    """A figure of an evaluation."""
    return spread([run["evaluations"][when][key] for run in runs], form) if runs else ""


def until(run, level=0.8):
    """Rollouts until the mean reward of three steps, each on new questions, reaches a level."""
    threes = [sum(run["reward"][i : i + 3]) / 3 for i in range(len(run["reward"]) - 2)]
    return next((128 * (i + 3) for i, reward in enumerate(threes) if reward >= level), math.inf)


def reached(runs):
    """Rollouts until .8, if all runs come there."""
    ends = [until(run) for run in runs]
    return spread(ends, ",.0f") if max(ends) < math.inf else "not all"


def credit_table(rows, value):
    """Contexts down, figures across."""
    correlation = {r["context"]: f"{r['correlation']:.2f}" for r in value if "context" in r}
    columns = ["context of the teacher", "most negative token is the first wrong one"]
    columns += ["share of \\|A\\| on it and the next", "AUROC", "mean \\|A\\| elsewhere, nats"]
    cells = []
    for row in (row for row in rows if "context" in row):
        name = row["context"] + (f", n = {row['rollouts']}" if "errs" in row["context"] else "")
        shares = ["{:.2f} ({:.2f} to {:.2f})".format(*row[key]) for key in ("hit", "share")]
        rest = "" if "GRPO" in name else f"{row['elsewhere'][0]:.3f}"
        auroc = f"{row['auroc'][0]:.2f}"
        cells.append([name, *shares, auroc, rest, correlation.get(row["context"], "")])
    return table([*columns, "correlation with the ideal"], cells)


def learning_table(early, late):
    """Methods down."""
    columns = ["", "pass@1 after 1,024 rollouts", "rollouts until .8", "pass@1 after 2,048"]
    cells = []
    for name in PLAIN:
        runs, more = of(early, row=name), of(late, row=name)
        cells.append([name, f"{shown(runs, 0)} ({runs[0]['learning_rate']:g})", reached(runs)])
        rate = f" ({more[0]['learning_rate']:g})" if more else ""
        cells[-1] += [shown(more, 1) + rate, shown(more, 1, "eval/pass@8")]
    return table([*columns, "pass@8"], cells)


def summary_table(rows):
    """Four methods, for the README of the project."""
    columns = ["", "its most negative token is the first wrong one"]
    columns += ["pass@1 after 1,024 rollouts", "after 2,048"]
    cells = []
    for name in ("hsd", "sdpo", "grpo", "opsd"):
        hit = next(r["hit"] for r in rows["credit"] if f"({name.upper()})" in r.get("context", ""))
        early, late = (shown(of(rows[k], row=name), i) for i, k in enumerate(("early", "late")))
        cells.append([name, "{:.2f} ({:.2f} to {:.2f})".format(*hit), early, late])
    return table(columns, cells)


def stability_table(rows):
    """What was tried, down; steps across."""
    cells = []
    for name in STABILITY:
        runs = of(rows, row=name)
        four = [shown(runs, when, form=".2f") for when in range(4)]
        cells.append([name, *four, shown(runs, 3, "eval/teacher_pass@1", ".2f")])
    columns = [f"step {step}" for step in (10, 20, 30, 40)]
    return table(["pass@1", *columns, "with a peer in the prompt, step 40"], cells)


def lines(rows):
    """The README's bullets: V, Figure 1, Tables 4 and 5, Eq. 12, and the variants."""
    (v,) = (row for row in rows["value"] if "agree" in row)
    found = [
        f"V falls from {v['before'][0]:.2f} to {v['after'][0]:.2f} at the first wrong token; its"
        " largest fall is there in {:.2f} ({:.2f} to {:.2f}) of the rollouts".format(*v["agree"])
    ]
    for r in (r for r in rows["credit"] if r.get("context") in list(CONTEXTS)[::3]):
        means = " ".join(f"{x:.3f}" for x in r["tenths"])
        found.append(f"mean |A| in each tenth of a rollout, {r['context']}: {means}")
    for r in (r for r in rows["credit"] if "difficulty" in r):
        near = ", ".join(f"{r[f'within {w}']:.2f}" for w in (2, 4, 8, 16))
        text = f"{r['difficulty']} questions (n = {r['rollouts']}): median tau {r['tau']:g},"
        text += f" peak {r['peak']:.1f} nats, share of |A| within 2, 4, 8, 16 tokens of tau"
        found.append(f"{text} {near}")
    some = (f"{r['coverage']:.2f} ({r['Eq. 12']:.2f})" for r in rows["base"] if "G" in r)
    found.append(f"coverage for G = 4, 8, 16, and by Eq. 12: {', '.join(some)}")
    title = "pass@1 after 1,024 and 2,048 rollouts at the rates of the latter, three seeds:"
    groups = {title: [(m, of(rows["late"], row=m)[:3]) for m in LENGTH]}
    for group, names in VARIANTS.items():
        groups[group] = [(name, of(rows["variants"], row=f"{group} {name}")) for name in names]
    for group, some in groups.items():
        each = [f"{name}: {shown(x, 0)}, {shown(x, 1)}" for name, x in some if x]
        found += [f"{group} {'; '.join(each)}"] if each else []
    return "\n".join(f"* {text}" for text in found)


def figure(rows):
    """data/lab.svg: against n, pass@1 after 1,024 rollouts, and rollouts until .8 where all runs of
    a method come there. Bars are standard errors."""
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 300" font-size="13"']
    parts[0] += ' font-family="sans-serif"><rect width="680" height="300" fill="#fff"/>'

    def write(x, y, text, colour="#333"):
        parts.append(f'<text x="{x}" y="{y}" fill="{colour}">{text}</text>')

    first = ("pass@1 after 1,024 rollouts", lambda run: run["evaluations"][0]["eval/pass@1"], 1)
    for left, (title, value, top) in ((50, first), (400, ("rollouts until .8", until, 1600))):
        write(left, 20, title)
        for quarter in range(5):
            parts.append(f'<path d="M{left} {240 - 50 * quarter}h250" stroke="#ddd"/>')
            write(left - 35, 244 - 50 * quarter, f"{top * quarter / 4:g}")
        for shift, (m, colour) in enumerate(zip(LENGTH, ("#c1121f", "#1d5b99", "#777"))):
            points = []
            for x, n in enumerate((4, 8, 16)):
                write(left + 40 + 80 * x, 260, f"n = {n}" if shift == 0 else "")
                at = [240 - 200 * value(run) / top for run in of(rows, row=m, n=n)]
                y = torch.tensor(at, dtype=torch.float64)
                if len(y) and y.isfinite().all():
                    points.append(f"{left + 50 + 80 * x + 4 * shift},{y.mean():.1f}")
                    bar = f"M{points[-1]}m0 {{0:.1f}}v-{{1:.1f}}"
                    bar = bar.format(y.std() / len(y) ** 0.5, 2 * y.std() / len(y) ** 0.5)
                    parts.append(f'<path d="{bar}" stroke="{colour}" stroke-width="2"/>')
            line = f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}"'
            parts.append(f'{line} stroke-width="2"/>')
            write(left + 80 * shift, 288, m, colour)
    return "\n".join([*parts, "</svg>\n"])


def tables(rows):
    """{mark in a README.md: what stands there}."""
    keys = ("eval/pass@1", "eval/pass@8", "eval/teacher_pass@1", "unsure")
    base = [[f"{r['n']}", *(f"{r[k]:.2f}" for k in keys)] for r in rows["base"] if "n" in r]
    columns = ["n", "pass@1", "pass@8", "self-teacher", "tokens of a failed rollout with p < .9"]
    found = {"base": table(columns, base)}
    found["credit"] = credit_table(rows["credit"], rows["value"])
    found["learning"] = learning_table(rows["early"], rows["late"])
    found["lines"], runs = lines(rows), rows["stability"]
    if runs:
        found |= {"stability": stability_table(runs), "summary": summary_table(rows)}
    return found


def read_rows(folder):
    """{experiment: its rows so far}."""
    paths = {name: folder / f"{name}.json" for name in (*INSTRUMENTS, *EXPERIMENTS)}
    return {k: json.loads(p.read_text()) if p.exists() else [] for k, p in paths.items()}


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small part, in runs/lab/")
    quick = parser.parse_args().quick
    folder = Path("runs/lab") if quick else HERE / "lab"
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_rows(folder)
    run(rows, folder, quick)
    if quick:
        return print("\n\n".join(tables(rows).values()))
    for name, new in tables(rows).items():
        path = (HERE.parent if name == "summary" else folder) / "README.md"
        before, start, rest = path.read_text(encoding="utf-8").partition(f"<!-- lab:{name} -->\n")
        _, end, after = rest.partition(f"<!-- /lab:{name} -->")
        if not start or not end:
            raise ValueError(f"{path} has no marks for {name}")
        path.write_text(before + start + f"{new}\n" + end + after, encoding="utf-8")
    (HERE / "lab.svg").write_text(figure(rows["length"]))


if __name__ == "__main__":
    main()
