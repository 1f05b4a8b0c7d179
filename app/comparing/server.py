"""One arm's server: `python -m app.comparing.server PART DELAY_S`, settings from the environment; prints its port.

A part is a path, or a channel without some of what makes it one. `DELAY_S` is planted before each statement of a channel: tests
make it worse on purpose.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import uvloop
from aiohttp import web

from app.main import MakeDispatcher, create_app
from app.parent import follow_parent
from base import log
from base.config import Config
from handlers.protocol import serve, until_told
from storage.asks import Ask, settle
from storage.connecting.servers import Storage
from tenants.dispatcher import LIMITS, Dispatcher, Settle

_ALONE = {kind: replace(limits, asks=1) for kind, limits in LIMITS.items()}
PARTS: dict[str, MakeDispatcher] = {
    "direct": Dispatcher,
    "queue": partial(Dispatcher, limits=_ALONE),
    "batches": partial(Dispatcher, settle=partial(settle, share=False)),
    "channel": Dispatcher,
}
"""`queue`: through the queue, with a batch of one; `batches`: statements for many, each ask for itself; `channel`: all."""


def delayed(delay_s: float) -> Settle:
    async def late(storage: Storage, asks: Sequence[Ask]) -> BaseException | None:
        await asyncio.sleep(delay_s)
        return await settle(storage, asks)

    return late


async def _serve(part: str, delay_s: float, config: Config) -> None:
    async def ready(_app: web.Application, port: int) -> None:
        print(port, flush=True)

    make = partial(PARTS[part], settle=delayed(delay_s)) if delay_s else PARTS[part]
    app = create_app(config, make_dispatcher=make)
    await serve(app, host="127.0.0.1", port=0, stop=until_told(), ready=ready)


if __name__ == "__main__":
    follow_parent()
    log.configure("api")
    uvloop.run(_serve(sys.argv[1], float(sys.argv[2]), Config.from_mapping(os.environ)))
