-- Quotas on every row a tenant can create: a setting for each table, shown by workspace_limits, kept by a trigger.
-- So they hold by every way in, and for tables to come by one line.

create table queue.row_counts (
  workspace_id uuid not null, -- the tenant
  name text not null, -- the quota, as max_events
  rows integer not null, -- rows, counted up to the quota
  counted_at timestamptz not null, -- when
  primary key (workspace_id, name)
) with (fillfactor = 50);
comment on table queue.row_counts is 'Rows of large quotas as counted a moment ago.';

create table queue.quotas (
  name text primary key, -- the setting, as max_events
  relation regclass not null, -- the table whose rows are counted; an index of it begins with the workspace
  for_all boolean not null -- whether it applies to the service and the worker too, and not only to people
);
comment on table queue.quotas is 'Quotas of the rows that a workspace may have, each the setting of its name. An app '
  'adds its own by bound_rows.';

create function queue.quota_relation(p_name text) returns regclass
language sql stable set search_path = '' as $$
  -- a table that an app took with it bounds nothing any more
  select q.relation from queue.quotas as q
  where q.name = p_name and exists (select 1 from pg_catalog.pg_class as c where c.oid = q.relation)
$$;
comment on function queue.quota_relation is 'The table whose rows of a workspace a quota counts; null when it is gone.';

create function queue.count_rows(p_workspace_id uuid, p_name text, p_most integer) returns integer
language plpgsql stable set search_path = '' as $$
declare
  v_rows integer;
begin
  -- an index of each of these tables begins with, or is, the workspace
  execute format('select count(*) from (select 1 from %s where workspace_id = $1 limit $2) as n',
    queue.quota_relation(p_name))
  into v_rows using p_workspace_id, p_most;
  return v_rows;
end;
$$;
comment on function queue.count_rows is 'Rows of a workspace that a quota counts, up to p_most.';

create function queue.check_rows(p_workspace_id uuid, p_name text, p_more integer default 0) returns void
language plpgsql set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
  v_max integer := (queue.setting(p_name))::integer;
  v_rows integer;
begin
  if v_max > 2000 then -- counted at most every ten seconds, so that a row costs what it always costs
    select c.rows into v_rows from queue.row_counts as c
    where c.workspace_id = p_workspace_id and c.name = p_name and c.counted_at > v_now - interval '10 seconds';
  end if;
  if v_rows is null then
    v_rows := queue.count_rows(p_workspace_id, p_name, v_max + 1);
    if v_max > 2000 and queue.try_lock(p_name || p_workspace_id) then
      insert into queue.row_counts (workspace_id, name, rows, counted_at) values (p_workspace_id, p_name, v_rows, v_now)
      on conflict (workspace_id, name) do update set rows = excluded.rows, counted_at = excluded.counted_at;
    end if;
  end if;
  if v_rows + p_more > v_max then
    perform queue.refuse(429, 'quota_exceeded', format('a workspace has at most %s %s', v_max,
      replace(substr(p_name, 5), '_', ' ')), p_name);
  end if;
end;
$$;
comment on function queue.check_rows is E'Refuse with 429 and the quota''s name when a workspace has, or with p_more '
  'will have, more rows than it allows.\n\nExact up to 2,000; above, the count may be ten seconds old.';

create function queue.hold_quota() returns trigger
language plpgsql
security definer -- callers who insert a row may not count them
set search_path = '' as $$
begin
  if not queue.is_service() or tg_argv[1]::boolean then
    perform queue.check_rows(m.workspace_id, tg_argv[0])
    from (select distinct n.workspace_id from made as n where n.workspace_id is not null) as m;
  end if;
  return null;
end;
$$;
comment on function queue.hold_quota is 'Trigger: new rows of people and guests stay within the quota that its argument names; '
  'those of the service too where the second is true.';

create function queue.bound_rows(p_relation regclass, p_name text, p_max integer, p_for_all boolean default false)
returns void
language plpgsql set search_path = '' as $$
begin
  insert into queue.settings (name, value) values (p_name, to_jsonb(p_max));
  insert into queue.quotas (name, relation, for_all) values (p_name, p_relation, p_for_all);
  execute format('create trigger quota_is_held after insert on %s referencing new table as made '
    'for each statement execute function queue.hold_quota(%L, %L)', p_relation, p_name, p_for_all);
end;
$$;
comment on function queue.bound_rows is E'Bound the rows of a table with a workspace_id by a setting max_…, which '
  'workspace_limits reports.\n\nFor migrations. It applies to people; with p_for_all, for tables whose lists end '
  'there, to the service and the worker too. An index of the table must begin with the workspace.';

select queue.bound_rows(to_regclass(format('queue.%I', q.relation)), 'max_' || q.name, q.most, q.for_all)
from (values ('schedules', 'schedules', 1000, true), ('webhooks', 'webhooks', 50, true),
  ('pauses', 'pauses', 500, false),
  ('named_events', 'events', 100000, false), ('sessions', 'sessions', 100000, false),
  ('guest_sessions', 'guest_sessions', 10000, false)) as q (relation, name, most, for_all)
-- some are missing where tenants are an application's own
where to_regclass(format('queue.%I', q.relation)) is not null;

create function queue.quotas_of(p_workspace_id uuid) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_object_agg(q.name, jsonb_build_object('max', s.value,
    'used', queue.count_rows(p_workspace_id, q.name, (s.value)::integer)))
  from queue.quotas as q
  join queue.settings as s on s.name = q.name
  where queue.quota_relation(q.name) is not null
$$;
comment on function queue.quotas_of is 'Quotas of a workspace''s rows and how much of each is used, counted up to it: '
  '{name: {max, used}}.';

create function queue.check_pause(p_job_type text, p_reason text) returns void
language plpgsql stable set search_path = '' as $$
begin
  if char_length(p_reason) > 500 then
    perform queue.refuse(400, 'invalid_argument', 'reason has at most 500 characters', 'reason');
  elsif p_job_type is not null and not exists (select 1 from queue.job_types where job_type = p_job_type) then
    perform queue.refuse_type(p_job_type);
  end if;
end;
$$;
comment on function queue.check_pause is 'Refuse a pause of a type that does not exist, or with a reason of more '
  'than 500 characters.';
