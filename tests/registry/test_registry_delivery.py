"""Delivery against a real endpoint: in order, at least once, each webhook by itself, whoever dies on the way."""

import asyncio
import http.server
import itertools
import json
import logging
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from registry import delivery
from registry.database import Database
from registry.delivery import Outcome, back_off
from registry.dispatch import Dispatcher, Tally, in_background
from registry.ledger import utc_now
from registry.posting import Poster
from registry.webhooks import Webhooks

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Endpoint:
    """A real HTTP server. It answers the next of `answers` while there are any, then 200; and keeps what it got.

    An answer is a status, or `hang` (until the end), or `drop` (the connection closes without one), or something to call.
    """

    def __init__(self):
        self.answers, self.got, self.at_once, self.most_at_once = [], [], 0, 0
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}/hook"

    @property
    def ids(self):
        """The ids of events, as they came."""
        return [json.loads(body)["id"] for _, body in self.got]

    def close(self):
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(endpoint):  # noqa: N805 - `self` is the request's
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                with endpoint._lock:
                    endpoint.at_once += 1
                    endpoint.most_at_once = max(endpoint.most_at_once, endpoint.at_once)
                    body = self.rfile.read(int(self.headers["content-length"]))
                    endpoint.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                    answer = endpoint.answers.pop(0) if endpoint.answers else 200
                if callable(answer):
                    answer = answer()
                with endpoint._lock:
                    endpoint.at_once -= 1
                if answer == "hang":
                    endpoint.closing.wait(60)
                if answer in {"hang", "drop"}:
                    self.close_connection = True
                    return
                self.send_response(answer)
                if 300 <= answer < 400:
                    self.send_header("Location", f"{endpoint.url}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        return Handler


@pytest.fixture
def new_endpoint():
    made = []

    def new():
        made.append(Endpoint())
        return made[-1]

    yield new
    for endpoint in made:
        endpoint.close()


@pytest.fixture
def endpoint(new_endpoint):
    return new_endpoint()


@pytest.fixture
def database(url):
    opened = Database(url)
    yield opened
    opened.close()


@pytest.fixture
def webhooks(database):
    return Webhooks(database, lambda: NOON)


@pytest.fixture
def publish(ledger, draft):
    """Makes so many events, of versions."""
    weights = itertools.count()

    def make(count):
        for _ in range(count):
            ledger.register(draft(weights=next(weights)))

    return make


@pytest.fixture
def now():
    """What time it is for the dispatcher of a test; the test moves it."""
    return [NOON]


@pytest.fixture
def dispatcher(database, now):
    return Dispatcher(database, Poster(seconds=0.5), lambda: now[0], random.Random(0))


def deliver(dispatcher):
    return asyncio.run(dispatcher.once())


def subscribe(webhooks, endpoint, name="w", kinds=("version_created",)):
    return webhooks.create(endpoint.url, kinds, secrets.token_bytes, name=name, after=0)


# --- what arrives ------------------------------------------------------------------------------------------


def test_events_arrive_in_order_and_once_where_nothing_fails(webhooks, endpoint, publish, dispatcher):
    subscribe(webhooks, endpoint)
    publish(5)
    assert deliver(dispatcher) == Tally(delivered=5)
    assert deliver(dispatcher) == Tally()
    assert endpoint.ids == [1, 2, 3, 4, 5]
    assert (webhooks.get("w").acknowledged, webhooks.get("w").lag) == (5, 0)


def test_each_webhook_gets_the_kinds_it_asked_for(webhooks, new_endpoint, ledger, publish, dispatcher):
    endpoint, other = new_endpoint(), new_endpoint()
    subscribe(webhooks, endpoint, kinds=["alias_moved", "version_deleted"])
    subscribe(webhooks, other, "other")
    publish(2)
    ledger.promote("ranker/1", by="ada", reason="first")
    ledger.delete("ranker/2")
    publish(1)
    deliver(dispatcher)
    assert (endpoint.ids, other.ids) == ([3, 4], [1, 2, 5])
    assert [webhook.lag for webhook in webhooks.all()] == [0, 0]


def test_a_message_has_the_shape_of_the_specification_and_verifies(
    webhooks, endpoint, ledger, publish, database
):
    _, secret = subscribe(webhooks, endpoint)
    publish(1)
    deliver(Dispatcher(database, Poster(), utc_now, random.SystemRandom()))
    ((headers, body),) = endpoint.got
    message = Verifier(secret).verify(body, headers)
    (event,) = ledger.events()
    told = event.to_dict()
    assert message == {
        "type": "version_created", "timestamp": told["at"], "data": told["payload"], "id": 1, "subject": "ranker/1",
    }  # fmt: skip
    assert headers["content-type"] == "application/json"
    with pytest.raises(WebhookVerificationError):
        Verifier(secret).verify(body.replace(b"ranker", b"banker"), headers)


@pytest.mark.parametrize("answer", [500, 404, 410, 429, 301, 302, 307, 308, 199, 300, "hang", "drop"])
def test_whatever_is_not_2xx_is_tried_again_with_the_same_id_and_nothing_overtakes(
    webhooks, endpoint, publish, dispatcher, now, answer
):
    subscribe(webhooks, endpoint)
    publish(3)
    endpoint.answers = [200, answer, answer]
    assert deliver(dispatcher) == Tally(delivered=1, failed=1)
    for _ in range(2):
        now[0] += timedelta(hours=1)
        deliver(dispatcher)
    assert endpoint.ids == [1, 2, 2, 2, 3]
    again = {headers["webhook-id"] for headers, body in endpoint.got if json.loads(body)["id"] == 2}
    assert len(again) == 1
    assert len({headers["webhook-id"] for headers, _ in endpoint.got}) == 3
    assert len({headers["webhook-timestamp"] for headers, _ in endpoint.got}) == 3, (
        "of the attempt, not the event"
    )
    assert (webhooks.get("w").lag, webhooks.get("w").attempts, webhooks.get("w").last_error) == (0, 0, "")


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_an_acknowledgement(webhooks, endpoint, publish, dispatcher, status):
    subscribe(webhooks, endpoint)
    publish(1)
    endpoint.answers = [status]
    assert deliver(dispatcher) == Tally(delivered=1)
    assert webhooks.get("w").last_status == status


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [(503, 503, "answered 503"), (302, 302, "answered 302"), ("hang", None, "no answer within 0.5 s"), ("drop", None, "RemoteProtocolError")],
)  # fmt: skip
def test_a_failure_is_listed_with_its_reason_and_when_the_next_attempt_is(
    webhooks, endpoint, publish, dispatcher, answer, status, says
):
    subscribe(webhooks, endpoint)
    publish(2)
    endpoint.answers = [answer]
    deliver(dispatcher)
    webhook = webhooks.get("w")
    assert (webhook.acknowledged, webhook.lag, webhook.attempts) == (0, 2, 1)
    assert (webhook.last_status, webhook.last_attempt_at) == (status, NOON)
    assert says in webhook.last_error
    assert NOON <= webhook.next_attempt_at <= NOON + SECOND


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:{free}/x", f"http://{'a' * 70}.example/x", "http://a..b/", "http://host.invalid/"],
)
def test_an_endpoint_that_is_not_there_is_a_failure_like_another(webhooks, publish, dispatcher, address):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    webhooks.create(address.format(free=port), ["version_created"], secrets.token_bytes, name="w")
    publish(1)
    assert deliver(dispatcher) == Tally(failed=1)
    assert webhooks.get("w").last_error


