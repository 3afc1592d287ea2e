"""The judge: a language model at any OpenAI-compatible endpoint that scores answers by versioned rubrics.

``rubrics`` what is asked, ``prompts`` how, ``endpoint`` of whom, ``cache`` what was answered before, ``budget`` how
often, ``judge`` all of it together, ``probes`` whether it can be believed.
"""
