"""The lab: is the credit right? What a tiny model can tell, because on it the truth is known.

    python data/lab.py                all of it, anew: rows in data/lab/, the tables in README.md
    python data/lab.py --quick        a small part, to see it work; writes runs/lab/ alone

base      The model before training, on chains of n = 4, 8, 16 steps of which k = 2 are of kinds that
          it gets wrong: pass@1, the self-teacher's, and how silent a bare answer is
credit    Each question of the lab has one right path, so the first wrong token of a failed rollout
          is known: no credit is due before it, and none after. How well does the credit of each
          context find it? Controls: a wrong sibling, and the right path of another question
value     The ideal credit of Proposition 1, log V(h o_t) - log V(h), from continuations of every
          prefix; V is the student's own chance of success. It checks that the first wrong token is
          where V falls, and gives the correlation with the credit
"""

import argparse
import itertools
import json
import math
import random
import sys
from dataclasses import replace
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import hsd

HSD = "answer and peer (HSD)"


# ---- Failed rollouts, and the contexts under which they are read ---------------------------------
def failed_rollouts(models, tokenizer, problems, config, count):
    """At most `count` failed rollouts that have a peer and a failed sibling, one a question; each
    with .sibling, another failed one, .other, a question, and .first, its first wrong token."""
    groups = hsd.sample_groups(models.student, tokenizer, problems, 16, config, "lab", "rollouts")
    hsd.verify_rollouts([r for group in groups for r in group])
    rng, found = random.Random(0), []
    for group, other in zip(groups, problems[1:] + problems[:1]):
        hsd.choose_peers(group, [], "uniform", rng)
        failed = [r for r in group if not r.reward and not r.truncated]
        if len(failed) < 2 or not failed[0].peer:
            continue
        r, r.sibling = failed[:2]
        r.other, path = other, tokenizer(r.problem.solution, add_special_tokens=False).input_ids
        r.path = [*path, tokenizer.eos_token_id]
        r.first = hsd.divergence(r.response, r.path)
        found += [r] if r.first < len(r.response) else []
    return found[:count]


CONTEXTS = {
    HSD: hsd.answer_and_peer,
    "peer alone (SDPO)": hsd.peer_alone,
    "reference solution (SDFT)": hsd.solution_alone,
    "answer alone (OPSD)": hsd.answer_alone,
    "control: a failed sibling": lambda r: {"peer": r.sibling.text},
    "control: another question's path": lambda r: {"peer": r.other.solution},
}


def credits(models, tokenizer, rollouts, context, config):
    """The credit A_t (Eq. 2), [T], of each rollout under a context."""
    read = [replace(r) for r in rollouts]
    for r, origin in zip(read, rollouts):
        vars(r).update({k: v for k, v in vars(origin).items() if k in ("sibling", "other")})
        hsd.condition_teacher(r, context, tokenizer, config)
    hsd.set_credit(hsd.Models(models.student, models.student, None), read, config)
    return [r.credit for r in read]


def experiment_base(models, tokenizer, _, config, count):
    """A row for each length: `count` questions x 8 samples of data/questions/eval-N.jsonl."""
    rows = []
    for n in (4, 8, 16):
        problems = hsd.load_problems(str(HERE / f"questions/eval-{n}.jsonl"))[:count]
        row, failed = hsd.evaluate(models, tokenizer, problems, config, 0)
        row = {"n": n, "questions": len(problems), **row}
        for name, context in (("peer", hsd.answer_and_peer), ("answer", hsd.answer_alone)):
            credit = torch.cat(credits(models, tokenizer, failed, context, config))
            row[f"mean |A|, {name}"] = credit.abs().mean().item()
        rows.append(row)
    return rows


# ---- What is said of a credit --------------------------------------------------------------------
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


NAMES = ("hit", "share", "auroc", "elsewhere")


def summary(name, credit, rollouts):
    """A row: the figures of a context over all rollouts, with intervals."""
    each = zip(*(figures(a, r.first) for a, r in zip(credit, rollouts)))
    row = {key: interval(values) for key, values in zip(NAMES, each)}
    return {"context": name, "rollouts": len(rollouts), **row}


def experiment_credit(models, tokenizer, problems, config, count):
    """A row for each context; failed siblings also apart, by whether they go wrong later."""
    rollouts, rows = failed_rollouts(models, tokenizer, problems, config, count), []
    for name, context in CONTEXTS.items():
        credit = credits(models, tokenizer, rollouts, context, config)
        rows.append(summary(name, credit, rollouts))
        if "sibling" in name:
            later = [hsd.divergence(r.sibling.response, r.path) > r.first for r in rollouts]
            for text, want in (("that errs later", True), ("that errs there or before", False)):
                some = [i for i, x in enumerate(later) if x == want]
                part = [credit[i] for i in some], [rollouts[i] for i in some]
                rows.append(summary(f"control: a failed sibling {text}", *part))
    constant = [torch.full((len(r.response),), -1.0) for r in rollouts]
    return [*rows, summary("a constant (GRPO)", constant, rollouts)]


