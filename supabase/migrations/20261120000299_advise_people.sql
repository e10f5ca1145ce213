-- What to do about a job: a remedy for what happened to it, the checks that concern it, and since when and for
-- whom it fails. The console and the command show this and derive nothing themselves.

create function queue.error_line(p_message text, p_error jsonb) returns text
language sql immutable set search_path = '' as $$
  select case when k.kind is null or p_message is null or left(p_message, length(k.kind)) = k.kind
      or k.kind in ('Fail', 'Retry', 'Cancelled', 'WorkerLost', 'AttemptTimeout', 'DeadlineReached',
        'PayloadRejected',
        'ResultRejected') then p_message
    else k.kind || ': ' || p_message end
  from (select substring(p_error ->> 'type' from '[^.]+$') as kind) as k
$$;
comment on function queue.error_line is 'An error in one line, the exception''s type before its message, as Python prints it; what the engine itself says stays as it is.';

create function queue.shown_error(p_job public.jobs) returns text
language sql stable set search_path = '' as $$
  select left(k.line, 300) || case when length(k.line) > 300 then '…' else '' end
  from (select btrim(regexp_replace(queue.error_line(p_job.error_message, p_job.error_data), '\s+', ' ', 'g')) as line)
    as k
$$;
comment on function queue.shown_error is 'A job''s error as part of a sentence: on one line, the first 300 characters.';

create function queue.http_remedy(p_status integer, p_at text, p_retry text) returns text
language sql immutable set search_path = '' as $$
  select case
    when p_status = 429 then format('The service it calls%s asked to slow down (429). %s A rate limit on the type '
      'keeps it below what the service takes.', p_at, p_retry)
    when p_status in (401, 403) then format('The service it calls%s refused its credentials (%s): check the key '
      'and what it may do, then retry.', p_at, p_status)
    when p_status = 408 or p_status >= 500 then format('The service it calls%s failed (%s). %s', p_at, p_status,
      p_retry)
    when p_status >= 400 then format('The service it calls%s refused the request (%s): correct what is sent, '
      'deploy, then retry: finished steps are kept.', p_at, p_status) end
$$;
comment on function queue.http_remedy is 'What to do about the status that a vendor answered with; null for one below 400.';

create function queue.failed_remedy(p_job public.jobs, p_place text, p_child_place text) returns text
language plpgsql stable set search_path = '' as $$
declare
  v_type text := coalesce(p_job.error_data ->> 'type', '');
  v_errno text := coalesce(p_job.error_data ->> 'errno', '');
  v_said text := coalesce(p_job.error_message, '');
  v_ended boolean := p_job.finished_at is not null;
  v_at text := coalesce(' at ' || p_place, '');
  v_retry text := case when v_ended then 'When it is back, retry: finished steps are kept.'
    else format('It is retried automatically%s; "Run now" retries at once.',
      coalesce(' at ' || queue.utc(p_job.next_retry_at), '')) end;
  v_again text := case when v_ended then ', then retry: finished steps are kept.' else '; it is retried '
    'automatically.' end;
