-- Cron expressions: read once into masks of 0 and 1, and the next time found by looking for a 1.
-- A schedule keeps its masks, so that a run costs microseconds, however the expression is written.

create function queue.cron_mask(p_field text, p_low integer, p_high integer, p_names text[] default '{}') returns text
language plpgsql immutable set search_path = '' as $$
declare
  v_mask text := repeat('0', p_high - p_low + 1);
  v_part text;
  v_ends text[];
  v_from integer;
  v_to integer;
  v_step integer;
begin
  if p_field = '*' then
    return repeat('1', p_high - p_low + 1);
  elsif p_field = '' or p_field ~ '(^,|,$|,,)' then
    return null;
  end if;
  foreach v_part in array string_to_array(lower(p_field), ',') loop
    if v_part !~ '^(\*|[a-z]{3}|\d{1,2})(-([a-z]{3}|\d{1,2}))?(/\d{1,3})?$' or v_part like '*-%' then
      return null;
    end if;
    v_step := coalesce(nullif(split_part(v_part, '/', 2), '')::integer, 1);
    v_ends := string_to_array(split_part(v_part, '/', 1), '-');
    if v_ends[1] = '*' then
      v_from := p_low;
      v_to := p_high;
    else
      v_from := coalesce(array_position(p_names, v_ends[1]) - 1 + p_low,
        case when v_ends[1] ~ '^\d' then v_ends[1]::integer end);
      v_to := case
        when v_ends[2] is null and strpos(v_part, '/') > 0 then p_high
        when v_ends[2] is null then v_from
        else coalesce(array_position(p_names, v_ends[2]) - 1 + p_low,
          case when v_ends[2] ~ '^\d' then v_ends[2]::integer end) end;
    end if;
    if v_from is null or v_to is null or v_step < 1 or v_from < p_low or v_to > p_high or v_from > v_to then
      return null;
    end if;
    for v_value in v_from..v_to by v_step loop
      v_mask := overlay(v_mask placing '1' from v_value - p_low + 1 for 1);
    end loop;
  end loop;
  return v_mask;
end;
$$;
comment on function queue.cron_mask is E'A cron field as a mask: a character per value from p_low to p_high, 1 where '
  'it '
  'matches.\n\nNull when the field cannot be read. p_names are names of the values from p_low on.';

