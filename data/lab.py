"""The lab: is the credit right, and does it help? What a tiny model can tell, since on it the truth
is known: each question has one right path, so the first wrong token of a failed rollout is known.

    python data/lab.py            all that data/lab/ lacks: rows there, tables and figure in README.md
    python data/lab.py --quick    a small part, anew, to see it work: rows and tables in runs/lab/

base       The model before training, on n = 4, 8, 16 steps of which k = 2 are of kinds that it gets
           wrong; and coverage (Eq. 12) for G = 4, 8, 16
credit     How well does the credit of each context find the first wrong token? Controls: a wrong
           sibling, and the right path of another question
value      The ideal credit of Proposition 1, log V(h o_t) - log V(h), from 64 continuations of every
           prefix; V is the student's own chance of success
rates      Each method, and the controls, at three learning rates, on validation questions
learning   At the best of these (mean of pass@1 after 1,024 and 2,048 rollouts), five seeds, held out
length     hsd, grpo, grpo+opsd on n = 4, 8, 16, three seeds, each at its best rate for that n
variants   HSD and GRPO at their best rates with one thing changed, three seeds
stability  The live teacher, 5,120 rollouts, and what may mend it, two seeds
"""

import argparse
import itertools
import json
import math
import os
import random
import sys
from concurrent import futures
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
    "control: a failed sibling": lambda r: {"peer": r.sibling.text},
    "control: another question's path": lambda r: {"peer": r.other.solution},
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
        hsd.choose_peers(group, [], "uniform", rng)
        failed = [r for r in group if not r.reward and not r.truncated]
        if len(failed) < 2 or not failed[0].peer:
            continue
        r, r.sibling = failed[:2]
        r.other, r.rate = other, hsd.mean(x.reward for x in group)
        r.path = tokenizer(r.problem.solution, add_special_tokens=False).input_ids
        r.first = hsd.divergence(r.response, r.path)
        found += [r] if r.first < len(r.path) else []
    return found[:count]


def credits(models, tokenizer, rollouts, context, config):
    """The credit A_t (Eq. 2), [T], of each rollout under a context."""
    read = [replace(r) for r in rollouts]
    for r, origin in zip(read, rollouts):
        r.sibling, r.other = origin.sibling, origin.other
        hsd.condition_teacher(r, context, tokenizer, config)
    hsd.set_credit(hsd.Models(models.student, models.student, None), read, config)
    return [r.credit for r in read]


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


def summary(name, credit, rollouts):
    """A row: the figures of a context over all rollouts, with intervals; mean |A| by tenth."""
    each = zip(*(figures(a, r.first) for a, r in zip(credit, rollouts)))
    row = {k: interval(v) for k, v in zip(("hit", "share", "auroc", "elsewhere"), each)}
    tenths = [[part.abs().mean() for part in a.tensor_split(10)] for a in credit if len(a) >= 10]
    row["tenths"] = torch.tensor(tenths).mean(0).tolist()
    return {"context": name, "rollouts": len(rollouts), **row}


def localisation(credit, rollouts):
    """Rows, by difficulty (Tables 4 and 5): median tau and peak, share of |A| near tau."""
    rows, bounds = [], {"hard": (0, 0.2), "medium": (0.2, 0.5), "easy": (0.5, 1)}
    for name, (low, high) in bounds.items():
        some = [(a, r) for a, r in zip(credit, rollouts) if low < r.rate <= high]
        row = {"difficulty": name, "rollouts": len(some)}
        row["tau"] = torch.tensor([float(r.first) for _, r in some]).median().item()
        row["peak"] = torch.stack([a.abs().max() for a, _ in some]).median().item()
        total = sum(a.abs().sum().item() for a, _ in some)
        for w in (2, 4, 8, 16):
            near = [a[max(0, r.first - w) : r.first + w + 1].abs().sum().item() for a, r in some]
            row[f"within {w}"] = sum(near) / total
        rows.append(row)
    return rows


