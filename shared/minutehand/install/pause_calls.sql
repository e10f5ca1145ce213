-- Stop if a function of the project has a parsed body (begin atomic) that calls a function which
-- the next migration drops. Postgres would then reject the next migration.
do $check$
declare
  v_names constant text := (
    select string_agg(distinct p.oid::regprocedure::text, ', ')
    from pg_proc as f
    join pg_namespace as n on n.oid = f.pronamespace
    join pg_depend as d
      on d.refclassid = 'pg_proc'::regclass
      and d.refobjid = f.oid
      and d.classid = 'pg_proc'::regclass
    join pg_proc as p on p.oid = d.objid
    cross join lateral replace(oidvectortypes(f.proargtypes), ', ', ',') as t (types)
    where format('%s.%s(%s)', n.nspname, f.proname, t.types)
        = any (string_to_array('{dropped}', ';'))
      and p.pronamespace <> 'queue'::regnamespace
      and not (p.pronamespace = 'public'::regnamespace and p.proname = any ('{functions}'))
  );
begin
  if v_names is not null then
    raise dependent_objects_still_exist
      using message = format('the upgrade replaces functions that the body of %s calls', v_names),
        hint = 'Nothing was changed. Create each of these functions again with its body in quotes '
          '(as $$ … $$) in place of `begin atomic`, then run this again.';
  end if;
end;
$check$;

-- Replace the engine's functions by functions that wait, until the next migration has upgraded the
-- engine. A call must not wait inside an old function, because the statements after the wait would
-- run on the new schema. A replaced function waits for the upgrade before its first statement, and
-- then runs the new function. A call that begins before the upgrade runs a copy of the old
-- function.
do $pause$
declare
  v_function record;
  v_call text;
begin
  for v_function in
    select
      p.*,
      n.nspname,
      pg_get_functiondef(p.oid) as definition,
      pg_get_function_arguments(p.oid) as arguments
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
    where p.proname = any ('{functions}')
      and n.oid in ('public'::regnamespace, 'queue'::regnamespace)
      and p.prosecdef
      and p.prorettype in ('json'::regtype, 'jsonb'::regtype)
      and (
        n.oid = 'public'::regnamespace
        -- a function in public with a parsed body (begin atomic) calls the function of the same
        -- name in queue
        or exists (
          select from pg_proc as c
          where c.pronamespace = 'public'::regnamespace
            and c.proname = p.proname
            and c.prosqlbody is not null
        )
      )
  loop
    v_call := format(
      'released_%s(%s)',
      v_function.proname,
      (select string_agg('$' || n, ', ') from generate_series(1, v_function.pronargs) as n)
    );
    execute regexp_replace(
      v_function.definition,
      '^CREATE OR REPLACE FUNCTION [^(]+',
      format('create function queue.%I', 'released_' || v_function.proname)
    );
    execute format(
      'revoke execute on function queue.%I from public', 'released_' || v_function.proname
    );
    execute format(
      $gate$
      create or replace function %1$I.%2$I(%3$s) returns %4$s
      language plpgsql %5$s security definer set search_path = ''
      as $call$
      begin
        perform from queue.settings limit 1; -- waits for an upgrade, which locks the table
        if to_regproc('queue.released_%2$s') is not null then
          return queue.%6$s;
        end if;
        return %1$I.%7$s;
      end;
      $call$
      $gate$,
      v_function.nspname,
      v_function.proname,
      v_function.arguments,
      v_function.prorettype::regtype,
      case v_function.provolatile when 'v' then 'volatile' else 'stable' end,
      v_call,
      substr(v_call, length('released_') + 1)
    );
  end loop;
end;
$pause$;
