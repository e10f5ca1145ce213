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

create function chat.session_or_null(p_session_id text) returns public.chat_conversations
language sql stable
set search_path = ''
as $$
  select c.*
  from public.chat_conversations as c
  where c.session_id = chat.guest_session_of(p_session_id)
    -- not joined: a planner that expects many sessions would read all conversations
    and c.workspace_id = (select v.workspace_id from queue.may_join_guest_session(c.session_id) as v)
$$;
comment on function chat.session_or_null is 'The conversation of a session, if the caller may see it; null when it '
  'is missing, ended or another''s.';

create function chat.enter(p_session_id text, p_workspace_id uuid) returns public.chat_conversations
language plpgsql
set search_path = ''
as $$
declare
  v_guest_session_id text := chat.guest_session_of(p_session_id);
  v_user uuid := auth.uid();
  v_workspace uuid := p_workspace_id;
  v_guest_session queue.guest_sessions;
  v_found public.chat_conversations;
  v_least integer := greatest(16, (queue.setting('chat_session_id_min_characters'))::integer);
begin
  if p_session_id is null or p_session_id !~ '^[A-Za-z0-9._~:+/=@-]{1,200}$' or char_length(p_session_id) < v_least then
    perform queue.refuse(422, 'session_id_invalid', format(
      'x-session-id must have %s to 200 letters, digits or ._~:+/=@-: anyone who knows it can read the session',
        v_least),
      'x-session-id');
  end if;
  if v_workspace is not null and not queue.is_member(v_workspace) then
    perform queue.refuse_workspace(v_workspace);
  end if;
  -- the author before the session, as everywhere; messages of one session come one after the other
  perform pg_advisory_xact_lock(hashtextextended('chat:' || v_guest_session_id, 0));
  v_found := chat.session_or_null(p_session_id);
  if v_found.id is null then
    perform queue.admit_guest('chat_guest_sessions');
  end if;
  v_guest_session := queue.ensure_guest_session(v_guest_session_id,
    coalesce(v_found.workspace_id, v_workspace,
      case when exists (select queue.my_workspaces()) then queue.workspace_or_refuse(null) end,
      queue.guest_workspace('chat_guest_workspace', 'Guests of the chat')),
    v_user, 2592000);
  if not exists (select from queue.may_join_guest_session(v_guest_session_id))
    or v_workspace <> v_guest_session.workspace_id
    -- closed: what was said there is not given to who comes next
    or v_found.id is null
      and exists (select from public.chat_conversations as c where c.session_id = v_guest_session_id) then
    perform queue.refuse_session();
  end if;
  if v_found.id is null then
    insert into public.chat_conversations (workspace_id, session_id, session_name, created_by, by_guest)
    values (v_guest_session.workspace_id, v_guest_session_id, nullif(p_session_id, v_guest_session_id), v_user,
      not queue.is_member(v_guest_session.workspace_id))
    returning * into v_found;
  else
    select * into v_found from public.chat_conversations where id = v_found.id for update;
    if not found then -- deleted meanwhile
      perform queue.refuse_session();
    end if;
  end if;
  return v_found;
end;
$$;
comment on function chat.enter is E'Lock and return the conversation of a session; begin one when there is none, '
  'for a guest or for the calling user.\n\n404 for another''s session, and one that has ended; 422 for an id that is too short to be a key.';

-- 2. What a request begins --------------------------------------------------------------------------------

