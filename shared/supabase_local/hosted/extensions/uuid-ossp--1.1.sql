-- Functions of uuid-ossp for migrations.

create function uuid_ns_dns() returns uuid immutable language sql
as $$ select '6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid $$;
create function uuid_ns_url() returns uuid immutable language sql
as $$ select '6ba7b811-9dad-11d1-80b4-00c04fd430c8'::uuid $$;
create function uuid_generate_v4() returns uuid volatile
  language sql as 'select pg_catalog.gen_random_uuid()';
-- Build a UUID from the first sixteen bytes of a hash, with version and variant.
create function uuid_of_hash(hash bytea, version integer) returns uuid
language sql immutable strict
as $$
  select encode(set_byte(set_byte(substring(hash from 1 for 16),
    6, (get_byte(hash, 6) & 15) | (version << 4)), 8, (get_byte(hash, 8) & 63) | 128), 'hex')::uuid
$$;
create function uuid_generate_v5(namespace uuid, name text) returns uuid
language sql immutable strict
as $$
  select @extschema@.uuid_of_hash(
    extensions.sha1_of(uuid_send(namespace) || convert_to(name, 'UTF8')), 5)
$$;
