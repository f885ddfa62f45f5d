"""Numbers formatted for people: `6,360`, `78.2 GB`, `4 min 12 s`, `3 hours ago`."""

import time

from rich.filesize import decimal

DURATIONS = ((86400, "day"), (3600, "hour"), (60, "minute"))


def count(number: float | None) -> str:
    """A whole number with thousands separators; a dash for None."""
    return "-" if number is None else f"{round(number):,}"


def short(number: float) -> str:
    """A number in at most four digits: 312, 4.2k, 310k, 1.3M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            value = number / limit
            return f"{value:.1f}{unit}" if value < 100 else f"{value:.0f}{unit}"
    return f"{number:.0f}" if number >= 10 or number == int(number) else f"{number:.2g}"


def size(number: float | None) -> str:
    return "-" if number is None else decimal(int(number))


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def ratio(number: float | None) -> str:
    """A correlation or an index; a dash for None."""
    return "-" if number is None else f"{number:.3f}"


def amount(number: int, noun: str, of_bytes: int) -> str:
    """Things and their size: `3 files, 1.2 MB`."""
    return f"{plural(number, noun)}, {size(of_bytes)}"


def duration(seconds: float) -> str:
    """A duration with two components: 4.1 s, 4 min 12 s, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def age(moment: float) -> str:
    """Time since a moment in seconds since the epoch."""
    seconds = max(0.0, time.time() - moment)
    for length, name in DURATIONS:
        if seconds >= length:
            return f"{plural(int(seconds // length), name)} ago"
    return "just now"


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def listed(counts: dict[str, int]) -> str:
    """Counts by name on one line, the largest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return " · ".join(f"{name} {number:,}" for name, number in ordered)
