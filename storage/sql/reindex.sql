-- index_outdated: whether resources are stored whose rows are not all made by this. $1 fingerprint
SELECT EXISTS (SELECT FROM fhir.resource WHERE NOT deleted)
    AND coalesce((SELECT value FROM ops.fact WHERE name = 'index'), '') <> $1;

-- index_settle: all rows are made by this. $1 fingerprint
INSERT INTO ops.fact (name, value) VALUES ('index', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- tenants_count: the tenants, and how many resources each has, those deleted included. $1 tenant_id, or null for all
SELECT t.tenant_id, (SELECT count(*) FROM fhir.resource r WHERE r.tenant_id = t.tenant_id) AS resources
FROM ops.tenant t WHERE $1::int IS NULL OR t.tenant_id = $1 ORDER BY t.tenant_id;

-- batch_keys: what comes next by the primary key, and how many bytes it has. $1 tenant_id, $2 id, $3 type, $4 rows_max
SELECT id, type, octet_length(body) AS bytes FROM fhir.resource
WHERE tenant_id = $1 AND (id, type) > ($2, $3) ORDER BY id, type LIMIT $4;

-- batch_patience: shorter than the server's for a deadlock, so that the other of two who wait for each other goes on
SET LOCAL lock_timeout = '500ms';

-- batch_lock: these as they are now, locked in the order of upsert. $1 tenant_id, $2 types, $3 ids
SELECT k.type, k.id, r.rank, r.deleted, r.body
FROM (SELECT * FROM unnest($2::text[], $3::text[]) AS k (type, id) ORDER BY type COLLATE "C", id COLLATE "C" OFFSET 0) k
CROSS JOIN LATERAL (
    SELECT r.rank, r.deleted, r.body FROM fhir.resource r
    WHERE r.tenant_id = $1 AND r.type = k.type AND r.id = k.id
    LIMIT 1
    FOR NO KEY UPDATE
) r;

-- ranks_update: $1 tenant_id, $2 type, $3 ids, $4 ranks
UPDATE fhir.resource r SET rank = k.rank FROM unnest($3::text[], $4::bigint[]) AS k (id, rank)
WHERE r.tenant_id = $1 AND r.type = $2 AND r.id = ANY ($3::text[]) AND r.id = k.id;
