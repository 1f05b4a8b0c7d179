-- Reports. A report's rows are defined once, by a view named `…_now`; they are kept by a materialised view, refreshed as a whole, or by
-- a table in which changed keys alone are computed anew. What is read stands in schema `report`, and is always one tenant's.

CREATE SCHEMA report;

-- What a document asks for or pays, for control totals. Null: of a submission that came before this column.
ALTER TABLE claims.event ADD COLUMN amount numeric(16,2);
UPDATE claims.event e SET amount = r.paid FROM claims.remittance r
WHERE (e.tenant_id, e.provider_id, e.claim_id, e.facility_no, e.file_id, e.n)
    = (r.tenant_id, r.provider_id, r.claim_id, r.facility_no, r.file_id, r.n);

-- Which claims have changed, written by the transaction that changes them. `xid` is that transaction: what a snapshot has not seen is
-- known by it, however late it commits. month, payer_id and facility_id are of the group that the claim was in before; null: in none.
CREATE TABLE claims.change (
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    tenant_id   int NOT NULL,
    provider_id text COLLATE "C" NOT NULL,
    claim_id    text COLLATE "C" NOT NULL,
    remitted    boolean NOT NULL,
    month       date,
    payer_id    text COLLATE "C",
    facility_id text COLLATE "C"
);
CREATE INDEX change_xid ON claims.change (xid);

-- How each report is kept. `done`: what this snapshot saw is in.
CREATE TABLE ops.report_view (
    name         text PRIMARY KEY,
    incremental  boolean NOT NULL DEFAULT false,
    done         pg_snapshot NOT NULL DEFAULT pg_current_snapshot(),
    refreshed_at timestamptz NOT NULL DEFAULT now(),  -- its rows were computed then
    current_at   timestamptz NOT NULL DEFAULT now(),  -- nothing was missing then
    took_s       double precision NOT NULL DEFAULT 0,  -- the last refresh as a whole
    rows         bigint NOT NULL DEFAULT 0,
    refreshed    bigint NOT NULL DEFAULT 0,  -- how many times, as a whole
    applied      bigint NOT NULL DEFAULT 0,  -- how many times, the changes alone
    failed       bigint NOT NULL DEFAULT 0,
    reason       text NOT NULL DEFAULT ''  -- why the last try failed; empty: it did not
);
INSERT INTO ops.report_view (name) VALUES ('balance-amount'), ('remittance-advice'), ('claims-by-payer');

-- What is still to be received of each claim. Amounts are those of its activities, settled when a file comes.
CREATE VIEW claims.balance_amount_now AS
SELECT tenant_id, provider_id, claim_id, facility_id, payer_id, encounter_start, submitted_at,
       net AS initial_net, held AS total_payment, taken_back AS total_taken_back, denied AS total_denied,
       pending AS pending_amount, overpaid AS overpaid_amount,
       remittance_count, first_remitted_at AS first_remittance_date, last_remitted_at AS last_remittance_date,
       resubmission_count, last_resubmission_at AS last_resubmission_date,
       status AS current_status, status_at AS last_status_date
FROM claims.claim
WHERE submitted_at IS NOT NULL;

-- Each child is brought to one row a claim before it is joined: two joined as they are would multiply each other's sums.
-- A remittance without DateSettlement was settled at its header's date; codes are those of all lines of the claim's activities.
CREATE VIEW claims.remittance_advice_now AS
SELECT c.tenant_id, c.provider_id, c.claim_id, c.facility_id, c.payer_id, c.id_payer,
       r.date_settlement, c.payment_reference, coalesce(a.activity_count, 0)::int AS activity_count,
       c.net AS total_remitted, c.held AS total_payment,
       coalesce(a.denied_count, 0)::int AS denied_count, c.denied AS denied_amount, c.remittance_count,
       r.first_settlement_date, coalesce(l.codes, '') AS all_denial_codes,
       CASE WHEN c.net = 0 THEN 0.00 ELSE round(c.held * 100 / c.net, 2) END AS collection_rate,
       CASE WHEN coalesce(a.denied_count, 0) > 0 THEN 'Has Denials' WHEN c.held = 0 THEN 'No Payment'
            WHEN c.held = c.net THEN 'Fully Paid' ELSE 'Partially Paid' END AS payment_status
