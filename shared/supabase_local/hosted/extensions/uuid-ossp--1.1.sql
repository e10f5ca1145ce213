-- What migrations call of uuid-ossp.

create function uuid_nil() returns uuid immutable language sql
as $$ select '00000000-0000-0000-0000-000000000000'::uuid $$;
create function uuid_ns_dns() returns uuid immutable language sql
as $$ select '6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid $$;
create function uuid_ns_url() returns uuid immutable language sql
as $$ select '6ba7b811-9dad-11d1-80b4-00c04fd430c8'::uuid $$;
create function uuid_ns_oid() returns uuid immutable language sql
as $$ select '6ba7b812-9dad-11d1-80b4-00c04fd430c8'::uuid $$;
create function uuid_ns_x500() returns uuid immutable language sql
as $$ select '6ba7b814-9dad-11d1-80b4-00c04fd430c8'::uuid $$;

create function uuid_generate_v4() returns uuid volatile
  language sql as 'select pg_catalog.gen_random_uuid()';
-- of a hash's first sixteen bytes, with the version and the variant written in
create function uuid_of_hash(hash bytea, version integer) returns uuid
language sql immutable strict
as $$
  select encode(set_byte(set_byte(substring(hash from 1 for 16),
    6, (get_byte(hash, 6) & 15) | (version << 4)), 8, (get_byte(hash, 8) & 63) | 128), 'hex')::uuid
$$;
create function uuid_generate_v3(namespace uuid, name text) returns uuid
language sql immutable strict
as $$
  select @extschema@.uuid_of_hash(
    decode(md5(uuid_send(namespace) || convert_to(name, 'UTF8')), 'hex'), 3)
$$;
create function uuid_generate_v5(namespace uuid, name text) returns uuid
language sql immutable strict
as $$
  select @extschema@.uuid_of_hash(
    extensions.sha1_of(uuid_send(namespace) || convert_to(name, 'UTF8')), 5)
$$;
-- the time in steps of 100 ns since 15 October 1582; the rest is random, as v1mc has it
create function uuid_generate_v1mc() returns uuid
language sql volatile
as $$
  select @extschema@.uuid_of_hash(
    substring(t from 5 for 4) || substring(t from 3 for 2) || substring(t from 1 for 2)
      || set_byte(r, 2, get_byte(r, 2) | 1), 1)
  from int8send((extract(epoch from clock_timestamp()) * 10000000)::bigint + 122192928000000000)
      as t,
    substring(uuid_send(pg_catalog.gen_random_uuid()) from 9) as r
$$;
create function uuid_generate_v1() returns uuid volatile
  language sql as 'select @extschema@.uuid_generate_v1mc()';
