-- From the outbox into the queue: a publisher in each worker run, dead letters, redrive, the reconciler.
-- What a message must be is checked by the worker's model before, and by the job type's schema in the queue.

insert into queue.settings (name, value) values
('beacon_outbox_attempts', '10'), -- tries to publish a message before it is a dead letter
('beacon_created_seconds', '30'); -- a job that is longer in the outbox is repaired by the reconciler

create function public.beacon_claim_outbox(p_limit numeric default 50) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
as $$
declare
  v_now timestamptz := queue.clock();
  v_rows jsonb;
begin
  with due as (
    select o.id from public.beacon_outbox as o
    where o.status = 'pending' and o.next_attempt_at <= v_now
    order by o.next_attempt_at, o.id limit least(200, greatest(1, queue.whole(p_limit, 'p_limit')))
    for update skip locked), -- publishers side by side take different rows
  taken as (
    update public.beacon_outbox as o
    -- a publisher that dies with it has delayed it, no more: 2, 4, 8 ... seconds, a minute at most
    set attempts = o.attempts + 1,
      next_attempt_at = v_now + make_interval(secs => least(60, 2 ^ least(o.attempts + 1, 6)))
    from due where o.id = due.id returning o.id, o.message)
  select jsonb_agg(to_jsonb(taken) order by taken.id) into v_rows from taken;
  return jsonb_build_object('rows', coalesce(v_rows, '[]'));
end;
$$;
comment on function public.beacon_claim_outbox is
E'Take up to p_limit (at most 200) messages that are due: {rows: [{id, message}]}; for the worker.\n\nOldest '
'first. A row is offered again when nothing is reported of it within its backoff.';

create function beacon.publish_one(p_id uuid, p_now timestamptz) returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_row public.beacon_outbox;
  v_job public.beacon_jobs;
  v_done jsonb;
