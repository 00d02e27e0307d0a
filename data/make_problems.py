"""Makes the sample problems of hsd.py for real models from nothing: math.jsonl and code.jsonl.

    python data/make_problems.py        rewrites both files: some seconds; every run the same bytes

Math: each function under @template draws a question in the manner of school competitions, computes
its answer, and computes it again in another way; the two must agree. Code: each entry of CODE is
a question with a reference solution, the inputs of its tests, and a slow solution in another way
(or None for an input that is too large for it); the reference solution makes the expected outputs,
and the slow one must agree. A line of code.jsonl holds neither of the two.
"""

import contextlib
import functools
import io
import itertools
import json
import math
import operator
import random
import re
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple

import sympy
from sympy import I, Matrix, Rational, sqrt

HERE = Path(__file__).resolve().parent
PER_TEMPLATE = 4
x, n = sympy.symbols("x n")
TEMPLATES = []


def template(function):
    """Registers a function: random generator -> (question, answer), or None for another draw."""
    TEMPLATES.append(function)
    return function


def tex(value):
    """An answer in LaTeX: of text, a set, a tuple, a matrix or an expression."""
    if isinstance(value, str):
        return value
    if isinstance(value, (set, frozenset)):
        return r"\{" + ", ".join(map(tex, sorted(value, key=sympy.default_sort_key))) + r"\}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(tex, value)) + ")"
    if isinstance(value, Fraction):
        value = Rational(value.numerator, value.denominator)
    return sympy.latex(value, mat_str="pmatrix", mat_delim="")


def agree(a, b):
    """Two ways to an answer, one answer (exactly, or to 9 digits where one of them is a float)."""
    exact = not isinstance(a, float) and not isinstance(b, float)
    same = a == b if exact else abs(complex(a) - complex(b)) <= 1e-9 * max(1, abs(complex(b)))
    assert same, f"{a} is not {b}"
    return a


def nonzero(rng, most):
    return rng.choice([-1, 1]) * rng.randint(1, most)


# ---- math: algebra -------------------------------------------------------------------------------


@template
def roots_of_a_cubic(rng):
    a, b, c = rng.randint(2, 6), nonzero(rng, 6), nonzero(rng, 5)
    cubic = sympy.Poly(x**3 - a * x**2 + b * x - c)
    asked, value, of_roots = rng.choice(
        [
            ("r^2 + s^2 + t^2", a**2 - 2 * b, lambda r, s, t: r**2 + s**2 + t**2),
            ("(1 + r)(1 + s)(1 + t)", 1 + a + b + c, lambda r, s, t: (1 + r) * (1 + s) * (1 + t)),
            ("r^3 + s^3 + t^3", a**3 - 3 * a * b + 3 * c, lambda r, s, t: r**3 + s**3 + t**3),
            (
                r"\frac{1}{r} + \frac{1}{s} + \frac{1}{t}",
                Rational(b, c),
                lambda r, s, t: 1 / r + 1 / s + 1 / t,
            ),
            (
                "r^2 s^2 + s^2 t^2 + t^2 r^2",
                b**2 - 2 * a * c,
                lambda r, s, t: (r * s) ** 2 + (s * t) ** 2 + (t * r) ** 2,
            ),
        ]
    )
    if cubic.discriminant() == 0:
        return None
    agree(value, complex(of_roots(*cubic.nroots(n=20))).real)
    return rf"Let $r, s, t$ be the roots of ${tex(cubic.as_expr())}$. Compute ${asked}$.", value


@template
def exponential_equation(rng):
    base, m, k = rng.choice([2, 3, 5]), rng.randint(-1, 4), rng.randint(1, 4)
    if m == k - 1 or m + k < 1:
        return None
    middle = base ** (m + 1) + base**k
    for root in (m, k - 1):
        y = Fraction(base) ** root
        agree(base * y**2 - middle * y + base ** (m + k), 0)
    return (
        rf"Find the set of all real $x$ with ${base}^{{2x+1}} - {middle} \cdot {base}^x + "
        rf"{base ** (m + k)} = 0$.",
        {m, k - 1},
    )


@template
def logarithms(rng):
    base, powers = rng.choice([2, 3, 5]), rng.choice([(1, 2, 4), (1, 2, 3), (2, 3, 6), (1, 3, 9)])
    share = sum(Fraction(1, p) for p in powers)
    exponent = share.denominator * rng.randint(1, 2 if base < 5 else 1)
    answer = base**exponent
    agree(share * exponent, sum(math.log(answer, base**p) for p in powers))
    terms = " + ".join(rf"\log_{{{base**p}}} x" for p in powers)
    if answer > 10**5:
        return None
    return f"Solve ${terms} = {share * exponent}$ for real $x$.", answer


@template
def equation_with_absolute_values(rng):
    a, b, k = rng.randint(-6, 2), rng.randint(3, 9), rng.randint(2, 4)
    total = rng.randint(b - a, 30)
    f = lambda t: abs(t - a) + k * abs(t - b)  # noqa: E731
    roots, ends = set(), [-(10**6), a, b, 10**6]
    for low, high in zip(ends, ends[1:]):  # f is linear here
        slope = Fraction(f(high) - f(low), high - low)
        root = low + (total - f(low)) / slope
        roots |= {Rational(root.numerator, root.denominator)} if low <= root <= high else set()
    if len(roots) < 2:
        return None
    agree(roots, set(sympy.solveset(abs(x - a) + k * abs(x - b) - total, x, sympy.S.Reals)))
    return (
        f"Find the set of all real solutions of $|{tex(x - a)}| + {k} |{tex(x - b)}| = {total}$.",
        roots,
    )


@template
def interval_of_absolute_values(rng):
    a, b = rng.randint(-9, 0), rng.randint(1, 9)
    total, strict = rng.randint(b - a + 1, b - a + 15), rng.random() < 0.5
    low, high = Rational(a + b - total, 2), Rational(a + b + total, 2)
    for quarter in range(-200, 201):
        t = Rational(quarter, 4)
        size = abs(t - a) + abs(t - b)
        inside = low < t < high if strict else low <= t <= high
        agree(inside, size < total if strict else size <= total)
    brackets = "()" if strict else "[]"
    sign = "<" if strict else r"\le"
    return (
        f"For which real $x$ is $|{tex(x - a)}| + |{tex(x - b)}| {sign} {total}$? Answer with an "
        "interval.",
        f"{brackets[0]}{tex(low)}, {tex(high)}{brackets[1]}",
    )


@template
def rational_inequality(rng):
    a, b, c = rng.sample(range(-9, 10), 3)
    strict, positive = rng.random() < 0.3, rng.random() < 0.5
    points, texts, pieces = sorted([a, b, c]), [], []
    for i, (low, high) in enumerate(zip([-sympy.oo, *points], [*points, sympy.oo])):
        if (i % 2 == 1) == positive:  # left of all three points the quotient is negative
            opens, closes = (strict or end == c or abs(end) == sympy.oo for end in (low, high))
            pieces.append(sympy.Interval(low, high, opens, closes))
            texts.append(f"{'[('[opens]}{tex(low)}, {tex(high)}{'])'[closes]}")
    quotient = (x - a) * (x - b) / (x - c)
    compare = {"<": operator.lt, r"\le": operator.le, ">": operator.gt, r"\ge": operator.ge}
    sign = (">" if positive else "<") if strict else (r"\ge" if positive else r"\le")
    solved = sympy.solve_univariate_inequality(compare[sign](quotient, 0), x, relational=False)
    agree(sympy.Union(*pieces), solved)
    left = rf"\frac{{{tex((x - a) * (x - b))}}}{{{tex(x - c)}}}"
    return (
        f"Solve ${left} {sign} 0$ for real $x$. Write the solutions as a union of intervals.",
        r" \cup ".join(texts),
    )


@template
def quadratic_system(rng):
    p, q = rng.sample(range(-9, 13), 2)
    power = rng.choice([2, 3])
    total, powers = p + q, p**power + q**power
    if total == 0 or p * q == 0:
        return None
    found = {(i, j) for i in range(-60, 61) for j in [total - i] if i**power + j**power == powers}
    agree(found, {(p, q), (q, p)})
    return (
        f"Find the set of all ordered pairs $(x, y)$ of real numbers with $x + y = {total}$ and "
        f"$x^{power} + y^{power} = {powers}$.",
        found,
    )


@template
def remainder_of_a_power(rng):
    a, b, power = nonzero(rng, 3), nonzero(rng, 3), rng.randint(7, 15)
    if a == b:
        return None
    slope = Rational(a**power - b**power, a - b)
    answer = agree(sympy.expand(slope * (x - a) + a**power), sympy.rem(x**power, (x - a) * (x - b)))
    if answer.is_number or answer == x:
        return None
    return (
        f"Find the remainder, a polynomial in $x$, when $x^{{{power}}}$ is divided by "
        f"${tex(sympy.expand((x - a) * (x - b)))}$.",
        answer,
    )


@template
def fractional_linear_map(rng):
    a, b, c, d = nonzero(rng, 5), nonzero(rng, 7), rng.randint(1, 4), nonzero(rng, 6)
    f = Matrix([[a, b], [c, d]])
    inverse = rng.random() < 0.5
    if f.det() == 0 or a + d == 0:
        return None
    m = f.adjugate() if inverse else f**2
    answer = sympy.cancel((m[0] * x + m[1]) / (m[2] * x + m[3]))
    value = lambda t: Rational(a * t + b) / (c * t + d)  # noqa: E731
    for t in (Rational(1, 7), Rational(22, 9), Rational(-31, 11)):
        image = answer.subs(x, t)
        agree(value(image), t) if inverse else agree(value(value(t)), image)
    asked = "f^{-1}(x)" if inverse else "f(f(x))"
    given = tex((a * x + b) / (c * x + d))
    return rf"Let $f(x) = {given}$. Find ${asked}$ as a single fraction in $x$.", answer


@template
def nested_radical(rng):
    m, k = rng.randint(3, 30), rng.randint(2, 15)
    if m <= k or math.isqrt(m * k) ** 2 == m * k or math.isqrt(m) ** 2 == m:
        return None
    sign = rng.choice([1, -1])
    inner, answer = m + k + sign * 2 * sqrt(m * k), sqrt(m) + sign * sqrt(k)
    agree(sympy.expand(answer**2), inner)
    agree(float(answer.evalf(30)), float(sqrt(inner).evalf(30)))
    return (
        rf"Find the ordered pair $(a, b)$ of positive integers with $\sqrt{{{tex(inner)}}} = "
        rf"\sqrt{{a}} {'+-'[sign < 0]} \sqrt{{b}}$ and $a > b$.",
        (m, k),
    )


# ---- math: sequences -----------------------------------------------------------------------------


@template
def closed_form(rng):
    p, A, B = rng.choice([2, 3, 4, 5, -2]), nonzero(rng, 5), nonzero(rng, 9)
    answer, term = A * Rational(p) ** n + B, A * p + B
    for index in range(1, 12):
        agree(answer.subs(n, index), term)
        term = p * term - B * (p - 1)
    step = -B * (p - 1)
    rule = f"{p} a_n {'+-'[step < 0]} {abs(step)}"
    return (
        rf"A sequence has $a_1 = {A * p + B}$ and $a_{{n+1}} = {rule}$ for $n \ge 1$. Find $a_n$ "
        "in terms of $n$.",
        answer,
    )


@template
def recurrence_modulo(rng):
    p, q, start = rng.randint(1, 4), rng.randint(1, 4), rng.randint(1, 5)
    modulus, index = rng.choice([7, 11, 13, 17, 19, 23]), rng.randint(300, 2026)
    a, b = 1, start
    for _ in range(index - 1):
        a, b = b, p * b + q * a
    power = Matrix([[0, 1], [q, p]]) ** (index - 1)
    answer = agree(a % modulus, (power[0] + power[1] * start) % modulus)
    if answer < 2:
        return None
    rule = f"{p if p > 1 else ''} a_{{n+1}} + {q if q > 1 else ''} a_n".replace("  ", " ")
    return (
        f"Let $a_1 = 1$, $a_2 = {start}$ and $a_{{n+2}} = {rule.strip()}$ for $n \\ge 1$. What is "
        f"the remainder when $a_{{{index}}}$ is divided by {modulus}?",
        answer,
    )


