-- uuid-ossp by functions of the server and of pgcrypto.

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

create function uuid_generate_v4() returns uuid volatile language sql as 'select pg_catalog.gen_random_uuid()';

-- time in units of 100 ns since 1582, then 14 bits of sequence and a random node with the multicast bit
create function uuid_generate_v1mc() returns uuid
language sql volatile
as $$
  select (right(time, 8) || substring(time from 4 for 4) || '1' || left(time, 3)
    || substring(encode(uuid_send(pg_catalog.gen_random_uuid()), 'hex') from 17 for 4)
    || encode(set_bit(substring(uuid_send(pg_catalog.gen_random_uuid()) from 1 for 6), 0, 1), 'hex'))::uuid
  from (select lpad(
    to_hex((extract(epoch from clock_timestamp()) * 10000000)::bigint + 122192928000000000), 15, '0')
  ) as t (time)
$$;
create function uuid_generate_v1() returns uuid volatile language sql as 'select @extschema@.uuid_generate_v1mc()';

create function uuid_of_hash(hash bytea, version integer) returns uuid
language sql immutable strict
as $$
  select encode(set_byte(set_byte(
    bytes, 6, (get_byte(bytes, 6) & 15) | (version << 4)),
    8, (get_byte(bytes, 8) & 63) | 128), 'hex')::uuid
  from (select substring(hash from 1 for 16)) as h (bytes)
$$;
create function uuid_generate_v3(namespace uuid, name text) returns uuid
language sql immutable strict
as $$ select @extschema@.uuid_of_hash(decode(md5(uuid_send(namespace) || convert_to(name, 'UTF8')), 'hex'), 3) $$;
create function uuid_generate_v5(namespace uuid, name text) returns uuid
language sql immutable strict
as $$
  select @extschema@.uuid_of_hash(@extschema:pgcrypto@.sha1(uuid_send(namespace) || convert_to(name, 'UTF8')), 5)
$$;
