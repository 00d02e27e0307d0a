import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

DATA = Path(__file__).resolve().parent


class InputError(ValueError):
    pass


# ---- paste from here -----------------------------------------------------------------------------
def read_tests(row):
    """The tests of one JSON object with the keys of ours, MBPP, HumanEval or APPS; () where there
    are none. A test is a text of asserts, one with what sets it up, {"setup", "test"}, or that of a
    script, {"input", "output"}. Raises InputError for any other, and for one that tests nothing."""
    tests, imports = row.get("tests") or row.get("test_list") or [], row.get("test_imports") or []
    tests, imports = (part if isinstance(part, list) else [part] for part in (tests, imports))
    if setup := "\n".join(map(str, [*imports, row.get("test_setup_code") or ""])).strip():
        tests = [{"setup": setup, "test": test} for test in tests]
    if "test" in row and "entry_point" in row:
        tests = [f"{row['test']}\n\ncheck({row['entry_point']})"]
    if row.get("input_output"):
        tests = read_apps(row["input_output"])
    for test in tests:
        parts = {"test": test} if isinstance(test, str) else test if isinstance(test, dict) else {}
        if set(parts) not in KINDS or {*map(type, parts.values())} != {str}:
            raise InputError(f"a test is asserts, or has an input and an output: {str(test)[:60]}")
        try:
            texts = [parts.get("setup", ""), parts.get("test", "test()")]
            *_, nodes = [list(ast.walk(ast.parse(text))) for text in texts]
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InputError(f"a test is not Python ({error}): {texts[1][:60]!r}") from None
        if not any(isinstance(node, (ast.Assert, ast.Call)) for node in nodes):
            raise InputError(f"a test asserts and calls nothing: {texts[1][:60]!r}")
    return tuple(tests)


KINDS = {"test"}, {"setup", "test"}, {"input", "output"}
# JSON knows no tuples, and some outputs lie in a list of one; so may what the function returns.
CALL = """
import json
def plain(value):
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
given, want = json.loads({0!r})
try:
    function = Solution().{1}
except NameError:
    function = {1}
result = plain(function(*given))
assert result == want or [result] == want"""


def read_apps(cases):
    """The tests of APPS: inputs and outputs of a script or, with a fn_name, of a function."""
    try:
        cases = json.loads(cases) if isinstance(cases, str) else cases
        pairs = list(zip(cases["inputs"], cases["outputs"], strict=True))
        if name := cases.get("fn_name"):
            return [CALL.format(json.dumps(pair), name) for pair in pairs]
        pairs = [["\n".join(x) if isinstance(x, list) else x for x in pair] for pair in pairs]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"input_output is not inputs with their outputs: {error!r}") from None
    return [{"input": given, "output": output} for given, output in pairs]


def run_tests(program, tests, timeout=10.0):
    """Does a program pass every test, each in `timeout` seconds? data/sandbox.py confines it to
    computing, within limits, and keeps from it what it ought to produce. That is no boundary
    against holes in the kernel: run code tasks in a container. None where the judge failed."""
    parts = [tests[i : i + 50] for i in range(0, len(tests), 50)]  # two open files for each
    verdicts = (in_sandbox(program, part, timeout)[0] for part in parts)
    return next((verdict for verdict in verdicts if not verdict), True)


def check_sandbox():
    """Raises InputError, in one line, where this machine cannot confine programs."""
    verdict, errors = in_sandbox("", [{"input": "", "output": ""}], 10.0)
    if not verdict:
        reason = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise InputError(f"programs take Linux 5.13 with Landlock and seccomp: {reason}")


def in_sandbox(program, tests, timeout):
    """The verdict of one process of data/sandbox.py, and what it says on stderr."""
    scripts = [isinstance(test, dict) and "input" in test for test in tests]
    question = "\n".join(map(json.dumps, ([program, scripts, timeout], tests))).encode()
    options = "-I -S -X utf8 -X int_max_str_digits=0".split()  # results of any length
    command = [sys.executable, *options, str(DATA / "sandbox.py"), str(os.getpid())]
    most = {"timeout": len(tests) * timeout + 60, "env": {}, "start_new_session": True}
    try:
        process = subprocess.run(command, input=question, capture_output=True, **most)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error).encode()
    verdicts = {90: True, 91: False, -signal.SIGALRM: False}  # its exit statuses; the time is over
    return verdicts.get(process.returncode), process.stderr
