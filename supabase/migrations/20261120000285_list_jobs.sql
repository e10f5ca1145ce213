-- Lists and counts of jobs that read by their limit, whatever else there is: each state is read
-- from the index or the narrow table that holds it in order, and what none holds is looked for in slices.

-- a webhook's deliveries are few among many jobs; no other job pays for their order
create index jobs_by_webhook on public.jobs (concurrency_key, created_at, id) where job_type = 'webhook_delivery';

create function queue.list_filter(p_filter jsonb, p_known text[]) returns jsonb
language plpgsql immutable set search_path = '' as $$
begin
  perform queue.check_names(coalesce(p_filter, '{}'), p_known, 'filter');
  return coalesce(jsonb_strip_nulls(p_filter), '{}');
end;
$$;
comment on function queue.list_filter is 'The filter without its nulls; 400 for an unknown name, so that a typo does '
  'not match everything.';

create function queue.hex_of(p_text text) returns text
language sql immutable set search_path = '' as $$
  select case when h ~ '^[0-9a-f]{6,32}$' then h end from replace(lower(btrim(p_text)), '-', '') as h
$$;
comment on function queue.hex_of is 'The digits of (a part of) an id, 6 to 32 of them; null for any other text.';

create type queue.list_source as (source text, workspace_id uuid, word text);
comment on type queue.list_source is 'A table or index that holds jobs in the order of lists: of a workspace, and of a state or tag there.';

create function queue.list_sources(p_filter jsonb, p_workspaces uuid[]) returns setof queue.list_source
language plpgsql immutable set search_path = '' as $$
declare
  v_all constant text[] := array['pending', 'processing', 'waiting', 'completed', 'failed', 'cancelled'];
  v_words text[] := array(select jsonb_array_elements_text(coalesce(p_filter -> 'state', p_filter -> 'status')));
begin
  if p_filter ? 'ids' then
    return query select 'ids', null::uuid, null;
  elsif p_filter ? 'id_prefix' then
    return query select 'prefix', null::uuid, null;
  elsif p_filter ? 'parent_id' then
    return query select 'parent', null::uuid, null;
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
  'narrow table per state and workspace, or the one of a tag, session, parent or part of an id.';

create function queue.in_order(p_as anyelement, p_query text) returns setof anyelement
language plpgsql stable set search_path = ''
-- a plan that reads all and sorts it is never what is wanted
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off as $$
begin
  return query execute p_query;
end;
$$;
comment on function queue.in_order is 'The rows of a query that has its values in it, planned at each call to read in order and no further than needed. p_as: a null of their type.';

