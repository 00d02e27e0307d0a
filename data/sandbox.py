"""Runs a model's programs against tests: confined, and apart from what judges them.

    python data/sandbox.py supervise             [program, tests, timeout] as JSON; true or false

That is hsd.py's question. The supervisor makes a folder and starts, for each test, this file again:

    python data/sandbox.py script SECONDS        program.py as a script, standard input to output
    python data/sandbox.py program SECONDS       program.py as a module, at the service of a judge
    python data/sandbox.py judge SECONDS FD      the asserts, by asking a program
    python data/sandbox.py check                 can this machine confine programs?

The program never meets what it has to produce: the output expected of a script stays with the
supervisor, and asserts stay with the judge, which sends the program nothing but calls, and takes
back nothing but plain data. An object that is equal to everything, a patched built-in, a look into
the frames: all of that stays where the program is. (A test cannot hand the program a function.)

`confine` takes away, before the first line of the program, what it could do harm with; the kernel
(Linux 5.13 or newer) enforces it, on root too. It is not a boundary against holes in the kernel,
nor against timing or memory attacks: run code tasks in a container or on a machine of their own.
"""

import builtins
import contextlib
import ctypes
import json
import operator
import os
import resource
import struct
import sys
import types

MEGABYTES = 2048  # of address space
FILE_BYTES = 16 << 20  # in one file; standard output is a file too
UNCONFINED = 97  # the exit status where the kernel cannot confine

# Per machine: its number in the audit interface, the system calls clone, clone3 and fcntl, and the
# calls that are refused: those that make processes, send signals, open sockets, leave the session,
# look into or change other processes, change modes, owners, times or attributes of files, mount, or
# reach what these rules do not cover (io_uring, bpf, keys, memfd, System V and POSIX IPC).
REFUSED = {
    "x86_64": (
        *(0xC000003E, 56, 435, 72),
        (
            "29 30 31 41 57 58 59 62 64 65 66 67 68 69 70 71 90 91 92 93 94 101 109 112 129 132 141 "
            "142 144 165 188 189 190 200 203 206 234 235 240 250 251 256 260 261 268 272 279 280 297 "
            "298 302 308 310 311 312 314 319 321 322 323 424 425 434 438 440 452"
        ),
    ),
    "aarch64": (
        *(0xC00000B7, 220, 435, 25),
        (
            "0 5 6 7 30 40 52 53 54 55 88 97 117 118 119 122 129 130 131 138 140 154 157 180 186 187 "
            "188 189 190 191 192 193 194 195 196 197 198 217 218 219 221 238 239 240 241 261 268 "
            "270 271 272 274 279 280 281 282 424 425 434 438 440 452"
        ),
    ),
}
CLONE_THREAD, F_SETOWN, F_SETOWN_EX = 0x10000, 8, 15


