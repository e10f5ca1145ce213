-- 0.5.12 after the release before it; written by `python -m infra.release` from schemas.
-- Do not edit it, and do not read it: read the schemas.

-- Return the release of the engine's schema, which is the value of minutehand.version. `minutehand
-- doctor` compares this release with the release that the project recorded.
create or replace function queue.version()
returns text
language sql immutable
set search_path = ''
as $$
select '0.5.12'
$$;

create or replace function public.report_jobs(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
set lock_timeout = '8s'
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set jit = off
as $$
declare
  v_items constant queue.worker_item[] := (queue.read_items(p_request -> 'items')).items;
  v_reported constant uuid[] := array(
    select i.job_id
    from unnest(v_items) as i
    where num_nonnulls(i.progress, i.logs, i.steps, i.step, i.tags, i.output) > 0
  );
  v_busy uuid[] := '{}'; -- jobs of v_reported that another transaction has locked
  v_renewed uuid[];
begin
  perform queue.refuse_revoked();
  if v_reported <> '{}' then
    v_busy := queue.lock_held(v_reported);
    perform queue.write_reports(
      array(
        select i
        from unnest(v_items) as i
        where i.job_id <> all (v_busy)
      ),
      queue.clock()
    );
  end if;
  -- Renew a lease only if a fifth of its duration has passed, or if the report changes the lease,
  -- because workers report often. If another transaction has locked a lease now, the worker's next
  -- report renews the lease.
  v_renewed := array(
    select l.job_id
    from unnest(v_items) as i
    join queue.leases as l on l.job_id = i.job_id
    where num_nonnulls(i.lease_seconds, i.pulse) > 0
      or l.expires_at < queue.clock() + make_interval(secs => 0.8 * l.lease_seconds)
    order by l.job_id
    for no key update of l skip locked
  );
  update queue.leases as l
  set
    lease_seconds = s.lease_seconds,
    pulse = case
      when i.pulse is null then coalesce(l.pulse, '{}')
      else i.pulse - '{for_ms,left_ms}'::text[] || jsonb_build_object(
        'since', queue.clock() - (i.pulse ->> 'for_ms')::double precision * interval '1 ms',
        'times_out_at', queue.clock()
          + (i.pulse ->> 'left_ms')::double precision * interval '1 ms',
        'first_mb', coalesce(l.pulse -> 'first_mb', i.pulse -> 'memory_mb')
      )
    end || jsonb_build_object('pace', p.pace),
    expires_at = queue.clock() + make_interval(secs => s.lease_seconds)
  from unnest(v_items) as i
  join queue.leases as o on o.job_id = i.job_id and o.fence = i.fence
  cross join lateral (
    select case
      when i.lease_seconds between 1 and 43200 then i.lease_seconds::integer
      else o.lease_seconds
    end as lease_seconds
  ) as s
  cross join lateral ( -- progress that goes back begins another phase, which has its own pace
    select case
      when jsonb_typeof(i.progress -> 'percentage') = 'number'
          and i.progress -> 'percentage' is distinct from o.pulse #> '{pace,to}'
        then case
          when i.progress -> 'percentage' > o.pulse #> '{pace,to}' then o.pulse -> 'pace'
          else jsonb_build_object('from', i.progress -> 'percentage', 'since', queue.clock())
        end || jsonb_build_object('to', i.progress -> 'percentage', 'until', queue.clock())
      else o.pulse -> 'pace' -- its predicted end passes if the progress stops
    end as pace
  ) as p
  where l.job_id = any (v_renewed) and l.job_id = o.job_id;
  perform queue.send_unsent();
  return jsonb_build_object(
    'results', (
      select coalesce(
        jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
          'job_id', i.job_id,
          'fence', i.fence,
          'lease_expires_at', l.expires_at,
          'outcome', case
            when num_nulls(l.job_id, j.id) > 0 then 'lost'
            when i.job_id = any (v_busy) then 'busy'
            when j.cancel_requested_at is not null then 'cancel'
            else 'ok'
          end,
          'output', case
            when i.job_id <> all (v_busy) then queue.output_state(i, j)
          end
        ))),
        '[]'
      )
      from unnest(v_items) as i
      left join queue.leases as l on l.job_id = i.job_id and l.fence = i.fence
      left join public.jobs as j on j.id = l.job_id
    )
  );
end;
$$;

comment on function public.report_jobs is
  E'Report on running jobs and renew their leases: {results: [{job_id, fence, '
  'outcome: ok|cancel|lost|busy, output: followed|unfollowed|refused, lease_expires_at}]}.\n\n'
  'Items: {job_id, fence, progress?, logs?, logs_from?, steps?, step?, tags?, output?, '
  'pulse?: {last, for_ms, left_ms?, place?, code?, stack?, pid?, own_pids?, batched?, '
  'blocked_ms?, program?, waits?, in_thread?, memory_mb}, lease_seconds?}. Report an item again '
  'if its outcome is busy.';

select queue.allow('job_worker, service_role', 'public.report_jobs');

-- Each row has a sentence and advice for one reason why a job or the queue makes no progress. A row
-- with the reason failed:<kind> has the advice for failed jobs whose error has this kind. The
-- column `command` omits the command's first word, `minutehand`. If `path` is null, the advice
-- links to the job's page in the console. queue.render_guidance replaces a placeholder such as
-- {job_type} by the value with this name. Square brackets contain alternative texts, separated by
-- |. queue.render_guidance keeps the first alternative for which no value is missing. A single
-- alternative is optional. Of several alternatives, one is required, and the last may be empty.
create or replace view queue.guidance as
select row_number() over () as id, a.*
from (
  -- name all columns, because a dump of the view would otherwise differ from the view
  select
    'failed:' || f.kind as reason,
    null as sentence,
    s.words,
    s.command,
    s.path
  from (
    values
      (
        'timeout',
        'The traceback shows the line where it waited. Give that call its own time limit, remove '
          'the cause of the wait, or give the type a longer `timeout`.'
      ),
      ('abandoned', null),
      ('lost', 'Whether its process ended is unknown. See the log of its worker.'),
      (
        'lost:kill',
        '[Its process had used up to {peak_mb} MB. |]The system sends SIGKILL if memory runs out, '
          'but a person, another program or its own code may have sent it. If memory ran out, give '
          'the worker more, or let the job use less.'
      ),
      (
        'lost:fault',
        '[Its process had used up to {peak_mb} MB. |]{code} usually comes from a library in C. '
          'Update the library, or avoid the call.[ If memory ran out{is_abort}, which the log of '
          'the worker may say, give the worker more, or let the job use less.]'
      ),
      (
        'lost:signal',
        'Its own code, another program or the system sent {code} to its process. Correct that.'
      ),
      (
        'lost:blocked',
        'A call blocked the event loop until the worker ended the process. Run the call in a '
          'thread (`asyncio.to_thread`), or write the processor without `async`. A slow regular '
          'expression or other code in C can block in a thread too: run it in another process.'
      ),
      (
        'lost:exit',
        'Its process ended itself ({code}), usually by a call in its code. Remove the call.'
      ),
      (
        'killed',
        '[A program that it started was killed by {signal}|A process of its pool ended ({code})]. '
          'If memory ran out, give the worker more, or let the program use less.'
      ),
      (
        'variable',
        'Set the environment variable {code} for the worker: in the file of `serve --env-file`, or '
          'for `minutehand dev` and AWS by `lambda.yml` (`minutehand docs recipes`). Start the '
          'worker again.'
      ),
      (
        'program',
        'Install the program {code}, or the interpreter that this script names, where the worker '
          'runs, or correct `PATH`.'
      ),
      (
        'module',
        'Add the package of the module {code} to the deploy, or correct the import.'
      ),
      (
        'permission',
        'The worker may not use {error_path} ({code}). Give its user the right, or use another '
          'path.'
      ),
      ('machine', 'The database ran out of a resource ({code}). Free some of it.'),
      (
        'files',
        'The process reached its limit of open files ({code}). Close the files and connections '
          'that its code no longer uses, or raise the limit (`ulimit -n`).'
      ),
      (
        'disk',
        'The space or the quota of [the file system of {error_path}|a file system] on the machine '
          'of the worker is used up ({code}). Free some of it.'
      ),
      (
        'memory',
        'Its process could not allocate memory. Give the worker more memory, or let the job use '
          'less.'
      ),
      (
        'prepared',
        'The session of its connection lacks a prepared statement or has it already ({code}), as '
          'with a pooler in transaction mode. Turn prepared statements off in the driver, or '
          'connect in session mode.'
      ),
      (
        'lock',
        'It waited too long for a lock of another session ({code}). If this returns, its '
          'explanation or `minutehand status` can name the session while an attempt runs. End that '
          'session if no one needs it.'
      ),
      (
        'lock:file',
        'Another connection has locked the SQLite database ({code}). End its transaction, or raise '
          'the `timeout`.'
      ),
      (
        'contention',
        'It conflicted with another transaction ({code}). If this returns, take locks in one '
          'order, and briefly.'
      ),
      (
        'schema',
        'The database lacks an object that its query or call names ({code}). Apply the migration '
          '(for Minutehand, see `minutehand doctor`), or fix the query.'
      ),
      ('query', 'The database cannot run the query[ at {place}] ({code}). Correct the query.'),
      ('result', 'The result that the processor returned was rejected. Fix the code, and deploy.'),
      (
        'rejected',
        '[Its processor had finished{had_finished}, and a retry runs it again. ]Correct the '
          'trigger, constraint or value that caused the error. The doctor names a trigger that '
          'rejects all changes.'
      ),
      (
        'credentials',
        'Fix the credentials[ for the proxy{is_proxy}| for {address}|], which are missing or were '
          'rejected ({code}).'
      ),
      (
        'forbidden',
        '[{address}|The server] refused the call ({code})[; its answer says why{has_answer}]. '
          'Correct the cause, for example the rights of the credentials.'
      ),
      (
        'grant',
        '[The policies of {policed} rejected a row ({code}). Correct the row or the policies.|The '
          '{role}, or the owner of a `security definer` function that it calls, lacks a right on '
          '{object} ({code}). ][If a function of yours uses {own_object}, which '
          'belongs to Minutehand, make it `security definer` (`minutehand docs own-data`). '
          'Otherwise call the functions of Minutehand, whose rights `minutehand doctor` '
          'checks.|If {shared_object} '
          'belongs to Minutehand, call its functions instead. Otherwise grant that role the right.|'
          'Grant that role the right{is_granted}. If the table has row level security, the role '
          'also needs a policy, without which its reads are empty.|]'
      ),
      (
        'value',
        'The database rejected a value or a calculation ({code}). Correct the value or the query, '
          'or apply the migration that allows it.'
      ),
      (
        'statement',
        'The database cancelled a statement ({code}). If it took too long, make it faster or raise '
          '`statement_timeout`. If it waits for a lock, its explanation or `minutehand '
          'status` can name the session to end while an attempt runs.'
      ),
      (
        'rate',
        'If a quota of [{address}|the other service] is used up, raise it there. If the calls come '
          'too fast, set a lower `rate_limit` of the type.'
      ),
      ('request', 'Fix the request that was rejected ({code}).'),
      (
        'request:own',
        'The client rejected its own request ({code}). Correct it, for example a line break at the '
          'end of a key in a header.'
      ),
      (
        'sequence',
        'A sequence has no further number ({code}). Raise its limit, or change the sequence and '
          'its column to `bigint`.'
      ),
      (
        'connections',
        'All connections of the client were in use ({code}). Close each response, for example by '
          '`with`, or allow more connections.'
      ),
      (
        'connections:pool',
        'The pool had no free connection in time ({code}). If all are in use, return each after '
          'its use, for example by `with`, allow more, or lower `max_concurrency` of the type. If '
          'the pool cannot connect, the log of the worker says why.'
      ),
      (
        'connections:server',
        'The database or its pooler accepts no more connections ({code}). Jobs of this type may '
          'hold them: use fewer in each job, share one pool, or lower `max_concurrency` of the '
          'type. Or raise the limit, for example the `connection limit` of the role. To see who '
          'holds them: `select pid, usename, application_name, state, query from '
          'pg_stat_activity`.'
      ),
      (
        'closed',
        'The call used a connection, client or event loop that was already closed. Open one in '
          'each job, or use a pool that replaces closed ones. If the worker keeps the closed one, '
          'start the worker again.'
      ),
      (
        'library',
        'The library {error_path}, or one that it needs, could not be loaded. Add it to the image '
          'or the layer of the worker, built for the platform and the Python version there.'
      ),
      (
        'slow',
        'A call[ to {address}] took longer than its time limit ({code}). Raise the limit, or fix '
          'what the call waits for.[ If it waits for a lock, `minutehand status` can name the '
          'session{is_own_call}.]'
      ),
      (
        'slow:function',
        'The SQL function that the error names may be slow, or wait for a lock, or the database or '
          'the Data API does not answer. Its explanation or `minutehand status` can name the '
          'session to end while an attempt runs, and `minutehand doctor` says whether both answer. '
          'If they do, make the function faster.'
      ),
      (
        'redirect',
        '[{address}|The server] answered with a redirect ({code}). Correct the address, or the '
          'credentials if it leads to a login, or let the client follow redirects.'
      ),
      (
        'unavailable',
        'The connection to [{address}|the other service] failed. Correct what the error names, for '
          'example the address, the password, a TLS setting or a limit of connections.'
      ),
      (
        'unavailable:error',
        '[{address}|The other service] could not serve the request ({code}). See its log or status '
          'page.'
      ),
      (
        'unavailable:closed',
        '[{address}|The other service] closed or rejected the connection before its answer was '
          'complete ({code}). See in its log why, for example a restart or a time limit. If the '
          'connection was idle before, let the worker replace closed connections.'
      ),
      (
        'unavailable:port',
        'Check that [{address}|the other service] is up and accepts connections from the workers '
          '({code}), or correct its address.'
      ),
      (
        'unavailable:plain',
        '[{address}|The other service] did not answer with valid TLS ({code}). If this port has no '
          'TLS, use another port or `http:`.'
      ),
      (
        'unavailable:route',
        '[{address}|Its address] cannot be reached ({code}). Check the address and the network of '
          'the worker.'
      ),
      (
        'unavailable:name',
        'The host name [{address}|in its address] cannot be resolved ({code}). Check the name and '
          'the DNS server.'
      ),
      (
        'unavailable:certificate',
        'The certificate of [{address}|the other service] was rejected ({code}). Renew it, or let '
          'the worker trust its issuer.'
      ),
      (
        'json',
        '[The answer of {address}|The text that the code read] is not JSON. See how it begins, and '
          'correct the request, or check the answer before its JSON is read.'
      ),
      (
        'output',
        'Write less, or raise the setting `output_max_bytes`, which is {output_max_bytes}.'
      ),
      (
        'answer',
        'The model[ at {address}|] gave no usable answer. Try again, or change the request or the '
          'model. If this returns, see the status page of the vendor.'
      ),
      ('chosen', 'Follow the text of the error[, which was raised at {place}].')
  ) as f (kind, words)
  cross join lateral (
    values
      (f.words, null, case f.kind when 'rate' then '/types/{job_type}' end),
      ('Then [run{is_delayed} the job now|retry {failed}].', 'retry {job_id}', null)
  ) as s (words, command, path)
  union all -- advice for several reasons, before the other advice for one of these reasons
  select r as reason, null as sentence, s.words, s.command, s.path
  from (
    values
      (
        '{no_worker, no_processor, not_leased, next_in_line, behind_others, long_line,
          passed_over, running, cancelling, lease_expired, worker_died, silent_worker,
          delayed}'::text[],
        '[All worker keys were revoked at {revoked_at}|The key of worker {worker_id} was revoked '
          'at {key_revoked_at}]. Set `SUPABASE_WORKER_KEY` of the workers to a new key:',
        'token worker',
        '/overview'
      ),
      (
        '{no_worker, no_processor, running, lease_expired, silent_worker, expired_key}',
        'Set `SUPABASE_WORKER_KEY` of the workers to a key that is valid after {key_expired_at}:',
        'token worker',
        '/overview'
      ),
      (
        '{key_limit, workspace_type_limit, workspace_limit, type_limit, rate_limited, no_slot}',
        'If it must not wait for the jobs ahead of it ([{at_least} or more|{ahead}]), enqueue it '
          'again with a smaller priority{is_movable}.',
        null,
        null
      ),
      (
        '{key_limit, workspace_type_limit, workspace_limit, type_limit, no_slot}',
        '[Job {parent} is its parent. If the parent waits for it without `ctx.gather` or '
          '`ctx.map`, neither ends: cancel the parent, and fix its code.|See whether job {holder} '
          'still works{is_doubtful}:|Wait for job {holder}{is_first}:]',
        'explain {holder}',
        '/jobs/{holder}'
      ),
      (
        '{no_worker, no_processor, not_leased, next_in_line, behind_others, long_line,
          passed_over, running, cancelling, lease_expired, worker_died, silent_worker,
          delayed}',
        'No job can start or end, because the database rejects writes{is_read_only}. See how to '
          'end this:',
        'status',
        '/overview'
      ),
      (
        '{lease_expired, worker_died}',
        'Nothing to do until {patience_until}, if a worker runs: its maintenance reclaims the job '
          'before then. See what happened to its worker:',
        'show {job_id}',
        null
      ),
      (
        '{recursion, recursive_type}',
        'If {recursions} generations are too many, pause the type, cancel its jobs, and correct '
          'the code.',
        'pause --type {job_type} --workspace {workspace_id}',
        '/types/{job_type}'
      ),
      (
        '{locked, open_transaction, blocking_session}',
        '[Check whether these triggers of jobs or logs take long: {triggers}.|Wait for the end '
          'of {call}, which it runs.|If it is the session of job {owner}, commit it in the code of '
          'the job before {owner_call}. End it if no one needs it: `select '
          'pg_terminate_backend({pid})`.|If the job called the SQL function that this session '
          'runs{is_later}, make the function faster, or wait for its end. Otherwise end the '
          'session if no one needs it: `select pg_terminate_backend({pid})`.|End that session if '
          'no one needs it: `select pg_terminate_backend({pid})`.]',
        null,
        '[/jobs/{job_id}|/overview]' -- Overview may not show a session that has locked one row
      ),
      (
        '{stopped, stopped_jobs}',
        'See what stops the workers, for example a deploy or a health check.',
        '[explain {job_id}|workers]',
        '[/jobs/{job_id}|/types/{job_type}]'
      ),
      (
        '{full_workspace, full_of_bytes}',
        'Wait until jobs have ended, or cancel those that are not needed.',
        'ls',
        '/jobs'
      ),
      (
        '{wrong_disk_size}',
        'Set it to the size of the disk (`set_settings`).',
        null,
        '/overview'
      ),
      (
        '{disk_filling, disk_nearly_full}',
        'Enlarge the disk and set its new size (`set_settings`, `disk_bytes`), or delete data, for '
          'example by keeping ended jobs for fewer days (`retention_days`).',
        null,
        '/overview'
      ),
      (
        '{service_full, service_locked, wrong_clock, late_events}',
        'Notify the operator of the service.',
        null,
        '/overview'
      ),
      (
        '{workers_lack_right}',
        'Notify the operator of the service, whose `minutehand doctor` names the right.',
        null,
        '/overview'
      )
  ) as s (reasons, words, command, path)
  cross join unnest(s.reasons) as r
  union all
  values
    (
      'cancelled:start_by',
      null,
      'Retry the job when that reason has gone. A retried job has no latest start time.',
      'retry {job_id}',
      null
    ),
    ('cancelled', null, 'Retry the job if it should run after all.', 'retry {job_id}', null),
    (
      'failed',
      'It failed at {finished_at}, because it had not started by its deadline, {deadline_at}. The '
        'reason at that time: {waited}',
      null,
      null,
      null
    ),
    (
      'failed',
      'It failed at {finished_at}[ after {used} of {max_attempts} attempts]: {error_line}',
      '[See {place}, where one of {these} failed, and correct the code, a setting or the data|'
        'Correct the code, a setting or the data at {place}|Correct what the error names].',
      null,
      null
    ),
    (
      'failed',
      null,
      'Then [run{is_delayed} the job now|retry {failed}]. Finished steps are kept.',
      'retry {job_id}',
      null
    ),
    (
      'failed:child',
      null,
      '[Follow the advice of {cause_type}, the first descendant that failed, and retry it. Then '
        'retry {retried}.|Its child {child} was cancelled. Retry the child, then this job.|None of '
        'its children has failed any more. Retry this job.]',
      'show {child}',
      '/jobs/{child}'
    ),
    (
      'failed:deadline',
      null,
      'Enqueue a copy[ when that reason has gone{was_held}]. A copy has no deadline.',
      'replay {job_id}',
      null
    ),
    (
      'failed:payload',
      null,
      'Its payload has version {version}, and the type has version {type_version}. Write the '
        'upcaster between them, deploy, then retry the job{is_of_newest}.',
      'retry {job_id}',
      '/types/{job_type}'
    ),
    (
      'failed:payload',
      null,
      '[Worker {older_worker} is older than the payload, whose version is {version}|Worker '
        '{other_worker} ({other_code}) does not run the newest deploy of the type, commit '
        '{newest_commit}]. Deploy the newest code there, or stop it. Then retry the job.',
      'retry {job_id}',
      '/types/{job_type}'
    ),
    (
      'failed:payload',
      null,
      'Retry the job with a payload that fits the type, or give new fields of the type a '
        'default{is_of_newest}. If the worker is older than the payload, deploy the worker.',
      'retry {job_id} --payload @payload.json',
      null
    ),
    (
      'refused',
      'The database cannot change the job''s row. The change is retried at {retry_at}.',
      '[Restore the missing object{is_missing}. The doctor has the statement if it is part of '
        'Minutehand|End the transaction that keeps the lock{is_locked}|Fix the trigger or '
        'constraint that rejects the change], then wait.',
      '[doctor{is_missing}|explain {job_id}]',
      null
    ),
    (
      'passed_over',
      'It has been due since {run_at}, but maintenance [has not run since {maintained_at}|has '
        'skipped it].',
      'See why maintenance does not run, or skips the job.',
      'doctor',
      '/overview'
    ),
    (
      'cancelling',
      'It was asked to stop at {cancel_requested_at}[ {cancelled_by}]. Worker {worker_id} gets the '
        'request with its next report.[ The last recorded call of the worker was at '
        '{missed_since}.| The worker has not renewed the lease since {late_since}.|][ The request '
        'also asks for a retry{is_retried}.]',
      'Nothing to do until {expires_at}. If its worker has not stopped it or renewed its lease by '
        'then, the next maintenance ends it.',
      'watch {job_id}',
      null
    ),
    (
      'running',
      '[Its processor ended at {unstored_since}, but its outcome is not stored yet|Silent for '
        '{silent}, since {sign}|Silent for {silent}|Last known update {age} ago ({last})|Last '
        'known update {age} ago|Worker {worker_id} has been running it since {leased_at}][, '
        '{seen}][, waiting for {program}].[ It has run since {run_since}.][ In the last 24 hours, '
        '{sample} of its type ran for {most} or less.][ It has run {longer} times as long, '
        'but it makes progress; at this pace it ends about {paced_end_at}{in_time}.| It has run '
        '{longer} times as long, but it makes progress.|][ {alike} running '
        'jobs of its type are silent at this line.][ The last recorded call of its worker was at '
        '{missed_since}.| The worker has not renewed its lease since {late_since}.| Its worker '
        'last reported at {reported_at}.| Its worker has not reported on it since '
        '{unreported_since}.|][ The key of the worker expired at {key_expired_at}.| The key of the '
        'worker was revoked at {key_revoked_at}.|][ {death}. It runs with {beside} of them and '
        'nothing else.| {death}. It runs alone.|][ An earlier process of it ended while {killer} '
        'ran in it.][ The role job_worker lacks a right (`{not_granted}`), so its outcome is not '
        'stored.| Its worker lacks {a_right}, so its outcome is not stored.|][ One call of its '
        'processor runs it and {batched}.| It waits for {next_call}.|][ Its own code has '
        'blocked the event loop of the '
        'worker for {blocked} within a minute.][ {loop_owner} of the same process has blocked its '
        'event loop for {loop_blocked} within a minute.][ Its child {kept_child} waits for a slot '
        'or limit that it uses.][ Its database session (pid {pid}) waits for a lock of the session '
        'with pid {blocker}.][ Session {own_blocker} belongs to the same job.][ The process has '
        'grown by {grown_mb} MB.]',
      '[Grant the right: `grant {not_granted} to job_worker`.|Notify the operator of the service, '
        'because the worker lacks {a_right}.|Wait for the end of {call}, which session {blocker} '
        'runs.|In code, commit that session before the call at {place}. To end this attempt: '
        '`select pg_terminate_backend({own_blocker})`.|Commit or end that session: `select '
        'pg_terminate_backend({blocker})`.|Nothing to do until {expires_at}. The job runs again '
        'when a worker has a key that was issued after {key_revoked_at}.|If the process of the '
        'worker has hung since {missed_since}, end it. Once it has ended, the job runs again at '
        'the latest after {expires_at}.|See in the log of worker {worker_id} why it is not stored '
        'since {unstored_since}.|The process of the worker may have ended after {late_since}. Then '
        'the job runs again at the latest after {expires_at}. If a job blocked its event loop '
        'instead, run that call with `asyncio.to_thread`.|If it waits for job {kept_child} without '
        '`ctx.gather` or `ctx.map`, it keeps a slot that its child needs: cancel it, and fix its '
        'code.|Find the code that runs long without an `await`{is_blocking}, for example near '
        '{place}, and run it with `asyncio.to_thread`, or write the processor without '
        '`async`.|Follow the advice of '
        'job {loop_blocker}.|{end_wait} Do so before any retry: an earlier attempt is still stuck '
        'in worker {stuck_in}, and each retry can leave one more.|{end_wait} {restart}{kept} '
        'Then give the type a `timeout` below {shorter} if such calls should end '
        'earlier.|{end_wait} {restart}{kept}|Nothing to do if the end about {paced_end_at} is '
        'early enough. Otherwise cancel it.|See whether {advances}. Cancel it if not.|If {usual} '
        'should suffice, check the code at {place}.|If worker {worker_id} has not reported on it '
        'by {unreported_until}, see its log.|Nothing to do.][ Check whether these triggers of jobs '
        'or logs take long: {triggers}.]',
      'watch {job_id}',
      '/types/{job_type}'
    ),
    ('outlook', 'If it still runs at {times_out_at}, {after}.', null, null, null),
    (
      'running',
      null,
      'If the growth by {grown_mb} MB is too much, see which of the jobs of worker {worker_id} '
        'keeps objects. This job is at {place}.',
      'ls --state running',
      '/jobs?state=running'
    ),
    (
      'abandoned',
      'Its processor has not reacted to the stop, and still runs, abandoned, in worker {worker_id} '
        'at {place}.',
      'Restart worker {worker_id} to end it. In code, [give the call at {thread_place} a time '
        'limit, because its thread can stop only when the call returns|do not catch the stop '
        '(`asyncio.CancelledError`), or give the call at {place} a time limit].',
      'workers',
      '/types/{job_type}'
    ),
    (
      'sleeping',
      'It sleeps until {until}.[ It has waited {waits} times since {often_since}.]',
      '[If {waits} waits are too many, cancel it, and correct the loop in its code.|Nothing to do '
        'until {early_deadline}. It fails then.|Nothing to do until {until}. It continues then.]',
      'watch {job_id}',
      null
    ),
    (
      'asking',
      'It has waited since {since} for an answer to: {question}',
      'Answer it.',
      'answer {job_id} ANSWER',
      null
    ),
    (
      'waiting_for_event',
      'It has waited since {since} for the event {event}.[ An event with the similar name '
        '{nearest} was emitted.]',
      'If both names mean the same event{is_near}, correct the code that emits it, or the code '
        'that waits for it, and deploy.',
      'show {job_id}',
      null
    ),
    (
      'waiting_for_event',
      null,
      'Emit {event}: `select public.emit_event(…)`, or POST /api/events.',
      'docs sql',
      null
    ),
    (
      'waiting_for_children',
      'It has waited for its children since {since}.[ The first that has not ended is '
        '{holder_type} {holder} ({holder_state}).]',
      'See why this child has not ended.',
      'explain {holder}',
      '/jobs/{holder}'
    ),
    (
      'due',
      'It has been due since {run_at} and joins the queue with the next maintenance.',
      'Nothing to do until {patience_until}. After that:',
      'doctor --only schedule',
      '/overview'
    ),
    (
      'scheduled',
      'It is scheduled for {run_at}.[ It was created at {created_at}, and an enqueue with '
        'its unique key last changed it at {changed_at}.]',
      '[Run it now, or it fails at {early_deadline}.|If enqueues with its key {changed_key} '
        'postpone it too often, send fewer of them, or run it now.|Run it now.]',
      'retry {job_id}',
      null
    ),
    (
      'snoozed',
      '[{reported}. It waits until {run_at}|Its processor snoozed it until {run_at}].',
      'Run it now.',
      'retry {job_id}',
      null
    ),
    (
      'snoozed_again',
      'Its processor has snoozed it {times} since {first_at}.',
      'If {times} is too often, see in its log and its code why it is snoozed.',
      'show {job_id}',
      null
    ),
    (
      'no_worker',
      'No call of a worker has completed[ since {since}].[ The key of the last worker expired at '
        '{key_expired_at}.]',
      'If none runs, start one with `minutehand dev` or `minutehand serve`. On AWS, check the '
        'schedule. If one runs, see in its log or with `minutehand doctor` why its calls fail.',
      'doctor',
      '/overview'
    ),
    (
      'late_worker',
      'The workers that serve it began their runs at {started_at} or later, and it had to start by '
        '{must_start_by}.',
      'If no worker ran before, see why.',
      'workers',
      '/types'
    ),
    (
      'no_processor',
      'No worker serves {unpublished}.[ It has waited since {since}.][ Workers serve: {served}.]',
      'Fix this in code or settings, and deploy: {refusal}',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'no_processor',
      'No worker serves {types}: {count} {wait} since {since}.[ Did you mean {nearest}?]',
      'If the name is misspelt, enqueue again as {nearest}, the nearest name that a worker has '
        'published, and cancel what has the wrong name.',
      'cancel {job_id}',
      null
    ),
    (
      'no_processor',
      'No running worker serves the job type {job_type} in the queue {queue}.[ Worker '
        '{last_worker}{process_end} served it, and its last recorded call was at {last_seen}.][ '
        'Workers serve: {served}.][ The key of its last worker expired at {key_expired_at}.]',
      '[Workers that have {job_type} serve only other queues. Start one with `minutehand serve '
        '--queue {not_served}`, or for all queues.|If a deploy removed {once_served}, deploy '
        'it again. Otherwise start its worker again. If one runs, check its key with '
        'its file of settings (`-e`):|Otherwise, start or deploy a worker that has '
        '`@processor("{job_type}")`{is_near}. If one runs, see in its log why it does not serve '
        'the type, and check its key:|Start or deploy a worker that has '
        '`@processor("{job_type}")`. If one runs, see in its log why it does not serve the type, '
        'and check its key:|Each type needs its own step, which the page of '
        'one of its jobs names. To check workers and their keys:]',
      'doctor --only processors --only worker-key',
      '[/jobs?state=queued&job_type={only_type}|/types]'
    ),
    (
      'key_limit',
      'The concurrency limit of its key {own_key} is used up: {running} of {limit}[, held by job '
        '{holder} ({holder_state})].',
      'If more may run at a time, raise `key_concurrency` of {own_type} in code, and deploy.',
      null,
      '/types/{job_type}'
    ),
    (
      'internal_key',
      'Jobs of {job_type}, which the platform itself enqueues, wait for an earlier job of the same '
        'receiver.',
      'See why the earlier jobs have not ended.',
      'ls --type {job_type} --search {receiver}',
      '/jobs?job_type={job_type}&search={receiver}'
    ),
    (
      'internal_limit',
      'Jobs of {job_type}, which the platform itself enqueues, wait for running ones to end.',
      'See which of them run, and why they take long.',
      'ls --type {listed_type} --state running',
      '/jobs?job_type={listed_type}&state=running'
    ),
    (
      'rate_limited',
      'The rate limit of {limit} starts per {per_seconds} s is used up. It can start at '
        '{estimated_start_at} at the earliest.',
      'Nothing to do until {estimated_start_at} if this rate is intended. Otherwise raise it in '
        'code, and deploy.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'suspect',
      '{death}[, while {killer} ran in it]. It runs [next, with {beside} of them and nothing '
        'else|alone next].',
      'Nothing to do until {patience_until}. A worker that runs no jobs starts it. After that:',
      'doctor',
      '/overview'
    ),
    (
      'suspect',
      null,
      'It has been ready since {late_since}. Start another worker if all workers of its type run '
        'other jobs.',
      'doctor',
      '/overview'
    ),
    (
      'next_in_line',
      'It is the next job of its workspace, and starts when [a worker that serves it runs again. '
        'The last run ended at {ended_at}|one of {slots} slots is free. All are in use by jobs of '
        '{used_by}|a worker with a free slot leases jobs].[ The last call of such a worker was at '
        '{silent_since}.]',
      'Nothing to do until {patience_until}. After that:',
      'doctor',
      '/overview'
    ),
    (
      'no_slot',
      'Jobs of {used_by} use all {slots} slots of the workers that serve it, and none has become '
        'free since {full_since}.[ The longest is {holder_type} {holder}, since {held_since}.]',
      'If they still work, start another worker, or give the workers more slots: '
        '`WORKER_THREADS` for functions without `async`, otherwise `WORKER_CONCURRENCY`.',
      'workers',
      '/overview'
    ),
    (
      'not_leased',
      'It has been ready since {ready_at}. [The role job_worker lacks a right '
        '(`{lacked}`), so workers with this role lease nothing|Workers lack {a_right}, so '
        'they lease nothing|The workers that serve it '
        'use {running} of {slots} slots, but have leased nothing since {leased_at}|The workers '
        'that serve it have leased nothing since {leased_at}|No worker that serves it runs{yet}|'
        'Workers that serve it have not leased it].[ They were last seen at {seen_at}.]',
      '[See whether one of these triggers of jobs or logs drops the change (`before update`, '
        'returns null), raises an error or takes long: {triggers}. ][Grant the right: `grant '
        '{lacked} to job_worker`.|Notify the operator of the service, '
        'because workers lack {a_right}.|Nothing to do if a worker that serves it is starting{yet}.'
        ' Otherwise start one.|If workers have hung since {silent_since}, end their processes. '
        'Otherwise check their rights and logs.|Check the rights and logs of the workers.]',
      'doctor',
      '/overview'
    ),
    (
      'behind_others',
      'It waits for its turn.[ All {slots} slots are in use by jobs of {used_by}.][ No worker that '
        'serves it runs. The last run ended at {ended_at}.][ The last call of such a worker was at '
        '{silent_since}.]',
      '[If it must start by {must_start_by}, start another worker, or enqueue it with a smaller '
        'priority.|Nothing to do until {patience_until}. A worker starts it after them. A smaller '
        'priority goes first.]',
      'ls --state queued --type {job_type}',
      '/jobs?state=queued&job_type={job_type}'
    ),
    (
      'unplaced',
      'It is in no table of waiting jobs, so no worker finds it.',
      'Notify the operator of the service, or repair it:',
      'doctor',
      '/overview'
    ),
    (
      'long_line',
      'It has been ready since {ready_at}, with {ahead} jobs of its workspace ahead of it.[ All '
        '{slots} slots are in use by jobs of {used_by}.]',
      'If all slots are in use, start another worker, or give the workers more slots.',
      'status',
      '/overview'
    ),
    (
      'read_only',
      'The database rejects writes, because default_transaction_read_only is on.[ The disk is '
        '{percent} % full, and Supabase sets it when the disk is full.]',
      '[Run `begin; set transaction read write; {reset}; commit`, then restart the workers and '
        'the project, because open sessions stay read-only. If the dashboard of Supabase shows a '
        'full disk, enlarge the disk first.|See in the dashboard of Supabase whether the '
        'disk is full. If it is, enlarge it. Otherwise turn default_transaction_read_only off, '
        'whose value comes from the {source}.|Free the disk{is_full}. Run `begin; set transaction '
        'read write; select public.set_settings(''{"retention_days": {"completed": 7, '
        '"cancelled": 7, "failed": 7}}''); select public.run_maintenance(''{"budget_ms": '
        '5000}''); commit` while it has more. Then run `vacuum full queue.job_events, '
        'public.job_logs, public.jobs`.]',
      null,
      '/overview'
    ),
    (
      'overdue',
      'A job has been due since {since}.[ Jobs of {used_by} use all slots of the workers that '
        'serve it.| No limit holds it.]',
      'See why it waits.',
      'explain {job_id}',
      null
    ),
    (
      'refused_type',
      'A worker cannot use its code of {types}.',
      'Fix its code or settings, and deploy.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'late_schedule',
      'The schedule {schedule} {problem}.',
      'Check the schedule and its type.',
      null,
      '/schedules'
    ),
    (
      'unserved_schedule',
      'The schedule {schedule} enqueues jobs of {job_type}, but no worker serves that type.',
      'If the name is misspelt, change it to {nearest}, the nearest name that a worker has '
        'published.',
      null,
      '/schedules'
    ),
    (
      'unserved_schedule',
      null,
      'Deploy a worker that has {job_type}, or turn the schedule off.',
      'types',
      '/schedules'
    ),
    (
      'waiting_schedule',
      'The run of the schedule {schedule} at {since} enqueued no new job, because job {job_id} has '
        'the same unique key and has not started.',
      'See why that job waits.',
      'explain {job_id}',
      null
    ),
    (
      'full_workspace',
      'The workspace[ {which}] has at least {jobs} live jobs, and its limit is {limit}. Enqueues '
        'by people are rejected.',
      'Or let an operator raise the limit: `select '
        'public.set_workspace_limits(''{workspace_id}'', ''{"max_pending": {more}}'')`.',
      null,
      '/overview'
    ),
    (
      'full_of_bytes',
      'The live jobs of the workspace[ {which}] store {live}, and the limit is {limit}. Enqueues '
        'by people with payloads above 2 kB are rejected.',
      'Or let an operator raise the limit: `select '
        'public.set_settings(''{"user_pending_bytes_max": {more}}'')`.',
      null,
      '/overview'
    ),
    (
      'full_of_schedules',
      'The workspace has {limit} schedules, so new schedules are rejected.',
      'Delete some. Or let an operator raise the limit: `select '
        'public.set_settings(''{"schedules_max": {more}}'')`.',
      'schedules',
      '/schedules'
    ),
    (
      'rate_used_up',
      'People who used up their limit of {per_second} changes per second in the last minute: '
        '{people}. Calls above this rate are rejected with the code rate_limited.',
      'Enqueue more slowly, or as the service. Or let an operator raise the limit: `select '
        'public.set_settings(''{"user_enqueues_per_second": {more}}'')`.',
      null,
      '/overview'
    ),
    (
      'no_retention',
      'Jobs are deleted within minutes of their end ({states}), because their `retention_days` are '
        '0.',
      'To keep them, let an operator raise the setting, for example to: `select '
        'public.set_settings(''{"retention_days": {longer}}'')`.',
      null,
      '/overview'
    ),
    (
      'unanswered',
      'Jobs that have waited for an answer for more than a day: {jobs}, the first since {since}.',
      'Answer the first question.',
      'answer {job_id} ANSWER',
      null
    ),
    (
      'failing_maintenance',
      'Maintenance fails.',
      'Fix the cause. Maintenance is retried within an hour. The doctor finds a damaged engine:',
      'doctor --only engine',
      '/overview'
    ),
    (
      'missing_right',
      'Workers with the role job_worker lack a right (`{right}`).',
      'Grant the right: `grant {right} to job_worker`.',
      null,
      '/overview'
    ),
    (
      'two_codes',
      'Workers run different versions of the code: {codes}[; {newest} is of the newest deploy].',
      'Stop the workers of the older version, unless they are about to end. The newer deploy sets '
        'the options of a type.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'one_worker',
      null,
      'Last attempts with this error[ of {of_jobs} of the jobs]: {attempts}, all on worker '
        '{worker_id}[ ({version})]. Worker '
        '{other}[ ({other_version})] completed a job of the type at {finished_at}. If the '
        'first runs other code, stop it.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'clock_skew',
      'The clock of worker {worker_id} is [{ahead} s ahead of|{behind} s behind] the database''s '
        'clock.',
      'Set the clock of its machine: `timedatectl set-ntp true`. Requests fail if their token '
        'seems to be expired.',
      null,
      '/overview'
    ),
    (
      'ends_process',
      'The last {ended} jobs of {job_type} ended their process[, with the code of commit '
        '{commit}].',
      'An operator can pause the type until its code is fixed. Jobs that wait: {jobs}.',
      'pause --type {job_type}',
      '/types/{job_type}'
    ),
    (
      'no_success',
      'No job of {job_type} has completed in the last hour, but attempts have failed or been '
        'snoozed: {attempts}.',
      'See why they fail or wait.',
      'ls --type {job_type}',
      '/jobs?job_type={job_type}'
    ),
    (
      'silent_jobs',
      '{count} of [{many} are silent, the longest|{job_type} has been silent] since {since}[, '
        'each {all_seen}|, {shared}|]. Jobs of {job_type} count as silent {limit} after their last '
        'update.',
      '[The first was last seen {seen}. ][The code of the first has blocked the event loop for '
        '{blocked} within a minute: run it with `asyncio.to_thread`.|{waiting}. See why, and give '
        'the call a time limit{is_server}.|{waiting}. See why.|The code may loop around {hanging} '
        'without a call of `ctx.progress`. See what the loop waits for, and limit its '
        'time{is_sleep}.|Find out what {hanging} waits for, and give it a time limit.][ See the '
        'job of {many} that is silent the longest:]',
      'explain {job_id}',
      '/jobs/{job_id}'
    ),
    (
      'silent_jobs',
      null,
      '[Do not retry before that. Jobs with an earlier attempt that is still stuck: {stuck}. ][A '
        'cancel stops jobs in threads only when their calls return: {threads}. ]Then cancel and '
        'retry [those of {many} that hang|the job if it hangs]. Finished steps are kept.',
      null,
      '[/jobs?state=attention&job_type={many}|/jobs/{job_id}]'
    ),
    (
      'retrying_jobs',
      '[{at_least}]{count} of [{many} are|{job_type} is] retrying: {error}.[ Jobs of this type '
        'that completed in the last hour: {completed}.] Attempts used: {used}[, the next due from '
        '{next_at} to {last_at}|, the next due at {next_at}|].[ The next attempt is the '
        'last{last_jobs}.] The first job started at {since}.',
      '[{have} one attempt left: if it fails, the job fails for good. When the cause is gone, '
        'run|Then run] [these jobs now, or wait for their next attempts{are_many}|the job now, or '
        'wait for its next attempt].',
      null,
      '/jobs?state=retrying&job_type={job_type}'
    ),
    (
      'silent_worker',
      'The last recorded call of worker {worker_id} was at {since}, and it has not renewed its '
        'leases in time.[ Its key expired at {key_expired_at}.| Its key was revoked at '
        '{key_revoked_at}.|] Jobs that it runs: {jobs}.',
      'See its log. If its process hangs, end it. Its jobs then run again at the latest after '
        '{expires_at}.',
      'workers',
      '/types'
    ),
    (
      'used_up_connections',
      '{used} of {limit} database connections are in use, and the last {reserved} are reserved. '
        '{holder} has the most: {sessions}.',
      'Give it a smaller pool.[ To end its idle sessions: `select pg_terminate_backend(pid) from '
        'pg_stat_activity where {idle}`.]',
      null,
      '/overview'
    ),
    (
      'suspects_wait',
      'Jobs whose worker was lost wait for a worker that runs nothing else: {jobs}, the first '
        'since {since}.',
      'Start another worker if all workers of these job types run other jobs.',
      'explain {job_id}',
      null
    )
  union all
  select
    l.kind || '_limit' as reason,
    'The concurrency limit of ' || l.what || ': {running} of {limit} run[, the longest is '
      '{holder_type} {holder}, since {held_since}].' as sentence,
    'If more may run at a time, raise ' || l.setting as words,
    'ls --state running' || coalesce(' --type ' || l.type, '') as command,
    '/jobs?state=running' || coalesce('&job_type=' || l.type, '') as path
  from (
    values
      (
        'workspace_type',
        'its type in the workspace is used up',
        '`workspace_concurrency` in code, and deploy.',
        '{job_type}'
      ),
      (
        'workspace',
        'the workspace is used up',
        'the lower of `max_running` (operators) and `own_max_running` (managers).',
        null
      ),
      (
        'type',
        'its type is used up[ by {others}]',
        '`max_concurrency` in code, and deploy.',
        '{listed_type}'
      )
  ) as l (kind, what, setting, type)
  union all
  select
    p.kind || '_paused' as reason,
    'The ' || p.what || ' has been paused since {paused_at}.' as sentence,
    p.words,
    'resume --' || p.option as command,
    p.path
  from (
    values
      (
        'job_type',
        'job type {job_type}',
        'An operator can resume the type.',
        'type {job_type}',
        '/types/{job_type}'
      ),
      (
        'queue',
        'queue {queue}',
        'An operator can resume the queue.',
        'queue {queue}',
        '/types'
      ),
      (
        'workspace',
        'workspace[ {which}]',
        'A manager of the workspace can resume it.',
        'all[ --workspace {which}]',
        '/overview'
      ),
      (
        'workspace_type',
        'job type {job_type} of the workspace',
        'A manager of the workspace can resume the type.',
        'type {job_type}[ --workspace {which}]',
        '/types/{job_type}'
      )
  ) as p (kind, what, words, option, path)
  union all
  select s.reason, s.sentence, null as words, null as command, null as path
  from (
    values
      (
        'completed',
        'It completed at {finished_at}.[ No answer came in time for its question {unanswered}.]'
      ),
      (
        'backing_off',
        'Attempt {attempts} of {max_attempts} failed ({error_line}). It is retried at {run_at}.'
      ),
      (
        'expired_key',
        'The key of worker {worker_id} expired at {key_expired_at}, and its last recorded call was '
          'at {since}. Whether it still runs is unknown. Other workers serve its job types.'
      ),
      (
        'cancelled',
        'It was cancelled at {finished_at}[, because it had not started by {start_by_at}.| by its '
          'processor: {cancelled_for}| {cancelled_by}.|.][ The request also asked for a retry, '
          'which was not done{is_retried}.][ The reason at that time: {waited}]'
      ),
      (
        'stopped',
        'Workers that ran it were stopped {stops} before it ended, the last at {last_at}.'
      ),
      (
        'stopped_jobs',
        'Jobs whose workers were stopped again and again before they ended: at least {jobs}, the '
          'first stop at {since}.'
      ),
      (
        'recursion',
        'Of its {levels} nearest ancestors, {recursions} are jobs of {job_type} too.'
      ),
      (
        'recursive_type',
        'Job {job_id} has {recursions} or more ancestors of its own type, {job_type}.'
      ),
      (
        'ahead',
        'Jobs of {job_type} in its workspace that are ahead of it: [{at_least} or more|{ahead}][, '
          '{smaller} of them because their priority is smaller].[ At the usual duration of the '
          'type, they take {ahead_for}.]'
      ),
      ('deadline', 'It fails if it has not ended at {early_deadline}.'),
      (
        'start_by',
        'It will be cancelled if it has not started by {start_by_at}[, which {ahead} jobs ahead of '
          'it may prevent].'
      ),
      ('worker_lost', 'Its process ended {ended_times} while it ran[ {alone}].'),
      (
        'worker_lost',
        'Its lease expired {lost_times} while its worker had leased no other job.'
      ),
      (
        'lease_expired',
        'The last recorded call of its worker {worker_id} was at {called_at}, and the lease '
          'expired at {expires_at}.[ The key of the worker expired at {key_expired_at}.| The key '
          'of the worker was revoked at {key_revoked_at}.|]'
      ),
      (
        'worker_died',
        'The process of its worker {worker_id} ended at {ended_at}. The job is being reclaimed.'
      ),
      ('suspect', 'It runs alone next, in a process of its own.'),
      (
        'locked',
        'A session (pid [{locker}) has locked its row, and waits for the session with pid {pid}, '
          'whose transaction has been open|{pid}) has locked the table {locked} in an open '
          'transaction|{pid}) has locked its row in an open transaction] since {held_since}, so '
          '[{effect}|it can neither start nor end].[ Session {pid} belongs to {application}.]'
          '[ {work}.]'
      ),
      (
        'open_transaction',
        'A session with an open transaction delays statistics, messages to other services and '
          'maintenance.[ {work}.]'
      ),
      (
        'late_events',
        'Statistics and messages to other services do not yet include events after {since}.'
      ),
      (
        'blocking_session',
        '[A transaction that began at {since} has locked the table {locked}, so {effect}|Sessions '
          'that wait for a lock of one session: {waiting}. Its transaction began at {began_at}|'
          'Sessions that wait for a lock of one session: {waiting}, the first since {since}].'
          '[ {work}.]'
      ),
      (
        'disk_filling',
        'The disk is {percent} % full.'
      ),
      (
        'disk_nearly_full',
        'The disk is {percent} % full. Supabase makes the database read-only at 95 %.'
      ),
      ('wrong_disk_size', 'The setting disk_bytes is smaller than what is stored.'),
      (
        'service_full',
        'The disk of the service is nearly full. When it is full, new jobs are rejected.'
      ),
      (
        'service_locked',
        'A transaction that began at {since} has locked the table {locked}, so {effect}.'
      ),
      (
        'workers_lack_right',
        'Workers lack a right in the database[, so they may not take jobs{is_idle}| that they need '
          'to run jobs].'
      ),
      (
        'wrong_clock',
        'The clock of worker {worker_id} is wrong, so requests of its jobs may fail.'
      )
  ) as s (reason, sentence)
) as a (reason, sentence, words, command, path);

