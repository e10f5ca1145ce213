-- What workers do with trainings: load, store the result of a stage, handle the video host's webhooks.

create function training.held(p_request jsonb, out job public.jobs, out training public.trainings) returns record
language plpgsql
set search_path = ''
as $$
begin
  job := queue.held_job(p_request, array['transcription', 'sop_generation', 'mux_upload', 'training_chunk',
    'training_stills'],
    'nothing was stored');
  select t.* into training from public.trainings as t
  where t.id = (job.payload ->> 'training_id')::uuid and t.workspace_id = job.workspace_id
    and (job.job_type = 'training_stills' or exists (select from public.training_jobs as p where p.training_id = t.id
      and p.job_id = case job.job_type when 'training_chunk' then job.parent_id else job.id end));
end;
$$;
comment on function training.held is
  'The leased job, locked, and the training it is for; the training is null when it is gone or has another job by now. '
  'lease_lost for callers that do not hold the lease.';

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

create function training.begin_run(p_training public.trainings, p_job public.jobs) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_known public.training_jobs;
begin
  select * into v_known from public.training_jobs where job_id = p_job.id for update;
  if not found then
    return; -- a chunk, or stills
  elsif p_job.generation > v_known.generation then -- the job was retried, by any function
    perform training.reopen(p_training, p_job.job_type);
  elsif v_known.started_at is not null then
    return;
  end if;
  update public.training_jobs
  set generation = p_job.generation, started_at = coalesce(started_at, p_job.started_at, queue.clock())
  where job_id = p_job.id;
end;
$$;
comment on function training.begin_run is
  'Note the first start of a training''s job, and delete its failed stages when it is run again.';

