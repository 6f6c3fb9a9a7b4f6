"""Publish-subscribe connections: the MQTT client and its in-memory twin, both behind `ports.Bus`."""