def confine(seconds):
    """Takes away from this process, for good, all but computing, reading Python's own files, and
    reading and writing the current folder. Raises OSError where the kernel does not know how."""
    for limit, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, MEGABYTES << 20),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    libc = ctypes.CDLL(None, use_errno=True)

    def call(function, *arguments):
        # as C longs: variadic functions would take a Python int as a 32-bit one
        arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        result = function(*arguments)
        if result < 0:
            raise OSError(ctypes.get_errno(), "the kernel does not confine programs")
        return result

    call(libc.prctl, 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS: the others need it
    restrict_files(libc, call)
    restrict_calls(libc, call)


def restrict_files(libc, call):
    """Landlock: no file outside these folders can be opened, nor another process looked into."""
    create_ruleset, add_rule, restrict_self = 444, 445, 446
    version = call(libc.syscall, create_ruleset, None, 0, 1)
    everything = (1 << min(12 + version, 15)) - 1
    ruleset = call(libc.syscall, create_ruleset, struct.pack("Q", everything), 8, 0)
    read_file_and_folder = 0b1100
    allowed = dict.fromkeys([*sys.path, "/usr/lib", "/lib", "/lib64"], read_file_and_folder)
    allowed["."] = everything
    for path, rights in allowed.items():
        if os.path.isdir(path):
            folder = os.open(path, os.O_PATH)
            call(libc.syscall, add_rule, ruleset, 1, struct.pack("=Qi", rights, folder), 0)
            os.close(folder)
    call(libc.syscall, restrict_self, ruleset, 0)
    os.close(ruleset)


def restrict_calls(libc, call):
    """Seccomp: the refused system calls fail with EPERM. Threads may be made, processes not."""
    audit, clone, clone3, fcntl, refused = REFUSED[os.uname().machine]
    load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, no_permission, not_known, allow = 0x80000000, 0x50001, 0x50026, 0x7FFF0000
    code = [  # (instruction, jump if so, jump if not, value)
        (load, 0, 0, 4),
        (equal, 1, 0, audit),
        (answer, 0, 0, kill),  # the calls of another architecture
        (load, 0, 0, 0),
        (at_least, 0, 1, 1 << 30),
        (answer, 0, 0, kill),
    ]
    for number in map(int, refused.split()):
        code += [(equal, 0, 1, number), (answer, 0, 0, no_permission)]
    code += [
        (equal, 0, 1, clone3),  # its flags lie in memory; the C library falls back to clone
        (answer, 0, 0, not_known),
        (equal, 0, 3, clone),
        (load, 0, 0, 16),  # its first argument
        (any_bit, 5, 0, CLONE_THREAD),
        (answer, 0, 0, no_permission),
        (equal, 0, 3, fcntl),
        (load, 0, 0, 24),  # its second: with an owner, a file sends that process signals
        (equal, 2, 0, F_SETOWN),
        (equal, 1, 0, F_SETOWN_EX),
        (answer, 0, 0, allow),
        (answer, 0, 0, no_permission),
    ]
    lines = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(lines))
    call(libc.prctl, 22, 2, program, 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def run_program(name):
    """Runs program.py as the module `name` and returns it."""
    module = sys.modules[name] = types.ModuleType(name)
    sys.argv = ["program.py"]
    with open("program.py", encoding="utf-8") as file:
        exec(compile(file.read(), "program.py", "exec"), vars(module))  # noqa: S102 (its purpose)
    return module


# ---- between judge and program: lines of JSON ----------------------------------------------------

TAGGED = {kind.__name__: kind for kind in (list, tuple, set, frozenset, bytes, dict)}


def pack(value, keep):
    """Plain data for JSON, with its types; of anything else, the number under which it is kept."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    for name, kind in TAGGED.items():
        if isinstance(value, kind):
            items = value.items() if kind is dict else value
            return [name, [pack(item, keep) for item in items]]
    return ["kept", keep(value)]


def unpack(value, kept):
    """The inverse of pack: plain data, made here, or kept(number)."""
    if not isinstance(value, list):
        return value
    name, items = value
    if name == "kept":
        return kept(items)
    if name == "complex":
        return complex(*items)
    return TAGGED[name](unpack(item, kept) for item in items)


def serve(nothing):
    """The program's process: runs it, then does to its names and objects what the judge asks."""
    asked, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(nothing, 0), os.dup2(nothing, 1)
    objects = [run_program("program")]
    operations = {
        "name": getattr,
        "call": lambda function, /, *arguments, **named: function(*arguments, **named),
        "item": operator.getitem,
        "equal": operator.eq,
        "iter": iter,
        "next": next,
        "len": len,
        "text": str,
    }

    def keep(thing):
        objects.append(thing)
        return len(objects) - 1

    for line in asked:
        operation, arguments, named = unpack(json.loads(line), objects.__getitem__)
        try:
            result = operations[operation](*arguments, **named)
            # Only what returns None is taken to have changed its arguments: a function that empties
            # a list and returns it would pass `assert f(x) == sorted(x)`.
            reply = "returned", result, arguments[1:] if result is None else []
        except Exception as error:  # noqa: BLE001 (the judge will raise it)
            kinds = [kind.__name__ for kind in type(error).__mro__]
            reply = "raised", next(kind for kind in kinds if hasattr(builtins, kind)), error.args
        print(json.dumps(pack(reply, keep)), file=replies, flush=True)


def judge(descriptor):
    """The judge's process: runs the test. A name that the test does not define is the program's."""
    import ast

    test, replies = sys.stdin.read(), os.fdopen(descriptor)

    def ask(operation, /, *arguments, **named):
        request = pack((operation, arguments, named), lambda remote: remote.number)
        print(json.dumps(request), flush=True)
        kind, value, rest = unpack(json.loads(replies.readline()), Remote)
        if kind == "raised":
            error = vars(builtins)[value]
            raise error(*rest) if issubclass(error, Exception) else RuntimeError(value)
        for mine, changed in zip(arguments[1:], rest):
            if isinstance(mine, list):
                mine[:] = changed
            elif isinstance(mine, (set, dict)):
                mine.clear(), mine.update(changed)
        return value

    class Remote:
        """An object that stays with the program. It equals no plain data, whatever it says."""

        def __init__(self, number):
            self.number = number

        def __eq__(self, other):
            return isinstance(other, Remote) and ask("equal", self, other) is True

        def __call__(self, /, *arguments, **named):
            return ask("call", self, *arguments, **named)

        __getattr__ = lambda self, name: ask("name", self, name)
        __getitem__ = lambda self, place: ask("item", self, place)
        __iter__ = lambda self: ask("iter", self)
        __next__ = lambda self: ask("next", self)
        __len__ = lambda self: ask("len", self)
        __str__ = lambda self: ask("text", self)

    # `abs` in a test is the real one, whatever the program calls abs; unless the test names
    # built-ins alone: then one of them is what it tests (MBPP's `assert sum(10, 15) == 6`).
    used = {node.id for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Name)}
    shadowing = used <= set(vars(builtins))

    class Namespace(dict):
        def __missing__(self, name):
            if hasattr(builtins, name) and not shadowing:
                raise KeyError(name)
            try:
                return ask("name", Remote(0), name)
            except AttributeError:
                raise KeyError(name) from None

    exec(compile(test, "test", "exec"), Namespace(__name__="test"))  # noqa: S102 (its purpose)


