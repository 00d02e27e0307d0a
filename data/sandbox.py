"""Runs a model's programs against tests, in a jail, and reads the tests of data sets.

    python -I -S -X utf8 data/sandbox.py PARENT FOLDER...    as hsd.run_tests does
    python -I -S -X utf8 data/sandbox.py read FOLDER...      as hsd.load_problems does

The folders are those of numpy, SymPy and mpmath: these may be imported, and Python's library.

Standard input: one line [program, is each test one of a script?, timeout], then the tests. The exit
status is the answer. For each test this process forks a PROGRAM; then it reads the tests, as their
JUDGE. So a program never meets what it has to produce: it gets input, or calls, and gives output,
or plain data. What it patches, or makes equal to everything, stays where it is. The judge evaluates
no text that a program has made, but numbers and formulas, and builds only what it knows by name.

The jail is a list of what is allowed; the kernel (x86_64 Linux, 5.13 or newer) refuses the rest, to
root too. It is no boundary against holes in the kernel: run code tasks in a container.
"""

import _thread
import ast
import builtins
import ctypes
import functools
import gc
import io
import json
import operator
import os
import re
import resource
import signal
import struct
import sys
from collections import deque, namedtuple

MEGABYTES, THREADS, NOBODY = 2048, 256, 65534
MOST_BYTES = 32 << 20  # of output or of a reply
PASSED, WRONG = 90, 91  # exit statuses; any other is a failure of this file
PACKAGES = {os.path.basename(folder): folder for folder in reversed(sys.argv[2:])}
LIBC = ctypes.CDLL(None, use_errno=True)
CLASS = "[A-Z][^_]*$"  # how the names of classes look
BUILT_IN = [thing for thing in vars(builtins).values() if isinstance(thing, type)]
# Methods of data that a liar would answer with yes, or with what it was given
ASKING = "is|.*with$|.*difference$|intersection$|union$"
ASKING = {name for kind in BUILT_IN for name in vars(kind) if re.match(ASKING, name)} | {"equals"}
# What CPython and numpy need to compute, to read their libraries and to use the pipes they have
CALLS = """read 0, write 1, close 3, stat 4, fstat 5, lstat 6, poll 7, lseek 8, mmap 9, mprotect 10,
munmap 11, brk 12, rt_sigaction 13, rt_sigprocmask 14, rt_sigreturn 15, pread64 17, readv 19,
writev 20, access 21, sched_yield 24, mremap 25, madvise 28, dup 32, dup2 33, nanosleep 35,
setitimer 38, getpid 39, clone 56, exit 60, wait4 61, uname 63, fcntl 72, getcwd 79, readlink 89,
getrusage 98, getuid 102, getgid 104, geteuid 107, getegid 108, getppid 110, sigaltstack 131,
gettid 186, futex 202, sched_getaffinity 204, getdents64 217, restart_syscall 219,
clock_gettime 228, clock_getres 229, clock_nanosleep 230, exit_group 231, epoll_wait 232,
epoll_ctl 233, openat 257, newfstatat 262, readlinkat 267, faccessat 269, pselect6 270, ppoll 271,
set_robust_list 273, epoll_pwait 281, epoll_create1 291, dup3 292, pipe2 293, prlimit64 302,
getrandom 318, statx 332, rseq 334, close_range 436, faccessat2 439"""
ARGUMENTS = {  # of some, an argument matters: (which, mask, allowed values)
    "clone": (0, 0x10000, [0x10000]),  # threads, no processes
    "fcntl": (1, 0xFFFFFFFF, [0, 1, 2, 3, 1030]),  # copies and flags: no owner, lock or size
    "prlimit64": (0, 0xFFFFFFFF, [0]),  # its own
    "openat": (2, 0x203, [0, 1, 2, 0x201, 0x202]),  # old Landlocks overlook O_TRUNC alone
}


