-- The chat app has sessions, their messages, and the background work that a message requests. Each
-- message belongs to a job of the queue, which stores the state, progress and events of the
-- background work. The engine does not depend on this app, so the app can be deleted.

create schema if not exists chat;
revoke all on schema chat from public;

create table public.async_session_state (
  session_id text primary key,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  title text not null,
  created_by uuid, -- null for a guest's session, which is open to everyone who has its id
  created_at timestamptz not null default queue.clock(),
  last_message_at timestamptz not null default queue.clock()
);
comment on table public.async_session_state is
  'Chat sessions. Members see the sessions of their workspaces.';
create index async_session_state_newest
  on public.async_session_state (workspace_id, last_message_at desc);
create index async_session_state_oldest
  on public.async_session_state (last_message_at);

create table public.async_messages (
  -- the id of a message is random, because the id grants access to the page of a result
  id uuid primary key default gen_random_uuid(),
  seq bigint generated always as identity unique,
  session_id text not null
    references public.async_session_state (session_id) on delete cascade,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  job_id uuid not null,
  type text not null,
  content text not null,
  -- type of the background work that the message requests, null for other messages
  work_type text,
  work_title text,
  question jsonb, -- {options, default, expires_at} of a question
  answers uuid, -- id of the question that this message answers
  client_id text,
  read_at timestamptz,
  created_at timestamptz not null default queue.clock(),
  constraint async_messages_type_is_known
    check (type in ('message', 'reply', 'question', 'answer', 'info')),
  constraint async_messages_are_bounded
    check (char_length(content) between 1 and 250000),
  constraint async_messages_client_id_is_bounded check (char_length(client_id) <= 255),
  constraint async_messages_are_sent_once unique (session_id, client_id),
  constraint async_messages_answer_once unique (answers)
);
comment on table public.async_messages is
  'Messages in a session, from people and from background work, ordered by seq.';
create index async_messages_of_a_session on public.async_messages (session_id, seq);
create index async_messages_of_a_workspace
  on public.async_messages (workspace_id, created_at);
create index async_messages_requests on public.async_messages (seq)
  where type = 'message';
create unique index async_messages_one_a_job on public.async_messages (job_id, type)
  where type <> 'answer';

create view public.async_work_items with (security_invoker = true) as
select
  'work_' || m.job_id as id,
  m.session_id,
  m.workspace_id,
  m.job_id,
  m.work_type as type,
  m.work_title as title,
  case
    when j.status = 'processing' and j.cancel_requested_at is not null
      then 'cancelling'
    when j.status = 'pending' and j.started_at is null then 'accepted'
    when j.status in ('pending', 'processing') then 'in_progress'
    when j.status = 'waiting' then 'waiting_for_user'
    else coalesce(j.status, 'completed') -- j is null if retention has deleted the job
  end as status,
  jsonb_build_object(
    'stage', case j.status
      when 'completed' then 'DONE'
      else coalesce(j.progress ->> 'stage', 'ANALYZING')
    end,
    'percentage', coalesce((j.progress ->> 'percentage')::numeric, 0),
    'message', coalesce(j.progress ->> 'message', 'Waiting in the queue')
  ) as progress,
  j.result,
  queue.user_message(j.error_message, j.error_data) as error_message,
  j.attempts,
  m.created_at,
  j.started_at,
  coalesce(j.updated_at, m.created_at) as updated_at,
  j.finished_at as completed_at
from public.async_messages as m
left join public.jobs as j on j.id = m.job_id
where m.type = 'message' and m.work_type is not null;
comment on view public.async_work_items is 'Background work of chats.';

insert into queue.settings (name, value)
values
  -- minimum length of a session id that a caller chooses, because the id grants access to a guest's
  -- session
  ('chat_session_id_min_characters', '32'),
  ('chat_guest_messages_per_minute', '60'), -- limit per address, or null for no limit
  ('chat_retention_days', '90'); -- days after the latest message in the session

-- 1. Functions that find the sessions which a caller may use --------------------------------------

create function chat.session_or_null(p_session_id text)
returns public.async_session_state
language sql stable
set search_path = ''
as $$
select s.*
from public.async_session_state as s
where s.session_id = p_session_id
  and (s.created_by is null or queue.is_member(s.workspace_id))
$$;

create function chat.session_or_refuse(p_session_id text)
returns public.async_session_state
language plpgsql stable
set search_path = ''
as $$
declare
  v_session public.async_session_state := chat.session_or_null(p_session_id);
