-- Operators see the jobs of every workspace; each of their reads and actions is written to an audit log.
-- An operator opens a workspace for a time, with a reason: it reads and steers as a member does until then, and
-- triggers write down each act that only the opening allowed. Rows of apps stay read-only to it.

create table queue.operators (
  user_id uuid primary key, -- the Supabase Auth user
  added_at timestamptz not null default queue.clock(), -- when they became one
  note text, -- why, or for which team
  constraint operators_note_is_bounded check (char_length(note) <= 500)
);
comment on table queue.operators is 'People on call: they list the jobs of all workspaces, and open one to look '
  'closer and to act.';

create table queue.operator_access (
  user_id uuid not null, -- the operator
  workspace_id uuid not null, -- the workspace
  reason text not null, -- the reason they gave
  opened_at timestamptz not null default queue.clock(), -- since when
  expires_at timestamptz not null, -- until when
  primary key (user_id, workspace_id)
);
create index operator_access_by_expiry on queue.operator_access (expires_at);
comment on table queue.operator_access is 'Workspaces that an operator has open: until expires_at they see and '
  'steer its jobs as a member does, and read the rows of apps.';

create table queue.actions (
  id bigint generated always as identity primary key, -- identity and order
  at timestamptz not null default queue.clock(), -- when
  user_id uuid, -- who; null for a service
  as_operator boolean not null, -- true when it was possible only because they are an operator
  -- list, open, close, cancel, retry, replay, edit, answer, pause, resume or stop; of operators also enqueue,
  -- change (of a job's priority or time), emit (an event) and batch
  action text not null,
  workspace_id uuid, -- the workspace; null for all of them
  job_id uuid, -- the job; null for several
  jobs integer not null default 1, -- how many jobs it changed
  detail jsonb, -- the filter, the reason, or what was paused
  constraint actions_action_is_known check (action in ('list', 'open', 'close', 'cancel', 'retry', 'answer',
    'pause', 'resume', 'stop', 'enqueue', 'change', 'emit', 'batch', 'replay', 'edit'))
);
create index actions_by_workspace on queue.actions (workspace_id, id);
create index actions_by_job on queue.actions (job_id, id) where job_id is not null;
create index actions_by_operator on queue.actions (user_id, id) where as_operator;
create index actions_by_time on queue.actions (at);
comment on table queue.actions is 'Audit log: who cancelled, retried, answered or paused what, and what operators '
  'listed and opened.';

insert into queue.settings (name, value) values ('audit_days', '400');

create function queue.is_operator() returns boolean
language sql stable
security definer -- reads operators, which callers may not
set search_path = ''
as $$ select exists (select 1 from queue.operators as o where o.user_id = (select auth.uid())) $$;
comment on function queue.is_operator is 'Whether the caller is an operator.';

create function queue.needs_operator() returns void
language plpgsql stable set search_path = '' as $$
begin
  if not (queue.is_operator() or auth.uid() is null and queue.is_service()) then
    perform queue.refuse(403, 'forbidden', 'only an operator may read all workspaces: name one of yours', 'operator');
  end if;
end;
$$;
comment on function queue.needs_operator is 'Refuse with 403 callers who are neither an operator nor the service.';

create function queue.may_read_all(p_workspace_id uuid) returns void
language plpgsql stable set search_path = '' as $$
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
language plpgsql stable set search_path = '' as $$
begin
  return query
    select a.workspace_id from queue.operator_access as a join queue.operators as o on o.user_id = a.user_id
    where a.user_id = (select auth.uid()) and a.expires_at > queue.clock();
  if found then
    -- for the conditions of the triggers below: whatever this transaction does may rest on the opening
    perform set_config('queue.has_opened', 'true', true);
  end if;
end;
$$;
comment on function queue.opened_workspaces is 'Workspaces that the caller has open as an operator: the one place where '
  'opening becomes a right, which it notes for the triggers that write down its use.';

create function queue.acts_as_operator(p_workspace_id uuid) returns boolean
language sql stable set search_path = '' as $$
  select auth.uid() is not null
    and not exists (
      select from queue.tenant_members as m where m.user_id = auth.uid() and m.workspace_id = p_workspace_id)
    and exists (select from queue.opened_workspaces() as o where o = p_workspace_id)
$$;
comment on function queue.acts_as_operator is 'Whether having the workspace open is the only right that the caller has '
  'in it.';

create function queue.note_action(
  p_action text, p_workspace_id uuid, p_job_id uuid default null, p_jobs integer default 1,
  p_detail jsonb default null
) returns void
language sql set search_path = '' as $$
  insert into queue.actions (user_id, as_operator, action, workspace_id, job_id, jobs, detail)
  select auth.uid(), auth.uid() is not null and not exists (
      select 1 from queue.tenant_members as m where m.user_id = auth.uid() and m.workspace_id = p_workspace_id),
    p_action, p_workspace_id, p_job_id, p_jobs, p_detail
  where p_job_id is null or not exists ( -- a trigger has noted what an operator does to a job
    select from queue.actions as a
    where a.job_id = p_job_id and a.action = p_action and a.xmin = (pg_current_xact_id()::xid))
$$;
comment on function queue.note_action is 'Write what the caller does to the audit log, in the same transaction.';

create function queue.note_opened() returns trigger
language plpgsql
security definer -- callers hold no rights on the audit log
set search_path = '' as $$
declare
  v_row jsonb := to_jsonb(new);
  v_old jsonb := to_jsonb(old);
  v_action text := tg_argv[0];
begin
  if v_action is null and tg_op = 'UPDATE' and not (v_row ->> 'status' <> v_old ->> 'status'
      or v_row ->> 'priority' <> v_old ->> 'priority'
      or v_row -> 'cancel_requested_at' <> v_old -> 'cancel_requested_at'
      or v_row -> 'scheduled_for' <> v_old -> 'scheduled_for') or not queue.acts_as_operator(new.workspace_id) then
    return null; -- nothing that people steer by has changed, or they may do it anyway
  elsif v_action is null then -- of a job, by what became of it
    v_action := case when tg_op = 'INSERT' then 'enqueue'
      when v_row ->> 'status' = 'cancelled' or v_row ->> 'cancel_requested_at' is not null then 'cancel'
      when v_old ->> 'status' in ('failed', 'cancelled') and v_row ->> 'status' = 'pending' then 'retry'
      when v_old ->> 'status' = 'waiting' then 'answer' else 'change' end;
    perform queue.note_action(v_action, new.workspace_id, new.id);
  else
    perform queue.note_action(v_action, new.workspace_id, null, 0, jsonb_strip_nulls(jsonb_build_object(
      'name', v_row ->> 'name', 'id', v_row ->> 'id')));
  end if;
  return null;
end;
$$;
comment on function queue.note_opened is 'Trigger: write down what an operator does where having the workspace open is '
  'the only right. Its argument is the action; without one the row is a job.';

create trigger jobs_note_operators after insert on public.jobs
  for each row when (current_setting('queue.has_opened', true) = 'true') execute function queue.note_opened();
create trigger jobs_note_steering after update of status, cancel_requested_at, priority, scheduled_for on public.jobs
  for each row when (current_setting('queue.has_opened', true) = 'true') execute function queue.note_opened();
create trigger named_events_note_operators after insert on queue.named_events
  for each row when (current_setting('queue.has_opened', true) = 'true') execute function queue.note_opened('emit');
create trigger batches_note_operators after insert or update on queue.batches
  for each row when (current_setting('queue.has_opened', true) = 'true') execute function queue.note_opened('batch');

create function queue.refuse_opened() returns trigger
language plpgsql
security definer -- callers hold no rights on the record of openings
set search_path = '' as $$
begin
  if queue.acts_as_operator((case when tg_op = 'DELETE' then to_jsonb(old) else to_jsonb(new)
      end ->> 'workspace_id')::uuid) then
    perform queue.refuse(403, 'forbidden', 'an operator reads the rows of apps and changes none', tg_table_name);
  end if;
  return null;
end;
$$;
comment on function queue.refuse_opened is 'Trigger: refuse with 403 a change of a row that is possible only because an '
  'operator has its workspace open.';

create function queue.keep_from_operators(variadic p_relations regclass[]) returns void
language plpgsql set search_path = '' as $$
declare
  v_relation regclass;
begin
  foreach v_relation in array p_relations loop
    -- after: a policy's check, which notes the opening, comes after triggers before. What follows from steering a
    -- job, by triggers, is the job's and is written down there
    execute format('create trigger operators_read_only after insert or update or delete on %s for each row '
      'when (current_setting(''queue.has_opened'', true) = ''true'' and pg_trigger_depth() = 0) '
      'execute function queue.refuse_opened()', v_relation);
  end loop;
end;
$$;
comment on function queue.keep_from_operators is 'Make an app''s tables with a workspace_id read-only to operators who '
  'have a workspace open. For migrations.';

create function queue.mail_of(p_user_id uuid) returns text
language plpgsql stable set search_path = '' as $$
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
language sql stable set search_path = '' as $$
  select coalesce(
    case when p_by ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then queue.mail_of(p_by::uuid) end, p_by, 'someone')
$$;
comment on function queue.actor is 'Who did something, as people read it: a mail address where the text is a user id '
  'that has one.';

create function public.people(p_ids uuid[]) returns jsonb
language plpgsql stable
security definer -- addresses are Auth's; callers see those of people they share a workspace with
set search_path = '' as $$
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
  p_workspace_id uuid default null, p_job_id uuid default null, p_before numeric default null,
  p_limit numeric default 50
) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_limit integer := least(200, greatest(1, coalesce(queue.whole(p_limit, 'p_limit'), 50)));
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
        and (p_before is null or a.id < queue.big_whole(p_before, 'p_before'))
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
set search_path = '' as $$
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
set search_path = '' as $$
declare
  v_job_id uuid := queue.uuid_or_refuse(p_request ->> 'job_id', 'job_id');
  v_workspace uuid := queue.uuid_or_refuse(p_request ->> 'workspace_id', 'workspace_id');
  v_minutes integer := least(480, greatest(5, coalesce(queue.whole_in(p_request, 'minutes'), 60)));
  v_until timestamptz := queue.clock() + make_interval(mins => v_minutes);
  v_name text;
  v_reason text := left(nullif(btrim(p_request ->> 'reason'), ''), 500);
