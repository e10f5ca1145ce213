-- Chat keeps conversations, one to a session: messages, and the background work of complex requests.
-- Delete this app's migration and shared/minutehand_apps/chat, and the platform does not notice.

-- 1. Tables ------------------------------------------------------------------------------------

create schema if not exists chat;
comment on schema chat is 'The chat app''s own helpers. Not exposed.';
revoke all on schema chat from public;

create table public.chat_conversations (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  session_id text not null,
  session_name text,
  title text,
  last_seq integer not null default 0,
  created_by uuid,
  by_guest boolean not null default false,
  created_at timestamptz not null default queue.clock(),
  last_message_at timestamptz not null default queue.clock(),
  constraint chat_conversations_title_is_bounded check (char_length(title) between 1 and 200 and title ~ '\S')
);
comment on table public.chat_conversations is 'Conversations, one to a session. Every member of the workspace may read '
  'them and write in them.';
comment on column public.chat_conversations.id is 'The conversation, orders by time.';
comment on column public.chat_conversations.workspace_id is 'The workspace that owns it.';
comment on column public.chat_conversations.session_id is 'The guest session that is its key and the session of its '
  'jobs, for followers of session:<session_id>.';
comment on column public.chat_conversations.session_name is 'The session id as its caller chose it; null for ids '
  'made here.';
comment on column public.chat_conversations.title is 'Title; null until it has a first message.';
comment on column public.chat_conversations.last_seq is 'Number of the latest message.';
comment on column public.chat_conversations.created_by is 'Who began it; null for a guest without an account, and '
  'the service.';
comment on column public.chat_conversations.by_guest is 'Whether its creator is not a member of the workspace: '
  'limits of guests hold, and who has no account may delete it by its session.';
comment on column public.chat_conversations.created_at is 'When it was begun, UTC.';
comment on column public.chat_conversations.last_message_at is 'When its latest message came, UTC; when it was begun '
  'before there is one. Retention counts from here.';

create index chat_conversations_newest on public.chat_conversations (workspace_id, last_message_at desc, id desc);
create unique index chat_conversations_one_to_a_session on public.chat_conversations (session_id);
create index chat_conversations_oldest on public.chat_conversations (last_message_at);

create table public.chat_messages (
  id uuid primary key default queue.new_id(),
  conversation_id uuid not null references public.chat_conversations (id) on delete cascade,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  seq integer not null,
  author text not null,
  kind text not null,
  text text not null,
  documents jsonb not null default '[]',
  request jsonb,
  data jsonb,
  model text,
  offline boolean not null default false,
  input_tokens integer not null default 0,
  output_tokens integer not null default 0,
  cost_usd numeric(12, 6) not null default 0,
  client_id text,
  job_id uuid,
  created_by uuid,
  by_guest boolean not null default false,
  created_at timestamptz not null default queue.clock(),
  constraint chat_messages_seq_counts_from_one check (seq >= 1),
  constraint chat_messages_kind_is_its_authors check (
    author = 'user' and kind in ('message', 'answer') or author = 'assistant' and kind in ('reply', 'plan', 'result')),
  constraint chat_messages_are_bounded check (
    char_length(text) between 1 and 50000 and octet_length(documents::text) <= 600000
      and octet_length(data::text) <= 200000),
  constraint chat_messages_cost_is_no_gift check (input_tokens >= 0 and output_tokens >= 0 and cost_usd >= 0),
  constraint chat_messages_seq_is_given_once unique (conversation_id, seq),
  constraint chat_messages_are_sent_once unique (conversation_id, client_id)
);
comment on table public.chat_messages is 'Messages of conversations, in the order of seq. Never changed.';
comment on column public.chat_messages.id is 'The message.';
comment on column public.chat_messages.conversation_id is 'The conversation.';
comment on column public.chat_messages.workspace_id is 'Its workspace, for the policy.';
comment on column public.chat_messages.seq is '1, 2, 3 … without gaps per conversation.';
comment on column public.chat_messages.author is 'user or assistant.';
comment on column public.chat_messages.kind is 'Of a user: message, or answer to a work item''s question. Of the '
  'assistant: reply, plan (what work it began), or result of a work item.';
comment on column public.chat_messages.text is 'The text, plain.';
comment on column public.chat_messages.documents is 'Texts that came with it: [{title, text}].';
comment on column public.chat_messages.request is 'Options of a user''s message: {mode, ask, ask_seconds, seed}; '
  'null for the other kinds.';
comment on column public.chat_messages.data is 'More about it: of an answer {question}, of a plan {work_items}, of a '
  'result {title, kind, parts}; null when there is none.';
comment on column public.chat_messages.model is 'The model that wrote it; null for people''s messages and where no '
  'model was used.';
comment on column public.chat_messages.offline is 'Whether that was the offline one: extractive and template methods.';
comment on column public.chat_messages.input_tokens is 'Tokens read by the model for it.';
comment on column public.chat_messages.output_tokens is 'Tokens written by the model for it.';
comment on column public.chat_messages.cost_usd is 'Cost by the configured prices, in US dollars; 0 without prices.';
comment on column public.chat_messages.client_id is 'The sender''s own id for it: the same id returns the same '
  'message. Null when none was given.';
comment on column public.chat_messages.job_id is 'Of a user''s message the job that answers it, of an answer the '
  'work item that asked, of the assistant''s the job that wrote it: one message per job.';