begin
  if v_session.session_id is null then
    perform queue.refuse(
      404,
      'session_not_found',
      'Session not found',
      p_session_id
    );
  end if;
  return v_session;
end;
$$;

create function chat.enter(p_session_id text, p_workspace_id uuid, p_title text)
returns public.async_session_state
language plpgsql
set search_path = ''
as $$
declare
  v_least integer := (
    queue.setting('chat_session_id_min_characters') #>> '{}'
  )::integer;
  v_workspace uuid;
begin
  if p_session_id !~ '^[A-Za-z0-9._~:-]{1,200}$'
    or char_length(p_session_id) < v_least
  then
    perform queue.refuse(
      422,
      'session_id_invalid',
      format(
        'x-session-id must have %s to 200 letters, digits or ._~:-, and be hard to guess, because '
          'everyone who knows it can read the session',
        v_least
      ),
      'x-session-id'
    );
  end if;
  v_workspace := case
    when queue.caller() is null then queue.guest_workspace(
      '00000000-0000-4000-8000-00000000c4a7',
      'Guests of the chat',
      'chat_guest_messages'
    )
    else (public.own_workspace(p_workspace_id) ->> 'workspace_id')::uuid
  end;
  insert into public.async_session_state (
    session_id, workspace_id, title, created_by
  )
  values (p_session_id, v_workspace, left(p_title, 80), queue.caller())
  on conflict (session_id) do nothing;
  update public.async_session_state
  set last_message_at = queue.clock()
  where session_id = p_session_id;
  return chat.session_or_refuse(p_session_id);
end;
$$;

-- 2. Functions that post messages and return their outcome ----------------------------------------

-- Delete up to five sessions whose latest message is older than the retention time.
create function chat.forget_old_sessions()
returns void
language sql
set search_path = ''
as $$
delete from public.async_session_state
where session_id in (
  select s.session_id
  from public.async_session_state as s
  where s.last_message_at < queue.clock()
  - make_interval(days => (queue.setting('chat_retention_days'))::integer)
  order by s.last_message_at
  limit 5
  for update skip locked
)
$$;

