-- Operations: cancel, retry or replay the jobs that match a filter, over any number of them and without a caller.
-- create_operation -> collect_jobs (once, in slices) -> act_on_jobs (in batches) -> completed; by the first call for a
-- moment, then by maintenance. Who holds the operation's row advances it, and a batch commits with its results.

create table queue.operations (
  id uuid primary key default queue.new_id(), -- identity
  workspace_id uuid not null, -- the tenant
  name text not null, -- as people call it
  action text not null, -- cancel, retry or replay
  filter jsonb not null, -- as of list_jobs
  most integer not null, -- at most so many jobs
  undo_of uuid unique, -- the operation that it takes back, whose jobs are its own
  idempotency_key text, -- a repeat gets the same operation
  status text not null default 'running', -- running, paused, stopped or completed
  reason text, -- why it waits or was stopped
  advance_at timestamptz not null, -- since when, or from when, it waits to be advanced
  choosing jsonb, -- where to go on choosing jobs; null when all are chosen
  matched integer not null default 0, -- jobs chosen
  has_more boolean not null default false, -- whether more than most matched
  done integer not null default 0, -- jobs acted on
  skipped integer not null default 0, -- jobs that were in another state by then
  failed integer not null default 0, -- jobs that could not be replayed
  created_by uuid, -- the person; null for the service
  created_at timestamptz not null, -- when
  finished_at timestamptz, -- when it was completed or stopped
  constraint operations_name_is_bounded check (char_length(name) between 1 and 200),
  constraint operations_action_is_known check (action in ('cancel', 'retry', 'replay')),
  constraint operations_status_is_known check (status in ('running', 'paused', 'stopped', 'completed'))
);
create index operations_by_workspace on queue.operations (workspace_id, created_at, id);
create unique index operations_by_key on queue.operations (workspace_id, idempotency_key);
create index operations_to_advance on queue.operations (advance_at) where status = 'running';
create index operations_by_end on queue.operations (finished_at);
comment on table queue.operations is 'Actions on all jobs that match a filter, and how far they are.';

create table queue.operation_jobs (
  operation_id uuid not null references queue.operations (id) on delete cascade, -- the operation
  n integer not null, -- its place, from 1; the last is acted on first
  job_id uuid not null, -- the job
  outcome text, -- done, skipped or failed; null until it is acted on
  reason text, -- of skipped the state it was in, deleted or duplicate_job; of failed the error
  new_job_id uuid, -- the job that a replay made
  chosen_at timestamptz not null, -- when it was chosen
  primary key (operation_id, n)
) with (fillfactor = 80);
create index operation_jobs_by_time on queue.operation_jobs (chosen_at);
comment on table queue.operation_jobs is 'The jobs of each operation, and what became of each.';

insert into queue.maintenance_tasks (name) values ('operations');
insert into queue.settings (name, value) values
  ('max_open_operations', '10'), ('max_operation_jobs', '1000000'), ('operation_days', '30');
select queue.bound_rows('queue.operations', 'max_operations', 10000);
insert into queue.kept_rows (relation, since, days_setting, condition) values
  ('operation_jobs', 'chosen_at', 'operation_days',
    'not exists (select 1 from queue.operations as p where p.id = o.operation_id and p.finished_at is null)'),
  ('operations', 'finished_at', 'operation_days',
    'not exists (select 1 from queue.operation_jobs as j where j.operation_id = o.id)');

create function queue.operation_json(p_operation queue.operations) returns jsonb
language sql stable set search_path = '' as $$
  select to_jsonb(p_operation) - array['most', 'idempotency_key', 'advance_at', 'choosing', 'has_more']
    || jsonb_build_object('limit', p_operation.most, 'more', p_operation.has_more,
      'counted', p_operation.choosing is null,
      'undone_by', (select u.id from queue.operations as u where u.undo_of = p_operation.id))
$$;
comment on function queue.operation_json is 'An operation as callers see it.';

create function queue.visible_operation(p_operation_id uuid, p_lock boolean default false) returns queue.operations
language plpgsql set search_path = '' as $$
declare
  v_operation queue.operations;
