-- A row of statistics now covers five minutes. The rows of the last day are computed from its rows
-- of minutes. For earlier days, the row of each hour is kept.
delete from queue.stats
where case minutes
  when 1 then at < date_trunc('hour', queue.clock() - interval '1 day')
  else at >= date_trunc('hour', queue.clock() - interval '1 day')
    or at < queue.clock() - interval '9 days'
end;
alter table queue.stats drop constraint stats_pkey;
drop index queue.stats_by_time;
with minutes as (
  delete from queue.stats
  where minutes = 1
  returning *
)
insert into queue.stats (
  workspace_id, minutes, at, job_type, counts, queue_times, run_times
)
select
  m.workspace_id,
  5,
  date_bin('5 minutes', m.at, '2000-01-01 00:00:00+00'),
  m.job_type,
  queue.sum_numbers(array_agg(m.counts)),
  queue.sum_numbers(array_agg(m.queue_times)),
  queue.sum_numbers(array_agg(m.run_times))
from minutes as m
group by 1, 3, 4;
alter table queue.stats
  drop column minutes,
  add primary key (workspace_id, at, job_type);
create index stats_by_time on queue.stats (at);

-- Warnings are now silenced in Alertmanager, by their label `key`.
delete from queue.settings where name = 'silenced';

-- A lease request now has a field for processes that run suspects, and the ids of jobs to lease.
alter type queue.lease_request
  add attribute suspects boolean,
  add attribute job_ids uuid[],
  add attribute slots jsonb,
  add attribute abandoned jsonb;

-- A worker now reports its slots, which explain_job compares with its leases. It also reports which
-- line of code each job executes, and which stopped jobs still run.
alter table queue.workers
  add column slots jsonb,
  add column abandoned jsonb;
alter table queue.leases add column pulse jsonb;
alter type queue.worker_item add attribute pulse jsonb;

-- No query uses this index any more.
drop index public.jobs_by_replay;

-- Because two times of a job may be equal, a new column shows whether a row of queue.deferred is
-- the place of the job or one of its deadlines.
alter table queue.deferred
  add column is_place boolean not null default true,
  drop constraint deferred_pkey;
update queue.deferred as d
set is_place = false
from public.jobs as j
where j.id = d.job_id
  and (
    j.status <> 'pending'
    or d.run_at is distinct from coalesce(j.next_retry_at, j.scheduled_for)
  );
insert into queue.deferred (run_at, job_id, workspace_id, is_place)
select d.run_at, d.job_id, d.workspace_id, false
from queue.deferred as d
join public.jobs as j on j.id = d.job_id
where d.is_place and d.run_at in (j.deadline_at, j.start_by_at);
alter table queue.deferred
  alter column is_place drop default,
  add primary key (run_at, job_id, is_place);

-- Token buckets of people are now stored in sequences, which a rollback does not reset
-- (queue.charge).
do $$
begin
  for v_nth in 0 .. 15 loop
    execute format('create unlogged sequence queue.priced_%s', v_nth);
    execute format('create unlogged sequence queue.refilled_%s', v_nth);
  end loop;
end;
$$;
-- Small concurrent charges no longer have separate rows.
delete from queue.buckets where name ~ '^u:.*[+][0-9]+$';

-- A mistyped job type may contain a person's words.
comment on column queue.stats.job_type is 'Person: words';

-- The publisher (queue.do_announcements) sends the messages of a busy workspace. It reads the feed
-- by number.
alter type queue.change add attribute at timestamptz;

-- Readers of turns' notes begin at a transaction id (queue.notes_gone).
alter table queue.notes add column xid xid8 not null default pg_current_xact_id();
drop index queue.notes_of_turns, queue.notes_by_turn;
create index notes_of_turns on queue.notes (xid, id) where key is null;
create index notes_by_turn on queue.notes (workspace_id, lane, key, xid);

-- afterwards
-- The publisher begins with the first feed row whose message was not sent, or with the next new
-- row.
insert into queue.publisher (seen, until, number, id)
select '1:1:', pg_current_snapshot(), n.number, 0
from (
  select coalesce(
    (select min(f.number) - 1 from queue.feed as f where f.unsent),
    (select max(f.number) from queue.feed as f)
  ) as number
) as n
where n.number is not null;
drop index queue.feed_unsent;
drop index queue.feed_unsent_by_workspace;
-- People are now charged for their statements on these tables, and for rows that they delete.
select queue.charge_rows(t.tgrelid)
from pg_catalog.pg_trigger as t
where t.tgname = 'charge_insert';
select queue.watch_members();
