"""The lab: is the credit right, and does it help? What a tiny model can tell, since the truth is
known there: which tokens of a rollout still lie on a right path, and where two right paths part.

    python data/lab.py            what data/lab/ lacks; then the tables of both README.md
    python data/lab.py --quick    a small part in runs/lab/, to see it work

base       The model before training: by length, by difficulty, with each context in its prompt
credit     How much of each context's credit, with each peer rule, falls on the first wrong token,
           and how much on choice tokens, where another right path begins?
value      The ideal credit of Proposition 1, log V(h o_t) - log V(h), from 64 continuations of
           every prefix; V is the student's own chance of success
rates      Each method, and the controls, at three learning rates, on validation questions
learning   The best of these rates: 2,048 rollouts, three seeds, held-out questions
variants   HSD and GRPO at 3e-4, where nothing collapses, with one thing changed, three seeds
stability  3,072 rollouts at a high rate, two seeds
length     hsd, grpo on n = 4, 8, 16, after 1,024 rollouts, two seeds

To measure anew, delete the rows: data/lab/*.json.
"""

import argparse
import copy
import itertools
import json
import math
import os
import random
import re
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
CONTEXTS = {  # name: what the teacher sees, which peer, and how many teachers are averaged
    "answer and peer (HSD)": (peer, "uniform", 1),
    "nearest peer": (peer, "nearest", 1),
    "shortest peer": (peer, "shortest", 1),
    "low-perplexity peer": (peer, "low_perplexity", 1),
    "high-perplexity peer": (peer, "high_perplexity", 1),
    "mean of up to 4 teachers": (peer, "uniform", 4),
    "peer alone (SDPO)": (hsd.peer_alone, "uniform", 1),
    "reference solution (SDFT)": (hsd.solution_alone, "uniform", 1),
    "answer alone (OPSD)": (hsd.answer_alone, "uniform", 1),
    "control: a failed sibling": (lambda r: [("peer", r.sibling.text)], "uniform", 1),
    "control: another question's path": (lambda r: [("peer", r.other.solution)], "uniform", 1),
}


# ---- Is the credit right? ------------------------------------------------------------------------
def read_path(rollout, tokenizer):
    """Set .first, the first token of a rollout from which no right path goes on, or its length,
    .side, the left side of its step, and .choices, the tokens before it where two right paths part:
    after the first operation of a step comes "=", or the next operation."""
    question = rollout.problem.question
    tokens = tokenizer.convert_ids_to_tokens(rollout.response)
    x, ops = int(question[:2]), re.findall(r"[-+][0-9]", question)
    choices, first = [], 0
    while first < len(tokens):
        right = ["\\boxed{", *f"{x:02d}", "}", tokenizer.eos_token]
        if ops:
            choice = first + 3  # behind two digits and an operation
            choices += [choice] if len(ops) > 1 else []
            size = 2 if len(ops) > 1 and tokens[choice : choice + 1] == ops[1:2] else 1
            right = [*f"{x:02d}", *ops[:size], "="]
            x = (x + sum(map(int, ops[:size]))) % 100
            right += [*f"{x:02d}", ";"]
            ops = ops[size:]
        common = hsd.divergence_point(tokens[first:], right)
        first += common
        if common < len(right):
            break
    rollout.first = first
    rollout.side = "".join(tokens[:first]).split(";")[-1].split("=")[0]
    rollout.choices = [t for t in choices if t < first]


def failed_rollouts(models, tokenizer, problems, config, count):
    """At most `count` failed rollouts that have a peer and a failed sibling, one a question; each
    with .sibling, another failed one, .other, a question, and .ranked, its peers by each rule."""
    groups = hsd.sample_groups(models.student, tokenizer, problems, 16, config, "lab")
    rollouts = [r for group in groups for r in group]
    hsd.verify_rollouts(rollouts)
    hsd.set_logp(models.student, rollouts, hsd.METHODS["hsd"], config)
    found = []
    for group, other in zip(groups, problems[1:] + problems[:1]):
        failed = [r for r in group if not r.reward and not r.truncated]
        if len(failed) < 2 or not any(r.reward for r in group):
            continue
        r, r.sibling = failed[:2]
        r.other, r.ranked = other, {}
        for rule in hsd.PEER_RULES:
            hsd.choose_peers(group, rule, random.Random(r.problem.question))
            r.ranked[rule] = r.peers
        read_path(r, tokenizer)
        found += [r] if r.first < len(r.response) else []
    return found[:count]


