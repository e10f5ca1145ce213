-- Written by `python -m infra.release.apps` from schemas: do not edit it.

-- The training app converts uploaded videos to transcripts and procedures. This file has the tables
-- and views of the app. The engine does not depend on this app, so the app can be deleted.

create schema if not exists training;
revoke all on schema training from public;

-- The columns transcript and procedure are null until the stage that writes the column has ended.
-- Later attempts do not overwrite a stored transcript or procedure.
create table public.trainings (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  title text not null,
  object_key text not null, -- key of the file in the uploads bucket
  -- SHA-256 of the file, or `<hex>-<parts>` computed from the checksums of its parts
  checksum text,
  media jsonb, -- result of the file check: {bytes, seconds, video, audio}
  sound jsonb, -- {seconds, chunks: [[start, end], …]}, after the sound is cut
  -- Object {chunks, words, language, engine, offline, duration_seconds}, stored after the last
  -- chunk.
  transcript jsonb,
  -- {procedure, author, offline}. The key `procedure` is null if no language model is configured.
  procedure jsonb,
  published jsonb, -- {host, playback_id, duration_seconds, note}, when the video can be played
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  share_id uuid, -- random key of the public link, null without a link
  constraint trainings_one_share unique (share_id),
  constraint trainings_one_per_object unique (object_key),
  constraint trainings_title_is_bounded
    check (char_length(title) between 1 and 200 and title ~ '\S'),
  constraint trainings_object_is_the_workspaces
    check (
      object_key like 'workspaces/' || workspace_id || '/%'
      and char_length(object_key) <= 400
    ),
  constraint trainings_results_are_bounded
    check (
      octet_length(sound::text) <= 200000
      and octet_length(procedure::text) <= 1000000
    )
);
comment on table public.trainings is
  'Uploaded recordings, with their transcripts, procedures and published videos.';
create index trainings_newest on public.trainings (workspace_id, id desc);

create table public.training_jobs (
  training_id uuid not null references public.trainings (id) on delete cascade,
  job_type text not null,
  job_id uuid not null, -- id of a job that retention may have deleted
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  primary key (training_id, job_type),
  constraint training_jobs_job_is_unique unique (job_id),
  constraint training_jobs_type_is_known
    check (job_type in ('transcription', 'sop_generation', 'mux_upload'))
);
comment on table public.training_jobs is
  'The jobs of a training, one per type. A retry runs the same job again.';
create index training_jobs_by_workspace on public.training_jobs (workspace_id);

create table public.training_chunks (
  training_id uuid not null references public.trainings (id) on delete cascade,
  number integer not null, -- position in the transcript, from 1
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  segments jsonb not null, -- [{start, end, text}], in seconds of the recording
  language text, -- name of the language as the engine reports it
  engine text not null,
  offline boolean not null,
  primary key (training_id, number),
  constraint training_chunks_count_from_one check (number between 1 and 1000),
  constraint training_chunks_are_bounded
    check (
      jsonb_typeof(segments) = 'array' and octet_length(segments::text) <= 400000
    )
);
comment on table public.training_chunks is
  'Parts of a transcript of about half a minute, each stored once after its recognition.';
create index training_chunks_by_workspace on public.training_chunks (workspace_id);

create view public.background_jobs with (security_invoker = true) as
select
  j.id,
  j.user_id,
  j.workspace_id as company_id,
  t.training_id,
  j.job_type,
  case
    when j.status = 'processing' and j.cancel_requested_at is not null
      then 'cancelling'
    when j.status = 'waiting' then 'processing'
    else j.status
  end as status,
  case j.status
    when 'completed' then 100
    else coalesce(round((j.progress ->> 'percentage')::numeric), 0)
  end::integer as progress_percentage,
  coalesce(j.progress ->> 'message', j.progress ->> 'stage') as progress_message,
  j.payload as input_data,
  j.result as output_data,
  case
    when j.error_message is not null or j.error_data is not null
      then jsonb_build_object('message', j.error_message)
        || coalesce(j.error_data - 'data', '{}')
        || case jsonb_typeof(j.error_data -> 'data')
          when 'object' then j.error_data -> 'data'
          else '{}'
        end
  end as error_data,
  greatest(j.attempts - 1, 0) as retry_count,
  -- For a failed job, the maximum equals the number of its retries, so that clients show no retry
  -- as left. It is 0 if the first attempt ended with a permanent error.
  case j.status
    when 'failed' then greatest(j.attempts - 1, 0)
    else j.max_attempts - 1
  end as max_retries,
  j.priority,
  j.created_at,
  j.started_at,
  j.finished_at as completed_at,
  j.updated_at,
  j.progress ->> 'stage' as stage,
  j.session_id,
  j.next_retry_at,
  r.title
