"""Speed, memory and accuracy of hsd.py, side by side in one run. Needs no model hub.

    python data/benchmark.py                          all parts, sized for this machine
    python data/benchmark.py --only loss,update       some of: loss update rollouts verify step

loss      the fused KL(teacher || student) against the dense one and, on CUDA where it is installed,
          liger-kernel's fused linear JSD: peak memory above the inputs, seconds, gradient error
          against float64, at V = 151,936
update    one optimizer step of grpo, opsd and hsd on the same rollouts
rollouts  generated tokens per second of generate and, on CUDA, of continuous batching
verify    answers and programs per second
step      the whole step of hsd.py: rollouts, verification, peers, update, optimizer; the rewards
          are drawn, since a model with random weights solves nothing

On CUDA the model has Qwen3-8B's shape and random weights; on a CPU a small one stands for it.
--model names another, with weights or only a config.json.
"""

import argparse
import json
import multiprocessing
import random
import resource
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen3Config

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import hsd  # noqa: E402

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
QWEN3_8B = dict(
    vocab_size=151_936,
    hidden_size=4096,
    intermediate_size=12_288,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=40_960,
    tie_word_embeddings=False,
)
STAND_IN = dict(
    vocab_size=8192,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=32,
    max_position_embeddings=8192,
    tie_word_embeddings=False,
)


def clock(function, repeats=3):
    """The median of some timed calls, in seconds, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        if CUDA:
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if CUDA:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def table(title, columns, rows):
    """Prints a Markdown table."""
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |")
    sys.stdout.flush()


# ---- loss ----------------------------------------------------------------------------------------


def loss_inputs(T, H, V):
    """Hidden states [T,H] of student and teacher, a little apart, as they are for most tokens, and
    a head [V,H], in the dtype that a run uses."""
    g = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if CUDA else torch.float32
    student = torch.randn(T, H, generator=g)
    teacher = student + 0.2 * torch.randn(T, H, generator=g)
    head = 2 * torch.randn(V, H, generator=g) / H**0.5
    return [x.to(DEVICE, dtype) for x in (student, teacher, head)]


def dense_loss(student, teacher, head):
    """What everyone writes first: all logits at once, in the inputs' dtype."""
    student = (student @ head.T).log_softmax(-1)
    with torch.no_grad():
        teacher = (teacher @ head.T).log_softmax(-1)
    return (teacher.exp() * (teacher - student)).sum(-1).mean()


def fused_loss(terms):
    def loss(student, teacher, head):
        tokens = torch.zeros(len(student), dtype=torch.long, device=student.device)
        sides = student, head, teacher, head, None, None
        return hsd.ChunkedHead.apply(tokens, 256, terms, *sides)[0].mean()

    return loss


def liger_loss():
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD

    jsd = LigerFusedLinearJSD(jsd_beta=0.0)  # in its terms, KL(teacher || student)
    return lambda student, teacher, head: jsd(student, head, teacher, head, None)


LOSSES = {
    "dense": lambda: dense_loss,
    "dense, float32 logits": lambda: lambda *xs: dense_loss(*[x.float() for x in xs]),
    "fused, not compiled": lambda: fused_loss(hsd.token_terms),
    "fused": lambda: fused_loss(torch.compile(hsd.token_terms)),
    "liger-kernel": liger_loss,
}


def exact_gradient(student, teacher, head):
    """The gradient of the mean KL in student hidden states, in float64, by the formula."""
    student, teacher, head = (x.double() for x in (student, teacher, head))
    rows = []
    for s, t in zip(student.split(32), teacher.split(32)):
        rows.append(((s @ head.T).softmax(-1) - (t @ head.T).softmax(-1)) @ head)
    return torch.cat(rows) / len(student)


