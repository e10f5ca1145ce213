-- Plans keeps prompts, what each stage of their planning found, the files made of it, and every event in order.
-- Delete this app's migrations and its folder, and the platform does not notice.

-- 1. Tables ------------------------------------------------------------------------------------

create schema if not exists plans;
comment on schema plans is 'The plans app''s own helpers. Not exposed.';
revoke all on schema plans from public;

create function plans.key_scope(p_session_id text) returns text
language sql immutable
set search_path = ''
as $$ select case when p_session_id like 'guest\_%' then p_session_id else '' end $$;
comment on function plans.key_scope is 'Within what an idempotency key counts: a guest''s session, or for members, whose plans have sessions of their own, the workspace.';

create table public.plans (
  id uuid primary key,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  session_id text not null,
  prompt text not null,
  speed_vs_detail text not null,
  ask_seconds integer not null default 0,
  status text not null default 'pending',
  stage text,
  percentage numeric(5, 2) not null default 0,
  error jsonb,
  job_id uuid,
  run integer not null default 1,
  forked_from uuid,
  forked_at_stage text,
  based_on timestamptz not null,
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
  constraint plans_ask_a_bounded_time check (ask_seconds between 0 and 604800),
  constraint plans_end_whole check ((status in ('completed', 'failed', 'cancelled')) = (finished_at is not null))
);
comment on table public.plans is 'A prompt to be planned, how far that is, and the job that does it. Results are in plan_stages.';
comment on column public.plans.id is 'The plan. A guest''s plan has 122 random bits, since its id gives access to it.';
comment on column public.plans.workspace_id is 'The workspace that owns it; guests'' plans belong to the workspace of the setting plan_guest_workspace.';
comment on column public.plans.session_id is 'Its Realtime topic is session:<this>: plan:<id>, or the guest session of the guest who started it.';
comment on column public.plans.prompt is 'What is to be planned, as its author wrote it; 1 to 8000 characters.';
comment on column public.plans.speed_vs_detail is 'fast_but_skip_details, balanced_speed_and_detail or all_details_but_slow: which stages there are.';
comment on column public.plans.ask_seconds is 'How long each question before the first stage waits for an answer; 0: nothing is asked.';
comment on column public.plans.status is 'pending, running, completed, failed or cancelled.';
comment on column public.plans.stage is 'The stage that started last; null before the first.';
comment on column public.plans.percentage is 'Finished stages of all, 0 to 100.';
comment on column public.plans.error is 'Why it failed, {code, stage, reason}; null unless failed.';
comment on column public.plans.job_id is 'The job of the present run.';
comment on column public.plans.run is 'Number of the run, from 1; each restart adds one.';
comment on column public.plans.forked_from is 'The plan whose finished stages it began with; null when it began with none.';
comment on column public.plans.forked_at_stage is 'The first stage that was run again; null when forked_from is.';
comment on column public.plans.based_on is 'The instant its dates count from: its creation, and for a fork that of the first plan.';
comment on column public.plans.report_mark is 'Mark of the worker''s last report, so that a repeated one is stored once; null before the first.';
comment on column public.plans.idempotency_key is 'The key it was created with; null when none was given.';
comment on column public.plans.created_by is 'Who created it; null for guests and the service.';
comment on column public.plans.created_at is 'When it was created, UTC.';
comment on column public.plans.started_at is 'When its first stage of the present run started, UTC; null before.';
comment on column public.plans.finished_at is 'When it ended, UTC; null while it has not.';
create index plans_newest on public.plans (workspace_id, created_at desc, id desc);
create index plans_by_session on public.plans (session_id, created_at desc, id desc);
create index plans_by_job on public.plans (job_id);
-- guests share a workspace: a key of theirs counts within their session
create unique index plans_one_per_key on public.plans (workspace_id, plans.key_scope(session_id), idempotency_key);

