"""The demonstration: a simulated world around the real product, which sees only traces and signals."""