begin
  select * into v_row from public.beacon_outbox where id = p_id and status = 'pending' for update;
  if not found then
    return false; -- another publisher was faster, or it was cancelled
  end if;
  select * into v_job from public.beacon_jobs where id = v_row.job_id;
  v_done := queue.enqueue(v_job.workspace_id, null, jsonb_build_array(jsonb_build_object('job_type', 'beacon_job',
    'payload', v_row.message, 'priority', v_job.priority, 'user_id', v_job.created_by,
    'session_id', 'beacon:' || v_job.id)), false);
  update public.beacon_outbox
  set status = 'published', published_at = p_now, error = null, queue_job_id = (v_done #>> '{ids,0}')::uuid
  where id = p_id;
  update public.beacon_jobs set status = 'queued', queue_job_id = (v_done #>> '{ids,0}')::uuid where id = v_job.id;
  return true;
end;
$$;
comment on function beacon.publish_one is
'Enqueue a pending message and note it, in one transaction: exactly once. False when it is not pending.';

create function beacon.publish_failed(p_id uuid, p_reason text, p_final boolean, p_now timestamptz) returns text
language plpgsql
set search_path = ''
as $$
declare
  v_row public.beacon_outbox;
begin
  update public.beacon_outbox set error = left(p_reason, 2000),
    status = case when p_final or attempts >= (queue.setting('beacon_outbox_attempts'))::integer then 'dead'
      else status end
  where id = p_id and status = 'pending' returning * into v_row;
  if v_row.status = 'dead' then
    perform beacon.end_job(v_row.job_id, 'failed', 'it could not be queued: ' || p_reason, p_now);
  end if;
  return v_row.status;
end;
$$;
comment on function beacon.publish_failed is
'Note why a message was not published; final, or after the last try, it is a dead letter and its job failed.';

create function public.beacon_publish(p_ids uuid[], p_refused jsonb default '[]') returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_now timestamptz := queue.clock();
  v_id uuid;
  v_refused record;
  v_message text;
  v_hint text;
  v_published integer := 0;
  v_dead integer := 0;
begin
  foreach v_id in array p_ids loop
    begin
      v_published := v_published + beacon.publish_one(v_id, v_now)::integer;
    exception when others then
      get stacked diagnostics v_message = message_text, v_hint = pg_exception_hint;
      -- what the queue refuses for its content it always refuses; other errors may pass
      if beacon.publish_failed(v_id, v_message,
          v_hint in ('payload_invalid', 'payload_too_large', 'invalid_argument'), v_now) = 'dead' then
        v_dead := v_dead + 1;
      end if;
    end;
  end loop;
  for v_refused in
    select (r.value ->> 'id')::uuid as id, r.value ->> 'reason' as reason from jsonb_array_elements(p_refused) as r
  loop
    perform beacon.publish_failed(v_refused.id, v_refused.reason, true, v_now);
    v_dead := v_dead + 1;
  end loop;
  return jsonb_build_object('published', v_published, 'dead', v_dead);
end;
$$;
comment on function public.beacon_publish is
E'Enqueue claimed messages, each by itself: {published, dead}; for the worker.\n\np_refused, [{id, reason}], are '
  'messages that its model does not take: they are dead letters at once, as are those that the queue refuses for '
  'their content. Other failures are tried again.';

create function public.beacon_redrive(p_workspace_id uuid default null, p_ids uuid[] default null) returns jsonb
language plpgsql
security definer -- members hold no right to write the outbox
set search_path = ''
as $$
declare
  v_workspace uuid := queue.workspace_or_refuse(p_workspace_id);
  v_jobs uuid[];
begin
  with redriven as (
    update public.beacon_outbox set status = 'pending', attempts = 0, next_attempt_at = queue.clock()
    where id = any (array(
      select o.id from public.beacon_outbox as o
      where o.workspace_id = v_workspace and o.status = 'dead'
        and (p_ids is null or o.id = any (p_ids) or o.job_id = any (p_ids))
      order by o.id limit 500 for update))
    returning job_id)
  select coalesce(array_agg(job_id order by job_id), '{}') into v_jobs from redriven;
  update public.beacon_jobs set status = 'created', error = null, finished_at = null, reached = '{}'
  where id = any (v_jobs);
  update public.beacon_executions set status = 'pending', error = null, completed_at = null
  where job_id = any (v_jobs) and status in ('failed', 'cancelled');
  return jsonb_build_object('count', cardinality(v_jobs),
    'wake', cardinality(v_jobs) > 0 and queue.wake_worker());
end;
$$;
comment on function public.beacon_redrive is
E'Publish dead letters of the outbox again, at most 500: {count, wake}; for members.\n\np_ids are rows or jobs; '
'all of the workspace when null.';

create function beacon.repair_created(p_now timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ids uuid[];
begin
  with late as (
    select o.id from public.beacon_jobs as j join public.beacon_outbox as o on o.job_id = j.id
    where j.finished_at is null and j.status = 'created' and o.status = 'pending'
      and greatest(j.created_at, o.created_at)
        < p_now - make_interval(secs => (queue.setting('beacon_created_seconds'))::integer)
    order by o.id limit 200 for update of o skip locked),
  nudged as (
    update public.beacon_outbox as o set next_attempt_at = least(o.next_attempt_at, p_now)
    from late where o.id = late.id returning o.id)
  select array_agg(id) into v_ids from nudged;
  return coalesce(cardinality(v_ids), 0);
end;
$$;
comment on function beacon.repair_created is 'Make messages due that have been in the outbox for too long; returns how many.';

create function beacon.repair_published(p_now timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_jobs uuid[];
begin
  -- its job was deleted from the queue, by hand or by retention: it must be enqueued again
  with lost as (
    select o.id from public.beacon_jobs as j join public.beacon_outbox as o on o.job_id = j.id
    where j.finished_at is null and o.status = 'published'
      and not exists (select 1 from public.jobs as q where q.id = o.queue_job_id)
    order by o.id limit 200 for update of o skip locked),
  again as (
    update public.beacon_outbox as o
    set status = 'pending', published_at = null, queue_job_id = null, attempts = 0, next_attempt_at = p_now
    from lost where o.id = lost.id returning o.job_id)
  select coalesce(array_agg(job_id), '{}') into v_jobs from again;
  update public.beacon_jobs set status = 'created', queue_job_id = null where id = any (v_jobs);
  return cardinality(v_jobs);
end;
$$;
comment on function beacon.repair_published is
'Publish messages again that are marked as published and are not in the queue; returns how many.';

create function beacon.repair_ended(p_now timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_one record;
  v_count integer := 0;
begin
  -- the queue ended it without its processor: cancelled by hand, or a dead letter
  for v_one in
    select j.id, q.status, q.error_message from public.beacon_jobs as j join public.jobs as q on q.id = j.queue_job_id
    where j.finished_at is null and q.finished_at is not null order by j.id limit 200 for update of j skip locked
  loop
    perform beacon.end_job(v_one.id, case v_one.status when 'cancelled' then 'cancelled' else 'failed' end,
      case when v_one.status <> 'cancelled' then coalesce(v_one.error_message, 'its job in the queue ended') end,
      p_now);
    v_count := v_count + 1;
  end loop;
  return v_count;
end;
$$;
comment on function beacon.repair_ended is 'End jobs that have ended only in the queue; returns how many.';

create function public.beacon_reconcile(p_every_seconds numeric default 10) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
as $$
declare
  v_now timestamptz := queue.clock();
  v_found jsonb;
begin
  if exists (select 1 from beacon.reconciliations where ran_at > v_now - make_interval(
      secs => queue.whole(p_every_seconds, 'p_every_seconds')))
    or not pg_try_advisory_xact_lock(hashtextextended('beacon_reconcile', 0)) then
    return jsonb_build_object('ran', false, 'found', '{}'::jsonb);
  end if;
  v_found := jsonb_build_object('created_too_long', beacon.repair_created(v_now),
    'published_without_job', beacon.repair_published(v_now), 'ended_in_queue', beacon.repair_ended(v_now));
  insert into beacon.reconciliations (ran_at) values (v_now) on conflict (id) do update set ran_at = excluded.ran_at;
  return jsonb_build_object('ran', true, 'found', v_found);
end;
$$;
comment on function public.beacon_reconcile is
E'Find and repair inconsistencies between jobs, outbox and queue: {ran, found: {created_too_long, '
  'published_without_job, ended_in_queue}}; for the worker.\n\nAt most once in p_every_seconds over all workers, 200 '
  'of each kind at a time.';
