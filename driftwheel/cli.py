"""The command line. Errors go to standard error; exit codes: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from driftwheel import config as configuration
from schemas.errors import DriftwheelError, UsageError

app = typer.Typer(
    name="driftwheel",
    help="An event-streaming data flywheel for AI agents. Start with: driftwheel demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(help="The model weights: fetch, list, verify.", no_args_is_help=True)
stage_app = typer.Typer(help="One pure stage alone, over JSON Lines.", no_args_is_help=True)
topics_app = typer.Typer(help="Kafka's topics: what is missing, make it so, how they are.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(topics_app, name="topics")
app.add_typer(stage_app, name="stage")
keys_app = typer.Typer(help="API keys of agents: create, list, rotate, revoke.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
policy_app = typer.Typer(help="Redaction policies: what one would do.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")
deadletters_app = typer.Typer(help="What could not be processed: list, show, replay.", no_args_is_help=True)
app.add_typer(deadletters_app, name="deadletters")

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Data folder (default: the user's).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]


def _config(data_dir: Path | None = None, **overrides: Any) -> configuration.Config:
    if data_dir is not None:
        overrides["data_dir"] = data_dir
    return configuration.load(**overrides)


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(help="CSV or JSON Lines (.gz too) with a text and a label column.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="The column with the text.")] = "text",
    label_column: Annotated[str, typer.Option(help="The column with the label.")] = "label",
    seed: Annotated[int, typer.Option(help="Same seed, same run.")] = 1,
    events: Annotated[int, typer.Option(min=400, help="Asks in all.")] = 4400,
    speed: Annotated[float, typer.Option(min=0, help="Asks a second at most; 0: as fast as it goes.")] = 0,
    report: Annotated[Path, typer.Option(help="Where report.html and report.json go.")] = Path("driftwheel-report"),
    shift_labels: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of labels held back.")] = 0.3,
    shift_traffic: Annotated[
        float, typer.Option(min=0.01, max=1, help="Their share of the traffic after the shift.")
    ] = 0.4,
    seed_rows: Annotated[int, typer.Option(min=20, help="Rows that train the first model.")] = 300,
    wheel: Annotated[bool, typer.Option(help="--no-wheel: same world, no retraining.")] = True,
    shuffle_labels: Annotated[bool, typer.Option(help="Control: wrong labels must release nothing.")] = False,
    keep: Annotated[bool, typer.Option(help="Leave store and services up until Ctrl-C.")] = False,
    kafka: Annotated[str, typer.Option(help="Run on this Kafka cluster (host:port,...), with workers.")] = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Run the whole loop on this machine: a world shifts, the wheel notices, retrains, proves and rolls out.

    Examples: driftwheel demo --seed 2
    driftwheel demo --data tickets.csv --text-column body --label-column team
    driftwheel demo --kafka localhost:9092
    """
    from driftwheel.demo.run import DemoOptions, run_demo
    from driftwheel.demo.world import WorldSettings

    world = WorldSettings(
        seed=seed, events=events, shift_labels=shift_labels, shift_traffic=shift_traffic, seed_rows=seed_rows
    )
    options = DemoOptions(
        world=world, data=data, text_column=text_column, label_column=label_column, speed=speed, report=report,
        wheel=wheel, shuffle_labels=shuffle_labels, keep=keep, data_dir=data_dir, kafka=kafka,
    )  # fmt: skip
    outcome = run_demo(_config(), options, Console(stderr=True))
    if as_json:
        typer.echo(outcome.report_json.read_text(), nl=False)
    else:
        typer.echo(f"{outcome.summary}\nreport: {outcome.report_html}\n        {outcome.report_json}")
    raise typer.Exit(0 if outcome.closed or not wheel else 1)


@app.command()
def up(
    data_dir: DataDir = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (default 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="One port: gateway and API (default 4318).")] = None,
) -> None:
    """Keep the embedded product running for real agents; Ctrl-C stops it. The data folder survives restarts.

    Example: driftwheel up --port 4318
    """
    from driftwheel.product import run_forever

    run_forever(_config(data_dir), host, port, Console(stderr=True))


@app.command()
def gateway(
    host: Annotated[str | None, typer.Option(help="Address to listen on (default 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port (default 4318).")] = None,
) -> None:
    """On Kafka: take agents' traces and signals in. See kafka.* and gateway.* of the settings.

    Example: DRIFTWHEEL__KAFKA__BROKERS=localhost:9092 driftwheel gateway --port 4318
    """
    from driftwheel.services import run_gateway

    run_gateway(_config(), host, port, Console(stderr=True))


