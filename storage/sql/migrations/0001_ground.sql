-- The ground: who may ask (ops) and what is kept (fhir).
-- Every large table is partitioned by FHIR type, so that a statement for one type touches one partition, chosen when it is planned.

CREATE SCHEMA ops;
CREATE SCHEMA fhir;

-- Roles belong to the whole cluster: another database of it may have made them already, or be making them now.
DO $$
DECLARE wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['sluice_api', 'sluice_ingest', 'sluice_report'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END;
        IF NOT pg_has_role(current_user, wanted, 'SET') THEN
            EXECUTE format('GRANT %I TO %I', wanted, current_user);
        END IF;
    END LOOP;
END $$;

CREATE TABLE ops.tenant (
    tenant_id  int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    exclusive  boolean NOT NULL DEFAULT false,  -- never shares a statement with another tenant
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE ops.api_key (
    key_id     int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id  int REFERENCES ops.tenant,  -- null: an operator's key, of no tenant
    sha256     bytea NOT NULL UNIQUE,
    scopes     text[] NOT NULL CHECK (scopes <@ ARRAY['read', 'warm', 'report', 'operate']),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);

-- The truth of who is warm, for every process. A row stays when its tenant cools: its generation goes on from there.
CREATE TABLE ops.warm_tenant (
    tenant_id  int PRIMARY KEY REFERENCES ops.tenant,
    generation bigint NOT NULL,
    warmed_at  timestamptz NOT NULL,
    warm_until timestamptz NOT NULL
);
CREATE INDEX warm_tenant_until ON ops.warm_tenant (warm_until);

CREATE TABLE ops.secret (
    name  text PRIMARY KEY,
    value bytea NOT NULL
);
INSERT INTO ops.secret VALUES ('cursor', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text
    || gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

-- remaining_s counts by this server's clock alone: the processes' clocks may differ from it and from each other.
CREATE FUNCTION ops.warm(tenant int, cooldown_s double precision)
RETURNS TABLE (generation bigint, warmed_at timestamptz, warm_until timestamptz, remaining_s double precision)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE until timestamptz := now() + make_interval(secs => cooldown_s);
BEGIN
    RETURN QUERY
    INSERT INTO ops.warm_tenant AS w (tenant_id, generation, warmed_at, warm_until)
    VALUES (tenant, 1, now(), until)
    ON CONFLICT (tenant_id) DO UPDATE
    SET generation = w.generation + (w.warm_until <= now())::int,
        warmed_at = CASE WHEN w.warm_until <= now() THEN now() ELSE w.warmed_at END,
        warm_until = until
    RETURNING w.generation, w.warmed_at, w.warm_until, cooldown_s;
    PERFORM pg_notify('sluice_warm', tenant::text);
END $$;

CREATE FUNCTION ops.cool(tenant int) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE ops.warm_tenant SET warm_until = now() WHERE tenant_id = tenant AND warm_until > now();
    IF NOT FOUND THEN RETURN false; END IF;
    PERFORM pg_notify('sluice_warm', tenant::text);
    RETURN true;
END $$;

CREATE FUNCTION ops.key_owner(hash bytea)
RETURNS TABLE (key_id int, tenant_id int, tenant text, exclusive boolean, scopes text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.key_id, k.tenant_id, coalesce(t.name, ''), coalesce(t.exclusive, false), k.scopes
    FROM ops.api_key k LEFT JOIN ops.tenant t USING (tenant_id)
    WHERE k.sha256 = hash AND k.revoked_at IS NULL
$$;

CREATE FUNCTION ops.cursor_secret() RETURNS bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT value FROM ops.secret WHERE name = 'cursor'
$$;

-- A resource is kept as the bytes that are served. `rank` is its place in its type's default order, smallest first, the
-- id deciding between equals: for an Encounter the microseconds of its start, negated, so that the newest come first and
-- one row comparison (rank, id) > (…) finds the next page; 0 for types without a date.
CREATE TABLE fhir.resource (
    tenant_id    int NOT NULL,
    type         text COLLATE "C" NOT NULL,
    id           text COLLATE "C" NOT NULL,
    rank         bigint NOT NULL,
    version      int NOT NULL,
    last_updated timestamptz NOT NULL,
    deleted      boolean NOT NULL DEFAULT false,
    sha256       bytea NOT NULL,  -- of what came in, without meta.versionId and meta.lastUpdated
    body         bytea NOT NULL,  -- empty when deleted
    PRIMARY KEY (tenant_id, id, type)
) PARTITION BY LIST (type);

-- Versions that a newer one took the place of.
CREATE TABLE fhir.history (
    tenant_id    int NOT NULL,
    type         text COLLATE "C" NOT NULL,
    id           text COLLATE "C" NOT NULL,
    version      int NOT NULL,
    last_updated timestamptz NOT NULL,
    deleted      boolean NOT NULL,
    body         bytea NOT NULL,
    PRIMARY KEY (tenant_id, id, type, version)
) PARTITION BY LIST (type);

-- What searches read, a row per value. Every one carries rank and id, so that a search by one value is one walk along an index
-- in the order of its answer.
CREATE TABLE fhir.token (
    tenant_id int NOT NULL,
    type      text COLLATE "C" NOT NULL,
    id        text COLLATE "C" NOT NULL,
    rank      bigint NOT NULL,
    param     text COLLATE "C" NOT NULL,
    code      text COLLATE "C" NOT NULL,
    system    text COLLATE "C" NOT NULL  -- '' when there is none
) PARTITION BY LIST (type);

CREATE TABLE fhir.string (
    tenant_id int NOT NULL,
    type      text COLLATE "C" NOT NULL,
    id        text COLLATE "C" NOT NULL,
    rank      bigint NOT NULL,
    param     text COLLATE "C" NOT NULL,
    value     text COLLATE "C" NOT NULL,  -- without case and accents
    exact     text COLLATE "C" NOT NULL
) PARTITION BY LIST (type);

-- A date is the range that it covers: [lower, upper), infinite where a period is open.
CREATE TABLE fhir.date (
    tenant_id int NOT NULL,
    type      text COLLATE "C" NOT NULL,
    id        text COLLATE "C" NOT NULL,
    rank      bigint NOT NULL,
    param     text COLLATE "C" NOT NULL,
    lower     timestamptz NOT NULL,
    upper     timestamptz NOT NULL
) PARTITION BY LIST (type);

-- From (type, id), at an element's path, to (to_type, to_id): the review and includes live on it.
CREATE TABLE fhir.reference (
    tenant_id int NOT NULL,
    type      text COLLATE "C" NOT NULL,
    id        text COLLATE "C" NOT NULL,
    rank      bigint NOT NULL,
    path      text COLLATE "C" NOT NULL,
    to_type   text COLLATE "C" NOT NULL,
    to_id     text COLLATE "C" NOT NULL
) PARTITION BY LIST (type);

DO $$
DECLARE parent text; kind text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['resource', 'history', 'token', 'string', 'date', 'reference'] LOOP
        FOREACH kind IN ARRAY ARRAY['Patient', 'Practitioner', 'Encounter', 'Claim', 'ClaimResponse', 'ExplanationOfBenefit'] LOOP
            EXECUTE format('CREATE TABLE fhir.%I PARTITION OF fhir.%I FOR VALUES IN (%L)', parent || '_' || lower(kind), parent, kind);
        END LOOP;
        EXECUTE format('CREATE TABLE fhir.%I PARTITION OF fhir.%I DEFAULT', parent || '_other', parent);
    END LOOP;
    -- Bodies up to a page stay in their row and uncompressed: a read then is one page, and nothing to unpack.
    FOREACH kind IN ARRAY ARRAY['patient', 'practitioner', 'encounter', 'claim', 'claimresponse', 'explanationofbenefit', 'other'] LOOP
        EXECUTE format('ALTER TABLE fhir.%I SET (toast_tuple_target = 8160)', 'resource_' || kind);
    END LOOP;
END $$;

CREATE INDEX resource_order ON fhir.resource (tenant_id, type, rank, id) WHERE NOT deleted;
CREATE INDEX resource_updated ON fhir.resource (tenant_id, type, last_updated, id) WHERE NOT deleted;
CREATE INDEX token_value ON fhir.token (tenant_id, type, param, code, rank, id) INCLUDE (system);
CREATE INDEX string_value ON fhir.string (tenant_id, type, param, value, rank, id);
CREATE INDEX date_value ON fhir.date (tenant_id, type, param, lower, upper, rank, id);
-- What a changed resource had is taken away by these.
CREATE INDEX token_owner ON fhir.token (tenant_id, type, id);
CREATE INDEX string_owner ON fhir.string (tenant_id, type, id);
CREATE INDEX date_owner ON fhir.date (tenant_id, type, id);
-- With what it leads to, so that what an encounter refers to is read from here alone.
CREATE INDEX reference_owner ON fhir.reference (tenant_id, id, type) INCLUDE (to_type, to_id);
CREATE INDEX reference_value ON fhir.reference (tenant_id, to_type, to_id, type, path, rank, id);

-- The bytes that are served: resourceType, id and the two members of meta that the server decides, then `tail`, which is
-- what came in from there on (it begins inside meta, with `}` or with `,"profile":…`).
CREATE FUNCTION fhir.stamp(type text, id text, version int, last_updated timestamptz, tail bytea) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT convert_to('{"resourceType":"' || type || '","id":"' || id || '","meta":{"versionId":"' || version
        || '","lastUpdated":"' || to_char(last_updated AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') || '"', 'UTF8') || tail
$$;

GRANT USAGE ON SCHEMA ops, fhir TO sluice_api, sluice_ingest, sluice_report;
GRANT SELECT ON ALL TABLES IN SCHEMA fhir TO sluice_api, sluice_ingest, sluice_report;
GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA fhir TO sluice_ingest;
GRANT SELECT ON ops.tenant, ops.warm_tenant TO sluice_api, sluice_ingest, sluice_report;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA ops FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ops.warm, ops.cool, ops.key_owner, ops.cursor_secret TO sluice_api;
