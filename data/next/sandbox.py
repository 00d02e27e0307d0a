"""Runs a model's programs against tests, in a jail: data/judge.py decides what they are worth.

    python -I -S -X utf8 data/sandbox.py PARENT          as hsd.run_tests does

Standard input: one line [program, is each test one of a script?, timeout], then the tests. The exit
status is the answer. This process forks a PROGRAM for each test; then it turns into their JUDGE and
reads the tests. So a program never meets what it has to produce: it gets input, or calls, and gives
output, or plain data. An object that equals everything, a patched built-in, a look into the frames:
all that stays where it is.

The jail is a list of what is allowed; the kernel (Linux 5.13 or newer) refuses the rest, to root
too: no file is written, no process made, no signal sent. It is no boundary against holes in the
kernel: run code tasks in a container.
"""

import builtins
import collections
import ctypes
import gc
import json
import operator
import os
import resource
import signal
import struct
import sys

MEGABYTES, THREADS, NOBODY = 2048, 256, 65534
MOST_BYTES = 32 << 20  # of output or of a reply
PASSED, WRONG = 90, 91  # exit statuses; any other is a failure of this file
LIBC = ctypes.CDLL(None, use_errno=True)
# What CPython needs to compute, to read its library and to use the pipes it has: names, and numbers
# on x86_64 and aarch64 (- where there is none; aarch64 has not been tried).
CALLS = """
read 0 63, write 1 64, close 3 57, stat 4 -, fstat 5 80, lstat 6 -, poll 7 -, lseek 8 62,
mmap 9 222, mprotect 10 226, munmap 11 215, brk 12 214, rt_sigaction 13 134, rt_sigprocmask 14 135,
rt_sigreturn 15 139, ioctl 16 29, readv 19 65, writev 20 66, access 21 -, sched_yield 24 124,
mremap 25 216, madvise 28 233, dup 32 23, dup2 33 -, nanosleep 35 101, setitimer 38 103,
getpid 39 172, clone 56 220, exit 60 93, wait4 61 260, uname 63 160, fcntl 72 25, getcwd 79 17,
readlink 89 -, getrusage 98 165, sysinfo 99 179, times 100 153, getuid 102 174, getgid 104 176,
geteuid 107 175, getegid 108 177, getppid 110 173, sigaltstack 131 132, gettid 186 178,
futex 202 98, sched_getaffinity 204 123, getdents64 217 61, restart_syscall 219 128,
clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, exit_group 231 94,
epoll_wait 232 -, epoll_ctl 233 21, openat 257 56, newfstatat 262 79, readlinkat 267 78,
faccessat 269 48, pselect6 270 72, ppoll 271 73, set_robust_list 273 99, epoll_pwait 281 22,
epoll_create1 291 20, dup3 292 24, pipe2 293 59, prlimit64 302 261, getrandom 318 278,
statx 332 291, rseq 334 293, faccessat2 439 439"""
ARGUMENTS = {  # of some, an argument matters: (which, mask, allowed values)
    "clone": (0, 0x10000, [0x10000]),  # threads, no processes
    "ioctl": (1, ~0, [0x5401, 0x5421, 0x5450, 0x5451]),  # is it a terminal; blocking; inheritance
    "fcntl": (1, ~0, [0, 1, 2, 3, 1030]),  # copies and flags: no owner, lock or size
    "prlimit64": (0, ~0, [0]),  # its own
    "openat": (2, 0x203, [0, 1, 2, 0x201, 0x202]),  # old Landlocks overlook O_TRUNC alone
}


