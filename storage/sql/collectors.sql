-- activity: what clients do now, and what PostgreSQL has counted of this database. Sessions and their limit are the whole server's,
-- all else is this database's. Who waits for an advisory lock waits for its turn, and is no trouble.
WITH session AS MATERIALIZED (
    SELECT a.pid, a.datname, a.usename, a.backend_type, a.state, a.xact_start, a.query_start
    FROM pg_stat_activity a WHERE a.pid <> pg_backend_pid()
), client AS (
    SELECT s.datname = current_database() AS ours, s.xact_start, s.query_start, CASE
        WHEN s.state IN ('active', 'starting', 'fastpath function call') THEN 'active'
        WHEN s.state = 'idle' THEN 'idle'
        WHEN s.state LIKE 'idle in transaction%' THEN 'idle_in_transaction'
        ELSE 'hidden' END AS state
    FROM session s
    -- Of a session that the login may not see, the kind is hidden too: clients have a database and a name.
    WHERE s.backend_type = 'client backend' OR s.backend_type IS NULL AND s.datname IS NOT NULL AND s.usename IS NOT NULL
), lock AS MATERIALIZED (
    SELECT l.pid, l.mode, NOT l.granted AND l.locktype <> 'advisory' AS waits, l.waitstart
    FROM pg_locks l WHERE l.pid IN (SELECT s.pid FROM session s WHERE s.datname = current_database())
)
SELECT 'sessions' AS name, ARRAY[n.state] AS labels, count(c.state)::float8 AS value
FROM unnest('{active,idle,idle_in_transaction,hidden}'::text[]) AS n (state) LEFT JOIN client c USING (state) GROUP BY n.state
UNION ALL
SELECT 'locks', ARRAY[n.mode], count(l.mode)
FROM unnest('{AccessShareLock,RowShareLock,RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,
AccessExclusiveLock}'::text[]) AS n (mode) LEFT JOIN lock l USING (mode) GROUP BY n.mode
UNION ALL
SELECT v.* FROM (
    SELECT count(DISTINCT l.pid) AS waiting, extract(epoch FROM clock_timestamp() - min(l.waitstart)) AS longest_s
    FROM lock l WHERE l.waits
) w, LATERAL (VALUES
    ('lock_waiting', '{}'::text[], w.waiting::float8),
    ('lock_wait_seconds', '{}', greatest(w.longest_s, 0))
) v
UNION ALL
SELECT v.* FROM (
    SELECT extract(epoch FROM clock_timestamp() - min(c.xact_start)) AS longest_s,
           count(*) FILTER (WHERE c.state = 'active' AND c.query_start < clock_timestamp() - interval '1 second') AS slow
    FROM client c WHERE c.ours
) t, LATERAL (VALUES
    ('longest_transaction_seconds', '{}'::text[], greatest(t.longest_s, 0)::float8),
    ('running_slow', '{}', t.slow)
) v
UNION ALL
SELECT v.*
FROM pg_stat_database s JOIN pg_database d ON d.oid = s.datid, LATERAL (VALUES
    ('deadlocks_total', '{}'::text[], s.deadlocks::float8),
    ('transactions_total', '{committed}', s.xact_commit),
    ('transactions_total', '{rolled_back}', s.xact_rollback),
    ('blocks_total', '{cache}', s.blks_hit),
    ('blocks_total', '{disk}', s.blks_read),
    ('temporary_bytes_total', '{}', s.temp_bytes),
    ('transaction_age', '{}', age(d.datfrozenxid)),
    ('connections_max', '{}', current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        - current_setting('reserved_connections')::int)
) v
WHERE d.datname = current_database();

