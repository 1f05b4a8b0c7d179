-- warm: $1 tenant_id, $2 cooldown_s
SELECT generation, warmed_at, warm_until, remaining_s FROM ops.warm($1, $2)

-- cool: $1 tenant_id
SELECT ops.cool($1)

-- all_warm: every tenant that is warm now
SELECT w.tenant_id, t.name, t.exclusive, w.generation, w.warmed_at, w.warm_until, extract(epoch FROM w.warm_until - now())::float8
FROM ops.warm_tenant w JOIN ops.tenant t USING (tenant_id) WHERE w.warm_until > now()

-- some_warm: the warm ones of $1
SELECT w.tenant_id, t.name, t.exclusive, w.generation, w.warmed_at, w.warm_until, extract(epoch FROM w.warm_until - now())::float8
FROM ops.warm_tenant w JOIN ops.tenant t USING (tenant_id) WHERE w.tenant_id = ANY($1::int[]) AND w.warm_until > now()
