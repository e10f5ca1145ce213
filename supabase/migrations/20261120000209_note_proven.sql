-- For whom a type has worked: what the circuit breaker takes for evidence. Filled with the statistics.

create table queue.proven (
  job_type text not null, -- the type
  workspace_id uuid not null, -- the tenant
  since timestamptz not null, -- its first completion
  seen_at timestamptz not null, -- a later completion, at most a day behind the latest; forgotten 30 days after it
  primary key (job_type, workspace_id)
);
create index proven_by_time on queue.proven (seen_at);
create index proven_by_workspace on queue.proven (workspace_id);
comment on table queue.proven is 'Tenants whose jobs of a type have completed: only their failures count against '
  'the type.';
