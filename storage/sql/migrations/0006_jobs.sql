-- Jobs that poll facilities. The tables of the queue itself are made by pgqueuer's own code: see storage/jobs.py.

-- `facility poll --wait` waits for its job's run.
ALTER TABLE ops.poll_run ADD COLUMN job_id bigint;
CREATE INDEX poll_run_job ON ops.poll_run (job_id, run_id);
CREATE INDEX poll_run_started ON ops.poll_run (started_at);

-- A file that is to be tried again is fetched by its id, also when no listing names it any more.
ALTER TABLE ops.file_try ADD COLUMN name text NOT NULL DEFAULT '';
ALTER TABLE ops.file_try ADD COLUMN sent boolean NOT NULL DEFAULT false;
