r"""Extraction and comparison of answers, on cases written by hand: an output, and a reference that a person accepts.

The traps are those of the published evaluation codes: thousands separators, units, forms of \frac, percentages,
choices, several numbers in an answer, and outputs of programs with text.
"""

import pytest

from s2l_ray.core.evaluation.answers import answers_equal, reference_text, reference_type
from s2l_ray.core.evaluation.extraction import AnswerType, extract_answer, extract_printed_answer, find_program

Case = tuple[str, str]

RIGHT_NUMBERS: list[Case] = [
    ("The answer is 18", "18"),
    ("The answer is 18.", "18"),
    ("She makes 9 * 2 = 18 dollars.\nThe answer is $18", "18"),
    ("The answer is \\$18.00 per day", "18"),
    ("the answer is: -7", "-7"),
    ("The answer is \u22127", "-7"),
    ("The answer is $-7", "-7"),
    ("The answer is -$7", "-7"),
    ("The answer is 1,234", "1234"),
    ("The answer is 1234", "1,234"),
    ("The answer is 12,345,678.", "12345678"),
    ("The answer is $1{,}234$", "1234"),
    ("The answer is $1,\\!234$", "1234"),
    ("The answer is $12\\,345$", "12345"),
    ("The answer is 162 minutes", "162"),
    ("The answer is 5.5kg", "5.5"),
    ("The answer is 45^\\circ", "45"),
    ("The answer is \\frac{1}{2}", "0.5"),
    ("The answer is \\dfrac{3}{4}", "0.75"),
    ("The answer is \\tfrac34", "0.75"),
    ("The answer is \\frac12", "0.5"),
    ("The answer is -\\frac{40}{5}", "-8"),
    ("The answer is 1/3", "0.33"),
    ("The answer is 6 3/4", "6.75"),
    ("The answer is $6\\frac{3}{4}$", "6.75"),
    ("The answer is 2\u00bd hours", "2.5"),
    ("The answer is 50%", "50"),
    ("The answer is 50\\%", "50"),
    ("The answer is 50 percent", "0.5"),
    ("The answer is 0.5", "50%"),
    ("The answer is 3e3", "3000"),
    ("The answer is $1.5 \\times 10^{3}$", "1500"),
    ("The answer is .5", "0.5"),
    ("The answer is 61.538461", "61.54"),
    ("The answer is 17.999999999999996", "18"),
    ("The answer is 51", "51.0"),
    ("The answer is 16 - 3 - 4 = 9", "9"),
    ("The answer is x = 12.", "12"),
    ("The answer is 12 apples, not 15", "12"),
    ("The answer is 3. No, the answer is 4", "4"),
    ("**The answer is 42**", "42"),
    ("Final answer: 42", "42"),
    ("Answer: **42**", "42"),
    ("The answer is:\n42", "42"),
    ("Sold <<48/2=24>>24 in May, 48+24=72 in all.\n#### 72", "72"),
    ("#### 1,072", "1072"),
    ("so we get $\\boxed{72}$ clips in 2 months", "72"),
    ("\\boxed{7} is wrong, thus \\boxed{8}", "8"),
    ("\\boxed{\\text{about } 8}", "8"),
    ("\\fbox{8}", "8"),
    ("\\boxed 8 items", "8"),
    ("First 3, then 4, hence 7 in all.", "7"),
    ("It costs 5 dollars.", "5"),
    ("I think it is 5 - 3", "3"),
    ("The answer is 007", "7"),
    ("The answer is 0", "0"),
    ("The answer is -0.0", "0"),
]
WRONG_NUMBERS: list[Case] = [
    ("The answer is 18", "19"),
    ("The answer is -18", "18"),
    ("The answer is 1,234", "234"),
    ("The answer is 1.234", "1234"),
    ("The answer is 50%", "5"),
    ("The answer is 0.12", "0.1"),
    ("The answer is 61.53", "61.54"),
    ("The answer is 17.9", "18"),
    ("The answer is 1/0", "0"),
    ("The answer is 12 of 15", "15"),
    ("\\boxed{8}, which is 9 less 1. The answer is 9", "9"),
    ("The answer is 1e400", "1e40"),
]
RIGHT_CHOICES: list[Case] = [
    ("The answer is (A)", "A"),
    ("The answer is B", "B"),
    ("The answer is B.", "B"),
    ("The answer is (b)", "B"),
    ("answer : b", "B"),
    ("The answer is option D because A ball falls", "D"),
    ("The answer is A) web", "A"),
    ("\\boxed{C}", "C"),
    ("\\boxed{\\text{(C)}}", "C"),
    ("A tree offers more resistance, so (B)", "B"),
    ("C", "C"),
    ("It must be B: a web", "B"),
]
WRONG_CHOICES: list[Case] = [
    ("The answer is (A)", "B"),
    ("A tree offers a lot of resistance", "A"),
    ("I know it", "I"),
    ("The answer is 7", "A"),
]
RIGHT_EXPRESSIONS: list[Case] = [
    ("Hence $\\boxed{\\frac{\\sqrt{2}}{2}}$.", "\\frac{1}{\\sqrt{2}}"),
    ("The answer is \\dfrac{9}{7}", "\\frac{9}{7}"),
    ("The answer is 9/7", "\\dfrac{9}{7}"),
    ("The answer is \\frac97.", "\\frac{9}{7}"),
    ("The answer is $\\left( \\frac{8}{5}, -\\frac{35}{2} \\right)$", "\\left(\\frac{8}{5},-\\frac{35}{2}\\right)"),
    ("\\boxed{(-5,-4)}", "(-5, -4)"),
    ("\\boxed{[-2,7]}", "x \\in [-2,7]"),
    ("\\boxed{x=5}", "5"),
    ("\\boxed{162}", "162\\text{ minutes}"),
    ("The answer is 162 minutes", "162\\text{ minutes}"),
    ("\\boxed{45}", "45^\\circ"),
    ("\\boxed{\\$1,234.50}", "1234.5"),
    ("\\boxed{25\\%}", "25"),
    ("\\boxed{\\text{Evelyn}}", "\\text{Evelyn}"),
    ("The answer is Evelyn", "\\text{Evelyn}"),
    ("The answer is august.", "August"),
    ("\\boxed{\\begin{pmatrix}-3\\\\-2\\\\9\\end{pmatrix}}", "\\begin{pmatrix} -3 \\\\ -2 \\\\ 9 \\end{pmatrix}"),
    ("\\boxed{x^2+2x+1}", "(x+1)^2"),
    ("\\boxed{2+x}", "x+2"),
    ("\\boxed{4, 6, 14, 15}", "4,6,14,15"),
    ("The answer is -360f", "-360*f"),
    ("The answer is 3, 5", "[3, 5]"),
    ("The answer is [3,5]", "[3, 5]"),
    ("The answer is 3 and 5", "[3, 5]"),
    ("\\boxed{6.75}", "6 \\frac{3}{4}"),
    ("\\boxed{\\sqrt3}", "\\sqrt{3}"),
    ("\\boxed{.5}", "0.5"),
    ("so it is $\\frac{1}{2}$ in the end", "0.5"),
    ("\\boxed{2{,}500}", "2500"),
    ("\\boxed{10\\sqrt{3}\\text{ cm}^2}", "10\\sqrt{3}"),
    ("\\boxed{i}", "i"),
]
WRONG_EXPRESSIONS: list[Case] = [
    ("\\boxed{(-4,-5)}", "(-5,-4)"),
    ("\\boxed{\\frac{1}{2}}", "\\frac{1}{3}"),
    ("\\boxed{2\\pi}", "2"),
    ("The answer is 2 pi", "2"),
    ("\\boxed{x+2}", "x-2"),
    ("The answer is [5, 3]", "[3, 5]"),
    ("\\boxed{\\text{Carla}}", "\\text{Evelyn}"),
    ("The answer is Amy Lou", "Lou Amy"),
    ("\\boxed{\\frac{1}{", "\\frac{1}{2}"),
    ("\\boxed{0.33}", "\\frac{1}{3}"),
]
PRINTED: list[tuple[str, str, AnswerType]] = [
    ("18\n", "18", "number"),
    ("18.0\n", "18", "number"),
    ("Step 1: 5\nTotal: 18\n", "18", "number"),
    ("The answer is 18 and not 20\n", "18", "number"),
    ("[18]\n", "18", "number"),
    ("{x: 18}\n", "18", "number"),
    ("Fraction(37, 2)\n", "18.5", "number"),
    ("np.float64(18.5)\n", "18.5", "number"),
    ("1e+03\n", "1000", "number"),
    ("B\n", "B", "choice"),
    ("factors\n[3, 5]\n\n", "[3, 5]", "expression"),
    ("-360*f\n", "-360*f", "expression"),
    ("sqrt(2)/2\n", "\\frac{\\sqrt{2}}{2}", "expression"),
]


