-- People by their mail address, and what only staff and the service may read.

create function queue.needs_operator() returns void
language plpgsql stable set search_path = '' as $$
begin
  if not (queue.is_operator() or auth.uid() is null and queue.is_service()) then
    perform queue.refuse(403, 'forbidden', 'only an operator may read all workspaces: name one of yours', 'operator');
  end if;
end;
$$;
comment on function queue.needs_operator is 'Refuse with 403 callers who are neither an operator nor the service.';

create function queue.may_read_all(p_workspace_id uuid) returns void
language plpgsql stable set search_path = '' as $$
begin
  if p_workspace_id is not null then
    perform queue.may_steer(p_workspace_id);
  else
    perform queue.needs_operator();
  end if;
end;
$$;
comment on function queue.may_read_all is 'Refuse callers outside the workspace with 404; without a workspace, which means all, callers who are neither an operator nor the service with 403.';

create function queue.mail_of(p_user_id uuid) returns text
language plpgsql stable set search_path = '' as $$
declare
  v_mail text;
begin
  if p_user_id is not null and to_regclass('auth.users') is not null then
    execute 'select email::text from auth.users where id = $1' into v_mail using p_user_id;
  end if;
  return v_mail;
exception when insufficient_privilege or undefined_column then
  return null; -- Auth may be another product's
end;
$$;
comment on function queue.mail_of is 'The mail address of an Auth user; null when there is none.';

create function queue.actor(p_by text) returns text
language sql stable set search_path = '' as $$
  select coalesce(
    case when p_by ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then queue.mail_of(p_by::uuid) end, p_by, 'someone')
$$;
comment on function queue.actor is 'Who did something, as people read it: a mail address where the text is a user id '
  'that has one.';

create function public.people(p_ids uuid[]) returns jsonb
language plpgsql stable
security definer -- addresses are Auth's; callers see those of people they share a workspace with
set search_path = '' as $$
begin
  return (
    select coalesce(jsonb_object_agg(i.id, queue.mail_of(i.id)) filter (where queue.mail_of(i.id) is not null), '{}')
    from (select distinct id from unnest(p_ids[1:200]) as id) as i
    where queue.is_operator() or auth.uid() is null and queue.is_service()
      or exists (select 1 from queue.tenant_members as m
        where m.user_id = i.id and m.workspace_id in (select queue.my_workspaces())));
end;
$$;
comment on function public.people is E'Mail addresses by user id, of at most 200 people: {id: address}.\n\nOf those '
  'who share a workspace with the caller; for staff of anyone.';

select queue.allow('authenticated, service_role', 'public.people');
