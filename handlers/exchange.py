"""One request's own facts, from the middleware's first line to its last."""

from time import perf_counter
from typing import Any

from aiohttp import web

from base.identity import Identity
from base.operations import Operation
from handlers.answers import Question
from storage.asks import Ask
from tenants.actor import TenantActor


class Exchange:
    """`actor` takes the asks on the channel path. `path` is channel, direct, or none for what is no entity.

    `arm` is treatment, control or none; `why` says what sent a request direct (cold, control), or that it was forced.
    `name`: what metrics call a request that is of none of the operations. `pretty`: a posted form asks for an indented answer.
    """

    __slots__ = (
        "actor", "arm", "asks", "encoded_from", "identity", "name", "operation", "path", "pretty", "question", "request_id",
        "started_at", "why",
    )  # fmt: skip

    def __init__(self, request_id: str) -> None:
        self.started_at = perf_counter()
        self.request_id = request_id
        self.operation: Operation | None = None
        self.name = "none"
        self.identity: Identity | None = None
        self.actor: TenantActor | None = None
        self.path = "none"
        self.arm = "none"
        self.why = ""
        self.pretty = False
        self.question: Question | None = None
        self.asks: tuple[Ask, ...] = ()
        self.encoded_from = 0.0

    def facts(self) -> dict[str, Any]:
        """For every log line that this request causes (base/log.py): never an id or a query, which may name a patient."""
        identity, operation = self.identity, self.operation
        return {
            "request_id": self.request_id,
            "tenant": identity.tenant if identity else "",
            "operation": operation.name if operation else self.name,
        }


EXCHANGE = web.RequestKey("exchange", Exchange)
