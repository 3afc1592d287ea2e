"""What a span is and whose: its kind, session, user, agent, model, prompt and tool, by whatever names they come.

Our own names come first, then OpenInference's, then those of the GenAI conventions, then the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, cast

from processors.redact.bodies import Values, answers_call, parsed
from processors.redact.drafts import scrubbed
from processors.redact.retrievals import Events, found_documents
from schemas.events import SpanKind

SESSION = (
    "session.id", "gen_ai.conversation.id", "langfuse.session.id", "langfuse.trace.session_id", "mlflow.trace.session",
    "gcp.vertex.agent.session_id",
)  # fmt: skip
USER = (
    "user.id", "enduser.id", "enduser.pseudo.id", "langfuse.user.id", "langfuse.trace.user_id", "mlflow.trace.user",
    "gcp.vertex.agent.user_id", "user.hash",
)  # fmt: skip
AGENT = ("driftwheel.agent", "agent.name", "gen_ai.agent.name")
WORDS = {
    "model": (
        "llm.request.model_name", "llm.model_name", "gen_ai.request.model", "gen_ai.response.model",
        "langfuse.observation.model.name", "ai.model.id", "model_name",
    ),
    "model_version": (
        "driftwheel.model.version", "llm.response.model_name", "llm.model_name", "gen_ai.response.model",
        "ai.response.model",
    ),
    "provider": (
        "llm.provider", "llm.system", "gen_ai.provider.name", "gen_ai.system", "ai.model.provider",
        "langsmith.metadata.ls_provider",
    ),
    "prompt_name": (
        "prompt.id", "llm.prompt_template.name", "gen_ai.prompt.name", "langfuse.observation.prompt.name",
        "traceloop.prompt.key",
    ),
    "prompt_version": (
        "llm.prompt_template.version", "gen_ai.prompt.version", "langfuse.observation.prompt.version",
        "traceloop.prompt.version",
    ),
    "tool_call_id": ("tool_call.id", "tool.id", "gen_ai.tool.call.id", "ai.toolCall.id", "lk.function_tool.id"),
}  # fmt: skip
"""The fields of a span that are one word, and the attributes that tell them."""
_TOOL = ("tool.name", "tool_call.function.name", "gen_ai.tool.name", "ai.toolCall.name", "lk.function_tool.name")
_OF_TOOL = ("traceloop.entity.name",)
_KINDS: dict[str, dict[str, SpanKind]] = {
    "openinference.span.kind": {
        "llm": "llm", "agent": "agent", "tool": "tool", "retriever": "retrieval", "chain": "chain",
        "evaluator": "evaluator",
    },
    "gen_ai.operation.name": {
        "chat": "llm", "generate_content": "llm", "text_completion": "llm", "completion": "llm", "generate": "llm",
        "responses": "llm", "invoke_agent": "agent", "execute_tool": "tool", "retrieval": "retrieval",
        "search_memory": "retrieval", "invoke_workflow": "chain", "plan": "chain", "chain": "chain",
        "embeddings": "other", "create_agent": "other", "create_memory": "other", "update_memory": "other",
        "upsert_memory": "other", "delete_memory": "other", "create_memory_store": "other",
        "delete_memory_store": "other",
    },
    "langfuse.observation.type": {
        "generation": "llm", "agent": "agent", "tool": "tool", "retriever": "retrieval", "chain": "chain",
        "embedding": "other", "event": "other", "guardrail": "other", "evaluator": "evaluator",
    },
    "traceloop.span.kind": {"workflow": "chain", "task": "chain", "agent": "agent", "tool": "tool"},
    "langsmith.span.kind": {
        "llm": "llm", "agent": "agent", "tool": "tool", "retriever": "retrieval", "chain": "chain",
        "embedding": "other", "prompt": "other", "parser": "other",
    },
    "mlflow.spanType": {
        "llm": "llm", "chat_model": "llm", "agent": "agent", "tool": "tool", "retriever": "retrieval",
        "chain": "chain", "embedding": "other", "reranker": "other", "parser": "other",
    },
    "llm.request.type": {
        "chat": "llm", "completion": "llm", "responses": "llm", "embedding": "other", "rerank": "other",
    },
    "genkit:metadata:subtype": {
        "model": "llm", "tool": "tool", "flow": "chain", "retriever": "retrieval", "embedder": "other",
    },
}  # fmt: skip
_VERCEL: tuple[tuple[str, SpanKind], ...] = (
    ("ai.toolCall", "tool"), ("ai.embed", "other"), ("ai.rerank", "other"), (".doGenerate", "llm"),
    (".doStream", "llm"), ("ai.", "chain"),
)  # fmt: skip
_OUTPUTS = ("output.value", "langfuse.observation.output", "traceloop.entity.output", "mlflow.spanOutputs")
_ABOUT_TOOL = ("tool.name", "gen_ai.tool.name", "gen_ai.tool.call.id", "ai.toolCall.name", "lk.function_tool.name")
_ABOUT_MODEL = (
    "llm.model_name", "gen_ai.request.model", "gen_ai.response.model", "gen_ai.prompt.0.content", "ai.model.id",
    "langfuse.observation.model.name",
)  # fmt: skip
_TOOL_SPAN = re.compile(r"(?:execute_tool|running tool:?|tool:|call_tool:?) +|\.tool\Z")
_SESSION_KEYS = {"session_id", "sessionId", "conversation_id", "conversationId", "thread_id", "threadId",
                 "langfuse_session_id"}  # fmt: skip
_USER_KEYS = {"user_id", "userId", "langfuse_user_id"}
_HOLDERS = ("metadata", "langfuse.observation.metadata", "langfuse.trace.metadata", "traceloop.association.properties")
_HOLDING = ("metadata.", "properties.", "metadata:")
CONSUMED = {*SESSION, *USER, *AGENT, *_TOOL, *_OF_TOOL, *_KINDS, "ai.operationId", "operation.name"} | {
    name for names in WORDS.values() for name in names
}


def kind_of(values: Values, events: Events = ()) -> SpanKind:
    """What a span does, by whatever names it is told; ``other`` when nothing tells."""
    if "openinference.span.kind" not in values and isinstance(values.get("ai.operationId"), str):
        return _by_operation(values["ai.operationId"])
    for name, kinds in _KINDS.items():
        if name in values:
            found = kinds.get(str(values[name]).strip('"').lower())
            if found or name == "openinference.span.kind":
                return found or "other"
    return _by_what_it_has(values, events)


def _by_operation(operation: str) -> SpanKind:
    for part, kind in _VERCEL:
        if part in operation:
            return kind
    return "other"


def _by_what_it_has(values: Values, events: Events) -> SpanKind:
    if any(values.get(name) not in (None, "") for name in _ABOUT_TOOL):
        return "tool"
    if any(values.get(name) not in (None, "") for name in _ABOUT_MODEL):
        return "other" if "embedding.model_name" in values else "llm"
    if found_documents(values, events):
        return "retrieval"
    return "tool" if any(answers_call(values.get(name)) for name in _OUTPUTS) else "other"


def named(values: Values, names: Iterable[str]) -> str:
    """The first of the attributes that is a word or a number."""
    for name in names:
        one = values.get(name, "")
        if one != "" and isinstance(one, (str, int)):
            return scrubbed(str(one))
    return ""


def session_of(values: Values) -> str:
    """The session that a span names; metadata counts where no attribute names one."""
    return named(values, SESSION) or _in_metadata(values, _SESSION_KEYS)


def user_of(values: Values) -> str:
    """The user whom a span names; metadata counts where no attribute names one."""
    return named(values, USER) or _in_metadata(values, _USER_KEYS)


@lru_cache(8_192)
def is_session_or_user(name: str) -> bool:
    """Whether an attribute is metadata that names a session or a user."""
    holder, _, last = name.replace(":", ".").rpartition(".")
    return last in _SESSION_KEYS | _USER_KEYS and f"{holder}.".endswith(_HOLDING)


def _in_metadata(values: Values, keys: set[str]) -> str:
    flat = {
        name.replace(":", ".").rpartition(".")[2]: value for name, value in values.items() if is_session_or_user(name)
    }
    found = named(flat, sorted(keys & set(flat)))
    for holder in _HOLDERS:
        body: Any = parsed(values[holder]) if not found and holder in values else None
        if isinstance(body, dict):
            held = cast("Values", body)
            found = named(held, sorted(keys & set(held)))
    return found


def tool_of(kind: SpanKind, values: Values, name: str) -> str:
    """The tool that a span is a call of, by its span's name at last; of other spans, the tool that they speak of."""
    if kind != "tool":
        return named(values, _TOOL)
    return named(values, (*_TOOL, *_OF_TOOL)) or scrubbed(_TOOL_SPAN.sub("", name))
