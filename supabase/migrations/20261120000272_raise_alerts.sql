-- Alerts: thresholds that are checked once a minute, raised once, resolved once.
-- An alert is an event of a job of its own type: it goes through the outbox as every other event does.

create table queue.alerts (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null,
  name text not null,
  metric text not null,
  job_type text,
  threshold double precision not null,
  minutes integer not null default 15,
  whole boolean not null default false,
  mail text[] not null default '{}',
  enabled boolean not null default true,
  raised_at timestamptz,
  value double precision,
  checked_at timestamptz,
  last_job_id uuid,
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  constraint alerts_are_named_once unique (workspace_id, name),
  constraint alerts_name_is_bounded check (char_length(name) between 1 and 100),
  constraint alerts_metric_is_known
    check (metric in ('failed', 'failure_share', 'queue_p95_seconds', 'oldest_due_seconds', 'queued')),
  constraint alerts_threshold_is_bounded check (threshold between 0 and 1000000000),
  constraint alerts_minutes_are_bounded check (minutes between 1 and 1440)
);
alter table queue.alerts enable row level security;
revoke all on queue.alerts from public, anon, authenticated, service_role;
comment on table queue.alerts is 'Thresholds of a workspace, and whether each is exceeded.';
comment on column queue.alerts.id is 'Identity.';
comment on column queue.alerts.workspace_id is 'The workspace whose webhooks and people are notified.';
comment on column queue.alerts.name is 'Name, unique in the workspace.';
comment on column queue.alerts.metric is 'failed (jobs), failure_share (0..1, from five jobs up), queue_p95_seconds, '
  'oldest_due_seconds, or queued (jobs that are due).';
comment on column queue.alerts.job_type is 'Only jobs of this type; null for all types except internal ones.';
comment on column queue.alerts.threshold is 'Raised when the value reaches it.';
comment on column queue.alerts.minutes is 'How many minutes back it counts.';
comment on column queue.alerts.whole is 'True to count all workspaces; only an operator sets it.';
comment on column queue.alerts.mail is 'Addresses to write to: members of the workspace.';
comment on column queue.alerts.enabled is 'False while switched off.';
comment on column queue.alerts.raised_at is 'Since when it is exceeded; null when it is not.';
comment on column queue.alerts.value is 'The value when it was last checked; null when there was nothing to '
  'measure.';
comment on column queue.alerts.checked_at is 'When it was last checked.';
comment on column queue.alerts.last_job_id is 'The job that announced it last.';
comment on column queue.alerts.created_by is 'Who created it.';
comment on column queue.alerts.created_at is 'When it was created.';

insert into queue.job_types (job_type, max_attempts, backoff_first_seconds, backoff_cap_seconds, timeout_seconds,
  events, internal)
values ('alert', 8, 10, 3600, 60, 'minimal', true)
on conflict (job_type) do nothing; -- a worker that runs while this is applied may have published it
insert into queue.maintenance_tasks (name) values ('alerts');

create function queue.alert_counts(p_alert queue.alerts, p_now timestamptz)
returns table (outcome text, wait_bucket smallint, jobs bigint)
language sql stable
set search_path = ''
as $$
  select n.outcome, n.wait_bucket, sum(n.jobs)::bigint
  from (
    select d.outcome, d.wait_bucket, d.jobs, d.job_type, d.workspace_id from queue.stat_deltas as d
    where d.at >= p_now - make_interval(mins => p_alert.minutes)
    union all
    select m.outcome, m.wait_bucket, m.jobs, m.job_type, m.workspace_id from queue.stat_minutes as m
    where m.minute >= p_now - make_interval(mins => p_alert.minutes)) as n
  where (p_alert.whole or n.workspace_id = p_alert.workspace_id)
    and case when p_alert.job_type is not null then n.job_type = p_alert.job_type
      else not exists (select 1 from queue.job_types as t where t.job_type = n.job_type and t.internal) end
  group by 1, 2
$$;
comment on function queue.alert_counts is 'The attempts that ended within an alert''s minutes, by outcome and queue time.';

create function queue.alert_value(p_alert queue.alerts, p_now timestamptz) returns double precision
language plpgsql stable
set search_path = ''
as $$
declare
  v_value double precision;
