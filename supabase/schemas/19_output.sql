-- This file stores the output that jobs write while they run. The output of a job consists of named
-- streams of text or of JSON items. A position in a stream is an offset, counted in characters or
-- items. A piece of output is the part of a stream that a worker reports in one call. If a later
-- attempt of the job writes to a stream, the stream restarts at offset 0 with the number of the new
-- attempt, and readers discard the output of the earlier attempt. Output is stored in tables of its
-- own, and not as events or in the row of the job.

insert into queue.settings (name, value)
values ('output_max_bytes', '1000000'); -- limit for all streams of a job together
insert into queue.tasks (name, every)
values ('output', '1 minute');

-- Pieces of output that maintenance has not joined yet, usually because the job has not ended.
create table queue.pieces (
  job_id uuid not null,
  stream text not null,
  attempt integer not null,
  end_offset integer not null, -- offset in the stream after this piece
  -- Name of the step that wrote this piece of output. The output of a finished step is kept for the
  -- next attempt, which skips the step.
  step text,
  text text,
  items jsonb,
  -- Times at which the first and the last part of this piece were stored, null for older pieces.
  first_at timestamptz,
  last_at timestamptz,
  primary key (job_id, stream, attempt, end_offset),
  constraint pieces_stream_is_bounded check (char_length(stream) between 1 and 100),
  constraint pieces_are_of_one_kind check (num_nonnulls(text, items) <= 1)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- Output of ended jobs, with the pieces joined. A row contains the output that one step wrote to
-- one stream in one attempt.
create table queue.outputs (like queue.pieces including indexes);
comment on column queue.pieces.text is 'Person: words of the job';
comment on column queue.pieces.items is 'Person: words of the job';
comment on column queue.outputs.text is 'Person: words of the job';
comment on column queue.outputs.items is 'Person: words of the job';

create view queue.output as
select *
from queue.pieces
union all
select *
from queue.outputs;

-- Return the total size of a job's streams in bytes.
create function queue.output_bytes(p_job_id uuid)
returns bigint
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select coalesce(sum(octet_length(coalesce(o.text, o.items::text))), 0)
    from queue.output as o
    where o.job_id = p_job_id
  );
end;
$$;

