-- whole_settings: of a transaction that computes a view as a whole: minutes, and not the whole machine. Tables of which nothing is
-- known yet look small: then the groups of one child would be computed anew for each row of another, but for the last of these.
SET LOCAL statement_timeout = '15min';
SET LOCAL lock_timeout = '20s';
SET LOCAL work_mem = '64MB';
SET LOCAL enable_nestloop = off;  -- three columns of a key look like nine rows of a million: a nested loop would never end
SET LOCAL maintenance_work_mem = '64MB';
SET LOCAL enable_hashagg = off;  -- the indexes are in the order of the keys: to group along them costs a third of hashing millions
SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL max_parallel_maintenance_workers = 0;
SET LOCAL jit = off;

-- keys_settings: of one that looks rows up by key: planned anew each time, and by index, also in tables of which nothing is known yet
SET LOCAL statement_timeout = '60s';
SET LOCAL lock_timeout = '20s';
SET LOCAL plan_cache_mode = force_custom_plan;
SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL jit = off;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_material = off;

-- states: of all views. `waiting`: changes that are not in. A copy of the database made by pg_dump has no part in the numbers of the
-- one that it was made of: then `done` may speak of what is still to come, and says nothing (`lost`). $1 views of remitted claims alone
SELECT v.name, v.incremental, v.refreshed_at, v.current_at, v.took_s, v.rows, v.refreshed, v.applied, v.failed, v.reason,
       now() AS now, pg_snapshot_xmax(v.done) > pg_snapshot_xmax(pg_current_snapshot()) AS lost,
       (SELECT count(*) FROM claims.change c
        WHERE c.xid >= pg_snapshot_xmin(v.done) AND NOT pg_visible_in_snapshot(c.xid, v.done)
              AND (c.remitted OR v.name <> ALL ($1::text[]))) AS waiting
FROM ops.report_view v;

-- seen: what the caller's snapshot sees
SELECT pg_current_snapshot()::text;

-- lock_try: as long as the session lives. $1 what
SELECT pg_try_advisory_lock(hashtext('sluice views'), $1);

-- lock: $1 what
SELECT pg_advisory_lock(hashtext('sluice views'), $1);

-- unlock: $1 what
SELECT pg_advisory_unlock(hashtext('sluice views'), $1);

-- refreshed: as a whole, in the transaction that did it, whose beginning is the rows' time.
-- $1 name, $2 incremental, $3 done, $4 rows
UPDATE ops.report_view
SET incremental = $2, done = $3::text::pg_snapshot, refreshed_at = now(), current_at = now(), rows = $4, refreshed = refreshed + 1,
    took_s = CASE WHEN $2 THEN took_s ELSE extract(epoch FROM clock_timestamp() - now()) END, reason = ''
WHERE name = $1;

-- begin: the snapshot of a transaction that applies changes; nobody else writes this row before its end. $1 name
SELECT done::text AS done, pg_current_snapshot()::text AS seen, incremental,
       pg_snapshot_xmax(done) > pg_snapshot_xmax(pg_current_snapshot()) AS lost
FROM ops.report_view WHERE name = $1
FOR NO KEY UPDATE;

-- applied: $1 name, $2 done, $3 rows more, $4 whether nothing is missing
UPDATE ops.report_view
SET done = $2::text::pg_snapshot, refreshed_at = now(), current_at = CASE WHEN $4 THEN now() ELSE current_at END,
    rows = rows + $3, applied = applied + 1, reason = ''
WHERE name = $1;

-- confirm: nothing is missing; false when something is. $1 name, $2 views of remitted claims alone
UPDATE ops.report_view v SET done = pg_current_snapshot(), current_at = now()
WHERE v.name = $1 AND pg_snapshot_xmax(v.done) <= pg_snapshot_xmax(pg_current_snapshot())
      AND NOT EXISTS (SELECT FROM claims.change c
                      WHERE c.xid >= pg_snapshot_xmin(v.done) AND NOT pg_visible_in_snapshot(c.xid, v.done)
                            AND (c.remitted OR v.name <> ALL ($2::text[])))
RETURNING true;

-- failed: $1 name, $2 reason
UPDATE ops.report_view SET failed = failed + 1, reason = $2 WHERE name = $1;

-- prune: what every view has seen, and what another database has left behind, of which this one was made
DELETE FROM claims.change
WHERE xid < (SELECT min(pg_snapshot_xmin(done)) FROM ops.report_view) OR xid >= pg_snapshot_xmax(pg_current_snapshot());