create table public.plan_stages (
  plan_id uuid not null references public.plans (id) on delete cascade,
  name text not null,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  position integer not null,
  run integer not null,
  status text not null,
  attempts integer not null default 1,
  result jsonb,
  files jsonb not null default '[]',
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
  constraint plan_stages_are_bounded check (
    octet_length(result::text) <= 1000000 and octet_length(files::text) <= 10000 and char_length(reason) <= 2000)
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
comment on column public.plan_stages.files is 'The files that are made of its result whenever they are read: [{name, media_type, bytes}].';
comment on column public.plan_stages.code is 'Why it failed, as a stable word; null unless failed.';
comment on column public.plan_stages.reason is 'Why it failed, as a sentence; null unless failed.';
comment on column public.plan_stages.model is 'The language model that wrote its text; null when the text is a template''s.';
comment on column public.plan_stages.started_at is 'When it started last, UTC.';
comment on column public.plan_stages.ended_at is 'When it ended, UTC; null while it runs.';
create index plan_stages_by_workspace on public.plan_stages (workspace_id);

select queue.make_stream('plan', 'public.plans');
alter table public.plan_events add constraint plan_events_type_is_known check (
  type in ('plan_created', 'plan_question', 'stage_started', 'stage_progress', 'log', 'stage_completed',
    'stage_failed', 'artifact_ready', 'plan_completed', 'plan_failed', 'plan_cancelled', 'plan_deleted'));

insert into queue.settings (name, value) values
  ('plan_guest_workspace', 'null'), -- owns guests' plans; one without members is made for the first guest when null
  ('plan_guest_plans_per_minute', '60'), -- of all guests together, an address has its share of it
  ('plan_guest_plans_per_day', '10000'),
  ('plan_guest_seconds', '604800'); -- how long a guest's plans can be reached: 7 days

-- 2. Who reaches a plan ------------------------------------------------------------------------

create function plans.plan_or_refuse(p_plan_id uuid) returns public.plans
language plpgsql stable
set search_path = ''
as $$
declare
  v_plan public.plans;
begin
  select * into v_plan from public.plans where id = p_plan_id;
  if not found or queue.may_see(v_plan.workspace_id, v_plan.session_id) is not true then
    perform queue.refuse(404, 'plan_not_found', 'Plan not found', p_plan_id::text);
  end if;
  return v_plan;
end;
$$;
comment on function plans.plan_or_refuse is 'The plan, if the caller may see it; the same 404 for one that is missing, deleted or another''s, or whose guest session has ended.';

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
    perform queue.refuse(404, 'plan_not_found', 'Plan not found', p_plan_id::text);
  end if;
  return v_plan;
end;
$$;
comment on function plans.lock_or_refuse is 'The same as plans.plan_or_refuse, with the plan and its job locked; 404 for the second of two deletions.';

create function plans.read(p_plan_id uuid, p_results boolean default false) returns jsonb
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
        - '{plan_id,workspace_id,files}'::text[] order by s.position), '[]')
      from public.plan_stages as s where s.plan_id = p_plan_id),
    'artifacts', (
      select coalesce(jsonb_agg(f || jsonb_build_object('stage', s.name, 'created_at', s.ended_at)
        order by f ->> 'name'), '[]')
      from public.plan_stages as s cross join jsonb_array_elements(s.files) as f where s.plan_id = p_plan_id));
end;
$$;
comment on function plans.read is 'A plan with its stages, their results if asked for, and its files; for members, and for all who know the id of a guest''s plan.';

create function plans.list(
  p_workspace_id uuid, p_session_id text default null, p_after uuid default null, p_limit numeric default 50
) returns jsonb
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
    v_workspaces := array(select queue.workspace_or_refuse(null) where exists (select queue.my_workspaces()));
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
      limit least(200, greatest(1, coalesce(queue.whole(p_limit, 'p_limit'), 50)))) as p));
end;
$$;
comment on function plans.list is 'Plans of a workspace, by default the caller''s only one, or of a guest session, newest first, after p_after: {plans: […]}.';

-- 3. What callers do ---------------------------------------------------------------------------

create function plans.enter_guest(p_session_id text) returns queue.guest_sessions
language plpgsql
set search_path = ''
as $$
declare
  v_guest_session queue.guest_sessions;
