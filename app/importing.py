"""`sluice import`: files into a tenant, with a progress bar and a summary."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ingestion.fhir.files import BadLine
from ingestion.fhir.importing import Progress, Summary, import_paths

notices = Console(stderr=True, soft_wrap=True)


async def import_with_bar(url: str, tenant_id: int, paths: Sequence[Path], *, strict: bool, title: str) -> Summary:
    """Every bad line is reported on standard error as it is met."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[found]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=notices) as bar:
        task = bar.add_task(title, total=None, found="")

        def progress(now: Progress) -> None:
            bar.update(task, total=now.bytes_total, completed=now.bytes_done, found=f"{now.resources:,} resources")

        def report(bad: BadLine) -> None:
            bar.console.print(f"{bad.file}:{bad.line}: {bad.reason}", markup=False, highlight=False)

        return await import_paths(url, tenant_id, paths, strict=strict, progress=progress, report=report)


def told(summary: Summary) -> list[str]:
    """The summary, a line a type and one for all."""
    types: dict[str, dict[str, int]] = {}
    for (kind, outcome), count in sorted(summary.counts.by_type.items()):
        types.setdefault(kind, {})[outcome] = count
    lines = [
        f"{kind}: " + ", ".join(f"{count:,} {outcome}" for outcome, count in found.items()) for kind, found in types.items()
    ]
    total = sum(summary.counts.by_type.values())
    lines.append(
        f"{total:,} resources from {summary.files:,} files in {summary.seconds:.1f} s; {summary.bad_lines:,} bad lines"
    )
    if summary.rolled_back:
        lines.append("nothing was put in: --strict, and there were bad lines")
    return lines
