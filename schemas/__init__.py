"""What travels: records, topics, bytes, errors and metric names. Imports nothing of Driftwheel's own."""
