"""`sluice import`: files of resources and Bundles into one tenant."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from base.errors import Invalid
from ingestion.fhir.bundle import Write, questions, resolve, together
from ingestion.fhir.chunks import Unit, Writer
from ingestion.fhir.entries import Bundle, Problem, is_bundle, parse
from ingestion.fhir.files import BadLine, Document, Source, find_files
from r4.resource import Resource, split
from storage.resources import Counts, refresh_statistics

_SETTINGS = {"role": "sluice_ingest", "plan_cache_mode": "force_custom_plan"}  # tables grow under a kept plan

_Waiting = dict[Path, dict[int, list[Problem]]]


@dataclass(frozen=True, slots=True)
class Progress:
    """`bytes_done` of `bytes_total` as the files lie on disk; `resources` are in, or were already."""

    bytes_done: int
    bytes_total: int
    resources: int
    bad_lines: int


@dataclass(frozen=True, slots=True)
class Summary:
    """`rolled_back`: it was strict and there were bad lines, so nothing is in and `counts` are none."""

    counts: Counts
    bad_lines: int
    files: int
    seconds: float
    rolled_back: bool


class _Undone(Exception):  # no error, but the way out of a strict import's transaction
    pass


async def import_paths(
    url: str,
    tenant_id: int,
    paths: Sequence[Path],
    *,
    strict: bool,
    progress: Callable[[Progress], None],
    report: Callable[[BadLine], None],
) -> Summary:
    """Imports what `paths` hold; `report` is told of every bad line, and the rest goes in, or with `strict` nothing."""
    started = time.monotonic()
    files = list(find_files(paths))
    connection = await asyncpg.connect(url, server_settings=_SETTINGS)
    try:
        run = _Run(connection, tenant_id, files, progress, report)
        whole: AbstractAsyncContextManager[Any] = connection.transaction() if strict else nullcontext()
        with suppress(_Undone):
            async with whole:
                await run.all()
                if strict and run.bad_lines:
                    raise _Undone
    finally:
        await connection.close()
    undone = strict and run.bad_lines > 0
    counts = Counts() if undone else run.counts
    if counts.changed_types:
        await _refresh_statistics(url)
    return Summary(counts, run.bad_lines, len(files), time.monotonic() - started, undone)


async def _refresh_statistics(url: str) -> None:
    connection = await asyncpg.connect(url)  # without the role: only the tables' owner may
    try:
        await refresh_statistics(connection)
    finally:
        await connection.close()


class _Run:
    """One import under way."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        tenant_id: int,
        files: list[Path],
        progress: Callable[[Progress], None],
        report: Callable[[BadLine], None],
    ) -> None:
        self.bad_lines = 0
        self._writer = Writer(connection, tenant_id, self._bad, self._tell)
        self._files = files
        self._progress = progress
        self._report = report
        self._source: Source | None = None
        self._bytes_total = sum(_size(file) for file in files)
        self._bytes_before = 0  # of the files before the one that is being read
        self._waiting: _Waiting = {}

    @property
    def counts(self) -> Counts:
        return self._writer.counts

    async def all(self) -> None:
        """Every file once; then what waits for resources that came after it, as long as that brings something in."""
        for file in self._files:
            self._source = Source(file)
            await self._read(self._source, None)
            self._bytes_before += _size(file)
        self._source = None
        await self._again()
        await self._writer.flush()
        for file, line, problem in _problems(self._waiting):
            self._bad(_bad_line(file, line, problem))
        self._tell()

    async def _again(self) -> None:
        waited = 0
        while self._waiting and waited != (waited := len(list(_problems(self._waiting)))):
            waiting, self._waiting = self._waiting, {}
            for file, lines in waiting.items():
                await self._read(Source(file), lines)

    async def _read(self, source: Source, only: dict[int, list[Problem]] | None) -> None:
        """`only`: the lines, and the entries of each, that are tried again."""
        for found in source:
            if only is None:
                await self._take(source.file, found, None)
            elif isinstance(found, Document) and found.line in only:
                await self._take(source.file, found, {problem.number for problem in only[found.line]})

    async def _take(self, file: Path, found: Document | BadLine, only: set[int] | None) -> None:
        if isinstance(found, BadLine):
            self._bad(found)
            return
        try:
            if is_bundle(found.raw):
                await self._bundle(file, found.line, parse(found.raw), only)
            else:
                await self._writer.add(Unit(file, found.line, "", (_single(found.raw),)))
        except Invalid as error:
            self._bad(BadLine(file, found.line, str(error)))

    async def _bundle(self, file: Path, line: int, bundle: Bundle, only: set[int] | None) -> None:
        asked = questions(bundle)
        results = resolve(bundle, await self._writer.find(asked) if asked else {})
        if bundle.kind == "transaction":
            await self._write(file, line, "", together(results))
            return
        for result in results:
            if only is None or result.number in only:
                await self._write(file, line, _place(result.number), result if isinstance(result, Problem) else [result])

    async def _write(self, file: Path, line: int, place: str, outcome: list[Write] | Problem) -> None:
        if isinstance(outcome, Problem):
            if outcome.waits:
                self._waiting.setdefault(file, {}).setdefault(line, []).append(outcome)
            else:
                self._bad(_bad_line(file, line, outcome))
            return
        resources = [write.resource for write in outcome if write.resource is not None]
        deletes = [write.key for write in outcome if write.resource is None and not write.keeps]
        if resources or deletes:
            await self._writer.add(Unit(file, line, place, resources, deletes))
        for write in outcome:
            if write.keeps:
                self._writer.keep(write.key)

    def _bad(self, bad_line: BadLine) -> None:
        self.bad_lines += 1
        self._report(bad_line)

    def _tell(self) -> None:
        """Of what has been read; that something is tried again brings no more bytes."""
        done = self._bytes_before + (self._source.position() if self._source is not None else 0)
        self._progress(Progress(done, self._bytes_total, self.counts.total, self.bad_lines))


def _single(raw: bytes) -> Resource:
    resource = split(raw)
    if resource.type == "Bundle":
        raise Invalid("a Bundle that cannot be taken apart")
    return resource


def _problems(waiting: _Waiting) -> Iterator[tuple[Path, int, Problem]]:
    for file, lines in waiting.items():
        for line, problems in lines.items():
            yield from ((file, line, problem) for problem in problems)


def _bad_line(file: Path, line: int, problem: Problem) -> BadLine:
    return BadLine(file, line, _place(problem.number) + problem.reason)


def _place(number: int) -> str:
    return f"entry {number}: " if number else ""


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0  # reported when it is read