from public.training_jobs as t
join public.jobs as j on j.id = t.job_id
join public.trainings as r on r.id = t.training_id;
comment on view public.background_jobs is
  'The jobs of trainings: transcription, sop_generation and mux_upload. The service role may '
  'delete finished jobs.';

create view public.job_queue with (security_invoker = true) as
select
  j.id as job_id,
  j.job_type,
  j.priority,
  j.created_at,
  j.workspace_id as company_id,
  t.training_id,
  j.user_id,
  coalesce(j.next_retry_at, j.scheduled_for, j.created_at) as due_at,
  j.attempts,
  j.max_attempts
from public.training_jobs as t
join public.jobs as j on j.id = t.job_id
where j.status = 'pending';
comment on view public.job_queue is
  'The pending jobs of trainings. Ordered by priority and created_at, they are leased in this '
  'order within a workspace.';

create function training.delete_background_job()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if old.completed_at is null then
    -- Raise the error here, because the caller may not execute queue.refuse.
    raise exception
      using
        errcode = 'PT409',
        hint = 'invalid_state',
        detail = old.id::text,
        message = 'only a finished job can be deleted; cancel it first';
  end if;
  delete from public.jobs
  where parent_id = old.id and finished_at is not null;
  delete from public.jobs where id = old.id and finished_at is not null;
  return case when found then old end;
end;
$$;
create trigger background_jobs_delete
  instead of delete on public.background_jobs
  for each row
  execute function training.delete_background_job();

create view public.training_states with (security_invoker = true) as
select
  t.id,
  t.workspace_id,
  t.title,
  t.object_key,
  t.media,
  t.sound,
  t.transcript,
  t.procedure,
  t.published,
  t.created_at,
  'training:' || t.id as session_id,
  (
    select count(*)
    from public.training_chunks as c
    where c.training_id = t.id
  )::integer as transcribed,
  coalesce(j.jobs, '[]') as jobs,
  j.reason,
  case
    when j.cancelling > 0 then 'cancelling'
    when j.live > 0 then case when j.begun then 'running' else 'pending' end
    when j.failed > 0 then 'failed'
    when j.cancelled > 0 then 'cancelled'
    else 'completed'
  end as status,
  case
    when j.live + j.failed + j.cancelled = 0 then 100
    else coalesce(j.done, 0)
  end as progress_percentage,
  t.share_id
from public.trainings as t
cross join lateral (
  select
    jsonb_agg(
      to_jsonb(b)
      - '{input_data,output_data,user_id,company_id,training_id,session_id}'::text[]
      order by b.created_at, b.job_type desc
    ) as jobs,
    count(*) filter (where b.status in ('pending', 'processing')) as live,
    count(*) filter (where b.status = 'cancelling') as cancelling,
    count(*) filter (where b.status = 'failed') as failed,
    count(*) filter (where b.status = 'cancelled') as cancelled,
    bool_or(b.started_at is not null) as begun,
    min(queue.user_message(b.error_data ->> 'message', b.error_data))
      filter (where b.status = 'failed') as reason,
    floor(
      sum(
        b.progress_percentage
        * case b.job_type when 'transcription' then 70 else 15 end
      ) / 100
    )::integer as done
  from public.background_jobs as b
  where b.training_id = t.id
) as j;
comment on view public.training_states is
  'Trainings with the status, percentage and errors of their jobs.';

select queue.show_to_members('public.trainings');
select queue.show_to_members('public.training_jobs');
select queue.show_to_members('public.training_chunks');
select queue.show_to_members('public.background_jobs');
select queue.show_to_members('public.job_queue');
select queue.show_to_members('public.training_states');
grant delete on public.background_jobs to service_role;
select queue.charge_rows('public.trainings');

-- For the export and erasure of personal data, the comments below mark columns with the owner of a
-- row, and columns that may quote a person.
comment on column public.trainings.title is 'Person: words';
comment on column public.trainings.object_key is 'Person: file';
comment on column public.trainings.media is 'Person: words to clear';
comment on column public.trainings.transcript is 'Person: words';
comment on column public.trainings.procedure is 'Person: words';
comment on column public.trainings.published is 'Person: words';
comment on column public.trainings.created_by is 'Person: owner';
comment on column public.training_chunks.segments is 'Person: words';

-- This file has the functions for members, and the functions with which workers load and store
-- data. public.training_start checks that an upload belongs to the caller. The worker checks the
-- uploaded file.