@template
def telescoping_sum(rng):
    a, d, last = rng.randint(0, 5), rng.randint(1, 3), rng.randint(10, 60)
    direct = sum(Fraction(1, (k + a) * (k + a + d)) for k in range(1, last + 1))
    ends = [Fraction(1, k + a) - Fraction(1, last + k + a) for k in range(1, d + 1)]
    first = "k" if a == 0 else f"(k + {a})"
    return (
        rf"Compute $\sum_{{k=1}}^{{{last}}} \frac{{1}}{{{first}(k + {a + d})}}$ as a fraction in "
        "lowest terms.",
        agree(direct, sum(ends) / d),
    )


@template
def geometric_series(rng):
    ratio = Rational(nonzero(rng, 6), rng.randint(2, 9))
    first = rng.randint(2, 12)
    if abs(ratio) >= 1:
        return None
    total, squares = first / (1 - ratio), first**2 / (1 - ratio**2)
    r = sympy.Symbol("r")
    agree({ratio}, set(sympy.solve((1 - r) * total**2 - squares * (1 + r), r)))
    asked, answer = rng.choice([("common ratio", ratio), ("sum of the cubes of its terms", None)])
    answer = answer or first**3 / (1 - ratio**3)
    return (
        f"An infinite geometric series of real numbers has sum ${tex(total)}$, and the squares of "
        f"its terms have sum ${tex(squares)}$. Find the {asked}.",
        answer,
    )


# ---- math: complex numbers and matrices ----------------------------------------------------------


@template
def complex_power(rng):
    a, b, power = nonzero(rng, 4), nonzero(rng, 4), rng.randint(4, 8)
    if abs(a) == abs(b):
        return None
    product = (1, 0)
    for _ in range(power):
        product = (product[0] * a - product[1] * b, product[0] * b + product[1] * a)
    agree(sympy.expand((a + b * I) ** power), product[0] + product[1] * I)
    if 99 < product[1] < 1000:  # (164,353) could be read as a number
        return None
    return (
        f"Let $({tex(a + b * I)})^{power} = p + qi$ with real $p$ and $q$. Find the ordered pair "
        "$(p, q)$.",
        product,
    )


@template
def equation_with_conjugate(rng):
    z, factor = rng.randint(-7, 7) + nonzero(rng, 7) * I, nonzero(rng, 4) + nonzero(rng, 4) * I
    k = rng.randint(2, 6)
    right = sympy.expand(factor * z + k * z.conjugate())
    a, b = factor.as_real_imag()
    rows = Matrix([[a + k, -b], [b, a - k]])  # of the unknown real and imaginary part
    if rows.det() == 0 or right.is_real:
        return None
    agree(tuple(rows.LUsolve(Matrix(right.as_real_imag()))), z.as_real_imag())
    return (
        f"Find the complex number $z$ with $({tex(factor)}) z + {k} \\bar{{z}} = {tex(right)}$, "
        r"where $\bar{z}$ is the conjugate of $z$. Write it in the form $a + bi$.",
        z,
    )


@template
def complex_square_roots(rng):
    a, b = rng.randint(2, 12), nonzero(rng, 12)
    square = sympy.expand((a + b * I) ** 2)
    real, imaginary = square.as_real_imag()
    found = {
        s + t * I
        for s in range(-20, 21)
        for t in range(-20, 21)
        if (s * s - t * t, 2 * s * t) == (real, imaginary)
    }
    return (
        f"Find the set of all complex numbers $z$ with $z^2 = {tex(square)}$. Write its elements "
        "in the form $a + bi$.",
        agree(found, {a + b * I, -a - b * I}),
    )


@template
def matrix_power(rng):
    M, power = Matrix(2, 2, [rng.randint(-3, 3) for _ in range(4)]), rng.randint(4, 7)
    older, newer = sympy.eye(2), M
    for _ in range(power - 1):  # Cayley and Hamilton
        older, newer = newer, M.trace() * newer - M.det() * older
    answer = agree(M**power, newer)
    if 0 in M or len(set(M)) < 3:
        return None
    return f"Let $A = {tex(M)}$. Find the matrix $A^{power}$.", answer


@template
def matrix_inverse(rng):
    size = rng.choice([2, 3])
    M = Matrix(size, size, [rng.randint(-3, 5) for _ in range(size**2)])
    if abs(M.det()) not in (1, 2, 3) or list(M).count(0) > size - 2 or M**2 == sympy.eye(size):
        return None
    agree(M * M.inv(), sympy.eye(size))
    return f"Find the inverse of the matrix ${tex(M)}$.", M.inv()


# ---- math: number theory -------------------------------------------------------------------------


@template
def power_tower(rng):
    a, b, c = rng.randint(2, 19), rng.randint(2, 12), rng.randint(5, 30)
    modulus, value = rng.choice([100, 125, 77, 91, 1000, 143, 99]), a
    for _ in range(c):
        value = pow(value, b, modulus)
    if value < 2:
        return None
    asked = rng.choice(["What is the remainder when {} is divided by {}?", "Find {} modulo {}."])
    return asked.format(f"${a}^{{{b}^{{{c}}}}}$", modulus), agree(value, pow(a, b**c, modulus))


@template
def chinese_remainders(rng):
    moduli = sorted(rng.sample([5, 7, 8, 9, 11, 13, 17], 3))
    rests = [rng.randint(1, m - 1) for m in moduli]
    answer = next(k for k in itertools.count(1) if all(k % m == r for m, r in zip(moduli, rests)))
    agree(answer, int(sympy.ntheory.modular.crt(moduli, rests)[0]))
    what = ", ".join(f"{r} when divided by {m}" for m, r in zip(moduli, rests))
    return f"Find the smallest positive integer that leaves the remainder {what}.", answer


@template
def unit_fractions(rng):
    k, ordered = rng.randint(10, 90), rng.random() < 0.5
    pairs = [a for a in range(k + 1, k * k + k + 1) if a * k % (a - k) == 0]
    count = agree(len(pairs), int(sympy.divisor_count(k * k)))
    if count < 9:
        return None
    condition = "" if ordered else r" and $x \le y$"
    return (
        rf"How many ordered pairs $(x, y)$ of positive integers satisfy "
        rf"$\frac{{1}}{{x}} + \frac{{1}}{{y}} = \frac{{1}}{{{k}}}${condition}?",
        count if ordered else (count + 1) // 2,
    )


@template
def coins(rng):
    values = sorted(rng.sample(range(5, 24), 3))
    if math.gcd(*values) > 1 or any(b % a == 0 for a, b in itertools.combinations(values, 2)):
        return None
    payable = [True] + [False] * 1000
    for amount in range(1, 1001):
        payable[amount] = any(v <= amount and payable[amount - v] for v in values)
    a, b, c = values  # the smallest payable amount of each residue modulo a
    least = [min(i * b + j * c for i in range(a) for j in range(a) if (i * b + j * c) % a == r)
             for r in range(a)]  # fmt: skip
    answer = agree(max(i for i, can in enumerate(payable) if not can), max(least) - a)
    return (
        f"A country has coins of {a}, {b} and {c} cents only. What is the largest whole number of "
        "cents that cannot be paid exactly (without change)?",
        answer,
    )


