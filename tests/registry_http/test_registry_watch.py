"""`matinee registry watch`, `deliver`, `webhook` and a serving server, each a process of its own."""

import contextlib
import http.server
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from standardwebhooks import Webhook as Verifier

from registry import VersionDraft, open_registry

MATINEE = [sys.executable, "-m", "matinee", "registry"]
pytestmark = pytest.mark.slow


@pytest.fixture
def environment(tmp_path):
    """The environment of a workspace of the built-in source."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MATINEE_")}
    return {
        **kept,
        "MATINEE_WORKSPACES": str(tmp_path / "workspaces"),
        "MATINEE_WORLD": "tiny",
        "COLUMNS": "200",
    }


@pytest.fixture
def ledger(environment):
    home = Path(environment["MATINEE_WORKSPACES"]) / "world"
    with open_registry(f"sqlite:///{home}/registry.db", str(home / "artifacts")) as registry:
        yield registry


@pytest.fixture
def publish(ledger):
    """Makes so many events, of versions."""
    contents = itertools.count()

    def make(count):
        for _ in range(count):
            ledger.register(VersionDraft("ranker", {"a.json": b"%d" % next(contents)}))

    return make


@pytest.fixture
def endpoint():
    """A real endpoint that answers 200; what it got, and its URL."""
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((dict(self.headers.items()), body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield got, f"http://127.0.0.1:{server.server_port}/hook"
    server.shutdown()
    server.server_close()
    thread.join()


def told(environment, *arguments, check=True):
    return subprocess.run(
        [*MATINEE, *arguments], env=environment, capture_output=True, text=True, check=check
    )


@contextlib.contextmanager
def running(environment, *arguments):
    """A process whose output is a pipe."""
    command = [*MATINEE, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_writes_a_line_an_event_as_it_comes_and_ends_cleanly(environment, ledger, publish, number):
    """Each line is read from the pipe before the next event is made: nothing waits in a buffer."""
    publish(2)
    with running(environment, "watch", "--json", "--after", "1", "--interval", "0.05") as process:
        seen = [json.loads(process.stdout.readline())]
        for _ in range(3):
            publish(1)
            seen.append(json.loads(process.stdout.readline()))
        process.send_signal(number)
        rest, problems = process.communicate(timeout=30)
    assert (process.returncode, rest, problems) == (0, "", "")
    assert seen == [event.to_dict() for event in ledger.events(after=1)]


def test_watch_once_prints_what_there_is_for_people_and_by_kind(environment, ledger, publish):
    publish(2)
    ledger.promote("ranker/2", "shadow", by="ada", reason="try it")
    lines = told(environment, "watch", "--once").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert lines[2].split(maxsplit=4)[3:] == [
        "alias_moved", "ranker@shadow  move=promote, to_number=2, by=ada, reason=try it",
    ]  # fmt: skip
    some = told(
        environment, "watch", "--once", "--kind", "alias_moved", "--kind", "arm_bound", "--json"
    ).stdout
    assert [json.loads(line)["id"] for line in some.splitlines()] == [3]
    assert told(environment, "watch", "--once", "--after", "3").stdout == ""
    refused = told(environment, "watch", "--kind", "alias_moves", check=False)
    assert refused.returncode == 2
    assert "alias_moved" in refused.stderr


def test_a_webhook_on_the_command_line_from_making_it_to_its_end(environment, ledger, publish, endpoint):
    got, url = endpoint
    made = json.loads(
        told(environment, "webhook", "create", url, "--kind", "version_created", "--json").stdout
    )
    publish(2)
    listed = told(environment, "webhook", "list", "--json")
    assert [(w["name"], w["lag"], w["acknowledged"]) for w in json.loads(listed.stdout)] == [
        ("127.0.0.1", 2, 0)
    ]
    assert told(environment, "deliver", "--once").stdout.splitlines() == [
        "127.0.0.1  1 version_created ranker/1  200",
        "127.0.0.1  2 version_created ranker/2  200",
        "2 delivered, 0 not taken",
    ]
    assert told(environment, "webhook", "test", "127.0.0.1").stdout == "answered 200\n"
    messages = [Verifier(made["secret"]).verify(body, headers) for headers, body in got]
    assert [message["type"] for message in messages] == ["version_created", "version_created", "test"]
    told(environment, "webhook", "pause", "127.0.0.1")
    publish(1)
    assert told(environment, "deliver", "--once").stdout == "0 delivered, 0 not taken\n"
    tables = told(environment, "webhook", "list").stdout
    assert "paused" in tables
    told(environment, "webhook", "resume", "127.0.0.1")
    told(environment, "webhook", "delete", "127.0.0.1")
    assert json.loads(told(environment, "webhook", "list", "--json").stdout) == []
    assert made["secret"].removeprefix("whsec_") not in listed.stdout + listed.stderr + tables


def test_deliver_once_says_by_its_exit_code_that_something_was_not_taken(environment, ledger, publish):
    told(environment, "webhook", "create", "http://127.0.0.1:9/", "--kind", "version_created", "--name", "w")
    publish(1)
    done = told(environment, "deliver", "--once", check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "0 delivered, 1 not taken")
    assert told(environment, "webhook", "test", "w", check=False).returncode == 1
    assert "failing" in told(environment, "webhook", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        (("deliver",), signal.SIGTERM),
        (("serve", "--port", "0"), signal.SIGTERM),
        (("serve", "--port", "0"), signal.SIGINT),
    ],
)
def test_a_server_and_a_dispatcher_deliver_while_they_run_and_end_when_told_to(
    environment, ledger, publish, endpoint, arguments, number
):
    got, url = endpoint
    told(environment, "webhook", "create", url, "--kind", "version_created", "--name", "w")
    with running(environment, *arguments) as process:
        publish(1)
        assert process.stdout.readline()  # where the server listens, or the first attempt
        publish(2)
        while len(got) < 3:
            threading.Event().wait(0.05)
            assert process.poll() is None
        process.send_signal(number)
        _, problems = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in problems
    assert [json.loads(body)["id"] for _, body in got] == [1, 2, 3]
