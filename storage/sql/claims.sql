-- file_add: nothing when the file is there already, or another one with the same document is loaded.
-- Who asks while another transaction takes the same in waits for its end.
-- $1 tenant_id, $2 facility_no, $3 file_id, $4 name, $5 kind, $6 state, $7 sent, $8 sender_id, $9 receiver_id, $10 transaction_at,
-- $11 record_count, $12 put_aside, $13 size_bytes, $14 sha256, $15 body
INSERT INTO claims.file (tenant_id, facility_no, file_id, name, kind, state, sent, sender_id, receiver_id, transaction_at,
                         record_count, put_aside, size_bytes, sha256, body)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT DO NOTHING
RETURNING true;

-- file_known: $1 tenant_id, $2 facility_no, $3 file_id
SELECT state FROM claims.file WHERE tenant_id = $1 AND facility_no = $2 AND file_id = $3;

-- file_counted: $1 tenant_id, $2 facility_no, $3 file_id, $4 claims, $5 activities, $6 skipped, $7 amount
UPDATE claims.file SET claims = $4, activities = $5, skipped = $6, amount = $7
WHERE tenant_id = $1 AND facility_no = $2 AND file_id = $3;

-- settings: of a transaction that loads. Its statements look rows up by key, a few at a time, and are planned anew each time: a plan
-- from when a table was empty would scan it ever after. Where two indexes look alike, for nothing is known of a table yet, the one
-- that gives the order asked for is taken, since sorting is off.
SET LOCAL plan_cache_mode = force_custom_plan;
SET LOCAL jit = off;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_material = off;
SET LOCAL enable_sort = off;
CREATE TEMP TABLE IF NOT EXISTS claim_stage (LIKE claims.claim) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS activity_stage (LIKE claims.activity) ON COMMIT DELETE ROWS;

-- stage_used: whether a chunk of the same transaction stands there still
SELECT EXISTS (SELECT FROM claim_stage);

-- stage_empty: between the chunks of one transaction
TRUNCATE claim_stage, activity_stage;

-- claims_add: those that are new; in the order of their keys, as everybody takes them. $1 tenant_id, $2 provider_ids, $3 claim_ids
INSERT INTO claims.claim (tenant_id, provider_id, claim_id)
SELECT $1, k.provider_id, k.claim_id
FROM unnest($2::text[], $3::text[]) AS k (provider_id, claim_id)
LEFT JOIN LATERAL (
    SELECT true AS found FROM claims.claim c
    WHERE c.tenant_id = $1 AND c.provider_id = k.provider_id AND c.claim_id = k.claim_id LIMIT 1
) c ON true
WHERE c.found IS NULL
ORDER BY k.provider_id COLLATE "C", k.claim_id COLLATE "C"
ON CONFLICT DO NOTHING
RETURNING provider_id, claim_id;

-- claims_lock: $1 tenant_id, $2 provider_ids, $3 claim_ids
SELECT count(*)
FROM (SELECT * FROM unnest($2::text[], $3::text[]) AS k (provider_id, claim_id)
      ORDER BY provider_id COLLATE "C", claim_id COLLATE "C" OFFSET 0) k
CROSS JOIN LATERAL (
    SELECT c.claim_id FROM claims.claim c
    WHERE c.tenant_id = $1 AND c.provider_id = k.provider_id AND c.claim_id = k.claim_id
    LIMIT 1
    FOR NO KEY UPDATE
) c;

-- claims_history: what is known of claims so far. $1 tenant_id, $2 provider_ids, $3 claim_ids
SELECT k.n, e.facility_no, e.file_id, e.n AS place, e.kind, e.status, e.held, e.taken_back, e.denied, e.pending, e.document
FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS k (provider_id, claim_id, n)
CROSS JOIN LATERAL (
    SELECT * FROM claims.event e
    WHERE e.tenant_id = $1 AND e.provider_id = k.provider_id AND e.claim_id = k.claim_id
    OFFSET 0
) e;

