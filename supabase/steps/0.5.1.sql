-- The upgrade takes functions, views, triggers, policies, grants, comments and new columns from
-- supabase/schemas. This file has the changes that the schemas cannot express, for example a
-- changed index or moved rows.

-- afterwards

-- The indexes of the open rows of queue.turns now begin with the column epoch, so that a lease
-- skips the dead index entries of closed rows. Postgres keeps the dead index entries while an old
-- snapshot exists.
drop index queue.turns_in_order;
drop index queue.turns_by_lane;
create index turns_in_order on queue.turns (epoch, rank, workspace_id, lane) where not blocked;
create index turns_by_lane on queue.turns (lane, epoch, rank, workspace_id) where not blocked;
