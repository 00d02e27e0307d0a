import functools
import random
import re
from fractions import Fraction
from typing import NamedTuple

import mpmath

# ---- Answers: read at ten points, compared by value ----------------------------------------------
MP = mpmath.MPContext()  # our own: nobody else's precision changes
MP.dps, TINY = 80, MP.mpf(10) ** -50  # 50 digits count; the others are for what cancels
LONGEST, WORK, BITS = 600, 5_000, 25_000  # characters, steps of about 3 us, size of a fraction
SPANS = ((2, 9, 1), (11, 99, 7), (101, 999, 1), (1001, 9999, 9), (1, 6, 7))  # from, to, over
SAME = r"""- − –; * \cdot \times × ·; / \div ÷; <= \le \leq \leqslant ≤; >= \ge \geq \geqslant ≥;
    < \lt; > \gt; != \ne \neq ≠; \cup ∪; \in ∈; \infty ∞; \approx ≈; \pm ±; ^2 ²; ^3 ³; \pi π pi;
    ( \langle; ) \rangle; \{\} \emptyset \varnothing; \frac \dfrac \tfrac; \binom \dbinom; | \lvert;
    | \rvert; \root2 \sqrt √ sqrt; \log \ln ln log; \base{10}\log \lg; e^ \exp; \sin sin; \cos cos;
    \tan tan; \asin \arcsin; \acos \arccos; \atan \arctan; \floor{ \lfloor; \ceil{ \lceil; % \%;
    } \rfloor; } \rceil; ° \degree degrees; % percent; \$ dollars dollar; € euros"""
SAME = {word: row.split()[0] for row in SAME.split(";") for word in row.split()}  # to the first
UNIT = (
    r'(?:°|\\\$|€|£|"[mghsL]|"?(?:[ckm]m|kg|f(?:ee|oo)?t|inch(?:es)?|(?:(?:centi|kilo)?meter|mile|'
    r"yard|hour|minute|second|day|week|month|year|gram|liter|gallon|cent|unit|square|cubic|per|way)"
    r"s?))(?![A-Za-z])\"?"
)
UNKNOWN = (  # f(0), f^{-1}(x), x_1, 101_2: one thing, not a product
    r"\"[^\"]*\"|\\?(?:log|base|[A-Za-z]{2,}(?![A-Za-z_']))"
    r"|([fgFG](?:\^\{-1\})?'*\([^()]*\)|[A-Za-df-hj-z]'*\((?:[^()A-Za-z\\]*|[A-Za-z])\)"
    r"|(?:(?<!\d)\d+|\\?[A-Za-z]+)_(?:\d+|[A-Za-z]|\{[^{}]*\})|[A-Za-z]'+)"
)
WORDS = r"\\(?:(?:text|math)(?:rm|bf|it)?|mbox|operatorname)\s*\{([^{}]*)\}"
GREEK = r"\\(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|rho|sigma|tau|phi|psi|omega)"
WORTH = rf"(?:[\w.^]|\\pi|{GREEK})"  # what a function without brackets is of, as in \\sin 2x
PLAIN = (  # in this order; words come into quotes, and unknowns of several characters into «»
    (r"\\?[A-Za-z]+|\\%|[^\x00-\x7f]", lambda m: f" {SAME[m[0]]} " if m[0] in SAME else m[0]),
    (r"(?<=\d)(?:,\\!\s*|\{,\}|\\,| )(?=\d{3}(?!\d))", ""),  # 1{,}000 and 1 000
    (r"(?<!\\)(?:\\[()\[\]!,:;> ]|\$)|~|\\(left|right|displaystyle|[bB]ig+[lr]?|q?quad)\b", " "),
    (WORDS, lambda m: re.sub(r"[A-Za-z]{2,}|\b[mghsL]\b", r'"\g<0>"', f" {m[1]} ")),
    (r"(?:,\s*)?(?:\"|\b)(?:and|or)(?:\"|\b)", ";"),
    (r"\^\s*\{?\s*\\circ\s*\}?", "°"),
    (r"(\\(?:sin|cos|tan|cot|sec|csc)\b[^°]{,40}?)([\d.]+)\s*\"?°\"?", r"\1{\2\\pi/180}"),
    (r"\\mathbb\s*\{?R\}?", r"(-\\infty,\\infty)"),
    (r"\\begin\s*\{(?:[pbB]?matrix|array)\}(?:\s*\{[clr|]*\})?", "("),
    (r"(?:\\\\\s*)?\\end\s*\{(?:[pbB]?matrix|array)\}", ")"),
    (
        r"(?<!\d)(\d*)\.(\d*)\\overline\s*\{(\d+)\}",
        lambda m: f"(({m[1]}{m[2]}{m[3]}-0{m[1]}{m[2]})/{'9' * len(m[3])}{'0' * len(m[2])})",
    ),
    (r"(?<![\d.])(\d+)\s*(\\frac\s*(?:\{\d+\}|\d)\s*(?:\{\d+\}|\d)|(?<=\s)\d+/\d+)", r"(\1+\2)"),
    (r"\|([^|]+)\|", r" \\abs{\1} "),
    (r"((?<!\d)\d+|\b[a-z]|\([^()]*\))\s*!(?!=)", r"\\factorial{\1}"),
    (r"\\root2\s*\[([^\[\]]*)\]", r"\\root{\1}"),
    (r"\\(sin|cos|tan)\s*\^\s*\{\s*-1\s*\}", r"\\a\1 "),
    (r"(\\(?:sin|cos|tan|log|cot))\s*\^\s*(\{[^{}]*\}|\w)", r"\\power{\2}\1 "),
    (r"\\log\s*_\s*(\{[^{}]*\}|\w)", r"\\base{\1}\\log "),
    (rf"(\\a?(?:sin|cos|tan|cot|log)h?)\s*({WORTH}(?: |{WORTH}|(?<=\^)\{{.*?\}})*)", r"\1{\2}"),
    (r"^\s*([A-Za-z])\s*\\approx", r"\1="),
    (r"(?<=[\w})\]!%])\s*\\approx.*|\.\s*$", ""),
    (UNKNOWN, lambda m: "«" + re.sub(r"\s|\{(\w+)\}", r"\1", m[1]) + "»" if m[1] else m[0]),
)
TOKEN = (
    r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+|\"[^\"]*\"|«[^»]*»|\\[A-Za-z]+|\\.|[<>!]=|[A-Za-z]+|\S"
)
LABEL = rf'«[^»]*»|{GREEK}|[A-Za-z]|[A-Z]{{2,3}}|[A-Za-z]{{4,}}|"[A-Za-z]+"'
LABEL += r"|\([A-Za-z](?:,\s*[A-Za-z])+\)"
UNITS = rf"(?<=[\w)}}])(?:\s*/?\s*{UNIT}(?:\s*\^\s*\{{?\d\}}?)?)+(?!\s*[\w.])|\\\$|€|£"
ENDLESS = r"(^|[,(\[<>=])\s*[-+]?\s*\\infty\s*(?=[,)\]<>]|$)"
BRACKETS = {"(": (")", "]"), "[": (")", "]"), "{": ("}",), "\\{": ("\\}",)}
CLOSERS, RELATIONS = {")", "]", "}", "\\}"}, {"=", "!=", "<", "<=", ">", ">=", "\\in"}


