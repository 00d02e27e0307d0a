"""Decides whether a program passes a test: data/sandbox.py turns into this when its programs run.

Of a script it compares the output. For asserts it runs the test here, out of the program's reach,
with a Remote in place of each object of the program's: what a test does to it is asked over there,
in lines of JSON. What comes back is plain data, made anew on this side, or another Remote. Nothing
that a program says is believed further than that.
"""

import _thread
import ast
import builtins
import json
import operator
import os
import re
import sys
from collections import deque

from __main__ import MOST_BYTES, WRONG, pack, unpack

# Of the program: its pipes; its classes, and its plain data, that the test names; its exceptions
PIPES, CLASSES, PLAIN, ERRORS = [], [], [], {}
ANSWERS = {name for kind in (str, set, float) for name in dir(kind) if re.match("is|.*with$", name)}


def special(name):
    """A special method of Remote. Where a test names no class of the program's, it expects data,
    and operators are not told the test's: for `abs(f(2) - 4) < 1`, an object could take away any
    number and be 0. Nor are methods called that data have to answer with yes (`startswith`)."""
    is_operator = {name, name.replace("__r", "__")} & vars(operator).keys() - {"__call__"}
    is_operator = is_operator and not name.endswith("item__")

    def method(self, /, *others, **named):
        if is_operator and not CLASSES and not all(isinstance(other, Remote) for other in others):
            return any(x == others[0] for x in self) if "contains" in name else NotImplemented
        if name == "getattr" and not CLASSES and others[0] in ANSWERS:
            raise AttributeError(f"text, set or number needed for {others[0]}")
        made = name == "__call__" and any(self is kind for kind in CLASSES)
        return ask("make" if made else name, self, *others, **named)

    return method


class Remote:
    """An object that stays with the program: what is done to it is asked over there. It equals
    plain data only if it is of their kind (a class may extend list) and its own are equal."""

    __slots__ = ("__number",)
    __getattr__, __setattr__, __delattr__ = map(special, ("getattr", "setattr", "delattr"))

    def __init__(self, number):
        assert isinstance(number, int)
        Remote._Remote__number.__set__(self, number)

    def __eq__(self, other):
        if isinstance(other, Remote):
            return ask("__eq__", self, other) is True
        data = ask("same", self)
        return not isinstance(data, Remote) and data == other


OWN = {*dir(object), "__get__", "__set__", "__length_hint__"}  # what stays as it is
OWN -= {"__str__", "__repr__", "__hash__", "__format__", "__lt__", "__le__", "__gt__", "__ge__"}
for kind in (operator, *(thing for thing in vars(builtins).values() if isinstance(thing, type))):
    for name in vars(kind).keys() - OWN:
        if name[:2] == "__" and callable(vars(kind)[name]):
            setattr(Remote, name, special(name))


def refer(thing):
    """How to name to the program what is no plain data: its own object, or a part of Python."""
    if isinstance(thing, BaseException) or type(thing).__name__ == "traceback":
        return None  # what a `with` hands over
    if isinstance(thing, Remote):
        return {"kept": thing._Remote__number}
    return {"part": [getattr(thing, "__module__", None) or "builtins", thing.__qualname__]}


def stand_in(of):
    """A built-in type, or one of ours for an exception of the program's. No function: an `eval`
    would read the program's texts on this side."""
    number, name, base = of
    kind = vars(builtins)[base]
    assert isinstance(kind, type)
    return kind if name == base else ERRORS.setdefault(number, type(name, (kind,), {}))


def ask(*arguments, **named):
    """Has the program do something. A reply that is none fails the test; no `except` helps."""
    try:
        requests, replies = PIPES
        print(json.dumps(pack([arguments, named], refer)), file=requests, flush=True)
        reply = replies.readline(MOST_BYTES)
        outcome, value, rest = unpack(reply, kept=Remote, kind=stand_in)
        if outcome == "raised":
            error = value.__new__(value, *rest[0])
            error.__dict__.update(rest[1])
            assert isinstance(error, Exception)
        elif value is None and arguments[0] == "__call__":
            # What returned something has not changed its arguments, whatever it says: a function
            # that empties a list and returns it would pass `assert f(x) == sorted(x)`.
            for mine, changed in zip([*arguments[2:], *named.values()], rest, strict=True):
                if isinstance(mine, (list, bytearray)):
                    mine[:] = changed
                elif isinstance(mine, (set, dict)):
                    mine.clear(), mine.update(changed)
                elif isinstance(mine, deque):
                    mine.clear(), mine.extend(changed)
    except Exception:
        os._exit(WRONG)
    if outcome == "raised":
        raise error
    return value


class Names(dict):
    """The names of a test. The program's plain data are asked for each time: they may change."""

    def __missing__(self, name):
        if name not in PLAIN:
            raise KeyError(name)
        return ask("names", {name})[name]


def asserts(test, requests, replies, _):
    """Runs a test. Its names are its own, Python's, modules of the library; the rest it gets from
    the program, and one that gets none proves nothing."""
    PIPES[:] = open(requests, "w"), open(replies)
    ERRORS.clear()
    sys.setrecursionlimit = abs  # a test that raised it would let replies be nested as deep
    test = {"setup": "", **(test if isinstance(test, dict) else {"test": test})}
    setup, text = test["setup"], test["test"]
    nodes = list(ast.walk(ast.parse(f"{setup}\n{text}")))
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    modules = {getattr(node.value, "id", "") for node in nodes if isinstance(node, ast.Attribute)}
    modules &= sys.stdlib_module_names
    # `abs` in a test is the real one, whatever the program calls abs; unless the test names nothing
    # else: then that is what it tests (MBPP's `assert sum(10, 15) == 6`).
    used -= modules | (set(vars(builtins)) if len(used) > 1 else set())
    ask("exec", setup, Remote(0))
    given = {name: thing for name, thing in ask("names", used).items() if name in used}
    remote = {name: thing for name, thing in given.items() if isinstance(thing, Remote)}
    PLAIN[:] = given.keys() - remote
    CLASSES[:] = [remote[name] for name in remote if re.match("[A-Z][^_]*$", name)]
    names = Names({"__name__": "program", **{name: __import__(name) for name in modules}, **remote})
    exec(compile(setup, "set-up", "exec"), names)
    for name in remote:  # what is of a class of the set-up is used over there
        mine, function = names[name], type(ask)
        if getattr(mine, "__module__", 0) == "program" and not isinstance(mine, function):
            names[name] = remote[name]
    exec(compile(text, "test", "exec"), names)
    assert given


def output(test, requests, replies, child):
    """Gives a script its input and compares what it prints, token by token: one with a decimal
    point or an exponent by value, all others exactly."""

    def feed():
        with open(requests, "wb") as file:
            file.write(test["input"].encode("utf-8", "replace"))

    def same(token, want):
        if token == want or not set(b".eE") & {*want} or {*token, *want} - {*b"+-.0123456789eE"}:
            return token == want
        return abs(float(token) - float(want)) <= max(1e-6 * abs(float(want)), 1e-9)

    _thread.start_new_thread(feed, ())
    with open(replies, "rb") as file:
        printed = file.read(MOST_BYTES)
    tokens, wanted = printed.split(), test["output"].encode("utf-8", "replace").split()
    assert len(printed) < MOST_BYTES and len(tokens) == len(wanted)
    assert all(map(same, tokens, wanted)) and os.waitpid(child, 0)[1] == 0
