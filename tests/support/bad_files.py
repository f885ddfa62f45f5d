"""A folder of files with every known kind of damage, and the expected result for each row.

The rows are in Alpaca format (instruction, input, output), in lines, gzip, JSON lists and Parquet; most are valid.
"""

import gzip
import json
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# Lines that are rejected, with the reason.
REJECTED_LINES: list[tuple[str, bytes]] = [
    ("undecodable", b'{"instruction": "cut", "output": "a"'),
    ("undecodable", b"not JSON at all"),
    ("undecodable", b"{'instruction': 'single quotes', 'output': 'a'}"),
    ("undecodable", b'{"instruction": "comma", "output": "a",}'),
    ("undecodable", b'{"instruction": "two", "output": "a"} {"instruction": "two", "output": "b"}'),
    ("undecodable", b'{"instruction": "latin \xe9", "output": "a"}'),
    ("undecodable", b'{"instruction": "overlong \xc0\xaf", "output": "a"}'),
    ("undecodable", b'{"instruction": "half \\ud83d", "output": "a"}'),
    ("undecodable", b'\xef\xbb\xbf{"instruction": "mark in mid file", "output": "a"}'),
    ("undecodable", b"\x00" * 40),
    ("undecodable", b"[" * 100_000),
    ("undecodable", b'{"instruction": "number", "output": ' + b"9" * 5000 + b"}"),
    ("not_an_object", b'["instruction", "output"]'),
    ("not_an_object", b"42"),
    ("not_an_object", b'"text"'),
    ("not_an_object", b"null"),
    ("missing_field", b'{"output": "no instruction"}'),
    ("missing_field", b'{"instruction": "no output"}'),
    ("missing_field", b'{"instruction": "null output", "output": null}'),
    ("missing_field", b"{}"),
    ("invalid_type", b'{"instruction": "an object", "output": {}}'),
    ("invalid_type", b'{"instruction": "not a number", "output": NaN}'),
    ("invalid_type", b'{"instruction": ["a", "list"], "output": "a"}'),
    ("empty_response", b'{"instruction": "nothing", "output": ""}'),
    ("empty_response", b'{"instruction": "white space", "output": " \\n\\t"}'),
]


@dataclass
class BadFiles:
    """Expected counts: valid examples, rejected rows by reason, and reasons by file and line."""

    folder: Path
    good: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    lines: dict[str, dict[int, str]] = field(default_factory=dict)

    @property
    def rows_in(self) -> int:
        """Rows kept and rejected; a truncated file counts as one rejected row."""
        return self.good + sum(self.rejected.values())

    def put(self, name: str, data: bytes, good: int, **rejected: int) -> None:
        """Write a file and add its rows to the counts."""
        (self.folder / name).write_bytes(data)
        self.good += good
        self.rejected.update(rejected)


def row(text: str, **more: object) -> dict[str, object]:
    """A valid row with this text."""
    return {"instruction": f"Say {text}.", "input": "", "output": text, **more}


def lines_of(name: str, count: int) -> bytes:
    """Valid lines with distinct texts."""
    return b"".join(json.dumps(row(f"{name} {i}")).encode() + b"\n" for i in range(count))


