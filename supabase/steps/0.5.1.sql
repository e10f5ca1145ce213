-- Functions, views, triggers, policies, grants and comments come from the schemas. Write here the
-- changes that the schemas cannot express, for example a moved row or a new column.

-- The indexes of open turns now begin with the turn's epoch, so that a lease skips the dead entries
-- of closed turns, which Postgres keeps while an old snapshot exists.
alter table queue.turns add column epoch bigint not null default 0;
drop index queue.turns_in_order;
drop index queue.turns_by_lane;
create index turns_in_order on queue.turns (epoch, rank, workspace_id, lane) where not blocked;
create index turns_by_lane on queue.turns (lane, epoch, rank, workspace_id) where not blocked;

-- A lease may leave the start of its job to a later statement. The starts of present leases are
-- written.
alter table queue.leases add column is_written boolean not null default true;
create index leases_unwritten on queue.leases (leased_at) where not is_written;
alter type queue.taken add attribute due uuid[];
