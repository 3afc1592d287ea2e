"""Apache Kafka's own jars: fetched once by Maven into the user's cache folder, run with Java 17 or newer."""

from __future__ import annotations

import base64
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from platformdirs import user_cache_path

from tests.machine import NotHere

VERSION = "4.1.1"
LOG4J = "2.24.3"
JAVA = 17
FETCH_SECONDS = 400
INSTALL = "Java 17 or newer and Maven (Debian and Ubuntu: apt-get install openjdk-17-jre-headless maven)"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"

POM = f"""\
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>driftwheel</groupId>
  <artifactId>kafka-jars</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-core</artifactId>
      <version>{LOG4J}</version>
    </dependency>
  </dependencies>
</project>
"""


def folder() -> Path:
    """Where the jars are, or will be. It exists only when all of them are there."""
    return user_cache_path("driftwheel") / f"kafka-{VERSION}"


def why_not() -> str:
    """What is missing to run Kafka from its jars; empty when nothing is (the jars may still have to be fetched)."""
    if why := _why_no_java():
        return why
    if not folder().is_dir() and not shutil.which("mvn"):
        return f"its jars are not in {folder()} and there is no `mvn` on the PATH to fetch them"
    return ""


def java() -> str:
    """The `java` to run: that of JAVA_HOME, else the first on the PATH."""
    home = os.environ.get("JAVA_HOME", "")
    inside = Path(home, "bin", "java")
    return str(inside) if home and inside.is_file() else shutil.which("java") or ""


def fetch() -> Path:
    """The folder of the jars; they are fetched when they are not there (a minute). Two at once wait for each other."""
    if why := why_not():
        raise NotHere(f"Apache Kafka {VERSION} cannot be run here: {why}. Install {INSTALL}.")
    target = folder()
    if target.is_dir():
        return target
    with _alone(target.with_suffix(".lock")):
        if not target.is_dir():
            _copy_jars(target)
    return target


def fetched() -> Path:
    """Like :func:`fetch`, but Maven is asked once in a process, also when it fails."""
    if why := _failed():
        raise NotHere(why)
    return fetch()


@cache
def _failed() -> str:
    try:
        fetch()
    except NotHere as no:
        return str(no)
    return ""


def cluster_id() -> str:
    """A new id in Kafka's form: 16 random bytes, in base64 for addresses, not beginning with a dash."""
    made = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return "D" + made[1:] if made.startswith("-") else made


@cache
def _java_version(path: str) -> int:
    """The number of a Java, 8 for `1.8`; 0 when it does not run."""
    try:
        said = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
    except OSError:
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else 0


def _why_no_java() -> str:
    path = java()
    if not path:
        return "there is no `java` on the PATH and none in JAVA_HOME"
    version = _java_version(path)
    return "" if version >= JAVA else f"{path} is Java {version or 'of an unknown version'}, {JAVA} is needed"


def _copy_jars(target: Path) -> None:
    """Everything arrives in a folder beside the target, which takes the target's name when it is complete."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}-") as name:
        part = Path(name)
        (part / "pom.xml").write_text(POM)
        _maven(part)
        (part / "jars").rename(target)


def _maven(work: Path) -> None:
    arguments = ["-q", "-B", COPY, "-DincludeScope=runtime", f"-DoutputDirectory={work / 'jars'}"]
    log = work / "maven.log"
    try:
        with log.open("wb") as out:
            subprocess.run(["mvn", *arguments], cwd=work, stdout=out, stderr=out, timeout=FETCH_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        raise NotHere(
            f"Maven did not fetch Apache Kafka {VERSION} in {FETCH_SECONDS} s; is its mirror reachable?"
        ) from None
    except subprocess.CalledProcessError:
        said = [line for line in log.read_text(errors="replace").splitlines() if "ERROR" in line]
        raise NotHere(f"Maven could not fetch Apache Kafka {VERSION}: " + " ".join(said[:2])[:600]) from None


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