# ---- the supervisor (its imports are its own: they would double the start of the others) ---------


def start(stack, *role, **options):
    """This file again, in another role; it ends with the stack. It has no environment, and no file
    of ours but those given."""
    import subprocess

    command = [sys.executable, "-I", "-X", "utf8", __file__, *map(str, role)]
    process = subprocess.Popen(
        command, env={}, stderr=subprocess.DEVNULL, start_new_session=True, **options
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def passes(program, test, timeout):
    """Does the program pass this one test within `timeout` seconds?"""
    import subprocess
    import tempfile

    script, seconds = isinstance(test, dict), int(timeout) + 2  # of CPU time
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hsd-"))
        with open(os.path.join(folder, "program.py"), "wb") as file:
            file.write(program.encode("utf-8", "replace"))
        # a script may open /dev/stdin again; the asserts must lie where no program can look
        given = stack.enter_context(tempfile.TemporaryFile(dir=folder if script else None))
        given.write((test["input"] if script else test).encode("utf-8", "replace"))
        given.seek(0)
        printed = stack.enter_context(tempfile.TemporaryFile())
        if script:
            last = start(stack, "script", seconds, cwd=folder, stdin=given, stdout=printed)
        else:  # the judge asks the program through one pipe and hears from it through another
            hears, answers = os.pipe()
            last = start(stack, "judge", seconds, hears, cwd=folder, stdin=given,
                         stdout=subprocess.PIPE, pass_fds=[hears])  # fmt: skip
            start(stack, "program", seconds, cwd=folder, stdin=last.stdout, stdout=answers)
            last.stdout.close(), os.close(hears), os.close(answers)
        try:
            status = last.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        if status == UNCONFINED and start(stack, "check", cwd="/tmp").wait():
            confine(5)  # the kernel cannot, and here it says so
        finished = status == 0
        printed.seek(0)
        return finished and (
            not script or printed.read().split() == test["output"].encode().split()
        )


def supervise():
    """Answers true or false on standard output; where programs cannot be confined, it fails."""
    program, tests, timeout = json.load(sys.stdin)
    print(json.dumps(all(passes(program, test, timeout) for test in tests)))


def main(role, seconds="5", descriptor="0"):
    if role == "supervise":
        return supervise()
    nothing = os.open("/dev/null", os.O_RDWR)
    try:
        confine(int(seconds))
    except OSError:
        sys.exit(UNCONFINED)
    if role == "script":
        run_program("__main__")
    elif role == "program":
        serve(nothing)
    elif role == "judge":
        judge(int(descriptor))


if __name__ == "__main__":
    main(*sys.argv[1:])