@app.command()
def worker(
    stages: Annotated[str, typer.Option(help="Names with commas; see: driftwheel stage list")],
    data_dir: DataDir = None,
) -> None:
    """On Kafka: run stages. Start as many as you like: those with the same stage share its partitions.

    Example: driftwheel worker --stages redact,assemble
    """
    from driftwheel.services import run_worker

    names = [name.strip() for name in stages.split(",") if name.strip()]
    if not names:
        raise UsageError("--stages: name at least one; see `driftwheel stage list`")
    run_worker(_config(data_dir), names, Console(stderr=True))


@app.command()
def sink(data_dir: DataDir = None) -> None:
    """On Kafka: every clean topic into ClickHouse (store.url), or into the data folder's own store.

    Example: DRIFTWHEEL__STORE__URL=http://driftwheel:secret@localhost:8123 driftwheel sink
    """
    from driftwheel.services import run_sink

    run_sink(_config(data_dir), Console(stderr=True))


@app.command(name="job-runner")
def job_runner(data_dir: DataDir = None) -> None:
    """On Kafka: triggers to training jobs on NeMo, deploy events to traffic. Needs store.url and nemo.url.

    Example: DRIFTWHEEL__NEMO__URL=http://localhost:8000 driftwheel job-runner
    """
    from driftwheel.services import run_job_runner

    run_job_runner(_config(data_dir), Console(stderr=True))


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One read-only statement.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Query the store, whether or not the product is running.

    Example: driftwheel sql "SELECT model_version, count() FROM turns_current GROUP BY ALL"
    """
    from driftwheel.desk import open_desk
    from driftwheel.tables import show

    with open_desk(_config(data_dir)) as desk:
        show(desk.sql(query), as_json=as_json, as_csv=as_csv)


@app.command()
def ledger(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Accepted = stored + quarantined + dropped, by minute and tenant; exit code 1 when it does not add up."""
    from driftwheel.desk import open_desk
    from driftwheel.tables import show

    with open_desk(_config(data_dir)) as desk:
        table = desk.ledger()
    show(table, as_json=as_json)
    place = table.columns.index("difference")
    if any(row[place] for row in table.rows):
        raise typer.Exit(1)