class Packages:
    """Finds these packages, and nothing else of the folder that they lie in."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if folder := PACKAGES.get(name):
            from importlib.util import spec_from_file_location as spec

            return spec(name, f"{folder}/__init__.py", submodule_search_locations=[folder])
        return None


sys.meta_path.append(Packages)
os.environ["OMP_NUM_THREADS"] = "1"  # of the pools of numpy's BLAS


def kernel(function, *arguments):
    """Calls a function of the C library. Raises OSError where it fails."""
    # as C longs: variadic functions would take a Python int as a 32-bit one
    arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    if (result := getattr(LIBC, function)(*arguments)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def call_filter():
    """For seccomp, in the kernel's little language: (instruction, jump if so, if not, value). What
    is refused fails with EPERM; a system call of a 32-bit program ends the process."""
    load, mask, equal, answer = 0x20, 0x54, 0x15, 0x06
    kill, no_permission, not_known, allow = 0x80000000, 0x50001, 0x50026, 0x7FFF0000
    code = [(load, 0, 0, 4), (equal, 1, 0, 0xC000003E), (answer, 0, 0, kill), (load, 0, 0, 0)]
    for name, number in map(str.split, CALLS.split(",")):
        place, bits, values = ARGUMENTS.get(name, (0, 0, [0]))
        then = [(load, 0, 0, 16 + 8 * place), (mask, 0, 0, bits)]
        then += [(equal, len(values) - i, 0, value) for i, value in enumerate(values)]
        then += [(answer, 0, 0, no_permission), (answer, 0, 0, allow)]
        code += [(equal, 0, len(then), int(number)), *then]
    # the flags of clone3 lie in memory, where no filter sees them; C libraries fall back to clone
    code += [(equal, 0, 1, 435), (answer, 0, 0, not_known), (answer, 0, 0, no_permission)]
    return b"".join(struct.pack("HBBI", *line) for line in code)


def confine(parent, seconds):
    """Takes away from this process, for good, all but computing, reading Python's library and using
    the files it has open. Raises OSError where the kernel does not know how."""
    with open("/proc/loadavg") as file:  # the limit of threads is one for all that a user runs
        threads = int(file.read().split()[3].split("/")[1]) + THREADS
    limits = {"CPU": seconds, "AS": MEGABYTES << 20, "NPROC": threads, "NOFILE": 256}
    for name, most in {**limits, "FSIZE": 0, "CORE": 0}.items():
        limit = getattr(resource, f"RLIMIT_{name}")
        most = min(most, resource.getrlimit(limit)[1] % (1 << 64))  # -1 is infinity
        resource.setrlimit(limit, (most, most))
    if os.geteuid() == 0:  # becomes nobody, with one of root's powers left: to read what Landlock
        os.setgroups([])  # lets it, for Python may lie below /root
        os.setresgid(NOBODY, NOBODY, NOBODY)
        kernel("prctl", 8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
        os.setresuid(NOBODY, NOBODY, NOBODY)
        kernel("capset", struct.pack("II", 0x20080522, 0), struct.pack("6I", 4, 4, 0, 0, 0, 0))
    kernel("prctl", 1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG; a change of user undoes it
    if os.getppid() != parent:
        sys.exit()
    library = ["/usr/lib", "/lib", "/lib64", "/usr/share/zoneinfo", *map(os.path.dirname, sys.path)]
    library += [folder + end for folder in PACKAGES.values() for end in ("", ".libs")]
    every_right = (1 << min(12 + kernel("syscall", 444, None, 0, 1), 15)) - 1
    rules = kernel("syscall", 444, struct.pack("Q", every_right), 8, 0)  # landlock_create_ruleset
    for path in filter(os.path.exists, [*library, "/dev/null"]):
        rights = 2 | 4 if path == "/dev/null" else 4 | 8  # write, read; read, list
        rule = struct.pack("=Qi", rights, os.open(path, os.O_PATH))
        kernel("syscall", 445, rules, 1, rule, 0)  # landlock_add_rule
    kernel("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS: the others need it
    kernel("syscall", 446, rules, 0)  # landlock_restrict_self
    code = ctypes.create_string_buffer(call_filter())
    code_at = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(code))
    kernel("prctl", 22, 2, code_at, 0, 0)  # PR_SET_SECCOMP


# ---- between judge and program: lines of JSON ----------------------------------------------------
LISTS = (list, tuple, set, frozenset, bytes, bytearray, dict, deque)
CHANGING = (list, bytearray, deque, set, dict)
VALUES = {"complex": "builtins", "range": "builtins", "slice": "builtins", "Fraction": "fractions"}
VALUES |= dict.fromkeys(("date", "time", "datetime", "timedelta", "timezone"), "datetime")
VALUES |= {"Decimal": "decimal", "Counter": "collections", "defaultdict": "collections"}
MAKERS = {kind.__name__: kind for kind in LISTS}
MAKERS |= {name: lambda parts, name=name: value_of(name)(*parts) for name in VALUES}
MAKERS["fields"] = lambda of: unpack_fields(*of)


def value_of(name):
    """A class of VALUES. Few programs use them, and imports take time."""
    return getattr(__import__(VALUES[name]), name)


def unpack_fields(names, values):
    """A namedtuple. No field is called as a method of data is: see special()."""
    assert not any(name in ASKING and callable(it) for name, it in zip(names, values, strict=True))
    return namedtuple("Fields", names)(*values)


def pack(value, refer):
    """Plain data for JSON, with its types; for anything else, what `refer` makes of it."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    numpy, sympy = map(sys.modules.get, ("numpy", "sympy"))
    if numpy and isinstance(value, (numpy.generic, numpy.ndarray)):
        return pack_array(numpy.asarray(value), isinstance(value, numpy.generic), refer)
    if sympy and isinstance(value, (sympy.Basic, sympy.MatrixBase)):
        try:
            return {"formula": pack_formula(value)}
        except ValueError:
            return refer(value)
    if isinstance(value, (int, float, str)):
        return value
    kind = type(value)
    if VALUES.get(kind.__name__) == kind.__module__:
        _, parts, _, _, items = [*value.__reduce_ex__(2), None, None, None][:5]
        parts = [part for part in parts if part is not kind] + ([dict(items)] if items else [])
        return {kind.__name__: pack(parts, refer)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {"fields": [list(value._fields), pack(list(value), refer)]}
    for kind in LISTS:
        if isinstance(value, kind):
            items = [pack(item, refer) for item in (value.items() if kind is dict else value)]
            return items if kind is list else {kind.__name__: items}
    return refer(value)


def unpack(line, **makers):
    """The inverse of pack. What is nested too deep is a RecursionError."""
    makers |= MAKERS
    return json.loads(line, object_hook=lambda it: next(makers[name](it[name]) for name in it))


# ---- numpy and SymPy: of both, a closed list -----------------------------------------------------
DTYPES = r"[<>|=](b1|[iu][1248]|f[248]|c8|c16|[US]\d+|[Mm]8(\[\w+\])?|O)"
NODES = """Add Mul Pow Mod Max Min Tuple Derivative Integral Sum Product Poly Equality Unequality
StrictLessThan LessThan StrictGreaterThan GreaterThan And Or Not FiniteSet Interval Union
Intersection Complement"""
ATOMS = """Pi Exp1 ImaginaryUnit Infinity NegativeInfinity ComplexInfinity NaN GoldenRatio
EulerGamma Catalan BooleanTrue BooleanFalse EmptySet Reals Integers Rationals Naturals Naturals0"""


def pack_array(array, is_scalar, refer):
    """The type, shape and items of an array; the shape of a scalar is None."""
    if not re.fullmatch(DTYPES, array.dtype.str):
        return refer(array)
    shape = None if is_scalar else list(array.shape)
    return {"array": [array.dtype.str, shape, pack(array.ravel().tolist(), refer)]}


@functools.cache
def strict_class():
    """Of nothing, all is true: (np.array([]) == 4).all(). So no array of this class is computed
    with another where one of them is empty and one is not."""
    import numpy

    class array(numpy.ndarray):  # numpy prints the name
        def __array_ufunc__(self, function, method, *inputs, out=(), **named):
            assert len({numpy.size(it) > 0 for it in inputs}) == 1
            if out:
                named["out"] = tuple(map(plain, out))
            result = getattr(function, method)(*map(plain, inputs), **named)
            return out[0] if out else strict(result)

    def plain(value):
        return value.view(numpy.ndarray) if type(value) is array else value

    return array


def strict(value):
    """An array that is empty, or could be stretched to an empty one, in that class."""
    if type(value).__name__ == "ndarray" and {0, 1} & {*value.shape}:
        return value.view(strict_class())
    return value


def unpack_array(of):
    """An array, or a scalar, that equals only what it holds: see strict_class(). An empty one has
    one dimension, or it would broadcast. What is too large for float16 or float32 is infinite
    there, as all such numbers: it becomes 64."""
    import numpy

    dtype, shape, items = of
    assert re.fullmatch(DTYPES, dtype)
    array = numpy.empty(len(items), dtype)
    for place, item in enumerate(items):
        array[place] = item
    if array.dtype.kind in "fc" and (array.dtype.itemsize == 2 or numpy.isinf(array).any()):
        array = array.astype(numpy.promote_types(array.dtype, float))
    if shape is None:
        return array[0]
    array = array.reshape(shape)
    assert items or array.ndim == 1
    return strict(array)


def pack_formula(value):
    """A SymPy expression as a list: a name, and its parts. ValueError if one is not known."""
    import sympy
    from sympy.core.function import AppliedUndef

    kind = type(value)
    if isinstance(value, sympy.Rational):
        return ["Rational", int(value.p), int(value.q)]
    if kind is sympy.Float:
        sign, digits, exponent, _ = map(int, value._mpf_)
        return ["Float", sign, digits, exponent, value._prec]
    if kind is sympy.Symbol:
        return ["Symbol", value.name, list(value.assumptions0.items())]
    if isinstance(value, AppliedUndef):
        return ["Function", kind.__name__, *map(pack_formula, value.args)]
    if isinstance(value, sympy.MatrixBase):
        name = "ImmutableMatrix" if isinstance(value, sympy.Basic) else "Matrix"
        return [name, *value.shape, *map(pack_formula, value.flat())]
    name = "Tuple" if kind.__name__ == "ExprCondPair" else kind.__name__
    if name not in [*ATOMS.split(), *NODES.split(), *sympy.functions.__all__]:
        raise ValueError(name)
    return [name, *map(pack_formula, value.args)]


def unpack_formula(of):
    """The inverse. SymPy would read a text as Python, and names end up in the code of lambdify: so
    a part is an expression that was made here, and of texts there are only identifiers. No Float is
    so short that it equals all numbers of its size."""
    import sympy

    name, *parts = of
    if name == "Rational":
        numerator, denominator = map(int, parts)
        return sympy.Rational(numerator, denominator)
    if name == "Float":
        sign, digits, exponent, bits = map(int, parts)
        number = (sign, digits, exponent, digits.bit_length())
        return sympy.Float(number, precision=max(bits, 53))
    assert name not in ("Symbol", "Function") or parts[0].isidentifier()
    if name == "Symbol":
        return sympy.Symbol(parts[0], **dict(parts[1]))
    if name == "Function":
        return sympy.Function(parts[0])(*map(unpack_formula, parts[1:]))
    if name in ("Matrix", "ImmutableMatrix"):
        return getattr(sympy, name)(*parts[:2], [*map(unpack_formula, parts[2:])])
    if name in ATOMS.split():
        return getattr(sympy.S, name)
    kind = getattr(sympy, name)
    is_function = name in sympy.functions.__all__ and issubclass(kind, sympy.Function)
    assert is_function or name in NODES.split()
    return kind(*map(unpack_formula, parts))


MAKERS |= {"array": unpack_array, "formula": unpack_formula}


# ---- the program's process -----------------------------------------------------------------------
def start(program, is_script, seconds):
    """Forks a program: what the judge writes to, what it reads from, and the process."""
    (given, gives), (replies, replied), parent = os.pipe(), os.pipe(), os.getpid()
    if child := os.fork():
        os.close(given), os.close(replied)
        os.read(replies, 1) or sys.exit(1)  # it says why on stderr
        return gives, replies, child
    os.dup2(given, 0), os.dup2(replied, 1)
    os.fchmod(0, 0o666), os.fchmod(1, 0o666)  # as /dev/stdin and /dev/stdout they are opened again
    confine(parent, seconds)
    os.dup2(os.open("/dev/null", os.O_RDWR), 2)
    os.closerange(3, 1 << 12)
    os.write(1, b"!")
    prints = os.read(0, 1) == b"p"  # it waits until it is its turn
    if is_script:
        run(program, "__main__")
        sys.exit()
    serve(program, prints)


def quiet_loops():
    """asyncio's loops are woken through a pair of sockets: here they look every 10 ms."""
    from asyncio.selector_events import BaseSelectorEventLoop as Loop

    Loop._make_self_pipe = lambda loop: loop.call_later(0.01, loop._make_self_pipe)
    Loop._close_self_pipe = Loop._write_to_self = lambda loop: None


def run(text, name):
    """Runs the program as the module `name`, and returns its names."""
    if "async" in text:
        quiet_loops()
    module = sys.modules[name] = type(sys)(name)
    module.__file__, sys.argv = "program.py", ["program.py"]
    module.exit = module.quit = sys.exit  # python -S leaves them out
    exec(compile(text, "program.py", "exec"), vars(module))  # noqa: S102 (its purpose)
    return vars(module)


def serve(text, prints):
    """Runs the program, then does to its names and objects what the judge asks. With `prints`, each
    reply has what was printed."""
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 0), os.dup2(2, 1)
    printed = io.StringIO()
    if prints:
        sys.stdout = printed
    objects = {0: run(text, "program")}

    def refer(thing):
        objects[id(thing)] = thing
        if isinstance(thing, type) and (thing in BUILT_IN or issubclass(thing, Exception)):
            bases = [refer(base) for base in thing.__bases__ if issubclass(base, Exception)]
            return {"kind": [id(thing), thing.__name__, bases]}
        is_awaited = type(thing).__name__ in ("coroutine", "async_generator_asend")
        return {"awaits" if is_awaited else "kept": id(thing)}

    def part(of):
        module = __import__(of[0])
        return operator.attrgetter(of[1])(sys.modules.get(of[0], module))

    @functools.cache
    def own(number, name):
        """A function of the test's. It is called over there."""

        def function(*arguments, **named):
            reply(number, pack([arguments, named], refer), "call")
            return listen()

        function.__name__ = function.__qualname__ = name
        return function

    makers = {"kept": objects.get, "iter": iter, "part": part, "own": lambda of: own(*of)}

    def reply(*parts):
        print(json.dumps([*parts, printed.getvalue()]), file=replies, flush=True)
        printed.seek(0), printed.truncate()

    def listen():
        """Does what is asked, until a function of the test's has returned or raised something."""
        for line in requests:
            name = ""
            try:
                (name, this, *others), named, in_place = unpack(line, **makers)
                if name in ("returned", "raised"):
                    break
                reply(*do(name, this, others, named, in_place))
            except Exception as error:  # noqa: BLE001 (the judge will raise it)
                reply(refer(type(error)), pack([error.args, vars(error)], refer), "raised")
        else:
            os._exit(0)  # its threads end with its test, and free their memory
        if name == "raised":
            raise this(*others)
        return this

    def do(name, this, others, named, in_place):
        given = [*others, *named.values()] if name == "__call__" else []
        # a special method, with all that Python tries for it; or a built-in function
        method = getattr(type(this), name, None)
        does = vars(operator).get(name) or getattr(builtins, name.strip("_"), method)
        if name == "same":
            result = this
        elif name == "await":
            result = loop().run_until_complete(this)
        else:
            result = does(this, *others, **named)
        changed = pack(given if in_place or result is None else [], refer)
        same = [i for i, it in enumerate(given) if it is result and isinstance(it, CHANGING)]
        if in_place and same:
            return {"given": same[0]}, changed, ""
        # what a class was called for stays an object of it, even if the class extends list
        return refer(result) if type(result) is this else pack(result, refer), changed, ""

    @functools.cache
    def loop():
        import asyncio

        return asyncio.new_event_loop()

    listen()