def test_an_endpoint_that_answers_a_byte_at_a_time_has_no_longer_than_another(webhooks, publish, dispatcher):
    """Each byte comes in time; the whole does not."""
    stop = threading.Event()

    def drip():
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not stop.wait(0.05):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip)
        thread.start()
        webhooks.create(
            f"http://127.0.0.1:{listening.getsockname()[1]}/",
            ["version_created"],
            secrets.token_bytes,
            name="w",
        )
        publish(1)
        assert deliver(dispatcher) == Tally(failed=1)
        stop.set()
        thread.join()
    assert webhooks.get("w").last_error == "no answer within 0.5 s"


def test_the_body_of_an_answer_is_not_read(webhooks, publish, dispatcher):
    """An endless one would hold the dispatcher, or fill its memory."""
    sent, stop = [0], threading.Event()

    def pour():
        connection, _ = listening.accept()
        with connection:
            connection.recv(100_000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not stop.is_set():
                try:
                    connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                except OSError:
                    return
                sent[0] += 65536

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=pour)
        thread.start()
        webhooks.create(
            f"http://127.0.0.1:{listening.getsockname()[1]}/",
            ["version_created"],
            secrets.token_bytes,
            name="w",
        )
        publish(1)
        assert deliver(dispatcher) == Tally(delivered=1)
        stop.set()
        thread.join()
    assert sent[0] < 64 << 20


