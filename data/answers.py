"""Are two final answers equivalent? The process that hsd.py asks, and that knows SymPy.

    python data/answers.py 1/2 '\\frac{1}{2}'        True

Without arguments it answers one JSON line, [candidate, answer], with one line, true or false, for
as long as its input lasts. An answer is the text of a model under training: nothing of it is ever
evaluated as Python (SymPy's own parser would), and when a question takes too long, or too much
memory, the kernel ends the process. hsd.py then starts another.

An answer is read in three steps: PLAIN rewrites it, Reader turns it into a SymPy expression or into
Several of them, `same` compares two. What cannot be read equals nothing but its own text.
"""

import json
import operator
import random
import re
import resource
import signal
import sys
from typing import NamedTuple

import sympy

SECONDS = 5  # for one question (the paper's limit)
MEGABYTES = 2048
LONGEST = 1000  # characters; no final answer is longer

TEXT = r"\\(?:text(?:bf|rm|it)?|mathrm|mathbf|mbox)\s*\{([^{}]*)\}"
PLAIN = [  # what cannot change an answer's value goes, or takes one form; in this order
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\[dt]binom", r"\\binom"),
    ("−|–", "-"),
    ("π", r"\\pi "),
    ("√", r"\\sqrt "),
    ("∪", r"\\cup "),
    ("∞|\\binfinity\\b", r"\\infty "),
    # 1,000 and 1{,}000 and 1\,000 and 1,\!000
    (r"(?<![\d.])\d{1,3}(?:(?:,\\!|,|\{,\}|\\,)\d{3})+(?!\d)", lambda m: re.sub(r"\D", "", m[0])),
    # \( \) \[ \] $ and spacing; a final point
    (r"(?<!\\)\\[()\[\]!,:;> ]|\\?\$|~|\.\s*$", " "),
    (r"\\(?:left|right|displaystyle|[bB]igg?[lr]?|q?quad)(?![a-z])", " "),
    (r"(?<!\\)\\([{}%])", r"\1"),
    (";", ","),
    (r"\\[lr]vert", "|"),
    (r"\\langle", "("),
    (r"\\rangle", ")"),
    (r"\\cdot|\\times|×|·", "*"),
    (r"\\div|÷", "/"),
    (r"\\leq?(?![a-z])|≤", "<="),
    (r"\\geq?(?![a-z])|≥", ">="),
    (r"\\lt(?![a-z])", "<"),
    (r"\\gt(?![a-z])", ">"),
    (r"\\neq?(?![a-z])|≠", "!="),
    (r"\\in(?![a-z])|∈", "="),  # x in [1, 2] is read like x = [1, 2]
    (r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree", "°"),
    (r"\\text\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b", ","),
    # 5 cm, 12 apples
    (r"(?<=\d)\s+(?:[cmk]m|kg|ft|(?!sqrt|cup)[A-Za-z]{3,})\b[^\d\\=]*$", ""),
    # 1 1/2 and 1\frac12
    (r"(?<![\d.])(\d+)\s*(\\frac\s*(?:\{\d+\}\s*\{\d+\}|\d\d)|\s\d+/\d+)", r"(\1+\2)"),
    # 0.1\overline{6}
    (
        r"(\d*)\.(\d*)\\overline\s*\{(\d+)\}",
        lambda m: f"((0{m[1]}{m[2]}{m[3]}-0{m[1]}{m[2]})/{'9' * len(m[3])}{'0' * len(m[2])})",
    ),
]


class Several(NamedTuple):
    """More than one value. The kind is "," for a list or a set; "()", "[)" and so on for a tuple
    or an interval; "\\cup"; "matrix" or its "row"; or the sign of a relation."""

    kind: str
    items: list


def small(x, limit=2000):
    """x, or ValueError where it is a number with which to compute could take minutes."""
    if x.is_number and not abs(x) <= limit:
        raise ValueError("too large")
    return x


def power(a, b):
    small(b * (len(str(a)) if a.is_number else 1), 20_000)
    return a**b


def several(kind):
    """The operator that lists its values: a, b, c is one list of three. a > b is b < a."""

    def joined(a, b):
        sign = kind.replace(">", "<")
        listed = a.items if isinstance(a, Several) and a.kind == sign else [a]
        return Several(sign, [b, *listed] if ">" in kind else [*listed, b])

    return joined


def arithmetic(function):
    def applied(a, b):
        if isinstance(a, Several) or isinstance(b, Several):
            raise ValueError("no arithmetic on several values")
        return function(a, b)

    return applied


OPERATORS = {  # how tightly it binds, and what it does
    ",": (1, several(",")),
    "\\cup": (2, several("\\cup")),
    **{sign: (3, several(sign)) for sign in ("=", "!=", "<", "<=", ">", ">=")},
    "+": (4, arithmetic(operator.add)),
    "-": (4, arithmetic(operator.sub)),
    "*": (5, arithmetic(operator.mul)),
    "/": (5, arithmetic(operator.truediv)),
    "^": (6, arithmetic(power)),
}
DEGREE = sympy.Symbol("°")
POSTFIX = {
    "!": lambda x: sympy.factorial(small(x)),
    "%": lambda x: x / 100,
    "°": lambda x: x * DEGREE,
}
BRACKETS = {
    "(": (")", "]"),
    "[": (")", "]"),
    "{": ("}",),
    "|": ("|",),
    "\\lfloor": ("\\rfloor",),
    "\\lceil": ("\\rceil",),
}
WRAPS = {"|": sympy.Abs, "\\lfloor": sympy.floor, "\\lceil": sympy.ceiling}
ENDS = (*")]}|&'", "\\rfloor", "\\rceil", "\\\\", "\\end")
NAMES = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "infty": sympy.oo}
FUNCTIONS = {
    name: getattr(sympy, name.replace("arc", "a"))
    for name in "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh exp ln log".split()
}