begin
  return case
    when v_type like '%ChildrenFailed' then format('A child job failed%s. Correct that first; then retry the '
      'child, and this job, whose finished steps are kept.', coalesce(' at ' || p_child_place, ''))
    when v_type = 'AttemptTimeout' then format('%sGive the type a longer timeout, or split the work into steps: a '
      'retry continues after the last finished one.', coalesce('It was at ' || p_place || '. ', ''))
    when v_type = 'WorkerLost' and v_said ~ 'was ended by SIG(SEGV|ABRT|BUS|FPE|ILL)' then format('Native code '
      'crashed%s: correct what is given to it, or use another version of the library%s', v_at, v_again)
    when v_type = 'WorkerLost' and v_said like '%ended with exit code%' then 'Code that ran there ended the whole '
      'process, as os._exit does: raise an error instead. That worker''s log ends with what it last said.'
    when v_type = 'WorkerLost' then 'Its worker stopped answering: out of memory, killed by a deploy, or its loop '
      'was blocked for longer than the lease. Look at that worker''s log at the end of the attempt; blocking '
      'calls belong in a thread.'
    when v_type = 'PayloadRejected' then 'The payload does not fit what the processor takes. Duplicate the job '
      'with a corrected one, and correct the code that enqueued it.'
    when v_type = 'ResultRejected' then format('The work is done and its result is lost: return what JSON can '
      'hold%s, deploy, and retry if it may run twice.', v_at)
    when v_type = 'DeadlineReached' then 'Split the work into steps, or give the worker more time.'
    when v_errno in ('ENOSPC', 'EDQUOT') then format('The disk of its worker is full (%s)%s: free space or give '
      'the worker more, on Lambda EphemeralStorage%s', v_errno, v_at, v_again)
    when v_errno = 'ENOMEM' or v_type = 'MemoryError' then format('Its worker ran out of memory%s: process less '
      'at once, or give the worker more memory%s', v_at, v_again)
    when v_errno in ('EMFILE', 'ENFILE') then format('Its worker has too many open files or sockets (%s)%s: close '
      'what is opened, run fewer jobs at once, or raise `ulimit -n`%s', v_errno, v_at, v_again)
    when v_type = 'RecursionError' then format('It calls itself without an end%s: correct the condition that ends '
      'it, deploy%s', v_at, v_again)
    when p_job.error_data ->> 'status' ~ '^[45]\d\d$'
      then queue.http_remedy((p_job.error_data ->> 'status')::integer, v_at, v_retry)
    when v_said ~ 'CERTIFICATE_VERIFY_FAILED' then format('The certificate of the service it calls%s does not hold: '
      'it has expired, names another host, or is signed by an authority that the worker does not trust. %s', v_at,
      v_retry)
    when v_said ~* 'name or service not known|name resolution|nodename nor servname|no address associated|getaddrinfo'
      then format('The name of the service it calls%s does not resolve: check the address that is called, and the '
      'worker''s DNS. %s', v_at, v_retry)
    when v_type ~ '(^|\.)(\w*Connect\w*Error|\w*Timeout(Error|Exception)?|(Read|Write|URL|ServerDisconnected|'
      'RemoteProtocol)Error|(Service)?Unavailable|gaierror)$' or v_type ~ '^psycopg.*\.OperationalError$'
      then format('A service that it calls%s did not answer. %s', v_at, v_retry)
    when v_ended then format('Correct %s, deploy, then retry: finished steps are kept.', coalesce(p_place, 'the '
      'cause'))
    when p_place is not null
      then format('It is retried automatically; a correction of %s deployed before then applies.', p_place)
    else 'It is retried automatically.' end;
end;
$$;
comment on function queue.failed_remedy is 'What to do about the last error of a job. p_place: file:line of the innermost own frame, where the caller may know it.';

create function queue.stopped_remedy(p_reason text, p_workspace_id uuid) returns text
language sql stable set search_path = '' as $$
  select case p_reason
    when 'workspace_paused' then case when queue.is_manager(p_workspace_id)
      then 'Resume the workspace once the reason no longer applies.' else 'A manager resumes the workspace.' end
    when 'workspace_type_paused'
      then 'The type is paused in this workspace: correct what made it fail, then resume it. Where its failures paused '
        'it, one job at a time also tries it by itself, a minute later and then ever less often.'
    when 'type_paused' then 'It is paused for everyone: an operator resumes it.'
    when 'queue_paused' then 'It is paused for everyone: an operator resumes it.'
    when 'no_worker'
      then 'Start a worker, or find out why none runs: the schedule that starts it, its log, its keys. '
        '`minutehand doctor` checks each.'
    when 'no_processor'
      then 'Deploy a worker that has this type''s processor, and check that the name is spelled the same.'
    when 'rate_limited' then 'It starts as soon as the limit allows. Raise the type''s rate limit if the service '
      'behind it takes more.'
    when 'workspace_limit' then 'It starts when another job of the workspace ends. Raise the workspace''s own '
      'limit if it is too small.'
    when 'lease_expired' then 'The next check for expired leases, within seconds, gives it to another worker.'
    when 'not_leased' then 'Workers run and take nothing: look at their logs, and at what `minutehand doctor` says.'
    else case when p_reason in ('key_limit', 'workspace_type_limit', 'type_limit') then
      'It starts when one of those running ends. Raise the type''s concurrency if it may run more at once.' end end
