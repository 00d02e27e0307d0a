"""How much memory a run of hsd.py will take, by arithmetic, before anything is loaded.

    python data/plan.py --model Qwen/Qwen3-8B                                    on this machine
    python data/plan.py --model Qwen/Qwen3-32B --gpu 150 --gpus 8 --host 2000    on another, in GB

Takes every flag of hsd.py, which prints the same table when it starts, and refuses a run that
cannot fit. What PyTorch, CUDA and fragmentation take besides is SPARE.
"""

import os
import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, HfArgumentParser

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import hsd  # noqa: E402

GB = 1e9
SPARE = 2.5 * GB  # on each GPU: CUDA's context, compiled kernels, fragments
PROMPT = 512  # tokens; prompts are not known yet


@dataclass
class Machine:
    """In GB. What is left out is this machine's."""

    gpu: float = field(default=0.0, metadata={"help": "memory of one GPU; 0: this machine's"})
    host: float = field(default=0.0, metadata={"help": "host memory of the machine; 0: this one's"})
    gpus: int = field(default=0, metadata={"help": "GPUs, all on one machine; 0: as many as ranks"})


def this_machine():
    """(bytes of one GPU, or 0, bytes of host memory)."""
    gpu = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
    return gpu, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Plan:
    """Bytes by part, (name, where, when, bytes): `where` is "gpu" or "host", `when` one of
    "always", "rollouts" and "update", of which only one goes on at a time."""

    parts: list
    gpu: float
    host: float

    def needs(self, where):
        """The most that one GPU, or the host, holds at a time."""
        sums = dict.fromkeys(("always", "rollouts", "update"), 0)
        for _, place, when, size in self.parts:
            sums[when] += size * (place == where)
        return sums["always"] + max(sums["rollouts"], sums["update"])

    def table(self):
        """The plan as text."""
        lines = [f"{'memory plan, GB':<46}{'each GPU':>9}{'host':>9}"]
        for name, where, when, size in self.parts:
            phase = "" if when == "always" else f", {when}"
            columns = [
                f"{size / GB:9.1f}" if where == place else " " * 9 for place in ("gpu", "host")
            ]
            lines.append(f"  {name + phase:<44}" + "".join(columns))
        for name, gpu, host in (
            ("at most, at a time", self.needs("gpu"), self.needs("host")),
            ("there is", self.gpu, self.host),
        ):
            lines.append(f"  {name:<44}{gpu / GB:9.1f}{host / GB:9.1f}")
        return "\n".join(lines)

    def complaint(self):
        """What does not fit and what to change, in one line; None if all fits."""
        advice = {
            "gpu": "try a smaller --micro_batch_tokens or --rollout_batch, --beta 0 with --teacher "
            "live, or more GPUs",
            "host": "more GPUs on more machines, or a smaller model",
        }
        for where, there in (("gpu", self.gpu), ("host", self.host)):
            if self.needs(where) > there:
                needs = f"{self.needs(where) / GB:.1f} GB of {where.replace('gpu', 'GPU')} memory"
                return f"the run needs {needs}, and {there / GB:.1f} are here: {advice[where]}"
        return None

    @property
    def optimizer_device(self):
        return next(where for name, where, _, _ in self.parts if name.startswith("master"))


def memory_plan(config, shape, gpu, host, ranks):
    """The Plan of a run of hsd.Config `config` on `ranks` GPUs of `gpu` bytes (0: on the CPU) with
    `host` bytes between them; `shape` is the model's configuration."""
    with torch.device("meta"):
        sizes = [p.numel() for p in AutoModelForCausalLM.from_config(shape).parameters()]
    text, method, N = shape.get_text_config(), hsd.METHODS[config.method], sum(sizes)
    H, I, L, V = (
        text.hidden_size,
        text.intermediate_size,
        text.num_hidden_layers,
        text.vocab_size,
    )
    wide = 2 if gpu else 4  # bytes of a weight or an activation: bfloat16 or float32
    device, T = "gpu" if gpu else "host", config.micro_batch_tokens
    frozen = config.beta > 0 or bool(method.context) and config.teacher == "frozen"
    one_layer = wide * (10 * H + 6 * I)  # of one token, kept until its backward pass
    kept = L * wide * H + one_layer if config.gradient_checkpointing else L * one_layer
    head_dim = vars(text).get("head_dim") or H // text.num_attention_heads
    cached = 2 * L * text.num_key_value_heads * head_dim * wide
    length = config.max_new_tokens + PROMPT
    parts = [
        ("weights", device, "always", wide * N),
        ("pi_0 or frozen teacher", device, "always", frozen * wide * N / ranks),
        (
            "moving teacher, float32",
            device,
            "always",
            4 * N * (bool(method.context) and config.teacher == "ema"),
        ),
        ("KV cache", device, "rollouts", cached * length * config.rollout_batch),
        ("gradient sums, float32", device, "update", 4 * N / ranks),
        ("gradient of the largest weight", device, "update", 2 * 4 * max(sizes)),
        ("activations", device, "update", T * kept),
        (
            "logits of a chunk, head's gradient",
            device,
            "update",
            4 * V * (6 * config.chunk_tokens + H),
        ),
    ]
    optimizer = ("master weights and moments, float32", device, "always", 12 * N / ranks)
    plan = Plan([*parts, optimizer], gpu - SPARE if gpu else 0, host)
    if gpu and plan.needs("gpu") > plan.gpu:  # then in host memory, for all ranks of the machine
        plan.parts[-1] = (optimizer[0], "host", "always", 12 * N)
    plan.parts = [part for part in plan.parts if part[3]]
    return plan


def make_plan(config, machine=None):
    """The Plan of a run, here or on a Machine."""
    gpu, host = this_machine()
    machine = machine or Machine()
    try:
        shape = AutoConfig.from_pretrained(config.model)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise hsd.InputError(f"cannot load the model {config.model}: {reason}") from None
    return memory_plan(
        config, shape, machine.gpu * GB or gpu, machine.host * GB or host, machine.gpus or hsd.RANKS
    )


def announce(config):
    """Prints the plan of a run that is about to start. InputError, with what to change, if it
    cannot fit. Returns the device for the optimizer's state: "cuda" or "cpu"."""
    plan = make_plan(config)
    hsd.say(plan.table())
    if complaint := plan.complaint():
        raise hsd.InputError(complaint)
    return "cuda" if plan.optimizer_device == "gpu" else "cpu"


def measured():
    """The peak of this process so far, in one line."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return f"measured peak, GB: GPU {gpu / GB:.1f}, host {host / GB:.1f} (this process)"


def main():
    parser = HfArgumentParser([hsd.Config, Machine], description=__doc__)
    config, machine = parser.parse_args_into_dataclasses()
    try:
        plan = make_plan(config, machine)
    except hsd.InputError as error:
        print(f"plan.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(plan.table())
    print(plan.complaint() or "it fits")


if __name__ == "__main__":
    main()