drop function queue.slots_for(public.jobs,queue.workers[]);

-- Return the number of worker slots that can run the job p_job, the number of jobs that use these
-- slots, and the times at which a worker with such slots last leased jobs or started, and was last
-- seen.
-- slots: Number of slots that can run the job. Null if a worker did not report its slots, or if no
--   worker runs.
-- ended_at: End of the last run of the workers that have slots for the job. Null if one of
--   these workers still runs.
-- yet: Empty text if no live worker has slots that can run the job, otherwise null.
-- full_since: Time since which no job has started in the slots.
-- used_by: Types of the jobs that use the slots, as text.
-- started_at: Start of the first of the workers.
create or replace function queue.slots_for(p_job public.jobs, p_alive queue.workers[])
returns table (
  slots bigint,
  running bigint,
  leased_at timestamptz,
  seen_at timestamptz,
  ended_at timestamptz,
  yet text,
  full_since timestamptz,
  used_by text,
  started_at timestamptz
)
language sql stable
set search_path = ''
as $$
with pools as materialized (
  select w.worker, w.seen_at, w.ended_at, w.started_at, p.*
  from unnest(p_alive) as w
  left join lateral (
    select o.job_types, o."limit" as size
    from jsonb_to_recordset(w.slots) as o (job_types text[], "limit" bigint)
    where p_job.job_type = any (o.job_types)
  ) as p on true
  where (w.job_types is null or p_job.job_type = any (w.job_types))
    and (w.queues is null or p_job.queue = any (w.queues))
    and w.slots is distinct from '[]' -- a process that runs only suspects has no slot for the job
)
select
  case
    when bool_and(p.size is not null) filter (where p.ended_at is null)
      then sum(p.size) filter (where p.ended_at is null)
  end,
  max(r.running),
  (
    select max(t.seen_at)
    from queue.ticks as t
    where t.worker in (select o.worker from pools as o)
  ),
  max(p.seen_at),
  case when bool_and(p.ended_at is not null) then max(p.ended_at) end,
  case when count(p.worker) = 0 then '' end,
  max(r.full_since),
  max(r.used_by),
  min(p.started_at)
