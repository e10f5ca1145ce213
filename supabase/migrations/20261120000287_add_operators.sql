-- Operators see the jobs of every workspace; each of their reads and actions is written to an audit log.
-- An operator opens a workspace for a time and is a member of it until then: every rule stays where it is.

create table queue.operators (
  user_id uuid primary key,
  added_at timestamptz not null default queue.clock(),
  note text,
  constraint operators_note_is_bounded check (char_length(note) <= 500)
);
comment on table queue.operators is 'People on call: they list the jobs of all workspaces, and open one to look '
  'closer and to act.';
comment on column queue.operators.user_id is 'The Supabase Auth user.';
comment on column queue.operators.added_at is 'When they became one.';
comment on column queue.operators.note is 'Why, or for which team.';

create table queue.operator_access (
  user_id uuid not null,
  workspace_id uuid not null,
  reason text,
  opened_at timestamptz not null default queue.clock(),
  expires_at timestamptz not null,
  primary key (user_id, workspace_id)
);
create index operator_access_by_expiry on queue.operator_access (expires_at);
comment on table queue.operator_access is 'Workspaces that an operator has open: until expires_at they see and '
  'steer its jobs as a member does.';
comment on column queue.operator_access.user_id is 'The operator.';
comment on column queue.operator_access.workspace_id is 'The workspace.';
comment on column queue.operator_access.reason is 'The reason they gave.';
comment on column queue.operator_access.opened_at is 'Since when.';
comment on column queue.operator_access.expires_at is 'Until when.';

create table queue.actions (
  id bigint generated always as identity primary key,
  at timestamptz not null default queue.clock(),
  user_id uuid,
  as_operator boolean not null,
  action text not null,
  workspace_id uuid,
  job_id uuid,
  jobs integer not null default 1,
  detail jsonb,
  constraint actions_action_is_known check (action in ('list', 'open', 'close', 'cancel', 'retry', 'redrive',
    'answer', 'pause', 'resume'))
);
create index actions_by_workspace on queue.actions (workspace_id, id);
create index actions_by_job on queue.actions (job_id, id) where job_id is not null;
create index actions_by_operator on queue.actions (user_id, id) where as_operator;
create index actions_by_time on queue.actions (at);
comment on table queue.actions is 'Audit log: who cancelled, retried, answered or paused what, and what operators '
  'listed and opened.';
comment on column queue.actions.id is 'Identity and order.';
comment on column queue.actions.at is 'When.';
comment on column queue.actions.user_id is 'Who; null for a service.';
comment on column queue.actions.as_operator is 'True when it was possible only because they are an operator.';
comment on column queue.actions.action is 'list, open, close, cancel, retry, redrive, answer, pause or resume.';
comment on column queue.actions.workspace_id is 'The workspace; null for all of them.';
comment on column queue.actions.job_id is 'The job; null for several.';
comment on column queue.actions.jobs is 'How many jobs it changed.';
comment on column queue.actions.detail is 'The filter, the reason, or what was paused.';

insert into queue.settings (name, value) values ('audit_days', '400');

create function queue.is_operator() returns boolean
language sql stable
security definer -- reads operators, which callers may not
set search_path = ''
as $$ select exists (select 1 from queue.operators as o where o.user_id = (select auth.uid())) $$;
comment on function queue.is_operator is 'Whether the caller is an operator.';

create function queue.needs_operator() returns void
language plpgsql stable
set search_path = ''
as $$
begin
  if not (queue.is_operator() or auth.uid() is null and queue.is_service()) then
    perform queue.refuse(403, 'forbidden', 'only an operator may read all workspaces: name one of yours', 'operator');
  end if;
end;
$$;
comment on function queue.needs_operator is 'Refuse with 403 callers who are neither an operator nor the service.';

create function queue.may_read_all(p_workspace_id uuid) returns void
language plpgsql stable
set search_path = ''
as $$
begin
  if p_workspace_id is not null then
    perform queue.may_steer(p_workspace_id);
  else
    perform queue.needs_operator();
  end if;
end;
$$;
comment on function queue.may_read_all is 'Refuse callers outside the workspace with 404; without a workspace, which means all, callers who are neither an operator nor the service with 403.';

create function queue.opened_workspaces() returns setof uuid
language sql stable
set search_path = ''
as $$
  select a.workspace_id from queue.operator_access as a join queue.operators as o on o.user_id = a.user_id
  where a.user_id = (select auth.uid()) and a.expires_at > queue.clock()
$$;
comment on function queue.opened_workspaces is 'Workspaces that the caller has open as an operator.';

create function queue.note_action(
  p_action text, p_workspace_id uuid, p_job_id uuid default null, p_jobs integer default 1,
  p_detail jsonb default null
) returns void
language sql
set search_path = ''
as $$
  insert into queue.actions (user_id, as_operator, action, workspace_id, job_id, jobs, detail)
  select auth.uid(), auth.uid() is not null and not exists (
      select 1 from queue.tenant_members as m where m.user_id = auth.uid() and m.workspace_id = p_workspace_id),
    p_action, p_workspace_id, p_job_id, p_jobs, p_detail