begin
  perform queue.check_guest('plan_guest_plans');
  if p_session_id is not null then
    return queue.guest_session_or_refuse(p_session_id);
  end if;
  insert into queue.guest_sessions (session_id, workspace_id, expires_at)
  values ('guest_' || encode(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'hex'),
    queue.guest_workspace('plan_guest_workspace', 'Guests'' plans'),
    queue.clock() + make_interval(secs => (queue.setting('plan_guest_seconds') #>> '{}')::double precision))
  returning * into v_guest_session;
  return v_guest_session;
end;
$$;
comment on function plans.enter_guest is 'The guest session a guest plans in: the one named, or a new one; within what guests may create, counted when the plan is enqueued.';

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

create function plans.same_or_refuse(p_workspace_id uuid, p_scope text, p_plan jsonb, p_key text) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_plan public.plans;
begin
  select * into v_plan from public.plans
  where workspace_id = p_workspace_id and plans.key_scope(session_id) = p_scope and idempotency_key = p_key;
  if not found then
    return null;
  elsif v_plan.prompt <> p_plan ->> 'prompt' or v_plan.speed_vs_detail <> p_plan ->> 'speed_vs_detail' then
    perform queue.refuse(409, 'idempotency_conflict', 'this key created a plan of another prompt', 'idempotency_key');
  end if;
  return jsonb_build_object('plan_id', v_plan.id, 'job_id', v_plan.job_id, 'session_id', v_plan.session_id,
    'status', v_plan.status, 'created_at', v_plan.created_at, 'wake', false);
end;
$$;
comment on function plans.same_or_refuse is 'The plan that was created with a key in a guest''s session, or by a member; 409 when it has another prompt, null when there is none.';

create function plans.start(
  p_workspace_id uuid, p_plan jsonb, p_session_id text default null, p_idempotency_key text default null
) returns jsonb
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
  v_done jsonb;
  -- a guest without a session has nothing that a key could count within
  v_key text := case when not v_is_guest or p_session_id is not null then p_idempotency_key end;
begin
  if jsonb_typeof(p_plan -> 'prompt') is distinct from 'string' or p_plan ->> 'prompt' !~ '\S'
    or char_length(p_plan ->> 'prompt') > 8000 then
    perform queue.refuse(422, 'validation_failed', 'prompt must be a text of 1 to 8000 characters', 'prompt');
  elsif coalesce(p_plan ->> 'speed_vs_detail', '')
    not in ('fast_but_skip_details', 'balanced_speed_and_detail', 'all_details_but_slow') then
    perform queue.refuse(422, 'validation_failed', 'speed_vs_detail must be one of fast_but_skip_details, '
      'balanced_speed_and_detail, all_details_but_slow', 'speed_vs_detail');
  elsif p_plan ? 'ask_seconds' and not coalesce(case when jsonb_typeof(p_plan -> 'ask_seconds') = 'number'
      then queue.whole_in(p_plan, 'ask_seconds') between 0 and 604800 end, false) then
    perform queue.refuse(422, 'validation_failed', 'ask_seconds must be a whole number from 0 to 604800',
      'ask_seconds');
  elsif char_length(p_idempotency_key) not between 1 and 255 then
    perform queue.refuse(400, 'invalid_argument', 'idempotency_key must have 1 to 255 characters', 'idempotency_key');
  end if;
  if v_is_guest then
    if p_session_id is null and queue.setting('allow_anonymous') is distinct from 'true' then
      perform queue.refuse(401, 'unauthorized', 'sign in: plans without an account are off');
    end if;
    v_workspace := case when p_session_id is null then queue.guest_workspace('plan_guest_workspace', 'Guests'' plans')
      else (queue.guest_session_or_refuse(p_session_id)).workspace_id end;
  else
    v_workspace := queue.workspace_or_refuse(p_workspace_id);
  end if;
  if v_key is not null then
    -- one after the other: the second of two creations by one key finds the first
    perform pg_advisory_xact_lock(hashtextextended('plans:' || v_workspace || v_key, 0));
    v_found := plans.same_or_refuse(v_workspace, coalesce(p_session_id, ''), p_plan, v_key);
    if v_found is not null then
      return v_found;
    end if;
  end if;
  if v_is_guest then
    v_guest_session := plans.enter_guest(p_session_id);
    v_session := v_guest_session.session_id;
    v_workspace := v_guest_session.workspace_id;
  else
    v_session := 'plan:' || v_id;
  end if;
  insert into public.plans (id, workspace_id, session_id, prompt, speed_vs_detail, based_on, idempotency_key,
    created_by, ask_seconds)
  values (v_id, v_workspace, v_session, p_plan ->> 'prompt', p_plan ->> 'speed_vs_detail', queue.clock(), v_key,
    -- a question is answered by its job, which guests do not reach
    auth.uid(), case when v_is_guest then 0 else coalesce(queue.whole_in(p_plan, 'ask_seconds'), 0) end);
  perform queue.append_entity_events('plan', v_id, jsonb_build_array(jsonb_build_object('type', 'plan_created',
    'data', jsonb_build_object('status', 'pending', 'speed_vs_detail', p_plan -> 'speed_vs_detail'))));
  v_done := plans.enqueue(v_id);
  perform queue.admit_guest('plan_guest_plans'); -- last: others wait for the count
  return v_done;
end;
$$;
comment on function plans.start is E'Create a plan of {prompt, speed_vs_detail, ask_seconds?}: {plan_id, job_id, session_id, status, created_at, wake}.\n\nFor members, in the workspace named or their only one; for guests where allow_anonymous is on, in the guest session named or a new one. The same idempotency key returns the same plan, with another prompt it is a conflict; a guest''s counts within the session named, and not without one.';

create function plans.end_plan(p_plan_id uuid, p_status text, p_error jsonb, p_data jsonb) returns void
language plpgsql
set search_path = ''
as $$
begin
  update public.plans set status = p_status, error = p_error, finished_at = queue.clock(),
    percentage = case when p_status = 'completed' then 100 else percentage end
  where id = p_plan_id;
  perform queue.append_entity_events('plan', p_plan_id, jsonb_build_array(jsonb_build_object(
    'type', 'plan_' || p_status, 'data', jsonb_build_object('status', p_status) || coalesce(p_data, '{}')
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
comment on function plans.cancel is 'Stop a plan: {plan_id, status}. Finished stages are kept and are its report. 409 when it has ended otherwise.';

create function plans.delete(p_plan_id uuid) returns jsonb
language plpgsql
security definer -- guests hold no rights on any table
set search_path = ''
as $$
declare
  v_plan public.plans := plans.lock_or_refuse(p_plan_id);
begin
  delete from public.plans where id = p_plan_id;
  -- log lines are deleted now; the events are kept for open streams
  update public.plan_events set data = data - 'message' where plan_id = p_plan_id and type = 'log';
  perform queue.cancel(array[v_plan.job_id], queue.clock());
  return jsonb_build_object('plan_id', p_plan_id, 'deleted', true);
end;
$$;
comment on function plans.delete is 'Delete a plan with its stages and files, and cancel its job: {plan_id, deleted}. Its last event is plan_deleted; the second deletion is a 404.';

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
  perform queue.append_entity_events('plan', p_plan_id, jsonb_build_array(jsonb_build_object('type', 'log',
    'data', jsonb_build_object('level', 'info', 'message', format('Restarted. Finished stages are kept: %s.', v_kept),
    'kept', v_kept))));
  return plans.enqueue(p_plan_id);
end;
$$;
comment on function plans.restart is 'Run a failed or cancelled plan again; finished stages are kept. Returns what plan_start returned; 409 in other states.';

create function plans.fork(p_plan_id uuid, p_stage text, p_keep text[], p_corrections jsonb default '[]') returns jsonb
language plpgsql
security definer -- guests hold no rights on any table
set search_path = ''
as $$
declare
  v_plan public.plans := plans.plan_or_refuse(p_plan_id);
  v_is_guest boolean := v_plan.session_id like 'guest\_%';
  v_id uuid := case when v_is_guest then gen_random_uuid() else queue.new_id() end;
  v_session text := case when v_is_guest then v_plan.session_id else 'plan:' || v_id end;
  v_each jsonb;
  v_words text;
  v_whole text;
  v_done jsonb;
begin
  for v_each in select value from jsonb_array_elements(p_corrections) loop
    -- 5 EUR is not the end of 15 EUR, and a line may break between the words
    v_words := regexp_replace(v_each ->> 'text', '([^[:alnum:][:space:]])', '\\\1', 'g');
    v_words := regexp_replace(v_words, '\s+', '\\s+', 'g');
    v_whole := '(?<!\w|\d[.,])' || v_words || '(?!\w|[.,]\d)';
    v_words := case when v_plan.prompt ~ v_whole then v_whole else v_words end;
    if coalesce(v_each ->> 'text', '') = '' or v_plan.prompt !~ v_words or v_each ->> 'means' is null then
      perform queue.refuse(422, 'validation_failed', 'corrections must be {text, means}, the text from the prompt',
        'corrections');
    end if;
    v_plan.prompt := regexp_replace(v_plan.prompt, v_words, replace(v_each ->> 'means', '\', '\\'), 1, 1);
  end loop;
  if v_plan.prompt !~ '\S' or char_length(v_plan.prompt) > 8000 then
    perform queue.refuse(422, 'validation_failed', 'the corrected prompt must have 1 to 8000 characters',
      'corrections');
  elsif p_stage !~ '^[a-z][a-z_]{1,59}$' then
    perform queue.refuse(422, 'validation_failed', 'stage must be the name of a stage', 'stage');
  elsif v_is_guest then
    perform plans.enter_guest(v_session);
  end if;
  insert into public.plans (id, workspace_id, session_id, prompt, speed_vs_detail, based_on, created_by, forked_from,
    forked_at_stage)
  values (v_id, v_plan.workspace_id, v_session, v_plan.prompt, v_plan.speed_vs_detail, v_plan.based_on, auth.uid(),
    p_plan_id, p_stage);
  insert into public.plan_stages (plan_id, name, workspace_id, position, run, status, attempts, result, files,
    model, started_at, ended_at)
  select v_id, name, workspace_id, position, 1, status, attempts, result, files, model, started_at, ended_at
  from public.plan_stages
  where plan_id = p_plan_id and status = 'completed' and name = any (p_keep) and name <> p_stage;
  perform queue.append_entity_events('plan', v_id, jsonb_build_array(jsonb_build_object('type', 'plan_created',
    'data', jsonb_build_object('status', 'pending', 'speed_vs_detail', v_plan.speed_vs_detail,
    'forked_from', p_plan_id, 'from_stage', p_stage, 'corrections', p_corrections,
    'kept', (select coalesce(jsonb_agg(name order by position), '[]') from public.plan_stages where plan_id = v_id)))));
  v_done := plans.enqueue(v_id);
  perform queue.admit_guest('plan_guest_plans'); -- last: others wait for the count
  return v_done;
end;
$$;
comment on function plans.fork is 'Create a plan of the same prompt that begins with the finished stages p_keep of another and runs p_stage again; p_corrections [{text, means}] replace words of the prompt. Returns what plan_start returns.';

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

-- 4. What the worker does ----------------------------------------------------------------------

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
  return jsonb_build_object('plan', to_jsonb(v_plan) || jsonb_build_object('stages', (
    select coalesce(jsonb_agg(to_jsonb(s) order by s.position), '[]')
    from public.plan_stages as s where s.plan_id = v_plan.id)));
end;
$$;
comment on function public.plan_load is 'Begin the plan of a leased job {job_id, fence}: {plan}, with its stages; plan is null when it is gone. The plan is running from then on.';

create function plans.store_stages(p_plan public.plans, p_stages jsonb) returns void
language sql
set search_path = ''
as $$
  insert into public.plan_stages as s (plan_id, name, workspace_id, position, run, status, attempts, result, files,
    code, reason, model, started_at, ended_at)
  select p_plan.id, i.name, p_plan.workspace_id, queue.whole(i.position, 'position'), p_plan.run, i.status,
    coalesce(queue.whole(i.attempts, 'attempts'), 0),
    nullif(i.result, 'null'), coalesce(i.files, '[]'), i.code, left(i.reason, 2000), i.model,
    coalesce(i.started_at, queue.clock()), case when i.status <> 'running' then queue.clock() end
  from jsonb_to_recordset(p_stages) as i (name text, position numeric, status text, attempts numeric, result jsonb,
    files jsonb, code text, reason text, model text, started_at timestamptz)
  order by i.position
  on conflict (plan_id, name) do update set run = excluded.run, status = excluded.status, result = excluded.result,
    files = excluded.files, code = excluded.code, reason = excluded.reason, model = excluded.model,
    started_at = excluded.started_at, ended_at = excluded.ended_at, attempts = s.attempts + excluded.attempts
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
  update public.plans set report_mark = p_request ->> 'mark', stage = coalesce(p_request ->> 'stage', stage),
    percentage = greatest(percentage, least(100, coalesce((p_request ->> 'percentage')::numeric, 0)))
  where id = v_plan.id;
  perform queue.append_entity_events('plan', v_plan.id, coalesce(p_request -> 'events', '[]'));
  if jsonb_typeof(v_end) = 'object' then
    perform plans.end_plan(v_plan.id, v_end ->> 'status', nullif(v_end -> 'error', 'null'), v_end -> 'data');
  end if;
  return '{"outcome": "stored"}';
exception
  when check_violation or not_null_violation or invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse(422, 'stage_invalid', 'a stage cannot be stored: ' || sqlerrm, v_plan.id::text);
end;
$$;
comment on function public.plan_report is E'Store a worker''s results and their events in one transaction: {outcome: stored|gone}.\n\nTakes {job_id, fence, mark, events, stages, stage, percentage, end}. A repeated mark stores nothing; gone means that the plan ended, was deleted or has another job.';

create function plans.job_ended() returns trigger
language plpgsql
security definer -- callers who end a job hold no rights on the app's tables
set search_path = ''
as $$
declare
  v_plan public.plans;
begin
  if new.status not in ('failed', 'cancelled') or new.status = old.status then
    return null;
  end if;
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
  for each row when (new.job_type = 'plan') -- and no more: every update of a job reads it from the catalogue
  execute function plans.job_ended();

-- Row level security and grants ----------------------------------------------------------------

select queue.show_to_members('public.plans', 'public.plan_stages');

revoke execute on all functions in schema plans from public, anon, authenticated, service_role;
select queue.expose('plans', 'public.plan_', 'anon, authenticated, service_role',
  'start', 'read', 'list', 'cancel', 'delete', 'restart', 'fork');
select queue.allow('job_worker, service_role', 'public.plan_load', 'public.plan_report');
select queue.allow('service_role', 'public.plan_set_guest_workspace');
