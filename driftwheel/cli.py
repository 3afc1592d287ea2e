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
erase_app = typer.Typer(invoke_without_command=True)
app.add_typer(erase_app, name="erase")
export_app = typer.Typer(help="What may leave: feedback for other platforms, private statistics.", no_args_is_help=True)
app.add_typer(export_app, name="export")
deadletters_app = typer.Typer(help="What could not be processed: list, show, replay.", no_args_is_help=True)
app.add_typer(deadletters_app, name="deadletters")
quarantine_app = typer.Typer(help="Sealed payloads: list, show, release, purge.", no_args_is_help=True)
app.add_typer(quarantine_app, name="quarantine")
judge_app = typer.Typer(invoke_without_command=True)
app.add_typer(judge_app, name="judge")

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Data folder (default: the user's).")]
GrpcPort = Annotated[int | None, typer.Option("--grpc-port", help="Port of OTLP/gRPC (default 4317).")]
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
    grpc_port: GrpcPort = None,
) -> None:
    """Keep the embedded product running for real agents; Ctrl-C stops it. The data folder survives restarts.

    Example: driftwheel up --port 4318
    """
    from driftwheel.ports import configured
    from driftwheel.product import run_forever

    config = _config(data_dir)
    run_forever(config, configured(config, host, port, grpc_port), Console(stderr=True))


@app.command()
def gateway(
    host: Annotated[str | None, typer.Option(help="Address to listen on (default 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port (default 4318).")] = None,
    grpc_port: GrpcPort = None,
) -> None:
    """On Kafka: take agents' traces and signals in. See kafka.* and gateway.* of the settings.

    Example: DRIFTWHEEL__KAFKA__BROKERS=localhost:9092 driftwheel gateway --port 4318
    """
    from driftwheel.ports import configured
    from driftwheel.services import run_gateway

    config = _config()
    run_gateway(config, configured(config, host, port, grpc_port), Console(stderr=True))


@app.command()
def signals(
    source: Annotated[
        str, typer.Option("--in", help="Conversations, JSON Lines (.gz too); - for standard input.")
    ] = "-",
    target: Annotated[str, typer.Option("--out", help="JSON Lines (.gz too); - for standard output.")] = "-",
    model: Annotated[bool, typer.Option(help="--no-model: compare texts by letters, not by meaning.")] = True,
) -> None:
    """What users' messages say about the answers before them, and how likely their writers are dissatisfied.

    Reads {"conversation_id", "messages": [{"role", "content", "timestamp"?}]}; writes for each message of the user
    {"conversation_id", "turn", "signals": [{"name", "score"}], "p_dissatisfied"}; turn counts them from 0.

    Examples: driftwheel signals --in conversations.jsonl.gz --out signals.jsonl
    cat conversations.jsonl | driftwheel signals --no-model > signals.jsonl
    """
    from driftwheel.signals_command import signals_file

    signals_file(_config(), source, target, Console(stderr=True), model=model)


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