create function chat.remember(p_conversation public.chat_conversations, p_history jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_is_theirs boolean;
  v_each jsonb;
begin
  -- the stored messages are more reliable than the caller's
  if p_conversation.last_seq > 0 or jsonb_typeof(p_history) is distinct from 'array' then
    return;
  end if;
  for v_each in select value from jsonb_array_elements(p_history) with ordinality order by ordinality limit 50 loop
    v_is_theirs := v_each ->> 'author' is distinct from 'assistant';
    perform chat.say(jsonb_build_object('conversation_id', p_conversation.id,
      'author', case when v_is_theirs then 'user' else 'assistant' end,
      'kind', case when v_is_theirs then 'message' else 'reply' end,
      'text', left(v_each ->> 'text', 8000), 'data', '{"from_caller": true}'::jsonb,
      'by_guest', v_is_theirs and not queue.is_member(p_conversation.workspace_id)));
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
  elsif v_message.text <> p_request ->> 'text' or v_message.documents <> p_request -> 'documents' then
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
  v_count integer;
  v_conversation public.chat_conversations;
  v_message jsonb := p_request - '{items,history,workspace_id}'::text[];
  v_again jsonb;
  v_as_guest boolean;
  v_room integer;
  v_said public.chat_messages;
  v_begun jsonb;
begin
  perform chat.check_message(v_message);
  if jsonb_typeof(v_items) <> 'array' or jsonb_array_length(v_items) > 3 then
    perform queue.refuse(400, 'invalid_argument', 'items must be at most 3 of {kind, title, instruction}', 'items');
  end if;
  v_conversation := chat.enter(p_session_id, queue.uuid_or_refuse(p_request ->> 'workspace_id', 'workspace_id'));
  v_again := chat.request_again(v_conversation, p_request);
  if v_again is not null then
    return v_again;
  end if;
  perform chat.remember(v_conversation, p_request -> 'history');
  v_count := jsonb_array_length(v_items);
  v_as_guest := not queue.is_member(v_conversation.workspace_id);
  perform chat.check_pace(v_conversation.workspace_id, case when v_as_guest then v_conversation.session_id end,
    -- of a reply the most it can use without repeated requests
    case when v_count = 0 then 32000 else 0 end);
  if v_count > 0 or p_request ->> 'mode' = 'work' then
    v_room := chat.room(v_conversation, greatest(1, v_count));
    if v_room is null then
      perform queue.refuse(429, 'quota_exceeded',
        'too much work is queued here already; wait for some of it, or cancel some', 'work_items');
    end if;
  end if;
  v_said := chat.say(v_message - '{mode,ask,ask_seconds,seed}'::text[] || jsonb_build_object(
    'conversation_id', v_conversation.id, 'author', 'user', 'kind', 'message',
    'request', v_message - '{text,client_id,documents}'::text[], 'created_by', auth.uid(), 'by_guest', v_as_guest));
  if v_count > 0 then
    v_begun := chat.begin_work(v_conversation, v_said.id, v_items, auth.uid(), null);
    perform chat.say(jsonb_build_object('conversation_id', v_conversation.id, 'author', 'assistant', 'kind', 'plan',
      'text', chat.plan_text(v_items, v_room),
      'data', jsonb_build_object('tier', 'async', 'work_items', v_begun -> 'ids', 'message_id', v_said.id)));
  else
    -- the platform's own job: no person may enqueue it, but it is for the person
    v_begun := queue.enqueue(v_conversation.workspace_id, null,
      jsonb_build_array(jsonb_build_object('job_type', 'chat_reply', 'user_id', auth.uid(),
      'payload', jsonb_build_object('conversation_id', v_conversation.id, 'message_id', v_said.id),
      'session_id', v_conversation.session_id, 'concurrency_key', v_conversation.id, 'priority', 10)), false);
    update public.chat_messages set job_id = (v_begun #>> '{ids,0}')::uuid where id = v_said.id
    returning * into v_said;
  end if;
  perform chat.retain(5);
  perform queue.admit_guest('chat_guest_messages'); -- last: others wait for the count
  return jsonb_build_object('conversation_id', v_conversation.id, 'message_id', v_said.id, 'job_id', v_said.job_id,
    'created', true, 'wake', v_begun -> 'wake');
end;
$$;
comment on function chat.request is E'Send a message in a session: {conversation_id, message_id, job_id, created, wake}; chat_outcome returns what became of it.\n\np_request is {text, client_id, documents, mode, ask, ask_seconds, seed, items, history, workspace_id}: items are work to begin at once; without them a reply is written. The first message begins the session, for the calling user, or for guests where they are allowed. 422 for an id that is not a key, 404 for another''s, 429 for too much.';

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
        'offline', v_said.offline, 'tier', v_said.data -> 'tier', 'reasons', v_said.data -> 'reasons') end,
    'work', (
      select coalesce(jsonb_agg(jsonb_build_object('id', w.id, 'type', w.type, 'status', w.status, 'title', w.title,
        'estimatedDuration', chat.estimate_ms(w.type)) order by w.job_id), '[]')
      from public.async_work_items as w
      where w.job_id = any (array(
        select value::uuid from jsonb_array_elements_text(coalesce(v_said.data -> 'work_items', '[]'))))));
