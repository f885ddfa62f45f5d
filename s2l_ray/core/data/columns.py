"""Columns of rows that hold text and that no format reads."""

from collections import Counter
from collections.abc import Iterator, Mapping

from s2l_ray.core.data.turns import Row, texts_of

# A text of fewer parts between spaces is a name, a category or an id.
LEAST_PARTS = 3
# The share of the rows from which on an unread column is named.
SHARE = 0.1
# The field of each format to which a column with a part of the prompt can be mapped.
SPARE_FIELDS = {"alpaca": "input", "prompt_response": "context", "messages": "system", "sharegpt": "system"}


class TrackedRow(Mapping[str, object]):
    """A row that records the names of the columns that were read."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> object:
        self.read.add(name)
        return self._row[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)

    def unread_texts(self) -> list[str]:
        """Names of the columns that hold text and were not read."""
        return [name for name, value in self._row.items() if name not in self.read and _has_prose(value)]


def unread_columns(counts: Mapping[str, int], rows: int) -> dict[str, int]:
    """The columns that hold unread text in many of the rows, most first."""
    many = Counter({name: count for name, count in counts.items() if count >= SHARE * rows})
    return dict(many.most_common())


def unread_lines(columns: Mapping[str, int], rows: int, name: str | None) -> Iterator[str]:
    """A line for each column with text that nothing reads, with the key that would map it in the format `name`."""
    spare = SPARE_FIELDS.get(name or "")
    for column, count in columns.items():
        hint = f"; map it with fields: {{{spare}: {column}}}" if spare else ""
        yield f"{column}: text in {100 * count / rows:.0f} % of the rows, not used{hint}"


def _has_prose(value: object) -> bool:
    return any(len(text.split(maxsplit=LEAST_PARTS)) >= LEAST_PARTS for text in texts_of(value))
