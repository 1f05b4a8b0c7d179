-- create_tenant: $1 name, $2 exclusive
INSERT INTO ops.tenant (name, exclusive) VALUES ($1, $2) RETURNING tenant_id;

-- list_tenants: every tenant, whether it is warm, and how many keys it has
SELECT t.tenant_id, t.name, t.exclusive, t.created_at, coalesce(w.warm_until > now(), false) AS warm,
       (SELECT count(*) FROM ops.api_key k WHERE k.tenant_id = t.tenant_id AND k.revoked_at IS NULL) AS keys
FROM ops.tenant t LEFT JOIN ops.warm_tenant w USING (tenant_id) ORDER BY t.name;

-- tenant_id_of: $1 name
SELECT tenant_id FROM ops.tenant WHERE name = $1;

-- create_key: $1 tenant_id or null, $2 sha256, $3 scopes
INSERT INTO ops.api_key (tenant_id, sha256, scopes) VALUES ($1, $2, $3);

-- list_keys: $1 a tenant's name, or null for all
SELECT k.key_id, t.name AS tenant, k.scopes, k.created_at, k.revoked_at
FROM ops.api_key k LEFT JOIN ops.tenant t USING (tenant_id) WHERE $1::text IS NULL OR t.name = $1 ORDER BY k.key_id;

-- revoke_key: $1 key_id
UPDATE ops.api_key SET revoked_at = now() WHERE key_id = $1 AND revoked_at IS NULL RETURNING key_id;

-- copy_key: $1 key_id, $2 sha256 of the new one
INSERT INTO ops.api_key (tenant_id, sha256, scopes) SELECT tenant_id, $2, scopes FROM ops.api_key WHERE key_id = $1;
