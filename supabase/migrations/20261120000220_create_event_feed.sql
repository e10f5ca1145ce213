-- The history of a whole workspace or session, read forward without gaps and without repeats.
-- A cursor is a snapshot: what was not visible in it and is visible now is new, whatever the order of commits.

create index job_events_by_session on queue.job_events (session_id, xid, substr(uuid_send(job_id), 1, 5))
where session_id is not null;

create function queue.feed_cursor(p_cursor text) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_parts text[] := string_to_array(p_cursor, '~');
  v_seen pg_snapshot;
begin
  if p_cursor is null then
    return null;
  end if;
  if cardinality(v_parts) not in (1, 5) then
    raise data_exception;
  end if;
  v_seen := v_parts[1]::pg_snapshot;
  if pg_snapshot_xmax(v_seen) > pg_snapshot_xmax(pg_current_snapshot()) then
    return null; -- of another cluster, before a dump and restore
  end if;
  if cardinality(v_parts) = 1 then
    return jsonb_build_object('seen', v_parts[1]);
  end if;
  return jsonb_build_object('seen', v_parts[1], 'until', v_parts[2]::pg_snapshot, 'job_id', v_parts[4]::uuid,
    'seq', v_parts[5]::bigint, 'xid',
    case when v_parts[3] ~ '^[hm]\d{1,18}\.\d{1,18}$' then v_parts[3] else (v_parts[3]::xid8)::text end);
exception when data_exception then
  perform queue.refuse(400, 'invalid_argument', 'unknown cursor', 'cursor');
end;
$$;
comment on function queue.feed_cursor is E'The parts of a feed''s cursor; null when it cannot be of this '
  'database.\n\n"seen", or in the middle of a batch "seen~until~xid~job_id~seq": the place in the order of the index, or with h or m and a packed history''s "last_xid.id" for xid, see packed_page.';

create function queue.feed_order(
  p_job_ids uuid[], p_left_out text[], p_seen pg_snapshot, p_until pg_snapshot
) returns table (xid xid8, job_id uuid, seq bigint)
language sql stable set search_path = '' as $$
  select min(e.xid) over (partition by e.job_id order by e.seq desc), e.job_id, e.seq
  from unnest(p_job_ids) as j (id) cross join lateral (
    select e.xid, e.job_id, e.seq, e.type from queue.job_events as e where e.job_id = j.id offset 0) as e
  where e.type <> all (p_left_out)
    and (p_seen is null or not pg_visible_in_snapshot(e.xid, p_seen)) and pg_visible_in_snapshot(e.xid, p_until)
$$;
comment on function queue.feed_order is E'The places of jobs'' events in a feed: ordered by transaction, but none '
  'after a later event of the same job.\n\nA transaction may be older than one that wrote to the job before it: then '
  'the earlier events come with its own. p_left_out: types that the feed does not have.';

create type queue.feed_place as (xid xid8, job_id uuid, seq bigint, workspace_id uuid, type text);
comment on type queue.feed_place is 'An event in the order of a feed''s index, before any check of membership or type.';

