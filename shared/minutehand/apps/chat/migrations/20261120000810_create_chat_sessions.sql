-- A chat session is what an x-session-id names: a guest session of the engine and its one conversation.
-- Conversations, messages and work are those of create_chat; this file finds them by that id.

-- 1. Which session an id names --------------------------------------------------------------------------

create function chat.guest_session_of(p_session_id text) returns text
language sql immutable
set search_path = ''
as $$
  select case when p_session_id ~ '^guest_[0-9a-f]{64}$' then p_session_id
    else 'guest_' || encode(sha256(convert_to('chat:' || p_session_id, 'utf8')), 'hex') end
$$;
comment on function chat.guest_session_of is 'The guest session of a session id: the id itself when it was made '
  'here, a hash of it when a caller chose it.';

create function chat.guest_workspace() returns uuid
language plpgsql
set search_path = ''
as $$
declare
  c_id constant uuid := 'c4a70000-0000-4000-8000-000000000000';
begin
  insert into public.workspaces (id, name) values (c_id, 'Guests of the chat') on conflict (id) do nothing;
  return c_id;
exception when feature_not_supported or wrong_object_type or object_not_in_prerequisite_state then
  -- the tenants are the project's own: none is created for guests without it
  perform queue.refuse(403, 'forbidden', 'Guests need workspaces of their own, which this project does not have');
end;
$$;
comment on function chat.guest_workspace is E'The workspace of sessions of people without one, created for the first of them.\n\nRefuses with 403 where the tenants are the project''s own tables or its users.';

create function chat.session_or_null(p_session_id text) returns public.chat_conversations
language sql stable
set search_path = ''
as $$
  select c.*
  from queue.may_join_guest_session(chat.guest_session_of(p_session_id)) as v
  join public.chat_conversations as c on c.guest_session_id = v.session_id and c.workspace_id = v.workspace_id
  order by c.idempotency_key is not distinct from 'session' desc, c.last_message_at desc, c.id desc
  limit 1
$$;
comment on function chat.session_or_null is 'The conversation of a session, if the caller may see it; null when it '
  'is missing, ended or another''s.';

create function chat.check_session_id(p_session_id text) returns void
language plpgsql stable
set search_path = ''
as $$
declare
  v_least integer := (queue.setting('chat_session_id_min_characters'))::integer;
begin
  if p_session_id is null or p_session_id !~ '^[A-Za-z0-9._~:+/=@-]{1,200}$' or char_length(p_session_id) < v_least then
    perform queue.refuse(422, 'session_id_invalid', format(
      'x-session-id must have %s to 200 letters, digits or ._~:+/=@-: anyone who knows it can read the session',
        v_least),
      'x-session-id');
  end if;
end;
$$;
comment on function chat.check_session_id is 'Refuse with 422 an id that is too short to be a key, or has other characters.';

create function chat.check_address(p_address text, p_is_new boolean) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_now timestamptz := queue.clock();
begin
  if p_address is null then
    return;
  elsif (
    select coalesce(sum(messages), 0) from chat.uses
    where author = 'address:' || p_address and at > v_now - interval '1 minute'
  ) >= (queue.setting('chat_address_messages_per_minute'))::integer then
    perform queue.refuse(429, 'quota_exceeded',
      'too many messages from this address in a minute; wait a moment', 'chat_address_messages_per_minute');
  elsif p_is_new and (
    select coalesce(sum(messages), 0) from chat.uses
    where author = 'sessions:' || p_address and at > v_now - interval '1 hour'
  ) >= (queue.setting('chat_address_sessions_per_hour'))::integer then
    perform queue.refuse(429, 'quota_exceeded', 'too many new sessions from this address in an hour',
      'chat_address_sessions_per_hour');
  end if;
  perform chat.spend('address:' || p_address, 1, 0);
  if p_is_new then
    perform chat.spend('sessions:' || p_address, 1, 0);
  end if;
end;
$$;
comment on function chat.check_address is E'Count a guest''s message and new session for an address, or refuse with '
  '429.\n\nThe API passes the address it saw: direct calls of the Data API are limited by session and workspace only.';

create function chat.enter(p_session_id text, p_workspace_id uuid, p_address text) returns public.chat_conversations
language plpgsql
set search_path = ''
as $$
declare
  v_guest_session_id text := chat.guest_session_of(p_session_id);
  v_user uuid := auth.uid();
  v_workspace uuid := p_workspace_id;
  v_guest_session queue.guest_sessions;
  v_found public.chat_conversations;
