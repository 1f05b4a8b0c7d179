-- index_noted: the fingerprint of what made the rows that resources are found by; empty: of several
SELECT value FROM ops.fact WHERE name = 'index';

-- index_note: whose rows the first are, or that they are of several from now on. $1 fingerprint
-- One writer does it, the others need not wait for the end of its transaction.
INSERT INTO ops.fact AS f (name, value) SELECT 'index', $1 WHERE pg_try_advisory_xact_lock(hashtext('sluice index'))
ON CONFLICT (name) DO UPDATE SET value = '' WHERE f.value <> excluded.value;

-- stage_make: where a batch waits for the upsert; n is its place in the batch
-- Plans are made anew for each batch of a transaction: one kept from when a partition was empty would scan it ever after.
SET LOCAL plan_cache_mode = force_custom_plan;
SET LOCAL jit = off;
CREATE TEMP TABLE IF NOT EXISTS sluice_stage (
    n int NOT NULL, type text COLLATE "C" NOT NULL, id text COLLATE "C" NOT NULL, rank bigint NOT NULL,
    deleted boolean NOT NULL, sha256 bytea NOT NULL, tail bytea NOT NULL
) ON COMMIT DELETE ROWS;

-- stage_used: whether a batch of the same transaction stands there still
SELECT EXISTS (SELECT FROM sluice_stage);

-- stage_empty: TRUNCATE, for rows deleted would be walked over by every later batch of the transaction
TRUNCATE sluice_stage;

-- resources_insert: the staged that are new. $1 tenant_id, $2 now
-- LATERAL with LIMIT keeps to one look into the key a row, whatever the planner believes of the tables' sizes.
INSERT INTO fhir.resource (tenant_id, type, id, rank, version, last_updated, sha256, body)
SELECT $1, s.type, s.id, s.rank, 1, $2, s.sha256, fhir.stamp(s.type, s.id, 1, $2, s.tail)
FROM sluice_stage s
LEFT JOIN LATERAL (
    SELECT true AS found FROM fhir.resource r WHERE r.tenant_id = $1 AND r.type = s.type AND r.id = s.id LIMIT 1
) r ON true
WHERE r.found IS NULL AND NOT s.deleted
ORDER BY s.type, s.id
ON CONFLICT DO NOTHING
RETURNING type, id;

-- resources_lock: the staged that differ from what is kept, which is locked in order of type and id. $1 tenant_id
-- What is deleted has an empty hash, and so differs from all else.
SELECT s.n
FROM (SELECT * FROM sluice_stage ORDER BY type, id OFFSET 0) s
CROSS JOIN LATERAL (
    SELECT r.version FROM fhir.resource r
    WHERE r.tenant_id = $1 AND r.type = s.type AND r.id = s.id AND r.sha256 <> s.sha256
    LIMIT 1
    FOR NO KEY UPDATE
) r;

-- resources_update: the locked of one type become the next version, and what they were goes to the history.
-- $1 tenant_id, $2 now, $3 type, $4 ids
WITH former AS (
    UPDATE fhir.resource r
    SET rank = CASE WHEN s.deleted THEN r.rank ELSE s.rank END, version = r.version + 1, last_updated = $2,
        deleted = s.deleted, sha256 = s.sha256,
        body = CASE WHEN s.deleted THEN '' ELSE fhir.stamp(r.type, r.id, r.version + 1, $2, s.tail) END
    FROM sluice_stage s
    WHERE r.tenant_id = $1 AND r.type = $3 AND r.id = ANY ($4::text[]) AND s.type = $3 AND s.id = r.id
    RETURNING old.tenant_id, old.type, old.id, old.version, old.last_updated, old.deleted, old.body
)
INSERT INTO fhir.history (tenant_id, type, id, version, last_updated, deleted, body) SELECT * FROM former;

-- token_remove: $1 tenant_id, $2 type, $3 ids
DELETE FROM fhir.token WHERE tenant_id = $1 AND type = $2 AND id = ANY ($3::text[]);

-- string_remove: $1 tenant_id, $2 type, $3 ids
DELETE FROM fhir.string WHERE tenant_id = $1 AND type = $2 AND id = ANY ($3::text[]);

-- date_remove: $1 tenant_id, $2 type, $3 ids
DELETE FROM fhir.date WHERE tenant_id = $1 AND type = $2 AND id = ANY ($3::text[]);

-- reference_remove: $1 tenant_id, $2 type, $3 ids
DELETE FROM fhir.reference WHERE tenant_id = $1 AND type = $2 AND id = ANY ($3::text[]);

-- quantity_remove: $1 tenant_id, $2 type, $3 ids
DELETE FROM fhir.quantity WHERE tenant_id = $1 AND type = $2 AND id = ANY ($3::text[]);

-- identifiers_find: up to two ids for each identifier. $1 tenant_id, $2 types, $3 codes, $4 systems (null: any)
SELECT w.n, t.id
FROM unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS w (type, code, system, n)
CROSS JOIN LATERAL (
    -- Behind a fence, and in the order of the index of values: DISTINCT would choose another by its order, and read all of a type.
    SELECT DISTINCT t.id FROM (
        SELECT t.id FROM fhir.token t
        WHERE t.tenant_id = $1 AND t.type = w.type AND t.param = 'identifier' AND t.code = w.code
            AND (w.system IS NULL OR t.system = w.system)
        ORDER BY t.rank, t.id
        OFFSET 0
    ) t
    LIMIT 2
) t;

-- statistics_refresh: for the planner, after much has come in
ANALYZE fhir.resource, fhir.history, fhir.token, fhir.string, fhir.date, fhir.reference, fhir.quantity;
