-- look: what a server is now; LSNs are numbers of bytes. A replica's timeline is the one that it receives, where the login may see it
-- (pg_read_all_stats), else the one of its last restart point.
SELECT s.recovering,
       CASE WHEN s.recovering THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END AS lsn,
       CASE WHEN s.recovering
            THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                          (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                          (SELECT received_tli FROM pg_stat_wal_receiver))::bigint
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint END AS timeline,
       (SELECT system_identifier FROM pg_control_system()) AS system,
       pg_postmaster_start_time() AS started_at
FROM (SELECT pg_is_in_recovery() AS recovering OFFSET 0) s;

-- written: where the primary is in its WAL
SELECT pg_current_wal_insert_lsn();