-- claims_write: what is staged stands for what is known now. $1 tenant_id
-- ON CONFLICT, though all are there: it looks each up by its key, whatever the planner believes of the table. Reports learn of it from
-- claims.change, with the group that the claim was in.
WITH written AS (
INSERT INTO claims.claim AS c
SELECT * FROM claim_stage
ON CONFLICT (tenant_id, provider_id, claim_id) DO UPDATE
SET (submitted_at, facility_id, payer_id, member_id, encounter_type, encounter_start, encounter_end, gross, patient_share,
     net, held, taken_back, denied, pending, overpaid, status, status_at, resubmission_count, last_resubmission_at,
     remittance_count, first_remitted_at, last_remitted_at, settled_at, payment_reference, id_payer)
  = (excluded.submitted_at, excluded.facility_id, excluded.payer_id, excluded.member_id, excluded.encounter_type,
     excluded.encounter_start, excluded.encounter_end, excluded.gross, excluded.patient_share, excluded.net, excluded.held,
     excluded.taken_back, excluded.denied, excluded.pending, excluded.overpaid, excluded.status, excluded.status_at,
     excluded.resubmission_count, excluded.last_resubmission_at, excluded.remittance_count, excluded.first_remitted_at,
     excluded.last_remitted_at, excluded.settled_at, excluded.payment_reference, excluded.id_payer)
WHERE c.tenant_id = $1
RETURNING new.provider_id, new.claim_id, new.remittance_count > 0 AS remitted, old.submitted_at, old.encounter_start,
          old.payer_id, old.facility_id
)
INSERT INTO claims.change (tenant_id, provider_id, claim_id, remitted, month, payer_id, facility_id)
SELECT $1, provider_id, claim_id, remitted,
       CASE WHEN submitted_at IS NOT NULL
            THEN date_trunc('month', coalesce(encounter_start, submitted_at) AT TIME ZONE 'Asia/Dubai')::date END,
       payer_id, facility_id
FROM written;

-- activities_write: $1 tenant_id
INSERT INTO claims.activity AS a
SELECT * FROM activity_stage
ON CONFLICT (tenant_id, provider_id, claim_id, activity_id) DO UPDATE
SET (ordinal, started_at, type, code, quantity, net, clinician_id, prior_authorization, submitted_at, held, taken_back, denied, pending,
     overpaid, status, denial_code, last_remitted_at)
  = (excluded.ordinal, excluded.started_at, excluded.type, excluded.code, excluded.quantity, excluded.net, excluded.clinician_id,
     excluded.prior_authorization, excluded.submitted_at, excluded.held, excluded.taken_back, excluded.denied, excluded.pending,
     excluded.overpaid, excluded.status, excluded.denial_code, excluded.last_remitted_at)
WHERE a.tenant_id = $1 AND a IS DISTINCT FROM excluded;

-- event_write: an earlier event, whose standing a later arrival has changed.
-- $1 tenant_id, $2 provider_id, $3 claim_id, $4 facility_no, $5 file_id, $6 n, $7 kind, $8 status, $9 held, $10 taken_back,
-- $11 denied, $12 pending
UPDATE claims.event SET kind = $7, status = $8, held = $9, taken_back = $10, denied = $11, pending = $12
WHERE tenant_id = $1 AND provider_id = $2 AND claim_id = $3 AND facility_no = $4 AND file_id = $5 AND n = $6;

-- activities_keep: of a claim these and no others. $1 tenant_id, $2 provider_id, $3 claim_id, $4 activity_ids
DELETE FROM claims.activity
WHERE tenant_id = $1 AND provider_id = $2 AND claim_id = $3 AND activity_id <> ALL ($4::text[]);

-- identities_find: $1 tenant_id, $2 types, $3 systems, $4 codes
SELECT i.type, i.system, i.code, i.resource_id, i.made
FROM unnest($2::text[], $3::text[], $4::text[]) AS w (type, system, code)
CROSS JOIN LATERAL (
    SELECT * FROM claims.identity i WHERE i.tenant_id = $1 AND i.type = w.type AND i.system = w.system AND i.code = w.code LIMIT 1
) i;