class Several(NamedTuple):
    """More than one value. The kind is what stands between them, or their brackets, as in "[)"."""

    kind: str
    items: list


@functools.lru_cache(256)
def unknown(name):
    """An unknown's values at the points: of both signs, whole or not, large or below one."""
    draw = random.Random(name)
    values = [Fraction(draw.randint(a, b) * s, over) for a, b, over in SPANS for s in (1, -1)]
    draw.shuffle(values)
    return values


def size(x):
    """The bits of a fraction; 0 for all other numbers."""
    return x.numerator.bit_length() + x.denominator.bit_length() if isinstance(x, Fraction) else 0


def close(x, y):
    """Are two numbers one? Exactly, where they are rational. NaN is nothing, not even itself."""
    return x == y if size(x) and size(y) else abs(x + -y) <= max(TINY, TINY * abs(MP.convert(x)))


def power(a, b):
    """a^b; the real root where there is one, as in (-8)^{1/3}. OverflowError if it is too large."""
    if abs(b) * size(a) > BITS or a and abs(b * MP.log(a)) > BITS:
        raise OverflowError("a power")
    if size(a) and size(b) and b.denominator == 1:
        return a ** int(b)
    root = size(a) and size(b) and a < 0 and b.denominator % 2
    return (-1) ** b.numerator * MP.power(-a, b) if root else MP.power(a, b)


def elementary(f):
    """A function of mpmath, but for huge arguments, of which it would take minutes."""
    return lambda x: f(x) if abs(x) < 1e99 else MP.nan