# ---- the judge -----------------------------------------------------------------------------------
LOCK = _thread.RLock()
CASE = {}  # of the test at hand: pipes, what has gone over or come, and what asserts() sees in it
OPERATORS = {name for name in vars(operator) if not name.endswith(("call__", "item__"))}


def is_asking(name):
    """Is it such a method of data? Formulas have is_zero and more."""
    return name in ASKING or name[:3] == "is_" and {"sympy", "decimal"} & sys.modules.keys()


def special(name):
    """A special method of Remote. Where a test names no class of the program's, it expects data,
    and operators are not told the test's: for `abs(f(2) - 4) < 1`, an object could take away any
    number and be 0. Nor are methods called that data have to answer with yes (`startswith`). Where
    it names one, `in`, `/` and such methods are for what it has made itself by calling the class."""
    is_operator = {name, name.replace("__r", "__")} & OPERATORS
    is_distance = re.match("__r?(sub|[lg][te])__", name)  # these not even with a class
    is_of_data = re.match("__(r?(truediv|floordiv|mod)|contains)__", name)

    def method(self, /, *others, **named):
        is_made = self._Remote__role == "made"
        told = CASE["classes"] and not is_distance and (is_made or not is_of_data)
        told = told or all(type(it) is Remote for it in others)
        if is_operator and not told:
            return any(x == others[0] for x in self) if "contains" in name else NotImplemented
        if name == "getattr" and not is_made and is_asking(others[0]):
            raise AttributeError(f"text, set or number needed for {others[0]}")
        if name == "getattr" and re.match("__array|__?sympy|_mp", others[0]):
            raise AttributeError("numpy and SymPy would take it for one of theirs")
        result = ask(name, self, *others, **named)
        if name == "__exit__":  # what is raised in a `with` around an assert, it cannot hide
            line = getattr(others[-1], "tb_lineno", 0)
            is_wrong = line in CASE["checks"] or isinstance(others[1], AssertionError)
            return result and not is_wrong
        return result

    return method