comment on column public.chat_messages.created_by is 'Who sent it; null for the assistant, a guest without an '
  'account, and the service.';
comment on column public.chat_messages.by_guest is 'Whether the holder of a guest session sent it, and no member.';
comment on column public.chat_messages.created_at is 'When it came, UTC.';
create unique index chat_messages_one_per_job on public.chat_messages (job_id) where author = 'assistant';
create index chat_messages_by_workspace on public.chat_messages (workspace_id);
-- a job looks back for the latest
create index chat_messages_with_texts on public.chat_messages (conversation_id, seq) where documents <> '[]';

create table public.chat_work_items (
  job_id uuid primary key,
  conversation_id uuid not null references public.chat_conversations (id) on delete cascade,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  message_id uuid not null,
  kind text not null,
  title text not null,
  instruction text not null,
  created_at timestamptz not null default queue.clock(),
  fed_by uuid[] not null default '{}',
  constraint chat_work_items_kind_is_known check (
    kind in ('research', 'summarise', 'compare', 'draft', 'build')),
  constraint chat_work_items_are_bounded check (char_length(title) between 1 and 200
    and char_length(instruction) between 1 and 8000)
);
comment on table public.chat_work_items is 'Background work that messages asked for, one job each; its state is in '
  'async_work_items.';
comment on column public.chat_work_items.job_id is 'The work item, which is its job.';
comment on column public.chat_work_items.conversation_id is 'The conversation.';
comment on column public.chat_work_items.workspace_id is 'Its workspace, for the policy.';
comment on column public.chat_work_items.message_id is 'The message that asked for it.';
comment on column public.chat_work_items.kind is 'research, summarise, compare, draft or build.';
comment on column public.chat_work_items.title is 'What it is, in a line.';
comment on column public.chat_work_items.instruction is 'What is to be done.';
comment on column public.chat_work_items.fed_by is 'Work items whose results it works on; it begins when they have '
  'completed.';
comment on column public.chat_work_items.created_at is 'When it was begun, UTC.';
create index chat_work_items_by_conversation on public.chat_work_items (conversation_id, job_id);
create index chat_work_items_by_workspace on public.chat_work_items (workspace_id, job_id);
create index chat_work_items_by_kind on public.chat_work_items (kind, job_id); -- the latest of a kind are timed

create table public.chat_notes (
  id uuid primary key default gen_random_uuid(),
  conversation_id uuid not null references public.chat_conversations (id) on delete cascade,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  job_id uuid not null,
  direction text not null,
  type text not null,
  content text not null,
  name text,
  options jsonb,
  default_answer text,
  answers uuid,
  expires_at timestamptz,
  delivered_at timestamptz,
  created_at timestamptz not null default queue.clock(),
  constraint chat_notes_type_has_its_direction check (
    direction = 'to_user' and type in ('question', 'info') or direction = 'to_work' and type in ('answer', 'info')),
  constraint chat_notes_are_bounded check (
    char_length(content) between 1 and 8000 and octet_length(options::text) <= 10000),
  constraint chat_notes_ask_once unique (job_id, name),
  constraint chat_notes_answer_once unique (answers)
);
create index chat_notes_by_conversation on public.chat_notes (conversation_id, created_at, id);
create index chat_notes_by_workspace on public.chat_notes (workspace_id);
create index chat_notes_unread on public.chat_notes (conversation_id)
where direction = 'to_user' and delivered_at is null;
comment on table public.chat_notes is 'Notes between work items and people: questions, answers, guidance, information.';
comment on column public.chat_notes.id is 'The note; msg_<id> in the API. Random, since with the session''s id it '
  'allows to answer the question.';
comment on column public.chat_notes.conversation_id is 'The conversation.';
comment on column public.chat_notes.workspace_id is 'Its workspace, for the policy.';
comment on column public.chat_notes.job_id is 'The work item it is from or for.';
comment on column public.chat_notes.direction is 'to_user or to_work.';
comment on column public.chat_notes.type is 'question, answer or info.';
comment on column public.chat_notes.content is 'The text, plain.';
comment on column public.chat_notes.name is 'Of a question its name in the job; null otherwise.';
comment on column public.chat_notes.options is 'Suggested answers, an array of texts; null for none.';
comment on column public.chat_notes.default_answer is 'The answer when no one answers in time; null for other '
  'notes than questions.';
comment on column public.chat_notes.answers is 'Of an answer the question; null otherwise.';
comment on column public.chat_notes.expires_at is 'Until when an answer is accepted, UTC; null for other notes than questions.';
comment on column public.chat_notes.delivered_at is 'When its recipient read it, UTC; null before.';
comment on column public.chat_notes.created_at is 'When it was written, UTC.';

create table chat.uses (
  author text not null, -- a guest session, or a workspace and its member
  at timestamptz not null, -- the second, UTC
  messages integer not null, -- messages sent and conversations begun
  tokens bigint not null, -- tokens reserved for the requests, whatever these used of them; counted for guest sessions
  primary key (author, at)
);
create index uses_by_age on chat.uses (at);
comment on table chat.uses is 'What authors used in the last day, by the second. Apart from the messages, so that '
  'deleting those frees nothing.';

