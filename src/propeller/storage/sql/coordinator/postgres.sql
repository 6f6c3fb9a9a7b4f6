-- The queries that PostgreSQL must be asked in another way: it has no row ids, and other JSON functions.

-- name: notices
-- The oldest first.
SELECT round_id, kind, payload, created_wall_s FROM notices ORDER BY created_wall_s, round_id, kind;

-- name: taken
-- The first id of a JSON list, in its order, that names a round.
SELECT wanted.value AS round_id
FROM jsonb_array_elements_text(CAST(:round_ids AS jsonb)) WITH ORDINALITY AS wanted (value, place)
INNER JOIN rounds ON rounds.round_id = wanted.value
ORDER BY wanted.place LIMIT 1;

-- name: last_completed
-- Of those that made a model: evaluations complete too.
SELECT record FROM rounds
WHERE state = 'completed' AND CAST(record AS jsonb) ->> 'version' IS NOT NULL
ORDER BY started_wall_s DESC, seq DESC LIMIT 1;

-- name: updates_of_experiment
SELECT updates.record FROM updates
INNER JOIN rounds ON updates.round_id = rounds.round_id
WHERE rounds.experiment_id = :experiment_id
ORDER BY rounds.seq, CAST(CAST(updates.record AS jsonb) ->> 'received_wall_s' AS double precision), updates.participant;
