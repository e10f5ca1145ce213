-- The plans app stores prompts, and the results of the stages of their plans. Each plan has a job
-- of the queue, which stores the state, progress and events of the plan. The engine does not depend
-- on this app, so the app can be deleted.

create schema if not exists plan;
revoke all on schema plan from public;

create table public.plans (
  -- the id of a plan is random, because the id grants access to a guest's plan
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  prompt text not null,
  speed_vs_detail text not null,
  job_id uuid not null,
  idempotency_key text,
  created_by uuid, -- null for a guest's plan, which is open to everyone who has its id
  created_at timestamptz not null default queue.clock(),
  share_id uuid, -- random key of the public link, null without a link
  constraint plans_one_share unique (share_id),
  constraint plans_prompt_is_bounded check (char_length(prompt) between 1 and 8000),
  constraint plans_speed_is_known
    check (
      speed_vs_detail in (
        'fast_but_skip_details',
        'balanced_speed_and_detail',
        'all_details_but_slow'
      )
    ),
  constraint plans_key_is_bounded check (char_length(idempotency_key) <= 255),
  constraint plans_one_per_key unique (workspace_id, idempotency_key)
);
comment on table public.plans is 'Prompts. One job writes the plan of a prompt.';
create index plans_newest on public.plans (workspace_id, created_at desc);
create index plans_by_job on public.plans (job_id);

create table public.plan_stages (
  plan_id uuid not null references public.plans (id) on delete cascade,
  name text not null,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  result jsonb,
  model text, -- language model, or null for a sample
  reason text, -- reason why the stage failed
  ended_at timestamptz not null default queue.clock(),
  primary key (plan_id, name),
  constraint plan_stages_have_an_end
    check ((result is null) = (reason is not null)),
  constraint plan_stages_are_bounded
    check (octet_length(result::text) <= 200000 and char_length(name) <= 100)
);
comment on table public.plan_stages is
  'Results of the stages of plans, from which the reports are composed.';
create index plan_stages_by_workspace on public.plan_stages (workspace_id);

create view public.plan_states with (security_invoker = true) as
select
  p.id as plan_id,
  p.workspace_id,
  p.prompt,
  p.speed_vs_detail,
  p.job_id,
  p.created_at,
  case
    when j.status = 'processing' and j.cancel_requested_at is not null
      then 'cancelling'
    when j.status in ('processing', 'waiting')
        or j.status = 'pending' and j.started_at is not null
      then 'running'
    else coalesce(j.status, 'completed') -- j is null if retention has deleted the job
  end as status,
  coalesce((j.progress ->> 'percentage')::numeric, 0) as percentage,
  case
    when j.status = 'pending' and j.started_at is not null
      then coalesce(
        case j.progress ->> 'stage'
          when 'waiting' then j.progress ->> 'message'
        end,
        queue.user_message(j.error_message, j.error_data)
      )
  end as waits_for,
  case
    when j.status = 'failed' then queue.user_message(j.error_message, j.error_data)
  end as error,
  j.finished_at,
  ( -- null before the first stage has ended
    select bool_and(t.model is null and t.result is not null)
    from public.plan_stages as t
    where t.plan_id = p.id
  ) as is_sample
from public.plans as p
left join public.jobs as j on j.id = p.job_id;
comment on view public.plan_states is
  'Plans with their state: pending, running, cancelling, completed, failed or cancelled.';

insert into queue.settings (name, value)
values ('plan_guest_plans_per_minute', '60'); -- limit per address, or null for no limit

-- 1. Functions that members and guests call -------------------------------------------------------

create function plan.plan_or_refuse(p_plan_id uuid)
returns public.plans
language plpgsql stable
set search_path = ''
as $$
declare
  v_plan public.plans;
begin
  select * into v_plan
  from public.plans as p
  where p.id = p_plan_id
    and (p.created_by is null or queue.is_member(p.workspace_id));
  if not found then
    perform queue.refuse(404, 'plan_not_found', 'Plan not found', p_plan_id::text);
  end if;
  return v_plan;
end;
$$;

-- Return a plan that the caller may change. Lock its id until the transaction ends, and count the
-- change against a guest's rate limit.
create function plan.plan_to_change(p_plan_id uuid)
returns public.plans
language plpgsql
set search_path = ''
as $$
declare
  v_plan public.plans := plan.plan_or_refuse(p_plan_id);
