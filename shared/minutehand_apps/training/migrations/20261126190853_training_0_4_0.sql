-- 0.4.0 after the release before it; written by `python -m infra.release` from schemas and steps/0.4.0.sql.
-- Do not edit it, and do not read it: read the schemas.

-- The key of a link that opens for anyone who has it; null: there is none.
alter table public.trainings
  add column share_id uuid,
  add constraint trainings_one_share unique (share_id);

create or replace function training.delete_background_job()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if old.completed_at is null then
    -- not queue.refuse, on which the caller holds no right
    raise exception
      using
        errcode = 'PT409',
        hint = 'invalid_state',
        detail = old.id::text,
        message = 'only an ended job is deleted; cancel it first';
  end if;
  delete from public.jobs
  where parent_id = old.id and finished_at is not null;
  delete from public.jobs where id = old.id and finished_at is not null;
  return case when found then old end;
end;
$$;

create or replace view public.training_states with (security_invoker = true) as
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
    min(b.error_data ->> 'message') filter (where b.status = 'failed') as reason,
    floor(
      sum(
        b.progress_percentage
        * case b.job_type when 'transcription' then 70 else 15 end
      ) / 100
    )::integer as done
  from public.background_jobs as b
  where b.training_id = t.id
) as j;

-- Whose a training is, and what may quote someone.
comment on column public.trainings.title is 'Person: words';

comment on column public.trainings.object_key is 'Person: key';

comment on column public.trainings.media is 'Person: words to clear';

comment on column public.trainings.transcript is 'Person: words';

comment on column public.trainings.procedure is 'Person: words';

comment on column public.trainings.published is 'Person: words';

comment on column public.trainings.created_by is 'Person: owner';

comment on column public.training_chunks.segments is 'Person: words';

-- What members do with trainings, and what workers load and store.
-- The file is checked by the worker; whose upload it is, here.

create or replace function training.own_or_refuse(p_training_id uuid)
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

create or replace function training.live_jobs(p_training_id uuid)
returns uuid[]
language sql stable
set search_path = ''
as $$
select coalesce(array_agg(j.id order by j.id), '{}')
from public.training_jobs as t
join public.jobs as j on j.id = t.job_id
where t.training_id = p_training_id and j.finished_at is null
$$;

