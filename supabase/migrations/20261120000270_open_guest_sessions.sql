-- A guest session is a session opened to someone outside the workspace: to all who hold its id, or to one user.
-- The id is generated here and is the capability; it opens that session and nothing else.

create table queue.guest_sessions (
  session_id text primary key, -- the capability: guest_ and 64 hexadecimal digits, 244 of their bits random
  -- the workspace whose jobs it shows; jobs of others with the same session_id are not part of it
  workspace_id uuid not null,
  user_id uuid, -- the one user it is for; null for anyone who holds the id
  is_members boolean not null default false, -- whether the user has it as a member of the workspace, and only while one
  opened_at timestamptz not null default queue.clock(), -- when it was opened, UTC
  expires_at timestamptz not null, -- when it ends, UTC
  constraint guest_sessions_id_is_unguessable check (session_id ~ '^guest_[0-9a-f]{64}$'),
  constraint guest_sessions_end_after_they_began check (expires_at > opened_at)
);
create index guest_sessions_by_workspace on queue.guest_sessions (workspace_id);
create index guest_sessions_by_user on queue.guest_sessions (user_id) where user_id is not null;
create index guest_sessions_by_end on queue.guest_sessions (expires_at);
comment on table queue.guest_sessions is 'Sessions opened to someone outside the workspace, until they end or are closed.';

insert into queue.settings (name, value) values ('allow_anonymous', 'false');

create function queue.live_guest_session(p_session_id text) returns setof queue.guest_sessions
language sql stable set search_path = '' as $$
  select v from queue.guest_sessions as v
  where v.session_id = p_session_id and v.expires_at > (select queue.clock())
    and (v.user_id is not null or (select queue.setting('allow_anonymous') = 'true'))
$$;
comment on function queue.live_guest_session is E'The guest session of an id while it is open; one for anyone who holds the id only where the setting allow_anonymous is true.';

create function queue.is_mine(p_guest_session queue.guest_sessions) returns boolean
language sql stable set search_path = '' as $$
  select auth.uid() is not null and p_guest_session.user_id = auth.uid()
    and (coalesce(auth.jwt() ->> 'is_anonymous', 'false') <> 'true' or queue.setting('allow_anonymous') = 'true')
    and (not p_guest_session.is_members or queue.is_member(p_guest_session.workspace_id))
$$;
comment on function queue.is_mine is E'Whether a guest session is for the caller as its user.\n\nA user of Auth''s anonymous sign-in counts only where the setting allow_anonymous is true; one who began it as a member, only while they are one.';

create function queue.may_join_guest_session(p_session_id text) returns setof queue.guest_sessions
language sql stable set search_path = '' as $$
  select v from queue.live_guest_session(p_session_id) as v
  where v.user_id is null or queue.is_mine(v) or v.workspace_id in (select queue.my_workspaces())
    or queue.is_service_role()
$$;
comment on function queue.may_join_guest_session is 'The guest session if the caller may follow it: as a holder of the id, as its user, or as a member of its workspace.';

create function queue.guest_session_or_refuse(p_session_id text) returns queue.guest_sessions
language plpgsql stable set search_path = '' as $$
declare
  v_guest_session queue.guest_sessions;
begin
  select v.* into v_guest_session from queue.may_join_guest_session(p_session_id) as v;
  if not found then
    perform queue.refuse_session();
  end if;
  return v_guest_session;
end;
$$;
comment on function queue.guest_session_or_refuse is 'The guest session, if the caller may follow it; see queue.refuse_session.';

create function queue.ensure_guest_session(
  p_session_id text, p_workspace_id uuid, p_user_id uuid, p_seconds integer
) returns queue.guest_sessions
language plpgsql set search_path = '' as $$
declare
  v_guest_session queue.guest_sessions;
begin
  insert into queue.guest_sessions (session_id, workspace_id, user_id, is_members, expires_at)
  values (p_session_id, p_workspace_id, p_user_id, queue.is_member(p_workspace_id),
    queue.clock() + make_interval(secs => p_seconds))
  on conflict (session_id) do update set expires_at = excluded.expires_at
  -- once a day is enough, and a guest session that has ended stays ended
  where guest_sessions.expires_at > queue.clock() and guest_sessions.expires_at < excluded.expires_at - interval '1 day'
  returning * into v_guest_session;
  if v_guest_session.session_id is null then
    select * into v_guest_session from queue.guest_sessions where session_id = p_session_id;
  end if;
  return v_guest_session;
