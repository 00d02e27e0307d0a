"""Speed, memory and accuracy of hsd.py, side by side in one run. Needs no model hub.

    python data/benchmark.py                          all parts, sized for this machine
    python data/benchmark.py --only loss,update       some of: loss update rollouts verify step

loss      kl_teacher_student against the dense way and, on CUDA where it is installed, liger-kernel's
          fused linear JSD; the four products with the head alone are the limit of the former.
          Memory above the inputs once everything is compiled, seconds, and the error of the
          gradient against float64, at V = 151,936
update    one optimizer step of grpo, opsd and hsd on the same rollouts
rollouts  generated tokens per second
verify    answers and programs per second
step      the whole step of hsd.py: rollouts, verification, peers, update, optimizer. A model with
          random weights solves nothing: the rewards are drawn

On CUDA the model has Qwen3-8B's shape and random weights; on a CPU a small one stands for it.
--model names another, with weights or only a config.json.
"""

import argparse
import copy
import json
import multiprocessing
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen3Config

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import hsd

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPE = torch.bfloat16 if CUDA else torch.float32
QWEN3_8B = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": False,
}
STAND_IN = QWEN3_8B | {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
}


def clock(function, repeats=3):
    """The times of some calls, in seconds, sorted, after one call that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        if CUDA:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])


def spread(times):
    """The median of sorted times, and the lowest and the highest."""
    return f"{times[len(times) // 2]:.2f} ({times[0]:.2f} to {times[-1]:.2f})"


def table(title, columns, rows):
    """Prints a Markdown table."""
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |")
    sys.stdout.flush()


def extra_memory(function):
    """The most that a call holds above what was held before it, in GB."""
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 1e9

    def kilobytes(field):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1])

    before = kilobytes("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    function()
    return (kilobytes("VmHWM:") - before) * 1024 / 1e9


# ---- loss ----------------------------------------------------------------------------------------
def loss_inputs(T, H, V):
    """Hidden states [T,H] of student and teacher, a little apart, as they are for most tokens, and
    a head [V,H], in the dtype that a run uses."""
    g = torch.Generator().manual_seed(0)
    student = torch.randn(T, H, generator=g)
    teacher = student + 0.2 * torch.randn(T, H, generator=g)
    head = 2 * torch.randn(V, H, generator=g) / H**0.5
    return [x.to(DEVICE, DTYPE) for x in (student, teacher, head)]


def dense_loss(student, teacher, head):
    """What everyone writes first: all logits at once, in the inputs' dtype."""
    student = (student @ head.T).log_softmax(-1)
    with torch.no_grad():
        teacher = (teacher @ head.T).log_softmax(-1)
    return (teacher.exp() * (teacher - student)).sum(-1).mean()


def products_alone(student, teacher, head, C=256):
    """The four products with the head that kl_teacher_student makes, and nothing else."""
    head_gradient = torch.zeros_like(head, dtype=torch.float32)
    logits = [None, None]
    for start in range(0, len(student), C):
        rows = slice(start, start + C)
        for i, side in enumerate((student, teacher)):
            logits[i] = hsd.project(side[rows], head.T, logits[i])
        hsd.project(logits[0], head)
        hsd.project(logits[1].T, student[rows], head_gradient, keep=1)


def liger_loss():
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD

    jsd = LigerFusedLinearJSD(jsd_beta=0.0)  # in its terms, KL(teacher || student)
    return lambda student, teacher, head: jsd(student, head, teacher, head, None)


def our_loss(chunk_tokens):
    def loss(student, teacher, head):
        return hsd.kl_teacher_student(student, teacher, head, None, chunk_tokens)[0]

    return loss


LOSSES = {
    "dense": lambda: dense_loss,
    "dense, float32 logits": lambda: lambda *inputs: dense_loss(*[x.float() for x in inputs]),
    "kl_teacher_student, chunks of 256": lambda: our_loss(256),
    "kl_teacher_student, chunks of 64": lambda: our_loss(64),
    "liger-kernel": liger_loss,
    "the four products alone": None,
}


def exact_gradient(student, teacher, head):
    """The gradient of the mean KL in student hidden states, in float64, by the formula."""
    student, teacher, head = (x.double() for x in (student, teacher, head))
    rows = []
    for s, t in zip(student.split(32), teacher.split(32)):
        rows.append(((s @ head.T).softmax(-1) - (t @ head.T).softmax(-1)) @ head)
    return torch.cat(rows) / len(student)


