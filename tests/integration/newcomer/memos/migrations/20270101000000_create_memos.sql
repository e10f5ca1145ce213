-- Memos: a complete upload becomes a job, in a session that its link opens to guests.
create function public.memo_start(p_workspace_id uuid, p_key text, p_title text) returns jsonb
language plpgsql
security definer -- members may not open sessions to guests
set search_path = ''
as $$
declare
  v_made jsonb;
  v_session text;
begin
  if p_workspace_id is null or not queue.is_member(p_workspace_id) then
    perform queue.refuse_workspace(p_workspace_id);
  end if;
  -- the upload is the key: completed twice, it is one job
  v_made := queue.enqueue(p_workspace_id, null, jsonb_build_array(jsonb_build_object('job_type', 'memo',
    'payload', jsonb_build_object('key', p_key, 'title', p_title), 'idempotency_key', p_key, 'user_id', auth.uid(),
    'session_id', 'guest_' || encode(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'hex'))), false);
  select session_id into v_session from public.jobs where id = (v_made #>> '{ids,0}')::uuid;
  perform queue.ensure_guest_session(v_session, p_workspace_id, null, 604800);
  return jsonb_build_object('session_id', v_session, 'wake', v_made -> 'wake');
end;
$$;
comment on function public.memo_start is 'Make a memo of an upload: {session_id, wake}; for members.';
select queue.allow('authenticated', 'public.memo_start');
