"""Counts, facts and warnings about the rows that `prepare` read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from s2l_ray import storage
from s2l_ray.artifacts.facts import Counts, DatasetFacts
from s2l_ray.artifacts.schemas import DATASET
from s2l_ray.artifacts.tables import FileRecord
from s2l_ray.config.identity import source_spec
from s2l_ray.config.row_summary import converted_lines, frequent_rejections
from s2l_ray.config.sections import Data
from s2l_ray.core.data.columns import unread_columns, unread_lines
from s2l_ray.errors import S2LError
from s2l_ray.sources.files.listing import skipped_files
from s2l_ray.sources.ranges import Range
from s2l_ray.stages.build import Product, total_counts
from s2l_ray.stages.prepare.records import (
    EncodedCounts,
    EncodedShard,
    ParsedRange,
    RejectedRows,
    StoredTokenizer,
    total_encoded,
)


@dataclass(frozen=True)
class SourceCounts:
    """Counts of an entry of data.sources. per_answer: each answer of a chat is an example. See `ParsedRange`.

    format: of all its examples, None if they have several. skipped: lines about files of the folder that are not read.
    """

    name: str
    read: int
    rejected: dict[str, int]
    unread: dict[str, int]
    format: str | None
    converted: dict[str, int]
    chats: int
    reasoning_lost: int
    per_answer: bool
    skipped: tuple[str, ...] = ()

    @property
    def examples(self) -> int:
        """Rows that were not rejected."""
        return self.read - sum(self.rejected.values())


def summarise_sources(data: Data, ranges: Sequence[Range], parsed: Sequence[ParsedRange]) -> list[SourceCounts]:
    """Counts of each entry, over all its ranges."""
    summaries = []
    for number, source in enumerate(data.sources):
        own = [result for one, result in zip(ranges, parsed, strict=True) if one.source == number]
        read, rejected = sum(one.read for one in own), total_counts(one.rejected for one in own)
        rewritten, spec = sum(one.rewritten for one in own), source_spec(source)
        formats = list(total_counts(one.formats for one in own))
        summaries.append(
            SourceCounts(
                name=spec.stem,
                read=read,
                rejected=rejected,
                unread=unread_columns(total_counts(one.unread for one in own), read - sum(rejected.values())),
                format=formats[0] if len(formats) == 1 else None,
                converted=total_counts(one.converted for one in own),
                chats=sum(one.chats for one in own),
                reasoning_lost=sum(one.reasoning_lost for one in own),
                per_answer=data.chat == "per_answer" or (data.chat == "auto" and rewritten > 0),
                skipped=tuple(skipped_files(spec, storage.absolute(data.root))),
            )
        )
    return summaries


def warnings(sources: Sequence[SourceCounts]) -> Iterator[str]:
    """A line for each reason that rejects many rows of a source, and for files and text that are not read."""
    for source in sources:
        yield from (f"{source.name}: {line}" for line in source.skipped)
        yield from (f"{source.name}: {line}" for line in frequent_rejections(source.rejected, source.read))
        if source.reasoning_lost:
            yield f"{source.name}: {source.reasoning_lost:,} chats have reasoning that the chat template leaves out"
        lines = unread_lines(source.unread, source.examples, source.format)
        yield from (f"{source.name}: {line}" for line in (*converted_lines(source.converted), *lines))


def make_product(
    sources: list[SourceCounts],
    rejected: list[RejectedRows],
    tokenizer: StoredTokenizer,
    shards: list[EncodedShard],
    held_out_shards: list[EncodedShard],
    contaminated: dict[str, int],
) -> Product:
    """All files of a dataset, its counts and its facts. Raises `S2LError` if no row was kept."""
    read, counts = sum(source.read for source in sources), total_encoded(shard.counts for shard in shards)
    held_out = total_encoded(shard.counts for shard in held_out_shards)
    reasons = total_counts([counts.rejected, held_out.rejected, *(one.rejected for one in rejected)])
    if held_out.kept:
        reasons["held_out"] = held_out.kept
    if not counts.kept:
        raise S2LError(f"every row was rejected: {reasons}; check the fields of data.sources")
    if read != counts.kept + sum(reasons.values()):
        raise RuntimeError(f"{read} rows were read, but {counts.kept} kept and {reasons} rejected")
    files: list[FileRecord] = [*tokenizer.files, *(file for one in rejected for file in one.files)]
    files += [file for shard in [*shards, *held_out_shards] for file in shard.files]
    facts = _dataset_facts(sources, [shard.counts for shard in shards], held_out, tokenizer, contaminated)
    return Product(files, Counts(read, counts.kept, reasons), facts, DATASET)


def _dataset_facts(
    sources: Sequence[SourceCounts],
    shards: Sequence[EncodedCounts],
    held_out: EncodedCounts,
    tokenizer: StoredTokenizer,
    contaminated: dict[str, int],
) -> DatasetFacts:
    counts = total_encoded(shards)
    return DatasetFacts(
        statuses=counts.statuses,
        by_source=counts.by_source,
        tokens=counts.tokens,
        target_tokens=counts.target_tokens,
        truncated=counts.truncated,
        longest=counts.longest,
        shards=len(shards),
        longest_shard=max(range(len(shards)), key=lambda shard: shards[shard].longest),
        vocab_size=tokenizer.vocab_size,
        chats={one.name: "per_answer" if one.per_answer else "whole" for one in sources if one.chats},
        pairs_begin_with_bos=tokenizer.adds_beginning,
        unread_columns=total_counts(one.unread for one in sources),
        reasoning_not_learned=sum(one.reasoning_lost for one in sources),
        held_out=held_out.by_source,
        warnings=tuple(warnings(sources)),
        contaminated=contaminated,
    )