class Remote:
    """An object that stays with the program: what is done to it is asked over there. It equals
    plain data only if it is of their kind (a class may extend list) and its own are equal."""

    __slots__ = ("__number", "__role")  # a "class" that the test names, what it "made" of it, or ""
    __getattr__, __setattr__, __delattr__ = map(special, ("getattr", "setattr", "delattr"))

    def __init__(self, number, role=""):
        assert isinstance(number, int)
        Remote._Remote__number.__set__(self, number)
        Remote._Remote__role.__set__(self, role)

    def __eq__(self, other):
        if isinstance(other, Remote):
            return ask("__eq__", self, other) is True
        data = ask("same", self)
        return not isinstance(data, Remote) and data == other


OWN = {*dir(object), "__get__", "__set__", "__length_hint__"}  # what stays as it is
OWN -= {"__str__", "__repr__", "__hash__", "__format__", "__lt__", "__le__", "__gt__", "__ge__"}
for kind in (operator, *BUILT_IN):
    for name in vars(kind).keys() - OWN:
        if name[:2] == "__" and callable(vars(kind)[name]):
            setattr(Remote, name, special(name))
Remote.__aiter__, Remote.__anext__ = map(special, ("__aiter__", "__anext__"))
Remote.__doc__ = property(lambda remote: ask("getattr", remote, "__doc__"))


