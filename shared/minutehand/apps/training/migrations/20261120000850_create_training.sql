-- Training turns uploaded videos into transcripts and procedures, stage by stage; what a stage made stays.
-- Delete this app's migration and shared/minutehand/apps/training, and the platform does not notice.

-- 1. Tables ------------------------------------------------------------------------------------

create schema if not exists training;
comment on schema training is 'The training app''s own helpers. Not exposed.';
revoke all on schema training from public;

create table public.trainings (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  title text not null,
  object_key text not null,
  job_id uuid,
  run integer not null default 1,
  outcome text,
  code text,
  reason text,
  host_upload text,
  host_asset text,
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  finished_at timestamptz,
  constraint trainings_one_per_object unique (object_key),
  constraint trainings_title_is_bounded check (char_length(title) between 1 and 200 and title ~ '\S'),
  constraint trainings_object_is_the_workspaces check (object_key like 'workspaces/' || workspace_id || '/%' and char_length(object_key) <= 400),
  constraint trainings_run_counts_from_one check (run >= 1),
  constraint trainings_outcome_is_known check (outcome in ('completed', 'failed')),
  constraint trainings_end_whole check ((outcome is null) = (finished_at is null)),
  constraint trainings_fail_with_a_reason check ((outcome is not distinct from 'failed') = (code is not null) and char_length(reason) <= 2000)
);
comment on table public.trainings is 'A video to learn from, and the job that works on it. What its stages made is in training_stages, training_chunks and training_procedures.';
comment on column public.trainings.id is 'The training, orders by time.';
comment on column public.trainings.workspace_id is 'The workspace that owns it.';
comment on column public.trainings.title is 'What people call it.';
comment on column public.trainings.object_key is 'The uploaded video in the uploads bucket; one training each.';
comment on column public.trainings.job_id is 'The training job of the present run; its children do a stage each.';
comment on column public.trainings.run is '1, and one more each time it was taken up again after a failure.';
comment on column public.trainings.outcome is 'completed or failed, as the worker ended it; null before, and for good when the job was cancelled.';
comment on column public.trainings.code is 'Why it failed, as a stable word; null unless failed.';
comment on column public.trainings.reason is 'Why it failed, as a sentence; null unless failed.';
comment on column public.trainings.host_upload is 'The video host''s id of the upload, from the moment there is one; null without a host.';
comment on column public.trainings.host_asset is 'The video host''s id of the video; null until it has one, and without a host.';
comment on column public.trainings.created_by is 'Who started it; null for the service.';
comment on column public.trainings.created_at is 'When it was started, UTC.';
comment on column public.trainings.finished_at is 'When the worker ended it, UTC; null with outcome.';
create index trainings_newest on public.trainings (workspace_id, id desc);
create index trainings_open on public.trainings (workspace_id) where outcome is null;

create table public.training_stages (
  training_id uuid not null references public.trainings (id) on delete cascade,
  name text not null,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  run integer not null,
  status text not null,
  result jsonb,
  code text,
  reason text,
  seconds numeric(12, 3) not null default 0,
  finished_at timestamptz not null default queue.clock(),
  primary key (training_id, name),
  constraint training_stages_name_is_known check (name in ('verify', 'audio', 'transcribe', 'procedure', 'publish')),
  constraint training_stages_status_is_known check (status in ('completed', 'failed')),
  constraint training_stages_have_a_result_or_a_reason check ((status = 'completed') = (result is not null) and (status = 'failed') = (code is not null)),
  constraint training_stages_are_bounded check (octet_length(result::text) <= 200000 and char_length(reason) <= 2000 and char_length(code) <= 100 and seconds >= 0)
);
comment on table public.training_stages is E'What each stage of a training came to.\n\nA completed one is never written again: a crash and a later run go on behind it.';
comment on column public.training_stages.training_id is 'The training.';
comment on column public.training_stages.name is 'verify, audio, transcribe, procedure or publish, in this order.';
comment on column public.training_stages.workspace_id is 'The training''s workspace.';
comment on column public.training_stages.run is 'The run that wrote it, as trainings.run.';
comment on column public.training_stages.status is 'completed, or failed: given up in this run.';
comment on column public.training_stages.result is 'What it found, by the stage''s own shape; null unless completed.';
comment on column public.training_stages.code is 'Why not, as a stable word; null when completed.';
comment on column public.training_stages.reason is 'Why not, as a sentence; null when completed.';
comment on column public.training_stages.seconds is 'How long it was worked on, without waits.';
comment on column public.training_stages.finished_at is 'When it was stored, UTC.';
create index training_stages_by_workspace on public.training_stages (workspace_id);

