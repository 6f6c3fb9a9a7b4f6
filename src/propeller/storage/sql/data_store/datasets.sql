-- Data sets: one row per proplet.

-- name: put_dataset
INSERT INTO datasets (proplet_id, document, blob) VALUES (:proplet_id, :document, :blob)
ON CONFLICT (proplet_id) DO UPDATE SET document = excluded.document, blob = excluded.blob;

-- name: add_dataset
-- Changes no row if the proplet has a data set.
INSERT INTO datasets (proplet_id, document, blob) VALUES (:proplet_id, :document, :blob)
ON CONFLICT (proplet_id) DO NOTHING;

-- name: select_dataset
SELECT document, blob FROM datasets WHERE proplet_id = :proplet_id;

-- name: select_blob
SELECT blob FROM datasets WHERE proplet_id = :proplet_id AND blob IS NOT NULL;

-- name: is_blob_needed
SELECT 1 FROM datasets WHERE blob = :blob LIMIT 1;

-- name: list_ids
SELECT proplet_id FROM datasets ORDER BY proplet_id;