create function training.own_or_refuse(p_training_id uuid)
returns public.trainings
language plpgsql stable
set search_path = ''
as $$
declare
  v_training public.trainings;
begin
  select * into v_training
  from public.trainings
  where id = p_training_id;
  if not found or not queue.is_member(v_training.workspace_id) then
    perform queue.refuse(
      404,
      'training_not_found',
      'training not found',
      p_training_id::text
    );
  end if;
  return v_training;
end;
$$;

create function training.live_jobs(p_training_id uuid)
returns uuid[]
language sql stable
set search_path = ''
as $$
select coalesce(array_agg(j.id order by j.id), '{}')
from public.training_jobs as t
join public.jobs as j on j.id = t.job_id
where t.training_id = p_training_id and j.finished_at is null
$$;

create function training.enqueue(p_training public.trainings, p_job_type text)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_done record;
begin
  -- Enqueue the job with the rights of this app, because the job type is internal, and members may
  -- not enqueue jobs of internal types.
  v_done := queue.enqueue(
    p_training.workspace_id,
    null,
    jsonb_build_array(jsonb_build_object(
      'job_type', p_job_type,
      'payload', jsonb_build_object('training_id', p_training.id),
      'user_id', p_training.created_by,
      'session_id', 'training:' || p_training.id
    )),
    false
  );
  insert into public.training_jobs (training_id, job_type, job_id, workspace_id)
  values (p_training.id, p_job_type, v_done.ids[1], p_training.workspace_id);
  return v_done.wake;
end;
$$;

create function public.training_start(
  p_workspace_id uuid,
  p_title text,
  p_object_key text,
  p_training_id uuid default null,
  p_checksum text default null
)
returns jsonb
language plpgsql
security definer -- no role may write trainings directly
set search_path = ''
as $$
declare
  v_made public.trainings;
  v_wake boolean := false;
begin
  -- Check that the object key has the form of the caller's own uploads.
  if p_workspace_id is null
    or not queue.is_member(p_workspace_id)
    or p_object_key is null
    or p_object_key !~ (
      '^workspaces/'
      || p_workspace_id
      || '/'
      || queue.caller()
      || '/[0-9a-f-]{36}/[A-Za-z0-9._-]+$'
    )
  then
    perform queue.refuse(404, 'upload_not_found', 'upload not found', 'object_key');
  end if;
  perform queue.hold_id(p_object_key);
  insert into public.trainings (
    id, workspace_id, title, object_key, checksum, created_by
  )
  values (
    coalesce(p_training_id, queue.new_id()),
    p_workspace_id,
    p_title,
    p_object_key,
    p_checksum,
    queue.caller()
  )
  on conflict do nothing
  returning * into v_made;
  if found then
    v_wake := training.enqueue(v_made, 'transcription');
    v_wake := training.enqueue(v_made, 'mux_upload') or v_wake;
  else -- if the same upload is completed twice, return the existing training
    select * into v_made
    from public.trainings
    where object_key = p_object_key;
    if not found
      or v_made.id is distinct from coalesce(p_training_id, v_made.id)
    then
      perform queue.refuse(
        409,
        'training_exists',
        'this training has a recording already',
        'training_id'
      );
    end if;
  end if;
  return jsonb_build_object(
    'training_id', v_made.id,
    'wake', v_wake,
    'job_id', (
      select job_id
      from public.training_jobs
      where training_id = v_made.id and job_type = 'transcription'
    )
  );
exception when check_violation or not_null_violation then
  perform queue.refuse(
    422,
    'invalid_argument',
    'the training is not valid: ' || sqlerrm,
    'training'
  );
end;
$$;
comment on function public.training_start is
  'Create a training and its jobs for an upload: {training_id, job_id, wake}. A repeated call '
  'returns the first training. For members.';

create function public.training_cancel(p_training_id uuid)
returns jsonb
language plpgsql
security definer -- members may not execute queue.cancel
set search_path = ''
as $$
declare
  v_training constant public.trainings := training.own_or_refuse(p_training_id);
  v_ids constant uuid[] := training.live_jobs(p_training_id);
begin
  perform queue.hold_id(p_training_id::text);
  if cardinality(v_ids) = 0 then
    perform queue.refuse(
      409,
      'invalid_state',
      'the training has ended',
      v_training.id::text
    );
  end if;
  perform queue.cancel(v_ids, queue.clock());
  return jsonb_build_object('training_id', p_training_id);
end;
$$;
comment on function public.training_cancel is
  'Stop every job of a training and keep the finished results. 409 if no job is running.';