create table public.training_chunks (
  training_id uuid not null references public.trainings (id) on delete cascade,
  number integer not null,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  starts_at_seconds numeric(12, 3) not null,
  ends_at_seconds numeric(12, 3) not null,
  segments jsonb not null,
  engine text not null,
  offline boolean not null,
  finished_at timestamptz not null default queue.clock(),
  primary key (training_id, number),
  constraint training_chunks_count_from_one check (number between 1 and 1000),
  constraint training_chunks_last check (starts_at_seconds >= 0 and ends_at_seconds > starts_at_seconds),
  constraint training_chunks_segments_are_bounded check (jsonb_typeof(segments) = 'array' and octet_length(segments::text) <= 200000),
  constraint training_chunks_engine_is_bounded check (char_length(engine) between 1 and 200)
);
comment on table public.training_chunks is 'The transcript, a stretch of about a minute each, stored as it is heard; never written twice.';
comment on column public.training_chunks.training_id is 'The training.';
comment on column public.training_chunks.number is 'Its place, from 1.';
comment on column public.training_chunks.workspace_id is 'The training''s workspace.';
comment on column public.training_chunks.starts_at_seconds is 'Where in the video it begins.';
comment on column public.training_chunks.ends_at_seconds is 'Where in the video it ends.';
comment on column public.training_chunks.segments is 'What was said: [{start, end, text}], seconds of the video.';
comment on column public.training_chunks.engine is 'What listened.';
comment on column public.training_chunks.offline is 'Whether that was the offline one.';
comment on column public.training_chunks.finished_at is 'When it was stored, UTC.';
create index training_chunks_by_workspace on public.training_chunks (workspace_id);

create table public.training_procedures (
  training_id uuid not null references public.trainings (id) on delete cascade,
  version integer not null,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  procedure jsonb not null,
  author text not null,
  offline boolean not null default false,
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  primary key (training_id, version),
  constraint training_procedures_count_from_one check (version between 1 and 1000),
  constraint training_procedures_author_is_known check (char_length(author) between 1 and 200),
  constraint training_procedures_are_bounded check (jsonb_typeof(procedure) = 'object' and octet_length(procedure::text) <= 1000000)
);
comment on table public.training_procedures is 'A training''s procedure in all its versions; each is kept as it was written.';
comment on column public.training_procedures.training_id is 'The training.';
comment on column public.training_procedures.version is '1 is the generated one; each edit is the next.';
comment on column public.training_procedures.workspace_id is 'The training''s workspace.';
comment on column public.training_procedures.procedure is '{title, purpose, materials, warnings, steps: [{title, detail, at_seconds}]}; at_seconds is where in the video.';
comment on column public.training_procedures.author is 'The model that wrote it, or the word person.';
comment on column public.training_procedures.offline is 'Whether it was put together without a language model.';
comment on column public.training_procedures.created_by is 'Who edited it; null for a generated one.';
comment on column public.training_procedures.created_at is 'When it was stored, UTC.';
create index training_procedures_by_workspace on public.training_procedures (workspace_id);

-- 2. The job monitor ------------------------------------------------------------------------------

create view public.background_jobs with (security_invoker = true) as
select j.id, j.workspace_id, j.session_id, j.parent_id, j.job_type as type, j.status,
  case j.status when 'completed' then 100 else coalesce((j.progress ->> 'percentage')::numeric, 0) end as progress,
  j.progress ->> 'stage' as stage, j.progress ->> 'message' as message, j.attempts, j.max_attempts,
  j.created_at, j.started_at, j.completed_at,
  round(extract(epoch from j.completed_at - j.started_at)::numeric, 3) as seconds, j.next_retry_at, j.error_message as error
from public.jobs as j;
comment on view public.background_jobs is 'Jobs as a monitor wants them: what, how far, how often tried, how long, and why not. Shows what the caller may see of jobs.';
comment on column public.background_jobs.id is 'The job.';
comment on column public.background_jobs.workspace_id is 'The workspace it belongs to.';
comment on column public.background_jobs.session_id is 'What it is part of, e.g. training:<id>; null for none.';
comment on column public.background_jobs.parent_id is 'The job that made it; null for none.';
comment on column public.background_jobs.type is 'Picks the processor.';
comment on column public.background_jobs.status is 'pending, processing, waiting, completed, failed or cancelled.';
comment on column public.background_jobs.progress is 'Percent done, 0 to 100.';
comment on column public.background_jobs.stage is 'What it is at, in a word; null before it said so.';
comment on column public.background_jobs.message is 'The same as a sentence; null before it said so.';
comment on column public.background_jobs.attempts is 'Attempts begun.';
comment on column public.background_jobs.max_attempts is 'After so many it is failed.';
comment on column public.background_jobs.created_at is 'When it was enqueued, UTC.';
comment on column public.background_jobs.started_at is 'Start of the latest attempt, UTC; null before the first.';
comment on column public.background_jobs.completed_at is 'When it ended, in whatever way, UTC; null while live.';
comment on column public.background_jobs.seconds is 'From the latest start to the end; null while live.';
comment on column public.background_jobs.next_retry_at is 'Earliest start of the next attempt, UTC; null when none is planned.';
comment on column public.background_jobs.error is 'Why the last attempt ended badly; null when none did.';

create view public.job_queue with (security_invoker = true) as
select j.id, j.workspace_id, j.job_type as type, j.queue, j.status, j.priority,
  case when j.status = 'pending' then coalesce(j.next_retry_at, j.scheduled_for, j.created_at) end as due_at,
  j.attempts, j.max_attempts, j.created_at, j.started_at, j.error_message as error
