-- How large the database is and how fast it grows: a plan that is full turns read-only, jobs and all.
-- Workers take a sample each hour; reads use the samples and never walk the files.

create table queue.storage_samples (
  sampled_at timestamptz primary key,
  database_bytes bigint not null,
  jobs_bytes bigint not null,
  messages_bytes bigint not null
);
alter table queue.storage_samples enable row level security;
comment on table queue.storage_samples is 'Size of the database over 30 days, about one row an hour.';
comment on column queue.storage_samples.sampled_at is 'When it was measured.';
comment on column queue.storage_samples.database_bytes is 'The whole database, as the plan counts it.';
comment on column queue.storage_samples.jobs_bytes is 'Of it, jobs with their logs and events, and the engine''s '
  'tables; kept as long as retention_days says.';
comment on column queue.storage_samples.messages_bytes is 'Of it, realtime.messages; Realtime drops its partitions '
  'after three days.';
revoke all on queue.storage_samples from public, anon, authenticated, service_role;

create function queue.measure_storage() returns queue.storage_samples
language sql stable
set search_path = ''
as $$
  select queue.clock(), pg_database_size(current_database()),
    (select coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint from pg_catalog.pg_class as c
      where c.relkind = 'r' and (c.relnamespace = 'queue'::regnamespace
        or c.oid in ('public.jobs'::regclass, 'public.job_logs'::regclass, 'public.job_events'::regclass))),
    (select coalesce(sum(pg_total_relation_size(p.relid)), 0)::bigint
      from pg_partition_tree(to_regclass('realtime.messages')) as p where p.isleaf)
$$;
comment on function queue.measure_storage is 'Measure the database now. Reads the sizes of its files, so it is not for every request.';

create function public.storage() returns jsonb
language sql stable
security definer -- callers hold no rights on the engine's tables
set search_path = ''
as $$
  select jsonb_build_object('sampled_at', n.sampled_at, 'database_bytes', n.database_bytes,
    'jobs_bytes', n.jobs_bytes, 'messages_bytes', n.messages_bytes,
    -- over less than six hours one large job would look like a trend
    'growth_bytes_per_day', (select case when n.sampled_at - o.sampled_at >= interval '6 hours'
        then round((n.database_bytes - o.database_bytes) * 86400 / extract(epoch from n.sampled_at - o.sampled_at)) end
      from queue.storage_samples as o where o.sampled_at >= n.sampled_at - interval '7 days'
      order by o.sampled_at limit 1),
    'retention_days', queue.setting('retention_days'))
  from (select 1) as always
  left join lateral (select * from queue.storage_samples order by sampled_at desc limit 1) as n on true
$$;
comment on function public.storage is E'The database''s size when it was last measured: {sampled_at, database_bytes, '
  'jobs_bytes, messages_bytes, growth_bytes_per_day, retention_days}.\n\n'
  'For the operator. Sizes are null before the first tick, growth over at most seven days is null before six hours.';

create function public.record_storage() returns jsonb
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = ''
as $$
begin
  if not exists (select from queue.storage_samples where sampled_at > queue.clock() - interval '50 minutes') then
    insert into queue.storage_samples select * from queue.measure_storage() on conflict do nothing;
    delete from queue.storage_samples where sampled_at < queue.clock() - interval '30 days';
  end if;
  return public.storage();
end;
$$;
comment on function public.record_storage is 'Measure the database, at most about once an hour, and return what '
  'storage returns. For workers.';

revoke execute on function queue.measure_storage from public, anon, authenticated, service_role;
revoke execute on function public.storage, public.record_storage from public, anon, authenticated, service_role;
grant execute on function public.storage to job_worker, service_role;
grant execute on function public.record_storage to job_worker, service_role;