-- cut: where a step of so many changes ends: at the next transaction, for its changes stay together. Null: all of them.
-- $1 done, $2 changes
SELECT min(xid)::text FROM claims.change
WHERE xid < pg_snapshot_xmin(pg_current_snapshot()) AND xid > (
    SELECT xid FROM claims.change
    WHERE xid >= pg_snapshot_xmin($1::text::pg_snapshot) AND NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot)
    ORDER BY xid OFFSET $2 - 1 LIMIT 1
);

-- claims: that have changed since `done`, before the cut. $1 done, $2 cut or null, $3 of remitted ones alone
SELECT DISTINCT tenant_id, provider_id, claim_id FROM claims.change
WHERE xid >= pg_snapshot_xmin($1::text::pg_snapshot) AND NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot)
      AND ($2::text IS NULL OR xid < $2::text::xid8) AND (remitted OR NOT $3)
ORDER BY tenant_id, provider_id, claim_id;

-- groups_before: that those claims were in. $1 done, $2 cut or null
SELECT DISTINCT tenant_id, month, payer_id, facility_id FROM claims.change
WHERE xid >= pg_snapshot_xmin($1::text::pg_snapshot) AND NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot)
      AND ($2::text IS NULL OR xid < $2::text::xid8) AND month IS NOT NULL AND payer_id <> '';

-- groups_now: that claims are in. $1 tenant_id, $2 provider_ids, $3 claim_ids
SELECT DISTINCT c.month, c.payer_id, c.facility_id
FROM unnest($2::text[], $3::text[]) AS k (provider_id, claim_id)
CROSS JOIN LATERAL (
    SELECT date_trunc('month', coalesce(c.encounter_start, c.submitted_at) AT TIME ZONE 'Asia/Dubai')::date AS month,
           c.payer_id, c.facility_id
    FROM claims.claim c
    WHERE c.tenant_id = $1 AND c.provider_id = k.provider_id AND c.claim_id = k.claim_id
          AND c.submitted_at IS NOT NULL AND c.payer_id <> ''
    OFFSET 0
) c;

-- apply: rows of these keys computed anew, and only what differs is written. `gone`: the places of keys whose rows are no more.
-- Each key is looked up behind a fence: then the conditions on it go down into the groups of the definition.
-- $1 tenant_id, $2… the other columns of the keys
WITH now AS MATERIALIZED (
    SELECT k.place, {keys}, v.*
    FROM unnest({arrays}) WITH ORDINALITY AS k ({names}, place)
    LEFT JOIN LATERAL (SELECT * FROM {now} v WHERE v.tenant_id = $1 AND {computed} OFFSET 0) v ON true
), come AS (
    INSERT INTO {table} AS t ({columns})
    SELECT {columns} FROM now WHERE tenant_id IS NOT NULL
    ON CONFLICT (tenant_id, {names}) DO UPDATE SET ({columns}) = ROW({excluded}) WHERE t IS DISTINCT FROM excluded
    RETURNING old.tenant_id IS NULL AS added
)
SELECT (SELECT count(*) FROM come WHERE added) AS added, (SELECT count(*) FROM come WHERE NOT added) AS changed,
       (SELECT coalesce(array_agg(n.place), '{{}}') FROM now n
        CROSS JOIN LATERAL (SELECT FROM {table} t WHERE t.tenant_id = $1 AND {kept} OFFSET 0) t
        WHERE n.tenant_id IS NULL) AS gone;

-- remove: one row. $1 tenant_id, $2… the other columns of its key
DELETE FROM {table} t WHERE t.tenant_id = $1 AND {given};

-- fill_compute: all rows, once
CREATE TEMP TABLE view_fresh ON COMMIT DROP AS SELECT * FROM {now};
ANALYZE view_fresh;

-- fill_remove: what is no more
DELETE FROM {table} t WHERE NOT EXISTS (SELECT FROM view_fresh f WHERE f.tenant_id = t.tenant_id AND {fresh});

-- fill_write: only what differs
INSERT INTO {table} AS t ({columns})
SELECT {columns} FROM view_fresh
ON CONFLICT (tenant_id, {names}) DO UPDATE SET ({columns}) = ROW({excluded}) WHERE t IS DISTINCT FROM excluded;

-- columns: of a table, in their order. $1 table
SELECT array_agg(quote_ident(attname) ORDER BY attnum) FROM pg_attribute
WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped;