from public.jobs as j
where j.id = any (array(select queue.live_ids())) and j.completed_at is null;
comment on view public.job_queue is 'Jobs that have not ended: waiting for their turn, leased, or waiting for something. Order by priority, due_at, id for about their turn. Shows what the caller may see of jobs.';
comment on column public.job_queue.id is 'The job.';
comment on column public.job_queue.workspace_id is 'The workspace it belongs to.';
comment on column public.job_queue.type is 'Picks the processor.';
comment on column public.job_queue.queue is 'The lane it waits in.';
comment on column public.job_queue.status is 'pending: its turn is to come; processing: leased; waiting: sleeps, asks, or waits for others.';
comment on column public.job_queue.priority is 'Smaller runs first.';
comment on column public.job_queue.due_at is 'Runnable from then on, UTC; null unless pending.';
comment on column public.job_queue.attempts is 'Attempts begun.';
comment on column public.job_queue.max_attempts is 'After so many it is failed.';
comment on column public.job_queue.created_at is 'When it was enqueued, UTC.';
comment on column public.job_queue.started_at is 'Start of the latest attempt, UTC; null before the first.';
comment on column public.job_queue.error is 'Why the last attempt ended badly; null when none did.';

-- the monitor reads what has ended of training alone, and not past everybody's other jobs; no column of it ever changes
create index jobs_of_training on public.jobs (workspace_id, created_at desc) where job_type like 'training%';

-- 3. Who may see a training, and what they see -------------------------------------------------------

create function training.own_or_refuse(p_training_id uuid) returns public.trainings
language plpgsql stable
set search_path = ''
as $$
declare
  v_training public.trainings;
begin
  select * into v_training from public.trainings where id = p_training_id;
  if not found or not (queue.is_member(v_training.workspace_id) or coalesce(auth.jwt() ->> 'role', '') = 'service_role') then
    perform queue.refuse(404, 'training_not_found', 'no such training', p_training_id::text);
  end if;
  return v_training;
end;
$$;
comment on function training.own_or_refuse is 'The training, if it is the caller''s to see; one 404 for missing and another''s.';

create function training.status_of(p_training public.trainings, p_job public.jobs) returns text
language sql stable
set search_path = ''
as $$
  select case
    when p_training.outcome is not null then p_training.outcome
    when p_job.id is null then 'failed' -- pruned without a word
    when p_job.completed_at is null then case when p_job.status = 'pending' and p_job.attempts = 0 then 'pending' else 'running' end
    when p_job.status = 'cancelled' then 'cancelled' else 'failed' end
$$;
comment on function training.status_of is 'pending, running, completed, failed or cancelled.';

create function training.line(p_training public.trainings) returns jsonb
language sql stable
set search_path = ''
as $$
  select jsonb_build_object('id', p_training.id, 'workspace_id', p_training.workspace_id, 'title', p_training.title, 'run', p_training.run,
    'status', training.status_of(p_training, j), 'code', p_training.code, 'reason', coalesce(p_training.reason, case when j.status = 'failed' then j.error_message end),
    'job_id', p_training.job_id, 'session_id', 'training:' || p_training.id, 'created_at', p_training.created_at,
    'finished_at', coalesce(p_training.finished_at, j.completed_at), 'progress', j.progress, 'cancel_requested_at', j.cancel_requested_at)
  from (values (1)) as one
  left join public.jobs as j on j.id = p_training.job_id
$$;
comment on function training.line is 'A training as lists and its page begin.';

create function public.training_read(p_training_id uuid) returns jsonb
language plpgsql stable
security definer -- asks for membership itself, and reads the stages with one plan
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
begin
  return training.line(v_training) || jsonb_build_object('file_name', regexp_replace(v_training.object_key, '^.*/', ''),
    'host_asset', v_training.host_asset,
    'stages', (
      select coalesce(jsonb_agg(to_jsonb(s) - '{training_id,workspace_id}'::text[] order by s.finished_at), '[]')
      from public.training_stages as s where s.training_id = v_training.id),
    'jobs', (
      select coalesce(jsonb_agg(jsonb_build_object('id', c.id, 'type', c.job_type, 'status', c.status, 'number', c.payload -> 'number', 'progress', c.progress,
        'attempts', c.attempts, 'max_attempts', c.max_attempts, 'next_retry_at', c.next_retry_at, 'error', c.error_message) order by c.id), '[]')
      from public.jobs as c where c.parent_id = v_training.job_id),
    'heard', (select count(*) from public.training_chunks as k where k.training_id = v_training.id),
    'version', (select max(p.version) from public.training_procedures as p where p.training_id = v_training.id));
end;
$$;
comment on function public.training_read is 'A training with its stages and its present run''s jobs; for members. heard counts the chunks transcribed, version is the latest procedure''s.';

