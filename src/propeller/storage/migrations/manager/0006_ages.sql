-- When lines of histories and measurements were written, Unix seconds, so that old ones can go. NULL: before
-- this was kept; those go by number only.

ALTER TABLE task_events ADD COLUMN at_s REAL;
ALTER TABLE metrics ADD COLUMN at_s REAL;

CREATE INDEX task_events_by_age ON task_events (at_s) WHERE at_s IS NOT NULL;
CREATE INDEX metrics_by_age ON metrics (at_s) WHERE at_s IS NOT NULL;
