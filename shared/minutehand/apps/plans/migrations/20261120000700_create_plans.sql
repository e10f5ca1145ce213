-- Plans keeps prompts, what each stage of their planning found, the files made of it, and every event in order.
-- Delete this app's migrations and its folder, and the platform does not notice.

-- 1. Tables ------------------------------------------------------------------------------------

create schema if not exists plans;
comment on schema plans is 'The plans app''s own helpers. Not exposed.';
revoke all on schema plans from public;

create table public.plans (
  id uuid primary key,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  session_id text not null,
  prompt text not null,
  speed_vs_detail text not null,
  status text not null default 'pending',
  stage text,
  percentage numeric(5, 2) not null default 0,
  error jsonb,
  job_id uuid,
  run integer not null default 1,
  forked_from uuid,
  forked_at_stage text,
  based_on timestamptz not null,
  last_seq bigint not null default 0,
  report_mark text,
  idempotency_key text,
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  started_at timestamptz,
  finished_at timestamptz,
  constraint plans_prompt_is_bounded check (char_length(prompt) between 1 and 8000),
  constraint plans_speed_is_known check (
    speed_vs_detail in ('fast_but_skip_details', 'balanced_speed_and_detail', 'all_details_but_slow')),
  constraint plans_status_is_known check (status in ('pending', 'running', 'completed', 'failed', 'cancelled')),
  constraint plans_percentage_is_a_share check (percentage between 0 and 100),
  constraint plans_run_counts_from_one check (run >= 1),
  constraint plans_forks_name_their_stage check ((forked_from is null) = (forked_at_stage is null)),
  constraint plans_end_whole check ((status in ('completed', 'failed', 'cancelled')) = (finished_at is not null))
);
comment on table public.plans is 'A prompt to be planned, how far that is, and the job that does it. Results are in plan_stages and plan_artifacts.';
comment on column public.plans.id is 'The plan. A guest''s plan has 122 random bits, since its id gives access to it.';
comment on column public.plans.workspace_id is 'The workspace that owns it; guests'' plans belong to the workspace of the setting plan_guest_workspace.';
comment on column public.plans.session_id is 'Its Realtime topic is session:<this>: plan:<id>, or the guest session of the guest who started it.';
comment on column public.plans.prompt is 'What is to be planned, as its author wrote it; 1 to 8000 characters.';
comment on column public.plans.speed_vs_detail is 'fast_but_skip_details, balanced_speed_and_detail or all_details_but_slow: which stages there are.';
comment on column public.plans.status is 'pending, running, completed, failed or cancelled.';
comment on column public.plans.stage is 'The stage that started last; null before the first.';
comment on column public.plans.percentage is 'Finished stages of all, 0 to 100.';
comment on column public.plans.error is 'Why it failed, {code, stage, reason}; null unless failed.';
comment on column public.plans.job_id is 'The job of the present run.';
comment on column public.plans.run is 'Number of the run, from 1; each restart adds one.';
comment on column public.plans.forked_from is 'The plan whose finished stages it began with; null when it began with none.';
comment on column public.plans.forked_at_stage is 'The first stage that was run again; null when forked_from is.';
comment on column public.plans.based_on is 'The instant its dates count from: its creation, and for a fork that of the first plan.';
comment on column public.plans.last_seq is 'The seq of its last event.';
comment on column public.plans.report_mark is 'Mark of the worker''s last report, so that a repeated one is stored once; null before the first.';
comment on column public.plans.idempotency_key is 'The key it was created with; null when none was given.';
comment on column public.plans.created_by is 'Who created it; null for guests and the service.';
comment on column public.plans.created_at is 'When it was created, UTC.';
comment on column public.plans.started_at is 'When its first stage of the present run started, UTC; null before.';
comment on column public.plans.finished_at is 'When it ended, UTC; null while it has not.';
create index plans_newest on public.plans (workspace_id, created_at desc, id desc);
create index plans_by_session on public.plans (session_id, created_at desc, id desc);
create index plans_by_job on public.plans (job_id);
-- a guest without a session is known by the key alone
create unique index plans_one_per_key on public.plans (workspace_id, idempotency_key);

create table public.plan_stages (
  plan_id uuid not null references public.plans (id) on delete cascade,
  name text not null,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  position integer not null,
  run integer not null,
  status text not null,
  attempts integer not null default 1,
  result jsonb,
  code text,
  reason text,
  model text,
  started_at timestamptz not null,
  ended_at timestamptz,
  primary key (plan_id, name),
  constraint plan_stages_name_is_a_word check (name ~ '^[a-z][a-z_]{1,59}$'),
  constraint plan_stages_status_is_known check (status in ('running', 'completed', 'failed')),
  constraint plan_stages_have_a_result check ((status = 'completed') = (result is not null)),
  constraint plan_stages_have_a_reason check ((status = 'failed') = (code is not null)),
  constraint plan_stages_end_whole check ((status = 'running') = (ended_at is null)),
  constraint plan_stages_are_bounded check (octet_length(result::text) <= 1000000 and char_length(reason) <= 2000)
);
comment on table public.plan_stages is 'Results of a plan''s stages. A completed one is never run again: a crash, a restart and a fork continue from it.';
comment on column public.plan_stages.plan_id is 'The plan.';
comment on column public.plan_stages.name is 'The stage, as the app''s graph names it.';
comment on column public.plan_stages.workspace_id is 'The plan''s workspace.';
comment on column public.plan_stages.position is 'Its place in the report.';
comment on column public.plan_stages.run is 'The run of the plan that wrote it.';
comment on column public.plan_stages.status is 'running, completed or failed; a stage that has not started has no row.';
comment on column public.plan_stages.attempts is 'How often it was started, including after crashes and its own retries.';
comment on column public.plan_stages.result is 'Its result, in the stage''s own shape; null unless completed.';
comment on column public.plan_stages.code is 'Why it failed, as a stable word; null unless failed.';
comment on column public.plan_stages.reason is 'Why it failed, as a sentence; null unless failed.';
comment on column public.plan_stages.model is 'The language model that wrote its text; null when the text is a template''s.';
comment on column public.plan_stages.started_at is 'When it started last, UTC.';
comment on column public.plan_stages.ended_at is 'When it ended, UTC; null while it runs.';
create index plan_stages_by_workspace on public.plan_stages (workspace_id);