def credit_rows(models, tokenizer, problems, config, count):
    """A row for each context; failed siblings also apart, by whether they go wrong later; and the
    localisation of HSD's credit."""
    rollouts, rows = failed_rollouts(models, tokenizer, problems, config, count), []
    for name, context in CONTEXTS.items():
        credit = credits(models, tokenizer, rollouts, context, config)
        rows.append(summary(name, credit, rollouts))
        more = localisation(credit, rollouts) if context is peer else []
        later = [hsd.divergence(r.sibling.response, r.path) > r.first for r in rollouts]
        for text, want in (("later", True), ("there or before", False)):
            some = [i for i, x in enumerate(later) if x == want and "sibling" in name]
            if some:
                part = [credit[i] for i in some], [rollouts[i] for i in some]
                rows.append(summary(f"control: a failed sibling that errs {text}", *part))
        rows += more
    constant = [torch.full((len(r.response),), -1.0) for r in rollouts]
    return [*rows, summary("a constant (GRPO)", constant, rollouts)]


def values(models, tokenizer, rollout, config, n=64):
    """V(h), [T+1], the student's chance of success from every prefix of a rollout: n continuations
    each, with half a success and half a failure added."""
    ends, T = set(models.student.lm.generation_config.eos_token_id), len(rollout.response)
    prompts = [rollout.prompt + rollout.response[:t] for t in range(T)]
    problems, student = [rollout.problem] * T, models.student
    groups = hsd.sample_groups(student, tokenizer, problems, n, config, "values", prompts=prompts)
    for t, group in enumerate(groups):
        for r in group:
            r.text = tokenizer.decode(
                [x for x in rollout.response[:t] + r.response if x not in ends]
            )
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
        credit = credits(models, tokenizer, rollouts, context, config)
        pair = torch.stack([torch.cat(credit), torch.cat(ideal)])
        rows.append({"context": name, "correlation": torch.corrcoef(pair)[0, 1].item()})
    return rows


