-- Plans keeps goals, and of each what its planning pipeline has finished, stage by stage.
-- Delete this app's migrations and shared/minutehand/apps/plans, and the platform does not notice.

-- 1. Tables ------------------------------------------------------------------------------------

create schema if not exists plans;
comment on schema plans is 'The plans app''s own helpers. Not exposed.';
revoke all on schema plans from public;

create table public.plans (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  session_id text,
  request jsonb not null,
  goal text not null generated always as (request ->> 'goal') stored,
  job_id uuid,
  run integer not null default 1,
  outcome text,
  missing jsonb not null default '[]',
  idempotency_key text,
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  finished_at timestamptz,
  constraint plans_goal_is_bounded check (char_length(goal) between 1 and 4000),
  constraint plans_run_counts_from_one check (run >= 1),
  constraint plans_outcome_is_known check (outcome in ('completed', 'partial')),
  constraint plans_end_whole check ((outcome is null) = (finished_at is null))
);
comment on table public.plans is 'A goal to be planned, and the job that plans it. What was found out is in plan_stages.';
comment on column public.plans.id is 'The plan, orders by time.';
comment on column public.plans.workspace_id is 'The workspace that owns it.';
comment on column public.plans.session_id is 'The visit it was started in, which is its key; null for a member''s plan.';
comment on column public.plans.request is 'What was asked: {goal, constraints, deadline, documents, ask, ask_seconds, max_phases, seed, budget {seconds, tokens, usd}}.';
comment on column public.plans.goal is 'The goal, taken from request.';
comment on column public.plans.job_id is 'The plan job of the present run; its children write a phase each.';
comment on column public.plans.run is '1, and one more each time the missing parts were asked for again.';
comment on column public.plans.outcome is 'completed or partial, as the worker ended it; null before, and for good when the job was cancelled or its workers kept dying.';
comment on column public.plans.missing is 'What a partial plan lacks, and why: [{stage, code, reason}].';
comment on column public.plans.idempotency_key is 'The key it was started with; the same key finds the same plan. Null when none was given.';
comment on column public.plans.created_by is 'Who started it; null for a visitor who is nobody, and the service.';
comment on column public.plans.created_at is 'When it was started, UTC.';
comment on column public.plans.finished_at is 'When the worker ended it, UTC; null with outcome.';

create index plans_newest on public.plans (workspace_id, id desc);
create index plans_by_visit on public.plans (session_id, id desc) where session_id is not null;
create unique index plans_one_per_key on public.plans (workspace_id, coalesce(session_id, ''), idempotency_key);

create table public.plan_stages (
  plan_id uuid not null references public.plans (id) on delete cascade,
  name text not null,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  position integer not null,
  run integer not null,
  status text not null,
  result jsonb,
  draft text,
  code text,
  reason text,
  model text,
  offline boolean not null default false,
  input_tokens integer not null default 0,
  output_tokens integer not null default 0,
  cost_usd numeric(12, 6) not null default 0,
  seconds numeric(12, 3) not null default 0,
  finished_at timestamptz not null default queue.clock(),
  primary key (plan_id, name),
  constraint plan_stages_name_is_known check (name ~ '^(understand|answers|outline|phase:([1-9]|1[0-2])|risks|review)$'),
  constraint plan_stages_status_is_known check (status in ('completed', 'failed', 'interrupted')),
  constraint plan_stages_have_a_result_or_a_reason check ((status = 'completed') = (result is not null) and (status = 'completed') = (code is null)),
  constraint plan_stages_are_bounded check (octet_length(result::text) <= 200000 and octet_length(draft) <= 100000 and char_length(reason) <= 2000),
  constraint plan_stages_cost_is_no_gift check (input_tokens >= 0 and output_tokens >= 0 and cost_usd >= 0 and seconds >= 0)
);
comment on table public.plan_stages is E'What each stage of a plan came to. A completed one is never written again: it is what a crash and a second run go on from.';
comment on column public.plan_stages.plan_id is 'The plan.';
comment on column public.plan_stages.name is 'understand, answers, outline, phase:1 to phase:12, risks or review.';
comment on column public.plan_stages.workspace_id is 'The plan''s workspace.';
comment on column public.plan_stages.position is 'Its place in the report.';
comment on column public.plan_stages.run is 'The run that wrote it, as plans.run.';
comment on column public.plan_stages.status is 'completed; failed: given up in this run; interrupted: stopped in the middle, is written again.';
comment on column public.plan_stages.result is 'What it found, by the stage''s own shape; null unless completed.';
comment on column public.plan_stages.draft is 'Text of the model that never became a result; null when there was none.';
comment on column public.plan_stages.code is 'Why not, as a stable word; null when completed.';
comment on column public.plan_stages.reason is 'Why not, as a sentence; null when completed.';
comment on column public.plan_stages.model is 'The model that wrote it; null when none was asked.';
comment on column public.plan_stages.offline is 'Whether that was the offline one: extractive and template methods.';
comment on column public.plan_stages.input_tokens is 'Tokens read by the model.';
comment on column public.plan_stages.output_tokens is 'Tokens written by the model.';
comment on column public.plan_stages.cost_usd is 'What that cost by the configured prices, in US dollars; 0 without prices.';
comment on column public.plan_stages.seconds is 'How long the model was at work.';
comment on column public.plan_stages.finished_at is 'When it was stored, UTC.';
create index plan_stages_by_workspace on public.plan_stages (workspace_id);

