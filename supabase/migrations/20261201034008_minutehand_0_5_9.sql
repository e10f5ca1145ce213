-- 0.5.9 after the release before it; written by `python -m infra.release` from schemas.
-- Do not edit it, and do not read it: read the schemas.

-- Return the release of the engine's schema, which is the value of minutehand.version. `minutehand
-- doctor` compares this release with the release that the project recorded.
create or replace function queue.version()
returns text
language sql immutable
set search_path = ''
as $$
select '0.5.9'
$$;

-- Reject a caller who is not a member of the workspace with status 404. Return the id of the person
-- who calls, or null for the service.
-- p_reads_much: True if the call reads many rows and therefore needs a call slot. In a call that
--   reads many rows, operators and the service may pass null as the workspace to read all
--   workspaces.
create or replace function queue.may_read(
  p_workspace_id uuid,
  p_reads_much boolean default false
)
returns uuid
language plpgsql stable
set search_path = ''
as $$
-- read the claims once, and check them in the same way as queue.is_service and queue.caller
declare
  v_claims constant jsonb := nullif(
    current_setting('request.jwt.claims', true),
    ''
  )::jsonb;
  v_is_all constant boolean := p_workspace_id is null and p_reads_much;
  v_user uuid;
begin
  if (v_claims is null or v_claims ->> 'role' in ('service_role', 'job_worker'))
    and v_claims ->> 'sub' is null
  then
    perform from queue.tenants as t where t.id = p_workspace_id;
    if found or v_is_all or p_workspace_id = queue.system_workspace() then
      return null;
    end if;
  else
    v_user := queue.caller();
  end if;
  if v_is_all and not queue.is_operator() then
    perform queue.refuse(
      403,
      'forbidden',
      'only an operator sees every workspace',
      'p_workspace_id'
    );
  elsif not (v_is_all or queue.is_member(p_workspace_id)) then
    perform queue.refuse(
      404,
      'workspace_not_found',
      'workspace not found, or you are not its member',
      p_workspace_id::text
    );
  end if;
  if p_reads_much then
    perform queue.take_call_slot(p_workspace_id);
  end if;
  return v_user;
end;
$$;

-- Return the workspace that a call applies to. Without p_workspace_id, return the workspace that
-- the caller joined first, so that the result stays the same when the caller joins another
-- workspace. If the project does not store when a member joined, a caller with several workspaces
-- must pass p_workspace_id. The service is recognized by its role, because the service and guests
-- have no user id.
create or replace function public.own_workspace(p_workspace_id uuid default null)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_mine constant jsonb := (
    select jsonb_agg(
      jsonb_build_object('id', t.id, 'name', t.name)
      order by t.name, t.id
    )
    from queue.tenants as t
    where t.id in (
      select m.workspace_id
      from public.workspace_members as m
      where p_workspace_id is null
        and m.user_id = queue.caller()
        and not exists (
          select from public.workspace_members as o
          where o.user_id = m.user_id and o.created_at < m.created_at
        )
      union all
      select p_workspace_id
      where queue.is_member(p_workspace_id)
        or auth.jwt() ->> 'role' = 'service_role'
    )
  );
begin
  if v_mine is null then
    perform queue.refuse(
      404,
      'workspace_not_found',
      'workspace not found, or you are not its member',
      p_workspace_id::text
    );
  elsif jsonb_array_length(v_mine) > 1 then
    perform queue.refuse(
      400,
      'workspace_needed',
      'workspace_id must name one of your workspaces',
      v_mine::text
    );
  end if;
  return jsonb_build_object('workspace_id', v_mine #> '{0,id}');
end;
$$;

comment on function public.own_workspace is
  'Return the workspace that a call applies to. Without p_workspace_id, this is the workspace that '
  'the caller joined first. The caller must be a member of p_workspace_id.';

select queue.allow('authenticated, service_role', 'public.own_workspace');

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
        then case
          when i.progress -> 'percentage' >= o.pulse #> '{pace,to}' then o.pulse -> 'pace'
          else jsonb_build_object('from', i.progress -> 'percentage', 'since', queue.clock())
        end || jsonb_build_object('to', i.progress -> 'percentage', 'until', queue.clock())
      else o.pulse -> 'pace'
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
  'blocked_ms?, program?, waits?, memory_mb}, lease_seconds?}. Report an item again if its '
  'outcome is busy.';

select queue.allow('job_worker, service_role', 'public.report_jobs');

create or replace function public.dead_letters(p_workspace_id uuid)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
begin
  perform queue.may_read(p_workspace_id);
  perform queue.take_call_slot(p_workspace_id);
  return (
    with letters as materialized (
      select
        j.id,
        j.job_type,
        j.finished_at,
        regexp_replace( -- show only the end of each id
          queue.error_line(j.error_message, j.error_data),
          '[0-9a-f]{8}(-[0-9a-f]{4}){4}([0-9a-f]{8})',
          '…\2',
          'g'
        ) as message,
        queue.fingerprint(j.error_message, j.error_data, j.job_type) as print,
        j.finished_at > t.deployed_at and j.created_at < t.deployed_at and exists (
          select from queue.attempts as a
          where a.job_id = j.id
            and a.ended_at < t.deployed_at
            and queue.fingerprint(a.error_message, a.error_data)
            = queue.fingerprint(j.error_message, j.error_data)
        ) as is_old,
        c.job_type as cause_type,
        queue.fingerprint(c.error_message, c.error_data, c.job_type) as cause_print
      from (
        select d.job_id
        from queue.dead as d
        where d.workspace_id = p_workspace_id
        order by d.workspace_id desc, d.job_id desc
        limit 10000
      ) as d
      join public.jobs as j on j.id = any (array[d.job_id])
      left join queue.job_types as t on t.job_type = j.job_type
      left join public.jobs as c on c.id = case
        when j.error_data ->> 'type' ~ '[.]ChildrenFailed$'
          then queue.blocking_descendant(j.id, true)
      end
    ),
    hours as ( -- failures per hour of the last day
      select
        l.job_type,
        l.print,
        jsonb_object_agg(l.hour, l.jobs) as by_hour
      from (
        select
          n.job_type,
          n.print,
          floor(extract(epoch from queue.clock() - n.finished_at) / 3600) as hour,
          count(*) as jobs
        from letters as n
        where n.finished_at > queue.clock() - interval '1 day'
        group by 1, 2, 3
      ) as l
      group by 1, 2
    ),
    groups as (
      select
        l.cause_type,
        l.cause_print,
        l.job_type,
        l.print as error_fingerprint,
        count(*) as jobs,
        min(l.finished_at) as first_at,
        coalesce(bool_or(l.is_old), false) as is_old,
        max(l.finished_at) as last_at,
        (array_agg(l.id order by l.finished_at desc, l.id))[1] as latest_id,
        (array_agg(l.message order by l.finished_at desc, l.id))[1] as error_message
      from letters as l
      group by 1, 2, 3, 4
    ),
    effects as (
      select
        g.cause_type,
        g.cause_print,
        jsonb_agg(jsonb_build_object(
          'job_type', g.job_type,
          'error_fingerprint', g.error_fingerprint,
          'jobs', g.jobs,
          'latest_id', g.latest_id
        )) as effects
      from groups as g
      where g.cause_type is not null
      group by 1, 2
    )
    select jsonb_build_object(
      'groups', coalesce(
        jsonb_agg(
          to_jsonb(g) - '{cause_type,cause_print,is_old}'::text[] || jsonb_build_object(
            'by_hour', coalesce(h.by_hour, '{}'),
            'consequences', coalesce(e.effects, '[]'),
            'is_new', coalesce(g.first_at > t.deployed_at and not g.is_old, false)
          )
          order by g.jobs desc, g.last_at desc
        ),
        '[]'
      ),
      'more', (select count(*) from letters) = 10000
    )
    from groups as g
    left join queue.job_types as t on t.job_type = g.job_type
    left join hours as h
      on h.job_type = g.job_type and h.print = g.error_fingerprint
    left join effects as e
      on e.cause_type = g.job_type and e.cause_print = g.error_fingerprint
    where g.cause_type is null
  );
end;
$$;

comment on function public.dead_letters is
  'Failed jobs of a workspace, grouped by error, the largest group first: {groups, more}. If a job '
  'failed because its descendant failed, it is listed as a consequence of the descendant''s group. '
  'is_new: True if no attempt of the group had the error before the latest deploy of the job type.';

select queue.allow('authenticated, service_role', 'public.dead_letters');

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
        '{code} usually comes from a library in C. Update the library, or avoid the call.'
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
        'Its connection has lost a prepared statement ({code}), as with a pooler in transaction '
          'mode. Turn prepared statements off in the driver, or connect in session mode.'
      ),
      (
        'lock',
        'It waited too long for a lock of another session ({code}). If this returns, run '
          '`minutehand status` during the wait, which can name the session. End that session if no '
          'one needs it.'
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
      ('result', 'The result that the processor returned was rejected. Fix the code, and deploy.'),
      (
        'rejected',
        '[Its processor had finished{had_finished}, and a retry runs it again. ]Correct the '
          'trigger, constraint or value that caused the error. The doctor names a trigger that '
          'rejects all changes.'
      ),
      (
        'credentials',
        'Fix the credentials[ for the proxy{is_proxy}], which are missing or were rejected '
          '({code}).'
      ),
      (
        'forbidden',
        '[{address}|The server] refused the call ({code})[; its answer says why{has_answer}]. '
          'Correct the cause, for example the rights of the credentials.'
      ),
      (
        'grant',
        '[The policies of {policed} rejected a row ({code}). Correct the row or the policies.|The '
          'role of the connection, or the owner of a `security definer` function that it calls, '
          'lacks a right on {object} ({code}). ][If a function of yours uses {own_object}, which '
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
          '`statement_timeout`. If it waits for a lock, run `minutehand status` during the wait, '
          'which can name the session to end.'
      ),
      (
        'rate',
        'If a quota of [{address}|the other service] is used up, raise it there. If the calls come '
          'too fast, set a lower `rate_limit` of the type.'
      ),
      ('request', 'Fix the request that was rejected ({code}).'),
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
        'slow',
        'A call[ to {address}] took longer than its time limit ({code}). Raise the limit, or fix '
          'what the call waits for.[ If it waits for a lock, `minutehand status` can name the '
          'session{is_own_call}.]'
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
        '[{address}|The other service] closed or rejected the connection ({code}). See whether it '
          'restarts.'
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
      )
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
        '{no_worker, no_processor, not_leased, next_in_line, behind_others, long_line, suspect,
          rate_limited, due, passed_over, running, cancelling, lease_expired, worker_died,
          silent_worker}'::text[],
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
        'If it must not wait for jobs with a smaller priority ({smaller}), enqueue it again with a '
          'smaller priority.',
        null,
        null
      ),
      (
        '{key_limit, workspace_type_limit, workspace_limit, type_limit, no_slot}',
        '[Job {parent} is its parent. If the parent waits for it without `ctx.gather` or '
          '`ctx.map`, neither ends: cancel the parent, and fix its code.|Wait for job {holder}. '
          'See whether it still works:]',
        'explain {holder}',
        '/jobs/{holder}'
      ),
      (
        '{no_worker, no_processor, not_leased, next_in_line, behind_others, long_line, suspect,
          rate_limited, due, passed_over, running, cancelling, lease_expired, worker_died,
          silent_worker, sleeping, scheduled, snoozed}',
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
          'of {call}, which it runs.|End that session if no one needs it: `select '
          'pg_terminate_backend({pid})`.]',
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
      'Correct [the code, a setting or the data at {place}, where one of {these} failed|the code, '
        'a setting or the data at {place}|what the error names].',
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
      'Follow the advice of {cause_type}, the first descendant that failed, and retry it. Then '
        'retry this job.',
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
        'upcaster between them, deploy, then retry the job.',
      'retry {job_id}',
      '/types/{job_type}'
    ),
    (
      'failed:payload',
      null,
      '[Worker {old_worker}, which rejected it, still runs {old_version} beside the newest '
        'version. Stop that worker, then retry the job.|Retry the job with a payload that fits the '
        'type, or give new fields of the type a default. If the worker is older than the payload, '
        'deploy the worker.]',
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
        '{silent}, since {sign}|Last known update {age} ago ({last})|Last known update {age} '
        'ago|Worker {worker_id} has been running it since {leased_at}][, {seen}].[ It has run '
        'since {run_since}.][ In the last 24 hours, {sample} of its type ran for {most} or '
        'less.][ {alike} running jobs of its type are silent at this line.][ The last recorded '
        'call of its worker was at {missed_since}.| The worker has not renewed its lease since '
        '{late_since}.| Its worker last reported at {reported_at}.| Its worker has not reported on '
        'it since {unreported_since}.|][ The key of the worker expired at {key_expired_at}.| The '
        'key of the worker was revoked at {key_revoked_at}.|][ {death}. It runs with {beside} of '
        'them and nothing else.| {death}. It runs alone.|][ An earlier process of it ended while '
        '{killer} ran in it.][ The role job_worker lacks a right (`{not_granted}`), so its outcome '
        'is not stored.| Its worker lacks {a_right}, so its outcome is not stored.|][ One call of '
        'its processor runs it and {batched}.| It waits for {next_call}.|][ It waits for '
        '{program}.][ Its own code has blocked the event loop of the worker for {blocked} '
        'within a minute.][ {loop_owner} of the same process has blocked its event loop for '
        '{loop_blocked} within a minute.][ Its child {kept_child} waits for a slot or limit that '
        'it uses.][ Its database session (pid {pid}) waits for a lock of the session with pid '
        '{blocker}.][ Session {own_blocker} belongs to the same job.][ The process has grown by '
        '{grown_mb} MB.]',
      '[Grant the right: `grant {not_granted} to job_worker`.|Notify the operator of the '
        'service, because the worker lacks {a_right}.|Wait for the end of {call}, which session '
        '{blocker} runs.|In code, commit that session before the call at {place}. To end this '
        'attempt: `select pg_terminate_backend({own_blocker})`.|Commit or end that session: '
        '`select pg_terminate_backend({blocker})`.|Nothing to do until {expires_at}. The job '
        'runs again when a worker has a key that was issued after {key_revoked_at}.|If the '
        'process of the worker has hung since {missed_since}, end it. The job then runs again at '
        'the latest after {expires_at}.|See in the log of worker {worker_id} why it is not '
        'stored since {unstored_since}.|If a job of this worker blocked its event loop after '
        '{late_since}, run that call with `asyncio.to_thread`.|If it waits for job {kept_child} '
        'without `ctx.gather` or `ctx.map`, it keeps a slot that its child needs: cancel it, and '
        'fix its code.|Find the code that runs long without an `await`{is_blocking}, for example '
        'near {place}, and run it with `asyncio.to_thread`, or write the processor without '
        '`async`.|Follow the advice of job {loop_blocker}.|{end_wait} Do so before any retry: an '
        'earlier attempt is still stuck in worker {stuck_in}, and each retry can leave one more.'
        '|{end_wait} Then cancel and retry the job if it hangs. Finished steps are kept. Then '
        'give the type a `timeout` below {shorter} if such calls should end earlier.|{end_wait} '
        'Then cancel and retry the job if it hangs. Finished steps are kept.|If {usual} should '
        'suffice, check the code at {place}.|If worker {worker_id} has not reported on it by '
        '{unreported_until}, see its log.|Nothing to do.][ Check whether these triggers of jobs or '
        'logs take long: {triggers}.]',
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
      'Emit {event}: '
        '`select public.emit_event(…)`, or POST /api/events.',
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
      'Its processor snoozed it until {run_at}[, {times} since {first_at}].',
      '[If {times} is too often, check the condition on which its code returns `Snooze`. Otherwise '
        'run it now.|Run it now.]',
      'retry {job_id}',
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
      'No worker serves {unpublished}. It has waited since {since}[, with {others} of its type].'
        '[ Workers serve: {served}.]',
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
      'No running worker serves the job type {job_type} in the queue {queue}.[ It waits with '
        '{others} of its type.][ Worker '
        '{last_worker}{process_end} served it, and its last recorded call was at {last_seen}.][ '
        'Workers serve: {served}.][ The key of its last worker expired at {key_expired_at}.]',
      '[Workers that have {job_type} serve only other queues. Start one with `minutehand serve '
        '--queue {not_served}`, or for all queues.|If a deploy removed {once_served}, deploy '
        'it again. Otherwise start its worker again. If one runs, check its key with '
        'its file of settings (`-e`):|Otherwise, write '
        '`@processor("{job_type}")` and deploy{is_near}. If that is deployed, check its code and '
        'the key of its worker:|Write `@processor("{job_type}")` and deploy. If that is deployed, '
        'check its code and the key of its worker:]',
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
      'doctor',
      '/overview'
    ),
    (
      'not_leased',
      'It has been ready since {ready_at}. [The role {without_right} lacks a right '
        '(`{lacked}`), so workers with this role lease nothing|Workers lack {a_right}, so '
        'they lease nothing|The workers that serve it '
        'use {running} of {slots} slots, but have leased nothing since {leased_at}|The workers '
        'that serve it have leased nothing since {leased_at}|No worker that serves it runs{yet}|'
        'Workers that serve it have not leased it].[ They were last seen at {seen_at}.]',
      '[See whether one of these triggers of jobs or logs drops the change (`before update`, '
        'returns null), raises an error or takes long: {triggers}. ][Grant the right: `grant '
        '{lacked} to {without_right}`.|Notify the operator of the service, '
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
      '[Run `begin; set transaction read write; {reset}; commit`. If the dashboard of Supabase '
        'shows a full disk, enlarge the disk first.|See in the dashboard of Supabase whether the '
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
      'The last attempts of {count} of these jobs failed on worker {worker_id}[ ({version})], and '
        'worker {other}[ ({other_version})] completed a job of the type at {finished_at}. If the '
        'first runs other code, stop it, and retry these jobs.',
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
        '{blocked} within a minute: run it with `asyncio.to_thread`.|Find out what the call '
        '{hanging} waits for, and give it a time limit.] [The job of {many} that is silent the '
        'longest|The job]:',
      'explain {job_id}',
      '/jobs/{job_id}'
    ),
    (
      'silent_jobs',
      null,
      '[Do not retry before that. Jobs with an earlier attempt that is still stuck: {stuck}. ]Then '
        'cancel and retry [those of {many} that hang|the job if it hangs]. Finished steps are '
        'kept.',
      null,
      '[/jobs?state=attention&job_type={many}|/jobs/{job_id}]'
    ),
    (
      'retrying_jobs',
      '[{at_least}]{count} of {job_type} are retrying: {error}.[ Jobs of this type that completed '
        'in the last hour: {completed}.] Attempts used: {used}[, the next due from {next_at} to '
        '{last_at}|, the next due at {next_at}|]. The first job started at {since}.',
      'Then run these jobs now, or wait for their next attempts.',
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
      ('completed', 'It completed at {finished_at}.'),
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
        'Workers that ran it were stopped {stops} before it ended, usually by SIGTERM, the last at '
          '{last_at}.'
      ),
      (
        'stopped_jobs',
        'Jobs whose workers were stopped again and again before they ended, usually by SIGTERM: at '
          'least {jobs}, the first stop at {since}.'
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
          '{smaller} of them because their priority is smaller].'
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
          '[{effect}|it can neither start nor end].[ {work}.]'
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
-- end_wait: How to end the wait of a silent job, as text.
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
-- blocker, call: Database session that holds a lock for which the session of the silent job waits,
--   and its call from queue.session_work.
-- own_blocker: The same session, if the job's own code has opened it.
-- grown_mb: Growth of the memory of the job's process since the job's first pulse, in megabytes.
--   Null for less than 128 MB.
-- estimated_end_at: Time at which the progress reaches 100 % at its pace since the first report of
--   this run that came with a pulse. Null for reports within less than 5 seconds.
-- run_since: Start of this run. Null without an update.
-- usual: Duration that 99 % of the type's jobs did not exceed, as text, if the job has run longer.
--   If fewer than 20 jobs have ended, the duration that none of at least 5 exceeded, if the job has
--   run twice as long. Null for a job that is not silent also in its first minute.
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
        'seen', case when p.is_silent and s.late_since is null then '' else 'last seen ' end
          || queue.seen_in(l.step, l.pulse ->> 'place'),
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
          when 'step' then 'the end of its last step'
          else 'its last ' || coalesce(u.last, 'update')
        end,
        'age', queue.length_in_words(p.ms),
        'silent', case when p.is_silent then queue.length_in_words(p.ms) end,
        'shorter', case
          when p.is_silent and not t.has_restarted and l.pulse ->> 'place' <> ''
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
        'call', (select w.call from queue.session_work(b.pid) as w),
        'blocked', queue.length_in_words((l.pulse ->> 'blocked_ms')::double precision),
        'is_blocking', left(l.pulse ->> 'blocked_ms', 0),
        'program', case when p.is_silent then l.pulse -> 'program' end,
        'own_blocker', case when l.pulse -> 'own_pids' @> to_jsonb(b.pid) then b.pid end,
        'grown_mb', case when m.grown >= 128 then m.grown end,
        'estimated_end_at', case
          when e."from" >= 0 -- a report may have any number
            and e."to" between e."from" + 0.1 and 100
            and e.until >= e.since + interval '5 seconds'
            then e.until + (e.until - e.since) * ((100 - e."to") / (e."to" - e."from"))
        end,
        'run_since', l.leased_at,
        'usual', case
          when extract(epoch from p_now - l.leased_at) * 1000 > greatest(
            case when p.is_silent then 0 else 60000 end,
            coalesce(
              (v_times ->> 'typical_ms')::double precision,
              2 * (v_times ->> 'longest_ms')::double precision,
              'Infinity'
            )
          )
            then v_times ->> 'most'
        end,
        'reported_at', case when p.is_silent and s.late_since is null then s.renewed_at end,
        'is_silent', case when p.is_silent then '' end, -- for the console
        'end_wait', case when p.is_silent then case l.pulse ->> 'waits'
          when 'output' then 'Read the output of the program while it runs, for example by '
            '`communicate()`.'
          when 'lock' then 'Take several locks always in the same order, and await nothing that '
            'can hang while holding one.'
          when 'event' then 'See whether the code that fills, sets or notifies it still runs or '
            'has failed.'
          else 'Find out what the call at ' || (l.pulse ->> 'place')
            || ' waits for, and give it a time limit.'
        end end,
        'alike', case when p.is_silent then (
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
      select a.ms, a.ms >= 20000 as is_silent
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
    cross join lateral (
      values (case when p.is_silent then nullif(queue.last_blocker(s.pid), s.pid) end)
    ) as b (pid)
    cross join lateral (
      values ((l.pulse ->> 'memory_mb')::integer - (l.pulse ->> 'first_mb')::integer)
    ) as m (grown)
    cross join lateral jsonb_to_record(nullif(l.pulse -> 'pace', 'null'))
      as e (since timestamptz, until timestamptz, "from" numeric, "to" numeric)
    where l.job_id = p_job.id
  );
end;
$$;

-- Return the names and functions of the triggers that run when a job or a log line is added or
-- changed, and that are not the engine's.
create or replace function queue.own_triggers()
returns text
language sql stable
set search_path = ''
as $$
select string_agg(format('%s (function %s)', t.tgname, f.oid::regproc), ', ' order by t.tgname)
from pg_catalog.pg_trigger as t
join pg_catalog.pg_proc as f on f.oid = t.tgfoid
where t.tgrelid in ('public.jobs'::regclass, 'public.job_logs'::regclass)
  and not t.tgisinternal
  and t.tgenabled <> 'D'
  and t.tgtype & 20 <> 0 -- for inserts or updates
  and f.pronamespace <> 'queue'::regnamespace
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
  v_early_deadline timestamptz; -- null unless the deadline precedes the next run
  v_postponed jsonb; -- null if no later enqueue has changed the job's time
  v_refusal text;
  v_nearest text;
  v_found record;
begin
  if p_job.finished_at is not null then
    return jsonb_build_object(
      'reason', p_job.status,
      'data', v_data
        || queue.run_times_in_words(p_job.workspace_id, p_job.job_type, p_now)
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
        -- The emitted event whose name is most similar. Only the names before and after it in the
        -- alphabet are compared, and only names with the same numbers, because numbers usually
        -- identify the subject of an event.
        'nearest', queue.nearest_name(v_wait ->> 'event', array(
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
        ))
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
        || (
          select jsonb_build_object(
            'first_at', min(a.ended_at),
            'times', case when count(*) > 1 then queue.times_in_words(count(*)) end
          )
          from queue.attempts as a
          where a.job_id = p_job.id and a.outcome = 'snoozed'
        ),
      'reason', case
        when v_found.patience_until <= p_now then v_late
        when v_found.run_at <= p_now then 'due'
        when p_job.next_retry_at is null then 'scheduled'
        when p_job.error_message is null then 'snoozed'
        else 'backing_off'
      end
    );
  end if;
  v_refusal := (
    select t.refusal
    from queue.job_types as t
    where t.job_type = p_job.job_type
  );
  select * into v_found
  from queue.pauses as p
  where (p.kind, p.name) in (
    ('job_type', p_job.job_type),
    ('queue', p_job.queue),
    ('workspace', p_job.workspace_id::text),
    ('workspace_type', p_job.workspace_id || '/' || p_job.job_type)
  )
  order by p.kind
  limit 1;
  if p_job.lane = 0 then
    v_nearest := queue.nearest_type(p_job.job_type);
  end if;
  return case
    when p_job.lane = 0 then jsonb_build_object(
      'reason', 'no_processor',
      'cause', v_refusal,
      'data', jsonb_build_object(
        'refusal', v_refusal,
        'unpublished', p_job.job_type,
        'nearest', v_nearest,
        'is_near', left(v_nearest, 0)
      )
    )
    when found then jsonb_build_object(
      'reason', v_found.kind || '_paused',
      'data', to_jsonb(v_found),
      'since', v_found.paused_at,
      'cause', v_found.reason
    )
    when p_alive = '{}' then jsonb_build_object('reason', 'no_worker')
    else (
      select case
        when s.unserved then jsonb_build_object(
          'reason', 'no_processor',
          'cause', v_refusal,
          'data', jsonb_build_object(
            'refusal', v_refusal,
            'key_expired_at', queue.key_expired_at(p_job.job_type),
            'not_served', case when s.in_other_queues then p_job.queue end
          ) || coalesce(
            (
              select jsonb_build_object(
                'once_served', p_job.job_type,
                'last_worker', w.worker_id,
                'last_seen', queue.called_at(w),
                'process_end', queue.process_end(w.evidence)
              )
              from queue.workers as w
              where p_job.job_type = any (w.job_types) and not s.in_other_queues
              order by w.seen_at desc
              limit 1
            ),
            '{}'
          )
        )
        else queue.explain_ready(p_job, p_alive, p_now)
      end
      from queue.is_unserved(array[p_job.job_type], array[p_job.queue], p_alive, p_now) as s
    )
  end;
end;
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
    "minutehand.worker.context.ChildrenFailed": "child"}'::jsonb ->> e.type,
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
        when e.sqlstate ~ '^(42|PGRST2)' then 'schema'
        when e.status in ('401', '407') or e.sqlstate ^@ '28'
            or e.errno ~ '^(SMTP 53[45]|ExpiredToken|InvalidAccessKeyId|SignatureDoesNotMatch)'
          then 'credentials'
        when e.errno ~ '^(Throttling|TooManyRequests|SlowDown)' or e.status = '429' then 'rate'
        when e.status = '403' then 'forbidden'
        when e.sqlstate = '2200H' then 'sequence'
        when e.sqlstate ~ '^2[23]' then 'value'
        when e.sqlstate = '57014' then 'statement'
        when e.status ~ '^30[12378]' then 'redirect'
        when e.status ^@ '4' or e.errno ^@ 'SMTP 5'
            or e.errno in ('InvalidHeader', 'LocalProtocolError')
          then 'request'
        when e.sqlstate = '26000' then 'prepared'
        when e.sqlstate = '55P03' then 'lock'
        when e.errno = 'SQLITE_BUSY' then 'lock:file'
        when e.sqlstate ~ '^(40|55)' then 'contention'
        when e.signal is not null or e.errno = 'BrokenProcessPool' then 'killed'
        when e.errno = 'ENOMEM' then 'memory'
        when e.sqlstate ^@ '53' then 'machine'
        when e.errno = 'EMFILE' then 'files'
        when e.errno in ('ENOSPC', 'EDQUOT') then 'disk'
        when e.errno in ('EACCES', 'EPERM', 'EROFS') and e.path is not null then 'permission'
        when e.errno = 'PoolTimeout' and e.type !~ '^psycopg' then 'connections'
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
        when e.program is not null then 'program'
        when e.module is not null then 'module'
        when e.variable is not null then 'variable'
        -- psycopg and SQLAlchemy report failed connections without a code
        when e.type ~ '^(psycopg|sqlalchemy).*OperationalError$'
            and coalesce(e.sqlstate, e.errno) is null
          then 'unavailable'
      end
    )
    when p_job.status = 'cancelled' and e.type = 'StartByPassed' then 'start_by'
  end as kind,
  coalesce(
    replace('SQLSTATE ' || e.sqlstate, 'SQLSTATE PGRST', 'PGRST'), -- a code of the Data API
    'HTTP ' || e.status,
    e.program,
    e.module,
    e.errno,
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
  v_found jsonb;
  v_held jsonb;
  v_error record;
  v_revoked_at timestamptz; -- null while workers can call
  v_abandoned jsonb; -- the worker and the location of a stopped processor that still runs
  v_left jsonb; -- the sentence and the advice about this processor
  v_more jsonb; -- advice without which waiting does not help
begin
  v_found := case
    when p_lock is null then queue.explain_row(p_job, p_alive, p_now)
    else jsonb_build_object(
      'reason', 'locked',
      'since', p_lock -> 'since',
      'data', p_lock || case
        when p_job.status = 'processing' and p_lock ->> 'effect' is null
          then '{"effect": "it cannot end"}'::jsonb
        else '{}'
      end
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
    when p_job.status in ('pending', 'processing') then queue.revoked_for(case
      when v_found ->> 'reason' <> 'no_worker' then p_job.job_type
    end)
  end;
  if v_revoked_at is not null then
    v_found := jsonb_set(v_found, '{data,revoked_at}', to_jsonb(v_revoked_at));
  end if;
  if current_setting('default_transaction_read_only')::boolean and p_job.finished_at is null then
    v_found := jsonb_set(v_found, '{data,is_read_only}', '""');
  end if;
  if not (p_is_open or queue.is_manager(p_job.workspace_id)) then -- as job_attempts
    v_found := jsonb_set(
      v_found,
      '{data}',
      (v_found -> 'data') - '{code,stack,triggers}'::text[]
    );
  end if;
  if not p_is_open then -- hide the names of others from members
    v_found := v_found || jsonb_build_object(
      'data', (v_found -> 'data')
        - '{application,without_right,lacked,not_granted}'::text[]
        || jsonb_build_object('a_right', case
          when v_found #>> '{data,without_right}' <> '' or v_found #>> '{data,not_granted}' <> ''
            then 'a right in the database'
        end) || case
        when v_found -> 'data' ? 'paused_by' then jsonb_build_object(
          'paused_by',
          queue.shown_person(v_found #>> '{data,paused_by}', p_job.workspace_id)
        )
        else '{}'
      end
    );
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
  v_more := (v_left -> 'next')
    || (v_recursion -> 'next')
    || coalesce(v_stopped -> 'next', '[]');
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
        'stuck_in', v_abandoned -> 'worker_id'
      )
      || coalesce(
        (
          -- the worker that rejected the payload, if another live worker runs the newest deploy
          select jsonb_build_object('old_worker', w.worker_id, 'old_version', w.version)
          from unnest(p_alive) as w
          join queue.job_types as t on t.job_type = p_job.job_type
          where v_error.kind = 'payload'
            and w.worker = (
              select a.worker
              from queue.attempts as a
              where a.job_id = p_job.id
              order by a.fence desc
              limit 1
            )
            and t.deployed_at is not null
            and w.version not like '%+' || left(t.commit, 9)
            and exists (
              select from unnest(p_alive) as o
              where p_job.job_type = any (o.job_types)
                and o.version like '%+' || left(t.commit, 9)
            )
        ),
        '{}'
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
      when v_more <> '[]'
        then v_more || jsonb_path_query_array(v_found -> 'next', '$[*] ? (@.kind == "act")')
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
        having count(*) > 0
      ),
      v_left ->> 'sentence',
      v_found ->> 'sentence',
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

drop function queue.one_worker_advice(uuid,uuid[],timestamp with time zone);

-- Return advice if the last attempts of the first of p_ids failed on one worker, and another worker
-- has completed a job of the type since p_since. The jobs p_ids are of one workspace, type and
-- error. Of each the newest few are read.
create or replace function queue.one_worker_advice(p_ids uuid[], p_since timestamptz)
returns jsonb
language sql stable
set search_path = ''
as $$
select coalesce(
  (
    select queue.render_guidance('one_worker', to_jsonb(f) || to_jsonb(c)) -> 'next'
    from (
      select j.workspace_id, j.job_type, count(*) as count, w.worker_id, w.version
      from public.jobs as j
      cross join lateral (
        select *
        from queue.attempts as o
        where o.job_id = j.id
          and (o.error_message, o.error_data) = (j.error_message, j.error_data)
        order by o.fence desc
        limit 1
      ) as a
      join queue.workers as w on w.worker = a.worker
      where j.id = any (p_ids[:20])
      group by 1, 2, w.worker
      having count(*) >= 3 and count(*) = least(20, cardinality(p_ids))
    ) as f
    cross join lateral (
      select n.finished_at, o.worker_id as other, o.version as other_version
      from (
        select *
        from public.jobs as j
        -- with `=`, the planner would sort all jobs of the workspace
        where j.workspace_id between f.workspace_id and f.workspace_id
        order by j.workspace_id desc, j.id desc
        limit 100
      ) as n
      join queue.workers as o on o.worker = n.worker
      where n.job_type = f.job_type
        and n.status = 'completed'
        and n.fence = 1 -- of other jobs, the worker is the first
        and n.finished_at > p_since
        and o.worker_id <> f.worker_id
      limit 1
    ) as c
  ),
  '[]'
)
$$;

-- Return findings about job types, versions of the code, pauses, schedules, unanswered questions,
-- silent jobs, and jobs that retry after the same error. Such a job waits for its retry, is due or
-- runs again. Of the next 5,000 rows of queue.deferred, up to 1,000 delayed jobs are read, and of
-- each of up to 70 turns the first 20 ready jobs. The turns are those of such jobs, and of types
-- whose attempts failed in the last hour. A running job is silent if the time since its last update
-- exceeds both a minute and, if enough jobs of its type have ended, the duration of 99 % of these.
-- If an operator pauses a queue or a job type for all workspaces, the pause is a finding in each
-- workspace that has due jobs there.
create or replace function queue.findings_of_workspace(p_workspace_id uuid, p_now timestamptz)
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
    bool_or(j.is_cut) as more,
    (array_agg(j.id order by n.next_at, j.id))[:200] as job_ids,
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
        then min(c.until) filter (where c.until < p_now)
    end,
    'completed', nullif(min(c.completed), 0),
    'used', concat(
      concat_ws(' to ', min(r.fewest), nullif(max(r.most), min(r.fewest))),
      ' of ' || nullif(min(r.least_allowed), case -- one limit for all jobs
        when min(r.least_allowed) < max(r.most_allowed) then min(r.least_allowed)
      end)
    ),
    'advice', queue.one_worker_advice(min(r.job_ids), min(r.since))
      || queue.error_advice((array_agg(r.job_ids[1] order by r.next_at))[1], 2),
    'attention', jsonb_agg(
      to_jsonb(r) - '{next_at,last_at,is_due,fewest,most,least_allowed,most_allowed}'::text[]
    ),
    'at_least', case when bool_or(r.more) then 'At least ' end
  ) || case
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
    'shared', h.shared,
    'hanging', coalesce(h.shared, 'that hangs'),
    'all_seen', h.all_seen,
    'seen', h.seen
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
        queue.length_in_words((r.pulse ->> 'blocked_ms')::double precision) as blocked,
        (r.pulse ->> 'since')::timestamptz as since
      from queue.leases as r
      where r.ctid > '(0,0)' -- reads pages in order, because all running jobs are read
        and r.pulse ->> 'last' <> 'end'
        and r.expires_at > p_now
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
    case when a.is_shared then a.seen end as shared,
    case when a.is_shared and a.jobs > 1 then a.seen end as all_seen,
    case when not a.is_shared then s.jobs[1] ->> 'seen' end as seen
  from (
    select
      count(*) as jobs,
      min(j ->> 'seen') as seen,
      count(*) = count(j ->> 'seen') and count(distinct j ->> 'seen') = 1 as is_shared
    from unnest(n.jobs) as j
  ) as a
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

-- Return the jobs that failed for good in the last hour, grouped by workspace, type and error, as
-- the key `attention` of public.explain_queue has them. Only the newest 200 failed jobs of a
-- workspace are read. For all workspaces, 1,000 failed jobs of the 50 workspaces in which the last
-- jobs failed are read. Each group has the advice for the error of its newest job.
create or replace function queue.recent_failures(p_workspace_id uuid, p_now timestamptz)
returns jsonb
language sql stable
set search_path = ''
as $$
with workspaces as (
  select p_workspace_id as workspace_id
  where p_workspace_id is not null
  union all
  (
    select s.workspace_id
    from (
      select *
      from queue.stats as o
      where p_workspace_id is null and o.at > p_now - interval '65 minutes'
      order by o.at desc
      limit 2000
    ) as s
    where (s.counts ->> 'failed')::bigint > 0
      and s.workspace_id <> '00000000-0000-0000-0000-000000000000'
    group by 1
    order by max(s.at) desc, 1
    limit 50
  )
)
select coalesce(
  jsonb_agg(
    to_jsonb(g) - 'last_at'
      || jsonb_build_object(
        'next', queue.one_worker_advice(g.job_ids, g.since)
          || queue.error_advice(g.job_ids[1], g.jobs)
      )
    order by g.last_at desc
  ),
  '[]'
)
from (
  select
    j.workspace_id,
    'failed' as kind,
    j.job_type,
    count(*) as jobs,
    bool_or(d.more) as more,
    (array_agg(j.id order by j.finished_at desc, j.id))[:200] as job_ids,
    min(j.finished_at) as since,
    max(j.finished_at) as last_at,
    queue.fingerprint(j.error_message, j.error_data) as print,
    min(queue.short_error(j.error_message, j.error_data)) as error
  from (
    select w.workspace_id, least(200, 1000 / count(*) over ()) as most
    from workspaces as w
  ) as w
  cross join lateral (
    select o.job_id, count(*) over () = w.most as more
    from (
      select *
      from queue.dead as l
      where l.workspace_id = w.workspace_id
      order by l.workspace_id desc, l.job_id desc
      limit w.most
    ) as o
  ) as d
  cross join lateral (
    select *
    from public.jobs as i
    where i.id = any (array[d.job_id])
    offset 0 -- without statistics, the planner would read all jobs first
  ) as j
  where j.finished_at > p_now - interval '1 hour'
    and not queue.is_internal(j.job_type)
  group by j.workspace_id, j.job_type, print
  order by last_at desc
  limit 50 -- limits the response
) as g
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
    case when not queue.is_operator() then queue.caller() end
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
  select jsonb_agg(
    jsonb_build_object(
      'verdict', f.verdict,
      'reason', f.reason,
      'key', k.key,
      'since', f.since,
      'cause', f.cause,
      'jobs', f.data -> 'jobs',
      'silent', f.data -> 'silent',
      'unserved', f.data -> 'unserved',
      'next_at', f.data -> 'next_at',
      'completed', f.data -> 'completed',
      'completed_until', f.data -> 'completed_until'
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
    from queue.findings_of_workspace(p_workspace_id, v_now)
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
      queue.number_of(f.data) || f.data || jsonb_build_object(
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
    'attention', v_backlog -> 'attention' || v_attention
      || queue.recent_failures(p_workspace_id, v_now),
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
  'job_types, keys}], backlog, last_tick_seconds}. silent has the time of the last update of each '
  'silent job, unserved the job types that no worker serves, completed the jobs of a type with '
  'retries that completed in the last hour, completed_until a time after which none was counted. '
  'attention has up to 200 ids of the jobs that are silent, have no_worker, are retrying or failed '
  'in the last hour. print: identifies the error, and ends the key of a finding about it. reason: '
  'of the finding about jobs that have no_worker. Only '
  'operators may omit p_workspace_id.';

select queue.close_tables();

-- Revoke the right of all roles to execute private functions. Rights of single roles remain,
-- because policies, column defaults and guests need them.
revoke execute on all functions in schema queue from public;
