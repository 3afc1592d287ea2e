"""What changes in production: datasets, training jobs, the gate and releases. Manifests are in ``deploy/manifests``."""