create table public.plan_artifacts (
  plan_id uuid not null references public.plans (id) on delete cascade,
  name text not null,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  stage text not null,
  media_type text not null,
  content text not null,
  bytes integer not null generated always as (octet_length(content)) stored,
  created_at timestamptz not null default queue.clock(),
  primary key (plan_id, name),
  constraint plan_artifacts_name_is_a_file check (name ~ '^[a-z0-9][a-z0-9_-]{0,79}\.(json|md|svg|html)$'),
  constraint plan_artifacts_are_bounded check (octet_length(content) <= 2000000)
);
comment on table public.plan_artifacts is 'The files of a plan, made by its stages.';
comment on column public.plan_artifacts.plan_id is 'The plan.';
comment on column public.plan_artifacts.name is 'File name.';
comment on column public.plan_artifacts.workspace_id is 'The plan''s workspace.';
comment on column public.plan_artifacts.stage is 'The stage that made it.';
comment on column public.plan_artifacts.media_type is 'Media type, for example text/markdown.';
comment on column public.plan_artifacts.content is 'The text of the file.';
comment on column public.plan_artifacts.bytes is 'Its size in UTF-8.';
comment on column public.plan_artifacts.created_at is 'When it was made, UTC.';
create index plan_artifacts_by_workspace on public.plan_artifacts (workspace_id);

create table public.plan_events (
  plan_id uuid not null,
  seq bigint not null,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  session_id text not null,
  type text not null,
  data jsonb not null,
  created_at timestamptz not null default queue.clock(),
  primary key (plan_id, seq),
  constraint plan_events_type_is_known check (type in ('plan_created', 'stage_started', 'stage_progress', 'log',
    'stage_completed', 'stage_failed', 'artifact_ready', 'plan_completed', 'plan_failed', 'plan_cancelled',
    'plan_deleted'))
);
comment on table public.plan_events is 'Everything that happened to a plan, numbered without gaps. Those of a deleted plan are kept for ten minutes, for open streams.';
comment on column public.plan_events.plan_id is 'The plan; without a foreign key, since the event of its deletion outlives it.';
comment on column public.plan_events.seq is '1 for plan_created, then 2, 3 … without gaps.';
comment on column public.plan_events.workspace_id is 'The plan''s workspace.';
comment on column public.plan_events.session_id is 'The plan''s session, whose topic it is sent to.';
comment on column public.plan_events.type is 'Type of the event, one of eleven.';
comment on column public.plan_events.data is 'Small details; results and files are read by their routes.';
comment on column public.plan_events.created_at is 'When it happened, UTC.';
create index plan_events_by_workspace on public.plan_events (workspace_id);

create table plans.deleted (
  plan_id uuid primary key,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  session_id text not null,
  deleted_at timestamptz not null default queue.clock()
);
comment on table plans.deleted is 'Plans deleted a moment ago, for the last event of open streams. Later creations and deletions remove old rows.';
comment on column plans.deleted.plan_id is 'The deleted plan.';
comment on column plans.deleted.workspace_id is 'Its workspace.';
comment on column plans.deleted.session_id is 'Its session.';
comment on column plans.deleted.deleted_at is 'When it was deleted, UTC.';
create index deleted_by_age on plans.deleted (deleted_at);
create index deleted_by_workspace on plans.deleted (workspace_id);

create table plans.guest_days (
  day date primary key,
  plans integer not null
);
comment on table plans.guest_days is 'How many plans guests created on a day, deleted ones included.';
comment on column plans.guest_days.day is 'The day, UTC.';
comment on column plans.guest_days.plans is 'Plans created on it.';

insert into queue.settings (name, value) values
  ('plan_guest_workspace', 'null'), -- owns guests' plans; one without members is made for the first guest when null
  ('plan_guest_plans_per_day', '10000'), -- all guests together, from midnight to midnight, UTC
  ('plan_guest_seconds', '604800'); -- how long a guest's plans can be reached: 7 days

-- 2. Events ------------------------------------------------------------------------------------