class Reader:
    """Reads a final answer by operator precedence. It evaluates nothing but the rules below; where
    they do not reach, it raises ValueError (and SymPy, where it is given nonsense, what it likes).
    """

    def __init__(self, text):
        self.tokens = re.findall(r"\d+(?:\.\d+)?|\.\d+|\\[A-Za-z]+|\\.|[<>!]=|[A-Za-z]+|\S", text)

    def read(self):
        value = self.expression()
        if self.tokens:
            raise ValueError(f"{self.tokens[0]!r} left over")
        return value

    def at(self, *expected):
        return bool(self.tokens) and self.tokens[0] in expected

    def take(self, *expected):
        if not self.tokens or expected and not self.at(*expected):
            raise ValueError(f"{self.tokens[:1]} in place of {expected}")
        return self.tokens.pop(0)

    def expression(self, above=0):
        """All that binds more tightly than `above`. Side by side means times."""
        value = self.value()
        while self.tokens and not self.at(*ENDS):
            if self.at(*POSTFIX):
                value = POSTFIX[self.take()](value)
                continue
            sign = self.tokens[0] if self.at(*OPERATORS) else "*"
            strength, apply = OPERATORS[sign]
            if strength <= above:
                break
            if self.at(sign):
                self.take()
            elif self.tokens[0][0].isdigit():
                raise ValueError("two numbers side by side")
            value = apply(value, self.expression(strength - (sign == "^")))  # a^b^c is a^(b^c)
        return value

    def argument(self):
        """What a LaTeX command takes: a group, or one character, as in \\frac12."""
        if self.tokens and self.tokens[0].isalnum():
            self.tokens[:1] = self.tokens[0]
        return self.value()

    def value(self):
        token = self.take()
        name = token.lstrip("\\")
        if token in ("+", "-"):
            return self.expression(4) if token == "+" else -self.expression(4)
        if token in BRACKETS:
            return self.group(token)
        if name in ("frac", "binom"):
            a, b = self.argument(), self.argument()
            return a / b if name == "frac" else sympy.binomial(small(a), small(b))
        if name == "sqrt":
            degree = self.group(self.take()) if self.at("[") else sympy.Integer(2)
            value = self.argument()
            if degree.is_odd and value.is_negative:  # the real root
                return -power(-value, 1 / degree)
            return power(value, 1 / degree)
        if name == "begin":
            return self.matrix()
        if name in ("emptyset", "varnothing"):
            return Several(",", [])
        if name in FUNCTIONS:
            return self.function(FUNCTIONS[name])
        return self.number_or_letter(token, name)

    def number_or_letter(self, token, name):
        if token.isalpha() and token not in NAMES:
            if len(token) > 3:
                raise ValueError(f"{token} is a word")
            self.tokens[:0] = token[1:]  # xy is x times y
            name = token[0]
        if name in NAMES:
            value = NAMES[name]
        else:
            value = sympy.Symbol(name) if name.isalpha() else sympy.Rational(token)
        return sympy.Symbol(f"{value}_{self.script('_')}") if self.at("_") else value

    def script(self, sign):
        """The argument of _ or ^, if that comes next; else None."""
        return self.argument() if self.at(sign) and self.take() else None

    def group(self, opener):
        """(x) and {x} are x; (a, b) and [a, b) are Several; {a, b} is a list, like a, b."""
        value = Several(",", []) if self.at(*BRACKETS[opener]) else self.expression()
        closer = self.take(*BRACKETS[opener])
        if opener in WRAPS:
            return WRAPS[opener](value)
        if opener != "{" and isinstance(value, Several) and value.kind == ",":
            return Several(opener + closer, value.items)
        return value

    def matrix(self):
        """\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}; the kind of bracket does not count."""
        rows = [[]]
        self.take("{"), self.take("pmatrix", "bmatrix", "matrix", "vmatrix"), self.take("}")
        while not self.at("\\end"):
            rows[-1].append(self.expression())
            if not self.at("\\end") and self.take("&", "\\\\") == "\\\\":
                rows.append([])
        self.take(), self.take("{"), self.take(), self.take("}")
        return Several("matrix", [Several("row", row) for row in rows if row])

    def function(self, function):
        """sin 2x, sin^2 x, sin 30°, log_2 8."""
        base, exponent, x = self.script("_"), self.script("^"), self.expression(5)
        while self.tokens and re.match(r"[A-Za-z]|\\(pi|theta|alpha|beta)$", self.tokens[0]):
            if self.tokens[0].lstrip("\\") in FUNCTIONS:
                break
            x = x * self.expression(5)
        value = function(x.subs(DEGREE, sympy.pi / 180))
        value = value / sympy.log(base) if base is not None else value
        return power(value, exponent) if exponent is not None else value


