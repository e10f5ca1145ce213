-- Lists and counts of jobs that read by their limit, whatever else there is: each state is read
-- from the index or the narrow table that holds it in order, and what none holds is looked for in slices.

-- a webhook's deliveries are few among many jobs; nobody else's job pays for their order
create index jobs_by_webhook on public.jobs (concurrency_key, created_at, id) where job_type = 'webhook_delivery';

create type queue.list_place as (created_at timestamptz, id uuid);
comment on type queue.list_place is 'Where a job stands in a list.';

create function queue.list_filter(p_filter jsonb, p_known text[]) returns jsonb
language plpgsql immutable
set search_path = ''
as $$
declare
  v_name text;
begin
  if jsonb_typeof(coalesce(p_filter, '{}')) <> 'object' then
    perform queue.refuse(400, 'invalid_argument', 'the filter must be an object', 'filter');
  end if;
  for v_name in select jsonb_object_keys(p_filter) loop
    if v_name <> all (p_known) then
      perform queue.refuse(400, 'invalid_argument', format('unknown filter: %s', left(v_name, 80)), left(v_name, 80));
    end if;
  end loop;
  return coalesce(jsonb_strip_nulls(p_filter), '{}');
end;
$$;
comment on function queue.list_filter is 'The filter without its nulls; 400 for a name nobody knows, so that a typo does not match everything.';

create function queue.hex_of(p_text text) returns text
language sql immutable
set search_path = ''
as $$
  select case when h ~ '^[0-9a-f]{6,32}$' then h end from replace(lower(btrim(p_text)), '-', '') as h
$$;
comment on function queue.hex_of is 'The digits of (a part of) an id, 6 to 32 of them; null for any other text.';

create function queue.list_sources(p_filter jsonb, p_workspaces uuid[]) returns table (source text, workspace_id uuid, word text)
language plpgsql immutable
set search_path = ''
as $$
declare
  v_status text[] := array(select jsonb_array_elements_text(p_filter -> 'status'));
begin
  if p_filter ? 'id_prefix' then
    return query select 'prefix', null::uuid, null;
  elsif p_filter ? 'parent_id' then
    return query select 'parent', null::uuid, null;
  elsif p_filter ? 'batch_id' then
    return query select 'batch', null::uuid, null;
  elsif p_filter ? 'session_id' then
    return query select 'session', null::uuid, null;
  elsif cardinality(v_status) = 0 or v_status @> array['pending', 'processing', 'waiting', 'completed', 'failed', 'cancelled'] then
    return query select 'all', w, null from unnest(p_workspaces) as w;
  else
    return query
    select k.source, w, k.word
    from unnest(p_workspaces) as w cross join (
      select distinct stood.source, case when stood.source = 'ended' then s end as word
      from unnest(v_status) as s cross join lateral unnest(
        case s when 'pending' then array['ready', 'deferred'] when 'processing' then array['leases'] when 'waiting' then array['waits']
          else array['ended'] end) as stood (source)) as k;
  end if;
end;
$$;
comment on function queue.list_sources is 'What a list is read from and merged of: one index or narrow table per state and workspace, or the one of a session, parent, batch or part of an id.';

create function public.list_jobs(p_filter jsonb default '{}', p_cursor jsonb default null, p_limit integer default 50) returns json
language plpgsql stable
security definer -- leases and waits, which hold the running and waiting jobs in order, are the engine's own
set search_path = ''
-- in order and no further than needed: a plan that reads all and sorts it is never what is wanted
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
  v_filter jsonb := queue.list_filter(p_filter, array['workspace_id', 'status', 'job_type', 'queue', 'session_id', 'parent_id',
    'batch_id', 'created_after', 'created_before', 'search', 'id_prefix']);
  v_service boolean := auth.uid() is null and queue.is_service();
  v_limit integer := least(200, greatest(1, coalesce(p_limit, 50)));
  v_slice integer := 200 * v_limit;
  v_workspaces uuid[];
  v_after timestamptz;
  v_before timestamptz;
  v_at timestamptz;
  v_id uuid;
  v_hex text := queue.hex_of(v_filter ->> 'id_prefix');
  v_part text := queue.hex_of(v_filter ->> 'search');
  v_mine text := '';
  v_where text := '';
  v_source record;
  v_from text;
  v_narrow boolean; -- whether the source is a table of that name, in the order of lists
  v_at_key text;
  v_id_key text;
  v_head text;
  v_value text;
  v_found queue.list_place[];
  v_all queue.list_place[] := '{}';
  v_one queue.list_place;
  v_mark queue.list_place;
