"""Configuration: read once, at the edge, into one frozen object. The only reader of the environment.

Sources, the later ones winning: defaults, ``driftwheel.toml`` (in the working folder, or the file that
``DRIFTWHEEL_CONFIG`` names), environment variables such as ``DRIFTWHEEL__GATEWAY__PORT=4318``, command options.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from platformdirs import user_data_path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from connectors.judge.rubrics import NAMES
from schemas.errors import UsageError


class Section(BaseModel):
    """A part of the configuration: frozen, and a misspelt setting is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _exact(origin: str) -> str:
    if ORIGIN.fullmatch(origin):
        return origin
    raise ValueError(
        "must be one exact origin such as https://app.example.com:8443, in lower case and without a path. There is no "
        "wildcard: any web page that somebody here opens could then send made-up feedback"
    )


ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:]+\]|[a-z0-9._-]+)(?::\d{1,5})?")
Origin = Annotated[str, AfterValidator(_exact)]


class GatewayConfig(Section):
    """Where agents send to. ``token`` empty and no API key: no authentication, which only loopback should have.

    ``keys_file``: where API keys are kept; None: in the data folder. ``grpc``: whether OTLP/gRPC is taken as well.
    ``tls_cert`` and ``tls_key`` (PEM) encrypt both ports; with ``tls_client_ca`` senders need a certificate too.
    ``cors_origins``: web pages that may send, such as ``https://app.example.com``.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=4318, ge=0, le=65535)
    grpc: bool = True
    grpc_port: int = Field(default=4317, ge=0, le=65535)
    token: SecretStr = SecretStr("")
    keys_file: Path | None = None
    max_body_bytes: int = Field(default=16 * 1024 * 1024, gt=0)
    hosts: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    cors_origins: tuple[Origin, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> GatewayConfig:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: set both, or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        return self


class StoreConfig(Section):
    """``url`` empty: chDB in this process, under the data folder; else a ClickHouse server's address."""

    url: SecretStr = SecretStr("")
    database: str = "driftwheel"
    retention_days: int = Field(default=365, gt=0, le=7300)


class NemoConfig(Section):
    """``url`` empty: the local NeMo is started with the product; else the address of NeMo microservices."""

    url: str = ""
    token: SecretStr = SecretStr("")
    namespace: str = "driftwheel"


class ModelsConfig(Section):
    """Where model weights lie and come from: ``registry`` (packages), ``folder`` or ``hub``.

    ``embedding``: what stages compare texts by: ``static`` (fast), ``minilm`` (better, at some 5 ms of CPU a text), or
    ``none`` (letters alone, as where the chosen one was never fetched).
    """

    folder: Path = Field(default_factory=lambda: user_data_path("driftwheel") / "models")
    source: str = "registry"
    location: str = ""
    embedding: Literal["static", "minilm", "none"] = "static"


class EngineConfig(Section):
    """The embedded engine. ``workers`` processes run the heavy steps; 0 runs them in place."""

    workers: int = Field(default=2, ge=0)
    max_lag: int = Field(default=100_000, gt=0)
    durable: bool = False


class OAuthConfig(Section):
    """Tokens for OAUTHBEARER by the client credentials grant."""

    token_url: str = ""
    client_id: str = ""
    client_secret: SecretStr = SecretStr("")
    scope: str = ""
    ca_file: str = ""


class KafkaConfig(Section):
    """``brokers`` empty: the embedded engine. ``prefix`` goes before every topic and group name."""

    brokers: str = ""
    prefix: str = ""
    partitions: int = Field(default=6, gt=0)
    replication: int = Field(default=0, ge=0)
    min_insync: int = Field(default=0, ge=0)
    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "SCRAM-SHA-512"
    username: str = ""
    password: SecretStr = SecretStr("")
    oauth: OAuthConfig = OAuthConfig()
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    key_password: SecretStr = SecretStr("")


class RegistryConfig(Section):
    """``url`` empty: no Schema Registry, values are Avro single objects. ``header``: which form is written."""

    url: str = ""
    username: str = ""
    password: SecretStr = SecretStr("")
    ca_file: str = ""
    header: Literal["prefix", "headers"] = "prefix"


class WorkerConfig(Section):
    """A Kafka worker, sink or job-runner. ``port`` 0: a free one. ``state_dir`` empty: below the data folder.

    ``time`` is the clock of the timers: ``wall``, or ``log``, the newest time in the raw topics (for replays).
    """

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    state_dir: str = ""
    batch_size: int = Field(default=500, gt=0)
    stall_seconds: float = Field(default=60.0, gt=0)
    time: Literal["wall", "log"] = "wall"


class RedactConfig(Section):
    """``key`` empty: a key is made on first start and kept, readable by the owner alone, in the data folder.

    ``canaries`` planted a day for each policy, to see whether redaction takes them away; 0: none.
    """

    key: SecretStr = SecretStr("")
    canaries: int = Field(default=24, ge=0, le=1440)