from (
  select
    count(*) as running,
    max(l.leased_at) as full_since,
    array_to_string((array_agg(distinct n.job_type))[:3], ', ') as used_by
  from queue.leases as l
  join queue.lanes as n on n.lane = l.lane
  join pools as o on o.worker = l.worker and n.job_type = any (o.job_types)
) as r
left join pools as p on true
$$;

-- Return an object that describes a running job: its timeout, and its last update, such as a log
-- line or a finished step. If the worker has reported no update of the job, the object contains
-- lease_until, the time at which the lease expires.
-- timeout: Null if the type may have had another timeout when the attempt began.
-- late_since: Time of the lease's last renewal, if the next one is late. Otherwise null.
-- seen: The running step and the line of code, as text.
-- sign, last: Kind of the job's last update as text, for example 'its last log line', 'log line'.
-- age: Time since the last update of the job, as text.
-- reported_at: Time of the last report of the worker of a silent job.
-- unreported_since: Time of the lease's last renewal, a minute ago or more.
-- unstored_since, triggers: End of the processor, if its worker could not yet store the outcome,
--   and queue.own_triggers().
-- end_wait, restart: How to end the wait of a silent job, and whether to retry it, as text.
-- alike: How many of the type's running jobs in the workspace are silent at the same line, as text.
--   Null for a single job, for 100 or more, and while the line of one of them is unknown.
-- silent: The age. Null for less than 20 seconds, because workers report updates of jobs only every
--   15 seconds.
-- code, stack: Text of the line of code, and the calls that led there, the innermost last. Missing
--   for workers before 0.5.6.
-- shorter: The timeout of a job that is silent at a line of code, unless the timeout has already
--   started again. It starts again for each call of a split batch, and once after another job has
--   blocked the event loop.
-- times_out_at, after: Time at which the timeout or the deadline stops the job's call, and what
--   follows, as text. Null if this time is unknown.
-- blocked, is_blocking: Time for which the job's code blocked the event loop within a minute, as
--   text, and an empty text. Null for less than 10 seconds.
-- blocker, call: Database session that holds a lock for which the session of the job waits, and its
--   call from queue.session_work. Null if the job is not silent and waits for less than 10 seconds.
-- own_blocker: The same session, if the job's own code has opened it.
-- grown_mb: Growth of the memory of the job's process since the job's first pulse, in megabytes.
--   Null for less than 128 MB.
-- estimated_end_at: Time at which the progress reaches 100 % at its pace since the first report of
--   this run that came with a pulse. Null for reports within less than 5 seconds.
-- run_since: Start of this run. Null without an update.
-- usual: Duration that 99 % of the type's jobs did not exceed, as text, if the job has run longer.
--   If fewer than 20 jobs have ended, the duration that none of at least 5 exceeded, if the job has
--   run twice as long. Null for a job that is not silent also in its first minute.
-- longer: Ratio of the job's duration so far to these durations, as text, if it is at least 10 and
--   the job makes progress.
-- paced_end_at, in_time: Estimated end of such a job, unless it has passed, and whether it is
--   before the timeout, as text.
-- is_long_running, advances: An empty text, and what to see, as text, if the job has run at least
--   twice as long as these durations, and its progress does not predict its end.
create or replace function queue.pulse_of(p_job public.jobs, p_now timestamptz)
returns jsonb
language plpgsql stable
set search_path = ''
as $$ -- plpgsql, because queue.run_times_in_words is created later
declare
  v_times constant jsonb := queue.run_times_in_words(
    p_job.workspace_id,
    p_job.job_type,
    p_now
  );
  v_type constant queue.job_types := (
    select t
    from queue.job_types as t
    where t.job_type = p_job.job_type
  );
  v_timeout constant double precision := coalesce(
    p_job.timeout_seconds,
    v_type.timeout_seconds
  );
begin
  return (
    select v_times || jsonb_build_object(
      'timeout', case
        when o.is_known or o.delay between interval '-1 second' and interval '10 seconds'
          then queue.length_in_words(1000 * v_timeout)
      end,
      'late_since', s.late_since,
      'renewed_at', s.renewed_at
    ) || case
      when l.pulse -> 'last' is null then jsonb_build_object('lease_until', l.expires_at) || case
        when s.late_since is null and s.renewed_at <= p_now - interval '1 minute'
          then jsonb_build_object(
            'unreported_since', s.renewed_at,
            'unreported_until', l.expires_at
          )
        else '{}'
      end
      when l.pulse ->> 'last' = 'end' then jsonb_build_object(
        'unstored_since', l.pulse -> 'since',
        'triggers', queue.own_triggers()
      )
      else l.pulse - '{since,own_pids,pace}'::text[] || jsonb_build_object(
        'silent_since', s.since,
        'step', l.step,
        'seen', case when p.is_silent then '' else 'last seen ' end
          || queue.seen_in(l.step, w.place),
        'batched', queue.other_jobs(nullif((l.pulse ->> 'batched')::integer, 0)),
        'next_call', case
          when l.pulse ->> 'batched' = '0' then 'the next call of its batch, which was split'
        end,
        'last', case u.last
          when 'log' then 'log line'
          when 'step' then 'end of a step'
          else u.last
        end,
        'sign', case u.last
          when 'start' then case
            when t.has_restarted then 'its timeout started again'
            else 'its start'
          end
          when 'log' then 'its last log line'
          when 'step' then case -- otherwise the step that the sentence names started then
            when l.step_started_at is null
                or l.step_started_at < (l.pulse ->> 'since')::timestamptz - interval '2 seconds'
              then 'the end of its last step'
          end
          else 'its last ' || coalesce(u.last, 'update')
        end,
        'age', queue.length_in_words(p.ms),
        'silent', case when p.is_silent then queue.length_in_words(p.ms) end,
        'shorter', case
          when p.is_silent and not t.has_restarted and w.place <> ''
              and (o.is_known or o.delay <= interval '10 seconds')
            then queue.length_in_words(1000 * v_timeout)
        end,
        'times_out_at', case when s.late_since is null and t.at > p_now then t.at end,
        'after', case
          when p_job.deadline_at < t.at + interval '1 second'
            then 'it fails, because its deadline has passed'
          when (l.pulse ->> 'batched')::integer > 0
            then 'its call is stopped, and its batch is run again in halves'
          when p_job.attempts >= p_job.max_attempts then 'it times out and fails'
          else 'it times out' || case
            when p_job.deadline_at is null
              then format(', then attempt %s of %s follows', p_job.attempts + 1, p_job.max_attempts)
            else ''
          end
        end,
        'blocker', b.pid,
        'call', (select w.data -> 'call' from queue.session_work(array[b.pid]) as w),
        'blocked', queue.length_in_words((l.pulse ->> 'blocked_ms')::double precision),
        'is_blocking', left(l.pulse ->> 'blocked_ms', 0),
        'program', case when p.is_silent then l.pulse -> 'program' end,
        'own_blocker', case when l.pulse -> 'own_pids' @> to_jsonb(b.pid) then b.pid end,
        'grown_mb', case when m.grown >= 128 then m.grown end,
        'estimated_end_at', e.estimated_at,
        'run_since', l.leased_at,
        'usual', case
          when r.ratio > case when v_times ? 'typical' then 1 else 2 end then v_times ->> 'most'
        end,
        'is_long_running', left(a.advances, 0), -- for clients
        'advances', a.advances,
        'longer', g.longer,
        'paced_end_at', case when g.longer <> '' and e.estimated_at > p_now then e.estimated_at end,
        'in_time', case
          when g.longer is null then null
          when t.at > p_now then format(
            ', %s its %s',
            case when e.estimated_at < t.at then 'before' else 'after' end,
            case
              when p_job.deadline_at < t.at + interval '1 second' then 'deadline'
              else 'timeout'
            end
          )
          else ''
        end,
        'restart', case
          when not p.is_silent then null
          when r.ratio >= 10 then concat(
            case when v_times ->> 'sample' ^@ '99 %' then '99 % of the' else 'All' end,
            ' others of its type took ',
            v_times ->> 'most',
            ' or less, so it probably hangs: cancel and retry the job.'
          )
          else 'Then cancel and retry the job if it hangs.'
        end,
        'reported_at', case when p.is_silent then s.renewed_at end,
        'is_silent', case when p.is_silent then '' end, -- for the console
        'kept', case
          when not p.is_silent then null
          when exists (select from queue.steps as f where f.job_id = p_job.id)
            then ' Finished steps are kept.'
          else ''
        end,
        'end_wait', case when p.is_silent then case w.kind
          when 'output' then 'Read the output of the program while it runs, for example by '
            '`communicate()`.'
          when 'data' then 'See why the server sends no data, and give the call at ' || w.place
            || ' a time limit.'
          when 'lock' then 'Take several locks always in the same order, and await nothing that '
            'can hang while holding one.'
          when 'event' then 'See whether the code that fills, sets or notifies it still runs or '
            'has failed.'
          when 'sleep' then 'The code may loop around the call at ' || w.place || ' without a call '
            'of `ctx.progress`. See what the loop waits for, and limit its time.'
          else 'Find out what the call at ' || w.place || ' waits for, and give it a time limit.'
        end || case
          when (l.pulse ->> 'in_thread')::boolean
            then ' A cancel stops its thread only when the call returns.'
          else ''
        end end,
        'alike', case when p.is_silent and w.place <> '' then (
          select format(
            '%s of %s',
            count(*) filter (
              where o.pulse -> 'place' = l.pulse -> 'place'
                and greatest((o.pulse ->> 'since')::timestamptz, j.updated_at)
                  <= p_now - interval '20 seconds'
            ),
            count(*)
          )
          from (
            select *
            from queue.leases as r
            where r.lane in (select n.lane from queue.lanes as n where n.job_type = p_job.job_type)
              and r.workspace_id = p_job.workspace_id
              and r.expires_at > p_now
            limit 100
          ) as o
          join public.jobs as j on j.id = o.job_id
          -- the line of a job without a pulse is unknown
          having count(*) between 2 and 99 and count(*) = count(o.pulse -> 'last')
        ) end
      )
    end
    from queue.leases as l
    cross join lateral (
      values (
        l.pulse ->> 'place',
        coalesce(l.pulse ->> 'waits', substring(l.pulse ->> 'code' from '\m(sleep)\('))
      )
    ) as w (place, kind)
    cross join lateral (
      values (
        (l.pulse ->> 'times_out_at')::timestamptz
          - make_interval(secs => v_timeout)
          - l.leased_at,
        -- the worker may use an earlier timeout of the type
        p_job.timeout_seconds is not null or v_type.registered_at <= l.leased_at
      )
    ) as o (delay, is_known)
    cross join lateral (
      values (
        (l.pulse ->> 'times_out_at')::timestamptz,
        coalesce(o.delay > interval '10 seconds' and o.is_known, false)
      )
    ) as t (at, has_restarted)
    cross join lateral (
      values (
        greatest(
          (l.pulse ->> 'since')::timestamptz,
          p_job.updated_at,
          case
            when t.has_restarted and l.pulse ->> 'last' = 'start'
              then t.at - make_interval(secs => v_timeout)
          end
        ),
        (l.pulse ->> 'pid')::integer,
        l.expires_at - make_interval(secs => l.lease_seconds),
        case -- a worker renews a lease after a fifth of its duration
          when p_now between
              l.expires_at + make_interval(secs => 10 - 0.75 * l.lease_seconds) and l.expires_at
            then l.expires_at - make_interval(secs => l.lease_seconds)
        end
      )
    ) as s (since, pid, renewed_at, late_since)
    cross join lateral (
      -- a job that waits for the next call of its batch is in no call, and the process of a worker
      -- that has not renewed its lease may have ended
      select
        a.ms,
        a.ms >= 20000
          and l.pulse ->> 'batched' is distinct from '0'
          and s.late_since is null as is_silent
      from (
        values (greatest(0, extract(epoch from p_now - s.since) * 1000)::double precision)
      ) as a (ms)
    ) as p
    cross join lateral ( -- an update after the pulse has an event
      select case
        when p_job.updated_at
            < greatest((l.pulse ->> 'since')::timestamptz, l.leased_at) + interval '2 seconds'
          then l.pulse ->> 'last'
        else (
          select substring(e.type from '^job\.(log|progress)$')
          from queue.job_events as e
          where e.job_id = p_job.id
            and e.seq = p_job.last_seq
            and e.created_at = p_job.updated_at
        )
      end as last
    ) as u
    left join lateral (
      select nullif(queue.last_blocker(a.pid), a.pid) as pid
      from pg_catalog.pg_stat_activity as a
      where a.pid = s.pid
        -- as long as queue.findings_of_locks waits before it names the other session
        and (p.is_silent or a.query_start <= p_now - interval '10 seconds')
    ) as b on true
    cross join lateral (
      values ((l.pulse ->> 'memory_mb')::integer - (l.pulse ->> 'first_mb')::integer)
    ) as m (grown)
    cross join lateral (
      select
        o.since,
        case
          when o."from" >= 0 -- a report may have any number
            and o."to" between o."from" + 0.1 and 100
            and o.until >= o.since + interval '5 seconds'
            then o.until + (o.until - o.since) * ((100 - o."to") / (o."to" - o."from"))
        end as estimated_at
      from jsonb_to_record(nullif(l.pulse -> 'pace', 'null'))
        as o (since timestamptz, until timestamptz, "from" numeric, "to" numeric)
    ) as e
    cross join lateral (
      values (case
        when l.pulse ->> 'batched' = '0' then null
        when p.is_silent or p_now > l.leased_at + interval '1 minute'
          then extract(epoch from p_now - l.leased_at) * 1000 / coalesce(
            (v_times ->> 'typical_ms')::numeric,
            (v_times ->> 'longest_ms')::numeric
          )
      end)
    ) as r (ratio)
    cross join lateral (
      values (case
        when r.ratio >= 10
            and not p.is_silent
            and s.late_since is null
            and (
              u.last = 'output'
              or u.last = 'progress' and e.since <= p_now - interval '5 seconds' is not true
              or e.estimated_at > p_now
            )
          then floor(r.ratio)::text
      end)
    ) as g (longer)
    cross join lateral (
      values (case
        when r.ratio >= 2 is not true or e.estimated_at > p_now then null
        when p.is_silent then 'it still works'
        when u.last = 'output' then 'its output is still useful'
        when u.last = 'progress' then 'its progress still advances'
        else 'it still advances'
      end)
    ) as a (advances)
    where l.job_id = p_job.id
  );
