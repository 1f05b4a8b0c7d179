"""Where code says whether it reads or writes; it receives a connection, never a pool."""

from collections.abc import Iterable

from storage.connections import Lender, Loan


class Storage:
    """The pools of one process, and which server each statement goes to.

    `read` may be answered by a replica, `latest` by one only while the primary is away, `write` never.
    """

    def __init__(self, api: Lender, report: Lender) -> None:
        self.api = api
        self.reports = report

    def read(self, tenant_ids: Iterable[int], patience_s: float = 10.0) -> Loan:  # noqa: ARG002  # replicas come here
        """For what tenants have stored: nobody reads less than what was there when it was announced."""
        return self.api.lend(patience_s)

    def latest(self, patience_s: float = 10.0) -> Loan:
        """For keys and who is warm."""
        return self.api.lend(patience_s)

    def write(self, patience_s: float = 10.0) -> Loan:
        """Raises ServerBusy while there is no primary."""
        return self.api.lend(patience_s)

    def report(self, tenant_id: int, patience_s: float = 10.0) -> Loan:  # noqa: ARG002  # replicas come here
        """As `read`, of the connections that reports have for themselves."""
        return self.reports.lend(patience_s)
