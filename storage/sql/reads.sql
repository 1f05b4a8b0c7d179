-- Templates: {tenant}, {id}, … become $1, $2, … in the statement for one ask, and columns of `ask` in a batch's LATERAL.
-- Every row begins with the table's own tenant, by which (and by the ask's number) the answer is handed out.

-- read: one resource by id. OFFSET 0: a batch looks into the index for each ask, and never walks the table to look for asks
SELECT r.tenant_id, r.id, r.version, r.last_updated, r.deleted, r.body
FROM fhir.resource r
WHERE r.tenant_id = {tenant} AND r.id = {id} AND r.type = '{type}'
OFFSET 0

-- review: an encounter (kind 0), what tells of its money (kind 1, always all of it), and the rest around it (kind 2, a page of it)
-- `since` and `types` narrow the rest alone: the money is always whole.
-- OFFSET 0 keeps each step one look into an index per row before it, also in a plan that was made while the tables were empty.
WITH near AS (
    SELECT 'Encounter' COLLATE "C" AS type, {id} COLLATE "C" AS id
    UNION
    SELECT x.to_type, x.to_id FROM fhir.reference x
    WHERE x.tenant_id = {tenant} AND x.id = {id} AND x.type = 'Encounter' AND x.to_type <> ''
    UNION
    SELECT x.type, x.id FROM fhir.reference x WHERE x.tenant_id = {tenant} AND x.to_type = 'Encounter' AND x.to_id = {id}
), around AS (
    SELECT type, id FROM near
    UNION
    SELECT x.type, x.id FROM near c CROSS JOIN LATERAL (
        SELECT type, id FROM fhir.reference
        WHERE tenant_id = {tenant} AND to_type = 'Claim' AND to_id = c.id AND type IN ('ClaimResponse', 'ExplanationOfBenefit')
        OFFSET 0
    ) x WHERE c.type = 'Claim'
    UNION
    SELECT x.to_type, x.to_id FROM near c CROSS JOIN LATERAL (
        SELECT to_type, to_id FROM fhir.reference
        WHERE tenant_id = {tenant} AND type = 'Claim' AND id = c.id AND to_type = 'Coverage'
        OFFSET 0
    ) x WHERE c.type = 'Claim'
), ranked AS (
    SELECT CASE WHEN type = 'Encounter' AND id = {id} THEN 0
                WHEN type IN ('Claim', 'ClaimResponse', 'ExplanationOfBenefit') THEN 1 ELSE 2 END AS kind, type, id
    FROM around
), wanted AS (
    SELECT kind, type, id FROM ranked WHERE kind < 2
    UNION ALL
    (SELECT w.kind, w.type, w.id FROM ranked w CROSS JOIN LATERAL (
         SELECT deleted, last_updated FROM fhir.resource WHERE tenant_id = {tenant} AND id = w.id AND type = w.type OFFSET 0
     ) r
     WHERE w.kind = 2 AND NOT r.deleted AND (w.kind, w.type, w.id) > ({after_kind}, {after_type}, {after_id})
         AND r.last_updated >= {since} AND ({types} = '' OR w.type = ANY (string_to_array({types}, ',')))
     ORDER BY w.kind, w.type, w.id LIMIT {rows})
)
SELECT r.tenant_id, w.kind, r.type, r.id, r.version, r.last_updated, r.deleted, r.body
FROM wanted w CROSS JOIN LATERAL (
    SELECT * FROM fhir.resource WHERE tenant_id = {tenant} AND id = w.id AND type = w.type OFFSET 0
) r
WHERE w.kind = 0 OR NOT r.deleted
