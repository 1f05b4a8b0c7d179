-- What the metrics of the database are read with. Neither is needed: where the right or the library is missing, all else works, and
-- what cannot be seen is no metric (storage/collectors.py).

-- Sessions of other logins are seen by who may read all statistics: this one, by which every command connects.
DO $$
BEGIN
    IF NOT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') THEN
        EXECUTE format('GRANT pg_read_all_stats TO %I', current_user);
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE NOTICE 'sessions of other logins stay hidden: % (a superuser may GRANT pg_read_all_stats TO %)', SQLERRM, current_user;
END $$;

-- Which statements are slow. It counts where the server also has it in shared_preload_libraries.
DO $$
BEGIN
    CREATE EXTENSION IF NOT EXISTS pg_stat_statements SCHEMA public;
EXCEPTION WHEN OTHERS THEN
    RAISE NOTICE 'statements are not measured: % (a superuser may CREATE EXTENSION pg_stat_statements here)', SQLERRM;
END $$;

-- What the console shows of polling and of the reports: no mailbox's address or password, nothing of what stands in a claim.
-- Its last run is the last that is over. `problems`: files and claims that were put aside since then.
CREATE FUNCTION ops.console_facilities(since timestamptz, rows_max int)
RETURNS TABLE (licence text, tenant text, state text, reason text, created_at timestamptz, started_at timestamptz, is_running boolean,
               finished_at timestamptz, outcome text, why text, loaded int, claims int, problems bigint, parked bigint,
               next_poll_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT f.licence, t.name, f.state, f.reason, f.created_at, r.started_at, r.run_id IS NOT NULL AND r.outcome IS NULL,
           e.finished_at, e.outcome, e.reason, e.loaded, e.claims, coalesce(p.problems, 0),
           (SELECT count(*) FROM ops.file_try y WHERE y.facility_no = f.facility_no AND y.parked),
           CASE WHEN f.state = 'active' THEN f.next_poll_at END
    FROM ops.facility f JOIN ops.tenant t USING (tenant_id)
    LEFT JOIN LATERAL (
        SELECT * FROM ops.poll_run r WHERE r.facility_no = f.facility_no ORDER BY r.run_id DESC LIMIT 1
    ) r ON true
    LEFT JOIN LATERAL (
        SELECT * FROM ops.poll_run e WHERE e.facility_no = f.facility_no AND e.outcome IS NOT NULL ORDER BY e.run_id DESC LIMIT 1
    ) e ON true
    LEFT JOIN (
        SELECT i.facility_no, count(*) AS problems FROM ops.ingest_error i
        WHERE i.at >= since AND i.severity <> 'warning' GROUP BY i.facility_no
    ) p ON p.facility_no = f.facility_no
    ORDER BY f.licence LIMIT rows_max
$$;

-- `is_behind`: changes are not in; of a copy that pg_dump made it is not known (storage/sql/views.sql says why).
CREATE FUNCTION ops.console_views()
RETURNS TABLE (name text, incremental boolean, refreshed_at timestamptz, current_at timestamptz, took_s double precision, rows bigint,
               refreshed bigint, applied bigint, failed bigint, reason text, is_behind boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT v.name, v.incremental, v.refreshed_at, v.current_at, v.took_s, v.rows, v.refreshed, v.applied, v.failed, v.reason,
           pg_snapshot_xmax(v.done) > pg_snapshot_xmax(pg_current_snapshot()) OR EXISTS (
               SELECT FROM claims.change c WHERE c.xid >= pg_snapshot_xmin(v.done) AND NOT pg_visible_in_snapshot(c.xid, v.done)
               AND (c.remitted OR v.name <> 'remittance-advice'))
    FROM ops.report_view v
$$;
REVOKE EXECUTE ON FUNCTION ops.console_facilities, ops.console_views FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ops.console_facilities, ops.console_views TO sluice_api;