factorial = elementary(MP.factorial)
COMMANDS = {  # how many arguments, and what it does
    "\\frac": (2, lambda a, b: a * b**-1),
    "\\binom": (2, lambda n, k: factorial(n) * (factorial(k) * factorial(n + -k)) ** -1),
    "\\root": (2, lambda n, x: power(x, n**-1)),
    "\\power": (2, lambda n, x: power(x, n)),
    "\\base": (2, lambda b, x: x * MP.log(b) ** -1),
    "\\factorial": (1, factorial),
    "\\abs": (1, abs),
    "\\floor": (1, lambda x: MP.floor(x + TINY)),
    "\\ceil": (1, lambda x: MP.ceil(x + -TINY)),
}
for name in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "log"):
    COMMANDS["\\" + name] = (1, elementary(getattr(MP, name)))
for name, of in (("\\cot", "\\tan"), ("\\sec", "\\cos"), ("\\csc", "\\sin")):
    COMMANDS[name] = (1, lambda x, f=COMMANDS[of][1]: f(x) ** -1)
STRENGTH = {"\\\\": 1, "&": 2, ",": 3, ";": 3, "\\cup": 4, **dict.fromkeys(RELATIONS, 5)}
OPERATORS = {  # how tightly it binds, and what it does; side by side is "", a product
    "+": (6, lambda a, b: a + b),
    "-": (6, lambda a, b: a + -b),
    "*": (7, lambda a, b: a * b),
    "/": (7, lambda a, b: a * b**-1),
    "": (7, lambda a, b: a * b if a and b else MP.nan),  # a zero would hide letters, or a word
    "^": (8, power),
}


class Reader:
    """Reads an answer by operator precedence and evaluates it as it reads, at all points at once: a
    number is the list of its ten values, NaN where undefined. ValueError for what cannot be read,
    or would be too much work."""

    def __init__(self, text):
        self.tokens, self.work = ["", *reversed(re.findall(TOKEN, text))], WORK

    def apply(self, f, *numbers):
        """f at each point. NaN where it is undefined, or too large to go on with."""
        if any(isinstance(number, Several) for number in numbers):
            raise ValueError("no arithmetic with several values")
        values, before = [], None
        for arguments in zip(*numbers):
            if arguments != before:  # where there is no unknown, the first point is enough
                try:
                    value = f(*arguments)
                    large = (size(value) or value and abs(MP.mag(value))) > BITS
                except (ArithmeticError, ValueError, TypeError):
                    large = True
                self.work -= 1 + (size(value) / 1000) ** 2 if not large and size(value) else 10
            before = arguments
            values.append(MP.nan if large else value)
        return values

    def expression(self, above=0):
        """All that binds more tightly than `above`. Side by side means times."""
        before, value = self.tokens[-1], self.value(above)
        while (sign := self.tokens[-1]) and sign not in CLOSERS:
            strength = STRENGTH.get(sign) or OPERATORS.get(sign, OPERATORS[""])[0]
            if strength <= above:
                break
            if sign in STRENGTH or sign in OPERATORS:
                self.tokens.pop()
            elif sign[0].isdigit() and (before[:1].isdigit() or before == "\\frac"):
                raise ValueError("two numbers side by side")
            before = self.tokens[-1]
            other = self.expression(strength - (sign == "^"))
            if sign in STRENGTH:
                value = self.join(sign.replace(";", ","), value, other)
            else:
                value = self.apply(OPERATORS.get(sign, OPERATORS[""])[1], value, other)
        return value

    def join(self, sign, a, b):
        """Several of what a and b are; a chain a = b = c of what is the same is one value."""
        self.work -= 80
        chain = isinstance(a, Several) and a.kind in ("&&", *RELATIONS)
        last = (a.items[-1].items if a.kind == "&&" else a.items)[-1] if chain else a
        if sign == "=" and same(last, b):
            return a if chain else b
        if sign in RELATIONS and chain:
            return Several("&&", [*(a.items if a.kind == "&&" else [a]), Several(sign, [last, b])])
        flat = isinstance(a, Several) and a.kind == sign
        return Several(sign, [*a.items, b] if flat else [a, b])

    def value(self, above):
        """A number, a letter, a group, or a command with its arguments; all of them with a sign."""
        token = self.tokens.pop()
        if self.work < 0:
            raise ValueError("too much work")
        if token in ("+", "-"):
            value = self.expression(max(above, 6))
            return self.apply(lambda x: -x, value) if token == "-" else value
        if token in BRACKETS:
            empty = self.tokens[-1] == "\\}"
            value, closer = Several(",", []) if empty else self.expression(), self.tokens.pop()
            if closer not in BRACKETS[token]:
                raise ValueError("not closed")
            listed = isinstance(value, Several) and value.kind == "," and token in "(["
            return Several(token + closer, value.items) if listed else value
        if token in COMMANDS:
            self.work -= 100
            count, f = COMMANDS[token]
            return self.apply(f, *[self.argument() for _ in range(count)])
        if token[:1].isdigit() or token[:1] == ".":
            digits, _, exponent = token.lower().partition("e")
            return [Fraction(digits) * power(Fraction(10), Fraction(exponent or 0))] * 10
        if token.isalpha() and len(token) < 4:
            self.tokens += token[:0:-1]
            token = token[0]
        if token in ("e", "i", "\\pi"):
            return [{"e": MP.exp(1), "i": MP.mpc(0, 1)}.get(token, MP.pi * 1)] * 10
        if not re.fullmatch(rf"[A-Za-z]|«.*|{GREEK}|\\infty|\\[GD][a-z]+", token):
            raise ValueError(f"{token} is a word")
        return unknown(token)

    def argument(self):
        """What a LaTeX command takes: a group, or one character, as in \\frac12."""
        if self.tokens[-1].isalnum():
            self.tokens += self.tokens.pop()[::-1]
        return self.value(7)


