"""Speed, memory and accuracy of hsd.py, side by side in one run. Needs no model hub.

    python data/benchmark.py                          all parts, sized for this machine
    python data/benchmark.py --only loss,update       some of: loss update rollouts verify step
                                                      full_size

loss      kl_teacher_student against the dense way and, on CUDA if it is installed, liger-kernel's
          fused linear JSD; the four products with the head alone are the limit of the former.
          Memory above the inputs once everything is compiled, seconds, and the error of the
          gradient against float64, at V = 151,936
update    one optimizer step of grpo, opsd and hsd on the same rollouts
rollouts  generated tokens per second
verify    answers and programs per second
full_size Qwen3-8B on paper: bytes of each phase, operations of an update, and the calls, bytes and
          operations of a step's rollouts, counted on the real functions with tensors that have no
          memory. Only if asked for; no GPU needed, 3 minutes
step      the whole step of hsd.py: rollouts, verification, peers, update, optimizer. A model with
          random weights solves nothing: the rewards are drawn

On CUDA the model has Qwen3-8B's shape and random weights; on a CPU a small one stands for it.
--model names another, with weights or only a config.json.
"""

import argparse
import contextlib
import functools
import itertools
import json
import math
import multiprocessing
import os
import random
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
import transformers
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.fsdp._fully_shard import _fsdp_param, _fsdp_param_group
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
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
QWEN3_32B = {  # where it differs
    "hidden_size": 5120,
    "intermediate_size": 25_600,
    "num_hidden_layers": 64,
    "num_attention_heads": 64,
}
QWEN3_06B = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "tie_word_embeddings": True,
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
            logits[i] = hsd.matmul_float32(side[rows], head.T, logits[i])
        hsd.matmul_float32(logits[0], head)
        hsd.add_matmul_float32(head_gradient, logits[1].T, student[rows])


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
def random_models(args):
    """Student and pi_0: --model, or one of Qwen3-8B's shape (on CUDA) or a small one with random
    weights; as hsd.load_models prepares them."""
    hsd.join_ranks()
    lms = []
    shape = Qwen3Config(**(QWEN3_8B if CUDA else STAND_IN))
    for trained in (True, False)[: 1 + (args.beta > 0)]:
        if args.model and list(Path(args.model).glob("*.safetensors")):
            lm = AutoModelForCausalLM.from_pretrained(args.model, dtype=DTYPE).to(DEVICE)
        else:
            torch.manual_seed(0)
            given = AutoConfig.from_pretrained(args.model) if args.model else shape
            with torch.device(DEVICE):
                lm = AutoModelForCausalLM.from_config(given, dtype=DTYPE)
        lm.gradient_checkpointing_enable({"use_reentrant": False})
        lms.append(hsd.shard(hsd.LanguageModel(lm.requires_grad_(trained))))
    return [*lms, None][:2]


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


def models_around(student, reference, config):
    """hsd.Models: the live teacher, where the method has one."""
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
            r.reward, r.advantage, r.context = float(i % 2), 2.0 * (i % 2) - 1, [("answer", "1")]
            context = {"opsd": 16, "hsd": int(0.9 * args.tokens)}.get(method, 0)
            r.teacher_prompt = question + ids(context)
            rollouts.append(r)
    return rollouts


def update(models, optimizer, rollouts, config):
    """What hsd.train_step does with its rollouts."""
    hsd.set_weights(rollouts, hsd.METHODS[config.method].mean_over, config)
    for batch in hsd.micro_batches(rollouts, config.micro_batch_tokens):
        hsd.batch_loss(models, batch, 0, config)[0].backward()
    hsd.optimizer_step(models.student, optimizer, config)


