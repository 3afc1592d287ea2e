"""Apache Kafka from its jars, one node or three, to be killed and restarted at will.

::

    with Cluster(folder, nodes=3) as cluster:
        produce(cluster.bootstrap)
        cluster.kill(2)
        cluster.restart(2)
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from schemas.errors import Refused
from tests import kafka_jars
from tests.machine import free_ports

READY_SECONDS = 120
STOP_SECONDS = 60
MESSAGE_BYTES = 20 * 1024 * 1024

LOG4J = """\
<Configuration status="warn" shutdownHook="disable">
  <Appenders>
    <File name="file" fileName="${sys:driftwheel.log}">
      <PatternLayout pattern="%d %p %m (%c)%n"/>
    </File>
  </Appenders>
  <Loggers>
    <Root level="warn"><AppenderRef ref="file"/></Root>
    <Logger name="kafka.server" level="info"/>
    <Logger name="org.apache.kafka.coordinator" level="info"/>
  </Loggers>
</Configuration>
"""

# Ends a process when this one is gone, however it went: the pipe closes. (Linux's own signal at a parent's death
# follows the thread that started the child, which would end brokers that a helper thread restarted.)
KEEPER = 'trap "" INT TERM HUP; read -r line || kill -9 "$0"'


@dataclass(frozen=True, slots=True)
class Listener:
    """One more listener of every node. ``properties`` are those of Kafka behind ``listener.name.<name>.``."""

    name: str
    protocol: str = "PLAINTEXT"
    properties: Mapping[str, str] = field(default_factory=dict[str, str])


class Node:
    """One broker, which is a controller too: its ports, its files and, while it runs, its process."""

    def __init__(self, number: int, folder: Path, ports: dict[str, int]) -> None:
        self.number = number
        self.folder = folder
        self.ports = ports
        self.process: subprocess.Popen[bytes] | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return self.folder / "server.properties"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def address(self, listener: str) -> str:
        return f"127.0.0.1:{self.ports[listener]}"

    def launch(self, command: Sequence[str]) -> None:
        with (self.folder / "console.log").open("ab") as out:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", KEEPER, str(self.process.pid)], stdin=subprocess.PIPE, start_new_session=True
        )

    def end(self, *, politely: bool) -> None:
        """SIGTERM and a wait, or SIGKILL. Returns when the process is gone."""
        if self.process is None:
            return
        if politely and self.running:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        else:
            self.process.kill()
        self.process.wait()
        if self._keeper is not None:
            self._keeper.communicate(b"gone\n")
        self.process = self._keeper = None

    def said(self) -> str:
        """The end of what it wrote, for error messages."""
        logs = [self.folder / "console.log", self.folder / "server.log"]
        return "\n".join(log.read_text(errors="replace")[-2000:] for log in logs if log.is_file())


class Cluster:
    """Apache Kafka in KRaft mode on loopback ports, data and logs in ``folder``, gone with this process.

    ``extra_properties`` go over those of every node; ``listeners`` are beside the plain one, which stays for
    :attr:`bootstrap`. ``format_arguments`` go to ``StorageTool format`` (``["--add-scram", "SCRAM-SHA-512=[…]"]``);
    ``prepare`` is called with the cluster after that, before the nodes start. ``heap`` is of each node.
    Raises NotHere when Kafka cannot be run here, Refused when the folder has held a cluster or a node does not start.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 1,
        *,
        extra_properties: Mapping[str, str] | None = None,
        listeners: Sequence[Listener] = (),
        format_arguments: Sequence[str] = (),
        prepare: Callable[[Cluster], None] | None = None,
        heap: str = "512m",
        java_options: Sequence[str] = (),
    ) -> None:
        self.folder = folder.absolute()
        self.extra_properties = dict(extra_properties or {})
        self.listeners = tuple(listeners)
        self.format_arguments = tuple(format_arguments)
        self.prepare = prepare
        self.heap = heap
        self.java_options = tuple(java_options)
        self.nodes: dict[int, Node] = {}
        self.id = kafka_jars.cluster_id()
        self._count = nodes
        self._jars = Path()

    def __enter__(self) -> Cluster:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def bootstrap(self) -> str:
        """``host:port,…`` of the plain listener of every node."""
        return self.address("PLAINTEXT")

    @property
    def pids(self) -> dict[int, int]:
        """The process id of every running node, by its number, from 1."""
        return {number: node.process.pid for number, node in self.nodes.items() if node.process and node.running}

    def address(self, listener: str) -> str:
        """``host:port,…`` of one listener of every node."""
        return ",".join(node.address(listener) for node in self.nodes.values())

    def start(self) -> Cluster:
        """Format the storage, start every node, return when all of them answer."""
        self._jars = kafka_jars.fetched()
        self._claim()
        self._lay_out()
        try:
            self._format()
            if self.prepare is not None:
                self.prepare(self)
            for node in self.nodes.values():
                node.launch(self._server(node))
            for node in self.nodes.values():
                self._await(node)
        except BaseException:
            self.close()
            raise
        return self

    def kill(self, node: int) -> None:
        """``kill -9``: nothing is flushed or said good-bye to."""
        self.nodes[node].end(politely=False)

    def stop(self, node: int) -> None:
        """SIGTERM, as an operator stops a broker."""
        self.nodes[node].end(politely=True)

    def restart(self, node: int) -> None:
        """Start a node on its old data and ports (stop it first if it runs); returns when it answers."""
        one = self.nodes[node]
        one.end(politely=True)
        one.launch(self._server(one))
        self._await(one)

    def settle(self, seconds: float = READY_SECONDS) -> None:
        """Return when every replica of every partition is in sync."""
        until = time.monotonic() + seconds
        while behind := self._behind():
            if time.monotonic() > until:
                raise Refused(f"replicas are not in sync after {seconds:.0f} s: {behind[:5]}")
            time.sleep(0.1)

    def close(self) -> None:
        """Kill what runs. The folder stays, with data and logs."""
        for node in self.nodes.values():
            node.end(politely=False)

    def tool(self, *arguments: str) -> str:
        """The output of one of Kafka's own programs: ``tool("kafka.tools.StorageTool", "info", "--config", …)``."""
        done = subprocess.run(
            self._java("-Xmx128m", "-XX:TieredStopAtLevel=1", *arguments), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Refused(f"{' '.join(arguments)} failed: {(done.stderr or done.stdout).strip()[-1000:]}")
        return done.stdout

    def _claim(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with (self.folder / "cluster.id").open("x") as mark:
                mark.write(self.id)
        except FileExistsError:
            raise Refused(f"{self.folder} holds a Kafka cluster already; give each start an empty folder") from None

    def _lay_out(self) -> None:
        """Choose the ports, write every node's files."""
        names = ["PLAINTEXT", "CONTROLLER", *(listener.name for listener in self.listeners)]
        ports = free_ports(self._count * len(names))
        for number in range(1, self._count + 1):
            mine = dict(zip(names, ports[(number - 1) * len(names) :], strict=False))
            self.nodes[number] = Node(number, self.folder / f"node-{number}", mine)
        for node in self.nodes.values():
            node.folder.mkdir()
            (node.folder / "log4j2.xml").write_text(LOG4J)
            lines = [f"{name}={value}" for name, value in self._properties(node).items()]
            node.config.write_text("\n".join(lines) + "\n")

    def _properties(self, node: Node) -> dict[str, str]:
        voters = ",".join(f"{one.number}@{one.address('CONTROLLER')}" for one in self.nodes.values())
        addresses = {name: f"{name}://{node.address(name)}" for name in node.ports}
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        protocols |= {listener.name: listener.protocol for listener in self.listeners}
        return {
            **common_properties(self._count),
            "node.id": str(node.number),
            "controller.quorum.voters": voters,
            "listeners": ",".join(addresses.values()),
            "advertised.listeners": ",".join(addresses[name] for name in addresses if name != "CONTROLLER"),
            "listener.security.protocol.map": ",".join(f"{name}:{value}" for name, value in protocols.items()),
            "log.dirs": str(node.folder / "data"),
            **{
                f"listener.name.{listener.name.lower()}.{name}": value
                for listener in self.listeners
                for name, value in listener.properties.items()
            },
            **self.extra_properties,
        }

    def _format(self) -> None:
        for node in self.nodes.values():
            arguments = ["format", "--cluster-id", self.id, "--config", str(node.config), *self.format_arguments]
            self.tool("kafka.tools.StorageTool", *arguments)

    def _server(self, node: Node) -> list[str]:
        # The second compiler would take as much as the broker itself in the minutes that most of these live.
        memory = ["-Xms128m", f"-Xmx{self.heap}", "-XX:+UseG1GC", "-XX:TieredStopAtLevel=1", *self.java_options]
        logs = [
            f"-Dlog4j2.configurationFile={node.folder / 'log4j2.xml'}",
            f"-Ddriftwheel.log={node.folder}/server.log",
        ]
        return self._java(*memory, *logs, "kafka.Kafka", str(node.config))

    def _java(self, *arguments: str) -> list[str]:
        return [kafka_jars.java(), "-cp", f"{self._jars}/*", *arguments]

    def _await(self, node: Node) -> None:
        """Until the node answers a request for metadata and knows of every broker that runs."""
        admin = quiet_admin(node.address("PLAINTEXT"))
        until = time.monotonic() + READY_SECONDS
        while node.running and time.monotonic() < until:
            if {node.number, *self.pids} <= _brokers(admin):
                return
        why = f"did not answer in {READY_SECONDS} s" if node.running else "ended at its start"
        raise Refused(f"Kafka node {node.number} {why}; its logs are in {node.folder}:\n{node.said()}")

    def _behind(self) -> list[str]:
        topics = quiet_admin(self.bootstrap).list_topics(timeout=READY_SECONDS).topics.values()
        return [
            f"{topic.topic}[{number}]"
            for topic in topics
            for number, partition in topic.partitions.items()
            if set(partition.isrs) != set(partition.replicas)
        ]


def common_properties(nodes: int) -> dict[str, str]:
    """What every node of a test cluster is set to: quick to start, strict about what is acknowledged."""
    copies, in_sync = (1, 1) if nodes == 1 else (3, 2)
    return {
        "process.roles": "broker,controller",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "auto.create.topics.enable": "false",
        "default.replication.factor": str(copies),
        "min.insync.replicas": str(in_sync),
        "offsets.topic.replication.factor": str(copies),
        "offsets.topic.num.partitions": "5",
        "transaction.state.log.replication.factor": str(copies),
        "transaction.state.log.min.isr": str(in_sync),
        "transaction.state.log.num.partitions": "5",
        "share.coordinator.state.topic.replication.factor": str(copies),
        "share.coordinator.state.topic.min.isr": str(in_sync),
        "group.initial.rebalance.delay.ms": "0",
        # A node that was killed may come back when its session is over.
        "broker.session.timeout.ms": "4000",
        "broker.heartbeat.interval.ms": "500",
        "message.max.bytes": str(MESSAGE_BYTES),
        "replica.fetch.max.bytes": str(MESSAGE_BYTES),
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
        "log.index.size.max.bytes": str(1024 * 1024),
        "file.delete.delay.ms": "1000",
    }


def quiet_admin(address: str) -> AdminClient:
    """An admin client that says nothing of brokers which are not up."""
    return AdminClient({
        "bootstrap.servers": address,
        "log_level": 0,
        "error_cb": lambda _: None,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 200,
    })  # fmt: skip


def _brokers(admin: AdminClient) -> set[int]:
    try:
        return set(admin.list_topics(timeout=1).brokers)
    except KafkaException:
        return set()