create function public.training_load(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_held record;
begin
  v_held := training.held(p_request);
  if (v_held.training).id is null then
    return jsonb_build_object('training', null);
  end if;
  perform training.begin_run(v_held.training, v_held.job);
  return (
    select jsonb_build_object('training', to_jsonb(t), 'generation', (v_held.job).generation,
      'limits', jsonb_build_object('bytes', queue.setting('training_max_bytes'),
        'seconds', queue.setting('training_max_seconds')),
      'stages', (select coalesce(jsonb_agg(to_jsonb(s) - '{training_id,workspace_id}'::text[]), '[]')
        from public.training_stages as s where s.training_id = t.id),
      'heard', (select coalesce(jsonb_agg(k.number order by k.number), '[]')
        from public.training_chunks as k where k.training_id = t.id),
      'ahead', (select count(*) from public.training_jobs as p join public.jobs as j on j.id = p.job_id
        where p.workspace_id = t.workspace_id and p.job_type = 'transcription' and j.finished_at is null
          and j.id <> (v_held.job).id
          and (j.status = 'waiting' or j.status = 'processing' and j.id < (v_held.job).id)),
      'transcription', (select coalesce(j.status, 'completed') from public.training_jobs as p
        left join public.jobs as j on j.id = p.job_id where p.training_id = t.id and p.job_type = 'transcription'),
      'written', (select jsonb_build_object('steps', jsonb_array_length(p.procedure -> 'steps'), 'author', p.author,
          'offline', p.offline)
        from public.training_procedures as p where p.training_id = t.id and p.version = 1))
    from public.trainings as t where t.id = (v_held.training).id);
end;
$$;
comment on function public.training_load is
  E'The input of a leased job {job_id, fence}: {training, generation, limits, stages, heard, ahead, transcription, '
  'written}.\n\ntraining is null when it is gone. ahead counts the workspace''s other transcriptions under way, '
  'transcription is the status of the training''s own.';

create function public.training_load_chunks(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
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
comment on function public.training_load_chunks is
  'The transcript of a leased job''s training {job_id, fence}: {chunks}.';

create function public.training_store_stage(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_training public.trainings := training.held_or_refuse(p_request);
  v_stage public.training_stages := jsonb_populate_record(null::public.training_stages, p_request -> 'stage');
  v_run integer := (select generation from public.jobs where id = (p_request ->> 'job_id')::uuid);
begin
  insert into public.training_stages (training_id, name, workspace_id, run, status, result, code, reason, seconds)
  values (v_training.id, v_stage.name, v_training.workspace_id, v_run, v_stage.status, nullif(v_stage.result, 'null'),
    v_stage.code, v_stage.reason, coalesce(v_stage.seconds, 0))
  on conflict (training_id, name) do update set run = excluded.run, status = excluded.status,
    result = excluded.result, code = excluded.code, reason = excluded.reason, seconds = excluded.seconds,
    finished_at = excluded.finished_at
  where training_stages.status <> 'completed';
  select * into v_stage from public.training_stages where training_id = v_training.id and name = v_stage.name;
  if v_stage.name = 'transcribe' and v_stage.status = 'completed' and not exists (
    select 1 from public.training_jobs as t where t.training_id = v_training.id and t.job_type = 'sop_generation') then
    -- in one transaction with the transcript, so that a crash leaves both or none
    perform training.enqueue(v_training, 'sop_generation');
    perform training.clean(v_training, true, false, false);
  end if;
  return to_jsonb(v_stage) - '{training_id,workspace_id}'::text[];
exception
  when check_violation or not_null_violation or invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse(422, 'stage_invalid', 'a stage is not as it should be: ' || sqlerrm, v_stage.name);
end;
$$;
comment on function public.training_store_stage is
  E'Store the result of a stage {job_id, fence, stage}; returns it as stored.\n\nA completed stage is never written '
  'again: a repeat returns the first. With the transcript the job sop_generation is enqueued.';

create function public.training_store_chunk(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_training public.trainings := training.held_or_refuse(p_request);
  v_chunk public.training_chunks := jsonb_populate_record(null::public.training_chunks,
    queue.plain(p_request -> 'chunk'));
begin
  insert into public.training_chunks (training_id, number, workspace_id, starts_at_seconds, ends_at_seconds, segments,
    language, engine, offline)
  values (v_training.id, v_chunk.number, v_training.workspace_id, v_chunk.starts_at_seconds, v_chunk.ends_at_seconds,
    v_chunk.segments, v_chunk.language, v_chunk.engine, v_chunk.offline)
  on conflict do nothing;
  return (select to_jsonb(k) - '{training_id,workspace_id}'::text[] from public.training_chunks as k
    where k.training_id = v_training.id and k.number = v_chunk.number);
exception
  when check_violation or not_null_violation or invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse(422, 'chunk_invalid', 'a chunk is not as it should be: ' || sqlerrm, v_chunk.number::text);
end;
$$;
comment on function public.training_store_chunk is
  'Store the transcript of a chunk {job_id, fence, chunk}; returns it as stored: a repeat returns the first.';

create function public.training_store_procedure(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_training public.trainings := training.held_or_refuse(p_request);
begin
  perform training.refuse_procedure(p_request -> 'procedure');
  insert into public.training_procedures (training_id, version, workspace_id, procedure, author, offline)
  values (v_training.id, 1, v_training.workspace_id, p_request -> 'procedure', p_request ->> 'author',
    (p_request ->> 'offline')::boolean)
  on conflict do nothing;
  if found then
    perform training.take_stills(v_training, p_request -> 'procedure');
  end if;
  return jsonb_build_object('version', 1);
exception
  when check_violation or not_null_violation or invalid_text_representation then
    perform queue.refuse(422, 'procedure_invalid', 'a procedure is not as it should be: ' || sqlerrm, 'procedure');
end;
$$;
comment on function public.training_store_procedure is
  'Store a generated procedure as version 1 {job_id, fence, procedure, author, offline}; a repeat keeps the first.';

create function public.training_store_stills(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_training public.trainings := training.held_or_refuse(p_request);
begin
  update public.trainings as t
  set stills = (select coalesce(jsonb_agg(distinct e.value), '[]')
    from jsonb_array_elements(t.stills || (p_request -> 'stills')) as e)
  where t.id = v_training.id;
  return jsonb_build_object('training_id', v_training.id);
end;
$$;
comment on function public.training_store_stills is
  'Note the times of which stills were put into the bucket {job_id, fence, stills}.';

create function public.training_note_host(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_training public.trainings := training.held_or_refuse(p_request);
begin
  update public.trainings
  set host_upload = left(p_request ->> 'upload', 200),
    host_asset = coalesce(left(p_request ->> 'asset', 200), host_asset)
  where id = v_training.id;
  return jsonb_build_object('training_id', v_training.id);
end;
$$;
comment on function public.training_note_host is
  'Note the video host''s ids {job_id, fence, upload, asset}, so that the video can be removed there whatever happens '
  'to the job.';

create function public.training_host_event(p_request jsonb) returns jsonb
language plpgsql
security definer -- a webhook has no user: its signature was checked before this call
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_training public.trainings;
  v_job public.jobs;
begin
  -- the job asks the host itself, so neither the order of events nor their content matters
  select * into v_training from public.trainings
  where host_upload = p_request ->> 'upload' or host_asset = p_request ->> 'asset'
    or id = case when p_request ->> 'passthrough' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
      then (p_request ->> 'passthrough')::uuid end
  order by id limit 1;
  if not found then
    return jsonb_build_object('known', false, 'repeated', false, 'wake', false);
  end if;
  insert into training.host_events (event_id, training_id, type)
  values (left(p_request ->> 'event_id', 200), v_training.id, left(p_request ->> 'type', 100)) on conflict do nothing;
  if not found then
    return jsonb_build_object('known', true, 'repeated', true, 'wake', false);
  end if;
  select j.* into v_job from public.training_jobs as t join public.jobs as j on j.id = t.job_id
  where t.training_id = v_training.id and t.job_type = 'mux_upload' for update of j;
  if v_job.status = 'pending' and v_job.next_retry_at > queue.clock() then
    perform public.retry_job(v_job.id); -- it waits to ask the host again: now is better
    return jsonb_build_object('known', true, 'repeated', false, 'wake', true);
  end if;
  return jsonb_build_object('known', true, 'repeated', false, 'wake', false);
end;
$$;
comment on function public.training_host_event is
  'Handle a webhook of the video host {event_id, type, upload, asset, passthrough}: {known, repeated, wake}. It only '
  'makes the waiting mux_upload ask the host at once.';

revoke execute on all functions in schema training from public, anon, authenticated, service_role;
select queue.allow('job_worker, service_role', 'public.training_load', 'public.training_load_chunks',
  'public.training_store_stage', 'public.training_store_chunk', 'public.training_store_procedure',
  'public.training_store_stills', 'public.training_note_host', 'public.training_host_event');