begin
  perform queue.hold_id(p_plan_id::text);
  if queue.caller() is null then
    perform queue.admit_guest('plan_guest_plans', v_plan.workspace_id);
  end if;
  return v_plan;
end;
$$;

-- Create a job for a plan, and return true if the caller should start a worker. For a guest's plan,
-- also open a guest session of thirty days, which is the maximum.
create function plan.enqueue(p_plan public.plans)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  c_session_seconds constant integer := 2592000;
  v_session text := case
    when p_plan.created_by is null
      then (queue.open_session(p_plan.workspace_id, null, c_session_seconds)).session_id
  end;
  v_made record;
begin
  v_made := queue.enqueue(
    p_plan.workspace_id,
    null,
    jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
      'job_type', 'plan',
      'user_id', p_plan.created_by,
      'session_id', v_session,
      'payload', jsonb_build_object('plan_id', p_plan.id)
    ))),
    false
  );
  update public.plans
  set job_id = v_made.ids[1]
  where id = p_plan.id;
  return v_made.wake;
end;
$$;

create function plan.start(
  p_plan jsonb,
  p_workspace_id uuid,
  p_idempotency_key text default null
)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$ -- no role may write plans directly
declare
  v_user uuid := queue.caller();
  v_workspace uuid := case
    when v_user is null then queue.guest_workspace(
      '00000000-0000-4000-8000-0000000091a5',
      'Guests'' plans',
      'plan_guest_plans'
    )
    else (public.own_workspace(p_workspace_id) ->> 'workspace_id')::uuid
  end;
  -- Ignore the idempotency key of a guest, because all guests share a workspace and may use equal
  -- keys.
  v_key text := case when v_user is not null then p_idempotency_key end;
  v_plan public.plans;
  v_wake boolean := false;
begin
  if num_nulls(p_plan ->> 'prompt', p_plan ->> 'speed_vs_detail') > 0 then
    perform queue.refuse(
      400,
      'invalid_argument',
      'prompt and speed_vs_detail are required',
      'plan'
    );
  end if;
  perform queue.hold_id(concat_ws('/', v_workspace, coalesce(v_key, gen_random_uuid()::text)));
  insert into public.plans (
    workspace_id, prompt, speed_vs_detail, job_id, idempotency_key, created_by
  )
  values (
    v_workspace,
    p_plan ->> 'prompt',
    p_plan ->> 'speed_vs_detail',
    gen_random_uuid(),
    v_key,
    v_user
  )
  on conflict (workspace_id, idempotency_key) do nothing
  returning * into v_plan;
  if found then
    v_wake := plan.enqueue(v_plan);
    select * into v_plan from public.plans where id = v_plan.id;
  else
    select * into v_plan
    from public.plans
    where workspace_id = v_workspace and idempotency_key = v_key;
    if (v_plan.prompt, v_plan.speed_vs_detail)
      <> (p_plan ->> 'prompt', p_plan ->> 'speed_vs_detail') then
      perform queue.refuse(
        409,
        'idempotency_conflict',
        'another plan has this Idempotency-Key',
        v_plan.id::text
      );
    end if;
  end if;
  return jsonb_build_object(
    'plan_id', v_plan.id,
    'job_id', v_plan.job_id,
    'created_at', v_plan.created_at,
    'wake', v_wake,
    'status', (
      select s.status
      from public.plan_states as s
      where s.plan_id = v_plan.id
    )
  );
-- remove the detail of the error, because Postgres puts the failing row into the detail, and the
-- row may contain ids of other people
exception when not_null_violation or check_violation then
  raise exception using errcode = sqlstate, message = sqlerrm;
end;
$$;
comment on function plan.start is
  'Create a plan {prompt, speed_vs_detail}: {plan_id, job_id, created_at, status, wake}.';

create function plan.as_json(p_plan public.plans)
returns jsonb
language sql stable
set search_path = ''
as $$
select to_jsonb(s) || jsonb_build_object(
  'share_id', p_plan.share_id,
  'session_id', (
    select j.session_id
    from public.jobs as j
    where j.id = p_plan.job_id and p_plan.created_by is null
  ),
  'stages', (
    select coalesce(
      jsonb_agg(
        to_jsonb(t) - '{plan_id,workspace_id}'::text[] || jsonb_build_object(
          'status', case when t.result is null then 'failed' else 'completed' end
        )
        order by t.ended_at, t.name
      ),
      '[]'
    )
    from public.plan_stages as t
    where t.plan_id = p_plan.id
  )
)
from public.plan_states as s
where s.plan_id = p_plan.id
$$;

