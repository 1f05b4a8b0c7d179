-- The changes of one type among the many that share a partition; the others' are found by resource_changed and history_changed.
-- Partial, on what is always so: only a statement that says it is offered these indexes. A look-up by id could take them for as
-- good as the primary key as long as the table is empty, and would then walk over all of a type.
CREATE INDEX resource_other_changed ON fhir.resource_other (tenant_id, type, last_updated, id) WHERE id <> '';
CREATE INDEX history_other_changed ON fhir.history_other (tenant_id, type, last_updated, id, version) WHERE id <> '';
