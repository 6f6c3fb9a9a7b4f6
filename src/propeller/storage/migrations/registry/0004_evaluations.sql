-- What makes one version better than another: the metric that its experiment stops by, and what the last
-- evaluation on the devices measured. Versions from before have neither: they go by the metrics of their updates.

-- JSON: metric and direction.
ALTER TABLE model_versions ADD COLUMN objective TEXT;
-- JSON: the evaluation's round id, metrics, samples and Unix time.
ALTER TABLE model_versions ADD COLUMN evaluation TEXT;