def peak_memory():
    if CUDA:
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_loss(name, sizes, queue):
    """In a process of its own, whose peak memory is that of one way to compute the loss."""
    try:
        loss = LOSSES[name]()
    except ImportError as error:
        return queue.put(f"not installed: {error.name}")
    student, teacher, head = loss_inputs(*sizes)

    def run(n=None):
        leaves = student[:n].clone().requires_grad_(), head.clone().requires_grad_()
        loss(leaves[0], teacher[:n], leaves[1]).backward()
        return leaves[0].grad

    run(8)  # compiles
    before = peak_memory()
    gradient = run()
    extra = peak_memory() - before
    seconds = clock(run)
    exact = exact_gradient(student, teacher, head)
    error = (gradient.double() - exact).norm() / exact.norm()
    queue.put((extra / 1e9, seconds, error.item()))


def part_loss(args):
    """The loss, by several ways."""
    T, H, V = (4096, 4096, 151_936) if CUDA else (512, 256, 151_936)
    context, rows = multiprocessing.get_context("spawn"), []
    for name in LOSSES:
        if name == "liger-kernel" and not CUDA:
            continue
        queue = context.Queue()
        process = context.Process(target=measure_loss, args=(name, (T, H, V), queue))
        process.start()
        process.join()
        result = queue.get() if not process.exitcode else "failed (out of memory?)"
        if isinstance(result, str):
            rows.append([name, result, "", ""])
        else:
            rows.append([name, f"{result[0]:.2f}", f"{result[1]:.3f}", f"{result[2]:.1e}"])
    columns = ["loss and gradient", "GB above the inputs", "seconds", "gradient error"]
    dtype = "bfloat16" if CUDA else "float32"
    table(f"Loss: T = {T}, H = {H}, V = {V:,}, {dtype}", columns, rows)


# ---- a model and rollouts ------------------------------------------------------------------------


def random_model(args):
    """The model of --model, or one of Qwen3-8B's shape (on CUDA) or a small one, with random
    weights, and a tokenizer that splits text into anything at all."""
    if args.model and list(Path(args.model).glob("*.safetensors")):
        model = AutoModelForCausalLM.from_pretrained(args.model)
    else:
        shape = QWEN3_8B if CUDA else STAND_IN
        config = AutoConfig.from_pretrained(args.model) if args.model else Qwen3Config(**shape)
        torch.manual_seed(0)
        with torch.device(DEVICE):
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.bfloat16 if CUDA else torch.float32
            )
    return model.to(DEVICE)


def make_models(args, config, student):
    """hsd.Models around a student: the live teacher, pi_0 a copy."""
    import copy

    if config.gradient_checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": False})
    reference = copy.deepcopy(student).requires_grad_(False) if config.beta else None
    return hsd.Models(student, student, reference, hsd.compiled_terms(config, DEVICE))