create function plan.read(p_plan_id uuid)
returns jsonb
language sql stable
security definer
set search_path = ''
as $$ -- guests have no rights on tables
select plan.as_json(plan.plan_or_refuse(p_plan_id))
$$;
comment on function plan.read is
  'A plan with its state and its ended stages.';

create function plan.share(p_plan_id uuid, p_is_shared boolean)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$ -- no role may write plans directly
declare
  v_plan public.plans := plan.plan_or_refuse(p_plan_id);
begin
  perform queue.hold_id(p_plan_id::text);
  update public.plans
  set share_id = case when p_is_shared then coalesce(share_id, gen_random_uuid()) end
  where id = v_plan.id
  returning * into v_plan;
  return jsonb_build_object('share_id', v_plan.share_id);
end;
$$;
comment on function plan.share is
  'Create or delete the public link of a plan''s report: {share_id}.';

create function plan.shared(p_share_id uuid)
returns jsonb
language sql stable
security definer
set search_path = ''
as $$ -- The random share id authorises reading. Changes require the id of the plan.
select jsonb_build_object(
  'plan', (
    select plan.as_json(p)
      - '{plan_id,workspace_id,job_id,share_id,session_id}'::text[]
    from public.plans as p
    where p.share_id = p_share_id
  )
)
$$;
comment on function plan.shared is
  'The plan with this public link, as in plan_read but without ids: {plan}, or null.';

create function plan.events(
  p_plan_id uuid,
  p_after bigint,
  p_limit integer default 500
)
returns jsonb
language sql stable
security definer
set search_path = ''
as $$ -- guests have no rights on tables
select jsonb_build_object(
  'job_id', p.job_id,
  'ended', coalesce(j.finished_at is not null, true)
    and not exists (
      select from public.job_events as later
      where later.job_id = p.job_id and later.seq > p_after + p_limit
    ),
  'events', (
    select coalesce(
      jsonb_agg(
        jsonb_build_object(
          'seq', e.seq,
          'type', e.type,
          'data', e.data,
          'at', e.created_at
        )
        order by e.seq
      ),
      '[]'
    )
    from (
      select *
      from public.job_events as x
      where x.job_id = p.job_id and x.seq > p_after
      order by x.seq
      limit p_limit
    ) as e
  )
)
from plan.plan_or_refuse(p_plan_id) as p
left join public.jobs as j on j.id = p.job_id
$$;
comment on function plan.events is
  'Events of a plan''s job after a seq, without gaps: {job_id, ended, events}.';