def measure_loss(name, sizes, repeats, queue):
    """In a process of its own, whose memory is that of one way to compute the loss."""
    student, teacher, head = loss_inputs(*sizes)
    if LOSSES[name] is None:
        times = clock(lambda: products_alone(student, teacher, head), repeats)
        return queue.put([name, "", spread(times), ""])
    try:
        loss = LOSSES[name]()
    except ImportError as error:
        return queue.put([name, "", f"not installed: {error.name}", ""])

    def run():
        leaves = student.clone().requires_grad_(), head.clone().requires_grad_()
        loss(leaves[0], teacher, leaves[1]).backward()
        return leaves[0].grad

    gradient, exact = run(), exact_gradient(student, teacher, head)  # and compiles
    error = ((gradient.double() - exact).norm() / exact.norm()).item()
    memory = extra_memory(run) - student.nbytes / 1e9 - head.nbytes / 1e9
    queue.put([name, f"{memory:.2f}", spread(clock(run, repeats)), f"{error:.1e}"])


def part_loss(args):
    """The loss, by several ways."""
    sizes = (4096, 4096, 151_936) if CUDA else (1024, 256, 151_936)
    context, rows = multiprocessing.get_context("spawn"), []
    for name in LOSSES:
        if CUDA or name not in ("dense, float32 logits", "liger-kernel"):
            queue = context.Queue()
            process = context.Process(target=measure_loss, args=(name, sizes, args.repeats, queue))
            process.start()
            process.join()
            failed = [name, "", "failed (out of memory?)", ""]
            rows.append(failed if process.exitcode else queue.get())
    T, H, V = sizes
    columns = ["loss and its gradient", "GB above the inputs", "seconds", "gradient's error"]
    table(f"Loss: T = {T}, H = {H}, V = {V:,}, {str(DTYPE)[6:]}", columns, rows)


# ---- a model and rollouts ------------------------------------------------------------------------
def random_model(args):
    """The model of --model, or one of Qwen3-8B's shape (on CUDA) or a small one with random
    weights."""
    if args.model and list(Path(args.model).glob("*.safetensors")):
        return AutoModelForCausalLM.from_pretrained(args.model, dtype=DTYPE).to(DEVICE)
    shape = QWEN3_8B if CUDA else STAND_IN
    config = AutoConfig.from_pretrained(args.model) if args.model else Qwen3Config(**shape)
    torch.manual_seed(0)
    with torch.device(DEVICE):
        return AutoModelForCausalLM.from_config(config, dtype=DTYPE)


def configured(args, method, **more):
    """A Config for a method, with the arguments' sizes."""
    return hsd.Config(
        method=method,
        compile=args.compile,
        micro_batch_tokens=args.micro_batch_tokens,
        rollout_tokens=10**9,
        beta=args.beta,
        max_new_tokens=args.tokens,
        group_size=args.group,
        **more,
    )


def models_around(student, config):
    """hsd.Models: the live teacher, where the method has one, and pi_0, a copy."""
    student.gradient_checkpointing_enable({"use_reentrant": False})
    reference = copy.deepcopy(student).requires_grad_(False) if config.beta else None
    taught = hsd.METHODS[config.method].context is not None
    return hsd.Models(student, student if taught else None, reference)


