-- What doctor compares travels with the release; the database no longer keeps a copy of its own.
delete from queue.settings where name = 'facts';

-- A choice is known by its presence. Of jobs that wait for their type it is not known any more: the
-- values that are not the default's were chosen.
alter table public.jobs add column chosen text[];
update public.jobs
set chosen = array_remove(
  array[
    case when queue <> 'default' then 'queue' end,
    case when max_attempts <> 5 then 'max_attempts' end
  ],
  null
)
where id in (
  select g.job_id
  from queue.gated as g
  where g.lane = 0
);

-- A type belongs to a deploy, and the younger one wins.
alter table queue.job_types
  add column commit text,
  add column deployed_at timestamptz,
  add constraint commit_has_at_most_100_characters check (char_length(commit) <= 100);

-- A lease may be asked for by pools of slots, of some job types each.
alter type queue.lease_request add attribute pools jsonb;

-- Columns say what they hold.
alter table queue.feed rename column held to unsent;
alter index queue.feed_held rename to feed_unsent;
alter table queue.job_keys rename column until to freed_when;
alter table queue.stats rename column waits to queue_times;
alter table queue.stats rename column runs to run_times;
alter table queue.waits rename column name to step;
alter type queue.turn rename attribute due to round;
alter type queue.last_served rename attribute due to round;

-- A ring is a row of its own (see below), and a weight a whole number.
alter table queue.lanes add column ring integer not null default 1;
create index lanes_by_ring on queue.lanes (ring);
alter table queue.turns drop column had;
alter table queue.tenant_limits
  drop constraint tenant_limits_are_not_negative,
  alter column weight type integer using greatest(1, round(weight));
alter table queue.tenant_limits
  add constraint tenant_limits_are_not_negative check (
    weight >= 1
    and weight <= 100
    and least(max_running, own_max_running, max_pending) >= 0
  );
alter type queue.turn rename attribute had to taken;
alter type queue.turn alter attribute taken type integer, alter attribute weight type integer;
alter type queue.last_served rename attribute rounds to taken;
alter type queue.last_served alter attribute taken type integer;

-- Positions are compared by number: the cluster's own number says nothing of its history.
delete from queue.settings where name = 'cluster';
alter type queue.feed_cursor rename attribute cluster to history;
-- Of a full table that maintenance works off each workspace has its share.
create index signals_by_workspace on queue.signals (workspace_id, id);
create index waits_by_workspace_and_timeout on queue.waits (workspace_id, timeout_at)
  where timeout_at is not null;
create index feed_unsent_by_workspace on queue.feed (workspace_id, id) where unsent;

-- What a job says while it runs.
alter table queue.leases add column output_bytes bigint;

alter type queue.worker_item add attribute output jsonb;

insert into queue.settings (name, value)
values ('output_max_bytes', '1000000');

insert into queue.tasks (name, every)
values ('output', '1 minute');

-- A task says itself that it reads the feed.
alter table queue.tasks add column reads_feed boolean not null default false;
update queue.tasks set reads_feed = true where name = 'statistics';

-- Whose an event is, so that it is erased with them.
alter table queue.named_events add column created_by uuid;

-- What live jobs hold is bounded, and the disk is watched once its size is said.
insert into queue.settings (name, value)
values ('user_pending_bytes_max', '1000000000'), ('disk_bytes', 'null');

-- What Postgres prints of a check is read back as the same, for tools that compare schemas by it.
alter table queue.job_types
  drop constraint job_type_has_1_to_100_plain_characters,
  drop constraint queue_has_1_to_100_plain_characters,
  drop constraint lease_and_timeout_are_1_to_43200_seconds,
  drop constraint backoff_is_0_to_86400_seconds_cap_604800_factor_1_to_10,
  add constraint job_type_has_1_to_100_plain_characters
    check (
      char_length(job_type) >= 1
      and char_length(job_type) <= 100
      and job_type !~ '[[:cntrl:]]'
    ),
  add constraint queue_has_1_to_100_plain_characters
    check (
      char_length(queue) >= 1
      and char_length(queue) <= 100
      and queue !~ '[[:cntrl:]]'
    ),
  add constraint lease_and_timeout_are_1_to_43200_seconds
    check (
      lease_seconds >= 1
      and lease_seconds <= 43200
      and timeout_seconds >= 1
      and timeout_seconds <= 43200
    ),
  add constraint backoff_is_0_to_86400_seconds_cap_604800_factor_1_to_10
    check (
      backoff_first_seconds >= 0
      and backoff_first_seconds <= 86400
      and backoff_cap_seconds >= 0
      and backoff_cap_seconds <= 604800
      and backoff_factor >= 1
      and backoff_factor <= 10
    );

-- A job may have to start by a moment.
alter table public.jobs
  add column start_by_seconds integer,
  add column start_by_at timestamptz;

-- afterwards
-- also where a restore had left positions above what this server has come to
select setval('queue.feed_reached', greatest(
  1,
  (select max(t.read_to) from queue.tasks as t)
));

-- What people write there is charged.
select queue.charge_rows('public.workspace_members');

-- what waits for its type and what was refused have tables of their own
with moved as (
  delete from queue.gated
  where lane = 0
  returning job_type, workspace_id, job_id
)
insert into queue.unpublished (job_type, workspace_id, job_id)
select m.job_type, m.workspace_id, m.job_id
from moved as m;
drop index queue.gated_unpublished;
create index unpublished_by_workspace on queue.unpublished (workspace_id, job_type);
insert into queue.refusals (
  task, job_id, workspace_id, refused_at, retry_at, failures, failure
)
select s.name, s.job_id, s.workspace_id, s.created_at, s.look_at, s.failures, s.failure
from queue.signals as s
where s.kind = 'refused' and s.job_id is not null;
delete from queue.signals where kind = 'refused';
drop index queue.signals_refused;
alter table queue.signals drop column failure;

-- lanes keep how far they have come
insert into queue.rings default values;
with leaders as (
  select
    l.lane,
    1 + row_number() over (order by l.lane) as ring,
    l.round,
    l.last_rank,
    l.last_workspace_id
  from queue.lanes as l
  where coalesce(l.leader, l.lane) = l.lane
),
made as (
  insert into queue.rings (round, last_rank, last_workspace_id)
  select o.round, o.last_rank, o.last_workspace_id
  from leaders as o
  order by o.ring
)
update queue.lanes as l
set ring = o.ring
from leaders as o
where o.lane = coalesce(l.leader, l.lane);
alter table queue.lanes
  drop column leader,
  drop column round,
  drop column last_workspace_id,
  drop column last_rank;
