-- add_facility: $1 tenant_id, $2 licence, $3 url, $4 login, $5 password (sealed), $6 since, $7 acknowledge
INSERT INTO ops.facility (tenant_id, licence, url, login, password, since, acknowledge)
VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING facility_no;

-- list_facilities: all
SELECT f.licence, t.name AS tenant, f.state, f.reason, f.url, f.login, f.since, f.acknowledge, f.created_at, f.next_poll_at
FROM ops.facility f JOIN ops.tenant t USING (tenant_id) ORDER BY f.licence;

-- facility_by_no: $1 facility_no
SELECT f.facility_no, f.tenant_id, t.name AS tenant, f.licence, f.url, f.login, f.password, f.since, f.acknowledge, f.state,
       f.searched_until, f.batch_size
FROM ops.facility f JOIN ops.tenant t USING (tenant_id) WHERE f.facility_no = $1;

-- facility_by_licence: $1 licence
SELECT f.facility_no, f.tenant_id, t.name AS tenant, f.licence, f.url, f.login, f.password, f.since, f.acknowledge, f.state,
       f.searched_until, f.batch_size
FROM ops.facility f JOIN ops.tenant t USING (tenant_id) WHERE f.licence = $1;

-- active_facilities: numbers and licences of those that are polled
SELECT facility_no, licence FROM ops.facility WHERE state = 'active' ORDER BY facility_no;

-- set_state: $1 facility_no, $2 state, $3 reason. Who is resumed is polled at the next tick.
UPDATE ops.facility SET state = $2, reason = $3, next_poll_at = CASE WHEN $2 = 'active' THEN now() ELSE next_poll_at END
WHERE facility_no = $1;

-- set_mailbox: $1 licence, $2 url, $3 login, $4 password (sealed). A login that was refused is tried again with what is new.
UPDATE ops.facility SET url = $2, login = $3, password = $4, next_poll_at = now(),
       state = CASE state WHEN 'stopped' THEN 'active' ELSE state END, reason = CASE state WHEN 'stopped' THEN '' ELSE reason END
WHERE licence = $1;

-- stop: $1 facility_no, $2 reason. Unless the operator changed its state meanwhile.
UPDATE ops.facility SET state = 'stopped', reason = $2 WHERE facility_no = $1 AND state = 'active';

-- lock_schedule: one tick at a time, over all workers; to the transaction's end. $1 a number that is only this one's
SELECT pg_advisory_xact_lock($1);

-- due: who is due before $1, longest first
SELECT facility_no, next_poll_at FROM ops.facility WHERE state = 'active' AND next_poll_at < $1 ORDER BY next_poll_at, facility_no;

-- last_start: when the latest poll starts that was planned until $1, if the interval is $2 seconds; and how many facilities there are
SELECT max(next_poll_at - make_interval(secs => $2)) FILTER (WHERE next_poll_at >= $1) AS last_start, count(*) AS facilities
FROM ops.facility WHERE state = 'active';

-- set_next_polls: $1 facility_nos, $2 their times
UPDATE ops.facility f SET next_poll_at = n.at FROM unnest($1::int[], $2::timestamptz[]) AS n (facility_no, at)
WHERE f.facility_no = n.facility_no;

-- advance: $1 facility_no, $2 own submissions are in up to here
UPDATE ops.facility SET searched_until = $2 WHERE facility_no = $1 AND (searched_until IS NULL OR searched_until < $2);

-- set_batch_size: $1 facility_no, $2 files at once
UPDATE ops.facility SET batch_size = $2 WHERE facility_no = $1 AND batch_size <> $2;

-- lose_runs: runs of a facility whose worker is gone, as whoever holds the facility's lock knows. $1 facility_no, $2 now
UPDATE ops.poll_run SET outcome = 'lost', finished_at = $2, reason = 'its worker is gone'
WHERE facility_no = $1 AND outcome IS NULL;

-- start_run: $1 facility_no, $2 worker, $3 now, $4 job_id
INSERT INTO ops.poll_run (facility_no, worker, started_at, job_id) VALUES ($1, $2, $3, $4) RETURNING run_id;

-- finish_run: $1 run_id, $2 now, $3 outcome, $4 reason, then the counts
UPDATE ops.poll_run SET finished_at = $2, outcome = $3, reason = $4, listed = $5, loaded = $6, quarantined = $7, failed = $8,
       acknowledged = $9, claims = $10
WHERE run_id = $1 AND outcome IS NULL;

-- runs_of_jobs: how the latest run of each job went. $1 job ids
SELECT DISTINCT ON (r.job_id) r.job_id, f.licence AS facility, r.outcome, r.reason, r.started_at, r.finished_at, r.listed, r.loaded,
       r.quarantined, r.failed, r.acknowledged, r.claims
FROM ops.poll_run r JOIN ops.facility f USING (facility_no) WHERE r.job_id = ANY($1) ORDER BY r.job_id, r.run_id DESC;

-- forget_runs: history older than $1
DELETE FROM ops.poll_run WHERE started_at < $1 AND outcome IS NOT NULL;

-- survey: what is known of files. $1 tenant_id, $2 facility_no, $3 file ids
SELECT i.file_id, f.state, coalesce(f.acknowledged_at IS NOT NULL, false) AS acknowledged, coalesce(t.tries, 0) AS tries,
       coalesce(t.parked, false) AS parked