def write_bad_files(folder: Path) -> BadFiles:
    """Fill the folder; the counts are those of the source {path: folder, format: alpaca}, duplicates dropped."""
    bad = BadFiles(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _put_lines(bad)
    _put_packed(bad)
    _put_lists(bad)
    _put_tables(bad)
    for name in ("notes.txt", "README.md", ".hidden.jsonl", "data.csv"):
        (folder / name).write_text("not a row\n")
    return bad


def _put_lines(bad: BadFiles) -> None:
    text = lines_of("before", 3)
    bad.lines["a_lines.jsonl"] = {}
    for number, (reason, line) in enumerate(REJECTED_LINES):
        text += line + b"\n\n" + lines_of(f"between {number}", 1)
        bad.lines["a_lines.jsonl"][4 + 3 * number] = reason
    bad.put("a_lines.jsonl", text, 3 + len(REJECTED_LINES), **Counter(reason for reason, _ in REJECTED_LINES))
    bad.put("b_empty.jsonl", b"", 0)
    bad.put("b_blank.jsonl", b"\n \r\n\t\n", 0)
    windows = b"\xef\xbb\xbf" + lines_of("windows", 4).replace(b"\n", b"\r\n")
    bad.put("c_mark_and_returns.jsonl", windows, 4)
    bad.put("c_no_last_newline.jsonl", lines_of("open end", 4).rstrip(b"\n"), 4)
    bad.put("c_last_line_cut.jsonl", lines_of("cut end", 4)[:-9], 3, undecodable=1)
    odd = [
        row("nul \x00 inside"),
        row("line \u2028 separator"),
        row("\U0001f600 \\ud83d"),
        row("extra", score=float("nan")),
    ]
    bad.put("d_odd_but_good.jsonl", b"".join(json.dumps(one).encode() + b"\n" for one in odd), 4)
    bad.put("d_twice_the_key.jsonl", b'{"instruction": "x", "instruction": "key", "output": "twice"}\n', 1)
    twice = lines_of("twice", 2) + lines_of("twice", 2) + lines_of("before", 1)
    bad.put("e_duplicates.jsonl", twice, 2, duplicate=3)


def _put_packed(bad: BadFiles) -> None:
    packed = gzip.compress(lines_of("whole", 5), mtime=0)
    more = gzip.compress(lines_of("second member", 5), mtime=0)
    bad.put("f_two_members.jsonl.gz", packed + more + b"\0" * 64, 10)
    stored = zlib.compressobj(level=0, wbits=31)
    data = stored.compress(lines_of("torn", 5)) + stored.flush()
    torn = data[: data.index(b"torn 3") + 3]
    bad.put("f_torn.jsonl.gz", torn, 3, file_broken=1)
    wrong_sum = gzip.compress(lines_of("wrong sum", 5), mtime=0)
    bad.put("f_wrong_sum.jsonl.gz", wrong_sum[:-8] + b"\0" * 4 + wrong_sum[-4:], 5, file_broken=1)
    bad.put("f_garbage_after.jsonl.gz", gzip.compress(lines_of("garbage", 5), mtime=0) + b"garbage", 5, file_broken=1)


def _put_lists(bad: BadFiles) -> None:
    rows = [row(f"list {i}") for i in range(6)]
    bad.put(
        "g_list.json",
        json.dumps([*rows, 5, None, ["a"], {"output": "x"}]).encode(),
        6,
        not_an_object=3,
        missing_field=1,
    )
    bad.put("g_empty_list.json", b" [ ]\n", 0)
    bad.put("g_lines_named_json.json", lines_of("lines in json", 3), 3)
    cut = json.dumps([row(f"cut list {i}") for i in range(6)], indent=1).encode()
    bad.put("g_list_cut.json", cut[: cut.index(b"cut list 4")], 4, file_broken=1)
    latin = json.dumps([row("list é"), row("list plain")], ensure_ascii=False).encode("latin-1")
    bad.put("g_list_latin.json", latin, 1, undecodable=1)
    no_comma = b"[" + b" ".join(json.dumps(row(f"no comma {i}")).encode() for i in range(3)) + b"]"
    bad.put("g_list_without_commas.json", no_comma, 1, file_broken=1)
    packed = gzip.compress(json.dumps([row(f"packed list {i}") for i in range(4)]).encode(), mtime=0)
    bad.put("g_list_packed.json.gz", packed, 4)


def _put_tables(bad: BadFiles) -> None:
    path = bad.folder / "h_row_groups.parquet"
    table = pa.Table.from_pylist([row(f"parquet {i}") for i in range(30)])
    pq.write_table(table, path, row_group_size=10, write_page_checksum=True)
    group = pq.read_metadata(path).row_group(1)
    middle = group.column(0).data_page_offset + group.column(0).total_compressed_size // 2
    data = bytearray(path.read_bytes())
    data[middle] ^= 0xFF
    bad.put(path.name, bytes(data), 20, file_broken=1)

    texts = pa.array([b"fine", b"latin \xe9", None, b"fine too"], pa.binary()).view(pa.string())
    names = pa.array([f"Table row {i}" for i in range(4)])
    path = bad.folder / "h_bad_texts.parquet"
    pq.write_table(pa.table({"instruction": names, "output": texts}), path)
    bad.put(path.name, path.read_bytes(), 2, undecodable=1, missing_field=1)