# ---- The ideal credit (Proposition 1) ------------------------------------------------------------
def values(models, tokenizer, rollout, config, n):
    """V(h), [T+1], the student's chance of success from every prefix of a rollout: n continuations
    each, with half a success and half a failure added."""
    ends, T = set(models.student.lm.generation_config.eos_token_id), len(rollout.response)
    prompts = [rollout.prompt + rollout.response[:t] for t in range(T)]
    problems = [rollout.problem] * T
    groups = hsd.sample_groups(
        models.student, tokenizer, problems, n, config, "values", "values", prompts
    )
    for t, group in enumerate(groups):
        for r in group:
            r.text = tokenizer.decode(
                [x for x in rollout.response[:t] + r.response if x not in ends]
            )
    hsd.verify_rollouts([r for group in groups for r in group])
    successes = [sum(r.reward for r in group) for group in groups] + [n * rollout.reward]
    return [(s + 0.5) / (n + 1) for s in successes]


def experiment_value(models, tokenizer, problems, config, count, n=64):
    """How often the largest fall of log V is at the first wrong token, how far V falls there, and
    the correlation of each context's credit with the ideal one, over all tokens."""
    rollouts = failed_rollouts(models, tokenizer, problems, config, count)
    V = [values(models, tokenizer, r, config, n) for r in rollouts]
    ideal = [torch.tensor([math.log(b / a) for a, b in itertools.pairwise(v)]) for v in V]
    agree = [float(x.argmin() == r.first) for x, r in zip(ideal, rollouts)]
    before = [v[r.first] for v, r in zip(V, rollouts)]
    after = [v[r.first + 1] for v, r in zip(V, rollouts)]
    rows = [{"agree": interval(agree), "before": interval(before), "after": interval(after)}]
    for name, context in CONTEXTS.items():
        credit = credits(models, tokenizer, rollouts, context, config)
        pair = torch.stack([torch.cat(credit), torch.cat(ideal)])
        each = [torch.corrcoef(torch.stack(x))[0, 1].item() for x in zip(credit, ideal)]
        row = {"context": name, "correlation": torch.corrcoef(pair)[0, 1].item()}
        rows.append(row | {"of_rollouts": interval(each)})
    return rows


# ---- Tables --------------------------------------------------------------------------------------
def cell(triple):
    """A mean and its interval."""
    return "{:.2f} ({:.2f} to {:.2f})".format(*triple)


def credit_table(credit, value):
    """The README's table: contexts down, figures across."""
    correlation = {row["context"]: f"{row['correlation']:.2f}" for row in value[1:]}
    columns = ["context of the teacher", "most negative token is the first wrong one"]
    columns += ["share of \\|A\\| on it and the next", "AUROC", "mean \\|A\\| elsewhere, nats"]
    columns += ["correlation with the ideal"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in credit:
        cells = [cell(row["hit"]), cell(row["share"])]
        cells += [f"{row['auroc'][0]:.2f}", f"{row['elsewhere'][0]:.3f}"]
        name = (
            f"{row['context']}, n = {row['rollouts']}"
            if "errs" in row["context"]
            else row["context"]
        )
        lines.append(f"| {name} | {' | '.join(cells)} | {correlation.get(row['context'], '')} |")
    return "\n".join(lines)


def base_table(rows):
    """The README's table of the base model: lengths down."""
    columns = ["n", "pass@1", "pass@8", "self-teacher", "mean \\|A\\|, answer and peer, nats"]
    columns += ["answer alone"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    keys = (
        "eval/pass@1",
        "eval/pass@8",
        "eval/teacher_pass@1",
        "mean |A|, peer",
        "mean |A|, answer",
    )
    for row in rows:
        cells = [f"{row[key]:.{3 if 'answer' in key else 2}f}" for key in keys]
        lines.append(f"| {row['n']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(folder):
    """{mark in the README: table} of the rows in a folder."""
    rows = {name: json.loads((folder / f"{name}.json").read_text()) for name in EXPERIMENTS}
    return {"base": base_table(rows["base"]), "credit": credit_table(rows["credit"], rows["value"])}


def write_tables(folder, readme):
    """Puts the tables between the marks of README.md."""
    text = readme.read_text(encoding="utf-8")
    for name, table in tables(folder).items():
        start, end = f"<!-- lab:{name} -->\n", f"<!-- /lab:{name} -->"
        before, _, rest = text.partition(start)
        if end not in rest:
            raise ValueError(f"README.md has no {end}")
        text = f"{before}{start}{table}\n{end}{rest.partition(end)[2]}"
    readme.write_text(text, encoding="utf-8")


EXPERIMENTS = {
    "base": (experiment_base, 64),
    "credit": (experiment_credit, 128),
    "value": (experiment_value, 32),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the rollouts")
    args = parser.parse_args()
    more = {"beta": 0.0, "teacher": "live", "compile": False, "max_new_tokens": 176}
    config = hsd.Config(**{**hsd.LAB, **more})
    tokenizer, models = hsd.load_models(config)
    problems = hsd.load_problems(config.eval_data)
    folder = Path("runs/lab") if args.quick else HERE / "lab"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (experiment, count) in EXPERIMENTS.items():
        count = max(2, count // 16) if args.quick else count
        rows = experiment(models, tokenizer, problems[: 3 * count], config, count)
        (folder / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    if not args.quick:
        write_tables(folder, HERE.parent / "README.md")
    print("\n\n".join(tables(folder).values()))
    print(json.dumps(json.loads((folder / "value.json").read_text())[0]))


if __name__ == "__main__":
    main()