begin
  v_after := (v_filter ->> 'created_after')::timestamptz;
  v_before := (v_filter ->> 'created_before')::timestamptz;
  -- half a place in the list would begin it anew, for ever
  if coalesce(jsonb_typeof(p_cursor), 'null') <> 'null' and (jsonb_typeof(p_cursor) <> 'object'
      or p_cursor ->> 'created_at' is null or p_cursor ->> 'id' is null) then
    perform queue.refuse(400, 'invalid_argument', 'cursor must be a page''s next: {created_at, id}', 'cursor');
  end if;
  v_at := (p_cursor ->> 'created_at')::timestamptz;
  v_id := (p_cursor ->> 'id')::uuid;
  if v_filter ? 'id_prefix' and v_hex is null then
    perform queue.refuse(400, 'invalid_argument', 'id_prefix must be 6 to 32 hexadecimal digits', 'id_prefix');
  end if;
  select v.word into v_value from jsonb_array_elements_text(v_filter -> 'status') as v (word)
  where v.word is null or v.word <> all (array['pending', 'processing', 'waiting', 'completed', 'failed', 'cancelled']) limit 1;
  if found then -- each would be looked for by itself, and found nowhere
    perform queue.refuse(400, 'invalid_argument', format('unknown status: %s', left(v_value, 80)), 'status');
  end if;
  v_workspaces := case when v_service then array(select (v_filter ->> 'workspace_id')::uuid where v_filter ? 'workspace_id')
    else array(select w from queue.my_workspaces() as w where not v_filter ? 'workspace_id' or w = (v_filter ->> 'workspace_id')::uuid) end;
  if v_service and cardinality(v_workspaces) = 0 and not v_filter ?| array['id_prefix', 'parent_id', 'batch_id', 'session_id'] then
    perform queue.refuse(400, 'invalid_argument', 'name the workspace', 'workspace_id');
  end if;
  v_mine := case when v_service and cardinality(v_workspaces) = 0 then '' else ' and j.workspace_id = any ($1)' end;
  v_where := concat(
    case when v_filter ? 'status' then ' and status = any (array(select jsonb_array_elements_text($2 -> ''status'')))' end,
    case when v_filter ? 'job_type' then ' and job_type = $2 ->> ''job_type''' end,
    case when v_filter ? 'queue' then ' and queue = $2 ->> ''queue''' end,
    case when v_filter ? 'session_id' then ' and session_id = $2 ->> ''session_id''' end,
    case when v_filter ? 'parent_id' then ' and parent_id = ($2 ->> ''parent_id'')::uuid' end,
    case when v_filter ? 'batch_id' then ' and batch_id = ($2 ->> ''batch_id'')::uuid' end,
    case when v_filter ? 'search' then ' and (strpos(lower(job_type), $9) > 0 or strpos(lower(error_message), $9) > 0
      or strpos(lower(idempotency_key), $9) > 0
      or $8 is not null and (replace(id::text, ''-'', '''') like $8 || ''%'' or replace(id::text, ''-'', '''') like ''%'' || $8))' end);

  for v_source in select * from queue.list_sources(v_filter, v_workspaces) loop
    v_narrow := v_source.source in ('ready', 'deferred', 'leases', 'waits', 'ended');
    v_at_key := case when v_narrow then 'w.job_created_at' else 'j.created_at' end;
    v_id_key := case when v_narrow then 'w.job_id' else 'j.id' end;
    select k.name, k.value into v_head, v_value from (values
      ('session', 'j.session_id', '($2 ->> ''session_id'')'),
      ('parent', 'j.parent_id', '($2 ->> ''parent_id'')::uuid'), ('batch', 'j.batch_id', '($2 ->> ''batch_id'')::uuid')) as k (source, name, value)
    where k.source = v_source.source;
    v_from := case
      -- as a range and in the order: an index by age alone, read past whatever else there is, cannot serve it
      when v_head is not null then format('public.jobs as j where %s between %s and %2$s', v_head, v_value) || v_mine
      when v_source.source = 'prefix' then 'public.jobs as j where j.id between rpad($7, 32, ''0'')::uuid and rpad($7, 32, ''f'')::uuid' || v_mine
      when v_narrow then format('queue.%I as w join public.jobs as j on j.id = w.job_id where w.workspace_id = $10', v_source.source)
        || case v_source.source when 'ended' then ' and w.outcome = $11' else '' end
      else 'public.jobs as j where j.workspace_id = $10' end;
    v_from := concat('from ', v_from,
      case when v_after is not null then format(' and (%s) >= (%s)', concat_ws(', ', v_head, v_at_key), concat_ws(', ', v_value, '$3')) end,
      case when v_before is not null then format(' and (%s) < (%s)', concat_ws(', ', v_head, v_at_key), concat_ws(', ', v_value, '$4')) end,
      case when v_id is null then '' when v_source.source = 'prefix' then ' and j.id < $6'
        else format(' and (%s) < (%s)', concat_ws(', ', v_head, v_at_key, v_id_key), concat_ws(', ', v_value, '$5', '$6')) end,
      ' order by ', case when v_source.source = 'prefix' then 'j.id desc'
        else concat_ws(' desc, ', v_head, v_at_key, v_id_key) || ' desc' end);
    execute format('select coalesce(array_agg((x.created_at, x.id)::queue.list_place), ''{}'') from (
        select p.created_at, p.id from (select j.* %s limit %s) as p where true %s limit %s) as x', v_from, v_slice, v_where, v_limit + 1)
    into v_found using v_workspaces, v_filter, v_after, v_before, v_at, v_id, v_hex, v_part, lower(v_filter ->> 'search'), v_source.workspace_id, v_source.word;
    v_all := v_all || v_found;
    if cardinality(v_found) <= v_limit and v_where <> '' then
      -- the slice may have ended before the jobs did: then the list is whole down to there only
      v_one := null;
      execute format('select j.created_at, j.id %s offset %s limit 1', v_from, v_slice - 1)
      into v_one using v_workspaces, v_filter, v_after, v_before, v_at, v_id, v_hex, v_part, lower(v_filter ->> 'search'), v_source.workspace_id, v_source.word;
      if v_one.id is not null and (v_mark is null or v_one > v_mark) then
        v_mark := v_one;
      end if;
    end if;
  end loop;

  if v_filter ? 'id_prefix' then -- by id, which leaves the order of creation to whoever makes ids
    v_found := array(select a from unnest(v_all) as a order by (a).id desc);
  else
    v_found := array(select a from unnest(v_all) as a where v_mark is null or a >= v_mark order by a desc limit v_limit + 1);
  end if;
  if cardinality(v_found) > v_limit then
    v_mark := v_found[v_limit];
  end if;
  return json_build_object(
    'jobs', (select coalesce(json_agg(row_to_json(j) order by f.n), '[]')
      from unnest(v_found[1:v_limit]) with ordinality as f (created_at, id, n) join public.jobs as j on j.id = f.id),
    'next', case when v_mark is not null then row_to_json(v_mark) end);
exception
  when invalid_text_representation or invalid_datetime_format or datetime_field_overflow or invalid_parameter_value then
    perform queue.refuse(400, 'invalid_argument', 'the filter has a value of the wrong type: ' || sqlerrm, 'filter');
end;
$$;
comment on function public.list_jobs is E'Jobs, newest first: {jobs: […], next: {created_at, id} | null}; give next as p_cursor to go on, whole.\n\nFilter: workspace_id, status […], job_type, queue, session_id, parent_id, batch_id, created_after, created_before, search (part of a type, error, idempotency key or id), id_prefix (6 to 32 digits; then in order of ids). Reads at most 200 jobs per job asked for (p_limit, 1 to 200) from each state: a page may hold fewer than asked for, even none, and still have a next one. Members see their own workspaces; the service names one.';

create function public.count_jobs(p_workspace_id uuid, p_filter jsonb default '{}') returns jsonb
language plpgsql stable
security definer -- leases and waits, which hold the running and waiting jobs, are the engine's own
set search_path = ''
set enable_seqscan = off -- no further than counted
set enable_bitmapscan = off
as $$
declare
  v_filter jsonb := queue.list_filter(p_filter, array['job_type', 'queue', 'parent_id']);
  v_most constant integer := 10000;
  v_status text;
  v_stand text;
  v_read integer;
  v_count integer;
  v_counts jsonb := '{}';
  v_more jsonb := '[]';
begin
  perform queue.may_steer(p_workspace_id);
  foreach v_status in array array['pending', 'processing', 'waiting', 'completed', 'failed', 'cancelled'] loop
    v_stand := case v_status
      when 'pending' then '(select workspace_id, job_id from queue.ready union all select workspace_id, job_id from queue.deferred)'
      when 'processing' then 'queue.leases' when 'waiting' then 'queue.waits'
      else '(select workspace_id, job_id from queue.ended where outcome = $3)' end;
    execute case
      when v_filter = '{}' then format('select count(*), count(*) from (select 1 from %s as w where w.workspace_id = $1 limit %s) as p', v_stand, v_most)
      else format($query$
        select count(*), count(*) filter (where p.status = $3
          and ($2 ->> 'job_type' is null or p.job_type = $2 ->> 'job_type') and ($2 ->> 'queue' is null or p.queue = $2 ->> 'queue'))
        from (select j.status, j.job_type, j.queue from public.jobs as j where %s limit %s) as p$query$,
        case when v_filter ? 'parent_id' then 'j.parent_id = ($2 ->> ''parent_id'')::uuid and j.workspace_id = $1'
          else format('j.id = any (array(select w.job_id from %s as w where w.workspace_id = $1 limit %s))', v_stand, v_most) end, v_most)
      end
    into v_read, v_count using p_workspace_id, v_filter, v_status;
    v_counts := v_counts || jsonb_build_object(v_status, v_count);
    if v_read = v_most then
      v_more := v_more || to_jsonb(v_status);
    end if;
  end loop;
  return jsonb_build_object('counts', v_counts, 'more', v_more);
exception
  when invalid_text_representation then
    perform queue.refuse(400, 'invalid_argument', 'the filter has a value of the wrong type: ' || sqlerrm, 'filter');
end;
$$;
comment on function public.count_jobs is E'How many jobs of a workspace are in each state: {counts: {status: n}, more: [status]}.\n\nFilter: job_type, queue, parent_id. Looks at no more than 10,000 jobs per state; more names the states that have more to look at, whose number is the least there are.';

create function public.dead_letters(p_workspace_id uuid) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables: this is the function
set search_path = ''
as $$
declare
  v_most constant integer := 10000;
begin
  perform queue.may_steer(p_workspace_id);
  return (
    with letters as materialized (
      select j.id, j.job_type, j.error_fingerprint, j.error_message, j.completed_at
      from (select e.job_id from queue.ended as e where e.workspace_id = p_workspace_id and e.outcome = 'failed'
        order by e.job_created_at desc, e.job_id desc limit v_most) as e
      join public.jobs as j on j.id = e.job_id),
    alike as (
      select job_type, error_fingerprint, count(*) as jobs, min(completed_at) as first_at, max(completed_at) as last_at,
        (array_agg(id order by completed_at desc, id))[1] as latest_id
      from letters group by 1, 2)
    select jsonb_build_object(
      'groups', coalesce(jsonb_agg(jsonb_build_object('job_type', a.job_type, 'error_fingerprint', a.error_fingerprint, 'jobs', a.jobs,
        'first_at', a.first_at, 'last_at', a.last_at, 'latest_id', a.latest_id, 'error_message', l.error_message)
        order by a.jobs desc, a.last_at desc), '[]'),
      'more', (select count(*) from letters) = v_most)
    from alike as a join letters as l on l.id = a.latest_id);
end;
$$;
comment on function public.dead_letters is E'The dead letters of a workspace by what went wrong: {groups: [{job_type, error_fingerprint, jobs, first_at, last_at, latest_id, error_message}], more}, the largest group first.\n\nLooks at the 10,000 youngest jobs that failed; more tells that there may be others. A group goes to redrive_jobs by its type and fingerprint.';

revoke execute on function queue.list_filter, queue.hex_of, queue.list_sources from public, anon, authenticated, service_role;
revoke execute on function public.list_jobs, public.count_jobs, public.dead_letters from public, anon, authenticated, service_role;
grant execute on function public.list_jobs, public.count_jobs, public.dead_letters to authenticated, service_role;
