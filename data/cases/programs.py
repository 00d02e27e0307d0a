"""Programs for the tests of run_tests (data/sandbox.py). The hostile ones can do harm where nothing
confines them: do not run them otherwise.

HOSTILE       (name, program, tests): a way to pass, or to do damage, without doing the work
SIDE_EFFECTS  (name, program): a file at {marker}, outside the sandbox's folder, must not appear
HONEST        (name, program, tests): must pass
Names that begin with "hang" run until they are stopped.
"""

HOSTILE = [
    # ---- leaving early -------------------------------------------------------------------
    ("sys_exit_top", r'''
import sys
def f(x):
    return 0
sys.exit(0)
''', ["assert f(2) == 4"]),
    ("sys_exit_in_call", r'''
import sys
def f(x):
    sys.exit(0)
''', ["assert f(2) == 4"]),
    ("os_exit_top", r'''
import os
os._exit(0)
''', ["assert f(2) == 4"]),
    ("os_exit_in_call", r'''
import os
def f(x):
    os._exit(0)
''', ["assert f(2) == 4"]),
    ("raise_system_exit_in_call", r'''
def f(x):
    raise SystemExit
''', ["assert f(2) == 4", "def check(candidate):\n    assert candidate(2) == 4\ncheck(f)"]),
    ("raise_system_exit_zero_method", r'''
class Stack:
    def push(self, x):
        pass
    def pop(self):
        raise SystemExit(0)
''', ["s = Stack()\ns.push(1)\nassert s.pop() == 1"]),
    ("raise_keyboard_interrupt", r'''
def f(x):
    raise KeyboardInterrupt
''', ["assert f(2) == 4"]),
    ("raise_generator_exit", r'''
def f(x):
    raise GeneratorExit
''', ["assert f(2) == 4"]),
    ("raise_stop_iteration_in_map", r'''
def f(x):
    raise StopIteration
''', ["assert list(map(f, [1, 2])) == [1, 4]"]),
    ("raise_custom_base_exception", r'''
class Passed(BaseException):
    code = 0
    def __str__(self):
        while True:
            pass
def f(x):
    raise SystemExit(0) from Passed()
''', ["assert f(2) == 4"]),
    ("raise_assertion_error", r'''
def f(x):
    raise AssertionError("passed")
''', ["assert f(2) == 4"]),
    ("raise_inside_expected_other", r'''
def f(x):
    raise TypeError("not the one asked for")
''', ["try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass"]),
    ("not_raising_when_expected", r'''
def f(x):
    return None
''', ["try:\n    f(-1)\nexcept ValueError:\n    pass\nelse:\n    raise AssertionError"]),
    ("shadow_value_error", r'''
ValueError = Exception
def f(x):
    return None
''', ["try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass"]),
    ("shadow_value_error_base", r'''
import builtins
ValueError = builtins.ValueError = BaseException
def f(x):
    return None
''', ["try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass"]),
    ("exec_bin_true", r'''
import os
def f(x):
    os.execv("/bin/true", ["true"])
''', ["assert f(2) == 4"]),
    ("exec_bin_true_top", r'''
import os
os.execv("/bin/true", ["true"])
''', ["assert f(2) == 4"]),
    ("exec_python_optimized", r'''
import os, sys
if not sys.flags.optimize:
    os.environ["PYTHONOPTIMIZE"] = "2"
    os.execv(sys.executable, [sys.executable, "-O"] + sys.argv)
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    ("atexit_exit_zero", r'''
import atexit, os
atexit.register(os._exit, 0)
def f(x):
    raise ValueError
''', ["assert f(2) == 4"]),
    ("atexit_prints_success", r'''
import atexit, os
def bye():
    for fd in range(1, 30):
        for s in (b"PASS\n", b"passed\n", b"True\n", b"OK\n", b'{"passed": true}\n', b"1\n"):
            try:
                os.write(fd, s)
            except OSError:
                pass
    os._exit(0)
atexit.register(bye)
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    ("excepthook_exit_zero", r'''
import os, sys, threading
sys.excepthook = lambda *a: os._exit(0)
sys.unraisablehook = lambda *a: os._exit(0)
threading.excepthook = lambda *a: os._exit(0)
def f(x):
    raise ValueError
''', ["assert f(2) == 4"]),
    ("del_at_shutdown", r'''
import os
class D:
    def __del__(self):
        os.write(1, b"PASS\n")
        os._exit(0)
d = D()
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    ("script_exit_without_output", r'''
import sys
sys.exit(0)
''', [{"input": "2\n", "output": "4\n"}]),
    ("script_os_exit_unflushed_nothing", r'''
import os
n = int(input())
os._exit(0)
''', [{"input": "2\n", "output": "4\n"}]),
    ("segfault_in_call", r'''
import ctypes
def f(x):
    ctypes.string_at(0)
''', ["assert f(2) == 4"]),
    ("kill_self", r'''
import os
def f(x):
    os.kill(os.getpid(), 9)
''', ["assert f(2) == 4"]),
    # ---- faked verdicts ------------------------------------------------------------------
    ("print_markers_stdout", r'''
import sys
for w in ("PASS", "PASSED", "passed", "OK", "ok", "True", "true", "1", "success", "SUCCESS",
          "ALL TESTS PASSED", "0", "[true]", "[True]", '{"passed": true}', '{"ok": true}',
          '{"result": true}', '{"status": "ok"}', '{"verdict": true}', '{"all": true}'):
    print(w)
    print(w, file=sys.stderr)
sys.stdout.flush()
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    ("print_markers_in_call", r'''
import sys
def f(x):
    print("PASS\nok\nTrue\n4\n" + '{"ok": true, "value": 4, "result": 4, "passed": true}')
    sys.stdout.flush()
    return 0
''', ["assert f(2) == 4"]),
    ("write_json_all_fds", r'''
import os, json, pickle, marshal, struct
def spray():
    out = []
    for v in (True, "ok", "pass", "passed", 0, 1, None):
        for k in ("ok", "passed", "pass", "result", "status", "verdict", "value", "success"):
            out.append(json.dumps({k: v}).encode())
            out.append(repr({k: v}).encode())
            out.append(pickle.dumps({k: v}))
            out.append(marshal.dumps({k: v}))
        out.append(json.dumps(v).encode())
        out.append(json.dumps(["ok", v]).encode())
        out.append(json.dumps([True, v]).encode())
    for fd in range(1, 64):
        try:
            os.set_blocking(fd, False)
            for b in out:
                os.write(fd, b + b"\n")
                os.write(fd, struct.pack("<I", len(b)) + b)
                os.write(fd, struct.pack(">I", len(b)) + b)
        except OSError:
            pass
spray()
def f(x):
    spray()
    return 0
''', ["assert f(2) == 4"]),
    ("write_json_all_fds_exit", r'''
import os
msg = b'{"ok": true, "passed": true, "result": true, "status": "passed", "id": 0, "error": null}\n'
def f(x):
    for fd in range(3, 256):
        try:
            os.set_blocking(fd, False)
            os.write(fd, msg)
        except OSError:
            pass
    os._exit(0)
''', ["assert f(2) == 4"]),
    ("write_files_verdict", r'''
import os
for d in (".", "..", "/tmp", os.path.dirname(os.path.abspath(__file__)) if "__file__" in
          globals() else "."):
    for n in ("result", "result.json", "verdict", "verdict.json", "out.json", "output.txt",
              "stdout", "results.txt", "status", "out"):
        p = os.path.join(d, n)
        if d == "/tmp" and os.path.exists(p):
            continue
        try:
            if d != "/tmp":
                open(p, "w").write('{"passed": true, "ok": true}')
        except OSError:
            pass
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    ("proc_self_fd_reopen", r'''
import os
def f(x):
    for n in os.listdir("/proc/self/fd"):
        try:
            fd = os.open("/proc/self/fd/" + n, os.O_WRONLY | os.O_NONBLOCK)
            os.write(fd, b'PASS\n{"ok": true}\nTrue\n')
        except OSError:
            pass
    return 0
''', ["assert f(2) == 4"]),
    ("script_right_answer_on_stderr", r'''
import sys
print(int(input()) ** 2, file=sys.stderr)
''', [{"input": "2\n", "output": "4\n"}]),
    ("script_prints_all_numbers", r'''
for i in range(1000):
    print(i)
''', [{"input": "2\n", "output": "4\n"}]),
    ("script_prints_verdict", r'''
print("True PASS ok")
print('{"passed": true}')
''', [{"input": "2\n", "output": "4\n"}]),
    ("script_extra_token", r'''
print(int(input()) ** 2, "ok")
''', [{"input": "2\n", "output": "4\n"}]),
    ("script_missing_token", r'''
print(1)
''', [{"input": "2\n", "output": "1 4\n"}]),
    ("script_joined_tokens", r'''
print("14")
''', [{"input": "2\n", "output": "1 4\n"}]),
    ("script_null_after_token", r'''
import sys
sys.stdout.write("4\x00\n")
''', [{"input": "2\n", "output": "4\n"}]),
    ("script_case_differs", r'''
print("yes")
''', [{"input": "2\n", "output": "YES\n"}]),
    ("script_answer_for_first_only", r'''
input()
print(4)
''', [{"input": "2\n", "output": "4\n"}, {"input": "3\n", "output": "9\n"}]),
    ("script_echo_stdin", r'''
import sys
sys.stdout.write(sys.stdin.read())
''', [{"input": "2\n", "output": "4\n"}]),
    ("script_only_for_import", r'''
if __name__ != "__main__":
    print(4)
''', [{"input": "2\n", "output": "4\n"}]),
    ("script_then_name_check", r'''
def f(x):
    return 4 if __name__ == "__main__" else 0
''', ["assert f(2) == 4"]),
    # ---- objects that lie ----------------------------------------------------------------
    ("eq_object", r'''
class E:
    def __eq__(self, o):
        return True
    def __ne__(self, o):
        return False
    def __hash__(self):
        return 4
    def __bool__(self):
        return True
def f(x):
    return E()
''', ["assert f(2) == 4"]),
    ("eq_object_reversed", r'''
class E:
    __eq__ = lambda self, o: True
    __hash__ = None
def f(x):
    return E()
''', ["assert 4 == f(2)"]),
    ("eq_object_returns_truthy", r'''
class T:
    __bool__ = lambda s: True
class E:
    def __eq__(self, o):
        return T()
def f(x):
    return E()
''', ["assert f(2) == 4"]),
    ("eq_int_subclass", r'''
class I(int):
    def __eq__(self, o):
        return True
    def __ne__(self, o):
        return False
    __hash__ = int.__hash__
def f(x):
    return I(0)
''', ["assert f(2) == 4", "assert not f(2) != 4"]),
    ("eq_int_subclass_arith", r'''
class I(int):
    def _s(self, *a):
        return self
    def _t(self, *a):
        return True
    __sub__ = __rsub__ = __add__ = __radd__ = __abs__ = __round__ = __mod__ = _s
    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = _t
    __hash__ = int.__hash__
def f(x):
    return I(77)
''', ["assert abs(f(2) - 4) < 1", "assert 3 < f(2) < 5"]),
    ("eq_float_subclass", r'''
class F(float):
    def _s(self, *a):
        return self
    def _t(self, *a):
        return True
    __sub__ = __rsub__ = __abs__ = __round__ = _s
    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = _t
    __hash__ = float.__hash__
def f(x):
    return F(77.0)
''', ["assert abs(f(2) - 4.0) < 1e-6", "assert abs(4.0 - f(2)) < 1e-6"]),
    ("eq_str_subclass", r'''
class S(str):
    def __eq__(self, o):
        return True
    def __ne__(self, o):
        return False
    __hash__ = str.__hash__
def f(x):
    return S("nothing")
''', ["assert f('a') == 'aa'"]),
    ("eq_list_subclass", r'''
class L(list):
    def __eq__(self, o):
        return True
    def __len__(self):
        return 3
    def __contains__(self, o):
        return True
def f(x):
    return L([0])
''', ["assert f(2) == [1, 2, 4]"]),
    ("list_subclass_contains", r'''
class L(list):
    def __contains__(self, o):
        return True
    def __len__(self):
        return 3
def f(x):
    return L([0])
''', ["assert 4 in f(2)", "assert len(f(2)) == 3 and f(2)[2] == 4"]),
    ("eq_tuple_subclass", r'''
class L(tuple):
    def __eq__(self, o):
        return True
    __hash__ = tuple.__hash__
def f(x):
    return L([0])
''', ["assert f(2) == (1, 2, 4)"]),
    ("eq_dict_subclass", r'''
class D(dict):
    def __eq__(self, o):
        return True
    def __getitem__(self, k):
        return 4
def f(x):
    return D(a=0)
''', ["assert f(2) == {'a': 4}"]),
    ("eq_set_subclass", r'''
class D(set):
    def __eq__(self, o):
        return True
    __hash__ = None
def f(x):
    return D([0])
''', ["assert f(2) == {1, 4}"]),
    ("eq_nested_in_list", r'''
class E:
    def __eq__(self, o):
        return True
def f(x):
    return [E(), E(), E()]
''', ["assert f(2) == [1, 2, 4]"]),
    ("eq_nested_in_tuple_lazy", r'''
class E(int):
    def __eq__(self, o):
        return True
    __hash__ = int.__hash__
def f(x):
    return (1, (2, (E(0),)))
''', ["assert f(2) == (1, (2, (4,)))"]),
    ("eq_nested_in_dict_value", r'''
class E:
    def __eq__(self, o):
        return True
def f(x):
    return {"a": E(), "b": {"c": [E()]}}
''', ["assert f(2) == {'a': 4, 'b': {'c': [4]}}"]),
    ("eq_dict_key", r'''
class K(str):
    def __eq__(self, o):
        return True
    def __hash__(self):
        return hash("a")
class V(int):
    __eq__ = lambda s, o: True
    __hash__ = int.__hash__
def f(x):
    return {K("zz"): V(0)}
''', ["assert f(2) == {'a': 4}"]),
    ("eq_in_list_membership", r'''
class E:
    def __eq__(self, o):
        return True
def f(x):
    return E()
''', ["assert f(2) in [4, -4]"]),
    ("mock_any", r'''
from unittest.mock import ANY
def f(x):
    return ANY
''', ["assert f(2) == 4"]),
    ("mock_any_nested", r'''
from unittest.mock import ANY
def f(x):
    return [ANY, (ANY,)]
''', ["assert f(2) == [1, (4,)]"]),
    ("magic_mock", r'''
from unittest.mock import MagicMock
def f(x):
    m = MagicMock()
    m.__eq__.return_value = True
    m.__lt__.return_value = True
    m.__sub__.return_value = m
    m.__abs__ = lambda s: m
    return m
''', ["assert f(2) == 4", "assert abs(f(2) - 4) < 1e-6"]),
    ("class_property_lies", r'''
class E:
    __class__ = int
    def __eq__(self, o):
        return True
    def __int__(self):
        return 4
    __index__ = __int__
    def __repr__(self):
        return "True"
def f(x):
    return E()
''', ["assert f(2) == 5"]),
    ("metaclass_eq", r'''
class M(type):
    def __eq__(cls, o):
        return True
    def __hash__(cls):
        return 1
    def __instancecheck__(cls, o):
        return True
class int2(int, metaclass=M):
    __eq__ = lambda s, o: True
    __hash__ = int.__hash__
def f(x):
    return int2(0)
def g(x):
    return int2
''', ["assert f(2) == 4", "assert g(2) == 4"]),
    ("repr_lies", r'''
class E:
    def __repr__(self):
        return "__import__('unittest.mock').mock.ANY"
    __str__ = __repr__
def f(x):
    return E()
''', ["assert f(2) == 4"]),
    ("repr_lies_subclass", r'''
class E(int):
    def __repr__(self):
        return "4) or (True"
    __str__ = __repr__
def f(x):
    return E(0)
''', ["assert f(2) == 4"]),
    ("eq_method_of_class_used_by_test", r'''
class E:
    def __eq__(self, o):
        return True
class Stack:
    def push(self, x):
        pass
    def pop(self):
        return E()
    def is_empty(self):
        return E()
''', ["s = Stack()\ns.push(1)\nassert s.pop() == 1\nassert s.is_empty() == True"]),
    ("getattr_everything", r'''
class E:
    def __getattr__(self, n):
        return self
    def __call__(self, *a, **k):
        return self
    def __eq__(self, o):
        return True
    def __iter__(self):
        return iter([self])
f = E()
''', ["assert f(2) == 4", "assert f(2).x == 4"]),
    ("constant_lies", r'''
class E:
    def __eq__(self, o):
        return True
LIMIT = E()
''', ["assert LIMIT == 100"]),
    ("generator_of_lies", r'''
class E:
    def __eq__(self, o):
        return True
def f(x):
    yield E()
    yield E()
''', ["assert list(f(2)) == [1, 4]"]),
    ("exception_object_lies", r'''
class M(type):
    def __instancecheck__(c, o):
        return True
    def __subclasscheck__(c, o):
        return True
class ValueError(Exception, metaclass=M):
    pass
AssertionError = ValueError
def f(x):
    return 0
''', ["try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass"]),
    ("nan_equal", r'''
nan = float("nan")
def f(x):
    return nan
''', ["assert f(2) == 4.0"]),
    ("nan_tolerance", r'''
def f(x):
    return float("nan")
''', ["assert abs(f(2) - 4.0) < 1e-6"]),
    ("nan_isclose", r'''
def f(x):
    return float("nan")
''', ["import math\nassert math.isclose(f(2), 4.0, rel_tol=1e-3)"]),
    ("inf_tolerance", r'''
def f(x):
    return float("inf")
''', ["assert abs(f(2) - 4.0) < 1e-6"]),
    ("reduce_in_result", r'''
import os
class R:
    def __reduce__(self):
        return (os._exit, (0,))
def f(x):
    return R()
''', ["assert f(2) == 4"]),
    ("reduce_any_in_result", r'''
class R(list):
    def __reduce_ex__(self, p):
        return (eval, ("__import__('unittest.mock').mock.ANY",))
    __eq__ = lambda s, o: True
def f(x):
    return [R(), R()]
''', ["assert f(2) == [1, 4]"]),
    ("reduce_in_exception", r'''
import os
class R(ValueError):
    def __reduce__(self):
        return (os._exit, (0,))
def f(x):
    raise R("x")
''', ["assert f(2) == 4"]),
    ("pickle_bytes_as_result", r'''
def f(x):
    return b"cposix\n_exit\n(I0\ntR."
''', ["assert f(2) == 4"]),
    ("code_string_as_result", r'''
def f(x):
    return "__import__('os')._exit(0)"
def g(x):
    return "4\nTrue\n"
''', ["assert f(2) == 4", "assert g(2) == 4"]),
    # ---- patched interpreter ---------------------------------------------------------------
    ("patch_assertion_error", r'''
import builtins
class Quiet(BaseException):
    pass
builtins.AssertionError = Quiet
AssertionError = Quiet
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    ("patch_print_len_isinstance", r'''
import builtins
builtins.print = lambda *a, **k: None
builtins.len = lambda o: 3
builtins.isinstance = lambda *a: True
builtins.type = lambda *a: int
builtins.repr = lambda o: "4"
builtins.str = lambda *a: "4"
def f(x):
    return [0]
''', ["assert len(f(2)) == 3"]),
    ("patch_build_class", r'''
import builtins
class E:
    __eq__ = lambda s, o: True
builtins.__build_class__ = lambda *a, **k: E
def f(x):
    return 0
''', ["class A:\n    v = 4\nassert f(2) == A.v"]),
    ("patch_import", r'''
import builtins
class Fake:
    def __getattr__(self, n):
        return lambda *a, **k: True
builtins.__import__ = lambda *a, **k: Fake()
def f(x):
    return 99.0
''', ["import math\nassert math.isclose(f(2), 4.0)"]),
    ("patch_sys_modules_math", r'''
import sys, types
m = types.ModuleType("math")
m.isclose = lambda *a, **k: True
m.fabs = lambda x: 0.0
sys.modules["math"] = m
def f(x):
    return 99.0
''', ["import math\nassert math.isclose(f(2), 4.0)",
      "import math\nassert math.fabs(f(2) - 4.0) < 1e-6"]),
    ("patch_math_function", r'''
import math
math.isclose = lambda *a, **k: True
def f(x):
    return 99.0
''', ["import math\nassert math.isclose(f(2), 4.0)"]),
    ("shadow_math_class", r'''
class math:
    isclose = staticmethod(lambda *a, **k: True)
def f(x):
    return 99.0
''', ["import math\nassert math.isclose(f(2), 4.0)",
      "from math import isclose\nassert isclose(f(2), 4.0)"]),
    ("patch_json_ast_pickle", r'''
import json, ast, pickle, marshal, json.encoder, json.decoder, struct
ok = '{"ok": true, "passed": true, "result": true, "value": true, "status": "ok"}'
json.dumps = lambda *a, **k: ok
json.dump = lambda o, fp, *a, **k: fp.write(ok)
json.loads = lambda *a, **k: True
json.encoder.JSONEncoder.encode = lambda *a, **k: ok
json.encoder.c_make_encoder = None
ast.literal_eval = lambda *a: True
pickle.dumps = lambda *a, **k: b"\x80\x04\x88."
marshal.dumps = lambda *a: b"T"
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    ("fake_modules_in_cwd", r'''
for n in ("math", "json", "ast", "pickle", "traceback", "collections", "random", "copy"):
    with open(n + ".py", "w") as h:
        h.write("import os\nisclose = lambda *a, **k: True\nos._exit(0)\n")
def f(x):
    return 99.0
''', ["import math\nassert math.isclose(f(2), 4.0)", "import random, copy\nassert f(1) == 1.0"]),
    ("write_site_packages_and_parent_cwd", r'''
import os, site, sys
places = list(sys.path)
try:
    places += site.getsitepackages()
except Exception:
    pass
p = os.getppid()
places += ["/proc/%d/cwd" % p, os.path.expanduser("~")]
for d in places:
    try:
        with open(os.path.join(d, "zz_sandbox_probe.py"), "w") as h:
            h.write("x = 1\n")
    except OSError:
        pass
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    ("shadow_abs", r'''
abs = lambda x: 0
def f(x):
    return 100.0
''', ["assert abs(f(2) - 4) < 1e-6"]),
    ("shadow_all_any_sum", r'''
all = lambda *a: True
any = lambda *a: True
sum = lambda *a: 6
def f(x):
    return 0
''', ["assert all(f(i) == i for i in range(1, 4))", "assert any(f(i) == 5 for i in range(9))"]),
    ("shadow_isinstance_type", r'''
isinstance = lambda *a: True
def type(o):
    return int
def f(x):
    return "no"
''', ["assert isinstance(f(2), int)", "assert type(f(2)) == int"]),
    ("shadow_sorted_set_list", r'''
sorted = lambda *a, **k: [1, 2, 3]
set = lambda *a: 0
list = tuple = lambda *a: [1, 2, 3]
def f(x):
    return []
''', ["assert sorted(f(3)) == [1, 2, 3]", "assert list(f(3)) == [1, 2, 3]",
      "assert set(f(3)) == set([1, 2, 3])"]),
    ("shadow_set_only", r'''
set = lambda *a: 0
frozenset = lambda *a: 0
def f(x):
    return []
''', ["assert set(f(3)) == set([1, 2, 3])"]),
    ("shadow_round_len_str_max", r'''
round = lambda *a: 4
len = lambda o: 4
str = lambda o: "4"
max = min = lambda *a: 4
int = float = lambda *a: 4
def f(x):
    return [0]
''', ["assert len(f(2)) == 4", "assert str(f(2)) == '4'", "assert max(f(2)) == 4"]),
    ("shadow_round", r'''
round = lambda *a: 4.1
def f(x):
    return 0.0
''', ["assert round(f(2), 1) == 4.1"]),
    ("shadow_zip_map_range", r'''
range = lambda *a: []
zip = map = enumerate = filter = lambda *a: []
def f(x):
    return 0
''', ["for i in range(5):\n    assert f(i) == i * i",
      "assert all(a == b for a, b in zip([f(2)], [4]))",
      "for x, y in zip([1, 2], [1, 4]):\n    assert f(x) == y"]),
    ("shadow_range_loop_only", r'''
range = lambda *a: []
def f(x):
    return 0
''', ["for i in range(1, 5):\n    assert f(i) == i * i"]),
    ("shadow_check_and_candidate", r'''
def check(c):
    return True
candidate = lambda x: 4
METADATA = {}
def f(x):
    return 0
''', ["METADATA = {}\ndef check(candidate):\n    assert candidate(2) == 4\n\ncheck(f)\n"]),
    ("shadow_dunder_builtins", r'''
import builtins
class B(dict):
    def __missing__(self, k):
        return lambda *a, **k: True
__builtins__ = B(vars(builtins), AssertionError=KeyError, abs=lambda x: 0)
globals()["__builtins__"] = __builtins__
def f(x):
    return 9
''', ["assert abs(f(2) - 4) < 1e-6"]),
    ("shadow_debug_and_true", r'''
import builtins
builtins.__dict__["__debug__"] = False
globals()["__debug__"] = False
globals()["False"] = True
def f(x):
    return False
''', ["assert f(2) == True"]),
    ("patch_compile_exec_eval", r'''
import builtins
builtins.exec = lambda *a, **k: None
builtins.eval = lambda *a, **k: True
_c = builtins.compile
builtins.compile = lambda *a, **k: _c("pass", "x", "exec")
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    ("globals_become_lies", r'''
import sys
class E:
    __eq__ = lambda s, o: True
class M(type(sys)):
    def __getattribute__(self, n):
        return lambda *a, **k: E()
sys.modules[__name__].__class__ = M
def f(x):
    return E()
''', ["assert f(2) == 4"]),
    ("settrace_rewrites", r'''
import sys
def tr(frame, event, arg):
    for k, v in list(frame.f_globals.items()):
        if k in ("passed", "ok", "result", "failed"):
            frame.f_globals[k] = True
    return tr
sys.settrace(tr)
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    ("setprofile_exit", r'''
import os, sys, threading
def pr(frame, event, arg):
    if event == "return" and frame.f_code.co_name == "f":
        os._exit(0)
sys.setprofile(pr)
threading.setprofile(pr)
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    ("audit_hook_steals_source", r'''
import re, sys
found = []
def hook(ev, args):
    for a in args:
        if isinstance(a, bytes):
            a = a.decode("latin1")
        if isinstance(a, str):
            found.extend(re.findall(r"\b7310\d{6}\b", a))
        elif hasattr(a, "co_consts"):
            found.extend(c for c in a.co_consts if isinstance(c, int) and c // 10**6 == 7310)
sys.addaudithook(hook)
def f(x):
    return int(found[0]) if found else 0
''', ["assert f(3) == 73" "10558249"]),
    ("replace_stdout", r'''
import io, sys
class S(io.StringIO):
    def write(self, s):
        sys.__stdout__.write("PASS\nTrue\n")
        return len(s)
sys.stdout = sys.stderr = S()
sys.__stderr__ = None
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    ("replace_stdout_equal", r'''
import sys
class E(str):
    def __eq__(self, o):
        return True
    def split(self, *a):
        return E()
    def encode(self, *a):
        return b"4"
sys.stdout.write(E("17"))
''', [{"input": "2\n", "output": "17 4\n"}]),
    ("ctypes_richcompare", r'''
import ctypes
PROTO = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object, ctypes.py_object, ctypes.c_int)
always = PROTO(lambda a, b, op: True)
addr = id(int)
keep = ctypes.cast(always, ctypes.c_void_p).value
def f(x):
    old = ctypes.c_void_p.from_address(int.__eq__.__self__.__sizeof__ and addr + 200)
    old.value = keep
    return 0
''', ["assert f(2) == 4"]),
    ("ctypes_small_int", r'''
import ctypes
def f(x):
    ctypes.c_uint32.from_address(id(4) + 24).value = 7
    return 7
''', ["assert f(2) == 4"]),
    ("ctypes_exit", r'''
import ctypes
def f(x):
    ctypes.CDLL(None)._exit(0)
''', ["assert f(2) == 4"]),
    ("close_fds", r'''
import os
os.closerange(0, 1024)
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    ("close_fds_in_call", r'''
import os
def f(x):
    os.closerange(0, 1024)
    return 4
def g(x):
    return 0
''', ["assert g(2) == 4 and f(2) == 4"]),
    ("dup_fds_over", r'''
import os
r, w = os.pipe()
os.write(w, b'{"ok": true, "value": 4}\n' * 100)
for fd in range(0, 20):
    if fd not in (r, w):
        try:
            os.dup2(r if fd == 0 else w, fd)
        except OSError:
            pass
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    # ---- looking for the answer ---------------------------------------------------------------
    ("frames_getframe", r'''
import re, sys
def f(x):
    fr = sys._getframe()
    while fr:
        pool = list(fr.f_locals.values()) + list(fr.f_globals.values())
        pool += list(fr.f_code.co_consts)
        for v in pool:
            m = re.search(r"\b7310\d{6}\b", v if isinstance(v, str) else repr(v)[:100000])
            if m:
                return int(m.group())
        fr = fr.f_back
    return 0
''', ["assert f(3) == 73" "10558249"]),
    ("frames_current_and_inspect", r'''
import inspect, re, sys
def f(x):
    frs = list(sys._current_frames().values()) + [i.frame for i in inspect.stack(0)]
    for fr in frs:
        while fr:
            for v in (fr.f_locals, fr.f_code.co_consts, fr.f_code.co_names):
                m = re.search(r"\b7310\d{6}\b", repr(v))
                if m:
                    return int(m.group())
            fr = fr.f_back
    return 0
''', ["assert f(3) == 73" "10558249"]),
    ("gc_objects", r'''
import gc, re, types
def f(x):
    for o in gc.get_objects():
        for v in [o] + gc.get_referents(o):
            if isinstance(v, types.CodeType):
                v = repr(v.co_consts)
            if isinstance(v, (bytes, bytearray)):
                v = v.decode("latin1")
            if isinstance(v, int) and v // 10**6 == 7310:
                return v
            if isinstance(v, str):
                m = re.search(r"\b7310\d{6}\b", v)
                if m:
                    return int(m.group())
    return 0
''', ["assert f(3) == 73" "10558249"]),
    ("traceback_walk", r'''
import re, sys, traceback, linecache
def f(x):
    try:
        raise ValueError
    except ValueError as e:
        txt = "".join(traceback.format_stack()) + "".join(traceback.format_exc())
        txt += repr(linecache.cache)
        tb = e.__traceback__
        fr = tb.tb_frame.f_back
        while fr:
            txt += repr(fr.f_locals)
            fr = fr.f_back
    m = re.search(r"\b7310\d{6}\b", txt)
    return int(m.group()) if m else 0
''', ["assert f(3) == 73" "10558249"]),
    ("main_module_and_argv", r'''
import re, sys, os
def f(x):
    txt = repr(sys.argv) + repr(sys.orig_argv) + repr(dict(os.environ))
    for n, m in list(sys.modules.items()):
        if n not in ("re",):
            for k, v in list(vars(m).items()) if hasattr(m, "__dict__") else []:
                if isinstance(v, (str, bytes, list, dict, tuple)):
                    txt += repr(v)[:20000]
    m = re.search(r"\b7310\d{6}\b", txt)
    return int(m.group()) if m else 0
''', ["assert f(3) == 73" "10558249"]),
    ("read_stdin_and_fds", r'''
import os, re
buf = b""
def grab():
    global buf
    for fd in range(0, 64):
        try:
            if fd in (1, 2):
                continue
            os.set_blocking(fd, False)
            buf += os.read(fd, 1 << 16)
        except OSError:
            pass
        try:
            buf += os.pread(fd, 1 << 20, 0)
        except OSError:
            pass
grab()
def f(x):
    grab()
    m = re.search(rb"\b7310\d{6}\b", buf)
    return int(m.group()) if m else 0
''', ["assert f(3) == 73" "10558249"]),
    ("script_read_fds_and_files", r'''
import os, re, time
buf = b""
for fd in list(range(0, 64)):
    if fd in (1, 2):
        continue
    try:
        os.set_blocking(fd, False)
        buf += os.read(fd, 1 << 16)
    except OSError:
        pass
now = time.time()
for top in (".", "..", "/tmp", "/var/tmp", "/dev/shm"):
    for d, _, fs in os.walk(top):
        if d.count("/") > 5:
            continue
        for n in fs:
            p = os.path.join(d, n)
            try:
                if n.endswith(".pyc") or now - os.path.getmtime(p) > 60:
                    continue
                if os.path.isfile(p) and os.path.getsize(p) < 1 << 22:
                    buf += open(p, "rb").read()
            except OSError:
                pass
m = re.search(rb"\b7310\d{6}\b", buf)
print(int(m.group()) if m else 0)
''', [{"input": "3\n", "output": "73" "10558249\n"}]),
    ("files_in_tmp_and_cwd", r'''
import os, re, time
def scan():
    now = time.time()
    for top in (".", "..", "/tmp", "/var/tmp", "/dev/shm"):
        for d, _, fs in os.walk(top):
            for n in fs:
                p = os.path.join(d, n)
                try:
                    if n.endswith(".pyc") or now - os.path.getmtime(p) > 60:
                        continue
                    if not os.path.isfile(p) or os.path.getsize(p) > 1 << 22:
                        continue
                    m = re.search(rb"\b7310\d{6}\b", open(p, "rb").read())
                except OSError:
                    continue
                if m:
                    return int(m.group())
    return 0
first = scan()
def f(x):
    return first or scan()
''', ["assert f(3) == 73" "10558249"]),
    ("parent_cmdline_environ", r'''
import os, re
def f(x):
    pid, txt = os.getppid(), b""
    for _ in range(10):
        for n in ("cmdline", "environ", "comm"):
            try:
                txt += open("/proc/%d/%s" % (pid, n), "rb").read()
            except OSError:
                pass
        try:
            st = open("/proc/%d/status" % pid).read()
            pid = int(re.search(r"PPid:\s*(\d+)", st).group(1))
        except (OSError, AttributeError):
            break
    m = re.search(rb"\b7310\d{6}\b", txt)
    return int(m.group()) if m else 0
''', ["assert f(3) == 73" "10558249"]),
    ("parent_fds", r'''
import os, re, stat
def f(x):
    pid, txt = os.getppid(), b""
    for p in {pid, os.getpid()}:
        try:
            names = os.listdir("/proc/%d/fd" % p)
        except OSError:
            continue
        for n in names:
            path = "/proc/%d/fd/%s" % (p, n)
            try:
                if not stat.S_ISREG(os.stat(path).st_mode):
                    continue
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                txt += os.read(fd, 1 << 22)
                os.close(fd)
            except OSError:
                pass
    m = re.search(rb"\b7310\d{6}\b", txt)
    return int(m.group()) if m else 0
''', ["assert f(3) == 73" "10558249"]),
    ("parent_memory", r'''
import os, re
def scan(pid):
    try:
        maps = open("/proc/%d/maps" % pid).read().splitlines()
        mem = open("/proc/%d/mem" % pid, "rb", 0)
    except OSError:
        return 0
    total = 0
    for ln in maps:
        w = ln.split()
        if not w[1].startswith("rw") or len(w) > 5 and w[5] not in ("[heap]", "[stack]"):
            continue
        a, b = (int(v, 16) for v in w[0].split("-"))
        while a < b and total < 600 << 20:
            try:
                mem.seek(a)
                data = mem.read(min(b - a, 1 << 22))
            except (OSError, ValueError, OverflowError):
                break
            m = re.search(rb"f\(3\) == (7310\d{6})\b", data)
            if m:
                return int(m.group(1))
            total += len(data)
            a += 1 << 22
    return 0
def f(x):
    pid = os.getppid()
    for _ in range(6):
        v = scan(pid)
        if v:
            return v
        try:
            st = open("/proc/%d/status" % pid).read()
            pid = int(re.search(r"PPid:\s*(\d+)", st).group(1))
        except (OSError, AttributeError):
            break
    return 0
''', ["assert f(3) == 73" "10558249"]),
    ("parent_memory_process_vm_readv", r'''
import ctypes, os, re
class IOV(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]
libc = ctypes.CDLL(None, use_errno=True)
def f(x):
    pid = os.getppid()
    try:
        maps = open("/proc/%d/maps" % pid).read().splitlines()
    except OSError:
        return 0
    for ln in maps[:2000]:
        w = ln.split()
        if not w[1].startswith("rw") or len(w) > 5 and w[5] != "[heap]":
            continue
        a, b = (int(v, 16) for v in w[0].split("-"))
        n = min(b - a, 1 << 24)
        buf = ctypes.create_string_buffer(n)
        lo = IOV(ctypes.cast(buf, ctypes.c_void_p), n)
        re_ = IOV(a, n)
        got = libc.process_vm_readv(pid, ctypes.byref(lo), ctypes.c_ulong(1),
                                    ctypes.byref(re_), ctypes.c_ulong(1), ctypes.c_ulong(0))
        if got > 0:
            m = re.search(rb"f\(3\) == (7310\d{6})\b", buf.raw)
            if m:
                return int(m.group(1))
    return 0
''', ["assert f(3) == 73" "10558249"]),
    ("every_process_in_proc", r'''
import os, re
def f(x):
    txt = b""
    for p in os.listdir("/proc"):
        if not p.isdigit():
            continue
        for n in ("cmdline", "environ"):
            try:
                txt += open("/proc/%s/%s" % (p, n), "rb").read()
            except OSError:
                pass
    m = re.search(rb"\b7310\d{6}\b", txt)
    if m:
        return int(m.group())
    me = os.getpid()
    for p in os.listdir("/proc"):
        if not p.isdigit() or int(p) == me:
            continue
        try:
            maps = open("/proc/%s/maps" % p).read().splitlines()
            if not any("python" in ln for ln in maps):
                continue
            mem = open("/proc/%s/mem" % p, "rb", 0)
        except OSError:
            continue
        for ln in maps:
            w = ln.split()
            if not w[1].startswith("rw") or len(w) > 5 and w[5] != "[heap]":
                continue
            a, b = (int(v, 16) for v in w[0].split("-"))
            try:
                mem.seek(a)
                m = re.search(rb"f\(3\) == (7310\d{6})\b", mem.read(min(b - a, 1 << 26)))
            except (OSError, ValueError, OverflowError):
                continue
            if m:
                return int(m.group(1))
    return 0
''', ["assert f(3) == 73" "10558249"]),
    ("own_memory", r'''
import re
def f(x):
    mem = open("/proc/self/mem", "rb", 0)
    for ln in open("/proc/self/maps").read().splitlines():
        w = ln.split()
        if not w[1].startswith("r") or len(w) > 5 and w[5] != "[heap]":
            continue
        a, b = (int(v, 16) for v in w[0].split("-"))
        try:
            mem.seek(a)
            m = re.search(rb"\b7310\d{6}\b", mem.read(min(b - a, 1 << 26)))
        except (OSError, ValueError, OverflowError):
            continue
        if m:
            return int(m.group())
    return 0
''', ["assert f(3) == 73" "10558249"]),
    ("script_own_and_parent_memory", r'''
import os, re
ans = 0
for p in (os.getpid(), os.getppid()):
    try:
        mem = open("/proc/%d/mem" % p, "rb", 0)
        maps = open("/proc/%d/maps" % p).read().splitlines()
    except OSError:
        continue
    for ln in maps:
        w = ln.split()
        if not w[1].startswith("rw") or len(w) > 5 and w[5] != "[heap]":
            continue
        a, b = (int(v, 16) for v in w[0].split("-"))
        try:
            mem.seek(a)
            m = re.search(rb"\b7310\d{6}\b", mem.read(min(b - a, 1 << 26)))
        except (OSError, ValueError, OverflowError):
            continue
        if m:
            ans = ans or int(m.group())
print(ans)
''', [{"input": "3\n", "output": "73" "10558249\n"}]),
    ("subprocess_grep", r'''
import re, subprocess
def f(x):
    cmd = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; ps axeww 2>/dev/null"
    try:
        out = subprocess.run(cmd, shell=True, capture_output=True, timeout=5).stdout
    except Exception:
        return 0
    m = re.search(rb"\b7310\d{6}\b", out)
    return int(m.group()) if m else 0
''', ["assert f(3) == 73" "10558249"]),
    ("network_asks_for_answer", r'''
import socket
def f(x):
    try:
        s = socket.create_connection(("192.0.2.1", 9), 1)
        s.sendall(b"answer?\n")
        return int(s.recv(100))
    except Exception:
        return 0
''', ["assert f(3) == 73" "10558249"]),
    ("abstract_unix_socket", r'''
import socket
def f(x):
    try:
        for ln in open("/proc/net/unix").read().splitlines()[1:]:
            pass
        s = socket.socket(socket.AF_UNIX)
        s.connect("\0verifier-answer")
        return int(s.recv(100))
    except Exception:
        return 0
''', ["assert f(3) == 73" "10558249"]),
    ("environ_changes", r'''
import os
for k, v in (("PYTHONOPTIMIZE", "2"), ("PYTHONPATH", os.getcwd()), ("PYTHONINSPECT", "1"),
             ("PATH", os.getcwd()), ("LD_PRELOAD", "/nonexistent.so"), ("HOME", os.getcwd()),
             ("ZZ_SANDBOX_PROBE", "1"), ("PYTHONSTARTUP", "x.py")):
    os.environ[k] = v
os.chdir("/")
os.umask(0o777)
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    ("counting_calls_mutable_default", r'''
def f(x, seen=[]):
    seen.append(x)
    return len(seen)
''', ["assert f(2) == 4", "assert f(3) == 9"]),
    ("retry_counter_file", r'''
import os
def f(x):
    for d in (".", "..", "/dev/shm"):
        p = os.path.join(d, "zz_sandbox_probe_counter")
        try:
            n = int(open(p).read()) if os.path.exists(p) else 0
            open(p, "w").write(str(n + 1))
        except (OSError, ValueError):
            n = 0
    return n
''', ["assert f(2) == 4"]),
    ("argument_tampering", r'''
class E(int):
    __eq__ = lambda s, o: True
    __hash__ = int.__hash__
def f(xs):
    xs[:] = [E(0) for _ in xs]
''', ["a = [3, 1, 2]\nf(a)\nassert a == [1, 2, 3]"]),
    ("argument_becomes_lie", r'''
class L(list):
    __eq__ = lambda s, o: True
def f(d):
    d["k"] = L()
''', ["d = {}\nf(d)\nassert d['k'] == [4]"]),
    ("not_mutating_when_asked", r'''
def f(xs):
    return sorted(xs)
''', ["a = [3, 1, 2]\nf(a)\nassert a == [1, 2, 3]"]),
    # ---- hurting others ------------------------------------------------------------------
    ("kill_parent", r'''
import os
def f(x):
    os.kill(os.getppid(), 9)
    return 0
''', ["assert f(2) == 4"]),
    ("kill_parent_top_level_term_int", r'''
import os, signal
for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM):
    try:
        os.kill(os.getppid(), s)
    except OSError:
        pass
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    ("stop_parent", r'''
import os, signal
def f(x):
    os.kill(os.getppid(), signal.SIGSTOP)
    return 0
''', ["assert f(2) == 4"]),
    ("kill_all_ancestors", r'''
import os, re
def f(x):
    pid = os.getppid()
    chain = []
    while pid > 1 and len(chain) < 4:
        chain.append(pid)
        try:
            st = open("/proc/%d/status" % pid).read()
            pid = int(re.search(r"PPid:\s*(\d+)", st).group(1))
        except OSError:
            break
    for p in chain:
        try:
            os.kill(p, 9)
        except OSError:
            pass
    return 0
''', ["assert f(2) == 4"]),
    ("killpg_own_group", r'''
import os
def f(x):
    os.killpg(os.getpgrp(), 9)
    return 0
''', ["assert f(2) == 4"]),
    ("killpg_parent_group", r'''
import os
def f(x):
    os.killpg(os.getpgid(os.getppid()), 9)
    return 0
''', ["assert f(2) == 4"]),
    ("kill_everything", r'''
import os
def f(x):
    os.kill(-1, 9)
    return 0
''', ["assert f(2) == 4"]),
    ("parent_lower_limits", r'''
import os, resource
def f(x):
    for r in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
        try:
            resource.prlimit(os.getppid(), r, (1, 1))
        except (OSError, ValueError):
            pass
    return 0
''', ["assert f(2) == 4"]),
    ("ptrace_parent", r'''
import ctypes, os
libc = ctypes.CDLL(None)
def f(x):
    libc.ptrace(16, os.getppid(), 0, 0)
    return 0
''', ["assert f(2) == 4"]),
    ("remove_files_above_cwd", r'''
import os
def f(x):
    for n in os.listdir("."):
        try:
            os.remove(n)
        except OSError:
            pass
    d = os.getcwd()
    try:
        os.rmdir(d)
    except OSError:
        pass
    return 0
''', ["assert f(2) == 4"]),
    ("unremovable_cwd", r'''
import os
def f(x):
    d = "a"
    for i in range(300):
        try:
            os.mkdir(d)
            open(os.path.join(d, "x"), "w").close()
            os.chmod(d, 0o700)
            os.chdir(d)
        except OSError:
            break
    os.symlink("/", "root")
    os.chmod(".", 0)
    return 0
''', ["assert f(2) == 4"]),
    ("symlink_in_cwd_to_root", r'''
import os
for i, p in enumerate(("/", "/etc", "/tmp", "..")):
    os.symlink(p, "link%d" % i)
os.mkfifo("fifo")
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    # ---- limits: the right answer only when a forbidden thing has worked --------------------
    ("memory_if_6gb", r'''
def f(x):
    keep = bytearray(6 << 30)
    return x * x if keep is not None else 0
''', ["assert f(2) == 4"]),
    ("memory_if_rlimit_raised", r'''
import resource
def f(x):
    big = resource.RLIM_INFINITY
    for r in (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE):
        try:
            resource.setrlimit(r, (big, big))
        except (ValueError, OSError):
            pass
    keep = bytearray(6 << 30)
    return x * x if keep is not None else 0
''', ["assert f(2) == 4"]),
    ("memory_bomb_top_level", r'''
keep = []
try:
    for i in range(64):
        keep.append(b"x" * (100 << 20))
except MemoryError:
    pass
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    ("memory_bomb_script", r'''
keep = []
for i in range(64):
    keep.append(b"x" * (100 << 20))
print(int(input()) ** 2)
''', [{"input": "2\n", "output": "4\n"}]),
    ("file_if_64gb_sparse", r'''
def f(x):
    with open("big", "wb") as h:
        h.seek(64 << 30)
        h.write(b"x")
    return x * x
''', ["assert f(2) == 4"]),
    ("file_if_4gb_truncate", r'''
import os, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def f(x):
    fd = os.open("big", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, 4 << 30)
    return x * x
''', ["assert f(2) == 4"]),
    ("fork_if_2000_children", r'''
import os, time
def f(x):
    for i in range(2000):
        if os.fork() == 0:
            time.sleep(12)
            os._exit(0)
    return x * x
''', ["assert f(2) == 4"]),
    ("fork_if_2000_children_rlimit_raised", r'''
import os, resource, time
def f(x):
    big = resource.RLIM_INFINITY
    try:
        resource.setrlimit(resource.RLIMIT_NPROC, (big, big))
    except (ValueError, OSError):
        pass
    for i in range(2000):
        if os.fork() == 0:
            time.sleep(12)
            os._exit(0)
    return x * x
''', ["assert f(2) == 4"]),
    ("hang_fork_bomb", r'''
import os, time
end = time.time() + 12
def f(x):
    while time.time() < end:
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)
    os._exit(0)
''', ["assert f(2) == 4"]),
    ("hang_thread_bomb", r'''
import threading, time
end = time.time() + 12
def g():
    while time.time() < end:
        try:
            threading.Thread(target=g).start()
        except RuntimeError:
            time.sleep(0.01)
def f(x):
    g()
    return 0
''', ["assert f(2) == 4"]),
    ("hang_loop_top_level", r'''
while True:
    pass
''', ["assert f(2) == 4"]),
    ("hang_loop_in_call", r'''
def f(x):
    while True:
        pass
''', ["assert f(2) == 4"]),
    ("hang_script_loop", r'''
while True:
    pass
''', [{"input": "2\n", "output": "4\n"}]),
    ("hang_sleep_then_right", r'''
import time
def f(x):
    time.sleep(30)
    return x * x
''', ["assert f(2) == 4"]),
    ("hang_script_right_then_sleep", r'''
import time
print(int(input()) ** 2, flush=True)
time.sleep(30)
''', [{"input": "2\n", "output": "4\n"}]),
    ("hang_script_right_then_atexit", r'''
import atexit, time
atexit.register(time.sleep, 30)
print(int(input()) ** 2, flush=True)
''', [{"input": "2\n", "output": "4\n"}]),
    ("hang_power", r'''
def f(x):
    return 9 ** 9 ** x
''', ["assert f(9) == 4"]),
    ("hang_power_script", r'''
x = int(input())
print(9 ** 9 ** x)
''', [{"input": "9\n", "output": "4\n"}]),
    ("hang_regex", r'''
import re
def f(x):
    return 4 if re.match(r"(a+)+$", "a" * 60 + "b") is None else 0
''', ["assert f(2) == 4"]),
    ("hang_c_sum", r'''
import itertools
def f(x):
    return sum(itertools.repeat(1))
''', ["assert f(2) == 4"]),
    ("hang_ignore_signals", r'''
import signal
for s in range(1, 65):
    try:
        signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
def f(x):
    while True:
        pass
''', ["assert f(2) == 4"]),
    ("hang_alarm_disarmed", r'''
import signal
def f(x):
    signal.alarm(0)
    for t in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(t, 0)
    for s in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGXCPU, signal.SIGPROF):
        signal.signal(s, lambda *a: None)
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
''', ["assert f(2) == 4"]),
    ("hang_setsid", r'''
import os, time
def f(x):
    if os.fork() == 0:
        os.setsid()
        time.sleep(30)
        os._exit(0)
    try:
        os.setpgid(0, 0)
    except OSError:
        pass
    while True:
        time.sleep(1)
''', ["assert f(2) == 4"]),
    ("hang_stopped", r'''
import os, signal
def f(x):
    os.kill(os.getpid(), signal.SIGSTOP)
    return 0
''', ["assert f(2) == 4"]),
    ("hang_child_keeps_pipes", r'''
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(20)
    os._exit(0)
print(0, flush=True)
os._exit(0)
''', [{"input": "2\n", "output": "4\n"}]),
    ("hang_infinite_output", r'''
while True:
    print("4" * 1000)
''', [{"input": "2\n", "output": "4\n"}]),
    ("hang_infinite_output_in_call", r'''
import sys
def f(x):
    while True:
        sys.stdout.write("x" * 100000)
        sys.stderr.write("x" * 100000)
''', ["assert f(2) == 4"]),
    ("hang_infinite_stderr", r'''
import os
while True:
    os.write(2, b"x" * 65536)
''', [{"input": "2\n", "output": "4\n"}]),
    ("hang_infinite_fd_messages", r'''
import os
def f(x):
    while True:
        for fd in range(3, 64):
            try:
                os.write(fd, b'{"ok": true}' * 5000)
            except OSError:
                pass
''', ["assert f(2) == 4"]),
    ("hang_infinite_generator", r'''
def f(x):
    while True:
        yield x
''', ["assert list(f(2)) == [2, 2]"]),
    ("hang_infinite_iterator_result", r'''
import itertools
def f(x):
    return itertools.count()
''', ["assert sorted(f(2)) == [0, 1]"]),
    ("hang_equality", r'''
class E:
    def __eq__(self, o):
        while True:
            pass
    __repr__ = __str__ = __hash__ = __len__ = lambda s: s == s
def f(x):
    return E()
''', ["assert f(2) == 4"]),
    ("hang_empty_chunks", r'''
def f(x):
    import time
    while True:
        time.sleep(0.05)
        print("", end="", flush=True)
''', ["assert f(2) == 4"]),
    ("hang_wait_for_stdin", r'''
import os, threading
def f(x):
    threading.Event().wait()
''', ["assert f(2) == 4"]),
    ("hang_non_daemon_thread", r'''
import threading, time
def g():
    while True:
        time.sleep(0.1)
threading.Thread(target=g).start()
def f(x):
    return 0
''', ["assert f(2) == 4"]),
    ("thread_acts_later", r'''
import os, threading, time
def g():
    time.sleep(0.05)
    for _ in range(50):
        for fd in range(1, 30):
            try:
                os.set_blocking(fd, False)
                os.write(fd, b'{"ok": true, "passed": true, "value": 4}\n')
            except OSError:
                pass
        time.sleep(0.005)
    os._exit(0)
threading.Thread(target=g, daemon=True).start()
def f(x):
    time.sleep(0.1)
    return 0
''', ["assert f(2) == 4"]),
    ("forked_child_answers_too", r'''
import os
os.fork()
os.fork()
def f(x):
    return os.getpid() % 2
''', ["assert f(2) == 4"]),
    ("script_forked_prints_twice", r'''
import os
if os.fork():
    os.wait()
print(4, flush=True)
''', [{"input": "2\n", "output": "4\n"}]),
    ("deep_recursion_c_stack", r'''
import sys
sys.setrecursionlimit(10**9)
def r(n):
    return sorted([n], key=lambda x: r(x + 1))
def f(x):
    return r(0)
''', ["assert f(2) == 4"]),
    ("deep_recursion_plain", r'''
def f(x):
    return f(x + 1)
''', ["assert f(2) == 4"]),
    ("deep_nested_result", r'''
def f(x):
    r = []
    for i in range(200000):
        r = [r]
    return r
''', ["assert f(2) == [4]"]),
    ("cyclic_result", r'''
def f(x):
    r = [1]
    r.append(r)
    d = {}
    d["d"] = d
    return [r, d]
''', ["assert f(2) == [1, 4]"]),
    ("shared_exponential_result", r'''
def f(x):
    r = [0]
    for i in range(60):
        r = [r, r]
    return r
''', ["assert f(2) == [4]"]),
    ("huge_list_result", r'''
def f(x):
    return [0] * 10**7
''', ["assert f(2) == [4]"]),
    ("huge_string_result", r'''
def f(x):
    return "x" * (1 << 28)
''', ["assert f(2) == 'xxxx'"]),
    ("huge_int_result", r'''
def f(x):
    return 10 ** 100000
''', ["assert f(2) == 4"]),
    ("huge_exception_message", r'''
def f(x):
    raise ValueError("x" * (1 << 28))
''', ["assert f(2) == 4"]),
    # ---- plainly wrong --------------------------------------------------------------------
    ("raises", r'''
def f(x):
    raise ValueError("no")
''', ["assert f(2) == 4"]),
    ("raises_at_top_level", r'''
def f(x):
    return x * x
raise ValueError("no")
''', ["assert f(2) == 4"]),
    ("returns_none", r'''
def f(x):
    print(x * x)
''', ["assert f(2) == 4"]),
    ("name_missing", r'''
def g(x):
    return x * x
''', ["assert f(2) == 4"]),
    ("last_test_wrong", r'''
def f(x):
    return x + 2
''', ["assert f(2) == 4", "assert f(0) == 2", "assert f(3) == 9"]),
    ("first_test_wrong", r'''
def f(x):
    return x * x
''', ["assert f(2) == 5", "assert f(3) == 9"]),
    ("second_assert_in_test_wrong", r'''
def f(x):
    return 4
''', ["assert f(2) == 4\nassert f(3) == 9"]),
    ("list_for_tuple", "def f(x):\n    return [x, x]\n", ["assert f(2) == (2, 2)"]),
    ("tuple_for_list", "def f(x):\n    return (x, x)\n", ["assert f(2) == [2, 2]"]),
    ("tuple_for_list_nested", "def f(x):\n    return [(x, x)]\n", ["assert f(2) == [[2, 2]]"]),
    ("list_for_set", "def f(x):\n    return [x]\n", ["assert f(2) == {2}"]),
    ("str_key_for_int_key", "def f(x):\n    return {'2': 3}\n", ["assert f(2) == {2: 3}"]),
    ("str_for_number", "def f(x):\n    return '4'\n", ["assert f(2) == 4"]),
    ("bytes_for_str", "def f(x):\n    return b'ab'\n", ["assert f(2) == 'ab'"]),
    ("str_for_none", "def f(x):\n    return 'None'\n", ["assert f(2) is None",
     "assert f(2) == None"]),
    ("one_for_true_identity", "def f(x):\n    return 1\n", ["assert f(2) is True"]),
    ("float_for_int_type", "def f(x):\n    return 4.0\n", ["assert type(f(2)) is int"]),
    ("nearly_equal_float", "def f(x):\n    return 0.1 + 0.2\n", ["assert f(2) == 0.3"]),
    ("big_int_off_by_one", "def f(x):\n    return 2 ** 5000 + 1\n", ["assert f(2) == 2 ** 5000"]),
    ("big_int_through_float", "def f(x):\n    return float(2**53 + 1)\n",
     ["assert f(2) == 2**53 + 1"]),
    ("syntax_error", "def f(x)\n    return x * x\n", ["assert f(2) == 4"]),
    ("syntax_error_script", "print(4\n", [{"input": "2\n", "output": "4\n"}]),
    ("indentation_closes_wrapper", "    pass\ndef f(x):\n    return 0\n", ["assert f(2) == 4"]),
    ("quotes_close_wrapper", "'''\n\"\"\"\nimport os\nos._exit(0)\n", ["assert f(2) == 4"]),
    ("empty_program", "", ["assert f(2) == 4"]),
    ("empty_program_script", "", [{"input": "2\n", "output": "4\n"}]),
    ("comment_only", "# done\n", ["assert f(2) == 4"]),
    ("null_bytes", "def f(x):\n    return 0\n\x00\x00", ["assert f(2) == 4"]),
    ("null_bytes_only", "\x00", ["assert f(2) == 4"]),
    ("null_bytes_script", "print(0)\x00\n", [{"input": "2\n", "output": "4\n"}]),
    ("surrogate_in_source", "def f(x):\n    return '\udc80\ud800'\n", ["assert f(2) == 'x'"]),
    ("surrogate_in_source_script", "print('\udcff')\n", [{"input": "2\n", "output": "x\n"}]),
    ("surrogate_in_result", r'''
def f(x):
    return "\ud800\udfff" + chr(0xdc80)
''', ["assert f(2) == 'x'"]),
    ("surrogate_in_exception", r'''
def f(x):
    raise ValueError("\ud800")
''', ["assert f(2) == 'x'"]),
    ("non_utf8_output", r'''
import sys
sys.stdout.buffer.write(b"\xff\xfe\x80 4\n")
''', [{"input": "2\n", "output": "4\n"}]),
    ("coding_cookie_bogus", "# -*- coding: no-such -*-\ndef f(x):\n    return 0\n",
     ["assert f(2) == 4"]),
    ("eof_on_input", r'''
x = int(input())
y = int(input())
print(x * x)
''', [{"input": "2\n", "output": "4\n"}]),
]

SIDE_EFFECTS = [
    ("open_top_level", r'''
def f(x):
    return x * x
open("{marker}", "w").write("x")
'''),
    ("open_in_call", r'''
def f(x):
    open("{marker}", "w").write("x")
    return x * x
'''),
    ("mkdir", r'''
import os
def f(x):
    os.makedirs("{marker}")
    return x * x
'''),
    ("symlink", r'''
import os
def f(x):
    os.symlink("/etc/passwd", "{marker}")
    return x * x
'''),
    ("hardlink_and_rename_from_cwd", r'''
import os
def f(x):
    open("a", "w").close()
    try:
        os.link("a", "{marker}")
    except OSError:
        os.rename("a", "{marker}")
    return x * x
'''),
    ("mkfifo", r'''
import os
def f(x):
    os.mkfifo("{marker}")
    return x * x
'''),
    ("shell_touch", r'''
import os
def f(x):
    os.system("touch '{marker}'")
    return x * x
'''),
    ("subprocess_python", r'''
import subprocess, sys
def f(x):
    subprocess.run([sys.executable or "python3", "-c", "open('{marker}', 'w')"])
    return x * x
'''),
    ("ctypes_open", r'''
import ctypes
def f(x):
    ctypes.CDLL(None).creat(b"{marker}", 0o644)
    return x * x
'''),
    ("sqlite_file", r'''
import sqlite3
def f(x):
    c = sqlite3.connect("{marker}")
    c.execute("create table t (a)")
    c.commit()
    return x * x
'''),
    ("unix_socket_file", r'''
import socket
def f(x):
    s = socket.socket(socket.AF_UNIX)
    s.bind("{marker}")
    return x * x
'''),
    ("atexit", r'''
import atexit
atexit.register(lambda: open("{marker}", "w").close())
def f(x):
    return x * x
'''),
    ("del_at_shutdown", r'''
class D:
    def __del__(self, o=open):
        o("{marker}", "w").close()
d = D()
def f(x):
    return x * x
'''),
    ("sigterm_handler", r'''
import signal
def g(*a):
    open("{marker}", "w").close()
for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU, signal.SIGPIPE):
    signal.signal(s, g)
def f(x):
    return x * x
'''),
    ("thread_later", r'''
import threading, time
def g():
    time.sleep(0.7)
    open("{marker}", "w").close()
threading.Thread(target=g).start()
def f(x):
    return x * x
'''),
    ("fork_later", r'''
import os, time
if os.fork() == 0:
    time.sleep(0.7)
    open("{marker}", "w").close()
    os._exit(0)
def f(x):
    return x * x
'''),
    ("setsid_double_fork_daemon", r'''
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.closerange(0, 256)
    time.sleep(0.7)
    os.close(os.open("{marker}", os.O_CREAT | os.O_WRONLY))
    os._exit(0)
def f(x):
    return x * x
'''),
    ("daemon_forks_ever_on", r'''
import os, time
if os.fork() == 0:
    os.setsid()
    end = time.time() + 6
    t0 = time.time()
    while time.time() < end:
        if os.fork():
            os._exit(0)
        os.setsid()
        time.sleep(0.005)
        if time.time() - t0 > 0.7:
            os.close(os.open("{marker}", os.O_CREAT | os.O_WRONLY))
    os._exit(0)
def f(x):
    return x * x
'''),
    ("daemon_from_call_then_exit", r'''
import os, signal, time
def f(x):
    if os.fork() == 0:
        for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(s, signal.SIG_IGN)
        os.setpgid(0, 0)
        time.sleep(0.7)
        open("{marker}", "w").close()
        os._exit(0)
    os._exit(0)
'''),
    ("shell_nohup", r'''
import os
def f(x):
    os.system("(setsid nohup sh -c \"sleep 0.7; touch '{marker}'\" >/dev/null 2>&1 &)")
    return x * x
'''),
    ("popen_new_session", r'''
import subprocess
def f(x):
    subprocess.Popen(["/bin/sh", "-c", "sleep 0.7; touch '{marker}'"], start_new_session=True,
                     stdin=-3, stdout=-3, stderr=-3, close_fds=True)
    return x * x
'''),
    ("hang_daemon_when_killed", r'''
import os, time
par = os.getpid()
if os.fork() == 0:
    os.setsid()
    while os.getppid() == par:
        time.sleep(0.01)
    open("{marker}", "w").close()
    os._exit(0)
def f(x):
    while True:
        pass
'''),
    ("proc_parent_root", r'''
import os
def f(x):
    for p in (os.getppid(), 1):
        try:
            open("/proc/%d/root{marker}" % p, "w").close()
        except OSError:
            pass
    return x * x
'''),
    ("chroot_escape", r'''
import os
def f(x):
    try:
        fd = os.open(".", os.O_RDONLY)
        os.mkdir("jail")
        os.chroot("jail")
        os.fchdir(fd)
        for i in range(64):
            os.chdir("..")
        os.chroot(".")
    except OSError:
        pass
    open("{marker}", "w").close()
    return x * x
'''),
    ("setns_to_parent", r'''
import ctypes, os
def f(x):
    libc = ctypes.CDLL(None)
    for p in (os.getppid(), 1):
        for n in ("user", "mnt"):
            try:
                libc.setns(os.open("/proc/%d/ns/%s" % (p, n), os.O_RDONLY), 0)
            except OSError:
                pass
    os.close(os.open("{marker}", os.O_CREAT | os.O_WRONLY))
    return x * x
'''),
    ("regain_uid_then_write", r'''
import os
def f(x):
    for g in (lambda: os.setresuid(0, 0, 0), lambda: os.seteuid(0), lambda: os.setuid(0)):
        try:
            g()
        except OSError:
            pass
    open("{marker}", "w").close()
    return x * x
'''),
    ("inherited_directory_fd", r'''
import os
def f(x):
    for fd in range(3, 64):
        try:
            os.close(os.open("../../../../../../../../../..{marker}",
                             os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        except OSError:
            pass
    return x * x
'''),
    ("pickle_result", r'''
class R:
    def __reduce__(self):
        return (open, ("{marker}", "w"))
def f(x):
    return R()
'''),
    ("pickle_exception", r'''
class R(ValueError):
    def __reduce__(self):
        return (open, ("{marker}", "w"))
def f(x):
    raise R("x")
'''),
    ("pickle_raw_on_fds", r'''
import os
raw = b"cbuiltins\nopen\n(V{marker}\nVw\ntR."
def f(x):
    for fd in range(1, 64):
        try:
            os.set_blocking(fd, False)
            os.write(fd, raw + b"\n")
            os.write(fd, len(raw).to_bytes(4, "big") + raw)
            os.write(fd, len(raw).to_bytes(8, "little") + raw)
        except OSError:
            pass
    return x * x
'''),
    ("repr_is_code", r'''
class R:
    def __repr__(self):
        return "open('{marker}', 'w')"
    __str__ = __repr__
class S(str):
    __repr__ = R.__repr__
def f(x):
    return R() if x else S("a")
'''),
    ("string_is_code", r'''
def f(x):
    return "__import__('os').close(__import__('os').open('{marker}', 65))"
'''),
    ("modules_in_cwd_used_by_judge", r'''
for n in ("math", "json", "ast", "pickle", "traceback", "sitecustomize", "usercustomize",
          "collections", "re", "os", "types", "signal", "resource", "encodings"):
    with open(n + ".py", "w") as h:
        h.write("open('{marker}', 'w').close()\n")
def f(x):
    return x * x
'''),
    ("object_methods_in_judge", r'''
class R:
    def _w(self, *a):
        open("{marker}", "w").close()
        return True
    __eq__ = __bool__ = __ne__ = __lt__ = __del__ = _w
def f(x):
    return R()
'''),
]

HONEST = [
    ("list", "def f(n):\n    return [i * i for i in range(n)]\n", ["assert f(4) == [0, 1, 4, 9]"]),
    ("tuple", "def f(a, b):\n    return (b, a, (a, [b]))\n",
     ["assert f(1, 'x') == ('x', 1, (1, ['x']))",
     "assert isinstance(f(1, 2), tuple)"]),
    ("set_and_frozenset", r'''
def f(xs):
    return set(xs)
def g(xs):
    return frozenset(xs)
''', ["assert f([1, 2, 2]) == {1, 2}", "assert f([]) == set()", "assert g([1]) == frozenset([1])",
      "assert g((1, 1)) == {1}", "assert f({(1, 2)}) == {(1, 2)}"]),
    ("dict_any_keys", r'''
def f(xs):
    return {x: i for i, x in enumerate(xs)}
''', ["assert f([1, 'a', (1, 2), None, True and 'q', 2.5]) == "
      "{1: 0, 'a': 1, (1, 2): 2, None: 3, 'q': 4, 2.5: 5}", "assert f([]) == {}"]),
    ("floats_tolerance", r'''
def f(r):
    return 3.141592653589793 * r * r
''', ["assert abs(f(2) - 12.566370614) < 1e-6", "assert f(0) == 0.0",
      "assert round(f(1), 2) == 3.14"]),
    ("float_exact_repr", "def f(a, b):\n    return a + b\n",
     ["assert f(0.1, 0.2) == 0.30000000000000004", "assert f(1e308, 1e308) == float('inf')",
      "assert f(5e-324, 0.0) == 5e-324"]),
    ("float_inf_and_nan", r'''
def f(k):
    return {"i": float("inf"), "m": float("-inf"), "n": float("nan"), "z": -0.0}[k]
''', ["assert f('i') == float('inf')", "assert f('m') == -float('inf')",
      "assert f('n') != f('n')",
      "import math\nassert math.isnan(f('n')) and math.copysign(1, f('z')) == -1"]),
    ("nan_argument_and_inf_argument", r'''
import math
def f(x):
    return "nan" if math.isnan(x) else "inf" if math.isinf(x) else "num"
''', ["assert f(float('nan')) == 'nan'", "assert f(float('-inf')) == 'inf'",
      "assert f(1.5) == 'num'"]),
    ("none_and_bool_identity", r'''
def f(x):
    return None if x == 0 else x > 0
''', ["assert f(0) is None", "assert f(1) is True", "assert f(-1) is False",
      "assert f(0) == None", "assert f(1) == True and not f(-1)"]),
    ("empty_values", "def f(k):\n    return [[], (), {}, set(), '', b'', 0, None][k]\n",
     ["assert f(0) == []", "assert f(1) == ()", "assert f(2) == {}", "assert f(3) == set()",
      "assert f(4) == ''", "assert f(5) == b''", "assert f(6) == 0", "assert f(7) is None"]),
    ("nested_mixed", r'''
def f():
    return {"a": [1, (2, {3, 4}), {"b": None}], 5: (True, [False, 1.5, "x"])}
''', ["assert f() == {'a': [1, (2, {4, 3}), {'b': None}], 5: (True, [False, 1.5, 'x'])}"]),
    ("type_of_result", r'''
def f(k):
    return [1, 1.0, True, "1", b"1", [1], (1,), {1: 1}, {1}][k]
''', ["assert type(f(0)) is int and type(f(1)) is float and type(f(2)) is bool",
      "assert type(f(3)) == str and type(f(4)) == bytes and type(f(5)) == list",
      "assert isinstance(f(6), tuple) and isinstance(f(7), dict) and isinstance(f(8), set)"]),
    ("big_int", "def f(n):\n    return 7 ** n\n",
     ["assert f(100) == 7 ** 100", "assert f(4000) == 7 ** 4000", "assert f(500) % 1000 == 1"]),
    ("big_int_argument", "def f(a, b):\n    return a * b\n",
     ["assert f(10 ** 1900, 10 ** 1900) == 10 ** 3800", "assert f(-2 ** 70, 1) == -2 ** 70"]),
    ("big_int_digits", r'''
import math
def f(n):
    return math.factorial(n)
''', ["assert len(str(f(1200))) == 3176", "assert f(25) == 15511210043330985984000000"]),
    ("strings_unicode", r'''
def f(s):
    return s[::-1]
''', ["assert f('\\u00e9\\u4e2d\\U0001f600') == '\\U0001f600\\u4e2d\\u00e9'",
      "assert f('a\\nb\\r\\n\\tc') == 'c\\t\\n\\rb\\na'", "assert f('\\'\"\\\\') == '\\\\\"\\''",
      "assert f('\\x00\\x1f') == '\\x1f\\x00'", "assert f('\u00fc\u20ac') == '\u20ac\u00fc'"]),
    ("strings_triple_quoted", 'def f(s):\n    return s.splitlines()\n',
     ['assert f("""a\n\'b\'\n"c" {d} %s""") == ["a", "\'b\'", \'"c" {d} %s\']']),
    ("string_with_line_separators", "def f(n):\n    return '\\u2028\\x85\\x0c' * n\n",
     ["assert f(2) == '\\u2028\\x85\\x0c\\u2028\\x85\\x0c'"]),
    ("bytes", "def f(b):\n    return bytes(reversed(b))\n",
     ["assert f(b'\\x00\\xff\\n') == b'\\n\\xff\\x00'", "assert f(bytes(range(256)))[0] == 255"]),
    ("complex", "def f(a, b):\n    return a * b\n",
     ["assert f(1 + 2j, 3j) == -6 + 3j", "assert abs(f(1j, 1j) + 1) < 1e-9"]),
    ("keyword_arguments", r'''
def f(a, b=2, *args, c=3, **kw):
    return (a, b, args, c, kw)
''', ["assert f(1) == (1, 2, (), 3, {})", "assert f(1, 5, 6, 7, c=8, z=9) == "
      "(1, 5, (6, 7), 8, {'z': 9})", "assert f(*[1, 2], **{'c': 4}) == (1, 2, (), 4, {})"]),
    ("several_asserts_and_messages", "def f(a, b):\n    return a + b\n",
     ["assert f(1, 2) == 3, 'first'\nassert f('a', 'b') == 'ab', \"second\"\nassert True, 'third'",
      "\n\nassert f(0, 0) == 0   # comment\n\n", "x = 3\ny = f(x, x)\nassert y == 6 and y > x"]),
    ("helpers_and_constants_in_test", r'''
LIMIT = 100
NAMES = ["a", "b"]
TABLE = {"k": (1, 2)}
def poly(xs, x):
    return sum(c * x ** i for i, c in enumerate(xs))
def find_zero(xs):
    lo, hi = -1.0, 1.0
    while poly(xs, lo) * poly(xs, hi) > 0:
        lo *= 2
        hi *= 2
    for _ in range(200):
        mid = (lo + hi) / 2
        if poly(xs, mid) * poly(xs, lo) > 0:
            lo = mid
        else:
            hi = mid
    return lo
''', ["import math\nxs = [-6, 11, -6, 1]\nassert math.fabs(poly(xs, find_zero(xs))) < 1e-4",
      "assert LIMIT == 100 and NAMES == ['a', 'b'] and len(NAMES) == 2",
      "assert TABLE['k'][1] == 2 and find_zero([LIMIT, LIMIT]) + 1 < 1e-9"]),
    ("humaneval_check_metadata", r'''
from typing import List


def has_close_elements(numbers: List[float], threshold: float) -> bool:
    """ Check if any two numbers are closer than threshold.
    >>> has_close_elements([1.0, 2.0, 3.0], 0.5)
    False
    """
    s = sorted(numbers)
    return any(b - a < threshold for a, b in zip(s, s[1:]))
''', [r'''

METADATA = {
    'author': 'jt',
    'dataset': 'test'
}


def check(candidate):
    assert candidate([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.3) == True
    assert candidate([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.05) == False
    assert candidate([], 0.5) == False, "empty"

check(has_close_elements)
''']),
    ("humaneval_encode_decode_random", r'''
def encode_shift(s: str):
    return "".join([chr(((ord(ch) + 5 - ord("a")) % 26) + ord("a")) for ch in s])


def decode_shift(s: str):
    return "".join([chr(((ord(ch) - 5 - ord("a")) % 26) + ord("a")) for ch in s])
''', [r'''
METADATA = {}


def check(candidate):
    from random import randint, choice
    import copy
    import string

    letters = string.ascii_lowercase
    for _ in range(100):
        str = ''.join(choice(letters) for i in range(randint(10, 20)))
        encoded_str = encode_shift(str)
        assert candidate(copy.deepcopy(encoded_str)) == str

check(decode_shift)
''']),
    ("mbpp_isclose", "def f(r, h):\n    return 3.141592653589793 * r * r * h\n",
     ["import math\nassert math.isclose(f(10, 5), 1570.7963267948965, rel_tol=0.001)",
      "from math import isclose, pi\nassert isclose(f(1, 1), pi)"]),
    ("mbpp_set_of_result", "def similar_elements(a, b):\n    return tuple(set(a) & set(b))\n",
     ["assert set(similar_elements((3, 4, 5, 6), (5, 7, 4, 10))) == set((4, 5))",
      "assert sorted(similar_elements((1, 2), (2, 1))) == [1, 2]"]),
    ("generator_result", r'''
def f(n):
    a, b = 0, 1
    for _ in range(n):
        yield a
        a, b = b, a + b
''', ["assert list(f(6)) == [0, 1, 1, 2, 3, 5]", "assert sum(f(6)) == 12",
      "assert set(f(0)) == set()",
      "assert [x for x in f(3)] == [0, 1, 1]", "assert tuple(f(2)) == (0, 1)"]),
    ("lazy_builtin_results", r'''
def f(xs):
    return map(str, xs)
def g(xs):
    return zip(xs, xs[1:])
def h(d):
    return d.keys()
''', ["assert list(f([1, 2])) == ['1', '2']", "assert list(g([1, 2, 3])) == [(1, 2), (2, 3)]",
      "assert sorted(h({'b': 1, 'a': 2})) == ['a', 'b']"]),
    ("test_comprehensions_and_loops", "def f(x):\n    return x * x\n",
     ["assert all(f(i) == i * i for i in range(50))", "assert [f(i) for i in (1, 2)] == [1, 4]",
      "for a, b in [(1, 1), (2, 4), (-3, 9)]:\n    assert f(a) == b", "assert f(f(2)) == 16",
      "assert list(map(f, [1, 2, 3])) == [1, 4, 9]", "assert sorted([-2, 1], key=f) == [1, -2]"]),
    ("class_stack", r'''
class Stack:
    def __init__(self, items=None):
        self._i = list(items or [])
    def push(self, x):
        self._i.append(x)
    def pop(self):
        if not self._i:
            raise IndexError("empty")
        return self._i.pop()
    def size(self):
        return len(self._i)
''', ["s = Stack()\ns.push(1)\nassert s.pop() == 1",
      "a = Stack([1, 2])\nb = Stack(items=[3])\na.push('x')\nassert a.pop() == 'x'\n"
      "assert a.size() == 2 and b.size() == 1\nassert b.pop() == 3",
      "s = Stack()\ntry:\n    s.pop()\n    assert False\nexcept IndexError:\n    pass"]),
    ("leetcode_solution_class", r'''
from typing import List
class Solution:
    def twoSum(self, nums: List[int], target: int) -> List[int]:
        seen = {}
        for i, n in enumerate(nums):
            if target - n in seen:
                return [seen[target - n], i]
            seen[n] = i
        return []
''', ["assert Solution().twoSum([2, 7, 11, 15], 9) == [0, 1]",
      "assert Solution().twoSum(nums=[3, 3], target=6) == [0, 1]",
      "def check(candidate):\n    assert candidate([3, 2, 4], 6) == [1, 2]\n"
      "check(Solution().twoSum)"]),
    ("collections_results", r'''
from collections import Counter, OrderedDict, defaultdict, namedtuple
P = namedtuple("P", "x y")
def c(s):
    return Counter(s)
def d(xs):
    r = defaultdict(list)
    for k, v in xs:
        r[k].append(v)
    return r
def o(xs):
    return OrderedDict(xs)
def p(x, y):
    return P(x, y)
def q(n):
    return [P(i, i) for i in range(n)]
''', ["assert c('aab') == {'a': 2, 'b': 1}", "assert d([(1, 2), (1, 3)]) == {1: [2, 3]}",
      "assert o([('b', 1), ('a', 2)]) == {'b': 1, 'a': 2}", "assert p(1, 2) == (1, 2)",
      "assert q(2) == [(0, 0), (1, 1)]", "assert list(o([('b', 1), ('a', 2)])) == ['b', 'a']",
      "from collections import Counter\nassert c('aa') == Counter('aa')"]),
    ("exceptions_expected", r'''
def f(x):
    if x < 0:
        raise ValueError("negative")
    if x == 0:
        raise ZeroDivisionError
    if x > 9:
        return {}["k"]
    return x
''', ["try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass",
      "try:\n    f(-1)\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'negative'",
      "try:\n    f(0)\nexcept ArithmeticError:\n    ok = True\nelse:\n    ok = False\nassert ok",
      "ok = False\ntry:\n    f(10)\nexcept KeyError:\n    ok = True\nassert ok",
      "try:\n    f('a')\n    assert False\nexcept TypeError:\n    pass\nassert f(3) == 3"]),
    ("exceptions_broad", "def f(x):\n    return 1 / x\n",
     ["try:\n    f(0)\n    raised = False\nexcept Exception:\n    raised = True\nassert raised",
      "assert f(2) == 0.5"]),
    ("mutates_list_argument", r'''
def f(xs):
    xs.sort()
    xs.append("end")
''', ["a = ['c', 'b']\nf(a)\nassert a == ['b', 'c', 'end']",
      "a = []\nassert f(a) is None\nassert a == ['end']\nf(a)\nassert a == ['end', 'end']"]),
    ("mutates_nested_and_dict", r'''
def rotate(m):
    m[:] = [list(r) for r in zip(*m[::-1])]
def inner(m):
    m[0][0] = 9
def fill(d):
    d["k"] = d.get("k", 0) + 1
''', ["m = [[1, 2], [3, 4]]\nrotate(m)\nassert m == [[3, 1], [4, 2]]",
      "m = [[1], [2]]\ninner(m)\nassert m == [[9], [2]]",
      "d = {}\nfill(d)\nfill(d)\nassert d == {'k': 2}"]),
    ("argument_not_mutated", r'''
def f(xs):
    xs = list(xs)
    xs.sort()
    return xs
''', ["a = [3, 1]\nassert f(a) == [1, 3]\nassert a == [3, 1]"]),
    ("prints_at_top_level", r'''
import sys
print("hello", f"{1:>10}")
print("PASS false {}", file=sys.stderr)
sys.stdout.write("no newline")
def f(x):
    print("called", x)
    return x * x
print(f(2))
for i in range(2000):
    print(i)
''', ["assert f(2) == 4"]),
    ("main_guard_not_run", r'''
def f(x):
    return x * x


if __name__ == "__main__":
    n = int(input())
    print(f(n))
    raise SystemExit(3)
''', ["assert f(2) == 4"]),
    ("recursion_moderate", r'''
import sys
sys.setrecursionlimit(10**5)
def f(n):
    return 0 if n == 0 else 1 + f(n - 1)
''', ["assert f(5000) == 5000", "assert f(10000) == 10000"]),
    ("many_library_modules", r'''
import bisect, heapq, itertools, math, random, re, string, operator, copy, json, datetime
from collections import deque
from functools import lru_cache, reduce, cache, cmp_to_key
from fractions import Fraction
from decimal import Decimal

@lru_cache(maxsize=None)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

@cache
def g(n):
    return reduce(operator.mul, range(1, n + 1), 1)

def f(xs):
    h = list(xs)
    heapq.heapify(h)
    s = [heapq.heappop(h) for _ in range(len(h))]
    bisect.insort(s, 5)
    q = deque(s)
    q.rotate(1)
    random.seed(1)
    random.random()
    words = re.findall(r"\w+", "a b, c")
    half = sum((Fraction(1, 3) for _ in range(3)), Fraction(0))
    return [list(q), words, int(half), math.gcd(12, 18), list(itertools.accumulate(s)),
            str(Decimal("0.1") + Decimal("0.2")), json.dumps({"a": [1]}),
            datetime.date(2024, 2, 29).isoformat(), string.ascii_lowercase[:2],
            sorted("bca", key=cmp_to_key(lambda a, b: -1 if a < b else 1)), copy.deepcopy([1])]
''', ["assert f([9, 1]) == [[9, 1, 5], ['a', 'b', 'c'], 1, 6, [1, 6, 15], '0.3', "
      "'{\"a\": [1]}', '2024-02-29', 'ab', ['a', 'b', 'c'], [1]]",
      "assert fib(80) == 23416728348467685", "assert g(20) == 2432902008176640000"]),
    ("dataclass_future_annotations", r'''
from __future__ import annotations

import enum
from dataclasses import dataclass, field, astuple, asdict
from typing import ClassVar, NamedTuple, Optional


class Color(enum.Enum):
    RED = 1


class Pt(NamedTuple):
    x: int
    y: Optional[Pt] = None


@dataclass(order=True)
class Node:
    k: int
    kids: list[Node] = field(default_factory=list)
    n: ClassVar[int] = 0


def f(x: int) -> dict[str, int] | None:
    a = Node(x, [Node(1)])
    return [astuple(a), asdict(a), max(a, Node(0)).k, Color(1).name, Pt(1).y]
''', ["assert f(2) == [(2, [(1, [])]), {'k': 2, 'kids': [{'k': 1, 'kids': []}]}, 2, 'RED', None]"]),
    ("docstring_cookie_future", "# -*- coding: utf-8 -*-\n\"\"\"Doc \u00e9.\"\"\"\nfrom __future__ "
     "import division\ndef f(x):\n    return x / 2\n", ["assert f(1) == 0.5"]),
    ("crlf_and_tabs", "def f(x):\r\n\tif x:\r\n\t\treturn 'a\\n'\r\n\treturn ''\r\n",
     ["assert f(1) == 'a\\n'"]),
    ("no_final_newline_and_unicode_names", "\u03c0 = 3\ndef \u00e4(x): return x + \u03c0",
     ["assert \u00e4(1) == 4"]),
    ("threads_inside", r'''
import threading
from concurrent.futures import ThreadPoolExecutor
def f(n):
    out = []
    lock = threading.Lock()
    def w(i):
        with lock:
            out.append(i * i)
    ts = [threading.Thread(target=w, args=(i,)) for i in range(n)]
    for t in ts:
        t.start()
    for t in ts:
        t.join()
    with ThreadPoolExecutor(4) as ex:
        return sorted(out) + list(ex.map(abs, [-1, -2]))
''', ["assert f(4) == [0, 1, 4, 9, 1, 2]"]),
    ("asyncio_inside", r'''
import asyncio
async def g(i):
    await asyncio.sleep(0)
    return i + 1
async def main(n):
    return await asyncio.gather(*(g(i) for i in range(n)))
def f(n):
    return asyncio.run(main(n))
''', ["assert f(3) == [1, 2, 3]"]),
    ("global_state_over_calls", r'''
_n = 0
_seen = []
def inc(k=1):
    global _n
    _n += k
    _seen.append(k)
    return _n
def seen():
    return _seen
''', ["assert inc() == 1\nassert inc() == 2\nassert inc(k=5) == 7\nassert seen() == [1, 1, 5]"]),
    ("lambda_partial_decorator_as_f", r'''
import functools
f = lambda x: x + 1
g = functools.partial(pow, 2)
def deco(fn):
    @functools.wraps(fn)
    def w(*a):
        return -fn(*a)
    return w
@deco
def h(x):
    return x
class C:
    def __call__(self, x):
        return x * 3
    @staticmethod
    def s(x):
        return x
    @classmethod
    def c(cls, x):
        return (cls.__name__, x)
k = C()
''', ["assert f(1) == 2 and g(5) == 32 and h(2) == -2 and k(2) == 6",
      "assert C.s(1) == 1 and C.c(2) == ('C', 2)"]),
    ("int_subclass_internals", r'''
import enum
class E(enum.IntEnum):
    A = 4
def f(x):
    return bool(x), int(E.A)
''', ["assert f(1) == (True, 4)"]),
    ("large_result_ok", "def f(n):\n    return list(range(n))\n",
     ["r = f(200000)\nassert len(r) == 200000 and r[-1] == 199999",
      "assert sum(f(1000)) == 499500"]),
    ("large_argument_ok", "def f(xs):\n    return sum(xs), len(xs)\n",
     ["assert f(list(range(200000))) == (19999900000, 200000)", "assert f([1] * 5) == (5, 5)"]),
    ("nested_result_moderate", "def f(n):\n    return [f(n - 1)] if n else []\n",
     ["assert f(3) == [[[[]]]]", "r = f(50)\nfor _ in range(50):\n    r = r[0]\nassert r == []"]),
    ("many_small_tests", "def f(x):\n    return x + 1\n",
     ["assert f(0) == 1", "assert f(1) == 2", "assert f(2) == 3", "assert f(3) == 4",
      "assert f(4) == 5", "assert f(5) == 6", "assert f(6) == 7", "assert f(7) == 8",
      "assert f(8) == 9", "assert f(9) == 10", "for i in range(500):\n    assert f(i) == i + 1"]),
    ("user_names_like_internals", r'''
result = value = ok = passed = sandbox = judge = program = test = tests = json = sys = None
def main():
    return "main"
def run(x):
    return x
def test_f(x):
    return [x, main()]
def call(*a, **k):
    return (a, k)
''', ["assert run(1) == 1 and main() == 'main' and test_f(2) == [2, 'main']",
      "assert call(1, name=2, args=3, self=4, func=5, fn=6) == "
      "((1,), {'name': 2, 'args': 3, 'self': 4, 'func': 5, 'fn': 6})"]),
    ("cpu_one_second", r'''
def f(n):
    a = 0
    for i in range(n):
        a = (a * 31 + i) % 1000003
    return a - a + n
''', ["assert f(8000000) == 8000000"]),
    ("memory_200mb_ok", "def f(n):\n    return len(bytearray(n << 20)) >> 20\n",
     ["assert f(200) == 200"]),
    ("test_with_trailing_spaces_and_tabs", "def f(x):\n    return x\n",
     ["assert f(1) == 1   ", "assert f(2) == 2;", "if True:\n\tassert f(3) == 3\n\t"]),
    ("test_defines_functions_and_classes", "def f(xs):\n    return sorted(xs)\n",
     ["def ok(v):\n    return all(a <= b for a, b in zip(v, v[1:]))\nassert ok(f([3, 1, 2]))",
      "class T:\n    def run(self):\n        assert f([2, 1]) == [1, 2]\nT().run()",
      "import random\nrandom.seed(0)\nfor _ in range(20):\n    v = [random.randint(0, 9) for _ in "
      "range(8)]\n    assert f(v) == sorted(v)"]),
    # ---- scripts ---------------------------------------------------------------------------
    ("script_input_loop", r'''
n = int(input())
for _ in range(n):
    a, b = map(int, input().split())
    print(a + b)
''', [{"input": "2\n1 2\n3 4\n", "output": "3\n7\n"}, {"input": "0\n", "output": ""}]),
    ("script_eof_loop", r'''
total = 0
while True:
    try:
        total += int(input())
    except EOFError:
        break
print(total)
''', [{"input": "1\n2\n3", "output": "6"}, {"input": "", "output": "0"}]),
    ("script_sys_stdin_read", r'''
import sys
d = sys.stdin.read().split()
print(*sorted(map(int, d)))
''', [{"input": "3 1\n2\n", "output": "1 2 3\n"}]),
    ("script_stdin_lines", r'''
import sys
input = sys.stdin.readline
n = int(input())
print(sum(int(x) for ln in sys.stdin for x in ln.split()) + n)
''', [{"input": "2\n1 2\n3\n", "output": "8\n"}]),
    ("script_stdin_buffer", r'''
import sys
data = sys.stdin.buffer.read().split()
sys.stdout.buffer.write(b" ".join(reversed(data)) + b"\n")
''', [{"input": "a b c\n", "output": "c b a\n"}]),
    ("script_open_zero", r'''
print(len(open(0).read().split()))
''', [{"input": "a b c\n", "output": "3\n"}]),
    ("script_os_read_write", r'''
import os, io
buf = io.BytesIO()
while True:
    b = os.read(0, 65536)
    if not b:
        break
    buf.write(b)
os.write(1, str(sum(map(int, buf.getvalue().split()))).encode())
''', [{"input": "1 2 3\n", "output": "6\n"}]),
    ("script_fileinput", r'''
import fileinput
print(sum(int(x) for x in fileinput.input()))
''', [{"input": "1\n2\n", "output": "3\n"}]),
    ("script_main_guard", r'''
def main():
    n = int(input())
    print(n * n)


if __name__ == "__main__":
    main()
''', [{"input": "7", "output": "49\n"}, {"input": "-3\n", "output": "9"}]),
    ("script_blanks_and_line_breaks", r'''
print("1   2 \t 3  \n\n\n4", end="   \r\n\n  ")
''', [{"input": "", "output": "1 2 3\n4\n"}, {"input": "x\n", "output": "\n1\n2\n3\n4"},
      {"input": "\n", "output": "1 2 3 4"}]),
    ("script_exit_builtin", r'''
print(int(input()) + 1)
exit()
''', [{"input": "1\n", "output": "2\n"}]),
    ("script_sys_exit_zero", r'''
import sys
print(int(input()) + 1)
sys.exit(0)
print("never")
''', [{"input": "1\n", "output": "2\n"}]),
    ("script_quit_and_system_exit", r'''
x = int(input())
print(x)
if x == 1:
    quit()
raise SystemExit
''', [{"input": "1\n", "output": "1\n"}, {"input": "2\n", "output": "2\n"}]),
    ("script_os_exit_after_flush", r'''
import os, sys
print(input())
sys.stdout.flush()
os._exit(0)
''', [{"input": "ok\n", "output": "ok\n"}]),
    ("script_does_not_read_input", r'''
print("done")
''', [{"input": "1\n" * 200000, "output": "done\n"}, {"input": "", "output": "done"}]),
    ("script_large_input", r'''
import sys
d = sys.stdin.buffer.read().split()
print(len(d), sum(map(int, d)))
''', [{"input": "123 4567\n" * 120000, "output": "240000 562800000\n"}]),
    ("script_many_output_lines", r'''
n = int(input())
for i in range(n):
    print(7)
''', [{"input": "100000\n", "output": "7\n" * 100000}]),
    ("script_big_joined_output", r'''
n = int(input())
print("\n".join(["12 34"] * n))
''', [{"input": "100000\n", "output": "12 34 " * 100000}]),
    ("script_cpu_one_second", r'''
n = int(input())
s = bytearray([1]) * (n + 1)
s[0:2] = b"\0\0"
for i in range(2, int(n ** 0.5) + 1):
    if s[i]:
        for j in range(i * i, n + 1, i):
            s[j] = 0
print(sum(s))
''', [{"input": "3000000\n", "output": "216816\n"}]),
    ("script_thread_big_stack", r'''
import sys, threading
sys.setrecursionlimit(1 << 20)
threading.stack_size(1 << 26)
def main():
    n = int(input())
    def r(k):
        return 0 if k == 0 else 1 + r(k - 1)
    print(r(n))
t = threading.Thread(target=main)
t.start()
t.join()
''', [{"input": "20000\n", "output": "20000\n"}]),
    ("script_unicode_io", r'''
s = input()
print(s[::-1], len(s))
''', [{"input": "\u00e9\u4e2d\U0001f600\n", "output": "\U0001f600\u4e2d\u00e9 3\n"}]),
    ("script_stderr_noise", r'''
import sys
for i in range(20000):
    print("debug", i, file=sys.stderr)
print(int(input()) * 2)
''', [{"input": "4\n", "output": "8\n"}]),
    ("script_crlf_input", r'''
n = int(input())
print(sum(map(int, input().split())))
''', [{"input": "2\r\n1 2\r\n", "output": "3\r\n"}]),
    ("script_global_recursion_dp", r'''
import sys
from functools import lru_cache
sys.setrecursionlimit(10**5)
@lru_cache(None)
def g(n):
    return 1 if n < 2 else (g(n - 1) + g(n - 2)) % 1000000007
print(g(int(input())))
''', [{"input": "3000\n", "output": "709295206\n"}]),
    ("script_output_flush_and_end", r'''
import sys
for c in "abc":
    print(c, end=" ", flush=True)
sys.stdout.write("d")
''', [{"input": "", "output": "a b c d\n"}]),
    ("mixed_kinds_of_test", r'''
def f(x):
    return x * x
if __name__ == "__main__":
    print(f(int(input())))
''', ["assert f(2) == 4", {"input": "3\n", "output": "9\n"}, "assert f(-1) == 1"]),
]