@app.command(name="import")
def import_conversations(
    file: Annotated[Path, typer.Argument(help="Recorded conversations, JSON Lines (.gz too).")],
    format_: Annotated[Literal["conversations"], typer.Option("--format", help="The file's format.")] = (
        "conversations"
    ),
    endpoint: Annotated[str | None, typer.Option(help="A running gateway, e.g. http://127.0.0.1:4318")] = None,
    token: Annotated[str, typer.Option(envvar="DRIFTWHEEL_TOKEN", help="The gateway's token.")] = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Turn recorded conversations into spans and send them through the gateway's own path.

    Example: driftwheel import conversations.jsonl.gz --format conversations
    """
    del format_
    from driftwheel.importer import import_file

    import_file(_config(data_dir), file, endpoint, token, as_json)


@app.command()
def erase(
    user_id: Annotated[str, typer.Argument(help="The person's user.id, as the agents send it.")],
    tenant: Annotated[str, typer.Option(help="Whose person.")] = "default",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove everything about one person, and name the models that learnt from it."""
    from driftwheel.desk import open_desk
    from driftwheel.tables import show_mapping

    with open_desk(_config(data_dir)) as desk:
        show_mapping(desk.erase(tenant, user_id), as_json=as_json)


@app.command()
def doctor(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check Python, models, disk, ports, broker, store and NeMo; say how to mend what is wrong."""
    from driftwheel.doctor import examine, show_findings

    findings = examine(_config(data_dir))
    show_findings(findings, as_json=as_json)
    if any(not finding.ok for finding in findings):
        raise typer.Exit(1)


@models_app.command("fetch")
def models_fetch(as_json: AsJson = False) -> None:
    """Fetch and verify the weights that are missing."""
    from driftwheel.weights import fetch_all

    fetch_all(_config(), as_json)


@models_app.command("list")
def models_list(as_json: AsJson = False) -> None:
    """What is there."""
    from driftwheel.weights import list_all

    list_all(_config(), as_json)


@models_app.command("verify")
def models_verify(as_json: AsJson = False) -> None:
    """Hash every file again; exit code 1 when one differs."""
    from driftwheel.weights import verify_all

    verify_all(_config(), as_json)


@app.command()
def redact(
    source: Annotated[str, typer.Option("--in", help="JSON Lines with id and text; -: standard input.")] = "-",
    target: Annotated[str, typer.Option("--out", help="Where the clean lines go; -: standard output.")] = "-",
    policy: Annotated[Path | None, typer.Option(help="A policy file (default: the settings').")] = None,
    tenant: Annotated[str, typer.Option(help="Whose policy and placeholders.")] = "default",
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    parity: Annotated[bool, typer.Option("--parity", help="Presidio's own findings alone, without a proof.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Redact texts: {"id", "text"} to {"id", "text", "findings"}, places in characters of the input.

    Texts with the same "session" share their placeholders. Exit code 1: some texts could not be proved clean; their
    lines say why and have no text.

    Examples: driftwheel redact --in tickets.jsonl --out clean.jsonl --policy acme.toml --jobs 4
    echo '{"id": 1, "text": "I am Maria Keller"}' | driftwheel redact
    """
    from driftwheel.redaction import Wanted, redact_file

    wanted = Wanted(policy, tenant, jobs, parity)
    failed = redact_file(_config(data_dir), source, target, wanted, Console(stderr=True))
    if failed:
        typer.echo(f"driftwheel: {failed} texts could not be proved clean and were left out", err=True)
    raise typer.Exit(1 if failed else 0)


@keys_app.command("create")
def keys_create(
    tenant: Annotated[str, typer.Option(help="Whose records the key sends.")],
    agent: Annotated[list[str] | None, typer.Option(help="Only this agent's; may be repeated.")] = None,
    rate: Annotated[float, typer.Option(min=0, help="Requests a second; 0: no limit.")] = 0,
    burst: Annotated[int, typer.Option(min=1, help="Requests that may come at once.")] = 100,
    days: Annotated[float, typer.Option(min=0, help="How long it holds; 0: until it is revoked.")] = 0,
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key for the gateway. It is shown once and kept as a hash.

    Example: driftwheel keys create --tenant acme --agent support-bot --rate 50
    """
    from driftwheel.keys_command import create_key

    agents = tuple(agent or ())
    create_key(_config(data_dir), tenant, days, as_json, agents=agents, rate=rate, burst=burst, note=note)


@keys_app.command("list")
def keys_list(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Every key with its tenant, agents, rate and end."""
    from driftwheel.keys_command import list_keys

    list_keys(_config(data_dir), as_json)


@keys_app.command("rotate")
def keys_rotate(
    key: Annotated[str, typer.Argument(help="The key's id, or the beginning of it.")],
    overlap: Annotated[float, typer.Option(min=0, help="Hours for which the old key holds still.")] = 24,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a key in place of another, with the same rights.

    Example: driftwheel keys rotate 3f9a1c --overlap 48
    """
    from driftwheel.keys_command import rotate_key

    rotate_key(_config(data_dir), key, overlap, as_json)


@keys_app.command("revoke")
def keys_revoke(
    key: Annotated[str, typer.Argument(help="The key's id, or the beginning of it.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Take a key back; a running gateway knows within a second.

    Example: driftwheel keys revoke 3f9a1c
    """
    from driftwheel.keys_command import revoke_key

    revoke_key(_config(data_dir), key, as_json)


@policy_app.command("test")
def policy_test(
    file: Annotated[Path, typer.Argument(help="The policy, a TOML file.")],
    source: Annotated[str | None, typer.Option("--in", help="JSON Lines with id and text to try it on.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text to try it on; may be repeated.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Check a policy and show what it does: to given texts, or to samples.

    Example: driftwheel policy test policies/acme.toml --text "I am Maria Keller, LY-004711"
    """
    from driftwheel.redaction import try_policy

    try_policy(_config(data_dir), file, source, text or [], Console(), as_json=as_json)


@stage_app.command("list")
def stage_list(as_json: AsJson = False) -> None:
    """Every stage, what it reads and what it emits, in the order of the flow."""
    from driftwheel.stage_runner import list_stages
    from driftwheel.tables import show

    show(list_stages(), as_json=as_json)


@stage_app.command("run")
def stage_run(
    name: Annotated[str, typer.Argument(help="A pure stage; see: driftwheel stage list")],
    in_: Annotated[str, typer.Option("--in", help="JSON Lines, or - for standard input.")] = "-",
    out: Annotated[str, typer.Option("--out", help="JSON Lines, or - for standard output.")] = "-",
) -> None:
    """Run one stage over lines of {"topic": ..., "record": ...} and write the same.

    Example: driftwheel stage run redact --in raw.jsonl --out clean.jsonl
    """
    from driftwheel.stage_runner import run_stage

    run_stage(_config(), name, in_, out)


@topics_app.command("plan")
def topics_plan(
    check: Annotated[bool, typer.Option("--check", help="Exit code 1 when something is to be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """What `topics apply` would do.

    Example: driftwheel topics plan --check
    """
    from driftwheel.kafka_config import kafka_settings
    from driftwheel.pipeline import WHEEL
    from driftwheel.topics_command import show_plan

    raise typer.Exit(show_plan(kafka_settings(_config()), WHEEL, check=check, as_json=as_json))


@topics_app.command("apply")
def topics_apply(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Create what is missing and set what differs, register the schemas (registry.url); safe to run again.

    Example: DRIFTWHEEL__KAFKA__REPLICATION=3 driftwheel topics apply
    """
    from driftwheel.kafka_config import kafka_settings, registry_settings
    from driftwheel.pipeline import WHEEL
    from driftwheel.topics_command import register_schemas, run_apply

    config = _config()
    run_apply(kafka_settings(config), WHEEL, dry_run=dry_run, as_json=as_json)
    registry = registry_settings(config)
    if registry is not None and not dry_run:
        register_schemas(registry)


@topics_app.command("describe")
def topics_describe(
    lag: Annotated[bool, typer.Option("--lag", help="How far each consumer group is behind.")] = False,
    as_json: AsJson = False,
) -> None:
    """Every topic as it is on the cluster, or with --lag every consumer group."""
    from driftwheel.kafka_config import kafka_settings
    from driftwheel.pipeline import WHEEL
    from driftwheel.topics_command import show_lag, show_topics, sink_groups

    settings = kafka_settings(_config())
    if lag:
        show_lag(settings, WHEEL, sink_groups(settings), as_json=as_json)
    else:
        show_topics(settings, WHEEL, as_json=as_json)


Tenant = Annotated[str, typer.Option(help="Only this tenant's.")]
Stage = Annotated[str, typer.Option(help="Only what this stage or sink could not process.")]
Reason = Annotated[str, typer.Option(help="Only this reason.")]
Topic = Annotated[str, typer.Option(help="Only messages of this topic.")]
State = Annotated[str, typer.Option(help="Only open, sent, refused or settled ones.")]
Since = Annotated[str, typer.Option(help="Only messages since then: 2026-01-05T09:00Z, or 36h, 7d ago.")]


def _letter_filter(**given: str) -> Any:
    from driftwheel.letters import filter_of

    return filter_of({name: value for name, value in given.items() if value})


@deadletters_app.command("list")
def deadletters_list(
    tenant: Tenant = "",
    stage: Stage = "",
    reason: Reason = "",
    topic: Topic = "",
    state: State = "",
    since: Since = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many, the newest first.")] = 50,
    summary: Annotated[bool, typer.Option("--summary", help="Counts by reason instead.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Dead letters, the newest first, and what became of them.

    Example: driftwheel deadletters list --summary --since 7d
    """
    from driftwheel.deadletters_command import list_letters

    chosen = _letter_filter(
        tenant=tenant, stage=stage, reason=reason, topic=topic, state=state, since=since, limit=str(limit)
    )
    list_letters(_config(data_dir), chosen, summary=summary, as_json=as_json)


@deadletters_app.command("show")
def deadletters_show(
    letter: Annotated[str, typer.Argument(help="The letter's id, or the beginning of it.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """One dead letter: why, where from, and until when its payload is there. The payload is never shown.

    Example: driftwheel deadletters show 3f9a1c
    """
    from driftwheel.deadletters_command import show_letter

    show_letter(_config(data_dir), letter, as_json=as_json)


@deadletters_app.command("replay")
def deadletters_replay(
    letters: Annotated[list[str] | None, typer.Argument(help="Ids, or the beginnings of ids.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that the filters leave.")] = False,
    tenant: Tenant = "",
    stage: Stage = "",
    reason: Reason = "",
    topic: Topic = "",
    state: State = "",
    since: Since = "",
    again: Annotated[bool, typer.Option("--again", help="Also those that were replayed before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Append the messages of dead letters once more, for those that could not process them. Exit code 1: not all.

    Example: driftwheel deadletters replay --all --reason text_too_long --dry-run
    """
    from driftwheel.deadletters_command import replay_letters

    if bool(letters) == every:
        raise UsageError("name letters by their ids, or give --all, with filters or without")
    chosen = _letter_filter(tenant=tenant, stage=stage, reason=reason, topic=topic, state=state, since=since)
    code = replay_letters(
        _config(data_dir), letters or [], chosen, again=again, dry_run=dry_run, yes=yes, as_json=as_json
    )
    raise typer.Exit(code)


def main() -> None:
    """The entry point: every error that is raised on purpose becomes one message and an exit code."""
    try:
        app()
    except UsageError as error:
        typer.echo(f"driftwheel: {error}", err=True)
        sys.exit(2)
    except DriftwheelError as error:
        typer.echo(f"driftwheel: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