def is_right(text: str, reference: str, answer_type: AnswerType) -> bool:
    answer = extract_answer(text, answer_type)
    return answer is not None and answers_equal(answer, reference, answer_type)


@pytest.mark.parametrize(("text", "reference"), RIGHT_NUMBERS)
def test_a_right_number(text: str, reference: str) -> None:
    assert is_right(text, reference, "number")


@pytest.mark.parametrize(("text", "reference"), WRONG_NUMBERS)
def test_a_wrong_number(text: str, reference: str) -> None:
    assert not is_right(text, reference, "number")


@pytest.mark.parametrize(("text", "reference"), RIGHT_CHOICES)
def test_a_right_choice(text: str, reference: str) -> None:
    assert is_right(text, reference, "choice")


@pytest.mark.parametrize(("text", "reference"), WRONG_CHOICES)
def test_a_wrong_choice(text: str, reference: str) -> None:
    assert not is_right(text, reference, "choice")


@pytest.mark.parametrize(("text", "reference"), RIGHT_EXPRESSIONS)
def test_a_right_expression(text: str, reference: str) -> None:
    pytest.importorskip("math_verify")
    assert is_right(text, reference, "expression")


@pytest.mark.parametrize(("text", "reference"), WRONG_EXPRESSIONS)
def test_a_wrong_expression(text: str, reference: str) -> None:
    pytest.importorskip("math_verify")
    assert not is_right(text, reference, "expression")