FROM claims.claim c
JOIN (
    SELECT tenant_id, provider_id, claim_id, max(coalesce(settled_at, transaction_at)) AS date_settlement,
           min(coalesce(settled_at, transaction_at)) AS first_settlement_date
    FROM claims.remittance GROUP BY tenant_id, provider_id, claim_id
) r USING (tenant_id, provider_id, claim_id)
LEFT JOIN (
    SELECT tenant_id, provider_id, claim_id, count(*) AS activity_count,
           count(*) FILTER (WHERE status = 'REJECTED') AS denied_count
    FROM claims.activity GROUP BY tenant_id, provider_id, claim_id
) a USING (tenant_id, provider_id, claim_id)
LEFT JOIN (
    SELECT l.tenant_id, l.provider_id, l.claim_id,
           string_agg(DISTINCT l.denial_code COLLATE "C", ', ' ORDER BY l.denial_code COLLATE "C") AS codes
    FROM claims.remittance_activity l
    JOIN claims.activity a USING (tenant_id, provider_id, claim_id, activity_id)
    WHERE l.denial_code <> ''
    GROUP BY l.tenant_id, l.provider_id, l.claim_id
) l USING (tenant_id, provider_id, claim_id)
WHERE c.submitted_at IS NOT NULL AND c.remittance_count > 0;

-- Months are Asia/Dubai's, of the encounter's start, else of the submission.
CREATE VIEW claims.claims_by_payer_now AS
SELECT sums.*,
       CASE WHEN claim_amount = 0 THEN 0.00 ELSE round(rejected_amount * 100 / claim_amount, 2) END
           AS rejected_percentage_on_initial,
       CASE WHEN remitted_amount = 0 THEN 0.00 ELSE round(rejected_amount * 100 / remitted_amount, 2) END
           AS rejected_percentage_on_remittance,
       CASE WHEN remitted_amount = 0 THEN 0.00 ELSE round(paid_amount * 100 / remitted_amount, 2) END AS collection_rate
FROM (
    SELECT tenant_id,
           date_trunc('month', coalesce(encounter_start, submitted_at) AT TIME ZONE 'Asia/Dubai')::date AS month,
           payer_id, facility_id,
           count(*)::int AS count_claims,
           count(*) FILTER (WHERE remittance_count > 0)::int AS remitted_count,
           count(*) FILTER (WHERE status = 'PAID')::int AS fully_paid_count,
           count(*) FILTER (WHERE status = 'PARTIALLY_PAID')::int AS partially_paid_count,
           count(*) FILTER (WHERE status = 'REJECTED')::int AS fully_rejected_count,
           count(*) FILTER (WHERE status = 'TAKEN_BACK')::int AS taken_back_count,
           count(*) FILTER (WHERE status = 'PENDING')::int AS pending_remittance_count,
           count(*) FILTER (WHERE member_id = 'SelfPay')::int AS self_pay_count,
           sum(net) AS claim_amount,
           coalesce(sum(net) FILTER (WHERE remittance_count > 0), 0.00) AS remitted_amount,
           sum(held) AS paid_amount,
           sum(denied) AS rejected_amount,
           sum(taken_back) AS taken_back_amount,
           sum(pending) AS pending_remittance_amount,
           coalesce(sum(net) FILTER (WHERE member_id = 'SelfPay'), 0.00) AS self_pay_amount
    FROM claims.claim
    WHERE submitted_at IS NOT NULL AND payer_id <> ''
    GROUP BY 1, 2, 3, 4
) sums;

-- The claims of one group, for those that are computed anew. Partial, also on what is always so: only a statement that says it is
-- offered the index, and a look-up of a claim goes by its key.
CREATE INDEX claim_group ON claims.claim (tenant_id, payer_id, facility_id,
    (date_trunc('month', coalesce(encounter_start, submitted_at) AT TIME ZONE 'Asia/Dubai')::date))
    WHERE submitted_at IS NOT NULL AND payer_id <> '';