create function public.training_list(p_workspace_id uuid, p_after uuid default null, p_limit integer default 50) returns jsonb
language plpgsql stable
security definer -- asks for membership itself
set search_path = ''
as $$
begin
  if p_workspace_id is null or not (queue.is_member(p_workspace_id) or coalesce(auth.jwt() ->> 'role', '') = 'service_role') then
    perform queue.refuse(404, 'workspace_not_found', 'no such workspace', p_workspace_id::text);
  end if;
  return jsonb_build_object('trainings', (
    select coalesce(jsonb_agg(training.line(t) order by t.id desc), '[]')
    from (
      select x.* from public.trainings as x
      where x.workspace_id = p_workspace_id and (p_after is null or x.id < p_after)
      order by x.id desc
      limit least(200, greatest(1, coalesce(p_limit, 50)))) as t));
end;
$$;
comment on function public.training_list is 'Trainings of a workspace, newest first, before p_after; for members.';

create function public.training_transcript(p_training_id uuid) returns jsonb
language plpgsql stable
security definer -- asks for membership itself
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
begin
  return (
    select jsonb_build_object('complete', exists (select from public.training_stages as s
        where s.training_id = v_training.id and s.name = 'transcribe' and s.status = 'completed'),
      'engine', min(k.engine), 'offline', coalesce(bool_or(k.offline), false),
      'segments', coalesce((select jsonb_agg(g.value order by c.number, g.ordinality) from public.training_chunks as c
        cross join lateral jsonb_array_elements(c.segments) with ordinality as g where c.training_id = v_training.id), '[]'))
    from public.training_chunks as k where k.training_id = v_training.id);
end;
$$;
comment on function public.training_transcript is 'What was heard so far: {complete, engine, offline, segments: [{start, end, text}]}; for members.';

create function public.training_procedure(p_training_id uuid, p_version integer default null) returns jsonb
language plpgsql stable
security definer -- asks for membership itself
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
  v_found jsonb;
begin
  select to_jsonb(p) - '{training_id,workspace_id}'::text[] into v_found from public.training_procedures as p
  where p.training_id = v_training.id and (p_version is null or p.version = p_version)
  order by p.version desc limit 1;
  if v_found is null then
    perform queue.refuse(404, 'procedure_not_found', 'there is no such procedure yet', coalesce(p_version::text, 'latest'));
  end if;
  return v_found || jsonb_build_object('versions', (
    select jsonb_agg(jsonb_build_object('version', p.version, 'author', p.author, 'offline', p.offline, 'created_by', p.created_by, 'created_at', p.created_at)
      order by p.version desc) from public.training_procedures as p where p.training_id = v_training.id));
end;
$$;
comment on function public.training_procedure is 'A version of a training''s procedure, the latest for null, with the list of all versions; for members.';

-- 4. What people may do --------------------------------------------------------------------------------

insert into queue.settings (name, value) values
  ('training_max_bytes', '5368709120'), -- of one video
  ('training_max_seconds', '14400'), -- of one video's playing time
  ('training_max_running', '20'); -- trainings of a workspace that have not ended

create function training.take_room(p_workspace_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('training:' || p_workspace_id, 0)); -- who asks at the same time counts too
  if (select count(*) from public.trainings as t join public.jobs as j on j.id = t.job_id
      where t.workspace_id = p_workspace_id and t.outcome is null and j.completed_at is null) >= (queue.setting('training_max_running'))::integer then
    perform queue.refuse(429, 'quota_exceeded', format('at most %s trainings of a workspace are under way', queue.setting('training_max_running')), 'training_max_running');
  end if;
end;
$$;
comment on function training.take_room is 'Refuse one training more than a workspace may have under way; those who ask at once come one after the other.';