end;
$$;
comment on function chat.outcome is 'The state of a message of a session: {status, progress, error_message, message, work}; message is null until there is a reply.';

-- 3. How a session stands -----------------------------------------------------------------------------------

create function chat.queue_status() returns jsonb
language sql stable
set search_path = ''
as $$
  -- not by the view, and each by its own lookup: joins would read all work where the planner expects much to be live
  select jsonb_build_object(
    'queued', count(*) filter (where j.status = 'pending' or j.status = 'waiting' and e.job_id is null),
    'executing', count(*) filter (where j.status = 'processing'))
  from queue.live_jobs as l
  cross join lateral (select i.job_id from public.chat_work_items as i where i.job_id = l.job_id offset 0) as i
  cross join lateral (select x.* from public.jobs as x where x.id = i.job_id offset 0) as j
  left join public.job_events as e
    on j.status = 'waiting' and e.job_id = j.id and e.seq = j.last_seq and e.type = 'job.waiting'
      and e.data #>> '{wait,kind}' = 'ask'
$$;
comment on function chat.queue_status is 'Work items of all sessions in the queue and under way, as async_work_items '
  'has them: {queued, executing}.';

create function chat.question(p_note public.chat_notes) returns jsonb
language sql stable
set search_path = ''
as $$
  select jsonb_strip_nulls(jsonb_build_object(
    'id', 'msg_' || p_note.id,
    'workId', (select 'work_' || i.job_id from public.chat_work_items as i where i.job_id = p_note.job_id),
    'direction', p_note.direction, 'type', p_note.type,
    'content', p_note.content, 'requiresResponse', p_note.type = 'question',
    'timestamp', floor(date_part('epoch', p_note.created_at) * 1000)::bigint,
    'options', p_note.options, 'default', p_note.default_answer,
    'expiresAt', floor(date_part('epoch', p_note.expires_at) * 1000)::bigint,
    'answers', 'msg_' || p_note.answers,
    'result', case when p_note.direction = 'to_user' and p_note.type = 'info' then chat.result_of(p_note.job_id) end))
$$;
comment on function chat.question is 'A note as clients read it, with the result that it is about; times are Unix ms.';

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

create function chat.replies(p_conversation_id uuid) returns jsonb
language sql stable
set search_path = ''
as $$
  select coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('messageId', 'msg_' || m.id, 'jobId', j.id,
    'status', j.status,
    'error', case when j.status = 'failed' then j.error_message end, 'result', chat.result_of(m.job_id)))
    order by m.seq), '[]')
  from (
    select x.id, x.seq, x.job_id from public.chat_messages as x
    where x.conversation_id = p_conversation_id and x.kind = 'message'
    order by x.seq desc limit 10) as m
  join public.jobs as j on j.id = m.job_id
  left join public.chat_messages as r on r.job_id = m.job_id and r.author = 'assistant'
  where r.kind is distinct from 'plan'
$$;
comment on function chat.replies is 'The replies to the latest 10 messages: [{messageId, jobId, status, result?, error?}].';

create function chat.may_delete(p_conversation public.chat_conversations) returns boolean
language sql stable
set search_path = ''
as $$
  select coalesce(queue.is_service_role() or p_conversation.created_by = auth.uid()
    or queue.is_manager(p_conversation.workspace_id)
    -- a member who reads a guest session's id is not a guest
    or p_conversation.created_by is null and p_conversation.by_guest
      and not queue.is_member(p_conversation.workspace_id), false)
