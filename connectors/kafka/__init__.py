"""Apache Kafka: how to reach it, its topics, and the log that producers append to."""