create function training.enqueue(p_training public.trainings) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_done jsonb;
begin
  -- the platform's own job: no person's call makes it, but it is the person's
  v_done := queue.enqueue(p_training.workspace_id, null, jsonb_build_array(jsonb_build_object('job_type', 'training',
    'payload', jsonb_build_object('training_id', p_training.id), 'user_id', p_training.created_by, 'session_id', 'training:' || p_training.id)), false);
  update public.trainings set job_id = (v_done #>> '{ids,0}')::uuid where id = p_training.id;
  return jsonb_build_object('training_id', p_training.id, 'job_id', v_done #> '{ids,0}', 'wake', v_done -> 'wake');
end;
$$;
comment on function training.enqueue is 'Make the job that works on a training.';

create function public.training_start(p_workspace_id uuid, p_title text, p_object_key text, p_size_bytes bigint) returns jsonb
language plpgsql
security definer -- nobody holds a right to write trainings: this is the door
set search_path = ''
as $$
declare
  v_made public.trainings;
begin
  if p_workspace_id is null or not queue.is_member(p_workspace_id) then
    perform queue.refuse(404, 'workspace_not_found', 'no such workspace', p_workspace_id::text);
  elsif p_title is null or char_length(p_title) not between 1 and 200 or p_title !~ '\S' then
    perform queue.refuse(400, 'invalid_argument', 'title must have 1 to 200 characters', 'title');
  -- where an upload of the caller's own lies, and nothing else
  elsif p_object_key is null or char_length(p_object_key) > 400
    or p_object_key !~ ('^workspaces/' || p_workspace_id || '/' || auth.uid() || '/[0-9a-f-]{36}/[A-Za-z0-9._-]+$') then
    perform queue.refuse(404, 'upload_not_found', 'no such upload', 'object_key');
  elsif coalesce(p_size_bytes, 0) <= 0 then
    perform queue.refuse(422, 'empty_file', 'the file is empty', 'object_key');
  elsif p_size_bytes > (queue.setting('training_max_bytes'))::bigint then
    perform queue.refuse(413, 'video_too_large', format('a video has at most %s bytes, this one %s', queue.setting('training_max_bytes'), p_size_bytes), 'object_key');
  end if;
  -- the upload is the key: handed in twice, it is one training
  insert into public.trainings (workspace_id, title, object_key, created_by)
  values (p_workspace_id, p_title, p_object_key, auth.uid())
  on conflict (object_key) do nothing returning * into v_made;
  if not found then
    select * into v_made from public.trainings where object_key = p_object_key;
    if not found then -- deleted this moment, and its upload with it
      perform queue.refuse(404, 'upload_not_found', 'no such upload', 'object_key');
    elsif v_made.title <> p_title then
      perform queue.refuse(409, 'idempotency_conflict', 'this upload has a training of another title', v_made.id::text);
    end if;
    return jsonb_build_object('training_id', v_made.id, 'job_id', v_made.job_id, 'created', false, 'wake', false);
  end if;
  perform training.take_room(p_workspace_id);
  return training.enqueue(v_made) || '{"created": true}';
end;
$$;
comment on function public.training_start is E'Have an uploaded video worked on: {training_id, job_id, created, wake}; for members.\n\nThe same upload finds the same training; with another title it is a conflict.';

create function training.clean(p_training public.trainings, p_audio boolean, p_video boolean, p_host boolean) returns boolean
language plpgsql
set search_path = ''
as $$
begin
  return (queue.enqueue(p_training.workspace_id, null, jsonb_build_array(jsonb_build_object('job_type', 'training_clean',
    'payload', jsonb_build_object('training_id', p_training.id, 'audio', p_audio, 'object_key', case when p_video then p_training.object_key end,
      'host_upload', case when p_training.host_asset is null then p_training.host_upload end,
      'host_asset', case when p_host then p_training.host_asset end, 'host', p_host),
    -- a job that is being stopped may still put something there
    'user_id', p_training.created_by, 'delay_seconds', 5)), false) -> 'wake')::boolean;
end;
$$;
comment on function training.clean is 'Have what lies outside the database removed: an unfinished upload to the video host, with p_audio the cut audio, with p_video the video, and with p_host what the video host made of it.';

create function public.training_cancel(p_training_id uuid) returns jsonb
language plpgsql
security definer -- nobody holds a right to write trainings: this is the door
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
  v_job public.jobs;
begin
  select * into v_job from public.jobs where id = v_training.job_id for update;
  if v_job.completed_at is not null and v_job.status <> 'cancelled' or v_job.id is null then
    perform queue.refuse(409, 'invalid_state', 'the training has ended', training.status_of(v_training, v_job));
  elsif v_job.completed_at is null then
    perform queue.cancel(array[v_job.id], queue.clock());
    select * into v_training from public.trainings where id = p_training_id; -- as its jobs left it
    if v_training.host_upload is not null and v_training.host_asset is null then
      perform training.clean(v_training, false, false, false);
    end if;
  end if;
  return jsonb_build_object('training_id', v_training.id, 'job_id', v_job.id);
end;
$$;
comment on function public.training_cancel is 'Stop working on a training: {training_id, job_id}. What finished stages made stays. 409 when it has ended.';

create function public.training_retry(p_training_id uuid) returns jsonb
language plpgsql
security definer -- nobody holds a right to write trainings: this is the door
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
  v_job public.jobs;
begin
  select * into v_training from public.trainings where id = p_training_id for no key update;
  select * into v_job from public.jobs where id = v_training.job_id;
  if training.status_of(v_training, v_job) not in ('failed', 'cancelled') then
    perform queue.refuse(409, 'invalid_state', 'only a failed or cancelled training is taken up again', training.status_of(v_training, v_job));
  elsif v_job.completed_at is null and v_job.id is not null or exists (select 1 from public.jobs as c where c.parent_id = v_training.job_id and c.completed_at is null) then
    perform queue.refuse(409, 'invalid_state', 'the training is still stopping; ask again in a moment', 'stopping');
  elsif v_training.run >= 20 then
    perform queue.refuse(429, 'quota_exceeded', 'a training is run at most 20 times', '20');
  end if;
  perform training.take_room(v_training.workspace_id);
  perform training.reopen(v_training);
  select * into v_training from public.trainings where id = p_training_id;
  return training.enqueue(v_training);
end;
$$;
comment on function public.training_retry is 'Go on with a failed or cancelled training behind its last finished stage: {training_id, job_id, wake}. 409 for any other.';

create function training.reopen(p_training public.trainings) returns void
language plpgsql
set search_path = ''
as $$
begin
  delete from public.training_stages where training_id = p_training.id
    and (status <> 'completed'
      -- the cut audio had expired: it must be cut anew
      or name = 'audio' and p_training.code = 'audio_gone');
  if p_training.code = 'no_speech' then -- what heard no word is asked anew, or another ear by now: else going on could change nothing
    delete from public.training_chunks where training_id = p_training.id;
  end if;
  if p_training.code in ('host_refused', 'host_lost') and coalesce(p_training.host_asset, p_training.host_upload) is not null then
    perform training.clean(p_training, false, false, true); -- the host will not have this one: the next is another
  end if;
  update public.trainings set run = run + 1, outcome = null, code = null, reason = null, finished_at = null,
    -- otherwise kept, also what a cancel ends there: it may have become a video, which is not paid for twice
    host_upload = case when code in ('host_refused', 'host_lost') then null else host_upload end,
    host_asset = case when code in ('host_refused', 'host_lost') then null else host_asset end
  where id = p_training.id;
end;
$$;
comment on function training.reopen is 'Begin the next run: forget failures, and keep what is finished.';

create function training.refuse_procedure(p_procedure jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_line constant jsonb := '{"type": "string", "minLength": 1, "maxLength": 500}';
  v_text constant jsonb := '{"type": "string", "maxLength": 2000}';
  v_schema constant jsonb := jsonb_build_object('type', 'object', 'additionalProperties', false, 'required', '["title", "steps"]'::jsonb, 'properties', jsonb_build_object(
    'title', '{"type": "string", "minLength": 1, "maxLength": 200}'::jsonb, 'purpose', v_text,
    'materials', jsonb_build_object('type', 'array', 'maxItems', 50, 'items', v_line),
    'warnings', jsonb_build_object('type', 'array', 'maxItems', 50, 'items', v_line),
    'steps', jsonb_build_object('type', 'array', 'minItems', 1, 'maxItems', 200, 'items', jsonb_build_object(
      'type', 'object', 'additionalProperties', false, 'required', '["title", "at_seconds"]'::jsonb, 'properties', jsonb_build_object(
        'title', v_line, 'detail', v_text, 'at_seconds', '{"type": "number", "minimum": 0, "maximum": 100000}'::jsonb)))));
  v_problem text;
begin
  if octet_length(p_procedure::text) > 1000000 then
    perform queue.refuse(413, 'payload_too_large', 'a procedure has at most 1000000 bytes', 'procedure');
  end if;
  v_problem := case when p_procedure is null then '$ is required' else queue.schema_error(v_schema, p_procedure) end;
  if v_problem is not null then
    perform queue.refuse(422, 'procedure_invalid', 'a procedure is not as it should be: ' || v_problem, 'procedure');
  end if;
end;
$$;
comment on function training.refuse_procedure is 'Refuse what is no procedure, as models.py describes one: everybody who reads it relies on its shape.';

create function public.training_save_procedure(p_training_id uuid, p_base_version integer, p_procedure jsonb) returns jsonb
language plpgsql
security definer -- nobody holds a right to write procedures: this is the door
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
  v_latest public.training_procedures;
begin
  perform 1 from public.trainings where id = p_training_id for no key update; -- edits come one after the other
  select * into v_latest from public.training_procedures where training_id = p_training_id order by version desc limit 1;
  if not found then
    perform queue.refuse(409, 'invalid_state', 'there is no procedure to edit yet', 'procedure');
  elsif v_latest.version is distinct from p_base_version then
    perform queue.refuse(409, 'edit_conflict', 'somebody else has edited the procedure', v_latest.version::text);
  end if;
  perform training.refuse_procedure(p_procedure);
  if v_latest.procedure = p_procedure then
    return jsonb_build_object('version', v_latest.version);
  elsif v_latest.version >= 1000 then
    perform queue.refuse(429, 'quota_exceeded', 'a procedure has at most 1000 versions', '1000');
  end if;
  insert into public.training_procedures (training_id, version, workspace_id, procedure, author, created_by)
  values (p_training_id, v_latest.version + 1, v_training.workspace_id, p_procedure, 'person', auth.uid());
  return jsonb_build_object('version', v_latest.version + 1);
end;
$$;
comment on function public.training_save_procedure is E'Store an edited procedure as the next version: {version}.\n\np_base_version is the version that was edited: 409 edit_conflict when it is no longer the latest.';

create function public.training_delete(p_training_id uuid) returns jsonb
language plpgsql
security definer -- nobody holds a right to write trainings: this is the door
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
  v_gone public.trainings;
  v_wake boolean;
begin
  if exists (select 1 from public.jobs where id = v_training.job_id and completed_at is null) then
    perform queue.cancel(array[v_training.job_id], queue.clock());
  end if;
  -- as its jobs left it: what they noted of the host until now is removed there too
  delete from public.trainings where id = p_training_id returning * into v_gone;
  if v_gone.id is null then
    perform queue.refuse(404, 'training_not_found', 'no such training', p_training_id::text);
  elsif v_gone.job_id is distinct from v_training.job_id then
    perform queue.refuse(409, 'invalid_state', 'the training was taken up again this moment; ask again', 'pending');
  end if;
  v_wake := training.clean(v_gone, true, true, true);
  return jsonb_build_object('training_id', p_training_id, 'wake', v_wake);
end;
$$;
comment on function public.training_delete is 'Delete a training with all it made, here, in the uploads bucket and at the video host: {training_id, wake}. A job under way is cancelled first.';

create function public.training_video(p_training_id uuid) returns jsonb
language plpgsql stable
security definer -- asks for membership itself
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
begin
  return jsonb_build_object('object_key', v_training.object_key,
    'media', (select s.result from public.training_stages as s where s.training_id = v_training.id and s.name = 'verify'),
    'publish', (select s.result from public.training_stages as s where s.training_id = v_training.id and s.name = 'publish'));
end;
$$;
comment on function public.training_video is 'Where a training''s video lies: {object_key, media, publish}; for members.';

-- 5. What the worker does ------------------------------------------------------------------------------

create function training.held(p_request jsonb, out job public.jobs, out training public.trainings) returns record
language plpgsql
set search_path = ''
as $$
begin
  job := queue.held_job(p_request, array['training', 'training_prepare', 'training_chunk', 'training_procedure', 'training_publish'], 'nothing was stored');
  select t.* into training from public.trainings as t
  where t.id = (job.payload ->> 'training_id')::uuid and t.workspace_id = job.workspace_id
    and t.job_id = case job.job_type when 'training' then job.id else job.parent_id end;
end;
$$;
comment on function training.held is 'The leased job, locked, and the training it is for; the training is null when it is gone or has another job by now. lease_lost for whoever does not hold the lease.';

create function training.held_or_refuse(p_request jsonb) returns public.trainings
language plpgsql
set search_path = ''
as $$
declare
  v_held record;
begin
  v_held := training.held(p_request);
  if (v_held.training).id is null then
    perform queue.refuse(404, 'training_not_found', 'the training is gone', p_request ->> 'job_id');
  end if;
  return v_held.training;
end;
$$;
comment on function training.held_or_refuse is 'The training that a leased job is for.';

create function public.training_load(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables: this is the door
set search_path = ''
as $$
declare
  v_held record;
begin
  v_held := training.held(p_request);
  if (v_held.training).id is null then
    return jsonb_build_object('training', null);
  elsif (v_held.job).job_type = 'training' and (v_held.training).outcome = 'failed' then
    perform training.reopen(v_held.training); -- the dead letter was taken up again
  end if;
  return (
    select jsonb_build_object('training', to_jsonb(t),
      'limits', jsonb_build_object('bytes', queue.setting('training_max_bytes'), 'seconds', queue.setting('training_max_seconds')),
      'stages', (select coalesce(jsonb_agg(to_jsonb(s) - '{training_id,workspace_id}'::text[]), '[]') from public.training_stages as s where s.training_id = t.id),
      'heard', (select coalesce(jsonb_agg(k.number order by k.number), '[]') from public.training_chunks as k where k.training_id = t.id),
      'written', (select jsonb_build_object('steps', jsonb_array_length(p.procedure -> 'steps'), 'author', p.author, 'offline', p.offline)
        from public.training_procedures as p where p.training_id = t.id and p.version = 1))
    from public.trainings as t where t.id = (v_held.training).id);
end;
$$;
comment on function public.training_load is E'What a leased job {job_id, fence} works on: {training, limits, stages, heard, written}; training is null when it is gone.\n\nA failed training whose job was taken up again begins its next run.';

create function public.training_load_chunks(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables: this is the door
set search_path = ''
as $$
declare
  v_training public.trainings := training.held_or_refuse(p_request);
begin
  return jsonb_build_object('chunks', (
    select coalesce(jsonb_agg(to_jsonb(k) - '{training_id,workspace_id}'::text[] order by k.number), '[]')
    from public.training_chunks as k where k.training_id = v_training.id));
end;
$$;
comment on function public.training_load_chunks is 'The transcript of a leased job''s training {job_id, fence}: {chunks}.';

create function public.training_store_stage(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables: this is the door
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_training public.trainings := training.held_or_refuse(p_request);
  v_stage public.training_stages := jsonb_populate_record(null::public.training_stages, p_request -> 'stage');
begin
  insert into public.training_stages (training_id, name, workspace_id, run, status, result, code, reason, seconds)
  values (v_training.id, v_stage.name, v_training.workspace_id, v_training.run, v_stage.status, nullif(v_stage.result, 'null'),
    v_stage.code, v_stage.reason, coalesce(v_stage.seconds, 0))
  on conflict (training_id, name) do update set run = excluded.run, status = excluded.status, result = excluded.result,
    code = excluded.code, reason = excluded.reason, seconds = excluded.seconds, finished_at = excluded.finished_at
  where training_stages.status <> 'completed';
  return (select to_jsonb(s) - '{training_id,workspace_id}'::text[] from public.training_stages as s
    where s.training_id = v_training.id and s.name = v_stage.name);
exception
  when check_violation or not_null_violation or invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse(422, 'stage_invalid', 'a stage is not as it should be: ' || sqlerrm, v_stage.name);
end;
$$;
comment on function public.training_store_stage is E'Store what a stage came to {job_id, fence, stage}; returns it as it stands.\n\nA completed stage is never written again: a repeat returns the first.';

create function public.training_store_chunk(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables: this is the door
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_training public.trainings := training.held_or_refuse(p_request);
  v_chunk public.training_chunks := jsonb_populate_record(null::public.training_chunks, p_request -> 'chunk');
begin
  insert into public.training_chunks (training_id, number, workspace_id, starts_at_seconds, ends_at_seconds, segments, engine, offline)
  values (v_training.id, v_chunk.number, v_training.workspace_id, v_chunk.starts_at_seconds, v_chunk.ends_at_seconds, v_chunk.segments,
    v_chunk.engine, v_chunk.offline)
  on conflict do nothing;
  return (select to_jsonb(k) - '{training_id,workspace_id}'::text[] from public.training_chunks as k
    where k.training_id = v_training.id and k.number = v_chunk.number);
exception
  when check_violation or not_null_violation or invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse(422, 'chunk_invalid', 'a chunk is not as it should be: ' || sqlerrm, v_chunk.number::text);
end;
$$;
comment on function public.training_store_chunk is 'Store what was heard in a chunk {job_id, fence, chunk}; returns it as it stands: a repeat returns the first.';

create function public.training_store_procedure(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables: this is the door
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_training public.trainings := training.held_or_refuse(p_request);
begin
  perform training.refuse_procedure(p_request -> 'procedure');
  insert into public.training_procedures (training_id, version, workspace_id, procedure, author, offline)
  values (v_training.id, 1, v_training.workspace_id, p_request -> 'procedure', p_request ->> 'author', (p_request ->> 'offline')::boolean)
  on conflict do nothing;
  return jsonb_build_object('version', 1);
exception
  when check_violation or not_null_violation or invalid_text_representation then
    perform queue.refuse(422, 'procedure_invalid', 'a procedure is not as it should be: ' || sqlerrm, 'procedure');
end;
$$;
comment on function public.training_store_procedure is 'Store a generated procedure as version 1 {job_id, fence, procedure, author, offline}; a repeat leaves the first.';

create function public.training_note_host(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables: this is the door
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_training public.trainings := training.held_or_refuse(p_request);
begin
  update public.trainings set host_upload = left(p_request ->> 'upload', 200), host_asset = coalesce(left(p_request ->> 'asset', 200), host_asset)
  where id = v_training.id;
  return jsonb_build_object('training_id', v_training.id);
end;
$$;
comment on function public.training_note_host is 'Note what the video host knows the video by {job_id, fence, upload, asset}, so that it can be removed there whatever happens to the job.';

create function public.training_finish(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables: this is the door
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_training public.trainings := training.held_or_refuse(p_request);
begin
  update public.trainings set outcome = p_request ->> 'outcome', code = p_request ->> 'code', reason = left(p_request ->> 'reason', 2000),
    finished_at = queue.clock()
  where id = v_training.id and outcome is null returning * into v_training;
  if found and v_training.outcome = 'completed' then
    perform training.clean(v_training, true, false, false);
  end if;
  return (select jsonb_build_object('outcome', t.outcome) from public.trainings as t where t.id = (p_request ->> 'training_id')::uuid);
exception
  when check_violation then
    perform queue.refuse(422, 'outcome_invalid', 'a training does not end like this: ' || sqlerrm, 'outcome');
end;
$$;
comment on function public.training_finish is 'End a training {job_id, fence, training_id, outcome, code, reason}: {outcome}; the cut audio of a completed one is removed.';

-- Row level security and grants --------------------------------------------------------------------------

alter table public.trainings enable row level security;
alter table public.training_stages enable row level security;
alter table public.training_chunks enable row level security;
alter table public.training_procedures enable row level security;
create policy trainings_read_by_members on public.trainings
for select to authenticated using (workspace_id in (select queue.my_workspaces()));
create policy training_stages_read_by_members on public.training_stages
for select to authenticated using (workspace_id in (select queue.my_workspaces()));
create policy training_chunks_read_by_members on public.training_chunks
for select to authenticated using (workspace_id in (select queue.my_workspaces()));
create policy training_procedures_read_by_members on public.training_procedures
for select to authenticated using (workspace_id in (select queue.my_workspaces()));

revoke all on public.trainings, public.training_stages, public.training_chunks, public.training_procedures, public.background_jobs, public.job_queue
from public, anon, authenticated, service_role;
grant select on public.trainings, public.training_stages, public.training_chunks, public.training_procedures, public.background_jobs, public.job_queue
to authenticated, service_role;

revoke execute on all functions in schema training from public, anon, authenticated, service_role;
revoke execute on function public.training_start, public.training_read, public.training_list, public.training_transcript, public.training_procedure,
public.training_cancel, public.training_retry, public.training_save_procedure, public.training_delete, public.training_video,
public.training_load, public.training_load_chunks, public.training_store_stage, public.training_store_chunk, public.training_store_procedure,
public.training_note_host, public.training_finish from public, anon, authenticated, service_role;
grant execute on function public.training_start, public.training_read, public.training_list, public.training_transcript, public.training_procedure,
public.training_cancel, public.training_retry, public.training_save_procedure, public.training_delete, public.training_video
to authenticated, service_role;
grant execute on function public.training_load, public.training_load_chunks, public.training_store_stage, public.training_store_chunk,
public.training_store_procedure, public.training_note_host, public.training_finish to job_worker, service_role;