def part_update(args):
    """Optimizer steps of three methods on the same rollouts."""
    (student, reference), rows, first = random_models(args), [], None
    optimizer = hsd.adamw(student, configured(args, "hsd"))
    for method in ("grpo", "opsd", "hsd"):
        config = configured(args, method)
        models = models_around(student, reference, config)
        rollouts = made_up_rollouts(args, student.lm.config.vocab_size, method)
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
    (model, _), rng = random_models(args), random.Random(0)
    V, config = model.lm.config.vocab_size, configured(args, "hsd")
    hsd.unshard(model)
    prompts = [[rng.randrange(10, V) for _ in range(100)] for _ in range(args.questions)]
    prompts = [prompt for prompt in prompts for _ in range(args.group)]
    start = time.perf_counter()
    tokens = sum(map(len, hsd.generate(model, prompts, [V - 1], config)))
    rate = tokens / (time.perf_counter() - start)
    rows = [[len(prompts), f"{tokens:,}", f"{rate:,.0f}"]]
    table("Rollouts", ["at a time", "tokens", "tokens/s"], rows)


def part_verify(args):
    """Answers a second on one core, and programs by as many threads as hsd.py uses."""
    rng, rows = random.Random(0), []
    answers = [p.answer for p in hsd.load_problems(str(HERE / "math.jsonl"))]
    pairs = list({(rng.choice(answers), rng.choice(answers)): 1 for _ in range(4096)})
    cases = [json.loads(line) for line in (HERE / "cases/answers.jsonl").read_text().splitlines()]
    hostile = [row["candidate"] for row in cases if row["kind"] == "hostile"]
    hostile = ["".join(x if type(x) is str else x[0] * x[1] for x in text) for text in hostile]
    hostile = [(text + " " * i, "5") for i in range(1000) for text in [hostile[i % len(hostile)]]]
    programs = [("def f(x):\n    return x + 1\n", ["assert f(1) == 2"])] * 100
    for name, function, work, threads in (
        ("pairs of answers", hsd.math_equal, pairs, 1),
        ("hostile answers", hsd.math_equal, hostile, 1),
        ("programs of one test", hsd.run_tests, programs, os.cpu_count()),
    ):
        start = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            right = sum(pool.map(function, *zip(*work)))
        seconds = time.perf_counter() - start
        cells = [name, f"{len(work):,}", threads, right, f"{seconds:.2f}"]
        rows.append([*cells, f"{len(work) / seconds:,.0f}"])
    columns = ["of", "how many", "threads", "right", "seconds", "per second"]
    table("Verification, from cold", columns, rows)


def part_step(args):
    """The whole step of hsd.py, with drawn rewards."""
    tokenizer, rows = AutoTokenizer.from_pretrained(HERE / "tiny-qwen3"), []
    # of any token a letter, which is one token again: a peer's text is as long as the peer
    tokenizer.decode = lambda ids, **_: "".join(chr(97 + i % 26) for i in ids)
    problems = [hsd.Problem(f"{q:02d}+1=?", "1") for q in range(args.questions)]
    (student, reference), rng = random_models(args), random.Random(0)
    student.lm.generation_config.eos_token_id = [student.lm.config.vocab_size - 1]
    optimizer = hsd.adamw(student, configured(args, "hsd"))
    hsd.verify = lambda problem, text: rng.random() < 0.5
    for method in ("grpo", "opsd", "hsd"):
        config = configured(args, method)
        models, row = models_around(student, reference, config), {}

        def step(models=models, config=config, row=row):
            inputs = (models, optimizer, tokenizer, problems, 0, config)
            row.update(hsd.train_step(*inputs))

        start = time.perf_counter()
        memory = extra_memory(step)
        seconds = time.perf_counter() - start
        tokens = row["response_tokens"] * args.questions * args.group
        rows.append([method, f"{seconds:.1f}", f"{tokens:,.0f}", f"{memory:.1f}"])
    size = f"{args.questions} x {args.group} rollouts, {args.tokens} new tokens"
    columns = ["step", "seconds", "response tokens", "GB above the models"]
    table(f"Whole step: {size}", columns, rows)


# ---- full_size: without a GPU, and without memory ------------------------------------------------
def local(x):
    """What this rank holds of a tensor."""
    return x._local_tensor if isinstance(x, DTensor) else x


