-- pgjwt, by pgcrypto's hmac: HS256, HS384 and HS512.

create function url_encode(data bytea) returns text
language sql immutable as $$ select translate(encode(data, 'base64'), E'+/=\n', '-_') $$;
create function url_decode(data text) returns bytea
language sql immutable
as $$ select decode(translate(data, '-_', '+/') || repeat('=', (4 - length(data) % 4) % 4), 'base64') $$;
create function algorithm_sign(signables text, secret text, algorithm text) returns text
language sql immutable
as $$
  select @extschema@.url_encode(@extschema:pgcrypto@.hmac(signables, secret,
    case algorithm when 'HS256' then 'sha256' when 'HS384' then 'sha384' when 'HS512' then 'sha512' end))
$$;
create function sign(payload json, secret text, algorithm text default 'HS256') returns text
language sql immutable
as $$
  select signables || '.' || @extschema@.algorithm_sign(signables, secret, algorithm)
  from (select @extschema@.url_encode(convert_to(format('{"alg":"%s","typ":"JWT"}', algorithm), 'UTF8'))
    || '.' || @extschema@.url_encode(convert_to(payload::text, 'UTF8'))) as t (signables)
$$;
create function verify(token text, secret text, algorithm text default 'HS256')
returns table (header json, payload json, valid boolean)
language sql immutable
as $$
  select convert_from(@extschema@.url_decode(parts[1]), 'UTF8')::json,
    convert_from(@extschema@.url_decode(parts[2]), 'UTF8')::json,
    parts[3] = @extschema@.algorithm_sign(parts[1] || '.' || parts[2], secret, algorithm)
  from string_to_array(token, '.') as parts
$$;
