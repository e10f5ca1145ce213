-- Guest sessions: a session opened to someone outside the workspace, to all who hold its id or to one user. The id is
-- generated here and is the capability; it opens that session and nothing else.

create table queue.guest_sessions (
  session_id text primary key,
  workspace_id uuid not null, -- whose jobs it shows; those of others with the same session_id are not part of it
  user_id uuid, -- the one user it is for; null for anyone who holds the id
  opened_at timestamptz not null default queue.clock(),
  expires_at timestamptz not null,
  constraint guest_sessions_id_is_unguessable check (session_id ~ '^guest_[0-9a-f]{64}$'),
  constraint guest_sessions_end_after_they_began check (expires_at > opened_at)
);
create index guest_sessions_by_workspace on queue.guest_sessions (workspace_id);
create index guest_sessions_by_end on queue.guest_sessions (expires_at);

insert into queue.settings (name, value) values
  ('allow_anonymous', 'false'),
  -- set by hosted Supabase's own gateway; else the last of x-forwarded-for
  ('client_address_header', '"cf-connecting-ip"'),
  -- with which the API signs the address of a guest whose call it passes on
  ('guest_key', to_jsonb(encode(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'hex')));

create function public.guest_key() returns jsonb
language plpgsql stable security definer set search_path = '' as $$
begin
  return jsonb_build_object('key', queue.setting('guest_key'));
end;
$$;
comment on function public.guest_key is
  E'The key with which the API signs the address of a guest, in hexadecimal: {key}.\n\nThe header '
  'x-minutehand-client has the address, the Unix time and hex(sha256(key || sha256(key || "address time"))).';