def refer(thing):
    """How to name to the program what is no plain data: its own object, a function of the test's,
    all that an iterator gives, a part of a library. Of the rest (the traceback that `with` hands
    over, an object of a class of the test's that cannot be called) it learns nothing."""
    if isinstance(thing, Remote):
        return {"kept": thing._Remote__number}
    is_own = isinstance(getattr(thing, "__self__", None), (str, *CHANGING))  # such as seen.append
    is_own |= hasattr(thing, "__code__") and thing.__module__ == "program"
    is_own |= callable(thing) and not hasattr(thing, "__qualname__")  # a partial, a Mock
    if is_own:
        CASE["own"][id(thing)] = thing
        return {"own": [id(thing), getattr(thing, "__name__", "function")]}
    if hasattr(type(thing), "__iter__"):
        return {"iter": [pack(item, refer) for item in thing]}
    if hasattr(thing, "__qualname__"):
        return {"part": [getattr(thing, "__module__", 0) or "builtins", thing.__qualname__]}
    return None


def stand_in(of):
    """A type of Python's (a fork has it at the same address), or what stands in for a class of
    exceptions of the program's. No function: an `eval` would read its texts on this side."""
    number, name, bases = of
    known = vars(builtins).get(name)
    kind = known if id(known) == number else type(name, tuple(bases), {})
    assert kind in BUILT_IN or issubclass(kind, Exception)
    return CASE["kinds"].setdefault(number, kind)


def ask(*arguments, **named):
    """As ask_alone(), for one thread after the other."""
    with LOCK:
        return ask_alone(*arguments, **named)


