-- Every search parameter of R4 for the types that we search: quantities, texts found anywhere within, long periods, changes.

CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE EXTENSION IF NOT EXISTS btree_gin;

CREATE TABLE fhir.quantity (
    tenant_id int NOT NULL,
    type      text COLLATE "C" NOT NULL,
    id        text COLLATE "C" NOT NULL,
    rank      bigint NOT NULL,
    param     text COLLATE "C" NOT NULL,
    value     numeric NOT NULL,
    system    text COLLATE "C" NOT NULL,  -- '' when there is none
    code      text COLLATE "C" NOT NULL,  -- '' when there is none
    unit      text COLLATE "C" NOT NULL
) PARTITION BY LIST (type);
CREATE TABLE fhir.quantity_encounter PARTITION OF fhir.quantity FOR VALUES IN ('Encounter');
CREATE TABLE fhir.quantity_other PARTITION OF fhir.quantity DEFAULT;
CREATE INDEX quantity_value ON fhir.quantity (tenant_id, type, param, value, rank, id);
CREATE INDEX quantity_owner ON fhir.quantity (tenant_id, type, id);

-- `:contains`: the trigrams of a text, the tenant and the parameter before them.
CREATE INDEX string_within ON fhir.string USING gin (tenant_id, param, value gin_trgm_ops);

-- What overlaps a time began at most a month before it, or is one of these.
CREATE INDEX date_long ON fhir.date (tenant_id, type, param, upper, rank, id) WHERE upper - lower > interval '31 days';

-- Changes in their order, deletions among them: _history, _since, _lastUpdated.
DROP INDEX fhir.resource_updated;
CREATE INDEX resource_changed ON fhir.resource (tenant_id, last_updated, type, id);
CREATE INDEX history_changed ON fhir.history (tenant_id, last_updated, type, id, version);

-- What a resource leads to, by which parameter: read from the index alone by chains and includes.
DROP INDEX fhir.reference_owner;
CREATE INDEX reference_owner ON fhir.reference (tenant_id, id, type) INCLUDE (path, to_type, to_id);

-- (rank, id) of those that have a text anywhere within a parameter's value. A function, for its plan needs what the API's
-- connections otherwise forbid: a GIN index is read by a bitmap only. `pattern` is LIKE's, with its own % at both ends.
CREATE FUNCTION fhir.within(tenant int, kind text, name text, pattern text) RETURNS TABLE (rank bigint, id text)
LANGUAGE sql STABLE
SET enable_bitmapscan = on SET enable_indexscan = off SET enable_indexonlyscan = off SET plan_cache_mode = force_custom_plan AS $$
    SELECT x.rank, x.id FROM fhir.string x
    WHERE x.tenant_id = tenant AND x.type = kind AND x.param = name AND x.value LIKE pattern
$$;

GRANT SELECT ON fhir.quantity TO sluice_api, sluice_ingest, sluice_report;
GRANT INSERT, UPDATE, DELETE ON fhir.quantity TO sluice_ingest;