def kernel(function, *arguments):
    # as C longs: variadic functions would take a Python int as a 32-bit one
    arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    if (result := getattr(LIBC, function)(*arguments)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def allowed_files():
    """A Landlock ruleset: Python's library can be read, nothing else, and nothing written."""
    every_right = (1 << min(12 + kernel("syscall", 444, None, 0, 1), 15)) - 1
    ruleset = kernel("syscall", 444, struct.pack("Q", every_right), 8, 0)
    write, read, read_folder = 2, 4, 12
    library = ["/usr/lib", "/lib", "/lib64", "/usr/share/zoneinfo", *map(os.path.dirname, sys.path)]
    allowed = dict.fromkeys(library, read_folder) | {"/dev/null": read | write}
    allowed |= dict.fromkeys(["/etc/ld.so.cache", "/etc/localtime", "/dev/urandom"], read)
    for path in filter(os.path.exists, allowed):
        rule = struct.pack("=Qi", allowed[path], os.open(path, os.O_PATH))
        kernel("syscall", 445, ruleset, 1, rule, 0)
    return ruleset


def allowed_calls():
    """A seccomp filter, in the kernel's little language: (instruction, jump if so, if not, value).
    Refused calls fail with EPERM; those of another architecture end the process."""
    load, mask, equal, at_least, answer = 0x20, 0x54, 0x15, 0x35, 0x06
    kill, no_permission, not_known, allow = 0x80000000, 0x50001, 0x50026, 0x7FFF0000
    column, audit = {"x86_64": (1, 0xC000003E), "aarch64": (2, 0xC00000B7)}[os.uname().machine]
    code = [(load, 0, 0, 4), (equal, 1, 0, audit), (answer, 0, 0, kill)]
    code += [(load, 0, 0, 0), (at_least, 0, 1, 1 << 30), (answer, 0, 0, kill)]
    for call in map(str.split, CALLS.replace("-", "-1").split(",")):
        then = [(answer, 0, 0, allow)]
        if call[0] in ARGUMENTS:
            place, bits, values = ARGUMENTS[call[0]]
            then = [(load, 0, 0, 16 + 8 * place), (mask, 0, 0, bits & 0xFFFFFFFF)]
            then += [(equal, len(values) - i, 0, value) for i, value in enumerate(values)]
            then += [(answer, 0, 0, no_permission), (answer, 0, 0, allow)]
        code += [(equal, 0, len(then), int(call[column]) & 0xFFFFFFFF), *then]
    # the flags of clone3 lie in memory, where no filter sees them; C libraries fall back to clone
    code += [(equal, 0, 1, 435), (answer, 0, 0, not_known), (answer, 0, 0, no_permission)]
    return b"".join(struct.pack("HBBI", *line) for line in code)


def confine(parent, seconds, ruleset, calls):
    """Takes away from this process, for good, all but computing, reading Python's library and using
    the files it has open. Raises OSError where the kernel does not know how."""
    with open("/proc/loadavg") as file:  # the limit of threads is one for all that a user runs
        threads = int(file.read().split()[3].split("/")[1]) + THREADS
    limits = {"CPU": seconds, "AS": MEGABYTES << 20, "FSIZE": 0, "CORE": 0, "NOFILE": 256}
    for name, most in {**limits, "NPROC": threads}.items():
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
    kernel("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS: the others need it
    kernel("syscall", 446, ruleset, 0)  # landlock_restrict_self
    lines = ctypes.create_string_buffer(calls)
    kernel("prctl", 22, 2, struct.pack("HxxxxxxP", len(calls) // 8, ctypes.addressof(lines)), 0, 0)


# ---- between judge and program: lines of JSON ----------------------------------------------------
LISTS = (list, tuple, set, frozenset, bytes, bytearray, dict, collections.deque)
PARTS = dict.fromkeys(("complex", "range", "slice"), "builtins") | {
    **dict.fromkeys(("date", "time", "datetime", "timedelta"), "datetime"),
    **{"Fraction": "fractions", "Decimal": "decimal"},
}
MAKERS = {kind.__name__: kind for kind in LISTS} | {
    "fields": lambda of: collections.namedtuple("Fields", of[0])(*of[1]),
    "parts": lambda of: getattr(__import__(PARTS[of[0]]), of[0])(*of[1]),
}


def pack(value, refer):
    """Plain data for JSON, with its types; for anything else, what `refer` makes of it."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {"fields": [list(value._fields), pack(list(value), refer)]}
    for kind in LISTS:
        if isinstance(value, kind):
            items = [pack(item, refer) for item in (value.items() if kind is dict else value)]
            return items if kind is list else {kind.__name__: items}
    kind = type(value)
    if PARTS.get(kind.__name__) == kind.__module__:
        parts = [part for part in value.__reduce_ex__(2)[1] if part is not kind]
        return {"parts": [kind.__name__, pack(parts, refer)]}
    return None if value is None else refer(value)


def unpack(line, **makers):
    """The inverse of pack. What is nested too deep is a RecursionError."""
    makers |= MAKERS
    return json.loads(line, object_hook=lambda it: [makers[name](of) for name, of in it.items()][0])


# ---- the program's process -----------------------------------------------------------------------
def start(program, is_script, *jail):
    """Forks a program: what the judge writes to, what it reads from, and the process."""
    (given, gives), (replies, replied), parent = os.pipe(), os.pipe(), os.getpid()
    if child := os.fork():
        os.close(given), os.close(replied)
        assert os.read(replies, 1), "a process could not be confined"
        return gives, replies, child
    os.dup2(given, 0), os.dup2(replied, 1), os.dup2(os.open("/dev/null", os.O_RDWR), 2)
    os.fchmod(0, 0o666), os.fchmod(1, 0o666)  # as /dev/stdin and /dev/stdout they are opened again
    confine(parent, *jail)
    os.closerange(3, 1 << 12)
    os.write(1, b"!")
    os.read(0, 1)  # until it is its turn
    run(program, "__main__") if is_script else serve(program)
    sys.exit()


def run(text, name):
    """Runs the program as the module `name`."""
    if "asyncio" in text:  # its loop wakes itself through a pair of sockets: here through a pipe
        from asyncio.selector_events import BaseSelectorEventLoop as Loop

        def wake_by_pipe(loop):
            reading, writing = os.pipe()
            loop._add_reader(reading, os.read, reading, 4096)
            loop._write_to_self = lambda: os.write(writing, b"!")

        Loop._make_self_pipe, Loop._close_self_pipe = wake_by_pipe, lambda loop: None
    module = sys.modules[name] = type(sys)(name)
    module.__file__, sys.argv = "program.py", ["program.py"]
    module.exit = module.quit = sys.exit  # python -S leaves them out
    exec(compile(text, "program.py", "exec"), vars(module))


def serve(text):
    """Runs the program, then does to its names and objects what the judge asks."""
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 0), os.dup2(2, 1)
    run(text, "program")
    names = vars(sys.modules["program"])
    objects = {0: names}

    def refer(thing):
        objects[id(thing)] = thing
        if isinstance(thing, type):
            base = next(kind for kind in thing.__mro__ if kind.__module__ == "builtins")
            if base is thing or issubclass(thing, Exception):
                return {"kind": [id(thing), thing.__name__, base.__name__]}
        return {"kept": id(thing)}

    def part(of):
        return operator.attrgetter(of[1])(__import__(of[0]))

    def do(name, this, /, *others, **named):
        """A special method, with all that Python tries for it; or a built-in function."""
        if name == "names":
            return {name: names[name] for name in this if name in names}
        if name in ("make", "same"):
            return this(*others, **named) if name == "make" else this
        own = getattr(type(this), name, None)
        does = vars(operator).get(name) or getattr(builtins, name.strip("_"), own)
        return does(this, *others, **named)

    for line in requests:
        try:
            arguments, named = unpack(line, kept=objects.get, part=part)
            result = do(*arguments, **named)
            changed = [*arguments[2:], *named.values()] if arguments[0] == "__call__" else []
            stays = arguments[0] == "make" and type(result).__module__ != "builtins"
            packed = refer(result) if stays else pack(result, refer)
            reply = ["returned", packed, pack(changed, refer)]
        except Exception as error:
            reply = ["raised", refer(type(error)), pack([error.args, vars(error)], refer)]
        print(json.dumps(reply), file=replies, flush=True)


def main(parent):
    os.chdir("/")
    with open(0, "rb", buffering=0, closefd=False) as unbuffered:  # the tests are not for forks
        program, scripts, timeout = json.loads(unbuffered.readline())
    jail = int(timeout) + 2, allowed_files(), allowed_calls()
    gc.freeze()  # or a collection in a fork would copy all that it touches
    started = [start(program, is_script, *jail) for is_script in scripts]
    sys.path.insert(0, os.path.dirname(__file__))
    import judge  # not earlier: no program has it in its memory

    confine(parent, (int(timeout) + 2) * len(scripts), *jail[1:])
    for test, is_script, pipes in zip(json.load(sys.stdin), scripts, started, strict=True):
        signal.setitimer(signal.ITIMER_REAL, timeout)  # ends this process, and with it the programs
        os.write(pipes[0], b"!")
        try:
            (judge.output if is_script else judge.asserts)(test, *pipes)
        except BaseException:
            os._exit(WRONG)
    os._exit(PASSED)


if __name__ == "__main__":
    main(int(sys.argv[1]))