begin
  perform chat.check_session_id(p_session_id);
  if v_workspace is not null and not queue.is_member(v_workspace) then
    perform queue.refuse_workspace(v_workspace);
  end if;
  -- the author before the session, as everywhere; messages of one session come one after the other
  perform pg_advisory_xact_lock(hashtextextended('chat:' || v_guest_session_id, 0));
  v_found := chat.session_or_null(p_session_id);
  if v_user is null then
    perform chat.check_address(p_address, v_found.id is null);
  end if;
  v_guest_session := queue.ensure_guest_session(v_guest_session_id,
    coalesce(v_found.workspace_id, v_workspace,
      (select w from queue.my_workspaces() as w order by 1 limit 1), chat.guest_workspace()),
    v_user, 2592000);
  if not exists (select from queue.may_join_guest_session(v_guest_session_id))
    or v_workspace <> v_guest_session.workspace_id then
    perform queue.refuse_session();
  end if;
  if v_found.id is null then
    insert into public.chat_conversations
      (workspace_id, guest_session_id, session_name, idempotency_key, created_by, by_guest)
    values (v_guest_session.workspace_id, v_guest_session_id, nullif(p_session_id, v_guest_session_id), 'session',
      v_user, v_user is null)
    returning * into v_found;
  else
    select * into v_found from public.chat_conversations where id = v_found.id for update;
  end if;
  return v_found;
end;
$$;
comment on function chat.enter is E'Lock and return the conversation of a session; begin one when there is none, '
  'for a guest or for the calling user.\n\n404 for another''s session, and one that has ended.';

-- 2. What a request begins --------------------------------------------------------------------------------