begin
  select * into v_operation from queue.operations where id = p_operation_id;
  if not found or not (queue.is_member(v_operation.workspace_id) or auth.uid() is null and queue.is_service()) then
    perform queue.refuse(404, 'operation_not_found', 'no such operation', p_operation_id::text);
  elsif p_lock then -- waits for the batch that is under way
    select * into v_operation from queue.operations where id = p_operation_id for update;
  end if;
  return v_operation;
end;
$$;
comment on function queue.visible_operation is 'The operation, if the caller may see it; else 404.';

create function queue.read_operation(p_workspace_id uuid, p_request jsonb) returns queue.operations
language plpgsql stable set search_path = '' as $$
declare
  v_operation queue.operations;
  v_filter jsonb := queue.list_words(coalesce(p_request -> 'filter', '{}'));
  v_key text := case when v_filter ? 'status' and not v_filter ? 'state' then 'status' else 'state' end;
  v_able text[]; -- what the action applies to, by both kinds of words
  v_words text[];
begin
  perform queue.may_steer(p_workspace_id);
  perform queue.check_names(p_request, array['action', 'filter', 'name', 'limit', 'idempotency_key'], 'request');
  v_able := case p_request ->> 'action'
    when 'cancel' then array['queued', 'scheduled', 'retrying', 'running', 'suspended', 'pending', 'processing',
      'waiting']
    when 'retry' then array['failed', 'cancelled']
    when 'replay' then array['completed', 'failed', 'cancelled'] end;
  v_words := array(select jsonb_array_elements_text(v_filter -> v_key));
  if v_able is null then
    perform queue.refuse(400, 'invalid_argument', 'action must be cancel, retry or replay', 'action');
  elsif v_filter ? 'workspace_id' then
    perform queue.refuse(400, 'invalid_argument', 'an operation is of one workspace: its filter names none', 'filter');
  elsif (p_request ->> 'limit')::numeric < 1 then
    perform queue.refuse(400, 'invalid_argument', 'limit must be 1 or more', 'limit');
  elsif char_length(p_request ->> 'name') not between 1 and 200 then
    perform queue.refuse(400, 'invalid_argument', 'name must have 1 to 200 characters', 'name');
  elsif v_words <> '{}' and not v_words && v_able then
    perform queue.refuse(400, 'invalid_argument', format('%s does not apply to %s jobs', p_request ->> 'action',
      array_to_string(v_words, ', ')), v_key);
  end if;
  v_operation.workspace_id := p_workspace_id;
  v_operation.action := p_request ->> 'action';
  v_operation.filter := v_filter || jsonb_build_object(v_key, to_jsonb(case
    when v_words <> '{}' then array(select w from unnest(v_words) as w where w = any (v_able))
    when v_operation.action = 'retry' then array['failed'] else v_able[:5] end));
  v_operation.name := coalesce(p_request ->> 'name', initcap(v_operation.action) || ' jobs');
  v_operation.most := least(100000, coalesce(queue.whole((p_request ->> 'limit')::numeric, 'limit'), 100000));
  v_operation.idempotency_key := left(p_request ->> 'idempotency_key', 255);
  v_operation.choosing := '{"source": 1}';
  return v_operation;
end;
$$;
comment on function queue.read_operation is 'The checked request of create_operation, with the states that its action applies to.';

create function queue.collect_slice(
  p_operation queue.operations, p_until timestamptz, out ids uuid[], out choosing jsonb
)
language plpgsql stable set search_path = '' as $$
declare
  v_slice constant integer := 2000;
  v_workspaces uuid[] := array[p_operation.workspace_id];
  v_at integer := p_operation.choosing ->> 'source';
  v_place queue.list_place := ((p_operation.choosing ->> 'created_at')::timestamptz,
    (p_operation.choosing ->> 'id')::uuid);
  v_source queue.list_source;
  v_read queue.list_read;
