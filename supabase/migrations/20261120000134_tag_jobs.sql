-- Tags: words to find a job by, given at enqueue, taken from its payload, or set while it runs.
-- Kept in jobs.tags and, in the order of lists, in a narrow table: a job without tags writes nothing there.

create table queue.job_tags (
  workspace_id uuid not null, -- the tenant
  tag text not null, -- the tag
  job_created_at timestamptz not null, -- when the job was enqueued: order of lists
  job_id uuid not null, -- the job
  primary key (workspace_id, tag, job_created_at, job_id)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
comment on table queue.job_tags is E'Jobs by tag, in the order of lists.\n\nWritten by triggers on jobs.tags, so that tags are indexed in every way to enqueue.';

create function queue.tags_fit(p_tags text[]) returns boolean
language sql immutable set search_path = '' as $$
  select coalesce(cardinality(p_tags), 0) <= 20 and not exists (
    select from unnest(p_tags) as t where t is null or char_length(t) not between 1 and 100 or t ~ '[[:cntrl:]]')
$$;
comment on function queue.tags_fit is 'Whether these are valid tags of a job: at most 20 texts of 1 to 100 characters; null means none.';

create function queue.tags_of(p_fields text[], p_payload jsonb, p_tags text[]) returns text[]
language plpgsql immutable set search_path = '' as $$
begin
  if p_fields = '{}' then
    return coalesce(p_tags, '{}'); -- nearly every job
  end if;
  return (array(
    select t.tag
    from (
      select g.tag, g.n from unnest(p_tags) with ordinality as g (tag, n)
      union all
      select left(f.field || ':' || (p_payload #>> string_to_array(f.field, '.')), 100), 1000 + f.n
      from unnest(p_fields) with ordinality as f (field, n)
      where jsonb_typeof(p_payload #> string_to_array(f.field, '.')) in ('string', 'number', 'boolean')) as t
    where t.tag !~ '[[:cntrl:]]'
    group by t.tag order by min(t.n)))[1:20];
end;
$$;
comment on function queue.tags_of is 'A new job''s tags: those given, and name:value of the payload fields that its type names; 20 at most.';

create function queue.given_tags(p_job public.jobs) returns text[]
language sql stable set search_path = '' as $$
  select array(
    select t.tag from unnest(p_job.tags) with ordinality as t (tag, n)
    where t.tag <> all (coalesce(queue.tags_of((select tagged_by from queue.job_types where job_type = p_job.job_type),
      p_job.payload, '{}'), '{}'))
    order by t.n)
$$;
comment on function queue.given_tags is 'A job''s tags without those of its payload''s fields, for when it gets another payload.';

create function queue.index_tags() returns trigger
language plpgsql
security definer -- a member inserting through the Data API holds no rights on the engine's tables
set search_path = '' as $$
begin
  if tg_op = 'UPDATE' then
    delete from queue.job_tags
    where workspace_id = old.workspace_id and tag = any (old.tags) and tag <> all (new.tags)
      and job_created_at = old.created_at and job_id = old.id;
  end if;
  insert into queue.job_tags (workspace_id, tag, job_created_at, job_id)
  select new.workspace_id, t, new.created_at, new.id from unnest(new.tags) as t
  on conflict (workspace_id, tag, job_created_at, job_id) do nothing;
  return null;
end;
$$;
comment on function queue.index_tags is 'Trigger: keep queue.job_tags equal to jobs.tags.';

create trigger jobs_index_tags after insert on public.jobs
  for each row when (new.tags <> '{}') execute function queue.index_tags();
create trigger jobs_reindex_tags after update of tags on public.jobs
  for each row when (new.tags is distinct from old.tags) execute function queue.index_tags();

create type queue.worker_item as (
  job_id uuid, fence bigint, outcome text, result jsonb, error jsonb, retry_after_seconds double precision,
  until timestamptz, delay_seconds double precision, wait jsonb, duration_ms double precision, cost_usd numeric(14, 9),
  progress jsonb, logs jsonb, logs_from integer, steps jsonb, step jsonb, tags jsonb, lease_seconds double precision
);
comment on type queue.worker_item is 'What a worker says of an attempt that it holds, in a report or a settlement.';

create function queue.add_tags(p_items queue.worker_item[]) returns void
language sql set search_path = '' as $$
  update public.jobs as j
  set tags = (array(
    select t.tag from (
      select o.tag, o.n from unnest(j.tags) with ordinality as o (tag, n)
      union all
      select a.value, 1000 + a.ordinality from jsonb_array_elements_text(i.tags) with ordinality as a) as t
    where char_length(t.tag) between 1 and 100 and t.tag !~ '[[:cntrl:]]'
    group by t.tag order by min(t.n)))[1:20]
  from unnest(p_items) as i
  where j.id = i.job_id and jsonb_typeof(i.tags) = 'array'
$$;
comment on function queue.add_tags is 'Add the tags that processors set to their jobs, 20 at most; invalid tags are omitted. The caller holds the rows.';
