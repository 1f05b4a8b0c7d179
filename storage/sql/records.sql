-- Templates, as in reads.sql. The type is a value here, not text: all types share a statement, and each time only the
-- partitions of the type that is asked for are opened.

-- vread: one version of a resource, the current one or a former
SELECT r.tenant_id, r.id, r.version, r.last_updated, r.deleted, r.body
FROM fhir.resource r
WHERE r.tenant_id = {tenant} AND r.id = {id} AND r.type = {type} AND r.version = {version}
UNION ALL
SELECT h.tenant_id, h.id, h.version, h.last_updated, h.deleted, h.body
FROM fhir.history h
WHERE h.tenant_id = {tenant} AND h.id = {id} AND h.type = {type} AND h.version = {version}

-- history_of_one: a resource's versions, the newest first. The current one always comes: it says that there is such a resource
SELECT r.tenant_id, r.type, r.id, r.version, r.last_updated, r.deleted,
    CASE WHEN r.version < {after_version} AND r.last_updated >= {since} THEN r.body ELSE '' END AS body
FROM fhir.resource r
WHERE r.tenant_id = {tenant} AND r.id = {id} AND r.type = {type}
UNION ALL
(SELECT h.tenant_id, h.type, h.id, h.version, h.last_updated, h.deleted, h.body
 FROM fhir.history h
 WHERE h.tenant_id = {tenant} AND h.id = {id} AND h.type = {type}
     AND h.version < {after_version} AND h.last_updated >= {since}
 ORDER BY h.version DESC LIMIT {rows})

-- history_of_types: versions of all resources of some types, the newest first; of each type no more than a page is walked over
-- What was written in the same moment as the place to go on from, and what before it, are walks of their own: so each begins
-- where it should on whichever index there is for the type, and a moment in which much was written is not walked through again.
-- A current version is newer than all former ones, so in the order it may count as the last there can be.
SELECT b.tenant_id, w.type, w.id, b.version, w.last_updated, b.deleted, b.body
FROM (
    SELECT v.* FROM (
        SELECT t.type, CASE WHEN t.type < {after_type} COLLATE "C" THEN '~' WHEN t.type = {after_type} THEN {after_id} ELSE '' END
            AS below
        FROM unnest(string_to_array({types}, ',')) AS t (type)
        OFFSET 0
    ) k CROSS JOIN LATERAL (
        (SELECT false AS former, r.type, r.id, 2147483647 AS version, r.last_updated FROM fhir.resource r
         WHERE r.tenant_id = {tenant} AND r.type = k.type AND r.last_updated = {after} AND r.id < k.below
         ORDER BY r.id DESC LIMIT {rows})
        UNION ALL
        (SELECT false, r.type, r.id, 2147483647, r.last_updated FROM fhir.resource r
         WHERE r.tenant_id = {tenant} AND r.type = k.type AND r.id <> '' AND r.last_updated >= {since} AND r.last_updated < {after}
         ORDER BY r.last_updated DESC, r.id DESC LIMIT {rows})
        UNION ALL
        (SELECT true, h.type, h.id, h.version, h.last_updated FROM fhir.history h
         WHERE h.tenant_id = {tenant} AND h.type = k.type AND h.last_updated = {after}
             AND (h.id, h.version) < (k.below, {after_version})
         ORDER BY h.id DESC, h.version DESC LIMIT {rows})
        UNION ALL
        (SELECT true, h.type, h.id, h.version, h.last_updated FROM fhir.history h
         WHERE h.tenant_id = {tenant} AND h.type = k.type AND h.id <> '' AND h.last_updated >= {since} AND h.last_updated < {after}
         ORDER BY h.last_updated DESC, h.id DESC, h.version DESC LIMIT {rows})
    ) v
    ORDER BY v.last_updated DESC, v.type DESC, v.id DESC, v.version DESC LIMIT {rows}
) w CROSS JOIN LATERAL ({version_of}) b