begin
  if p_operation.undo_of is not null then
    select array_agg(coalesce(d.new_job_id, d.job_id) order by d.n), jsonb_build_object('source', max(d.n))
    into ids, choosing from (
      select * from queue.operation_jobs as o
      where o.operation_id = p_operation.undo_of and o.n > v_at and o.outcome = 'done' order by o.n limit v_slice) as d;
    ids := coalesce(ids, '{}');
    choosing := case when cardinality(ids) = v_slice then choosing end;
    return;
  end if;
  -- a job that moves between the tables of live jobs is found where it is
  select distinct case when l.source in ('ready', 'deferred', 'leases', 'waits') then 'live_jobs' else l.source end,
    l.workspace_id, l.word
  into v_source from queue.list_sources(p_operation.filter, v_workspaces) as l order by 1, 3 limit 1 offset v_at - 1;
  ids := '{}';
  if found then
    v_read := queue.list_slice(v_source, p_operation.filter, v_workspaces, v_place, v_slice,
      greatest(p_until, clock_timestamp() + interval '50 milliseconds'));
    ids := array(select f.id from unnest(v_read.found) as f);
    choosing := jsonb_build_object('source', v_at + 1);
    if (v_read.place).id is not null then
      choosing := jsonb_build_object('source', v_at, 'created_at', (v_read.place).created_at, 'id',
        (v_read.place).id);
    end if;
  end if;
end;
$$;
comment on function queue.collect_slice is 'The next jobs that an operation is to act on, and where to go on; null at the end.';

create function queue.collect_jobs(p_operation queue.operations, p_until timestamptz) returns queue.operations
language plpgsql set search_path = '' as $$
declare
  v_slice record;
  v_room integer;
begin
  loop
    v_slice := queue.collect_slice(p_operation, p_until);
    v_room := p_operation.most - p_operation.matched;
    insert into queue.operation_jobs (operation_id, n, job_id, chosen_at)
    select p_operation.id, p_operation.matched + i.n, i.id, p_operation.created_at
    from unnest(v_slice.ids[:v_room]) with ordinality as i (id, n);
    p_operation.matched := p_operation.matched + least(v_room, cardinality(v_slice.ids));
    p_operation.has_more := cardinality(v_slice.ids) > v_room;
    p_operation.choosing := case when not p_operation.has_more then v_slice.choosing end;
    exit when p_operation.choosing is null or clock_timestamp() > p_until;
  end loop;
  if p_operation.choosing is null and p_operation.matched > 0 then
    perform queue.note_action(p_operation.action, p_operation.workspace_id, null, p_operation.matched,
      jsonb_build_object('operation', p_operation.name) || p_operation.filter - 'ids');
  end if;
  return p_operation;
end;
$$;
comment on function queue.collect_jobs is 'Go on choosing the jobs of an operation whose row the caller holds.';

create function queue.replay_jobs(
  p_operation queue.operations, p_last integer, p_now timestamptz, p_until timestamptz
) returns queue.operations
language plpgsql set search_path = '' as $$
declare
  v_row queue.operation_jobs;
  v_job public.jobs;
  v_hint text;
begin
  for v_row in
    select * from queue.operation_jobs where operation_id = p_operation.id and n between p_last - 49 and p_last
    order by n desc
  loop
    begin
      select * into v_job from public.jobs where id = v_row.job_id;
      if not found or v_job.finished_at is null then
        v_row.outcome := 'skipped';
        v_row.reason := coalesce(v_job.status, 'deleted');
      else
        v_row.new_job_id := queue.replay(v_job, '{}') #>> '{job,id}';
        v_row.outcome := 'done';
      end if;
    exception when others then
      if sqlstate = 'PT429' then -- the limits of the person who began it hold here too
        p_operation.reason := sqlerrm;
        p_operation.advance_at := p_now + interval '10 seconds';
        exit;
      elsif sqlstate ~ '^(40|53|55|57|58|XX)' then -- the database's trouble, not the job's
        raise;
      end if;
      get stacked diagnostics v_hint = pg_exception_hint;
      v_row.outcome := 'failed';
      v_row.reason := left(concat_ws(': ', nullif(v_hint, ''), sqlerrm), 500);
    end;
    update queue.operation_jobs set outcome = v_row.outcome, reason = v_row.reason, new_job_id = v_row.new_job_id
    where operation_id = p_operation.id and n = v_row.n;
    p_operation.done := p_operation.done + (v_row.outcome = 'done')::integer;
    p_operation.skipped := p_operation.skipped + (v_row.outcome = 'skipped')::integer;
    p_operation.failed := p_operation.failed + (v_row.outcome = 'failed')::integer;
    exit when clock_timestamp() > p_until;
  end loop;
  return p_operation;
