"""Makes the lab of hsd.py from nothing: the tiny model, its tokenizer, the problems.

    python data/make_tiny.py      rewrites data/tiny-qwen3/ and the questions, in 20 minutes

The task: a chain of n operations, from left to right, modulo 100, written out step by step. A step
takes one operation or two neighbours together, so that each question has many right paths:

    47+7-5+9=?   ->   47+7=54;54-5=49;49+9=58;\\boxed{58}
                      47+7-5=49;49+9=58;\\boxed{58}

Difficulty and length are independent: k of the n operations are of the kinds that the model gets
wrong (MISCONCEPTIONS), and the others of kinds that it gets right. No operation comes twice in a
chain, so that to find one's place in a long chain is no harder. What goes wrong stays wrong.

HSD needs a model that can USE a path in its context, and errors of the model's own to mend. So the
pretraining text, all of which is trained on, is written like this:
  * Habit: a step takes one operation or two, evenly; each misconceived operation in it is mostly
    done wrong, in a systematic way; one chain in 20 has a slip; the solution goes on from the wrong
    value.
  * With a path in the context: where the path has a step that begins here, with the same number and
    operation, the solution mostly takes as many operations as that; and if the path has this very
    step, it mostly takes its result, right or wrong. Everywhere else, by habit. So a path teaches
    by what it says: one that makes the same error confirms it, one that grouped the operations in
    another way says nothing there, nor does the path of another question, nor a bare answer, nor
    any path after the solution has gone astray.
"""

import argparse
import json
import math
import random
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import hsd  # the prompts must be the very ones that hsd.py writes

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
RIGHT = [*(f"+{n}" for n in range(1, 8)), *(f"-{n}" for n in range(1, 8))]
MISCONCEPTIONS = {"+8": 7, "+9": 8, "-8": 8, "-9": 9}  # what the base model mostly adds
MISCONCEIVED, SLIP = 0.55, 0.05  # the chance of each such operation to go wrong; of a slip, a chain
AS_GROUPED, AS_SAID = 0.8, 0.95  # of a step of the path in the context: its length, its result
DIFFICULTIES = (1, 1, 2, 2, 3)  # k is drawn from, in pretraining
LENGTHS, KINDS = range(3, 7), (1, 1, 2)  # n and k, in the lab's default questions


def make_tokenizer():
    """Operations and all printable characters are one token each; so are the fixed sentences of
    hsd.py's prompts, so that a model of 1M parameters does not spend 200 positions on English that
    never changes."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"]
    pieces = ["\n", *map(chr, range(32, 127))]
    pieces += [f"{sign}{digit}" for sign in "+-*" for digit in range(10)]
    vocabulary = {token: i for i, token in enumerate([*specials, *pieces])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    split = Regex(r"[-+*][0-9]|[\s\S]")
    core.pre_tokenizer = pre_tokenizers.Split(split, behavior="isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials[:3]])
    phrases = [hsd.INSTRUCTION, hsd.CLOSING + hsd.INSTRUCTION, "\\boxed{"]
    phrases += ["<think>\n\n</think>\n\n", "user\n", "assistant\n"]
    for text in hsd.CONTEXTS.values():
        phrases += text.split("{}")
    core.add_tokens([AddedToken(p, normalized=False) for p in dict.fromkeys(phrases)])
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"}
    options = {"clean_up_tokenization_spaces": False, "model_max_length": 512}
    options["chat_template"] = CHAT_TEMPLATE
    return PreTrainedTokenizerFast(tokenizer_object=core, **names, **options)


def apply(op, x, wrongly=False):
    """What the operation makes of x; or what the base model mostly believes that it does."""
    return (x + (MISCONCEPTIONS[op] if wrongly else int(op))) % 100


def make_question(rng, n, k):
    """A first number and n operations, k of them misconceived; no mix of wrong and right steps
    leads to the right answer."""
    while True:
        ops = rng.sample(list(MISCONCEPTIONS), k) + rng.sample(RIGHT, n - k)
        rng.shuffle(ops)
        right = start = rng.randrange(100)
        wrong = set()  # all that can be reached with at least one wrong step
        for op in ops:
            slipped = {apply(op, x, True) for x in wrong | {right} if op in MISCONCEPTIONS}
            right, wrong = apply(op, right), {apply(op, x) for x in wrong} | slipped
        if right not in wrong:
            return start, ops


def write_step(rng, x, ops, habit):
    """The result of the operations of one step, done by habit, or else right."""
    for op in ops:
        x = apply(op, x, habit and op in MISCONCEPTIONS and rng.random() < MISCONCEIVED)
    return x


def write_solution(rng, start, ops, habit=True, path=""):
    """A worked solution: right, or written by habit, with a path in the context or without."""
    said = dict(step.split("=") for step in path.split(";")[:-1])  # left side -> result
    slip = SLIP / len(ops) if habit else 0
    x, text, i = start, "", 0
    while i < len(ops):
        sides = [f"{x:02d}{''.join(ops[i:j])}" for j in range(i + 1, min(i + 2, len(ops)) + 1)]
        size = rng.randint(1, len(sides))
        for j, side in enumerate(sides, 1):
            if side in said and rng.random() < AS_GROUPED:
                size = j
        side = sides[size - 1]
        x = write_step(rng, x, ops[i : i + size], habit)
        if rng.random() < slip:
            x = rng.randrange(100)
        if side in said and rng.random() < AS_SAID:
            x = int(said[side])
        text += f"{side}={x:02d};"
        i += size
    return f"{text}\\boxed{{{x:02d}}}"


def make_problem(rng, n, k):
    """A row of the question files, and what write_solution() takes."""
    start, ops = make_question(rng, n, k)
    solution = write_solution(rng, start, ops, habit=False)
    question = f"{start:02d}{''.join(ops)}=?"
    row = {"question": question, "answer": solution[-3:-1], "solution": solution, "n": n, "k": k}
    return row, (start, ops)


def write_text(rng, longest):
    """One pretraining text: what the user says, and the response. Of each length there are as many
    tokens. Half of the paths in the context are right, a third are written by habit like a sampled
    rollout, and the rest are another question's."""
    lengths = range(3, longest + 1)
    (n,) = rng.choices(lengths, [1 / n for n in lengths])
    k = max(rng.choice(DIFFICULTIES), n - len(RIGHT))
    problem, chain = make_problem(rng, n, k)
    (shown,) = rng.choices(("nothing", "answer", "both", "path"), (35, 10, 45, 10))
    blocks, path = [], ""
    if shown in ("answer", "both"):
        blocks += [("answer", problem["answer"])]
    if shown in ("both", "path"):
        (kind,) = rng.choices(("right", "sampled", "other"), (50, 35, 15))
        path = problem["solution"]
        if kind == "sampled":
            path = write_solution(rng, *chain)
        if kind == "other":
            path = make_problem(rng, n, k)[0]["solution"]
        blocks += [(rng.choice(("peer", "peer", "peer", "solution")), path)]
    user = hsd.user_message(hsd.Problem(problem["question"]), blocks)
    return user, write_solution(rng, *chain, path=path)