end;
$$;

-- Return how often a live job was snoozed, as text and up to 1,000 times, and when first, as
-- {times, first_at}. `times` is null for a single snooze. Return null if its last attempt did not
-- end with a snooze. Attempts that workers released or that other jobs ended are ignored.
create or replace function queue.snoozes_of(p_job public.jobs)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'times', case
    when s.n > 1 then concat(case s.n when 1000 then 'at least ' end, queue.times_in_words(s.n))
  end,
  'first_at', s.first_at
)
from (
  select count(*) as n, min(o.ended_at) as first_at
  from (
    select a.ended_at
    from queue.attempts as a
    where a.job_id = p_job.id and a.outcome = 'snoozed'
    order by a.fence
    limit 1000
  ) as o
) as s
where p_job.finished_at is null
  and p_job.fence > 0 -- most waiting jobs have no attempts to read
  and (
    select a.outcome
    from queue.attempts as a
    where a.job_id = p_job.id and a.outcome not in ('released', 'died')
    order by a.fence desc
    limit 1
  ) = 'snoozed'
$$;

-- Return the reason why a job has not started. A job cannot start if for example it has ended,
-- runs, waits or is delayed, if a trigger of the project rejects a change of its row, if its type
-- is paused, or if no worker serves its type. For a job that may start, queue.explain_ready returns
-- the reason.
create or replace function queue.explain_row(
  p_job public.jobs,
  p_alive queue.workers[],
  p_now timestamptz
)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_data constant jsonb := jsonb_build_object(
    'attempts', p_job.attempts,
    'max_attempts', p_job.max_attempts
  );
  -- a due job counts as late if maintenance has not made it ready within 90 seconds
  c_patience constant interval := interval '90 seconds';
  v_late constant text := case
    when p_alive = '{}' then 'no_worker'
    else 'passed_over'
  end;
  v_wait jsonb;
  v_nearest text;
  v_early_deadline timestamptz; -- null unless the deadline precedes the next run
  v_postponed jsonb; -- null if no later enqueue has changed the job's time
  v_found record;
begin
  if p_job.finished_at is not null then
    return jsonb_build_object(
      'reason', p_job.status,
      'data', v_data
        || queue.run_times_in_words(p_job.workspace_id, p_job.job_type, p_now)
        || jsonb_strip_nulls(jsonb_build_object('unanswered', (
          select string_agg(w.name, ', ' order by w.created_at)
          from queue.steps as w
          where p_job.status = 'completed'
            and w.job_id = p_job.id
            and w.kind = 'ask'
            and w.value @> '{"timed_out": true}'
        )))
    );
  end if;
  select * into v_found
  from queue.refusals as r
  where r.job_id = p_job.id
  order by r.retry_at desc
  limit 1;
  if found then
    return jsonb_build_object(
      'reason', 'refused',
      'since', v_found.refused_at,
      'cause', v_found.failure,
      'data', to_jsonb(v_found) - '{job_id,workspace_id,failure,refused_at}'::text[]
        || jsonb_build_object('is_missing', case
          -- an undefined function, table, column, object or schema
          when v_found.failure ~ '[(](42883|42P01|42703|42704|3F000)[)]$' then ''
        end)
        || jsonb_build_object('is_locked', case when v_found.failure ~ '[(]55P03[)]$' then '' end)
    );
  elsif p_job.status = 'processing' then
    select
      w.worker_id,
      l.leased_at,
      l.expires_at,
      case when w.evidence is not null then w.ended_at end as ended_at,
      case
        when l.expires_at > p_now and w.evidence is null and w.worker not in (
          select a.worker
          from unnest(p_alive) as a
        )
          then c.at
      end as missed_since,
      c.at as called_at,
      queue.key_end(w, c.at) as key_expired_at,
      queue.key_revoked_at(w, c.at) as key_revoked_at,
      l.expires_at + c_patience as patience_until,
      l.expires_at as run_at -- time when the lease could be reclaimed
    into v_found
    from queue.leases as l
    left join queue.workers as w on w.worker = l.worker
    cross join lateral (
      values (greatest(w.seen_at, l.expires_at - make_interval(secs => l.lease_seconds)))
    ) as c (at)
    where l.job_id = p_job.id;
    return jsonb_build_object(
      'since', v_found.leased_at,
      'data', to_jsonb(v_found)
        || coalesce(queue.suspicion_of(p_job), '{}')
        || queue.maintained_before(v_found.expires_at)
        || queue.pulse_of(p_job, p_now)
        || jsonb_build_object('not_granted', (
          select min(queue.lacked_right(f.function))
          from unnest('{public.settle_jobs,public.report_jobs}'::regproc[]) as f (function)
        )),
      'reason', case
        when v_found.patience_until <= p_now then v_late
        when v_found.expires_at <= p_now and v_found.ended_at is not null
          then 'worker_died'
        when v_found.expires_at <= p_now then 'lease_expired'
        when p_job.cancel_requested_at is not null then 'cancelling'
        else 'running'
      end
    );
  elsif p_job.status = 'waiting' then
    v_wait := queue.job_json(p_job) -> 'waiting_for';
    -- The emitted event whose name is most similar. Only the names before and after it in the
    -- alphabet are compared, and only names with the same numbers, because numbers usually
    -- identify the subject of an event.
    v_nearest := queue.nearest_name(v_wait ->> 'event', array(
      select e.name
      from (
        (
          select n.name
          from queue.named_events as n
          where n.workspace_id = p_job.workspace_id and n.name > v_wait ->> 'event'
          order by n.name
          limit 5
        )
        union all
        (
          select n.name
          from queue.named_events as n
          where n.workspace_id = p_job.workspace_id and n.name < v_wait ->> 'event'
          order by n.name desc
          limit 5
        )
      ) as e
      where trim(regexp_replace(e.name, '\D+0*', ' ', 'g'))
        = trim(regexp_replace(v_wait ->> 'event', '\D+0*', ' ', 'g'))
    ));
    v_early_deadline := case
      when p_job.deadline_at < coalesce((v_wait ->> 'until')::timestamptz, 'infinity')
        then p_job.deadline_at
    end;
    return jsonb_build_object(
      -- a person or an event may end any other wait before its time limit
      'estimated_start_at', case
        when v_wait ->> 'kind' = 'sleep' and v_early_deadline is null then v_wait -> 'until'
      end,
      'data', v_wait || jsonb_build_object(
        'early_deadline', v_early_deadline,
        'nearest', v_nearest,
        'is_near', left(v_nearest, 0)
      ) || coalesce(
        (
          select jsonb_build_object(
            'often_since', min(a.ended_at),
            'waits', count(*) || case count(*) when 100 then ' or more' else '' end
          )
          from (
            select o.ended_at
            from queue.attempts as o
            where o.job_id = p_job.id and o.outcome = 'waiting' and v_wait ->> 'kind' = 'sleep'
            order by o.fence
            limit 100
          ) as a
          having count(*) >= 20
        ),
        '{}'
      ),
      'since', v_wait -> 'since',
      'reason', case v_wait ->> 'kind'
        when 'sleep' then 'sleeping'
        when 'ask' then 'asking'
        else 'waiting_for_' || (v_wait ->> 'kind')
      end
    );
  end if;
  select d.run_at, d.run_at + c_patience as patience_until into v_found
  from queue.deferred as d
  where d.run_at = coalesce(p_job.next_retry_at, p_job.scheduled_for)
    and d.job_id = p_job.id;
  if found then
    v_early_deadline := case when p_job.deadline_at < v_found.run_at then p_job.deadline_at end;
    v_postponed := (
      select jsonb_build_object(
        'created_at', p_job.created_at,
        'changed_at', p_job.updated_at,
        'changed_key', left(k.key, 100)
      )
      from queue.job_keys as k
      where (k.workspace_id, k.job_type, k.key, k.is_unique)
          = (p_job.workspace_id, p_job.job_type, p_job.unique_key, true)
        and k.job_id = p_job.id
        and k.freed_when = 'leased' -- as debounce_seconds sets it
        and p_job.attempts = 0
        and p_job.updated_at > p_job.created_at
    );
    return jsonb_build_object(
      'since', v_found.run_at,
      'estimated_start_at', case
        when v_found.run_at > p_now and v_postponed is null and v_early_deadline is null
          then v_found.run_at
      end,
      'data', v_data
        || to_jsonb(v_found)
        || queue.maintained_before(v_found.run_at)
        || jsonb_build_object('early_deadline', v_early_deadline)
        || coalesce(v_postponed, '{}')
        || jsonb_build_object( -- the stage of a job that waits until a service is available again
          'reported', (
            select nullif(rtrim(p_job.progress ->> 'message', ' .'), '')
            where p_job.progress ->> 'stage' = 'waiting'
          )
        ),
      'reason', case
        when v_found.patience_until <= p_now then v_late
        when v_found.run_at <= p_now then 'due'
        when p_job.next_retry_at is null then 'scheduled'
        -- the job keeps the error of an earlier attempt
        when p_job.error_message is null or queue.snoozes_of(p_job) is not null then 'snoozed'
        else 'backing_off'
      end
    );
  end if;
  return coalesce(
    queue.explain_stopped(p_job, p_alive, p_now),
    queue.explain_ready(p_job, p_alive, p_now)
  );
end;
$$;

-- Return the reason why a job that may start has not started. If its latest start has passed,
-- queue.explain_ready first tests whether its workers started later. The concurrency limits come
-- next, from the limit of the job's key to the limit of its type. queue.explain_ready then tests
-- the rate limit, whether the job must run alone because its worker's process died, and whether
-- other jobs are ahead of the job. A lack of slots is returned as the reason only if running jobs
-- use all slots of the workers, and have not ended for ten seconds. If jobs end more often, the job
-- waits for its turn.
create or replace function queue.explain_ready(
  p_job public.jobs,
  p_alive queue.workers[],
  p_now timestamptz
)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_type queue.job_types;
  v_full record;
  v_free_at timestamptz;
  v_suspicion jsonb;
  v_ready_at timestamptz;
  v_ahead integer;
  v_smaller integer;
  v_rank jsonb; -- number of jobs ahead of the job
  v_workers record;
  v_reason text;
  v_must_start_by constant timestamptz := case
    when p_job.started_at is null then least(p_job.deadline_at, p_job.start_by_at)
  end;
  v_lacked constant text := queue.lacked_right('public.lease_jobs');
begin
  if v_must_start_by <= p_now then
    select s.started_at, v_must_start_by as must_start_by
    into v_workers
    from queue.slots_for(p_job, p_alive) as s;
    if v_workers.started_at > v_must_start_by then
      return jsonb_build_object('reason', 'late_worker', 'data', to_jsonb(v_workers));
    end if;
  end if;
  v_ready_at := (
    select r.ready_at
    from queue.ready as r
    where r.lane = p_job.lane
      and r.workspace_id = p_job.workspace_id
      and r.ord = p_job.ord
      and r.job_id = p_job.id
  );
  if v_ready_at is null
    -- maintenance ends an overdue job, which may be in no table
    and (least(p_job.deadline_at, v_must_start_by) <= p_now) is not true
    and not exists (
      select from queue.gated as g
      where g.workspace_id = p_job.workspace_id
        and g.job_type = p_job.job_type
        and g.key = coalesce(p_job.concurrency_key, '')
        and not g.admitted
        and g.ord = p_job.ord
        and g.job_id = p_job.id
    )
  then
    -- a trigger of the engine was disabled when the job was inserted, or the row was deleted
    return '{"reason": "unplaced"}';
  end if;
  select * into v_type
  from queue.job_types
  where job_type = p_job.job_type;
  -- Find the narrowest concurrency limit that has been reached. Skip a concurrency limit that is
  -- not set.
  select l.* into v_full
  from (
    values
      (1, 'key_limit', v_type.key_concurrency),
      (2, 'workspace_type_limit', v_type.workspace_concurrency),
      (
        3,
        'workspace_limit',
        (
          select t.running_max
          from queue.tenant_limits as t
          where t.workspace_id = p_job.workspace_id
        )
      ),
      (4, 'type_limit', v_type.max_concurrency)
  ) as l (n, reason, most)
  where l.most is not null
    and (
      select count(*)
      from queue.find_holders(l.reason, p_job, l.most) as h
    ) >= l.most
  order by l.n
  limit 1;
  if v_full.reason = 'key_limit' then -- these jobs are not in queue.ready
    v_ahead := (
      select count(*)
      from (
        select from queue.gated as g
        where g.workspace_id = p_job.workspace_id
          and g.job_type = p_job.job_type
          and g.key = coalesce(p_job.concurrency_key, '')
          and not g.admitted
          and g.ord < p_job.ord
        limit 1000
      ) as k
    );
  else
    select
      count(*),
      count(*) filter (where a.priority < p_job.priority)
    into v_ahead, v_smaller
    from (
      select j.priority
      from queue.ready as r
      join public.jobs as j on j.id = any (array[r.job_id])
      where r.lane = p_job.lane
        and r.workspace_id = p_job.workspace_id
        and r.ord < p_job.ord
        and r.ord >= coalesce(
          (
            select t.from_ord
            from queue.turns as t
            where t.lane = p_job.lane and t.workspace_id = p_job.workspace_id
          ),
          0
        )
        and coalesce(j.deadline_at > p_now, true)
        and (j.start_by_at is null or j.started_at is not null or j.start_by_at > p_now)
        and (
          not exists (select from queue.suspects) -- evaluated once, and usually finds no row
          or not exists (select from queue.suspects as s where s.job_id = r.job_id)
        )
      limit 1000
    ) as a;
  end if;
  v_rank := jsonb_build_object(
    'ahead', nullif(v_ahead, 0),
    'at_least', case v_ahead when 1000 then v_ahead end,
    'smaller', nullif(v_smaller, 0)
  );
  if v_full.reason is not null then
    return jsonb_build_object(
      'reason', v_full.reason,
      'data', v_rank || jsonb_build_object(
        'running', v_full.most,
        'limit', v_full.most,
        'ahead_for', (
          select concat(
            'about ', -- the median is that of a range
            queue.length_in_words(v_ahead * r.median_ms / v_full.most),
            -- jobs of other workspaces or queues may take turns with the jobs ahead
            case when v_ahead = 1000 or v_full.reason <> 'key_limit' then ' or more' end
          )
          from queue.run_times(p_job.workspace_id, p_job.job_type, p_now) as r
          -- jobs of other types use up the limit of a workspace too
          where r.jobs >= 5
            and v_full.reason <> 'workspace_limit'
            and v_ahead * r.median_ms >= 1000 * v_full.most
        )
      )
    );
  end if;
  select b.refilled_at + make_interval(
    secs => (1 - b.tokens) * v_type.rate_per_seconds / v_type.rate_limit
  )
  into v_free_at
  from queue.buckets as b
  where b.name = case
    when v_type.rate_per_key then format(
      'k:%s/%s/%s',
      p_job.workspace_id,
      p_job.job_type,
      coalesce(p_job.concurrency_key, '')
    )
    else 'r:' || p_job.job_type
  end;
  if v_free_at > p_now then
    return jsonb_build_object(
      'reason', 'rate_limited',
      -- jobs of other workspaces or keys may delay the start further
      'estimated_start_at', v_free_at + make_interval(
        secs => case when v_type.rate_per_key then 0 else v_ahead end
          * v_type.rate_per_seconds / v_type.rate_limit
      ),
      'data', v_rank || jsonb_build_object(
        'limit', v_type.rate_limit,
        'per_seconds', v_type.rate_per_seconds
      )
    );
  end if;
  v_suspicion := queue.suspicion_of(p_job);
  if v_suspicion is not null then
    v_ready_at := (v_suspicion ->> 'suspect_since')::timestamptz;
    return jsonb_build_object(
      'reason', 'suspect',
      'since', v_ready_at,
      'data', v_suspicion || case
        when v_ready_at <= p_now - interval '1 minute'
          then jsonb_build_object('late_since', v_ready_at)
        else jsonb_build_object('patience_until', v_ready_at + interval '1 minute')
      end
    );
  end if;
  select
    s.slots,
    s.running,
    s.ended_at,
    s.yet,
    s.full_since,
    greatest(s.seen_at, s.leased_at) as seen_at,
    case when i.is_idle then s.leased_at end as leased_at,
    case when s.running >= s.slots then s.used_by end as used_by,
    s.running >= s.slots as is_full,
    i.is_idle
  into v_workers
  from queue.slots_for(p_job, p_alive) as s
  cross join lateral (
    values (case
      when s.running >= s.slots then false
      -- workers with free slots usually lease the jobs ahead within seconds
      when s.running < s.slots and s.leased_at <= p_now - interval '1 minute' then true
      else coalesce(s.leased_at <= v_ready_at, true)
    end)
  ) as i (is_idle);
  v_reason := case
    when v_workers.full_since <= p_now - interval '10 seconds' and v_workers.is_full then 'no_slot'
    when v_lacked is not null
        or v_workers.yet is not null
        or v_ready_at <= p_now - interval '1 minute'
        and v_workers.is_full is not true
        and (v_ahead = 0 or v_workers.is_idle)
      then 'not_leased'
    when v_ahead = 0 then 'next_in_line'
    when v_ready_at <= p_now - interval '15 minutes' then 'long_line'
    else 'behind_others'
  end;
  return case
    when v_reason in ('no_slot', 'not_leased') then jsonb_build_object('since', v_ready_at)
    else '{}'
  end || jsonb_build_object(
    'reason', v_reason,
    'data', to_jsonb(v_workers) - '{is_full,is_idle}'::text[] || v_rank || jsonb_build_object(
      'must_start_by', (select p_job.start_by_at where p_job.started_at is null),
      'lacked', v_lacked,
      -- a worker's row is updated once a minute, so older workers may have been killed with their
      -- host
      'silent_since', (
        select v_workers.seen_at
        where v_workers.seen_at < p_now - interval '75 seconds'
      ),
      'triggers', (
        select queue.own_triggers()
        where v_reason = 'not_leased' and v_lacked is null and v_workers.yet is null
      ),
      'ready_at', v_ready_at,
      'patience_until', v_ready_at + case v_reason
        when 'next_in_line' then interval '1 minute'
        when 'behind_others' then interval '15 minutes'
      end
    )
  );
