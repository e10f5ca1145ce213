-- SHA-1, which stand-ins of extensions need and Postgres has not; of at most 512 MB, as text is.
create or replace function extensions.sha1_of(p_data bytea) returns bytea
language plpgsql immutable strict parallel safe
set search_path = ''
as $$
declare
  c_mask constant bigint := 4294967295;
  v_rest integer := (55 - length(p_data)) & 63;
  v_data bytea := p_data || '\x80'::bytea || decode(repeat('00', v_rest), 'hex')
    || int8send(8::bigint * length(p_data));
  h bigint[] := array[1732584193, 4023233417, 2562383102, 271733878, 3285377520];
  w bigint[];
  s bigint[];
  f bigint;
  k bigint;
  t bigint;
begin
  for v_block in 0 .. length(v_data) / 64 - 1 loop
    for i in 0 .. 79 loop
      if i < 16 then
        t := (get_byte(v_data, v_block * 64 + i * 4)::bigint << 24)
          | (get_byte(v_data, v_block * 64 + i * 4 + 1) << 16)
          | (get_byte(v_data, v_block * 64 + i * 4 + 2) << 8)
          | get_byte(v_data, v_block * 64 + i * 4 + 3);
      else
        t := w[i - 3] # w[i - 8] # w[i - 14] # w[i - 16];
        t := ((t << 1) | (t >> 31)) & c_mask;
      end if;
      w[i] := t;
    end loop;
    s := h;
    for i in 0 .. 79 loop
      case i / 20
        when 0 then f := (s[2] & s[3]) | ((s[2] # c_mask) & s[4]); k := 1518500249;
        when 1 then f := s[2] # s[3] # s[4]; k := 1859775393;
        when 2 then f := (s[2] & s[3]) | (s[2] & s[4]) | (s[3] & s[4]); k := 2400959708;
        else f := s[2] # s[3] # s[4]; k := 3395469782;
      end case;
      t := ((((s[1] << 5) | (s[1] >> 27)) & c_mask) + f + s[5] + k + w[i]) & c_mask;
      s := array[t, s[1], ((s[2] << 30) | (s[2] >> 2)) & c_mask, s[3], s[4]];
    end loop;
    for i in 1 .. 5 loop
      h[i] := (h[i] + s[i]) & c_mask;
    end loop;
  end loop;
  return decode(
    (select string_agg(lpad(to_hex(one), 8, '0'), '' order by place)
     from unnest(h) with ordinality as l (one, place)), 'hex');
end;
$$;

-- The extensions that a hosted project begins with, as far as this server offers them.
do $$
declare
  v_one record;
begin
  for v_one in
    select wanted.name, wanted.schema
    from (values
      (1, 'pgcrypto', 'extensions'), (2, 'uuid-ossp', 'extensions'),
      (3, 'pg_stat_statements', 'extensions'), (4, 'supabase_vault', 'vault')
    ) as wanted (place, name, schema)
    join pg_catalog.pg_available_extensions as here
      on here.name = wanted.name and here.installed_version is null
    join pg_catalog.pg_available_extension_versions as version
      on version.name = here.name and version.version = here.default_version and version.trusted
    order by wanted.place
  loop
    execute format('create schema if not exists %I', v_one.schema);
    execute format('grant usage, create on schema %I to postgres', v_one.schema);
    -- its owner, so that a migration may drop it or comment on it
    set local role postgres;
    execute format('create extension %I with schema %I', v_one.name, v_one.schema);
    reset role;
  end loop;
  -- its script takes the right from all; hosted, the owner has it
  for v_one in
    select oid::regprocedure as name
    from pg_catalog.pg_proc where proname = 'pg_stat_statements_reset'
  loop
    execute format('grant execute on function %s to postgres with grant option', v_one.name);
  end loop;
end;
$$;

create schema if not exists graphql;
create schema if not exists graphql_public;
grant usage on schema graphql, graphql_public to postgres, anon, authenticated, service_role;

-- what answers where pg_graphql is off; no schema of GraphQL is made here
create or replace function graphql_public.graphql(
  "operationName" text default null, query text default null, variables jsonb default null,
  extensions jsonb default null
) returns jsonb
language sql
as $$
  select '{"errors": [{"message": "pg_graphql is not enabled."}]}'::jsonb
$$;

-- database webhooks, as the dashboard makes them; no request is sent here
create schema if not exists supabase_functions;
grant usage on schema supabase_functions to postgres, anon, authenticated, service_role;
create or replace function supabase_functions.http_request() returns trigger
language plpgsql
as $$
begin
  return coalesce(new, old);
end;
$$;