end;
$$;
comment on function queue.replay_jobs is 'Replay the next jobs of an operation whose row the caller holds, at most 50, each alone: one that is refused does not stop the rest.';

create function queue.act_on_jobs(p_operation queue.operations, p_now timestamptz, p_until timestamptz)
returns queue.operations
language plpgsql set search_path = ''
set enable_seqscan = off -- a session's plan may be older than the rows
set jit = off as $$
declare
  v_last integer := p_operation.matched - p_operation.done - p_operation.skipped - p_operation.failed;
  v_ids uuid[];
  v_able uuid[];
  v_done integer;
begin
  if p_operation.action = 'replay' then
    return queue.replay_jobs(p_operation, v_last, p_now, p_until);
  end if;
  v_ids := array(
    select job_id from queue.operation_jobs where operation_id = p_operation.id and n between v_last - 199 and v_last);
  if p_operation.action = 'retry' then
    v_able := array(
      select id from public.jobs where id = any (v_ids)
        and (status = 'cancelled' or status = 'failed' and p_operation.undo_of is null)
      order by id for update);
    perform queue.retry_jobs(v_able, p_now, p_operation.undo_of is not null);
  elsif p_operation.undo_of is null then
    v_able := array(
      select id from public.jobs where id = any (v_ids) and finished_at is null and cancel_requested_at is null);
    perform queue.cancel(v_able, p_now);
  else -- what a retry or replay made ready and no one has started
    v_able := array(
      select id from public.jobs where id = any (v_ids) and status = 'pending' and attempts = 0 order by id for update);
    perform queue.cancel_held(v_able, 'cancelled', p_now);
  end if;
  update queue.operation_jobs as o set outcome = case when r.done then 'done' else 'skipped' end,
    reason = case when not r.done then r.reason end
  from (
    select i.id, coalesce(i.id = any (v_able) and case p_operation.action when 'retry' then j.status = 'pending'
        else j.status = 'cancelled' or j.cancel_requested_at is not null end, false) as done,
      case when j.id is null then 'deleted'
        when p_operation.action = 'retry' and i.id = any (v_able) then 'duplicate_job' -- its unique key is taken
        else j.status end as reason
    from unnest(v_ids) as i (id) left join public.jobs as j on j.id = any (array[i.id])) as r
  where o.operation_id = p_operation.id and o.n between v_last - 199 and v_last and o.job_id = r.id;
  select count(*) into v_done from queue.operation_jobs
  where operation_id = p_operation.id and n between v_last - 199 and v_last and outcome = 'done';
  p_operation.done := p_operation.done + v_done;
  p_operation.skipped := p_operation.skipped + cardinality(v_ids) - v_done;
  return p_operation;
end;
$$;
comment on function queue.act_on_jobs is 'Act on the next jobs of an operation whose row the caller holds, at most 200, the oldest first.';

create function queue.advance_operation(p_id uuid, p_now timestamptz, p_until timestamptz) returns boolean
language plpgsql set search_path = '' as $$
declare
  v_claims constant text := current_setting('request.jwt.claims', true);
  v_operation queue.operations;
begin
  select * into v_operation from queue.operations
  where id = p_id and status = 'running' and advance_at <= p_now for update skip locked;
  if not found then
    return false;
  end if;
  v_operation.reason := null;
  v_operation.advance_at := p_now;
  -- as the person who began it: every rule and limit that binds them binds it, and the audit log names them
  if v_operation.created_by is distinct from auth.uid() then
    perform set_config('request.jwt.claims', jsonb_build_object('sub', v_operation.created_by, 'role',
      'authenticated')::text, true);
  end if;
  if v_operation.created_by is not null and not queue.is_member(v_operation.workspace_id) then
    v_operation.status := 'stopped';
    v_operation.reason := 'the person who began it no longer belongs to the workspace';
  elsif v_operation.choosing is not null then
    v_operation := queue.collect_jobs(v_operation, p_until);
  else
    v_operation := queue.act_on_jobs(v_operation, p_now, p_until);
  end if;
  if v_operation.choosing is null
    and v_operation.done + v_operation.skipped + v_operation.failed = v_operation.matched then
    v_operation.status := 'completed';
  end if;
  update queue.operations as o set status = v_operation.status, reason = v_operation.reason,
    advance_at = v_operation.advance_at, choosing = v_operation.choosing, matched = v_operation.matched,
    has_more = v_operation.has_more, done = v_operation.done, skipped = v_operation.skipped,
    failed = v_operation.failed, finished_at = case when v_operation.status <> 'running' then p_now end
  where o.id = p_id;
  perform set_config('request.jwt.claims', coalesce(v_claims, ''), true);
  return true;