begin
  if p_alert.metric = 'failed' then
    select coalesce(sum(c.jobs), 0) into v_value from queue.alert_counts(p_alert, p_now) as c
      where c.outcome = 'failed';
  elsif p_alert.metric = 'failure_share' then
    select sum(c.jobs) filter (where c.outcome = 'failed')::double precision / sum(c.jobs) into v_value
    from queue.alert_counts(p_alert, p_now) as c where c.outcome in ('completed', 'failed') having sum(c.jobs) >= 5;
    v_value := coalesce(v_value, 0);
  elsif p_alert.metric = 'queue_p95_seconds' then
    select (queue.percentiles(jsonb_object_agg(w.wait_bucket,
      w.jobs)) ->> 'p95_ms')::double precision / 1000 into v_value
    from (select c.wait_bucket, sum(c.jobs) as jobs from queue.alert_counts(p_alert, p_now) as c
      where c.outcome in ('completed', 'failed', 'retry') group by 1) as w;
  else
    select case p_alert.metric when 'queued' then count(*)::double precision
      else date_part('epoch', p_now - min(r.ready_at)) end into v_value
    from (
      select k.ready_at from queue.known_partitions as p
      cross join lateral (select r.ready_at from queue.ready as r
        where r.partition_id = p.id order by r.ready_at limit 100000) as k
      where (p_alert.whole or p.workspace_id = p_alert.workspace_id) and (p_alert.job_type is null
        or p.job_type = p_alert.job_type)
      limit 100000) as r;
  end if;
  return v_value;
end;
$$;
comment on function queue.alert_value is 'The present value of an alert''s metric; null when there is nothing to '
  'measure.';

create function queue.announce_alert(p_alert queue.alerts, p_state text, p_now timestamptz) returns uuid
language plpgsql
set search_path = ''
as $$
declare
  v_data jsonb := jsonb_build_object('alert_id', p_alert.id, 'name', p_alert.name, 'state', p_state, 'metric',
    p_alert.metric,
    'value', p_alert.value, 'threshold', p_alert.threshold, 'minutes', p_alert.minutes, 'of_type', p_alert.job_type,
    'raised_at', p_alert.raised_at, 'at', p_now);
  v_id uuid;
begin
  v_id := queue.enqueue_unwaited(p_alert.workspace_id, jsonb_build_object('job_type', 'alert',
    'payload', v_data || jsonb_build_object('mail', p_alert.mail)));
  perform queue.append_events(v_id, jsonb_build_array(jsonb_build_object('type', 'alert.' || p_state, 'data', v_data)));
  return v_id;
end;
$$;
comment on function queue.announce_alert is 'Enqueue the job of an alert: its event goes to webhooks, and the job '
  'writes the mail.';