def credits(models, tokenizer, rollouts, name, config):
    """Copies of some rollouts, with their credit A_t (Eq. 2), [T], under a context; of several
    teachers, the mean of their probabilities takes the place of the one's."""
    context, rule, teachers = CONTEXTS[name]
    read, each = [], []
    for r in rollouts:
        some = []
        for other in r.ranked[rule][:teachers]:
            some.append(copy.copy(r))
            some[-1].peers = [other]
            hsd.condition_teacher(some[-1], context, tokenizer, config)
        each.append(some)
        read += some
    hsd.set_credit(hsd.Models(models.student, models.student, None), read, config)
    for some in each:
        credit = torch.stack([one.credit for one in some])
        some[0].credit = credit.logsumexp(0) - math.log(len(some))
    return [some[0] for some in each]


def figures(r):
    """Of one rollout with credit: is its most negative token the first wrong one, or a choice; the
    shares of |A| on these; mean A on the choices; is tau (Eq. 11) before the error; has the peer
    the very step in which the error is? A constant has its most negative token anywhere."""
    size, on = r.credit.abs(), r.choices
    worst = (r.credit == r.credit.min()).float()
    worst = worst / worst.sum()
    found = {"hit": worst[r.first], "blamed": worst[on].sum()}
    found |= {"error": size[r.first] / size.sum(), "choice": size[on].sum() / size.sum()}
    found["tau"] = hsd.divergence_point(r.response, r.peer.response) < r.first
    found["said"] = f";{r.side}=" in f";{r.peer.text}"
    if on:
        found["mean"] = r.credit[on].mean()
    return {k: float(v) for k, v in found.items()}


def interval(values, draws=2000):
    """(mean, lowest, highest): the middle 95% of the means of resampled rollouts."""
    x, g = torch.tensor(values), torch.Generator().manual_seed(0)
    means = x[torch.randint(len(x), (draws, len(x)), generator=g)].mean(1)
    return [x.mean().item(), *means.quantile(torch.tensor([0.025, 0.975])).tolist()]


def credit_rows(models, tokenizer, problems, config, count):
    """A row for each context: its figures over rollouts, with intervals."""
    rollouts, rows = failed_rollouts(models, tokenizer, problems, config, count), []
    for name in (*CONTEXTS, "a constant (GRPO)"):
        if name in CONTEXTS:
            read = credits(models, tokenizer, rollouts, name, config)
        else:
            for r in read:
                r.credit = torch.full((len(r.response),), -1.0)
        rows.append({"context": name, "rollouts": len(read)})
        each = [figures(r) for r in read]
        for key in ("hit", "blamed", "error", "choice", "mean", "tau", "said"):
            rows[-1][key] = interval([x[key] for x in each if key in x])
    return rows


def values(models, tokenizer, rollout, config, n=64):
    """V(h), [T+1], the student's chance of success from every prefix of a rollout: n continuations
    each, with half a success and half a failure added."""
    T, student = len(rollout.response), models.student
    prompts = [rollout.prompt + rollout.response[:t] for t in range(T)]
    problems = [rollout.problem] * T
    groups = hsd.sample_groups(student, tokenizer, problems, n, config, "values", prompts=prompts)
    for t, group in enumerate(groups):
        for r in group:
            whole = rollout.response[:t] + r.response
            r.text = tokenizer.decode(whole, skip_special_tokens=True)
    hsd.verify_rollouts([r for group in groups for r in group])
    successes = [sum(r.reward for r in group) for group in groups] + [n * rollout.reward]
    return [(s + 0.5) / (n + 1) for s in successes]


