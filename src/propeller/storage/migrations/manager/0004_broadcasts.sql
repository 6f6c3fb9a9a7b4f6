-- Members of broadcasts: tasks that are one proplet's part of another, which no list shows.

ALTER TABLE tasks ADD COLUMN part_of TEXT;

CREATE INDEX tasks_by_whole ON tasks (part_of) WHERE part_of IS NOT NULL;