@pytest.mark.parametrize(("output", "reference", "answer_type"), PRINTED)
def test_the_answer_a_program_prints(output: str, reference: str, answer_type: AnswerType) -> None:
    answer = extract_printed_answer(output, answer_type)
    assert answer is not None and answers_equal(answer, reference, answer_type)


@pytest.mark.parametrize("text", ["", " \n", "I do not know", "The answer is", "\\boxed{}", "9" * 5000])
def test_a_text_without_a_number_has_no_answer(text: str) -> None:
    assert extract_answer(text, "number") is None
    assert extract_printed_answer(text, "number") is None


@pytest.mark.parametrize(
    ("value", "text"), [(51.0, "51"), (2.5, "2.5"), (7, "7"), ("74.0", "74.0"), (-3.0, "-3"), ("A", "A")]
)
def test_references_as_text(value: str | float, text: str) -> None:
    assert reference_text(value, "number") == text


def test_a_letter_as_reference_makes_a_choice() -> None:
    assert reference_type("number", "B") == "choice"
    assert reference_type("number", "18") == "number"
    assert reference_type("number", "August") == "expression"
    assert reference_type("expression", "A") == "expression"


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("a = 3\nprint(a * 2)", "a = 3\nprint(a * 2)"),
        ("Here it is:\n```python\nprint(6)\n```\nDone.", "print(6)\n"),
        ("```\na = 6\n```\nand\n```py\nprint(a)\n```", "a = 6\n\nprint(a)\n"),
        ("```python\nprint(6)", "print(6)"),
        ("```python\nprint(6)\n```\nThis prints\n```\n= 6\n```", "print(6)\n"),
        ("```python\nprint(6)\n```\n```output\n= 6\n```\n```bash\nls\n```", "print(6)\n"),
        ("The answer is 6", None),
        ("6", None),
        ("", None),
        ("print(6", None),
        ("print\0(6)", None),
        ("x = 6", None),
        ("(" * 5000 + "print(1)", None),
    ],
)
def test_programs_in_outputs(text: str, program: str | None) -> None:
    assert find_program(text) == program


def test_a_program_that_only_defines_a_solution_prints_it() -> None:
    program = find_program("def solution():\n    return 6")
    assert program is not None
    printed: list[int] = []
    exec(program, {"print": printed.append})
    assert printed == [6]