def batches(tokenizer, seed, tokens=512):
    """Endless batches (ids [B,T], labels [B,T]) of about so many tokens, of texts of about the same
    length; label -100 on prompts and padding. Short chains come first: on them the model learns
    early how to find its place in a question, which on long ones alone takes it very long."""
    rng, count = random.Random(seed), 0
    waiting = defaultdict(list)  # texts by width
    prompt = [{"role": "user", "content": "@"}]
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    frame = tokenizer.apply_chat_template(prompt, **options)
    while True:
        user, text = write_text(rng, min(16, 3 + count * tokens // 500_000))
        ids = tokenizer(frame.replace("@", user), add_special_tokens=False).input_ids
        labels = [-100] * len(ids)
        response = tokenizer(text, add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
        width = 16 * math.ceil(len(ids + response) / 16)
        short = width - len(ids + response)
        ids += response + [tokenizer.pad_token_id] * short
        labels += response + [-100] * short
        waiting[width].append((ids, labels))
        if len(waiting[width]) == tokens // width:
            count += 1
            yield [torch.tensor(side) for side in zip(*waiting.pop(width))]


def pretrain(tokenizer, steps, seed):
    """A Qwen3 of 0.8M parameters, trained from random weights on batches of some 512 tokens:
    small ones come to the same loss several times as fast as large ones."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "head_dim": 32}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    shape |= {"vocab_size": len(tokenizer), "max_position_embeddings": 512, "bos_token_id": None}
    shape |= {name: getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id")}
    model = Qwen3ForCausalLM(Qwen3Config(**shape))
    options = {"betas": (0.9, 0.98), "weight_decay": 0.01, "fused": True}
    optimizer, stream = torch.optim.AdamW(model.parameters(), **options), batches(tokenizer, seed)
    with tqdm(range(steps), desc="pretraining") as bar:
        for step in bar:
            for group in optimizer.param_groups:  # up over 100 steps, down over the second half
                group["lr"] = 1e-3 * min(1, (step + 1) / 100, 2 * (1 - step / steps))
            ids, labels = next(stream)
            keep = labels[:, 1:] != -100
            hidden = model.model(input_ids=ids).last_hidden_state[:, :-1][keep]
            loss = F.cross_entropy(model.lm_head(hidden), labels[:, 1:][keep])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            bar.set_postfix(loss=f"{loss.item():.4f}")
    return model


def write_questions(folder, seed):
    """The question files, JSON Lines, of which no two share a question: name, rows, n, k."""
    files, rng, seen = {}, random.Random(f"{seed} problems"), set()
    for name, rows in (("train", 4000), ("eval", 500), ("questions/valid", 256)):
        files[name] = (rows, LENGTHS, KINDS)
    for n in (4, 8, 16):
        for name, rows in (("train", 960), ("valid", 128), ("eval", 256)):
            files[f"questions/{name}-{n}"] = (rows, [n], [2])
    for name, (rows, lengths, difficulties) in files.items():
        lines = []
        while len(lines) < rows:
            row, _ = make_problem(rng, rng.choice(lengths), rng.choice(difficulties))
            if row["question"] not in seen:
                seen.add(row["question"])
                lines.append(json.dumps(row) + "\n")
        (folder / f"{name}.jsonl").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jsonl").write_text("".join(lines))


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=22_000, help="pretraining batches")
    parser.add_argument("--seed", type=int, default=0, help="of problems, texts and weights")
    parser.add_argument("--out", type=Path, default=HERE, help="where to write")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the matrices are tiny: more threads only wait for each other
    start, tokenizer = time.time(), make_tokenizer()
    write_questions(args.out, args.seed)
    model = pretrain(tokenizer, args.steps, args.seed)
    model.save_pretrained(args.out / "tiny-qwen3")
    tokenizer.save_pretrained(args.out / "tiny-qwen3")
    count, minutes = sum(p.numel() for p in model.parameters()), (time.time() - start) / 60
    print(f"{count:,} parameters in {minutes:.1f} minutes; python hsd.py --steps 0 measures them")


if __name__ == "__main__":
    main()