class Meter(TorchDispatchMode):
    """Adds a storage's bytes when it is born or resized, and subtracts them when it dies. `host`
    gives the tensors that are not the GPU's: they are looked up every 100 operations."""

    def __init__(self):
        super().__init__()
        self.sizes, self.total, self.peak, self.calls = {}, 0, 0, 0
        self.host = list

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in map(local, tree_leaves(result)):
            if type(x) is FakeTensor and x.untyped_storage()._cdata not in self.sizes:
                self.resized(storage := x.untyped_storage())
                weakref.finalize(storage, self.resized, storage._cdata)
        self.calls += 1
        if self.calls % 100 == 0:
            self.on_host = self.host_bytes()
        self.peak = max(self.peak, self.total - self.on_host)
        return result

    on_host = 0

    def host_bytes(self):
        """What lies in host memory, each storage once."""
        storages = {x.untyped_storage()._cdata for x in self.host()}
        return sum(self.sizes.get(storage, 0) for storage in storages)

    def resized(self, storage):
        """A storage has another size; as a number, it has died."""
        dead = isinstance(storage, int)
        key, size = (storage, 0) if dead else (storage._cdata, storage.nbytes())
        self.total += size - self.sizes.pop(key, 0)
        if not dead:
            self.sizes[key] = size

    def phase(self, function):
        """The most bytes of GPU and of host that a call holds at once, in GB."""
        self.on_host = self.host_bytes()
        self.peak = self.total - self.on_host
        function()
        self.on_host = self.host_bytes()
        return self.peak / 1e9, self.on_host / 1e9


def cuda_matmul(a, b, out=None):
    """hsd.matmul_float32() as it is on CUDA, where a product of bf16 comes out in float32."""
    return torch.mm(a.bfloat16(), b).float()


def add_cuda_matmul(total, a, b):
    """hsd.add_matmul_float32(), likewise."""
    total.add_(cuda_matmul(a, b))


@contextlib.contextmanager
def simulation(ranks):
    """Tensors without memory, collectives without processes: the meter of what they would take."""
    hsd.RANKS, hsd.matmul_float32 = ranks, cuda_matmul
    hsd.add_matmul_float32 = add_cuda_matmul
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    mesh, meter = dist.init_device_mesh("cpu", (ranks,)), Meter()

    def notified(function):
        def act(x, *size):
            function(x, *size)
            meter.resized(x.untyped_storage())

        return act

    parts = [(hsd.fsdp, "fully_shard", functools.partial(hsd.fsdp.fully_shard, mesh=mesh))]
    parts += [(torch.nn.Module, "float", lambda module: module)]  # they are built in float32
    free, alloc = notified(_fsdp_param.free_storage), notified(_fsdp_param.alloc_storage)
    parts += [(_fsdp_param, "free_storage", free), (_fsdp_param, "alloc_storage", alloc)]
    parts += [(_fsdp_param_group, "alloc_storage", alloc)]  # no dispatch sees these
    with contextlib.ExitStack() as stack:
        for place, name, new in parts:
            stack.enter_context(mock.patch.object(place, name, new))
        stack.enter_context(FakeTensorMode())
        yield stack.enter_context(meter)
    dist.destroy_process_group()


def full_size_models(shape):
    """Student, with float32 masters, and pi_0, in bf16, not yet sharded."""
    policies = []
    for trained, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        lm = AutoModelForCausalLM.from_config(shape, dtype=dtype).requires_grad_(trained)
        lm.gradient_checkpointing_enable({"use_reentrant": False})
        policy = hsd.LanguageModel(lm)
        policy.dtype = torch.bfloat16
        policies.append(policy)
    return policies


