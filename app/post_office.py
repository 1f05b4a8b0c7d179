"""`sluice post-office`: simulated facilities with generated claims, for `sluice worker` to poll."""

import asyncio
import itertools
import logging
import os
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from base import log
from base.config import ConfigError
from handlers.protocol import until_told
from simulator.claims import DUBAI, MIX, Live, Mix, facilities, generate
from simulator.post_office import Behaviour, Box, Office, serving
from simulator.post_office_behaviour import misbehaving

_CLAIMS_AT_ONCE = 20
"""In a file that comes while it runs."""
_TOLD_EVERY_S = 5.0
notices = Console(stderr=True, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be simulated."""

    facilities: int
    claims: int
    """A facility."""
    seed: int
    misbehave: bool
    every_s: float
    """So often each facility gets another file; 0: never."""
    host: str
    port: int
    commands: Path | None
    """Where the commands that register the facilities are written."""
    mix: Mix = MIX


def post_office(order: Order) -> None:
    """Until SIGTERM or SIGINT. Raises ConfigError when the port cannot be had, before anything is generated."""
    try:
        with socket.create_server((order.host, order.port)) as probe:
            order = replace(order, port=probe.getsockname()[1])
    except OSError as error:
        why = str(error.strerror).partition(" (while")[0]
        raise ConfigError(f"cannot listen on {order.host}:{order.port}: {why}; see --host and --port") from None
    log.configure("post-office", level=logging.WARNING)
    boxes = _boxes(order)
    uvloop.run(_serve(order, boxes))


def _boxes(order: Order) -> dict[str, Box]:
    """Files of the 90 days before today: the same ones, however often it is started on a day."""
    today = datetime.now(DUBAI).replace(hour=0, minute=0, second=0, microsecond=0)
    boxes = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notices) as bar:
        task = bar.add_task("generating claims", total=order.facilities * order.claims)
        for number, profile in enumerate(facilities(order.facilities)):
            behaviour = misbehaving(number) if order.misbehave else Behaviour()
            box = boxes[profile.login] = Box(profile, behaviour=behaviour)
            for file in generate(order.seed, profile, claims=order.claims, end=today, mix=order.mix):
                box.add(file)
            bar.advance(task, order.claims)
    return boxes


async def _serve(order: Order, boxes: dict[str, Box]) -> None:
    stop = until_told()
    async with serving(boxes, host=order.host, port=order.port) as office:
        if order.commands is not None:
            write_commands(order.commands, office)
        print(_welcome(order, office), flush=True)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(_tell(office))]
            if order.every_s:
                running.append(tasks.create_task(_go_on(order, boxes)))
            await stop.wait()
            for task in running:
                task.cancel()


async def _go_on(order: Order, boxes: dict[str, Box]) -> None:
    now = datetime.now(DUBAI)
    desks = [(box, Live(order.seed, box.profile, since=now)) for box in boxes.values()]
    while True:
        await asyncio.sleep(order.every_s)
        for box, desk in desks:
            for file in desk.next(datetime.now(DUBAI), _CLAIMS_AT_ONCE):
                box.add(file)
            await asyncio.sleep(0)  # other requests in between


async def _tell(office: Office) -> None:
    """A line that stays in place on a terminal; elsewhere one whenever something has changed."""
    before = ""
    with _line() as show:
        while True:
            now = told(office)
            if now != before:
                show(now)
                before = now
            await asyncio.sleep(0.5 if notices.is_terminal else _TOLD_EVERY_S)


@contextmanager
def _line() -> Iterator[Callable[[str], None]]:
    if not notices.is_terminal:
        yield lambda text: notices.print(text, highlight=False)
        return
    with notices.status("") as status:
        yield status.update


def told(office: Office) -> str:
    """How far the facilities' files are taken."""
    boxes = office.boxes.values()
    files = list(itertools.chain.from_iterable((*box.sent.values(), *box.received.values()) for box in boxes))
    received = sum(len(box.received) for box in boxes)
    acknowledged = sum(bool(file.acknowledged) for file in files)
    downloaded = sum(bool(file.downloads) for file in files)
    again = sum(file.downloads.total() for file in files) - downloaded
    requests = sum(box.requests.total() for box in boxes)
    return (
        f"{downloaded:,} of {len(files):,} files downloaded ({again:,} times again),"
        f" {acknowledged:,} of {received:,} received ones acknowledged; {requests:,} requests"
    )


def write_commands(path: Path, office: Office) -> None:
    """A script that registers every facility with the tenant it is given; only its owner reads it, for it holds passwords."""
    lines = [
        f"register {shlex.join([box.profile.licence, box.profile.login, box.profile.password])}"
        for box in office.boxes.values()
    ]
    beside = Path(sys.executable).with_name("sluice")
    script = _SCRIPT.format(
        name=shlex.quote(path.name),
        sluice=shlex.quote(str(beside) if beside.exists() else "sluice"),
        url=shlex.quote(office.url),
        lines="\n".join(lines),
    )
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700), "w", encoding="utf-8") as file:
        file.write(script)


_SCRIPT = """#!/bin/sh
# Registers the simulated facilities with a tenant: {name} TENANT
set -u
tenant=${{1:?say the tenant}}
sluice={sluice}
secret=$(mktemp) && trap 'rm -f "$secret"' EXIT || exit 1
failed=0
register() {{
    printf '%s' "$3" > "$secret"
    "$sluice" facility add "$tenant" "$1" --url {url} --login "$2" --password-file "$secret" || failed=1
}}
{lines}
exit $failed
"""


def _welcome(order: Order, office: Office) -> str:
    first = next(iter(office.boxes.values())).profile
    how = (
        f"To register all with a tenant: sh {shlex.quote(str(order.commands))} TENANT"
        if order.commands is not None
        else "To register one (--write-commands FILE writes this for all of them):\n"
        f"  printf %s {shlex.quote(first.password)} > password && sluice facility add TENANT {first.licence} \\\n"
        f"    --url {office.url} --login {first.login} --password-file password"
    )
    return (
        f"The post office is up at {office.url}, its WSDL at {office.url}?WSDL\n"
        f"{len(office.boxes)} facilities, {order.claims:,} claims each{', some misbehave' if order.misbehave else ''}."
        f" Stop with Ctrl-C.\n\n{how}\n"
    )
