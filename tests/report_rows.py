"""Claims for tests of reports, by SQL: thousands in a moment, with many equal sort values; and the views filled from them."""

import asyncpg

TENANTS = (1, 2, 3)
"""The first has most of the claims, and all share their claims' ids. Two and three share a partition, one has its own."""

_TENANTS = "INSERT INTO ops.tenant (name) SELECT 'tenant-' || n FROM generate_series(1, 3) n"
_CLAIMS = """
INSERT INTO claims.claim (tenant_id, provider_id, claim_id, submitted_at, facility_id, payer_id, member_id, encounter_start,
                          net, held, taken_back, denied, pending, overpaid, status, status_at, remittance_count,
                          first_remitted_at, last_remitted_at, settled_at, payment_reference, id_payer)
SELECT t, 'DHA-F-000000' || n % 3, 'C' || n, at + interval '1 day', 'DHA-F-000000' || n % 3, 'INS00' || n % 5, 'M',
       CASE WHEN n % 7 > 0 THEN at END, 100, h, 0, d, 100 - h - d, 0,
       CASE WHEN h = 100 THEN 'PAID' WHEN h > 0 THEN 'PARTIALLY_PAID' WHEN d = 100 THEN 'REJECTED' ELSE 'PENDING' END, at,
       CASE WHEN n % 4 > 0 THEN 1 ELSE 0 END, at, at, CASE WHEN n % 2 = 0 THEN at + interval '20 days' END, 'P', 'I'
FROM generate_series(1, 3) t
CROSS JOIN LATERAL (
    SELECT n, timestamptz '2026-01-01 00:00+04' + n % 90 * interval '1 day' AS at,
           CASE WHEN n % 4 > 0 THEN (n % 3) * 50 ELSE 0 END AS h, CASE WHEN n % 12 = 3 THEN 100 ELSE 0 END AS d
    FROM generate_series(1, CASE t WHEN 1 THEN $1::int ELSE $1::int / 10 END) n
) c
"""
_REMITTANCES = """
INSERT INTO claims.remittance (tenant_id, provider_id, claim_id, facility_no, file_id, n, sender_id, transaction_at, settled_at,
                               payment_reference, id_payer, paid)
SELECT tenant_id, provider_id, claim_id, 1, 'F', 1, 'TPA001', last_remitted_at, settled_at, 'P', 'I', held
FROM claims.claim WHERE remittance_count > 0
"""
KEPT = {
    "mv_balance_amount_summary": ("balance_amount_summary", "balance_amount_now"),
    "mv_remittance_advice_summary": ("remittance_advice_summary", "remittance_advice_now"),
    "mv_claim_summary_payerwise": ("claim_summary_payerwise", "claims_by_payer_now"),
}


async def add_claims(owner: asyncpg.Connection, number: int) -> None:
    """So many of the first tenant, and a tenth of it of the others."""
    await owner.execute(_TENANTS)
    await owner.execute(_CLAIMS, number)
    await owner.execute(_REMITTANCES)


async def fill_views(owner: asyncpg.Connection, *, incremental: bool) -> None:
    """As the worker does it, in the plainest way."""
    for view, (table, now) in KEPT.items():
        if incremental:
            await owner.execute(f"TRUNCATE claims.{table}; INSERT INTO claims.{table} SELECT * FROM claims.{now}")
        else:
            await owner.execute(f"REFRESH MATERIALIZED VIEW claims.{view}")
    await owner.execute("UPDATE ops.report_view SET incremental = $1, refreshed_at = clock_timestamp()", incremental)
