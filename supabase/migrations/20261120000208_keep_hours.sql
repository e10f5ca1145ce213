-- Counts per hour: what ranges beyond a day are drawn from.

create table queue.stat_hours (
  workspace_id uuid not null,
  hour timestamptz not null,
  job_type text not null,
  outcome text not null,
  wait_bucket smallint not null,
  run_bucket smallint not null,
  jobs bigint not null,
  primary key (workspace_id, hour, job_type, outcome, wait_bucket, run_bucket)
);
create index stat_hours_by_hour on queue.stat_hours (hour);
alter table queue.stat_hours enable row level security;
revoke all on queue.stat_hours from public, anon, authenticated, service_role;
comment on table queue.stat_hours is 'The counts of stat_minutes per hour, kept for 31 days.';
comment on column queue.stat_hours.workspace_id is 'The tenant.';
comment on column queue.stat_hours.hour is 'Start of the hour, UTC.';
comment on column queue.stat_hours.job_type is 'The type.';
comment on column queue.stat_hours.outcome is 'How attempts ended, or enqueued, or redriven.';
comment on column queue.stat_hours.wait_bucket is 'Histogram bucket of the wait.';
comment on column queue.stat_hours.run_bucket is 'Histogram bucket of the run.';
comment on column queue.stat_hours.jobs is 'How many.';
