"""Puts tracing into the API's app; imported only where it is on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler

from base.config import Config
from base.tracing import tracing
from handlers.tracing import tracing_asks, tracing_batches, tracing_requests
from tenants.dispatcher import Dispatcher


def traced(
    app: web.Application, config: Config, handler: Handler, make_dispatcher: Callable[..., Dispatcher]
) -> tuple[Handler, Callable[..., Dispatcher]]:
    """Call before anything else is put into the app, so that its last spans are sent when all else has ended."""
    opened = contextlib.ExitStack()
    tracer = opened.enter_context(tracing(config, "api"))
    app.middlewares.insert(0, tracing_requests(tracer))

    async def closing(_app: web.Application) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(opened.close)

    app.cleanup_ctx.append(closing)
    return tracing_asks(handler), partial(make_dispatcher, settle=tracing_batches(tracer))
