"""The folder of a run of hsd.py: what it is, its metrics, its checkpoint, and how to go on from it.

runs/hsd/config.json        every field, versions, machine, commit
runs/hsd/metrics.jsonl      a flat object for each step and each evaluation
runs/hsd/checkpoint/        model and tokenizer in Hugging Face format; state.pt; of each rank,
                            the optimizer's part
runs/hsd/credit.html        data/page.py
"""

import json
import math
import pickle
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import hsd  # noqa: E402

# What may be another when a run goes on, and what does not make it another method on a page.
MAY_DIFFER = "seed versions out overwrite resume show_credit save_every".split()


class Run:
    """The folder of a run. A checkpoint is written beside the last one, then takes its place. Draws
    all follow from seed and step: weights, optimizer, teacher, buffer and step are all it holds."""

    def __init__(self, config, models, optimizer, tokenizer):
        self.config, self.models, self.optimizer = config, models, optimizer
        self.tokenizer, self.out = tokenizer, Path(config.out)
        self.step, self.rows, self.past, self.failed = 0, [], {}, []
        if config.resume:
            self.load()
        elif hsd.RANK == 0 and self.out.exists() and any(self.out.iterdir()):
            if not config.overwrite:
                raise hsd.InputError(
                    f"{self.out} is in use: --resume, --overwrite or another --out?"
                )
            for end in ("", ".new", ".old"):  # what else lies there is not ours
                shutil.rmtree(self.out / f"checkpoint{end}", ignore_errors=True)
        if hsd.RANK == 0:
            self.start()

    def start(self):
        """Writes what the run is, and the metrics up to where it starts."""
        self.out.mkdir(parents=True, exist_ok=True)
        git = shutil.which("git") and subprocess.run(
            ["git", "-C", str(HERE), "rev-parse", "HEAD"], capture_output=True, text=True
        )
        about = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": platform.platform(),
            "cuda": torch.version.cuda,
            "commit": git and git.stdout.strip(),
        }
        about = asdict(self.config) | {"versions": about}
        (self.out / "config.json").write_text(json.dumps(about, indent=1))
        (self.out / "metrics.new").write_text("".join(json.dumps(r) + "\n" for r in self.rows))
        (self.out / "metrics.new").rename(self.out / "metrics.jsonl")

    def save(self, step):
        """Writes checkpoint/: model and tokenizer in Hugging Face format, state.pt, and of each
        rank the optimizer."""
        new, last, old = (self.out / f"checkpoint{end}" for end in (".new", "", ".old"))
        past = {question: [r.response for r in kept] for question, kept in self.past.items()}
        moving = self.config.teacher == "ema" and self.models.teacher is not None
        try:
            if hsd.RANK == 0:
                for stale in (new, old) if last.exists() else (new,):
                    shutil.rmtree(stale, ignore_errors=True)
                self.models.student.save_pretrained(new)
                self.tokenizer.save_pretrained(new)
                torch.save(
                    {
                        "step": step,
                        "rows": len(self.rows),
                        "past": past,
                        "teacher": self.models.teacher.state_dict() if moving else None,
                        "config": asdict(self.config),
                    },
                    new / "state.pt",
                )
            hsd.most(0)  # all ranks wait for this one
            optimizer = self.optimizer  # of the weights that this rank owns
            part = {i: (x, optimizer.adamw.state[x]) for i, x in optimizer.master.items()}
            torch.save(part, new / f"optimizer-{hsd.RANK}.pt")
            hsd.most(0)
            if hsd.RANK == 0:
                if last.exists():
                    last.rename(old)
                new.rename(last)
                shutil.rmtree(old, ignore_errors=True)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise hsd.InputError(f"cannot save: {error}; the last checkpoint is intact") from None

    def load(self):
        """Goes back to the last checkpoint, of however many ranks. InputError if it cannot, or if
        a field has changed."""
        folder = self.out / "checkpoint"
        folder = folder if folder.exists() else self.out / "checkpoint.old"
        if not folder.exists():
            raise hsd.InputError(f"{self.out} holds no checkpoint")
        try:
            state = torch.load(folder / "state.pt", weights_only=True)
            rows = (self.out / "metrics.jsonl").read_text().splitlines()[: state["rows"]]
            for part in folder.glob("optimizer-*.pt"):
                self.load_optimizer(torch.load(part, weights_only=True, mmap=True))
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise hsd.InputError(f"cannot resume from {folder}: {error}") from None
        for name, old in state["config"].items():
            new = vars(self.config)[name]
            if new != old and name not in (*MAY_DIFFER[1:], "steps"):
                raise hsd.InputError(f"cannot resume: --{name} was {old} and is {new}")
        self.step, self.rows = state["step"], [json.loads(row) for row in rows]
        self.past = {
            question: [hsd.Rollout(hsd.Problem(question), [], ids, "", False) for ids in kept]
            for question, kept in state["past"].items()
        }
        if state["teacher"]:
            self.models.teacher.load_state_dict(state["teacher"])

    @torch.no_grad()
    def load_optimizer(self, part):
        """Takes over what some rank has saved: all weights, and what this rank owns of the rest."""
        for i, (saved, moments) in part.items():
            self.optimizer.weights[i].copy_(saved)
            master = self.optimizer.master.get(i)
            if master is not None:
                master.copy_(saved)
                self.optimizer.adamw.state[master] = {
                    name: moment.to(master.device, copy=True) for name, moment in moments.items()
                }

    def due(self, step, every):
        """Is it time for what happens every so many steps, and at the end?"""
        return step == self.config.steps or bool(every) and step % every == 0

    def log(self, row):
        """Appends a flat row to metrics.jsonl (nan as null) and prints its main figures."""
        self.rows.append({k: v if math.isfinite(v) else None for k, v in row.items()})
        if hsd.RANK == 0:
            with open(self.out / "metrics.jsonl", "a") as file:
                file.write(json.dumps(self.rows[-1]) + "\n")
        shown = ("reward", "kl", "peer_share", "response_tokens", "seconds")
        figures = [f"{k} {v:.3g}" for k, v in row.items() if k in shown or "/" in k]
        hsd.say(f"step {row['step']:>4}  " + "  ".join(figures))

    def finish(self):
        """First and last evaluation side by side; the rest of what a run shows is data/page.py."""
        before, *_, after = [row for row in self.rows if "eval/pass@1" in row] * 2
        hsd.say(f"\n{'held-out, at step':<24}{before['step']:>8}{after['step']:>8}")
        for name in list(before)[1:]:
            figures = [math.nan if row[name] is None else row[name] for row in (before, after)]
            hsd.say(f"{name:<24}{figures[0]:>8.3f}{figures[1]:>8.3f}")
        hsd.script("page.py")["finish"](self)  # warnings, credit, credit.html
        hsd.say(hsd.script("plan.py")["measured"]())
