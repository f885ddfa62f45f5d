"""Numbers in text: their many forms in answers, their exact values, and the tolerance of a comparison."""

import re
from fractions import Fraction

# Relative error of a computed number, and the largest one that rounding to the decimals of a reference may cause.
ROUNDING, MOST_ROUNDING = Fraction(1, 10**6), Fraction(4, 100)

CHARACTERS = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u2044": "/", "\u00bd": " 1/2", "\u00bc": " 1/4", "\u00be": " 3/4"}
)
SIMPLIFICATIONS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\left|\\right", ""),
        # thousands separators: 1,234 and, in LaTeX, 1{,}234, 1,\!234 and 1\,234
        (r"(?<=\d)(?:,|\{,\}|,\\!|\\,|[\u2009\u202f])(?=\d{3}(?!\d))", ""),
        (r"(\d)\s*(?:\\times|\\cdot|\u00d7|\*)\s*10\s*(?:\^|\*\*)\s*\{?(-?\d+)\}?", r"\1e\2"),
        (r"\\[,!; ]|~|\*\*", " "),
        (r"-\s*\\?[$\u00a3\u20ac]\s*", "-"),
        (r"\\?[$\u00a3\u20ac]", " "),
        (r"=\s*-\s+(?=[\d\\])", "= -"),
        (r"\\[dtc]?frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"(\d)\s*\\[dtc]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}", r"\1 \2/\3"),
        (r"\\[dtc]?frac\s*\{\s*(-?[\d.]+)\s*\}\s*\{\s*([\d.]+)\s*\}", r"\1/\2"),
        (r"(?:Fraction|Rational)\((-?\d+), ?(\d+)\)", r"\1/\2"),
        (r"(\d)\s*(?:\\?%|percent\b|per cent\b)", r"\1%"),
    )
)
NUMBER = re.compile(
    r"(?:(?<![\w.)\]])-)?(?<![\w.])(?:\d+ \d+/\d+|(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3})?(?:/\d+(?:\.\d+)?)?)%?"
)
# Longer ones come from a model that repeats a digit.
MOST_CHARACTERS = 100


def simplify_numbers(text: str) -> str:
    """Text in which numbers have no thousands separators, currency signs or LaTeX, and fractions are a/b."""
    text = text.translate(CHARACTERS)
    for pattern, replacement in SIMPLIFICATIONS:
        text = pattern.sub(replacement, text)
    return text


def find_numbers(text: str) -> list[str]:
    """Numbers of a text in order: integers, decimals, powers of ten, a/b, mixed numbers `a b/c`, percentages."""
    return [match[0] for match in NUMBER.finditer(simplify_numbers(text)) if len(match[0]) <= MOST_CHARACTERS]


def number_value(number: str) -> Fraction | None:
    """Exact value of one number that `find_numbers` returned, without its percent sign; None for a division by 0."""
    sign = -1 if number.startswith("-") else 1
    whole, _, fraction = number.strip("-% ").rpartition(" ")
    numerator, _, denominator = fraction.partition("/")
    if denominator and not Fraction(denominator):
        return None
    return sign * (Fraction(whole or 0) + Fraction(numerator) / Fraction(denominator or 1))


def numbers_equal(answer: str, reference: str) -> bool:
    """Whether a number equals a reference.

    A relative error of 1e-6 is allowed, for programs that compute in floating point, and to a reference with decimals
    the error of rounding to as many, if that is at most 4 %. A percentage equals its value and its hundredth: 50 % is
    50 and 0.5.
    """
    value, expected = number_value(answer), number_value(reference)
    if value is None or expected is None:
        return False
    decimals = re.search(r"\.(\d*[1-9]\d*)%?$", reference)
    rounding = Fraction(1, 2 * 10 ** len(decimals[1])) if decimals else Fraction(0)
    tolerance = max(abs(expected) * ROUNDING, min(rounding, abs(expected) * MOST_ROUNDING))
    scales = {Fraction(1)}
    if answer.endswith("%") != reference.endswith("%"):
        scales.add(Fraction(1, 100) if answer.endswith("%") else Fraction(100))
    return any(abs(value * scale - expected) <= tolerance for scale in scales)
