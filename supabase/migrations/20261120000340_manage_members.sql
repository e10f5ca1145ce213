-- Tenancy: workspaces. An install whose tenants are an application's own, or its users, leaves this file out.
-- Who makes workspaces, who invites whom, who joins by their own word alone, and a record of who changed it.

create table queue.invitations (
  workspace_id uuid not null references public.workspaces (id) on delete cascade, -- the workspace they will join
  email text not null, -- mail address in lower case; only the account whose address it provably is may accept
  role text not null, -- manager or member
  invited_by uuid, -- the Auth user who invited; null for the operator
  created_at timestamptz not null default queue.clock(), -- when the person was invited last
  expires_at timestamptz not null default queue.clock() + interval '30 days', -- when the invitation stops working
  primary key (email, workspace_id),
  constraint invitations_email_is_normal check (email = lower(btrim(email)) and email ~ '^[^@\s]+@[^@\s]+$'),
  constraint invitations_role_is_known check (role in ('manager', 'member'))
);
create index invitations_by_workspace on queue.invitations (workspace_id);
comment on table queue.invitations is 'Addresses whose owners may join a workspace: with or without an account, they become members when they accept.';

create table queue.member_changes (
  id bigint generated always as identity primary key, -- rises with time
  workspace_id uuid not null references public.workspaces (id) on delete cascade, -- the workspace
  -- workspace_created, member_added, member_removed, role_changed, invited, invitation_accepted, invitation_declined or
  -- invitation_withdrawn
  action text not null,
  user_id uuid, -- whom it is about; null while they have no account
  email text, -- their address at that time; null where none is known
  role text, -- their role after it; for a removal, before it
  actor uuid, -- the Auth user who did it; null for the operator
  actor_role text not null, -- the database role that did it: authenticated, service_role, or that of a direct session
  created_at timestamptz not null default queue.clock(), -- when it was made, UTC
  constraint member_changes_action_is_known check (action in ('workspace_created', 'member_added', 'member_removed',
    'role_changed', 'invited', 'invitation_accepted', 'invitation_declined', 'invitation_withdrawn'))
);
create index member_changes_by_workspace on queue.member_changes (workspace_id, id);
comment on table queue.member_changes is 'Every change of a workspace''s members, however it was made; kept as long as the workspace.';

create function queue.email_of(p_user_id uuid) returns text
language sql stable set search_path = ''
as $$ select lower(u.email) from auth.users as u where u.id = p_user_id $$;
comment on function queue.email_of is 'The mail address of an account; null where it has none.';

create function queue.proven_email(p_user_id uuid) returns text
language plpgsql stable set search_path = '' as $$
declare
  v_email text;
  v_by_sso boolean;
  v_proven boolean := false;
begin
  select lower(u.email), u.is_sso_user into v_email, v_by_sso from auth.users as u
  where u.id = p_user_id and u.email_confirmed_at is not null and u.email <> '';
  if v_by_sso is not true then
    return v_email;
  elsif to_regclass('auth.sso_domains') is not null and to_regclass('auth.identities') is not null then
    -- Auth takes any address that a company's identity provider names: it is proven for that company's domains alone
    execute 'select exists (select from auth.identities as i join auth.sso_domains as d
        on i.provider = ''sso:'' || d.sso_provider_id
      where i.user_id = $1 and lower(d.domain) = split_part($2, ''@'', 2))' into v_proven using p_user_id, v_email;
  end if;
  return case when v_proven then v_email end;
end;
$$;
comment on function queue.proven_email is E'The mail address of an account that provably owns it; null otherwise.\n\nOne that Auth has confirmed; for an account of single sign-on, one in a domain that is registered for its provider.';