def test_neither_proxies_nor_passwords_are_taken_from_the_environment(
    webhooks, endpoint, publish, dispatcher, monkeypatch, tmp_path
):
    """A password for the endpoint's host in somebody's `.netrc` would go to whoever made a webhook for it."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ada password hush\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    subscribe(webhooks, endpoint)
    publish(1)
    assert deliver(dispatcher) == Tally(delivered=1)
    assert "authorization" not in endpoint.got[0][0]


# --- when it is tried again --------------------------------------------------------------------------------


class Jitter(random.Random):
    """A generator whose `random` is what the test says; its bytes are as any."""

    def __init__(self, value):
        super().__init__(1)
        self.value = value

    def random(self):
        return self.value


@pytest.mark.parametrize("jitter", [0.0, 0.25, 0.999])
def test_back_off_is_a_random_share_of_a_doubling_time_up_to_an_hour(
    database, webhooks, endpoint, publish, now, jitter
):
    """base · 2ⁿ from 1 s, at most 3600 s, times jitter: the 'full jitter' of the article that the module cites."""
    subscribe(webhooks, endpoint)
    publish(1)
    dispatcher = Dispatcher(database, Poster(), lambda: now[0], Jitter(jitter))
    longest = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600, 3600]
    endpoint.answers = [500] * len(longest)
    for attempt, seconds in enumerate(longest, 1):
        assert deliver(dispatcher) == Tally(failed=1)
        webhook = webhooks.get("w")
        assert webhook.attempts == attempt
        assert webhook.next_attempt_at == now[0] + timedelta(seconds=jitter * seconds)
        now[0] = webhook.next_attempt_at
    assert deliver(dispatcher) == Tally(delivered=1)
    assert webhooks.get("w").next_attempt_at is None


def test_back_off_stays_within_its_bounds_for_ever():
    assert back_off(10_000, 0.5) == timedelta(seconds=1800)
    assert back_off(1, 0.0) == timedelta(0)


def test_nothing_goes_out_before_its_time(database, webhooks, endpoint, publish, now):
    subscribe(webhooks, endpoint)
    publish(1)
    dispatcher = Dispatcher(database, Poster(), lambda: now[0], Jitter(0.5))
    endpoint.answers = [500]
    deliver(dispatcher)
    now[0] = NOON + SECOND / 2 - timedelta(microseconds=1)
    assert deliver(dispatcher) == Tally()
    now[0] = NOON + SECOND / 2
    assert deliver(dispatcher) == Tally(delivered=1)


def test_a_paused_webhook_gets_nothing_and_then_all_of_it(webhooks, endpoint, publish, dispatcher):
    subscribe(webhooks, endpoint)
    publish(1)
    deliver(dispatcher)
    webhooks.pause("w")
    publish(3)
    assert deliver(dispatcher) == Tally()
    assert webhooks.get("w").lag == 3
    webhooks.resume("w")
    deliver(dispatcher)
    assert endpoint.ids == [1, 2, 3, 4]


def test_resuming_ends_a_back_off(webhooks, endpoint, publish, dispatcher):
    subscribe(webhooks, endpoint)
    publish(1)
    endpoint.answers = [500]
    deliver(dispatcher)
    assert deliver(dispatcher) == Tally()
    webhooks.resume("w")
    assert deliver(dispatcher) == Tally(delivered=1)


def test_a_webhook_deleted_while_a_message_is_on_its_way_stays_deleted(
    webhooks, endpoint, publish, dispatcher
):
    subscribe(webhooks, endpoint)
    publish(2)

    def delete():
        webhooks.delete("w")
        return 200

    endpoint.answers = [delete]
    assert deliver(dispatcher) == Tally()
    assert (endpoint.ids, webhooks.all()) == ([1], ())


def test_a_webhook_paused_while_a_message_is_on_its_way_is_acknowledged_so_far(
    webhooks, endpoint, publish, dispatcher
):
    subscribe(webhooks, endpoint)
    publish(2)

    def pause():
        webhooks.pause("w")
        return 200

    endpoint.answers = [pause]
    assert deliver(dispatcher) == Tally(delivered=1)
    assert (endpoint.ids, webhooks.get("w").acknowledged) == ([1], 1)


def test_a_probe_is_signed_and_moves_nothing(webhooks, endpoint, publish, database):
    _, secret = subscribe(webhooks, endpoint)
    publish(1)
    before = webhooks.pause("w")
    dispatcher = Dispatcher(database, Poster(), utc_now, random.SystemRandom())
    endpoint.answers = [204, 500]
    assert [asyncio.run(dispatcher.probe("w")) for _ in range(2)] == [Outcome(204), Outcome(500)]
    for headers, body in endpoint.got:
        assert Verifier(secret).verify(body, headers)["type"] == "test"
    assert len({headers["webhook-id"] for headers, _ in endpoint.got}) == 2
    assert webhooks.get("w") == before


# --- several at once ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_dispatchers_share_a_webhook_and_deliver_in_order_and_never_side_by_side(
    url, webhooks, endpoint, publish
):
    subscribe(webhooks, endpoint)
    by = []

    @contextmanager
    def running(name):
        database = Database(url)
        report = lambda parcel, outcome: by.append(name)  # noqa: E731
        dispatcher = Dispatcher(database, Poster(), utc_now, random.SystemRandom(), report)
        with in_background(dispatcher, interval=0.001):
            yield
        database.close()

    with running("a"), running("b"):
        publish(40)
        while webhooks.get("w").lag:
            threading.Event().wait(0.01)
    assert endpoint.ids == list(range(1, 41))
    assert endpoint.most_at_once == 1
    assert set(by) == {"a", "b"}


def test_an_endpoint_that_hangs_does_not_delay_another(webhooks, new_endpoint, publish, database):
    """All of the second's events arrive while the first still thinks about its first one."""
    hanging, working = new_endpoint(), new_endpoint()
    hanging.answers = ["hang"] * 9
    subscribe(webhooks, hanging, "hanging")
    subscribe(webhooks, working, "working")
    with ThreadPoolExecutor(1) as pool:
        dispatcher = Dispatcher(database, Poster(seconds=30), utc_now, random.SystemRandom())
        with in_background(dispatcher, interval=0.01):
            pool.submit(publish, 5).result()
            while webhooks.get("working").lag:
                threading.Event().wait(0.01)
            assert hanging.ids == [1]
            assert webhooks.get("hanging").last_attempt_at is None, "its first attempt has not ended"
            hanging.closing.set()
    assert working.ids == [1, 2, 3, 4, 5]