end;
$$;
comment on function queue.ensure_guest_session is E'The guest session of an id, opened when there is none and prolonged otherwise: for an app''s own functions.\n\nIts workspace and user stay as they were when it was opened; the caller checks queue.may_join_guest_session.';

create function queue.guest_workspace(p_setting text, p_name text) returns uuid
language plpgsql
set search_path = ''
as $$
declare
  v_id uuid := queue.setting(p_setting) #>> '{}';
begin
  if exists (select from queue.tenants where id = v_id) then
    return v_id;
  end if;
  -- locked, so that two first guests make one workspace
  select value #>> '{}' into v_id from queue.settings where name = p_setting for update;
  if not exists (select from queue.tenants where id = v_id) then
    insert into queue.tenants (name) values (p_name) returning id into v_id;
    update queue.settings set value = to_jsonb(v_id) where name = p_setting;
  end if;
  return v_id;
exception when feature_not_supported or wrong_object_type or object_not_in_prerequisite_state then
  -- the tenants are the project's own: none is created for guests without it
  perform queue.refuse(403, 'forbidden', 'Guests need workspaces of their own, which this project does not have');
end;
$$;
comment on function queue.guest_workspace is E'The workspace of an app\'s guests: the setting p_setting, whose name ends in _guest_workspace, or one without members that is created now.\n\nRefuses with 403 where the tenants are the project\'s own tables or its users.';

create function queue.show_guest_session(p_session_id text) returns jsonb
language plpgsql stable
security definer -- guests hold no rights on any table
set search_path = '' as $$
declare
  v_guest_session queue.guest_sessions := queue.guest_session_or_refuse(p_session_id);
begin
  return jsonb_build_object('session_id', v_guest_session.session_id, 'expires_at', v_guest_session.expires_at,
    'jobs', (
    select coalesce(jsonb_agg(j.line order by j.created_at desc, j.id desc), '[]')
    from (
      select id, created_at, jsonb_build_object('id', id, 'session_id', session_id, 'job_type', job_type,
        'status', status, 'progress', progress, 'result', result, 'error_message', error_message,
        'attempts', attempts, 'max_attempts', max_attempts, 'next_retry_at', next_retry_at,
        'scheduled_for', scheduled_for, 'started_at', started_at, 'finished_at', finished_at,
        'completed_at', completed_at, 'cancel_requested_at', cancel_requested_at, 'created_at', created_at,
        'updated_at', updated_at, 'last_seq', last_seq) as line
      from public.jobs
      where session_id = v_guest_session.session_id and workspace_id = v_guest_session.workspace_id
      order by created_at desc, id desc
      limit 200) as j));
end;
$$;
comment on function queue.show_guest_session is 'Body of public.guest_session_jobs, with rights that browsers'' roles do not have.';

create function queue.show_guest_session_events(
  p_session_id text, p_job_id uuid, p_after bigint, p_limit integer
) returns jsonb
language plpgsql stable
security definer -- guests hold no rights on any table
set search_path = '' as $$
declare
  v_guest_session queue.guest_sessions := queue.guest_session_or_refuse(p_session_id);
begin
  if not exists (
      select from public.jobs
      where id = p_job_id and session_id = v_guest_session.session_id
        and workspace_id = v_guest_session.workspace_id) then
    perform queue.refuse_job(p_job_id);
  end if;
  return jsonb_build_object('events', (
    select coalesce(jsonb_agg(e.line order by e.seq), '[]')
    from (
      select seq, jsonb_build_object('job_id', job_id, 'seq', seq, 'type', type, 'created_at', created_at,
        -- a log line has a number and no data: seq has no gaps, and lines are not for guests
        'data', case when type = 'job.log' and not queue.is_mine(v_guest_session) then '{}' else data end) as line
      from public.job_events
      where job_id = p_job_id and seq > coalesce(p_after, 0)
      order by seq
      limit least(1000, greatest(1, coalesce(p_limit, 500)))) as e));
end;
$$;
comment on function queue.show_guest_session_events is 'Body of public.guest_session_events, with rights that browsers'' roles do not have.';

create function queue.show_guest_session_feed(p_session_id text, p_cursor text, p_limit integer) returns jsonb
language plpgsql stable
security definer -- guests hold no rights on any table
set search_path = '' as $$
declare
  v_guest_session queue.guest_sessions := queue.guest_session_or_refuse(p_session_id);
