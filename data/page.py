"""What a run of hsd.py shows of itself: warnings, coloured rollouts, credit.html; several runs.

    python data/page.py runs/hsd runs/grpo ...     draws these runs together, as report.html

Runs that differ in the seed alone are drawn as a band. Markup, style and script are page.html's;
here is the JSON that goes into it. hsd.py calls `finish` at the end of a run.
"""

import argparse
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import torch
import transformers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import hsd  # noqa: E402


def finish(run):
    """Prints warnings and failed rollouts, and writes credit.html, at the end of an hsd.Run."""
    warnings = signs_of_collapse(run.rows)
    failed = credit_data(run.models, run.tokenizer, run.failed, run.config)
    for text in [*warnings, *map(coloured, failed[: run.config.show_credit])]:
        hsd.say(text)
    if failed and hsd.RANK == 0:  # else these weights were not evaluated: an earlier page stays
        runs = [{"name": run.out.name, "label": run.config.method, "rows": run.rows}]
        title = f"{run.config.method} on {run.config.model}"
        write_page(run.out / "credit.html", title, rollouts=failed, runs=runs, warnings=warnings)


def signs_of_collapse(rows):
    """A plain warning for each figure that ends much lower than it once was."""
    warnings, steps = [], [row for row in rows if "reward" in row]
    steps = steps if len(steps) >= 20 else []  # fewer say too little
    evaluations = [row for row in rows if "eval/pass@1" in row]
    quarter = max(4, len(steps) // 4)
    for name, fall, found, n in (
        ("reward", 0.7, steps, quarter),
        ("response_tokens", 0.5, steps, quarter),
        *((k, 0.8, evaluations, 1) for k in rows[0] if "pass@" in k),
    ):
        values = [row[name] for row in found if row[name] is not None]
        means = [hsd.mean(values[i : i + n]) for i in range(len(values) - n + 1)]
        if means and means[-1] < fall * max(means):
            warnings.append(
                f"warning: {name} fell from {max(means):.3g} to {means[-1]:.3g}: a "
                "collapse? Try a lower --learning_rate, or --teacher frozen"
            )
    if steps and hsd.mean(row["truncated_share"] for row in steps[-quarter:]) > 0.5:
        warnings.append("warning: more than half of the rollouts are cut at max_new_tokens")
    return warnings


def credit_data(models, tokenizer, failed, config):
    """What the page shows of failed rollouts with peers: tokens, tau, credit under HSD's context
    and under the answer alone, and, of the first eight, teacher's and student's top-5 at tau."""
    models = models._replace(teacher=models.teacher or models.student, reference=None)
    answer_only, data = [replace(r) for r in failed], []  # all failed: no peers among them
    hsd.give_contexts(answer_only, "answer", [], config, tokenizer, random.Random(0))
    hsd.measure(models, answer_only, config)
    for i, (r, other) in enumerate(zip(failed, answer_only)):
        tau = hsd.divergence(r.response, r.peer.response)
        sides = ("teacher", models.teacher, r.teacher_prompt), ("student", models.student, r.prompt)
        top = (
            {
                name: top5(model, tokenizer, prompt + r.response[:tau])
                for name, model, prompt in sides
            }
            if i < 8
            else None
        )
        data.append(
            {
                "question": r.problem.question,
                "answer": r.problem.answer or "",
                "reward": r.reward,
                "tokens": [tokenizer.decode([token]) for token in r.response],
                "tau": tau,
                "peer_tokens": [tokenizer.decode([token]) for token in r.peer.response],
                "credit": r.credit.tolist(),
                "credit_answer_only": other.credit.tolist(),
                "top5": top,
            }
        )
    return data


@torch.no_grad()
def top5(model, tokenizer, ids):
    """The five likeliest next tokens and their probabilities."""
    hidden, head = hsd.hidden_and_head(model, [ids], [[0]])
    p, tokens = hsd.project(hidden, head.T)[0].softmax(-1).topk(5)
    return [[tokenizer.decode([token]), value] for token, value in zip(tokens.tolist(), p.tolist())]


def coloured(rollout):
    """A failed rollout, red where the teacher disagrees, >< at the divergence; and its peer."""
    text = ""
    for t, (token, credit) in enumerate(zip(rollout["tokens"], rollout["credit"])):
        fade = 255 - int(200 * min(1.0, (abs(credit) / 2) ** 0.5))
        rgb = f"255;{fade};{fade}" if credit < 0 else f"{fade};{fade};255"
        text += "><" * (t == rollout["tau"])
        text += f"\x1b[48;2;{rgb};38;2;0;0;0m{token}\x1b[0m" if sys.stdout.isatty() else token
    return f"\n{rollout['question']}\n  failed  {text}\n  peer    {''.join(rollout['peer_tokens'])}"


def write_page(path, title, **parts):
    """data/page.html with the JSON of `parts` in it."""
    text = json.dumps(
        {
            "title": title,
            "subtitle": f"torch {torch.__version__}, transformers {transformers.__version__}",
        }
        | parts,
        allow_nan=False,
    )
    page = (HERE / "page.html").read_text(encoding="utf-8")
    path.write_text(page.replace("__DATA__", text.replace("<", "\\u003c")), encoding="utf-8")


def report(folders, out):
    """Draws the runs in some folders together; those that differ in the seed alone, as a band."""
    runs = []
    for folder in map(Path, folders):
        try:
            config = json.loads((folder / "config.json").read_text())
            rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
        except (OSError, json.JSONDecodeError) as error:
            raise hsd.InputError(f"no run in {folder}: {error}") from None
        own = {k: v for k, v in config.items() if k not in hsd.script("run.py")["MAY_DIFFER"]}
        runs.append({"name": folder.name, "config": own, "rows": rows})
    for run in runs:  # the label: the fields in which the runs differ
        own = run["config"].items()
        differ = [f"{k} {v}" for k, v in own if any(r["config"].get(k) != v for r in runs)]
        run["label"] = ", ".join(differ) or run["config"]["method"]
    write_page(Path(out), "Runs: " + ", ".join(run["name"] for run in runs), runs=runs)
    print(f"wrote {out}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", help="folders of runs")
    parser.add_argument("--out", default="report.html", help="the page to write")
    args = parser.parse_args()
    try:
        report(args.runs, args.out)
    except (hsd.InputError, OSError) as error:
        print(f"page.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
