-- 0.4.1 after the release before it; written by `python -m infra.release` from schemas.
-- Do not edit it, and do not read it: read the schemas.

-- The release whose text this is, as minutehand.version says. Doctor compares with its record.
create or replace function queue.version()
returns text
language sql immutable
set search_path = ''
as $$
select '0.4.1'
$$;

revoke execute on function queue.version from public;

-- Open a session of a workspace to one user or, for null, to anyone who has its id.
create or replace function queue.open_session(
  p_workspace_id uuid,
  p_user_id uuid,
  p_seconds double precision
)
returns queue.guest_sessions
language plpgsql
set search_path = ''
as $$
declare
  v_made queue.guest_sessions;
begin
  insert into queue.guest_sessions (session_id, workspace_id, user_id, expires_at)
  values (
    'guest_' || encode(
      uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()),
      'hex'
    ),
    p_workspace_id,
    p_user_id,
    queue.clock() + make_interval(secs => p_seconds)
  )
  returning * into v_made;
  return v_made;
end;
$$;

revoke execute on function queue.open_session from public;

create or replace function public.open_guest_session(
  p_workspace_id uuid,
  p_options jsonb default '{}'
)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_seconds constant double precision := coalesce(
    p_options ->> 'ttl_seconds',
    '86400'
  );
  v_user constant uuid := p_options ->> 'user_id';
  v_made queue.guest_sessions;
begin
  perform queue.may_manage(p_workspace_id);
  perform queue.check_names(p_options, array['ttl_seconds', 'user_id'], 'options');
  if v_seconds not between 1 and 2592000 then
    perform queue.refuse(
      400,
      'invalid_argument',
      'ttl_seconds must be from 1 to 2592000, thirty days',
      'ttl_seconds'
    );
  elsif v_user is null
    and queue.setting('allow_anonymous') is distinct from 'true'
  then
    perform queue.refuse(
      403,
      'forbidden',
      'anonymous guest sessions are off: name a user_id, or let the operator set allow_anonymous',
      'allow_anonymous'
    );
  end if;
  v_made := queue.open_session(p_workspace_id, v_user, v_seconds);
  perform queue.admit('changes', p_workspace_id, queue.caller());
  return to_jsonb(v_made);
end;
$$;

comment on function public.open_guest_session is
  E'Open a session to someone outside: {session_id, workspace_id, user_id, opened_at, expires_at}. '
  'For managers.\n\nIt shows jobs with its id. Options: ttl_seconds (86400), user_id (any).';

select queue.allow('authenticated, service_role', 'public.open_guest_session');
