-- Alerts: thresholds that are checked once a minute, raised once, resolved once.
-- An alert is an event of a job of its own type: it goes through the outbox as every other event does.

-- What may be watched, one row each; queue.metric_<name> measures it, and its last word says its unit
-- (share, seconds; else a count). Refusals, mails, the command and the console read this list.
create table queue.alert_metrics (
  name text primary key, -- its name
  words text not null, -- what it is, as people read it
  whole boolean not null default false, -- whether it is of all workspaces together, so that only an operator watches it
  place integer generated always as identity -- its place in lists
);
comment on table queue.alert_metrics is 'What an alert may watch.';
insert into queue.alert_metrics (name, words, whole) values
  ('failed', 'failed jobs', false),
  ('failure_share', 'share of failed jobs', false), -- from five jobs up
  ('queue_p95_seconds', 'queue time, 95th percentile', false),
  ('oldest_due_seconds', 'age of the oldest due job', false),
  ('queued', 'jobs that are due', false),
  ('unserved', 'due jobs that no worker serves', false),
  ('lost', 'attempts that lost their worker', false),
  ('schedule_late_seconds', 'lateness of the latest schedule', false),
  ('database_share', 'share of the plan''s database size', true);

create table queue.alerts (
  id uuid primary key default queue.new_id(), -- identity
  workspace_id uuid not null, -- the workspace whose webhooks and people are notified
  name text not null, -- name, unique in the workspace
  metric text not null, -- what is watched, see alert_metrics
  job_type text, -- only jobs of this type; null for all types except internal ones
  threshold double precision not null, -- raised when the value reaches it
  minutes integer not null default 15, -- how many minutes back it counts
  whole boolean not null default false, -- true to count all workspaces; only an operator sets it
  -- addresses to write to: members of the workspace, checked again when the mail is sent
  mail text[] not null default '{}',
  -- where else it is posted, {format, host, sealed_url}, sealed by the API for this workspace; null for nowhere
  post jsonb,
  enabled boolean not null default true, -- false while switched off
  raised_at timestamptz, -- since when it is exceeded; null when it is not
  value double precision, -- the value when it was last checked; null when there was nothing to measure
  checked_at timestamptz, -- when it was last checked
  last_job_id uuid, -- the job that announced it last
  created_by uuid, -- who created it
  created_at timestamptz not null default queue.clock(), -- when it was created
  constraint alerts_are_named_once unique (workspace_id, name),
  constraint alerts_name_is_bounded check (char_length(name) between 1 and 100),
  constraint alerts_threshold_is_bounded check (
    threshold between 0 and case when metric like '%\_share' then 1 else 1000000000 end),
  constraint alerts_minutes_are_bounded check (minutes between 1 and 1440)
);
comment on table queue.alerts is 'Thresholds of a workspace, and whether each is exceeded.';

insert into queue.job_types (job_type, max_attempts, backoff_first_seconds, backoff_cap_seconds, timeout_seconds,
  events, internal)
values ('alert', 8, 10, 3600, 60, 'minimal', true)
on conflict (job_type) do nothing; -- a worker that runs while this is applied may have published it
insert into queue.maintenance_tasks (name) values ('alerts');

create function queue.alert_counts(p_alert queue.alerts, p_now timestamptz)
returns table (outcome text, wait_bucket smallint, jobs bigint)
language sql stable set search_path = '' as $$
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

create function queue.metric_failed(p_alert queue.alerts, p_now timestamptz) returns double precision
language sql stable set search_path = ''
as $$ select coalesce(sum(c.jobs), 0) from queue.alert_counts(p_alert, p_now) as c where c.outcome = 'failed' $$;
comment on function queue.metric_failed is 'Jobs that failed within the alert''s minutes.';

create function queue.metric_failure_share(p_alert queue.alerts, p_now timestamptz) returns double precision
language sql stable set search_path = '' as $$
  select coalesce(sum(c.jobs) filter (where c.outcome = 'failed')::double precision
    / nullif(sum(c.jobs), 0) * (sum(c.jobs) >= 5)::integer, 0)
  from queue.alert_counts(p_alert, p_now) as c where c.outcome in ('completed', 'failed')
$$;
comment on function queue.metric_failure_share is 'Share of failed among ended jobs, 0 to 1; 0 for less than five.';