create function plans.append_events(p_plan_id uuid, p_events jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_plan public.plans;
  v_count integer := jsonb_array_length(p_events);
begin
  if v_count = 0 then
    return;
  end if;
  update public.plans set last_seq = last_seq + v_count where id = p_plan_id returning * into v_plan;
  insert into public.plan_events (plan_id, seq, workspace_id, session_id, type, data)
  select p_plan_id, v_plan.last_seq - v_count + e.ordinality, v_plan.workspace_id, v_plan.session_id,
    e.value ->> 'type', coalesce(e.value -> 'data', '{}')
  from jsonb_array_elements(p_events) with ordinality as e;
end;
$$;
comment on function plans.append_events is 'Append events [{type, data}] to a plan; its row is locked until the transaction ends, so seq has no gaps.';

create function plans.publish() returns trigger
language plpgsql
security definer -- callers who change a plan may not write to realtime.messages
set search_path = ''
as $$
begin
  if to_regclass('realtime.messages') is null then
    return null;
  end if;
  perform queue.send_messages(array_agg(m.topic), array_agg(m.type), array_agg(m.payload), array_agg(false))
  from (
    select 'session:' || e.session_id as topic, e.type,
      jsonb_build_object('plan_id', e.plan_id, 'seq', e.seq, 'type', e.type, 'data', e.data,
        'at', e.created_at) as payload
    from events as e
    where e.session_id not like 'guest\_%' -- nothing is sent for a guest session that has ended
      or exists (select from queue.live_guest_session(e.session_id))
    order by e.plan_id, e.seq) as m
  having count(*) > 0;
  return null;
exception when others then
  raise warning 'plan events were stored but not broadcast: % (%)', sqlerrm, sqlstate;
  return null;
end;
$$;
comment on function plans.publish is 'Trigger: send plan events to session:<session_id>, as its stream sends them. A failure only warns: the events are stored.';

create trigger plan_events_publish after insert on public.plan_events
  referencing new table as events for each statement execute function plans.publish();

create function plans.forget(p_limit integer) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_gone uuid[];
begin
  with old as (
    select plan_id from plans.deleted where deleted_at < queue.clock() - interval '10 minutes'
    order by deleted_at limit p_limit for update skip locked),
  gone as (delete from plans.deleted as d using old where d.plan_id = old.plan_id returning d.plan_id)
  select array_agg(plan_id) into v_gone from gone;
  delete from public.plan_events where plan_id = any (v_gone);
end;
$$;
comment on function plans.forget is 'Delete the events of plans deleted more than ten minutes ago, of a few plans at a time.';

-- 3. Who reaches a plan ------------------------------------------------------------------------

create function plans.is_open_to_caller(p_workspace_id uuid, p_session_id text) returns boolean
language sql stable
set search_path = ''
as $$
  select queue.is_service_role() or queue.is_member(p_workspace_id)
    -- a guest's plan is open to all who know its id, while its guest session is open
    or p_session_id like 'guest\_%' and exists (select from queue.may_join_guest_session(p_session_id))
$$;
comment on function plans.is_open_to_caller is 'Whether the caller is a member of the workspace, or the plan is a guest''s whose guest session is open.';

create function plans.refuse_plan(p_plan_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  perform queue.refuse(404, 'plan_not_found', 'Plan not found', p_plan_id::text);
end;
$$;
comment on function plans.refuse_plan is 'Refuse with 404 a plan that is missing, deleted or another''s, or whose guest session has ended: the same answer for all.';

create function plans.plan_or_refuse(p_plan_id uuid) returns public.plans
language plpgsql stable
set search_path = ''
as $$
declare
  v_plan public.plans;
begin
  select * into v_plan from public.plans where id = p_plan_id;
  if not found or plans.is_open_to_caller(v_plan.workspace_id, v_plan.session_id) is not true then
    perform plans.refuse_plan(p_plan_id);
  end if;
  return v_plan;
end;
$$;
comment on function plans.plan_or_refuse is 'The plan, if the caller may see it; see plans.refuse_plan.';

create function plans.lock_or_refuse(p_plan_id uuid) returns public.plans
language plpgsql
set search_path = ''
as $$
declare
  v_plan public.plans := plans.plan_or_refuse(p_plan_id);
begin
  -- the job before the plan, everywhere: the worker and the engine hold the job when they come to the plan
  perform 1 from public.jobs where id = v_plan.job_id for update;
  select * into v_plan from public.plans where id = p_plan_id for update;
  if not found then
    perform plans.refuse_plan(p_plan_id);
  end if;
  return v_plan;
end;
$$;
comment on function plans.lock_or_refuse is 'The same as plans.plan_or_refuse, with the plan and its job locked; 404 for the second of two deletions.';

create function plans.show(p_plan_id uuid, p_results boolean) returns jsonb
language plpgsql stable
security definer -- guests hold no rights on any table
set search_path = ''
as $$
declare
  v_plan public.plans := plans.plan_or_refuse(p_plan_id);
begin
  return to_jsonb(v_plan) - '{idempotency_key,created_by,report_mark}'::text[] || jsonb_build_object(
    'stages', (
      select coalesce(jsonb_agg(case when p_results then to_jsonb(s) else to_jsonb(s) - 'result' end
        - '{plan_id,workspace_id}'::text[] order by s.position), '[]')
      from public.plan_stages as s where s.plan_id = p_plan_id),
    'artifacts', (
      select coalesce(jsonb_agg(jsonb_build_object('name', a.name, 'stage', a.stage, 'media_type', a.media_type,
        'bytes', a.bytes, 'created_at', a.created_at) order by a.name), '[]')
      from public.plan_artifacts as a where a.plan_id = p_plan_id));
end;
$$;
comment on function plans.show is 'Body of public.plan_read, with rights that browsers'' roles do not have.';

create function plans.list(p_workspace_id uuid, p_session_id text, p_after uuid, p_limit integer) returns jsonb
language plpgsql stable
security definer -- guests hold no rights on any table
set search_path = ''
as $$
declare
  v_workspaces uuid[];
  v_after public.plans;
begin
  if p_session_id is not null then
    v_workspaces := array[(queue.guest_session_or_refuse(p_session_id)).workspace_id];
  elsif p_workspace_id is null then
    v_workspaces := array(select queue.my_workspaces());
  else
    perform queue.may_read(p_workspace_id);
    v_workspaces := array[p_workspace_id];
  end if;
  select * into v_after from public.plans where id = p_after and workspace_id = any (v_workspaces);
  return jsonb_build_object('plans', (
    select coalesce(jsonb_agg(p.line order by p.created_at desc, p.id desc), '[]')
    from (
      select x.id, x.created_at, jsonb_build_object('id', x.id, 'prompt', left(x.prompt, 300), 'status', x.status,
        'speed_vs_detail', x.speed_vs_detail, 'stage', x.stage, 'percentage', x.percentage, 'job_id', x.job_id,
        'forked_from', x.forked_from, 'created_at', x.created_at, 'finished_at', x.finished_at) as line
      from public.plans as x
      where x.workspace_id = any (v_workspaces) and (p_session_id is null or x.session_id = p_session_id)
        and (v_after.id is null or (x.created_at, x.id) < (v_after.created_at, v_after.id))
      order by x.created_at desc, x.id desc
      limit least(200, greatest(1, coalesce(p_limit, 50)))) as p));
end;
$$;
comment on function plans.list is 'Body of public.plan_list, with rights that browsers'' roles do not have.';

create function plans.file(p_plan_id uuid, p_name text) returns jsonb
language plpgsql stable
security definer -- guests hold no rights on any table
set search_path = ''
as $$
begin
  perform plans.plan_or_refuse(p_plan_id);
  return jsonb_build_object('files', (
    select coalesce(jsonb_agg(jsonb_build_object('name', a.name, 'media_type', a.media_type, 'content', a.content)
      order by a.name), '[]')
    from public.plan_artifacts as a where a.plan_id = p_plan_id and (p_name is null or a.name = p_name)));
end;
$$;
comment on function plans.file is 'Body of public.plan_files, with rights that browsers'' roles do not have.';

create function plans.events_after(p_plan_id uuid, p_after bigint, p_limit integer, p_is_open boolean) returns jsonb
language plpgsql stable
security definer -- guests hold no rights on any table
set search_path = ''
as $$
declare
  v_plan public.plans;
  v_deleted plans.deleted;
  v_last bigint;
  v_events jsonb;
begin
  select * into v_plan from public.plans where id = p_plan_id;
  if not found and p_is_open then
    select * into v_deleted from plans.deleted where plan_id = p_plan_id;
  end if;
  if plans.is_open_to_caller(coalesce(v_plan.workspace_id, v_deleted.workspace_id),
    coalesce(v_plan.session_id, v_deleted.session_id)) is not true
    or coalesce(v_plan.id, v_deleted.plan_id) is null then
    perform plans.refuse_plan(p_plan_id);
  end if;
  select coalesce(jsonb_agg(e.line order by e.seq), '[]'), max(e.seq) into v_events, v_last
  from (
    select seq, jsonb_build_object('plan_id', plan_id, 'seq', seq, 'type', type, 'data', data, 'at', created_at) as line
    from public.plan_events
    where plan_id = p_plan_id and seq > coalesce(p_after, 0)
    order by seq
    limit least(1000, greatest(1, coalesce(p_limit, 500)))) as e;
  v_last := coalesce(v_last, p_after, 0);
  return jsonb_build_object('events', v_events, 'more', case when v_plan.id is null
      then exists (select from public.plan_events where plan_id = p_plan_id and seq > v_last)
      else v_last < v_plan.last_seq end,
    'ended', case when v_plan.id is null then 'deleted' when v_plan.finished_at is not null then v_plan.status end);
end;
$$;
comment on function plans.events_after is 'Body of public.plan_events_after, with rights that browsers'' roles do not have.';

-- 4. What callers do ---------------------------------------------------------------------------

create function plans.guest_workspace() returns uuid
language plpgsql
set search_path = ''
as $$
declare
  v_id uuid := queue.setting('plan_guest_workspace') #>> '{}';
begin
  if queue.setting('allow_anonymous') is distinct from 'true' then
    perform queue.refuse(401, 'unauthorized', 'sign in: plans without an account are off');
  end if;
  if v_id is null then
    -- the row of the setting is locked, so that two first guests make one workspace
    select value #>> '{}' into v_id from queue.settings where name = 'plan_guest_workspace' for update;
  end if;
  if v_id is null or not exists (select from public.workspaces where id = v_id) then
    insert into public.workspaces (name) values ('Guests'' plans') returning id into v_id;
    update queue.settings set value = to_jsonb(v_id) where name = 'plan_guest_workspace';
  end if;
  return v_id;
end;
$$;
comment on function plans.guest_workspace is 'The workspace of guests'' plans: the setting plan_guest_workspace, or one without members that is created now.';

create function plans.admit_guest(p_session_id text) returns queue.guest_sessions
language plpgsql
set search_path = ''
as $$
declare
  v_guest_session queue.guest_sessions;
  v_today date := (queue.clock() at time zone 'UTC')::date;
  v_plans integer;
begin
  insert into plans.guest_days as d (day, plans) values (v_today, 1)
  on conflict (day) do update set plans = d.plans + 1 returning d.plans into v_plans;
  if v_plans > (queue.setting('plan_guest_plans_per_day') #>> '{}')::integer then
    perform queue.refuse(429, 'quota_exceeded', 'no more plans without an account today; try again after midnight UTC',
      'plan_guest_plans_per_day');
  end if;
  if p_session_id is not null then
    return queue.guest_session_or_refuse(p_session_id);
  end if;
  insert into queue.guest_sessions (session_id, workspace_id, expires_at)
  values ('guest_' || encode(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'hex'),
    plans.guest_workspace(),
    queue.clock() + make_interval(secs => (queue.setting('plan_guest_seconds') #>> '{}')::double precision))
  returning * into v_guest_session;
  return v_guest_session;
end;
$$;
comment on function plans.admit_guest is 'The guest session a guest plans in: the one named, or a new one; within the plans that guests may create a day.';

create function plans.enqueue(p_plan_id uuid) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_plan public.plans;
  v_done jsonb;
begin
  select * into v_plan from public.plans where id = p_plan_id;
  -- without a session: the plan's topic has the plan's events only
  v_done := queue.enqueue(v_plan.workspace_id, null, jsonb_build_array(jsonb_build_object('job_type', 'plan',
    'payload', jsonb_build_object('plan_id', p_plan_id), 'user_id', v_plan.created_by)), false);
  update public.plans set job_id = (v_done #>> '{ids,0}')::uuid where id = p_plan_id;
  return jsonb_build_object('plan_id', p_plan_id, 'job_id', v_done #> '{ids,0}', 'session_id', v_plan.session_id,
    'status', v_plan.status, 'created_at', v_plan.created_at, 'wake', v_done -> 'wake');
end;
$$;
comment on function plans.enqueue is 'Enqueue the job of a plan''s next run; returns the answer of plan_start.';

create function plans.same_or_refuse(p_workspace_id uuid, p_plan jsonb, p_key text) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_plan public.plans;
begin
  select * into v_plan from public.plans where workspace_id = p_workspace_id and idempotency_key = p_key;
  if not found then
    return null;
  elsif v_plan.prompt <> p_plan ->> 'prompt' or v_plan.speed_vs_detail <> p_plan ->> 'speed_vs_detail' then
    perform queue.refuse(409, 'idempotency_conflict', 'this key created a plan of another prompt', 'idempotency_key');
  end if;
  return jsonb_build_object('plan_id', v_plan.id, 'job_id', v_plan.job_id, 'session_id', v_plan.session_id,
    'status', v_plan.status, 'created_at', v_plan.created_at, 'wake', false);
end;
$$;
comment on function plans.same_or_refuse is 'The plan that was created with a key; 409 when it has another prompt, null when there is none.';

create function plans.workspace_or_refuse(p_workspace_id uuid) returns uuid
language plpgsql stable
set search_path = ''
as $$
declare
  v_id uuid := p_workspace_id;
begin
  if v_id is null then
    select workspace_id into v_id from public.workspace_members
    where user_id = auth.uid() order by created_at, workspace_id limit 1;
  elsif not (queue.is_member(v_id) or queue.is_service_role())
    or not exists (select from public.workspaces where id = v_id) then
    v_id := null;
  end if;
  if v_id is null then
    perform queue.refuse_workspace(p_workspace_id);
  end if;
  return v_id;
end;
$$;
comment on function plans.workspace_or_refuse is 'The workspace a member plans in: the one named, or the first they joined.';

create function plans.start(p_workspace_id uuid, p_plan jsonb, p_session_id text, p_idempotency_key text) returns jsonb
language plpgsql
security definer -- no role may write plans directly
set search_path = ''
as $$
declare
  v_is_guest boolean := p_session_id is not null
    or auth.uid() is null and not queue.is_service_role();
  v_workspace uuid;
  v_guest_session queue.guest_sessions;
  v_id uuid := case when v_is_guest then gen_random_uuid() else queue.new_id() end;
  v_session text;
  v_found jsonb;
begin
  if jsonb_typeof(p_plan -> 'prompt') is distinct from 'string' or p_plan ->> 'prompt' !~ '\S'
    or char_length(p_plan ->> 'prompt') > 8000 then
    perform queue.refuse(422, 'validation_failed', 'prompt must be a text of 1 to 8000 characters', 'prompt');
  elsif coalesce(p_plan ->> 'speed_vs_detail', '')
    not in ('fast_but_skip_details', 'balanced_speed_and_detail', 'all_details_but_slow') then
    perform queue.refuse(422, 'validation_failed', 'speed_vs_detail must be one of fast_but_skip_details, '
      'balanced_speed_and_detail, all_details_but_slow', 'speed_vs_detail');
  elsif char_length(p_idempotency_key) not between 1 and 255 then
    perform queue.refuse(400, 'invalid_argument', 'idempotency_key must have 1 to 255 characters', 'idempotency_key');
  end if;
  if v_is_guest then
    v_workspace := case when p_session_id is null then plans.guest_workspace()
      else (queue.guest_session_or_refuse(p_session_id)).workspace_id end;
  else
    v_workspace := plans.workspace_or_refuse(p_workspace_id);
  end if;
  if p_idempotency_key is not null then
    -- one after the other: the second of two creations by one key finds the first
    perform pg_advisory_xact_lock(hashtextextended('plans:' || v_workspace || p_idempotency_key, 0));
    v_found := plans.same_or_refuse(v_workspace, p_plan, p_idempotency_key);
    if v_found is not null then
      return v_found;
    end if;
  end if;
  if v_is_guest then
    v_guest_session := plans.admit_guest(p_session_id);
    v_session := v_guest_session.session_id;
    v_workspace := v_guest_session.workspace_id;
  else
    v_session := 'plan:' || v_id;
    perform queue.claim_sessions(v_workspace, array[v_session]);
  end if;
  insert into public.plans (id, workspace_id, session_id, prompt, speed_vs_detail, based_on, idempotency_key,
    created_by)
  values (v_id, v_workspace, v_session, p_plan ->> 'prompt', p_plan ->> 'speed_vs_detail', queue.clock(),
    p_idempotency_key, auth.uid());
  perform plans.append_events(v_id, jsonb_build_array(jsonb_build_object('type', 'plan_created',
    'data', jsonb_build_object('status', 'pending', 'speed_vs_detail', p_plan -> 'speed_vs_detail'))));
  perform plans.forget(20);
  return plans.enqueue(v_id);
end;
$$;
comment on function plans.start is 'Body of public.plan_start, with rights that browsers'' roles do not have.';

create function plans.end_plan(p_plan_id uuid, p_status text, p_error jsonb, p_data jsonb) returns void
language plpgsql
set search_path = ''
as $$
begin
  update public.plans set status = p_status, error = p_error, finished_at = queue.clock(),
    percentage = case when p_status = 'completed' then 100 else percentage end
  where id = p_plan_id;
  perform plans.append_events(p_plan_id, jsonb_build_array(jsonb_build_object('type', 'plan_' || p_status,
    'data', jsonb_build_object('status', p_status) || coalesce(p_data, '{}')
      || case when p_error is null then '{}' else jsonb_build_object('error', p_error) end)));
end;
$$;
comment on function plans.end_plan is 'End a locked plan as completed, failed or cancelled, with its event.';

create function plans.cancel(p_plan_id uuid) returns jsonb
language plpgsql
security definer -- guests hold no rights on any table
set search_path = ''
as $$
declare
  v_plan public.plans := plans.lock_or_refuse(p_plan_id);
begin
  if v_plan.status = 'cancelled' then
    return jsonb_build_object('plan_id', p_plan_id, 'status', 'cancelled');
  elsif v_plan.finished_at is not null then
    perform queue.refuse(409, 'invalid_state', 'the plan has ended; its report is available', v_plan.status);
  end if;
  perform plans.end_plan(p_plan_id, 'cancelled', null, null);
  perform queue.cancel(array[v_plan.job_id], queue.clock());
  return jsonb_build_object('plan_id', p_plan_id, 'status', 'cancelled');
end;
$$;
comment on function plans.cancel is 'Body of public.plan_cancel, with rights that browsers'' roles do not have.';

create function plans.remove(p_plan_id uuid) returns jsonb
language plpgsql
security definer -- guests hold no rights on any table
set search_path = ''
as $$
declare
  v_plan public.plans := plans.lock_or_refuse(p_plan_id);
begin
  perform plans.append_events(p_plan_id, '[{"type": "plan_deleted", "data": {"status": "deleted"}}]');
  insert into plans.deleted (plan_id, workspace_id, session_id)
  values (p_plan_id, v_plan.workspace_id, v_plan.session_id);
  delete from public.plans where id = p_plan_id;
  -- log lines are deleted now; the events are kept for open streams
  update public.plan_events set data = data - 'message' where plan_id = p_plan_id and type = 'log';
  perform queue.cancel(array[v_plan.job_id], queue.clock());
  if v_plan.session_id = 'plan:' || p_plan_id then
    perform queue.free_sessions(v_plan.workspace_id, array[v_plan.session_id]);
  end if;
  perform plans.forget(20);
  return jsonb_build_object('plan_id', p_plan_id, 'deleted', true);
end;
$$;
comment on function plans.remove is 'Body of public.plan_delete, with rights that browsers'' roles do not have.';

create function plans.restart(p_plan_id uuid) returns jsonb
language plpgsql
security definer -- guests hold no rights on any table
set search_path = ''
as $$
declare
  v_plan public.plans := plans.lock_or_refuse(p_plan_id);
  v_kept integer;
begin
  if v_plan.status not in ('failed', 'cancelled') then
    perform queue.refuse(409, 'invalid_state', 'only a failed or cancelled plan can be restarted', v_plan.status);
  elsif v_plan.run >= 20 then
    perform queue.refuse(429, 'quota_exceeded', 'a plan can be run at most 20 times', 'max_runs');
  end if;
  delete from public.plan_stages where plan_id = p_plan_id and status <> 'completed';
  select count(*) into v_kept from public.plan_stages where plan_id = p_plan_id;
  update public.plans set run = run + 1, status = 'pending', error = null, started_at = null, finished_at = null
  where id = p_plan_id;
  perform plans.append_events(p_plan_id, jsonb_build_array(jsonb_build_object('type', 'log', 'data', jsonb_build_object(
    'level', 'info', 'message', format('Restarted. Finished stages are kept: %s.', v_kept), 'kept', v_kept))));
  return plans.enqueue(p_plan_id);
end;
$$;
comment on function plans.restart is 'Body of public.plan_restart, with rights that browsers'' roles do not have.';

create function plans.fork(p_plan_id uuid, p_stage text, p_keep text[]) returns jsonb
language plpgsql
security definer -- guests hold no rights on any table
set search_path = ''
as $$
declare
  v_plan public.plans := plans.plan_or_refuse(p_plan_id);
  v_is_guest boolean := v_plan.session_id like 'guest\_%';
  v_id uuid := case when v_is_guest then gen_random_uuid() else queue.new_id() end;
  v_session text := case when v_is_guest then v_plan.session_id else 'plan:' || v_id end;
begin
  if p_stage !~ '^[a-z][a-z_]{1,59}$' then
    perform queue.refuse(422, 'validation_failed', 'stage must be the name of a stage', 'stage');
  elsif v_is_guest then
    perform plans.admit_guest(v_session);
  else
    perform queue.claim_sessions(v_plan.workspace_id, array[v_session]);
  end if;
  insert into public.plans (id, workspace_id, session_id, prompt, speed_vs_detail, based_on, created_by, forked_from,
    forked_at_stage)
  values (v_id, v_plan.workspace_id, v_session, v_plan.prompt, v_plan.speed_vs_detail, v_plan.based_on, auth.uid(),
    p_plan_id, p_stage);
  insert into public.plan_stages (plan_id, name, workspace_id, position, run, status, attempts, result, model,
    started_at, ended_at)
  select v_id, name, workspace_id, position, 1, status, attempts, result, model, started_at, ended_at
  from public.plan_stages
  where plan_id = p_plan_id and status = 'completed' and name = any (p_keep) and name <> p_stage;
  insert into public.plan_artifacts (plan_id, name, workspace_id, stage, media_type, content, created_at)
  select v_id, a.name, a.workspace_id, a.stage, a.media_type, a.content, a.created_at
  from public.plan_artifacts as a join public.plan_stages as s on s.plan_id = v_id and s.name = a.stage
  where a.plan_id = p_plan_id;
  perform plans.append_events(v_id, jsonb_build_array(jsonb_build_object('type', 'plan_created',
    'data', jsonb_build_object('status', 'pending', 'speed_vs_detail', v_plan.speed_vs_detail,
    'forked_from', p_plan_id, 'from_stage', p_stage,
    'kept', (select coalesce(jsonb_agg(name order by position), '[]') from public.plan_stages where plan_id = v_id)))));
  return plans.enqueue(v_id);
end;
$$;
comment on function plans.fork is 'Body of public.plan_fork, with rights that browsers'' roles do not have.';

-- Bodies bound when they are made: the roles that call them need no right to look into plans.
create function public.plan_start(
  p_workspace_id uuid, p_plan jsonb, p_session_id text default null, p_idempotency_key text default null
) returns jsonb
language sql
set search_path = ''
begin atomic
  select plans.start(p_workspace_id, p_plan, p_session_id, p_idempotency_key);
end;
comment on function public.plan_start is E'Create a plan of {prompt, speed_vs_detail}: {plan_id, job_id, session_id, status, created_at, wake}.\n\nFor members, in the workspace named or the first they joined; for guests where allow_anonymous is on, in the guest session named or a new one. The same idempotency key returns the same plan; with another prompt it is a conflict.';

create function public.plan_read(p_plan_id uuid, p_results boolean default false) returns jsonb
language sql stable
set search_path = ''
begin atomic
  select plans.show(p_plan_id, p_results);
end;
comment on function public.plan_read is 'A plan with its stages, their results if asked for, and its files; for members, and for all who know the id of a guest''s plan.';

create function public.plan_list(
  p_workspace_id uuid, p_session_id text default null, p_after uuid default null, p_limit integer default 50
) returns jsonb
language sql stable
set search_path = ''
begin atomic
  select plans.list(p_workspace_id, p_session_id, p_after, p_limit);
end;
comment on function public.plan_list is 'Plans of a workspace, of all workspaces of the caller, or of a guest session, newest first, after p_after: {plans: […]}.';

create function public.plan_files(p_plan_id uuid, p_name text default null) returns jsonb
language sql stable
set search_path = ''
begin atomic
  select plans.file(p_plan_id, p_name);
end;
comment on function public.plan_files is 'Files of a plan with their content, all or one: {files: [{name, media_type, content}]}.';

create function public.plan_events_after(
  p_plan_id uuid, p_after bigint default 0, p_limit integer default 500, p_is_open boolean default false
) returns jsonb
language sql stable
set search_path = ''
begin atomic
  select plans.events_after(p_plan_id, p_after, p_limit, p_is_open);
end;
comment on function public.plan_events_after is E'Events of a plan after a seq, in order: {events: [{plan_id, seq, type, data, at}], more, ended}.\n\nended is how the plan ended, null while it has not. p_is_open is for open streams: they also read a plan that was deleted since, up to plan_deleted.';

create function public.plan_cancel(p_plan_id uuid) returns jsonb
language sql
set search_path = ''
begin atomic
  select plans.cancel(p_plan_id);
end;
comment on function public.plan_cancel is 'Stop a plan: {plan_id, status}. Finished stages are kept and are its report. 409 when it has ended otherwise.';

create function public.plan_delete(p_plan_id uuid) returns jsonb
language sql
set search_path = ''
begin atomic
  select plans.remove(p_plan_id);
end;
comment on function public.plan_delete is 'Delete a plan with its stages and files, and cancel its job: {plan_id, deleted}. Its last event is plan_deleted; the second deletion is a 404.';

create function public.plan_restart(p_plan_id uuid) returns jsonb
language sql
set search_path = ''
begin atomic
  select plans.restart(p_plan_id);
end;
comment on function public.plan_restart is 'Run a failed or cancelled plan again; finished stages are kept. Returns what plan_start returned; 409 in other states.';

create function public.plan_fork(p_plan_id uuid, p_stage text, p_keep text[]) returns jsonb
language sql
set search_path = ''
begin atomic
  select plans.fork(p_plan_id, p_stage, p_keep);
end;
comment on function public.plan_fork is 'Create a plan of the same prompt that begins with the finished stages p_keep of another and runs p_stage again. Returns what plan_start returns.';

create function public.plan_set_guest_workspace(p_workspace_id uuid) returns jsonb
language plpgsql
security definer -- the service holds no rights on the engine's settings
set search_path = ''
as $$
begin
  if p_workspace_id is not null and not exists (select from public.workspaces where id = p_workspace_id) then
    perform queue.refuse_workspace(p_workspace_id);
  end if;
  update queue.settings set value = coalesce(to_jsonb(p_workspace_id), 'null'), updated_at = queue.clock()
  where name = 'plan_guest_workspace';
  return jsonb_build_object('workspace_id', p_workspace_id);
end;
$$;
comment on function public.plan_set_guest_workspace is 'Choose the workspace that owns plans without an account from now on; null for one without members, created for the first guest. For the operator.';

-- 5. What the worker does ----------------------------------------------------------------------

create function plans.held(p_request jsonb) returns public.plans
language plpgsql
set search_path = ''
as $$
declare
  v_job public.jobs := queue.held_job(p_request, array['plan'], 'nothing was stored');
  v_plan public.plans;
begin
  select p.* into v_plan from public.plans as p
  where p.id = (v_job.payload ->> 'plan_id')::uuid and p.workspace_id = v_job.workspace_id and p.job_id = v_job.id
  for update;
  return v_plan;
end;
$$;
comment on function plans.held is 'Lock and return the plan of a leased job {job_id, fence}; null when it is gone or has another job by now.';

create function public.plan_load(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables: this is its way in
set search_path = ''
as $$
declare
  v_plan public.plans := plans.held(p_request);
begin
  if v_plan.id is null then
    return jsonb_build_object('plan', null);
  elsif v_plan.status in ('failed', 'pending') then
    -- failed: its job was a dead letter, and a person retried the job itself
    update public.plans set status = 'running', error = null, finished_at = null,
      started_at = coalesce(started_at, queue.clock())
    where id = v_plan.id returning * into v_plan;
  end if;
  return jsonb_build_object('plan', to_jsonb(v_plan), 'stages', (
    select coalesce(jsonb_agg(to_jsonb(s) - '{plan_id,workspace_id}'::text[] order by s.position), '[]')
    from public.plan_stages as s where s.plan_id = v_plan.id));
end;
$$;
comment on function public.plan_load is 'Begin the plan of a leased job {job_id, fence}: {plan, stages}; plan is null when it is gone. The plan is running from then on.';

create function plans.store_stages(p_plan public.plans, p_stages jsonb) returns void
language sql
set search_path = ''
as $$
  insert into public.plan_stages as s (plan_id, name, workspace_id, position, run, status, attempts, result, code,
    reason, model, started_at, ended_at)
  select p_plan.id, i.name, p_plan.workspace_id, i.position, p_plan.run, i.status, coalesce(i.attempts, 0),
    nullif(i.result, 'null'), i.code, left(i.reason, 2000), i.model, coalesce(i.started_at, queue.clock()),
    case when i.status <> 'running' then queue.clock() end
  from jsonb_to_recordset(p_stages) as i (name text, position integer, status text, attempts integer, result jsonb,
    code text, reason text, model text, started_at timestamptz)
  order by i.position
  on conflict (plan_id, name) do update set run = excluded.run, status = excluded.status, result = excluded.result,
    code = excluded.code, reason = excluded.reason, model = excluded.model, started_at = excluded.started_at,
    ended_at = excluded.ended_at, attempts = s.attempts + excluded.attempts
  where s.status <> 'completed'
$$;
comment on function plans.store_stages is 'Store the states of a plan''s stages, each once per call; a completed one is never written again.';

create function public.plan_report(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables: this is its way in
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_plan public.plans := plans.held(p_request);
  v_end jsonb := p_request -> 'end';
begin
  if v_plan.id is null or v_plan.finished_at is not null then
    return '{"outcome": "gone"}';
  elsif v_plan.report_mark = p_request ->> 'mark' then
    return '{"outcome": "stored"}'; -- the answer to the same report was lost on its way
  end if;
  perform plans.store_stages(v_plan, coalesce(p_request -> 'stages', '[]'));
  insert into public.plan_artifacts as a (plan_id, name, workspace_id, stage, media_type, content)
  select v_plan.id, i.name, v_plan.workspace_id, i.stage, i.media_type, i.content
  from jsonb_to_recordset(coalesce(p_request -> 'artifacts', '[]'))
    as i (name text, stage text, media_type text, content text)
  on conflict (plan_id, name) do update set stage = excluded.stage, media_type = excluded.media_type,
    content = excluded.content, created_at = excluded.created_at;
  update public.plans set report_mark = p_request ->> 'mark', stage = coalesce(p_request ->> 'stage', stage),
    percentage = greatest(percentage, least(100, coalesce((p_request ->> 'percentage')::numeric, 0)))
  where id = v_plan.id;
  perform plans.append_events(v_plan.id, coalesce(p_request -> 'events', '[]'));
  if jsonb_typeof(v_end) = 'object' then
    perform plans.end_plan(v_plan.id, v_end ->> 'status', nullif(v_end -> 'error', 'null'), v_end -> 'data');
  end if;
  return '{"outcome": "stored"}';
exception
  when check_violation or not_null_violation or invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse(422, 'stage_invalid', 'a stage or file cannot be stored: ' || sqlerrm, v_plan.id::text);
end;
$$;
comment on function public.plan_report is E'Store a worker''s results and their events in one transaction: {outcome: stored|gone}.\n\nTakes {job_id, fence, mark, events, stages, artifacts, stage, percentage, end}. A repeated mark stores nothing; gone means that the plan ended, was deleted or has another job.';

create function plans.job_ended() returns trigger
language plpgsql
security definer -- callers who end a job hold no rights on the app's tables
set search_path = ''
as $$
declare
  v_plan public.plans;
begin
  select * into v_plan from public.plans where job_id = new.id and finished_at is null for update;
  if found and new.status = 'cancelled' then
    perform plans.end_plan(v_plan.id, 'cancelled', null, null);
  elsif found then
    perform plans.end_plan(v_plan.id, 'failed', jsonb_build_object('code', 'job_failed', 'stage', v_plan.stage,
      'reason', coalesce(left(new.error_message, 1000), 'Its job failed.')), null);
  end if;
  return null;
end;
$$;
comment on function plans.job_ended is 'Trigger: a plan whose job was cancelled, or became a dead letter, ends the same way.';

create trigger plans_end_with_their_job after update of status on public.jobs
  for each row when (new.job_type = 'plan' and new.status in ('failed', 'cancelled') and old.status <> new.status)
  execute function plans.job_ended();

-- Row level security and grants ----------------------------------------------------------------

alter table public.plans enable row level security;
alter table public.plan_stages enable row level security;
alter table public.plan_artifacts enable row level security;
alter table public.plan_events enable row level security;
alter table plans.deleted enable row level security;
alter table plans.guest_days enable row level security;
create policy plans_read_by_members on public.plans
for select to authenticated using (workspace_id in (select queue.my_workspaces()));
create policy plan_stages_read_by_members on public.plan_stages
for select to authenticated using (workspace_id in (select queue.my_workspaces()));
create policy plan_artifacts_read_by_members on public.plan_artifacts
for select to authenticated using (workspace_id in (select queue.my_workspaces()));
create policy plan_events_read_by_members on public.plan_events
for select to authenticated using (
  workspace_id in (select queue.my_workspaces()) and exists (select from public.plans as p where p.id = plan_id));

revoke all on public.plans, public.plan_stages, public.plan_artifacts, public.plan_events
  from public, anon, authenticated, service_role;
grant select on public.plans, public.plan_stages, public.plan_artifacts, public.plan_events
  to authenticated, service_role;

revoke execute on all functions in schema plans from public, anon, authenticated, service_role;
revoke execute on function public.plan_start, public.plan_read, public.plan_list, public.plan_files,
  public.plan_events_after, public.plan_cancel, public.plan_delete, public.plan_restart, public.plan_fork,
  public.plan_load, public.plan_report, public.plan_set_guest_workspace
  from public, anon, authenticated, service_role;
grant execute on function plans.start, plans.show, plans.list, plans.file, plans.events_after, plans.cancel,
  plans.remove, plans.restart, plans.fork
  to anon, authenticated, service_role;
grant execute on function public.plan_start, public.plan_read, public.plan_list, public.plan_files,
  public.plan_events_after, public.plan_cancel, public.plan_delete, public.plan_restart, public.plan_fork
  to anon, authenticated, service_role;
grant execute on function public.plan_load, public.plan_report to job_worker, service_role;
grant execute on function public.plan_set_guest_workspace to service_role;