def test_a_lease_keeps_others_out_until_it_ends(database, webhooks, endpoint, publish):
    webhook, _ = subscribe(webhooks, endpoint)
    publish(2)

    def claim(lease, at):
        with database.write() as session:
            return delivery.claim(session, webhook.key, lease, at)

    def settle(parcel, at):
        with database.write() as session:
            return delivery.settle(session, parcel, Outcome(200), at, 0.5)

    first = claim("first", NOON)
    assert first.event.id == 1
    assert claim("second", NOON + delivery.LEASE - timedelta(microseconds=1)) is None
    second = claim("second", NOON + delivery.LEASE)
    assert second.event == first.event
    assert second.message_id == first.message_id
    assert settle(first, NOON + delivery.LEASE) is False, "it came back too late: the lease is another's"
    assert webhooks.get("w").acknowledged == 0
    assert settle(second, NOON + delivery.LEASE) is True
    assert claim("third", NOON + delivery.LEASE).event.id == 2


def test_of_many_who_claim_at_once_one_gets_it(url, webhooks, endpoint, publish):
    webhook, _ = subscribe(webhooks, endpoint)
    publish(1)
    start = threading.Barrier(8)

    def claim(number):
        database = Database(url)
        start.wait()
        with database.write() as session:
            parcel = delivery.claim(session, webhook.key, f"lease {number}", NOON)
        database.close()
        return parcel is not None

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(claim, range(8))) == [False] * 7 + [True]


