-- Lists and counts of jobs that read by their limit, whatever else there is: each state is read
-- from the index or the narrow table that holds it in order, and what none holds is looked for in slices.

-- a webhook's deliveries are few among many jobs; no other job pays for their order
create index jobs_by_webhook on public.jobs (concurrency_key, created_at, id) where job_type = 'webhook_delivery';

create function queue.list_filter(p_filter jsonb, p_known text[]) returns jsonb
language plpgsql immutable
set search_path = ''
as $$
begin
  perform queue.check_names(coalesce(p_filter, '{}'), p_known, 'filter');
  return coalesce(jsonb_strip_nulls(p_filter), '{}');
end;
$$;
comment on function queue.list_filter is 'The filter without its nulls; 400 for an unknown name, so that a typo does '
  'not match everything.';

create function queue.hex_of(p_text text) returns text
language sql immutable
set search_path = ''
as $$
  select case when h ~ '^[0-9a-f]{6,32}$' then h end from replace(lower(btrim(p_text)), '-', '') as h
$$;
comment on function queue.hex_of is 'The digits of (a part of) an id, 6 to 32 of them; null for any other text.';

create function queue.list_sources(p_filter jsonb, p_workspaces uuid[])
returns table (source text, workspace_id uuid, word text)
language plpgsql immutable
set search_path = ''
as $$
declare
  v_all constant text[] := array['pending', 'processing', 'waiting', 'completed', 'failed', 'cancelled'];
  v_words text[] := array(select jsonb_array_elements_text(coalesce(p_filter -> 'state', p_filter -> 'status')));
begin
  if p_filter ? 'id_prefix' then
    return query select 'prefix', null::uuid, null;
  elsif p_filter ? 'parent_id' then
    return query select 'parent', null::uuid, null;
  elsif p_filter ? 'batch_id' then
    return query select 'batch', null::uuid, null;
  elsif p_filter ? 'session_id' then
    return query select 'session', null::uuid, null;
  elsif p_filter ? 'tag' then
    return query select 'job_tags', w, p_filter ->> 'tag' from unnest(p_workspaces) as w;
  elsif cardinality(v_words) = 0 or v_words @> v_all then
    return query select 'all', w, null from unnest(p_workspaces) as w;
  else
    return query
    select k.source, w, k.word
    from unnest(p_workspaces) as w cross join (
      select distinct held.source, case when held.source = 'ended' then s end as word
      from unnest(v_words) as s cross join lateral unnest(case
        when s in ('pending', 'queued') then array['ready', 'deferred']
        when s in ('scheduled', 'retrying') then array['deferred']
        when s in ('processing', 'running') then array['leases']
        when s in ('waiting', 'suspended') then array['waits'] else array['ended'] end) as held (source)) as k;
  end if;
end;
$$;
comment on function queue.list_sources is E'The sources that a list is read from and merged of.\n\nOne index or '
  'narrow table per state and workspace, or the one of a tag, session, parent, batch or part of an id.';

