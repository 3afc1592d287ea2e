"""A Schema Registry with Confluent's API: which schemas are registered, and how values name them on the wire."""
