-- Functions of pgjwt: tokens signed and verified with HMAC.

create function url_encode(data bytea) returns text
language sql immutable
as $$ select translate(encode(data, 'base64'), E'+/=\n', '-_') $$;
create function url_decode(data text) returns bytea
language sql immutable
as $$
  select decode(rpad(translate(data, '-_', '+/'), (length(data) + 3) / 4 * 4, '='), 'base64')
$$;
create function algorithm_sign(signables text, secret text, algorithm text) returns text
language sql immutable
as $$
  select @extschema@.url_encode(extensions.hmac(signables, secret,
    'sha' || substring(algorithm from '^HS(256|384|512)$')))
$$;
create function sign(payload json, secret text, algorithm text default 'HS256') returns text
language sql immutable
as $$
  select signables || '.' || @extschema@.algorithm_sign(signables, secret, algorithm)
  from concat(
    @extschema@.url_encode(convert_to(format('{"alg":"%s","typ":"JWT"}', algorithm), 'UTF8')), '.',
    @extschema@.url_encode(convert_to(payload::text, 'UTF8'))) as signables
$$;
create function verify(token text, secret text, algorithm text default 'HS256')
returns table (header json, payload json, valid boolean)
language sql stable
as $$
  select p.header::json, p.payload::json,
    part[3] = @extschema@.algorithm_sign(part[1] || '.' || part[2], secret, algorithm)
      and now() >= to_timestamp(coalesce((p.payload::json ->> 'nbf')::numeric, 0)::float8)
      and now() < to_timestamp(coalesce((p.payload::json ->> 'exp')::numeric, 9e9)::float8)
  from string_to_array(token, '.') as part
  cross join lateral (
    select convert_from(@extschema@.url_decode(part[1]), 'UTF8') as header,
      convert_from(@extschema@.url_decode(part[2]), 'UTF8') as payload
  ) as p
$$;