@template
def divisors_of_a_factorial(rng):
    k = rng.randint(8, 12)
    exponents = sympy.factorint(math.factorial(k))
    asked, fits, formula = rng.choice(
        [
            ("perfect squares", lambda d: math.isqrt(d) ** 2 == d, lambda p, e: e // 2 + 1),
            ("perfect cubes", lambda d: sympy.integer_nthroot(d, 3)[1], lambda p, e: e // 3 + 1),
            ("multiples of 12", lambda d: d % 12 == 0, lambda p, e: e + 1 - {2: 2, 3: 1}.get(p, 0)),
            ("odd", lambda d: d % 2, lambda p, e: e + 1 if p > 2 else 1),
        ]
    )
    count = sum(1 for d in sympy.divisors(math.factorial(k)) if fits(d))
    agree(count, math.prod(formula(p, e) for p, e in exponents.items()))
    return f"How many positive divisors of ${k}!$ are {asked}?", count


@template
def zeros_of_a_factorial(rng):
    k, base = rng.randint(40, 300), rng.choice([6, 8, 9, 12, 14, 15, 18, 20, 24])
    value, zeros = math.factorial(k), 0
    while value % base == 0:
        value, zeros = value // base, zeros + 1
    legendre = lambda p: sum(k // p**i for i in range(1, 10))  # noqa: E731
    agree(zeros, min(legendre(p) // e for p, e in sympy.factorint(base).items()))
    return f"With how many zeros does ${k}!$ end when it is written in base {base}?", zeros


@template
def inclusion_and_exclusion(rng):
    limit, a, b, c = rng.randint(500, 3000), *sorted(rng.sample(range(4, 16), 3))
    if a * b == math.lcm(a, b) or any(v % a == 0 for v in (b, c)) or c % b == 0:
        return None
    count = sum((k % a == 0 or k % b == 0) and k % c > 0 for k in range(1, limit + 1))
    among = lambda *m: limit // math.lcm(*m)  # noqa: E731
    either = among(a) + among(b) - among(a, b)
    agree(count, either - among(a, c) - among(b, c) + among(a, b, c))
    return (
        f"How many integers from 1 to {limit} are divisible by {a} or by {b} (or by both), but not "
        f"by {c}?",
        count,
    )


# ---- math: counting ------------------------------------------------------------------------------


@template
def lattice_paths(rng):
    right, up = rng.randint(5, 9), rng.randint(5, 9)
    (a, b), (c, d) = (rng.randint(1, 2), rng.randint(1, 3)), (rng.randint(3, 4), rng.randint(3, 4))
    ways = Counter({(0, 0): 1})
    for i, j in itertools.product(range(right + 1), range(up + 1)):
        if (i, j) != (0, 0):
            ways[i, j] = 0 if (i, j) in {(a, b), (c, d)} else ways[i - 1, j] + ways[i, j - 1]
    free = lambda i, j, k, m: math.comb(k - i + m - j, k - i)  # noqa: E731
    through = lambda i, j: free(0, 0, i, j) * free(i, j, right, up)  # noqa: E731
    both = free(0, 0, a, b) * free(a, b, c, d) * free(c, d, right, up)
    answer = free(0, 0, right, up) - through(a, b) - through(c, d) + both
    who = rng.choice(["A robot walks", "An ant crawls", "A taxi drives"])
    return (
        f"{who} on the integer grid from $(0, 0)$ to $({right}, {up})$, each step one unit to the "
        f"right or one unit up. How many such paths avoid both $({a}, {b})$ and $({c}, {d})$?",
        agree(answer, ways[right, up]),
    )


@template
def digit_sums(rng):
    digits, total, zero = rng.randint(4, 5), rng.randint(9, 30), rng.random() < 0.5
    numbers = (str(k) for k in range(10 ** (digits - 1), 10**digits))
    count = sum(sum(map(int, s)) == total and (zero or "0" not in s) for s in numbers)
    nine = sum(x**k for k in range(1, 10))
    product = sympy.Poly(nine * (nine + int(zero)) ** (digits - 1), x)
    agree(count, product.coeff_monomial(x**total))
    condition = "" if zero else "contain no digit 0 and "
    return f"How many {digits}-digit positive integers {condition}have digit sum {total}?", count


@template
def subsets_by_sum(rng):
    size, modulus = rng.randint(9, 13), rng.randint(3, 7)
    rest = rng.randint(0, modulus - 1)
    direct = sum(
        sum(k + 1 for k in range(size) if mask >> k & 1) % modulus == rest
        for mask in range(2**size)
    )
    ways = [1] + [0] * (modulus - 1)
    for k in range(1, size + 1):
        ways = [ways[r] + ways[(r - k) % modulus] for r in range(modulus)]
    return (
        rf"How many subsets of $\{{1, 2, \dots, {size}\}}$, the empty set included (its sum is 0), "
        f"have a sum of elements that leaves the remainder {rest} when divided by {modulus}?",
        agree(direct, ways[rest]),
    )


@template
def restricted_permutations(rng):
    size = rng.randint(5, 8)
    rule, allowed = rng.choice(
        [
            (r"$|p(i) - i| \le 2$", lambda i, v: abs(v - i) <= 2),
            (r"$|p(i) - i| \ne 1$", lambda i, v: abs(v - i) != 1),
            (r"$p(i) \ge i - 2$", lambda i, v: v >= i - 2),
            (r"$p(i) \ne i$ and $p(i) \ne i + 1$", lambda i, v: v not in (i, i + 1)),
            (r"$p(i) + i \not\equiv 0 \pmod 3$", lambda i, v: (v + i) % 3 > 0),
        ]
    )
    direct = sum(
        all(allowed(i, v) for i, v in enumerate(p, 1))
        for p in itertools.permutations(range(1, size + 1))
    )
    ways = Counter({frozenset(): 1})
    for i in range(1, size + 1):
        following = Counter()
        for used, count in ways.items():
            for v in range(1, size + 1):
                following[used | {v}] += count * (v not in used and allowed(i, v))
        ways = Counter({used: count for used, count in following.items() if len(used) == i})
    if direct < 5:
        return None
    return (
        rf"How many permutations $p$ of $\{{1, 2, \dots, {size}\}}$ satisfy {rule} for every $i$?",
        agree(direct, sum(ways.values())),
    )


@template
def necklaces(rng):
    beads, colours, flips = rng.randint(5, 8), rng.choice([2, 3]), rng.random() < 0.5
    indexes = list(range(beads))
    moves = [indexes[k:] + indexes[:k] for k in range(beads)]
    moves += [move[::-1] for move in moves] if flips else []
    direct, fixed = set(), 0
    for word in itertools.product(range(colours), repeat=beads):
        images = [tuple(word[i] for i in move) for move in moves]
        direct.add(min(images))
        fixed += images.count(word)
    agree(len(direct) * len(moves), fixed)  # Burnside
    which = "a rotation or a reflection" if flips else "a rotation"
    return (
        f"Each of {beads} beads on a circle has one of {colours} colours. How many different "
        f"bracelets are there, if two are the same when {which} turns one into the other?",
        len(direct),
    )


@template
def coloured_tilings(rng):
    length, small, large = rng.randint(7, 11), rng.randint(1, 3), rng.randint(1, 3)
    size = rng.choice([2, 3])
    ways = [1]
    for k in range(1, length + 1):
        ways.append(small * ways[k - 1] + (large * ways[k - size] if k >= size else 0))
    direct = sum(
        math.comb(length - k * (size - 1), k) * large**k * small ** (length - k * size)
        for k in range(length // size + 1)
    )
    if small == large == 1:
        return None
    return (
        rf"A $1 \times {length}$ strip is to be covered with $1 \times 1$ tiles, which come in "
        rf"{small} colour{'s' * (small > 1)}, and $1 \times {size}$ tiles, which come in {large} "
        f"colour{'s' * (large > 1)}. How many coverings are there?",
        agree(ways[length], direct),
    )


# ---- math: probability ---------------------------------------------------------------------------


@template
def dice(rng):
    count = rng.choice([3, 4])
    total, top = rng.randint(count + 4, 5 * count), rng.randint(3, 5)
    d = rng.choice([4, 6, 8, 9, 10])
    asked, join, fits = rng.choice(
        [
            (f"the sum is {total}", operator.add, lambda v: v == total),
            (f"the largest number shown is exactly {top}", max, lambda v: v == top),
            (f"the product is divisible by {d}", operator.mul, lambda v: v % d == 0),
        ]
    )
    rolls = itertools.product(range(1, 7), repeat=count)
    direct = sum(fits(reduce(join, roll)) for roll in rolls)
    ways = Counter(range(1, 7))
    for _ in range(count - 1):
        following = Counter()
        for (value, times), face in itertools.product(ways.items(), range(1, 7)):
            following[join(value, face)] += times
        ways = following
    agree(direct, sum(times for value, times in ways.items() if fits(value)))
    words = {3: "Three", 4: "Four"}[count]
    return (
        f"{words} fair dice are rolled. What is the probability that {asked}?",
        Fraction(direct, 6**count),
    )


@template
def urn(rng):
    red, blue, green = (rng.randint(2, 6) for _ in range(3))
    drawn, every = rng.randint(3, 5), rng.random() < 0.5
    balls = "r" * red + "b" * blue + "g" * green
    fits = (lambda k: min(k) > 0) if every else (lambda k: max(k) <= 2)
    hands = list(itertools.combinations(balls, drawn))
    direct = sum(fits([hand.count(c) for c in "rbg"]) for hand in hands)
    formula = sum(
        math.comb(red, i) * math.comb(blue, j) * math.comb(green, drawn - i - j)
        for i in range(drawn + 1)
        for j in range(drawn + 1 - i)
        if fits((i, j, drawn - i - j))
    )
    if direct in (0, len(hands)):
        return None
    what = "all three colours are among them" if every else "no colour occurs more than twice"
    return (
        f"A box holds {red} red, {blue} blue and {green} green balls. {drawn} balls are drawn at "
        f"random, without replacement. What is the probability that {what}?",
        Fraction(agree(direct, formula), len(hands)),
    )


@template
def expected_draw(rng):
    cards, drawn = rng.randint(8, 14), rng.randint(3, 5)
    asked, value, share = rng.choice(
        [
            ("largest number drawn", lambda hand: hand[-1], drawn),
            ("second smallest number drawn", lambda hand: hand[1], 2),
            ("largest minus the smallest number drawn", lambda h: h[-1] - h[0], drawn - 1),
        ]
    )
    hands = list(itertools.combinations(range(1, cards + 1), drawn))
    direct = Fraction(sum(map(value, hands)), len(hands))
    return (
        f"From cards numbered 1 to {cards}, {drawn} different cards are drawn at random. What is "
        f"the expected value of the {asked}?",
        agree(direct, Fraction(share * (cards + 1), drawn + 1)),
    )


@template
def waiting_for_a_pattern(rng):
    pattern = "".join(rng.choice("HT") for _ in range(rng.randint(3, 5)))
    size = len(pattern)
    known = lambda text: max(k for k in range(size + 1) if text.endswith(pattern[:k]))  # noqa: E731
    rows = [[0] * size + [1] for _ in range(size)]  # expected flips from each state
    for k in range(size):
        rows[k][k] += 1
        for flip in "HT":
            if (state := known(pattern[:k] + flip)) < size:
                rows[k][state] -= Rational(1, 2)
    solution = Matrix([row[:-1] for row in rows]).LUsolve(Matrix([row[-1] for row in rows]))
    overlaps = sum(2**k for k in range(1, size + 1) if pattern[:k] == pattern[-k:])
    return (
        f"A fair coin is flipped until the last {size} flips are {', '.join(pattern)}, in this "
        "order (H is heads, T is tails). What is the expected number of flips?",
        agree(overlaps, solution[0]),
    )


# ---- math: geometry and trigonometry -------------------------------------------------------------


@template
def triangle(rng):
    a, b, c = sorted(rng.randint(4, 15) for _ in range(3))
    if a + b <= c or a * a + b * b == c * c or len({a, b, c}) < 3:
        return None
    s = Rational(a + b + c, 2)
    area = sqrt(s * (s - a) * (s - b) * (s - c))
    u = (a * a + c * c - b * b) / (2 * c)  # the third corner, above the side c
    v = math.sqrt(a * a - u * u)
    asked, answer, number = rng.choice(
        [
            ("area", area, c * v / 2),
            ("radius of the inscribed circle", area / s, c * v / (a + b + c)),
            ("radius of the circumscribed circle", a * b * c / (4 * area), a * b / (2 * v)),
            (
                f"length of the median to the side of length {c}",
                sqrt(2 * a * a + 2 * b * b - c * c) / 2,
                math.hypot(u - c / 2, v),
            ),
        ]
    )
    agree(answer, number)
    return f"A triangle has sides {a}, {b} and {c}. Find the {asked}.", sympy.radsimp(answer)


@template
def points_inside_a_triangle(rng):
    A, B, C = ((rng.randint(-9, 9), rng.randint(-9, 9)) for _ in range(3))

    def cross(P, Q, R):
        return (Q[0] - P[0]) * (R[1] - P[1]) - (Q[1] - P[1]) * (R[0] - P[0])

    double, sides = abs(cross(A, B, C)), [(A, B), (B, C), (C, A)]
    rim = sum(math.gcd(P[0] - Q[0], P[1] - Q[1]) for P, Q in sides)
    count = 0
    for R in itertools.product(range(-9, 10), repeat=2):
        turns = [cross(P, Q, R) for P, Q in sides]
        count += min(turns) > 0 or max(turns) < 0
    if count < 10:
        return None
    agree(2 * count, double - rim + 2)  # Pick
    return (
        f"How many points with integer coordinates lie strictly inside the triangle with vertices "
        f"${A}$, ${B}$ and ${C}$?",
        count,
    )


@template
def circle_through_points(rng):
    corners = [(rng.randint(-8, 8), rng.randint(-8, 8)) for _ in range(3)]
    points = [sympy.Point(*corner) for corner in corners]
    if sympy.Point.is_collinear(*points):
        return None
    (a, b), others = corners[0], corners[1:]
    rows = Matrix([[2 * (p - a), 2 * (q - b)] for p, q in others])
    right = Matrix([p * p + q * q - a * a - b * b for p, q in others])
    h, k = rows.LUsolve(right)
    agree(points[0].distance(sympy.Point(h, k)), points[1].distance(sympy.Point(h, k)))
    agree((h, k), tuple(sympy.Triangle(*points).circumcenter))
    where = ", ".join(f"${corner}$" for corner in corners)
    if rng.random() < 0.5:
        return (
            f"Find the centre, as an ordered pair, of the circle through the points {where}.",
            (h, k),
        )
    radius = sympy.Point(h, k).distance(points[2])
    if (radius**2).p > 5000:
        return None
    return f"Find the radius of the circle through the points {where}.", radius


@template
def angle_bisector(rng):
    b, c, angle = rng.randint(3, 20), rng.randint(3, 20), rng.choice([60, 90, 120])
    if b == c:
        return None
    answer = 2 * b * c * sympy.cos(sympy.pi * angle / 360) / (b + c)
    t = math.radians(angle)
    foot = [(b * c + c * b * math.cos(t)) / (b + c), c * b * math.sin(t) / (b + c)]
    agree(answer, math.hypot(*foot))  # A in the origin, AB along the axis; it divides BC as c : b
    return (
        rf"In triangle $ABC$, $AB = {c}$, $AC = {b}$ and $\angle BAC = {angle}^\circ$. The "
        "bisector of this angle meets $BC$ at $D$. Find $AD$.",
        answer,
    )


@template
def corner_of_a_box(rng):
    a, b, c = sorted(rng.sample(range(2, 13), 3))
    area = sqrt(a * a * b * b + b * b * c * c + c * c * a * a) / 2
    plane = sympy.Plane((a, 0, 0), (0, b, 0), (0, 0, c))
    distance = Rational(a * b * c, 2) / area
    agree(sympy.nsimplify(distance**2), plane.distance(sympy.Point(0, 0, 0)) ** 2)
    far = rng.random() < 0.5
    asked = "the distance from $P$ to the plane $QRS$" if far else "the area of triangle $QRS$"
    return (
        f"$P$ is a corner of a box with edges {a}, {b} and {c}; $Q$, $R$, $S$ are the other ends "
        f"of the three edges at $P$. Find {asked}.",
        sympy.radsimp(distance) if far else area,
    )


@template
def trigonometric_equation(rng):
    a, b = rng.randint(3, 9), rng.randint(1, 5)
    if a <= b:
        return None
    found = {Fraction(2 * k, a - b) for k in range(a - b)}
    found |= {Fraction(2 * k + 1, a + b) for k in range(a + b)}  # in units of pi
    parts = 2 * (a - b) * (a + b)
    grid = [math.pi * k / (a * a - b * b) for k in range(parts)]
    agree(len(found), sum(abs(math.sin(a * t) - math.sin(b * t)) < 1e-9 for t in grid))
    left, right = f"{a}x", f"{b if b > 1 else ''}x"
    return (
        rf"How many real numbers $x$ with $0 \le x < 2\pi$ satisfy $\sin {left} = \sin {right}$?",
        len(found),
    )


# ---- code ----------------------------------------------------------------------------------------


class Code(NamedTuple):
    """A programming problem. `inputs` are tuples of arguments, for the function `name`, or texts,
    for a script. `slow` takes the same, and returns what the function should, or the words that the
    script should print."""

    question: str
    solution: str
    inputs: list
    slow: Callable
    name: str = ""


CODE = []


def function(name, question, solution, inputs, slow):
    CODE.append(Code(question.strip(), solution.strip() + "\n", inputs, slow, name))


def program(question, solution, inputs, slow):
    CODE.append(Code(question.strip(), solution.strip() + "\n", inputs, slow))


def literal(value):
    """repr, with the elements of sets in order."""
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(map(literal, value))) + "}" if value else "set()"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(literal, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


# ---- code: functions -----------------------------------------------------------------------------


def slow_plateau(v):
    runs = [(i, j) for i in range(len(v)) for j in range(len(v)) if {*v[i : j + 1]} == {v[i]}]
    start, last = max(runs, key=lambda run: (run[1] - run[0], -run[0]), default=(0, -1))
    return (start, last - start + 1)


function(
    "longest_plateau",
    """
Write a function `longest_plateau(values: list[int]) -> tuple[int, int]`. A plateau is a run of
equal neighbouring values. Return `(start, length)` of the longest plateau; if several are
longest, the one that starts first. For an empty list return `(0, 0)`.
""",
    """
def longest_plateau(values):
    best, start = (0, 0), 0
    for i in range(len(values)):
        if values[i] != values[start]:
            start = i
        if i - start + 1 > best[1]:
            best = (start, i - start + 1)
    return best
""",
    [
        ([4, 7, 7, 1, 1, 5],),
        ([],),
        ([9],),
        ([1, 2, 3, 3, 3],),
        ([0, 0, 0, -1, -1, -1, -1, 0],),
        ([5, 5, 5, 2, 5, 5, 5],),
    ],
    slow_plateau,
)


def slow_slots(bookings, opens, closes):
    slots = []
    for m in range(opens, closes):
        if not any(a <= m < b for a, b in bookings):
            joins = slots and slots[-1][1] == m
            slots.append((slots.pop()[0] if joins else m, m + 1))
    return slots


function(
    "free_slots",
    """
A room is open from minute `opens` to minute `closes`. Write a function `free_slots(bookings:
list[tuple[int, int]], opens: int, closes: int) -> list[tuple[int, int]]` that returns, in order,
the maximal intervals `(start, end)`, start < end, inside the opening hours in which the room is
not booked. A booking `(a, b)` with a < b takes the minutes from a up to, but not including, b.
Bookings come in any order, may overlap, and may reach outside the opening hours.
""",
    """
def free_slots(bookings, opens, closes):
    slots, free_from = [], opens
    for start, end in sorted(bookings):
        if min(start, closes) > free_from:
            slots.append((free_from, min(start, closes)))
        free_from = max(free_from, end)
    if free_from < closes:
        slots.append((free_from, closes))
    return slots
""",
    [
        ([(60, 90), (30, 40)], 0, 100),
        ([], 480, 1020),
        ([(0, 50)], 10, 40),
        ([(5, 20), (10, 12), (20, 25), (70, 99)], 0, 80),
        ([(90, 120), (-10, 3), (40, 41)], 0, 60),
        ([(10, 20), (12, 15), (30, 31), (29, 30)], 10, 31),
    ],
    slow_slots,
)


def slow_staircase(text, step):
    letters = [i for i, c in enumerate(text) if c.isalpha()]
    out = list(text)
    for start in range(len(letters)):  # this letter and all that follow move by one more step
        for i in letters[start:]:
            alphabet = ascii_lowercase if out[i].islower() else ascii_uppercase
            out[i] = alphabet[(alphabet.index(out[i]) + step) % 26]
    return "".join(out)


function(
    "staircase_cipher",
    """
Write a function `staircase_cipher(text: str, step: int) -> str`. The first letter of the text
(A-Z or a-z) is shifted by `step` places in the alphabet, the second letter by `2 * step` places,
the third by `3 * step`, and so on, wrapping from z to a; upper case stays upper case. Other
characters stay as they are and are not counted. `step` may be negative.
""",
    """
def staircase_cipher(text, step):
    out, shift = [], 0
    for c in text:
        if "a" <= c <= "z" or "A" <= c <= "Z":
            shift += step
            base = ord("a") if c >= "a" else ord("A")
            c = chr((ord(c) - base + shift) % 26 + base)
        out.append(c)
    return "".join(out)
""",
    [
        ("Abc, z!", 1),
        ("", 5),
        ("12 + 3", 4),
        ("Zebra crossing", -3),
        ("aaaaAAAA", 13),
        ("x y z X-Y-Z", 27),
    ],
    slow_staircase,
)

function(
    "dense_ranks",
    """
Write a function `dense_ranks(votes: list[str]) -> dict[str, int]` that ranks the candidates by
their number of votes. The candidates with the most votes have rank 1, those with the next lower
number of votes rank 2, and so on: equal numbers of votes share a rank and no rank is left out.
""",
    """
def dense_ranks(votes):
    counts = {}
    for name in votes:
        counts[name] = counts.get(name, 0) + 1
    levels = sorted(set(counts.values()), reverse=True)
    return {name: levels.index(count) + 1 for name, count in counts.items()}
""",
    [
        (["ann", "bob", "ann", "cy"],),
        ([],),
        (["x", "y", "z"],),
        (["d", "c", "d", "b", "c", "d", "a", "b", "c", "d"],),
        (["p", "q", "q", "p", "r", "r", "r", "s", "s", "t"],),
    ],
    lambda votes: {
        name: 1 + len({votes.count(o) for o in votes if votes.count(o) > votes.count(name)})
        for name in votes
    },
)

function(
    "seen_towers",
    """
Towers stand in a row. From the left end one sees a tower if it is strictly higher than all towers
to its left; likewise from the right end. Write a function `seen_towers(heights: list[int]) ->
set[int]` that returns the set of indexes (from 0) of the towers that are seen from at least one
end.
""",
    """
def seen_towers(heights):
    seen = set()
    for order in (range(len(heights)), range(len(heights) - 1, -1, -1)):
        highest = None
        for i in order:
            if highest is None or heights[i] > highest:
                highest = heights[i]
                seen.add(i)
    return seen
""",
    [
        ([3, 1, 4, 4, 2],),
        ([],),
        ([5],),
        ([2, 2, 2, 2],),
        ([1, 3, 2, 5, 4, 5, 1, 2],),
        ([-4, -2, -9, -3, -3],),
        ([9, 1, 2, 3, 8, 7, 6, 9],),
    ],
    lambda h: {
        i
        for i in range(len(h))
        if all(h[i] > o for o in h[:i]) or all(h[i] > o for o in h[i + 1 :])
    },
)

function(
    "balance_point",
    """
Write a function `balance_point(values: list[int]) -> int | None` that returns the smallest k with
1 <= k < len(values) such that the sum of the first k values equals the sum of the others, or
`None` if there is no such k.
""",
    """
def balance_point(values):
    left, right = 0, sum(values)
    for k in range(1, len(values)):
        left += values[k - 1]
        right -= values[k - 1]
        if left == right:
            return k
    return None
""",
    [
        ([1, 5, 2, 4],),
        ([],),
        ([0],),
        ([0, 0, 0],),
        ([3, -3, 5, 2, 3],),
        ([7, 1, 2, 3, 2],),
        ([4, -1, 3, 1, -1],),
        ([10, -20, 5, 5, -10, 10, -20, 5, 5],),
    ],
    lambda v: next((k for k in range(1, len(v)) if sum(v[:k]) == sum(v[k:])), None),
)


def until_stable(rewrite, text):
    while (following := rewrite(text)) != text:
        text = following
    return text


function(
    "unroll",
    """
A pattern is a text of lower-case letters in which a part in round brackets, followed by a whole
number from 0 to 99, stands for that many copies of the part. Brackets may be nested, and each
closing bracket is followed by its number. Write a function `unroll(pattern: str) -> str` that
writes the pattern out.
""",
    """
def unroll(pattern):
    stack, i = [""], 0
    while i < len(pattern):
        c = pattern[i]
        i += 1
        if c == "(":
            stack.append("")
        elif c == ")":
            j = i
            while j < len(pattern) and pattern[j].isdigit():
                j += 1
            part = stack.pop()
            stack[-1] += part * int(pattern[i:j])
            i = j
        else:
            stack[-1] += c
    return stack[0]
""",
    [("a(bc)2(d(e)3)2",), ("",), ("plain",), ("x(abc)0y",), ("(ab)12",), ("((a)2(b)1((c)2d)2)2e",)],
    lambda pattern: until_stable(
        lambda p: re.sub(r"\(([a-z]*)\)(\d+)", lambda m: m[1] * int(m[2]), p), pattern
    ),
)


def slow_trimmed_mean(values, k):
    if 2 * k >= len(values):
        return float(statistics.median(values))
    values = list(values)
    for _ in range(k):
        values.remove(min(values))
        values.remove(max(values))
    return float(statistics.fmean(values))


function(
    "trimmed_mean",
    """
Write a function `trimmed_mean(values: list[float], k: int) -> float`: the mean of the values that
are left when the k smallest and the k largest values are removed (equal values count separately).
If nothing would be left, return the median instead: the middle value, or the mean of the two
middle values. The list is never empty.
""",
    """
def trimmed_mean(values, k):
    ordered = sorted(values)
    n = len(ordered)
    if 2 * k >= n:
        k = (n - 1) // 2
    kept = ordered[k:n - k]
    return sum(kept) / len(kept)
""",
    [
        ([1, 9, 2, 4], 1),
        ([5], 0),
        ([5, 1, 30], 2),
        ([3, 1, 2, 10], 2),
        ([9, 1, 4, 4, 8, 30, 5, -2, 7], 3),
        ([0.5, 0.25, -8, 100, 0.75, 0.75], 1),
        ([6, 6, 6, 1, 2, 90, -90], 0),
        ([8, -1, 3, 3, 20, 4, 11], 4),
    ],
    slow_trimmed_mean,
)


def slow_spiral(n, value):
    if n > 100:
        return {(10**9, 4 * 10**9): (1, 4)}[n, value]  # by hand: the outer ring has 4n - 4 cells
    row, column, step, seen = 0, 0, (0, 1), {(0, 0)}
    for _ in range(value - 1):
        ahead = (row + step[0], column + step[1])
        if ahead in seen or not (0 <= ahead[0] < n and 0 <= ahead[1] < n):
            step = (step[1], -step[0])
        row, column = row + step[0], column + step[1]
        seen.add((row, column))
    return (row, column)


function(
    "spiral_position",
    """
The cells of an n x n table are filled with 1, 2, ..., n*n along a spiral: it starts in the top
left corner, goes right along the top row, down the last column, left along the bottom row, up the
first column, and so on inwards. For n = 3 the rows are 1 2 3, 8 9 4 and 7 6 5. Write a function
`spiral_position(n: int, value: int) -> tuple[int, int]` that returns `(row, column)`, both from
0, of a value. It must be fast even for n = 10**9.
""",
    """
from math import isqrt

def spiral_position(n, value):
    left = n * n - value + 1            # cells from this one to the end of the spiral
    side = isqrt(left - 1) + 1          # of the smallest square, of either parity, that holds it
    side += (n - side) % 2
    ring = (n - side) // 2
    k = side * side - left              # its place on the ring
    if side == 1:
        return (ring, ring)
    edge, along = divmod(k, side - 1)
    row, column = [(0, along), (along, side - 1), (side - 1, side - 1 - along),
                   (side - 1 - along, 0)][edge]
    return (ring + row, ring + column)
""",
    [(3, 8), (1, 1), (4, 16), (6, 13), (7, 30), (6, 20), (7, 21), (10**9, 4 * 10**9)],
    slow_spiral,
)


def slow_ways(coins, total, count):
    payments = itertools.combinations_with_replacement(coins, count)
    return sum(sum(paid) == total for paid in payments) if total <= 100 else None


function(
    "ways_to_pay",
    """
Write a function `ways_to_pay(coins: list[int], total: int, count: int) -> int`: in how many ways
can `total` be paid with exactly `count` coins? `coins` are distinct positive values, each may be
used any number of times, and the order of the coins does not matter. 0 is paid with 0 coins in
one way.
""",
    """
def ways_to_pay(coins, total, count):
    ways = [[0] * (total + 1) for _ in range(count + 1)]
    ways[0][0] = 1
    for coin in coins:
        for used in range(1, count + 1):
            for amount in range(coin, total + 1):
                ways[used][amount] += ways[used - 1][amount - coin]
    return ways[count][total]
""",
    [
        ([1, 2, 5], 8, 4),
        ([3, 7], 0, 0),
        ([3, 7], 0, 2),
        ([3, 7], 7, 0),
        ([1, 2, 3, 4, 5], 20, 7),
        ([2, 4, 6], 9, 3),
        ([10, 1, 25, 5], 100, 16),
        ([1, 2, 3, 5, 8, 13, 21], 150, 30),
    ],
    slow_ways,
)

function(
    "turns_into_palindrome",
    """
Write a function `turns_into_palindrome(word: str) -> bool` that says whether some rotation of the
word is a palindrome. A rotation moves any number of letters, in order, from the front to the end;
the word itself is one, too. The empty word is a palindrome.
""",
    """
def turns_into_palindrome(word):
    doubled, n = word + word, len(word)
    return any(all(doubled[s + i] == doubled[s + n - 1 - i] for i in range(n // 2))
               for s in range(max(n, 1)))
""",
    [("aabb",), ("",), ("aabc",), ("aab",), ("abab",), ("abcabc",), ("cabbac",), ("aabcb" * 3,)],
    lambda w: any((w[i:] + w[:i])[::-1] == w[i:] + w[:i] for i in range(len(w) + 1)),
)

function(
    "next_with_same_ones",
    """
Write a function `next_with_same_ones(n: int) -> int`: the smallest integer greater than n whose
binary representation has as many ones as that of n (n is at least 1, and may have 60 binary
digits).
""",
    """
def next_with_same_ones(n):
    low = n & -n
    up = n + low
    return up | ((n ^ up) // low >> 2)
""",
    [(12,), (1,), (7,), (46,), (1023,), (6144,), (2**58 + 2**57 + 5 * 2**20,)],
    lambda n: next(k for k in itertools.count(n + 1) if bin(k).count("1") == bin(n).count("1")),
)


def slow_turn_border(table, k):
    """One place at a time: each number of the border goes where its clockwise neighbour was."""
    rows, columns = len(table), len(table[0])
    for _ in range(k % (2 * (rows + columns) - 4)):
        older = [list(row) for row in table]
        table = [list(row) for row in table]
        for i, j in itertools.product(range(rows), range(columns)):
            if i == 0 and j > 0:
                table[i][j] = older[i][j - 1]
            elif j == columns - 1 and i > 0:
                table[i][j] = older[i - 1][j]
            elif i == rows - 1:
                table[i][j] = older[i][j + 1]
            elif j == 0:
                table[i][j] = older[i + 1][j]
    return table


function(
    "turn_border",
    """
Write a function `turn_border(table: list[list[int]], k: int) -> list[list[int]]` that returns a
new table in which the numbers on the border (first and last row and column) have moved k places
clockwise along the border; the other numbers stay. A negative k turns counterclockwise. The table
has at least two rows and at least two columns.
""",
    """
def turn_border(table, k):
    rows, columns = len(table), len(table[0])
    ring = [(0, j) for j in range(columns)] + [(i, columns - 1) for i in range(1, rows)]
    ring += [(rows - 1, j) for j in range(columns - 2, -1, -1)]
    ring += [(i, 0) for i in range(rows - 2, 0, -1)]
    turned = [list(row) for row in table]
    for place, (i, j) in enumerate(ring):
        p, q = ring[(place - k) % len(ring)]
        turned[i][j] = table[p][q]
    return turned
""",
    [
        ([[1, 2, 3], [4, 5, 6], [7, 8, 9]], 1),
        ([[1, 2], [3, 4]], 3),
        ([[1, 2, 3, 4], [5, 6, 7, 8]], -2),
        ([[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]], 25),
        ([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]], 0),
        ([[9, 8], [7, 6], [5, 4], [3, 2]], -9),
    ],
    slow_turn_border,
)


def slow_tug(text):
    rules = [  # the first that applies, again and again
        (r"\((\d)\)", lambda m: m[1]),
        (r"-(\d)", lambda m: str(9 - int(m[1]))),
        (r"(\d)\^(\d)", lambda m: max(m[1], m[2])),
        (r"(?<![v^])(\d)v(\d)(?![\^])", lambda m: min(m[1], m[2])),
    ]

    def rewrite(text):
        for pattern, new in rules:
            if re.search(pattern, text):
                return re.sub(pattern, new, text, count=1)
        return text

    return int(until_stable(rewrite, text))


function(
    "tug",
    """
Expressions are made of single digits, the signs `^` and `v`, and round brackets, without spaces.
`a^b` is the larger of a and b and binds more tightly than `avb`, the smaller of the two. Then
there is the prefix `-`, which binds most tightly: it turns the digit, the bracket or the next
prefix with what belongs to it, from x into 9 - x. Write a function `tug(text: str) -> int` that
returns the value of such an expression.
""",
    """
def tug(text):
    place = 0

    def smallest():
        nonlocal place
        value = largest()
        while place < len(text) and text[place] == "v":
            place += 1
            value = min(value, largest())
        return value

    def largest():
        nonlocal place
        value = single()
        while place < len(text) and text[place] == "^":
            place += 1
            value = max(value, single())
        return value

    def single():
        nonlocal place
        c = text[place]
        place += 1
        if c == "-":
            return 9 - single()
        if c == "(":
            value = smallest()
            place += 1
            return value
        return int(c)

    return smallest()
""",
    [
        ("3v2^-5",),
        ("8",),
        ("--3",),
        ("9^5v6",),
        ("5^(9v6)v4^1",),
        ("-(2v8)^(3v-(4^1))",),
        ("((1^6)v(-0v8))v-(-7^2v5)",),
    ],
    slow_tug,
)

function(
    "equal_pieces",
    """
Write a function `equal_pieces(values: list[int], k: int) -> bool` that says whether the list can
be cut into exactly k consecutive, non-empty pieces that all have the same sum. k is at least 1.
Values may be negative.
""",
    """
def equal_pieces(values, k):
    total = sum(values)
    if not values or total % k:
        return False
    share, found, running = total // k, 0, 0
    for v in values[:-1]:
        running += v
        if found < k - 1 and running == share * (found + 1):
            found += 1
    return found == k - 1
""",
    [
        ([2, 1, 3, 0, 3], 3),
        ([], 1),
        ([0, 0, 0, 0], 3),
        ([2, 5], 1),
        ([0, 0], 3),
        ([5, 1, -6, 3, -3, 0], 3),
        ([1, 2, 5], 2),
        ([3, 3, -3, 3, 6, -3], 3),
    ],
    lambda v, k: (
        any(
            len({sum(v[i:j]) for i, j in zip((0, *cuts), (*cuts, len(v)))}) == 1
            for cuts in itertools.combinations(range(1, len(v)), k - 1)
        )
        and len(v) > 0
    ),
)

function(
    "group_by_letters",
    """
Write a function `group_by_letters(words: list[str]) -> dict[str, list[str]]` that groups words by
the set of letters they use, whatever the case and however often. The key of a group is the string
of its distinct letters in lower case and alphabetical order; its value lists the words of the
group, each as often as it occurs, in their original order.
""",
    """
def group_by_letters(words):
    groups = {}
    for word in words:
        groups.setdefault("".join(sorted(set(word.lower()))), []).append(word)
    return groups
""",
    [
        (["Tea", "eat", "Eatee", "to"],),
        ([],),
        (["a", "A", "aa", "b", "a"],),
        (["Noon", "no", "on", "One", "neon", "eon"],),
        (["stop", "POTS", "toss", "sots", "spot"],),
    ],
    lambda words: {
        key: [w for w in words if {*w.lower()} == {*key}]
        for key in ("".join(c for c in map(chr, range(97, 123)) if c in w.lower()) for w in words)
    },
)


def slow_knight(n, start, goal, blocked):
    squares = set(itertools.product(range(n), repeat=2)) - blocked
    near = lambda a, b: {abs(a[0] - b[0]), abs(a[1] - b[1])} == {1, 2}  # noqa: E731
    reached = {start}
    for moves in range(n * n + 1):
        if goal in reached:
            return moves
        reached = {s for s in squares if any(near(s, r) for r in reached)}
    return None


function(
    "knight_moves",
    """
On an n x n chessboard some squares are blocked. Write a function `knight_moves(n: int, start:
tuple, goal: tuple, blocked: set) -> int | None` that returns the smallest number of knight's
moves from `start` to `goal`, which are `(row, column)` pairs counted from 0, like the elements of
`blocked`. The knight may jump over blocked squares, but not land on them. Start and goal are
never blocked. Return `None` if the goal cannot be reached.
""",
    """
from collections import deque

def knight_moves(n, start, goal, blocked):
    distance, queue = {start: 0}, deque([start])
    while queue:
        here = queue.popleft()
        if here == goal:
            return distance[here]
        for a, b in ((1, 2), (2, 1), (-1, 2), (-2, 1), (1, -2), (2, -1), (-1, -2), (-2, -1)):
            there = (here[0] + a, here[1] + b)
            free = min(there) >= 0 and max(there) < n and there not in blocked
            if free and there not in distance:
                distance[there] = distance[here] + 1
                queue.append(there)
    return None
""",
    [
        (8, (0, 0), (3, 3), set()),
        (1, (0, 0), (0, 0), set()),
        (3, (0, 0), (1, 1), set()),
        (8, (0, 0), (7, 7), {(1, 2), (5, 6)}),
        (5, (0, 0), (4, 4), {(1, 2), (2, 1)}),
        (4, (0, 0), (3, 3), {(1, 2)}),
        (6, (0, 0), (1, 1), {(2, 3), (3, 2), (0, 3)}),
        (8, (7, 0), (0, 6), {(5, 1), (3, 2), (4, 4), (2, 5)}),
    ],
    slow_knight,
)


def slow_ends(plan):
    """Minute by minute: what has ended, what runs."""
    ends = {}
    for minute in range(sum(duration for duration, _ in plan.values()) + 1):
        for _ in plan:
            for task, (duration, before) in plan.items():
                if task not in ends and all(ends.get(o, minute + 1) <= minute for o in before):
                    ends[task] = minute + duration
    return ends if len(ends) == len(plan) else None


function(
    "earliest_ends",
    """
A plan maps the name of each task to `(duration, prerequisites)`, a non-negative int and a list of
names of other tasks in the plan. A task begins as soon as all its prerequisites have ended (at
time 0 without any); any number of tasks run side by side. Write a function `earliest_ends(plan:
dict[str, tuple[int, list[str]]]) -> dict[str, int] | None` that returns when each task ends, or
`None` if some tasks can never begin because they wait for each other.
""",
    """
def earliest_ends(plan):
    ends, active = {}, set()

    def visit(task):
        if task in active:
            return False
        if task not in ends:
            active.add(task)
            duration, before = plan[task]
            if not all(visit(other) for other in before):
                return False
            ends[task] = duration + max((ends[other] for other in before), default=0)
            active.remove(task)
        return True

    return ends if all(visit(task) for task in plan) else None
""",
    [
        ({"a": (3, []), "b": (2, ["a"])},),
        ({},),
        ({"loop": (1, ["loop"])},),
        ({"d": (4, ["b", "c"]), "c": (5, ["a"]), "b": (1, ["a"]), "a": (2, []), "e": (1, [])},),
        ({"x": (1, ["y"]), "y": (1, ["z"]), "z": (1, ["x"]), "w": (9, [])},),
        ({"p": (0, []), "q": (0, ["p"]), "r": (7, ["q", "p"]), "s": (2, ["r", "q"])},),
    ],
    slow_ends,
)

function(
    "divisor_chain",
    """
Write a function `divisor_chain(values: list[int]) -> int`: the length of the longest subsequence
(the order of the list is kept, elements may be skipped) in which each element is a multiple of
the one before it. All values are positive, and 6 is a multiple of 6.
""",
    """
def divisor_chain(values):
    best = []
    for i, v in enumerate(values):
        best.append(1 + max((best[j] for j in range(i) if v % values[j] == 0), default=0))
    return max(best, default=0)
""",
    [
        ([4, 2, 3, 6, 8, 24],),
        ([],),
        ([5],),
        ([8, 4, 2, 1],),
        ([3, 3, 6, 3, 6, 12, 5],),
        ([2, 7, 4, 14, 28, 8, 16, 5, 32, 56],),
        ([1, 10, 3, 20, 9, 40, 27, 80, 81],),
    ],
    lambda values: max(
        len(chain)
        for size in range(len(values) + 1)
        for chain in itertools.combinations(values, size)
        if all(b % a == 0 for a, b in zip(chain, chain[1:]))
    ),
)


def slow_fence(text, r):
    rails, rail, step = [""] * r, 0, 1
    for c in text:
        rails[rail] += c
        if not 0 <= rail + step < r:
            step = -step
        rail += step if r > 1 else 0
    return "".join(rails)


function(
    "fence_write fence_read",
    """
The rail fence: the letters of a text are written one by one on rails 0, 1, ..., r-1, then back on
r-2, ..., 0, then down again, and so on, in a zigzag. Then the rails are read, rail 0 first. Write
two functions: `fence_write(text: str, r: int) -> str` returns what is read from the rails, and
`fence_read(text: str, r: int) -> str` undoes that. r is at least 1; with one rail nothing
changes.
""",
    """
def rails(n, r):
    period = max(2 * r - 2, 1)
    return sorted(range(n), key=lambda i: (min(i % period, period - i % period) if r > 1 else 0, i))

def fence_write(text, r):
    return "".join(text[i] for i in rails(len(text), r))

def fence_read(text, r):
    out = [""] * len(text)
    for place, i in enumerate(rails(len(text), r)):
        out[i] = text[place]
    return "".join(out)
""",
    [
        ("abcdefg", 3),
        ("", 4),
        ("single", 1),
        ("zig zag!", 2),
        ("short", 9),
        ("the quick brown fox", 5),
    ],
    slow_fence,
)

# ---- code: scripts, from standard input to standard output ---------------------------------------


def ints(text):
    return [int(word) for word in text.split()]


def lines(*rows):
    """A text of such lines; a row that is not text is a list of words."""
    texts = [row if isinstance(row, str) else " ".join(map(str, row)) for row in rows]
    return "".join(text + "\n" for text in texts)


def made(count, low, high, seed):
    """Random integers, always the same."""
    rng = random.Random(seed)
    return [rng.randint(low, high) for _ in range(count)]


def slow_expenses(text):
    rows = [line.split() for line in text.splitlines()[1:]]
    names = sorted({name for name, _ in rows})
    totals = {name: sum(int(amount) for n, amount in rows if n == name) for name in names}
    return [w for t in sorted({*totals.values()}, reverse=True)
            for name in names if totals[name] == t for w in (name, t)]  # fmt: skip


program(
    """
A club lists its expenses. Add them up by category, and print the categories with their totals,
the largest total first; equal totals in alphabetical order of the names.

Input: a line with n (1 <= n <= 1000), then n lines with a category (lower-case letters) and an
integer amount, which may be negative. Output: for each category one line with its name and total.
""",
    """
totals = {}
for _ in range(int(input())):
    name, amount = input().split()
    totals[name] = totals.get(name, 0) + int(amount)
for name in sorted(totals, key=lambda name: (-totals[name], name)):
    print(name, totals[name])
""",
    [
        "4\nfood 20\nrent 70\nfood 15\ntrips 35\n",
        "1\nonly -3\n",
        "5\nb 1\na 1\nc 2\nb 1\na 1\n",
        "6\nx -5\ny -2\nx 3\ny -2\nz 0\nw -4\n",
        "7\nten 10\nnine 9\nhundred 100\nten -1\nzero 0\nhundred -91\nzero 10\n",
    ],
    slow_expenses,
)


def slow_even_counts(text):
    n, q, *rest = ints(text)
    a, queries = rest[:n], rest[n:]
    return [sum(v % 2 == 0 for v in a[queries[2 * i] - 1 : queries[2 * i + 1]]) for i in range(q)]


program(
    """
Answer questions about a list of integers: how many even numbers are there from position l to
position r, both included, positions counted from 1?

Input: a line with n and q (1 <= n, q <= 100000), a line with the n integers (from -10^9 to 10^9),
then q lines with l and r (1 <= l <= r <= n). Output: one line per question.
""",
    """
import sys

n, q, *rest = map(int, sys.stdin.read().split())
before = [0]
for v in rest[:n]:
    before.append(before[-1] + (v % 2 == 0))
for i in range(n, n + 2 * q, 2):
    print(before[rest[i + 1]] - before[rest[i] - 1])
""",
    [
        "5 2\n4 7 2 9 -6\n1 3\n4 4\n",
        "1 1\n0\n1 1\n",
        "3 4\n1 -1 3\n1 3\n2 2\n1 1\n3 3\n",
        "4 3\n-2 -3 -4 1000000000\n1 4\n2 4\n1 2\n",
        lines([60, 6], made(60, -99, 99, "even"), *[(k, 7 * k + 18) for k in range(1, 7)]),
    ],
    slow_even_counts,
)


def slow_islands(text):
    rows, columns, least, *grid = text.split()
    rows, columns = int(rows), int(columns)
    land = {(i, j) for i in range(rows) for j in range(columns) if grid[i][j] == "#"}
    label = {cell: k for k, cell in enumerate(sorted(land))}
    for _ in land:  # the smallest label spreads
        for i, j in land:
            near = ((i + a, (j + b) % columns) for a in (-1, 0, 1) for b in (-1, 0, 1))
            label[i, j] = min(label[cell] for cell in near if cell in land)
    return [sum(size >= int(least) for size in Counter(label.values()).values())]


program(
    """
The map of a ring-shaped world is a grid of `#` (land) and `.` (water). The last column is next to
the first one; the first and the last row are not neighbours. Land cells belong together if they
touch at a side or at a corner. How many islands have at least k cells?

Input: a line with the number of rows r, the number of columns c (3 <= c, r * c <= 10000) and k >=
1, then r lines of c characters. Output: the number of islands of k or more cells.
""",
    """
r, c, k = map(int, input().split())
grid = [input().strip() for _ in range(r)]
seen, count = set(), 0
for start in ((i, j) for i in range(r) for j in range(c)):
    if grid[start[0]][start[1]] == "#" and start not in seen:
        stack, size = [start], 0
        seen.add(start)
        while stack:
            i, j = stack.pop()
            size += 1
            for p in range(max(i - 1, 0), min(i + 2, r)):
                for q in (j - 1, j, j + 1):
                    cell = (p, q % c)
                    if grid[p][q % c] == "#" and cell not in seen:
                        seen.add(cell)
                        stack.append(cell)
        count += size >= k
print(count)
""",
    [
        "3 6 2\n#....#\n......\n.#.#..\n",
        "1 3 1\n...\n",
        "2 3 6\n###\n###\n",
        "4 5 1\n#.#..\n.....\n#.#..\n.#...\n",
        "5 7 2\n..#...#\n.......\n#......\n......#\n...##..\n",
        "4 8 3\n#..##..#\n...#...#\n.#....#.\n..#..#..\n",
        lines([8, 13, 2], *["".join("#...."[v] for v in made(13, 0, 4, f"{i}")) for i in range(8)]),
    ],
    slow_islands,
)


def slow_hike(text):
    size, cells = text.split()[:2], text.split()[2:]
    r, c = map(int, size)
    cost = {(k // c, k % c): None if w == "x" else int(w) for k, w in enumerate(cells)}
    best = {(0, 0): cost[0, 0]} if cost[0, 0] is not None else {}
    for _ in range(r * c):
        for i, j in list(best):
            for there in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                if cost.get(there) is not None:
                    total = best[i, j] + cost[there]
                    best[there] = min(total, best.get(there, total))
    return [best.get((r - 1, c - 1), -1)]


program(
    """
A hiker crosses a field of r x c squares from the top left square to the bottom right one, moving
up, down, left or right. Each square costs some effort, the first and the last one included;
squares marked `x` cannot be entered. Find the least total effort.

Input: a line with r and c (1 <= r, c <= 100), then r lines of c entries, separated by spaces: an
effort from 0 to 1000, or `x`. Output: the least total effort, or -1 if there is no way.
""",
    """
import heapq
import sys

words = sys.stdin.read().split()
r, c = int(words[0]), int(words[1])
grid = [words[2 + i * c:2 + (i + 1) * c] for i in range(r)]
best = {}
heap = [] if grid[0][0] == "x" else [(int(grid[0][0]), 0, 0)]
while heap:
    effort, i, j = heapq.heappop(heap)
    if (i, j) in best:
        continue
    best[i, j] = effort
    for p, q in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
        if 0 <= p < r and 0 <= q < c and grid[p][q] != "x":
            heapq.heappush(heap, (effort + int(grid[p][q]), p, q))
print(best.get((r - 1, c - 1), -1))
""",
    [
        "3 3\n1 9 1\n1 x 1\n1 2 0\n",
        "1 1\n7\n",
        "1 1\nx\n",
        "2 3\n1 x 1\n1 x 1\n",
        "3 5\n1 9 1 1 1\n1 9 1 9 1\n1 1 1 9 1\n",
        "5 3\n1 2 3\nx 99 4\n7 6 5\n8 x 70\n9 10 11\n",
        "4 4\n0 5 0 0\n0 x 0 x\n0 0 0 9\n3 x 9 2\n",
        lines([7, 7], *[made(7, 0, 30, f"hike {i}") for i in range(7)]),
    ],
    slow_hike,
)


def slow_robot(text):
    (w, h, x, y), path = ints(" ".join(text.split()[:4])), text.split()[5:]
    unrolled = "".join(c if c in "LR" else "F" * int(c[1:]) for c in path)
    position, heading, cells = complex(x, y), 1j, [complex(x, y)]
    for c in unrolled:
        heading *= {"L": 1j, "R": -1j, "F": 1}[c]
        there = position + heading if c == "F" else position
        if 0 <= there.real < w and 0 <= there.imag < h:
            position = there
        cells.append(position)
    return [int(position.real), int(position.imag), len(set(cells))]


program(
    """
A robot stands on a floor of w x h squares with coordinates (x, y), 0 <= x < w, 0 <= y < h, and
faces in the direction of growing y. It obeys the commands `L` (a quarter turn to the left), `R`
(a quarter turn to the right) and `Fn` (n squares forward). At a wall it stops, and ignores what
is left of that F command.

Input: a line with w, h and the starting coordinates x, y (w, h <= 1000), a line with the number
of commands, and a line with the commands, separated by spaces. In `Fn`, 0 <= n <= 1000. Output:
the final x and y, and the number of different squares on which the robot has been, the first one
included.
""",
    """
w, h, x, y = map(int, input().split())
input()
dx, dy, seen = 0, 1, {(x, y)}
for command in input().split():
    if command == "L":
        dx, dy = -dy, dx
    elif command == "R":
        dx, dy = dy, -dx
    else:
        for _ in range(int(command[1:])):
            if not (0 <= x + dx < w and 0 <= y + dy < h):
                break
            x, y = x + dx, y + dy
            seen.add((x, y))
print(x, y, len(seen))
""",
    [
        "4 4 1 0\n5\nF2 R F9 L F1\n",
        "1 1 0 0\n3\nF1000 L F3\n",
        "5 5 2 2\n8\nF1 R F1 R F1 R F1 R\n",
        "10 3 9 2\n6\nL F4 L F0 L F2\n",
        "3 3 2 2\n7\nL L F5 R F5 R F1\n",
        "6 7 0 6\n9\nR R F3 L F12 L L F2 R\n",
    ],
    slow_robot,
)


def slow_brackets(text):
    @functools.cache
    def least(s):
        if not s:
            return 0
        partners = (k for k in range(1, len(s)) if s[0] + s[k] in ("()", "[]", "<>"))
        return min([1 + least(s[1:]), *(least(s[1:k]) + least(s[k + 1 :]) for k in partners)])

    return [least(text.strip())]


program(
    """
A text of brackets is well formed if it is empty, or `(A)`, `[A]`, `<A>` or `AB` with well formed
A and B. What is the smallest number of brackets that must be inserted, anywhere, to make a text
well formed?

Input: one line with at most 60 characters out of `()[]<>`; it may be empty. Output: the number.
""",
    """
import sys

s = sys.stdin.readline().strip()
n = len(s)
least = [[0] * (n + 1) for _ in range(n + 2)]
for i in range(n - 1, -1, -1):
    for j in range(i + 1, n + 1):
        best = 1 + least[i + 1][j]
        for k in range(i + 1, j):
            if s[i] + s[k] in ("()", "[]", "<>"):
                best = min(best, least[i + 1][k] + least[k + 1][j])
        least[i][j] = best
print(least[0][n])
""",
    ["([)>\n", "\n", "()[]<>\n", "]][(\n", "([<)]>\n", "((([)]))<[>]\n", "<([)]>(<[)>]\n"],
    slow_brackets,
)


def slow_talks(text):
    n, *rest = ints(text)
    talks = [rest[3 * i : 3 * i + 3] for i in range(n)]
    if n > 12:
        return None
    best = 0
    for chosen in itertools.product([0, 1], repeat=n):
        taken = sorted(talk for talk, yes in zip(talks, chosen) if yes)
        if all(a[1] <= b[0] for a, b in zip(taken, taken[1:])):
            best = max(best, sum(talk[2] for talk in taken))
    return [best]


program(
    """
Each talk of a conference has a start, an end and a value for you. You can hear talks one after
the other only; a talk may start at the very moment at which another one ends. What is the largest
total value of talks that you can hear from start to end?

Input: a line with n (1 <= n <= 100000), then n lines with start, end and value (0 <= start < end
<= 10^9, 1 <= value <= 10^6). Output: the largest total value.
""",
    """
import bisect
import sys

n, *rest = map(int, sys.stdin.read().split())
talks = sorted(zip(rest[1::3], rest[::3], rest[2::3]))
ends = [talk[0] for talk in talks]
best = [0]
for i, (end, start, value) in enumerate(talks):
    before = bisect.bisect_right(ends, start, 0, i)
    best.append(max(best[-1], best[before] + value))
print(best[n])
""",
    [
        "3\n0 10 5\n3 6 4\n6 9 2\n",
        "1\n0 1000000000 1000000\n",
        "4\n0 5 3\n0 5 9\n5 6 1\n4 7 8\n",
        "5\n0 3 4\n2 5 8\n4 7 4\n6 9 8\n8 10 3\n",
        lines([11], *[(3 * k % 11, 3 * k % 11 + 1 + k % 4, 5 + k * k % 13) for k in range(11)]),
        lines([90], *[(a, a + 1 + k % 9, 1 + k % 17) for k, a in enumerate(made(90, 0, 200, "t"))]),
    ],
    slow_talks,
)


def slow_groups(text):
    groups, out = {}, []
    for line in text.splitlines()[1:]:
        order, a, *b = line.split()
        for name in (a, *b):
            groups.setdefault(name, {name})
        if order == "meet":
            union = groups[a] | groups[b[0]]
            groups.update(dict.fromkeys(union, union))
        else:
            out.append(len(groups[a]) if order == "size" else "yes" if b[0] in groups[a] else "no")
    return out


program(
    """
People meet. Whoever meets somebody joins the two groups of acquaintances into one; at first
everybody is alone. Carry out these orders, in which a and b are names of lower-case letters:

meet a b    a and b meet (they may be in one group already)
size a      print the number of people in the group of a, a included
same a b    print yes if a and b are in the same group (or are the same person), else no

Input: a line with the number of orders (at most 100000), then the orders, one per line. Output:
one line for each `size` and `same`.
""",
    """
import sys

leader, size = {}, {}

def find(a):
    if a not in leader:
        leader[a], size[a] = a, 1
    while leader[a] != a:
        leader[a] = leader[leader[a]]
        a = leader[a]
    return a

for line in sys.stdin.read().splitlines()[1:]:
    words = line.split()
    if not words:
        continue
    a, b = find(words[1]), find(words[-1])
    if words[0] == "size":
        print(size[a])
    elif words[0] == "same":
        print("yes" if a == b else "no")
    elif a != b:
        if size[a] < size[b]:
            a, b = b, a
        leader[b] = a
        size[a] += size[b]
""",
    [
        "5\nmeet ann bob\nsize cy\nmeet bob cy\nsize ann\nsame cy dan\n",
        "3\nsame x x\nmeet x x\nsize x\n",
        "7\nmeet a b\nmeet c d\nsame a d\nmeet b c\nsame a d\nmeet d a\nsize d\n",
        "8\nmeet p q\nmeet r s\nmeet t u\nmeet q t\nsize p\nsize r\nsame u p\nsame s u\n",
        lines(
            "40",
            *[
                "meet " + chr(97 + k * 7 % 26) + " " + chr(97 + k * k % 26)
                if k % 2
                else "size " + chr(97 + k * 5 % 26)
                for k in range(40)
            ],
        ),  # fmt: skip
    ],
    slow_groups,
)


def slow_shelves(text):
    n, k, *books = ints(text)
    for width in itertools.count(max(books)):
        shelves, room = 0, 0
        for book in books:
            if book > room:
                shelves, room = shelves + 1, width
            room -= book
        if shelves <= k:
            return [width]


program(
    """
n books must be put on at most k shelves of equal width, in the given order: the first books on
the first shelf, the next ones on the second, and so on. How wide must the shelves be at least?

Input: a line with n and k (1 <= n, k <= 100000), and a line with the n thicknesses of the books
(from 1 to 10^9). Output: the smallest possible width.
""",
    """
n, k = map(int, input().split())
books = list(map(int, input().split()))
low, high = max(books), sum(books)
while low < high:
    width = (low + high) // 2
    shelves, room = 1, width
    for book in books:
        if book > room:
            shelves, room = shelves + 1, width
        room -= book
    if shelves <= k:
        high = width
    else:
        low = width + 1
print(low)
""",
    [
        "5 2\n4 3 5 1 6\n",
        "1 1\n9\n",
        "4 10\n3 8 2 8\n",
        "6 1\n1 2 3 4 5 6\n",
        "7 3\n10 1 1 1 9 9 2\n",
        lines([50, 7], made(50, 1, 60, "books")),
    ],
    slow_shelves,
)


def slow_divisible_sums(text):
    n, m, *a = ints(text)
    return [sum(sum(a[i:j]) % m == 0 for i in range(n) for j in range(i + 1, n + 1))]


program(
    """
How many non-empty runs of consecutive elements of a list have a sum that is divisible by m?

Input: a line with n and m (1 <= n <= 200000, 1 <= m <= 10^9), and a line with n integers from
-10^9 to 10^9. Output: the number of such runs.
""",
    """
n, m = map(int, input().split())
seen, running, count = {0: 1}, 0, 0
for v in map(int, input().split()):
    running = (running + v) % m
    count += seen.get(running, 0)
    seen[running] = seen.get(running, 0) + 1
print(count)
""",
    [
        "4 3\n1 2 -3 4\n",
        "1 5\n3\n",
        "5 1\n7 -7 0 2 9\n",
        "6 4\n-1 -3 0 0 5 -4\n",
        lines([60, 7], made(60, -50, 50, "runs")),
        lines([8, 10**9], [10**9, -1, 1, 5, 10**9 - 5, -(10**9), 2, 3]),
    ],
    slow_divisible_sums,
)


def slow_beads(text):
    n, *beads = text.split()
    spans = [(j - i, i) for i in range(len(beads)) for j in range(i + 1, len(beads) + 1)
             if {*beads[i:j]} == {*beads}]  # fmt: skip
    length, start = min(spans)
    return [start + 1, start + length]


program(
    """
Beads of several colours lie in a row. Find the shortest stretch of neighbouring beads that has
every colour of the row at least once; if there are several, the leftmost.

Input: a line with n (1 <= n <= 200000), and a line with n colours, words of lower-case letters.
Output: the positions, from 1, of the first and the last bead of the stretch.
""",
    """
n = int(input())
beads = input().split()
total, inside, first, best = len(set(beads)), {}, 0, (n + 1, 0)
for last, bead in enumerate(beads):
    inside[bead] = inside.get(bead, 0) + 1
    while len(inside) == total:
        best = min(best, (last - first + 1, first + 1))
        out = beads[first]
        inside[out] -= 1
        if not inside[out]:
            del inside[out]
        first += 1
print(best[1], best[1] + best[0] - 1)
""",
    [
        "7\nred blue red red green blue red\n",
        "1\nteal\n",
        "4\na a a a\n",
        "6\na b c a b c\n",
        "8\nx x y x x z y x\n",
        lines(
            [60],
            ["abcde"[v * v % 5 * (v % 2)] for v in range(30)]
            + ["abcdefg"[v] for v in made(30, 0, 6, "beads")],
        ),  # fmt: skip
    ],
    slow_beads,
)


def slow_page(text):
    width, words = int(text.split()[0]), text.split()[2:]
    rows = [[]]
    for word in words:
        rows[-1].append(word)
        if len(" ".join(rows[-1])) > width:
            rows.append([rows[-1].pop()])
    return [".".join(row).rjust(width, ".") for row in rows]


program(
    """
Set a text in lines of width w, flush right. Put as many words on each line as fit, with one dot
between neighbouring words, before going on with the next line; then fill each line with dots on
the left up to the width w.

Input: a line with w (1 <= w <= 100), a line with the number of words (at least 1), and a line
with the words, none of them longer than w. Output: the lines.
""",
    """
width = int(input())
input()
line = ""
for word in input().split():
    if line and len(line) + 1 + len(word) > width:
        print("." * (width - len(line)) + line)
        line = word
    else:
        line = line + "." + word if line else word
print("." * (width - len(line)) + line)
""",
    [
        "9\n5\nwe set a longer text\n",
        "1\n1\nx\n",
        "3\n4\na b c def\n",
        "12\n7\nabc defg hijk lmnopqrstuvw x y z\n",
        "20\n12\nthis line of words is neither very long nor very short indeed\n",
    ],
    slow_page,
)


def slow_calendar(text):
    m, *rest = ints(text)
    lengths, (year, month, day, delay) = rest[:m], rest[m:]
    for _ in range(delay):
        day += 1
        if day > lengths[month - 1] + (month == m and year % 4 == 0):
            month, day = month + 1, 1
        if month > m:
            year, month = year + 1, 1
    return [year, month, day]


program(
    """
On a far planet a year has m months, and month i has d_i days; in years divisible by 4 the last
month has one day more. Which date is it k days after a given date?

Input: a line with m (1 <= m <= 20), a line with d_1, ..., d_m (from 1 to 100), a line with year,
month and day of the given date (a valid date, year from 1 to 3000), and a line with k (0 <= k <=
100000). Output: year, month and day.
""",
    """
m = int(input())
lengths = list(map(int, input().split()))
year, month, day = map(int, input().split())
day += int(input())
while True:
    length = lengths[month - 1] + (month == m and year % 4 == 0)
    if day <= length:
        break
    day -= length
    month += 1
    if month > m:
        year, month = year + 1, 1
print(year, month, day)
""",
    [
        "3\n10 20 15\n4 3 14\n3\n",
        "3\n10 20 15\n5 3 14\n3\n",
        "1\n1\n1 1 1\n9\n",
        "4\n25 30 25 30\n1999 4 30\n0\n",
        "12\n31 28 31 30 31 30 31 31 30 31 30 31\n2023 2 27\n1000\n",
        "2\n7 9\n3 2 9\n5000\n",
    ],
    slow_calendar,
)


def slow_digits(text):
    low, high, m = ints(text)
    if high < 10**6:
        return [sum(sum(map(int, str(k))) % m == 0 for k in range(low, high + 1))]
    length = len(str(high)) - 1  # here low is 1 and high a power of ten
    assert (low, high) == (1, 10**length)
    powers = sympy.Poly(sum(x**d for d in range(10)), x) ** length
    return [sum(int(powers.coeff_monomial(x**s)) for s in range(m, 9 * length + 1, m)) + (m == 1)]


program(
    """
How many integers k with a <= k <= b have a sum of decimal digits that is divisible by m?

Input: one line with a, b and m (1 <= a <= b <= 10^18, 1 <= m <= 200). Output: the number of such
k.
""",
    """
def up_to(n, m):
    digits = list(map(int, str(n)))
    free, tight, total = {}, 0, 0          # free: remainder -> numbers below the prefix of n
    for d in digits:
        following = {}
        for rest, count in free.items():
            for e in range(10):
                following[(rest + e) % m] = following.get((rest + e) % m, 0) + count
        for e in range(d):
            following[(tight + e) % m] = following.get((tight + e) % m, 0) + 1
        free, tight = following, (tight + d) % m
    return free.get(0, 0) + (tight == 0)

if __name__ == "__main__":
    a, b, m = map(int, input().split())
    print(up_to(b, m) - up_to(a - 1, m))
""",
    [
        "5 30 6\n",
        "1 1 1\n",
        "1 9 10\n",
        "100 99999 13\n",
        "777 7777 7\n",
        "1 1000000000000 11\n",
        "1 1000000000000000000 97\n",
    ],
    slow_digits,
)


def slow_bank(text):
    history, refused = [], 0  # of the movements (account, amount)
    for line in text.splitlines()[1:]:
        order, *names, amount = line.split()
        amount, source = int(amount), names[0]
        balance = sum(change for name, change in history if name == source)
        if order == "pay":
            history.append((source, amount))
        elif balance < amount or order == "send" and names[0] == names[1]:
            refused += 1
        else:
            history += [(source, -amount), *((name, amount) for name in names[1:])]
    names = sorted({name for name, _ in history})
    return [w for name in names for w in (name, sum(c for a, c in history if a == name))] + [
        refused
    ]


program(
    """
Keep the accounts of a bank. An account exists from the first payment into it, be it by `pay` or
`send`.

pay a x       x is paid into account a
take a x      x is taken from account a
send a b x    x goes from account a to account b

A `take` or `send` is refused, and changes nothing, if account a does not exist or holds less than
x. A `send` from an account to itself is always refused. Names are lower-case letters, amounts x
are integers of at least 1.

Input: a line with the number of orders, then the orders, one per line. Output: for each account,
in alphabetical order, a line with its name and balance; then a line with the number of refused
orders.
""",
    """
balance, refused = {}, 0
for _ in range(int(input())):
    order, a, *others, x = input().split()
    x = int(x)
    if order == "pay":
        balance[a] = balance.get(a, 0) + x
    elif balance.get(a, 0) < x or others == [a]:
        refused += 1
    else:
        balance[a] -= x
        for b in others:
            balance[b] = balance.get(b, 0) + x
for name in sorted(balance):
    print(name, balance[name])
print(refused)
""",
    [
        "4\npay eve 50\nsend eve bob 20\ntake bob 21\ntake eve 30\n",
        "2\ntake a 1\nsend b c 5\n",
        "3\npay me 9\nsend me me 4\ntake me 9\n",
        "7\npay z 5\npay y 5\nsend z y 5\nsend z y 1\nsend y x 10\ntake x 3\nsend x w 8\n",
        "6\npay ab 100\npay aa 1\nsend ab b 99\ntake b 100\nsend b aa 50\npay ab 1\n",
    ],
    slow_bank,
)


def slow_lights(text):
    r, c, k, *grid = text.split()
    r, c = int(r), int(c)
    lit = {(i, j) for i in range(r) for j in range(c) if grid[i][j] == "*"}
    for _ in range(int(k)):
        touched = Counter(cell for i, j in lit for cell in
                          ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)))  # fmt: skip
        lit = {(i, j) for i in range(r) for j in range(c) if touched[i, j] in (1, 2 + (i + j) % 2)}
    return ["".join(".*"[(i, j) in lit] for j in range(c)) for i in range(r)]


program(
    """
Lamps stand in a grid of r rows and c columns, numbered from 0. Each second all of them change at
once. Afterwards, the lamp in row i and column j is lit if and only if before, of its at most four
neighbours (up, down, left, right), exactly one was lit, or exactly two where i + j is even, or
exactly three where i + j is odd. (Whether it was lit itself does not matter.) Show the grid after
k seconds.

Input: a line with r, c and k (r, c <= 50, 0 <= k <= 100), then r lines of c characters, `*` for a
lit lamp and `.` for one that is not. Output: the grid in the same form.
""",
    """
r, c, k = map(int, input().split())
grid = [input().strip() for _ in range(r)]
for _ in range(k):
    older, grid = grid, []
    for i in range(r):
        row = ""
        for j in range(c):
            near = 0
            for p, q in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                near += 0 <= p < r and 0 <= q < c and older[p][q] == "*"
            row += "*" if near == 1 or near == (3 if (i + j) % 2 else 2) else "."
        grid.append(row)
print("\\n".join(grid))
""",
    [
        "2 3 1\n*.*\n...\n",
        "1 1 4\n*\n",
        "3 3 0\n*.*\n.*.\n...\n",
        "3 4 1\n.**.\n*..*\n.**.\n",
        "5 5 3\n..*..\n.***.\n*****\n.***.\n..*..\n",
        "4 6 10\n*.....\n......\n......\n.....*\n",
    ],
    slow_lights,
)


def slow_shortened(text):
    word, k = text.split()
    return [min("".join(kept) for kept in itertools.combinations(word, len(word) - int(k)))]


program(
    """
Remove exactly k letters from a word so that what is left, in its order, comes first in the
alphabetical order of all possible results.

Input: one line with the word (lower-case letters, at most 100000) and one with k (0 <= k < length
of the word). Output: the word that is left.
""",
    """
word, k = input().strip(), int(input())
keep, stack = len(word) - k, []
for c in word:
    while k and stack and stack[-1] > c:
        stack.pop()
        k -= 1
    stack.append(c)
print("".join(stack[:keep]))
""",
    [
        "bcabd\n2\n",
        "a\n0\n",
        "abcdef\n3\n",
        "zyxwv\n4\n",
        "cbacbacba\n5\n",
        "banana\n1\n",
        "mississippiriver\n8\n",
    ],
    slow_shortened,
)


def slow_counters(text):
    n, c, *rest = ints(text)
    waiting = [(rest[2 * i], i, rest[2 * i + 1]) for i in range(n)]
    free, begins = [0] * c, {}
    for minute in itertools.count():
        while waiting and waiting[0][0] <= minute and min(free) <= minute:
            _, i, duration = waiting.pop(0)
            free[free.index(min(free))] = minute + duration
            begins[i] = minute
        if not waiting:
            return [begins[i] for i in range(n)] + [max(free)]


program(
    """
Customers come to an office with c counters. They are served in the order of their arrival:
whoever is first in the queue goes to a counter as soon as one is free. A counter at which a
customer's service ends at time t is free for the next one at time t.

Input: a line with the number of customers n and of counters c (1 <= n, c <= 100000), then n lines
with the arrival time and the duration of the service (integers, 0 <= arrival <= 10^9, 1 <=
duration <= 10^6), in the order of arrival. Output: n lines with the times at which the customers'
services begin, then a line with the time at which the last service ends.
""",
    """
import heapq
import sys

n, c, *rest = map(int, sys.stdin.read().split())
free, last = [0] * c, 0
for i in range(n):
    arrival, duration = rest[2 * i], rest[2 * i + 1]
    begin = max(arrival, heapq.heappop(free))
    heapq.heappush(free, begin + duration)
    last = max(last, begin + duration)
    print(begin)
print(last)
""",
    [
        "3 1\n0 5\n2 4\n20 1\n",
        "1 3\n7 2\n",
        "4 2\n0 10\n0 3\n1 3\n2 9\n",
        "5 2\n5 1\n5 1\n5 1\n6 100\n6 1\n",
        lines([20, 3], *zip(sorted(made(20, 0, 40, "in")), made(20, 1, 12, "long"))),
    ],
    slow_counters,
)


def slow_tree(text):
    n, *parents = ints(text)
    near = defaultdict(set)
    for child, parent in enumerate(parents, 2):
        near[child].add(parent)
        near[parent].add(child)
    farthest = []
    for start in range(1, n + 1):
        rounds, reached = 0, {start}
        while len(reached) < n:
            reached |= {other for node in reached for other in near[node]}
            rounds += 1
        farthest.append(rounds)
    return [max(farthest), farthest.count(min(farthest))]


program(
    """
In a tree of n nodes, the distance of two nodes is the number of edges between them, and the reach
of a node is the largest distance from it to any node. Print the largest reach of all nodes, and
how many nodes have the smallest reach.

Input: a line with n (1 <= n <= 100000), and, if n > 1, a line with n - 1 numbers, the parents of
the nodes 2, 3, ..., n. Node 1 is the root; the parent of a node may have a larger number than the
node. Output: the two numbers in one line.
""",
    """
import sys

n, *parents = map(int, sys.stdin.read().split())
near = [[] for _ in range(n + 1)]
for child, parent in enumerate(parents, 2):
    near[child].append(parent)
    near[parent].append(child)

def distances(start):
    far = [-1] * (n + 1)
    far[start], order = 0, [start]
    for node in order:
        for other in near[node]:
            if far[other] < 0:
                far[other] = far[node] + 1
                order.append(other)
    return far, order[-1]

_, a = distances(1)
from_a, b = distances(a)
from_b, _ = distances(b)
reach = [max(p, q) for p, q in zip(from_a[1:], from_b[1:])]
print(max(reach), reach.count(min(reach)))
""",
    [
        "6\n1 2 2 4 1\n",
        "1\n",
        "2\n1\n",
        "7\n1 1 1 1 1 1\n",
        "8\n3 1 3 4 5 1 7\n",
        lines([40], [max(1, k - 1 - k % 4) for k in range(2, 41)]),
    ],
    slow_tree,
)


def slow_teams(text):
    n, *a = ints(text)
    return [min(abs(sum(s * v for s, v in zip(signs, a)))
                for signs in itertools.product([1, -1], repeat=n)
                if abs(sum(signs)) == n % 2)]  # fmt: skip


program(
    """
n players, each with a strength, form two teams whose sizes differ by at most one. The strength of
a team is the sum of the strengths of its players. What is the smallest possible difference of the
two teams' strengths?

Input: a line with n (2 <= n <= 40), and a line with the n strengths (integers from 0 to 500).
Output: the smallest difference.
""",
    """
n = int(input())
a = list(map(int, input().split()))
sums = [1] + [0] * n                # bit s of sums[k]: k players can have strength s
for v in a:
    for k in range(n, 0, -1):
        sums[k] |= sums[k - 1] << v
total = sum(a)
print(min(abs(total - 2 * s) for s in range(total + 1) if sums[n // 2] >> s & 1))
""",
    [
        "4\n1 2 3 10\n",
        "2\n0 500\n",
        "3\n5 5 10\n",
        "5\n100 1 1 1 97\n",
        "6\n8 8 8 1 1 1\n",
        "11\n13 27 44 58 61 79 83 90 122 305 410\n",
    ],
    slow_teams,
)


# ---- files ---------------------------------------------------------------------------------------


def write_math(folder, seed):
    """PER_TEMPLATE questions of each template, each with a generator of its own."""
    rows = {}
    for make in TEMPLATES:
        rng, wanted = random.Random(f"{seed} {make.__name__}"), len(rows) + PER_TEMPLATE
        while len(rows) < wanted:
            if drawn := make(rng):
                rows.setdefault(drawn[0], tex(drawn[1]))
    rng, find = random.Random(f"{seed} wording"), ["Find ", "Determine ", "Work out "]
    worded = [(re.sub(r"\bFind ", rng.choice(find), q), answer) for q, answer in rows.items()]
    write(folder / "math.jsonl", [{"question": q, "answer": answer} for q, answer in worded])


def run_script(source, text):
    """What a script prints, in this process."""
    before, sys.stdin = sys.stdin, io.StringIO(text)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(source, "solution", "exec"), {"__name__": "__main__"})
    finally:
        sys.stdin = before
    return printed.getvalue()


def script_tests(problem):
    for text in problem.inputs:
        output, slow = run_script(problem.solution, text), problem.slow(text)
        assert slow is None or output.split() == [*map(str, slow)], (problem.question, text, slow)
        yield {"input": text, "output": output}


def function_tests(problem):
    namespace = {}
    exec(compile(problem.solution, "solution", "exec"), namespace)
    for arguments in problem.inputs:
        calls = called(problem, arguments)
        result, slow = calls[0][1], problem.slow(*arguments)
        same = (result, type(result)) == (slow, type(slow))
        assert slow is None or same, (problem.name, arguments, slow)
        test = "\n".join(assertion(*pair) for pair in calls)
        exec(test, namespace)
        yield test


def called(problem, arguments):
    """Calls and results. Of two names, the second undoes what the first does to its argument."""
    (name, *inverse), namespace = problem.name.split(), {}
    exec(compile(problem.solution, "solution", "exec"), namespace)
    result, (first, *others) = namespace[name](*arguments), arguments
    calls = [(name, arguments, result)] + [(i, (result, *others), first) for i in inverse]
    return [(f"{name}({', '.join(map(literal, given))})", value) for name, given, value in calls]


def assertion(call, result):
    if isinstance(result, float):
        return f"assert abs({call} - {result!r}) < 1e-6"
    return f"assert {call} {'is' if result is None else '=='} {literal(result)}"


def with_example(problem):
    """The question, and the first test as an example."""
    given = problem.inputs[0]
    if problem.name:
        pairs = [f"`{call}` returns `{literal(value)}`" for call, value in called(problem, given)]
        return f"{problem.question}\n\nExample: {', and '.join(pairs)}."
    output = run_script(problem.solution, given)
    return f"{problem.question}\n\nExample input:\n{given}\nExample output:\n{output}".strip()


def expected(test):
    return test["output"] if isinstance(test, dict) else re.split(" == | is | - ", test)[-1]


def write_code(folder):
    rows = []
    for problem in CODE:
        tests = list(function_tests(problem) if problem.name else script_tests(problem))
        assert 4 <= len(tests) <= 8 and len(set(map(str, tests))) == len(tests), problem.question
        assert len(set(map(expected, tests))) > 1, f"a constant solves {problem.question}"
        rows.append({"question": with_example(problem), "tests": tests})
    write(folder / "code.jsonl", rows)


def write(path, rows):
    assert len({row["question"] for row in rows}) == len(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} problems in {path.name}")


def main():
    write_math(HERE, seed=0)
    write_code(HERE)


if __name__ == "__main__":
    main()
