"""NVIDIA NeMo: the port that jobs and releases are written against, its REST dialects and its twin in memory."""