create function queue.list_where(p_filter jsonb) returns text
language sql stable set search_path = '' as $$
  -- of p, a job; null, and so omitted, is what the filter does not name
  select concat(
    ' and id = any (array(select jsonb_array_elements_text(' || quote_literal(p_filter -> 'ids') || ')::uuid))',
    ' and status = any (array(select jsonb_array_elements_text(' || quote_literal(p_filter -> 'status') || ')))',
    ' and queue.state_of(status, attempts, next_retry_at, scheduled_for, ' || quote_literal(queue.clock())
      || ') = any (array(select jsonb_array_elements_text(' || quote_literal(p_filter -> 'state') || ')))',
    coalesce(' and job_type = ' || quote_literal(p_filter ->> 'job_type'), case when p_filter ->> 'internal' = 'false'
      then ' and not exists (select from queue.job_types as t where t.job_type = p.job_type and t.internal)' end),
    ' and queue = ' || quote_literal(p_filter ->> 'queue'),
    ' and session_id = ' || quote_literal(p_filter ->> 'session_id'),
    ' and parent_id = ' || quote_literal(p_filter ->> 'parent_id'),
    ' and tags @> array[' || quote_literal(p_filter ->> 'tag') || ']',
    ' and payload @> ' || quote_literal(p_filter -> 'payload'),
    ' and finished_at >= ' || quote_literal(p_filter ->> 'finished_after'),
    ' and finished_at < ' || quote_literal(p_filter ->> 'finished_before'),
    ' and run_ms >= ' || quote_literal(p_filter ->> 'min_run_ms'),
    ' and run_ms < ' || quote_literal(p_filter ->> 'max_run_ms'),
    ' and strpos(lower(error_message), ' || quote_literal(lower(p_filter ->> 'error')) || ') > 0',
    ' and error_data ->> ''type'' = ' || quote_literal(p_filter ->> 'error_type'),
    ' and error_fingerprint = ' || quote_literal(p_filter ->> 'error_fingerprint'),
    case when p_filter ?| array['worker_id', 'version'] then format(' and exists (
      select from (select worker_id from queue.attempts where job_id = p.id
        union all select worker_id from queue.leases where job_id = p.id
        union all select queue.first_worker(p.id)) as ran where true%s)', concat(
        ' and ran.worker_id = ' || quote_literal(p_filter ->> 'worker_id'),
        ' and exists (select from queue.workers as w where w.worker_id = ran.worker_id and w.version = '
          || quote_literal(p_filter ->> 'version') || ')')) end,
    case when p_filter ? 'search' then format(' and (strpos(lower(job_type), %1$L) > 0
      or strpos(lower(error_message), %1$L) > 0 or strpos(lower(idempotency_key), %1$L) > 0
      or tags <> ''{}'' and strpos(lower(array_to_string(tags, '' '')), %1$L) > 0
      or pg_column_size(payload) <= 8192 -- stored size first: it costs nothing
        and (select strpos(lower(whole), %1$L) > 0
          from (select payload::text as whole offset 0) as w where octet_length(whole) <= 8192)
      or replace(id::text, ''-'', '''') like any (array[%2$L, %3$L]))', lower(p_filter ->> 'search'),
      queue.hex_of(p_filter ->> 'search') || '%', '%' || queue.hex_of(p_filter ->> 'search')) end)
$$;
comment on function queue.list_where is 'The conditions of a filter on each job, beyond those that its source '
  'already meets.';

create function queue.list_words(p_filter jsonb) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_filter jsonb := queue.list_filter(p_filter, array['workspace_id', 'status', 'state', 'job_type', 'queue',
    'session_id',
    'parent_id', 'tag', 'payload', 'created_after', 'created_before', 'finished_after', 'finished_before',
    'min_run_ms', 'max_run_ms', 'error', 'error_type', 'error_fingerprint', 'worker_id', 'version', 'search',
      'ids', 'id_prefix', 'internal']);
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
language plpgsql stable set search_path = '' as $$
declare
  v_named uuid := (p_filter ->> 'workspace_id')::uuid;
begin
  if auth.uid() is not null or not queue.is_service() then
    if v_named is not null then
      perform queue.may_read(v_named);
    end if;
    return array(select w from queue.my_workspaces() as w where v_named is null or w = v_named);
  elsif v_named is null and not p_filter ?| array['ids', 'id_prefix', 'parent_id', 'session_id'] then
    perform queue.refuse(400, 'invalid_argument', 'name the workspace', 'workspace_id');
  end if;
  return case when v_named is not null then array[v_named] end;
end;
$$;
comment on function queue.list_workspaces is E'Whose jobs a list shows: the caller''s own workspaces, the one of '
  'them that is named (else 404), or the one that the service names.\n\nNull for all of them: the service''s search by id, session or parent.';

create function queue.list_from(
  p_source queue.list_source, p_filter jsonb, p_workspaces uuid[], p_place queue.list_place
) returns text
language plpgsql stable set search_path = '' as $$
declare
  v_narrow constant boolean := p_source.source in ('ready', 'deferred', 'leases', 'waits', 'ended', 'job_tags',
    'live_jobs'); -- in the order of lists
  v_at constant text := case when v_narrow then 'w.job_created_at' else 'j.created_at' end;
  v_id constant text := case when v_narrow then 'w.job_id' else 'j.id' end;
  v_head constant text := case when p_source.source in ('session', 'parent')
    then format('j.%s_id', p_source.source) end;
  v_value constant text := case when v_head is not null
    then quote_literal(p_filter ->> (p_source.source || '_id')) end;
  v_hex constant text := queue.hex_of(p_filter ->> 'id_prefix');
begin
  return concat('from ', case
      -- as a range and in the order: an index by age alone, read past whatever else there is, cannot serve it
      when v_head is not null then format('public.jobs as j where %s between %s and %2$s', v_head, v_value)
      when p_source.source = 'ids' then format(
        'public.jobs as j where j.id = any (array(select jsonb_array_elements_text(%L)::uuid))', p_filter -> 'ids')
      when p_source.source = 'prefix' then format('public.jobs as j where j.id between %L and %L',
        rpad(v_hex, 32, '0'), rpad(v_hex, 32, 'f'))
      when v_narrow then format(
        'queue.%I as w join public.jobs as j on j.id = any (array[w.job_id]) where w.workspace_id = %L',
        p_source.source, p_source.workspace_id)
      else format('public.jobs as j where j.workspace_id = %L', p_source.workspace_id) end,
    case p_source.source when 'ended' then ' and w.outcome = ' when 'job_tags' then ' and w.tag = ' end
      || quote_literal(p_source.word),
    case when p_source.workspace_id is null
      then ' and j.workspace_id = any (' || quote_literal(p_workspaces) || ')' end,
    case when p_filter ? 'created_after' then format(' and (%s) >= (%s)', concat_ws(', ', v_head, v_at),
      concat_ws(', ', v_value, quote_literal(p_filter ->> 'created_after'))) end,
    case when p_filter ? 'created_before' then format(' and (%s) < (%s)', concat_ws(', ', v_head, v_at),
      concat_ws(', ', v_value, quote_literal(p_filter ->> 'created_before'))) end,
    case when p_place.id is null then '' when p_source.source = 'prefix' then format(' and j.id < %L', p_place.id)
      else format(' and (%s) < (%s)', concat_ws(', ', v_head, v_at, v_id),
        concat_ws(', ', v_value, quote_literal(p_place.created_at), quote_literal(p_place.id))) end,
    ' order by ', case when p_source.source = 'prefix' then 'j.id desc'
      else concat_ws(' desc, ', v_head, v_at, v_id) || ' desc' end);
end;
$$;
comment on function queue.list_from is E'Where the jobs of a source are read from, in the order of lists, from a place '
  'on.\n\np_workspaces: null for all of them, for the service.';

create type queue.list_read as (found queue.list_place[], place queue.list_place, late boolean);
comment on type queue.list_read is 'What queue.list_slice found.';

create function queue.list_slice(
  p_source queue.list_source, p_filter jsonb, p_workspaces uuid[], p_place queue.list_place, p_slice integer,
  p_until timestamptz
) returns queue.list_read
language plpgsql stable set search_path = '' as $$
begin
  return queue.in_order(null::queue.list_read, format('with p as materialized (
      select p.created_at, p.id, row_number() over () as n,
        -- null for those that there is no more time for
        case when %s then coalesce((true %s), false) end as fits
      from (select j.* %s limit %s) as p)
    select array(select (created_at, id)::queue.list_place from p where fits),
      (select (created_at, id)::queue.list_place from p where n = least(%4$s, (select max(n) from p
        where fits is not null)) and (n = %4$s or exists (select from p where fits is null))),
      exists (select from p where fits is null)',
    -- a payload may take a millisecond; of what is only looked at, all is: new jobs are in the first slice
    case when p_filter ?| array['search', 'payload']
      then format('row_number() over () = 1 or clock_timestamp() < %L', p_until) else 'true' end,
    queue.list_where(p_filter), queue.list_from(p_source, p_filter, p_workspaces, p_place), p_slice));
end;
$$;
comment on function queue.list_slice is E'The matching jobs among the next p_slice of a source, newest first.\n\nplace: the last one looked at, null at the end; late: there was no time to look at all.';

create function queue.listed(p_ids uuid[]) returns json
language plpgsql stable set search_path = '' as $$
begin
  return (
    select coalesce(json_agg(queue.listed_json(j) order by f.n), '[]')
    from unnest(p_ids) with ordinality as f (id, n) join public.jobs as j on j.id = any (array[f.id]));
end;
$$;
comment on function queue.listed is 'Jobs as lists show them, in the order of their ids here.';

create function queue.list_page(
  p_found queue.list_place[], p_mark queue.list_place, p_limit integer, p_by_id boolean
) returns json
language plpgsql stable set search_path = '' as $$
declare
  v_found queue.list_place[];
begin
  if p_by_id then -- which is the order of creation only where ids are made here
    v_found := array(select a from unnest(p_found) as a order by (a).id desc);
  else
    v_found := array(select a from unnest(p_found) as a where p_mark is null or a >= p_mark
      order by a desc limit p_limit + 1);
  end if;
  if cardinality(v_found) > p_limit then
    p_mark := v_found[p_limit];
  end if;
  return json_build_object(
    'jobs', queue.listed(array(
      select f.id from unnest(v_found[:p_limit]) with ordinality as f (created_at, id, n) order by f.n)),
    'next', case when p_mark is not null then row_to_json(p_mark) end);
end;
$$;
comment on function queue.list_page is E'A page of the found jobs: {jobs, next}.\n\np_mark: down to where the list is whole; null where it is whole to its end.';

create function public.list_jobs(p_filter jsonb default '{}', p_cursor jsonb default null,
  p_limit numeric default 50) returns json
language plpgsql stable
security definer -- leases and waits, which hold the running and waiting jobs in order, are the engine's own
set search_path = '' as $$
declare
  v_most constant interval := '30 milliseconds'; -- for slices that look for more
  v_filter jsonb := queue.list_words(p_filter);
  v_limit integer := least(200, greatest(1, coalesce(queue.whole(p_limit, 'p_limit'), 50)));
  v_left integer; -- jobs that may yet be read of a source
  v_slice integer;
  v_workspaces uuid[] := queue.list_workspaces(v_filter);
  v_began timestamptz := clock_timestamp();
  v_start queue.list_place;
  v_source record;
  v_read queue.list_read;
  v_found queue.list_place[];
  v_all queue.list_place[] := '{}';
  v_place queue.list_place;
  v_mark queue.list_place;
begin
  perform queue.take_turn();
  v_start := queue.cursor_place(p_cursor);
  for v_source in
    select s as place, v_began + v_most * (row_number() over () / (count(*) over ())::double precision) as until
    from queue.list_sources(v_filter, v_workspaces) as s
  loop
    v_place := v_start;
    v_left := least(10000, 200 * v_limit);
    v_slice := v_limit + 1;
    v_found := '{}';
    loop
      v_read := queue.list_slice(v_source.place, v_filter, v_workspaces, v_place, v_slice,
        greatest(v_source.until, clock_timestamp() + interval '2 milliseconds'));
      v_found := v_found || v_read.found;
      v_place := v_read.place;
      v_left := v_left - v_slice;
      exit when v_place.id is null or cardinality(v_found) > v_limit or v_left <= 0 or v_read.late
        or clock_timestamp() > v_source.until;
      v_slice := least(4 * v_slice, v_left);
    end loop;
    v_all := v_all || v_found;
    -- when the slices have ended before the jobs did, the list is whole down to there only
    if v_place.id is not null and cardinality(v_found) <= v_limit and (v_mark is null or v_place > v_mark) then
      v_mark := v_place;
    end if;
  end loop;
  return queue.list_page(v_all, v_mark, v_limit, p_by_id => v_filter ? 'id_prefix');
exception
  when invalid_text_representation or invalid_datetime_format or datetime_field_overflow or invalid_parameter_value then
    perform queue.refuse_value('the filter', 'filter', sqlerrm);
end;
$$;
comment on function public.list_jobs is E'Jobs, newest first: {jobs: […], next: {created_at, id} | null}; pass next '
  'as p_cursor to continue, as it is.\n\nA job in a list has no payload, result or error_data: glimpse is a line of '
  'its payload, error_message has at most 500 characters; get_job has them whole.\n\nFilter: workspace_id, status […], state […] (queued, scheduled, retrying, '
  'running, suspended, completed, failed, cancelled), job_type, queue, session_id, parent_id, tag, payload '
  '{field: value}, created_after, created_before, finished_after, finished_before, min_run_ms, max_run_ms, error '
  '(part of its message), error_type, error_fingerprint, worker_id, version, search (part of a type, error, tag, '
  'idempotency key or id, or of a payload up to 8 kB as text), ids, id_prefix (6 to 32 digits; then in order of ids). Reads at '
  'most 200 jobs per job asked for (p_limit, 1 to 200) and 10,000 from each state, for 30 ms or so: a page may hold '
  'fewer than asked for, even none, and still have a next one; a tag is found at any age. Members see their own '
  'workspaces; the service names one.';

create function queue.sort_key(p_by text) returns text
language sql stable set search_path = '' as $$
  -- of p, a job
  select case p_by
    when 'created_at' then 'date_part(''epoch'', p.created_at)'
    when 'started_at' then 'date_part(''epoch'', p.started_at)'
    when 'finished_at' then 'date_part(''epoch'', p.finished_at)'
    when 'next_run_at' then 'date_part(''epoch'', case p.status
      when ''pending'' then coalesce(p.next_retry_at, p.scheduled_for, p.created_at)
      when ''waiting'' then (select k.timeout_at from queue.waits as k where k.job_id = p.id) end)'
    when 'queue_ms' then 'p.queue_ms'
    when 'run_ms' then 'p.run_ms'
    when 'total_ms' then format('date_part(''epoch'', coalesce(p.finished_at, %L) - p.created_at)', queue.clock())
    when 'priority' then 'p.priority::double precision'
    when 'attempts' then 'p.attempts::double precision' end
$$;
comment on function queue.sort_key is 'The expression that a sort order of lists sorts by; null for an unknown '
  'order.';

create type queue.sort_read as (looked bigint, left_out bigint, ids uuid[], keys double precision[]);
comment on type queue.sort_read is 'The jobs of a source in another order: looked at, not looked at for lack of time, found.';

create function public.sort_jobs(
  p_filter jsonb default '{}', p_by text default 'created_at', p_descending boolean default true,
  p_limit numeric default 50, p_offset numeric default 0
) returns jsonb
language plpgsql stable
security definer -- leases and waits, which hold the running and waiting jobs in order, are the engine's own
set search_path = '' as $$
declare
  v_most constant integer := 10000;
  v_filter jsonb := queue.list_words(p_filter);
  v_workspaces uuid[] := queue.list_workspaces(v_filter);
  v_key text := queue.sort_key(p_by);
  v_order text := case when p_descending then 'desc' else 'asc' end;
  v_limit integer := least(200, greatest(1, coalesce(queue.whole(p_limit, 'p_limit'), 50)));
  v_offset integer := least(v_most, greatest(0, coalesce(queue.whole(p_offset, 'p_offset'), 0)));
  v_until constant timestamptz := clock_timestamp() + interval '1 second';
  v_due text;
  v_source queue.list_source;
  v_one queue.sort_read;
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
    v_one := queue.in_order(null::queue.sort_read, format('select count(*), count(*) filter (where r.fits is null),
        array_agg(r.id order by r.key %1$s nulls last, r.id) filter (where r.fits),
        array_agg(r.key order by r.key %1$s nulls last, r.id) filter (where r.fits)
      from (select p.id, %2$s as key, case when clock_timestamp() < %3$L then coalesce((true %4$s), false) end as fits
        from (select j.* %5$s limit %6$s) as p) as r', v_order, v_key, v_until, queue.list_where(v_filter),
      case when v_due is null then queue.list_from(v_source, v_filter, v_workspaces, null)
        else format('from queue.%I as w join public.jobs as j on j.id = any (array[w.job_id])
          where w.workspace_id = %L and w.%I is not null
          order by w.workspace_id %s, w.%3$I %4$s, w.job_id %4$s', v_source.source, v_source.workspace_id, v_due,
          v_order) end, v_most));
    v_ids := v_ids || v_one.ids;
    v_keys := v_keys || v_one.keys;
    v_cut := v_cut or v_one.looked >= v_most or v_one.left_out > 0;
  end loop;
  return jsonb_build_object('cut', v_cut, 'more', cardinality(v_ids) > v_offset + v_limit,
    'jobs', queue.listed(array(
      select u.id from unnest(v_ids, v_keys) as u (id, key)
      order by case when p_descending then -u.key else u.key end nulls last, u.id limit v_limit offset v_offset)));
exception
  when invalid_text_representation or invalid_datetime_format or datetime_field_overflow or invalid_parameter_value then
    perform queue.refuse_value('the filter', 'filter', sqlerrm);
end;
$$;
comment on function public.sort_jobs is E'Jobs in another order than their age: {jobs, more, cut}; continue by '
  'p_offset, each as in list_jobs.\n\nBy created_at, started_at, finished_at, next_run_at, queue_ms, run_ms, total_ms, priority or '
  'attempts; filters as in list_jobs. Sorts the 10,000 youngest of each state, or those it can look at in a second; '
  'cut says that there are others. '
  'By next_run_at what is scheduled, retrying or suspended is read in its own order, so the next to run come first '
  'however many there are.';

create function public.count_jobs(p_workspace_id uuid, p_filter jsonb default '{}') returns jsonb
language plpgsql stable
security definer -- leases and waits, which hold the running and waiting jobs, are the engine's own
set search_path = '' as $$
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
set search_path = '' as $$
declare
  v_most constant integer := 10000;
begin
  perform queue.take_turn();
  perform queue.may_steer(p_workspace_id);
  return (
    with letters as materialized (
      select j.id, j.job_type, j.error_fingerprint, j.finished_at,
        queue.error_line(j.error_message, j.error_data) as error_message
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
  '[{job_type, error_fingerprint, jobs, first_at, last_at, latest_id, error_message}], more}, the largest '
  'group first.\n\nLooks at the 10,000 youngest jobs that failed; more says that there may be others. Pass a group''s type '
  'and fingerprint to retry_jobs to retry them.';

select queue.allow('authenticated, service_role', 'public.list_jobs', 'public.sort_jobs', 'public.count_jobs',
  'public.dead_letters');