create function chat.remember(p_conversation public.chat_conversations, p_history jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_said public.chat_messages;
  v_each jsonb;
begin
  -- the stored messages are more reliable than the caller's
  if p_conversation.last_seq > 0 or jsonb_typeof(p_history) is distinct from 'array' then
    return;
  end if;
  for v_each in select value from jsonb_array_elements(p_history) with ordinality order by ordinality limit 50 loop
    v_said := null;
    v_said.conversation_id := p_conversation.id;
    v_said.author := case v_each ->> 'author' when 'assistant' then 'assistant' else 'user' end;
    v_said.kind := case v_said.author when 'assistant' then 'reply' else 'message' end;
    v_said.text := left(v_each ->> 'text', 8000);
    v_said.data := '{"from_caller": true}';
    v_said.by_guest := v_said.author = 'user' and not queue.is_member(p_conversation.workspace_id);
    perform chat.say(v_said);
  end loop;
end;
$$;
comment on function chat.remember is 'Store the earlier messages that a caller gives, at most 50, in a '
  'conversation without messages.';

create function chat.estimate_ms(p_type text) returns integer
language sql stable
set search_path = ''
as $$
  select coalesce((
    select percentile_cont(0.5) within group (order by date_part('epoch', m.completed_at - m.started_at) * 1000)
    from (
      select j.started_at, j.completed_at
      from (
        select i.job_id from public.chat_work_items as i
        where i.kind = p_type order by i.job_id desc limit 200) as latest
      join public.jobs as j on j.id = latest.job_id and j.status = 'completed'
      order by j.id desc limit 20) as m
    having count(*) >= 3),
    -- until three have been measured
    case p_type when 'research' then 8000 when 'build' then 5000 else 6000 end)::integer
$$;
comment on function chat.estimate_ms is 'How long work of a type is likely to run, in ms: the median of its latest '
  '20 that completed, at least three; otherwise a fixed estimate.';

create function chat.work_lines(p_ids uuid[]) returns jsonb
language sql stable
set search_path = ''
as $$
  select coalesce(jsonb_agg(jsonb_build_object('id', w.id, 'type', w.type, 'status', w.status, 'title', w.title,
    'estimatedDuration', chat.estimate_ms(w.type)) order by w.job_id), '[]')
  from public.async_work_items as w where w.job_id = any (p_ids)
$$;
comment on function chat.work_lines is 'Work items as an answer to their request shows them: [{id, type, status, '
  'title, estimatedDuration}].';

create function chat.request_again(p_conversation public.chat_conversations, p_request jsonb) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_message public.chat_messages;
begin
  select * into v_message from public.chat_messages
  where conversation_id = p_conversation.id and client_id = p_request ->> 'client_id';
  if not found then
    return null;
  elsif v_message.text <> p_request ->> 'text' then
    perform queue.refuse(409, 'idempotency_conflict', 'another message has this Idempotency-Key',
      v_message.id::text);
  end if;
  return jsonb_build_object('conversation_id', p_conversation.id, 'message_id', v_message.id,
    'job_id', v_message.job_id, 'created', false, 'wake', false);
end;
$$;
comment on function chat.request_again is 'The answer to an earlier request with the same client_id; null when it '
  'is new.';

create function chat.request(p_session_id text, p_request jsonb) returns jsonb
language plpgsql
security definer -- no role may write messages directly
set search_path = ''
as $$
declare
  v_items jsonb := coalesce(nullif(p_request -> 'items', 'null'), '[]');
  v_conversation public.chat_conversations;
  v_message jsonb := p_request - '{items,history,workspace_id,address,tier}'::text[];
  v_problem text[] := chat.message_problem(v_message);
  v_again jsonb;
  v_as_guest boolean;
  v_room integer;
  v_said public.chat_messages;
  v_begun jsonb;
begin
  if v_problem is not null then
    perform queue.refuse(400, 'invalid_argument', v_problem[1] || ' ' || v_problem[2], v_problem[1]);
  elsif jsonb_typeof(v_items) <> 'array' or jsonb_array_length(v_items) > 3 then
    perform queue.refuse(400, 'invalid_argument', 'items must be at most 3 of {kind, title, instruction}', 'items');
  end if;
  v_conversation := chat.enter(p_session_id, queue.uuid_or_refuse(p_request ->> 'workspace_id', 'workspace_id'),
    p_request ->> 'address');
  v_again := chat.request_again(v_conversation, p_request);
  if v_again is not null then
    return v_again;
  end if;
  perform chat.remember(v_conversation, p_request -> 'history');
  if v_items = '[]' then
    v_begun := chat.send(v_conversation.id, v_message, v_conversation.guest_session_id);
    return jsonb_build_object('conversation_id', v_conversation.id, 'message_id', v_begun #> '{message,id}',
      'job_id', v_begun -> 'job_id', 'created', v_begun -> 'created', 'wake', v_begun -> 'wake');
  end if;
  v_as_guest := not queue.is_member(v_conversation.workspace_id);
  perform chat.check_pace(v_conversation.workspace_id, case when v_as_guest then v_conversation.guest_session_id end,
    0);
  v_room := chat.room_or_refuse(v_conversation, jsonb_array_length(v_items));
  v_said.conversation_id := v_conversation.id;
  v_said.author := 'user';
  v_said.kind := 'message';
  v_said.text := v_message ->> 'text';
  v_said.documents := v_message -> 'documents';
  v_said.request := v_message - '{text,client_id,documents}'::text[];
  v_said.client_id := v_message ->> 'client_id';
  v_said.created_by := auth.uid();
  v_said.by_guest := v_as_guest;
  v_said := chat.say(v_said);
  v_begun := chat.begin_work(v_conversation, v_said.id, v_items, auth.uid(), null);
  perform chat.say(jsonb_populate_record(null::public.chat_messages, jsonb_build_object(
    'conversation_id', v_conversation.id, 'author', 'assistant', 'kind', 'plan',
    'text', chat.plan_text(v_items, v_room),
    'data', jsonb_build_object('tier', 'async', 'work_items', v_begun -> 'ids', 'message_id', v_said.id))));
  perform chat.retain(5);
  return jsonb_build_object('conversation_id', v_conversation.id, 'message_id', v_said.id, 'job_id', null,
    'created', true, 'wake', v_begun -> 'wake');
end;
$$;
comment on function chat.request is 'Body of public.chat_request, with rights that browsers'' roles do not have.';

create function chat.outcome(p_session_id text, p_message_id uuid) returns jsonb
language plpgsql stable
security definer -- guests hold no rights on any table
set search_path = ''
as $$
declare
  v_conversation public.chat_conversations := chat.session_or_null(p_session_id);
  v_asked public.chat_messages;
  v_said public.chat_messages;
  v_job public.jobs;
begin
  select * into v_asked from public.chat_messages where id = p_message_id and conversation_id = v_conversation.id;
  if not found then
    perform queue.refuse_session();
  end if;
  if v_asked.job_id is null then
    select * into v_said from public.chat_messages
    where conversation_id = v_conversation.id and kind = 'plan' and data ->> 'message_id' = p_message_id::text;
  else
    select * into v_said from public.chat_messages where job_id = v_asked.job_id and author = 'assistant';
    select * into v_job from public.jobs where id = v_asked.job_id;
  end if;
  return jsonb_build_object(
    'status', case when v_said.id is not null then 'completed' else v_job.status end,
    'progress', v_job.progress, 'error_message', v_job.error_message,
    'message', case when v_said.id is not null then
      jsonb_build_object('id', v_said.id, 'text', v_said.text, 'kind', v_said.kind, 'model', v_said.model,
        'offline', v_said.offline, 'tier', v_said.data -> 'tier') end,
    'work', chat.work_lines(array(
      select (value #>> '{}')::uuid from jsonb_array_elements(coalesce(v_said.data -> 'work_items', '[]')))));
end;
$$;
comment on function chat.outcome is 'Body of public.chat_outcome, with rights that browsers'' roles do not have.';

-- 3. How a session stands -----------------------------------------------------------------------------------

create function chat.queue_status() returns jsonb
language sql stable
set search_path = ''
as $$
  select jsonb_build_object(
    'queued', count(*) filter (where w.status = 'accepted'),
    'executing', count(*) filter (where w.status = 'in_progress'))
  from queue.live_jobs as l
  join public.chat_work_items as i on i.job_id = l.job_id
  join public.async_work_items as w on w.job_id = i.job_id
$$;
comment on function chat.queue_status is 'Work items of all sessions in the queue and under way, as async_work_items '
  'has them: {queued, executing}.';

create function chat.question(p_note public.chat_notes) returns jsonb
language sql stable
set search_path = ''
as $$
  select jsonb_strip_nulls(jsonb_build_object(
    'id', 'msg_' || p_note.id, 'workId', 'work_' || p_note.job_id, 'direction', p_note.direction, 'type', p_note.type,
    'content', p_note.content, 'requiresResponse', p_note.type = 'question',
    'timestamp', floor(date_part('epoch', p_note.created_at) * 1000)::bigint,
    'options', p_note.options, 'default', p_note.default_answer,
    'expiresAt', floor(date_part('epoch', p_note.expires_at) * 1000)::bigint,
    'answers', 'msg_' || p_note.answers))
$$;
comment on function chat.question is 'A note as clients read it; times are Unix ms.';

create function chat.pending_questions(p_conversation_id uuid) returns jsonb
language sql stable
set search_path = ''
as $$
  select coalesce(jsonb_agg(chat.question(n) order by n.created_at, n.id), '[]')
  from public.chat_notes as n
  join public.async_work_items as w on w.job_id = n.job_id and w.question_name = n.name
  where n.conversation_id = p_conversation_id and n.type = 'question' and w.question_expires_at > queue.clock()
$$;
comment on function chat.pending_questions is 'Questions that wait for an answer, as clients read them.';

create function chat.is_visible(p_note public.chat_notes) returns boolean
language sql stable
set search_path = ''
as $$
  -- a question is written just before the job begins to wait for its answer
  select p_note.type <> 'question' or not exists (
    select from public.jobs as j where j.id = p_note.job_id and j.status = 'processing'
      and not exists (select from public.chat_notes as a where a.answers = p_note.id)
      and p_note.expires_at > queue.clock())
$$;
comment on function chat.is_visible is 'Whether a note is visible to clients yet.';

create function chat.status(p_session_id text) returns jsonb
language plpgsql stable
security definer -- guests hold no rights on any table
set search_path = ''
as $$
declare
  v_id uuid := (chat.session_or_null(p_session_id)).id;
begin
  return jsonb_build_object('sessionId', p_session_id,
    'activeWork', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'id', w.id, 'type', w.type, 'status', w.status, 'estimatedDuration', chat.estimate_ms(w.type),
        'elapsedSeconds', greatest(0, floor(date_part('epoch', queue.clock() - w.created_at))::integer),
        'progress', chat.progress(w.status, w.progress)) order by w.job_id), '[]')
      from public.async_work_items as w
      where w.conversation_id = v_id and w.status in ('accepted', 'in_progress', 'waiting_for_user')),
    'pendingQuestions', chat.pending_questions(v_id),
    'unreadMessageCount', (
      select count(*) from public.chat_notes as n
      where n.conversation_id = v_id and n.direction = 'to_user' and n.delivered_at is null and chat.is_visible(n)),
    'queueStatus', chat.queue_status());
end;
$$;
comment on function chat.status is 'Body of public.chat_status, with rights that browsers'' roles do not have.';

create function chat.progress(p_status text, p_progress jsonb) returns jsonb
language sql immutable
set search_path = ''
as $$
  select jsonb_build_object(
    'stage', case
      when p_status = 'completed' then 'DONE'
      when p_progress ->> 'stage' in ('ANALYZING', 'RESEARCHING', 'BUILDING', 'REVIEWING', 'DONE')
        then p_progress ->> 'stage'
      when p_progress ->> 'stage' like 'text:%' then 'BUILDING' -- a model writes, see chat/live.py
      else 'ANALYZING' end,
    'percentage', coalesce((p_progress ->> 'percentage')::numeric, 0),
    'message', case
      when p_progress ->> 'stage' like 'text:%' then 'Writing the result'
      else coalesce(p_progress ->> 'message',
        case when p_status = 'accepted' then 'Waiting in the queue' else '' end) end)
$$;
comment on function chat.progress is 'A job''s progress in this app''s words: {stage, percentage, message}.';

create function chat.works(p_session_id text, p_job_ids uuid[]) returns jsonb
language plpgsql stable
security definer -- guests hold no rights on any table
set search_path = ''
as $$
begin
  return jsonb_build_object('works', (
    select coalesce(jsonb_object_agg(i.job_id, jsonb_build_object('type', i.kind, 'title', i.title,
      'question_id', 'msg_' || n.id, 'default', n.default_answer, 'asked_at', n.created_at)), '{}')
    from public.chat_work_items as i
    left join lateral (
      select q.id, q.default_answer, q.created_at from public.chat_notes as q
      where q.job_id = i.job_id and q.type = 'question'
      order by q.created_at desc, q.id limit 1) as n on true
    where i.conversation_id = (chat.session_or_null(p_session_id)).id and i.job_id = any (p_job_ids)));
end;
$$;
comment on function chat.works is 'Body of public.chat_works, with rights that browsers'' roles do not have.';

create function chat.events(p_session_id text, p_cursor text, p_limit integer) returns jsonb
language plpgsql stable
security definer -- guests hold no rights on any table
set search_path = ''
as $$
declare
  v_guest_session queue.guest_sessions;
begin
  select v.* into v_guest_session from queue.may_join_guest_session(chat.guest_session_of(p_session_id)) as v;
  if not found then
    -- many streams wait for sessions that are still to begin: that is not an error
    return jsonb_build_object('events', '[]'::jsonb, 'places', '[]'::jsonb, 'cursor', coalesce(p_cursor, '1:1:'),
      'more', false);
  end if;
  return queue.read_feed(v_guest_session.workspace_id, v_guest_session.session_id, p_cursor, p_limit);
end;
$$;
comment on function chat.events is 'Body of public.chat_events, with rights that browsers'' roles do not have.';

create function chat.news(p_guest_session_ids text[]) returns jsonb
language sql stable
security definer -- guests hold no rights on any table
set search_path = ''
as $$
  select jsonb_build_object('news', coalesce(jsonb_object_agg(n.session_id, n.mark), '{}'))
  from (
    select j.session_id, sum(j.last_seq) as mark from public.jobs as j
    where j.session_id = any (p_guest_session_ids[1:2000]) and j.session_id like 'guest\_%' group by j.session_id) as n
$$;
comment on function chat.news is 'Body of public.chat_news, with rights that browsers'' roles do not have.';

-- 4. Cancelling, and messages between people and work --------------------------------------------------------

create function chat.work_or_null(p_work_id text, p_session_id text) returns public.chat_work_items
language sql stable
set search_path = ''
as $$
  select i.*
  from public.chat_work_items as i
  join public.chat_conversations as c on c.id = i.conversation_id
  where p_work_id ~ '^work_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' and i.job_id = substr(p_work_id, 6)::uuid
    and (p_session_id is null or c.guest_session_id = chat.guest_session_of(p_session_id)
      or c.session_id = p_session_id)
    -- guests may steer work whose id they know, which no one else is given
    and (queue.is_member(c.workspace_id) or queue.is_service_role()
      or exists (select from queue.may_join_guest_session(c.guest_session_id) as v
        where v.workspace_id = c.workspace_id))
$$;
comment on function chat.work_or_null is 'A work item by its outside id, if the caller may steer it: as member, as '
  'its session''s user, or as a guest who knows it.';

create function chat.cancel_work(p_session_id text, p_work_id text, p_all boolean) returns jsonb
language plpgsql
security definer -- guests hold no rights on any table
set search_path = ''
as $$
declare
  v_item public.chat_work_items;
  v_conversation public.chat_conversations;
  v_status text;
  v_ids uuid[];
begin
  if p_work_id is not null then
    v_item := chat.work_or_null(p_work_id, p_session_id);
    if v_item.job_id is null then
      perform queue.refuse(404, 'work_item_not_found', 'no such work', p_work_id);
    end if;
    v_ids := array[v_item.job_id];
  else
    v_conversation := chat.session_or_null(p_session_id);
    if v_conversation.id is null then
      perform queue.refuse_session();
    end if;
    v_ids := array(
      select w.job_id from public.async_work_items as w
      where w.conversation_id = v_conversation.id and w.status in ('accepted', 'in_progress', 'waiting_for_user'));
  end if;
  -- the conversation before its jobs, as everywhere
  perform 1 from public.chat_conversations
  where id = coalesce(v_item.conversation_id, v_conversation.id) for update;
  if p_work_id is not null then
    select w.status into v_status from public.async_work_items as w where w.job_id = v_item.job_id;
    if v_status in ('completed', 'failed', 'cancelled')
      or exists (select from public.chat_messages where job_id = v_item.job_id and author = 'assistant') then
      perform queue.refuse(409, 'invalid_state',
        format('the work is %s already', coalesce(v_status, 'completed')), v_status);
    end if;
  end if;
  v_ids := array(
    select w.job_id from public.async_work_items as w
    where w.job_id = any (v_ids) and w.status in ('accepted', 'in_progress', 'waiting_for_user')
      and w.result_message_id is null order by w.job_id);
  perform queue.cancel(v_ids, queue.clock());
  return jsonb_build_object('success', true, 'cancelled', (
    select coalesce(jsonb_agg('work_' || id order by id), '[]') from unnest(v_ids) as id),
    'message', 'Work cancelled successfully');
end;
$$;
comment on function chat.cancel_work is 'Body of public.chat_cancel_work, with rights that browsers'' roles do not have.';

create function chat.notes(p_session_id text, p_work_id text, p_limit integer) returns jsonb
language plpgsql
security definer -- guests hold no rights on any table
set search_path = ''
as $$
declare
  v_id uuid := (chat.session_or_null(p_session_id)).id;
  v_ids uuid[] := array(
    select n.id from public.chat_notes as n
    where n.conversation_id = v_id and (p_work_id is null or 'work_' || n.job_id = p_work_id) and chat.is_visible(n)
    -- unread ones first into the page, which is then in order of time
    order by (n.direction = 'to_user' and n.delivered_at is null) desc, n.created_at desc, n.id
    limit least(200, greatest(1, coalesce(p_limit, 100))));
  v_answer jsonb;
begin
  v_answer := jsonb_build_object('sessionId', p_session_id,
    'workId', coalesce(p_work_id, (
      select 'work_' || i.job_id from public.chat_work_items as i
      where i.conversation_id = v_id order by i.job_id desc limit 1)),
    'messages', (
      select coalesce(jsonb_agg(chat.question(n) order by n.created_at, n.id), '[]')
      from public.chat_notes as n where n.id = any (v_ids)),
    'pendingQuestions', chat.pending_questions(v_id),
    'unreadCount', (
      select count(*) from public.chat_notes as n
      where n.conversation_id = v_id and n.direction = 'to_user' and n.delivered_at is null and chat.is_visible(n)));
  -- what did not fit stays unread
  update public.chat_notes set delivered_at = queue.clock()
  where id = any (v_ids) and direction = 'to_user' and delivered_at is null;
  return v_answer;
end;
$$;
comment on function chat.notes is 'Body of public.chat_notes_of, with rights that browsers'' roles do not have.';

create function chat.respond(p_session_id text, p_message_id text, p_work_id text, p_content text) returns jsonb
language plpgsql
security definer -- guests hold no rights on any table
set search_path = ''
as $$
declare
  v_conversation public.chat_conversations := chat.session_or_null(p_session_id);
  v_question public.chat_notes;
  v_item public.chat_work_items;
  v_note public.chat_notes;
  v_status text;
  v_done jsonb;
begin
  if v_conversation.id is null then
    perform queue.refuse_session();
  elsif p_content is null or char_length(p_content) not between 1 and 2000 or p_content !~ '\S' then
    perform queue.refuse(400, 'invalid_argument', 'content must be a text of 1 to 2000 characters', 'content');
  end if;
  if p_message_id is not null then
    select * into v_question from public.chat_notes as n
    where n.conversation_id = v_conversation.id and 'msg_' || n.id = p_message_id and n.direction = 'to_user';
    if not found then
      perform queue.refuse(404, 'message_not_found', 'no such message in this session', p_message_id);
    elsif v_question.type = 'question' then
      v_done := chat.answer(v_conversation.id, v_question.job_id,
        jsonb_build_object('answer', p_content, 'name', v_question.name), v_conversation.guest_session_id);
      return jsonb_build_object('success', true, 'messageId', (
          select 'msg_' || a.id from public.chat_notes as a where a.answers = v_question.id),
        'workId', 'work_' || v_question.job_id, 'status', 'answered', 'wake', v_done -> 'wake');
    end if;
  end if;
  -- guidance: for the work that is named, or the newest that is live
  select i.*, w.status into v_item.job_id, v_status
  from (
    select x.job_id from public.chat_work_items as x
    where x.conversation_id = v_conversation.id
      and ('work_' || x.job_id = coalesce(p_work_id, 'work_' || v_question.job_id)
        or p_work_id is null and v_question.id is null)
    order by x.job_id desc limit 50) as i
  join public.async_work_items as w on w.job_id = i.job_id
  order by w.status in ('accepted', 'in_progress', 'waiting_for_user') desc, w.job_id desc limit 1;
  if v_item.job_id is null then
    perform queue.refuse(404, 'work_item_not_found', 'no such work in this session', p_work_id);
  elsif v_status in ('completed', 'failed', 'cancelled') then
    perform queue.refuse(409, 'invalid_state', format('the work is %s already', v_status), v_status);
  end if;
  insert into public.chat_notes (conversation_id, workspace_id, job_id, direction, type, content)
  values (v_conversation.id, v_conversation.workspace_id, v_item.job_id, 'to_work', 'info', p_content)
  returning * into v_note;
  return jsonb_build_object('success', true, 'messageId', 'msg_' || v_note.id, 'workId', 'work_' || v_note.job_id,
    'status', 'delivered', 'wake', false);
end;
$$;
comment on function chat.respond is 'Body of public.chat_respond, with rights that browsers'' roles do not have.';

create function chat.artefact(p_token text) returns jsonb
language plpgsql stable
security definer -- a frame holds no rights on any table
set search_path = ''
as $$
declare
  v_found public.chat_artefacts;
begin
  select * into v_found from public.chat_artefacts where token = p_token;
  if not found then
    perform queue.refuse(404, 'artefact_not_found', 'no such page');
  end if;
  return jsonb_build_object('key', v_found.key, 'title', v_found.title, 'type', v_found.type);
end;
$$;
comment on function chat.artefact is 'Body of public.chat_artefact, with rights that browsers'' roles do not have.';

-- 5. The functions that are called ---------------------------------------------------------------------------

create function public.chat_request(p_session_id text, p_request jsonb) returns jsonb
language sql
set search_path = ''
begin atomic
  select chat.request(p_session_id, p_request);
end;
comment on function public.chat_request is E'Send a message in a session: {conversation_id, message_id, job_id, '
  'created, wake}; chat_outcome returns what became of it.\n\np_request is a message of chat_send with {items, '
  'history, workspace_id, address}: items are work to begin at once; without them a reply is written. The first '
  'message begins the session, for the calling user, or for guests where they are allowed. 422 for an id that is not a '
  'key, 404 for another''s, 429 for too much.';

create function public.chat_outcome(p_session_id text, p_message_id uuid) returns jsonb
language sql stable
set search_path = ''
begin atomic
  select chat.outcome(p_session_id, p_message_id);
end;
comment on function public.chat_outcome is 'The state of a message of a session: {status, progress, error_message, '
  'message, work}; message is null until there is a reply.';

create function public.chat_status(p_session_id text) returns jsonb
language sql stable
set search_path = ''
begin atomic
  select chat.status(p_session_id);
end;
comment on function public.chat_status is E'The state of a session''s work: {sessionId, activeWork, '
  'pendingQuestions, unreadMessageCount, queueStatus}.\n\nEmpty lists for a session that is unknown or another''s; '
  'queueStatus counts the work of all sessions.';

create function public.chat_works(p_session_id text, p_job_ids uuid[]) returns jsonb
language sql stable
set search_path = ''
begin atomic
  select chat.works(p_session_id, p_job_ids);
end;
comment on function public.chat_works is 'Which of these jobs are work of the session: {works: {job_id: {type, title, '
  'question_id}}}.';

create function public.chat_events(p_session_id text, p_cursor text default null, p_limit integer default 500)
returns jsonb
language sql stable
set search_path = ''
begin atomic
  select chat.events(p_session_id, p_cursor, p_limit);
end;
comment on function public.chat_events is 'Events of a session''s jobs after a cursor, as guest_session_feed; none for a '
  'session that is unknown or another''s.';

create function public.chat_news(p_guest_session_ids text[]) returns jsonb
language sql stable
set search_path = ''
begin atomic
  select chat.news(p_guest_session_ids);
end;
comment on function public.chat_news is E'A mark for each of at most 2,000 guest sessions: {news: {id: number}}; it '
  'grows with each event.\n\nOne read for many streams, without a check of who may read them: it shows that '
  'something happened, not what.';

create function public.chat_cancel_work(p_session_id text, p_work_id text, p_all boolean) returns jsonb
language sql
set search_path = ''
begin atomic
  select chat.cancel_work(p_session_id, p_work_id, p_all);
end;
comment on function public.chat_cancel_work is 'Cancel one work item by its id, or all of a session: {success, '
  'cancelled, message}. 404 unknown, 409 when it has ended.';

create function public.chat_notes_of(p_session_id text, p_work_id text default null, p_limit integer default 100)
returns jsonb
language sql
set search_path = ''
begin atomic
  select chat.notes(p_session_id, p_work_id, p_limit);
end;
comment on function public.chat_notes_of is 'The notes of a session, between its work items and people: '
  '{sessionId, workId, messages, pendingQuestions, unreadCount}. Returned notes count as read.';

create function public.chat_respond(p_session_id text, p_message_id text, p_work_id text, p_content text) returns jsonb
language sql
set search_path = ''
begin atomic
  select chat.respond(p_session_id, p_message_id, p_work_id, p_content);
end;
comment on function public.chat_respond is 'Answer a question with any text, or send guidance to live work: '
  '{success, messageId, workId, status, wake}. 409 for a second answer and for work that has ended.';

create function public.chat_artefact(p_token text) returns jsonb
language sql stable
set search_path = ''
begin atomic
  select chat.artefact(p_token);
end;
comment on function public.chat_artefact is 'The file of a page that work has built, by its token: {key, title, type}.';

-- 6. What the worker says and reads ---------------------------------------------------------------------------

create function public.chat_note(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_held record;
begin
  v_held := chat.held_or_refuse(p_request);
  insert into public.chat_notes
    (conversation_id, workspace_id, job_id, direction, type, content, name, options, default_answer, expires_at)
  values ((v_held.conversation).id, (v_held.conversation).workspace_id, (v_held.job).id, 'to_user',
    p_request ->> 'type', p_request ->> 'content', p_request ->> 'name', nullif(p_request -> 'options', 'null'),
    p_request ->> 'default', queue.clock() + make_interval(secs => (p_request ->> 'expires_seconds')::double precision))
  on conflict (job_id, name) do nothing;
  return '{"noted": true}';
end;
$$;
comment on function public.chat_note is E'Write a note to people as a leased job {job_id, fence, type, content, '
  'name, options, default, expires_seconds}: {noted}.\n\ntype is question or info; the same name once per job.';

create function public.chat_guidance(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_held record;
begin
  v_held := chat.held(p_request);
  update public.chat_notes set delivered_at = queue.clock()
  where job_id = (v_held.job).id and direction = 'to_work' and delivered_at is null;
  return jsonb_build_object('guidance', (
    select coalesce(jsonb_agg(n.content order by n.created_at, n.id), '[]') from public.chat_notes as n
    where n.job_id = (v_held.job).id and n.direction = 'to_work' and n.type = 'info'),
    'queued', chat.queue_status() -> 'queued');
end;
$$;
comment on function public.chat_guidance is 'What people wrote to a leased job {job_id, fence} without a question: '
  '{guidance: [texts], queued}, in order; queued is how much work waits.';

-- Grants -----------------------------------------------------------------------------------------------------

revoke execute on all functions in schema chat from public;
revoke execute on function chat.guest_session_of, chat.guest_workspace, chat.session_or_null, chat.check_session_id,
  chat.check_address, chat.enter, chat.remember, chat.work_lines, chat.estimate_ms, chat.request_again, chat.request,
  chat.outcome, chat.queue_status, chat.question, chat.pending_questions, chat.is_visible, chat.status, chat.progress,
  chat.works, chat.events, chat.news, chat.work_or_null, chat.cancel_work, chat.notes, chat.respond, chat.artefact
  from public, anon, authenticated, service_role;
revoke execute on function public.chat_request, public.chat_outcome, public.chat_status, public.chat_works,
  public.chat_events, public.chat_news, public.chat_cancel_work, public.chat_notes_of, public.chat_respond,
  public.chat_artefact, public.chat_note, public.chat_guidance
  from public, anon, authenticated, service_role;
grant execute on function chat.request, chat.outcome, chat.status, chat.works, chat.events, chat.news,
  chat.cancel_work, chat.notes, chat.respond, chat.artefact
  to anon, authenticated, service_role;
grant execute on function public.chat_request, public.chat_outcome, public.chat_status, public.chat_works,
  public.chat_events, public.chat_news, public.chat_cancel_work, public.chat_notes_of, public.chat_respond,
  public.chat_artefact
  to anon, authenticated, service_role;
grant execute on function public.chat_note, public.chat_guidance to job_worker, service_role;
