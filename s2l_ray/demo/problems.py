"""Generators of arithmetic word problems with solutions, one function per family.

Each takes a random generator and a level of difficulty from 1 to 3, and returns a `Problem`: a question, and steps that
consist of a sentence, an arithmetic expression and its value. A higher level has more steps or larger numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

# fmt: off
NAMES = (
    "Ada", "Ben", "Chen", "Dara", "Emil", "Fatou", "Grace", "Hugo", "Ines", "Jonas",
    "Kofi", "Lena", "Maya", "Noor", "Omar", "Priya", "Rosa", "Sven", "Tariq", "Yuki",
)
ITEMS = (
    "apples", "pens", "books", "shells", "stamps", "marbles",
    "tickets", "cards", "buttons", "coins", "lemons", "stickers",
)
PLACES = ("market", "school", "library", "station", "garden", "museum", "harbour", "bakery")
# fmt: on


@dataclass(frozen=True)
class Step:
    """One line of a solution: a sentence, and `expression` = `value`."""

    text: str
    expression: str
    value: int


@dataclass(frozen=True)
class Problem:
    """A question with its solution; the value of the last step is the answer."""

    question: str
    steps: Sequence[Step]
    level: int

    @property
    def answer(self) -> int:
        return self.steps[-1].value

    def solution(self) -> str:
        lines = [f"{step.text} {step.expression} = {step.value}." for step in self.steps]
        return "\n".join([*lines, f"The answer is {self.answer}."])


def addition(rng: Random, level: int) -> Problem:
    name, item, top = rng.choice(NAMES), rng.choice(ITEMS), 10 ** (level + 1)
    amounts = [rng.randrange(2, top) for _ in range(level + 1)]
    rest = "".join(f", then {amount} more" for amount in amounts[1:])
    question = rng.choice(
        [
            f"{name} has {amounts[0]} {item} and gets some{rest}. How many {item} does {name} have in the end?",
            f"At the {rng.choice(PLACES)}, {name} collects {amounts[0]} {item}{rest}. How many {item} is that?",
            f"A box holds {amounts[0]} {item}. {name} puts in some{rest}. How many {item} are in the box now?",
        ]
    )
    steps, total = [], amounts[0]
    for amount in amounts[1:]:
        steps.append(Step("Together that makes", f"{total} + {amount}", total + amount))
        total += amount
    return Problem(question, steps, level)


def subtraction(rng: Random, level: int) -> Problem:
    name, other, item = rng.choice(NAMES), rng.choice(NAMES), rng.choice(ITEMS)
    parts = [rng.randrange(2, 10**level) for _ in range(level)]
    left = start = sum(parts) + rng.randrange(1, 10**level)
    gone = " and later ".join(map(str, parts))
    question = rng.choice(
        [
            f"{name} has {start} {item} and gives {other} {gone} of them. How many {item} are left?",
            f"There are {start} {item} in the {rng.choice(PLACES)}. {name} takes {gone}. How many remain?",
            f"Of {start} {item}, {name} sells {gone}. How many {item} has {name} still got?",
        ]
    )
    steps = []
    for part in parts:
        steps.append(Step("What is left is", f"{left} - {part}", left - part))
        left -= part
    return Problem(question, steps, level)


def change(rng: Random, level: int) -> Problem:
    name, (first, second) = rng.choice(NAMES), rng.sample(ITEMS, 2)
    count, price = rng.randrange(2, 4 + 5 * level), rng.randrange(2, 3 + 6 * level)
    steps = [Step(f"The {first} cost", f"{count} * {price}", count * price)]
    basket, cost = f"{count} {first} at {price} dollars each", count * price
    if level == 3:
        more, unit = rng.randrange(2, 10), rng.randrange(2, 12)
        basket += f" and {more} {second} at {unit} dollars each"
        steps.append(Step(f"The {second} cost", f"{more} * {unit}", more * unit))
        steps.append(Step("Together they cost", f"{cost} + {more * unit}", cost + more * unit))
        cost += more * unit
    if level == 1:
        ask = rng.choice([f"How much does {name} pay?", "What is the price of all of them in dollars?"])
        return Problem(f"{name} buys {basket}. {ask}", steps, level)
    note = next(note for note in (10, 20, 50, 100, 200, 500, 1000) if note > cost)
    steps.append(Step("The change is", f"{note} - {cost}", note - cost))
    ask = rng.choice(["How much change is there?", f"How many dollars does {name} get back?"])
    pays = rng.choice(["pays with", "hands over"])
    return Problem(f"{name} buys {basket} and {pays} {note} dollars. {ask}", steps, level)


def rates(rng: Random, level: int) -> Problem:
    name, speed, hours = rng.choice(NAMES), rng.randrange(3, 30 * level), rng.randrange(2, 5 + 2 * level)
    way = rng.choice(["cycles", "drives", "sails", "travels"])
    steps = [Step("The distance is", f"{speed} * {hours}", speed * hours)]
    text = f"{name} {way} at {speed} kilometres an hour for {hours} hours"
    if level == 1:
        return Problem(f"{text}. How many kilometres is that?", steps, level)
    more, time = rng.randrange(3, 60), rng.randrange(2, 6)
    text += f", then at {more} kilometres an hour for {time} hours"
    steps.append(Step("The second part is", f"{more} * {time}", more * time))
    total = speed * hours + more * time
    steps.append(Step("The whole way is", f"{speed * hours} + {more * time}", total))
    if level == 2:
        return Problem(f"{text}. How far is that in kilometres?", steps, level)
    goal = total + rng.randrange(5, 200)
    steps.append(Step("What is missing is", f"{goal} - {total}", goal - total))
    return Problem(f"{text}. The goal is {goal} kilometres away. How many are left?", steps, level)


def averages(rng: Random, level: int) -> Problem:
    name, count = rng.choice(NAMES), level + 1
    scores = [rng.randrange(1, 40 * level) for _ in range(count)]
    scores[-1] += -sum(scores) % count
    listed = ", ".join(map(str, scores))
    question = rng.choice(
        [f"{name} scores {listed} points. What is the average score?", f"What is the mean of {name}'s marks {listed}?"]
    )
    steps = (
        Step("The sum is", " + ".join(map(str, scores)), sum(scores)),
        Step("The average is", f"{sum(scores)} / {count}", sum(scores) // count),
    )
    return Problem(question, steps, level)


def percent(rng: Random, level: int) -> Problem:
    item, share = rng.choice(ITEMS), rng.choice([10, 20, 25, 50, 75][: level + 2])
    price = 20 * rng.randrange(2, 20 * level)
    part = price * share // 100
    steps = [Step("The share is", f"{price} * {share} / 100", part)]
    if level == 1:
        return Problem(f"What is {share} percent of {price} {item}?", steps, level)
    steps.append(Step("What remains is", f"{price} - {part}", price - part))
    text = f"A crate of {item} costs {price} dollars and is reduced by {share} percent"
    if level == 2:
        return Problem(f"{text}. What does it cost now?", steps, level)
    count = rng.randrange(2, 9)
    steps.append(Step("All of them cost", f"{count} * {price - part}", count * (price - part)))
    return Problem(f"{text}. What do {count} crates cost now?", steps, level)


def fractions(rng: Random, level: int) -> Problem:
    name, item, below = rng.choice(NAMES), rng.choice(ITEMS), rng.randrange(2, 4 + 3 * level)
    above, whole = rng.randrange(1, below), below * rng.randrange(2, 12 * level)
    each = whole // below
    steps = [
        Step("One part is", f"{whole} / {below}", each),
        Step("The parts asked for are", f"{above} * {each}", above * each),
    ]
    text = f"{name} has {whole} {item} and gives away {above}/{below} of them"
    if level == 1:
        return Problem(f"{text}. How many are given away?", steps, level)
    steps.append(Step("What is left is", f"{whole} - {above * each}", whole - above * each))
    return Problem(f"{text}. How many {item} does {name} keep?", steps, level)


def geometry(rng: Random, level: int) -> Problem:
    place, a, b, c = rng.choice(PLACES), *(rng.randrange(2, 8 + 8 * level) for _ in range(3))
    floor = Step("The area is", f"{a} * {b}", a * b)
    text = f"A room of the {place} is {a} metres long and {b} metres wide"
    if level == 1:
        return Problem(f"{text}. What is its area in square metres?", (floor,), level)
    if level == 2:
        steps = Step("Length and width are", f"{a} + {b}", a + b), Step("The edge is", f"2 * {a + b}", 2 * (a + b))
        return Problem(f"{text}. How long is its edge?", steps, level)
    volume = Step("The volume is", f"{a * b} * {c}", a * b * c)
    return Problem(f"{text} and {c} metres high. What is its volume in cubic metres?", (floor, volume), level)


def units(rng: Random, level: int) -> Problem:
    name = rng.choice(NAMES)
    large, small, factor = rng.choice([("hours", "minutes", 60), ("metres", "centimetres", 100), ("weeks", "days", 7)])
    first, rest = rng.randrange(2, 15 * level), rng.randrange(1, factor)
    steps = [Step(f"In {small} that is", f"{first} * {factor}", first * factor)]
    if level == 1:
        return Problem(f"{name} counts {first} {large}. How many {small} is that?", steps, level)
    steps.append(Step("With the rest it is", f"{first * factor} + {rest}", first * factor + rest))
    text = f"{name} counts {first} {large} and {rest} {small}"
    if level == 2:
        return Problem(f"{text}. How many {small} is that in all?", steps, level)
    total = first * factor + rest
    steps.append(Step("Twice that is", f"2 * {total}", 2 * total))
    return Problem(f"{text}, twice. How many {small} is that in all?", steps, level)


def ages(rng: Random, level: int) -> Problem:
    (young, old), age, times = rng.sample(NAMES, 2), rng.randrange(3, 20), rng.randrange(2, 5)
    steps = [Step(f"{old} is", f"{times} * {age}", times * age)]
    text = f"{young} is {age} years old and {old} is {times} times as old"
    if level == 1:
        return Problem(f"{text}. How old is {old}?", steps, level)
    years = rng.randrange(2, 30)
    steps.append(Step(f"Then {old} will be", f"{times * age} + {years}", times * age + years))
    if level == 2:
        return Problem(f"{text}. How old will {old} be in {years} years?", steps, level)
    steps.append(Step(f"Then {young} will be", f"{age} + {years}", age + years))
    together = times * age + age + 2 * years
    steps.append(Step("Together they will be", f"{times * age + years} + {age + years}", together))
    return Problem(f"{text}. How old will they be together in {years} years?", steps, level)


FAMILIES: dict[str, Callable[[Random, int], Problem]] = {
    function.__name__: function
    for function in (change, addition, subtraction, rates, averages, percent, fractions, geometry, units, ages)
}