create function queue.list_where(p_filter jsonb) returns text
language sql immutable
set search_path = ''
as $$
  -- of p, a job; $1 the filter, $2 digits of an id in search, $3 search in lower case, $4 now
  select concat(
    case when p_filter ? 'status'
      then ' and status = any (array(select jsonb_array_elements_text($1 -> ''status'')))' end,
    case when p_filter ? 'state' then ' and queue.state_of(status, attempts, next_retry_at, scheduled_for, $4)
      = any (array(select jsonb_array_elements_text($1 -> ''state'')))' end,
    case when p_filter ? 'job_type' then ' and job_type = $1 ->> ''job_type'''
      when p_filter ->> 'internal' = 'false' then ' and not exists (
        select from queue.job_types as t where t.job_type = p.job_type and t.internal)' end,
    case when p_filter ? 'queue' then ' and queue = $1 ->> ''queue''' end,
    case when p_filter ? 'session_id' then ' and session_id = $1 ->> ''session_id''' end,
    case when p_filter ? 'parent_id' then ' and parent_id = ($1 ->> ''parent_id'')::uuid' end,
    case when p_filter ? 'batch_id' then ' and batch_id = ($1 ->> ''batch_id'')::uuid' end,
    case when p_filter ? 'tag' then ' and tags @> array[$1 ->> ''tag'']' end,
    case when p_filter ? 'payload' then ' and payload @> ($1 -> ''payload'')' end,
    case when p_filter ? 'finished_after' then ' and finished_at >= ($1 ->> ''finished_after'')::timestamptz' end,
    case when p_filter ? 'finished_before' then ' and finished_at < ($1 ->> ''finished_before'')::timestamptz' end,
    case when p_filter ? 'min_run_ms' then ' and run_ms >= ($1 ->> ''min_run_ms'')::double precision' end,
    case when p_filter ? 'max_run_ms' then ' and run_ms < ($1 ->> ''max_run_ms'')::double precision' end,
    case when p_filter ? 'error' then ' and strpos(lower(error_message), lower($1 ->> ''error'')) > 0' end,
    case when p_filter ? 'error_type' then ' and error_data ->> ''type'' = $1 ->> ''error_type''' end,
    case when p_filter ? 'error_fingerprint' then ' and error_fingerprint = $1 ->> ''error_fingerprint''' end,
    case when p_filter ?| array['worker_id', 'version'] then format(' and exists (
      select from (select worker_id from queue.attempts where job_id = p.id
        union all select worker_id from queue.leases where job_id = p.id) as ran where %s)', concat_ws(' and ',
        case when p_filter ? 'worker_id' then 'ran.worker_id = $1 ->> ''worker_id''' end,
        case when p_filter ? 'version' then 'exists (select from queue.workers as w
          where w.worker_id = ran.worker_id and w.version = $1 ->> ''version'')' end)) end,
    case when p_filter ? 'search' then ' and (strpos(lower(job_type), $3) > 0 or strpos(lower(error_message), $3) > 0
      or strpos(lower(idempotency_key), $3) > 0 or tags <> ''{}'' and strpos(lower(array_to_string(tags, '' '')),
        $3) > 0
      or pg_column_size(payload) <= 8192 and strpos(lower(payload::text), $3) > 0
      or $2 is not null and (replace(id::text, ''-'', '''') like $2 || ''%'' or replace(id::text, ''-'',
        '''') like ''%'' || $2))' end)
$$;
comment on function queue.list_where is 'The conditions of a filter on each job, beyond those that its source '
  'already meets.';

create function queue.list_words(p_filter jsonb) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_filter jsonb := queue.list_filter(p_filter, array['workspace_id', 'status', 'state', 'job_type', 'queue',
    'session_id',
    'parent_id', 'batch_id', 'tag', 'payload', 'created_after', 'created_before', 'finished_after', 'finished_before',
    'min_run_ms', 'max_run_ms', 'error', 'error_type', 'error_fingerprint', 'worker_id', 'version', 'search',
      'id_prefix', 'internal']);
  v_word text;
begin
  if v_filter ? 'id_prefix' and queue.hex_of(v_filter ->> 'id_prefix') is null then
    perform queue.refuse(400, 'invalid_argument', 'id_prefix must be 6 to 32 hexadecimal digits', 'id_prefix');
  elsif v_filter ? 'payload' and jsonb_typeof(v_filter -> 'payload') <> 'object' then
    perform queue.refuse(400, 'invalid_argument', 'payload must be an object of fields and values', 'payload');
  end if;
  -- each word would be looked for by itself, and found nowhere
  select w into v_word from jsonb_array_elements_text(v_filter -> 'status') as w
  where w is null or w <> all (array['pending', 'processing', 'waiting', 'completed', 'failed', 'cancelled']) limit 1;
  if found then
    perform queue.refuse(400, 'invalid_argument', format('unknown status: %s', left(v_word, 80)), 'status');
  end if;
  select w into v_word from jsonb_array_elements_text(v_filter -> 'state') as w
  where w is null or w <> all (array['queued', 'scheduled', 'retrying', 'running', 'suspended', 'completed', 'failed',
    'cancelled'])
  limit 1;
  if found then
    perform queue.refuse(400, 'invalid_argument', format('unknown state: %s', left(v_word, 80)), 'state');
  end if;
  return v_filter;
end;
$$;
comment on function queue.list_words is 'The checked filter of a list: 400 for an unknown name or state.';

create function queue.list_workspaces(p_filter jsonb) returns uuid[]
language plpgsql stable
set search_path = ''
as $$
declare
  v_named uuid := (p_filter ->> 'workspace_id')::uuid;
begin
  if auth.uid() is not null or not queue.is_service() then
    return array(select w from queue.my_workspaces() as w where v_named is null or w = v_named);
  elsif v_named is null and not p_filter ?| array['id_prefix', 'parent_id', 'batch_id', 'session_id'] then
    perform queue.refuse(400, 'invalid_argument', 'name the workspace', 'workspace_id');
  end if;
  return case when v_named is not null then array[v_named] end;
end;
$$;
comment on function queue.list_workspaces is E'Whose jobs a list shows: the caller''s own workspaces, or the one '
  'that the service names.\n\nNull for all of them: the service''s search by id, session, parent or batch.';

create function queue.list_from(p_source text, p_filter jsonb, p_all boolean, p_onward boolean) returns text
language plpgsql immutable
set search_path = ''
as $$
declare
  v_narrow boolean := p_source in ('ready', 'deferred', 'leases', 'waits', 'ended', 'job_tags');
    -- in the order of lists
  v_at text := case when v_narrow then 'w.job_created_at' else 'j.created_at' end;
  v_id text := case when v_narrow then 'w.job_id' else 'j.id' end;
  v_mine text := case when p_all then '' else ' and j.workspace_id = any ($5)' end;
  v_head text := case p_source when 'session' then 'j.session_id' when 'parent' then 'j.parent_id' when 'batch'
    then 'j.batch_id' end;
  v_value text := case p_source when 'session' then '($1 ->> ''session_id'')' when 'parent'
    then '($1 ->> ''parent_id'')::uuid'
    when 'batch' then '($1 ->> ''batch_id'')::uuid' end;
begin
  -- $1 to $4 as in list_where, $5 workspaces, $6 and $7 the cursor, $8 digits of an id, $9 and $10 of the source
  return concat('from ', case
      -- as a range and in the order: an index by age alone, read past whatever else there is, cannot serve it
      when v_head is not null then format('public.jobs as j where %s between %s and %2$s', v_head, v_value) || v_mine
      when p_source = 'prefix' then
        'public.jobs as j where j.id between rpad($8, 32, ''0'')::uuid and rpad($8, 32, ''f'')::uuid' || v_mine
      when v_narrow then format(
        'queue.%I as w join public.jobs as j on j.id = any (array[w.job_id]) where w.workspace_id = $9', p_source)
        || case p_source when 'ended' then ' and w.outcome = $10' when 'job_tags' then ' and w.tag = $10' else '' end
      else 'public.jobs as j where j.workspace_id = $9' end,
    case when p_filter ? 'created_after' then format(' and (%s) >= (%s)', concat_ws(', ', v_head, v_at),
      concat_ws(', ', v_value, '($1 ->> ''created_after'')::timestamptz')) end,
    case when p_filter ? 'created_before' then format(' and (%s) < (%s)', concat_ws(', ', v_head, v_at),
      concat_ws(', ', v_value, '($1 ->> ''created_before'')::timestamptz')) end,
    case when not p_onward then '' when p_source = 'prefix' then ' and j.id < $7'
      else format(' and (%s) < (%s)', concat_ws(', ', v_head, v_at, v_id), concat_ws(', ', v_value, '$6', '$7')) end,
    ' order by ', case when p_source = 'prefix' then 'j.id desc'
      else concat_ws(' desc, ', v_head, v_at, v_id) || ' desc' end);
end;
$$;
comment on function queue.list_from is E'Where the jobs of a source are read from, in the order of lists.\n\n'
  'p_all: over all workspaces, for the service. p_onward: from a cursor on.';

create function public.list_jobs(p_filter jsonb default '{}', p_cursor jsonb default null,
  p_limit integer default 50) returns json
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
  v_most constant interval := '30 milliseconds'; -- for slices that look for more
  v_filter jsonb := queue.list_words(p_filter);
  v_limit integer := least(200, greatest(1, coalesce(p_limit, 50)));
  v_left integer; -- jobs that may yet be read of a source
  v_slice integer;
  v_workspaces uuid[] := queue.list_workspaces(v_filter);
  v_where text := queue.list_where(v_filter);
  v_hex text := queue.hex_of(v_filter ->> 'id_prefix');
  v_now timestamptz := queue.clock();
  v_began timestamptz := clock_timestamp();
  v_start queue.list_place;
  v_source record;
  v_from text;
  v_read record;
  v_found queue.list_place[];
  v_all queue.list_place[] := '{}';
  v_place queue.list_place;
  v_mark queue.list_place;
begin
  perform queue.take_turn();
  v_start := queue.cursor_place(p_cursor);
  for v_source in
    select s.*, v_began + v_most * (row_number() over () / (count(*) over ())::double precision) as until
    from queue.list_sources(v_filter, v_workspaces) as s
  loop
    v_place := v_start;
    v_left := least(10000, 200 * v_limit);
    v_slice := v_limit + 1;
    v_found := '{}';
    loop
      v_from := queue.list_from(v_source.source, v_filter, v_workspaces is null, v_place.id is not null);
      execute format('with p as materialized (
          select p.created_at, p.id, (true %s) as fits from (select j.* %s limit %s) as p)
        select array(select (created_at, id)::queue.list_place from p where fits) as found,
          (select (created_at, id)::queue.list_place from p offset %s) as place', v_where, v_from, v_slice, v_slice - 1)
      into v_read using v_filter, queue.hex_of(v_filter ->> 'search'), lower(v_filter ->> 'search'), v_now,
        v_workspaces, v_place.created_at, v_place.id, v_hex, v_source.workspace_id, v_source.word;
      v_found := v_found || v_read.found;
      v_place := v_read.place;
      v_left := v_left - v_slice;
      exit when v_place.id is null or cardinality(v_found) > v_limit or v_left <= 0
        or clock_timestamp() > v_source.until;
      v_slice := least(4 * v_slice, v_left);
    end loop;
    v_all := v_all || v_found;
    -- when the slices have ended before the jobs did, the list is whole down to there only
    if v_place.id is not null and cardinality(v_found) <= v_limit and (v_mark is null or v_place > v_mark) then
      v_mark := v_place;
    end if;
  end loop;

  if v_filter ? 'id_prefix' then -- by id, which is the order of creation only where ids are made here
    v_found := array(select a from unnest(v_all) as a order by (a).id desc);
  else
    v_found := array(select a from unnest(v_all) as a where v_mark is null or a >= v_mark
      order by a desc limit v_limit + 1);
  end if;
  if cardinality(v_found) > v_limit then
    v_mark := v_found[v_limit];
  end if;
  return json_build_object(
    'jobs', (select coalesce(json_agg(queue.job_json(j) order by f.n), '[]')
      from unnest(v_found[:v_limit]) with ordinality as f (a, id, n) join public.jobs as j on j.id = any (array[f.id])),
    'next', case when v_mark is not null then row_to_json(v_mark) end);
exception
  when invalid_text_representation or invalid_datetime_format or datetime_field_overflow or invalid_parameter_value then
    perform queue.refuse_value('the filter', 'filter', sqlerrm);
end;
$$;
comment on function public.list_jobs is E'Jobs, newest first: {jobs: […], next: {created_at, id} | null}; pass next '
  'as p_cursor to continue, as it is.\n\nFilter: workspace_id, status […], state […] (queued, scheduled, retrying, '
  'running, suspended, completed, failed, cancelled), job_type, queue, session_id, parent_id, batch_id, tag, payload '
  '{field: value}, created_after, created_before, finished_after, finished_before, min_run_ms, max_run_ms, error '
  '(part of its message), error_type, error_fingerprint, worker_id, version, search (part of a type, error, tag, '
  'idempotency key or id, or of a payload up to 8 kB), id_prefix (6 to 32 digits; then in order of ids). Reads at '
  'most 200 jobs per job asked for (p_limit, 1 to 200) and 10,000 from each state, for 30 ms or so: a page may hold '
  'fewer than asked for, even none, and still have a next one; a tag is found at any age. Members see their own '
  'workspaces; the service names one.';

create function queue.sort_key(p_by text) returns text
language sql immutable
set search_path = ''
as $$
  -- of p, a job; $4 now
  select case p_by
    when 'created_at' then 'date_part(''epoch'', p.created_at)'
    when 'started_at' then 'date_part(''epoch'', p.started_at)'
    when 'finished_at' then 'date_part(''epoch'', p.finished_at)'
    when 'next_run_at' then 'date_part(''epoch'', case p.status
      when ''pending'' then coalesce(p.next_retry_at, p.scheduled_for, p.created_at)
      when ''waiting'' then (select k.timeout_at from queue.waits as k where k.job_id = p.id) end)'
    when 'queue_ms' then 'p.queue_ms'
    when 'run_ms' then 'p.run_ms'
    when 'total_ms' then 'date_part(''epoch'', coalesce(p.finished_at, $4) - p.created_at)'
    when 'priority' then 'p.priority::double precision'
    when 'attempts' then 'p.attempts::double precision' end
