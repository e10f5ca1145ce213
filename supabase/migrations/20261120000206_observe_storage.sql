-- How large the database is and how fast it grows: a plan that is full turns read-only, jobs and all.
-- Workers take a sample each hour, near the end each five minutes; reads use the samples and never walk the files.

create table queue.storage_samples (
  sampled_at timestamptz primary key, -- when it was measured
  database_bytes bigint not null, -- the whole database, as the plan counts it
  -- of it, jobs with their logs and events, and the engine's tables; kept as long as retention_days says
  jobs_bytes bigint not null,
  messages_bytes bigint not null -- of it, realtime.messages; Realtime drops its partitions after three days
);
comment on table queue.storage_samples is 'Size of the database over 30 days, about one row an hour.';

create function queue.measure_storage() returns queue.storage_samples
language sql stable set search_path = '' as $$
  select queue.clock(), pg_database_size(current_database()),
    (select coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint from pg_catalog.pg_class as c
      where c.relkind = 'r' and (c.relnamespace = 'queue'::regnamespace
        or c.oid in ('public.jobs'::regclass, 'public.job_logs'::regclass))),
    (select coalesce(sum(pg_total_relation_size(p.relid)), 0)::bigint
      from pg_partition_tree(to_regclass('realtime.messages')) as p where p.isleaf)
$$;
comment on function queue.measure_storage is 'Measure the database now. Reads the sizes of its files, so it is not for every request.';

create function queue.storage_state() returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object('limit_bytes', l.bytes, 'share', s.share,
    'retention_shortened', coalesce(s.share > 0.85, false),
    'read_only', current_setting('default_transaction_read_only')::boolean)
  from (select 1048576 * case jsonb_typeof(queue.setting('database_limit_mb'))
      when 'number' then (queue.setting('database_limit_mb'))::bigint
      -- what Supabase's plans include
      else case queue.setting('realtime_messages_per_second') #>> '{}' when 'free' then 500 else 8192 end
    end as bytes) as l
  cross join lateral (
    select round((select n.database_bytes from queue.storage_samples as n order by n.sampled_at desc limit 1)::numeric
      / l.bytes, 4) as share) as s
$$;
comment on function queue.storage_state is 'How full the plan is: {limit_bytes, share, retention_shortened, read_only}. '
  'Above 85 % ended jobs are kept for retention_floor_days at most; share is null before the first sample.';

create function public.storage() returns jsonb
language sql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
  select jsonb_build_object('sampled_at', n.sampled_at, 'database_bytes', n.database_bytes,
    'jobs_bytes', n.jobs_bytes, 'messages_bytes', n.messages_bytes,
    -- over less than six hours one large job would look like a trend
    'growth_bytes_per_day', (select case when n.sampled_at - o.sampled_at >= interval '6 hours'
        then round((n.database_bytes - o.database_bytes) * 86400 / extract(epoch from n.sampled_at - o.sampled_at)) end
      from queue.storage_samples as o where o.sampled_at >= n.sampled_at - interval '7 days'
      order by o.sampled_at limit 1),
    'retention_days', queue.setting('retention_days'), 'retention_floor_days', queue.setting('retention_floor_days'))
    || queue.storage_state()
  from (select 1) as always
  left join lateral (select * from queue.storage_samples order by sampled_at desc limit 1) as n on true
$$;
comment on function public.storage is E'The database''s size when it was last measured: {sampled_at, database_bytes, '
  'jobs_bytes, messages_bytes, growth_bytes_per_day, retention_days, retention_floor_days, limit_bytes, share, '
  'retention_shortened, read_only}.\n\n'
  'For the operator. Sizes are null before the first tick, growth over at most seven days is null before six hours.';

create function public.record_storage() returns jsonb
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = '' as $$
begin
  if not exists (select from queue.storage_samples where sampled_at > queue.clock()
      - case when (queue.storage_state() ->> 'share')::numeric > 0.7 then interval '5 minutes'
        else interval '50 minutes' end) then
    insert into queue.storage_samples select * from queue.measure_storage() on conflict do nothing;
  end if;
  return public.storage();
end;
$$;
comment on function public.record_storage is 'Measure the database, at most about once an hour, and return what '
  'storage returns. For workers.';

select queue.allow('job_worker, service_role', 'public.storage');
select queue.allow('job_worker, service_role', 'public.record_storage');