begin
  return queue.read_feed(v_guest_session.workspace_id, v_guest_session.session_id, p_cursor, p_limit);
end;
$$;
comment on function queue.show_guest_session_feed is 'Body of public.guest_session_feed, with rights that browsers'' roles do not have.';

-- Bodies are bound when they are created: the roles that call them need no usage of queue.
create function public.guest_session_jobs(p_session_id text) returns jsonb
language sql stable set search_path = ''
begin atomic
  select queue.show_guest_session(p_session_id);
end;
comment on function public.guest_session_jobs is E'Jobs of a guest session, newest first, at most 200: {session_id, expires_at, jobs}. For anyone who holds its id.\n\nWithout payloads and without who created them. 404 session_not_found for an id that is wrong, ended, closed, or another user''s.';

create function public.guest_session_events(
  p_session_id text, p_job_id uuid, p_after numeric default 0, p_limit numeric default 500
) returns jsonb
language sql stable set search_path = ''
begin atomic
  select queue.show_guest_session_events(p_session_id, p_job_id, queue.big_whole(p_after, 'p_after'),
    queue.whole(p_limit, 'p_limit'));
end;
comment on function public.guest_session_events is E'Events of one job of a guest session after a seq, in order: {events: [{job_id, seq, type, data, created_at}]}.\n\nLog lines have no data, except for the user the guest session is for.';

create function public.guest_session_feed(
  p_session_id text, p_cursor text default null, p_limit numeric default 500
) returns jsonb
language sql stable set search_path = ''
begin atomic
  select queue.show_guest_session_feed(p_session_id, p_cursor, queue.whole(p_limit, 'p_limit'));
end;
comment on function public.guest_session_feed is 'Events of a guest session''s jobs, without logs, after a cursor; as session_feed, and also before it has a job.';

create function public.open_guest_session(p_workspace_id uuid, p_options jsonb default '{}') returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_seconds numeric := 86400;
  v_user uuid;
  v_made queue.guest_sessions;
begin
  perform queue.may_manage(p_workspace_id);
  perform queue.check_names(p_options, array['ttl_seconds', 'user_id'], 'options');
  if not exists (select from queue.tenants where id = p_workspace_id) then
    perform queue.refuse_workspace(p_workspace_id);
  end if;

  if p_options ? 'ttl_seconds' then
    v_seconds := case when jsonb_typeof(p_options -> 'ttl_seconds') = 'number'
      then (p_options ->> 'ttl_seconds')::numeric else 0 end;
    if v_seconds not between 1 and 2592000 then
      perform queue.refuse(400, 'invalid_argument', 'ttl_seconds must be a number from 1 to 2592000, thirty days',
        'ttl_seconds');
    end if;
  end if;
  v_user := queue.uuid_or_refuse(p_options ->> 'user_id', 'user_id');
  if v_user is null and queue.setting('allow_anonymous') is distinct from 'true' then
    perform queue.refuse(403, 'forbidden',
      'anonymous guest sessions are off: name a user_id, or let the operator set allow_anonymous', 'allow_anonymous');
  end if;
  insert into queue.guest_sessions (session_id, workspace_id, user_id, expires_at)
  values ('guest_' || encode(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'hex'),
    p_workspace_id, v_user, queue.clock() + make_interval(secs => v_seconds::double precision))
  returning * into v_made;
  return to_jsonb(v_made) - 'is_members';
end;
$$;
comment on function public.open_guest_session is E'Open a session to someone outside: {session_id, workspace_id, user_id, opened_at, expires_at}. For managers and services.\n\nOptions: ttl_seconds (86400), user_id (the one user it is for; anyone who holds the id if omitted). It shows the jobs that are enqueued into the workspace with this session_id.';

create function public.close_guest_session(p_session_id text) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
begin
  delete from queue.guest_sessions as v
  where v.session_id = p_session_id
    and (v.workspace_id in (select queue.my_managed_workspaces()) or auth.uid() is null and queue.is_service());
  if not found then
    perform queue.refuse_session();
  end if;
  return jsonb_build_object('closed', true);
end;
$$;
comment on function public.close_guest_session is E'End a guest session now, for managers of its workspace and services: {closed}.\n\nFrom then on reads are refused, and nothing is sent to its topic.';

select queue.allow('anon, authenticated, service_role', 'public.guest_session_jobs', 'public.guest_session_events',
  'public.guest_session_feed');
select queue.allow('authenticated, service_role', 'public.open_guest_session', 'public.close_guest_session');