def value_rows(models, tokenizer, problems, config, count):
    """How often the largest fall of log V is at the first wrong token; V before and after it, and
    each choice; the correlation of each context's credit with the ideal one, over all tokens."""
    rollouts = failed_rollouts(models, tokenizer, problems, config, count)
    V = [values(models, tokenizer, r, config) for r in rollouts]
    ideal = [torch.tensor([math.log(b / a) for a, b in itertools.pairwise(v)]) for v in V]
    row = {"rollouts": len(rollouts)}
    row["agree"] = interval([float(x.argmin() == r.first) for x, r in zip(ideal, rollouts)])
    for after in (0, 1):
        row[f"error {after}"] = interval([v[r.first + after] for v, r in zip(V, rollouts)])
        choices = [v[t + after] for v, r in zip(V, rollouts) for t in r.choices]
        row[f"choice {after}"] = interval(choices)
    rows = [row]
    for name in CONTEXTS:
        read = credits(models, tokenizer, rollouts, name, config)
        pair = torch.stack([torch.cat([r.credit for r in read]), torch.cat(ideal)])
        rows.append({"context": name, "correlation": torch.corrcoef(pair)[0, 1].item()})
    return rows


def right_ways(models, tokenizer, problems, config):
    """Of 16 samples of each question: how many of them are different right paths, and the mean
    entropy of a choice, in nats: the mean of -log p over those that were taken."""
    groups = hsd.sample_groups(models.student, tokenizer, problems, 16, config, "ways")
    rollouts = [r for group in groups for r in group]
    hsd.verify_rollouts(rollouts)
    hsd.set_logp(models.student, rollouts, hsd.METHODS["hsd"], config)
    for r in rollouts:
        read_path(r, tokenizer)
    different = hsd.mean(len({r.text for r in group if r.reward}) for group in groups)
    entropy = -torch.cat([r.logp[r.choices] for r in rollouts]).mean().item()
    return {"right paths": different, "entropy": entropy}