create function public.training_retry(p_training_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_training constant public.trainings := training.own_or_refuse(p_training_id);
  v_id uuid;
  v_count integer := 0;
begin
  perform queue.hold_id(p_training_id::text);
  -- Delete chunks without words, because a new attempt may recognise words in these chunks.
  delete from public.training_chunks
  where training_id = p_training_id
    and v_training.transcript is null
    and segments = '[]';
  for v_id in
    select j.id
    from public.training_jobs as t
    join public.jobs as j on j.id = t.job_id
    where t.training_id = p_training_id and j.status in ('failed', 'cancelled')
    order by j.id
  loop
    perform public.retry_job(v_id);
    v_count := v_count + 1;
  end loop;
  if v_count = 0 then
    perform queue.refuse(
      409,
      'invalid_state',
      'only a failed or cancelled training can be retried',
      p_training_id::text
    );
  end if;
  return jsonb_build_object(
    'training_id', p_training_id,
    'wake', queue.wake_worker()
  );
end;
$$;
comment on function public.training_retry is
  'Run the failed and cancelled jobs of a training again, keeping the finished results: '
  '{training_id, wake}. 409 if there are none.';

create function public.training_delete(p_training_id uuid)
returns jsonb
language plpgsql
security definer -- no role may delete trainings directly
set search_path = ''
as $$
declare
  v_training constant public.trainings := training.own_or_refuse(p_training_id);
begin
  perform queue.hold_id(p_training_id::text);
  perform queue.cancel(training.live_jobs(p_training_id), queue.clock());
  delete from public.trainings where id = p_training_id;
  return jsonb_build_object(
    'object_key', v_training.object_key,
    'workspace_id', v_training.workspace_id
  );
end;
$$;
comment on function public.training_delete is
  'Delete a training with its results and cancel its jobs: {object_key, workspace_id}. The caller '
  'deletes the files.';

create function public.training_share(p_training_id uuid, p_is_shared boolean)
returns jsonb
language plpgsql
security definer -- no role may write trainings directly
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
begin
  perform queue.hold_id(p_training_id::text);
  update public.trainings
  set share_id = case when p_is_shared then coalesce(share_id, gen_random_uuid()) end
  where id = v_training.id
  returning * into v_training;
  return jsonb_build_object('share_id', v_training.share_id);
end;
$$;
comment on function public.training_share is
  'Create or delete the public link of a training''s procedure: {share_id}.';

create function public.training_edit_step(
  p_training_id uuid,
  p_step integer,
  p_title text,
  p_detail text
)
returns jsonb
language plpgsql
security definer -- no role may write trainings directly
set search_path = ''
as $$
declare
  v_training constant public.trainings := training.own_or_refuse(p_training_id);
  v_path constant text[] := array['procedure', 'steps', (p_step - 1)::text];
begin
  perform queue.hold_id(p_training_id::text);
  if char_length(btrim(p_title)) between 1 and 500 is not true
    or char_length(p_detail) > 2000
    or p_step >= 1 is not true
    or v_training.procedure #> v_path is null
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'step must be the number of a step, title have 1 to 500 characters, and detail at most 2,000',
      'step, title, detail'
    );
  end if;
  update public.trainings as t
  set procedure = jsonb_set(
    t.procedure,
    v_path,
    (t.procedure #> v_path) || jsonb_build_object(
      'title', btrim(p_title),
      'detail', coalesce(btrim(p_detail), '')
    )
  )
  where t.id = v_training.id;
  return jsonb_build_object('training_id', v_training.id);
end;
$$;
comment on function public.training_edit_step is
  'Replace the title and the detail of a step of the procedure, numbered from 1: {training_id}. '
  'The time in the video stays.';

create function training.shared(p_share_id uuid)
returns jsonb
language sql stable
security definer
set search_path = ''
as $$ -- the random id authorises the caller
select jsonb_build_object(
  'shared', (
    select jsonb_build_object(
      'procedure', t.procedure,
      'object_key', case when t.media ->> 'video' is not null then t.object_key end
    )
    from public.trainings as t
    where t.share_id = p_share_id
      and jsonb_typeof(t.procedure -> 'procedure') = 'object'
  )
)
$$;
comment on function training.shared is
  'The procedure with this public link: {shared: {procedure, object_key}}. '
  'object_key contains the ids of the workspace and the author, so it is null without a picture.';

create function training.held(p_request jsonb, p_refuse boolean)
returns public.trainings
language plpgsql
set search_path = ''
as $$
declare
  v_job constant public.jobs := queue.held_job(
    p_request,
    array['transcription', 'sop_generation', 'mux_upload', 'training_chunk'],
    'nothing was stored'
  );
  v_training public.trainings;