class ExportConfig(Section):
    """How much may ever become known of one person of a tenant by exported statistics (sums over all exports)."""

    epsilon_budget: float = Field(default=10.0, gt=0)
    delta_budget: float = Field(default=1e-5, gt=0, lt=1)


class JudgeFloorConfig(Section):
    """What a judge needs for the right to gate: see ``processors.agreement.Floor``."""

    kappa: float = Field(default=0.4, ge=-1, le=1)
    pairs: int = Field(default=50, ge=1)
    days: int = Field(default=30, ge=1)
    position: float = Field(default=0.2, ge=0, le=1)
    verbosity: float = Field(default=0.1, ge=0, le=1)
    probes: int = Field(default=20, ge=1)
    abstained: float = Field(default=0.2, ge=0, le=1)


class JudgeConfig(Section):
    """A language model that judges turns. ``url`` empty: none, and nothing is sent anywhere.

    ``url``: an OpenAI-compatible endpoint up to and with ``/v1``. ``folder``: rubrics of one's own, as ``<name>.toml``.
    ``share`` of all turns is judged, and ``uncertain`` times its uncertainty of each besides. ``probe_share`` of what
    is judged probes the judge. ``weight``: how much a judge with the right to gate is believed; those without, all
    together, ``weight_unproven``. ``extra``: more fields of every request.
    """

    url: str = ""
    model: str = ""
    key: SecretStr = SecretStr("")
    rubrics: tuple[str, ...] = NAMES
    folder: Path | None = None
    timeout: float = Field(default=30.0, gt=0)
    attempts: int = Field(default=3, ge=1, le=10)
    max_tokens: int = Field(default=400, ge=16)
    json_mode: bool = True
    extra: dict[str, Any] = Field(default_factory=dict)
    calls_per_hour: int = Field(default=600, ge=0)
    tokens_per_day: int = Field(default=1_000_000, ge=0)
    share: float = Field(default=0.01, ge=0, le=1)
    uncertain: float = Field(default=0.05, ge=0, le=1)
    probe_share: float = Field(default=0.1, ge=0, le=1)
    weight: float = Field(default=0.4, ge=0, le=1)
    weight_unproven: float = Field(default=0.2, ge=0, le=1)
    floor: JudgeFloorConfig = JudgeFloorConfig()

    @model_validator(mode="after")
    def _whole(self) -> JudgeConfig:
        if self.url and not self.model:
            raise ValueError("url is set and model is not: name the model that the endpoint serves")
        if self.url and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", self.url):
            raise ValueError("url has to be http(s)://host[:port]/v1, without a user, a query or a fragment")
        return self


class Config(BaseSettings):
    """Everything that can be set. ``stages`` overrides stage settings by stage name, e.g. ``stages.curate.budget``."""

    model_config = SettingsConfigDict(env_prefix="DRIFTWHEEL__", env_nested_delimiter="__", frozen=True, extra="forbid")

    data_dir: Path = Field(default_factory=lambda: user_data_path("driftwheel") / "data")
    gateway: GatewayConfig = GatewayConfig()
    store: StoreConfig = StoreConfig()
    nemo: NemoConfig = NemoConfig()
    models: ModelsConfig = Field(default_factory=ModelsConfig)
    engine: EngineConfig = EngineConfig()
    redact: RedactConfig = RedactConfig()
    kafka: KafkaConfig = KafkaConfig()
    registry: RegistryConfig = RegistryConfig()
    worker: WorkerConfig = WorkerConfig()
    export: ExportConfig = ExportConfig()
    judge: JudgeConfig = JudgeConfig()
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Options over environment over file."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_path())


def environment_of(config: Config) -> dict[str, str]:
    """The environment from which a child process reads this very configuration, secrets included."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTWHEEL")}
    for name in Config.model_fields:
        own[f"DRIFTWHEEL__{name.upper()}"] = _text(getattr(config, name))
    return own


def _text(value: Any) -> str:
    return str(value) if isinstance(value, Path) else json.dumps(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    return str(value) if isinstance(value, Path) else value


def config_path() -> Path:
    """The configuration file: ``DRIFTWHEEL_CONFIG``, else ``driftwheel.toml`` here (which may be missing)."""
    return Path(os.environ.get("DRIFTWHEEL_CONFIG", "driftwheel.toml"))


def load(**overrides: Any) -> Config:
    """The configuration; UsageError names the setting that is wrong."""
    named = os.environ.get("DRIFTWHEEL_CONFIG")
    if named and not Path(named).is_file():
        raise UsageError(f"DRIFTWHEEL_CONFIG names {named}, which is not a file")
    try:
        return Config(**overrides)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise UsageError("the configuration is wrong:\n" + "\n".join(lines)) from error
    except ValueError as error:
        raise UsageError(f"{config_path()} cannot be read: {error}") from error
