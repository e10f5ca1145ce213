-- This file creates the schemas and the publication of a hosted project. New objects in the schema
-- public get no grants for the roles of the API, as on hosted projects since 2026.
do $$
begin
  execute format('alter database %I owner to postgres', current_database());
end;
$$;

create schema if not exists extensions;
alter schema extensions owner to postgres;
grant usage on schema extensions to anon, authenticated, service_role;

-- Everyone may use the schema public, and only its owner may create objects there, which is the
-- default of Postgres.
alter schema public owner to pg_database_owner;
grant usage on schema public to postgres, anon, authenticated, service_role;

do $$
begin
  if not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
    alter publication supabase_realtime owner to postgres;
  end if;
end;
$$;