$$;
comment on function queue.note_action is 'Write what the caller does to the audit log, in the same transaction.';

create function queue.note_bulk(
  p_action text, p_workspace_id uuid, p_ids uuid[], p_count integer, p_filter jsonb
) returns void
language plpgsql
set search_path = ''
as $$
begin
  if p_count > 0 then
    perform queue.note_action(p_action, p_workspace_id, case when cardinality(p_ids) = 1 then p_ids[1] end, p_count,
      p_filter - 'ids' || case when p_filter ? 'ids' then jsonb_build_object('ids', to_jsonb(p_ids[1:20]))
        else '{}' end);
  end if;
end;
$$;
comment on function queue.note_bulk is 'Write an action on many jobs to the audit log, unless it changed none; of '
  'given ids the first 20 are kept.';

create function queue.prune_actions(p_limit integer, p_now timestamptz) returns void
language plpgsql
set search_path = ''
as $$
begin
  delete from queue.actions where id = any (array(
    select id from queue.actions where at < p_now - make_interval(days => (queue.setting('audit_days'))::integer)
    order by at limit p_limit for update skip locked));
  delete from queue.operator_access where (user_id, workspace_id) in (
    select user_id, workspace_id from queue.operator_access where expires_at < p_now
    order by expires_at limit p_limit for update skip locked);
end;
$$;
comment on function queue.prune_actions is 'Delete actions older than the setting audit_days and access that has '
  'expired, at most p_limit of each.';

create function queue.mail_of(p_user_id uuid) returns text
language plpgsql stable
set search_path = ''
as $$
declare
  v_mail text;
begin
  if p_user_id is not null and to_regclass('auth.users') is not null then
    execute 'select email::text from auth.users where id = $1' into v_mail using p_user_id;
  end if;
  return v_mail;
exception when insufficient_privilege or undefined_column then
  return null; -- Auth may be another product's
end;
$$;
comment on function queue.mail_of is 'The mail address of an Auth user; null when there is none.';

create function queue.actor(p_by text) returns text
language sql stable
set search_path = ''
as $$
  select coalesce(
    case when p_by ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then queue.mail_of(p_by::uuid) end, p_by, 'someone')
$$;
comment on function queue.actor is 'Who did something, as people read it: a mail address where the text is a user id '
  'that has one.';

create function public.people(p_ids uuid[]) returns jsonb
language plpgsql stable
security definer -- addresses are Auth's; callers see those of people they share a workspace with
set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_object_agg(i.id, queue.mail_of(i.id)) filter (where queue.mail_of(i.id) is not null), '{}')
    from (select distinct id from unnest(p_ids[1:200]) as id) as i
    where queue.is_operator() or auth.uid() is null and queue.is_service()
      or exists (select 1 from queue.tenant_members as m
        where m.user_id = i.id and m.workspace_id in (select queue.my_workspaces()))
      or exists (select 1 from queue.actions as a
        where a.user_id = i.id and a.as_operator and a.workspace_id in (select queue.my_workspaces())));
end;
$$;
comment on function public.people is E'Mail addresses by user id, of at most 200 people: {id: address}.\n\nOf those '
  'who share a workspace with the caller, of operators who were in it, and for an operator of anyone.';

create function public.list_actions(
  p_workspace_id uuid default null, p_job_id uuid default null, p_before bigint default null,
  p_limit integer default 50
) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = ''
as $$
declare
  v_limit integer := least(200, greatest(1, coalesce(p_limit, 50)));
begin
  if p_job_id is not null then
    perform queue.visible_job(p_job_id);
  else
    perform queue.may_read_all(p_workspace_id);
  end if;
  return (
    select jsonb_build_object('actions', coalesce(jsonb_agg(to_jsonb(a) || jsonb_build_object('by',
      queue.mail_of(a.user_id),
      'workspace_name', (select t.name from queue.tenants as t where t.id = a.workspace_id)) order by a.id desc),
        '[]'))
    from (
      select * from queue.actions as a
      where (p_workspace_id is null or a.workspace_id = p_workspace_id) and (p_job_id is null or a.job_id = p_job_id)
        and (p_before is null or a.id < p_before)
        and (p_workspace_id is null or a.action <> 'list')
      order by a.id desc limit v_limit) as a);
end;
$$;
comment on function public.list_actions is E'Who did what, the latest first: {actions: [{id, at, by, as_operator, '
  'action, workspace_id, job_id, jobs, detail}]}.\n\nMembers see the actions on their jobs and workspaces, also '
  'those of operators; operators see all.';