def ask_alone(*arguments, **named):
    """Has the program do something. A reply that is none fails the test; no `except` helps."""
    mine = [*arguments[2:], *named.values()]
    makers = {"kept": remote, "kind": stand_in}
    makers["awaits"] = awaited if CASE["async"] else remote
    if CASE["in_place"]:
        makers["given"] = mine.__getitem__
    try:
        how, message = "call", [arguments, named, CASE["in_place"]]
        while how == "call":
            print(json.dumps(pack(message, refer)), file=CASE["requests"], flush=True)
            reply = CASE["replies"].readline(MOST_BYTES)
            value, rest, how, printed = unpack(reply, **makers)
            if sys.stdout is not sys.__stdout__:  # the test reads it
                sys.stdout.write(printed)
            if how == "call":
                message = [call(value, *rest), {}, False]
        if how == "raised":
            error = value(*rest[0])
            error.__dict__.update(rest[1])
            assert isinstance(error, Exception)
            # it would end a loop over map(f, x); where a test expects it, the test names it
            ends = isinstance(error, StopIteration) and arguments[0] != "__next__"
            assert not ends or CASE["stops"]
        # What returned something has not changed its arguments, whatever it says: a function that
        # empties a list and returns it would pass `assert f(x) == sorted(x)`. See is_in_place().
        elif arguments[0] == "__call__" and (value is None or CASE["in_place"]):
            for it, changed in zip(mine, rest, strict=True):
                if isinstance(it, CHANGING):
                    it.clear()
                    (it.extend if hasattr(it, "extend") else it.update)(changed)
                elif {"__array_ufunc__", "__setitem__"} <= {*dir(type(it))}:  # of numpy
                    it[...] = changed
    except Exception:  # noqa: BLE001 (whatever it is)
        os._exit(WRONG)
    if how == "raised":
        raise error
    if isinstance(value, Remote) and arguments[0] == "__call__" and is_class(arguments[1]):
        return remote(value._Remote__number, "made")
    return value


def remote(number, role=""):
    """The program's object of that number: `f() is C.RED` compares two."""
    return CASE["remotes"].setdefault((number, role), Remote(number, role))


async def awaited(number):
    return ask("await", Remote(number))


def call(number, arguments, named):
    """Calls a function of the test's for the program. If it asserts what is false, the test fails,
    whatever the program makes of the exception."""
    try:
        return "returned", CASE["own"][number](*arguments, **named)
    except AssertionError:
        raise
    except Exception as error:  # noqa: BLE001 (the program will raise it)
        return "raised", next(kind for kind in type(error).__mro__ if kind in BUILT_IN), *error.args


# Nodes of a test that is no more than calls and comparisons, one after the other
SIMPLE = """Module Import ImportFrom alias Assign Expr Assert Compare BoolOp And UnaryOp Not USub
Call keyword Attribute Subscript Slice Name Constant List Tuple Dict Set Load Store Eq NotEq Is
IsNot Lt LtE Gt GtE In NotIn"""
# Modules that compile what they have written themselves
COMPILERS = r"__main__|collections|dataclasses|ast|sympy\.polys\..*"
# Texts that compute numbers and formulas: the test's, and what SymPy makes of them
NAMES = "Integer|Float|Rational|Symbol|Function|sin|cos|tan|exp|log|sqrt|pi|I|E"
PLAIN = rf"from sympy import \*|({NAMES}|'[\w.]*'|[\s\d+*/().,%-])*"


def is_check(node, own):
    """Does it judge, or may it?"""
    calls = isinstance(node, ast.Call) and getattr(node.func, "id", "") in own
    asserts = getattr(node, "attr", "").startswith("assert")
    return calls or asserts or isinstance(node, (ast.Assert, ast.Compare))


def is_class(thing):
    return isinstance(thing, Remote) and thing._Remote__role == "class"


class Names(dict):
    """Python's names, and those of the program's, each time anew: they may change."""

    def __missing__(self, name):
        thing = ask("__getitem__", Remote(0), name)
        if isinstance(thing, Remote) and re.match(CLASS, name):
            return remote(thing._Remote__number, "class")
        return thing


def is_in_place(nodes, given):
    """May the program change the arguments of a call that returns something? Where all that a test
    compares with is written in it, they say nothing about what is right. A function that is not
    the program's may compare, too: np.array_equal(f(x), sorted(x))."""
    classes = {name for name in given if re.match(CLASS, name)}

    def is_made(node):
        return isinstance(node, ast.Call) and getattr(node.func, "id", "") in classes

    made = [node for node in nodes if isinstance(node, ast.Assign) and is_made(node.value)]
    made = {it.id for node in made for it in node.targets if isinstance(it, ast.Name)}
    for node in nodes:
        if type(node).__name__ not in SIMPLE.split() or getattr(node, "id", "") in ("all", "any"):
            return False
        sides = []
        if isinstance(node, ast.Compare) and not isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            sides = [node.left, *node.comparators]
        of = getattr(getattr(node, "func", 0), "value", 0)  # of a method
        is_method = is_made(of) or getattr(of, "id", "") in made
        is_programs = is_method or getattr(getattr(node, "func", 0), "id", "") in given
        if isinstance(node, ast.Call) and not is_programs:
            sides = [*node.args, *(keyword.value for keyword in node.keywords)]
            sides += [node.func.value] if isinstance(node.func, ast.Attribute) else []
        parts = [[*ast.walk(side)] for side in sides]
        computed = [any(isinstance(it, (ast.Name, ast.Call)) for it in part) for part in parts]
        if sum(computed) > 1:
            return False
    return True


