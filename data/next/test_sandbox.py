"""Tests of read_tests and run_tests. Where nothing confines them, the hostile programs do harm."""

import contextlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hsd_part as hsd
import pytest

HERE = Path(__file__).resolve().parent
CASES, PROBLEMS = HERE / "cases" / "programs.jsonl", HERE / "code.jsonl"
ROWS = [json.loads(line) for line in CASES.read_text().splitlines()]


def in_parallel(function, rows):
    return list(ThreadPoolExecutor(2).map(function, rows))


def verdict(row):
    tests = hsd.read_tests(row["row"]) if "row" in row else row["tests"]
    for part in (test for test in tests if isinstance(test, dict)):
        part |= {k: v["repeat"][0] * v["repeat"][1] for k, v in part.items() if "repeat" in v}
    return hsd.run_tests(row["program"], tests, 10.0 if row["want"] else row.get("seconds", 1.0))


def processes(seconds=0.0):
    """{number: its parent's} of the sandbox's processes; if need be, those still there later."""
    found, end = {}, time.monotonic() + seconds
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(hsd.DATA / "sandbox.py").encode() in (folder / "cmdline").read_bytes():
                found[int(folder.name)] = int(
                    (folder / "stat").read_text().split(")")[-1].split()[1]
                )
    return processes(end - time.monotonic()) if found and seconds > 0 else found


@pytest.mark.parametrize("kind", sorted({row["kind"] for row in ROWS} - {"refused", "side_effect"}))
def test_verdicts(kind):
    rows = [row for row in ROWS if row["kind"] == kind]
    got = in_parallel(verdict, rows)
    assert [row["name"] for row, its in zip(rows, got) if its is not row["want"]] == []
    assert not processes(3.0)


def test_programs_leave_nothing_behind(tmp_path):
    os.chmod(tmp_path, 0o777)
    rows = [row for row in ROWS if row["kind"] == "side_effect"]
    rows += [{**row, "tests": [{"input": "", "output": "9"}]} for row in rows]
    markers = [row["program"].replace("{marker}", str(tmp_path / row["name"])) for row in rows]
    in_parallel(verdict, [{**row, "program": program} for row, program in zip(rows, markers)])
    assert not processes(3.0) and list(tmp_path.iterdir()) == [] and len(rows) >= 60


@pytest.mark.parametrize("row", [row for row in ROWS if row["kind"] == "refused"])
def test_bad_tests_are_refused_when_they_are_read(row):
    with pytest.raises(hsd.InputError, match=r"^a test [^\n]*$|^input_output [^\n]*$"):
        hsd.read_tests(row["row"])


def test_solutions_pass_and_stubs_do_not():
    rows = [json.loads(line) for line in PROBLEMS.read_text().splitlines()]
    pairs = [(text, hsd.read_tests(row)) for row in rows for text in (row["solution"], "f = 0")]
    assert in_parallel(lambda pair: hsd.run_tests(*pair), pairs) == [True, False] * len(rows)


@pytest.mark.parametrize("victim", ["supervisor", "parent"])
def test_a_killed_supervisor_or_parent_leaves_nobody_behind(victim):
    call = "import hsd_part; hsd_part.run_tests('while True: pass', ['assert f(2) == 4'], 60.0)"
    with subprocess.Popen([sys.executable, "-c", call], cwd=HERE) as parent:
        while parent.pid not in (found := processes()).values() or len(found) < 2:
            time.sleep(0.05)
        supervisor = next(number for number in found if found[number] == parent.pid)
        os.kill(supervisor if victim == "supervisor" else parent.pid, 9)
        assert parent.wait(10) == (0 if victim == "supervisor" else -9) and not processes(3.0)


def test_a_failure_of_the_judge_is_none_and_what_the_kernel_lacks_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(hsd, "DATA", tmp_path)
    text, where = (HERE / "sandbox.py").read_text(), tmp_path / "sandbox.py"
    for old, new in (("import judge", "import no"), ("json.load(", "os.abort("), ("444", "9444")):
        assert where.write_text(text.replace(old, new)) != len(text)
        assert hsd.run_tests("def f(x): return x * x", ["assert f(2) == 4"]) is None
    with pytest.raises(hsd.InputError, match=r"^programs take Linux .*Landlock.*not implemented$"):
        hsd.check_sandbox()