-- Delete the output of a stream that a new attempt restarts. Keep the output of finished steps,
-- because the new attempt skips these steps.
create function queue.drop_output(p_job_id uuid, p_stream text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_steps constant text[] := array(
    select s.name
    from queue.steps as s
    where s.job_id = p_job_id and s.nth = 0
  );
begin
  delete from queue.pieces
  where job_id = p_job_id
    and stream = p_stream
    and step = any (v_steps) is not true;
  delete from queue.outputs
  where job_id = p_job_id
    and stream = p_stream
    and step = any (v_steps) is not true;
end;
$$;

-- A replay is a new job that repeats another job. Copy the output of the steps that the replay
-- p_replay_id skips from the job p_job_id.
create function queue.copy_output(p_job_id uuid, p_replay_id uuid)
returns void
language plpgsql
set search_path = ''
as $$
begin
  with first as ( -- later attempts repeat the first attempt's output
    select
      o.*,
      s.created_at,
      coalesce(char_length(o.text), jsonb_array_length(o.items), 0) as size,
      rank() over (
        partition by o.stream, o.step
        order by o.attempt
      ) as n
    from queue.output as o
    join queue.steps as s on s.job_id = p_replay_id and s.name = o.step and s.nth = 0
    where o.job_id = p_job_id
  )
  insert into queue.outputs (
    job_id, stream, attempt, end_offset, step, text, items
  )
  select
    p_replay_id,
    f.stream,
    1,
    sum(f.size) over (
      partition by f.stream
      order by f.created_at, f.step, f.end_offset
    ),
    f.step,
    f.text,
    f.items
  from first as f
  where f.n = 1 and f.size > 0;
end;
$$;

-- Store pieces of output, and publish them to the clients that follow the job. The caller must have
-- locked the leases of the jobs. A piece of output is a JSON object with the keys stream, attempt,
-- start (its offset), step, and either text or items. If an earlier report stored the beginning of
-- a piece, store only the remainder. A piece that exceeds the job's byte limit, or that would begin
-- a 21st stream, is not stored. After a piece that was not stored, later pieces of the stream are
-- not stored either, so that the stream has no gap.
create function queue.write_output(p_items queue.worker_item[], p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_most constant bigint := queue.setting('output_max_bytes')::bigint;
  v_piece record;
  v_job uuid;
  v_bytes bigint; -- bytes that the job has stored, or null before they are counted
  v_last record; -- last stored piece of the stream
  v_known integer; -- end of the stored stream
  v_text text;
  v_list jsonb;
  v_size integer;
  v_grown bigint; -- bytes that the piece adds
  v_changes queue.change[] := '{}';
begin
  for v_piece in
    select
      l.job_id,
      l.workspace_id,
      l.output_bytes,
      j.session_id,
      p.value ->> 'stream' as stream,
      (p.value ->> 'attempt')::integer as attempt,
      (p.value ->> 'start')::integer as start,
      p.value ->> 'step' as step,
      p.value ->> 'text' as text,
      nullif(p.value -> 'items', 'null') as items
    from unnest(p_items) as i
    join queue.leases as l on l.job_id = i.job_id and l.fence = i.fence
    join public.jobs as j on j.id = l.job_id
    cross join lateral jsonb_array_elements(
      i.output
    ) with ordinality as p (value, n)
    order by l.job_id, p.n
  loop
    if v_job is distinct from v_piece.job_id then
      v_job := v_piece.job_id;
      v_bytes := v_piece.output_bytes;
    end if;
    select o.attempt, o.end_offset into v_last
    from queue.output as o
    where o.job_id = v_job and o.stream = v_piece.stream
    order by o.attempt desc, o.end_offset desc
    limit 1;
    continue when v_piece.attempt < v_last.attempt;
    v_known := case v_last.attempt
      when v_piece.attempt then v_last.end_offset
      else 0
    end;
    v_text := substr(v_piece.text, v_known - v_piece.start + 1);
    v_list := jsonb_path_query_array(
      v_piece.items,
      '$[$known to last]',
      jsonb_build_object('known', greatest(0, v_known - v_piece.start))
    );
    v_size := coalesce(char_length(v_text), jsonb_array_length(v_list), 0);
    continue when v_piece.start > v_known
      or v_size = 0 and v_piece.attempt = v_last.attempt;
    if v_piece.attempt > v_last.attempt then
      perform queue.drop_output(v_job, v_piece.stream);
      v_bytes := null;
    end if;
    continue when v_last.attempt is null
      and (select count(*) from queue.stream_ends(v_job)) >= 20;
    v_bytes := coalesce(v_bytes, queue.output_bytes(v_job));
    v_grown := coalesce(octet_length(coalesce(v_text, v_list::text)), 0);
    continue when v_bytes + v_grown > v_most;
    v_bytes := v_bytes + v_grown;
    insert into queue.pieces (
      job_id, stream, attempt, end_offset, step, text, items, first_at, last_at
    )
    values (
      v_job, v_piece.stream, v_piece.attempt, v_known
        + v_size, v_piece.step, v_text, v_list, p_now, p_now
    );
    update queue.leases
    set output_bytes = v_bytes
    where job_id = v_job;
    v_changes := v_changes || row(
      v_piece.workspace_id,
      v_piece.session_id,
      'job.output',
      jsonb_strip_nulls(jsonb_build_object(
        'stream', v_piece.stream,
        'attempt', v_piece.attempt,
        'from', v_known,
        'next', v_known + v_size,
        -- the message omits texts and items of more than 8,000 bytes, which followers read from the
        -- database
        'text', case when octet_length(v_text) <= 8000 then v_text end,
        'items', case when pg_column_size(v_list) <= 8000 then v_list end
      )),
      array[v_job],
      array[null::integer],
      p_now
    )::queue.change;
  end loop;
  perform queue.publish(v_changes, p_now) where v_changes <> '{}';
end;
$$;

-- Return the state of a job's output, which a worker receives in the response to its report.
-- null: The worker's report contained no output.
-- refused: The engine did not store a part of the output.
-- followed: At least one client follows the job or its session.
-- unfollowed: No client follows the job or its session. If no client follows the job, the worker
--   collects output for a longer time before it reports again.
create function queue.output_state(p_item queue.worker_item, p_job public.jobs)
returns text
language plpgsql stable
set search_path = ''
as $$
declare
  v_topics constant text[] := array[
    'job:' || p_job.id,
    'session:' || p_job.session_id
  ];
begin
  if p_item.output is null or p_job.id is null then
    return null;
  end if;
  return case
    when exists (
      select from jsonb_array_elements(p_item.output) as p
      where not exists (
        select from queue.output as o
        where o.job_id = p_job.id
          and o.stream = p ->> 'stream'
          and o.attempt >= (p ->> 'attempt')::integer
          and o.end_offset >= (p ->> 'start')::integer + coalesce(
            char_length(p ->> 'text'),
            jsonb_array_length(nullif(p -> 'items', 'null')),
            0
          )
      )
    ) then 'refused'
    when exists (select from queue.followers as f where f.topic = any (v_topics))
        or exists (
          select from queue.streamed_topics as s
          where s.topic = any (v_topics) and s.expires_at > clock_timestamp()
        )
      then 'followed'
    else 'unfollowed'
  end;
exception when data_exception then
  return 'refused';
end;
$$;

create function public.read_output(p_request jsonb)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_stream constant text := p_request ->> 'stream';
  v_id uuid;
begin
  perform queue.refuse_revoked();
  v_id := queue.leased_id(p_request, 'its output is not shown');
  return jsonb_build_object(
    'attempt', (
      select coalesce(max(o.attempt), 0)
      from queue.output as o
      where o.job_id = v_id and o.stream = v_stream
    ),
    'kept', (
      select coalesce(
        jsonb_object_agg(
          k.step,
          jsonb_build_object('text', k.text, 'items', k.items)
        ),
        '{}'
      )
      from (
        select distinct on (o.step)
          o.step,
          string_agg(o.text, '' order by o.end_offset) as text,
          jsonb_path_query_array(
            jsonb_agg(o.items order by o.end_offset) filter (
              where o.items is not null
            ),
            '$[*][*]'
          ) as items
        from queue.output as o
        join queue.steps as s on s.job_id = v_id and s.name = o.step and s.nth = 0
        where o.job_id = v_id and o.stream = v_stream
        group by o.step, o.attempt
        order by o.step, o.attempt -- later attempts repeat the first attempt's output
      ) as k
    )
  );
end;
$$;
comment on function public.read_output is
  E'Output of a leased job in a stream: {attempt, kept: {step: {text, items}}}.\n\nRequest: '
  '{job_id, fence, stream}. kept: output of finished steps, which the worker writes again when it '
  'skips them.';
select queue.allow('job_worker, service_role', 'public.read_output');

-- For each stream of a job, return the number of the last attempt that wrote to the stream, and the
-- offset at the end of the output of this attempt.
create function queue.stream_ends(p_job_id uuid)
returns table (stream text, attempt integer, end_offset integer)
language plpgsql stable
set search_path = ''
as $$
#variable_conflict use_column
begin
  return query
    with recursive ends as (
      (
        select o.stream, o.attempt, o.end_offset
        from queue.output as o
        where o.job_id = p_job_id
        order by o.stream desc, o.attempt desc, o.end_offset desc
        limit 1
      )
      union all
      select l.stream, l.attempt, l.end_offset
      from ends as e
      cross join lateral (
        select o.stream, o.attempt, o.end_offset
        from queue.output as o
        where o.job_id = p_job_id and o.stream < e.stream
        order by o.stream desc, o.attempt desc, o.end_offset desc
        limit 1
      ) as l
    )
    select e.stream, e.attempt, e.end_offset
    from ends as e
    limit 20; -- an earlier release could store more
end;
$$;

-- Return a JSON object with one key for each stream of a job. The value of a key contains the
-- number of the last attempt and the offset at the end of the stream, as {attempt, next}. A client
-- that has read the whole stream continues at the offset `next`.
create function queue.streams_json(p_job_id uuid)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select coalesce(
      jsonb_object_agg(
        e.stream,
        jsonb_build_object('attempt', e.attempt, 'next', e.end_offset)
      ),
      '{}'
    )
    from queue.stream_ends(p_job_id) as e
  );
end;
$$;

-- Return the times of the first and the last output of each of a job's streams.
create function queue.stream_times(p_job_id uuid)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_agg(
  jsonb_build_object('stream', e.stream, 'first_at', f.first_at, 'last_at', l.last_at)
)
from queue.stream_ends(p_job_id) as e
cross join lateral (
  select o.first_at
  from queue.output as o
  where (o.job_id, o.stream, o.attempt) = (p_job_id, e.stream, e.attempt)
  order by o.end_offset
  limit 1
) as f
cross join lateral (
  select o.last_at
  from queue.output as o
  where (o.job_id, o.stream, o.attempt, o.end_offset)
    = (p_job_id, e.stream, e.attempt, e.end_offset)
) as l
$$;

-- Return a page of a stream from the offset p_from. A page contains up to 30,000 characters or
-- 1,000 items, which the last attempt wrote to the stream.
create function queue.output_page(p_job_id uuid, p_stream text, p_from integer)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_last record; -- last piece
  v_page record;
  v_skipped integer; -- characters or items of the first piece before p_from
begin
  select o.attempt, o.end_offset into v_last
  from queue.output as o
  where o.job_id = p_job_id and o.stream = p_stream
  order by o.attempt desc, o.end_offset desc
  limit 1;
  select
    string_agg(p.text, '' order by p.end_offset) as text,
    jsonb_path_query_array(
      jsonb_agg(p.items order by p.end_offset) filter (where p.items is not null),
      '$[*][*]'
    ) as items,
    coalesce(max(p.end_offset), v_last.end_offset, 0) as end_offset
  into v_page
  from (
    select o.end_offset, o.text, o.items
    from queue.output as o
    where o.job_id = p_job_id
      and o.stream = p_stream
      and o.attempt = v_last.attempt
      and o.end_offset > p_from
    order by o.end_offset
    limit 1000
  ) as p;
  v_skipped := p_from
    - v_page.end_offset
    + coalesce(char_length(v_page.text), jsonb_array_length(v_page.items), 0);
  v_page.text := substr(v_page.text, 1 + v_skipped, 30000);
  v_page.items := jsonb_path_query_array(
    v_page.items,
    '$[$skipped to $last]',
    jsonb_build_object('skipped', v_skipped, 'last', v_skipped + 999)
  );
  p_from := least(p_from, v_page.end_offset);
  v_page.end_offset := p_from
    + coalesce(char_length(v_page.text), jsonb_array_length(v_page.items), 0);
  return jsonb_strip_nulls(jsonb_build_object(
    'stream', p_stream,
    'attempt', coalesce(v_last.attempt, 0),
    'from', p_from,
    'next', v_page.end_offset,
    'more', v_page.end_offset < coalesce(v_last.end_offset, 0),
    'text', v_page.text
  )) || case
    when v_page.items is null then '{}'
    else jsonb_build_object('items', v_page.items)
  end;
end;
$$;

-- For each stream of a job, return a page of the output after the client's position in the stream.
-- p_after: The client's positions, in the form that queue.streams_json returns. A position without
--   an attempt belongs to the last attempt that wrote to the stream.
create function queue.output_pages(p_job_id uuid, p_after jsonb)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(p.page order by e.stream), '[]')
    from queue.stream_ends(p_job_id) as e
    cross join lateral (
      select
        p_after #>> array[e.stream, 'attempt'] as attempt,
        greatest(0, (p_after #>> array[e.stream, 'next'])::integer) as next
    ) as k
    cross join lateral queue.output_page(
      p_job_id,
      e.stream,
      case
        when coalesce(k.attempt, e.attempt::text) = e.attempt::text
          then k.next
        else 0
      end
    ) as p (page)
    where k.attempt is distinct from e.attempt::text or e.end_offset > k.next
  );
end;
$$;

-- Estimate how many bytes of a job's output a client reads if it continues at its positions. A
-- client reads one page of each stream, which has at most 30,000 characters or 1,000 items. Each
-- piece of text counts as 50 more bytes, because a row takes longer to read than its text.
-- p_after: The client's positions, in the form that queue.streams_json returns.
create function queue.unread_bytes(p_job_id uuid, p_after jsonb, p_stream text default null)
returns bigint
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select coalesce(sum(u.bytes), 0)
    from queue.stream_ends(p_job_id) as e
    cross join lateral (
      select case
        when p_after #>> array[e.stream, 'attempt'] <> e.attempt::text then 0
        else coalesce((p_after #>> array[e.stream, 'next'])::integer, 0)
      end as next
    ) as k
    cross join lateral (
      select least(65536, coalesce(sum(50 + octet_length(o.text)), 0)) + coalesce(
        sum(octet_length(o.items::text)) filter (
          where o.end_offset - jsonb_array_length(o.items) - k.next < 1000
        ),
        0
      ) as bytes
      from queue.output as o
      where o.job_id = p_job_id
        and o.stream = e.stream
        and o.attempt = e.attempt
        and o.end_offset > k.next
    ) as u
    where e.stream = coalesce(p_stream, e.stream)
  );
end;
$$;

-- Charge a read of more than 10,000 bytes of output to the caller's rate limit, or reject the read.
-- A read of more than 10,000 bytes also takes a call slot. Only one guest at a time can read more
-- than 10,000 bytes of a job or session. Return the number of bytes that were not charged.
create function queue.admit_read(p_workspace_id uuid, p_id text, p_bytes bigint)
returns bigint
language plpgsql
set search_path = ''
as $$
begin
  if p_bytes <= 10000 then
    return p_bytes;
  end if;
  perform queue.take_call_slot(p_workspace_id);
  perform queue.hold_id(p_id) where queue.caller() is null;
  perform queue.admit('rows', p_bytes => p_bytes);
  return 0;
end;
$$;

create function queue.job_output(
  p_job_id uuid,
  p_stream text,
  p_from integer,
  p_after jsonb,
  p_session_id text
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_job public.jobs;
begin
  select j.* into v_job
  from public.jobs as j
  where j.id = p_job_id
    and (
      auth.jwt() ->> 'role' = 'service_role'
      -- a direct database connection
      or auth.jwt() is null and current_setting('role') <> 'anon'
      or queue.may_follow('job:' || p_job_id)
      or exists (
        select from queue.guest_session(p_session_id) as s
        where s.session_id = j.session_id and s.workspace_id = j.workspace_id
      )
    );
  if not found then
    perform queue.refuse(404, 'job_not_found', 'job not found', p_job_id::text);
  end if;
  perform queue.admit_read(
    v_job.workspace_id,
    p_job_id::text,
    queue.unread_bytes(
      p_job_id,
      case
        when p_stream is null then p_after
        else jsonb_build_object(p_stream, jsonb_build_object('next', p_from))
      end,
      p_stream
    )
  );
  if p_stream is not null then
    return queue.output_page(p_job_id, p_stream, greatest(0, p_from))
      || jsonb_build_object('status', v_job.status);
  end if;
  return jsonb_build_object(
    'status', v_job.status,
    'last_seq', v_job.last_seq,
    'streams', queue.output_pages(p_job_id, p_after),
    'session_seconds', queue.session_seconds(p_session_id)
  );
end;
$$;
select queue.allow('anon, authenticated, service_role', 'queue.job_output');

create function public.job_output(
  p_job_id uuid,
  p_stream text default null,
  p_from integer default 0,
  p_after jsonb default null,
  p_session_id text default null
)
returns jsonb
language sql -- volatile, because a long read takes tokens of the rate limit
set search_path = '' -- the body is parsed at creation, so guests need no usage of schema queue
begin atomic select queue.job_output(
  p_job_id,
  p_stream,
  p_from,
  p_after,
  p_session_id
);
end;
comment on function public.job_output is
  E'Output of a job in a stream from an offset: {stream, attempt, from, next, more, text or items, '
  'status}.\n\nA new attempt restarts the stream: drop the output of the previous attempt and read '
  'from 0. Without a stream: {status, last_seq, streams, session_seconds}, the streams that have '
  'output after p_after {stream: {attempt, next}}. The default of attempt is the current attempt. '
  'A guest passes the session, which ends in session_seconds.';
select queue.allow('anon, authenticated, service_role', 'public.job_output');

-- Return a job of a guest session, and the job's events after the event number p_after. Events
-- about log lines are returned without their data.
create function queue.guest_job(p_session_id text, p_job_id uuid, p_after integer)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  c_events constant integer := 500; -- maximum per response
  v_job public.jobs;
begin
  select j.* into v_job
  from queue.guest_session(p_session_id) as s
  join public.jobs as j on j.session_id = s.session_id and j.workspace_id = s.workspace_id
  where j.id = p_job_id;
  -- The error message does not contain the session id, because the id may grant access.
  if not found then
    perform queue.refuse(404, 'job_not_found', 'job not found', p_job_id::text);
  end if;
  return queue.guest_json(v_job) || jsonb_build_object(
    'streams', queue.streams_json(p_job_id),
    'events', (
      select coalesce(jsonb_agg(to_jsonb(f) order by f.seq), '[]')
      from (
        select
          e.job_id,
          e.seq,
          e.type,
          case when e.type <> 'job.log' then e.data else '{}' end as data,
          e.created_at
        from public.job_events as e
        where e.job_id = p_job_id and e.seq > p_after
        order by e.seq
        limit c_events
      ) as f
    )
  );
end;
$$;
select queue.allow('anon, authenticated, service_role', 'queue.guest_job');

create function public.guest_job(
  p_session_id text,
  p_job_id uuid,
  p_after integer default null
)
returns jsonb
language sql stable
set search_path = '' begin atomic select queue.guest_job(
  p_session_id,
  p_job_id,
  p_after
);
end;
comment on function public.guest_job is
  E'A job of a guest session, as in guest_session_jobs, with {streams, events}. streams: the end '
  'of each stream. events: up to 500 events after p_after, without the data of log lines.\n\n404 '
  'job_not_found if the session does not exist, has ended, or does not have the job.';
select queue.allow('anon, authenticated, service_role', 'public.guest_job');

-- Return new output of those jobs of a session that run now or have a position in p_after. For each
-- returned job, return a page of each stream that has output after the client's position. A
-- response contains up to 20 jobs, or about 1 MB of output. For the rate limit, the call counts 50
-- bytes for each job of the session, and 500 bytes for each job whose output is read.
create function queue.session_output(p_session_id text, p_after jsonb)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_workspace constant uuid := queue.shown_workspace(p_session_id);
  v_unpaid bigint;
  v_id uuid;
  v_pages jsonb;
  v_jobs jsonb := '[]';
  v_is_full boolean := false;
begin
  v_unpaid := queue.admit_read(v_workspace, p_session_id, 50 * count(*))
  from (
    select from public.jobs as j -- the index alone is read
    where j.session_id = p_session_id
    limit 20000
  ) as f;
  foreach v_id in array array(
    select j.id
    from public.jobs as j
    where j.session_id = p_session_id
      and case
        when v_workspace is null
          then j.workspace_id in (select queue.my_workspaces())
            or auth.jwt() ->> 'role' = 'service_role'
        else j.workspace_id = v_workspace
      end
      and (
        p_after ? j.id::text
        or exists (select from queue.leases as l where l.job_id = j.id)
      )
    order by j.id
  )
  loop
    v_unpaid := queue.admit_read(
      v_workspace,
      p_session_id,
      v_unpaid + 500 + queue.unread_bytes(v_id, p_after -> v_id::text)
    );
    v_pages := queue.output_pages(v_id, p_after -> v_id::text);
    continue when v_pages = '[]';
    v_jobs := v_jobs || jsonb_build_object('job_id', v_id, 'streams', v_pages);
    v_is_full := jsonb_array_length(v_jobs) = 20 or pg_column_size(v_jobs) > 1000000;
    exit when v_is_full;
  end loop;
  return jsonb_build_object(
    'jobs', v_jobs,
    'more', v_is_full or v_jobs @? '$[*].streams[*] ? (@.more == true)',
    'session_seconds', queue.session_seconds(p_session_id)
  );
end;
$$;
select queue.allow('anon, authenticated, service_role', 'queue.session_output');

create function public.session_output(p_session_id text, p_after jsonb default null)
returns jsonb
language sql -- volatile, because a long read takes tokens of the rate limit
set search_path = '' begin atomic select queue.session_output(p_session_id, p_after);
end;
comment on function public.session_output is
  E'Output of a session''s jobs: {jobs: [{job_id, streams}], more, session_seconds}, as in '
  'job_output.'
  '\n\nReturns output of running jobs, and of jobs in p_after {job_id: {stream: {attempt, next}}}, '
  'after these positions.';
select queue.allow('anon, authenticated, service_role', 'public.session_output');

-- Run the maintenance task `output`. The task `output` joins the pieces of output of an ended job
-- into one row per stream, or into one row per step that wrote to the stream. For a completed job,
-- keep only the output of the last attempt. For other ended jobs, keep the output of all attempts,
-- because these jobs may be retried.
create function queue.do_output(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_found uuid[];
  v_ids uuid[]; -- jobs of v_found whose rows could be locked
  v_count integer := 0;
begin
  loop
    v_found := array(
      with recursive found as (
        (
          select p.job_id
          from queue.pieces as p
          order by p.job_id
          limit 1
        )
        union all
        select (
          select p.job_id
          from queue.pieces as p
          where p.job_id > f.job_id
          order by p.job_id
          limit 1
        )
        from found as f
        where f.job_id is not null
      )
      select f.job_id
      from found as f
      join public.jobs as j on j.id = f.job_id
      where j.finished_at is not null
      limit 200
    );
    v_ids := array( -- the lock prevents a retry of these jobs meanwhile
      select j.id
      from public.jobs as j
      where j.id = any (v_found) and j.finished_at is not null
      order by j.id
      for no key update skip locked
    );
    with said as (
      delete from queue.pieces as p
      where p.job_id = any (v_ids)
      returning *
    ),
    old as (
      delete from queue.outputs as o
      using said as p, public.jobs as j
      where o.job_id = any (v_ids)
        and p.job_id = o.job_id
        and p.stream = o.stream
        and p.attempt > o.attempt
        and j.id = o.job_id
        and j.status = 'completed'
    ),
    placed as (
      select
        s.*,
        max(s.attempt) over (partition by s.job_id, s.stream) as last,
        row_number() over a - row_number() over (
          partition by s.job_id, s.stream, s.attempt, s.step
          order by s.end_offset
        ) as nth_part
      from said as s
      window a as (partition by s.job_id, s.stream, s.attempt order by s.end_offset)
    )
    insert into queue.outputs (
      job_id, stream, attempt, end_offset, step, text, items, first_at, last_at
    )
    select
      p.job_id,
      p.stream,
      p.attempt,
      max(p.end_offset),
      p.step,
      string_agg(p.text, '' order by p.end_offset),
      jsonb_path_query_array(
        jsonb_agg(p.items order by p.end_offset) filter (where p.items is not null),
        '$[*][*]'
      ),
      -- null if the first piece is older than this field
      (array_agg(p.first_at order by p.end_offset))[1],
      max(p.last_at)
    from placed as p
    join public.jobs as j on j.id = p.job_id
    where p.attempt = p.last or j.status <> 'completed'
    group by p.job_id, p.stream, p.attempt, p.step, p.nth_part;
    v_count := v_count + cardinality(v_ids);
    exit when cardinality(v_found) < 200
      or v_ids = '{}'
      or clock_timestamp() >= p_until;
  end loop;
  return v_count;
end;
$$;