-- Where there are claims already: the planner takes a key of three columns for a handful of rows, and a nested loop would never end.
SET LOCAL enable_nestloop = off;
CREATE MATERIALIZED VIEW claims.mv_balance_amount_summary AS SELECT * FROM claims.balance_amount_now;
CREATE MATERIALIZED VIEW claims.mv_remittance_advice_summary AS SELECT * FROM claims.remittance_advice_now;
CREATE MATERIALIZED VIEW claims.mv_claim_summary_payerwise AS SELECT * FROM claims.claims_by_payer_now;
SET LOCAL enable_nestloop = on;

-- The same columns, kept row by row.
CREATE TABLE claims.balance_amount_summary (LIKE claims.mv_balance_amount_summary) PARTITION BY HASH (tenant_id);
CREATE TABLE claims.remittance_advice_summary (LIKE claims.mv_remittance_advice_summary) PARTITION BY HASH (tenant_id);
CREATE TABLE claims.claim_summary_payerwise (LIKE claims.mv_claim_summary_payerwise) PARTITION BY HASH (tenant_id);

DO $$
DECLARE kept text; found text;
BEGIN
    FOREACH kept IN ARRAY ARRAY['balance_amount_summary', 'remittance_advice_summary', 'claim_summary_payerwise'] LOOP
        FOR part IN 0..3 LOOP
            EXECUTE format('CREATE TABLE claims.%I PARTITION OF claims.%I FOR VALUES WITH (MODULUS 4, REMAINDER %s)
                            WITH (fillfactor = 80)', kept || '_' || part, kept, part);
        END LOOP;
    END LOOP;
    -- A report is a walk along one of these, in the order of its rows: no sort of a tenant's million.
    FOREACH kept IN ARRAY ARRAY['', 'mv_'] LOOP
        EXECUTE format('CREATE UNIQUE INDEX %1$sbalance_key ON claims.%1$sbalance_amount_summary (tenant_id, provider_id, claim_id)', kept);
        EXECUTE format('CREATE UNIQUE INDEX %1$sremittance_key ON claims.%1$sremittance_advice_summary
                        (tenant_id, provider_id, claim_id)', kept);
        EXECUTE format('CREATE UNIQUE INDEX %1$spayerwise_key ON claims.%1$sclaim_summary_payerwise
                        (tenant_id, month, payer_id, facility_id)', kept);
        FOREACH found IN ARRAY ARRAY['', 'payer_id, ', 'facility_id, ', 'current_status, '] LOOP
            EXECUTE format('CREATE INDEX ON claims.%sbalance_amount_summary
                            (tenant_id, %s coalesce(encounter_start, submitted_at), provider_id, claim_id)', kept, found);
        END LOOP;
        FOREACH found IN ARRAY ARRAY['', 'current_status, '] LOOP
            EXECUTE format('CREATE INDEX ON claims.%sbalance_amount_summary
                            (tenant_id, %s pending_amount, provider_id, claim_id)', kept, found);
        END LOOP;
        FOREACH found IN ARRAY ARRAY['', 'payer_id, ', 'facility_id, ', 'payment_status, '] LOOP
            EXECUTE format('CREATE INDEX ON claims.%sremittance_advice_summary
                            (tenant_id, %s date_settlement, provider_id, claim_id)', kept, found);
        END LOOP;
        FOREACH found IN ARRAY ARRAY['', 'payment_status, '] LOOP
            EXECUTE format('CREATE INDEX ON claims.%sremittance_advice_summary
                            (tenant_id, %s denied_amount, provider_id, claim_id)', kept, found);
        END LOOP;
    END LOOP;
END $$;

UPDATE ops.report_view SET rows = (SELECT count(*) FROM claims.mv_balance_amount_summary) WHERE name = 'balance-amount';
UPDATE ops.report_view SET rows = (SELECT count(*) FROM claims.mv_remittance_advice_summary) WHERE name = 'remittance-advice';
UPDATE ops.report_view SET rows = (SELECT count(*) FROM claims.mv_claim_summary_payerwise) WHERE name = 'claims-by-payer';

-- What reports read. Every one of these is one tenant's, whoever asks and whatever the statement forgets: the transaction says whose
-- by `sluice.tenant_id`, and without it nothing is read. Of the two halves of a report the one that is not kept is never entered: the
-- choice is a condition on the two together, for halves with conditions of their own would be read whole before they are sorted.
DO $$
DECLARE
    report record;
    tenant text := $t$ WHERE tenant_id = current_setting('sluice.tenant_id')::int$t$;
    kept text := $k$(SELECT false AS incremental, * FROM claims.mv_%1$s UNION ALL SELECT true, * FROM claims.%1$s) kept$k$
        || tenant || $k$ AND incremental = (SELECT incremental FROM ops.report_view WHERE name = %2$L)$k$;
    read text;
BEGIN
    EXECUTE 'CREATE VIEW report.balance_amount AS SELECT tenant_id, claim_id, provider_id, facility_id, payer_id, encounter_start,
            submitted_at, initial_net, total_payment, total_taken_back, total_denied, pending_amount, overpaid_amount,
            remittance_count, first_remittance_date, last_remittance_date, resubmission_count, last_resubmission_date,
            current_status, last_status_date,
            (now() AT TIME ZONE ''Asia/Dubai'')::date
                - (coalesce(encounter_start, submitted_at) AT TIME ZONE ''Asia/Dubai'')::date AS aging_days
        FROM ' || format(kept, 'balance_amount_summary', 'balance-amount');
    FOR report IN VALUES ('remittance_advice', 'remittance_advice_summary'), ('claims_by_payer', 'claim_summary_payerwise') LOOP
        EXECUTE format('CREATE VIEW report.%I AS SELECT %s FROM ', report.column1,
                       (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
                        WHERE attrelid = ('claims.' || report.column2)::regclass AND attnum > 0))
            || format(kept, report.column2, replace(report.column1, '_', '-'));
    END LOOP;
    FOREACH read IN ARRAY ARRAY['claim', 'activity', 'diagnosis', 'remittance', 'remittance_activity', 'file'] LOOP
        EXECUTE format('CREATE VIEW report.%1$I AS SELECT * FROM claims.%1$I', read) || tenant;
    END LOOP;
    EXECUTE 'CREATE VIEW report.event AS SELECT tenant_id, provider_id, claim_id, facility_no, file_id, n, kind, at, status, held,
        taken_back, denied, pending, amount FROM claims.event' || tenant;
    EXECUTE 'CREATE VIEW report.facility AS SELECT tenant_id, facility_no, licence FROM ops.facility' || tenant;
END $$;
CREATE VIEW report.state AS SELECT name, incremental, refreshed_at, current_at FROM ops.report_view;

REVOKE ALL ON ALL TABLES IN SCHEMA claims, fhir FROM sluice_report;
REVOKE USAGE ON SCHEMA claims, fhir, ops FROM sluice_report;
REVOKE SELECT ON ops.tenant, ops.warm_tenant FROM sluice_report;
GRANT USAGE ON SCHEMA report TO sluice_report;
GRANT SELECT ON ALL TABLES IN SCHEMA report TO sluice_report;

GRANT SELECT, INSERT, DELETE ON claims.change TO sluice_ingest;
GRANT SELECT ON claims.balance_amount_now, claims.remittance_advice_now, claims.claims_by_payer_now TO sluice_ingest;
GRANT SELECT, UPDATE ON ops.report_view TO sluice_ingest;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE
    ON claims.balance_amount_summary, claims.remittance_advice_summary, claims.claim_summary_payerwise TO sluice_ingest;
GRANT SELECT, MAINTAIN
    ON claims.mv_balance_amount_summary, claims.mv_remittance_advice_summary, claims.mv_claim_summary_payerwise TO sluice_ingest;
GRANT MAINTAIN ON claims.change, claims.balance_amount_summary, claims.remittance_advice_summary, claims.claim_summary_payerwise
    TO sluice_ingest;
