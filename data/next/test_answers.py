"""The cases of answers.jsonl. A row has a kind and candidate, answer, want (in both orders); text,
extract; or text, answer, want. {"repeat": [[part, times], ...]} stands for a long text."""

import json
import time
from collections import defaultdict
from pathlib import Path

import answers
import pytest

CASES = Path(__file__).parent / "cases" / "answers.jsonl"
MATH = Path(__file__).parent / "math.jsonl"


def full(text):
    return "".join(part * n for part, n in text["repeat"]) if isinstance(text, dict) else text


def right(row):
    if "extract" in row:
        return answers.extract_answer(row["text"]) == row["extract"]
    if "text" in row:
        found = answers.extract_answer(row["text"])
        return (found is not None and answers.math_equal(found, row["answer"])) is row["want"]
    a, b = full(row["candidate"]), row["answer"]
    return answers.math_equal(a, b) is answers.math_equal(b, a) is row["want"]


KINDS = defaultdict(list)
for line in CASES.read_text(encoding="utf-8").splitlines():
    KINDS[json.loads(line)["kind"]].append(json.loads(line))


@pytest.mark.parametrize("kind", KINDS)
def test_the_verdicts_on_all_cases_of(kind):
    assert [ascii(row)[:160] for row in KINDS[kind] if not right(row)] == []


def test_a_thousand_hostile_answers_take_seconds():
    hostile = [full(row["candidate"]) for row in KINDS["hostile"]]
    start = time.process_time()
    for i in range(1_000):
        assert not answers.math_equal(hostile[i % len(hostile)] + " " * (i // len(hostile)), "5")
    assert time.process_time() - start < 5


def test_nothing_is_evaluated_as_python(tmp_path):
    marker = tmp_path / "marker"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    assert not any(answers.math_equal(text, "5") for text in (code, f"sqrt({code})", f"{{{code}}}"))
    assert not marker.exists()


def test_all_golds_of_our_problems_can_be_read_and_one_more_is_another():
    golds = {json.loads(line)["answer"] for line in MATH.read_text().splitlines()}
    assert [gold for gold in golds if not answers.readable(gold)] == []
    assert not any(answers.math_equal(f"{gold} + 1", gold) for gold in golds if gold[-1].isdigit())
    assert not answers.readable("no solution") and not answers.readable("x" * 100_000)