-- history_of_all: versions of all resources, the newest first: a walk along one index of each partition, merged
SELECT b.tenant_id, w.type, w.id, b.version, w.last_updated, b.deleted, b.body
FROM (
    SELECT v.* FROM (
        (SELECT false AS former, r.type, r.id, 2147483647 AS version, r.last_updated
         FROM fhir.resource r
         WHERE r.tenant_id = {tenant} AND r.last_updated >= {since}
             AND (r.last_updated, r.type, r.id) < ({after}, {after_type}, {after_id})
         ORDER BY r.last_updated DESC, r.type DESC, r.id DESC LIMIT {rows})
        UNION ALL
        (SELECT true, h.type, h.id, h.version, h.last_updated
         FROM fhir.history h
         WHERE h.tenant_id = {tenant} AND h.last_updated >= {since}
             AND (h.last_updated, h.type, h.id, h.version) < ({after}, {after_type}, {after_id}, {after_version})
         ORDER BY h.last_updated DESC, h.type DESC, h.id DESC, h.version DESC LIMIT {rows})
    ) v
    ORDER BY v.last_updated DESC, v.type DESC, v.id DESC, v.version DESC LIMIT {rows}
) w CROSS JOIN LATERAL ({version_of}) b

-- version_of: what w leads to, of the one table or the other
SELECT r.tenant_id, r.version, r.deleted, r.body FROM fhir.resource r
WHERE NOT w.former AND r.tenant_id = {tenant} AND r.id = w.id AND r.type = w.type
UNION ALL
SELECT h.tenant_id, h.version, h.deleted, h.body FROM fhir.history h
WHERE w.former AND h.tenant_id = {tenant} AND h.id = w.id AND h.type = w.type AND h.version = w.version

-- everything: a patient (kind 0), who always comes; a page of what refers to them (kind 1), and of what all these lead to (kind 2)
-- Who is referred to stays out when it is a patient, or belongs to one: what is this patient's own is of kind 1 already.
WITH near AS MATERIALIZED (
    SELECT DISTINCT x.type, x.id FROM fhir.reference x
    WHERE x.tenant_id = {tenant} AND x.to_type = 'Patient' AND x.to_id = {id} AND x.type <> 'Patient'
), further AS MATERIALIZED (
    SELECT DISTINCT x.to_type AS type, x.to_id AS id
    FROM (SELECT type, id FROM near UNION ALL SELECT 'Patient', {id}) c CROSS JOIN LATERAL (
        SELECT to_type, to_id FROM fhir.reference WHERE tenant_id = {tenant} AND id = c.id AND type = c.type OFFSET 0
    ) x WHERE x.to_type NOT IN ('', 'Patient')
), found AS (
    (SELECT r.* FROM (
         SELECT 1 AS kind, n.type, n.id FROM near n
         WHERE (1, n.type, n.id) > ({after_kind}, {after_type}, {after_id}) AND {chosen}
         ORDER BY n.type, n.id OFFSET 0
     ) n CROSS JOIN LATERAL ({passing}) r
     ORDER BY n.type, n.id LIMIT {rows})
    UNION ALL
    (SELECT r.* FROM (
         SELECT 2 AS kind, n.type, n.id FROM further n
         WHERE (2, n.type, n.id) > ({after_kind}, {after_type}, {after_id}) AND {chosen}
         ORDER BY n.type, n.id OFFSET 0
     ) n CROSS JOIN LATERAL ({passing}) r
     WHERE NOT coalesce((
         SELECT true FROM fhir.reference
         WHERE tenant_id = {tenant} AND id = n.id AND type = n.type AND to_type = 'Patient' LIMIT 1), false)
     ORDER BY n.type, n.id LIMIT {rows})
    LIMIT {rows}
)
SELECT r.tenant_id, 0 AS kind, r.type, r.id, r.version, r.last_updated, r.deleted, r.body
FROM fhir.resource r WHERE r.tenant_id = {tenant} AND r.id = {id} AND r.type = 'Patient'
UNION ALL
SELECT * FROM found

-- chosen: whether n is of a type that was asked for
({types} = '' OR n.type = ANY (string_to_array({types}, ',')))

-- passing: the resource n, if it is there, changed when it should have, and tells of the time that was asked for
-- OFFSET 0: it is looked for by the primary key, and only then is asked when it was changed, for which there is another index.
SELECT r.tenant_id, n.kind, r.type, r.id, r.version, r.last_updated, r.deleted, r.body
FROM (SELECT * FROM fhir.resource WHERE tenant_id = {tenant} AND id = n.id AND type = n.type OFFSET 0) r
WHERE NOT r.deleted AND r.last_updated >= {since}
    AND (NOT {dated} OR (
        SELECT coalesce(bool_or(d.lower < {end} AND d.upper > {start}), true)
        FROM (SELECT lower, upper FROM fhir.date WHERE tenant_id = {tenant} AND type = n.type AND id = n.id OFFSET 0) d))
OFFSET 0
