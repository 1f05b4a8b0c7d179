-- denials: what was refused, and what was paid only in part, by code and clinician; days are of the encounter, else of the submission.
-- $1 tenant_id, $2 from, $3 before, $4 payer, $5 facility, $6 by code, clinician, or null for both
SELECT CASE WHEN $6::text IS DISTINCT FROM 'clinician' THEN a.denial_code END AS denial_code,
       CASE WHEN $6::text IS DISTINCT FROM 'code' THEN a.clinician_id END AS clinician_id,
       count(*) AS activities, count(DISTINCT (a.provider_id, a.claim_id)) AS claims, sum(a.denied) AS denied_amount,
       count(*) FILTER (WHERE a.held > 0) AS part_paid_activities, sum(a.held) AS held_amount
FROM report.activity a JOIN report.claim c USING (tenant_id, provider_id, claim_id)
WHERE a.tenant_id = $1::int AND c.tenant_id = $1::int AND a.denial_code IS NOT NULL AND a.denial_code <> '' AND c.submitted_at IS NOT NULL
  AND ($2::timestamptz IS NULL OR coalesce(c.encounter_start, c.submitted_at) >= $2)
  AND ($3::timestamptz IS NULL OR coalesce(c.encounter_start, c.submitted_at) < $3)
  AND ($4::text IS NULL OR c.payer_id = $4) AND ($5::text IS NULL OR c.facility_id = $5)
GROUP BY 1, 2
ORDER BY sum(a.denied) DESC, sum(a.held) DESC, 1, 2;

-- ageing: what is pending, by its age in days and by payer, and a row of all payers. Parameters as of denials; $2, $3 and $6 are not used
SELECT payer_id, grouping(payer_id) = 1 AS is_total, count(*) AS claims, coalesce(sum(pending_amount), 0.00) AS pending_amount,
       count(*) FILTER (WHERE aging_days <= 30) AS claims_0_30,
       coalesce(sum(pending_amount) FILTER (WHERE aging_days <= 30), 0.00) AS pending_0_30,
       count(*) FILTER (WHERE aging_days BETWEEN 31 AND 60) AS claims_31_60,
       coalesce(sum(pending_amount) FILTER (WHERE aging_days BETWEEN 31 AND 60), 0.00) AS pending_31_60,
       count(*) FILTER (WHERE aging_days BETWEEN 61 AND 90) AS claims_61_90,
       coalesce(sum(pending_amount) FILTER (WHERE aging_days BETWEEN 61 AND 90), 0.00) AS pending_61_90,
       count(*) FILTER (WHERE aging_days BETWEEN 91 AND 180) AS claims_91_180,
       coalesce(sum(pending_amount) FILTER (WHERE aging_days BETWEEN 91 AND 180), 0.00) AS pending_91_180,
       count(*) FILTER (WHERE aging_days BETWEEN 181 AND 365) AS claims_181_365,
       coalesce(sum(pending_amount) FILTER (WHERE aging_days BETWEEN 181 AND 365), 0.00) AS pending_181_365,
       count(*) FILTER (WHERE aging_days > 365) AS claims_over_365,
       coalesce(sum(pending_amount) FILTER (WHERE aging_days > 365), 0.00) AS pending_over_365
FROM (
    -- A fence: the age of a row is reckoned once, and not for each column.
    SELECT payer_id, pending_amount, aging_days FROM report.balance_amount
    WHERE tenant_id = $1::int AND pending_amount > 0
      AND ($4::text IS NULL OR payer_id = $4) AND ($5::text IS NULL OR facility_id = $5)
      AND $2::timestamptz IS NULL AND $3::timestamptz IS NULL AND $6::text IS NULL
    OFFSET 0
) AS pending
GROUP BY GROUPING SETS ((payer_id), ())
ORDER BY 2, 1;

