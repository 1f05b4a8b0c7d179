-- What is known of the database as a whole.

CREATE TABLE ops.fact (
    name  text PRIMARY KEY,
    value text NOT NULL
);

-- 'index': the fingerprint of what made the rows that resources are found by; empty: of several, or nobody knows. There is
-- none before the first resource.
INSERT INTO ops.fact (name, value) SELECT 'index', '' WHERE EXISTS (SELECT FROM fhir.resource);

GRANT SELECT, INSERT, UPDATE ON ops.fact TO sluice_ingest;