$$;
comment on function chat.may_delete is 'Whether the caller, who may see the conversation, may delete it: its creator, '
  'a manager, or a guest what a guest began.';

create function chat.said(p_session_id text, p_before numeric default null, p_limit numeric default 50) returns jsonb
language plpgsql stable
security definer -- guests hold no rights on any table
set search_path = ''
as $$
declare
  v_conversation public.chat_conversations := chat.session_or_null(p_session_id);
begin
  if v_conversation.id is null
    and not exists (select from queue.may_join_guest_session(chat.guest_session_of(p_session_id))) then
    perform queue.refuse_session();
  end if;
  return jsonb_build_object('sessionId', p_session_id, 'conversationId', v_conversation.id,
    'title', v_conversation.title, 'mayDelete', chat.may_delete(v_conversation), 'messages', (
    select coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('id', 'msg_' || m.id, 'seq', m.seq,
      'role', m.author, 'kind', m.kind, 'content', m.text,
      'timestamp', floor(date_part('epoch', m.created_at) * 1000)::bigint, 'model', m.model,
      'mine', case when m.author = 'user' then m.created_by is not distinct from auth.uid() end,
      'byGuest', case when m.author = 'user' then m.by_guest end, 'title', m.data -> 'title',
      'tier', m.data -> 'tier', 'question', m.data -> 'question',
      'work', (select jsonb_agg('work_' || w.value) from jsonb_array_elements_text(m.data -> 'work_items') as w),
      'documents', (
        select jsonb_agg(jsonb_build_object('title', d.value -> 'title', 'characters',
          char_length(d.value ->> 'text')) order by d.ordinality)
        from jsonb_array_elements(m.documents) with ordinality as d),
      'result', case when m.kind = 'result' then chat.result_of(m.job_id) end)) order by m.seq), '[]')
    from (
      select * from public.chat_messages as x
      where x.conversation_id = v_conversation.id and (p_before is null or x.seq < queue.whole(p_before, 'p_before'))
      order by x.seq desc limit least(200, greatest(1, coalesce(queue.whole(p_limit, 'p_limit'), 50)))) as m));
end;
$$;
comment on function chat.said is 'The latest messages of a session before seq p_before, in order: {sessionId, conversationId, title, mayDelete, messages: [{id, seq, role, kind, content, timestamp, model?, mine?, byGuest?, title?, tier?, question?, work?, documents?, result?}]}. 404 for an unknown session.';

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
        'id', w.id, 'type', w.type, 'title', w.title, 'status', w.status, 'estimatedDuration', chat.estimate_ms(w.type),
        'elapsedSeconds', greatest(0, floor(date_part('epoch', queue.clock() - w.created_at))::integer),
        'progress', chat.progress(w.status, w.progress)) order by w.job_id), '[]')
      from public.async_work_items as w
      where w.conversation_id = v_id and w.status in ('accepted', 'in_progress', 'waiting_for_user')),
    'endedWork', (
      select coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('id', w.id, 'type', w.type, 'title', w.title,
        'status', w.status, 'error', case when w.status = 'failed' then w.error_message end,
        'result', chat.result_of(w.job_id))) order by w.job_id), '[]')
      from (
        select * from public.async_work_items as x
        where x.conversation_id = v_id and x.status in ('completed', 'failed', 'cancelled')
        order by x.job_id desc limit 20) as w),
    'replies', chat.replies(v_id),
    'pendingQuestions', chat.pending_questions(v_id),
    'unreadMessageCount', (
      select count(*) from public.chat_notes as n
      where n.conversation_id = v_id and n.direction = 'to_user' and n.delivered_at is null and chat.is_visible(n)),
    'queueStatus', chat.queue_status());
end;
$$;
comment on function chat.status is E'The state of a session''s work: {sessionId, activeWork, endedWork, replies, pendingQuestions, unreadMessageCount, queueStatus}.\n\nEmpty lists for a session that is unknown or another''s; queueStatus counts the work of all sessions.';

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
declare
  v_id uuid := (chat.session_or_null(p_session_id)).id;