$$;
comment on function queue.sort_key is 'The expression that a sort order of lists sorts by; null for an unknown '
  'order.';

create function public.sort_jobs(
  p_filter jsonb default '{}', p_by text default 'created_at', p_descending boolean default true,
  p_limit integer default 50, p_offset integer default 0
) returns jsonb
language plpgsql stable
security definer -- leases and waits, which hold the running and waiting jobs in order, are the engine's own
set search_path = ''
set enable_seqscan = off -- no further than read
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_most constant integer := 10000;
  v_filter jsonb := queue.list_words(p_filter);
  v_workspaces uuid[] := queue.list_workspaces(v_filter);
  v_key text := queue.sort_key(p_by);
  v_order text := case when p_descending then 'desc' else 'asc' end;
  v_limit integer := least(200, greatest(1, coalesce(p_limit, 50)));
  v_offset integer := least(v_most, greatest(0, coalesce(p_offset, 0)));
  v_due text;
  v_source record;
  v_one record;
  v_ids uuid[] := '{}';
  v_keys double precision[] := '{}';
  v_cut boolean := false;
begin
  perform queue.take_turn();
  if v_key is null then
    perform queue.refuse(400, 'invalid_argument',
      'sort must be by created_at, started_at, finished_at, next_run_at, queue_ms, '
      || 'run_ms, total_ms, priority or attempts', 'sort');
  elsif p_by = 'next_run_at' and not v_filter ?| array['state', 'status'] then
    v_filter := v_filter || '{"state": ["queued", "scheduled", "retrying", "suspended"]}';
  end if;
  for v_source in select * from queue.list_sources(v_filter, v_workspaces) loop
    -- the next ones by their own index, however many there are
    v_due := case when p_by = 'next_run_at' then case v_source.source when 'deferred' then 'run_at' when 'waits'
      then 'timeout_at' end end;
    execute format('select count(*) as looked,
        array_agg(r.id order by r.key %1$s nulls last, r.id) filter (where r.fits) as ids,
        array_agg(r.key order by r.key %1$s nulls last, r.id) filter (where r.fits) as keys
      from (select p.id, %2$s as key, (true %3$s) as fits from (select j.* %4$s limit %5$s) as p) as r', v_order, v_key,
      queue.list_where(v_filter), case when v_due is null then queue.list_from(v_source.source, v_filter,
        v_workspaces is null, false)
        else format('from queue.%I as w join public.jobs as j on j.id = any (array[w.job_id])
          where w.workspace_id = $9 and w.%I is not null
          order by w.workspace_id %s, w.%I %3$s, w.job_id %3$s', v_source.source, v_due, v_order, v_due) end, v_most)
    into v_one using v_filter, queue.hex_of(v_filter ->> 'search'), lower(v_filter ->> 'search'), queue.clock(),
      v_workspaces,
      null::timestamptz, null::uuid, queue.hex_of(v_filter ->> 'id_prefix'), v_source.workspace_id, v_source.word;
    v_ids := v_ids || v_one.ids;
    v_keys := v_keys || v_one.keys;
    v_cut := v_cut or v_one.looked >= v_most;
  end loop;
  return jsonb_build_object('cut', v_cut, 'more', cardinality(v_ids) > v_offset + v_limit, 'jobs', (
    select coalesce(jsonb_agg(queue.job_json(j) order by f.n), '[]')
    from (select s.id, row_number() over () as n from (
      select u.id from unnest(v_ids, v_keys) as u (id, key)
      order by case when p_descending then -u.key else u.key end nulls last,
        u.id limit v_limit offset v_offset) as s) as f
    join public.jobs as j on j.id = any (array[f.id])));
exception
  when invalid_text_representation or invalid_datetime_format or datetime_field_overflow or invalid_parameter_value then
    perform queue.refuse_value('the filter', 'filter', sqlerrm);
end;
$$;
comment on function public.sort_jobs is E'Jobs in another order than their age: {jobs, more, cut}; continue by '
  'p_offset.\n\nBy created_at, started_at, finished_at, next_run_at, queue_ms, run_ms, total_ms, priority or '
  'attempts; filters as in list_jobs. Sorts the 10,000 youngest of each state; cut says that there are older ones. '
  'By next_run_at what is scheduled, retrying or suspended is read in its own order, so the next to run come first '
  'however many there are.';

create function public.count_jobs(p_workspace_id uuid, p_filter jsonb default '{}') returns jsonb
language plpgsql stable
security definer -- leases and waits, which hold the running and waiting jobs, are the engine's own
set search_path = ''
set enable_seqscan = off -- no further than counted
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_filter jsonb := queue.list_filter(p_filter, array['job_type', 'queue', 'parent_id']);
  v_most constant integer := 10000;
  v_status text;
  v_stand text;
  v_read integer;
  v_count integer;
  v_shown integer;
  v_counts jsonb := '{}';
  v_all_shown jsonb := '{}';
  v_at_least jsonb := '[]';
begin
  perform queue.take_turn();
  perform queue.may_steer(p_workspace_id);
  foreach v_status in array array['pending', 'processing', 'waiting', 'completed', 'failed', 'cancelled'] loop
    v_stand := case v_status
      when 'pending' then '(select workspace_id, job_id from queue.ready
        union all select workspace_id, job_id from queue.deferred)'
      when 'processing' then 'queue.leases' when 'waiting' then 'queue.waits'
      else '(select workspace_id, job_id from queue.ended where outcome = $3)' end;
    execute case
      when v_filter = '{}' then format(
        'select count(*), count(*), null from (select 1 from %s as w where w.workspace_id = $1 limit %s) as p',
        v_stand, v_most)
      else format($query$
        select count(*), count(*) filter (where p.fits),
          count(*) filter (where p.fits and ($2 ? 'job_type' or not exists (
            select 1 from queue.job_types as t where t.job_type = p.job_type and t.internal)))
        from (
          select j.job_type, j.status = $3 and ($2 ->> 'job_type' is null or j.job_type = $2 ->> 'job_type')
            and ($2 ->> 'queue' is null or j.queue = $2 ->> 'queue') as fits
          from public.jobs as j where %s limit %s) as p$query$,
        case when v_filter ? 'parent_id' then 'j.parent_id = ($2 ->> ''parent_id'')::uuid and j.workspace_id = $1'
          else format('j.id = any (array(select w.job_id from %s as w where w.workspace_id = $1 limit %s))', v_stand,
            v_most) end, v_most)
      end
    into v_read, v_count, v_shown using p_workspace_id, v_filter, v_status;
    v_counts := v_counts || jsonb_build_object(v_status, v_count);
    v_all_shown := v_all_shown || jsonb_build_object(v_status, v_shown);
    if v_read = v_most then
      v_at_least := v_at_least || to_jsonb(v_status);
    end if;
  end loop;
  return jsonb_build_object('counts', v_counts, 'at_least', v_at_least,
    'states', queue.count_states(p_workspace_id, v_filter, v_counts, v_all_shown));
exception
  when invalid_text_representation then
    perform queue.refuse_value('the filter', 'filter', sqlerrm);
end;
$$;
comment on function public.count_jobs is E'How many jobs of a workspace are in each state: {counts: {status: n}, '
  'states: {state: n}, at_least: [status]}.\n\nFilter: job_type, queue, parent_id. Looks at no more than 10,000 jobs per '
  'state; at_least names the statuses that have more: their number is a lower bound.';

create function public.dead_letters(p_workspace_id uuid) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = ''
as $$
declare
  v_most constant integer := 10000;
begin
  perform queue.may_steer(p_workspace_id);
  return (
    with letters as materialized (
      select j.id, j.job_type, j.error_fingerprint, j.error_message, j.finished_at
      from (select e.job_id from queue.ended as e where e.workspace_id = p_workspace_id and e.outcome = 'failed'
        order by e.job_created_at desc, e.job_id desc limit v_most) as e
      join public.jobs as j on j.id = any (array[e.job_id])),
    alike as (
      select job_type, error_fingerprint, count(*) as jobs, min(finished_at) as first_at, max(finished_at) as last_at,
        (array_agg(id order by finished_at desc, id))[1] as latest_id
      from letters group by 1, 2)
    select jsonb_build_object(
      'groups', coalesce(jsonb_agg(jsonb_build_object('job_type', a.job_type, 'error_fingerprint',
        a.error_fingerprint, 'jobs', a.jobs,
        'first_at', a.first_at, 'last_at', a.last_at, 'latest_id', a.latest_id, 'error_message', l.error_message)
        order by a.jobs desc, a.last_at desc), '[]'),
      'more', (select count(*) from letters) = v_most)
    from alike as a join letters as l on l.id = a.latest_id);
end;
$$;
comment on function public.dead_letters is E'The dead letters of a workspace by what went wrong: {groups: '
  '[{job_type, error_fingerprint, jobs, first_at, last_at, latest_id, error_message}], more}, the largest group '
  'first.\n\nLooks at the 10,000 youngest jobs that failed; more says that there may be others. Pass a group''s type '
  'and fingerprint to redrive_jobs.';

revoke execute on function queue.list_filter, queue.hex_of, queue.list_sources, queue.list_where, queue.list_words,
  queue.list_workspaces, queue.list_from, queue.sort_key
  from public, anon, authenticated, service_role;
revoke execute on function public.list_jobs, public.sort_jobs, public.count_jobs, public.dead_letters
  from public, anon, authenticated, service_role;
grant execute on function public.list_jobs, public.sort_jobs, public.count_jobs, public.dead_letters
  to authenticated, service_role;
