-- Claims: the facilities that are polled, the files that came, and what they say.
-- Every large table is partitioned by a hash of its tenant, so that a statement of one tenant touches one partition.

CREATE SCHEMA claims;

-- A facility's mailbox at its post office.
CREATE TABLE ops.facility (
    facility_no    int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id      int NOT NULL REFERENCES ops.tenant,
    licence        text COLLATE "C" NOT NULL UNIQUE CHECK (licence <> ''),  -- of one tenant
    url            text NOT NULL,
    login          text NOT NULL,
    password       bytea NOT NULL,  -- encrypted
    since          timestamptz NOT NULL,  -- own submissions are looked for from here on
    acknowledge    boolean NOT NULL DEFAULT true,
    state          text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused', 'stopped')),
    reason         text NOT NULL DEFAULT '',  -- why it is stopped
    created_at     timestamptz NOT NULL DEFAULT now(),
    next_poll_at   timestamptz NOT NULL DEFAULT now(),
    searched_until timestamptz,  -- own submissions are found up to here
    batch_size     int NOT NULL DEFAULT 4  -- files at once: adapts itself
);
CREATE INDEX facility_due ON ops.facility (next_poll_at) WHERE state = 'active';

-- One poll of one facility.
CREATE TABLE ops.poll_run (
    run_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    facility_no  int NOT NULL REFERENCES ops.facility ON DELETE CASCADE,
    worker       text NOT NULL,
    started_at   timestamptz NOT NULL,
    finished_at  timestamptz,
    outcome      text,  -- ok, partial, failed, timeout, stopped, lost; null: it runs
    reason       text NOT NULL DEFAULT '',
    listed       int NOT NULL DEFAULT 0,
    loaded       int NOT NULL DEFAULT 0,
    quarantined  int NOT NULL DEFAULT 0,
    failed       int NOT NULL DEFAULT 0,
    acknowledged int NOT NULL DEFAULT 0,
    claims       int NOT NULL DEFAULT 0
);
CREATE INDEX poll_run_facility ON ops.poll_run (facility_no, run_id DESC);

-- Counted in a transaction of its own before a file is touched: one that kills its process is known by it.
CREATE TABLE ops.file_try (
    facility_no int NOT NULL REFERENCES ops.facility ON DELETE CASCADE,
    file_id     text COLLATE "C" NOT NULL,
    tries       int NOT NULL,
    tried_at    timestamptz NOT NULL,
    reason      text NOT NULL DEFAULT '',
    parked      boolean NOT NULL DEFAULT false,
    PRIMARY KEY (facility_no, file_id)
);

