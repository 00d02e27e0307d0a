"""Makes the lab of hsd.py from nothing: the tiny model, its tokenizer, the problems.

    python data/make_tiny.py      rewrites data/tiny-qwen3/ and the questions: half an hour

The task: a chain of n operations, from left to right, modulo 100, written out step by step.

    47*7+5-8=?   ->   47*7=29;29+5=34;34-8=26;\\boxed{26}

Difficulty and length are independent: k of the n operations are of the kinds that the model gets
wrong (MISCONCEPTIONS), and the others of kinds that it gets right. No operation comes twice in a
chain, so that to find one's place in a long chain is no harder. Each operation is a bijection: what
goes wrong stays wrong, and each question has one right path.

HSD needs a model that can USE a correct path in its context and that can do without, and errors of
the model's own to mend. So the pretraining text has two moods:
  * Without a path in the context, the k steps are mostly wrong, in a systematic way, and one chain
    in 20 has a slip; the solution goes on from the wrong value. All of it is trained on: these
    errors become the model's own.
  * With a correct path in the context, the written solution leaves it now and then too, but the
    wrong digits are left out of the loss: the model learns to follow the path where it applies,
    and to go on by itself, correctly, where it does not. (If the path were always what is to be
    written, the teacher would copy the peer's numbers long after the student has gone astray.)
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
RIGHT = [*(f"+{n}" for n in range(1, 8)), *(f"-{n}" for n in range(1, 8)), "*3"]
MISCONCEPTIONS = {  # operation -> the wrong rule that the base model believes in
    **{f"*{n}": (lambda x, n=n: x * (n - 1)) for n in (7, 9)},
    **{f"-{n}": (lambda x, n=n: x - n + 10) for n in (8, 9)},
    **{f"+{n}": (lambda x, n=n: x + n - 10) for n in (8, 9)},
}
DIFFICULTIES = (1, 1, 2, 2, 3)  # k is drawn from
SHORT = range(3, 8)  # n, in the lab's default questions


def make_tokenizer():
    """Printable characters, one token each; the fixed sentences of hsd.py's prompts are one token
    each as well, so that a model of 1M parameters does not spend 200 positions on English that
    never changes."""
    specials, characters = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], map(chr, range(32, 127))
    vocabulary = {token: i for i, token in enumerate([*specials, "<unk>", "\n", *characters])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    phrases = [hsd.INSTRUCTION, hsd.CLOSING + hsd.INSTRUCTION, "\\boxed{"]
    phrases += ["<think>\n\n</think>\n\n", "user\n", "assistant\n"]
    for text in hsd.CONTEXTS.values():
        phrases += text.split("{}")
    core.add_tokens([AddedToken(p, normalized=False) for p in dict.fromkeys(phrases)])
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"}
    options = {"clean_up_tokenization_spaces": False, "model_max_length": 512}
    options["chat_template"] = CHAT_TEMPLATE
    return PreTrainedTokenizerFast(tokenizer_object=core, **names, **options)


def apply(op, x):
    """What the operation makes of x."""
    n = int(op[1:])
    return {"*": x * n, "+": x + n, "-": x - n}[op[0]] % 100


def make_question(rng, n, k):
    """A first number and n operations, k of them misconceived; no mix of wrong and right steps
    leads to the right answer."""
    while True:
        ops = rng.sample(list(MISCONCEPTIONS), k) + rng.sample(RIGHT, n - k)
        rng.shuffle(ops)
        right = start = rng.randrange(100)
        wrong = set()  # all that can be reached with at least one wrong step
        for op in ops:
            slipped = {MISCONCEPTIONS[op](x) % 100 for x in wrong | {right} if op in MISCONCEPTIONS}
            right, wrong = apply(op, right), {apply(op, x) for x in wrong} | slipped
        if right not in wrong:
            return start, ops


def write_solution(start, ops, rng=None, misconception=0.0, slip=0.0):
    """The worked solution as pieces (text, right); a wrong piece is the result of a wrong step.
    `misconception` is the chance of each step of such a kind, `slip` that of the whole chain."""
    x, pieces = start, []
    for op in ops:
        right = wrong = apply(op, x)
        if rng is not None and op in MISCONCEPTIONS and rng.random() < misconception:
            wrong = MISCONCEPTIONS[op](x) % 100
        if rng is not None and rng.random() < slip / len(ops):
            wrong = rng.randrange(100)
        pieces += [(f"{x:02d}{op}=", True), (f"{wrong:02d}", wrong == right), (";", True)]
        x = wrong
    return pieces + [("\\boxed{", True), (f"{x:02d}", True), ("}", True)]


def make_problem(rng, n, k):
    """A row of the question files, and what write_solution() takes."""
    start, ops = make_question(rng, n, k)
    solution = "".join(text for text, _ in write_solution(start, ops))
    question = f"{start:02d}{''.join(ops)}=?"
    row = {"question": question, "answer": solution[-3:-1], "solution": solution, "n": n, "k": k}
    return row, (start, ops)


def write_text(rng, longest):
    """One pretraining text: what the user says, response pieces, is a correct path in sight? Of
    each length there are as many tokens."""
    lengths = range(3, longest + 1)
    (n,) = rng.choices(lengths, [1 / n for n in lengths])
    problem, (start, ops) = make_problem(rng, n, rng.choice(DIFFICULTIES))
    moods = {"none": 34, "answer": 10, "answer+peer": 42, "peer": 7, "solution": 7}
    mood = rng.choices(list(moods), list(moods.values()))[0]
    guided = "peer" in mood or "solution" in mood
    misconception, slip = (0.3, 0.3) if guided else (0.55, 0.05)
    blocks = {"answer": problem["answer"]} if "answer" in mood else {}
    if guided:
        blocks["peer" if "peer" in mood else "solution"] = problem["solution"]
    user = hsd.user_message(hsd.Problem(problem["question"]), blocks.items())
    return user, write_solution(start, ops, rng, misconception, slip), guided


def batches(tokenizer, seed, tokens=8192):
    """Endless batches (ids [B,T], labels [B,T]) of about so many tokens, of texts of about the same
    length; label -100 on prompts, padding, and the wrong digits of a guided solution. Short chains
    come first: on them the model learns within 150 batches how to find its place in a question,
    which on long ones alone takes it very long."""
    rng, vocabulary = random.Random(seed), tokenizer.get_vocab()
    waiting, count = defaultdict(list), 0  # texts by width; batches so far
    prompt = [{"role": "user", "content": "@"}]
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    frame = tokenizer.apply_chat_template(prompt, **options)
    while True:
        user, pieces, guided = write_text(rng, max(5, min(16, 2 + count // 50)))
        ids = tokenizer(frame.replace("@", user), add_special_tokens=False).input_ids
        labels = [-100] * len(ids)
        for text, right in [*pieces, (tokenizer.eos_token, True)]:
            piece = [vocabulary[t] for t in ([text] if text in vocabulary else text)]
            ids += piece
            labels += piece if right or not guided else [-100] * len(piece)
        width = 32 * math.ceil(len(ids) / 32)
        short = width - len(ids)
        ids, labels = ids + [tokenizer.pad_token_id] * short, labels + [-100] * short
        waiting[width].append((ids, labels))
        if len(waiting[width]) == tokens // width:
            count += 1
            yield [torch.tensor(side) for side in zip(*waiting.pop(width))]


def pretrain(tokenizer, steps, seed):
    """A Qwen3 of 0.8M parameters, trained from random weights on batches of 8,192 tokens."""
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
                group["lr"] = 3e-3 * min(1, (step + 1) / 100, 2 * (1 - step / steps))
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
        files[name] = (rows, SHORT, DIFFICULTIES)
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
    parser.add_argument("--steps", type=int, default=2400, help="pretraining batches")
    parser.add_argument("--seed", type=int, default=0, help="of problems, texts and weights")
    parser.add_argument("--out", type=Path, default=HERE, help="where to write")
    args = parser.parse_args()
    start, tokenizer = time.time(), make_tokenizer()
    write_questions(args.out, args.seed)
    model = pretrain(tokenizer, args.steps, args.seed)
    model.save_pretrained(args.out / "tiny-qwen3")
    tokenizer.save_pretrained(args.out / "tiny-qwen3")
    count, minutes = sum(p.numel() for p in model.parameters()), (time.time() - start) / 60
    print(f"{count:,} parameters in {minutes:.1f} minutes; python hsd.py --steps 0 measures them")


if __name__ == "__main__":
    main()
