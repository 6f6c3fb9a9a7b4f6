-- The definition that a live run was started with, where its task has changed since; else NULL.

ALTER TABLE runs ADD COLUMN task BLOB;