begin
  if not queue.is_operator() then
    perform queue.refuse(403, 'forbidden', 'only an operator may open a workspace', 'operator');
  elsif v_reason is null then
    perform queue.refuse(400, 'invalid_argument', 'reason must say why the workspace is opened: its members read it',
      'reason');
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
  perform queue.note_action('open', v_workspace, v_job_id, 0, jsonb_build_object('reason', v_reason));
  insert into queue.operator_access (user_id, workspace_id, reason, expires_at)
  values (auth.uid(), v_workspace, v_reason, v_until)
  on conflict (user_id, workspace_id) do update set
    expires_at = greatest(operator_access.expires_at, excluded.expires_at), reason = excluded.reason
  returning expires_at into v_until; -- an earlier opening may last longer
  return jsonb_build_object('workspace_id', v_workspace, 'name', v_name, 'expires_at', v_until);
exception
  when invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse(400, 'invalid_argument', 'minutes must be a whole number', 'minutes');
end;
$$;
comment on function public.operator_open is E'Open a workspace, or that of a job: {workspace_id | job_id, reason, '
  'minutes = 60}; returns {workspace_id, name, expires_at}.\n\nUntil then the operator sees and steers its jobs as a '
  'member, and reads the rows of apps. The opening and each act is in the audit log, which the workspace''s members see.';

create function public.operator_close(p_workspace_id uuid) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
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
set search_path = '' as $$
begin
  if not queue.is_service() then -- beside the grant: a project may have granted every function of its schemas
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

select queue.allow('authenticated, service_role', 'public.people', 'public.list_actions', 'public.operator_session',
  'public.operator_open', 'public.operator_close');
select queue.allow('service_role', 'public.set_operator');