def make_rollouts(args, V, peers):
    """Groups of G rollouts of random tokens, half of them successes. `peers`: "own" gives each its
    own peer, "group" draws it among the successes of the group; |c| is about 1.2 |o|."""
    rng = random.Random(0)

    def ids(n):
        return [rng.randrange(10, V) for _ in range(n)]

    groups = []
    for q in range(args.questions):
        question, problem = ids(args.tokens // 8), hsd.Problem(f"question {q}", "1")
        group = [
            hsd.Rollout(
                problem, question, ids(rng.randint(args.tokens // 2, args.tokens)), "", False
            )
            for _ in range(args.group)
        ]
        contexts = [ids(int(1.2 * 0.75 * args.tokens)) for _ in group]
        for i, r in enumerate(group):
            r.reward = float(i % 2)
            r.advantage = 2 * r.reward - 1
            peer = (
                i if peers == "own" else rng.choice([j for j in range(1, len(group), 2) if j != i])
            )
            r.teacher_prompt = {"answer": question + ids(16)}.get(peers, question + contexts[peer])
            r.context = {"peer": "x"}
        groups.append(group)
    return [r for group in groups for r in group]


def update_flops(model, rollouts, method, config):
    """Floating-point operations that an update must do: 2 per weight and token read forward, twice
    that backward, once more where activations are recomputed. Attention is left out."""
    N = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    student = sum(len(r.prompt) + len(r.response) for r in rollouts)
    prefixes = {tuple(r.teacher_prompt) for r in rollouts}
    teacher = sum(map(len, prefixes)) + sum(len(r.response) for r in rollouts)
    passes = 3 + bool(config.gradient_checkpointing) + bool(config.beta)
    return 2 * N * (passes * student + bool(method.context) * teacher)


def part_update(args):
    """Optimizer steps of three methods on the same rollouts."""
    student = random_model(args)
    V, rows, first, optimizer = student.config.vocab_size, [], None, None
    for method, peers in (("grpo", "own"), ("opsd", "answer"), ("hsd", "own"), ("hsd", "group")):
        config = hsd.Config(
            method=method,
            compile=args.compile,
            gradient_checkpointing=True,
            micro_batch_tokens=args.micro_batch_tokens,
            beta=args.beta,
        )
        models = make_models(args, config, student)
        models = models if hsd.METHODS[method].context else models._replace(teacher=None)
        optimizer = optimizer or hsd.MasterAdamW(student, config)
        rollouts = make_rollouts(args, V, peers)
        read = sum(len(r.prompt) + len(r.response) for r in rollouts)
        seconds = clock(lambda: hsd.update(models, optimizer, rollouts, 0, config), args.repeats)
        first = first or seconds
        flops = update_flops(student, rollouts, hsd.METHODS[method], config) / seconds
        note = {"hsd own": ", a peer each", "hsd group": ", peers of the group"}
        rows.append(
            [
                method + note.get(f"{method} {peers}", ""),
                f"{seconds:.2f}",
                f"{seconds / first:.2f}",
                f"{read / seconds:,.0f}",
                f"{flops / 1e12:.2f}",
            ]
        )
    columns = ["update", "seconds", "of grpo's", "tokens/s", "TFLOP/s"]
    size = f"{args.questions} x {args.group} rollouts of {args.tokens // 2} to {args.tokens} tokens"
    table(f"Update: {size}, beta = {args.beta}", columns, rows)


def part_rollouts(args):
    """Tokens per second of the ways to sample."""
    model, rows = random_model(args), []
    rng, V = random.Random(0), model.config.vocab_size
    prompts = [
        [rng.randrange(10, V) for _ in range(rng.randint(60, 200))] for _ in range(args.questions)
    ]
    prompts = [prompt for prompt in prompts for _ in range(args.group)]
    settings = hsd.sampling_settings(
        hsd.Config(max_new_tokens=args.tokens, rollout_batch=len(prompts)), [V - 1]
    )
    for name in ("generate", "generate_batch"):
        if name == "generate_batch" and not (CUDA or args.batching):
            rows.append([name, "", "CPU: see --batching"])
            continue
        start = time.perf_counter()
        more = (0, len(prompts)) if name == "generate_batch" else ()
        responses = getattr(hsd, name)(model.eval(), prompts, settings, *more)
        seconds = time.perf_counter() - start
        tokens = sum(len(hsd.cut_at_stop(ids, [V - 1])) for ids in responses)
        rows.append([name, f"{tokens:,}", f"{tokens / seconds:,.0f}"])
    table(f"Rollouts: {len(prompts)} of {args.tokens} tokens", ["by", "tokens", "tokens/s"], rows)


def part_verify(args):
    """Answers and programs per second, by as many threads as hsd.py uses."""
    from concurrent.futures import ThreadPoolExecutor
    import os

    rng, rows = random.Random(0), []
    answers = [p.answer for p in hsd.load_problems(HERE / "math.jsonl")]
    pairs = [(rng.choice(answers), rng.choice(answers)) for _ in range(1024)]
    programs = [
        ("def f(x):\n    return x + 1\n", [f"assert f({i}) == {i + 1}"]) for i in range(100)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, function, work in (
            ("answers, first (starts the processes)", hsd.math_equal, pairs),
            ("answers", hsd.math_equal, pairs[::-1]),
            ("programs of one test", hsd.run_tests, programs),
        ):
            start = time.perf_counter()
            right = sum(pool.map(lambda arguments: function(*arguments), work))
            seconds = time.perf_counter() - start
            rows.append([name, len(work), right, f"{seconds:.2f}", f"{len(work) / seconds:,.0f}"])
    table("Verification", ["of", "how many", "right", "seconds", "per second"], rows)


def part_step(args):
    """The whole step of hsd.py at full size, with drawn rewards."""
    tokenizer, rows = AutoTokenizer.from_pretrained(HERE / "tiny-qwen3"), []
    # of any token a letter, which is one token again: a peer's text is as long as the peer
    tokenizer.decode = lambda ids, **_: "".join(chr(97 + i % 26) for i in ids)
    problems = [hsd.Problem(f"{q:02d}+1=?", "1") for q in range(args.questions)]
    student, optimizer = random_model(args), None
    for method, compiled in (("grpo", True), ("opsd", True), ("hsd", True), ("hsd", False)):
        config = hsd.Config(
            method=method,
            compile=compiled,
            beta=args.beta,
            max_new_tokens=args.tokens,
            group_size=args.group,
            questions_per_step=args.questions,
            gradient_checkpointing=True,
            micro_batch_tokens=args.micro_batch_tokens,
            model="",
        )
        models = make_models(args, config, student)
        models = models if hsd.METHODS[method].context else models._replace(teacher=None)
        optimizer = optimizer or hsd.MasterAdamW(student, config)
        if CUDA:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        groups = hsd.sample_groups(student, tokenizer, problems, config, "0")
        sampled, rng = time.perf_counter(), random.Random(0)
        for r in (r for group in groups for r in group):
            r.reward = float(rng.random() < 0.5)
        hsd.learn(models, optimizer, groups, {}, tokenizer, 0, config)
        if CUDA:
            torch.cuda.synchronize()
        ended = time.perf_counter()
        rollouts = [r for group in groups for r in group]
        tokens = sum(len(r.response) for r in rollouts)
        flops = update_flops(student, rollouts, hsd.METHODS[method], config)
        rows.append(
            [
                method + ("" if compiled else ", not compiled"),
                f"{sampled - start:.1f}",
                f"{tokens / (sampled - start):,.0f}",
                f"{ended - sampled:.1f}",
                f"{flops / (ended - sampled) / 1e12:.3g}",
                f"{peak_memory() / 1e9:.1f}",
            ]
        )
        del models
        torch.cuda.empty_cache()
    columns = ["step", "rollout s", "tokens/s", "update s", "TFLOP/s", "peak GB"]
    size = f"{args.questions} x {args.group} rollouts, {args.tokens} new tokens"
    table(f"Whole step: {size}; update includes AdamW on the host", columns, rows)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("loss", "update", "rollouts", "verify", "step")
    parser.add_argument("--only", default=",".join(parts), help="parts, comma-separated")
    parser.add_argument("--model", help="a folder or hub name; a config without weights will do")
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096 if CUDA else 384, help="per response")
    parser.add_argument("--micro_batch_tokens", type=int, default=8192)
    parser.add_argument("--beta", type=float, default=0.001)
    parser.add_argument("--repeats", type=int, default=1 if CUDA else 3)
    parser.add_argument("--compile", type=json.loads, default=True, help="true or false")
    parser.add_argument("--batching", action="store_true", help="generate_batch on a CPU too")
    args = parser.parse_args()
    where = torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}; torch {torch.__version__}, transformers {transformers.__version__}")
    for part in args.only.split(","):
        globals()[f"part_{part}"](args)


if __name__ == "__main__":
    main()