create function queue.metric_queue_p95_seconds(p_alert queue.alerts, p_now timestamptz) returns double precision
language sql stable set search_path = '' as $$
  select (queue.percentiles(jsonb_object_agg(w.wait_bucket, w.jobs)) ->> 'p95_ms')::double precision / 1000
  from (select c.wait_bucket, sum(c.jobs) as jobs from queue.alert_counts(p_alert, p_now) as c
    where c.outcome in ('completed', 'failed', 'retry') group by 1) as w
$$;
comment on function queue.metric_queue_p95_seconds is '95th percentile of the queue time of attempts that ended.';

create function queue.alert_due(p_alert queue.alerts) returns table (ready_at timestamptz)
language sql stable set search_path = '' as $$
  select k.ready_at from queue.known_partitions as p
  cross join lateral (select r.ready_at from queue.ready as r
    where r.partition_id = p.id order by r.ready_at limit 100000) as k
  where (p_alert.whole or p.workspace_id = p_alert.workspace_id)
    and case when p_alert.job_type is not null then p.job_type = p_alert.job_type
      else not exists (select 1 from queue.job_types as t where t.job_type = p.job_type and t.internal) end
  limit 100000
$$;
comment on function queue.alert_due is 'Since when each job that is due is so, up to 100,000.';

create function queue.metric_oldest_due_seconds(p_alert queue.alerts, p_now timestamptz) returns double precision
language sql stable set search_path = ''
as $$ select date_part('epoch', p_now - min(d.ready_at)) from queue.alert_due(p_alert) as d $$;
comment on function queue.metric_oldest_due_seconds is 'For how long the oldest due job has waited.';

create function queue.metric_queued(p_alert queue.alerts, p_now timestamptz) returns double precision
language sql stable set search_path = ''
as $$ select count(*)::double precision from queue.alert_due(p_alert) $$;
comment on function queue.metric_queued is 'How many jobs are due.';

create function queue.metric_unserved(p_alert queue.alerts, p_now timestamptz) returns double precision
language sql stable set search_path = '' as $$
  select coalesce(sum(h.jobs), 0)::double precision
  from queue.due_heads(case when not p_alert.whole then p_alert.workspace_id end, p_now) as h
  where h.cause = 'unserved' and case when p_alert.job_type is not null then h.job_type = p_alert.job_type
    else not exists (select 1 from queue.job_types as t where t.job_type = h.job_type and t.internal) end
$$;
comment on function queue.metric_unserved is 'Due jobs whose type no running worker serves, up to 10,000.';

create function queue.metric_lost(p_alert queue.alerts, p_now timestamptz) returns double precision
language sql stable set search_path = ''
as $$ select coalesce(sum(c.jobs), 0) from queue.alert_counts(p_alert, p_now) as c where c.outcome = 'lost' $$;
comment on function queue.metric_lost is 'Attempts that lost their worker within the alert''s minutes.';

create function queue.metric_schedule_late_seconds(p_alert queue.alerts, p_now timestamptz) returns double precision
language sql stable set search_path = '' as $$
  select greatest(0, date_part('epoch', p_now - min(greatest(s.next_at, s.held_until)))) from queue.schedules as s
  where s.enabled and s.next_at is not null and (p_alert.whole or s.workspace_id = p_alert.workspace_id)
    and (p_alert.job_type is null or s.job_type = p_alert.job_type)
$$;
comment on function queue.metric_schedule_late_seconds is 'For how long the latest of the schedules that are due has waited; 0 when none is.';

create function queue.metric_database_share(p_alert queue.alerts, p_now timestamptz) returns double precision
language sql stable set search_path = ''
as $$ select (queue.storage_state() ->> 'share')::double precision $$;
comment on function queue.metric_database_share is 'How much of the plan''s size the database takes, 0 to 1.';

create function queue.alert_value(p_alert queue.alerts, p_now timestamptz) returns double precision
language plpgsql stable set search_path = '' as $$
declare
  v_value double precision;
begin
  execute format('select queue.%I($1, $2)', 'metric_' || p_alert.metric) into v_value using p_alert, p_now;
  return v_value;
end;
$$;
comment on function queue.alert_value is 'The present value of an alert''s metric; null when there is nothing to '
  'measure.';

