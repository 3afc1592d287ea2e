"""A NeMo for one CPU machine: the part of NeMo Microservices 25.x that a data flywheel uses, for classifiers.

    storage     documents in SQLite, file contents by hash
    datastore   the Hugging Face-compatible data store
    entities    namespaces, datasets, customization targets and configs, deployments, models
    customizer  training jobs, run by `trainer` in a process of its own on the `classifier`
    evaluator   evaluation jobs, with the outcome of every row
    serving     models and chat completions with true log-probabilities
    rollout     a candidate beside the live model: split by session, or in the shadow

What a model is here: MiniLM sentence embeddings, frozen, under a linear softmax layer. A completion is one label.
No text of a completion request is logged or written to disk.

From Python: ``app.create_app(settings.Settings(...))``; from a shell: ``python -m deploy.local_nemo``.
"""