def made_up_rollouts(args, V, method):
    """Groups of rollouts of random tokens, half of them successes; |c| is about 1.2 |o|."""
    rng, rollouts = random.Random(0), []

    def ids(n):
        return [rng.randrange(10, V) for _ in range(n)]

    for q in range(args.questions):
        question, problem = ids(args.tokens // 8), hsd.Problem(f"question {q}", "1")
        for i in range(args.group):
            r = hsd.Rollout(problem, question, ids(rng.randint(args.tokens // 2, args.tokens)))
            r.reward, r.advantage, r.context = float(i % 2), 2.0 * (i % 2) - 1, {"answer": "1"}
            context = {"opsd": 16, "hsd": int(0.9 * args.tokens)}.get(method, 0)
            r.teacher_prompt = question + ids(context)
            rollouts.append(r)
    return rollouts


def update(models, optimizer, rollouts, config):
    """What hsd.train_step does with its rollouts."""
    hsd.set_weights(rollouts, hsd.METHODS[config.method].mean_over, config)
    for batch in hsd.micro_batches(rollouts, config.micro_batch_tokens):
        hsd.batch_loss(models, batch, 0, config)[0].backward()
    optimizer.step()


def part_update(args):
    """Optimizer steps of three methods on the same rollouts."""
    student, rows, first = random_model(args), [], None
    optimizer = hsd.MasterAdamW(student, configured(args, "hsd"))
    for method in ("grpo", "opsd", "hsd"):
        config = configured(args, method)
        models = models_around(student, config)
        rollouts = made_up_rollouts(args, student.config.vocab_size, method)
        inputs = models, optimizer, rollouts, config
        times = clock(lambda inputs=inputs: update(*inputs), args.repeats)
        median = times[len(times) // 2]
        first = first or median
        tokens = sum(len(r.prompt) + len(r.response) for r in rollouts)
        rows.append([method, spread(times), f"{median / first:.2f}", f"{tokens / median:,.0f}"])
    size = f"{args.questions} x {args.group} rollouts of {args.tokens // 2} to {args.tokens} tokens"
    columns = ["update", "seconds", "of grpo's", "student's tokens/s"]
    table(f"Update: {size}, beta = {args.beta}", columns, rows)


def part_rollouts(args):
    """Tokens per second of generate()."""
    model, rng = random_model(args), random.Random(0)
    V, config = model.config.vocab_size, configured(args, "hsd")
    prompts = [[rng.randrange(10, V) for _ in range(100)] for _ in range(args.questions)]
    prompts = [prompt for prompt in prompts for _ in range(args.group)]
    start = time.perf_counter()
    tokens = sum(map(len, hsd.generate(model, prompts, [V - 1], config)))
    rate = tokens / (time.perf_counter() - start)
    rows = [[len(prompts), f"{tokens:,}", f"{rate:,.0f}"]]
    table("Rollouts", ["at a time", "tokens", "tokens/s"], rows)


def part_verify(args):
    """Answers and programs per second, by as many threads as hsd.py uses."""
    rng, rows = random.Random(0), []
    answers = [p.answer for p in hsd.load_problems(str(HERE / "math.jsonl"))]
    pairs = [(rng.choice(answers), rng.choice(answers)) for _ in range(1024)]
    program, tests = "def f(x):\n    return x + 1\n", ["assert f(1) == 2"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, function, work in (
            ("answers, from cold", hsd.math_equal, pairs),
            ("answers", hsd.math_equal, pairs[::-1]),
            ("programs of one test", hsd.run_tests, [(program, tests)] * 100),
        ):
            start = time.perf_counter()
            right = sum(pool.map(function, *zip(*work)))
            seconds = time.perf_counter() - start
            rows.append([name, len(work), right, f"{seconds:.2f}", f"{len(work) / seconds:,.0f}"])
    table("Verification", ["of", "how many", "right", "seconds", "per second"], rows)


def part_step(args):
    """The whole step of hsd.py, with drawn rewards."""
    tokenizer, rows = AutoTokenizer.from_pretrained(HERE / "tiny-qwen3"), []
    # of any token a letter, which is one token again: a peer's text is as long as the peer
    tokenizer.decode = lambda ids, **_: "".join(chr(97 + i % 26) for i in ids)
    problems = [hsd.Problem(f"{q:02d}+1=?", "1") for q in range(args.questions)]
    student, rng = random_model(args), random.Random(0)
    optimizer = hsd.MasterAdamW(student, configured(args, "hsd"))
    hsd.verify = lambda problem, text: rng.random() < 0.5
    for method in ("grpo", "opsd", "hsd"):
        config = configured(args, method)
        models, row = models_around(student, config), {}

        def step(models=models, config=config, row=row):
            inputs = (models, optimizer, tokenizer, problems, {}, 0, config)
            row.update(hsd.train_step(*inputs))

        start = time.perf_counter()
        memory = extra_memory(step)
        seconds = time.perf_counter() - start
        tokens = row["response_tokens"] * args.questions * args.group
        rows.append([method, f"{seconds:.1f}", f"{tokens:,.0f}", f"{memory:.1f}"])
    size = f"{args.questions} x {args.group} rollouts, {args.tokens} new tokens"
    columns = ["step", "seconds", "response tokens", "GB above the models"]
    table(f"Whole step: {size}", columns, rows)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {
        "loss": part_loss,
        "update": part_update,
        "rollouts": part_rollouts,
        "verify": part_verify,
        "step": part_step,
    }
    parser.add_argument("--only", default=",".join(parts), help="parts, comma-separated")
    parser.add_argument("--model", help="a folder or hub name; a config without weights will do")
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096 if CUDA else 384, help="per response")
    parser.add_argument("--micro_batch_tokens", type=int, default=8192)
    parser.add_argument("--beta", type=float, default=0.001)
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each row")
    parser.add_argument("--compile", type=json.loads, default=True, help="true or false")
    args = parser.parse_args()
    where = torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}; torch {torch.__version__}, transformers {transformers.__version__}")
    for part in args.only.split(","):
        if part not in parts:
            parser.error(f"--only {part}: choose from {', '.join(parts)}")
        parts[part](args)


if __name__ == "__main__":
    main()