def same(a, b):
    """Have two readings one value? In lists and unions the order does not count."""
    if not isinstance(a, Several) or not isinstance(b, Several):
        pairs = [] if isinstance(a, Several) or isinstance(b, Several) else zip(a, b)
        verdicts = [close(x, y) for x, y in pairs if not MP.isnan(x) and not MP.isnan(y)]
        return len(verdicts) > 5 and all(verdicts)
    if a.kind in RELATIONS and b.kind in RELATIONS and proportional(a, b):
        return True
    if a.kind != b.kind or len(a.items) != len(b.items):
        return False
    if a.kind not in (",", "\\cup", "&&"):
        return all(map(same, a.items, b.items))
    others = list(b.items)
    for item in a.items:
        found = next((i for i, other in enumerate(others) if same(item, other)), None)
        if found is None:
            return False
        del others[found]
    return True


def proportional(a, b):
    """Is left minus right of a that of b, times a constant, positive in an inequality?"""
    if any(isinstance(side, Several) for side in a.items + b.items):
        return False
    f, g = ([p + -q for p, q in zip(*x.items[:: -1 if ">" in x.kind else 1])] for x in (a, b))
    pairs = [(p, q) for p, q in zip(f, g) if not MP.isnan(p) and not MP.isnan(q)]
    r, s = next(((p, q) for p, q in pairs if p and q), (0, 0))
    if len(pairs) < 6 or not r or len({p for p, _ in pairs}) < 2:
        return False
    turned = "<" in a.kind.replace(">", "<") and not MP.re(MP.convert(r) * s**-1) > 0
    kinds = a.kind.replace(">", "<") == b.kind.replace(">", "<")
    return kinds and not turned and all(close(p * s, q * r) for p, q in pairs)


def bare(text):
    """(label, value), as texts: x = 5 is 5, x=1, y=2 is (1, 2), 1 < x is (1, \\infty); else ""."""
    parts = re.split(r"[,;]", text)
    if len(parts) > 1 and all(re.search("[<>]", part) for part in parts):
        labels, values = zip(*map(bare, parts))
        return labels[0], "\\cup".join(values)
    ends = [part.strip() for part in re.split(r"([<>]=?)", text)][:: -1 if ">" in text else 1]
    if len(ends) == 3:
        left = re.fullmatch(LABEL, ends[2])
        ends = [*ends, "<", "\\infty"] if left else ["-\\infty", "<", *ends]
    if len(ends) == 5 and re.fullmatch(LABEL, ends[2]):
        left, right = "(["["=" in ends[1]], ")]"["=" in ends[3]]
        return ends[2], f"{left}{ends[0]},{ends[4]}{right}"
    label = rf"(^|[,;])\s*({LABEL})\s*(?:=|\\in(?![a-z]))"
    labels = [match[1].strip('("«») ') for match in re.findall(label, text)]
    value = re.sub(label, r"\1", text)
    return ",".join(dict.fromkeys(labels)), f"({value})" if len({*labels}) > 1 else value


@functools.lru_cache(256)
def plain(text):
    """The text, or what is in its last box, with one form for what can be written in several ways.
    "" where that is too long to be an answer."""
    if "\\boxed{" in text or "\\fbox{" in text:
        text = extract_answer(text) or text
    if len(text) > LONGEST:
        return ""
    if not re.search(r"[(\[;]|^\{|\\\{|,(?!\d{3}(?!\d))", text):  # nothing says that it is a list
        text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    for pattern, new in PLAIN:
        text = re.sub(pattern, new, text)
    return text.strip()