@functools.cache
def strict_numpy():
    """Makes numpy's functions strict, too: np.allclose([], 3). Nothing equals nothing alone."""
    import numpy
    import numpy.testing

    def compares(compare):
        @functools.wraps(compare)
        def function(*arguments, **named):
            a, b = [*arguments, *named.values()][:2]
            assert (numpy.size(a) == 0) == (numpy.size(b) == 0)
            return compare(*arguments, **named)

        return function

    def makes(make):
        return functools.wraps(make)(lambda *arguments, **named: strict(make(*arguments, **named)))

    makers = "array asarray asanyarray atleast_1d atleast_2d ravel ones zeros full"
    for name in makers.split():
        setattr(numpy, name, makes(getattr(numpy, name)))
    tests = "assert_allclose assert_array_equal assert_almost_equal assert_array_almost_equal"
    for module, names in ((numpy, "allclose isclose array_equiv"), (numpy.testing, tests)):
        for name in names.split():
            setattr(module, name, compares(getattr(module, name)))


def is_formula(thing):
    """Of no unknown function: as code, Function("setattr") would be Python's."""
    import sympy
    from sympy.core.function import AppliedUndef

    if isinstance(thing, (list, tuple)):
        return all(map(is_formula, thing))
    return isinstance(thing, (sympy.Basic, sympy.MatrixBase)) and not thing.has(AppliedUndef)


def watch(event, details):
    """Hears of all that Python compiles and unpickles on this side. Texts of the program's it may
    only read as numbers and formulas: for `eval(f(x)) == y`, one could end this process, as right.
    """
    if event == "pickle.find_class":
        os._exit(WRONG)
    if event != "compile":
        return
    callers = [sys._getframe(1)]
    while callers[-1].f_back:
        callers.append(callers[-1].f_back)
    compiler, *_ = modules = [frame.f_globals.get("__name__", "") for frame in callers]
    trusted = re.fullmatch(COMPILERS, compiler) or any("importlib" in name for name in modules)
    if compiler == "sympy.utilities.lambdify":  # it takes texts, too
        trusted = is_formula([callers[0].f_locals.get(name, []) for name in ("args", "expr")])
    if trusted:
        return
    text = details[0].decode() if isinstance(details[0], bytes) else details[0]
    if not isinstance(text, str) or text not in CASE["texts"] and not re.fullmatch(PLAIN, text):
        os._exit(WRONG)


def asserts(test, requests, replies, child):
    """Runs a test. Its names are its own, Python's, modules of the library; the rest it gets from
    the program, and one that gets none proves nothing."""
    CASE.update(requests=os.fdopen(requests, "w"), replies=os.fdopen(replies))
    CASE.update(kinds={}, remotes={}, own={}, in_place=False)
    sys.setrecursionlimit = abs  # a test that raised it would let replies be nested as deep
    setup, text = ("", test) if isinstance(test, str) else (test["setup"], test["test"])
    nodes = list(ast.walk(ast.parse(f"{setup}\n{text}")))
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    CASE["stops"] = "StopIteration" in used
    modules = {getattr(node.value, "id", "") for node in nodes if isinstance(node, ast.Attribute)}
    modules &= {*sys.stdlib_module_names, *PACKAGES, "np"}
    CASE["texts"] = {node.value for node in nodes if isinstance(getattr(node, "value", 0), str)}
    CASE["async"] = "async" in setup + text
    if CASE["async"]:
        quiet_loops()
    if "numpy" in PACKAGES and ("numpy" in setup + text or "np" in modules):
        strict_numpy()
    # `abs` in a test is the real one, whatever the program calls abs; unless the test names nothing
    # else: then that is what it tests (MBPP's `assert sum(10, 15) == 6`).
    used -= modules | (set(vars(builtins)) if len(used) > 1 else set())
    ask("exec", setup, Remote(0))
    given = used.intersection(ask("list", Remote(0)))
    own = {getattr(node, key, "") for node in nodes for key in ("name", "asname")} - {""}
    names = [node for node in nodes if isinstance(node, ast.Name)]
    own |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
    withs = [it for x in (setup, text) for it in ast.walk(ast.parse(x)) if isinstance(it, ast.With)]
    withs = [it for it in withs if any(is_check(part, own) for part in ast.walk(it))]
    CASE["checks"] = {line for it in withs for line in range(it.lineno, it.end_lineno + 1)}
    CASE["in_place"] = is_in_place(nodes, given - own)
    CASE["classes"] = any(re.match(CLASS, name) for name in given - own)
    python = Names({name: thing for name, thing in vars(builtins).items() if name not in given})
    names = {"__name__": "program", "__builtins__": python}
    names |= {name: __import__("numpy" if name == "np" else name) for name in modules}
    tree = ast.parse(setup)  # its classes are the program's: so are, then, its objects
    tree.body = [node for node in tree.body if not isinstance(node, ast.ClassDef)]
    exec(compile(tree, "set-up", "exec"), names)  # noqa: S102 (its purpose)
    exec(compile(text, "test", "exec"), names)  # noqa: S102 (its purpose)
    assert given
    CASE["requests"].close()
    os.waitpid(child, 0)


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


# ---- the tests of data sets ----------------------------------------------------------------------
# Of a function by name: arguments and result as JSON, which knows no tuples
CALL = """import json
given, want = json.loads({0!r})
try:
    function = Solution().{1}
except NameError:
    function = {1}
got = json.loads(json.dumps(function(*given), default=lambda it: it.tolist()))
assert want == got"""