$$;
comment on function queue.stopped_remedy is 'What to do about what keeps a job from starting or ending, by the reason of explain_job; null where there is nothing to do.';

create function queue.job_checks(p_job public.jobs, p_now timestamptz) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_pause jsonb := queue.explain_pause(p_job);
  v_workers jsonb := queue.explain_workers(p_job, p_now);
  v_limit jsonb;
  v_lease queue.leases;
begin
  if p_job.status = 'pending' then
    v_limit := queue.explain_limits(p_job, p_now);
  elsif p_job.status = 'processing' then
    select * into v_lease from queue.leases where job_id = p_job.id;
  end if;
  return (
    select jsonb_agg(jsonb_build_object('check', c.name, 'verdict', c.verdict, 'detail', c.detail, 'command',
      c.command)
      order by array_position(array['fail', 'warn', 'pass'], c.verdict), c.place)
    from (values
      (1, 'workers', case when v_workers is null then 'pass' else 'fail' end,
        coalesce(v_workers ->> 'sentence', format('A worker that serves %s runs.', p_job.job_type)),
        v_workers ->> 'command'),
      (2, 'pauses', case when v_pause is null then 'pass' else 'warn' end,
        coalesce(v_pause ->> 'sentence', 'Nothing that concerns it is paused.'), v_pause ->> 'command'),
      (3, 'limits', case when p_job.status <> 'pending' then null when v_limit is null then 'pass' else 'warn' end,
        coalesce(v_limit ->> 'sentence', 'No limit holds it back.'),
        case when v_limit ->> 'reason' = 'rate_limited' then 'minutehand types ' || p_job.job_type
          when v_limit ->> 'reason' = 'workspace_limit' then 'minutehand ls --state running'
          when v_limit is not null then 'minutehand ls --state running --type ' || p_job.job_type end),
      (4, 'lease', case when v_lease.job_id is null then null when v_lease.expires_at <= p_now then 'fail' else
        'pass' end,
        case when v_lease.expires_at <= p_now
          then format('Worker %s stopped answering; its lease expired.', v_lease.worker_id)
          else format('Worker %s answers.', v_lease.worker_id) end,
        case when v_lease.expires_at <= p_now then 'minutehand doctor --only schedule' end),
      (5, 'attempts', case when p_job.lost_attempts > 0 then 'warn' end,
        format('%s of its attempts lost their worker.', p_job.lost_attempts), 'minutehand show ' || p_job.id),
      (6, 'storage', case when current_setting('default_transaction_read_only')::boolean then 'fail' else 'pass' end,
        case when current_setting('default_transaction_read_only')::boolean
          then 'The database is read-only: its plan is full.' else 'The database takes writes.' end,
        case when current_setting('default_transaction_read_only')::boolean then 'minutehand doctor --only storage'
          end))
      as c (place, name, verdict, detail, command) where c.verdict is not null);
end;
$$;
comment on function queue.job_checks is 'The checks that concern a job, what failed first: [{check, verdict, detail, command}].';