begin
  return jsonb_build_object('works', (
    select coalesce(jsonb_object_agg(g.id, coalesce(
      (select jsonb_build_object('type', i.kind, 'title', i.title, 'question_id', 'msg_' || n.id,
          'default', n.default_answer, 'asked_at', n.created_at, 'result', chat.result_of(i.job_id))
        from public.chat_work_items as i
        left join lateral (
          select q.id, q.default_answer, q.created_at from public.chat_notes as q
          where q.job_id = i.job_id and q.type = 'question'
          order by q.created_at desc, q.id limit 1) as n on true
        where i.job_id = g.id and i.conversation_id = v_id),
      (select jsonb_build_object('type', 'reply', 'message_id', 'msg_' || m.id, 'result', chat.result_of(m.job_id))
        from public.chat_messages as m
        where m.conversation_id = v_id and m.job_id = g.id and m.kind = 'message'), 'null')), '{}')
    from unnest(p_job_ids) as g (id)));
end;
$$;
comment on function chat.works is 'Which of these jobs are work or replies of the session: {works: {job_id: {type, title, question_id, result}}}; null for others.';

create function chat.news(p_guest_session_ids text[]) returns jsonb
language sql stable
security definer -- guests hold no rights on any table
set search_path = ''
as $$
  select jsonb_build_object('news', coalesce(jsonb_object_agg(v.session_id, (
    select coalesce(sum(j.last_seq), 0) from public.jobs as j
    where j.session_id = v.session_id and j.workspace_id = v.workspace_id)), '{}'))
  from queue.may_join_guest_sessions(p_guest_session_ids[1:2000]) as v
$$;
comment on function chat.news is E'A mark for each of at most 2,000 guest sessions that the caller may join: {news: {id: number}}; it grows with each event.\n\nOne read for many streams. Unknown sessions, ended ones and another''s are omitted alike.';

-- 4. Cancelling, and messages between people and work --------------------------------------------------------

create function chat.job_of(
  p_work_id text, p_session_id text, out job_id uuid, out conversation_id uuid
) returns record
language sql stable
set search_path = ''
as $$
  select t.job_id, t.conversation_id
  from (
    select i.job_id, i.conversation_id from public.chat_work_items as i
    where i.job_id = case when p_work_id ~ '^work_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
      then substr(p_work_id, 6)::uuid end
    union all
    select m.job_id, m.conversation_id from public.chat_messages as m
    where m.kind = 'message' and m.job_id is not null
      and m.id = case when p_work_id ~ '^msg_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
        then substr(p_work_id, 5)::uuid end) as t
  join public.chat_conversations as c on c.id = t.conversation_id
  where (p_session_id is null or c.session_id = chat.guest_session_of(p_session_id))
    -- guests may steer work whose id they know, which no one else is given
    and queue.may_see(c.workspace_id, c.session_id)
$$;
comment on function chat.job_of is 'The job of a work item, or of the reply to a message, by its outside id, if the '
  'caller may steer it: as member, as its session''s user, or as a guest who knows it.';

create function chat.cancel_work(p_session_id text, p_work_id text, p_all boolean) returns jsonb
language plpgsql
security definer -- guests hold no rights on any table
set search_path = ''
as $$
declare
  v_conversation_id uuid;
  v_status text;
  v_ids uuid[];