create function queue.member_by_mail(p_workspace_id uuid, p_mail text) returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return exists (select from queue.tenant_members as m
    where m.workspace_id = p_workspace_id and lower(queue.mail_of(m.user_id)) = lower(p_mail));
end;
$$;
comment on function queue.member_by_mail is 'Whether an address is that of a member of the workspace.';

create function queue.announce_alert(p_alert queue.alerts, p_state text, p_now timestamptz) returns uuid
language plpgsql set search_path = '' as $$
declare
  v_data jsonb := jsonb_build_object('alert_id', p_alert.id, 'name', p_alert.name, 'state', p_state, 'metric',
    p_alert.metric, 'words', (select m.words from queue.alert_metrics as m where m.name = p_alert.metric),
    'value', p_alert.value, 'threshold', p_alert.threshold, 'minutes', p_alert.minutes, 'of_type', p_alert.job_type,
    'raised_at', p_alert.raised_at, 'at', p_now);
  v_id uuid;
begin
  v_id := queue.enqueue_unwaited(p_alert.workspace_id, jsonb_build_object('job_type', 'alert',
    'payload', v_data));
  perform queue.append_events(v_id, jsonb_build_array(jsonb_build_object('type', 'alert.' || p_state, 'data', v_data)));
  return v_id;
end;
$$;
comment on function queue.announce_alert is 'Enqueue the job of an alert: its event goes to webhooks, and the job '
  'writes the mail.';

create function queue.alert_json(p_alert queue.alerts) returns jsonb
language sql immutable set search_path = ''
as $$ select to_jsonb(p_alert) || jsonb_build_object('post', p_alert.post - 'sealed_url') $$;
comment on function queue.alert_json is 'An alert without its sealed address.';