-- Copy the messages before p_message_id into a new session, up to the latest 100 messages or
-- 250,000 characters, because a guest pays for one message only. The copies belong to no job, so
-- that the new session neither shows background work as running nor changes the work.
create function chat.branch(
  p_session public.async_session_state,
  p_message_id uuid
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_edited public.async_messages;
begin
  select * into v_edited
  from public.async_messages as m
  where m.id = p_message_id
    and m.type = 'message'
    and m.workspace_id = p_session.workspace_id
    and (chat.session_or_null(m.session_id)).session_id is not null;
  if not found then
    perform queue.refuse(404, 'message_not_found', 'Message not found', p_message_id::text);
  end if;
  insert into public.async_messages (
    session_id, workspace_id, job_id, type, content, work_type, work_title, question, read_at,
    created_at
  )
  select
    p_session.session_id,
    m.workspace_id,
    -- the same job id for a message and its reply, as in the old session
    md5(p_session.session_id || m.job_id)::uuid,
    m.type,
    m.content,
    m.work_type,
    m.work_title,
    m.question,
    queue.clock(),
    m.created_at
  from (
    select *, sum(char_length(x.content)) over (order by x.seq desc) as characters
    from public.async_messages as x
    where x.session_id = v_edited.session_id and x.seq < v_edited.seq
    order by x.seq desc
    limit 100
  ) as m
  where m.characters <= 250000
  order by m.seq;
end;
$$;

create function chat.request(p_session_id text, p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$ -- no role may write messages directly
declare
  v_text text := p_request ->> 'text';
  v_session public.async_session_state;
  v_message public.async_messages;
  v_made record;
begin
  perform queue.hold_id(p_session_id);
  if coalesce(char_length(v_text), 0) not between 1 and 8000 then
    perform queue.refuse(
      422,
      'message_invalid',
      'text must have 1 to 8000 characters',
      'text'
    );
  end if;
  v_session := chat.enter(
    p_session_id,
    (p_request ->> 'workspace_id')::uuid,
    v_text
  );
  select * into v_message
  from public.async_messages
  where session_id = p_session_id and client_id = p_request ->> 'client_id';
  if found and v_message.content <> v_text then
    perform queue.refuse(
      409,
      'idempotency_conflict',
      'another message has this Idempotency-Key',
      v_message.id::text
    );
  elsif found then
    return jsonb_build_object(
      'message_id', v_message.id,
      'job_id', v_message.job_id,
      'wake', false
    );
  end if;
  if p_request ->> 'branch_from' is not null and not exists (
    select from public.async_messages as m where m.session_id = p_session_id
  ) then
    perform chat.branch(v_session, (p_request ->> 'branch_from')::uuid);
  end if;
  v_message.id := gen_random_uuid();
  v_made := queue.enqueue(
    v_session.workspace_id,
    null,
    jsonb_build_array(jsonb_build_object(
      'job_type', 'chat_message',
      'user_id', queue.caller(),
      'session_id', p_session_id,
      'priority', 10,
      'payload', jsonb_build_object(
        'message_id', v_message.id,
        'ask_seconds', p_request -> 'ask_seconds'
      )
    )),
    false
  );
  insert into public.async_messages (
    id, session_id, workspace_id, job_id, type, content, client_id
  )
  values (
    v_message.id,
    p_session_id,
    v_session.workspace_id,
    v_made.ids[1],
    'message',
    v_text,
    p_request ->> 'client_id'
  );
  perform chat.forget_old_sessions();
  return jsonb_build_object(
    'message_id', v_message.id,
    'job_id', v_made.ids[1],
    'wake', v_made.wake
  );
-- remove the detail of the error, because Postgres puts the failing row into the detail, and the
-- row may contain ids of other people
exception when not_null_violation or check_violation then
  raise exception using errcode = sqlstate, message = sqlerrm;
end;
$$;
comment on function chat.request is
  'Post a message {text, client_id, ask_seconds, workspace_id, branch_from}: {message_id, job_id, '
  'wake}. branch_from is the id of a message whose session a new session copies up to there.';

create function chat.milliseconds(p_at timestamptz)
returns bigint
language sql immutable
set search_path = ''
as $$
select floor(date_part('epoch', p_at) * 1000)::bigint
$$;

create function chat.result(p_job_id uuid)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object('messageId', 'msg_' || m.id, 'text', m.content) || case
  when jsonb_typeof(j.result -> 'page') = 'object' then jsonb_build_object(
    'page', jsonb_build_object(
      'title', j.result #> '{page,title}',
      'url', '/api/chat/pages/msg_' || m.id
    )
  )
  else '{}'
end
from public.async_messages as m
left join public.jobs as j on j.id = m.job_id
where m.job_id = p_job_id and m.type = 'info'
$$;

-- Return the job's last progress message if the job has started and waits for its next attempt, and
-- otherwise null.
create function chat.waits_for(p_job public.jobs)
returns text
language sql stable
set search_path = ''
as $$
select p_job.progress ->> 'message'
where p_job.status = 'pending' and p_job.started_at is not null
$$;

create function chat.outcome(p_session_id text, p_message_id uuid)
returns jsonb
language sql stable
security definer
set search_path = ''
as $$ -- guests have no rights on tables
select jsonb_build_object(
  'status', j.status,
  'error_message', queue.user_message(j.error_message, j.error_data),
  'waits_for', chat.waits_for(j),
  'reply', r.content,
  'work', case
    when w.id is null then '[]'
    else jsonb_build_array(jsonb_build_object(
      'id', w.id,
      'type', w.type,
      'status', w.status,
      'estimatedDuration', 30000
    ))
  end
)
from chat.session_or_refuse(p_session_id) as s
join public.async_messages as m
  on m.id = p_message_id and m.session_id = s.session_id
left join public.jobs as j on j.id = m.job_id
left join public.async_work_items as w on w.job_id = m.job_id
left join public.async_messages as r on r.job_id = m.job_id and r.type = 'reply'
$$;
comment on function chat.outcome is
  'Outcome of a message: {status, error_message, waits_for, reply, work}.';

-- Return the reply that the latest attempt of the job has streamed so far.
create function chat.words_of(p_job_id uuid)
returns text
language sql stable
set search_path = ''
as $$
select string_agg(o.text, '' order by o.end_offset)
from queue.output as o
where o.job_id = p_job_id
  and o.stream = 'reply'
  and o.attempt = (
    select max(x.attempt)
    from queue.output as x
    where x.job_id = p_job_id and x.stream = 'reply'
  )
$$;

create function chat.message_json(p_message public.async_messages)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_strip_nulls(jsonb_build_object(
  'id', 'msg_' || p_message.id,
  'job', p_message.job_id,
  'type', p_message.type,
  'role', case
    when p_message.type in ('message', 'answer') then 'user'
    else 'assistant'
  end,
  'content', p_message.content,
  'timestamp', chat.milliseconds(p_message.created_at),
  'work', (
    select 'work_' || m.job_id
    from public.async_messages as m
    where m.job_id = p_message.job_id
      and m.type = 'message'
      and m.work_type is not null
  )
)) || case p_message.type
  when 'message' then coalesce(
    (
      select jsonb_strip_nulls(jsonb_build_object(
        'status', j.status,
        'error', queue.user_message(j.error_message, j.error_data),
        'waits_for', chat.waits_for(j),
        'said', case when j.status in ('failed', 'cancelled') then chat.words_of(j.id) end
      ))
      from public.jobs as j
      where j.id = p_message.job_id
    ),
    '{"status": "completed"}'
  )
  when 'info' then jsonb_build_object('result', chat.result(p_message.job_id))
  when 'question' then coalesce(
    (
      -- the default answer that the background work used, because no one answered the question
      select jsonb_build_object('used', j.result -> 'answer')
      from public.jobs as j
      where j.id = p_message.job_id
        and j.status = 'completed'
        and not exists (
          select from public.async_messages as a
          where a.answers = p_message.id
        )
    ),
    '{}'
  )
  else '{}'
end
$$;

create function chat.said(p_session_id text)
returns jsonb
language sql stable
security definer
set search_path = ''
as $$ -- guests have no rights on tables
select jsonb_build_object(
  'sessionId', p_session_id,
  'title', s.title,
  'messages', (
    select coalesce(jsonb_agg(chat.message_json(m) order by m.seq), '[]')
    from (
      select x.*
      from public.async_messages as x
      where x.session_id = s.session_id
      order by x.seq desc
      limit 100
    ) as m
  )
)
from chat.session_or_null(p_session_id) as s
cross join lateral queue.take_call_slot(s.workspace_id)
$$;
comment on function chat.said is
  'The latest messages of a session, in order: {sessionId, title, messages}. An unknown session '
  'has no messages.';

create function chat.page(p_message_id uuid)
returns jsonb
language sql stable
security definer
set search_path = ''
as $$ -- the random id grants access
select jsonb_build_object(
  'page', (
    select j.result -> 'page'
    from public.async_messages as m
    join public.jobs as j on j.id = m.job_id
    where m.id = p_message_id and m.type = 'info'
  )
)
$$;
comment on function chat.page is
  'Content of the page of a result, by the id of the result''s message: {page}.';

-- 3. Functions that return the state of a session's background work -------------------------------

-- Return true if p_message is a question that waits for an answer.
create function chat.is_open(p_message public.async_messages)
returns boolean
language sql stable
set search_path = ''
as $$
select p_message.type = 'question'
  and exists (
    select from public.jobs as j
    where j.id = p_message.job_id and j.status = 'waiting'
  )
  and not exists (
    select from public.async_messages as a
    where a.answers = p_message.id
  )
$$;

create function chat.note(p_message public.async_messages)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_strip_nulls(jsonb_build_object(
  'id', 'msg_' || p_message.id,
  'workId', 'work_' || p_message.job_id,
  'direction', case p_message.type when 'answer' then 'to_work' else 'to_user' end,
  'type', p_message.type,
  'content', p_message.content,
  'requiresResponse', chat.is_open(p_message),
  'timestamp', chat.milliseconds(p_message.created_at),
  'options', p_message.question -> 'options',
  'default', p_message.question -> 'default',
  'expiresAt', p_message.question -> 'expires_at',
  'answers', 'msg_' || p_message.answers,
  'result', case p_message.type when 'info' then chat.result(p_message.job_id) end
))
$$;

create function chat.pending_questions(p_session_id text)
returns jsonb
language sql stable
set search_path = ''
as $$
select coalesce(jsonb_agg(chat.note(q) order by q.seq), '[]')
from public.async_messages as q
where q.session_id = p_session_id and q.type = 'question' and chat.is_open(q)
$$;

create function chat.work(p_session_id text, p_live boolean)
returns jsonb
language sql stable
set search_path = ''
as $$
select coalesce(
  jsonb_agg(
    jsonb_strip_nulls(jsonb_build_object(
      'id', w.id,
      'type', w.type,
      'title', w.title,
      'status', w.status,
      'estimatedDuration', 30000,
      'elapsedSeconds', floor(date_part(
        'epoch',
        coalesce(w.completed_at, queue.clock()) - w.created_at
      ))::integer,
      'progress', w.progress,
      'error', w.error_message,
      'result', chat.result(w.job_id)
    ))
    order by w.created_at
  ),
  '[]'
)
from (
  select *
  from public.async_work_items as x
  where x.session_id = p_session_id
    and (x.status in ('accepted', 'in_progress', 'waiting_for_user', 'cancelling'))
    = p_live
  order by x.created_at desc
  limit 50
) as w
$$;

create function chat.status(p_session_id text)
returns jsonb
language sql stable
security definer
set search_path = ''
as $$ -- guests have no rights on tables
select jsonb_build_object(
  'sessionId', p_session_id,
  'activeWork', chat.work(s.session_id, true),
  'endedWork', chat.work(s.session_id, false),
  'pendingQuestions', chat.pending_questions(s.session_id),
  'unreadMessageCount', (
    select count(*)
    from public.async_messages as m
    where m.session_id = s.session_id
      and m.type in ('question', 'info')
      and m.read_at is null
  ),
  -- Among the jobs of the latest 500 messages, count the jobs in the session's workspace. If the
  -- session does not exist, count the jobs in the workspace of the guests.
  'queueStatus', (
    select jsonb_build_object(
      'queued', count(*) filter (where j.status = 'pending'),
      'executing', count(*) filter (where j.status = 'processing')
    )
    from (
      select x.job_id
      from public.async_messages as x
      where x.type = 'message'
      order by x.seq desc
      limit 500
    ) as m
    join public.jobs as j
      on j.id = m.job_id
      and j.workspace_id
      = coalesce(s.workspace_id, '00000000-0000-4000-8000-00000000c4a7')
  )
)
from chat.session_or_null(p_session_id) as s
$$;
comment on function chat.status is
  'State of a session''s background work, empty for an unknown session.';

-- Convert an event of a job to an event of the job's chat session. Add to the event the work item,
-- and the question or result that the event reports.
create function chat.event_json(p_event jsonb, p_message public.async_messages)
returns jsonb
language sql stable
set search_path = ''
as $$
select p_event || jsonb_build_object(
  'data', p_event -> 'data' || jsonb_build_object(
    'message_id', 'msg_' || p_message.id,
    'work_type', p_message.work_type,
    'work_title', p_message.work_title,
    'brought', case p_event ->> 'type'
      when 'job.completed' then chat.result(p_message.job_id)
      when 'job.waiting' then (
        select chat.note(q)
        from public.async_messages as q
        where q.job_id = p_message.job_id and q.type = 'question'
      )
    end
  )
)
$$;

-- Read a page of the session's feed (queue.read_feed), restricted to the jobs of the session's
-- messages.
create function chat.events(p_session_id text, p_cursor text default null)
returns jsonb
language plpgsql stable
security definer
set search_path = '' -- guests have no rights on tables
set enable_seqscan = off
set jit = off
as $$
declare
  c_beginning constant text := coalesce(p_cursor, '1:1:');
  v_session constant public.async_session_state := chat.session_or_null(
    p_session_id
  );
  v_page jsonb := '{"events": [], "places": [], "more": false}';
  v_found record;
begin
  if v_session.session_id is null then
    return v_page || jsonb_build_object('cursor', c_beginning);
  end if;
  v_page := queue.read_feed(v_session.workspace_id, p_session_id, c_beginning, 200);
  select
    coalesce(jsonb_agg(chat.event_json(e.event, m) order by e.n), '[]') as events,
    coalesce(
      jsonb_agg(v_page -> 'places' -> (e.n - 1)::integer order by e.n),
      '[]'
    ) as places
  into v_found
  from jsonb_array_elements(v_page -> 'events') with ordinality as e (event, n)
  join public.async_messages as m
    on m.job_id = (e.event ->> 'job_id')::uuid and m.type = 'message';
  return v_page || to_jsonb(v_found);
end;
$$;
comment on function chat.events is
  'Return the events after a cursor, for the jobs that the messages of a session started, in the '
  'form of session_feed.';

-- 4. Functions that cancel work and answer questions ----------------------------------------------

create function chat.cancel(p_session_id text, p_work_id text)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$ -- guests have no rights on tables
declare
  v_job_id constant uuid := case
    when p_work_id ~ '^work_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
      then substr(p_work_id, 6)::uuid
  end;
  v_all public.jobs[];
  v_ids uuid[];
begin
  perform queue.hold_id(p_session_id);
  if p_work_id is null then
    perform chat.session_or_refuse(p_session_id);
  end if;
  v_all := array(
    select j
    from public.async_messages as m
    join public.jobs as j on j.id = m.job_id
    where m.type = 'message'
      and m.work_type is not null
      and (
        m.job_id = v_job_id -- a guest may cancel work if they know the id of the work
        or p_work_id is null and m.session_id = p_session_id
      )
      and (chat.session_or_null(m.session_id)).session_id is not null
  );
  v_ids := array(
    select j.id
    from unnest(v_all) as j
    where j.finished_at is null
      -- When all work of a session is cancelled, skip a job that already has a cancel request.
      and (p_work_id is not null or j.cancel_requested_at is null)
      -- Skip a job whose result is already posted, even if the worker has not settled the job yet.
      and not exists (
        select from public.async_messages as r
        where r.job_id = j.id and r.type = 'info'
      )
    order by j.id
  );
  if p_work_id is not null and v_all = '{}' then
    perform queue.refuse(404, 'work_item_not_found', 'Work not found', p_work_id);
  elsif p_work_id is not null and v_ids = '{}' then
    perform queue.refuse(
      409,
      'invalid_state',
      'the work has already ended',
      case
        when v_all[1].finished_at is null then 'completed'
        else v_all[1].status
      end
    );
  end if;
  perform queue.cancel(v_ids, queue.clock());
  return jsonb_build_object(
    'success', true,
    'message', case
      when v_ids = '{}' then 'There was no work to cancel'
      else 'Work cancelled successfully'
    end,
    'cancelled', (
      select coalesce(jsonb_agg('work_' || id), '[]')
      from unnest(v_ids) as id
    )
  );
end;
$$;
comment on function chat.cancel is
  'Cancel a work item by its id, or all of a session: {success, cancelled, message}.';

create function chat.messages(p_session_id text)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$ -- guests have no rights on tables
declare
  v_id text := (chat.session_or_null(p_session_id)).session_id;
  v_answer jsonb := (
    select jsonb_build_object(
      'sessionId', p_session_id,
      'workId', 'work_' || (array_agg(m.job_id order by m.seq desc))[1],
      'messages', coalesce(jsonb_agg(chat.note(m) order by m.seq), '[]'),
      'pendingQuestions', chat.pending_questions(v_id),
      'unreadCount', count(*) filter (
        where m.type in ('question', 'info') and m.read_at is null
      )
    )
    from (
      select *
      from public.async_messages as x
      where x.session_id = v_id and x.type in ('question', 'answer', 'info')
      order by x.seq desc
      limit 100
    ) as m
  );
begin
  perform queue.hold_id(v_id);
  update public.async_messages
  set read_at = queue.clock()
  where session_id = v_id and type in ('question', 'info') and read_at is null;
  return v_answer;
end;
$$;
comment on function chat.messages is
  'Messages between a session''s background work and people. Reading marks them as read.';

create function chat.respond(p_session_id text, p_message_id text, p_content text)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$ -- guests have no rights on tables
declare
  v_session public.async_session_state := chat.session_or_refuse(p_session_id);
  v_claims text := coalesce(current_setting('request.jwt.claims', true), '');
  v_question public.async_messages;
  v_id uuid;
begin
  perform queue.hold_id(p_session_id);
  select * into v_question
  from public.async_messages as m
  where m.session_id = v_session.session_id
    and 'msg_' || m.id = p_message_id
    and m.type = 'question';
  if not found then
    perform queue.refuse(
      404,
      'message_not_found',
      'Question not found in this session',
      p_message_id
    );
  end if;
  if queue.caller() is null then
    perform queue.admit_guest('chat_guest_messages', v_session.workspace_id);
    -- Raise an error immediately if another transaction has locked the job. Without
    -- queue.hold_jobs, answer_job would wait for the lock, because calls with the role service_role
    -- wait for locks.
    perform queue.hold_jobs(array[v_question.job_id]);
    -- Guests may not answer jobs, so the app answers as service_role. chat.session_or_refuse has
    -- already checked the guest's access to the session.
    perform set_config('request.jwt.claims', '{"role":"service_role"}', true);
  end if;
  perform public.answer_job(
    v_question.job_id,
    jsonb_build_object('answer', p_content)
  );
  perform set_config('request.jwt.claims', v_claims, true);
  insert into public.async_messages (
    session_id, workspace_id, job_id, type, content, answers
  )
  values (
    p_session_id, v_session.workspace_id, v_question.job_id, 'answer', p_content,
    v_question.id
  )
  returning id into v_id;
  return jsonb_build_object(
    'success', true,
    'messageId', 'msg_' || v_id,
    'workId', 'work_' || v_question.job_id,
    'status', 'answered'
  );
-- remove the detail of the error, because Postgres puts the failing row into the detail, and the
-- row may contain ids of other people
exception when not_null_violation or check_violation then
  raise exception using errcode = sqlstate, message = sqlerrm;
end;
$$;
comment on function chat.respond is
  'Answer a question with free text, once: {success, messageId, workId, status}.';

-- 5. Functions that only the worker calls ---------------------------------------------------------

create function public.chat_load(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$ -- the worker may not read the app's tables
declare
  v_job public.jobs := queue.held_job(
    p_request,
    array['chat_message'],
    'nothing was read'
  );
  v_message public.async_messages;
begin
  perform queue.refuse_revoked();
  select * into v_message
  from public.async_messages
  where job_id = v_job.id and type = 'message';
  return jsonb_build_object(
    'text', v_message.content,
    'progress', v_job.progress,
    'said', chat.words_of(v_job.id),
    'history', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object('type', h.type, 'content', left(h.content, 4000))
          order by h.seq
        ),
        '[]'
      )
      from (
        select *
        from public.async_messages as x
        where x.session_id = v_message.session_id and x.seq < v_message.seq
        order by x.seq desc
        limit 20
      ) as h
    )
  );