create function queue.cron_parse(p_cron text) returns text[]
language plpgsql immutable set search_path = '' as $$
declare
  v_fields text[] := regexp_split_to_array(btrim(case lower(btrim(p_cron))
    when '@hourly' then '0 * * * *' when '@daily' then '0 0 * * *' when '@midnight' then '0 0 * * *'
    when '@weekly' then '0 0 * * 0' when '@monthly' then '0 0 1 * *' when '@yearly' then '0 0 1 1 *'
    when '@annually' then '0 0 1 1 *' else p_cron end), '\s+');
  v_days constant text[] := array['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
  v_months constant text[] := array['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];
  v_plan text[];
begin
  if cardinality(v_fields) = 5 and length(p_cron) <= 500 then
    v_plan := array[
      queue.cron_mask(v_fields[1], 0, 59), queue.cron_mask(v_fields[2], 0, 23), queue.cron_mask(v_fields[3], 1, 31),
      queue.cron_mask(v_fields[4], 1, 12, v_months), queue.cron_mask(v_fields[5], 0, 7, v_days),
      concat((v_fields[2] like '*%')::integer, (v_fields[3] like '*%')::integer, (v_fields[5] like '*%')::integer)];
  end if;
  if v_plan is null or array_position(v_plan, null) is not null then
    perform queue.refuse(400, 'invalid_argument',
      format('not a cron expression of five fields: %s', left(p_cron, 100)), 'cron');
  end if;
  if substr(v_plan[5], 8) = '1' then -- Sunday is 0 and 7
    v_plan[5] := overlay(v_plan[5] placing '1' from 1 for 1);
  end if;
  return v_plan;
end;
$$;
comment on function queue.cron_parse is E'A cron expression as masks: {minutes, hours, days, months, weekdays, which '
  'of '
  'hours, days and weekdays are *}.\n\n400 when it cannot be read or has more than 500 characters. A day matches by '
  'day of month and weekday when one of them is *, by either when both are given, as cron does.';

create function queue.cron_wall(p_plan text[], p_after timestamp) returns timestamp
language plpgsql immutable set search_path = '' as $$
declare
  v_day date := p_after::date;
  v_last constant date := v_day + 366 * 9; -- the rarest date, 29 February, comes within eight years
  v_hour integer := extract(hour from p_after);
  v_in_month boolean;
  v_in_week boolean;
  v_at integer;
begin
  loop
    if substr(p_plan[4], extract(month from v_day)::integer, 1) = '0' then
      v_day := (date_trunc('month', v_day::timestamp) + interval '1 month')::date;
    else
      v_in_month := substr(p_plan[3], extract(day from v_day)::integer, 1) = '1';
      v_in_week := substr(p_plan[5], extract(dow from v_day)::integer + 1, 1) = '1';
      if (substr(p_plan[6], 2, 2) = '00' and (v_in_month or v_in_week)) or (v_in_month and v_in_week) then
        if v_day > p_after::date then
          return v_day + make_time(strpos(p_plan[2], '1') - 1, strpos(p_plan[1], '1') - 1, 0);
        end if;
        v_at := strpos(substr(p_plan[1], extract(minute from p_after)::integer + 2), '1');
        if v_at > 0 and substr(p_plan[2], v_hour + 1, 1) = '1' then
          return date_trunc('minute', p_after) + make_interval(mins => v_at);
        end if;
        v_at := strpos(substr(p_plan[2], v_hour + 2), '1');
        if v_at > 0 then
          return v_day + make_time(v_hour + v_at, strpos(p_plan[1], '1') - 1, 0);
        end if;
      end if;
      v_day := v_day + 1;
    end if;
    if v_day > v_last then
      return null;
    end if;
  end loop;
end;
$$;
comment on function queue.cron_wall is 'The first minute after p_after that the masks match, in local time, '
  'without a zone; null when none comes within nine years.';

create function queue.cron_near_change(p_plan text[], p_timezone text, p_after timestamptz) returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
  v_every_hour constant boolean := left(p_plan[6], 1) = '1';
  v_wall timestamp := (p_after at time zone p_timezone) - interval '2 hours';
  v_instants timestamptz[];
  v_one timestamptz;
  v_next timestamptz;
begin
  -- a time on the wall may come twice (clocks go back) or never (they go forward):
  -- fixed hours run once, at the first or right after the gap; "every hour" runs each real hour
  loop
    v_wall := queue.cron_wall(p_plan, v_wall);
    exit when v_wall is null or v_next is not null and v_wall > (v_next at time zone p_timezone) + interval '2 hours';
    v_one := v_wall at time zone p_timezone;
    v_instants := array(
      select i from unnest(array[v_one - interval '1 hour', v_one - interval '30 minutes', v_one,
        v_one + interval '30 minutes', v_one + interval '1 hour']) as i
      where i at time zone p_timezone = v_wall order by i);
    if cardinality(v_instants) = 0 and not v_every_hour then
      v_instants := array[v_one];
    elsif not v_every_hour then
      v_instants := v_instants[1:1];
    end if;
    v_next := least(v_next, (select min(i) from unnest(v_instants) as i where i > p_after));
  end loop;
  return v_next;
end;
$$;
comment on function queue.cron_near_change is 'The result of cron_after when clocks change within hours of p_after '
  'or of the next run: each instant of each matching minute is looked at.';

create function queue.cron_after(p_plan text[], p_timezone text, p_after timestamptz) returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
  v_hours constant interval := '4 hours';
  v_local timestamp := p_after at time zone p_timezone;
  v_wall timestamp := queue.cron_wall(p_plan, v_local);
  v_next timestamptz := v_wall at time zone p_timezone;
begin
  if v_wall is null
    or (p_after - v_hours) at time zone p_timezone = v_local - v_hours
      and (p_after + v_hours) at time zone p_timezone = v_local + v_hours
      and (v_next - v_hours) at time zone p_timezone = v_wall - v_hours
      and (v_next + v_hours) at time zone p_timezone = v_wall + v_hours then
    return v_next;
  end if;
  return queue.cron_near_change(p_plan, p_timezone, p_after);
end;
$$;
comment on function queue.cron_after is E'The first instant after p_after at which the masks of cron_parse match; '
  'null when none comes within nine years.\n\nWhen clocks go forward, a run whose local time is skipped comes right '
  'after the gap; when they go back, it comes once. Hours given as * follow elapsed time instead.';

create function queue.check_zone(p_timezone text) returns void
language plpgsql stable set search_path = '' as $$
begin
  if p_timezone !~ '^[A-Za-z_]+(/[A-Za-z0-9_+-]+){0,2}$' then
    raise invalid_parameter_value;
  end if;
  perform queue.clock() at time zone p_timezone;
exception when invalid_parameter_value then
  perform queue.refuse(400, 'invalid_argument', format('no such time zone: %s', left(p_timezone, 80)), 'timezone');
end;
$$;
comment on function queue.check_zone is 'Refuse with 400 a text that is not the name of an IANA time zone.';

create function queue.cron_next(p_cron text, p_timezone text, p_after timestamptz) returns timestamptz
language sql stable set search_path = ''
as $$ select queue.cron_after(queue.cron_parse(p_cron), p_timezone, p_after) $$;
comment on function queue.cron_next is 'The same as cron_after for an expression that is parsed by this call.';
