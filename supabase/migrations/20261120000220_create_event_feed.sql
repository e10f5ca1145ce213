-- The history of a whole workspace or session, read forward without gaps and without repeats.
-- A cursor is a snapshot: what was not visible in it and is visible now is new, whatever the order of commits.

create index job_events_by_session on public.job_events (session_id, xid) where session_id is not null;

create function queue.feed_cursor(p_cursor text) returns jsonb
language plpgsql stable
set search_path = ''
as $$
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
    return null; -- from another cluster's life, before a dump and restore
  end if;
  if cardinality(v_parts) = 1 then
    return jsonb_build_object('seen', v_parts[1]);
  end if;
  return jsonb_build_object('seen', v_parts[1], 'until', v_parts[2]::pg_snapshot, 'at', v_parts[3]::timestamptz,
    'job_id', v_parts[4]::uuid, 'seq', v_parts[5]::bigint);
exception when data_exception then
  perform queue.refuse(400, 'invalid_argument', 'the cursor is not valid for this feed', 'cursor');
end;
$$;
comment on function queue.feed_cursor is E'A feed''s cursor taken apart; null when it cannot be of this database.\n\n"seen", or in the middle of a batch "seen~until~at~job_id~seq".';

create function queue.read_feed(p_workspace_id uuid, p_session_id text, p_cursor text, p_limit integer) returns jsonb
language plpgsql stable
set search_path = ''
set plan_cache_mode = 'force_custom_plan' -- one plan for both kinds of feed would use neither's index
as $$
declare
  v_cursor jsonb := queue.feed_cursor(p_cursor);
  v_seen pg_snapshot := (v_cursor ->> 'seen')::pg_snapshot;
  v_until pg_snapshot := coalesce((v_cursor ->> 'until')::pg_snapshot, pg_current_snapshot());
  v_at timestamptz := coalesce((v_cursor ->> 'at')::timestamptz, '-infinity');
  v_job_id uuid := coalesce((v_cursor ->> 'job_id')::uuid, '00000000-0000-0000-0000-000000000000');
  v_seq bigint := coalesce((v_cursor ->> 'seq')::bigint, 0);
  v_limit integer := least(1000, greatest(1, coalesce(p_limit, 500)));
  v_service boolean := auth.uid() is null and queue.is_service();
  v_events jsonb;
  v_last jsonb;
begin
  if p_cursor is not null and v_cursor is null then
    return jsonb_build_object('events', '[]'::jsonb, 'cursor', pg_current_snapshot(), 'more', false, 'reset', true);
  end if;
  select coalesce(jsonb_agg(e.line order by e.created_at, e.job_id, e.seq), '[]') into v_events
  from (
    select created_at, job_id, seq,
      jsonb_build_object('job_id', job_id, 'seq', seq, 'type', type, 'data', data, 'created_at', created_at) as line
    from public.job_events
    where (p_workspace_id is null or workspace_id = p_workspace_id)
      and (p_session_id is null or session_id = p_session_id)
      -- with both, the function has seen that the caller may read this session of this workspace
      and (p_session_id is null or p_workspace_id is not null or v_service or workspace_id in (select queue.my_workspaces()))
      and case when p_session_id is null then type not in ('job.progress', 'job.log') else type <> 'job.log' end
      and xid >= coalesce(pg_snapshot_xmin(v_seen), '0')
      and (v_seen is null or not pg_visible_in_snapshot(xid, v_seen))
      and pg_visible_in_snapshot(xid, v_until)
      and (created_at, job_id, seq) > (v_at, v_job_id, v_seq)
    -- per job in order of seq: a job's events are written one after the other, xids may not be
    order by created_at, job_id, seq
    limit v_limit + 1) as e;
  if jsonb_array_length(v_events) <= v_limit then
    return jsonb_build_object('events', v_events, 'cursor', v_until, 'more', false);
  end if;
  v_events := v_events - v_limit;
  v_last := v_events -> (v_limit - 1);
  return jsonb_build_object('events', v_events, 'more', true, 'cursor', concat_ws('~', coalesce(v_seen, '1:1:'), v_until,
    v_last ->> 'created_at', v_last ->> 'job_id', v_last ->> 'seq'));
end;
$$;
comment on function queue.read_feed is E'What a feed has after a cursor, oldest first, at most p_limit events.\n\nA workspace''s feed has state changes only, a session''s all but logs.';

create function public.event_feed(p_workspace_id uuid, p_cursor text default null, p_limit integer default 500) returns jsonb
language plpgsql stable
security definer -- answers the same 404 for a missing workspace and another's
set search_path = ''
set plan_cache_mode = 'force_custom_plan' -- one plan for both kinds of feed would use neither's index
as $$
begin
  if not (queue.is_member(p_workspace_id) or auth.uid() is null and queue.is_service()) then
    perform queue.refuse(404, 'workspace_not_found', 'no such workspace', p_workspace_id::text);
  end if;
  if p_cursor is null then
    return jsonb_build_object('events', '[]'::jsonb, 'cursor', pg_current_snapshot(), 'more', false);
  end if;
  return queue.read_feed(p_workspace_id, null, p_cursor, p_limit);
end;
$$;
comment on function public.event_feed is E'State changes of a workspace''s jobs after a cursor: {events: [{job_id, seq, type, data, created_at}], cursor, more, reset?}.\n\nWithout a cursor it starts now; "1:1:" starts at the beginning. Each event comes exactly once; per job in order of seq. "reset" says that the cursor was another database''s and events may have been missed.';

create function public.session_feed(p_session_id text, p_cursor text default null, p_limit integer default 500) returns jsonb
language plpgsql stable
security definer -- answers the same 404 for a missing session and another's
set search_path = ''
set plan_cache_mode = 'force_custom_plan' -- one plan for both kinds of feed would use neither's index
as $$
begin
  if not exists (
    select from public.jobs
    where session_id = p_session_id
      and (workspace_id in (select queue.my_workspaces()) or auth.uid() is null and queue.is_service())) then
    perform queue.refuse(404, 'session_not_found', 'no such session', p_session_id);
  end if;
  return queue.read_feed(null, p_session_id, p_cursor, p_limit);
end;
$$;
comment on function public.session_feed is E'Events of a session''s jobs, logs left out, after a cursor; as event_feed.\n\nWithout a cursor it starts at the beginning. Of a session that spans tenants each sees their own part.';

revoke execute on function queue.feed_cursor, queue.read_feed from public, anon, authenticated, service_role;
revoke execute on function public.event_feed, public.session_feed from public, anon, authenticated, service_role;
grant execute on function public.event_feed, public.session_feed to authenticated, service_role;