def decode_step(policy, rows, prompt, new_tokens, meter=None):
    """What hsd.generate() does in a call: the last 256 tokens of the prompts, at which the cache of
    those before is there, and a step of one token with a full cache. The meter is for the step."""
    shape, lm = policy.lm.config, policy.lm.eval()
    hsd.unshard(policy)
    mask = torch.ones(rows, prompt + new_tokens, dtype=torch.long)
    ids = torch.zeros(rows, min(prompt, 256), dtype=torch.long)
    cache = transformers.DynamicCache()

    def fill(tokens):
        for layer in range(shape.num_hidden_layers):
            size = (rows, shape.num_key_value_heads, tokens, shape.head_dim)
            cache.update(*(torch.empty(size, dtype=torch.bfloat16) for _ in "kv"), layer)

    with torch.no_grad():
        fill(prompt - ids.shape[1])
        lm(ids, attention_mask=mask[:, :prompt], past_key_values=cache, logits_to_keep=1)
        fill(new_tokens - 1)
        with meter or contextlib.nullcontext():
            logits = lm(ids[:, :1], attention_mask=mask, past_key_values=cache).logits[:, -1]
            scores = transformers.TopPLogitsWarper(0.95)(ids, logits.float())
            scores.softmax(-1).multinomial(1)


def rounds(policy, prompt, config):
    """The first and the last round of hsd.sample_responses(), with as many rows as it takes."""
    for done in (0, config.max_new_tokens - config.burst_tokens):
        rows = config.rollout_tokens // (prompt + done + config.burst_tokens)
        decode_step(policy, rows, prompt + done, config.burst_tokens)


def micro_batch(models, lengths, config, last):
    """Loss and gradient of a micro-batch of (question, context, response) tokens, hsd's own way."""
    hsd.sync_gradients(models.student, last)
    rollouts = [
        hsd.Rollout(None, [1] * q, [1] * o, teacher_prompt=[1] * (q + c)) for q, c, o in lengths
    ]
    t = hsd.tokens_of(rollouts, 0, "cpu")
    sides = hsd.read_responses(models, rollouts)
    hsd.chunked_loss(*sides, t, hsd.METHODS["hsd"], config)[0].backward()