-- control_totals: files against the database against the report. A file counts on the Dubai day of its header, one without a header
-- on the day on which it came; what was said on a day has the time of its file's header. Parameters as of denials; $4 to $6 are not used
WITH files AS (
    SELECT coalesce(kind, 'other') AS of, state, record_count, claims, put_aside, skipped, amount
    FROM report.file
    WHERE tenant_id = $1::int
      AND ($2::timestamptz IS NULL OR coalesce(transaction_at, loaded_at) >= $2)
      AND ($3::timestamptz IS NULL OR coalesce(transaction_at, loaded_at) < $3)
      AND $4::text IS NULL AND $5::text IS NULL AND $6::text IS NULL
), said AS (
    SELECT of, count(*) FILTER (WHERE state = 'loaded') AS loaded, count(*) FILTER (WHERE state = 'test') AS test,
           count(*) FILTER (WHERE state = 'duplicate') AS duplicate, count(*) FILTER (WHERE state = 'quarantined') AS quarantined,
           count(*) FILTER (WHERE state = 'ignored') AS ignored,
           coalesce(sum(record_count) FILTER (WHERE state = 'loaded'), 0)::numeric AS record_count,
           coalesce(sum(claims) FILTER (WHERE state = 'loaded'), 0)::numeric AS claims,
           coalesce(sum(put_aside) FILTER (WHERE state = 'loaded'), 0)::numeric AS put_aside,
           coalesce(sum(skipped) FILTER (WHERE state = 'loaded'), 0)::numeric AS skipped,
           coalesce(sum(amount) FILTER (WHERE state = 'loaded'), 0.00) AS amount
    FROM (SELECT * FROM files UNION ALL VALUES ('submission', '', 0, 0, 0, 0, 0.00), ('remittance', '', 0, 0, 0, 0, 0.00)) f
    GROUP BY of
), kept AS (
    SELECT CASE WHEN kind = 'remittance' THEN kind ELSE 'submission' END AS of, count(*)::numeric AS claims,
           count(*) FILTER (WHERE amount IS NULL)::numeric AS unknown, coalesce(sum(amount), 0.00) AS amount
    FROM report.event
    WHERE tenant_id = $1::int AND file_id <> '' AND ($2::timestamptz IS NULL OR at >= $2) AND ($3::timestamptz IS NULL OR at < $3)
    GROUP BY 1
), now AS (
    SELECT count(*)::numeric AS claims, coalesce(sum(net), 0.00) AS net, coalesce(sum(held), 0.00) AS held,
           coalesce(sum(taken_back), 0.00) AS taken_back, coalesce(sum(denied), 0.00) AS denied,
           coalesce(sum(pending), 0.00) AS pending, coalesce(sum(overpaid), 0.00) AS overpaid
    FROM report.claim
    WHERE tenant_id = $1::int AND submitted_at IS NOT NULL
      AND ($2::timestamptz IS NULL OR submitted_at >= $2) AND ($3::timestamptz IS NULL OR submitted_at < $3)
), shown AS (
    SELECT count(*)::numeric AS claims, coalesce(sum(initial_net), 0.00) AS net, coalesce(sum(total_payment), 0.00) AS held,
           coalesce(sum(total_taken_back), 0.00) AS taken_back, coalesce(sum(total_denied), 0.00) AS denied,
           coalesce(sum(pending_amount), 0.00) AS pending, coalesce(sum(overpaid_amount), 0.00) AS overpaid
    FROM report.balance_amount
    WHERE tenant_id = $1::int
      AND ($2::timestamptz IS NULL OR submitted_at >= $2) AND ($3::timestamptz IS NULL OR submitted_at < $3)
), compared AS (
    SELECT 1 AS part, s.of, m.ordinal, m.measure, m.header, m.parsed, m.database, NULL::numeric AS report, m.difference
    FROM said s LEFT JOIN kept k USING (of)
    CROSS JOIN LATERAL (VALUES
        (1, 'files_loaded', NULL::numeric, s.loaded::numeric, NULL::numeric, NULL::numeric),
        (2, 'files_test', NULL, s.test, NULL, NULL),
        (3, 'files_duplicate', NULL, s.duplicate, NULL, NULL),
        (4, 'files_quarantined', NULL, s.quarantined, NULL, NULL),
        (5, 'files_ignored', NULL, s.ignored, NULL, NULL),
        (6, 'records', s.record_count, s.claims + s.put_aside, NULL, s.record_count - s.claims - s.put_aside),
        (7, 'put_aside', NULL, s.put_aside, NULL, NULL),
        (8, 'skipped', NULL, s.skipped, NULL, NULL),
        (9, 'claims', NULL, s.claims, coalesce(k.claims, 0), s.claims - coalesce(k.claims, 0)),
        (10, 'amount', NULL, s.amount, coalesce(k.amount, 0.00),
         CASE WHEN coalesce(k.unknown, 0) = 0 THEN s.amount - coalesce(k.amount, 0.00) END),
        (11, 'amount_unknown', NULL, NULL, coalesce(k.unknown, 0), NULL)
    ) AS m (ordinal, measure, header, parsed, database, difference)
    WHERE s.of <> 'other' OR m.ordinal <= 5
    UNION ALL
    SELECT 2, 'claim', m.ordinal, m.measure, NULL, NULL, m.database, m.report, m.database - m.report
    FROM now n CROSS JOIN shown s
    CROSS JOIN LATERAL (VALUES
        (1, 'claims', n.claims, s.claims), (2, 'net', n.net, s.net), (3, 'held', n.held, s.held),
        (4, 'taken_back', n.taken_back, s.taken_back), (5, 'denied', n.denied, s.denied), (6, 'pending', n.pending, s.pending),
        (7, 'overpaid', n.overpaid, s.overpaid)
    ) AS m (ordinal, measure, database, report)
)
SELECT of, measure, header, parsed, database, report, difference, difference = 0 AS agrees
FROM compared
ORDER BY part, array_position(ARRAY['submission', 'remittance', 'other'], of), ordinal;

-- state: when a report was refreshed, and the time of this snapshot. $1 name
SELECT refreshed_at, now() AS at FROM report.state WHERE name = $1;