create function queue.feed_page(
  p_workspace_id uuid, p_session_id text, p_cursor jsonb, p_until pg_snapshot, p_limit integer,
  out events jsonb, out places jsonb, out place jsonb
)
language plpgsql stable set search_path = ''
set enable_seqscan = off -- a session's plan may be older than the rows
set jit = off as $$
declare
  v_seen constant pg_snapshot := (p_cursor ->> 'seen')::pg_snapshot;
  v_from constant jsonb := case when p_cursor ? 'xid' then p_cursor end;
  v_slice constant integer := 20 * p_limit; -- rows read at most to find the page
  v_query constant text := format('select e.xid, e.job_id, e.seq, e.workspace_id, e.type from queue.job_events as e
    where %s and e.xid >= %L and e.xid < %L%s
    order by e.xid, substr(uuid_send(e.job_id), 1, 5), e.job_id, e.seq limit %s',
    coalesce('e.session_id = ' || quote_literal(p_session_id), 'e.workspace_id = ' || quote_literal(p_workspace_id)),
    coalesce(pg_snapshot_xmin(v_seen), '0'), pg_snapshot_xmax(p_until),
    case when v_from is not null then format(' and (e.xid, substr(uuid_send(e.job_id), 1, 5)) >= '
      '(%1$L, substr(uuid_send(%2$L), 1, 5)) and (e.xid, e.job_id, e.seq) > (%1$L, %2$L, %3$s)', v_from ->> 'xid',
      v_from ->> 'job_id', v_from ->> 'seq') end, v_slice);
  v_hidden constant text[] := case when p_session_id is null then '{job.progress,job.log}' else '{job.log}' end;
  -- with both, the caller has shown that it may read this session of this workspace
  v_all constant boolean := p_session_id is null or p_workspace_id is not null or auth.uid() is null
    and queue.is_service();
begin
  with slice as materialized (
    select s.*, row_number() over (order by s.xid, s.job_id, s.seq) as n
    from queue.in_order(null::queue.feed_place, v_query) as s),
  heads as materialized (
    select s.xid, s.job_id, max(s.seq) as seq, row_number() over (order by s.xid, s.job_id) as n
    from slice as s
    where s.type <> all (v_hidden) and (v_all or s.workspace_id in (select queue.my_workspaces()))
      and (p_workspace_id is null or s.workspace_id = p_workspace_id)
      and (v_seen is null or not pg_visible_in_snapshot(s.xid, v_seen)) and pg_visible_in_snapshot(s.xid, p_until)
    group by 1, 2 order by 1, 2 limit p_limit + 1),
  chosen as materialized (
    select o.*, row_number() over (order by o.xid, o.job_id, o.seq) as n
    from queue.feed_order(array(select distinct h.job_id from heads as h), v_hidden, v_seen, p_until) as o
    join heads as h on h.xid = o.xid and h.job_id = o.job_id
    where v_from is null
      or (o.xid, o.job_id, o.seq) > ((v_from ->> 'xid')::xid8, (v_from ->> 'job_id')::uuid, (v_from ->> 'seq')::bigint)
    order by o.xid, o.job_id, o.seq limit p_limit + 1),
  -- where the next page begins: after the last event of this one, or after the last row read
  ends as (
    select t.xid, t.job_id, t.seq from chosen as t where t.n <= p_limit
    union all
    select * from (
      (select h.xid, h.job_id, h.seq from heads as h where h.n > p_limit)
      union all (select s.xid, s.job_id, s.seq from slice as s where s.n = v_slice)
      order by 1, 2, 3 limit 1) as cut
    where (select count(*) from chosen) <= p_limit)
  select coalesce(jsonb_agg(jsonb_build_object('job_id', e.job_id, 'seq', e.seq, 'type', e.type, 'data', e.data,
      'created_at', e.created_at) order by t.n) filter (where t.n <= p_limit), '[]'),
    coalesce(jsonb_agg(t.xid::text order by t.n) filter (where t.n <= p_limit), '[]'),
    case when (select count(*) from chosen) > p_limit or (select max(h.n) from heads as h) > p_limit
        or (select max(s.n) from slice as s) = v_slice then (
      select jsonb_build_object('xid', x.xid::text, 'job_id', x.job_id, 'seq', x.seq) from ends as x
      order by x.xid desc, x.job_id desc, x.seq desc limit 1) end
  into events, places, place
  from chosen as t join queue.job_events as e on e.job_id = t.job_id and e.seq = t.seq;
end;
$$;
comment on function queue.feed_page is E'A page of a feed in the order of its index: {events, places, place}; '
  'places has the transaction by which each event is ordered, place is null when there is nothing more up to '
  'p_until.\n\nReads at most 20 rows for each event asked for and what shares their entry of the index, and the '
  'events of the jobs it finds: a '
  'page may be short, even empty, and still have a place to continue from.';