create function queue.failure_history(p_job public.jobs) returns jsonb
language sql stable set search_path = '' as $$
  with scope as materialized (
    select queue.is_operator() or auth.uid() is null and queue.is_service() as whole),
  ended as ( -- of one workspace by its key, of all by the index of failures
    (select e.job_id from queue.ended as e, scope where not scope.whole and e.workspace_id = p_job.workspace_id
      and e.outcome = 'failed' order by e.job_created_at desc, e.job_id desc limit 2000)
    union all
    (select e.job_id from queue.ended as e, scope where scope.whole and e.outcome = 'failed'
      order by e.job_id desc limit 2000)),
  alike as materialized (
    select j.id, j.workspace_id, j.finished_at from ended as e join public.jobs as j on j.id = any (array[e.job_id])
    where j.job_type = p_job.job_type and j.error_fingerprint = p_job.error_fingerprint),
  touched as (select a.id, a.workspace_id from alike as a union select p_job.id, p_job.workspace_id),
  began as (
    select a.leased_at, coalesce(a.origin ->> 'version', w.version) as version, w.origin ->> 'commit' as commit
    from touched as k
    cross join lateral (select * from queue.attempts as t where t.job_id = k.id
      and t.outcome in ('failed', 'retry', 'lost') order by t.fence limit 1) as a
    left join queue.workers as w on w.worker_id = a.worker_id
    order by a.leased_at limit 1)
  select jsonb_build_object('first_seen_at', (select b.leased_at from began as b),
    'version', (select b.version from began as b), 'commit', (select b.commit from began as b),
    'jobs', (select count(*) from touched), 'workspaces', (select count(distinct t.workspace_id) from touched as t),
    'last_success_at', (select max(e.ended_at) from (
      select o.ended_at, o.workspace_id from queue.ended as o
      where o.job_type = p_job.job_type and o.outcome collate "C" = 'completed'
      order by o.ended_at desc limit 2000) as e, scope where scope.whole or e.workspace_id = p_job.workspace_id))
$$;
comment on function queue.failure_history is 'Since when and for whom a job''s error happens, of the latest 2,000 failures: {first_seen_at, version, commit, jobs, workspaces, last_success_at}; of its workspace, for operators of all.';

create function queue.last_place(p_job_id uuid) returns text
language sql stable set search_path = '' as $$
  select queue.first_frame(a.traceback) from queue.attempts as a
  where a.job_id = p_job_id and a.traceback is not null order by a.fence desc limit 1
$$;
comment on function queue.last_place is 'Where the last attempt with a traceback failed: file:line.';

create function queue.advice(p_job public.jobs, p_reason text, p_now timestamptz) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_open boolean := queue.may_see_tracebacks(p_job.workspace_id);
  v_failed boolean := p_job.status = 'failed' or p_job.status = 'pending' and p_job.error_message is not null;
  v_checks jsonb;
  v_child uuid;
  v_remedy text := case when p_job.finished_at is null then queue.stopped_remedy(p_reason, p_job.workspace_id) end;
begin
  if p_job.status in ('completed', 'cancelled') then
    return '{"remedy": null, "command": null, "child_id": null, "checks": [], "history": null}';
  end if;
  v_checks := queue.job_checks(p_job, p_now);
  if v_failed and p_job.error_data ->> 'type' like '%ChildrenFailed' then
    select c.id into v_child from public.jobs as c where c.parent_id = p_job.id and c.status = 'failed'
    order by c.finished_at desc limit 1;
  end if;
  if v_remedy is null and v_failed then
    v_remedy := queue.failed_remedy(p_job, case when v_open then queue.last_place(p_job.id) end,
      case when v_open then queue.last_place(v_child) end);
  end if;
  return jsonb_build_object('remedy', v_remedy, 'child_id', v_child, 'checks', v_checks,
    'command', coalesce((select c.value ->> 'command' from jsonb_array_elements(v_checks) as c
      where c.value ->> 'verdict' <> 'pass' and p_job.finished_at is null limit 1),
      case when p_job.status = 'failed' then 'minutehand retry ' || p_job.id end),
    'history', case when v_failed and p_job.error_fingerprint is not null then queue.failure_history(p_job) end);
end;
$$;
comment on function queue.advice is 'What to do about a job that has not ended well: {remedy, command, child_id, checks, history}, see explain_job.';
