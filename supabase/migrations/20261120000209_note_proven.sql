-- For whom a type has worked: what the circuit breaker takes for evidence. Filled with the statistics.

create table queue.proven (
  job_type text not null,
  workspace_id uuid not null,
  since timestamptz not null,
  seen_at timestamptz not null,
  primary key (job_type, workspace_id)
);
create index proven_by_time on queue.proven (seen_at);
create index proven_by_workspace on queue.proven (workspace_id);
alter table queue.proven enable row level security;
comment on table queue.proven is 'Tenants whose jobs of a type have completed: only their failures count against '
  'the type.';
comment on column queue.proven.job_type is 'The type.';
comment on column queue.proven.workspace_id is 'The tenant.';
comment on column queue.proven.since is 'Its first completion.';
comment on column queue.proven.seen_at is 'A later completion, at most a day behind the latest; forgotten 30 days '
  'after it.';
revoke all on queue.proven from public, anon, authenticated, service_role;
