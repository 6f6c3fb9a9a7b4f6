"""The MQTT broker: the embedded one, Mosquitto's configuration, and the credentials and rights of both."""
