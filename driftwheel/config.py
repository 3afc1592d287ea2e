"""Configuration: read once, at the edge, into one frozen object. The only reader of the environment.

Sources, the later ones winning: defaults, ``driftwheel.toml`` (in the working folder, or the file that
``DRIFTWHEEL_CONFIG`` names), environment variables such as ``DRIFTWHEEL__GATEWAY__PORT=4318``, command options.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, cast

from platformdirs import user_data_path
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from schemas.errors import UsageError


class Section(BaseModel):
    """A part of the configuration: frozen, and a misspelt setting is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GatewayConfig(Section):
    """Where agents send to. ``token`` empty and no API key: no authentication, which only loopback should have.

    ``keys_file``: where API keys are kept; None: in the data folder.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=4318, ge=0, le=65535)
    token: SecretStr = SecretStr("")
    keys_file: Path | None = None
    max_body_bytes: int = Field(default=16 * 1024 * 1024, gt=0)
    hosts: tuple[str, ...] = ()


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
    """Where model weights lie and come from: ``registry`` (packages), ``folder`` or ``hub``."""

    folder: Path = Field(default_factory=lambda: user_data_path("driftwheel") / "models")
    source: str = "registry"
    location: str = ""


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
    """``key`` empty: a key is made on first start and kept, readable by the owner alone, in the data folder."""

    key: SecretStr = SecretStr("")


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