def peaks(shape, config, ranks, room):
    """{phase: (GB of the GPU, GB of host memory)} of a rank, at the longest lengths."""
    with simulation(ranks) as meter:
        student, reference = map(hsd.shard, full_size_models(shape))
        masters, frozen = list(student.parameters()), list(reference.parameters())
        optimizer = hsd.adamw(student, config)
        size = sum(p.numel() for p in masters)
        student.keeps_sums = 6 * size + 16e9 < room * 1e9  # as hsd.shard() sets it on a GPU
        offload = 16 * size / ranks > room * 1e9 / 4

        def kept():
            sums = [p.grad for p in masters if p.grad is not None]
            moments = [x for state in optimizer.state.values() for x in state.values()]
            return map(local, masters + frozen + sums + moments)

        meter.host = kept if offload else list
        q, o = 256, config.max_new_tokens
        peer = min(config.max_peer_tokens, o) + 128
        lengths = [(q, peer, o)] * max(1, config.micro_batch_tokens // (q + o))
        models = hsd.Models(student, student, reference)
        phases = {
            "rollouts": lambda: rounds(student, q, config),
            "the self-teacher's evaluation": lambda: rounds(student, q + peer, config),
            "update, first micro-batch": lambda: micro_batch(models, lengths, config, False),
            "update, a later one": lambda: micro_batch(models, lengths, config, False),
            "update, the last one": lambda: micro_batch(models, lengths, config, True),
            "the optimizer's step": lambda: (hsd.reshard(student), optimizer.step()),
        }
        found = {name: meter.phase(function) for name, function in phases.items()}
        optimizer.zero_grad()
        (gpu, host), meter.host = meter.phase(list), list
        before, whole = (
            meter.total / 1e9,
            hsd.state_dict.StateDictOptions(full_state_dict=True, cpu_offload=True),
        )

        def save():
            weights = hsd.state_dict.get_model_state_dict(student.lm, options=whole)
            [weight.to(torch.bfloat16) for weight in weights.values()]

        return found | {"saving (rank 0)": (gpu, host + meter.phase(save)[0] - before)}


def operations(shape):
    """FLOP of: a pass over n tokens; one that is trained, too; the heads per response token, for
    (teacher?, pi_0?). The former two are a n + b n^2: attention is the square."""
    config = hsd.Config(compile=False)
    with simulation(1):
        student, frozen = full_size_models(shape)

        def counted(function):
            with FlopCounterMode(display=False) as counter:
                function()
            return counter.get_total_flops()

        def read(n):
            with torch.no_grad():
                frozen([[1] * (n - 1)], [[1, 1]])

        def trained(n):
            student([[1] * (n - 1)], [[1, 1]])[0].float().sum().backward()

        def heads(*others):
            side = torch.zeros(256, shape.hidden_size, dtype=torch.bfloat16, requires_grad=True)
            head = torch.zeros(shape.vocab_size, shape.hidden_size, dtype=torch.bfloat16)
            frozen = (side.detach(), head.detach())
            sides = [(side, head.requires_grad_()), *(frozen if x else None for x in others)]
            each = torch.ones(256)
            t = hsd.Tokens(each.long(), each, each, each, each, None, each)
            method = hsd.METHODS["hsd" if others[0] else "grpo"]
            hsd.chunked_loss(*sides, t, method, config)[0].backward()

        def polynomial(act):
            one, two, three = (counted(lambda n=n: act(n)) for n in (1024, 2048, 3072))
            b = (two - 2 * one) / (2048**2 - 2 * 1024**2)
            a = one / 1024 - b * 1024
            assert abs(a * 3072 + b * 3072**2 - three) < 1e-6 * three
            return lambda n: a * n + b * n * n

        per_token = {
            key: counted(lambda key=key: heads(*key)) / 256
            for key in itertools.product((False, True), repeat=2)
        }
        return polynomial(read), polynomial(trained), per_token


def drawn_lengths(count, mean, most):
    """Response lengths like the paper's: long-tailed, of this mean, cut at `most`."""
    rng = random.Random(0)
    lengths = [min(most, int(rng.lognormvariate(math.log(mean), 0.6))) for _ in range(count)]
    return [max(16, int(n * mean / (sum(lengths) / count))) for n in lengths]


class Traffic(TorchDispatchMode):
    """Counts operations that do more than look at a tensor, and the bytes that they read and write.
    An expanded tensor counts as large as it is stored."""

    def __init__(self):
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.namespace == "aten" and not function.is_view:
            self.operations += 1
            looks_up = function is torch.ops.aten.embedding.default  # some rows of a table
            for x in tree_leaves(result if looks_up else (args, kwargs, result)):
                if isinstance(x, torch.Tensor):
                    self.bytes += min(x.numel() * x.element_size(), x.untyped_storage().nbytes())
        return result


def decode_cost(shape):
    """A function of rows and length of the cache: seconds of a step of one token on an H100, where
    memory gives 70% of 3.35 TB/s and to start an operation takes 10 us."""
    with simulation(1):
        policy = full_size_models(shape)[1]

        def counted(rows, length):
            decode_step(policy, rows, length - 64, 64, traffic := Traffic())
            return traffic.operations, traffic.bytes

        (operations, one), (_, wide), (_, long), (_, both) = (
            counted(*size) for size in ((16, 512), (32, 512), (16, 1024), (32, 1024))
        )
    per_token = (both - wide - long + one) / (16 * 512)
    per_row = (wide - one) / 16 - 512 * per_token
    fixed = one - 16 * per_row - 16 * 512 * per_token
    assert abs(fixed + 16 * per_row + 16 * 1024 * per_token - long) < 1e-3 * long

    def seconds(rows, length):
        moved = fixed + rows * per_row + rows * length * per_token
        return max(operations * 1e-5, moved / (0.7 * 3.35e12))

    return seconds


def plan(lengths, config, prompt=256):
    """The calls of generate() that hsd.sample_responses() makes for responses of these lengths:
    (rows, tokens of a prompt, steps, tokens that are kept)."""
    calls = []

    def generate(model, prompts, stops, config):
        left = [min(lengths[p[0]] - (len(p) - prompt), config.max_new_tokens) for p in prompts]
        calls.append((len(prompts), len(prompts[0]), max(left), sum(left)))
        ended = [len(p) - prompt + n == lengths[p[0]] for p, n in zip(prompts, left)]
        return [[0] * (n - 1) + [-1 if end else 0] for n, end in zip(left, ended)]

    stub = torch.nn.Module()
    stub.device = torch.device("cpu")
    prompts = [[i] + [0] * (prompt - 1) for i in range(len(lengths))]
    with mock.patch.object(hsd, "generate", generate):
        hsd.sample_responses(stub, prompts, [-1], config, "0", "plan")
    return calls


def rollouts_table(shape, read, lengths):
    """What the rollouts of a step cost. Returns the seconds by the tokens of a burst."""
    step, rows, found = decode_cost(shape), [], {}
    for burst in (4096, 1024, 512, 256):
        calls = plan(lengths, hsd.Config(burst_tokens=burst))
        steps, kept = sum(call[2] for call in calls), sum(call[3] for call in calls)
        prefill = sum(n * read(width) for n, width, *_ in calls) / (0.4 * 989e12)
        decode = sum(m * step(n, width + m / 2) for n, width, m, _ in calls)
        found[burst] = prefill + decode
        useful = kept / sum(n * m for n, _, m, _ in calls)
        cells = [f"{len(calls)}", f"{steps:,}", f"{useful:.0%}", f"{prefill:.0f}", f"{decode:.0f}"]
        rows.append([f"{burst:,}", *cells])
    columns = ["--burst_tokens", "calls", "decode steps", "useful", "s of prompts", "s of steps"]
    table("Rollouts of that step, one H100, on paper", columns, rows)
    return found


def update_operations(counts, context, lengths, reference, question=256, kept=None):
    """PFLOP of an update on rollouts of these lengths, whose contexts take context(length), and of
    which only the lengths `kept` are read, if given."""
    read, trained, heads = counts
    total = 0.0
    for n, m in zip(lengths, kept or lengths):
        total += trained(question + m) + m * heads[bool(context), reference]
        total += read(question + m) if reference else 0
        total += read(question + context(n) + m) if context else 0
    return total / 1e15


def window_table(counts, lengths, rollouts, window=32):
    """HSD's step with and without --window where tau is the median of the paper's Table 4 and so
    many rollouts have a peer as in its section 4 (G = 8), by the difficulty of the questions. Its
    rollouts take so many seconds."""
    rows, rng, grpo = [], random.Random(0), update_operations(counts, None, lengths, True)
    for name, tau, share in (("easy", 28, 0.96), ("medium", 52, 0.78), ("hard", 84, 0.42)):
        peers = {i for i in range(len(lengths)) if rng.random() < share}
        cost = []
        for some, context in ((True, CONTEXT_LENGTHS["hsd, sdpo"]), (False, lambda n: 64)):
            part = [n for i, n in enumerate(lengths) if (i in peers) == some]
            cut = [min(n, tau + window) if some else n for n in part]
            cost.append(
                [update_operations(counts, context, part, True, kept=x) for x in (part, cut)]
            )
        whole, cut = (sum(x) / grpo for x in zip(*cost))
        seconds = [f"{rollouts + x * grpo * 1e15 / (0.4 * 989e12):,.0f}" for x in (whole, cut)]
        rows.append([name, f"{tau}", f"{share:.0%}", f"{whole:.2f}", f"{cut:.2f}", *seconds])
    columns = ["questions", "tau", "with a peer", "update, of grpo's", f"with --window {window}"]
    columns += ["a step, s", f"with --window {window}"]
    table("HSD's step, with pi_0, by what the paper says of tau and peers", columns, rows)


CONTEXT_LENGTHS = {
    "grpo, dr_grpo, dapo, gspo": None,
    "opsd, rlsd, grpo+opsd": lambda n: 64,
    "hsd, sdpo": lambda n: 128 + int(1.2 * n),
}


def memory_table(shape):
    """The peaks of each phase on one GPU and on eight, and which fields make them fit."""
    small_card = {"max_new_tokens": 1024, "rollout_tokens": 65_536}
    setups = {  # what has to change, and how many GB there are
        "one of 80 GB, the defaults": (shape, {}, 1, 85),
        "one of 48 GB": (shape, {"rollout_tokens": 131_072, "micro_batch_tokens": 8_704}, 1, 48),
        "each of eight": (shape, {}, 8, 85),
    }
    if shape.hidden_size == QWEN3_8B["hidden_size"]:
        smallest = Qwen3Config(**QWEN3_8B | QWEN3_06B)
        setups["one of 24 GB, Qwen3-0.6B"] = (smallest, small_card, 1, 24)
        small = {"rollout_tokens": 34_816, "micro_batch_tokens": 4_352, "chunk_tokens": 256}
        larger = Qwen3Config(**QWEN3_8B | QWEN3_32B)
        setups["each of eight, Qwen3-32B"] = (larger, small, 8, 85)
    found, rows = {}, []
    for name, (model, changes, ranks, room) in setups.items():
        found[name] = peaks(model, hsd.Config(compile=False, **changes), ranks, room)
    for phase in found["each of eight"]:
        cells = [found[name][phase] for name in setups]
        rows.append([phase, *(f"{gpu:.1f} + {host:.1f}" for gpu, host in cells)])
    spare = [
        f"{most - max(gpu for gpu, _ in found[name].values()):.1f}"
        for name, (*_, most) in setups.items()
    ]
    rows.append(["to spare", *spare])
    table(
        "GB of the GPU + of host memory; HSD, live teacher, beta .001, longest lengths",
        ["", *setups],
        rows,
    )
    for name, changes in ((name, setup[1]) for name, setup in setups.items() if setup[1]):
        print(f"{name}: {' '.join(f'--{key} {value}' for key, value in changes.items())}")
    print("Not seen: CUDA's context, the allocator's fragments, workspaces of kernels. Pinned")
    print("host memory comes in powers of two (180 GB, say, for the 147 of Qwen3-8B's step).")


def part_full_size(args):
    """Memory and operations of Qwen3-8B, or of the config of --model, counted on hsd's code."""
    given = AutoConfig.from_pretrained(args.model) if args.model else Qwen3Config(**QWEN3_8B)
    memory_table(given)
    counts = operations(given)
    lengths, rows = drawn_lengths(1024, 1500, 4096), []
    for reference in (True, False):
        grpo = update_operations(counts, None, lengths, reference)
        for name, context in CONTEXT_LENGTHS.items():
            cost = update_operations(counts, context, lengths, reference)
            seconds = f"{cost * 1e15 / (0.4 * 989e12):,.0f}"
            rows.append(
                [name, "yes" if reference else "no", f"{cost:.1f}", f"{cost / grpo:.2f}", seconds]
            )
    columns = ["update of", "pi_0", "PFLOP", "of grpo's", "H100-seconds at 40%"]
    table(
        "128 x 8 rollouts: questions 256, responses 1,500 on average, at most 4,096", columns, rows
    )
    window_table(counts, lengths, rollouts_table(given, counts[0], lengths)[512])
    rows = []
    for n in (500, 1500, 4000, 8000):
        grpo, hsd_cost = (
            update_operations(counts, context, [n] * 8, True)
            for context in (None, CONTEXT_LENGTHS["hsd, sdpo"])
        )
        rows.append([f"{n:,}", f"{grpo:.2f}", f"{hsd_cost:.2f}", f"{hsd_cost / grpo:.2f}"])
    columns = ["tokens of a response", "PFLOP of grpo", "of hsd", "ratio"]
    table("A group of 8, all of one length (twice the group is twice that)", columns, rows)


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
        "full_size": part_full_size,
    }
    usual = [part for part in parts if part != "full_size"]
    parser.add_argument("--only", default=",".join(usual), help="parts, comma-separated")
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
