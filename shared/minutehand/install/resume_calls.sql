-- Restore the engine's functions that the upgrade has not replaced, and drop the copies of the old
-- functions. Calls that wait for the upgrade continue when this migration is committed.
do $resume$
declare
  v_copy record;
begin
  for v_copy in
    select
      p.oid,
      pg_get_functiondef(p.oid) as definition,
      f.pronamespace::regnamespace || '.' || quote_ident(f.proname) as paused
    from pg_proc as p
    left join pg_proc as f
      on f.proname = substr(p.proname, length('released_') + 1)
      and f.pronamespace in ('public'::regnamespace, 'queue'::regnamespace)
      and position(p.proname in f.prosrc) > 0
    where p.pronamespace = 'queue'::regnamespace
      and p.proname ~ '^released_'
  loop
    if v_copy.paused is not null then
      execute regexp_replace(
        v_copy.definition,
        '^CREATE OR REPLACE FUNCTION [^(]+',
        'create or replace function ' || v_copy.paused
      );
    end if;
    execute format('drop function %s', v_copy.oid::regprocedure);
  end loop;
end;
$resume$;