begin
  if p_work_id is not null then
    select array[o.job_id], o.conversation_id into v_ids, v_conversation_id
    from chat.job_of(p_work_id, p_session_id) as o where o.job_id is not null;
    if v_conversation_id is null then
      perform queue.refuse(404, 'work_item_not_found', 'no such work', p_work_id);
    end if;
  else
    v_conversation_id := (chat.session_or_null(p_session_id)).id;
    if v_conversation_id is null then
      perform queue.refuse_session();
    end if;
    v_ids := array(select i.job_id from public.chat_work_items as i where i.conversation_id = v_conversation_id);
  end if;
  -- the conversation before its jobs, as everywhere
  perform 1 from public.chat_conversations where id = v_conversation_id for update;
  if p_work_id is not null then
    select case when r.id is not null then 'completed' else coalesce(j.status, 'cancelled') end into v_status
    from unnest(v_ids) as g (id)
    left join public.jobs as j on j.id = g.id
    left join public.chat_messages as r on r.job_id = g.id and r.author = 'assistant';
    if v_status in ('completed', 'failed', 'cancelled') then
      perform queue.refuse(409, 'invalid_state', format('the work is %s already', v_status), v_status);
    end if;
  end if;
  v_ids := array(
    select j.id from public.jobs as j
    where j.id = any (v_ids) and j.finished_at is null
      -- what is posted after this is refused: so that one of the two comes first for all readers
      and not exists (select from public.chat_messages as r where r.job_id = j.id and r.author = 'assistant')
    order by j.id);
  perform queue.cancel(v_ids, queue.clock());
  return jsonb_build_object('success', true, 'cancelled', case when p_work_id is not null
    then jsonb_build_array(p_work_id)
    else (select coalesce(jsonb_agg('work_' || id order by id), '[]') from unnest(v_ids) as id) end,
    'message', 'Work cancelled successfully');
end;
$$;
comment on function chat.cancel_work is 'Cancel one work item by its id, the reply to a message by the message''s id, or all work of a session: {success, cancelled, message}. 404 unknown, 409 when it has ended.';

create function chat.sessions(
  p_workspace_id uuid default null, p_before jsonb default null, p_limit numeric default 50
) returns jsonb
language plpgsql stable
security definer -- members hold no rights on the engine's schema
set search_path = ''
as $$
declare
  v_workspace uuid := queue.workspace_or_refuse(p_workspace_id);
begin
  return jsonb_build_object('sessions', (
    -- each state by its own lookup: a join would read all conversations where the planner expects few
    select coalesce(jsonb_agg((
      select to_jsonb(s) - 'topic_session_id' || jsonb_build_object('session_id', s.topic_session_id)
      from public.async_session_state as s where s.conversation_id = c.id)
      order by c.last_message_at desc, c.id desc), '[]')
    from (
      select x.id, x.last_message_at from public.chat_conversations as x
      where x.workspace_id = v_workspace and (nullif(p_before, 'null') is null
        or (x.last_message_at, x.id) < ((p_before ->> 'at')::timestamptz, (p_before ->> 'id')::uuid))
      order by x.last_message_at desc, x.id desc
      limit least(200, greatest(1, coalesce(queue.whole(p_limit, 'p_limit'), 50)))) as c));
exception when data_exception then
  perform queue.refuse(400, 'invalid_argument', 'the cursor must be {at, id}', 'cursor');
end;
$$;
comment on function chat.sessions is 'Sessions of a workspace by their latest message, newest first, after p_before {at, id}: {sessions}, each as async_session_state.';

create function chat.delete(p_session_id text) returns jsonb
language plpgsql
security definer -- no role may write conversations directly
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_conversation public.chat_conversations := chat.session_or_null(p_session_id);
begin
  if v_conversation.id is null then
    perform queue.refuse_session();
  end if;
  if not chat.may_delete(v_conversation) then
    perform queue.refuse(403, 'forbidden', 'only who began a conversation and managers may delete it', p_session_id);
  end if;
  perform 1 from public.chat_conversations where id = v_conversation.id for update;
  perform chat.forget(array[v_conversation.id]);
  return jsonb_build_object('sessionId', p_session_id, 'deleted', true);
end;
$$;
comment on function chat.delete is 'Delete a session''s conversation and cancel its live work: {sessionId, deleted}. For its creator, managers, and guests in what a guest began.';