create function queue.record_member_change(
  p_workspace_id uuid, p_action text, p_user_id uuid, p_email text, p_role text
) returns void
language sql set search_path = '' as $$
  insert into queue.member_changes (workspace_id, action, user_id, email, role, actor, actor_role)
  values (p_workspace_id, p_action, p_user_id, coalesce(p_email, queue.email_of(p_user_id)), p_role, auth.uid(),
    coalesce(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role', session_user))
$$;
comment on function queue.record_member_change is 'Note a change of membership with who made it.';

create function queue.workspace_member_changed() returns trigger
language plpgsql
security definer -- callers hold no rights on the record
set search_path = '' as $$
begin
  if tg_op = 'INSERT' then
    perform queue.record_member_change(new.workspace_id, 'member_added', new.user_id, null, new.role);
    return null;
  end if;
  -- one at a time per workspace: two managers who remove each other at once would leave none;
  -- a workspace that goes itself takes its members along
  perform from public.workspaces where id = old.workspace_id for no key update;
  if not found then
    return null;
  end if;
  if old.role = 'manager' and not exists (
      select from public.workspace_members as m where m.workspace_id = old.workspace_id and m.role = 'manager') then
    perform queue.refuse(409, 'last_manager',
      'a workspace must keep one manager: make another person manager first', old.workspace_id::text);
  end if;
  if tg_op = 'DELETE' then
    perform queue.record_member_change(old.workspace_id, 'member_removed', old.user_id, null, old.role);
  elsif new.role <> old.role then
    perform queue.record_member_change(new.workspace_id, 'role_changed', new.user_id, null, new.role);
  end if;
  return null;
end;
$$;
comment on function queue.workspace_member_changed is 'Trigger: record a change of membership, and refuse one that leaves a workspace without a manager.';

create trigger workspace_members_after_change after insert or update or delete on public.workspace_members
  for each row execute function queue.workspace_member_changed();

create function queue.normal_email(p_email text) returns text
language plpgsql immutable set search_path = '' as $$
declare
  v_email text := lower(btrim(coalesce(p_email, '')));
begin
  if v_email !~ '^[^@\s]+@[^@\s]+$' or length(v_email) > 254 then
    perform queue.refuse(400, 'invalid_argument',
      format('email must be a mail address: %s', left(v_email, 80)), 'email');
  end if;
  return v_email;
end;
$$;
comment on function queue.normal_email is 'A mail address in lower case, or 400.';

create function queue.take_invitation(p_workspace_id uuid, p_change text) returns queue.invitations
language plpgsql set search_path = '' as $$
declare
  v_taken queue.invitations;
begin
  -- the account's row and not the token's claim: a claim may name an address that no one confirmed
  delete from queue.invitations as i
  where i.email = queue.proven_email(auth.uid()) and i.workspace_id = p_workspace_id and i.expires_at > queue.clock()
  returning i.* into v_taken;
  if not found then
    perform queue.refuse(404, 'invitation_not_found', 'no such invitation', p_workspace_id::text);
  end if;
  perform queue.record_member_change(p_workspace_id, p_change, auth.uid(), v_taken.email, v_taken.role);
  return v_taken;
end;
$$;
comment on function queue.take_invitation is 'End an invitation of the caller and note what became of it; 404 where there is none for an address that is provably theirs.';

create function public.list_invitations() returns jsonb
language sql stable
security definer -- callers hold no rights on invitations
set search_path = '' as $$
  select jsonb_build_object('invitations', coalesce(jsonb_agg(jsonb_build_object('workspace_id', i.workspace_id,
    'name', w.name, 'role', i.role, 'invited_by', queue.email_of(i.invited_by), 'created_at', i.created_at,
    'expires_at', i.expires_at) order by i.created_at, i.workspace_id), '[]'))
  from (select * from queue.invitations as v
    where v.email = queue.proven_email(auth.uid()) and v.expires_at > queue.clock()
    order by v.created_at limit 100) as i
  join public.workspaces as w on w.id = i.workspace_id
$$;
comment on function public.list_invitations is E'Workspaces that want to add the caller: {invitations: [{workspace_id, name, role, invited_by, created_at, expires_at}]}.\n\nThe oldest 100. They become memberships by accept_invitation alone.';

create function public.accept_invitation(p_workspace_id uuid) returns jsonb
language plpgsql
security definer -- callers hold no rights on invitations
set search_path = '' as $$
declare
  v_taken queue.invitations := queue.take_invitation(p_workspace_id, 'invitation_accepted');
begin
  insert into public.workspace_members as m (workspace_id, user_id, role)
  values (p_workspace_id, auth.uid(), v_taken.role)
  on conflict (user_id, workspace_id) do update set role = excluded.role where m.role <> excluded.role;
  return jsonb_build_object('workspace_id', p_workspace_id, 'role', v_taken.role, 'accepted', true);
end;
$$;
comment on function public.accept_invitation is 'Join a workspace that list_invitations names: {workspace_id, role, accepted}. 404 invitation_not_found where there is none for the caller.';

create function public.decline_invitation(p_workspace_id uuid) returns jsonb
language plpgsql
security definer -- callers hold no rights on invitations
set search_path = '' as $$
declare
  v_taken queue.invitations := queue.take_invitation(p_workspace_id, 'invitation_declined');
begin
  return jsonb_build_object('workspace_id', p_workspace_id, 'role', v_taken.role, 'accepted', false);
end;
$$;
comment on function public.decline_invitation is 'Refuse an invitation: {workspace_id, role, accepted}. 404 invitation_not_found where there is none for the caller.';

create function public.create_workspace(p_name text, p_manager text) returns jsonb
language plpgsql
security definer -- the operator's way in; execute is the service role's alone
set search_path = '' as $$
declare
  v_id uuid;
begin
  if char_length(btrim(coalesce(p_name, ''))) not between 1 and 200 then
    perform queue.refuse(400, 'invalid_argument', 'name must have 1 to 200 characters', 'name');
  end if;
  -- a command that is repeated after a timeout must not leave two
  perform pg_advisory_xact_lock(hashtextextended('minutehand create_workspace', 0));
  if exists (select from public.workspaces where name = btrim(p_name)) then
    perform queue.refuse(409, 'workspace_exists', format('there is a workspace %s already', btrim(p_name)), 'name');
  end if;
  insert into public.workspaces (name) values (btrim(p_name)) returning id into v_id;
  perform queue.record_member_change(v_id, 'workspace_created', null, null, null);
  return jsonb_build_object('id', v_id, 'name', btrim(p_name),
    'manager', public.set_member(v_id, p_manager, 'manager'));
end;
$$;
comment on function public.create_workspace is E'Create a workspace with its first manager, named by mail address: {id, name, manager: {state, …}}. For the operator.\n\nA name that is taken is refused with 409 workspace_exists. manager is the answer of set_member.';

create function public.set_member(p_workspace_id uuid, p_email text, p_role text default 'member') returns jsonb
language plpgsql
security definer -- callers may not write membership: managers and the operator do it here
set search_path = '' as $$
declare
  v_email text := queue.normal_email(p_email);
  v_answer jsonb := jsonb_build_object('workspace_id', p_workspace_id, 'email', v_email, 'role', p_role);
begin
  perform queue.may_manage(p_workspace_id);
  if p_role is null or p_role not in ('manager', 'member') then
    perform queue.refuse(400, 'invalid_argument', 'role must be manager or member', 'role');
  elsif not exists (select from public.workspaces where id = p_workspace_id) then
    perform queue.refuse_workspace(p_workspace_id);
  end if;
  update public.workspace_members as m set role = p_role
  where m.workspace_id = p_workspace_id and queue.proven_email(m.user_id) = v_email;
  if found then
    return v_answer || '{"state": "member"}';
  end if;
  -- accounts are not looked up: the answer is the same for an address that has one
  delete from queue.invitations where workspace_id = p_workspace_id and expires_at <= queue.clock();
  if (select count(*) from queue.invitations where workspace_id = p_workspace_id and email <> v_email) >= 1000 then
    perform queue.refuse(429, 'quota_exceeded', 'a workspace may have 1,000 open invitations', 'max_invitations');
  end if;
  insert into queue.invitations as i (workspace_id, email, role, invited_by)
  values (p_workspace_id, v_email, p_role, auth.uid())
  on conflict (email, workspace_id) do update set role = excluded.role, invited_by = excluded.invited_by,
    created_at = excluded.created_at, expires_at = excluded.expires_at;
  perform queue.record_member_change(p_workspace_id, 'invited', null, v_email, p_role);
  return v_answer || '{"state": "invited"}';
end;
$$;
comment on function public.set_member is E'Invite a person to a workspace by mail address, or change the role of a member: {workspace_id, email, role, state}.\n\nFor managers and the operator. state is member for those who are one already; all others, with an account or without, are invited for 30 days and join when they accept. Sends no mail.';

create function public.remove_member(p_workspace_id uuid, p_member text) returns jsonb
language plpgsql
security definer -- callers may not write membership: managers and the operator do it here, and who leaves
set search_path = '' as $$
declare
  v_user uuid;
  v_email text;
  v_leaves boolean;
begin
  if p_member ~ '^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$' then
    v_user := p_member::uuid;
  else
    v_email := queue.normal_email(p_member);
    select m.user_id into v_user from public.workspace_members as m
    where m.workspace_id = p_workspace_id and queue.email_of(m.user_id) = v_email limit 1;
  end if;
  v_leaves := coalesce(v_user = auth.uid(), false) and queue.is_member(p_workspace_id);
  if not v_leaves then
    perform queue.may_manage(p_workspace_id);
  end if;
  -- who leaves may have an address that no one confirmed: an invitation to it is another's
  delete from queue.invitations where workspace_id = p_workspace_id and email = v_email and not v_leaves;
  if found then
    perform queue.record_member_change(p_workspace_id, 'invitation_withdrawn', null, v_email, null);
  else
    delete from public.workspace_members where workspace_id = p_workspace_id and user_id = v_user;
    if not found then
      perform queue.refuse(404, 'member_not_found',
        'no one of that name belongs to this workspace', left(p_member, 80));
    end if;
  end if;
  return jsonb_build_object('workspace_id', p_workspace_id, 'member', p_member, 'removed', true);
end;
$$;
comment on function public.remove_member is E'Remove a person from a workspace, or withdraw an invitation, by mail address or user id: {workspace_id, member, removed}.\n\nFor managers and the operator; all members may leave. The last manager cannot: 409 last_manager.';

create function public.list_members(p_workspace_id uuid) returns jsonb
language plpgsql stable
security definer -- callers may read neither accounts nor the record
set search_path = '' as $$
declare
  v_manages boolean := queue.is_manager(p_workspace_id) or auth.uid() is null;
begin
  perform queue.may_steer(p_workspace_id);
  return jsonb_build_object('workspace_id', p_workspace_id,
    'members', (select coalesce(jsonb_agg(jsonb_build_object('user_id', m.user_id, 'email', queue.email_of(m.user_id),
        'role', m.role, 'created_at', m.created_at) order by m.role, m.created_at, m.user_id), '[]')
      from public.workspace_members as m where m.workspace_id = p_workspace_id),
    'invitations', (select coalesce(jsonb_agg(jsonb_build_object('email', i.email, 'role', i.role,
        'created_at', i.created_at, 'expires_at', i.expires_at, 'invited_by', queue.email_of(i.invited_by))
        order by i.created_at, i.email), '[]')
      from queue.invitations as i where v_manages and i.workspace_id = p_workspace_id and i.expires_at > queue.clock()),
    'changes', (select coalesce(jsonb_agg(c.change order by c.id desc), '[]') from (
      select c.id, jsonb_build_object('action', c.action, 'email', c.email, 'user_id', c.user_id, 'role', c.role,
        'actor', coalesce(queue.email_of(c.actor), c.actor::text), 'actor_role', c.actor_role,
        'created_at', c.created_at) as change
      from queue.member_changes as c where v_manages and c.workspace_id = p_workspace_id
      order by c.id desc limit 50) as c));
end;
$$;
comment on function public.list_members is E'Who belongs to a workspace: {workspace_id, members: [{user_id, email, role, created_at}], invitations, changes}.\n\nMembers read the members; managers and the operator also the open invitations and the last 50 changes, the latest first.';

create function public.list_workspaces() returns jsonb
language sql stable
security definer -- the operator's view over all; a person sees their own
set search_path = '' as $$
  select jsonb_build_object('workspaces', coalesce(jsonb_agg(jsonb_build_object(
    'id', w.id, 'name', w.name, 'created_at', w.created_at,
    'members', (select count(*) from public.workspace_members as m where m.workspace_id = w.id),
    'managers', (select count(*) from public.workspace_members as m
      where m.workspace_id = w.id and m.role = 'manager'),
    'invitations', (select count(*) from queue.invitations as i
      where i.workspace_id = w.id and i.expires_at > queue.clock()))
    order by w.name, w.id), '[]'))
  from public.workspaces as w
  where auth.uid() is null and queue.is_service() or w.id in (select queue.my_workspaces())
$$;
comment on function public.list_workspaces is 'Workspaces with how many belong to them: {workspaces: [{id, name, created_at, members, managers, invitations}]}; the operator''s all, a person''s own.';

select queue.allow('authenticated, service_role', 'public.list_invitations', 'public.accept_invitation',
  'public.decline_invitation', 'public.set_member', 'public.remove_member', 'public.list_members',
  'public.list_workspaces');
select queue.allow('service_role', 'public.create_workspace');