create function public.operator_session() returns jsonb
language sql stable
security definer -- reads operators, which callers may not
set search_path = ''
as $$
  select jsonb_build_object('operator', queue.is_operator(), 'opened', (
    select coalesce(jsonb_agg(jsonb_build_object('workspace_id', a.workspace_id, 'name', t.name, 'reason', a.reason,
      'opened_at', a.opened_at, 'expires_at', a.expires_at) order by t.name), '[]')
    from queue.operator_access as a left join queue.tenants as t on t.id = a.workspace_id
    where a.user_id = auth.uid() and a.workspace_id in (select queue.opened_workspaces())))
$$;
comment on function public.operator_session is 'Whether the caller is an operator, and which workspaces they have '
  'open: {operator, opened: [{workspace_id, name, expires_at}]}.';

create function public.operator_open(p_request jsonb) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = ''
as $$
declare
  v_job_id uuid := queue.uuid_or_refuse(p_request ->> 'job_id', 'job_id');
  v_workspace uuid := queue.uuid_or_refuse(p_request ->> 'workspace_id', 'workspace_id');
  v_minutes integer := least(480, greatest(5, coalesce((p_request ->> 'minutes')::integer, 60)));
  v_until timestamptz := queue.clock() + make_interval(mins => v_minutes);
  v_name text;
begin
  if not queue.is_operator() then
    perform queue.refuse(403, 'forbidden', 'only an operator may open a workspace', 'operator');
  end if;
  if v_job_id is not null then
    select j.workspace_id into v_workspace from public.jobs as j where j.id = v_job_id;
    if not found then
      perform queue.refuse_job(v_job_id);
    end if;
  end if;
  select t.name into v_name from queue.tenants as t where t.id = v_workspace;
  if v_name is null then
    perform queue.refuse_workspace(v_workspace);
  end if;
  perform queue.note_action('open', v_workspace, v_job_id, 0, jsonb_strip_nulls(jsonb_build_object('reason',
    left(p_request ->> 'reason', 500))));
  insert into queue.operator_access (user_id, workspace_id, reason, expires_at)
  values (auth.uid(), v_workspace, left(p_request ->> 'reason', 500), v_until)
  on conflict (user_id, workspace_id) do update set
    expires_at = greatest(operator_access.expires_at, excluded.expires_at),
    reason = coalesce(excluded.reason, operator_access.reason);
  return jsonb_build_object('workspace_id', v_workspace, 'name', v_name, 'expires_at', v_until);
exception
  when invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse(400, 'invalid_argument', 'minutes must be a whole number', 'minutes');
end;
$$;
comment on function public.operator_open is E'Open a workspace, or that of a job: {workspace_id | job_id, reason?, '
  'minutes = 60}; returns {workspace_id, name, expires_at}.\n\nUntil then the operator sees and steers its jobs as a '
  'member. Each opening is in the audit log, which the workspace''s members see.';

create function public.operator_close(p_workspace_id uuid) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = ''
as $$
begin
  delete from queue.operator_access where user_id = auth.uid() and workspace_id = p_workspace_id;
  if found then
    perform queue.note_action('close', p_workspace_id, null, 0);
  end if;
  return jsonb_build_object('closed', found);
end;
$$;
comment on function public.operator_close is 'End the access that operator_open gave: {closed}.';

create function public.set_operator(p_user_id uuid, p_operator boolean default true,
  p_note text default null) returns jsonb
language plpgsql
security definer -- the service holds no rights on the engine's tables
set search_path = ''
as $$
begin
  if not queue.is_service() then
    perform queue.refuse(403, 'forbidden', 'operators are named by the service role alone', 'operator');
  end if;
  if p_operator then
    insert into queue.operators (user_id, note) values (p_user_id, left(p_note, 500))
    on conflict (user_id) do update set note = coalesce(excluded.note, operators.note);
  else
    delete from queue.operator_access where user_id = p_user_id;
    delete from queue.operators where user_id = p_user_id;
  end if;
  return (
    select jsonb_build_object('operators', coalesce(jsonb_agg(jsonb_build_object('user_id', o.user_id, 'email',
      queue.mail_of(o.user_id),
      'added_at', o.added_at, 'note', o.note) order by o.added_at), '[]'))
    from queue.operators as o);
end;
$$;
comment on function public.set_operator is 'Make a user an operator, or no longer one, by the service role only: '
  '{operators: [{user_id, email, added_at, note}]}, all of them.';

alter table queue.operators enable row level security;
alter table queue.operator_access enable row level security;
alter table queue.actions enable row level security;
revoke all on queue.operators, queue.operator_access, queue.actions from public, anon, authenticated, service_role;
revoke execute on function queue.is_operator, queue.needs_operator, queue.may_read_all, queue.opened_workspaces,
  queue.note_action, queue.note_bulk, queue.prune_actions, queue.mail_of, queue.actor
  from public, anon, authenticated, service_role;
revoke execute on function public.people, public.list_actions, public.operator_session, public.operator_open,
  public.operator_close, public.set_operator
  from public, anon, authenticated, service_role;
grant execute on function public.people, public.list_actions, public.operator_session, public.operator_open,
  public.operator_close
  to authenticated, service_role;
grant execute on function public.set_operator to service_role;