end;
$$;
comment on function queue.advance_operation is E'Do one slice or batch of an operation; false when it is not running, waits for a limit, or another holds it.\n\nWhat it did and how far it is commit together: each job is acted on once, and a crash loses nothing.';

create function queue.advance_operations(p_ids uuid[], p_now timestamptz, p_until timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_until constant timestamptz := least(p_until, clock_timestamp() + interval '250 milliseconds');
  v_id uuid;
  v_done integer := 0;
begin
  foreach v_id in array p_ids loop
    v_done := v_done + queue.advance_operation(v_id, p_now, v_until)::integer;
    exit when clock_timestamp() > v_until; -- those that waited longest come first the next time
  end loop;
  return v_done;
end;
$$;
comment on function queue.advance_operations is 'Advance operations by a batch each, for a quarter of a second; returns how many.';

create function queue.begin_operation(p_operation queue.operations) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_until constant timestamptz := clock_timestamp() + interval '300 milliseconds';
  v_id constant uuid := queue.new_id();
  v_before queue.operations;
  v_kept bigint;
  v_open integer;
begin
  -- a repeat that comes while the first is at work waits for it
  perform pg_advisory_xact_lock(hashtextextended('minutehand operations ' || p_operation.workspace_id, 0));
  select * into v_before from queue.operations
  where workspace_id = p_operation.workspace_id and idempotency_key = p_operation.idempotency_key;
  if found then
    return queue.operation_json(v_before) || '{"created": false, "wake": false}';
  end if;
  select count(*) filter (where finished_at is null), sum(matched) into v_open, v_kept
  from queue.operations where workspace_id = p_operation.workspace_id;
  if v_open >= (queue.setting('max_open_operations'))::integer then
    perform queue.refuse(429, 'quota_exceeded', format('the workspace already has %s operations that have not '
      'finished; wait for one, or stop one', v_open), 'max_open_operations');
  elsif v_kept >= (queue.setting('max_operation_jobs'))::bigint then
    perform queue.refuse(429, 'quota_exceeded', format('results of %s jobs are kept; wait until some are %s days old',
      v_kept, queue.setting('operation_days')), 'max_operation_jobs');
  end if;
  insert into queue.operations (id, workspace_id, name, action, filter, most, undo_of, idempotency_key, advance_at,
    choosing, created_by, created_at)
  values (v_id, p_operation.workspace_id, p_operation.name, p_operation.action, p_operation.filter, p_operation.most,
    p_operation.undo_of, p_operation.idempotency_key, queue.clock(), p_operation.choosing, auth.uid(), queue.clock());
  while queue.advance_operation(v_id, queue.clock(), v_until) and clock_timestamp() < v_until loop
  end loop;
  select * into p_operation from queue.operations where id = v_id;
  return queue.operation_json(p_operation) || jsonb_build_object('created', true,
    'wake', p_operation.status = 'running' and queue.request_wake());
end;
$$;
comment on function queue.begin_operation is 'Keep an operation, or find it by its key, and do what a moment allows of it; maintenance does the rest.';

create function public.count_operation(p_workspace_id uuid, p_request jsonb) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_until constant timestamptz := clock_timestamp() + interval '1 second';
  v_operation queue.operations;
  v_slice record;
begin
  perform queue.take_turn();
  v_operation := queue.read_operation(p_workspace_id, p_request);
  v_operation.matched := 0;
  loop
    v_slice := queue.collect_slice(v_operation, v_until);
    v_operation.matched := v_operation.matched + cardinality(v_slice.ids);
    v_operation.choosing := v_slice.choosing;
    exit when v_slice.choosing is null or v_operation.matched > v_operation.most or clock_timestamp() > v_until;
  end loop;
  return jsonb_build_object('count', least(v_operation.matched, v_operation.most),
    'more', v_operation.choosing is not null or v_operation.matched > v_operation.most);
exception
  when invalid_text_representation or invalid_datetime_format or datetime_field_overflow or invalid_parameter_value then
    perform queue.refuse_value('the filter', 'filter', sqlerrm);
end;
$$;
comment on function public.count_operation is E'How many jobs an operation would choose now: {count, more}.\n\nThe request is that of create_operation. Counts for a second and up to its limit; more: there are others.';

create function public.create_operation(p_workspace_id uuid, p_request jsonb) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_asked queue.operations;
begin
  perform queue.take_turn();
  v_asked := queue.read_operation(p_workspace_id, p_request);
  if v_asked.action <> 'retry' and jsonb_strip_nulls(coalesce(p_request -> 'filter', '{}')) in ('{}', 'null') then
    perform queue.refuse(422, 'validation_failed', 'filter: name at least one criterion', 'filter');
  end if;
  return queue.begin_operation(v_asked);
exception
  when invalid_text_representation or invalid_datetime_format or datetime_field_overflow or invalid_parameter_value then
    perform queue.refuse_value('the filter', 'filter', sqlerrm);
end;
$$;
comment on function public.create_operation is E'Cancel, retry or replay all jobs that match a filter: the operation, with created and wake.\n\nRequest: {action: cancel|retry|replay, filter, name?, limit?, idempotency_key?}; the filter is that of list_jobs without workspace_id. Cancel is for live jobs, retry for failed ones (or cancelled ones, if the filter says so), replay for all that have ended; without a criterion cancel and replay are refused. The jobs are chosen once, at most limit (up to 100,000, the default): what arrives later is not touched. The call does what 300 ms allow; workers do the rest, the oldest jobs first, as the person who began it and within their limits. An operation has status (running, paused, stopped, completed), matched, counted (whether all are chosen), more (beyond limit), done, skipped, failed, reason, undo_of and undone_by. 429 quota_exceeded with max_open_operations unfinished ones.';

create function public.undo_operation(p_operation_id uuid) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_of queue.operations := queue.visible_operation(p_operation_id, p_lock => true);
  v_undo queue.operations;
begin
  perform queue.take_turn();
  select * into v_undo from queue.operations where undo_of = p_operation_id;
  if found then
    return queue.operation_json(v_undo) || '{"created": false, "wake": false}';
  elsif v_of.done = 0 then
    perform queue.refuse(409, 'invalid_state', 'the operation has changed no job', v_of.status);
  elsif v_of.finished_at is null then
    perform public.steer_operation(p_operation_id, 'stop');
  end if;
  v_undo.workspace_id := v_of.workspace_id;
  v_undo.name := left('Undo ' || v_of.name, 200);
  v_undo.action := case v_of.action when 'cancel' then 'retry' else 'cancel' end;
  v_undo.filter := '{}';
  v_undo.most := 100000;
  v_undo.undo_of := p_operation_id;
  v_undo.choosing := '{"source": 0}';
  return queue.begin_operation(v_undo);
end;
$$;
comment on function public.undo_operation is E'Take an operation back, by another one: jobs it cancelled are retried, scheduled ones at their time; of those it retried or replayed, the ones that have not started are cancelled.\n\nStops it first. A repeat returns the same operation. 409 when it has changed no job.';

create function public.steer_operation(p_operation_id uuid, p_action text) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_operation queue.operations := queue.visible_operation(p_operation_id, p_lock => true);
  v_status text := case p_action when 'pause' then 'paused' when 'resume' then 'running' when 'stop' then 'stopped' end;
begin
  if v_status is null then
    perform queue.refuse(400, 'invalid_argument', 'action must be pause, resume or stop', 'action');
  elsif v_operation.status <> v_status and v_operation.finished_at is not null then
    perform queue.refuse(409, 'invalid_state', format('the operation is already %s', v_operation.status),
      v_operation.status);
  elsif v_operation.status <> v_status then
    update queue.operations set status = v_status, reason = null, advance_at = queue.clock(),
      finished_at = case v_status when 'stopped' then queue.clock() end
    where id = p_operation_id returning * into v_operation;
    perform queue.note_action(p_action, v_operation.workspace_id, null, 0,
      jsonb_build_object('kind', 'operation', 'name', v_operation.name));
  end if;
  return queue.operation_json(v_operation) || jsonb_build_object('wake',
    v_status = 'running' and queue.request_wake());
end;
$$;
comment on function public.steer_operation is E'Pause, resume or stop an operation; returns it.\n\nA batch that is under way ends first. A stopped one does not continue; what it did stays, see undo_operation. 409 when it has finished.';

create function public.get_operation(p_operation_id uuid) returns jsonb
language sql
security definer -- callers hold no rights on the engine's tables
set search_path = ''
as $$ select queue.operation_json(queue.visible_operation(p_operation_id)) $$;
comment on function public.get_operation is 'An operation; 404 when it is missing or another workspace''s.';

create function public.list_operations(
  p_workspace_id uuid, p_cursor jsonb default null, p_limit numeric default 50
) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_limit constant integer := least(200, greatest(1, coalesce(queue.whole(p_limit, 'p_limit'), 50)));
  v_place constant queue.list_place := queue.cursor_place(p_cursor);
begin
  perform queue.take_turn();
  perform queue.may_steer(p_workspace_id);
  return (
    with page as (
      select o, row_number() over (order by o.created_at desc, o.id desc) as n from queue.operations as o
      where o.workspace_id = p_workspace_id and (v_place.id is null or (o.created_at, o.id) < (v_place.created_at,
        v_place.id))
      order by o.created_at desc, o.id desc limit v_limit + 1)
    select jsonb_build_object(
      'operations', coalesce(jsonb_agg(queue.operation_json(p.o) order by p.n) filter (where p.n <= v_limit), '[]'),
      'next', (select jsonb_build_object('created_at', (l.o).created_at, 'id', (l.o).id) from page as l
        where l.n = v_limit and exists (select from page as m where m.n > v_limit)))
    from page as p);
end;
$$;
comment on function public.list_operations is 'Operations of a workspace, newest first: {operations, next: {created_at, id} | null}; at most 200 a page.';

create function public.operation_jobs(
  p_operation_id uuid, p_outcome text default null, p_cursor numeric default null, p_limit numeric default 100
) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_operation queue.operations := queue.visible_operation(p_operation_id);
  v_limit constant integer := least(1000, greatest(1, coalesce(queue.whole(p_limit, 'p_limit'), 100)));
  v_before constant integer := coalesce(queue.whole(p_cursor, 'p_cursor'), v_operation.matched + 1);
begin
  perform queue.take_turn();
  if p_outcome <> all (array['done', 'skipped', 'failed', 'waiting']) then
    perform queue.refuse(400, 'invalid_argument', 'outcome must be done, skipped, failed or waiting', 'outcome');
  end if;
  return (
    with page as (
      select o.* from queue.operation_jobs as o
      where o.operation_id = p_operation_id and o.n < v_before
        and (p_outcome is null or coalesce(o.outcome, 'waiting') = p_outcome)
      order by o.n desc limit v_limit)
    select jsonb_build_object(
      'jobs', coalesce(jsonb_agg(jsonb_build_object('job_id', p.job_id, 'job_type', j.job_type, 'outcome',
        coalesce(p.outcome, 'waiting'), 'reason', p.reason, 'new_job_id', p.new_job_id) order by p.n desc), '[]'),
      'next', case when count(*) = v_limit then min(p.n) end)
    from page as p left join public.jobs as j on j.id = p.job_id);
end;
$$;
comment on function public.operation_jobs is E'What became of each job of an operation, in the order in which they are acted on: {jobs: [{job_id, job_type, outcome, reason, new_job_id}], next}; pass next as p_cursor to continue.\n\nOutcome: done, skipped (reason: the state it was in, deleted, or duplicate_job), failed (reason: the error) or waiting. new_job_id: what a replay made. At most 1,000 a page.';

select queue.allow('authenticated, service_role', 'public.count_operation', 'public.create_operation',
  'public.undo_operation', 'public.steer_operation', 'public.get_operation', 'public.list_operations',
  'public.operation_jobs');