-- What was wrong with a file or a claim; never what stood in it.
CREATE TABLE ops.ingest_error (
    error_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   int NOT NULL,
    facility_no int NOT NULL,
    file_id     text COLLATE "C" NOT NULL,
    claim_id    text NOT NULL DEFAULT '',  -- '' for the file as a whole
    severity    text NOT NULL CHECK (severity IN ('warning', 'aside', 'quarantined', 'parked')),
    reason      text NOT NULL,
    times       int NOT NULL DEFAULT 1,
    at          timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ingest_error_file ON ops.ingest_error (facility_no, file_id);
CREATE INDEX ingest_error_at ON ops.ingest_error (at);

-- A file as it came, whatever it was.
CREATE TABLE claims.file (
    tenant_id       int NOT NULL,
    facility_no     int NOT NULL,
    file_id         text COLLATE "C" NOT NULL,
    name            text NOT NULL,
    kind            text,  -- submission, remittance; null: neither
    state           text NOT NULL CHECK (state IN ('loaded', 'test', 'duplicate', 'ignored', 'quarantined')),
    sent            boolean NOT NULL,  -- by the facility itself: never acknowledged
    sender_id       text,
    receiver_id     text,
    transaction_at  timestamptz,
    record_count    int,  -- as its header says
    claims          int NOT NULL DEFAULT 0,  -- as we counted
    activities      int NOT NULL DEFAULT 0,
    put_aside       int NOT NULL DEFAULT 0,
    skipped         int NOT NULL DEFAULT 0,
    amount          numeric(16,2) NOT NULL DEFAULT 0,  -- submitted net, or paid
    size_bytes      bigint NOT NULL,
    sha256          bytea NOT NULL,  -- of the unpacked document
    body            bytea NOT NULL,  -- the document, by zlib
    loaded_at       timestamptz NOT NULL DEFAULT now(),
    acknowledged_at timestamptz,
    PRIMARY KEY (tenant_id, facility_no, file_id)
) PARTITION BY HASH (tenant_id);

-- Which resource stands for an identifier. `made`: by ingestion, else it was imported.
CREATE TABLE claims.identity (
    tenant_id   int NOT NULL,
    type        text COLLATE "C" NOT NULL,
    system      text COLLATE "C" NOT NULL,
    code        text COLLATE "C" NOT NULL,
    resource_id text COLLATE "C" NOT NULL,
    made        boolean NOT NULL,
    PRIMARY KEY (tenant_id, type, system, code)
) PARTITION BY HASH (tenant_id);

-- What is known of a claim now. A row without submitted_at is of one that was remitted before its submission came.
CREATE TABLE claims.claim (
    tenant_id            int NOT NULL,
    provider_id          text COLLATE "C" NOT NULL,
    claim_id             text COLLATE "C" NOT NULL,
    submitted_at         timestamptz,
    facility_id          text COLLATE "C",  -- of the encounter, else the provider
    payer_id             text COLLATE "C",
    member_id            text,
    encounter_type       text,
    encounter_start      timestamptz,
    encounter_end        timestamptz,
    gross                numeric(14,2),
    patient_share        numeric(14,2),
    net                  numeric(14,2) NOT NULL DEFAULT 0,  -- the sum of its activities
    held                 numeric(14,2) NOT NULL DEFAULT 0,
    taken_back           numeric(14,2) NOT NULL DEFAULT 0,
    denied               numeric(14,2) NOT NULL DEFAULT 0,
    pending              numeric(14,2) NOT NULL DEFAULT 0,
    overpaid             numeric(14,2) NOT NULL DEFAULT 0,
    status               text NOT NULL DEFAULT 'PENDING',
    status_at            timestamptz,
    resubmission_count   int NOT NULL DEFAULT 0,
    last_resubmission_at timestamptz,
    remittance_count     int NOT NULL DEFAULT 0,
    first_remitted_at    timestamptz,
    last_remitted_at     timestamptz,
    settled_at           timestamptz,  -- DateSettlement of the latest remittance
    payment_reference    text,
    id_payer             text,  -- the insurer's number of the claim
    PRIMARY KEY (tenant_id, provider_id, claim_id)
) PARTITION BY HASH (tenant_id);

CREATE TABLE claims.activity (
    tenant_id           int NOT NULL,
    provider_id         text COLLATE "C" NOT NULL,
    claim_id            text COLLATE "C" NOT NULL,
    activity_id         text COLLATE "C" NOT NULL,
    ordinal             int NOT NULL,
    started_at          timestamptz NOT NULL,
    type                text NOT NULL,
    code                text NOT NULL,
    quantity            numeric NOT NULL,
    net                 numeric(14,2) NOT NULL,
    clinician_id        text COLLATE "C" NOT NULL,
    prior_authorization text,
    submitted_at        timestamptz NOT NULL,
    held                numeric(14,2) NOT NULL,
    taken_back          numeric(14,2) NOT NULL,
    denied              numeric(14,2) NOT NULL,
    pending             numeric(14,2) NOT NULL,
    overpaid            numeric(14,2) NOT NULL,
    status              text NOT NULL,
    denial_code         text,  -- of its latest line
    last_remitted_at    timestamptz,
    PRIMARY KEY (tenant_id, provider_id, claim_id, activity_id)
) PARTITION BY HASH (tenant_id);

-- What happened to a claim, with what was known after it. `document` is what a file said of the claim: everything that is known
-- of a claim is made of its events, in whatever order they came.
CREATE TABLE claims.event (
    tenant_id   int NOT NULL,
    provider_id text COLLATE "C" NOT NULL,
    claim_id    text COLLATE "C" NOT NULL,
    facility_no int NOT NULL,
    file_id     text COLLATE "C" NOT NULL,
    n           int NOT NULL,  -- its place in the file
    kind        text NOT NULL CHECK (kind IN ('submission', 'resubmission', 'remittance', 'repetition')),
    at          timestamptz NOT NULL,
    status      text NOT NULL,
    held        numeric(14,2) NOT NULL,
    taken_back  numeric(14,2) NOT NULL,
    denied      numeric(14,2) NOT NULL,
    pending     numeric(14,2) NOT NULL,
    document    bytea NOT NULL,
    PRIMARY KEY (tenant_id, provider_id, claim_id, facility_no, file_id, n)
) PARTITION BY HASH (tenant_id);

-- What submissions said: never changed.
CREATE TABLE claims.diagnosis (
    tenant_id   int NOT NULL,
    provider_id text COLLATE "C" NOT NULL,
    claim_id    text COLLATE "C" NOT NULL,
    facility_no int NOT NULL,
    file_id     text COLLATE "C" NOT NULL,
    n           int NOT NULL,
    line        int NOT NULL,
    type        text NOT NULL,
    code        text NOT NULL
) PARTITION BY HASH (tenant_id);

CREATE TABLE claims.observation (
    tenant_id   int NOT NULL,
    provider_id text COLLATE "C" NOT NULL,
    claim_id    text COLLATE "C" NOT NULL,
    facility_no int NOT NULL,
    file_id     text COLLATE "C" NOT NULL,
    n           int NOT NULL,
    activity_id text COLLATE "C" NOT NULL,
    line        int NOT NULL,
    type        text NOT NULL,
    code        text NOT NULL,
    value       text,
    value_type  text
) PARTITION BY HASH (tenant_id);

-- What remittances said: never changed.
CREATE TABLE claims.remittance (
    tenant_id         int NOT NULL,
    provider_id       text COLLATE "C" NOT NULL,
    claim_id          text COLLATE "C" NOT NULL,
    facility_no       int NOT NULL,
    file_id           text COLLATE "C" NOT NULL,
    n                 int NOT NULL,
    sender_id         text COLLATE "C" NOT NULL,
    transaction_at    timestamptz NOT NULL,
    settled_at        timestamptz,
    payment_reference text NOT NULL,
    id_payer          text NOT NULL,
    denial_code       text,
    paid              numeric(14,2) NOT NULL
) PARTITION BY HASH (tenant_id);

CREATE TABLE claims.remittance_activity (
    tenant_id           int NOT NULL,
    provider_id         text COLLATE "C" NOT NULL,
    claim_id            text COLLATE "C" NOT NULL,
    facility_no         int NOT NULL,
    file_id             text COLLATE "C" NOT NULL,
    n                   int NOT NULL,
    line                int NOT NULL,
    activity_id         text COLLATE "C" NOT NULL,
    started_at          timestamptz NOT NULL,
    type                text NOT NULL,
    code                text NOT NULL,
    quantity            numeric NOT NULL,
    net                 numeric(14,2) NOT NULL,
    gross               numeric(14,2),
    patient_share       numeric(14,2),
    list                numeric(14,2),
    clinician_id        text COLLATE "C" NOT NULL,
    prior_authorization text,
    payment             numeric(14,2) NOT NULL,
    denial_code         text
) PARTITION BY HASH (tenant_id);

DO $$
DECLARE parent text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['file', 'identity', 'claim', 'activity', 'event', 'diagnosis', 'observation', 'remittance',
                                  'remittance_activity'] LOOP
        FOR part IN 0..3 LOOP
            EXECUTE format('CREATE TABLE claims.%I PARTITION OF claims.%I FOR VALUES WITH (MODULUS 4, REMAINDER %s)',
                           parent || '_' || part, parent, part);
        END LOOP;
    END LOOP;
    FOR part IN 0..3 LOOP
        -- Compressed when it comes; and rows that are settled anew again and again find room on their page.
        EXECUTE format('ALTER TABLE claims.%I ALTER body SET STORAGE EXTERNAL', 'file_' || part);
        EXECUTE format('ALTER TABLE claims.%I SET (fillfactor = 60)', 'claim_' || part);
        EXECUTE format('ALTER TABLE claims.%I SET (fillfactor = 60)', 'activity_' || part);
    END LOOP;
END $$;

-- The same document under another file's name is known by it, also to one who is just taking it in.
CREATE UNIQUE INDEX file_document ON claims.file (tenant_id, sha256) WHERE state = 'loaded';
CREATE INDEX file_owed ON claims.file (tenant_id, facility_no) WHERE acknowledged_at IS NULL AND NOT sent;
-- Partial, on what is always so: only a statement that says it is offered it, and a look-up by identifier goes by its key.
CREATE INDEX identity_resource ON claims.identity (tenant_id, type, resource_id) WHERE resource_id <> '';
CREATE INDEX diagnosis_claim ON claims.diagnosis (tenant_id, provider_id, claim_id);
CREATE INDEX observation_claim ON claims.observation (tenant_id, provider_id, claim_id);
CREATE INDEX remittance_claim ON claims.remittance (tenant_id, provider_id, claim_id);
CREATE INDEX remittance_activity_claim ON claims.remittance_activity (tenant_id, provider_id, claim_id);

-- What resources are named by. An Emirates ID could be guessed from a plain hash of it.
INSERT INTO ops.secret VALUES ('identity', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

CREATE FUNCTION ops.identity_secret() RETURNS bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT value FROM ops.secret WHERE name = 'identity'
$$;

GRANT USAGE ON SCHEMA claims TO sluice_ingest, sluice_report;
GRANT SELECT ON ALL TABLES IN SCHEMA claims TO sluice_ingest, sluice_report;
GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA claims TO sluice_ingest;
GRANT SELECT, UPDATE ON ops.facility TO sluice_ingest;
GRANT SELECT, INSERT, UPDATE, DELETE ON ops.poll_run, ops.file_try, ops.ingest_error TO sluice_ingest;
REVOKE EXECUTE ON FUNCTION ops.identity_secret FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ops.identity_secret TO sluice_ingest;
-- Statistics of what has just come into an empty table, before autovacuum looks.
GRANT MAINTAIN ON ALL TABLES IN SCHEMA claims, fhir TO sluice_ingest;
