#!/bin/bash
# What the Collector and the Schema Registry may do on the broker; the user driftwheel may do everything.
# Runs beside the broker, on its own loopback. Saying it again changes nothing.
set -euo pipefail
export KAFKA_HEAP_OPTS=-Xmx128m

allow() {
  /opt/kafka/bin/kafka-acls.sh --bootstrap-server 127.0.0.1:9094 --add "$@"
}

# The Collector adds spans and log records and counts; it can read nothing.
allow --allow-principal User:collector --operation Write --topic otlp_spans
allow --allow-principal User:collector --operation Write --topic otlp_logs
allow --allow-principal User:collector --operation Describe --topic '*' --group '*'
allow --allow-principal User:collector --operation Describe --cluster

# The registry owns its topic.
allow --allow-principal User:registry --operation All --topic _schemas
allow --allow-principal User:registry --operation Read --operation Describe --group schema-registry