def base_rows(models, tokenizer, problems, config, count):
    """A row for each length, for each k, and for each context in the prompt, the last on questions
    with a failed rollout that has a peer."""
    rows = []
    for n in (4, 8, 16):
        chains = hsd.load_problems(str(HERE / f"questions/eval-{n}.jsonl"))[: count // 2]
        row, _ = hsd.evaluate(models, tokenizer, chains, config, 0)
        row |= right_ways(models, tokenizer, chains, config)
        rows.append({"n": n, "questions": len(chains), **row})
    for k in (1, 2):
        some = [p for p in problems if len(re.findall("[-+][89]", p.question)) == k]
        prompts = [hsd.prompt_ids(tokenizer, hsd.user_message(p)) for p in some]
        rows.append({"k": k, "pass@1": pass_at_1(models, tokenizer, some, prompts, config)})
    rollouts = failed_rollouts(models, tokenizer, problems, config, count)
    for name, (context, *which) in CONTEXTS.items():
        if which == ["uniform", 1]:
            for r in rollouts:
                r.peers = r.ranked["uniform"]
                hsd.condition_teacher(r, context, tokenizer, config)
            asked, prompts = [r.problem for r in rollouts], [r.teacher_prompt for r in rollouts]
            passed = pass_at_1(models, tokenizer, asked, prompts, config)
            rows.append({"context": name, "pass@1": passed})
    return rows


def pass_at_1(models, tokenizer, problems, prompts, config):
    """The interval of pass@1 from 8 samples of each prompt."""
    options = {"prompts": prompts}
    groups = hsd.sample_groups(models.student, tokenizer, problems, 8, config, "asked", **options)
    hsd.verify_rollouts([r for group in groups for r in group])
    return interval([hsd.mean(r.reward for r in group) for group in groups])


INSTRUMENTS = {"value": value_rows, "credit": credit_rows, "base": base_rows}


# ---- Does it help? -------------------------------------------------------------------------------
# gspo's gradient is grpo's, where each batch takes one update: its runs would be grpo's
PLAIN = {name: {"method": name} for name in hsd.METHODS if name != "gspo"}
PLAIN["control: a failed sibling"] = {"method": "sdpo", "peers": "failed"}
PLAIN["control: another question's path"] = {"method": "sdpo", "peers": "other"}
LENGTH = {name: PLAIN[name] for name in ("hsd", "grpo")}
MORE_METHODS = {
    "no fallback": hsd.Method(lambda r: peer(r) if r.peer else [], distill_weight=1.0),
    "failures only": hsd.Method(lambda r: [] if r.reward else peer(r), distill_weight=1.0),
}
VARIANTS = {name: PLAIN[name] for name in ("hsd", "grpo", "opsd", "control: a failed sibling")}
VARIANTS |= {  # HSD, or GRPO, with one thing changed
    **{f"teacher: {name}": {"teacher": name} for name in ("frozen", "ema")},
    **{f"peer: {rule}": {"peer_rule": rule} for rule in hsd.PEER_RULES if rule != "uniform"},
    "mean of up to 4 teachers": {"teachers": 4},
    "without the fallback": {"method": "no fallback"},
    "failures alone are trained": {"method": "failures only"},
    "--window 8": {"window": 8},
    "beta 0": {"beta": 0.0},
    "20% wrong verdicts": {"noise": 0.2},
    "grpo, 20% wrong verdicts": {"noise": 0.2, "method": "grpo"},
}
LIVE = {"method": "hsd", "teacher": "live", "learning_rate": 1e-3, "steps": 24, "every": 8}
STABILITY = {name: {"teacher": name} for name in ("live", "frozen", "ema")}
EXPERIMENTS = {  # rows, seeds, what all runs share
    "rates": (PLAIN, [100], {"every": 16}),
    "learning": (PLAIN, range(3), {}),
    "variants": (VARIANTS, range(3), {"learning_rate": 3e-4}),
    "stability": (STABILITY, range(2), LIVE),
    "length": (LENGTH, range(2), {"learning_rate": 3e-4, "steps": 8}),
}
RATES = (1e-4, 3e-4, 1e-3)


def changes(spec, config, problems, tokenizer):
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
        # KL(mean of the teachers || student) has the gradient of the mean of the KLs
        for r in part[:] if "teachers" in spec else ():
            some = r.peers[: spec["teachers"]] or [None]
            r.loss_weight /= len(some)
            for other in some[1:]:
                one = replace(r, peers=[other], mean_weight=0.0)
                hsd.condition_teacher(one, peer, tokenizer, config)
                part.append(one)

    chooser = peers if "peers" in spec else hsd.choose_peers
    return {"verify_rollouts": noisy, "set_weights": weights, "choose_peers": chooser}


def learn(spec):
    """One run: figures of each step, and its evaluations."""
    hsd.METHODS.update(MORE_METHODS)
    n, asked = spec["n"], "valid" if spec["experiment"] == "rates" else "eval"
    more = {"steps": 16, "eval_questions": 128}
    more |= {"max_new_tokens": 16 + 7 * n} if n else {}
    for name, stem in (("train_data", "train"), ("eval_data", asked)):
        path = f"questions/{stem}-{n}" if n else stem.replace("valid", "questions/valid")
        more[name] = [str(HERE / f"{path}.jsonl")]
    more |= {f.name: spec[f.name] for f in fields(hsd.Config) if f.name in spec}
    config = hsd.Config(**hsd.LAB | more)
    problems, held_out = hsd.load_data(config)
    tokenizer, models = hsd.load_models(config)
    optimizer, rows, evaluations = hsd.adamw(models.student, config), [], []
    changed = changes(spec, config, problems, tokenizer)
    for step in range(config.steps):
        batch = hsd.questions_of_step(problems, step, config)
        with mock.patch.multiple(hsd, **changed):
            rows.append(hsd.train_step(models, optimizer, tokenizer, batch, step, config))
        if (step + 1) % spec.get("every", 8) == 0:
            row = hsd.evaluate(models, tokenizer, held_out, config, step + 1)[0]
            evaluations.append({k: round(v, 4) for k, v in row.items()})
    curves = ("reward", "kl", "grad_norm", "peer_share", "response_tokens")
    curves = {k: [round(row[k], 5) for row in rows] for k in curves if k in rows[0]}
    if spec["experiment"] != "rates":
        curves["ways"] = right_ways(models, tokenizer, held_out[:64], config)
    return [curves | {"evaluations": evaluations}]


def measure(spec):
    """(spec, its rows), in a process of its own."""
    torch.set_num_threads(1)
    hsd.transformers.utils.logging.disable_progress_bar()
    hsd.progress = lambda iterable, *_: iterable  # the bar is of all runs
    if "seed" in spec:
        return spec, learn(spec)
    config = hsd.Config(**hsd.LAB | {"beta": 0.0, "max_new_tokens": 176})
    tokenizer, models = hsd.load_models(config)
    problems = hsd.load_problems(config.eval_data[0])[: 3 * spec["count"]]
    rows = INSTRUMENTS[spec["experiment"]](models, tokenizer, problems, config, spec["count"])
    return spec, rows


# ---- All runs ------------------------------------------------------------------------------------
def of(rows, **want):
    """The rows that have these values."""
    return [row for row in rows if all(row.get(k) == v for k, v in want.items())]


def best_rate(rows, row):
    """The learning rate with the highest pass@1 on validation questions, once all are tried."""
    tried = of(rows["rates"], row=row)
    scores = {r["learning_rate"]: r["evaluations"][-1]["eval/pass@1"] for r in tried}
    return max(scores, key=scores.get) if len(scores) == len(RATES) else None


def specs(rows, quick):
    """What is to be measured, as far as the learning rates are known."""
    counts = {"value": 48, "credit": 128, "base": 128}
    found = [{"experiment": k, "count": 8 if quick else n} for k, n in counts.items()]
    if quick:
        shared = {"experiment": "learning", "seed": 0, "n": None, "learning_rate": 3e-4, "steps": 8}
        return found + [{**shared, "row": row, **flags} for row, flags in PLAIN.items()]
    for name, (table, seeds, shared) in EXPERIMENTS.items():
        lengths = (16, 8, 4) if name == "length" else (None,)
        for seed, n, row in itertools.product(seeds, lengths, table):
            spec = {"experiment": name, "row": row, "seed": seed, "n": n, **shared, **table[row]}
            one = spec.get("learning_rate") or best_rate(rows, row)
            rates = RATES if name == "rates" else [one]
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


# ---- Tables --------------------------------------------------------------------------------------
def table(columns, rows):
    """Markdown."""
    rows = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def spread(values, form=".3f"):
    """The mean and its standard error."""
    x = torch.tensor(values, dtype=torch.float64)
    error = f" ± {x.std().item() / len(x) ** 0.5:{form}}" if len(x) > 1 else ""
    return f"{x.mean().item():{form}}{error}"


between = "{0[0]:.2f} ({0[1]:.2f} to {0[2]:.2f})".format  # a mean and its interval


def shown(runs, when, key="eval/pass@1", form=".3f"):
    """A figure of an evaluation."""
    return spread([run["evaluations"][when][key] for run in runs], form) if runs else ""


def base_table(rows):
    """Lengths down."""
    keys = {"eval/pass@1": 2, "eval/pass@8": 2, "eval/teacher_pass@1": 2, "eval/credit_share@8": 2}
    keys |= {"right paths": 1, "entropy": 2}
    columns = ["n", "pass@1", "pass@8", "self-teacher", "credit_share@8"]
    columns += ["right paths among 16 samples", "entropy of a choice, nats"]
    cells = [[f"{r['n']}", *(f"{r[k]:.{digits}f}" for k, digits in keys.items())] for r in rows]
    return table(columns, cells)


def credit_table(rows, value):
    """Contexts down, figures across."""
    correlation = {r["context"]: f"{r['correlation']:.2f}" for r in value if "context" in r}
    columns = ["context of the teacher", "most negative token: the first wrong one", "a choice"]
    columns += ["share of \\|A\\|: the first wrong token", "choices", "mean A on choices, nats"]
    columns += ["tau is a choice", "the peer has the error's step", "correlation with the ideal"]
    cells = []
    for row in rows:
        figures = [f"{row[key][0]:.2f}" for key in ("blamed", "error", "choice", "mean")]
        about_the_peer = [f"{row[key][0]:.2f}" for key in ("tau", "said")]
        figures += about_the_peer if "peer" in row["context"] else ["", ""]
        figures += [correlation.get(row["context"], "")]
        cells.append([f"{row['context']}", between(row["hit"]), *figures])
    return table(columns, cells)


def learning_table(rows, names):
    """Methods or variants down."""
    columns = ["", "learning rate", "pass@1 after 1,024 rollouts", "after 2,048", "pass@8"]
    columns += ["right paths among 16", "entropy of a choice, nats"]
    forms = {"eval/pass@1": ".3f", "eval/pass@8": ".3f", "right paths": ".1f", "entropy": ".2f"}
    cells = []
    for name in names:
        if runs := of(rows, row=name):
            last = [{**run["evaluations"][-1], **run["ways"]} for run in runs]
            figures = [spread([x[key] for x in last], form) for key, form in forms.items()]
            cells.append([name, f"{runs[0]['learning_rate']:g}", shown(runs, 0), *figures])
    return table(columns, cells)


def summary_table(rows):
    """A few rows, for the README of the project."""
    contexts = {"hsd": "answer and peer (HSD)", "peer: nearest": "nearest peer"}
    contexts |= {"control: a failed sibling": "control: a failed sibling"}
    contexts |= {"opsd": "answer alone (OPSD)", "grpo": "a constant (GRPO)"}
    columns = ["", "most negative token: the first wrong one", "a harmless choice"]
    columns += ["pass@1 after 2,048 rollouts", "right paths among 16 samples"]
    cells = []
    for name, context in contexts.items():
        (row,) = of(rows["credit"], context=context)
        runs = of(rows["variants"], row=name)
        ways = spread([run["ways"]["right paths"] for run in runs], ".1f")
        cells.append([name, between(row["hit"]), between(row["blamed"]), shown(runs, -1), ways])
    return table(columns, cells)


def stability_table(rows):
    """What was tried, down; steps across."""
    cells = []
    for name in STABILITY:
        runs = of(rows, row=name)
        cells.append([name, *(shown(runs, when, form=".2f") for when in range(3))])
        cells[-1].append(shown(runs, -1, "eval/teacher_pass@1", ".2f"))
    columns = [f"step {step}" for step in (8, 16, 24)]
    return table(["pass@1", *columns, "with a peer in the prompt, step 24"], cells)


def lines(rows):
    """The README's bullets: the base model, V, and lengths."""
    found = ["pass@1 with each context in the prompt", "pass@1 by k"]
    for i, key in enumerate(("context", "k")):
        each = (f"{r[key]}: {between(r['pass@1'])}" for r in rows["base"] if key in r)
        found[i] += f": {'; '.join(each)}"
    (v,) = of(rows["value"], context=None)
    for place in ("error", "choice"):
        V = [between(v[f"{place} {after}"]) for after in (0, 1)]
        found.append(f"V before and after {place}s: {V[0]}, {V[1]}")
    found.append(f"the largest fall of V is at the first wrong token: {between(v['agree'])}")
    for n in (4, 8, 16) if rows["length"] else ():
        each = [f"{m} {shown(of(rows['length'], row=m, n=n), 0)}" for m in LENGTH]
        found.append(f"n = {n}, pass@1 after 1,024 rollouts: {', '.join(each)}")
    return "\n".join(f"* {text}" for text in found)


def tables(rows):
    """{mark in a README.md: what stands there}."""
    found = {"base": base_table([row for row in rows["base"] if "n" in row])}
    found["credit"] = credit_table(rows["credit"], rows["value"])
    found["learning"] = learning_table(rows["learning"], PLAIN)
    found["lines"] = lines(rows)
    if rows["variants"]:
        found["variants"] = learning_table(rows["variants"], VARIANTS)
        found["stability"] = stability_table(rows["stability"])
        found["summary"] = summary_table(rows)
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
        marked = re.compile(rf"(<!-- lab:{name} -->\n).*?(<!-- /lab:{name} -->)", re.DOTALL)
        marks = marked.split(path.read_text("utf-8"))
        if len(marks) != 4:
            raise ValueError(f"{path} has no marks for {name}")
        path.write_text(f"{marks[0]}{marks[1]}{new}\n{marks[2]}{marks[3]}", "utf-8")


if __name__ == "__main__":
    main()