-- tables: how large the database is, and each table of ours. Partitions are added up; a size asks the file system of every file.
WITH part AS (
    SELECT coalesce(pg_partition_root(c.oid), c.oid) AS root, sum(pg_total_relation_size(c.oid)) AS bytes,
           sum(pg_stat_get_live_tuples(c.oid)) AS live, sum(pg_stat_get_dead_tuples(c.oid)) AS dead
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('claims', 'fhir', 'jobs', 'ops') AND c.relkind IN ('r', 'm') GROUP BY 1
)
SELECT v.*
FROM part p JOIN pg_class c ON c.oid = p.root JOIN pg_namespace n ON n.oid = c.relnamespace, LATERAL (VALUES
    ('table_bytes', ARRAY[n.nspname || '.' || c.relname], p.bytes::float8),
    ('rows', ARRAY[n.nspname || '.' || c.relname, 'live'], p.live),
    ('rows', ARRAY[n.nspname || '.' || c.relname, 'dead'], p.dead)
) v
UNION ALL
SELECT 'bytes', '{}', pg_database_size(current_database());

-- statements_schema: where pg_stat_statements is, if it is
SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'pg_stat_statements';

-- statements: by the role that they ran by; of a login of its own, the one role of ours that it is a member of. Without their texts,
-- which lie in a file. {schema}
WITH ran AS MATERIALIZED (
    SELECT s.userid, sum(s.calls) AS calls, sum(s.total_exec_time) / 1000 AS seconds, count(*) FILTER (WHERE s.mean_exec_time > 500) AS slow
    FROM {schema}.pg_stat_statements(false) s
    WHERE s.toplevel AND s.dbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) GROUP BY 1
), named AS (
    SELECT r.*, CASE WHEN pg_get_userbyid(r.userid) = ANY (o.roles) THEN pg_get_userbyid(r.userid)
                     WHEN cardinality(o.member_of) = 1 THEN o.member_of[1] ELSE 'other' END AS role
    FROM ran r, LATERAL (
        SELECT array_agg(rolname) AS roles, array_agg(rolname) FILTER (WHERE pg_has_role(r.userid, oid, 'MEMBER')) AS member_of
        FROM pg_roles WHERE rolname IN ('sluice_api', 'sluice_ingest', 'sluice_report')
    ) o
)
SELECT v.*
FROM (
    SELECT o.role, coalesce(sum(n.calls), 0) AS calls, coalesce(sum(n.seconds), 0) AS seconds, coalesce(sum(n.slow), 0) AS slow
    FROM unnest('{{sluice_api,sluice_ingest,sluice_report,other}}'::text[]) AS o (role) LEFT JOIN named n USING (role) GROUP BY o.role
) r, LATERAL (VALUES
    ('statements_total', ARRAY[r.role], r.calls::float8),
    ('statement_seconds_total', ARRAY[r.role], r.seconds),
    ('slow_statements', ARRAY[r.role], r.slow)
) v;

-- facilities: by how their polling goes. Who is polled now is not overdue. $1 seconds from one poll to the next
SELECT 'facilities' AS name, ARRAY[n.state] AS labels, count(f.state)::float8 AS value
FROM unnest('{ok,failing,overdue,paused}'::text[]) AS n (state) LEFT JOIN (
    SELECT CASE
        WHEN f.state = 'paused' THEN 'paused'
        WHEN f.state = 'stopped' OR e.outcome IN ('failed', 'timeout', 'stopped', 'lost') THEN 'failing'
        WHEN (r.run_id IS NULL OR r.outcome IS NOT NULL)
             AND greatest(r.started_at, f.created_at) < now() - make_interval(secs => 2 * $1::float8) THEN 'overdue'
        ELSE 'ok' END AS state
    FROM ops.facility f
    LEFT JOIN LATERAL (
        SELECT p.run_id, p.started_at, p.outcome FROM ops.poll_run p
        WHERE p.facility_no = f.facility_no ORDER BY p.run_id DESC LIMIT 1
    ) r ON true
    LEFT JOIN LATERAL (
        SELECT p.outcome FROM ops.poll_run p
        WHERE p.facility_no = f.facility_no AND p.outcome IS NOT NULL ORDER BY p.run_id DESC LIMIT 1
    ) e ON true
) f USING (state) GROUP BY n.state;