create function chat.notes_of(p_session_id text, p_work_id text default null, p_limit numeric default 100) returns jsonb
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
    limit least(200, greatest(1, coalesce(queue.whole(p_limit, 'p_limit'), 100))));
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
comment on function chat.notes_of is 'The notes of a session, between its work items and people: {sessionId, workId, messages, pendingQuestions, unreadCount}. Returned notes count as read.';

create function chat.answer(
  p_conversation public.chat_conversations, p_question public.chat_notes, p_content text
) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_job public.jobs;
  v_wait jsonb;
  v_note uuid;
begin
  -- the conversation before its jobs, as everywhere
  perform 1 from public.chat_conversations where id = p_conversation.id for update;
  select * into v_job from public.jobs where id = p_question.job_id for update;
  if v_job.status = 'waiting' then
    select e.data -> 'wait' into v_wait from public.job_events as e
    where e.job_id = v_job.id and e.seq = v_job.last_seq and e.type = 'job.waiting'
      and e.data #>> '{wait,kind}' = 'ask';
  end if;
  if v_wait is null then
    perform queue.refuse(409, 'invalid_state', 'it asks nothing, or was answered before', v_job.status);
  elsif p_question.name <> v_wait ->> 'name' then
    perform queue.refuse(409, 'invalid_state', 'it asks something else by now', v_wait ->> 'name');
  elsif (v_wait ->> 'until')::timestamptz <= queue.clock() then
    perform queue.refuse(409, 'invalid_state', 'the time to answer is over; its default was taken', 'timed_out');
  end if;
  perform chat.say(jsonb_build_object('conversation_id', p_conversation.id, 'author', 'user', 'kind', 'answer',
    'text', p_content, 'data', jsonb_build_object('question', v_wait -> 'question'), 'job_id', v_job.id,
    'created_by', auth.uid(), 'by_guest', not queue.is_member(p_conversation.workspace_id)));
  insert into public.chat_notes (conversation_id, workspace_id, job_id, direction, type, content, answers)
  values (p_conversation.id, p_conversation.workspace_id, v_job.id, 'to_work', 'answer', p_content, p_question.id)
  returning id into v_note;
  perform queue.resume(jsonb_build_array(jsonb_build_object('job_id', v_job.id, 'name', v_wait ->> 'name',
    'value', jsonb_build_object('answer', p_content, 'by', auth.uid()))), queue.clock());
  return jsonb_build_object('success', true, 'messageId', 'msg_' || v_note, 'workId', 'work_' || v_job.id,
    'status', 'answered', 'wake', queue.request_wake());
end;
$$;
comment on function chat.answer is 'Answer a question of the conversation, once: its message, its note, and the work '
  'resumes. 409 when it was answered, or its time has passed.';

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
      return chat.answer(v_conversation, v_question, p_content);
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
  perform queue.admit_guest('chat_guest_messages');
  insert into public.chat_notes (conversation_id, workspace_id, job_id, direction, type, content)
  values (v_conversation.id, v_conversation.workspace_id, v_item.job_id, 'to_work', 'info', p_content)
  returning * into v_note;
  return jsonb_build_object('success', true, 'messageId', 'msg_' || v_note.id, 'workId', 'work_' || v_note.job_id,
    'status', 'delivered', 'wake', false);
end;
$$;
comment on function chat.respond is 'Answer a question with any text, or send guidance to live work: {success, messageId, workId, status, wake}. 409 for a second answer and for work that has ended.';

-- 5. What the worker says and reads ---------------------------------------------------------------------------

create function public.chat_note(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_held record;
begin
  v_held := chat.held(p_request, p_or_refuse => true);
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
  v_held := chat.held(p_request, p_or_refuse => false);
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

revoke execute on all functions in schema chat from public, anon, authenticated, service_role;
select queue.expose('chat', 'public.chat_', 'anon, authenticated, service_role', 'request', 'outcome', 'status', 'said',
  'delete', 'works', 'news', 'cancel_work', 'notes_of', 'respond');
select queue.expose('chat', 'public.chat_', 'authenticated, service_role', 'sessions');
select queue.allow('job_worker, service_role', 'public.chat_note', 'public.chat_guidance');