end;
$$;

drop function queue.session_work(integer[]);

-- Return the function of the queue that each of the database sessions p_pids is running, or COMMIT,
-- which runs deferred triggers, and queue.own_triggers(). If a session runs neither, return its
-- queue.session_owners. `work` is the same as text. Return no row for a session of neither kind.
-- data: An object with the keys call, work, triggers, owner and owner_call.
create or replace function queue.session_work(p_pids integer[])
returns table (pid integer, data jsonb)
language sql stable
set search_path = ''
as $$
with sessions as materialized (
  select
    a.pid,
    a.wait_event,
    case
      when a.state = 'active' then substring(
        a.query from '^(?:COMMIT|commit)\M|\m(?:(?:answer|lease|settle|report|spawn|enqueue|retry|'
          'cancel)_jobs?|emit_event|erase_person|register_job_types|run_maintenance|tick_finished)\M'
      )
    end as call
  from pg_catalog.pg_stat_activity as a
  where a.pid = any (p_pids)
)
select
  s.pid,
  jsonb_build_object(
    'call', s.call,
    'work', coalesce(
      'It runs ' || s.call || coalesce(' and waits (' || s.wait_event || ')', ''),
      format('Job %s has opened a session with pid %s, in this or another database', o.owner, s.pid)
    ),
    'triggers', case when s.call is not null then queue.own_triggers() end,
    'owner', o.owner,
    'owner_call', o.owner_call
  )
from sessions as s
left join queue.session_owners(
  array(select n.pid from sessions as n where n.call is null)
) as o on o.pid = s.pid
where num_nonnulls(s.call, o.owner) > 0
$$;

drop function queue.locks_on(uuid[],timestamp with time zone);

-- Return the database sessions that have locked the rows of the jobs p_ids. A database session is
-- returned only if its transaction has been open for at least two seconds. If a session that has
-- locked a row waits for another session, return it as `locker`, and as `pid` the last session in
-- the chain of waits, which must end first. The xmax of a row identifies the transaction that has
-- locked the row (supabase/DECISIONS.md).
create or replace function queue.locks_on(p_ids uuid[], p_now timestamptz)
returns table (job_id uuid, pid integer, since timestamptz, application text, locker integer)
language sql stable
set search_path = ''
as $$
select distinct on (j.id)
  j.id,
  a.pid,
  s.since,
  nullif(a.application_name, ''),
  nullif(l.pid, a.pid)
from public.jobs as j
join pg_catalog.pg_locks as l on l.transactionid = j.xmax
cross join lateral queue.last_blocker(l.pid) as b (pid)
join pg_catalog.pg_stat_activity as a on a.pid = b.pid
cross join lateral coalesce(a.xact_start, a.state_change) as s (since)
where j.id = any (p_ids)
  and j.xmax <> '0'::xid
  and l.locktype = 'transactionid'
  and l.granted
  and l.pid <> pg_backend_pid()
  and s.since <= p_now - interval '2 seconds'
order by j.id, s.since
$$;

-- Return the kind, code and cause of a job's last error. queue.error_of classifies the error by its
-- exception type and its code, never by its message.
-- kind: Kind of the error, for example 'timeout'. The row failed:timeout of queue.guidance has the
--   advice for this kind.
-- code: HTTP status, SQLSTATE, errno name, or code of a library.
-- cause: Response of another service, line of code that ended the process, or last error of an
--   exception chain.
-- place: Location in the code at which a failed or delayed job raised its error.
create or replace function queue.error_of(p_job public.jobs)
returns table (kind text, code text, cause text, place text)
language sql stable
set search_path = ''
as $$
select
  case
    when p_job.status in ('failed', 'pending') then coalesce(
      '{"AttemptTimeout": "timeout",
    "DeadlinePassed": "deadline", "PayloadRejected": "payload",
    "ResultRejected": "result", "ResultTooLarge": "result", "SettleRejected": "rejected",
    "minutehand.queue.errors.FunctionTimeout": "slow:function",
    "minutehand.worker.context.ChildrenFailed": "child",
    "minutehand.worker.streams.OutputRefused": "output"}'::jsonb ->> e.type,
      case
        when e.type = 'WorkerLost' then concat_ws(':', 'lost', case
          when e.evidence ->> 'signal' = 'SIGKILL' then 'kill'
          when e.evidence ->> 'signal' ~ '^SIG(SEGV|ABRT|BUS|FPE|ILL)$' then 'fault'
          when e.evidence ? 'signal' then 'signal'
          -- only the worker's watchdog writes stacks without a signal
          when e.evidence ?& '{exit_code,stack}' then 'blocked'
          when e.evidence ? 'exit_code' then 'exit'
        end)
        when e.sqlstate = '42501' then 'grant' -- the Data API maps these codes to 403 or 404
        when e.sqlstate in ('26000', '42P05') then 'prepared'
        when e.sqlstate ~ '^(3F|42(P01|70[34]|883)|PGRST2)' then 'schema'
        when e.sqlstate ^@ '42' then 'query'
        when e.status in ('401', '407') or e.sqlstate ^@ '28'
            or e.errno ~ '^(SMTP 53[45]|ExpiredToken|InvalidAccessKey|InvalidClient|MissingAuth)'
            or e.errno ~ '^(Incomplete|)Signature|^AuthFailure|^UnrecognizedCl|CredentialsError$'
          then 'credentials'
        when e.errno ~ 'Throttl|TooManyRequests|SlowDown|(Limit|Throughput)Exceeded'
            or e.status = '429'
          then 'rate'
        when e.errno ~ '^(AccessDenied|AuthorizationError|Unauthorized)' or e.status = '403' then 'forbidden'
        when e.sqlstate = '2200H' then 'sequence'
        when e.sqlstate ~ '^2[23]' then 'value'
        when e.sqlstate = '57014' then 'statement'
        when e.status ~ '^30[12378]' then 'redirect'
        when e.status ^@ '4' or e.errno ^@ 'SMTP 5' then 'request'
        when e.errno in ('InvalidHeader', 'LocalProtocolError') then 'request:own'
        when e.sqlstate = '55P03' then 'lock'
        when e.errno = 'SQLITE_BUSY' then 'lock:file'
        when e.sqlstate ~ '^(40|55)' then 'contention'
        when e.signal is not null or e.errno = 'BrokenProcessPool' then 'killed'
        when e.errno = 'ENOMEM' then 'memory'
        when e.sqlstate = '53300' then 'connections:server'
        when e.sqlstate ^@ '53' then 'machine'
        when e.errno = 'EMFILE' then 'files'
        when e.errno in ('ENOSPC', 'EDQUOT') then 'disk'
        when e.errno in ('EACCES', 'EPERM', 'EROFS') and e.path is not null then 'permission'
        when e.errno = 'PoolTimeout'
          then case when e.type ~ '^(psycopg|sqlalchemy)' then 'connections:pool' else 'connections' end
        -- Python's own TimeoutError has no errno
        when e.errno in ('ETIMEDOUT', 'TimeoutError') then 'slow'
        when e.status ^@ '5' or e.errno ^@ 'SMTP 4' then 'unavailable:error'
        when e.sqlstate ~ '^(08|57P)'
            or e.errno in ('ECONNRESET', 'EOF', 'UNEXPECTED_EOF_WHILE_READING')
          then 'unavailable:closed'
        when e.errno = 'ECONNREFUSED' then 'unavailable:port'
        when e.errno in ('EHOSTUNREACH', 'ENETUNREACH', 'ConnectTimeout')
          then 'unavailable:route'
        when e.errno ^@ 'EAI_' then 'unavailable:name'
        when e.errno = 'WRONG_VERSION_NUMBER' then 'unavailable:plain'
        when e.errno = 'CERTIFICATE_VERIFY_FAILED' then 'unavailable:certificate'
        when e.errno = 'Closed' then 'closed'
        when e.errno = 'dlopen' then 'library'
        when e.program is not null then 'program'
        when e.module is not null then 'module'
        when e.variable is not null then 'variable'
        -- psycopg and SQLAlchemy report failed connections without a code
        when e.type ~ '^(psycopg|sqlalchemy).*OperationalError$'
            and coalesce(e.sqlstate, e.errno) is null
          then 'unavailable'
        when e.type ~ '[.](ContentType|JSONDecode)Error$' then 'json'
        when e.type ^@ 'minutehand.ai.errors.' and e.data ->> 'hope' is distinct from 'none'
            -- `ask_for` raises ProcessorError with these codes
            or e.data ->> 'code' ~ '^(input_refused|answer_(unusable|too_long))$'
              and e.type ~ '^minutehand[.].*ProcessorError$'
          then 'answer'
        when e.type ~ '(^|[.])(Fail|ProcessorError)$' then 'chosen'
      end
    )
    when p_job.status = 'cancelled' and e.type = 'StartByPassed' then 'start_by'
  end as kind,
  coalesce(
    replace('SQLSTATE ' || e.sqlstate, 'SQLSTATE PGRST', 'PGRST'), -- a code of the Data API
    e.program,
    e.module,
    e.errno, -- of AWS, it says more than the status
    'HTTP ' || e.status,
    e.variable,
    e.evidence ->> 'signal',
    'exit code ' || (e.evidence ->> 'exit_code')
  ) as code,
  coalesce(
    e.response,
    (
      select string_agg(
        concat_ws(': ', nullif(array_to_string(array(
          select jsonb_array_elements_text(p.path)
        ), '.'), ''), p.message),
        '; '
      )
      from jsonb_to_recordset(
        case when e.type = 'PayloadRejected' then e.data -> 'problems' end
      ) as p (path jsonb, message text)
    ),
    -- the line belongs to another job if the job did not end the process
    case when e.reason = 'worker_lost' then e.evidence ->> 'line' end,
    case
      -- the other errors of a task group are not the cause of its first error
      when not a.last ? 'handled' and a.traceback #> '{causes,0,frames,0}' is distinct from a.frame
        -- the worker stores the class in place of an empty message
        then concat_ws(': ', a.last ->> 'type', nullif(a.last ->> 'message', a.last ->> 'type'))
    end
  ) as cause,
  case
    when p_job.status in ('failed', 'pending')
      then (a.frame ->> 'file') || ':' || (a.frame ->> 'line')
  end as place
from jsonb_to_record(p_job.error_data) as e (
  type text, status text, sqlstate text, errno text, path text, signal text, program text,
  module text, variable text, response text, reason text, evidence jsonb, data jsonb
)
left join lateral (
  select
    o.traceback,
    o.traceback #> '{frames,0}' as frame,
    o.traceback #> '{causes,-1}' as last
  from queue.attempts as o
  where o.job_id = p_job.id
    -- other attempts may have failed for another cause
    and (o.error_message, o.error_data) = (p_job.error_message, p_job.error_data)
  order by o.fence desc
  limit 1
) as a on true
$$;

-- Return the reason why a job waits, and the job, limit or pause for which it waits.
-- p_lock: Database session that has locked the job's row, from queue.locks_on.
-- p_alive: Live workers, from queue.live_workers. A caller that explains many jobs reads the live
--   workers only once, because queue.live_workers reads all leases.
-- p_is_open: True to return also jobs of other workspaces and names of people, roles and
--   applications.
create or replace function queue.explain(
  p_job public.jobs,
  p_lock jsonb,
  p_alive queue.workers[],
  p_now timestamptz,
  p_is_open boolean default queue.is_operator() or queue.is_service()
)
returns jsonb
language plpgsql stable
set search_path = ''
set timezone = 'UTC'
as $$ -- sentences show times in UTC
declare
  v_recursion jsonb;
  v_stopped jsonb;
  v_snoozes constant jsonb := queue.snoozes_of(p_job); -- null unless a snooze ended the last attempt
  v_snoozed jsonb;
  v_found jsonb;
  v_data jsonb; -- the data of v_found, without what the caller may not see
  v_held jsonb;
  v_error record;
  v_revoked_at timestamptz; -- null while workers can call
  v_abandoned jsonb; -- the worker and the location of a stopped processor that still runs
  v_left jsonb; -- the sentence and the advice about this processor
  v_more jsonb; -- advice without which waiting does not help
  v_stopper jsonb; -- the reason that will keep a delayed job from starting at its time