create function public.alert_recipients(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = '' as $$
declare
  v_job public.jobs := queue.held_job(p_request, array['alert'], 'no mail was sent');
begin
  -- asked when the mail is sent: who was removed since reads no more of this workspace
  return jsonb_build_object('workspace_id', v_job.workspace_id, 'mail', (
    select coalesce(jsonb_agg(lower(m) order by lower(m)), '[]')
    from queue.alerts as a, unnest(a.mail) as m
    where a.id = (v_job.payload ->> 'alert_id')::uuid and queue.member_by_mail(v_job.workspace_id, m)), 'post', (
    select a.post || jsonb_build_object('private_addresses',
      coalesce(queue.setting('webhook_private_addresses'), 'false'))
    from queue.alerts as a where a.id = (v_job.payload ->> 'alert_id')::uuid));
end;
$$;
comment on function public.alert_recipients is 'To whom the leased job of an alert writes {job_id, fence}: {workspace_id, mail: '
  '[addresses], post: {format, host, sealed_url, private_addresses} or null}; of its addresses those that are members'' now.';

create function queue.check_alerts(p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
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
language plpgsql stable set search_path = '' as $$
declare
  v_address text;
begin
  if (coalesce((p_alert ->> 'whole')::boolean, false) or exists (
      select 1 from queue.alert_metrics as m where m.name = p_alert ->> 'metric' and m.whole))
    and not (queue.is_operator() or auth.uid() is null and queue.is_service()) then
    return array['403', 'forbidden', 'only an operator may watch all workspaces', 'whole'];
  elsif not exists (select 1 from queue.alert_metrics as m where m.name = p_alert ->> 'metric') then
    return array['422', 'invalid_argument', format('metric must be one of %s',
      (select string_agg(m.name, ', ' order by m.place) from queue.alert_metrics as m)), 'metric'];
  elsif p_alert ->> 'job_type' is not null and not exists (
      select 1 from queue.job_types where job_type = p_alert ->> 'job_type') then
    return array['422', 'unknown_job_type',
      'no worker has registered the job type ' || left(p_alert ->> 'job_type', 100), 'job_type'];
  end if;
  if jsonb_typeof(p_alert -> 'post') is distinct from 'null' and p_alert ? 'post' and not coalesce(
      jsonb_typeof(p_alert -> 'post') = 'object' and p_alert #>> '{post,format}' in ('slack', 'json')
      and p_alert #>> '{post,host}' ~ '^[a-z0-9.:\[\]-]{1,255}$'
      and char_length(p_alert #>> '{post,sealed_url}') <= 4000
      and p_alert #>> '{post,sealed_url}' ~ '^mh1([.][A-Za-z0-9_=-]+){3}$'
      and (p_alert -> 'post') - '{format,host,sealed_url}'::text[] = '{}', false) then
    return array['422', 'invalid_argument', 'post must have format (slack or json), host and sealed_url: the API '
      'seals the address', 'post'];
  end if;
  -- with any address a caller could send mail to strangers
  select a.value into v_address
  from jsonb_array_elements_text(case when jsonb_typeof(p_alert -> 'mail') = 'array' then p_alert -> 'mail'
    else '[]' end) as a
  where not queue.member_by_mail(p_workspace_id, a.value) limit 1;
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
set search_path = '' as $$
declare
  v_problem text[];
  v_made queue.alerts;
begin
  perform queue.may_manage(p_workspace_id);
  perform queue.check_names(p_alert,
    array['name', 'metric', 'job_type', 'threshold', 'minutes', 'whole', 'mail', 'post', 'enabled'], 'alert');
  v_problem := queue.alert_problem(p_workspace_id, p_alert);
  if v_problem is not null then
    perform queue.refuse_problem(v_problem);
  end if;
  insert into queue.alerts as a (workspace_id, name, metric, job_type, threshold, minutes, whole, mail, post,
    enabled, created_by)
  values (p_workspace_id, p_alert ->> 'name', p_alert ->> 'metric', p_alert ->> 'job_type',
    (p_alert ->> 'threshold')::double precision,
    coalesce(queue.whole_in(p_alert, 'minutes'), 15), coalesce((p_alert ->> 'whole')::boolean, false),
    coalesce(queue.texts(p_alert -> 'mail'), '{}'), nullif(p_alert -> 'post', 'null'),
    coalesce((p_alert ->> 'enabled')::boolean, true), auth.uid())
  on conflict (workspace_id, name) do update set metric = excluded.metric, job_type = excluded.job_type,
    threshold = excluded.threshold, minutes = excluded.minutes, whole = excluded.whole, mail = excluded.mail,
    post = case when p_alert ? 'post' then excluded.post else a.post end, -- no one can read it to send it again
    enabled = excluded.enabled, raised_at = case when excluded.enabled then a.raised_at end
  returning a.* into v_made;
  return queue.alert_json(v_made);
exception
  when not_null_violation or check_violation or invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse(400, 'invalid_argument',
      'name, metric and threshold must be given: a threshold of 0 or more, of a share up to 1, and minutes from 1 to '
      '1440', 'alert');
end;
$$;
comment on function public.put_alert is E'Create the alert of that name or change it, by a manager: {name, metric, '
  'threshold, minutes = 15, job_type?, mail = [], post?, whole = false, enabled = true}. Without post its address is kept, null removes it.\n\nWhen it is raised and when it '
  'is resolved, the workspace''s webhooks get alert.raised and alert.resolved, and those addresses in mail that are still members'' a message.';

create function public.delete_alert(p_workspace_id uuid, p_name text) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
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

create function public.list_alerts(p_workspace_id uuid default null) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
begin
  perform queue.may_read_all(p_workspace_id);
  return (select jsonb_build_object('alerts', coalesce(jsonb_agg(to_jsonb(a)
        || jsonb_build_object('post', a.post - 'sealed_url') || case when p_workspace_id is null
        then jsonb_build_object('workspace_name', (select t.name from queue.tenants as t where t.id = a.workspace_id))
        else '{}' end order by a.raised_at is null, a.name), '[]'),
      'metrics', (select jsonb_agg(jsonb_build_object('name', m.name, 'words', m.words, 'whole', m.whole)
        order by m.place) from queue.alert_metrics as m))
    from (select * from queue.alerts where p_workspace_id is null or workspace_id = p_workspace_id
      order by name, id limit 1000) as a);
end;
$$;
comment on function public.list_alerts is 'Alerts of a workspace or, for operators, of all, raised ones first, then by name, at most 1,000, each with its last value and since when '
  'it is exceeded; and the metrics there are: {alerts, metrics: [{name, words, whole}]}.';

select queue.allow('authenticated, service_role', 'public.put_alert', 'public.delete_alert', 'public.list_alerts');
select queue.allow('job_worker, service_role', 'public.alert_recipients');