@app.command()
def clusters(
    agent: Annotated[str, typer.Option(help="Of one agent (default: of all).", show_default=False)] = "",
    days: Annotated[int, typer.Option(min=1, help="In so many days, with today.")] = 7,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """What goes wrong most: clusters of turns that failed, by volume times badness, for each cohort.

    Example: driftwheel clusters --agent support-router --days 30
    """
    from driftwheel.clusters_command import top_clusters
    from driftwheel.tables import show

    show(top_clusters(_config(data_dir), agent, days, limit), as_json=as_json)


@app.command(name="import")
def import_recordings(
    file: Annotated[Path, typer.Argument(help="A recording: JSON or JSON Lines, .gz too.")],
    format_: Annotated[
        Literal["otlp-json", "openai-chat", "langfuse", "phoenix", "conversations"] | None,
        typer.Option("--format", help="The file's format; else it is guessed from the first row.", show_default=False),
    ] = None,
    agent: Annotated[str, typer.Option(help="Whose spans these are; else as the file says.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and count, and send nothing.")] = False,
    endpoint: Annotated[str | None, typer.Option(help="A running gateway, e.g. http://127.0.0.1:4318")] = None,
    token: Annotated[str, typer.Option(envvar="DRIFTWHEEL_TOKEN", help="The gateway's token.")] = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Send recorded traces or conversations through the gateway's own path.

    Example: driftwheel import traces.jsonl.gz --format langfuse --agent support-bot
    """
    from driftwheel.importer import Wanted, import_file

    import_file(_config(data_dir), Wanted(file, format_, agent, dry_run), endpoint, token, as_json)


@erase_app.callback()
def erase(
    context: typer.Context,
    subject: Annotated[str, typer.Option(help="The person's user.id, as the agents send it.")] = "",
    tenant: Annotated[str, typer.Option(help="Whose person.")] = "default",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is done. Exit code 1: it is not yet.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove everything about one person, and name the models that learnt from it.

    The same person again is the same erasure, unless new data has come.

    Example: driftwheel erase --subject u-4711 --tenant acme --wait
    """
    if context.invoked_subcommand is not None:
        return
    from driftwheel.erase_command import erase_subject

    if not subject:
        raise UsageError("--subject: name the person by their user.id; or see: driftwheel erase list")
    raise typer.Exit(erase_subject(_config(data_dir), tenant, subject, dry_run=dry_run, wait=wait, as_json=as_json))


@erase_app.command("list")
def erase_list(
    tenant: Annotated[str, typer.Option(help="Only this tenant's.")] = "",
    state: Annotated[str, typer.Option(help="Only open, requested, running or done ones.")] = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Erasures, the newest first."""
    from driftwheel.erase_command import list_erasures

    list_erasures(_config(data_dir), tenant, state, as_json=as_json)


@erase_app.command("show")
def erase_show(
    erasure: Annotated[str, typer.Argument(help="The erasure's id, or the beginning of it.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """One erasure: its state, what was found where, what waits, and the models that are owed.

    Example: driftwheel erase show 3f9a1c
    """
    from driftwheel.erase_command import show_erasure

    show_erasure(_config(data_dir), erasure, as_json=as_json)


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


@app.command()
def drift(
    source: Annotated[
        str, typer.Option("--in", help="CSV or JSON Lines: time, value, cohort; -: standard input.")
    ] = "-",
    target: Annotated[str, typer.Option("--out", help="Where the alarms go, JSON Lines; -: standard output.")] = "-",
    detector: Annotated[
        Literal["auto", "mixlr", "adwin", "tails"],
        typer.Option(help="auto: mixlr for 0 and 1, adwin and tails for other numbers."),
    ] = "auto",
    budget: Annotated[float, typer.Option(help="False alarms per 100,000 events, all cohorts together.")] = 1.0,
) -> None:
    """Watch values in the order of time and tell what changed: one line for each warning and alarm, as it happens.

    CSV needs a header with time and value, cohort if there is one; JSON Lines have the same names. Values are 0 and 1
    (1 is a failure; rises are told) or any numbers (both ways). After an alarm the new state is the normal one.

    Examples: driftwheel drift --in failures.csv
    driftwheel drift --in latency.jsonl --out alarms.jsonl --budget 10
    tail -f outcomes.jsonl | driftwheel drift --detector mixlr
    """
    from driftwheel.drift import watch_file
    from processors.watch import WatchSettings

    watch_file(source, target, WatchSettings(detector=detector, budget=budget), Console(stderr=True))


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


@export_app.command("feedback")
def export_feedback(
    format_: Annotated[
        Literal["otlp-logs", "openinference"],
        typer.Option("--format", help="Evaluation events for /v1/logs, or annotation spans for /v1/traces."),
    ] = "otlp-logs",
    out: Annotated[str, typer.Option("--out", help="OTLP/JSON lines; -: standard output.")] = "-",
    tenant: Annotated[str, typer.Option(help="Whose outcomes and labels.")] = "default",
    since: Annotated[str, typer.Option(help="Stored since then: 2026-01-05T09:00Z, or 36h, 7d ago.")] = "7d",
    data_dir: DataDir = None,
) -> None:
    """Outcomes, labels and judges' verdicts as OpenTelemetry and OpenInference platforms read them, one request a line.

    Example: driftwheel export feedback --format openinference --since 24h --out annotations.jsonl
    """
    from driftwheel.desk import open_desk
    from driftwheel.feedback_export import export_feedback as write
    from driftwheel.letters import moment_of

    start = moment_of(since)
    with open_desk(_config(data_dir)) as desk:
        told = write(desk, tenant, start, format_, out)
    left = f"; {told.left_out} are about turns without a trace" if told.left_out else ""
    typer.echo(f"driftwheel: {told.outcomes} outcomes, {told.labels} labels, {told.verdicts} verdicts{left}", err=True)


Rubrics = Annotated[str, typer.Option(help="Rubrics with commas (default: judge.rubrics).")]
Redacted = Annotated[bool, typer.Option("--redacted", help="The texts are clean already: do not redact them first.")]


@judge_app.callback()
def judge(
    context: typer.Context,
    source: Annotated[
        str, typer.Option("--in", help="Answers, JSON Lines (.gz too); - for standard input.", show_default=False)
    ] = "",
    target: Annotated[str, typer.Option("--out", help="Verdicts, JSON Lines (.gz too); -: standard output.")] = "-",
    rubrics: Rubrics = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the prompts and count tokens; send nothing.")] = (
        False
    ),
    redacted: Redacted = False,
    cache: Annotated[
        Path | None, typer.Option(help="A file of scores to keep: what was judged before costs nothing.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="Whose redaction policy.")] = "default",
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON; needs --out FILE.")] = False,
) -> None:
    """Judge recorded answers by rubrics, with a language model at an OpenAI-compatible endpoint (judge.url).

    Reads {"id", "input", "output", "reference"?, "documents"?: [...]}; writes {"id", "verdicts": [{"rubric", "version",
    "model", "score", "label", "rationale"}]}. Texts are redacted before they are sent.

    Examples: driftwheel judge --in answers.jsonl --dry-run
    DRIFTWHEEL__JUDGE__URL=http://localhost:8000/v1 DRIFTWHEEL__JUDGE__MODEL=m driftwheel judge --in a.jsonl --out v
    """
    if context.invoked_subcommand is not None:
        return
    from driftwheel.judge_command import Wanted, judge_file, with_rubrics

    if not source:
        raise UsageError("--in: name a file of answers, or - for standard input; see: driftwheel judge --help")
    if as_json and target == "-":
        raise UsageError("--json: name a file for the lines with --out")
    wanted = Wanted(tenant, redacted, dry_run, cache, as_json)
    judge_file(with_rubrics(_config(data_dir), rubrics), source, target, wanted, Console(stderr=True))


@judge_app.command("probes")
def judge_probes(
    source: Annotated[
        str, typer.Option("--in", help="Answers to probe on (default: those that come along).", show_default=False)
    ] = "",
    rubrics: Rubrics = "",
    redacted: Redacted = False,
    tenant: Annotated[str, typer.Option(help="Whose redaction policy.")] = "default",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Does a judge go by the order or by the length of answers? Exit code 1: one does, beyond judge.floor.

    Examples: driftwheel judge probes
    driftwheel judge probes --rubrics tone,factuality --in answers.jsonl --json
    """
    from driftwheel.judge_command import Wanted, probe_judges, with_rubrics

    config, wanted = with_rubrics(_config(data_dir), rubrics), Wanted(tenant, redacted, as_json=as_json)
    if not probe_judges(config, source, wanted, Console(stderr=True)):
        raise typer.Exit(1)


@judge_app.command("agreement")
def judge_agreement(
    source: Annotated[
        str, typer.Option("--in", help='Instead of the store: lines of {"judge", "person"}, pass or fail.')
    ] = "",
    tenant: Annotated[str, typer.Option(help="Whose judges.")] = "default",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """How far judges agree with people beyond chance (Cohen's kappa), and which may gate. Exit code 1: one may not.

    Examples: driftwheel judge agreement --tenant acme
    driftwheel judge agreement --in verdicts.jsonl --json
    """
    from driftwheel.judge_command import show_agreement, show_file_agreement

    if source:
        show_file_agreement(source, as_json=as_json)
    elif not show_agreement(_config(data_dir), tenant, as_json=as_json):
        raise typer.Exit(1)


@judge_app.command("run")
def judge_run(data_dir: DataDir = None) -> None:
    """On Kafka: judge live turns of the store. Needs judge.url and store.url; `driftwheel up` does it by itself.

    Example: DRIFTWHEEL__JUDGE__URL=http://127.0.0.1:8000/v1 DRIFTWHEEL__JUDGE__MODEL=m driftwheel judge run
    """
    from driftwheel.services import run_judge

    run_judge(_config(data_dir), Console(stderr=True))


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
    from driftwheel.retention import topics_kept
    from driftwheel.topics_command import show_plan

    config = _config()
    raise typer.Exit(show_plan(kafka_settings(config), WHEEL, topics_kept(config), check=check, as_json=as_json))


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
    from driftwheel.retention import topics_kept
    from driftwheel.topics_command import register_schemas, run_apply

    config = _config()
    run_apply(kafka_settings(config), WHEEL, topics_kept(config), dry_run=dry_run, as_json=as_json)
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
Every = Annotated[bool, typer.Option("--all", help="All that the filters leave.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


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
    every: Every = False,
    tenant: Tenant = "",
    stage: Stage = "",
    reason: Reason = "",
    topic: Topic = "",
    state: State = "",
    since: Since = "",
    again: Annotated[bool, typer.Option("--again", help="Also those that were replayed before.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Append the messages of dead letters once more, for those that could not process them. Exit code 1: not all.

    Example: driftwheel deadletters replay --all --reason text_too_long --dry-run
    """
    from driftwheel.deadletters_command import How, replay_letters

    if bool(letters) == every:
        raise UsageError("name letters by their ids, or give --all, with filters or without")
    chosen = _letter_filter(tenant=tenant, stage=stage, reason=reason, topic=topic, state=state, since=since)
    how = How(again, dry_run, yes, as_json)
    raise typer.Exit(replay_letters(_config(data_dir), letters or [], chosen, how))


@quarantine_app.command("list")
def quarantine_list(
    tenant: Tenant = "",
    reason: Reason = "",
    topic: Topic = "",
    state: State = "",
    since: Since = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many, those purged soonest first.")] = 50,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Sealed payloads of messages that could not be read or cleaned: whose, why, how large, and until when.

    Examples: driftwheel quarantine list --reason redaction_leak
    driftwheel quarantine list --tenant acme --json
    """
    from driftwheel.quarantine_command import list_payloads

    chosen = _letter_filter(tenant=tenant, reason=reason, topic=topic, state=state, since=since, limit=str(limit))
    list_payloads(_config(data_dir), chosen, as_json=as_json)


@quarantine_app.command("show")
def quarantine_show(
    payload: Annotated[str, typer.Argument(help="The payload's name, or the beginning of it.")],
    reveal: Annotated[bool, typer.Option("--reveal", help="Open it: personal data. It is written down who did.")] = (
        False
    ),
    out: Annotated[str, typer.Option(help="With --reveal: a file for you alone; -: standard output.")] = "-",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """One sealed payload: why, where from, its size, and until when it is there; with --reveal the payload itself.

    Examples: driftwheel quarantine show 3f9a1c
    driftwheel quarantine show 3f9a1c --reveal --out payload.bin
    """
    from driftwheel.quarantine_command import show_payload

    if not reveal and out != "-":
        raise UsageError("--out is for --reveal; without it nothing is opened")
    show_payload(_config(data_dir), payload, reveal=reveal, target=out, as_json=as_json)


@quarantine_app.command("release")
def quarantine_release(
    payloads: Annotated[list[str] | None, typer.Argument(help="Names, or the beginnings of names.")] = None,
    every: Every = False,
    tenant: Tenant = "",
    reason: Reason = "",
    topic: Topic = "",
    since: Since = "",
    again: Annotated[bool, typer.Option("--again", help="Also those that were released before.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Send sealed payloads through redaction once more, as it is now configured. Nothing goes around redaction.

    Examples: driftwheel quarantine release 3f9a1c
    driftwheel quarantine release --all --reason text_too_long --dry-run
    """
    from driftwheel.deadletters_command import How
    from driftwheel.quarantine_command import release_payloads

    if bool(payloads) == every:
        raise UsageError("name payloads, or give --all, with filters or without")
    chosen = _letter_filter(tenant=tenant, reason=reason, topic=topic, since=since)
    how = How(again, dry_run, yes, as_json)
    raise typer.Exit(release_payloads(_config(data_dir), payloads or [], chosen, how))


@quarantine_app.command("purge")
def quarantine_purge(
    payloads: Annotated[list[str] | None, typer.Argument(help="Names, or the beginnings of names.")] = None,
    every: Every = False,
    tenant: Tenant = "",
    reason: Reason = "",
    state: State = "",
    yes: Yes = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Destroy sealed payloads before their time. Their dead letters stay; nobody can release them any more.

    Examples: driftwheel quarantine purge 3f9a1c
    driftwheel quarantine purge --all --tenant acme --yes
    """
    from driftwheel.quarantine_command import purge_payloads

    if bool(payloads) == every:
        raise UsageError("name payloads, or give --all, with filters or without")
    chosen = _letter_filter(tenant=tenant, reason=reason, state=state)
    raise typer.Exit(purge_payloads(_config(data_dir), payloads or [], chosen, yes=yes, as_json=as_json))


@export_app.command("stats")
def export_stats(
    epsilon: Annotated[float, typer.Option(help="How much may become known of one person; smaller: more noise.")],
    out: Annotated[str, typer.Option(help="A file, CSV or .json; -: standard output.")],
    by: Annotated[str, typer.Option(help="agent, category, model_version, cause, day; several with commas.")] = "agent",
    since: Annotated[str, typer.Option(help="Turns since then: 2026-01-05T09:00Z, or 36h, 7d ago.")] = "30d",
    until: Annotated[str, typer.Option(help="And before then (default: now).")] = "0s",
    tenant: Annotated[str, typer.Option(help="Whose turns.")] = "default",
    delta: Annotated[float, typer.Option(help="Odds that a group tells of one person.")] = 1e-6,
    max_turns: Annotated[int, typer.Option(help="Turns of one person that count at most.")] = 3,
    data_dir: DataDir = None,
) -> None:
    """Turns and failures by group, differentially private: nobody can tell whether a person is in them.

    Groups of few people are left out. Every export spends from the tenant's budget (export.epsilon_budget); what would
    go beyond it is refused. Needs: pip install 'driftwheel[dp]'

    Examples: driftwheel export stats --epsilon 0.5 --by agent,category --since 30d --out stats.csv
    driftwheel export stats --epsilon 1 --delta 1e-7 --by day --tenant acme --out stats.json
    """
    from driftwheel.export_stats import Wanted, export_stats
    from driftwheel.letters import moment_of
    from driftwheel.private_counts import Privacy

    names = tuple(name.strip() for name in by.split(",") if name.strip())
    wanted = Wanted(tenant, names, moment_of(since), moment_of(until), Privacy(epsilon, delta, max_turns))
    found = export_stats(_config(data_dir), wanted, out)
    typer.echo(
        f"{len(found['rows'])} groups of {found['threshold']} turns or more; 19 numbers of 20 are within "
        f"{found['within_95']}; {tenant} has spent epsilon {found['epsilon_spent']:g}",
        err=True,
    )


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