def read_tests(row):
    """The tests of a row of ours, MBPP, HumanEval, APPS or LiveCodeBench. A test is a text of
    asserts, one with what sets it up, {"setup", "test"}, or of a script, {"input", "output"}."""
    tests = row.get("tests") or row.get("test_list") or []
    imports = row.get("test_imports") or []
    tests = tests if isinstance(tests, list) else [tests]
    imports = imports if isinstance(imports, list) else [imports]
    name = row.get("entry_point")
    setup = "\n".join([*imports, row.get("test_setup_code") or ""]).strip()
    if setup:  # MBPP
        tests = [{"setup": setup, "test": test} for test in tests]
    if name and row.get("test"):  # HumanEval
        tests = [f"{row['test']}\n\ncheck({name})"]
        if not name.isidentifier():
            raise ValueError(f"entry_point {name!r} is no name")
    if row.get("input_output"):
        tests = read_apps(from_json(row["input_output"]))
    if row.get("public_test_cases"):
        tests = read_livecodebench(row)
    for test in tests:
        check(test)
    return tests


def from_json(data):
    return json.loads(data) if isinstance(data, str) else data


def read_apps(cases):
    """Inputs and outputs of a script or, with a fn_name, of a function."""
    inputs = cases["inputs"]
    outputs = cases["outputs"]
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise TypeError("inputs and outputs are no lists")
    pairs = list(zip(inputs, outputs, strict=True))
    if name := cases.get("fn_name"):  # some outputs lie in a list of one
        call = CALL.replace("want == got", "want in (got, [got])")
        return [call.format(json.dumps(pair), name) for pair in pairs]
    pairs = [["\n".join(x) if isinstance(x, list) else x for x in pair] for pair in pairs]
    return [{"input": given, "output": output} for given, output in pairs]


def read_livecodebench(row):
    """Inputs and outputs of a script, or of a function: then an argument a line."""
    hidden = row.get("private_test_cases") or []
    if isinstance(hidden, str) and not hidden.startswith("["):
        hidden = decompress(hidden)
    cases = from_json(row["public_test_cases"]) + from_json(hidden)
    name = from_json(row.get("metadata") or {}).get("func_name")
    tests = []
    for case in cases:
        test = {"input": case["input"], "output": case["output"]}
        if case["testtype"] == "functional":
            given = [json.loads(line) for line in case["input"].splitlines()]
            test = CALL.format(json.dumps([given, json.loads(case["output"])]), name)
        tests.append(test)
    return tests


def decompress(text):
    """A text that was pickled, compressed and written in base64."""
    import base64
    import pickle
    import zlib

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            raise ValueError(f"a pickle asks for {module}.{name}")

    return Unpickler(io.BytesIO(zlib.decompress(base64.b64decode(text)))).load()


def check(test):
    """Raises whatever is wrong with a test; also where it tests nothing."""
    if isinstance(test, str):
        test = {"setup": "", "test": test}
    if not isinstance(test, dict) or not all(type(x) is str for x in test.values()):
        raise TypeError("it is neither a text nor an object of texts")
    if set(test) == {"input", "output"}:
        return
    if set(test) != {"setup", "test"}:
        raise ValueError(f"its keys are {', '.join(test)}")
    nodes = {}
    for key, text in test.items():
        compile(text, "test", "exec")  # SyntaxError, for a return outside a function too
        nodes[key] = list(ast.walk(ast.parse(text)))
    if not any(isinstance(node, (ast.Assert, ast.Call)) for node in nodes["test"]):
        raise ValueError("it asserts and calls nothing")
    for node in nodes["setup"] + nodes["test"]:
        names = [it.name for it in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or "."] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name.partition(".")[0] not in {*sys.stdlib_module_names, *PACKAGES}:
                raise ImportError(f"there is no {name} in the sandbox")


def read():
    """Of each line of standard input, a row, prints the tests, or in a text why there are none.
    First, where programs cannot be confined, it ends with the reason."""
    start("", True, 1)
    for line in sys.stdin:
        try:
            tests = read_tests(json.loads(line))
        except Exception as error:  # noqa: BLE001 (data of any shape)
            tests = f"{type(error).__name__}: {error}".partition("\n")[0]
        print(json.dumps(tests))


def main(parent):
    """Starts the programs, becomes their judge, and ends with the verdict as exit status."""
    os.chdir("/")
    with open(0, "rb", buffering=0, closefd=False) as unbuffered:  # the tests are not for forks
        program, scripts, timeout = json.loads(unbuffered.readline())
    seconds = int(timeout) + 2  # of CPU time
    gc.freeze()  # or a collection in a fork would copy all that it touches
    started = [start(program, is_script, seconds) for is_script in scripts]
    confine(parent, seconds * len(scripts))
    sys.addaudithook(watch)
    for test, is_script, pipes in zip(json.load(sys.stdin), scripts, started, strict=True):
        signal.setitimer(signal.ITIMER_REAL, timeout)  # ends this process, and with it the programs
        os.write(pipes[0], b"p" if "stdout" in str(test) else b"!")
        try:
            (output if is_script else asserts)(test, *pipes)
        except BaseException:  # noqa: BLE001 (whatever it is)
            os._exit(WRONG)
    os._exit(PASSED)


if __name__ == "__main__":
    read() if sys.argv[1] == "read" else main(int(sys.argv[1]))
