-- What `sluice check` asks; it only reads.

-- server: what the database is
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS number,
       pg_encoding_to_char(encoding) AS encoding, coalesce(datlocale, datcollate) AS collation,
       datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid) AS moved
FROM pg_database WHERE datname = current_database();

-- identity: which database of which server
SELECT system_identifier AS system, current_database()::text AS database, pg_is_in_recovery() AS recovering FROM pg_control_system();

-- login: what the login may. Of a superuser everything is true.
SELECT current_user::text AS role, r.rolsuper AS superuser, r.rolbypassrls AS bypasses, r.rolcreaterole AS creates_roles,
       pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS reads_stats
FROM pg_roles r WHERE r.rolname = current_user;

-- settings: these, in bytes where they are sizes. $1 names
SELECT name, setting, CASE unit WHEN '8kB' THEN setting::bigint * 8192 WHEN 'kB' THEN setting::bigint * 1024
                                WHEN 'MB' THEN setting::bigint * 1048576 END AS bytes
FROM pg_settings WHERE name = ANY($1::text[]);

-- slots: whether a replica's slot may keep WAL for ever
SELECT EXISTS (SELECT FROM pg_replication_slots) AND current_setting('max_slot_wal_keep_size') = '-1';

-- connections_now: those that others have, of `connections_most`
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid();

-- extensions: $1 names; whether each is made here, and whether it could be
SELECT wanted AS name, e.extname IS NOT NULL AS made, a.name IS NOT NULL AS available
FROM unnest($1::text[]) wanted
LEFT JOIN pg_extension e ON e.extname = wanted LEFT JOIN pg_available_extensions a ON a.name = wanted;

-- invalid_indexes: that no plan uses
SELECT i.indexrelid::regclass::text AS name, i.indrelid::regclass::text AS of_table
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT (i.indisvalid AND i.indisready) AND n.nspname !~ '^pg_'
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid) ORDER BY 1;

-- never_analyzed: tables of more than $1 bytes of which the planner knows nothing
SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_|^information_schema$' AND pg_relation_size(c.oid) > $1
  AND c.reltuples < 0 ORDER BY pg_relation_size(c.oid) DESC, 1;

-- long_transactions: older than $1 seconds, and prepared ones, of whatever age, for Sluice prepares none
SELECT 'process ' || pid AS name, coalesce(nullif(application_name, ''), 'unnamed') || ', ' || state AS what,
       extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age_s
FROM pg_stat_activity WHERE clock_timestamp() - xact_start > make_interval(secs => $1) AND backend_type = 'client backend'
UNION ALL
SELECT 'prepared transaction', database::text, extract(epoch FROM clock_timestamp() - prepared)::float8 FROM pg_prepared_xacts
ORDER BY 3 DESC;

-- oldest_transaction: how many transactions ago the oldest row was written that is not frozen, of the database where that is most
SELECT max(age(datfrozenxid))::bigint AS age, current_setting('autovacuum_freeze_max_age')::bigint AS freeze FROM pg_database;

-- clock: the server's, in seconds since 1970
SELECT extract(epoch FROM clock_timestamp())::float8;

-- roles: what kind each is. $1 names
SELECT r.rolname::text AS name, r.rolsuper AS superuser, r.rolbypassrls AS bypasses, r.rolcreaterole AS creates_roles,
       r.rolcreatedb AS creates_databases,
       ARRAY(SELECT m.roleid::regrole::text FROM pg_auth_members m WHERE m.member = r.oid ORDER BY 1) AS member_of
FROM pg_roles r WHERE r.rolname = ANY($1::text[]);

-- table_rights: what each of the roles may do with each table. `held`: with all of it; `touched`: with a column at least. What an
-- extension made is its own business.
-- $1 roles, $2 schemas
SELECT who AS role, n.nspname::text AS schema, c.relname::text AS name, c.relispartition AS is_part,
       array_agg(what) FILTER (WHERE has_table_privilege(who, c.oid, what)) AS held,
       array_agg(what) FILTER (WHERE CASE WHEN what IN ('SELECT', 'INSERT', 'UPDATE')
           THEN has_any_column_privilege(who, c.oid, what) ELSE has_table_privilege(who, c.oid, what) END) AS touched
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN unnest($1::text[]) who
CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'MAINTAIN']) what
WHERE n.nspname = ANY($2::text[]) AND c.relkind IN ('r', 'p', 'v', 'm')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3;

-- schema_rights: $1 roles, $2 schemas
SELECT who AS role, n.nspname::text AS schema,
       has_schema_privilege(who, n.oid, 'USAGE') AS uses, has_schema_privilege(who, n.oid, 'CREATE') AS creates
FROM pg_namespace n CROSS JOIN unnest($1::text[]) who WHERE n.nspname = ANY($2::text[]) ORDER BY 1, 2;

-- function_rights: functions with their owner's rights that each of the roles may call. $1 roles, $2 schemas
SELECT who AS role, n.nspname || '.' || p.proname AS name, has_function_privilege(who, p.oid, 'EXECUTE') AS held
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace CROSS JOIN unnest($1::text[]) who
WHERE n.nspname = ANY($2::text[]) AND p.prosecdef ORDER BY 1, 2;

-- mailboxes: facilities, how their last polls went, and how long their next has been due. $1 polls
SELECT f.licence, f.url, f.password, f.state, f.reason, extract(epoch FROM now() - f.next_poll_at)::float8 AS due_s,
       (SELECT count(*) FILTER (WHERE r.outcome NOT IN ('ok', 'partial')) = $1 FROM (
            SELECT outcome FROM ops.poll_run r WHERE r.facility_no = f.facility_no AND r.outcome IS NOT NULL
            ORDER BY r.run_id DESC LIMIT $1) r) AS failing
FROM ops.facility f ORDER BY f.licence;

-- keyless: tenants that nobody has a key of
SELECT t.name FROM ops.tenant t
WHERE NOT EXISTS (SELECT FROM ops.api_key k WHERE k.tenant_id = t.tenant_id AND k.revoked_at IS NULL) ORDER BY t.name;

-- keys: how many tenants and living keys there are, and how many of these are an operator's
SELECT (SELECT count(*) FROM ops.tenant) AS tenants, count(*) AS keys, count(*) FILTER (WHERE tenant_id IS NULL) AS operators
FROM ops.api_key WHERE revoked_at IS NULL;

-- statements: the slowest of this database that have been asked. What defines or sets something is not among them: PostgreSQL keeps the
-- words of those as they came. $1 rows_max
SELECT s.query, s.calls, s.total_exec_time AS total_ms, s.mean_exec_time AS mean_ms, s.max_exec_time AS max_ms, s.rows
FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
WHERE d.datname = current_database()
  AND regexp_replace(s.query, '^(\s|--[^\n]*\n|/\*([^*]|\*[^/])*\*/)+', '') ~* '^(select|insert|update|delete|merge|with|values)\y'
ORDER BY s.total_exec_time DESC LIMIT $1;