def draw_point(symbols, seed):
    """Random rational values for some symbols, the same for the same names."""
    return {
        s: sympy.Rational(random.Random(f"{s} {seed}").randint(-3000, 3000), 1009) for s in symbols
    }


def vanishes(x):
    """Is an expression zero? Exactly, where it is rational; else to 30 digits, at three points."""
    if x.is_Rational:
        return x == 0
    values = [x.subs(draw_point(x.free_symbols, seed)).evalf(40) for seed in range(3)]
    return all(bool(abs(value) < 1e-30) for value in values)


def proportional(f, g):
    """Is f = 0 the same equation as g = 0, up to a factor?"""
    point = draw_point((f + g).free_symbols, "factor")
    p, q = f.subs(point), g.subs(point)
    return not vanishes(p * q) and vanishes(f * q - g * p)


def same(a, b):
    """Have two readings one value? In lists and unions the order does not count; x = 5 is 5."""
    kinds = [x.kind if isinstance(x, Several) else "" for x in (a, b)]
    if "=" in kinds and kinds != ["=", "="]:
        equation, value = (a, b) if kinds[0] == "=" else (b, a)
        name = equation.items[0]  # x, or (x, y)
        names = name.items if isinstance(name, Several) else [name]
        return all(name.is_Symbol for name in names) and same(equation.items[1], value)
    if kinds == ["", ""]:
        a, b = a.subs(DEGREE, 1), b.subs(DEGREE, 1)
        return a == b or vanishes(a - b)
    if kinds[0] != kinds[1] or len(a.items) != len(b.items):
        return False
    if kinds[0] in (",", "\\cup"):
        return same_in_any_order(a.items, b.items)
    if all(map(same, a.items, b.items)):
        return True
    return kinds[0] == "=" and proportional(a.items[0] - a.items[1], b.items[0] - b.items[1])


def same_in_any_order(items, others):
    others = list(others)
    for item in items:
        found = [i for i, other in enumerate(others) if same(item, other)]
        if not found:
            return False
        del others[found[0]]
    return True


def plain(text):
    """The text without what cannot matter. Words go where there is more than words: 5 cm^2 is 5."""
    for pattern, new in PLAIN:
        text = re.sub(pattern, new, text)
    rest = re.sub(TEXT + r"(?:\s*\^\s*\{?\d\}?)?", " ", text)
    return rest if re.search(r"\w", rest) else re.sub(TEXT, r"\1", text)


def read(text):
    """A SymPy expression or Several. 1 \\pm x is two values."""
    if "\\pm" in text:
        return Several(",", [Reader(text.replace("\\pm", sign)).read() for sign in "+-"])
    return Reader(text).read()


def equivalent(candidate, answer):
    """Are two final answers equivalent? False where one of them cannot be read."""
    if max(len(candidate), len(answer)) > LONGEST:
        return False
    texts = [plain(candidate), plain(answer)]
    words = ["".join(text.split()).lower().rstrip(".") for text in texts]
    if (
        words[0] == words[1]
        and words[0].isalpha()
        and (len(words[0]) > 3 or "\\text" in candidate + answer)
    ):
        return True
    if all("%" in text for text in texts):
        texts = [text.replace("%", "") for text in texts]
    # A question for a percentage may be answered with 50, 50% or 0.5.
    pairs = {(texts[0], texts[1]), (texts[0].replace("%", ""), texts[1].replace("%", ""))}
    try:
        return any(same(read(a), read(b)) for a, b in sorted(pairs))
    except Exception:  # at what it cannot read, SymPy raises whatever it likes: not equal
        return False


def main():
    resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES << 20, MEGABYTES << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if len(sys.argv) == 3:
        print(equivalent(sys.argv[1], sys.argv[2]))
    for line in sys.stdin if len(sys.argv) == 1 else ():
        # Not a handler: it would wait for a C-level power to end. The default ends the process.
        signal.alarm(SECONDS)
        verdict = equivalent(*json.loads(line))
        signal.alarm(0)
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
