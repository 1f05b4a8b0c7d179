-- facilities: every one, how its last poll went, and what was put aside since $1. $2 rows_max
SELECT licence, tenant, state, reason, created_at, started_at, is_running, finished_at, outcome, why, loaded, claims, problems, parked,
       next_poll_at, now() AS now
FROM ops.console_facilities($1, $2);

-- views: every report view, how it is kept, and whether it lacks anything
SELECT name, incremental, refreshed_at, current_at, took_s, rows, refreshed, applied, failed, reason, is_behind, now() AS now
FROM ops.console_views();