-- identities_add: $1 tenant_id, $2 types, $3 systems, $4 codes, $5 resource_ids, $6 made
INSERT INTO claims.identity (tenant_id, type, system, code, resource_id, made)
SELECT $1, w.type, w.system, w.code, w.resource_id, w.made
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::boolean[]) AS w (type, system, code, resource_id, made)
ORDER BY w.type COLLATE "C", w.system COLLATE "C", w.code COLLATE "C"
ON CONFLICT DO NOTHING
RETURNING type;

-- identities_lock: those who add to the same resource come one after the other. $1 tenant_id, $2 type, $3 resource_ids
SELECT i.code FROM claims.identity i
WHERE i.tenant_id = $1 AND i.type = $2 AND i.resource_id = ANY ($3::text[]) AND i.resource_id <> ''
ORDER BY i.resource_id, i.system, i.code
FOR NO KEY UPDATE;

-- identities_of: $1 tenant_id, $2 type, $3 resource_ids
SELECT i.type, i.system, i.code, i.resource_id, i.made FROM claims.identity i
WHERE i.tenant_id = $1 AND i.type = $2 AND i.resource_id = ANY ($3::text[]) AND i.resource_id <> ''
ORDER BY i.resource_id;

-- identities_held: which of the resources have an identifier of a system. $1 tenant_id, $2 type, $3 system, $4 resource_ids
-- Behind fences, and in the order of the indexes by resource: the system, too, leads to an index, and through all who have one.
SELECT i.resource_id FROM (
    SELECT i.resource_id, i.system FROM claims.identity i
    WHERE i.tenant_id = $1 AND i.type = $2 AND i.resource_id = ANY ($4::text[]) AND i.resource_id <> ''
    ORDER BY i.resource_id OFFSET 0
) i WHERE i.system = $3
UNION
SELECT t.id FROM (
    SELECT t.id, t.param, t.system FROM fhir.token t
    WHERE t.tenant_id = $1 AND t.type = $2 AND t.id = ANY ($4::text[])
    ORDER BY t.id OFFSET 0
) t WHERE t.param = 'identifier' AND t.system = $3;

-- identities_move: $1 tenant_id, $2 type, $3 from, $4 to
UPDATE claims.identity SET resource_id = $4, made = false WHERE tenant_id = $1 AND type = $2 AND resource_id = $3 AND resource_id <> '';

-- identities_any: $1 tenant_id
SELECT EXISTS (SELECT FROM claims.identity WHERE tenant_id = $1);

-- referrers: what refers to a resource. $1 tenant_id, $2 type, $3 id
SELECT DISTINCT r.type, r.id, r.body
FROM fhir.reference f JOIN fhir.resource r ON r.tenant_id = f.tenant_id AND r.type = f.type AND r.id = f.id AND NOT r.deleted
WHERE f.tenant_id = $1 AND f.to_type = $2 AND f.to_id = $3;

-- loading: many load at once, who merges is alone. $1 tenant_id
SELECT pg_advisory_xact_lock_shared(hashtext('sluice merge'), $1);

-- merging: $1 tenant_id
SELECT pg_advisory_xact_lock(hashtext('sluice merge'), $1);

-- changed: told at commit, once a transaction. $1 tenant_id, $2 types
SELECT pg_notify('sluice_changed', $1::int::text || ' ' || array_to_string($2::text[], ','));

-- identity_secret: what resources are named by
SELECT ops.identity_secret();

-- statistics_refresh: for the planner; what somebody else is at already is left out
ANALYZE (SKIP_LOCKED) fhir.resource, fhir.history, fhir.token, fhir.string, fhir.date, fhir.reference, claims.claim, claims.activity,
    claims.event, claims.identity, claims.file;