end;
$$;
comment on function public.chat_load is
  'A leased job''s message, progress, streamed reply and history: {text, progress, said, history}.';

create function public.chat_say(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$ -- the worker may not write the app's tables
declare
  v_job public.jobs := queue.held_job(
    p_request,
    array['chat_message'],
    'nothing was said'
  );
begin
  perform queue.refuse_revoked();
  update public.async_messages
  set
    work_type = p_request #>> '{work,type}',
    work_title = left(p_request #>> '{work,title}', 200)
  where job_id = v_job.id
    and type = 'message'
    and work_type is null
    and jsonb_typeof(p_request -> 'work') = 'object';
  if found then
    perform queue.append_event(
      array[v_job.id],
      'job.work_started',
      '{}',
      queue.clock()
    );
  end if;
  insert into public.async_messages (
    session_id, workspace_id, job_id, type, content, question
  )
  select
    m.session_id,
    m.workspace_id,
    m.job_id,
    p_request ->> 'type',
    left(p_request ->> 'content', 250000),
    nullif(p_request -> 'question', 'null')
  from public.async_messages as m
  where m.job_id = v_job.id and m.type = 'message'
  on conflict do nothing; -- a repeated attempt does not post the message again
  return '{"said": true}';
end;
$$;
comment on function public.chat_say is
  'Post a message {type, content, question, work} of a leased job, once: {said}.';

-- 6. Row level security, grants and marks of personal data ----------------------------------------

select queue.show_to_members('public.async_session_state');
select queue.show_to_members('public.async_messages');
select queue.show_to_members('public.async_work_items');
select queue.charge_rows('public.async_session_state', 'public.async_messages');

-- The chat of a guest has no owner. Export and erasure find the chat of a guest by a search for
-- words about the person.
comment on column public.async_session_state.session_id is 'Person: words';
comment on column public.async_session_state.title is 'Person: words';
comment on column public.async_session_state.created_by is 'Person: owner';
comment on column public.async_messages.content is 'Person: words';
comment on column public.async_messages.work_title is 'Person: words';
comment on column public.async_messages.question is 'Person: words';
comment on column public.async_messages.client_id is 'Person: words';

-- Grants. Callers may execute only the functions that are named below.
revoke execute
  on all functions in schema chat
  from public, anon, authenticated, service_role;
select queue.allow_guests(
  'chat.request',
  'chat.outcome',
  'chat.said',
  'chat.page',
  'chat.status',
  'chat.events',
  'chat.cancel',
  'chat.messages',
  'chat.respond'
);
select queue.allow('job_worker, service_role', 'public.chat_load', 'public.chat_say');