create or replace function training.enqueue(p_training public.trainings, p_job_type text)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_done record;
begin
  -- the platform's own job: no member may enqueue it, but it is for the member
  v_done := queue.enqueue(
    p_training.workspace_id,
    null,
    jsonb_build_array(jsonb_build_object(
      'job_type', p_job_type,
      'payload', jsonb_strip_nulls(jsonb_build_object(
        'training_id', p_training.id,
        'audio_url', case p_job_type
          when 'transcription' then p_training.object_key
        end,
        'video_url', case p_job_type
          when 'mux_upload' then p_training.object_key
        end
      )),
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

create or replace function public.training_start(
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
  -- where an upload of the caller's own lies, and nothing else
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
  else -- the upload is the key: completed twice, it is one training
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
exception when check_violation then
  perform queue.refuse(
    422,
    'invalid_argument',
    'a training cannot be like this: ' || sqlerrm,
    'training'
  );
end;
$$;

comment on function public.training_start is
  'Create a training of an upload with its jobs: {training_id, job_id, wake}, the first for the '
  'same upload. For members.';

select queue.allow('authenticated, service_role', 'public.training_start');

create or replace function public.training_cancel(p_training_id uuid)
returns jsonb
language plpgsql
security definer -- its jobs are the platform's own
set search_path = ''
as $$
declare
  v_training constant public.trainings := training.own_or_refuse(p_training_id);
  v_ids constant uuid[] := training.live_jobs(p_training_id);
begin
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
  'Stop every job of a training; what is finished is '
  'kept. 409 when it has ended.';

select queue.allow('authenticated, service_role', 'public.training_cancel');

create or replace function public.training_retry(p_training_id uuid)
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
  -- what was recognised without a word may be better understood now
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
      'only a failed or cancelled training is retried',
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
  'Run the failed and cancelled jobs of a training again, after what is finished: {training_id, '
  'wake}; 409 without any.';

select queue.allow('authenticated, service_role', 'public.training_retry');

create or replace function public.training_delete(p_training_id uuid)
returns jsonb
language plpgsql
security definer -- no role may delete trainings directly
set search_path = ''
as $$
declare
  v_training constant public.trainings := training.own_or_refuse(p_training_id);
begin
  perform queue.cancel(training.live_jobs(p_training_id), queue.clock());
  delete from public.trainings where id = p_training_id;
  return jsonb_build_object(
    'object_key', v_training.object_key,
    'workspace_id', v_training.workspace_id
  );
end;
$$;

comment on function public.training_delete is
  'Delete a training with its results: {object_key, workspace_id}, whose files the caller removes. '
  'Its jobs are cancelled.';

select queue.allow('authenticated, service_role', 'public.training_delete');

create or replace function public.training_share(p_training_id uuid, p_is_shared boolean)
returns jsonb
language plpgsql
security definer -- no role may write trainings directly
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
begin
  update public.trainings
  set share_id = case when p_is_shared then coalesce(share_id, gen_random_uuid()) end
  where id = v_training.id
  returning * into v_training;
  return jsonb_build_object('share_id', v_training.share_id);
end;
$$;

comment on function public.training_share is
  'Let anyone who has its link read a training''s procedure, or no longer: {share_id}.';

select queue.allow('authenticated, service_role', 'public.training_share');

create or replace function training.shared(p_share_id uuid)
returns jsonb
language sql stable
security definer
set search_path = ''
as $$ -- its random id is the key to it
select jsonb_build_object(
  'shared', (
    select jsonb_build_object(
      'title', t.title,
      'procedure', t.procedure,
      'object_key', t.object_key,
      'has_picture', t.media ->> 'video' is not null
    )
    from public.trainings as t
    where t.share_id = p_share_id
      and jsonb_typeof(t.procedure -> 'procedure') = 'object'
  )
)
$$;

select queue.allow('anon, authenticated, service_role', 'training.shared');

-- Bound when it is made: callers need no usage of the schema.
create or replace function public.training_shared(p_share_id uuid)
returns jsonb
language sql stable
set search_path = '' begin atomic select training.shared(p_share_id);
end;

comment on function public.training_shared is
  'A procedure by the key of its link: {shared: {title, procedure, object_key, has_picture}}.';

select queue.allow('anon, authenticated, service_role', 'public.training_shared');

create or replace function training.held(p_request jsonb, p_refuse boolean)
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
      'the training is gone',
      v_job.id::text
    );
  end if;
  return v_training;
end;
$$;

create or replace function public.training_load(p_request jsonb)
returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
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
  'The input of a leased job {job_id, fence}: {training, generation, transcribed, transcription}; '
  'training null when gone.';

select queue.allow('job_worker, service_role', 'public.training_load');

create or replace function public.training_load_chunks(p_request jsonb)
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
  'The transcript of a leased job''s training '
  '{job_id, fence}: {chunks}.';

select queue.allow('job_worker, service_role', 'public.training_load_chunks');

create or replace function public.training_store(p_request jsonb)
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
  -- in one transaction with the transcript, so that a crash leaves both or none
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
  'Store what a stage found {job_id, fence, name, value} unless it is there; returns it as stored. '
  'With the transcript sop_generation is enqueued.';

select queue.allow('job_worker, service_role', 'public.training_store');

create or replace function public.training_store_chunk(p_request jsonb)
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
  'Store the transcript of a chunk {job_id, fence, chunk} unless it is there: {stored}.';

select queue.allow('job_worker, service_role', 'public.training_store_chunk');

create or replace function public.training_note_host(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_training constant public.trainings := training.held(p_request, true);
begin
  perform queue.refuse_revoked();
  update public.trainings
  set
    host_upload = left(p_request ->> 'upload', 200),
    host_asset = left(p_request ->> 'asset', 200)
  where id = v_training.id;
  return jsonb_build_object('training_id', v_training.id);
end;
$$;

comment on function public.training_note_host is
  'Note the video host''s ids {job_id, fence, '
  'upload, asset}.';

select queue.allow('job_worker, service_role', 'public.training_note_host');

-- What people write there is charged.
select queue.charge_rows('public.trainings');
