-- Functions, views, triggers, policies, grants and comments come from the schemas. Write here the
-- changes that the schemas cannot express, for example a moved row or a new column.

-- The indexes of open turns now begin with the turn's epoch, so that a lease skips the dead entries
-- of closed turns, which Postgres keeps while an old snapshot exists.
alter table queue.turns add column epoch bigint not null default 0;
drop index queue.turns_in_order;
drop index queue.turns_by_lane;
create index turns_in_order on queue.turns (epoch, rank, workspace_id, lane) where not blocked;
create index turns_by_lane on queue.turns (lane, epoch, rank, workspace_id) where not blocked;