def test_no_post_begins_that_might_outlast_its_lease(database, webhooks, endpoint, publish):
    """The clock stands at one moment when the lease is taken and at a later one when the post would begin."""
    subscribe(webhooks, endpoint)
    publish(1)
    for late, delivered in ((delivery.LEASE - 9 * SECOND, 0), (delivery.LEASE - 10 * SECOND, 1)):
        times = iter([NOON, NOON, NOON + late, NOON + late, NOON + late])
        dispatcher = Dispatcher(database, Poster(), lambda times=times: next(times), random.Random(0))
        assert deliver(dispatcher) == Tally(delivered)
        with database.write() as session:
            session.get(delivery.WebhookRow, webhooks.get("w").key).lease = None


DYING = """
import asyncio, random, sys
from registry.database import Database
from registry.dispatch import Dispatcher
from registry.ledger import utc_now
from registry.posting import Poster
print("ready", flush=True)
asyncio.run(Dispatcher(Database(sys.argv[1]), Poster(), utc_now, random.SystemRandom()).once())
"""


@pytest.mark.slow
def test_an_event_comes_again_when_its_dispatcher_is_killed_before_it_is_acknowledged(
    url, database, webhooks, endpoint, publish
):
    """`kill -9` once the endpoint has the event, and before the dispatcher has its answer."""
    subscribe(webhooks, endpoint)
    publish(3)
    process = subprocess.Popen([sys.executable, "-c", DYING, url], stdout=subprocess.PIPE)

    def kill():
        os.kill(process.pid, signal.SIGKILL)
        process.wait(20)
        return 200

    endpoint.answers = [200, kill]
    assert process.wait(30) == -signal.SIGKILL
    process.stdout.close()
    assert endpoint.ids == [1, 2]
    assert webhooks.get("w").acknowledged == 1
    soon, later = (
        Dispatcher(database, Poster(), lambda after=after: utc_now() + after, random.SystemRandom())
        for after in (timedelta(0), delivery.LEASE)
    )
    assert deliver(soon) == Tally(), "the dead one's lease has not run out"
    assert deliver(later) == Tally(delivered=2)
    assert endpoint.ids == [1, 2, 2, 3]
    ids = [headers["webhook-id"] for headers, _ in endpoint.got]
    assert ids[1] == ids[2], "by which the receiver knows it"


# --- what is said of it ------------------------------------------------------------------------------------


def test_a_failure_is_logged_and_no_secret_ever_is(webhooks, endpoint, publish, dispatcher, now, caplog):
    _, secret = subscribe(webhooks, endpoint)
    publish(2)
    endpoint.answers = [500, "drop"]
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            deliver(dispatcher)
            now[0] += timedelta(hours=1)
    assert "webhook w: event 1 not taken: answered 500" in caplog.text
    assert secret.removeprefix("whsec_") not in caplog.text


def test_a_ledger_that_cannot_be_read_for_a_while_is_asked_again(
    webhooks, endpoint, publish, database, raw, caplog, monkeypatch
):
    monkeypatch.setattr("registry.dispatch._AFTER_TROUBLE", 0.05)
    subscribe(webhooks, endpoint)
    raw("ALTER TABLE outbox RENAME TO outbox_gone")
    with in_background(Dispatcher(database, Poster(), utc_now, random.SystemRandom()), interval=0.01):
        while "the ledger cannot be read" not in caplog.text:
            threading.Event().wait(0.01)
        raw("ALTER TABLE outbox_gone RENAME TO outbox")
        publish(1)
        while webhooks.get("w").lag:
            threading.Event().wait(0.01)
    assert endpoint.ids == [1]
