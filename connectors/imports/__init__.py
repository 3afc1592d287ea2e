"""Recordings of other tools, as the OTLP requests that a gateway takes."""