-- Count what a guest does in a workspace, or refuse: where guests are allowed, at most the setting <name>_per_minute
-- (null: no limit) from an address (of IPv6 the network /64): what the API signed, else what the gateway saw, nothing
-- that a caller says of itself. People with an account and the service have other limits, or none. For apps.
create function queue.admit_guest(p_name text, p_workspace_id uuid) returns void
language plpgsql as $$
declare
  v_headers constant jsonb := nullif(current_setting('request.headers', true), '');
  v_signed constant text[] := string_to_array(v_headers ->> 'x-minutehand-client', ' ');
  v_key constant bytea := decode(queue.setting('guest_key') #>> '{}', 'hex');
  v_most constant double precision := queue.setting(p_name || '_per_minute') #>> '{}';
  v_address inet;
begin
  if queue.setting('allow_anonymous') is distinct from 'true' then
    perform queue.refuse(401, 'unauthorized', 'Unauthorized', 'guests are not allowed here');
  elsif v_most is null or auth.jwt() ->> 'role' = 'service_role'
      or auth.uid() is not null and coalesce(auth.jwt() ->> 'is_anonymous', '') <> 'true' then
    return;
  end if;
  begin
    v_address := case when v_signed[3] = encode(sha256(v_key || sha256(v_key
          || convert_to(v_signed[1] || ' ' || v_signed[2], 'utf8'))), 'hex')
        and abs(extract(epoch from queue.clock()) - v_signed[2]::numeric) < 120 then v_signed[1]
      else coalesce(v_headers ->> (queue.setting('client_address_header') #>> '{}'),
        btrim(split_part(v_headers ->> 'x-forwarded-for', ',', -1))) end; -- what comes before is the caller's own word
  exception when invalid_text_representation then
    v_address := null;
  end;
  perform queue.spend(format('g:%s/%s/%s', p_name, p_workspace_id, coalesce(
    host(case family(v_address) when 6 then network(set_masklen(v_address, 64)) else v_address end), 'unknown')),
    v_most, 60, 1, queue.clock(), p_name);
end;
$$;

-- The guest session of an id while it is open, if the caller may follow it: as a member of its workspace, as its user
-- (of Auth's anonymous sign-in only where allow_anonymous is true), and one for no user as anyone where that is true.
create function queue.guest_session(p_session_id text) returns setof queue.guest_sessions
language sql stable as $$
  select s from queue.guest_sessions as s
  where s.session_id = p_session_id and s.expires_at > (select queue.clock())
    and case when s.user_id is null then queue.setting('allow_anonymous') = 'true'
      else s.workspace_id in (select queue.my_workspaces()) or auth.jwt() ->> 'role' = 'service_role'
        or s.user_id = auth.uid() and (auth.jwt() ->> 'is_anonymous' is distinct from 'true'
          or queue.setting('allow_anonymous') = 'true') end
$$;

create function queue.session_jobs(p_session_id text) returns jsonb
language plpgsql stable security definer set search_path = ''
set enable_seqscan = off set jit = off as $$
declare
  v_session queue.guest_sessions;
begin
  select s.* into v_session from queue.guest_session(p_session_id) as s;
  if not found then -- the same for one that is missing, ended or another's, without its id, which may be a key
    perform queue.refuse(404, 'session_not_found', 'no such session');
  end if;
  return jsonb_build_object('session_id', v_session.session_id, 'expires_at', v_session.expires_at, 'jobs', (
    select coalesce(jsonb_agg(l.line order by l.id desc), '[]') from (
      select j.id, jsonb_build_object('id', j.id, 'session_id', j.session_id, 'job_type', j.job_type,
        'status', j.status, 'progress', coalesce(j.progress, '{"percentage": 0, "stage": null, "message": null}'),
        'result', j.result, 'error_message', j.error_message, 'attempts', j.attempts,
        'max_attempts', j.max_attempts, 'next_retry_at', j.next_retry_at, 'scheduled_for', j.scheduled_for,
        'started_at', j.started_at, 'finished_at', j.finished_at, 'completed_at', j.completed_at,
        'cancel_requested_at', j.cancel_requested_at, 'created_at', j.created_at, 'updated_at', j.updated_at,
        'last_seq', j.last_seq) as line
      from public.jobs as j
      where j.session_id = v_session.session_id and j.workspace_id = v_session.workspace_id
      order by j.id desc limit 200) as l));
end;
$$;

create function queue.session_feed(p_session_id text, p_cursor text, p_limit integer) returns jsonb
language plpgsql stable security definer set search_path = ''
set enable_seqscan = off set jit = off as $$
declare
  v_workspace uuid;
begin
  select s.workspace_id into v_workspace from queue.guest_session(p_session_id) as s;
  if not found then
    perform queue.refuse(404, 'session_not_found', 'no such session');
  end if;
  return queue.read_feed(v_workspace, p_session_id, coalesce(p_cursor, '1:1:'), p_limit);
end;
$$;
-- Bodies are bound when they are made: the roles that call them need no usage of queue.
create function public.guest_session_jobs(p_session_id text) returns jsonb
language sql stable set search_path = '' begin atomic select queue.session_jobs(p_session_id); end;
comment on function public.guest_session_jobs is
  E'Jobs of a guest session, newest first, at most 200, without payloads: {session_id, expires_at, jobs}.\n\n404 '
  'session_not_found for an id that is wrong, ended, closed, or another user''s.';

create function public.guest_session_feed(
  p_session_id text, p_cursor text default null, p_limit integer default 500
) returns jsonb
language sql stable set search_path = '' begin atomic select queue.session_feed(p_session_id, p_cursor, p_limit); end;
comment on function public.guest_session_feed is
  'Events of a guest session''s jobs, without logs, after a cursor; as session_feed, and also before it has a job.';

create function public.open_guest_session(p_workspace_id uuid, p_options jsonb default '{}') returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  v_seconds constant double precision := coalesce(p_options ->> 'ttl_seconds', '86400');
  v_user constant uuid := p_options ->> 'user_id';
  v_made queue.guest_sessions;
begin
  perform queue.may_manage(p_workspace_id);
  perform queue.check_names(p_options, array['ttl_seconds', 'user_id'], 'options');
  if v_seconds not between 1 and 2592000 then
    perform queue.refuse(400, 'invalid_argument', 'ttl_seconds must be from 1 to 2592000, thirty days', 'ttl_seconds');
  elsif v_user is null and queue.setting('allow_anonymous') is distinct from 'true' then
    perform queue.refuse(403, 'forbidden',
      'anonymous guest sessions are off: name a user_id, or let the operator set allow_anonymous', 'allow_anonymous');
  end if;
  insert into queue.guest_sessions (session_id, workspace_id, user_id, expires_at)
  values ('guest_' || encode(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'hex'),
    p_workspace_id, v_user, queue.clock() + make_interval(secs => v_seconds))
  returning * into v_made;
  return to_jsonb(v_made);
end;
$$;
comment on function public.open_guest_session is
  E'Open a session to someone outside: {session_id, workspace_id, user_id, opened_at, expires_at}. For '
  'managers.\n\nOptions: ttl_seconds (86400), user_id (anyone who holds the id if omitted). It shows the jobs that '
  'are enqueued with this session_id.';

select queue.allow('job_worker, service_role', 'public.guest_key');
select queue.allow('anon, authenticated, service_role', 'public.guest_session_jobs', 'public.guest_session_feed',
  'queue.session_jobs', 'queue.session_feed');
select queue.allow('authenticated, service_role', 'public.open_guest_session');
