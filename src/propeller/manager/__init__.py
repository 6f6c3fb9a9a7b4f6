"""The manager: takes tasks over HTTP, gives them to proplets over MQTT, forgets none. It runs no guest."""