insert into queue.settings (name, value) values
  ('plan_visit_tokens_per_day', '1000000'), -- a visit's runs together, from midnight to midnight, UTC
  ('plan_visit_usd_per_day', '10'); -- the same in US dollars; counts where prices are configured

-- 2. What a request may say ------------------------------------------------------------------------

create function plans.is_text(p_value jsonb, p_most integer) returns boolean
language sql immutable
set search_path = ''
as $$ select case when jsonb_typeof(p_value) = 'string' then char_length(p_value #>> '{}') between 1 and p_most else false end $$;
comment on function plans.is_text is 'Whether a value is a text of 1 to p_most characters.';

create function plans.is_within(p_value jsonb, p_least numeric, p_most numeric, p_whole boolean) returns boolean
language sql immutable
set search_path = ''
as $$
  select case when jsonb_typeof(p_value) = 'number'
    then (p_value #>> '{}')::numeric between p_least and p_most and (not p_whole or (p_value #>> '{}')::numeric % 1 = 0) else false end
$$;
comment on function plans.is_within is 'Whether a value is a number within bounds, the bounds included.';

create function plans.request_problem(p_request jsonb) returns text[]
language plpgsql stable
set search_path = ''
as $$
declare
  v_names text[] := array['goal', 'constraints', 'deadline', 'documents', 'ask', 'ask_seconds', 'max_phases', 'seed', 'budget'];
begin
  if jsonb_typeof(p_request) is distinct from 'object' then
    return array['plan', 'must be an object'];
  elsif not p_request ?& v_names or p_request - v_names <> '{}' then
    return array['plan', 'must have ' || array_to_string(v_names, ', ') || ', and nothing else'];
  elsif octet_length(p_request::text) > 400000 then
    return array['documents', 'are too long: a plan''s request has at most 400000 bytes'];
  elsif not plans.is_text(p_request -> 'goal', 4000) or p_request ->> 'goal' !~ '\S' then
    return array['goal', 'must be a text of 1 to 4000 characters'];
  elsif jsonb_typeof(p_request -> 'constraints') <> 'array' or jsonb_array_length(p_request -> 'constraints') > 20
    or exists (select 1 from jsonb_array_elements(p_request -> 'constraints') as c where not plans.is_text(c.value, 500)) then
    return array['constraints', 'must be at most 20 texts of 1 to 500 characters'];
  elsif jsonb_typeof(p_request -> 'deadline') <> 'null' and not plans.is_text(p_request -> 'deadline', 10)
    or p_request ->> 'deadline' !~ '^(?!0000)\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$' then
    return array['deadline', 'must be a date as 2027-01-31, or null'];
  elsif to_char((left(p_request ->> 'deadline', 7) || '-01')::date + right(p_request ->> 'deadline', 2)::integer - 1, 'YYYY-MM-DD')
    <> p_request ->> 'deadline' then
    return array['deadline', 'must be a day that there is'];
  elsif jsonb_typeof(p_request -> 'documents') <> 'array' or jsonb_array_length(p_request -> 'documents') > 10
    or exists (select 1 from jsonb_array_elements(p_request -> 'documents') as d
      where jsonb_typeof(d.value) <> 'object' or d.value - '{title,text}'::text[] <> '{}'
        or not plans.is_text(d.value -> 'title', 200) or not plans.is_text(d.value -> 'text', 20000)) then
    return array['documents', 'must be at most 10 of {title, text}, of at most 200 and 20000 characters'];
  elsif jsonb_typeof(p_request -> 'ask') <> 'boolean' then
    return array['ask', 'must be true or false'];
  elsif not plans.is_within(p_request -> 'ask_seconds', 1, 604800, true) then
    return array['ask_seconds', 'must be a whole number from 1 to 604800'];
  elsif not plans.is_within(p_request -> 'max_phases', 1, 12, true) then
    return array['max_phases', 'must be a whole number from 1 to 12'];
  elsif not plans.is_within(p_request -> 'seed', 0, 2147483647, true) then
    return array['seed', 'must be a whole number from 0 to 2147483647'];
  elsif jsonb_typeof(p_request -> 'budget') <> 'object' or not p_request -> 'budget' ?& array['seconds', 'tokens', 'usd']
    or (p_request -> 'budget') - '{seconds,tokens,usd}'::text[] <> '{}' then
    return array['budget', 'must have seconds, tokens and usd, and nothing else'];
  elsif not plans.is_within(p_request #> '{budget,seconds}', 1, 3600, true) then
    return array['budget.seconds', 'must be a whole number from 1 to 3600'];
  elsif not plans.is_within(p_request #> '{budget,tokens}', 1, 1000000, true) then
    return array['budget.tokens', 'must be a whole number from 1 to 1000000'];
  elsif jsonb_typeof(p_request #> '{budget,usd}') <> 'null' and not plans.is_within(p_request #> '{budget,usd}', 0.000001, 1000, false) then
    return array['budget.usd', 'must be a number above 0, at most 1000, or null'];
  end if;
  return null;
end;
$$;
comment on function plans.request_problem is 'What is wrong with a request, as {field, problem}; null when nothing is.';

-- 3. Who may see a plan, and what they see -----------------------------------------------------------

create function plans.is_open_to_caller(p_plan public.plans, p_session_id text) returns boolean
language sql stable
set search_path = ''
as $$
  select auth.jwt() ->> 'role' = 'service_role' -- by name: a browser's call may come without any claims
    or queue.is_member(p_plan.workspace_id)
    or p_plan.session_id = p_session_id
      and exists (select from queue.may_visit(p_session_id) as v where v.workspace_id = p_plan.workspace_id)
$$;
comment on function plans.is_open_to_caller is 'Whether the caller is a member of the plan''s workspace, or holds the visit it was started in.';

create function plans.plan_or_refuse(p_plan_id uuid, p_session_id text) returns public.plans
language plpgsql stable
set search_path = ''
as $$
declare
  v_plan public.plans;
begin
  select * into v_plan from public.plans where id = p_plan_id;
  if not found or plans.is_open_to_caller(v_plan, p_session_id) is not true then
    perform queue.refuse(404, 'plan_not_found', 'no such plan', p_plan_id::text);
  end if;
  return v_plan;
end;
$$;
comment on function plans.plan_or_refuse is 'The plan, if it is the caller''s to see; one 404 for missing, another''s, and a visit that ended.';

create function plans.status_of(p_plan public.plans, p_job public.jobs) returns text
language sql stable
set search_path = ''
as $$
  select case
    when p_plan.outcome is not null then p_plan.outcome
    when p_job.id is null or p_job.completed_at is not null then 'partial'
    when exists (select 1 from queue.waits as w where w.job_id = p_job.id and w.kind = 'ask') then 'asking'
    when p_job.status = 'pending' and p_job.attempts = 0
      and not exists (select 1 from public.plan_stages as s where s.plan_id = p_plan.id) then 'pending'
    else 'running' end
$$;
comment on function plans.status_of is E'pending, running, asking, completed or partial.\n\nA plan whose job ended without a word is partial: its report is what its stages hold.';

create function plans.show(p_plan_id uuid, p_session_id text) returns jsonb
language plpgsql stable
security definer -- visitors hold no rights on any table: this is their door
set search_path = ''
as $$
declare
  v_plan public.plans := plans.plan_or_refuse(p_plan_id, p_session_id);
  v_job public.jobs;
begin
  select * into v_job from public.jobs where id = v_plan.job_id;
  return jsonb_build_object('id', v_plan.id, 'goal', v_plan.goal, 'request', v_plan.request, 'run', v_plan.run,
    'status', plans.status_of(v_plan, v_job), 'missing', v_plan.missing, 'job_id', v_plan.job_id,
    'session_id', coalesce(v_plan.session_id, 'plan:' || v_plan.id), 'created_at', v_plan.created_at,
    'finished_at', coalesce(v_plan.finished_at, v_job.completed_at),
    'workspace_id', case when p_session_id is null then v_plan.workspace_id end,
    'job', case when v_job.id is not null then jsonb_build_object('status', v_job.status, 'progress', v_job.progress,
      'error', v_job.error_message, 'cancel_requested_at', v_job.cancel_requested_at, 'next_retry_at', v_job.next_retry_at, 'last_seq', v_job.last_seq) end,
    'question', (
      select jsonb_build_object('name', w.name, 'question', w.data -> 'question', 'options', w.data -> 'options',
        'timeout_at', w.timeout_at, 'default', w.default_value -> 'answer')
      from queue.waits as w where w.job_id = v_job.id and w.kind = 'ask'),
    'phases', (
      select coalesce(jsonb_agg(jsonb_build_object('job_id', c.id, 'number', c.payload -> 'number', 'status', c.status,
        'progress', c.progress, 'error', c.error_message) order by c.id), '[]')
      from public.jobs as c where c.parent_id = v_job.id and c.job_type = 'plan_phase'),
    'stages', (
      select coalesce(jsonb_agg(to_jsonb(s) - '{plan_id,workspace_id}'::text[] order by s.position), '[]')
      from public.plan_stages as s where s.plan_id = v_plan.id));
end;
$$;
comment on function plans.show is 'Behind public.plan_read, which browsers'' roles call as themselves.';

create function plans.list(p_workspace_id uuid, p_session_id text, p_after uuid, p_limit integer) returns jsonb
language plpgsql stable
security definer -- visitors hold no rights on any table: this is their door
set search_path = ''
as $$
declare
  v_workspace uuid := p_workspace_id;
begin
  if p_session_id is not null then
    v_workspace := (queue.visit_or_refuse(p_session_id)).workspace_id;
  elsif v_workspace is null or not (queue.is_member(v_workspace) or coalesce(auth.jwt() ->> 'role', '') = 'service_role') then
    perform queue.refuse(404, 'workspace_not_found', 'no such workspace', v_workspace::text);
  end if;
  return jsonb_build_object('plans', (
    select coalesce(jsonb_agg(p.line order by p.id desc), '[]')
    from (
      select x.id, jsonb_build_object('id', x.id, 'goal', left(x.goal, 300), 'run', x.run, 'status', plans.status_of(x, j),
        'job_id', x.job_id, 'progress', j.progress, 'created_at', x.created_at, 'finished_at', coalesce(x.finished_at, j.completed_at)) as line
      from public.plans as x
      left join public.jobs as j on j.id = x.job_id
      where x.workspace_id = v_workspace and (p_session_id is null or x.session_id = p_session_id)
        and (p_after is null or x.id < p_after)
      order by x.id desc
      limit least(200, greatest(1, coalesce(p_limit, 50)))) as p));
end;
$$;
comment on function plans.list is 'Behind public.plan_list, which browsers'' roles call as themselves.';

-- 4. What they may do --------------------------------------------------------------------------------

create function plans.visit_budget(p_plan public.plans) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_tokens numeric := (queue.setting('plan_visit_tokens_per_day'))::numeric;
  v_usd numeric := (queue.setting('plan_visit_usd_per_day'))::numeric;
  v_today timestamptz := date_trunc('day', queue.clock(), 'UTC');
  v_asked jsonb := p_plan.request -> 'budget';
  v_given record;
  v_grant numeric;
begin
  -- runs of one visit are counted one after the other
  perform pg_advisory_xact_lock(hashtextextended('plans:' || p_plan.session_id, 0));
  -- by what each run was given: what it really takes is known too late
  select coalesce(sum((j.payload #>> '{budget,tokens}')::numeric), 0) as tokens, coalesce(sum((j.payload #>> '{budget,usd}')::numeric), 0) as usd
  into v_given from public.jobs as j
  where j.session_id = p_plan.session_id and j.workspace_id = p_plan.workspace_id and j.job_type = 'plan' and j.created_at >= v_today;
  v_grant := least((v_asked ->> 'tokens')::numeric, trunc(v_tokens - v_given.tokens));
  if v_grant < 1 or v_usd - v_given.usd < 0.000001 then
    perform queue.refuse(429, 'quota_exceeded', format('the budget of this visit is used up for today; it goes on at %s',
      to_char((v_today + interval '1 day') at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')), 'budget');
  end if;
  return v_asked || jsonb_build_object('tokens', v_grant, 'usd',
    -- without a bound of its own a run gets what its tokens are of the day's
    least(coalesce((v_asked ->> 'usd')::numeric, greatest(0.000001, round(v_usd * v_grant / v_tokens, 6))), v_usd - v_given.usd, 1000));
end;
$$;
comment on function plans.visit_budget is E'What the next run of a visit''s plan may take: its request''s budget, within what the settings plan_visit_tokens_per_day and plan_visit_usd_per_day leave of today (UTC).\n\nA budget without usd gets the day''s usd in proportion to its tokens. quota_exceeded when nothing is left.';

create function plans.enqueue(p_plan public.plans) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_done jsonb;
  v_payload jsonb := jsonb_build_object('plan_id', p_plan.id);
begin
  if p_plan.session_id is not null then
    v_payload := v_payload || jsonb_build_object('budget', plans.visit_budget(p_plan));
  end if;
  -- the platform's own job: no person's call makes it, but it is the person's
  v_done := queue.enqueue(p_plan.workspace_id, null, jsonb_build_array(jsonb_build_object('job_type', 'plan',
    'payload', v_payload, 'user_id', p_plan.created_by,
    'session_id', coalesce(p_plan.session_id, 'plan:' || p_plan.id))), false);
  update public.plans set job_id = (v_done #>> '{ids,0}')::uuid where id = p_plan.id;
  return jsonb_build_object('plan_id', p_plan.id, 'job_id', v_done #> '{ids,0}', 'wake', v_done -> 'wake');
end;
$$;
comment on function plans.enqueue is 'Make the job that plans; its session is the plan''s own, or the visit, whose budget it then carries.';

create function plans.start(p_workspace_id uuid, p_plan jsonb, p_session_id text, p_idempotency_key text) returns jsonb
language plpgsql
security definer -- nobody holds a right to write plans: this is the door
set search_path = ''
as $$
declare
  v_workspace uuid := p_workspace_id;
  v_problem text[];
  v_made public.plans;
begin
  if p_session_id is not null then
    v_workspace := (queue.visit_or_refuse(p_session_id)).workspace_id;
    if p_workspace_id is distinct from v_workspace and p_workspace_id is not null then
      perform queue.refuse(404, 'session_not_found', 'no such session');
    end if;
  elsif v_workspace is null or not (queue.is_member(v_workspace)
      or coalesce(auth.jwt() ->> 'role', '') = 'service_role' and exists (select 1 from public.workspaces where id = v_workspace)) then
    perform queue.refuse(404, 'workspace_not_found', 'no such workspace', v_workspace::text);
  end if;
  if p_idempotency_key is not null and char_length(p_idempotency_key) not between 1 and 255 then
    perform queue.refuse(400, 'invalid_argument', 'idempotency_key must have 1 to 255 characters', 'idempotency_key');
  end if;
  v_problem := plans.request_problem(p_plan);
  if v_problem is not null then
    perform queue.refuse(400, 'invalid_argument', v_problem[1] || ' ' || v_problem[2], v_problem[1]);
  end if;
  if p_session_id is not null then
    -- plans of one visit are counted one after the other
    perform pg_advisory_xact_lock(hashtextextended('plans:' || p_session_id, 0));
  end if;
  insert into public.plans (workspace_id, session_id, request, idempotency_key, created_by)
  values (v_workspace, p_session_id, p_plan, p_idempotency_key, auth.uid())
  on conflict (workspace_id, coalesce(session_id, ''), idempotency_key) do nothing
  returning * into v_made;
  if not found then
    select * into v_made from public.plans
    where workspace_id = v_workspace and coalesce(session_id, '') = coalesce(p_session_id, '') and idempotency_key = p_idempotency_key;
    if v_made.request <> p_plan then
      perform queue.refuse(409, 'idempotency_conflict', 'this key started another plan', v_made.id::text);
    end if;
    return jsonb_build_object('plan_id', v_made.id, 'job_id', v_made.job_id, 'created', false, 'wake', false);
  elsif p_session_id is not null and (select count(*) from public.plans where session_id = p_session_id) > 20 then
    perform queue.refuse(429, 'quota_exceeded', 'a visit has at most 20 plans', '20');
  end if;
  return plans.enqueue(v_made) || '{"created": true}';
end;
$$;
comment on function plans.start is 'Behind public.plan_start, which browsers'' roles call as themselves.';

create function plans.answer(p_plan_id uuid, p_answer jsonb, p_session_id text) returns jsonb
language plpgsql
security definer -- visitors hold no rights on any table: this is their door
set search_path = ''
as $$
declare
  v_plan public.plans := plans.plan_or_refuse(p_plan_id, p_session_id);
  v_wait queue.waits;
begin
  if jsonb_typeof(p_answer) is distinct from 'object' or not plans.is_text(p_answer -> 'answer', 2000) then
    perform queue.refuse(400, 'invalid_argument', 'answer must be a text of 1 to 2000 characters', 'answer');
  end if;
  perform 1 from public.jobs where id = v_plan.job_id for update;
  select * into v_wait from queue.waits where job_id = v_plan.job_id and kind = 'ask';
  if not found or p_answer ? 'name' and p_answer ->> 'name' <> v_wait.name then
    perform queue.refuse(409, 'invalid_state', 'the plan is not asking this', coalesce(v_wait.name,
      plans.status_of(v_plan, (select j from public.jobs as j where j.id = v_plan.job_id))));
  elsif jsonb_typeof(v_wait.data -> 'options') = 'array' and not (v_wait.data -> 'options') @> jsonb_build_array(p_answer -> 'answer') then
    perform queue.refuse(422, 'payload_invalid', 'the answer must be one of ' || (v_wait.data ->> 'options'), 'answer');
  end if;
  perform queue.resume(jsonb_build_array(jsonb_build_object('job_id', v_plan.job_id, 'name', v_wait.name,
    'value', jsonb_build_object('answer', p_answer -> 'answer', 'by', auth.uid()))), queue.clock());
  return jsonb_build_object('plan_id', v_plan.id, 'job_id', v_plan.job_id, 'wake', queue.request_wake());
end;
$$;
comment on function plans.answer is 'Behind public.plan_answer, which browsers'' roles call as themselves.';

create function plans.cancel(p_plan_id uuid, p_session_id text) returns jsonb
language plpgsql
security definer -- visitors hold no rights on any table: this is their door
set search_path = ''
as $$
declare
  v_plan public.plans := plans.plan_or_refuse(p_plan_id, p_session_id);
  v_job public.jobs;
begin
  select * into v_job from public.jobs where id = v_plan.job_id for update;
  -- under the job's lock, as the worker ends it: no cancel is promised that comes after the end
  select * into v_plan from public.plans where id = p_plan_id;
  if v_job.completed_at is not null and v_job.status <> 'cancelled' or v_job.id is null or v_plan.outcome is not null then
    perform queue.refuse(409, 'invalid_state', 'the plan has ended; its report is there', plans.status_of(v_plan, v_job));
  end if;
  perform queue.cancel(array[v_job.id], queue.clock());
  return jsonb_build_object('plan_id', v_plan.id, 'job_id', v_job.id);
end;
$$;
comment on function plans.cancel is 'Behind public.plan_cancel, which browsers'' roles call as themselves.';

create function plans.go_on(p_plan_id uuid, p_session_id text) returns jsonb
language plpgsql
security definer -- visitors hold no rights on any table: this is their door
set search_path = ''
as $$
declare
  v_plan public.plans := plans.plan_or_refuse(p_plan_id, p_session_id);
  v_job public.jobs;
begin
  select * into v_plan from public.plans where id = p_plan_id for no key update;
  select * into v_job from public.jobs where id = v_plan.job_id;
  if plans.status_of(v_plan, v_job) <> 'partial' then
    perform queue.refuse(409, 'invalid_state', 'only a partial plan has something missing', plans.status_of(v_plan, v_job));
  elsif exists (select 1 from public.jobs as c where c.parent_id = v_plan.job_id and c.completed_at is null) then
    perform queue.refuse(409, 'invalid_state', 'the plan is still stopping; ask again in a moment', 'stopping');
  elsif v_plan.run >= 20 then
    perform queue.refuse(429, 'quota_exceeded', 'a plan is run at most 20 times', '20');
  end if;
  delete from public.plan_stages where plan_id = p_plan_id and status <> 'completed';
  update public.plans set run = run + 1, outcome = null, missing = '[]', finished_at = null
  where id = p_plan_id returning * into v_plan;
  return plans.enqueue(v_plan);
end;
$$;
comment on function plans.go_on is 'Behind public.plan_resume, which browsers'' roles call as themselves.';

-- Bodies bound when they are made: the roles that call them need no right to look into plans.
create function public.plan_start(p_workspace_id uuid, p_plan jsonb, p_session_id text default null, p_idempotency_key text default null) returns jsonb
language sql
set search_path = ''
begin atomic
  select plans.start(p_workspace_id, p_plan, p_session_id, p_idempotency_key);
end;
comment on function public.plan_start is E'Plan a goal: {plan_id, job_id, created, wake}; for members of the workspace, or in a visit for who holds it.\n\nThe same idempotency key finds the same plan; with another request it is a conflict. In a visit the workspace is the visit''s, and the budget what the operator leaves it of the day; quota_exceeded when that is nothing.';

create function public.plan_read(p_plan_id uuid, p_session_id text default null) returns jsonb
language sql stable
set search_path = ''
begin atomic
  select plans.show(p_plan_id, p_session_id);
end;
comment on function public.plan_read is 'A plan with its status, its open question, its phases'' jobs and all its stages hold; for members, and who holds its visit.';

create function public.plan_list(p_workspace_id uuid, p_session_id text default null, p_after uuid default null, p_limit integer default 50) returns jsonb
language sql stable
set search_path = ''
begin atomic
  select plans.list(p_workspace_id, p_session_id, p_after, p_limit);
end;
comment on function public.plan_list is 'Plans of a workspace or a visit, newest first, before p_after: {plans: [{id, goal, run, status, job_id, progress, created_at, finished_at}]}.';

create function public.plan_answer(p_plan_id uuid, p_answer jsonb, p_session_id text default null) returns jsonb
language sql
set search_path = ''
begin atomic
  select plans.answer(p_plan_id, p_answer, p_session_id);
end;
comment on function public.plan_answer is E'Answer what a plan asks: p_answer is {"answer": …, "name"?}; returns {plan_id, job_id, wake}.\n\n409 when it asks nothing; 422 when the answer is not among the options.';

create function public.plan_cancel(p_plan_id uuid, p_session_id text default null) returns jsonb
language sql
set search_path = ''
begin atomic
  select plans.cancel(p_plan_id, p_session_id);
end;
comment on function public.plan_cancel is 'Stop planning: {plan_id, job_id}. What finished stages hold stays, and is the partial report. 409 when it has ended.';

create function public.plan_resume(p_plan_id uuid, p_session_id text default null) returns jsonb
language sql
set search_path = ''
begin atomic
  select plans.go_on(p_plan_id, p_session_id);
end;
comment on function public.plan_resume is 'Write what a partial plan lacks, with a fresh budget: {plan_id, job_id, wake}. Finished stages stay as they are. 409 unless it is partial.';

-- 5. What the worker does ------------------------------------------------------------------------------

create function plans.held(p_request jsonb, out job public.jobs, out plan public.plans) returns record
language plpgsql
set search_path = ''
as $$
begin
  job := queue.held_job(p_request, array['plan', 'plan_phase'], 'nothing was stored');
  select p.* into plan from public.plans as p
  where p.id = (job.payload ->> 'plan_id')::uuid and p.workspace_id = job.workspace_id
    and p.job_id = case job.job_type when 'plan' then job.id else job.parent_id end;
end;
$$;
comment on function plans.held is 'The leased job, locked, and the plan it is for; the plan is null when it is gone or has another job by now. lease_lost for whoever does not hold the lease.';

create function public.plan_load(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables: this is the door
set search_path = ''
as $$
declare
  v_held record;
  v_plan jsonb;
begin
  v_held := plans.held(p_request);
  if (v_held.plan).id is null then
    return jsonb_build_object('plan', null);
  end if;
  v_plan := to_jsonb(v_held.plan);
  -- in a visit the run's own budget counts, not the one asked for
  v_plan := jsonb_set(v_plan, '{request,budget}', coalesce(
    (select j.payload -> 'budget' from public.jobs as j where j.id = (v_held.plan).job_id), v_plan #> '{request,budget}'));
  return jsonb_build_object('plan', v_plan, 'stages', (
    select coalesce(jsonb_agg(to_jsonb(s) - '{plan_id,workspace_id}'::text[] order by s.position), '[]')
    from public.plan_stages as s where s.plan_id = (v_held.plan).id));
end;
$$;
comment on function public.plan_load is 'What a leased job {job_id, fence} works on: {plan, stages}; plan is null when it is gone.';

create function public.plan_store_stage(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables: this is the door
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_held record;
  v_stage public.plan_stages := jsonb_populate_record(null::public.plan_stages, p_request -> 'stage');
begin
  v_held := plans.held(p_request);
  if (v_held.plan).id is null then
    perform queue.refuse(404, 'plan_not_found', 'the plan is gone', p_request ->> 'job_id');
  elsif (v_held.job).job_type = 'plan_phase' and v_stage.name is distinct from 'phase:' || ((v_held.job).payload ->> 'number') then
    perform queue.refuse(403, 'forbidden', 'a phase writes its own stage alone', v_stage.name);
  end if;
  insert into public.plan_stages (plan_id, name, workspace_id, position, run, status, result, draft, code, reason, model, offline,
    input_tokens, output_tokens, cost_usd, seconds)
  values ((v_held.plan).id, v_stage.name, (v_held.plan).workspace_id, v_stage.position, (v_held.plan).run, v_stage.status,
    nullif(v_stage.result, 'null'), v_stage.draft, v_stage.code, v_stage.reason, v_stage.model, coalesce(v_stage.offline, false),
    coalesce(v_stage.input_tokens, 0), coalesce(v_stage.output_tokens, 0), coalesce(v_stage.cost_usd, 0), coalesce(v_stage.seconds, 0))
  on conflict (plan_id, name) do update set run = excluded.run, status = excluded.status, result = excluded.result, draft = excluded.draft,
    code = excluded.code, reason = excluded.reason, model = excluded.model, offline = excluded.offline,
    -- what an interrupted try cost was spent all the same
    input_tokens = plan_stages.input_tokens + excluded.input_tokens, output_tokens = plan_stages.output_tokens + excluded.output_tokens,
    cost_usd = plan_stages.cost_usd + excluded.cost_usd, seconds = plan_stages.seconds + excluded.seconds, finished_at = excluded.finished_at
  where plan_stages.status <> 'completed';
  return (select to_jsonb(s) - '{plan_id,workspace_id}'::text[] from public.plan_stages as s
    where s.plan_id = (v_held.plan).id and s.name = v_stage.name);
exception
  when check_violation or not_null_violation or invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse(422, 'stage_invalid', 'a stage is not as it should be: ' || sqlerrm, v_stage.name);
end;
$$;
comment on function public.plan_store_stage is E'Store what a stage came to {job_id, fence, stage}; returns it as it stands.\n\nA completed stage is never written again: a repeat returns the first.';

create function public.plan_finish(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables: this is the door
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_held record;
  v_missing jsonb := p_request -> 'missing';
begin
  v_held := plans.held(p_request);
  if (v_held.plan).id is null or (v_held.job).job_type <> 'plan' then
    perform queue.refuse(404, 'plan_not_found', 'the plan is gone', p_request ->> 'job_id');
  elsif jsonb_typeof(v_missing) is distinct from 'array' or octet_length(v_missing::text) > 100000 then
    perform queue.refuse(400, 'invalid_argument', 'missing must be an array', 'missing');
  end if;
  update public.plans set missing = v_missing, finished_at = queue.clock(),
    outcome = case when v_missing = '[]' then 'completed' else 'partial' end
  where id = (v_held.plan).id and outcome is null;
  return (select jsonb_build_object('outcome', p.outcome, 'missing', p.missing) from public.plans as p where p.id = (v_held.plan).id);
end;
$$;
comment on function public.plan_finish is 'End a plan {job_id, fence, missing: [{stage, code, reason}]}: {outcome, missing}; completed when nothing is missing, else partial.';

-- Row level security and grants --------------------------------------------------------------------------

alter table public.plans enable row level security;
alter table public.plan_stages enable row level security;
create policy plans_read_by_members on public.plans
for select to authenticated using (workspace_id in (select queue.my_workspaces()));
create policy plan_stages_read_by_members on public.plan_stages
for select to authenticated using (workspace_id in (select queue.my_workspaces()));

revoke all on public.plans, public.plan_stages from public, anon, authenticated, service_role;
grant select on public.plans, public.plan_stages to authenticated, service_role;

revoke execute on all functions in schema plans from public, anon, authenticated, service_role;
revoke execute on function public.plan_start, public.plan_read, public.plan_list, public.plan_answer, public.plan_cancel,
public.plan_resume, public.plan_load, public.plan_store_stage, public.plan_finish from public, anon, authenticated, service_role;
grant execute on function plans.start, plans.show, plans.list, plans.answer, plans.cancel, plans.go_on to anon, authenticated, service_role;
grant execute on function public.plan_start, public.plan_read, public.plan_list, public.plan_answer, public.plan_cancel,
public.plan_resume to anon, authenticated, service_role;
grant execute on function public.plan_load, public.plan_store_stage, public.plan_finish to job_worker, service_role;