create function queue.check_alerts(p_now timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_alert queue.alerts;
  v_state text;
  v_count integer := 0;
begin
  for v_alert in
    select * from queue.alerts where enabled order by checked_at nulls first, id limit 200 for update skip locked
  loop
    v_alert.value := queue.alert_value(v_alert, p_now);
    v_state := case when v_alert.raised_at is null and v_alert.value >= v_alert.threshold then 'raised'
      when v_alert.raised_at is not null and coalesce(v_alert.value, 0) < v_alert.threshold then 'resolved' end;
    if v_state is not null then
      v_alert.raised_at := coalesce(v_alert.raised_at, p_now);
      v_alert.last_job_id := queue.announce_alert(v_alert, v_state, p_now);
      v_count := v_count + 1;
    end if;
    update queue.alerts set value = v_alert.value, checked_at = p_now, last_job_id = v_alert.last_job_id,
      raised_at = case when v_state = 'resolved' then null else v_alert.raised_at end
    where id = v_alert.id;
  end loop;
  return v_count;
end;
$$;
comment on function queue.check_alerts is 'Check the alerts that were checked longest ago, at most 200; returns '
  'how many were raised or resolved.';

create function queue.alert_problem(p_workspace_id uuid, p_alert jsonb) returns text[]
language plpgsql stable
set search_path = ''
as $$
declare
  v_address text;
begin
  if coalesce((p_alert ->> 'whole')::boolean, false) and not (queue.is_operator() or auth.uid() is null
    and queue.is_service()) then
    return array['403', 'forbidden', 'only an operator may watch all workspaces', 'whole'];
  elsif p_alert ->> 'job_type' is not null and not exists (
      select 1 from queue.job_types where job_type = p_alert ->> 'job_type') then
    return array['422', 'unknown_job_type',
      'no worker has registered the job type ' || left(p_alert ->> 'job_type', 100), 'job_type'];
  end if;
  -- with any address a caller could send mail to strangers
  select a.value into v_address
  from jsonb_array_elements_text(case when jsonb_typeof(p_alert -> 'mail') = 'array' then p_alert -> 'mail'
    else '[]' end) as a
  where not exists (select 1 from queue.tenant_members as m
    where m.workspace_id = p_workspace_id and lower(queue.mail_of(m.user_id)) = lower(a.value)) limit 1;
  if found then
    return array['422', 'invalid_argument', format('%s must be a member of the workspace', left(v_address, 100)),
      'mail'];
  end if;
  return null;
end;
$$;
comment on function queue.alert_problem is 'What is wrong with an alert: {status, hint, message, field}; null when '
  'nothing is.';

create function public.put_alert(p_workspace_id uuid, p_alert jsonb) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = ''
as $$
declare
  v_problem text[];
  v_made queue.alerts;
begin
  perform queue.may_manage(p_workspace_id);
  perform queue.check_names(p_alert,
    array['name', 'metric', 'job_type', 'threshold', 'minutes', 'whole', 'mail', 'enabled'], 'alert');
  v_problem := queue.alert_problem(p_workspace_id, p_alert);
  if v_problem is not null then
    perform queue.refuse_problem(v_problem);
  elsif (select count(*) from queue.alerts as a
      where a.workspace_id = p_workspace_id and a.name is distinct from p_alert ->> 'name') >= 50 then
    perform queue.refuse(429, 'quota_exceeded', 'a workspace has at most 50 alerts', 'max_alerts');
  end if;
  insert into queue.alerts as a (workspace_id, name, metric, job_type, threshold, minutes, whole, mail, enabled,
    created_by)
  values (p_workspace_id, p_alert ->> 'name', p_alert ->> 'metric', p_alert ->> 'job_type',
    (p_alert ->> 'threshold')::double precision,
    coalesce((p_alert ->> 'minutes')::integer, 15), coalesce((p_alert ->> 'whole')::boolean, false),
    coalesce(queue.texts(p_alert -> 'mail'), '{}'), coalesce((p_alert ->> 'enabled')::boolean, true), auth.uid())
  on conflict (workspace_id, name) do update set metric = excluded.metric, job_type = excluded.job_type,
    threshold = excluded.threshold, minutes = excluded.minutes, whole = excluded.whole, mail = excluded.mail,
    enabled = excluded.enabled, raised_at = case when excluded.enabled then a.raised_at end
  returning a.* into v_made;
  return to_jsonb(v_made);
exception
  when not_null_violation or check_violation or invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse(400, 'invalid_argument',
      'name, metric and threshold must be given: a metric of failed, failure_share, '
      || 'queue_p95_seconds, oldest_due_seconds or queued, a threshold of 0 or more, and minutes from 1 to 1440',
      'alert');
end;
$$;
comment on function public.put_alert is E'Create the alert of that name or change it, by a manager: {name, metric, '
  'threshold, minutes = 15, job_type?, mail = [], whole = false, enabled = true}.\n\nWhen it is raised and when it '
  'is resolved, the workspace''s webhooks get alert.raised and alert.resolved, and the addresses in mail a message.';

create function public.delete_alert(p_workspace_id uuid, p_name text) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = ''
as $$
begin
  perform queue.may_manage(p_workspace_id);
  delete from queue.alerts where workspace_id = p_workspace_id and name = p_name;
  if not found then
    perform queue.refuse(404, 'alert_not_found', 'no such alert', p_name);
  end if;
  return jsonb_build_object('deleted', p_name);
end;
$$;
comment on function public.delete_alert is 'Delete an alert, by a manager: {deleted: name}.';

create function public.list_alerts(p_workspace_id uuid) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = ''
as $$
begin
  perform queue.may_steer(p_workspace_id);
  return (select jsonb_build_object('alerts', coalesce(jsonb_agg(to_jsonb(a) order by a.name), '[]'))
    from queue.alerts as a where a.workspace_id = p_workspace_id);
end;
$$;
comment on function public.list_alerts is 'Alerts of a workspace by name, each with its last value and since when '
  'it is exceeded.';

revoke execute on function queue.alert_counts, queue.alert_value, queue.announce_alert, queue.check_alerts,
  queue.alert_problem
  from public, anon, authenticated, service_role;
revoke execute on function public.put_alert, public.delete_alert, public.list_alerts
  from public, anon, authenticated, service_role;
grant execute on function public.put_alert, public.delete_alert, public.list_alerts to authenticated, service_role;