begin
  select t.* into v_training
  from public.trainings as t
  where t.id = (v_job.payload ->> 'training_id')::uuid
    and t.workspace_id = v_job.workspace_id;
  if not found and p_refuse then
    perform queue.refuse(
      404,
      'training_not_found',
      'the training was deleted',
      v_job.id::text
    );
  end if;
  return v_training;
end;
$$;

create function public.training_load(p_request jsonb)
returns jsonb
language plpgsql
security definer -- the worker has no rights on the app's tables
set search_path = ''
as $$
declare
  v_training constant public.trainings := training.held(p_request, false);
begin
  perform queue.refuse_revoked();
  return jsonb_build_object(
    'training', case when v_training.id is not null then to_jsonb(v_training) end,
    'generation', (
      select generation
      from public.jobs
      where id = (p_request ->> 'job_id')::uuid
    ),
    'transcribed', (
      select coalesce(jsonb_agg(c.number order by c.number), '[]')
      from public.training_chunks as c
      where c.training_id = v_training.id
    ),
    'transcription', (
      select jsonb_build_object(
        'status', j.status,
        'error', j.error_message,
        'data', j.error_data
      )
      from public.training_jobs as t
      join public.jobs as j on j.id = t.job_id
      where t.training_id = v_training.id and t.job_type = 'transcription'
    )
  );
end;
$$;
comment on function public.training_load is
  'The input of a leased job {job_id, fence}: {training, generation, transcribed, transcription}. '
  'training is null if it was deleted.';

create function public.training_load_chunks(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_training constant public.trainings := training.held(p_request, true);
begin
  perform queue.refuse_revoked();
  return jsonb_build_object(
    'chunks', (
      select coalesce(jsonb_agg(to_jsonb(c) order by c.number), '[]')
      from public.training_chunks as c
      where c.training_id = v_training.id
    )
  );
end;
$$;
comment on function public.training_load_chunks is
  'The transcript of a leased job''s training {job_id, fence}: {chunks}.';

create function public.training_store(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_training public.trainings := training.held(p_request, true);
  v_name constant text := p_request ->> 'name';
  v_value constant jsonb := p_request -> 'value';
begin
  perform queue.refuse_revoked();
  update public.trainings
  set
    media = coalesce(media, case v_name when 'media' then v_value end),
    sound = coalesce(sound, case v_name when 'sound' then v_value end),
    transcript = coalesce(
      transcript,
      case v_name when 'transcript' then v_value end
    ),
    procedure = coalesce(procedure, case v_name when 'procedure' then v_value end),
    published = coalesce(published, case v_name when 'published' then v_value end)
  where id = v_training.id
  returning * into v_training;
  -- Enqueue the job sop_generation in the transaction that stores the transcript, so that a crash
  -- cannot lose the job.
  if v_training.transcript is not null
    and not exists (
      select 1
      from public.training_jobs
      where training_id = v_training.id and job_type = 'sop_generation'
    )
  then
    perform training.enqueue(v_training, 'sop_generation');
  end if;
  return to_jsonb(v_training) -> v_name;
end;
$$;
comment on function public.training_store is
  'Store the result of a stage {job_id, fence, name, value} once, and return the stored result. '
  'Storing the transcript enqueues sop_generation.';

create function public.training_store_chunk(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_training constant public.trainings := training.held(p_request, true);
begin
  perform queue.refuse_revoked();
  insert into public.training_chunks (
    training_id, number, workspace_id, segments, language, engine, offline
  )
  select
    v_training.id,
    c.number,
    v_training.workspace_id,
    c.segments,
    c.language,
    c.engine,
    c.offline
  from jsonb_populate_record(
    null::public.training_chunks,
    p_request -> 'chunk'
  ) as c
  on conflict do nothing;
  return jsonb_build_object('stored', found);
end;
$$;
comment on function public.training_store_chunk is
  'Store the transcript of a chunk {job_id, fence, chunk} once: {stored}.';

-- Grants. Callers may execute only the functions that are named below.
revoke execute
  on all functions in schema training
  from public, anon, authenticated, service_role;
select queue.allow_guests('training.shared');
select queue.allow(
  'authenticated, service_role',
  'public.training_start',
  'public.training_cancel',
  'public.training_retry',
  'public.training_delete',
  'public.training_share',
  'public.training_edit_step'
);
select queue.allow(
  'job_worker, service_role',
  'public.training_load',
  'public.training_load_chunks',
  'public.training_store',
  'public.training_store_chunk'
);
