-- Functions that reset a seeded database between two tests. The functions are created in the
-- template database, so that its clones have them too. The schema `kept` has a copy of each table
-- that has rows.
set local search_path = '';
-- Make the call with which the first worker of a project starts, because otherwise this call would
-- change the database during each test.
select public.attach_extensions();
create schema kept;

-- Return a text that changes when the schema or the planner's statistics change.
create function kept.state() returns text language sql as $$
  select format('%s written by %s', count(*), sum(by::text::bigint)) from (
    select xmin from pg_proc where proname not in ('clock', 'put_back')
    union all select xmin from pg_class
    union all select xmin from pg_attribute where attrelid > 16383
    union all select xmin from pg_constraint
    union all select xmin from pg_trigger
    union all select xmin from pg_policy
    union all select xmin from pg_namespace
    union all select s.xmin from pg_db_role_setting as s
      join pg_database as d on d.oid = s.setdatabase and d.datname = current_database()
    union all select xmin from pg_statistic
    union all select xmin from supabase_migrations.schema_migrations
  ) as found (by)
$$;

do $do$
declare
  place record;
  is_empty boolean;
  steps text;
begin
  select string_agg(format('perform setval(%L, %s, %L);', seqrelid::regclass,
    coalesce(pg_sequence_last_value(seqrelid), seqstart),
    pg_sequence_last_value(seqrelid) is not null), '')
  into steps from pg_sequence;
  for place in
    select oid, oid::regclass as name, (
      select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute
      where attrelid = c.oid and attnum > 0 and attgenerated = '' and not attisdropped
    ) as columns
    from pg_class as c where relkind = 'r' and oid > 16383
      and relnamespace <> 'supabase_migrations'::regnamespace
    order by oid
  loop
    steps := steps || format('delete from %s;', place.name);
    execute format('select not exists (select from %s)', place.name) into is_empty;
    if not is_empty then
      execute format(
        'create table kept.t%s as select %s from %s', place.oid, place.columns, place.name);
      steps := steps || format('insert into %s (%s) overriding system value table kept.t%s;',
        place.name, place.columns, place.oid);
    end if;
  end loop;
  execute format($$
    create function kept.put_back() returns boolean language plpgsql as $put$
    begin
      if kept.state() <> %L then
        return false;
      end if;
      if (select prosrc from pg_proc where oid = 'queue.clock()'::regprocedure) <> %L then
        execute %L;
      end if;
      %s
      -- do not use a database with many dead rows for another test, because dead rows make its
      -- reads slow
      return (select sum(pg_relation_size(oid)) < 4000000
        from pg_class where relkind = 'r' and oid > 16383);
    end $put$
    $$, kept.state(), (select prosrc from pg_proc where oid = 'queue.clock()'::regprocedure),
    pg_get_functiondef('queue.clock()'::regprocedure), steps);
end $do$;