begin
  v_found := case
    when p_lock is null then queue.explain_row(p_job, p_alive, p_now)
    else jsonb_build_object(
      'reason', 'locked',
      'since', p_lock -> 'since',
      'data', p_lock || case
        when p_job.status = 'processing' and p_lock ->> 'effect' is null
          then jsonb_build_object('effect', 'it cannot end', 'is_later', (
            select '' from queue.leases as l -- a call of the job begins after its lease
            where l.job_id = p_job.id and l.leased_at <= (p_lock ->> 'since')::timestamptz
          ))
        else '{}'
      end || coalesce(
        (select w.data from queue.session_work(array[(p_lock -> 'pid')::integer]) as w),
        '{}'
      )
    )
  end;
  if v_found ->> 'reason' = 'no_worker' then
    v_found := v_found || jsonb_build_object(
      'since', queue.last_call(),
      'data', jsonb_build_object('key_expired_at', queue.key_expired_at())
    );
  elsif v_found ->> 'reason' = 'no_processor' then
    v_found := v_found || jsonb_build_object('data', (
      select v_found -> 'data' || jsonb_build_object('served', nullif(
        array_to_string(
          (array_agg(t.job_type order by t.job_type))[:10]
            || case when count(*) > 10 then 'and others' end,
          ', '
        ),
        ''
      ))
      from queue.job_types as t
      where not t.internal
        and t.job_type <> p_job.job_type -- serves other queues
        and t.refusal is null
        and exists (select from unnest(p_alive) as w where t.job_type = any (w.job_types))
    ));
  elsif v_found ->> 'reason' = 'running' then
    v_found := v_found || jsonb_build_object(
      'data', v_found -> 'data'
        || jsonb_build_object('kept_child', queue.kept_child(p_job, p_alive))
        || coalesce(
          (
            select jsonb_build_object(
              'loop_blocker', i.id,
              'loop_owner', coalesce('Job ' || i.id, 'Another job'),
              'loop_blocked', queue.length_in_words((b.pulse ->> 'blocked_ms')::double precision)
            )
            from queue.leases as l
            join unnest(p_alive) as w on w.worker = l.worker
            cross join jsonb_array_elements_text(nullif(w.summary -> 'blockers', 'null')) as k (id)
            join queue.leases as b on b.job_id = k.id::uuid and b.job_id <> l.job_id
            cross join lateral (
              values (case when p_is_open or b.workspace_id = p_job.workspace_id then b.job_id end)
            ) as i (id)
            where l.job_id = p_job.id
              and l.pulse ->> 'blocked_ms' is null
            order by (b.pulse ->> 'blocked_ms')::integer desc
            limit 1
          ),
          '{}'
        )
    );
  end if;
  select * into v_error
  from queue.error_of(p_job);
  select
    to_jsonb(w)
      || to_jsonb(a)
      || jsonb_build_object('thread_place', case when a.in_thread then a.place end)
  into v_abandoned
  from unnest(p_alive) as w
  cross join lateral jsonb_to_recordset(w.abandoned)
    as a (job_id uuid, place text, in_thread boolean)
  where a.job_id = p_job.id
    -- the end of a run leaves the processor running, but the end of the process ends it
    and coalesce(w.evidence, w.summary -> 'stopped') is null
  limit 1;
  v_found := jsonb_build_object(
    'job_id', p_job.id,
    'status', p_job.status,
    'estimated_start_at', null,
    'data', '{}'::jsonb,
    'since', coalesce(p_job.finished_at, p_job.scheduled_for, p_job.created_at),
    'cause', case -- a job that runs or waits keeps the error of an earlier attempt
      when v_found ->> 'reason' in ('failed', 'backing_off') then v_error.cause
    end
  ) || v_found;
  v_revoked_at := case
    when p_job.status in ('pending', 'processing') or v_found ->> 'reason' = 'sleeping'
      then queue.revoked_for(
        case when v_found ->> 'reason' <> 'no_worker' then p_job.job_type end
      )
  end;
  if v_revoked_at is not null then
    v_found := jsonb_set(v_found, '{data,revoked_at}', to_jsonb(v_revoked_at));
  end if;
  if current_setting('default_transaction_read_only')::boolean and p_job.finished_at is null then
    v_found := jsonb_set(v_found, '{data,is_read_only}', '""');
  end if;
  v_data := (v_found -> 'data') || coalesce(v_snoozes, '{}');
  if not (p_is_open or queue.is_manager(p_job.workspace_id)) then -- as job_attempts
    v_data := v_data - '{code,stack,triggers}'::text[];
  end if;
  if not p_is_open then -- hide the names of others from members
    if v_data ->> 'owner' <> '' and not exists (
      select from queue.leases as l
      where l.job_id = (v_data ->> 'owner')::uuid and l.workspace_id = p_job.workspace_id
    ) then
      v_data := v_data - '{work,owner,owner_call}'::text[]
        || '{"call": "a job of another workspace"}';
    end if;
    if v_data ? 'paused_by' then
      v_data := v_data || jsonb_build_object(
        'paused_by',
        queue.shown_person(v_data ->> 'paused_by', p_job.workspace_id)
      );
    end if;
    v_data := v_data - '{application,lacked,not_granted}'::text[]
      || jsonb_build_object('a_right', case
        when coalesce(v_data ->> 'lacked', v_data ->> 'not_granted') <> ''
          then 'a right in the database'
      end);
  end if;
  v_found := v_found || jsonb_build_object('data', v_data);
  if v_found ->> 'reason'
      ~ '^(scheduled|snoozed|backing_off|sleeping|due|rate_limited|suspect)$'
    then
    v_stopper := coalesce(
      -- queue.explain_row has found nothing that stops a ready job
      case
        when v_found ->> 'reason' !~ '^(rate_limited|suspect)$'
          then queue.explain_stopped(p_job, p_alive, p_now)
      end,
      (
        select case
          when p_is_open then jsonb_build_object(
            'reason', 'missing_right',
            'data', jsonb_build_object('right', r.lacked)
          )
          else '{"reason": "workers_lack_right", "data": {"is_idle": ""}}'
        end
        from queue.lacked_right('public.lease_jobs') as r (lacked)
        where r.lacked is not null
      )
    );
    v_more := queue.render_guidance('delayed', v_found -> 'data') -> 'next';
    if v_stopper is not null then
      v_stopper := queue.render_guidance(
        v_stopper ->> 'reason',
        queue.names_of(p_job, null)
          || jsonb_build_object(
            'job_id', p_job.id,
            'which', case when p_is_open then p_job.workspace_id end
          )
          || case
            when v_stopper ->> 'reason' = 'no_worker'
              then jsonb_build_object(
                'since', queue.last_call(),
                'key_expired_at', queue.key_expired_at()
              )
            else '{}'
          end
          || jsonb_strip_nulls(coalesce(v_stopper -> 'data', '{}'))
      );
      v_more := v_more || (v_stopper -> 'next');
    end if;
    if v_more <> '[]' then -- the time of its start is unknown
      v_found := v_found || '{"estimated_start_at": null}';
    end if;
  end if;
  v_held := queue.held_by(p_job, v_found, p_now, p_is_open);
  v_left := queue.render_guidance(
    'abandoned',
    v_abandoned || jsonb_build_object('job_type', p_job.job_type)
  );
  v_recursion := queue.render_guidance('recursion', queue.recursion_of(p_job));
  v_stopped := (
    select queue.render_guidance('stopped', to_jsonb(s) || jsonb_build_object(
      'job_type', p_job.job_type,
      'stops', queue.times_in_words(s.stops)
    ))
    from queue.stops_of(p_job) as s
  );
  v_snoozed := queue.render_guidance(
    'snoozed_again',
    v_found -> 'data' || jsonb_build_object('job_id', p_job.id)
  );
  v_more := coalesce(v_more, '[]')
    || (v_left -> 'next')
    || (v_recursion -> 'next')
    || case when v_found ->> 'reason' = 'snoozed' then v_snoozed -> 'next' else '[]' end
    || coalesce(v_stopped -> 'next', '[]')
    || case
      when v_found ->> 'reason' in ('failed', 'backing_off')
        then queue.one_worker_advice(array[p_job.id], p_job.started_at, p_alive)
      else '[]'
    end;
  v_found := v_found || queue.render_guidance(
    v_found ->> 'reason',
    v_found
      || queue.names_of(p_job, v_held)
      || jsonb_build_object(
        'code', v_error.code,
        'place', v_error.place,
        'is_delayed', case when p_job.status = 'pending' then '' end,
        'failed', 'the job',
        'which', case when p_is_open then p_job.workspace_id end,
        'stuck_in', v_abandoned -> 'worker_id',
        'is_first', case when v_found #>> '{data,ahead}' is null then '' end,
        'is_doubtful', ( -- if the running job that uses up a limit or slots may hang
          select ''
          from public.jobs as h
          cross join lateral queue.pulse_of(h, p_now) as p
          where h.id = any (array[(v_held #>> '{holder,job_id}')::uuid])
            and num_nonnulls(
              p ->> 'is_silent',
              p ->> 'advances',
              p ->> 'late_since',
              p ->> 'unstored_since',
              p ->> 'unreported_since'
            ) > 0
        )
      )
      || jsonb_strip_nulls(v_found -> 'data'),
    '{"failed": "failed", "backing_off": "failed", "cancelled": "cancelled"}'::jsonb
      ->> (v_found ->> 'reason')
      || coalesce(
        ':' || case
          when v_left ->> 'sentence' <> '' and v_error.kind = 'timeout' then 'abandoned'
          else v_error.kind
        end,
        ''
      )
  );
  v_found := v_found || jsonb_build_object(
    'next', case
      when v_more || (v_snoozed -> 'next') <> '[]'
        then v_more
          || jsonb_path_query_array(v_found -> 'next', '$[*] ? (@.kind == "act")')
          || case when v_found ->> 'reason' = 'snoozed' then '[]' else v_snoozed -> 'next' end
      when jsonb_array_length(v_found -> 'next') > 1
        then jsonb_path_query_array(v_found -> 'next', '$[*] ? (@.kind != "none")')
      else v_found -> 'next'
    end,
    'sentence', concat_ws(
      ' ',
      -- put the sentences about the lost worker and the abandoned processor before the job's
      -- error, because the console hides the error and all text after the error
      ( -- count only losses that no other job can have caused
        select queue.render_guidance(
          'worker_lost',
          jsonb_build_object(
            -- null if there is no evidence of how any of the processes ended
            'ended_times', queue.times_in_words(count(*) filter (where a.error_data ? 'evidence')),
            -- if the job was the only job of its process in each loss with evidence
            'alone', case
              when bool_and(a.error_data ->> 'company' = '0')
                  filter (where a.error_data ? 'evidence')
                then 'alone'
            end,
            'lost_times', queue.times_in_words(count(*))
          )
        ) ->> 'sentence'
        from queue.attempts as a
        where a.job_id = p_job.id
          and a.outcome = 'lost'
          and p_job.error_data ->> 'type' = 'WorkerLost'
          and v_snoozes is null -- a later run ended with a snooze
        having count(*) > 0
      ),
      v_left ->> 'sentence',
      v_found ->> 'sentence',
      v_snoozed ->> 'sentence',
      v_stopper ->> 'sentence',
      queue.render_guidance('deadline', v_found -> 'data') ->> 'sentence',
      case
        when v_found ->> 'reason' ~ '(_limit|^rate_limited|^no_slot|^behind_others)$'
          then queue.render_guidance(
            'ahead',
            v_found -> 'data' || jsonb_build_object('job_type', p_job.job_type)
          ) ->> 'sentence'
      end,
      v_recursion ->> 'sentence',
      v_stopped ->> 'sentence',
      case
        when p_job.status = 'pending' and p_job.started_at is null
            and p_job.start_by_at > p_now
          then queue.render_guidance(
            'start_by',
            jsonb_build_object(
              'start_by_at', p_job.start_by_at,
              'ahead', v_found #> '{data,ahead}'
            )
          ) ->> 'sentence'
      end
    )
  );
  return v_found || jsonb_build_object(
    'outlook', case
      when v_found ->> 'reason' = 'running'
        then queue.render_guidance('outlook', jsonb_strip_nulls(v_found -> 'data')) -> 'sentence'
    end,
    'abandoned_at', v_abandoned -> 'place',
    'held_by', v_held || jsonb_build_object('act', v_found #> '{next,0}')
  );
end;
$$;

-- Return the values of a job and its holder that replace the placeholders in texts of
-- queue.guidance.
create or replace function queue.names_of(p_job public.jobs, p_held jsonb)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'job_type', p_job.job_type,
  'own_type', case when not i.is_internal then p_job.job_type end,
  'is_movable', case when not i.is_internal and p_job.priority > 0 then '' end,
  'own_key', left(p_job.concurrency_key, 100),
  'queue', p_job.queue,
  'finished_at', p_job.finished_at,
  'start_by_at', case
    when p_job.error_data ->> 'type' = 'StartByPassed' then p_job.start_by_at
  end,
  'deadline_at', p_job.deadline_at,
  'used', nullif(p_job.attempts, 0),
  'waited', p_job.error_data -> 'waited',
  'was_held', left(p_job.error_data ->> 'waited', 0),
  'cancel_requested_at', p_job.cancel_requested_at,
  'is_retried', case
    when p_job.cancel_requested_at is not null and queue.retry_requested(p_job.id) then ''
  end,
  'error_line', regexp_replace(
    regexp_replace(
      left(queue.error_line(p_job.error_message, p_job.error_data), 301),
      '(.{150}.{150}).', -- a regular expression counts to 255
      '\1…'
    ),
    '\s+',
    ' ',
    'g'
  ),
  -- the first address in the message is db.test:5432, ('10.0.0.1', 80) or https://db.test/, for
  -- example
  'address', coalesce(
    p_job.error_data ->> 'address',
    array_to_string(regexp_match(
      left(p_job.error_message, 2000),
      '((?:[[:alnum:]_-]+\.)+(?!py:)[[:alpha:]]{2,}|(?:\d{1,3}\.){3}\d{1,3}|localhost)'
        '(?:["''], (?:port[ =])?|:)(\d{2,5})\M(?!@)'
    ), ':'),
    substring(left(p_job.error_message, 2000) from '://(?:[^/@\s]*@)?([[:alnum:].-]+(?::\d+)?)'),
    substring( -- such as: host name "db.test"; failed to resolve 'db.test'
      left(p_job.error_message, 2000)
      from '(?i)\m(?:host(?:[ _]?name)?|resolve)[ :=]*["'']([[:alnum:]._-]+)["'']'
    )
  ),
  'error_path', p_job.error_data -> 'path',
  'output_max_bytes', case
    when p_job.error_data ->> 'type' = 'minutehand.worker.streams.OutputRefused'
      then queue.setting('output_max_bytes')
  end,
  'is_proxy', case when p_job.error_data ->> 'status' = '407' then '' end,
  'is_own_call', case
    when p_job.error_data ->> 'type' ^@ 'minutehand.queue.errors.' then ''
  end,
  'has_answer', left(p_job.error_data ->> 'response', 0),
  'object', coalesce(g.object, 'an object'),
  'role', coalesce('role ' || (p_job.error_data ->> 'role'), 'role of the connection'),
  'policed', case when p_job.error_message ~ 'violates row-level security' then g.object end,
  'is_granted', case when p_job.error_message ~ 'violates row-level security' is not true then '' end,
  'own_object', case when o.is_own then g.object end,
  'shared_object', case when o.is_shared then g.object end,
  'had_finished', case
    when p_job.error_message ^@ 'the database rejected the outcome completed' then ''
  end,
  'signal', p_job.error_data -> 'signal',
  'peak_mb', p_job.error_data #> '{evidence,memory_mb}',
  'is_abort', case when p_job.error_data #>> '{evidence,signal}' = 'SIGABRT' then '' end,
  'cancelled_for', case
    when p_job.error_data @> '{"type": "Cancelled"}' and not p_job.error_data ? 'reason'
      then left(p_job.error_message, 300)
  end,
  'cancelled_by', (
    select case e.data ->> 'reason'
      when 'parent_ended' then 'because its parent ended'
      else 'by ' || (e.data ->> 'by')
    end
    from (
      select p_job.error_data as data, null::integer as seq
      where p_job.cancel_requested_at is null
        and p_job.status = 'cancelled'
      union all -- a running job keeps the error of its last attempt
      select v.data, v.seq
      from queue.job_events as v
      where p_job.cancel_requested_at is not null
        and v.job_id = p_job.id
        and v.type = 'job.cancel_requested'
    ) as e
    order by e.seq desc
    limit 1
  ),
  -- The job that may have ended an earlier process of the job: its type, and its id if it has lost
  -- a process itself. Null while the type is unknown, or while several jobs may have ended the
  -- process.
  'killer', case
    when p_job.error_data ->> 'reason' = 'process_died' then coalesce(
      (
        select min(concat_ws(' ', j.job_type, j.id))
        from jsonb_array_elements_text(p_job.error_data #> '{evidence,jobs}') as e (id)
        join public.jobs as j on j.id = e.id::uuid
        where j.id <> p_job.id
          and j.status <> 'completed' -- a completed job did not end the process
          -- the stack of the process may already have shown the type
          and coalesce(j.job_type = p_job.error_data #>> '{evidence,guilty_type}', true)
        having count(*) = 1
          and bool_and(exists (
            select from queue.attempts as a
            where a.job_id = j.id and a.outcome = 'lost' and a.error_data ? 'evidence'
          ))
      ),
      p_job.error_data #>> '{evidence,guilty_type}'
    )
  end,
  'version', p_job.schema_version,
  'type_version', (
    select t.schema_version
    from queue.job_types as t
    where t.job_type = p_job.job_type and t.schema_version > p_job.schema_version
  ),
  'older_worker', case when w.is_older then w.worker_id end,
  'other_worker', case when not w.is_newest then w.worker_id end,
  'other_code', w.version,
  'newest_commit', left(w."commit", 9),
  'is_of_newest', case when (w.is_older or not w.is_newest) is not true then '' end,
  'child', c.id,
  'cause_type', case when c.status = 'failed' then c.job_type end,
  'retried', b.retried,
  'holder', p_held #> '{holder,job_id}',
  'parent', case
    when p_held #>> '{holder,job_id}' = p_job.parent_id::text then p_job.parent_id
  end,
  -- the job's type, if a list of the job's workspace shows the running jobs
  'listed_type', (
    select p_job.job_type
    from public.jobs as h
    where h.id = (p_held #>> '{holder,job_id}')::uuid
      and h.workspace_id = p_job.workspace_id
  ),
  'holder_type', p_held #> '{holder,job_type}',
  'holder_state', p_held #> '{holder,state}',
  'others', p_held #> '{holder,others}',
  'held_since', p_held -> 'since'
)
from queue.is_internal(p_job.job_type) as i (is_internal)
cross join lateral (
  select f.id, queue.retried_after(f.id, p_job.id) as retried
  from (
    values (case
      when p_job.error_data ->> 'type' = 'minutehand.worker.context.ChildrenFailed'
        then coalesce(
          queue.blocking_descendant(p_job.id, true),
          (
            select j.id
            from public.jobs as j
            where j.parent_id = p_job.id
              and j.status = 'cancelled'
              and p_job.error_data #> '{data,failed}' ? j.id::text
            order by j.id
            limit 1
          )
        )
    end)
  ) as f (id)
) as b
left join public.jobs as c on c.id = b.id
left join lateral ( -- the worker that rejected the payload and still runs
  select
    o.worker_id,
    o.version,
    t."commit",
    -- a worker names the problems of a payload, unless the payload has a newer version
    p_job.error_data #> '{data,problems}' = '[]' as is_older,
    case -- the code of a worker that was not deployed is unknown
      when o.version ~ '[+]'
        then o.version like '%+' || left(t."commit", 9) or t.deployed_at > a.leased_at
    end as is_newest
  from queue.attempts as a
  join queue.workers as o on o.worker = a.worker
  join queue.job_types as t on t.job_type = p_job.job_type
  where a.job_id = p_job.id
    and p_job.error_data ->> 'type' = 'PayloadRejected'
    -- a worker that has ended or started again may have been deployed since
    and o.ended_at is null
    and o.started_at <= a.leased_at
  order by a.fence desc
  limit 1
) as w on true
cross join lateral substring(
  p_job.error_message
  from '\m(?:permission denied for|policy for) '
    '((?:table|view|sequence|schema|function|procedure|database) "?\w+)'
) as p (object)
cross join lateral replace(p.object, '"', '') as g (object)
cross join lateral ( -- a table of the project may have the name of a table of the engine
  select
    bool_and(k.is_own) or g.object = 'schema queue' as is_own,
    count(distinct k.is_own) = 2 as is_shared
  from pg_catalog.pg_class as t
  cross join lateral (
    values (
      t.relnamespace = 'queue'::regnamespace
      -- by name, because a repair may restore this function before the tables
      or t.relnamespace = 'public'::regnamespace and t.relname ~ '^job(s|_logs|_events)$'
    )
  ) as k (is_own)
  where t.relname = substring(g.object from '^(?:table|view|sequence) (.+)')
) as o
$$;

-- Explain a job that the caller may see, as for public.explain_job.
create or replace function queue.explain_visible(p_job_id uuid, p_now timestamptz)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_job constant public.jobs := queue.visible_job(p_job_id);
  v_lock jsonb;
begin
  if v_job.status = 'pending' then
    perform queue.take_call_slot(); -- take a slot, because the call counts the jobs ahead
  end if;
  -- in a read-only session, ignore locks of other sessions, because a read-only session cannot try
  -- to lock the job's row
  if v_job.finished_at is null and not current_setting('transaction_read_only')::boolean then
    select to_jsonb(l) into v_lock
    from queue.locks_on(array[p_job_id], p_now) as l;
  end if;
  if v_lock is not null then
    perform from public.jobs
    where id = p_job_id
    for no key update skip locked;
    -- If this session can also lock the job's row, the lock of the other session comes from a
    -- foreign key check. A lock of a foreign key check does not keep workers from leasing the job.
    v_lock := case when not found then v_lock end;
  end if;
  if v_lock is null and v_job.finished_at is null then
    select to_jsonb(o) into v_lock
    from (
      select
        l.*,
        a.xact_start as since,
        nullif(a.application_name, '') as application
      from queue.table_locks() as l
      join pg_catalog.pg_stat_activity as a on a.pid = l.pid
      where a.xact_start <= p_now - interval '2 seconds'
      order by a.xact_start
      limit 1
    ) as o;
  end if;
  return ( -- read the job and its wait in one statement, because a worker may change both
    select queue.explain(j, v_lock, queue.live_workers(p_now), p_now)
    from queue.visible_job(p_job_id) as j
  );
end;
$$;

drop function queue.run_times(uuid,text,timestamp with time zone);

-- Return how many jobs of a type ran and completed or failed in the last day, and the duration in
-- milliseconds that 99 % of them did not exceed. The duration is the end of its range in the
-- histogram, rounded up as queue.length_in_words shows it. median_ms is their median.
create or replace function queue.run_times(p_workspace_id uuid, p_job_type text, p_now timestamptz)
returns table (jobs bigint, most_ms double precision, median_ms double precision)
language sql stable
set search_path = ''
as $$
select h.jobs, r.ms, (h.percentiles ->> 'p50_ms')::double precision
from (
  select queue.sum_jsonb(array_agg(s.run_times)) as times
  from queue.stats as s
  where s.workspace_id = p_workspace_id
    and s.at > p_now - interval '1 day'
    and s.job_type = p_job_type
) as o
cross join lateral (
  select
    sum(t.value::bigint) as jobs,
    queue.percentiles(o.times) as percentiles
  from jsonb_each_text(o.times) as t
) as h
cross join lateral (
  values (((h.percentiles ->> 'p99_ms')::double precision + 1) * sqrt(1.25) - 1)
) as e (ms)
cross join lateral (
  select ceil(e.ms / u.size) * u.size as ms
  from (
    values (
      case
        when e.ms < 1000 then 1
        when e.ms < 10000 then 100
        when e.ms < 7200000 then 1000
        else 60000
      end
    )
  ) as u (size)
) as r
$$;

-- Return the number of due jobs for each reason why due jobs have not started. The reasons are
-- paused, unserved (no worker serves the job type), suspect (the job's process died), at_limit,
-- blocked (by a concurrency key) and ready. Only unserved jobs cause the verdict `warn`. The key
-- `attention` has the jobs that wait for a worker, as public.explain_queue returns them.
-- p_user_id: Id of the member who calls, or null to count the jobs of all callers. Among jobs of
--   unpublished types, only the member's own jobs are counted, because a member who is no manager
--   cannot change the jobs of other people.
create or replace function queue.backlog(
  p_workspace_id uuid,
  p_now timestamptz,
  p_user_id uuid default null
)
returns jsonb
language sql stable
set search_path = ''
as $$
with lanes as materialized (
  select
    l.lane,
    l.job_type,
    l.queue,
    s.unserved,
    case when s.in_other_queues then l.queue end as not_served,
    greatest(10, 10000 / count(*) over ()) as most,
    coalesce(queue.free_of_type(l.job_type, p_now) <= 0, false) as is_full
  from (
    select array_agg(o.job_type) as types, array_agg(o.queue) as queues
    from (select distinct job_type, queue from queue.lanes) as o
  ) as a
  cross join lateral queue.is_unserved(a.types, a.queues, queue.live_workers(p_now), p_now) as s
  join queue.lanes as l on l.job_type = s.job_type and l.queue = s.queue
),
unpublished as materialized (
  select o.workspace_id, o.job_type, o.job_id
  from queue.unpublished as o
  where (p_workspace_id is null or o.workspace_id = p_workspace_id)
    and (
      p_user_id is null
      or exists (
        select from public.jobs as j
        where j.id = o.job_id and j.user_id = p_user_id
      )
    )
  limit 10000
),
due as (
  select
    l.job_type,
    l.not_served,
    r.ready_at,
    r.jobs,
    r.workspace_id,
    r.job_ids,
    sum(r.jobs) over (partition by l.lane) >= l.most as is_more,
    case
      when exists (
        select from queue.pauses as p
        where (p.kind, p.name) in (
          ('job_type', l.job_type),
          ('queue', l.queue),
          ('workspace', r.workspace_id::text),
          ('workspace_type', r.workspace_id || '/' || l.job_type)
        )
      ) then 'paused'
      when l.unserved then 'unserved'
      when r.is_suspect then 'suspect'
      when l.is_full
          or exists (
            select from queue.turns as t
            where t.lane = l.lane
              and t.workspace_id = r.workspace_id
              and t.blocked
              and t.look_at is not null
          )
        then 'at_limit'
      else 'ready'
    end as cause
  from lanes as l
  cross join lateral (
    select
      o.workspace_id,
      exists (select from queue.suspects) -- evaluated once, and usually finds no row
        and exists (select from queue.suspects as s where s.job_id = o.job_id) as is_suspect,
      min(o.ready_at) as ready_at,
      count(*) as jobs,
      (array_agg(o.job_id))[:200] as job_ids
    from (
      select *
      from queue.ready as q
      where q.lane = l.lane
        and (p_workspace_id is null or q.workspace_id = p_workspace_id)
      limit l.most
    ) as o
    group by 1, 2
  ) as r
  union all
  select
    g.job_type,
    null,
    null,
    count(*),
    null,
    null,
    sum(count(*)) over () >= 10000,
    'blocked'
  from (
    select o.job_type
    from queue.gated as o
    where (p_workspace_id is null or o.workspace_id = p_workspace_id)
      and not o.admitted
    limit 10000
  ) as g
  group by 1
  union all
  select
    u.job_type,
    null,
    coalesce(j.next_retry_at, j.scheduled_for, j.created_at),
    u.jobs,
    u.workspace_id,
    u.job_ids,
    sum(u.jobs) over () >= 10000,
    'unserved'
  from (
    select
      i.job_type,
      i.workspace_id,
      count(*) as jobs,
      (array_agg(i.job_id order by i.job_id))[:200] as job_ids
    from unpublished as i
    group by 1, 2
  ) as u
  join public.jobs as j on j.id = any (array[u.job_ids[1]])
),
causes as (
  select
    k.*,
    coalesce(sum(d.jobs), 0)::integer as jobs,
    min(d.ready_at) as oldest_at,
    coalesce(bool_or(d.is_more), false) as is_more,
    min(d.job_type) as job_type,
    case when min(d.job_type) = max(d.job_type) then min(d.job_type) end as only_type,
    string_agg(distinct d.not_served, ' --queue ' order by d.not_served) as not_served,
    (array_agg(distinct d.job_type) filter (where d.not_served is null))[:100] as job_types,
    concat(
      array_to_string((array_agg(distinct d.job_type || n.queue))[:3], ', '),
      ' and ' || nullif(greatest(count(distinct d.job_type || n.queue) - 3, 0), 0) || ' more'
    ) as types
  from (
    values
      (1, 'unserved', 'waiting: no worker serves'),
      (2, 'paused', 'paused:'),
      (3, 'suspect', 'to run alone, because the worker was lost:'),
      (4, 'at_limit', 'waiting for a limit:'),
      (5, 'blocked', 'waiting for a job of the same key:'),
      (6, 'ready', 'ready to start:')
  ) as k (n, cause, words)
  left join due as d on d.cause = k.cause
  cross join lateral (
    values (case
      when d.cause = 'unserved' then coalesce(' in the queue ' || d.not_served, '')
      else ''
    end)
  ) as n (queue)
  group by 1, 2, 3
)
select jsonb_object_agg(
  c.cause,
  jsonb_build_object(
    'jobs', c.jobs,
    'more', c.is_more,
    'types', c.types,
    'job_type', c.job_type,
    'only_type', c.only_type, -- other types may need other steps
    'job_types', c.job_types,
    'not_served', c.not_served,
    'oldest_at', c.oldest_at
  )
)
  || jsonb_build_object(
    'jobs', sum(c.jobs),
    'oldest_at', min(c.oldest_at),
    'verdict', case
      when bool_or(c.jobs > 0 and c.cause = 'unserved') then 'warn'
      else 'pass'
    end,
    'detail', coalesce(
      string_agg(
        format(
          '%s%s %s %s',
          c.jobs,
          case when c.is_more then '+' end,
          c.words,
          c.types
        ),
        '; '
        order by c.n
      ) filter (where c.jobs > 0),
      'nothing is due'
    ),
    'oldest_due_seconds', extract(
      epoch from p_now
      - min(c.oldest_at) filter (where c.cause not in ('paused', 'unserved'))
    ),
    'attention', (
      select coalesce(
        jsonb_agg(
          to_jsonb(a) || jsonb_build_object(
            'nearest', case
              when not exists (select from queue.job_types as t where t.job_type = a.job_type)
                then queue.nearest_type(a.job_type)
            end
          )
        ),
        '[]'
      )
      from (
        select
          d.workspace_id,
          'no_worker' as kind,
          case d.cause when 'unserved' then 'no_processor' else 'no_worker' end as reason,
          d.job_type,
          sum(d.jobs) as jobs,
          (
            string_to_array(string_agg(array_to_string(d.job_ids, ','), ','), ',')::uuid[]
          )[:200] as job_ids,
          min(d.ready_at) as since
        from due as d -- the jobs of a type may be in several queues
        where case
          when d.cause = 'unserved' then true
          when d.cause <> 'paused' and d.job_ids is not null
            -- no worker has called, as in the finding no_worker
            then coalesce((select queue.last_call() < p_now - interval '90 seconds'), true)
        end
        group by 1, 3, 4
        order by jobs desc
        limit 50 -- limits the response
      ) as a
    )
  )
from causes as c
$$;

-- Return a finding for each database session for whose lock other sessions wait, or that has locked
-- a table of the engine. The session's transaction, or the first wait, must have lasted for ten
-- seconds. The finding begins with the transaction, because a call that waits is repeated. Members
-- of a workspace do not see sessions.
create or replace function queue.findings_of_locks(p_workspace_id uuid, p_now timestamptz)
returns setof queue.finding
language sql stable
set search_path = ''
as $$
with waits as materialized (
  (
    select
      a.query_start as since,
      queue.last_blocker(a.pid) as pid,
      null as locked,
      null as effect
    from pg_catalog.pg_stat_activity as a
    where a.datname = current_database()
      and a.wait_event_type = 'Lock'
      and a.query_start <= p_now - interval '1 second'
    limit 20
  )
  union all
  -- calls of people wait for at most two seconds, so no waiting session may show this lock
  select a.xact_start, a.pid, l.locked, l.effect
  from queue.table_locks() as l
  join pg_catalog.pg_stat_activity as a on a.pid = l.pid
)
select
  'warn',
  case when p_workspace_id is null then 'blocking_session' else 'service_locked' end,
  coalesce(h.xact_start, min(w.since)),
  case
    when p_workspace_id is null then format(
      '%s (pid %s) is %s',
      coalesce(nullif(h.application_name, ''), h.usename, h.backend_type),
      h.pid,
      coalesce(h.state, 'active')
    )
  end,
  jsonb_build_object(
    'pid', h.pid,
    'waiting', count(*),
    'locked', (min(array[w.locked, w.effect]))[1],
    'effect', (min(array[w.locked, w.effect]))[2],
    'began_at', h.xact_start
  ) || coalesce((array_agg(k.data))[1], '{}')
from waits as w
join pg_catalog.pg_stat_activity as h
  on h.pid = w.pid and h.wait_event_type is distinct from 'Lock'
left join queue.session_work(array(select distinct o.pid from waits as o)) as k on k.pid = h.pid
group by h.pid, h.application_name, h.usename, h.backend_type, h.state, h.xact_start
having coalesce(h.xact_start, min(w.since)) <= p_now - interval '10 seconds'
  and (p_workspace_id is null or max(w.locked) is not null)
$$;

-- Return findings about workers, due jobs, the database and maintenance. A transaction that has
-- written rows is a finding after a minute, or after 30 seconds if its session is idle, because
-- readers of queue.feed wait for the end of the transaction. A read-only transaction is a finding
-- after five minutes, because Postgres cannot remove dead rows until the transaction ends.
create or replace function queue.findings_of_queue(
  p_workspace_id uuid,
  p_now timestamptz,
  p_backlog jsonb,
  p_seen_at timestamptz
)
returns setof queue.finding
language plpgsql stable
set search_path = ''
as $$
declare
  v_alive constant queue.workers[] := queue.live_workers(p_now);
  -- functions that workers have no right to call
  v_is_open constant boolean := p_workspace_id is null
    or queue.is_operator()
    or queue.is_service();
  v_denied constant regproc[] := array(
    select f.function
    from unnest(
      '{public.lease_jobs, public.report_jobs, public.settle_jobs,
        public.run_maintenance}'::regproc[]
    ) as f (function)
    where queue.lacked_right(f.function) is not null
  );
begin
  return query
    select
      'fail',
      'read_only',
      null::timestamptz,
      null::text,
      coalesce(f.data || '{"is_full": ""}', jsonb_build_object(
        'reset', (
          select string_agg(
            format(
              'alter %s reset default_transaction_read_only',
              case s.setrole
                when 0 then format('database %I', current_database())
                else concat('role ', s.setrole::regrole, ' in database ' || quote_ident(d.datname))
              end
            ),
            '; '
          )
          from pg_catalog.pg_db_role_setting as s
          left join pg_catalog.pg_database as d on d.oid = s.setdatabase
          where (s.setdatabase = 0 or d.datname = current_database())
            and s.setrole in (0, to_regrole(quote_ident(session_user)))
            and s.setconfig::text ~* '[{,"]default_transaction_read_only=(on|t|y|1)'
        ),
        'source', p.source
      ))
    from pg_catalog.pg_settings as p
    left join queue.findings_of_disk() as f on f.reason = 'disk_nearly_full'
    where p.name = 'default_transaction_read_only' and p.setting = 'on'
    union all
    select
      'warn',
      'no_retention',
      null,
      null,
      jsonb_build_object(
        'states', string_agg(d.key, ', ' order by d.key) filter (where d.value = '0'),
        'longer', jsonb_object_agg(d.key, case
          when d.value <> '0' then d.value::integer
          when d.key = 'failed' then 90
          else 30
        end)::text
      )
    from jsonb_each_text(queue.setting('retention_days')) as d
    -- some projects keep no completed jobs, but without failed jobs no one sees why they failed
    having bool_or(d.key = 'failed' and d.value = '0')
    union all
    select
      case
        when p_now - p_seen_at > interval '200 seconds' then 'fail'
        else 'warn'
      end,
      'no_worker',
      p_seen_at,
      null,
      jsonb_build_object(
        'jobs', p_backlog -> 'jobs',
        'key_expired_at', queue.key_expired_at(),
        'revoked_at', queue.revoked_for()
      )
    where coalesce(p_now - p_seen_at > interval '90 seconds', true)
      -- rejected workers may be running
      and 'public.lease_jobs'::regproc <> all (v_denied)
    union all
    select
      case
        when p_seen_at is null and o.at < p_now - interval '15 minutes' then 'fail'
        else 'warn'
      end,
      'overdue',
      o.at,
      null,
      jsonb_build_object(
        'jobs', p_backlog #> '{ready,jobs}',
        'job_id', w.job_id,
        'used_by', w.used_by
      )
    from (values ((p_backlog #>> '{ready,oldest_at}')::timestamptz)) as o (at)
    left join lateral (
      select
        j.id as job_id,
        e.said ->> 'reason' as reason,
        e.said #> '{data,used_by}' as used_by
      from (
        select r.job_id
        from queue.lanes as l
        cross join lateral (
          select *
          from queue.ready as q
          where q.lane = l.lane
            and (p_workspace_id is null or q.workspace_id = p_workspace_id)
          limit 1
        ) as r -- the first job of each lane
        where r.ready_at >= o.at -- older jobs wait for a limit, or their type is paused
        order by r.ready_at
        limit 1
      ) as f
      join public.jobs as j on j.id = any (array[f.job_id])
      cross join lateral queue.explain_row(j, v_alive, p_now) as e (said)
    ) as w on true
    where o.at < p_now - interval '2 minutes'
      and 'public.lease_jobs'::regproc <> all (v_denied)
      -- the job only waits for its turn, or for a limit that was reached after the last lease
      and coalesce(w.reason !~ '^(behind_others|next_in_line|rate_limited|.*_limit)$', true)
    union all
    select
      'warn',
      'no_processor',
      u.oldest_at,
      null,
      jsonb_build_object(
        'jobs', u.jobs,
        'types', u.types,
        'unserved', u.job_types,
        'job_type', u.only_type,
        'only_type', u.only_type,
        'nearest', n.nearest,
        'is_near', left(n.nearest, 0),
        'not_served', (select u.not_served where u.only_type is not null),
        'revoked_at', queue.revoked_for(u.only_type),
        'key_expired_at', queue.key_expired_at(u.only_type),
        'once_served', case
          when exists (select from queue.workers as w where u.only_type = any (w.job_types))
            then u.only_type
        end
      )
    from jsonb_to_record(p_backlog -> 'unserved') as u (
      jobs integer,
      types text,
      only_type text,
      job_types text[],
      not_served text,
      oldest_at timestamptz
    )
    left join lateral queue.nearest_type(u.only_type) as n (nearest)
      on not exists (select from queue.job_types as t where t.job_type = u.only_type)
    where u.jobs > 0
    union all
    select
      'warn',
      'silent_worker',
      c.at,
      null,
      jsonb_build_object(
        'worker_id', w.worker_id,
        'jobs', h.jobs,
        'expires_at', h.expires_at,
        'is_read_only', (
          select '' where current_setting('default_transaction_read_only')::boolean
        ),
        'key_expired_at', queue.key_end(w, c.at),
        'key_revoked_at', queue.key_revoked_at(w, c.at)
      )
    from queue.lease_holders(p_workspace_id, p_now) as h
    join queue.workers as w on w.worker = h.worker
    cross join lateral (values (greatest(w.seen_at, h.renewed_at))) as c (at)
    where h.due_at <= p_now and w.seen_at <= h.due_at and w.evidence is null
    union all
    select
      'warn',
      'expired_key',
      c.at,
      null,
      jsonb_build_object('worker_id', w.worker_id, 'key_expired_at', k.expired_at)
    from queue.workers as w
    cross join lateral queue.called_at(w) as c (at)
    cross join lateral queue.key_end(w, c.at) as k (expired_at)
    where p_workspace_id is null
      and w.ended_at is null
      and (w.summary ->> 'key_expires_at')::timestamptz <= p_now -- before the read of leases
      and w.seen_at > p_now - interval '10 minutes' -- an older worker is listed as gone
      and k.expired_at is not null
      -- otherwise the jobs of a type, or all, have no worker, which is another finding
      and exists (
        select from unnest(v_alive) as a
        where a.worker <> w.worker
          and (a.job_types is null or a.job_types @> w.job_types)
          and (a.queues is null or a.queues @> w.queues)
      )
    union all
    (
      select distinct on (j.job_type)
        'warn',
        'recursive_type',
        null::timestamptz,
        null,
        r || jsonb_build_object('job_id', j.id)
      from (
        select l.job_id
        from queue.leases as l
        where p_workspace_id is null or l.workspace_id = p_workspace_id
        order by l.job_id desc
        limit 10 -- a sample, because each job reads up to 20 ancestors
      ) as l
      join public.jobs as j on j.id = any (array[l.job_id])
      cross join queue.recursion_of(j) as r
      where r is not null
    )
    union all
    select
      'warn',
      case when p_workspace_id is null then 'clock_skew' else 'wrong_clock' end,
      null,
      null,
      jsonb_build_object(
        'worker_id', w.worker_id,
        'behind', case when s.seconds < 0 then round(-s.seconds) end,
        'ahead', case when s.seconds > 0 then round(s.seconds) end
      )
    from unnest(v_alive) as w
    cross join lateral (
      values ((w.summary ->> 'clock_skew_seconds')::numeric)
    ) as s (seconds)
    where s.seconds is not null;
  return query
    select
      'fail',
      case when v_is_open then 'missing_right' else 'workers_lack_right' end,
      null::timestamptz,
      null::text,
      case
        when v_is_open
          then jsonb_build_object('right', r.lacked, 'function', min(f.function::text))
        else jsonb_build_object('is_idle', case
          when 'public.lease_jobs'::regproc = any (v_denied) then ''
        end)
      end
    from unnest(v_denied) as f (function)
    cross join lateral queue.lacked_right(f.function) as r (lacked)
    group by r.lacked
    limit case when not v_is_open then 1 end;
  if p_workspace_id is not null then
    -- only operators see the cause, for example a session with an open transaction
    return query
      select 'warn', 'late_events', s.at, null, '{}'::jsonb
      from queue.statistics_stale_since(p_now) as s (at)
      where s.at < p_now - interval '2 minutes' and p_now - p_seen_at < interval '90 seconds';
    return;
  end if;
  return query
    select
      'warn',
      'failing_maintenance',
      null::timestamptz,
      string_agg(m.words, '; '),
      '{}'::jsonb
    from (
      select format('the task %s fails: %s', t.name, left(t.failure, 300)) as words
      from queue.tasks as t
      where t.failures > 0
      union all
      (
        select format(
          '%s skips job %s: %s',
          r.task,
          r.job_id,
          left(r.failure, 300)
        )
        from queue.refusals as r
        join public.jobs as j on j.id = any (array[r.job_id])
        order by r.refused_at, r.job_id
        limit 20
      )
    ) as m
    having count(*) > 0
    union all
    (
      with longest as materialized (
        select a.*, s.seconds
        from pg_catalog.pg_stat_activity as a
        cross join lateral (
          values (extract(epoch from queue.clock() - a.xact_start)::integer)
        ) as s (seconds)
        where a.datname = current_database()
          and a.pid <> pg_backend_pid()
          and a.backend_type = 'client backend'
          and num_nonnulls(a.backend_xid, a.backend_xmin) > 0
          and a.wait_event_type is distinct from 'Lock' -- the session that it waits for is named
          and s.seconds >= case
            when a.backend_xid is null then 300
            when a.state = 'active' then 60
            else 30
          end -- 30 seconds if the transaction has written and is now idle
        order by s.seconds desc
        limit 20
      )
      select
        'warn',
        'open_transaction',
        o.xact_start,
        format(
          '%s (pid %s) has an open transaction for %s s; %s',
          coalesce(nullif(o.application_name, ''), o.usename, 'a session'),
          o.pid,
          o.seconds,
          case
            when o.backend_xid is null then 'Postgres keeps dead rows until it ends'
            else 'readers of events wait until it ends'
          end
        ),
        jsonb_build_object('pid', o.pid) || coalesce(w.data, '{}')
      from longest as o
      left join queue.session_work(array(select l.pid from longest as l)) as w on w.pid = o.pid
    );
end;
$$;

drop function queue.findings_of_workspace(uuid,timestamp with time zone);

-- Return findings about job types, versions of the code, pauses, schedules, unanswered questions,
-- silent jobs, and jobs that retry after the same error. Such a job waits for its retry, is due or
-- runs again. Of the next 5,000 rows of queue.deferred, up to 1,000 delayed jobs are read, and of
-- each of up to 70 turns the first 20 ready jobs. The turns are those of such jobs, and of types
-- whose attempts failed in the last hour. A running job is silent if the time since its last update
-- exceeds both a minute and, if enough jobs of its type have ended, the duration of 99 % of these.
-- If an operator pauses a queue or a job type for all workspaces, the pause is a finding in each
-- workspace that has due jobs there.
-- p_failures: Groups of failed jobs, from queue.recent_failures. Fewer than three retrying jobs are
--   a finding only if these groups have their workspace, type and error.
create or replace function queue.findings_of_workspace(
  p_workspace_id uuid,
  p_now timestamptz,
  p_failures jsonb
)
returns setof queue.finding
language sql stable
set search_path = ''
as $$
with alive as materialized (
  select *
  from unnest(queue.live_workers(p_now))
),
tried as materialized ( -- jobs that may wait for a retry, and jobs that run one
  select j.*, d.is_cut
  from (
    select u.job_id, count(*) over () >= 1000 as is_cut
    from (
      (
        select o.job_id
        from (
          -- each read has its own index; due jobs usually leave the table within seconds
          (
            select *
            from queue.deferred as q
            where p_workspace_id is null and q.run_at > p_now - interval '10 minutes'
            order by q.run_at
            limit 5000 -- many jobs may have a deadline
          )
          union all
          (
            select *
            from queue.deferred as q
            where q.workspace_id = p_workspace_id and q.run_at > p_now - interval '10 minutes'
            order by q.run_at
            limit 5000
          )
        ) as o
        where o.is_place
        limit 1000
      )
      union all
      (
        select l.job_id
        from queue.leases as l
        where l.attempt > 1 and (p_workspace_id is null or l.workspace_id = p_workspace_id)
        limit 1000
      )
    ) as u
  ) as d
  cross join lateral (
    select *
    from public.jobs as i
    where i.id = any (array[d.job_id])
    offset 0 -- without statistics, the planner would read all jobs first
  ) as j
  where j.attempts > 0 and j.error_message is not null
),
counted as materialized ( -- counts of a key are null if it was never counted
  select
    s.job_type,
    sum((s.counts ->> 'completed')::bigint) as completed,
    max(s.at) filter (where (s.counts ->> 'completed')::bigint > 0)
      + interval '5 minutes' as until,
    sum(
      (s.counts ->> 'retried')::bigint
      + (s.counts ->> 'failed')::bigint
      + coalesce((s.counts ->> 'snoozed')::bigint, 0)
    ) as failed
  from queue.stats as s
  where s.workspace_id = coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000')
    and s.at > p_now - interval '1 hour'
  group by 1
),
retrying as materialized (
  select
    j.workspace_id,
    'retrying' as kind,
    j.job_type,
    count(*) as jobs,
    bool_or(j.is_cut) or count(*) over () > 50 as more,
    -- in an order that no retry changes
    (array_agg(j.id order by j.id desc))[:200] as job_ids,
    count(*) filter (where j.attempts = j.max_attempts - 1) as last_jobs,
    min(j.started_at) as since,
    min(n.next_at) as next_at,
    max(n.next_at) as last_at,
    bool_or(j.status = 'pending' and n.next_at is null) as is_due,
    min(j.attempts) as fewest,
    max(j.attempts) as most,
    min(j.max_attempts) as least_allowed,
    max(j.max_attempts) as most_allowed,
    queue.fingerprint(j.error_message, j.error_data) as print,
    min(queue.short_error(j.error_message, j.error_data)) as error
  from (
    select *
    from tried
    union all
    select i.*, r.is_cut
    from (
      (
        select distinct t.workspace_id, t.lane
        from tried as t
        limit 20
      )
      union
      (
        select t.workspace_id, t.lane
        from counted as y
        join queue.lanes as l on l.job_type = y.job_type
        cross join lateral (
          select o.workspace_id, o.lane
          from queue.turns as o
          where p_workspace_id is null and o.lane = l.lane and not o.blocked
          union all
          select o.workspace_id, o.lane
          from queue.turns as o
          where o.workspace_id = p_workspace_id and o.lane = l.lane
        ) as t
        where y.failed > 0
        limit 50
      )
    ) as t
    cross join lateral (
      select o.job_id, count(*) over () = 20 as is_cut
      from (
        select *
        from queue.ready as q
        where q.lane = t.lane and q.workspace_id = t.workspace_id
        order by q.lane, q.workspace_id, q.ord, q.job_id
        limit 20 -- a due retry precedes the jobs that were enqueued after it
      ) as o
    ) as r
    cross join lateral (
      select *
      from public.jobs as o
      where o.id = any (array[r.job_id])
      offset 0
    ) as i
    where i.attempts > 0 and i.error_message is not null
  ) as j
  cross join lateral (
    values (case when j.next_retry_at > p_now then j.next_retry_at end)
  ) as n (next_at)
  where (j.status = 'processing' or j.next_retry_at is not null)
    and not queue.is_internal(j.job_type)
  group by j.workspace_id, j.job_type, print
  having count(*) >= 3
    or (j.workspace_id, j.job_type, queue.fingerprint(j.error_message, j.error_data)) in (
      select f.workspace_id, f.job_type, f.print
      from jsonb_to_recordset(p_failures) as f (workspace_id uuid, job_type text, print text)
    )
  -- the largest groups of each workspace first, so that a workspace with many errors hides no other
  order by row_number() over (partition by j.workspace_id order by count(*) desc), count(*) desc
  limit 50 -- limits the response and its cost, because each group has advice
)
select
  'warn',
  'retrying_jobs',
  min(r.since),
  null::text,
  jsonb_build_object(
    'job_type', r.job_type,
    'print', r.print,
    'jobs', sum(r.jobs),
    'error', min(r.error),
    'completed_until', case
      when queue.statistics_stale_since(p_now) is null
        then min(c.until) filter (where c.until < p_now - interval '10 minutes')
    end,
    'completed', nullif(min(c.completed), 0),
    'used', concat(
      concat_ws(' to ', min(r.fewest), nullif(max(r.most), min(r.fewest))),
      ' of ' || case -- one limit for all jobs
        when min(r.least_allowed) = max(r.most_allowed) then max(r.most_allowed)
      end
    ),
    'advice', queue.one_worker_advice(
      min(r.job_ids),
      min(r.since),
      (select array_agg(w::queue.workers) from alive as w)
    )
      || queue.error_advice(
        (array_agg(r.job_ids[1] order by r.next_at))[1],
        nullif(sum(r.jobs), 1)::bigint -- the next step is to run it
      ),
    'attention', jsonb_agg(
      to_jsonb(r) - '{next_at,last_at,is_due,fewest,most,least_allowed,most_allowed}'::text[]
    ),
    'at_least', case when bool_or(r.more) then 'At least ' end
  ) || case
    when sum(r.last_jobs) = 0 then '{}'
    when sum(r.last_jobs) < sum(r.jobs) or bool_or(r.more) then jsonb_build_object(
      'last_jobs', format(' of %s of them', sum(r.last_jobs)),
      'have', concat(
        sum(r.last_jobs),
        ' of them',
        case sum(r.last_jobs) when 1 then ' has' else ' have' end
      )
    )
    when sum(r.jobs) = 1 then '{"last_jobs": "", "have": "It has"}'
    else '{"last_jobs": " of each", "have": "Each has"}'
  end || case
    when bool_or(r.is_due) then '{}'
    else jsonb_build_object(
      'next_at', min(r.next_at),
      'last_at', nullif(
        date_trunc('second', max(r.last_at)),
        date_trunc('second', min(r.next_at))
      )
    )
  end
from retrying as r
left join counted as c on c.job_type = r.job_type
group by r.job_type, r.print
union all
select
  'warn',
  'refused_type',
  min(t.refused_at),
  t.refusal,
  jsonb_build_object(
    'job_type', min(t.job_type),
    'types', concat(
      array_to_string((array_agg(t.job_type order by t.job_type))[:3], ', '),
      ' and ' || nullif(greatest(count(*) - 3, 0), 0) || ' more'
    )
  )
from queue.job_types as t
where t.refusal is not null -- types belong to all workspaces
group by t.refusal
union all
select
  'warn',
  'two_codes',
  max(c.registered_at),
  format(
    'they serve %s',
    array_to_string((array_agg(c.job_type order by c.job_type))[:5], ', ')
  ),
  jsonb_build_object(
    'codes', array_to_string(c.codes, ' and '),
    -- a registered type is that of the newest deploy
    'newest', max(c.newest),
    'job_type', min(c.job_type)
  )
from ( -- code versions of each type that live workers run
  select
    j.job_type,
    j.registered_at,
    array_agg(distinct w.version) as codes,
    min(w.version) filter (
      where j.deployed_at is not null and w.version like '%+' || left(j.commit, 9)
    ) as newest
  from alive as w
  join queue.job_types as j on j.job_type = any (w.job_types)
    -- several projects may serve the internal types
    and not j.in_order
  group by 1, 2
) as c
where cardinality(c.codes) > 1
group by c.codes
union all
select
  'warn',
  p.kind || '_paused',
  p.paused_at,
  p.reason,
  jsonb_build_object(
    'job_type', p.job_type,
    'queue', p.name,
    'workspace_id', p.workspace_id,
    'paused_at', p.paused_at,
    'jobs', d.jobs
  )
from queue.pauses as p
cross join lateral queue.due_in(
  coalesce(p_workspace_id, p.workspace_id),
  array(
    select l.lane
    from queue.lanes as l
    where case p.kind
      when 'queue' then l.queue = p.name
      when 'workspace' then true
      else l.job_type = p.job_type
    end
  )
) as d (jobs)
where p_workspace_id is null
  or p.workspace_id = p_workspace_id
  or p.workspace_id is null and d.jobs > 0
union all
select
  'warn',
  'late_schedule',
  s.next_at,
  s.problem,
  jsonb_build_object(
    'schedule', s.name,
    'problem', case when s.problem is null then 'is late' else 'enqueued no job' end
  )
from queue.schedules as s
where s.enabled
  and (s.problem is not null or s.next_at < p_now - interval '3 minutes')
  and (p_workspace_id is null or s.workspace_id = p_workspace_id)
union all
select
  'warn',
  'no_success',
  null,
  null,
  jsonb_build_object(
    'job_type', t.job_type,
    'attempts', t.failed
  )
from counted as t
where t.completed = 0
  and t.failed >= 20
  and not queue.is_internal(t.job_type)
  -- the finding retrying_jobs names the error
  and t.job_type not in (select r.job_type from retrying as r)
union all
select
  'warn',
  'unserved_schedule',
  null,
  null,
  jsonb_build_object(
    'schedule', u.name,
    'job_type', u.job_type,
    'nearest', queue.nearest_type(u.job_type)
  )
from queue.unserved_schedules(p_workspace_id, p_now) as u
union all
select
  'warn',
  'waiting_schedule',
  w.since,
  null,
  jsonb_build_object('schedule', w.name, 'job_id', w.job_id)
from queue.waiting_schedules(p_workspace_id) as w
union all
select
  'warn',
  'silent_jobs',
  (s.jobs[1] ->> 'since')::timestamptz,
  null,
  s.jobs[1] || jsonb_build_object(
    'jobs', cardinality(n.jobs),
    'silent', (
      select jsonb_object_agg(j ->> 'job_id', j -> 'since')
      from unnest(n.jobs[:200]) as j -- limits the response
    ),
    'attention', (
      select jsonb_agg(to_jsonb(w))
      from (
        select
          j ->> 'workspace_id' as workspace_id,
          'silent' as kind,
          s.job_type,
          count(*) as jobs,
          (array_agg(j ->> 'job_id'))[:200] as job_ids,
          min(j ->> 'since') as since,
          h.shared as seen
        from unnest(n.jobs) as j
        group by 1
      ) as w
    ),
    'limit', queue.length_in_words(u.ms),
    'stuck', (
      select nullif(count(distinct a.job_id), 0)
      from alive as w
      cross join jsonb_to_recordset(w.abandoned) as a (job_id text)
      where a.job_id in (select j ->> 'job_id' from unnest(n.jobs) as j)
        and coalesce(w.evidence, w.summary -> 'stopped') is null
    ),
    'threads', (select nullif(count(j ->> 'in_thread'), 0) from unnest(n.jobs) as j),
    'is_sleep', (select '' where h.code ~ '\msleep\('),
    'shared', h.shared,
    'all_seen', (select h.shared where cardinality(n.jobs) > 1),
    'seen', (select s.jobs[1] ->> 'seen' where h.shared is null),
    'waiting', case cardinality(n.jobs) when 1 then 'It' else 'The first' end
      || ' waits for ' || (s.jobs[1] ->> 'program'),
    'is_server', (select '' where coalesce(s.jobs[1] ->> 'waits', 'data') = 'data'),
    'hanging', case
      when h.shared <> ''
        and h.code ~ '^[^`]{1,59}$' -- empty if the worker could not read the file
        and (queue.is_manager(p_workspace_id) or queue.is_operator() or queue.is_service())
        then format('`%s`', regexp_replace(h.code, ' +#[^''"]*$', '')) -- without a comment
      else 'the call ' || coalesce(h.shared, 'that hangs')
    end
  )
from (
  select l.job_type, array_agg(to_jsonb(l) order by l.since) as jobs
  from (
    select n.job_type, o.*
    from (
      select
        r.lane,
        r.workspace_id,
        r.job_id,
        queue.seen_in(r.step, r.pulse ->> 'place') as seen,
        r.pulse ->> 'code' as code, -- missing for workers before 0.5.6
        r.pulse ->> 'program' as program,
        r.pulse ->> 'waits' as waits,
        r.pulse ->> 'in_thread' as in_thread,
        queue.length_in_words((r.pulse ->> 'blocked_ms')::double precision) as blocked,
        (r.pulse ->> 'since')::timestamptz as since
      from queue.leases as r
      where r.ctid > '(0,0)' -- reads pages in order, because all running jobs are read
        and r.pulse ->> 'last' <> 'end'
        and r.pulse ->> 'batched' is distinct from '0' -- it waits for the next call of its batch
        and r.expires_at > p_now
        and r.worker in (select w.worker from alive as w) -- otherwise silent_worker names it
        and (p_workspace_id is null or r.workspace_id = p_workspace_id)
      offset 0 -- few jobs are silent, so find them before the join with queue.lanes
    ) as o
    join queue.lanes as n on n.lane = o.lane
    where o.since < p_now - interval '1 minute'
  ) as l
  group by 1
) as s
cross join lateral greatest(
  60000,
  (
    select t.most_ms
    from queue.run_times(
      coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000'),
      s.job_type,
      p_now
    ) as t
    where t.jobs >= 20
  )
) as u (ms)
cross join lateral (
  select array(
    select j
    from unnest(s.jobs) as j
    where (j ->> 'since')::timestamptz < p_now - u.ms * interval '1 ms'
  ) as jobs
) as n
cross join lateral ( -- the step and the line of code, if they are the same for all silent jobs
  select
    case count(distinct coalesce(j ->> 'seen', '')) when 1 then min(j ->> 'seen') end as shared,
    case count(distinct coalesce(j ->> 'code', '')) when 1 then min(j ->> 'code') end as code
  from unnest(n.jobs) as j
) as h
where n.jobs <> '{}'
union all
select
  'warn',
  'unanswered',
  min(a.created_at),
  (array_agg(left(a.data ->> 'question', 200) order by a.created_at))[1],
  jsonb_build_object(
    'asked', 'answers',
    'jobs', count(*),
    'job_id', (array_agg(a.job_id order by a.created_at))[1]
  )
from (
  select *
  from queue.waits as w
  where w.kind = 'ask'
    and w.created_at < p_now - interval '1 day'
    and (p_workspace_id is null or w.workspace_id = p_workspace_id)
  limit 1000
) as a
having count(*) > 0
$$;

create or replace function public.explain_queue(p_workspace_id uuid default null)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
set timezone = 'UTC'
as $$ -- sentences show times in UTC
declare
  v_now constant timestamptz := queue.clock();
  v_seen_at timestamptz;
  v_backlog jsonb;
  v_failures jsonb;
  v_findings jsonb;
  v_attention jsonb;
begin
  perform queue.refuse_revoked();
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  if exists (select from queue.table_locks() as l where l.mode = 'AccessExclusiveLock') then
    -- report only the session that must end, because all reads of the table would wait for it
    select jsonb_agg(
      to_jsonb(f) - 'data' || jsonb_build_object('key', f.reason) || queue.render_guidance(
        f.reason,
        f.data || jsonb_build_object('since', f.since)
      )
    )
    into v_findings
    from queue.findings_of_locks(p_workspace_id, v_now) as f;
    if v_findings is not null then
      return jsonb_build_object(
        'now', v_now,
        'verdict', 'warn',
        'findings', v_findings,
        'attention', '[]'::jsonb,
        'holders', '[]'::jsonb,
        'backlog', '{"jobs": null, "detail": "unknown: a table of the queue is locked"}'::jsonb,
        'last_tick_seconds', null
      );
    end if;
  end if;
  v_seen_at := queue.last_call();
  v_backlog := queue.backlog(
    p_workspace_id,
    v_now,
    case
      when not (queue.is_operator() or queue.is_manager(p_workspace_id)) then queue.caller()
    end
  );
  if p_workspace_id is null then
    -- also use the age of due jobs in queue.deferred, because maintenance makes these jobs ready
    -- only while workers run
    v_backlog := v_backlog || jsonb_build_object(
      'oldest_due_seconds', greatest(
        (v_backlog ->> 'oldest_due_seconds')::numeric,
        (
          select extract(epoch from v_now - min(d.run_at))
          from queue.deferred as d
          where d.run_at <= v_now - interval '10 seconds'
        )
      )
    );
  end if;
  v_failures := queue.recent_failures(p_workspace_id, v_now);
  select jsonb_agg(
    jsonb_build_object(
      'verdict', f.verdict,
      'reason', f.reason,
      'key', k.key,
      'since', f.since,
      'cause', f.cause
    ) || (
      select jsonb_object_agg(n.name, f.data -> n.name)
      from unnest(
        '{jobs,silent,unserved,next_at,completed,completed_until}'::text[]
      ) as n (name)
    ) || g.said
      || jsonb_build_object('next', coalesce(f.data -> 'advice', '[]') || (g.said -> 'next'))
    order by f.verdict <> 'fail', (f.data ->> 'jobs')::integer desc nulls last, f.reason
  ), jsonb_path_query_array(
    coalesce(jsonb_agg(f.data -> 'attention') filter (where f.data ? 'attention'), '[]'),
    '$[*][*]'
  )
  into v_findings, v_attention
  from (
    select *
    from queue.findings_of_queue(p_workspace_id, v_now, v_backlog, v_seen_at)
    union all
    select *
    from queue.findings_of_locks(p_workspace_id, v_now)
    union all
    -- members of a workspace do not see the size of the database
    select
      d.verdict,
      case when p_workspace_id is null then d.reason else 'service_full' end,
      d.since,
      case when p_workspace_id is null then d.cause end,
      d.data
    from queue.findings_of_disk() as d
    where p_workspace_id is null or d.reason = 'disk_nearly_full'
    union all
    select *
    from queue.findings_of_connections() as c
    where p_workspace_id is null
    union all
    select *
    from queue.findings_of_workspace(p_workspace_id, v_now, v_failures)
    union all
    select *
    from queue.findings_of_limits(p_workspace_id, v_now)
    union all
    select *
    from queue.findings_of_deaths(p_workspace_id, v_now)
    union all
    select *
    from queue.findings_of_apps(p_workspace_id)
  ) as f
  cross join concat_ws(
    ' ',
    f.reason,
    coalesce(
      f.data ->> 'queue',
      f.data ->> 'schedule',
      f.data ->> 'job_type',
      f.data ->> 'workspace_id',
      f.data ->> 'url',
      f.data ->> 'worker_id',
      f.data ->> 'function',
      f.data ->> 'asked'
    ),
    f.data ->> 'print'
  ) as k (key)
  cross join lateral coalesce(
    f.data -> 'said',
    queue.render_guidance(
      f.reason,
      case
        when f.data @> '{"jobs": 1}' then '{"count": "1 job", "wait": "has waited"}'
        else jsonb_build_object(
          'count', (f.data ->> 'jobs') || ' jobs',
          'wait', 'wait, the oldest',
          'many', f.data -> 'job_type',
          'are_many', ''
        )
      end || f.data || jsonb_build_object(
        'since', f.since,
        -- the sentences about one of all workspaces name the workspace
        'which', case when p_workspace_id is null then f.data -> 'workspace_id' end
      )
    )
  ) as g (said);
  return jsonb_build_object(
    'now', v_now,
    'verdict', coalesce(v_findings #>> '{0,verdict}', 'pass'),
    'findings', coalesce(v_findings, '[]'),
    'attention', v_backlog -> 'attention' || v_attention || v_failures,
    'holders', queue.holders(p_workspace_id, null, v_now),
    'backlog', v_backlog - 'attention',
    'last_tick_seconds', extract(epoch from v_now - v_seen_at)
  );
end;
$$;

comment on function public.explain_queue is
  'Findings, worst first, and holders for which jobs wait, most jobs first: {now, verdict, '
  'findings: [{verdict, reason, key, sentence, since, cause, jobs, silent, unserved, next_at, '
  'completed, completed_until, next: [{kind, words, command, path, guess}]}], attention: '
  '[{workspace_id, kind, job_type, jobs, more, job_ids, since, error, print, next, nearest, seen, '
  'reason}], holders: [{jobs, more, since, kind, reason, sentence, cause, next, holder, job_id, '
  'job_types, keys}], backlog, last_tick_seconds}. silent: time of the last update of each silent '
  'job. unserved: job types that no worker serves. completed: jobs of a type with retries that '
  'completed in the last hour. completed_until: time after which none was counted. attention: up '
  'to 200 ids of jobs that are silent, have no_worker, are retrying or failed in the last hour. '
  'print: identifies the error, and ends the key of a finding about it. Only operators may omit '
  'p_workspace_id.';

select queue.close_tables();

-- Revoke the right of all roles to execute private functions. Rights of single roles remain,
-- because policies, column defaults and guests need them.
revoke execute on all functions in schema queue from public;

drop function queue.cancelled_child(uuid,jsonb);