create function queue.packed_page(
  p_workspace_id uuid, p_cursor jsonb, p_until pg_snapshot, p_phase text, p_limit integer,
  out events jsonb, out places jsonb, out place jsonb
)
language plpgsql stable set search_path = '' as $$
declare
  v_seen constant pg_snapshot := (p_cursor ->> 'seen')::pg_snapshot;
  v_from constant jsonb := p_cursor;
  v_place constant text[] := string_to_array(substr(v_from ->> 'xid', 2), '.'); -- last_xid, id
  c_most constant integer := 20; -- rows of queue.histories read at most
begin
  with histories as materialized (
    select h.*, format('%s%s.%s', p_phase, h.last_xid, h.id) as place from queue.histories as h
    where h.workspace_id = p_workspace_id and h.last_xid >= pg_snapshot_xmin(v_seen)
      and pg_visible_in_snapshot(h.xid, p_until) = (p_phase = 'h')
      and (v_place is null or (h.last_xid, h.id) >= (v_place[1]::xid8, v_place[2]::bigint))
    order by h.last_xid, h.id limit c_most),
  found as (
    select row_number() over (order by h.last_xid, h.id, e.job_id, e.seq) as n, h.place, e.*
    from histories as h cross join lateral unnest(h.job_ids, h.seqs, h.types, h.data, h.created_ats, h.xids)
      as e (job_id, seq, type, data, created_at, xid)
    where e.type not in ('job.progress', 'job.log') and not pg_visible_in_snapshot(e.xid, v_seen)
      and (v_place is null or (h.last_xid, h.id, e.job_id, e.seq)
        > (v_place[1]::xid8, v_place[2]::bigint, (v_from ->> 'job_id')::uuid, (v_from ->> 'seq')::bigint))
    order by n limit p_limit + 1)
  select coalesce(jsonb_agg(jsonb_build_object('job_id', f.job_id, 'seq', f.seq, 'type', f.type, 'data', f.data,
      'created_at', f.created_at) order by f.n) filter (where f.n <= p_limit), '[]'),
    coalesce(jsonb_agg(f.place order by f.n) filter (where f.n <= p_limit), '[]'),
    case when count(*) > p_limit then (
        select jsonb_build_object('xid', l.place, 'job_id', l.job_id, 'seq', l.seq) from found as l where l.n = p_limit)
      when (select count(*) from histories) = c_most then (
        select jsonb_build_object('xid', h.place, 'job_id', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'seq', 0)
        from histories as h order by h.last_xid desc, h.id desc limit 1) end
  into events, places, place from found as f;
end;
$$;
comment on function queue.packed_page is E'A page of a workspace''s packed events, as queue.feed_page.\n\np_phase h: '
  'of those that were packed before the batch began, which come first; m: of those packed since, which come last, since '
  'their rows may have been gone when the reader came to them. Those that it had read before come again.';

create function queue.read_feed(p_workspace_id uuid, p_session_id text, p_cursor text, p_limit integer) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  c_limit constant integer := least(1000, greatest(1, coalesce(p_limit, 500)));
  v_cursor jsonb := queue.feed_cursor(p_cursor);
  v_until pg_snapshot := coalesce((v_cursor ->> 'until')::pg_snapshot, pg_current_snapshot());
  v_is_packed constant boolean := p_session_id is null; -- events of sessions stay rows
  v_phase text; -- rows, or see packed_page
  v_page record;