@functools.lru_cache(256)
def read(text):
    """The value of a plain text, NaN if it cannot be read; of one with \\pm, the list of both."""
    both = []
    text = re.sub(UNITS, " ", text)
    for sign in "+-"[: 1 + ("\\pm" in text)]:
        try:
            reader = Reader(text.replace("\\pm", sign))
            value = reader.expression()
            if reader.tokens != [""] or "\\infty" in re.sub(ENDLESS, "", text):
                raise ValueError("left over")
        except (ValueError, IndexError, ArithmeticError, RecursionError):
            return [MP.nan] * 10
        items = value.items if isinstance(value, Several) and value.kind == "," else [value]
        both += [item for item in items if sign == "+" or not any(same(item, x) for x in both)]
    return Several(",", both) if "\\pm" in text else value


def readable(answer):
    """Can an answer be read as a value? One that cannot matches as text only."""
    value = read(bare(plain(answer))[1])
    return same(value, value)


def text_key(text):
    """What texts that say the same share: no spaces, no dots in a.m., no capitals in words."""
    key = re.sub(r'["«»]|(?<=[A-Za-z"])\.|(?<![\d.])\s+|\s+(?![\d.])', "", text)
    words = re.search(
        r'"|^\([a-h]\)$|(?<![\\A-Za-z])[A-Za-z]{4}|[ap]\.|^\w{3}$', text, re.IGNORECASE
    )
    return re.sub(r"^\((\w)\)$", r"\1", key).lower() if words else key


def math_equal(candidate, answer):
    """Are two final answers, plain or LaTeX, equivalent: the same text, or the same value at ten
    points? Raises nothing, whatever they are, and takes a few hundredths of a second at most."""
    if candidate.split() == answer.split():
        return True
    if len(candidate) + len(answer) > 20 * LONGEST:
        return False
    a, b = plain(candidate), plain(answer)
    if not a or not b or text_key(a) == text_key(b):
        return bool(a and b)
    units = [{unit.strip('"')[0] for unit in re.findall(UNIT, text)} for text in (a, b)]
    if all(units) and not (units[0] <= units[1] or units[1] <= units[0]):
        return False
    for percent in ("/100", "")[: 1 + ("%" in a + b)]:
        x, y = (re.sub(r"(?<=[\d)}])\s*%(?!\s*[\w(\\])", percent, text) for text in (a, b))
        (label, value), (other, worth) = bare(x), bare(y)
        alike = label == other or not label or not other
        if same(read(x), read(y)) or alike and same(read(value), read(worth)):
            return True
    return False


PROSE = (  # what ends an expression in prose, but for the group, which is a part of it
    r"\\(?:boxed|fbox)\s*\{|(\\(?:text|mathrm|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+)"
    r"|(?<![\\A-Za-z\d])(?!(?:and|or)\b)[A-Za-z]{2,}|\b[aAI](?=\s+[\d$\\(])"
    r"|\n\s*(?:[-*+]\s)?|[.?](?=\s|$)|(?<=\S):(?=\s)|(?<=\d)-(?=[a-z]{2})"
)


def extract_answer(text):
    """The last \\boxed{} or \\fbox{} that is not empty, with a sign right before it; else the last
    number, with the whole expression that it stands in; None where it is not clear what that is."""
    opened, boxes = [], []
    for brace in re.finditer(r"((?<![\w)}\]])-\$?)?\\(?:boxed|fbox)\s*\{|(?<!\\)[{}]", text):
        if brace[0] != "}":
            opened.append(brace)
        elif opened and "box" in (start := opened.pop())[0]:
            inside = text[start.end() : brace.start()].strip()
            signed = "-%s" if re.fullmatch(r"[\w.,\\{}]+", inside) else "-(%s)"
            boxes += [(start.end(), signed % inside if start[1] else inside)] if inside else []
    if boxes:
        return max(boxes)[1]
    parts = re.sub(PROSE, lambda m: m[1] or "\0", text[-2_000:]).split("\0")
    last = next((part for part in reversed(parts) if re.search(r"\d", part)), "")
    last = re.sub(r"\\[()\[\]]|\$|^[\s,;]*(?:and|or)\b|\b(?:and|or)\W*$", "", last).strip(" *#,;:=")
    last = re.sub(r"^[A-Za-z]\s*=\s*(?=[^=]*$)|^[(\[](?=[^()\[\],]*[)\]]?$)|(?<=^.)", "", last)
    last = re.sub(r"^([^()\[\]]*)[)\]]$", r"\1", last)
    whole = sum(map(last.count, "([{")) == sum(map(last.count, ")]}"))
    return last if whole and last and not re.search(r"^[+/^<>]|^-\s|[-+*/^<>]$", last) else None