def base_rows(models, tokenizer, problems, config, count):
    """A row for each length, with 8 samples of each of `count` questions; and for each G, coverage
    as it is, and by Eq. 12 from p, which 64 other samples tell."""
    rows = []
    for n in (4, 8, 16):
        chains = hsd.load_problems(str(HERE / f"questions/eval-{n}.jsonl"))[: count // 2]
        row = hsd.evaluate(models, tokenizer, chains, config, 0)[0]
        rows.append({"n": n, "questions": len(chains), **row})
    groups = hsd.sample_groups(models.student, tokenizer, problems[:count], 80, config, "coverage")
    hsd.verify_rollouts([r for group in groups for r in group])
    rewards = torch.tensor([[r.reward for r in group] for group in groups])  # [Q,80]
    p = rewards[:, 16:].mean(1)
    for G in (4, 8, 16):
        right = rewards[:, :16].reshape(-1, G).sum(1)
        covered = ((G - right) * (right > 0)).mean().item() / G
        eq12 = ((1 - p) * (1 - (1 - p) ** (G - 1))).mean().item()
        rows.append({"G": G, "coverage": covered, "Eq. 12": eq12})
    return rows


INSTRUMENTS = {"value": value_rows, "credit": credit_rows, "base": base_rows}


# ---- Does it help? -------------------------------------------------------------------------------
# gspo's gradient is grpo's, where each batch takes one update: its runs are grpo's, figure for figure
PLAIN = {name: {"method": name} for name in hsd.METHODS if name != "gspo"}
PLAIN["control: a failed sibling"] = {"method": "sdpo", "peers": "failed"}
PLAIN["control: another question's path"] = {"method": "sdpo", "peers": "other"}
hsd.METHODS |= {
    "no fallback": hsd.Method(lambda r: peer(r) if r.peer else {}, distill=1.0),
    "failures only": hsd.Method(lambda r: {} if r.reward else peer(r), distill=1.0),
    "peer or answer": hsd.Method(lambda r: hsd.peer_alone(r) or hsd.answer_alone(r), distill=1.0),
}
VARIANTS = {  # HSD, or GRPO, at its best rate, with one thing changed; as many rollouts
    "`--window w`, w =": {f"{w}": {"window": w} for w in (2, 4, 8, 16)},
    "likewise, weights of what is kept, w =": {f"{w}": {"window": w, "kept": 1} for w in (4, 16)},
    "Without": {"the fallback": {"method": "no fallback"}, "a*": {"method": "peer or answer"}},
    "G =": {f"{G}": {"group_size": G, "questions_per_step": 128 // G} for G in (4, 16)},
    "beta =": {f"{beta:g}": {"beta": beta} for beta in (0.0, 0.1)},
    "Wrong verdicts": {f"{p:.0%}": {"noise": p} for p in (0.05, 0.2)},
    "Wrong verdicts, grpo": {f"{p:.0%}": {"noise": p, "method": "grpo"} for p in (0.05, 0.2)},
}
NAMED = {f"{group} {k}": flags for group, some in VARIANTS.items() for k, flags in some.items()}
LENGTH, QUICK = {m: PLAIN[m] for m in ("hsd", "grpo", "grpo+opsd")}, ("hsd", "grpo", "opsd")
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
STABILITY = {name: LIVE | flags for name, flags in STABILITY.items()}
EXPERIMENTS = {  # rows, seeds
    "rates": (PLAIN, [100]),
    "length rates": (LENGTH, [100]),
    "learning": (PLAIN, range(5)),
    "length": (LENGTH, range(3)),
    "variants": (NAMED, range(3)),
    "stability": (STABILITY, range(2)),
}
RATES = (3e-4, 1e-3, 3e-3)  # the last breaks all methods; on fixed n it is not tried
FIELDS = {field.name for field in fields(hsd.Config)}


def failed_siblings(group, past, rule, rng, choose=hsd.choose_peers):
    """hsd.choose_peers, from the failures of a group."""
    flipped = [replace(r, reward=1 - r.reward) for r in group]
    choose(flipped, past, rule, rng)
    for r, other in zip(group, flipped):
        r.peer = other.peer


def changes(spec, config, problems, tokenizer):
    """The functions of hsd.py that a spec replaces while it trains."""
    rng, paths, verify, weigh = random.Random(config.seed), {}, hsd.verify_rollouts, hsd.set_weights
    for problem, other in zip(problems, problems[1:] + problems[:1]):
        ids = tokenizer(other.solution, add_special_tokens=False).input_ids
        paths[problem.question] = hsd.Rollout(other, [], ids, other.solution)

    def other_paths(group, *_):
        for r in group:
            r.peer = paths[r.problem.question]

    def noisy(rollouts):
        verify(rollouts)
        for r in rollouts:
            r.reward = 1 - r.reward if rng.random() < spec.get("noise", 0) else r.reward

    def weights(part, *rest):
        weigh(part, *rest)
        for r in part if "kept" in spec else ():
            r.weight *= len(r.response) / len(hsd.windowed(r, config.window).response)
        # of KL(student || pi_0) with the context in both prompts
        for r in part[:] if "anchor" in spec else ():
            weight = r.weight * spec["anchor"] / config.beta
            part.append(replace(r, prompt=r.teacher_prompt, context={}, weight=weight, share=0.0))

    chosen = {"failed": failed_siblings, "other": other_paths, "": hsd.choose_peers}
    chosen = chosen[spec.get("peers", "")]
    return {"verify_rollouts": noisy, "set_weights": weights, "choose_peers": chosen}


def learn(spec):
    """One run: its spec, figures of each step, and two evaluations or more."""
    n, valid = spec.get("n"), "rates" in spec["experiment"]
    more = {"compile": False, "steps": 16}
    train, held_out = ("train", "valid" if valid else "eval")
    if n:
        train, held_out = f"questions/{train}-{n}", f"questions/{held_out}-{n}"
        more |= {"max_new_tokens": 48 + 8 * n, "rollout_tokens": 32_768}
    elif valid:
        held_out = "questions/valid"
    more |= {
        "train_data": str(HERE / f"{train}.jsonl"),
        "eval_data": str(HERE / f"{held_out}.jsonl"),
    }
    own = {k: v for k, v in spec.items() if k in FIELDS}
    config = hsd.Config(**{**hsd.LAB, **more, **own})
    problems, held_out = hsd.load_data(config)
    tokenizer, models = hsd.load_models(config)
    optimizer, rows, evaluations, buffer = hsd.adamw(models.student, config), [], [], {}
    optimizer.param_groups[0]["eps"] = spec.get("eps", 1e-8)
    changed = changes(spec, config, problems, tokenizer)
    for step in range(config.steps):
        rate = config.learning_rate * (1 - step / config.steps if "decay" in spec else 1)
        optimizer.param_groups[0]["lr"] = rate
        asked = hsd.questions_of_step(problems, step, config)
        with mock.patch.multiple(hsd, **changed):
            rows.append(hsd.train_step(models, optimizer, tokenizer, asked, buffer, step, config))
        if (step + 1) % spec.get("every", config.steps // 2) == 0:
            row = hsd.evaluate(models, tokenizer, held_out, config, step + 1)[0]
            evaluations.append({k: round(v, 4) for k, v in row.items()})
    curves = ("reward", "kl", "grad_norm", "peer_share", "response_tokens")
    curves = {k: [round(row[k], 5) for row in rows] for k in curves if k in rows[0]}
    return [{**spec, **curves, "evaluations": evaluations}]


def measure(spec):
    """The rows of a spec, in a process of its own."""
    torch.set_num_threads(1)
    hsd.transformers.utils.logging.disable_progress_bar()
    if "seed" in spec:
        return learn(spec)
    more = {"beta": 0.0, "teacher": "live", "compile": False, "max_new_tokens": 176}
    config = hsd.Config(**{**hsd.LAB, **more})
    tokenizer, models = hsd.load_models(config)
    problems = hsd.load_problems(config.eval_data)[: 3 * spec["count"]]
    return INSTRUMENTS[spec["experiment"]](models, tokenizer, problems, config, spec["count"])


# ---- All runs ------------------------------------------------------------------------------------
def of(rows, **want):
    """The rows that have these values, by seed."""
    some = [row for row in rows if all(row.get(k) == v for k, v in want.items())]
    return sorted(some, key=lambda row: row.get("seed", 0))


def best_rate(rows, row, n):
    """The learning rate with the highest mean of pass@1 after half and all of the rollouts, once
    all have been tried."""
    tried = of(rows["length rates" if n else "rates"], row=row, n=n)
    scores = {r["learning_rate"]: sum(e["eval/pass@1"] for e in r["evaluations"]) for r in tried}
    return max(scores, key=scores.get) if len(scores) == len(RATES[: 2 if n else 3]) else None


def specs(rows, quick):
    """What is to be measured, as far as the learning rates are known."""
    counts = {"value": 64, "credit": 128, "base": 128}
    found = [{"experiment": k, "count": 8 if quick else n} for k, n in counts.items()]
    for name, (table, seeds) in EXPERIMENTS.items():
        lengths = (16, 8, 4) if "length" in name else (None,)
        for seed, n, row in itertools.product(seeds, lengths, table):
            spec = {"experiment": name, "row": row, "seed": seed, "n": n, **table[row]}
            like = row if row in PLAIN else "grpo" if "grpo" in row else "hsd"
            rates = RATES[: 2 if n else 3] if "rates" in name else [best_rate(rows, like, n)]
            rates = [3e-4] if quick else [spec.get("learning_rate", rate) for rate in rates]
            found += [{**spec, "learning_rate": rate} for rate in rates if rate]
    few = {"experiment": "learning", "seed": 0}.items()
    some = [s for s in found if "count" in s or few <= s.items() and s["row"] in QUICK]
    return some if quick else found


def run(rows, folder, quick):
    """Measures what is missing, two at a time, and writes each result when it is there."""
    with futures.ProcessPoolExecutor(2, get_context("spawn")) as pool:
        while todo := [s for s in specs(rows, quick) if not of(rows[s["experiment"]], **s)]:
            waiting = {pool.submit(measure, spec): spec for spec in todo}
            for done in tqdm(futures.as_completed(waiting), "lab", len(todo)):
                name = waiting[done]["experiment"]
                rows[name] += [waiting[done] | row for row in done.result()]
                order = ("row", "n", "learning_rate", "seed")
                rows[name].sort(key=lambda row: [str(row.get(key)) for key in order])
                lines, new = ",\n".join(map(json.dumps, rows[name])), folder / "new"
                new.write_text(f"[\n{lines}\n]\n")
                new.rename(folder / f"{name}.json")


# ---- Tables and figure ---------------------------------------------------------------------------
def table(columns, rows):
    """Markdown."""
    rows = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def spread(values, form="{:.3f}"):
    """The mean and its standard error."""
    x = torch.tensor(values, dtype=torch.float64)
    return f"{form} ± {form}".format(x.mean().item(), x.std().item() / len(x) ** 0.5)


def scores(runs, when, key="eval/pass@1"):
    """A figure of an evaluation of each run."""
    return [run["evaluations"][when][key] for run in runs]


def both(runs):
    """pass@1 after half and all of the rollouts."""
    return " / ".join(spread(scores(runs, when)) for when in (0, 1))


def until(run, level=0.8):
    """Rollouts until the mean reward of three steps, each on new questions, reaches a level."""
    threes = [sum(run["reward"][i : i + 3]) / 3 for i in range(len(run["reward"]) - 2)]
    return next((128 * (i + 3) for i, reward in enumerate(threes) if reward >= level), math.inf)


def base_table(rows):
    """Lengths down."""
    keys = ("eval/pass@1", "eval/pass@8", "eval/teacher_pass@1")
    cells = [[f"{r['n']}", *(f"{r[k]:.2f}" for k in keys)] for r in rows if "n" in r]
    return table(["n", "pass@1", "pass@8", "self-teacher"], cells)


def credit_table(rows, value):
    """Contexts down, figures across."""
    correlation = {row["context"]: f"{row['correlation']:.2f}" for row in value if "context" in row}
    columns = ["context of the teacher", "most negative token is the first wrong one"]
    columns += ["share of \\|A\\| on it and the next", "AUROC", "mean \\|A\\| elsewhere, nats"]
    cells = []
    for row in (r for r in rows if "context" in r):
        name = row["context"] + (f", n = {row['rollouts']}" if "errs" in row["context"] else "")
        two = ["{:.2f} ({:.2f} to {:.2f})".format(*row[key]) for key in ("hit", "share")]
        two += [f"{row['auroc'][0]:.2f}", f"{row['elsewhere'][0]:.3f}"]
        cells.append([name, *two, correlation.get(row["context"], "")])
    return table([*columns, "correlation with the ideal"], cells)


def learning_table(rows):
    """Methods down."""
    columns = ["", "learning rate", "pass@1 after 1,024 rollouts", "after 2,048", "pass@8"]
    cells = []
    for name, runs in ((name, of(rows, row=name)) for name in PLAIN):
        if not runs:
            continue
        reached = [until(run) for run in runs]
        reached = spread(reached, "{:,.0f}") if max(reached) < math.inf else "not all do"
        three = [spread(scores(runs, *at)) for at in ((0,), (1,), (1, "eval/pass@8"))]
        cells.append([name, f"{runs[0]['learning_rate']:g}", *three, reached])
    return table([*columns, "rollouts until .8"], cells)


def lines(rows):
    """The README's bullets: Figure 1, Tables 4 and 5, Eq. 12, and the variants."""
    tenths = {r["context"]: r["tenths"] for r in rows["credit"] if "context" in r}
    found = {
        f"Mean |A| by tenth of a rollout, {name}": tenths[name] for name in list(CONTEXTS)[::3]
    }
    found = {name: " ".join(f"{x:.3f}" for x in means) for name, means in found.items()}
    for r in (r for r in rows["credit"] if "difficulty" in r):
        near = ", ".join(f"{r[f'within {w}']:.2f}" for w in (2, 4, 8, 16))
        text = (
            f"median tau {r['tau']:.0f}, peak {r['peak']:.1f} nats, |A| within 2, 4, 8, 16 of tau"
        )
        found[f"{r['difficulty'].title()} questions (n = {r['rollouts']})"] = f"{text} {near}"
    some = (
        f"G = {r['G']}: {r['coverage']:.3f} ({r['Eq. 12']:.3f})" for r in rows["base"] if "G" in r
    )
    found["Coverage, in brackets by Eq. 12"] = ", ".join(some)
    for group, some in VARIANTS.items() if rows["variants"] else ():
        runs = {name: of(rows["variants"], row=f"{group} {name}") for name in some}
        found[group] = "; ".join(f"{k} {both(x)}" for k, x in runs.items())
    return "\n".join(f"* {name}: {text}" for name, text in found.items())


def stability_table(rows):
    """What was tried, down; steps across."""
    cells = []
    for name, runs in ((name, of(rows, row=name)) for name in STABILITY):
        four = [spread(scores(runs, i), "{:.2f}") for i in range(4)] if runs else []
        four += [spread(scores(runs, 3, "eval/teacher_pass@1"), "{:.2f}")] if runs else []
        cells.append([name, *four])
    columns = [f"step {step}" for step in (10, 20, 30, 40)]
    return table(["pass@1", *columns, "self-teacher, step 40"], cells)


def figure(rows):
    """The SVG: pass@1 against n, after 1,024 and after 2,048 rollouts; bars are standard errors."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 660 300" font-family="sans-serif"'
    ]
    parts[0] += ' font-size="13"><rect width="660" height="300" fill="#fff"/>'
    for when, left in ((0, 60), (1, 380)):
        parts.append(f'<text x="{left}" y="20">pass@1 after {1024 * (when + 1):,} rollouts</text>')
        for level in (0, 0.25, 0.5, 0.75, 1):
            y = 240 - 200 * level
            parts.append(f'<path d="M{left} {y}h250" stroke="#ddd"/>')
            parts.append(f'<text x="{left - 30}" y="{y + 4}">{level:g}</text>')
        for shift, (m, colour) in enumerate(zip(LENGTH, ("#c1121f", "#1d5b99", "#777"))):
            points = []
            for i, n in enumerate((4, 8, 16)):
                x = torch.tensor(scores(of(rows, row=m, n=n), when))
                mean, error = 240 - 200 * x.mean().item(), 200 * x.std().item() / len(x) ** 0.5
                points.append(f"{left + 40 + 80 * i + 4 * shift},{mean:.1f}")
                bar = f"M{points[-1]}m0 {-error:.1f}v{2 * error:.1f}"
                parts.append(f'<path d="{bar}" stroke="{colour}" stroke-width="2"/>')
                parts.append(
                    f'<text x="{left + 36 + 80 * i}" y="260">{n}</text>' if not shift else ""
                )
            line = f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}"'
            parts.append(f'{line} stroke-width="2"/>')
            parts.append(f'<text x="{left + 80 * shift}" y="290" fill="{colour}">{m}</text>')
    return "\n".join([*parts, "</svg>\n"])


def tables(rows):
    """{mark in the README: what stands there}."""
    found = {"base": base_table(rows["base"]), "learning": learning_table(rows["learning"])}
    found["credit"] = credit_table(rows["credit"], rows["value"])
    return found | {"lines": lines(rows), "stability": stability_table(rows["stability"])}


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
    readme = HERE.parent / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, new in tables(rows).items():
        before, start, rest = text.partition(f"<!-- lab:{name} -->\n")
        _, end, after = rest.partition(f"<!-- /lab:{name} -->")
        text = before + start + f"{new}\n" + end + after
    readme.write_text(text, encoding="utf-8")
    (HERE / "lab.svg").write_text(figure(rows["length"]))


if __name__ == "__main__":
    main()
