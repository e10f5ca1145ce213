-- Quotas on every row a tenant can make: each table's is a setting, told by workspace_limits, held by a trigger.
-- So they hold by every way in, and for tables to come by one line.

create table queue.row_counts (
  workspace_id uuid not null,
  name text not null,
  rows integer not null,
  counted_at timestamptz not null,
  primary key (workspace_id, name)
) with (fillfactor = 50);
alter table queue.row_counts enable row level security;
comment on table queue.row_counts is 'Rows of large quotas as counted a moment ago.';
comment on column queue.row_counts.workspace_id is 'The tenant.';
comment on column queue.row_counts.name is 'The quota, as max_events.';
comment on column queue.row_counts.rows is 'Rows, counted up to the quota.';
comment on column queue.row_counts.counted_at is 'When.';
revoke all on queue.row_counts from public, anon, authenticated, service_role;

insert into queue.settings (name, value) values
  ('max_schedules', '1000'), ('max_webhooks', '50'), ('max_pauses', '500'), ('max_batches', '10000'),
    ('max_events', '100000'),
  ('max_sessions', '100000'), ('max_guest_sessions', '10000'), ('max_invitations', '1000'),
    ('max_member_changes', '100000');
create index batches_by_workspace on queue.batches (workspace_id);
create index pauses_by_workspace on queue.pauses (workspace_id);
alter table queue.pauses add constraint pauses_reason_is_bounded check (char_length(reason) <= 1000);

create function queue.quota_names() returns text[]
language sql immutable
set search_path = ''
as $$ select array['max_schedules', 'max_webhooks', 'max_pauses', 'max_batches', 'max_events', 'max_sessions',
  'max_guest_sessions',
  'max_invitations', 'max_member_changes'] $$;
comment on function queue.quota_names is 'The settings that bound the rows of a workspace, each for a table.';

create function queue.quota_table(p_name text) returns text
language sql immutable
set search_path = ''
as $$ select case p_name when 'max_events' then 'named_events' else substr(p_name, 5) end $$;
comment on function queue.quota_table is 'The table whose rows of a workspace a quota counts.';

create function queue.count_rows(p_workspace_id uuid, p_name text, p_most integer) returns integer
language plpgsql stable
set search_path = ''
set enable_seqscan = off -- a session's plan may be older than the rows
as $$
declare
  v_rows integer;
begin
  -- an index of each of these tables begins with, or is, the workspace
  execute format('select count(*) from (select 1 from queue.%I where workspace_id = $1 limit $2) as n',
    queue.quota_table(p_name))
  into v_rows using p_workspace_id, p_most;
  return v_rows;
end;
$$;
comment on function queue.count_rows is 'Rows of a workspace that a quota counts, up to p_most.';

create function queue.check_rows(p_workspace_id uuid, p_name text) returns void
language plpgsql
set search_path = ''
as $$
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
    if v_max > 2000 and pg_try_advisory_xact_lock(7106384, hashtext(p_workspace_id || p_name)) then
      insert into queue.row_counts (workspace_id, name, rows, counted_at) values (p_workspace_id, p_name, v_rows, v_now)
      on conflict (workspace_id, name) do update set rows = excluded.rows, counted_at = excluded.counted_at;
    end if;
  end if;
  if v_rows > v_max then
    perform queue.refuse(429, 'quota_exceeded', format('a workspace has at most %s %s', v_max,
      replace(substr(p_name, 5), '_', ' ')), p_name);
  end if;
end;
$$;
comment on function queue.check_rows is E'Refuse with 429 and the quota''s name when a workspace has more rows than '
  'it allows.\n\nExact up to 2,000; above, the count may be ten seconds old.';

create function queue.hold_quota() returns trigger
language plpgsql
security definer -- whoever makes a row may not count them
set search_path = ''
as $$
begin
  -- quotas bind people, not the service, but where a list shows no more
  if auth.uid() is not null or tg_argv[0] in ('max_schedules', 'max_webhooks') then
    perform queue.check_rows(m.workspace_id, tg_argv[0])
    from (select distinct n.workspace_id from made as n where n.workspace_id is not null) as m;
  end if;
  return null;
end;
$$;
comment on function queue.hold_quota is 'Trigger: new rows stay within the quota that its argument names; a '
  'service''s only where they are schedules or webhooks.';

do $$
declare
  v_name text;
begin
  foreach v_name in array queue.quota_names() loop
    -- tenants that are an application's own
    continue when to_regclass(format('queue.%I', queue.quota_table(v_name))) is null;
    execute format('create trigger quota_is_held after insert on queue.%I referencing new table as made '
      'for each statement execute function queue.hold_quota(%L)', queue.quota_table(v_name), v_name);
  end loop;
end;
$$;

create function queue.quotas_of(p_workspace_id uuid) returns jsonb
language sql stable
set search_path = ''
as $$
  select jsonb_object_agg(s.name,
    jsonb_build_object('max', s.value, 'used', queue.count_rows(p_workspace_id, s.name, (s.value)::integer)))
  from queue.settings as s where s.name = any (queue.quota_names())
    and to_regclass(format('queue.%I', queue.quota_table(s.name))) is not null
$$;
comment on function queue.quotas_of is 'Quotas of a workspace''s rows and how much of each is used, counted up to '
  'it: {name: {max, used}}.';

create function queue.check_pause(p_job_type text, p_reason text) returns void
language plpgsql stable
set search_path = ''
as $$
begin
  if char_length(p_reason) > 500 then
    perform queue.refuse(400, 'invalid_argument', 'reason has at most 500 characters', 'reason');
  elsif p_job_type is not null and not exists (select 1 from queue.job_types where job_type = p_job_type) then
    perform queue.refuse(404, 'unknown_job_type', 'no such job type', left(p_job_type, 100));
  end if;
end;
$$;
comment on function queue.check_pause is 'Refuse a pause of a type that does not exist, or with a reason that is a '
  'document.';

revoke execute on function queue.quota_names, queue.quota_table, queue.count_rows, queue.check_rows, queue.hold_quota,
  queue.quotas_of, queue.check_pause
  from public, anon, authenticated, service_role;
