"""One SOAP call: what is sent, and what the answer's elements are."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx
from zeep import AsyncClient, Settings
from zeep.exceptions import Fault
from zeep.proxy import AsyncServiceProxy
from zeep.wsdl.bindings.soap import SoapBinding

from ingestion.post_office.limits import Limits
from ingestion.post_office.results import PostOfficeError, Refused, Transient, check_result, of_connection, of_fault, of_status
from ingestion.post_office.transport import Answer, CappedTransport, check_plain

WSDL = Path(__file__).parent / "validate_transactions.wsdl"
PORTS = {
    "1.1": "{http://www.eClaimLink.ae/}ValidateTransactionsSoap",
    "1.2": "{http://www.eClaimLink.ae/}ValidateTransactionsSoap12",
}
# Larger answers are read beside the event loop: half a megabyte is 2 ms of a file, or 30 ms of a listing.
_THREAD_BYTES = 500_000

T = TypeVar("T")


class Soap:
    """Making one blocks: zeep compiles the WSDL."""

    def __init__(self, client: httpx.AsyncClient, limits: Limits, version: str) -> None:
        # strict: without it an answer that was cut off is taken for a whole one. Raw: it is unpacked where we say.
        settings = Settings(strict=True, forbid_dtd=True, forbid_external=True, xml_huge_tree=True, raw_response=True)
        self._client = AsyncClient(str(WSDL), transport=CappedTransport(client, limits), settings=settings)
        self._binding = cast(SoapBinding, self._client.wsdl.bindings[PORTS[version]])

    def service(self, url: str) -> AsyncServiceProxy:
        return AsyncServiceProxy(self._client, self._binding, address=url)

    async def call(self, service: AsyncServiceProxy, operation: str, arguments: dict[str, Any], read: Callable[[Any], T]) -> T:
        """What `read`, which may run in a thread, makes of the answer's elements, once they are known to be a success."""
        answer = await self._send(service, operation, arguments)
        if problem := of_status(answer.status_code, answer.retry_after, datetime.now(UTC)):
            raise problem
        if len(answer.content) > _THREAD_BYTES:
            return await asyncio.to_thread(lambda: read(self._elements(operation, answer)))
        return read(self._elements(operation, answer))

    async def _send(self, service: AsyncServiceProxy, operation: str, arguments: dict[str, Any]) -> Answer:
        problem: PostOfficeError
        try:
            answer: Answer = await service[operation](**arguments)
        except httpx.RequestError as error:
            problem = of_connection(error)
        except ValueError:
            problem = Refused("what was to be sent cannot be written in XML")
        else:
            return answer
        raise problem

    def _elements(self, operation: str, answer: Answer) -> Any:
        problem: PostOfficeError
        try:
            check_plain(answer.content)
            elements = self._binding.process_reply(self._client, self._binding.get(operation), answer)
            check_result(elements[f"{operation}Result"])
        except PostOfficeError as error:
            problem = error
        except Fault as fault:
            problem = of_fault(fault.code)
        except Exception as error:  # noqa: BLE001  # zeep meets an odd envelope with whatever it stumbles over
            problem = Transient(f"its answer cannot be read ({type(error).__name__})")
        else:
            return elements
        # Raised here, and not while zeep's own is handled: that holds the answer's content.
        raise problem if answer.status_code == 200 or isinstance(problem, Refused) else Transient("it answered HTTP 500")