create function plan.cancel(p_plan_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$ -- guests have no rights on tables
declare
  v_plan public.plans := plan.plan_or_refuse(p_plan_id);
begin
  perform queue.hold_id(p_plan_id::text);
  perform queue.cancel(array[v_plan.job_id], queue.clock());
  return jsonb_build_object('plan_id', p_plan_id);
end;
$$;
comment on function plan.cancel is
  'Cancel a plan. Its report has the finished stages.';

create function plan.retry(p_plan_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$ -- guests have no rights on tables
declare
  v_plan public.plans := plan.plan_to_change(p_plan_id);
  v_claims text := coalesce(current_setting('request.jwt.claims', true), '');
begin
  if queue.caller() is null then
    -- Raise an error immediately if another transaction has locked the job. Without
    -- queue.hold_jobs, retry_job would wait for the lock, because calls with the role service_role
    -- wait for locks.
    perform queue.hold_jobs(array[v_plan.job_id]);
    -- Guests may not retry jobs, so the app retries the job as service_role. plan.plan_or_refuse
    -- has already checked the guest's access to the plan.
    perform set_config('request.jwt.claims', '{"role":"service_role"}', true);
  end if;
  perform public.retry_job(v_plan.job_id);
  perform set_config('request.jwt.claims', v_claims, true);
  return jsonb_build_object('plan_id', p_plan_id);
end;
$$;
comment on function plan.retry is
  'Continue a failed or cancelled plan after its finished stages. 409 in any other state.';

-- Delete a chapter of an ended plan, and enqueue a new job that writes this chapter again and keeps
-- the other chapters.
create function plan.redo(p_plan_id uuid, p_stage text)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$ -- guests have no rights on tables
declare
  v_plan public.plans := plan.plan_to_change(p_plan_id);
begin
  select * into v_plan
  from public.plans
  where id = v_plan.id
  for update skip locked;
  if not found then
    perform queue.refuse(
      429,
      'job_busy',
      'another call is changing the plan; call again',
      '{"retry_after_seconds": 1}'
    );
  elsif (select finished_at is null from public.jobs where id = v_plan.job_id) then
    perform queue.refuse(
      409,
      'invalid_state',
      'the plan is still being written; rewrite a chapter after its end',
      p_plan_id::text
    );
  end if;
  delete from public.plan_stages where plan_id = v_plan.id and name = p_stage;
  return jsonb_build_object('plan_id', v_plan.id, 'wake', plan.enqueue(v_plan));
end;
$$;
comment on function plan.redo is
  'Rewrite one chapter of an ended plan, and keep the rest: {plan_id, wake}. 409 before its end.';

-- Replace the text or the points of a chapter by text of a user. A job does not overwrite the
-- user's text, because public.plan_keep writes only chapters that have no result yet.
create function plan.edit(p_plan_id uuid, p_stage text, p_text text)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$ -- guests have no rights on tables
declare
  v_plan public.plans := plan.plan_to_change(p_plan_id);
  v_text constant text := btrim(p_text, e' \n\r\t');
  v_points constant text[] := regexp_split_to_array(v_text, '\s*\n\s*');
begin
  if v_text <> '' is not true or char_length(v_text) > 6000 then
    perform queue.refuse(400, 'invalid_argument', 'text must have 1 to 6,000 characters', 'text');
  end if;
  update public.plan_stages as s
  set result = s.result || case
    when s.result ? 'points' then jsonb_build_object('points', v_points)
    else jsonb_build_object('text', v_text)
  end
  where s.plan_id = v_plan.id
    and s.name = p_stage
    and (
      s.result ? 'text'
      or s.result ? 'points'
        and cardinality(v_points) <= 30
        and not exists (select from unnest(v_points) as p where char_length(p) > 500)
    );
  if not found then
    perform queue.refuse(
      409,
      'invalid_state',
      'only a written chapter of text, or of up to 30 points of 500 characters, can be edited',
      p_stage
    );
  end if;
  return jsonb_build_object('plan_id', v_plan.id);
end;
$$;
comment on function plan.edit is
  'Replace the text of a written chapter, or its points, one per line: {plan_id}.';

-- Change the days of a task, and the tasks before the task. The caller has checked that the order
-- of the tasks has no cycle. If two concurrent calls make a cycle in the order of the tasks, the
-- report shows the tasks without days.
create function plan.edit_task(p_plan_id uuid, p_change jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$ -- guests have no rights on tables
declare
  v_plan public.plans := plan.plan_to_change(p_plan_id);
  v_task constant text := p_change ->> 'task';
  v_days constant jsonb := p_change -> 'days';
  v_after constant text[] := case jsonb_typeof(p_change -> 'after')
    when 'array' then array(select jsonb_array_elements_text(p_change -> 'after'))
  end;
  v_tasks jsonb;
  v_ids text[];
  v_names text[]; -- names by which the schedule may call the task
begin
  select w.result -> 'tasks' into v_tasks
  from public.plan_stages as w
  join public.plan_stages as d using (plan_id)
  where w.plan_id = v_plan.id
    and w.name = 'work_breakdown'
    and d.name = 'dependencies'
    and d.result is not null;
  if v_tasks is null then
    perform queue.refuse(409, 'invalid_state', 'the schedule is not written yet', v_task);
  end if;
  v_ids := array(select t ->> 'id' from jsonb_array_elements(v_tasks) as t);
  if (v_task = any (v_ids) and v_after <@ v_ids) is not true then
    perform queue.refuse(404, 'task_not_found', 'the plan has no such task', v_task);
  elsif (
    jsonb_typeof(v_days) = 'number'
    and v_days between '0' and '10000'
    and cardinality(v_after) <= 60
  ) is not true then
    perform queue.refuse(
      400,
      'invalid_argument',
      'days must be from 0 to 10,000, and after have up to 60 tasks',
      'days'
    );
  end if;
  v_names := array[
    lower(v_task),
    lower(v_tasks -> (array_position(v_ids, v_task) - 1) ->> 'title')
  ];
  update public.plan_stages as s
  set result = case s.name
    when 'work_breakdown' then jsonb_set(
      s.result,
      array['tasks', (array_position(v_ids, v_task) - 1)::text, 'days'],
      v_days
    )
    else jsonb_set(
      s.result,
      '{order}',
      jsonb_build_array(jsonb_build_object('task', v_task, 'after', v_after)) || (
        select coalesce(jsonb_agg(o), '[]')
        from jsonb_array_elements(s.result -> 'order') as o
        where lower(regexp_replace(btrim(o ->> 'task'), '\s+', ' ', 'g')) <> all (v_names)
      )
    )
  end
  where s.plan_id = v_plan.id and s.name in ('work_breakdown', 'dependencies');
  return jsonb_build_object('plan_id', v_plan.id);
end;
$$;
comment on function plan.edit_task is
  'Change a task {task, days, after} of a plan, where after are the ids of tasks: {plan_id}.';

create function plan.delete(p_plan_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$ -- guests have no rights on tables
declare
  v_plan public.plans := plan.plan_or_refuse(p_plan_id);
begin
  perform queue.hold_id(p_plan_id::text);
  perform queue.cancel(array[v_plan.job_id], queue.clock());
  delete from public.plans where id = p_plan_id;
  return jsonb_build_object('plan_id', p_plan_id);
end;
$$;
comment on function plan.delete is
  'Delete a plan and cancel its job. Later calls return 404.';

-- 2. Functions that only the worker calls ---------------------------------------------------------

create function public.plan_load(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$ -- the worker may not read the app's tables
declare
  v_job public.jobs := queue.held_job(p_request, array['plan'], 'nothing was read');
  v_plan public.plans;
begin
  perform queue.refuse_revoked();
  select * into v_plan
  from public.plans
  where job_id = v_job.id;
  return jsonb_build_object(
    'prompt', v_plan.prompt,
    'speed_vs_detail', v_plan.speed_vs_detail,
    'done', (
      select coalesce(jsonb_object_agg(s.name, s.result), '{}')
      from public.plan_stages as s
      where s.plan_id = v_plan.id and s.result is not null
    )
  );
end;
$$;
comment on function public.plan_load is
  'The plan of a leased job, null if it was deleted: {prompt, speed_vs_detail, done}.';

create function public.plan_keep(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$ -- the worker may not write the app's tables
declare
  v_job public.jobs := queue.held_job(
    p_request,
    array['plan'],
    'nothing was stored'
  );
begin
  perform queue.refuse_revoked();
  insert into public.plan_stages as s (
    plan_id, name, workspace_id, result, model, reason
  )
  select
    p.id,
    p_request ->> 'name',
    p.workspace_id,
    nullif(p_request -> 'result', 'null'),
    p_request ->> 'model',
    left(p_request ->> 'reason', 2000)
  from public.plans as p
  where p.job_id = v_job.id
  on conflict (plan_id, name) do update set
    result = excluded.result,
    model = excluded.model,
    reason = excluded.reason,
    ended_at = excluded.ended_at
  where s.result is null; -- an existing result is not replaced
  return '{"kept": true}';
end;
$$;
comment on function public.plan_keep is
  'Store {name, result, model} or {name, reason} for a leased job''s plan.';

-- 3. Row level security, grants and marks of personal data ----------------------------------------

select queue.show_to_members('public.plans');
select queue.show_to_members('public.plan_stages');
select queue.show_to_members('public.plan_states');
select queue.charge_rows('public.plans');

-- The plan of a guest has no owner. Export and erasure find the plan of a guest by a search for
-- words about the person.
comment on column public.plans.prompt is 'Person: words';
comment on column public.plans.idempotency_key is 'Person: words';
comment on column public.plans.created_by is 'Person: owner';
comment on column public.plan_stages.result is 'Person: words';
comment on column public.plan_stages.reason is 'Person: words';

-- Grants. Callers may execute only the functions that are named below.
revoke execute
  on all functions in schema plan
  from public, anon, authenticated, service_role;
select queue.allow_guests(
  'plan.start',
  'plan.read',
  'plan.events',
  'plan.cancel',
  'plan.retry',
  'plan.redo',
  'plan.edit',
  'plan.edit_task',
  'plan.share',
  'plan.shared',
  'plan.delete'
);
select queue.allow('job_worker, service_role', 'public.plan_load', 'public.plan_keep');
