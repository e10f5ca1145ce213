-- 0.4.1 after the release before it; written by `python -m infra.release` from schemas.
-- Do not edit it, and do not read it: read the schemas.

-- Give a plan a job of its own; whether a worker is to be woken. A guest follows it by a session of
-- its own, as long as one may be open.
create or replace function plans.enqueue(p_plan public.plans)
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

revoke execute on function plans.enqueue from public, anon, authenticated, service_role;

create or replace function plans.as_json(p_plan public.plans)
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

revoke execute on function plans.as_json from public, anon, authenticated, service_role;

create or replace function plans.shared(p_share_id uuid)
returns jsonb
language sql stable
security definer
set search_path = ''
as $$ -- its random id is the key to it, and to no more: a guest's plan is changed by its own
select jsonb_build_object(
  'plan', (
    select plans.as_json(p)
      - '{plan_id,workspace_id,job_id,share_id,session_id}'::text[]
    from public.plans as p
    where p.share_id = p_share_id
  )
)
$$;

select queue.allow('anon, authenticated, service_role', 'plans.shared');