begin
  if p_cursor is not null and v_cursor is null then
    return jsonb_build_object('events', '[]'::jsonb, 'places', '[]'::jsonb, 'cursor', pg_current_snapshot(),
      'more', false, 'reset', true);
  end if;
  v_phase := case when not v_is_packed then 'rows' else coalesce(substring(v_cursor ->> 'xid' from '^[hm]'),
    case when v_cursor ? 'xid' then 'rows' else 'h' end) end;
  if v_phase <> 'rows' then
    v_page := queue.packed_page(p_workspace_id, v_cursor, v_until, v_phase, c_limit);
    if v_phase = 'h' and v_page.place is null then
      if v_page.events = '[]' then
        v_phase := 'rows';
        v_cursor := v_cursor - 'xid';
      else
        v_page.place := jsonb_build_object('xid', '0', 'job_id', '00000000-0000-0000-0000-000000000000', 'seq', 0);
      end if;
    end if;
  end if;
  if v_phase = 'rows' then
    v_page := queue.feed_page(p_workspace_id, p_session_id, v_cursor, v_until, c_limit);
    if v_page.place is null and v_is_packed and v_cursor ? 'until' and exists (
        select from queue.histories as h where h.workspace_id = p_workspace_id
          and h.last_xid >= pg_snapshot_xmin((v_cursor ->> 'seen')::pg_snapshot)
          and not pg_visible_in_snapshot(h.xid, v_until)) then
      v_page.place := jsonb_build_object('xid', 'm0.0', 'job_id', '00000000-0000-0000-0000-000000000000', 'seq', 0);
    end if;
  end if;
  return jsonb_build_object('events', v_page.events, 'places', v_page.places, 'more', v_page.place is not null,
    'cursor',
    case when v_page.place is null then v_until::text
      else concat_ws('~', coalesce(v_cursor ->> 'seen', '1:1:'), v_until,
      v_page.place ->> 'xid', v_page.place ->> 'job_id', v_page.place ->> 'seq') end);
end;
$$;
comment on function queue.read_feed is E'The events of a feed after a cursor, at most p_limit, each job''s in order '
  'of seq: {events, places, more, cursor}.\n\nWith the third part of a cursor from places, the job''s id and seq, a '
  'reader makes the cursor after each event.\n\nA workspace''s feed has state changes only, a session''s all but '
  'logs.';

create function public.event_feed(
  p_workspace_id uuid, p_cursor text default null, p_limit numeric default 500
) returns jsonb
language plpgsql stable
security definer -- answers the same 404 for a missing workspace and another's
set search_path = '' as $$
declare
  v_limit constant integer := queue.whole(p_limit, 'p_limit');
begin
  perform queue.may_steer(p_workspace_id);
  if p_cursor is null then
    return jsonb_build_object('events', '[]'::jsonb, 'places', '[]'::jsonb, 'cursor', pg_current_snapshot(),
      'more', false);
  end if;
  return queue.read_feed(p_workspace_id, null, p_cursor, v_limit);
end;
$$;
comment on function public.event_feed is E'State changes of a workspace''s jobs after a cursor: {events: [{job_id, '
  'seq, type, data, created_at}], places, cursor, more, reset?}.\n\nplaces: the transaction of each event, '
  'for a cursor after it. Without a cursor it starts now; "1:1:" starts at the '
  'beginning. Each event comes once, per job in order of seq; what is packed while its batch is read may come again. '
  'reset says that the cursor was of another database, so that events may have been missed.';

create function public.session_feed(
  p_session_id text, p_cursor text default null, p_limit numeric default 500
) returns jsonb
language plpgsql stable
security definer -- answers the same 404 for a missing session and another's
set search_path = '' as $$
begin
  if not exists (
    select from public.jobs
    where session_id = p_session_id
      and (workspace_id in (select queue.my_workspaces()) or auth.uid() is null and queue.is_service())) then
    perform queue.refuse_session();
  end if;
  return queue.read_feed(null, p_session_id, p_cursor, queue.whole(p_limit, 'p_limit'));
end;
$$;
comment on function public.session_feed is E'Events of a session''s jobs, without logs, after a cursor; as '
  'event_feed.\n\nWithout a cursor it starts at the beginning. Where a session has jobs of several tenants, callers '
  'see those of their own.';

select queue.allow('authenticated, service_role', 'public.event_feed', 'public.session_feed');
