-- What puts a seeded database back between two tests: part of the template, so that clones have it.
-- The schema `kept` has a copy of each table with rows, and a function whose plans its session keeps.
set local search_path = '';
create schema kept;
create table kept.made (since xid, state bigint[]);

create function kept.ours() returns setof oid language sql as $$
  select oid from pg_namespace where nspname !~ '^pg_' and nspname not in ('information_schema', 'kept')
$$;

-- Of everything but rows, and of what the planner knows: how much there is, and was written since
create function kept.state(since xid) returns bigint[] language sql as $$
  select array[count(*), count(*) filter (where age(written) < age(since))] from (
    select xmin from pg_proc
    where pronamespace in (select kept.ours()) and oid <> 'queue.clock()'::regprocedure
    union all select xmin from pg_class where relnamespace in (select kept.ours())
    union all select xmin from pg_attribute where attrelid > 16383
    union all select xmin from pg_constraint where connamespace in (select kept.ours())
    union all select xmin from pg_trigger
    union all select xmin from pg_policy
    union all select xmin from pg_namespace
    union all select xmin from pg_db_role_setting
    union all select xmin from pg_statistic
  ) as found (written)
$$;

do $do$
declare
  place record;
  n bigint;
  is_called boolean;
  steps text := '';
begin
  for place in
    select oid, relkind, oid::regclass as name, (
      select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute
      where attrelid = c.oid and attnum > 0 and attgenerated = '' and not attisdropped
    ) as columns
    from pg_class as c where relkind in ('r', 'S') and relnamespace in (select kept.ours()) order by oid
  loop
    if place.relkind = 'S' then
      execute format('select last_value, is_called from %s', place.name) into n, is_called;
      steps := steps || format('perform setval(%L, %s, %L);', place.name, n, is_called);
      continue;
    end if;
    execute format('select count(*) from %s', place.name) into n;
    if n > 0 then
      execute format('create table kept.t%s as select %s from %s', place.oid, place.columns, place.name);
      steps := steps || format($$
        if exists (select from %1$s having count(*) <> %2$s
            or count(*) filter (where age(xmin) < age(p_since)) > 0) then
          delete from %1$s; get diagnostics n = row_count; o_rows := o_rows + n;
          insert into %1$s (%3$s) overriding system value table kept.t%4$s;
        end if;$$, place.name, n, place.columns, place.oid);
    else
      steps := steps || format(
        'delete from %s; get diagnostics n = row_count; o_rows := o_rows + n;', place.name);
    end if;
  end loop;
  execute format($$
    create function kept.put_back(p_since xid, out o_rows bigint, out o_now xid)
    language plpgsql as $put$
    declare
      n bigint;
    begin
      -- null: a test has changed more than rows
      if kept.state((select since from kept.made)) <> (select state from kept.made) then
        return;
      end if;
      if (select prosrc from pg_proc where oid = 'queue.clock()'::regprocedure) <> %L then
        execute %L;
      end if;
      o_rows := 0;
      %s
      o_now := pg_current_xact_id()::xid;
    end $put$
    $$, (select prosrc from pg_proc where oid = 'queue.clock()'::regprocedure),
    pg_get_functiondef('queue.clock()'::regprocedure), steps);
end $do$;

insert into kept.made
select since, kept.state(since) from (select pg_current_xact_id()::xid) as this (since);