insert into queue.settings (name, value) values
  ('chat_messages_per_minute', '30'), -- of one member in one workspace, or of one guest session
  ('chat_queued_items_per_session', '100'),
  ('chat_queued_items_per_workspace', '10000'),
  ('chat_guest_session_messages_per_day', '200'),
  ('chat_guest_session_tokens_per_day', '10000000'),
  ('chat_guest_messages_per_minute', '300'), -- of all callers without an account, an address has its share of it
  ('chat_guest_messages_per_day', '20000'),
  ('chat_guest_sessions_per_minute', '60'), -- new ones
  ('chat_guest_sessions_per_day', '2000'),
  ('chat_guest_workspace', 'null'), -- of sessions of people without one; made for the first of them when null
  ('chat_session_id_min_characters', '20'), -- of an id that a caller brings, never below 16: it is the key
  ('chat_retention_days', '90'); -- since the latest message

-- 2. What a frontend reads ---------------------------------------------------------------------

create view public.async_work_items with (security_invoker = true) as
select
  'work_' || i.job_id as id, coalesce(c.session_name, c.session_id) as session_id, i.kind as type,
  case
    when e.job_id is not null then 'waiting_for_user'
    when j.status in ('pending', 'waiting') then 'accepted'
    when j.status = 'processing' then 'in_progress'
    -- a job that retention removed has left its result, or none
    else coalesce(j.status, case when r.id is not null then 'completed' else 'cancelled' end)
  end as status,
  i.title, j.progress, i.conversation_id, i.workspace_id, i.job_id, i.message_id,
  coalesce(j.status, case when r.id is not null then 'completed' else 'cancelled' end) as job_status,
  e.data #>> '{wait,name}' as question_name,
  e.data #>> '{wait,question}' as question,
  e.data #> '{wait,options}' as question_options,
  n.default_answer as question_default,
  (e.data #>> '{wait,until}')::timestamptz as question_expires_at,
  r.id as result_message_id, r.text as result, j.error_message, j.attempts, j.max_attempts, j.next_retry_at,
  j.cancel_requested_at, j.last_seq, i.created_at, j.started_at, coalesce(j.updated_at, i.created_at) as updated_at,
  j.finished_at as completed_at
from public.chat_work_items as i
join public.chat_conversations as c on c.id = i.conversation_id
left join public.jobs as j on j.id = i.job_id
left join public.job_events as e
  on j.status = 'waiting' and e.job_id = j.id and e.seq = j.last_seq and e.type = 'job.waiting'
    and e.data #>> '{wait,kind}' = 'ask'
left join public.chat_notes as n on n.job_id = i.job_id and n.name = e.data #>> '{wait,name}'
left join public.chat_messages as r on r.job_id = i.job_id and r.author = 'assistant';
comment on view public.async_work_items is E'Background work of chats, one row per work item, with the question it '
  'asks.\n\nUnder the reader''s row level security: members see their workspaces''.';
comment on column public.async_work_items.id is 'The work item: work_ and its job''s id.';
comment on column public.async_work_items.session_id is 'The session, as its caller names it in x-session-id.';
comment on column public.async_work_items.type is 'research, summarise, compare, draft or build.';
comment on column public.async_work_items.status is 'accepted (in the queue), in_progress, waiting_for_user, '
  'completed, failed or cancelled.';
comment on column public.async_work_items.title is 'What it is, in a line.';
comment on column public.async_work_items.progress is '{percentage 0..100, stage, message}; null when the job is gone.';
comment on column public.async_work_items.conversation_id is 'The conversation it belongs to.';
comment on column public.async_work_items.workspace_id is 'The workspace.';
comment on column public.async_work_items.job_id is 'Its job: topic job:<job_id>.';
comment on column public.async_work_items.message_id is 'The message that asked for it.';
comment on column public.async_work_items.job_status is 'The job''s own status; for a job that retention removed, '
  'completed when it left a result and cancelled otherwise.';
comment on column public.async_work_items.question_name is 'The question''s name, to send with the answer; null '
  'when it asks nothing.';
comment on column public.async_work_items.question is 'What it asks; null when it asks nothing.';
comment on column public.async_work_items.question_options is 'Suggested answers, an array of texts; any text is '
  'accepted.';
comment on column public.async_work_items.question_default is 'The answer when no one answers.';
comment on column public.async_work_items.question_expires_at is 'Until when an answer is accepted, UTC; null for no limit.';
comment on column public.async_work_items.result_message_id is 'The message that holds its result; null before.';
comment on column public.async_work_items.result is 'Its result; null before.';
comment on column public.async_work_items.error_message is 'Error of the latest failed attempt; null when none failed.';
comment on column public.async_work_items.attempts is 'Attempts so far.';
comment on column public.async_work_items.max_attempts is 'After so many it is failed.';
comment on column public.async_work_items.next_retry_at is 'Earliest start of the next attempt, UTC; null when none '
  'is planned.';
comment on column public.async_work_items.cancel_requested_at is 'When it was asked to stop while it ran.';
comment on column public.async_work_items.last_seq is 'Number of its latest event.';
comment on column public.async_work_items.created_at is 'When it was begun, UTC.';
comment on column public.async_work_items.started_at is 'Start of the latest attempt, UTC.';
comment on column public.async_work_items.updated_at is 'Latest change, UTC.';
comment on column public.async_work_items.completed_at is 'When it ended, UTC; null while it is live.';

create view public.async_session_state with (security_invoker = true) as
select
  coalesce(c.session_name, c.session_id) as session_id, c.session_id as topic_session_id, c.id as conversation_id,
  c.workspace_id, c.title, w.live, w.waiting, w.done, w.failed, w.cancelled,
  w.waiting > 0 as answer_wanted,
  exists (
    select 1 from public.jobs as a
    where a.session_id = c.session_id and a.workspace_id = c.workspace_id and a.job_type = 'chat_reply'
      and a.finished_at is null
      and a.payload ->> 'conversation_id' = c.id::text) as replying,
  c.last_seq as messages, c.created_by, c.created_at, c.last_message_at,
    greatest(c.last_message_at, w.updated_at) as last_activity_at
from public.chat_conversations as c
cross join lateral (
  select
    count(*) filter (where j.finished_at is null and j.id is not null) as live,
    count(*) filter (where j.status = 'waiting') as waiting,
    count(*) filter (where j.status = 'completed') as done,
    count(*) filter (where j.status = 'failed') as failed,
    count(*) filter (where j.status = 'cancelled') as cancelled,
    max(j.updated_at) as updated_at
  from public.chat_work_items as i
  left join public.jobs as j on j.id = i.job_id
  where i.conversation_id = c.id) as w;
comment on view public.async_session_state is E'State of conversations, one row each: work items by state, open '
  'questions, last activity.\n\nUnder the reader''s row level security: members see their workspaces''.';
comment on column public.async_session_state.session_id is 'The session, as its caller names it in x-session-id.';
comment on column public.async_session_state.topic_session_id is 'The session to follow: topic '
  'session:<topic_session_id>.';
comment on column public.async_session_state.conversation_id is 'The conversation.';
comment on column public.async_session_state.workspace_id is 'The workspace.';
comment on column public.async_session_state.title is 'Title; null until it has a first message.';
comment on column public.async_session_state.live is 'Work items that have not ended.';
comment on column public.async_session_state.waiting is 'Those of them that ask a question.';
comment on column public.async_session_state.done is 'Work items that completed, as far as jobs are kept.';
comment on column public.async_session_state.failed is 'Work items that failed and may be retried.';
comment on column public.async_session_state.cancelled is 'Work items that were cancelled.';
comment on column public.async_session_state.answer_wanted is 'Whether a question waits for a person.';
comment on column public.async_session_state.replying is 'Whether a reply is being written or queued.';
comment on column public.async_session_state.messages is 'How many messages there are.';
comment on column public.async_session_state.created_by is 'Who began it; null for a guest without an account, and '
  'the service.';
comment on column public.async_session_state.created_at is 'When it was begun, UTC.';
comment on column public.async_session_state.last_message_at is 'When the latest message came, UTC.';
comment on column public.async_session_state.last_activity_at is 'When something last happened, work included, UTC.';

-- 3. What may be said, and what it takes -----------------------------------------------------------

create function chat.forget(p_ids uuid[]) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_jobs uuid[] := array(
    select j.id from public.chat_conversations as c join public.jobs as j on j.session_id = c.session_id
    where c.id = any (p_ids) and j.workspace_id = c.workspace_id and j.payload ->> 'conversation_id' = c.id::text);
begin
  perform queue.cancel(v_jobs, queue.clock());
  delete from queue.artefacts where job_id in (
    select i.job_id from public.chat_work_items as i where i.conversation_id = any (p_ids));
  delete from public.chat_conversations where id = any (p_ids);
  -- their events and steps contain messages; those of a running one are kept until jobs are removed
  delete from public.jobs where id = any (v_jobs) and finished_at is not null;
end;
$$;
comment on function chat.forget is 'Delete conversations with their messages, pages and ended jobs, and cancel their live '
  'jobs. The caller holds their rows.';

create function chat.retain(p_limit integer) returns void
language plpgsql
set search_path = ''
as $$
declare
  -- read once: with clock() in the condition no index would end the search
  v_now timestamptz := queue.clock();
  v_before timestamptz := v_now - make_interval(days => (queue.setting('chat_retention_days'))::integer);
  v_ids uuid[] := array(
    select f.id
    from (
      select o.id, sum(o.last_seq) over (order by o.last_message_at, o.id) - o.last_seq as messages_before
      from (
        select c.id, c.last_seq, c.last_message_at from public.chat_conversations as c
        where c.last_message_at < v_before
          and not exists (select 1 from public.jobs as j where j.session_id = c.session_id
            and j.workspace_id = c.workspace_id and j.finished_at is null)
        order by c.last_message_at limit p_limit for update skip locked) as o) as f
    -- senders wait for this: not for several long ones
    where f.messages_before < 1000);
begin
  if cardinality(v_ids) > 0 then
    perform chat.forget(v_ids);
  end if;
  -- by place: a join would read the whole table where the planner expects many old rows
  delete from chat.uses where ctid = any (array(
    select u.ctid from chat.uses as u where u.at < v_now - interval '1 day' order by u.at
    limit 100 for update skip locked));
end;
$$;
comment on function chat.retain is 'Delete up to p_limit conversations of all tenants without a message for '
  'chat_retention_days and without live work; stops after some thousand messages.';

create function chat.left_today(p_author text) returns numeric
language sql stable
set search_path = ''
as $$
  select (queue.setting('chat_guest_session_tokens_per_day'))::numeric - coalesce(sum(tokens), 0)
  from chat.uses where author = p_author and at > queue.clock() - interval '1 day'
$$;
comment on function chat.left_today is 'Tokens that a guest session may still use within a day.';

create function chat.spend(p_author text, p_messages integer, p_tokens bigint) returns void
language sql
set search_path = ''
as $$
  insert into chat.uses as u (author, at, messages, tokens)
  select p_author, date_trunc('second', queue.clock(), 'UTC'), p_messages, p_tokens where p_author is not null
  on conflict (author, at) do update set messages = u.messages + excluded.messages, tokens = u.tokens + excluded.tokens
$$;
comment on function chat.spend is 'Note what an author uses; nothing for a service.';

create function chat.check_pace(p_workspace_id uuid, p_guest_session_id text, p_tokens bigint) returns void
language plpgsql
set search_path = ''
as $$
declare
  -- null for a service, which has no limits
  v_author text := coalesce(p_guest_session_id, p_workspace_id || ':' || auth.uid());
  v_now timestamptz;
  v_minute bigint;
  v_day bigint;
begin
  -- requests of one author are counted one after the other
  perform pg_advisory_xact_lock(hashtextextended('chat:' || v_author, 0));
  v_now := queue.clock();
  -- a member has no limit per day, and may have sent much
  select sum(messages) filter (where at > v_now - interval '1 minute'), sum(messages) into v_minute, v_day
  from chat.uses where author = v_author
    and at > v_now - case when p_guest_session_id is null then interval '1 minute' else interval '1 day' end;
  if v_minute >= (queue.setting('chat_messages_per_minute'))::integer then
    perform queue.refuse(429, 'quota_exceeded',
      format('more than %s messages in a minute; wait a moment', queue.setting('chat_messages_per_minute')),
      'chat_messages_per_minute');
  elsif p_guest_session_id is not null and v_day >= (queue.setting('chat_guest_session_messages_per_day'))::integer then
    perform queue.refuse(429, 'quota_exceeded',
      format('more than %s messages in a day', queue.setting('chat_guest_session_messages_per_day')),
      'chat_guest_session_messages_per_day');
  elsif p_guest_session_id is not null and chat.left_today(v_author) < p_tokens then
    perform queue.refuse(429, 'quota_exceeded', 'what this guest session may take in a day is used up',
      'chat_guest_session_tokens_per_day');
  end if;
  perform queue.check_guest('chat_guest_messages');
  perform chat.spend(v_author, 1, p_tokens);
end;
$$;
comment on function chat.check_pace is E'Count a message, or refuse with 429: '
  'chat_messages_per_minute of any author, chat_guest_session_messages_per_day and chat_guest_session_tokens_per_day '
  'of a guest session, and of callers without an account chat_guest_messages, which queue.admit_guest counts at the '
  'end.\n\np_guest_session_id is null for members.';

create function chat.check_message(p_message jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_problem text := queue.schema_error($schema$ {
    "type": "object", "additionalProperties": false,
    "required": ["text", "client_id", "documents", "mode", "ask", "ask_seconds", "seed"],
    "properties": {
      "text": {"type": "string", "maxLength": 8000, "pattern": "\\S"},
      "client_id": {"type": ["string", "null"], "maxLength": 100, "pattern": "\\S"},
      "documents": {"type": "array", "maxItems": 5, "items": {
        "type": "object", "additionalProperties": false, "required": ["title", "text"],
        "properties": {
          "title": {"type": "string", "maxLength": 200, "pattern": "\\S"},
          "text": {"type": "string", "maxLength": 20000, "pattern": "\\S"}}}},
      "mode": {"enum": ["auto", "reply", "work"]},
      "ask": {"type": "boolean"},
      "ask_seconds": {"type": "integer", "minimum": 1, "maximum": 604800},
      "seed": {"type": "integer", "minimum": 0, "maximum": 2147483647}}} $schema$, p_message, 'message');
begin
  if octet_length((p_message -> 'documents')::text) > 600000 then
    v_problem := 'message.documents must have at most 600000 bytes as JSON';
  end if;
  if v_problem is not null then
    perform queue.refuse(400, 'invalid_argument', v_problem, coalesce(
      substring(v_problem from '^message\.(text|client_id|documents|mode|ask|ask_seconds|seed)\M'), 'message'));
  end if;
end;
$$;
comment on function chat.check_message is 'Refuse with 400 a message that is not as it should be; detail names the field.';

create function chat.item_tokens() returns bigint
language sql immutable
set search_path = ''
as $$ select 100000 $$;
comment on function chat.item_tokens is 'Tokens reserved for a work item: the most it can use without repeated requests.';

create function chat.room(p_conversation public.chat_conversations, p_count integer) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_session integer;
  v_workspace integer;
  v_room integer;
begin
  -- the caller holds the conversation's row, so that what a session has left is counted once
  if p_conversation.by_guest and chat.left_today(p_conversation.session_id) < p_count * chat.item_tokens() then
    return null;
  end if;
  -- work of one workspace is counted one after the other
  perform pg_advisory_xact_lock(hashtextextended('chat work:' || p_conversation.workspace_id, 0));
  select count(*) filter (where i.conversation_id = p_conversation.id), count(*) into v_session, v_workspace
  from queue.live_jobs as j
  -- each by its own lookup: a join would read all work where the planner expects much to be live
  cross join lateral (select x.conversation_id from public.chat_work_items as x where x.job_id = j.job_id offset 0) as i
  where j.workspace_id = p_conversation.workspace_id;
  if v_session + p_count > (queue.setting('chat_queued_items_per_session'))::integer
    or v_workspace + p_count > (queue.setting('chat_queued_items_per_workspace'))::integer then
    return null;
  end if;
  select least(t.key_concurrency - v_session, t.workspace_concurrency - v_workspace) into v_room
  from queue.job_types as t where t.job_type = 'chat_work';
  return least(p_count, greatest(0, coalesce(v_room, p_count)));
end;
$$;
comment on function chat.room is E'How many of p_count further work items of a conversation begin at once; the '
  'others wait in the queue.\n\nNull when no more may be queued: by the limits of the session and the workspace, and '
  'in a guest session by the tokens left today.';

create function chat.say(p_message jsonb) returns public.chat_messages
language plpgsql
set search_path = ''
as $$
declare
  v_made public.chat_messages := jsonb_populate_record(null::public.chat_messages,
    '{"documents": [], "offline": false, "input_tokens": 0, "output_tokens": 0, "cost_usd": 0, "by_guest": false}'
    || (select jsonb_object_agg(m.key, m.value) from jsonb_each(p_message) as m where m.value <> 'null'));
begin
  v_made.id := queue.new_id();
  v_made.created_at := queue.clock();
  update public.chat_conversations set last_seq = last_seq + 1, last_message_at = v_made.created_at,
    title = coalesce(title, left(regexp_replace(btrim(v_made.text), '\s+', ' ', 'g'), 80))
  where id = v_made.conversation_id
  returning last_seq, workspace_id into v_made.seq, v_made.workspace_id;
  insert into public.chat_messages select (v_made).*;
  return v_made;
end;
$$;
comment on function chat.say is 'Add a message to its conversation, whose row the caller holds; a first one gives it '
  'its title.';

-- 4. What the worker does ------------------------------------------------------------------------------

create function chat.held(
  p_request jsonb, p_or_refuse boolean, out job public.jobs, out conversation public.chat_conversations
) returns record
language plpgsql
set search_path = ''
as $$
declare
  v_id uuid := queue.uuid_or_refuse(p_request ->> 'job_id', 'job_id');
  v_conversation uuid;
begin
  select (j.payload ->> 'conversation_id')::uuid into v_conversation from public.jobs as j
  where j.id = v_id and j.job_type in ('chat_reply', 'chat_work');
  -- the conversation before the job, as everywhere
  select * into conversation from public.chat_conversations where id = v_conversation for update;
  job := queue.held_job(p_request, array['chat_reply', 'chat_work'], 'nothing was stored');
  if p_or_refuse and conversation.id is null then
    perform queue.refuse(404, 'conversation_not_found', 'the conversation is gone', p_request ->> 'job_id');
  end if;
end;
$$;
comment on function chat.held is 'Lock and return the conversation of a leased job and the job; when it is gone, the '
  'conversation is null, or with p_or_refuse it is a 404. lease_lost for callers that do not hold the lease.';

create function public.chat_load(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_held record;
  v_message public.chat_messages;
begin
  v_held := chat.held(p_request, p_or_refuse => false);
  select * into v_message from public.chat_messages
  where id = ((v_held.job).payload ->> 'message_id')::uuid and conversation_id = (v_held.conversation).id;
  if not found then
    return jsonb_build_object('message', null);
  end if;
  return jsonb_build_object(
    'message', jsonb_build_object('id', v_message.id, 'seq', v_message.seq, 'text', v_message.text,
      'request', v_message.request),
    'written', (select m.id from public.chat_messages as m where m.job_id = (v_held.job).id and m.author = 'assistant'),
    'item', (select jsonb_build_object('kind', i.kind, 'title', i.title, 'instruction', i.instruction)
      from public.chat_work_items as i where i.job_id = (v_held.job).id),
    'found', (
      select coalesce(jsonb_agg(jsonb_build_object('title', w.title, 'text', r.text, 'data', r.data)
        order by w.job_id), '[]')
      from public.chat_work_items as i
      join public.chat_work_items as w on w.job_id = any (i.fed_by)
      join public.chat_messages as r on r.job_id = w.job_id and r.author = 'assistant'
      where i.job_id = (v_held.job).id),
    'workspace_id', (v_held.conversation).workspace_id,
    'percentage', coalesce(((v_held.job).progress ->> 'percentage')::numeric, 0),
    'documents', coalesce((
      -- its own, else those of the latest message before it that had any
      select m.documents from public.chat_messages as m
      where m.conversation_id = v_message.conversation_id and m.seq <= v_message.seq and m.documents <> '[]'
      order by m.seq desc limit 1), '[]'),
    'history', (
      select coalesce(jsonb_agg(jsonb_build_object('author', h.author, 'kind', h.kind, 'text', h.text)
        order by h.seq), '[]')
      from (
        select m.seq, m.author, m.kind, m.text, sum(char_length(m.text)) over (order by m.seq desc) as so_far
        from (
          select * from public.chat_messages as x
          where x.conversation_id = v_message.conversation_id and x.id <> v_message.id
            -- people's later messages get replies of their own
            and (x.seq < v_message.seq or x.author = 'assistant')
          order by x.seq desc limit 60) as m) as h
      where h.so_far <= 60000));
end;
$$;
comment on function public.chat_load is E'The input of a leased job {job_id, fence}: {message, written, item, '
  'found, documents, history, workspace_id, percentage}; message is null when it is gone.\n\nwritten is the message the job has '
  'posted before, if any; history the latest messages before, at most 60 and 60,000 characters.';

create function chat.refuse_cancelled(p_job public.jobs) returns void
language plpgsql stable
set search_path = ''
as $$
begin
  if p_job.cancel_requested_at is not null then
    perform queue.refuse(409, 'invalid_state', 'it was cancelled; nothing was stored', 'cancelled');
  end if;
end;
$$;
comment on function chat.refuse_cancelled is 'Refuse with 409 the message of a cancelled job; the caller has '
  'checked that it has posted none before.';

create function chat.post(
  p_job public.jobs, p_conversation public.chat_conversations, p_kind text, p_request jsonb
) returns public.chat_messages
language plpgsql
set search_path = ''
as $$
begin
  return chat.say(jsonb_build_object('conversation_id', p_conversation.id, 'job_id', p_job.id, 'author', 'assistant',
    'kind', p_kind, 'text', p_request -> 'text', 'data', p_request -> 'data', 'model', p_request -> 'model',
    'offline', p_request -> 'offline', 'input_tokens', queue.plain(p_request -> 'input_tokens'),
    'output_tokens', queue.plain(p_request -> 'output_tokens'), 'cost_usd', p_request -> 'cost_usd'));
exception
  when check_violation or not_null_violation or invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse(422, 'message_invalid', 'a message is not as it should be: ' || sqlerrm, p_kind);
end;
$$;
comment on function chat.post is 'Post the message of a job as the assistant; the caller has checked that it has '
  'posted none before.';

create function chat.result_of(p_job_id uuid) returns jsonb
language sql stable
set search_path = ''
as $$
  select jsonb_strip_nulls(jsonb_build_object('messageId', 'msg_' || m.id, 'text', m.text,
    'artefact', m.data -> 'artefact',
    'sources', coalesce(m.data -> 'sources', '[]')))
  from public.chat_messages as m
  where m.job_id = p_job_id and m.author = 'assistant' and m.kind <> 'plan'
$$;
comment on function chat.result_of is 'What a job came to: {messageId, text, artefact?: {url, title, type}, '
  'sources}; null before.';

create function chat.note_result(p_job public.jobs, p_said public.chat_messages) returns void
language sql
set search_path = ''
as $$
  insert into public.chat_notes (conversation_id, workspace_id, job_id, direction, type, content)
  select p_said.conversation_id, p_said.workspace_id, p_job.id, 'to_user', 'info',
    coalesce('Done: ' || i.title || E'\n\n', '') || left(p_said.text, 7000)
  from (select) as one
  left join public.chat_work_items as i on i.job_id = p_job.id
  -- a reply that took longer than its caller could wait for
  where i.job_id is not null or p_said.created_at > p_job.created_at + interval '10 seconds'
$$;
comment on function chat.note_result is 'Note for people what work came to, and a reply that was long in coming.';

create function public.chat_post(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_held record;
  v_said public.chat_messages;
begin
  v_held := chat.held(p_request, p_or_refuse => true);
  select * into v_said from public.chat_messages where job_id = (v_held.job).id and author = 'assistant';
  if not found then
    perform chat.refuse_cancelled(v_held.job);
    v_said := chat.post(v_held.job, v_held.conversation,
      case (v_held.job).job_type when 'chat_reply' then 'reply' else 'result' end, p_request);
    perform chat.note_result(v_held.job, v_said);
  end if;
  return jsonb_build_object('message_id', v_said.id, 'seq', v_said.seq);
end;
$$;
comment on function public.chat_post is E'Post what a leased job wrote {job_id, fence, text, data?, model?, '
  'offline?, input_tokens?, output_tokens?, cost_usd?}: {message_id, seq}.\n\nOnce per job: a repeat returns the '
  'first. 409 invalid_state when it was cancelled.';

create function chat.begin_work(
  p_conversation public.chat_conversations, p_message_id uuid, p_items jsonb, p_user_id uuid, p_parent_id uuid
) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_item jsonb;
  v_made jsonb;
  v_id uuid;
  v_research uuid[] := '{}';
  v_material uuid[] := '{}';
  v_fed uuid[];
  v_ids uuid[] := '{}';
  v_wake boolean := false;
begin
  perform chat.spend(case when p_conversation.by_guest then p_conversation.session_id end, 0,
    jsonb_array_length(p_items) * chat.item_tokens());
  for v_item in select value from jsonb_array_elements(p_items) loop
    -- what uses research waits for it, and what is written or shown for all that comes before
    v_fed := case when v_item ->> 'kind' in ('draft', 'build') then v_material
      when v_item ->> 'kind' = 'research' then '{}' else v_research end;
    v_made := queue.enqueue(p_conversation.workspace_id, null, jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
      'job_type', 'chat_work', 'user_id', p_user_id, 'session_id', p_conversation.session_id,
      'payload', jsonb_build_object('conversation_id', p_conversation.id, 'message_id', p_message_id),
      'parent_id', p_parent_id, 'concurrency_key', p_conversation.id,
      'after', case when v_fed <> '{}' then to_jsonb(v_fed) end,
      'after_failed', case when v_fed <> '{}' then 'cancel' end))), true);
    v_id := (v_made #>> '{ids,0}')::uuid;
    v_wake := v_wake or coalesce((v_made -> 'wake')::boolean, false);
    v_ids := v_ids || v_id;
    if v_item ->> 'kind' = 'research' then
      v_research := v_research || v_id;
    end if;
    if v_item ->> 'kind' in ('research', 'summarise', 'compare') then
      v_material := v_material || v_id;
    end if;
    insert into public.chat_work_items
      (job_id, conversation_id, workspace_id, message_id, kind, title, instruction, fed_by)
    values (v_id, p_conversation.id, p_conversation.workspace_id, p_message_id, v_item ->> 'kind', v_item ->> 'title',
      v_item ->> 'instruction', v_fed);
  end loop;
  return jsonb_build_object('ids', to_jsonb(v_ids), 'wake', v_wake);
exception
  when check_violation or not_null_violation then
    perform queue.refuse(422, 'work_item_invalid', 'a work item is not as it should be: ' || sqlerrm, 'items');
end;
$$;
comment on function chat.begin_work is 'Begin work items {kind, title, instruction} for a message, in a '
  'conversation whose row the caller holds: {ids, wake}. Items after research in one request wait for it and use its '
  'results; a draft and a page also those of comparisons and summaries.';

create function chat.plan_text(p_items jsonb, p_room integer) returns text
language sql stable
set search_path = ''
as $$
  select E'I am working on this in the background; you can go on chatting.\n'
    || string_agg('- ' || (i.value ->> 'title'), E'\n'
      order by i.ordinality)
    || case when p_room >= jsonb_array_length(p_items) then ''
      else format(E'\n%s waits in the queue until earlier work is done; nothing is lost.',
        case jsonb_array_length(p_items) - p_room when 1 then 'One of it' else jsonb_array_length(p_items) - p_room
          || ' of it' end) end
  from jsonb_array_elements(p_items) with ordinality as i
$$;
comment on function chat.plan_text is 'The message when work begins, with how much of it waits in the queue.';

create function public.chat_delegate(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_held record;
  v_said public.chat_messages;
  v_items jsonb := p_request -> 'items';
  v_room integer;
  v_ids jsonb;
begin
  v_held := chat.held(p_request, p_or_refuse => true);
  if (v_held.job).job_type <> 'chat_reply' then
    perform queue.refuse(403, 'forbidden', 'work begins no further work', 'job_id');
  elsif jsonb_typeof(v_items) is distinct from 'array' or jsonb_array_length(v_items) not between 1 and 3 then
    perform queue.refuse(400, 'invalid_argument', 'items must be 1 to 3 of {kind, title, instruction}', 'items');
  end if;
  select * into v_said from public.chat_messages where job_id = (v_held.job).id and author = 'assistant';
  if found then
    return jsonb_build_object('message_id', v_said.id, 'work_items', coalesce(v_said.data -> 'work_items', '[]'));
  end if;
  perform chat.refuse_cancelled(v_held.job);
  v_room := chat.room(v_held.conversation, jsonb_array_length(v_items));
  if v_room is null then
    return jsonb_build_object('message_id', null);
  end if;
  v_ids := chat.begin_work(v_held.conversation, ((v_held.job).payload ->> 'message_id')::uuid, v_items,
    (v_held.job).user_id, (v_held.job).id) -> 'ids';
  v_said := chat.post(v_held.job, v_held.conversation, 'plan', p_request || jsonb_build_object(
    'text', chat.plan_text(v_items, v_room), 'data', jsonb_build_object('tier', 'async', 'work_items', v_ids,
      'reasons', coalesce(p_request -> 'reasons', '[]'))));
  return jsonb_build_object('message_id', v_said.id, 'work_items', v_ids);
end;
$$;
comment on function public.chat_delegate is E'Begin background work for a message {job_id, fence, items: [{kind, '
  'title, instruction}], …} and say so: {message_id, work_items}.\n\nOnce per job: a repeat returns the first. Items '
  'beyond the limit wait in the queue. message_id is null, and nothing is begun, when no more may be queued.';

create function public.chat_matching(p_question text, p_passages jsonb) returns jsonb
language sql stable
security definer -- to be guarded against revoked keys, as all that workers call
set search_path = ''
as $$
  select jsonb_build_object('places', coalesce(jsonb_agg(f.place order by f.rank desc, f.place), '[]'))
  from (
    select p.ordinality - 1 as place, ts_rank(v.words, q.asked) as rank
    from jsonb_array_elements(p_passages) with ordinality as p
    cross join lateral to_tsvector('english', concat_ws(' ', p.value ->> 'title', p.value ->> 'text')) as v (words)
    cross join plainto_tsquery('english', p_question) as q (asked)
    where numnode(q.asked) > 0 and v.words @@ q.asked) as f
$$;
comment on function public.chat_matching is 'Which of the passages [{title, text}] have every word of a question, best first, '
  'as Postgres reads English: {places} from 0.';

-- Row level security and grants --------------------------------------------------------------------------

select queue.close_tables('chat.uses');
select queue.show_to_members('public.chat_conversations', 'public.chat_messages', 'public.chat_work_items',
  'public.chat_notes', 'public.async_work_items', 'public.async_session_state');
select queue.allow('job_worker, service_role', 'public.chat_load', 'public.chat_post', 'public.chat_delegate',
  'public.chat_matching');