FROM unnest($3::text[]) AS i (file_id)
LEFT JOIN claims.file f ON f.tenant_id = $1 AND f.facility_no = $2 AND f.file_id = i.file_id
LEFT JOIN ops.file_try t ON t.facility_no = $2 AND t.file_id = i.file_id;

-- unfinished: files that were tried, are neither in nor parked. $1 tenant_id, $2 facility_no
SELECT t.file_id, t.name, t.sent FROM ops.file_try t
WHERE t.facility_no = $2 AND NOT t.parked
  AND NOT EXISTS (SELECT FROM claims.file f WHERE f.tenant_id = $1 AND f.facility_no = $2 AND f.file_id = t.file_id);

-- count_try: $1 facility_no, $2 file_id, $3 name, $4 sent, $5 now, $6 reason
INSERT INTO ops.file_try AS t (facility_no, file_id, name, sent, tries, tried_at, reason) VALUES ($1, $2, $3, $4, 1, $5, $6)
ON CONFLICT (facility_no, file_id) DO UPDATE SET tries = t.tries + 1, tried_at = excluded.tried_at, reason = excluded.reason
RETURNING tries;

-- explain_try: $1 facility_no, $2 file_id, $3 why it failed
UPDATE ops.file_try SET reason = $3 WHERE facility_no = $1 AND file_id = $2;

-- give_back_try: it was not the file's fault. $1 facility_no, $2 file_id
UPDATE ops.file_try SET tries = tries - 1 WHERE facility_no = $1 AND file_id = $2 AND tries > 0 AND NOT parked;

-- park: $1 tenant_id, $2 facility_no, $3 file_id, $4 now
WITH parked AS (
    UPDATE ops.file_try SET parked = true WHERE facility_no = $2 AND file_id = $3 AND NOT parked RETURNING tries, reason
)
INSERT INTO ops.ingest_error (tenant_id, facility_no, file_id, severity, reason, at)
SELECT $1, $2, $3, 'parked',
       'tried ' || tries || ' times in vain' || CASE WHEN reason = '' THEN ': its worker did not survive it' ELSE ': ' || reason END, $4
FROM parked;

-- retry: a file is tried anew, whatever became of it before. $1 facility_no, $2 file_id
UPDATE ops.file_try SET parked = false, tries = 0, reason = '' WHERE facility_no = $1 AND file_id = $2 RETURNING file_id;

-- forget_tries: of files that are in. $1 tenant_id, $2 facility_no
DELETE FROM ops.file_try t USING claims.file f
WHERE t.facility_no = $2 AND f.tenant_id = $1 AND f.facility_no = $2 AND f.file_id = t.file_id;

-- owed: files to acknowledge. $1 tenant_id, $2 facility_no, $3 rows_max
SELECT file_id FROM claims.file
WHERE tenant_id = $1 AND facility_no = $2 AND acknowledged_at IS NULL AND NOT sent AND state <> 'ignored'
ORDER BY loaded_at LIMIT $3;

-- acknowledged: $1 tenant_id, $2 facility_no, $3 file_id, $4 now
UPDATE claims.file SET acknowledged_at = $4
WHERE tenant_id = $1 AND facility_no = $2 AND file_id = $3 AND acknowledged_at IS NULL;

-- status: every facility, how its latest run went, and what is in
SELECT f.licence, t.name AS tenant, f.state, f.reason, r.started_at AS last_poll,
       CASE WHEN r.run_id IS NOT NULL THEN coalesce(r.outcome, 'running') END AS outcome, r.reason AS why,
       coalesce(i.files, 0) AS files, coalesce(i.claims, 0) AS claims,
       CASE WHEN f.acknowledge THEN coalesce(i.owed, 0) ELSE 0 END AS owed,
       (SELECT count(*) FROM ops.file_try y WHERE y.facility_no = f.facility_no AND y.parked) AS parked,
       CASE WHEN f.state = 'active' THEN f.next_poll_at END AS next_poll, f.batch_size AS files_at_once
FROM ops.facility f JOIN ops.tenant t USING (tenant_id)
LEFT JOIN LATERAL (SELECT * FROM ops.poll_run r WHERE r.facility_no = f.facility_no ORDER BY r.run_id DESC LIMIT 1) r ON true
LEFT JOIN LATERAL (
    SELECT count(*) AS files, sum(c.claims)::bigint AS claims,
           count(*) FILTER (WHERE c.acknowledged_at IS NULL AND NOT c.sent AND c.state <> 'ignored') AS owed
    FROM claims.file c WHERE c.tenant_id = f.tenant_id AND c.facility_no = f.facility_no
) i ON true
ORDER BY f.licence;

-- errors: the latest first. $1 a licence or null for all, $2 rows_max
SELECT e.at, f.licence, e.severity, e.file_id, e.claim_id, e.times, e.reason
FROM ops.ingest_error e JOIN ops.facility f USING (facility_no)
WHERE $1::text IS NULL OR f.licence = $1 ORDER BY e.error_id DESC LIMIT $2;

-- lock_facility: $1 a class of ours, $2 facility_no
SELECT pg_try_advisory_lock($1::int, $2::int);
