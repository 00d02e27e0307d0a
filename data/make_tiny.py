"""Makes the lab of hsd.py from nothing: the tiny model, its tokenizer, the problems.

    python data/make_tiny.py      rewrites data/tiny-qwen3/, train.jsonl, eval.jsonl: half an hour

The task: a chain of operations, from left to right, modulo 100, written out step by step.

    47*6+5-8=?   ->   47*6=82;82+5=87;87-8=79;\\boxed{79}

HSD needs a model that can USE a correct path in its context and that can do without, and errors of
the model's own to mend. So the pretraining text has two moods:
  * Without a path in the context, steps of certain kinds (MISCONCEPTIONS) are mostly wrong, in a
    systematic way, and any step slips now and then; the solution goes on from the wrong value. All
    of it is trained on: these errors become the model's own.
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
STEPS = (4, 7)  # operations in a chain, inclusive
MISCONCEPTIONS = {  # operation -> the wrong rule that the base model believes in
    **{f"*{n}": (lambda x, n=n: x * (n - 1)) for n in (6, 7, 8, 9)},
    **{f"-{n}": (lambda x, n=n: x - n + 10) for n in (7, 8, 9)},
    **{f"+{n}": (lambda x, n=n: x + n - 10) for n in (8, 9)},
}


def make_tokenizer():
    """Printable characters, one token each; the fixed sentences of hsd.py's prompts are one token
    each as well, so that a model of 1M parameters does not spend 200 positions on English that
    never changes."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    characters = ["\n"] + [chr(c) for c in range(32, 127)]
    vocabulary = {token: i for i, token in enumerate(specials + ["<unk>"] + characters)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    phrases = [
        hsd.INSTRUCTION,
        hsd.CLOSING + hsd.INSTRUCTION,
        "\\boxed{",
        "<think>\n\n</think>\n\n",
        "user\n",
        "assistant\n",
    ]
    for text in hsd.CONTEXTS.values():
        phrases += text.split("{}")
    core.add_tokens([AddedToken(p, normalized=False) for p in dict.fromkeys(phrases)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def apply(op, x):
    n = int(op[1:])
    return {"*": x * n, "+": x + n, "-": x - n}[op[0]] % 100


def make_question(rng):
    start = rng.randrange(100)
    ops = [rng.choice("*+-") + str(rng.randint(2, 9)) for _ in range(rng.randint(*STEPS))]
    return start, ops


def write_solution(start, ops, rng=None, misconception=0.0, slip=0.0):
    """The worked solution as pieces (text, right); a wrong piece is the result of a wrong step."""
    x, pieces = start, []
    for op in ops:
        right = wrong = apply(op, x)
        if rng is not None and op in MISCONCEPTIONS and rng.random() < misconception:
            wrong = MISCONCEPTIONS[op](x) % 100
        if rng is not None and rng.random() < slip:
            wrong = rng.randrange(100)
        pieces += [(f"{x:02d}{op}=", True), (f"{wrong:02d}", wrong == right), (";", True)]
        x = wrong
    return pieces + [("\\boxed{", True), (f"{x:02d}", True), ("}", True)]


def text_of(pieces):
    return "".join(text for text, _ in pieces)


def make_problem(rng):
    start, ops = make_question(rng)
    solution = text_of(write_solution(start, ops))
    question = f"{start:02d}{''.join(ops)}=?"
    return {"question": question, "answer": solution[-3:-1], "solution": solution}, (start, ops)


def write_text(rng):
    """One pretraining text: what the user says, response pieces, is a correct path in sight?"""
    problem, (start, ops) = make_problem(rng)
    moods = {"none": 34, "answer": 10, "answer+peer": 42, "peer": 7, "solution": 7}
    mood = rng.choices(list(moods), list(moods.values()))[0]
    guided = "peer" in mood or "solution" in mood
    misconception, slip = (0.3, 0.06) if guided else (0.55, 0.02)
    blocks = {"answer": problem["answer"]} if "answer" in mood else {}
    if guided:
        blocks["peer" if "peer" in mood else "solution"] = problem["solution"]
    return (
        hsd.request(hsd.Problem(problem["question"]), blocks),
        write_solution(start, ops, rng, misconception, slip),
        guided,
    )


def batches(tokenizer, seed, size, pool=32):
    """Endless length-sorted batches (ids [B,T], labels [B,T]); label -100 on prompts, padding, and
    the wrong digits of a guided solution. Widths are multiples of 32: few shapes to compile."""
    rng = random.Random(seed)
    frame = tokenizer.apply_chat_template(
        [{"role": "user", "content": "@"}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    while True:
        written = [write_text(rng) for _ in range(size * pool)]
        prompts = tokenizer(
            [frame.replace("@", user) for user, _, _ in written], add_special_tokens=False
        ).input_ids
        texts = []
        for prompt, (_, pieces, guided) in zip(prompts, written):
            ids, labels = prompt, [-100] * len(prompt)
            for text, right in pieces:
                piece = [tokenizer.vocab[t] for t in ([text] if text == "\\boxed{" else text)]
                ids = ids + piece
                labels += piece if right or not guided else [-100] * len(piece)
            texts.append((ids + [tokenizer.eos_token_id], labels + [tokenizer.eos_token_id]))
        texts.sort(key=lambda text: len(text[0]))
        groups = [texts[i : i + size] for i in range(0, len(texts), size)]
        rng.shuffle(groups)
        for group in groups:
            width = 32 * math.ceil(max(len(ids) for ids, _ in group) / 32)
            pad = tokenizer.pad_token_id
            yield (
                torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in group]),
                torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in group]),
            )


def pretrain(tokenizer, steps, seed):
    """A Qwen3 of 0.8M parameters, trained from random weights on `steps` batches of 128 texts."""
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    backbone = torch.compile(model.model, dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    stream = batches(tokenizer, seed, 128)
    with tqdm(range(steps), desc="pretraining") as bar:
        for step in bar:
            for group in optimizer.param_groups:  # up over 100 steps, down over the second half
                group["lr"] = 3e-3 * min(1, (step + 1) / 100, 2 * (1 - step / steps))
            ids, labels = next(stream)
            keep = labels[:, 1:] != -100
            hidden = backbone(input_ids=ids).last_hidden_state[:, :-1][keep]
            loss = F.cross_entropy(model.lm_head(hidden), labels[:, 1:][keep])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            bar.set_postfix(loss=f"{loss.item():.4f}")
    return model


def write_problems(folder, seed, train=4000, held_out=500):
    """Train and evaluation questions, disjoint, as JSON Lines."""
    rng, seen, rows = random.Random(f"{seed} problems"), set(), []
    while len(rows) < train + held_out:
        problem, _ = make_problem(rng)
        if problem["question"] not in seen:
            seen.add(problem["question"])
            rows.append(problem)
    for name, part in (("train.jsonl", rows[:train]), ("eval.jsonl", rows[train:])):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in part))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1300, help="pretraining batches of 128 texts")
    parser.add_argument("--seed", type=int, default=0, help="of problems, texts and weights")
    parser.add_argument("--out", type=Path, default=HERE, help="where to write")
    args = parser.parse_args()
    start, tokenizer = time.time(), make_tokenizer()
    args.out.mkdir(parents=True, exist_ok=True)
    write_problems(args.out, args.seed)
    model = pretrain(tokenizer, args.steps, args.seed)
    model.save_pretrained(args.out / "tiny-qwen3")
    tokenizer.save_pretrained(args.out / "tiny-qwen3")
    count, minutes = sum(p.numel() for p in model.parameters()), (time.time() - start) / 60
    print(f"{count:,} parameters in {minutes:.1f} minutes; python hsd.py --steps 0 measures them")


if __name__ == "__main__":
    main()