-- claim: all that is known of one, as JSON. $1 tenant_id, $2 provider_id, $3 claim_id
SELECT json_build_object(
    'provider_id', c.provider_id, 'claim_id', c.claim_id, 'facility_id', c.facility_id, 'payer_id', c.payer_id,
    'id_payer', c.id_payer, 'self_pay', c.member_id IS NOT DISTINCT FROM 'SelfPay', 'submitted_at', c.submitted_at,
    'encounter_type', c.encounter_type, 'encounter_start', c.encounter_start, 'encounter_end', c.encounter_end,
    'gross', c.gross, 'patient_share', c.patient_share, 'net', c.net, 'held', c.held, 'taken_back', c.taken_back,
    'denied', c.denied, 'pending', c.pending, 'overpaid', c.overpaid, 'status', c.status, 'status_at', c.status_at,
    'resubmission_count', c.resubmission_count, 'last_resubmission_at', c.last_resubmission_at,
    'remittance_count', c.remittance_count, 'first_remitted_at', c.first_remitted_at, 'last_remitted_at', c.last_remitted_at,
    'settled_at', c.settled_at, 'payment_reference', c.payment_reference
)::text AS claim, now() AS at
FROM report.claim c WHERE c.tenant_id = $1 AND c.provider_id = $2 AND c.claim_id = $3;

-- claim_parts: what belongs to it, as JSON, in their order. $1 tenant_id, $2 provider_id, $3 claim_id
SELECT
    (SELECT coalesce(json_agg(json_build_object(
        'activity_id', activity_id, 'type', type, 'code', code, 'quantity', quantity, 'started_at', started_at,
        'clinician_id', clinician_id, 'prior_authorization', prior_authorization, 'submitted_at', submitted_at, 'net', net,
        'held', held, 'taken_back', taken_back, 'denied', denied, 'pending', pending, 'overpaid', overpaid, 'status', status,
        'denial_code', denial_code, 'last_remitted_at', last_remitted_at) ORDER BY ordinal), '[]')
     FROM report.activity WHERE tenant_id = $1 AND provider_id = $2 AND claim_id = $3)::text AS activities,
    (SELECT coalesce(json_agg(json_build_object('type', d.type, 'code', d.code, 'facility', f.licence, 'file_id', d.file_id)
        ORDER BY d.facility_no, d.file_id, d.n, d.line), '[]')
     FROM report.diagnosis d LEFT JOIN report.facility f ON f.facility_no = d.facility_no
     WHERE d.tenant_id = $1 AND d.provider_id = $2 AND d.claim_id = $3)::text AS diagnoses,
    (SELECT coalesce(json_agg(json_build_object(
        'settled_at', coalesce(r.settled_at, r.transaction_at), 'transaction_at', r.transaction_at, 'sender_id', r.sender_id,
        'payment_reference', r.payment_reference, 'id_payer', r.id_payer, 'denial_code', r.denial_code, 'paid', r.paid,
        'facility', f.licence, 'file_id', r.file_id,
        'lines', (SELECT coalesce(json_agg(json_build_object(
                    'activity_id', l.activity_id, 'type', l.type, 'code', l.code, 'quantity', l.quantity, 'net', l.net,
                    'gross', l.gross, 'patient_share', l.patient_share, 'list', l.list, 'clinician_id', l.clinician_id,
                    'payment', l.payment, 'denial_code', l.denial_code) ORDER BY l.line), '[]')
                  FROM report.remittance_activity l
                  WHERE l.tenant_id = $1 AND l.provider_id = $2 AND l.claim_id = $3
                    AND l.facility_no = r.facility_no AND l.file_id = r.file_id AND l.n = r.n))
        ORDER BY coalesce(r.settled_at, r.transaction_at), r.transaction_at, r.file_id, r.n, r.facility_no), '[]')
     FROM report.remittance r LEFT JOIN report.facility f ON f.facility_no = r.facility_no
     WHERE r.tenant_id = $1 AND r.provider_id = $2 AND r.claim_id = $3)::text AS remittances,
    (SELECT coalesce(json_agg(json_build_object(
        'kind', e.kind, 'at', e.at, 'status', e.status, 'amount', e.amount, 'held', e.held, 'taken_back', e.taken_back,
        'denied', e.denied, 'pending', e.pending, 'facility', f.licence, 'file_id', e.file_id)
        ORDER BY e.at, e.kind = 'remittance', e.facility_no, e.file_id, e.n), '[]')
     FROM report.event e LEFT JOIN report.facility f ON f.facility_no = e.facility_no
     WHERE e.tenant_id = $1 AND e.provider_id = $2 AND e.claim_id = $3)::text AS events;

-- file: a document as it came. $1 tenant_id, $2 licence, $3 file_id
SELECT f.name, f.kind, f.sha256, f.body
FROM report.facility m JOIN report.file f ON f.tenant_id = m.tenant_id AND f.facility_no = m.facility_no
WHERE m.tenant_id = $1 AND f.tenant_id = $1 AND m.licence = $2 AND f.file_id = $3;
