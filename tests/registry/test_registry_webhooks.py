"""Webhooks: what can be one, what is shown of it, and how its messages are signed."""

import base64
import hashlib
import hmac
import itertools
import json
import re
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from registry import InvalidRecord, NotRecorded, open_registry
from registry.database import Database, migrate
from registry.delivery import Parcel
from registry.errors import NameTaken
from registry.ledger import utc_now
from registry.outbox import PAYLOADS, Event, Kind, VersionDeleted
from registry.signing import new_secret, signed
from registry.webhooks import MOST, Webhooks, check_url

EVENTS = Path(__file__).parents[2] / "docs/events.md"
URL = "https://serving.example/hooks"
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def counting():
    """Random bytes that are not random: 0, 1, 2, … over and over, so that no two draws are alike."""
    drawn = itertools.count()
    return lambda size: next(drawn).to_bytes(size)


@pytest.fixture
def webhooks(url, clock):
    database = Database(url)
    yield Webhooks(database, clock)
    database.close()


# --- signatures --------------------------------------------------------------------------------------------


def test_a_signature_is_the_one_of_the_specifications_own_tests():
    """The vector that the reference libraries of Standard Webhooks are tested with."""
    headers = signed(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        b'{"test": 2432232314}',
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("body", [b"{}", '{"name":"Amélie"}'.encode(), b'"' + b"1" * 50_000 + b'"'])
def test_the_reference_library_verifies_a_signature_and_nothing_tampered_with(body):
    secret = new_secret(counting())
    headers = dict(signed(secret, "msg_1", utc_now(), body))
    Verifier(secret).verify(body, headers)
    others = {"webhook-id": "msg_2", "webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}
    tampered = [(body + b" ", headers), *((body, {**headers, name: value}) for name, value in others.items())]
    for other_body, other_headers in tampered:
        with pytest.raises(WebhookVerificationError):
            Verifier(secret).verify(other_body, other_headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(new_secret(lambda size: b"x" * size)).verify(body, headers)


def test_the_ten_lines_of_the_documentation_verify_a_signature_and_nothing_tampered_with():
    (code,) = re.findall(r"```python\n(.*?)```", EVENTS.read_text(), re.DOTALL)
    namespace = {}
    exec(code, namespace)
    verified, secret, body = namespace["verified"], new_secret(counting()), b'{"type":"alias_moved"}'
    headers = dict(signed(secret, "msg_1", utc_now(), body))
    assert verified(secret, headers, body)
    rotated = {**headers, "webhook-signature": "v1,AAAA " + headers["webhook-signature"]}
    assert verified(secret, rotated, body), "a sender may give several"
    assert not verified(secret, headers, body + b" ")
    assert not verified(secret, {**headers, "webhook-id": "msg_2"}, body)
    assert not verified(new_secret(lambda size: b"x" * size), headers, body)
    old = signed(secret, "msg_1", utc_now() - timedelta(minutes=6), body)
    assert not verified(secret, old, body)


def test_the_documentation_shows_each_kind_with_the_payload_it_has():
    """An example a kind, with the very fields; `arm_released` refers to the one before."""
    rows = [line.split("|") for line in EVENTS.read_text().splitlines() if line.startswith("| `")]
    examples = {cells[1].strip(" `"): cells[4].strip(" `") for cells in rows}
    assert list(examples) == list(Kind)
    assert "arm_bound" in examples.pop("arm_released")
    for kind, example in examples.items():
        assert list(json.loads(example)) == [part.name for part in fields(PAYLOADS[Kind(kind)])]


def test_a_secret_is_32_random_bytes_in_base64():
    secret = new_secret(lambda size: bytes(range(size)))
    assert base64.b64decode(secret.removeprefix("whsec_")) == bytes(range(32))
    body, at = b"{}", datetime(2026, 1, 1, 0, 0, 0, 999_999, tzinfo=UTC)
    digest = hmac.new(bytes(range(32)), b"m.1767225600." + body, hashlib.sha256).digest()
    assert signed(secret, "m", at, body)["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


# --- what can be one ---------------------------------------------------------------------------------------


def test_a_webhook_begins_behind_the_newest_event_unless_told_otherwise(ledger, webhooks, draft):
    for weights in range(3):
        ledger.register(draft(weights=weights))
    ledger.promote("ranker/1", by="ada", reason="first")
    random_bytes = counting()
    new, _ = webhooks.create(URL, ["version_created"], random_bytes, name="new")
    old, _ = webhooks.create(URL, ["version_created"], random_bytes, name="old", after=0)
    later, _ = webhooks.create(URL, ["version_created", "alias_moved"], random_bytes, name="later", after=2)
    assert [(w.acknowledged, w.lag) for w in (new, old, later)] == [(4, 0), (0, 3), (2, 2)]
    assert webhooks.create(URL, ["alias_moved"], random_bytes, name="now", after=4)[0].acknowledged == 4
    webhooks.delete("now")
    ledger.register(draft(weights=9))
    ledger.promote("ranker/2", by="ada", reason="second")
    assert [(w.name, w.lag) for w in webhooks.all()] == [("later", 4), ("new", 1), ("old", 4)]
    assert len({w.key for w in webhooks.all()}) == 3


def test_kinds_are_kept_once_each_and_in_their_order(webhooks):
    webhook, _ = webhooks.create(URL, ["gate_failed", "alias_moved", "gate_failed"], counting())
    assert webhook.kinds == (Kind.ALIAS_MOVED, Kind.GATE_FAILED)
    assert (webhook.name, webhook.created_at, webhook.attempts) == ("serving.example", NEW_YEAR, 0)


@pytest.mark.parametrize("address", [
    "", "ftp://host/x", "file:///etc/passwd", "//host/x", "host/x", "http://", "http:///x", "http://:80/x",
    "javascript:alert(1)", "http://ada@host/x", "http://ada:secret@host/x", "http://:secret@host/x", "http://@host/x",
    "http://host:99999/x", "http://host:0/x", "http://host:x/", "http://[::1/x", "http://ho st/x", "http://host/\n", "http://höst/x",
    "http://host/" + "x" * 2000,
])  # fmt: skip
def test_only_http_urls_without_credentials_are_taken(webhooks, address):
    with pytest.raises(InvalidRecord, match="URL") as refused:
        webhooks.create(address, ["alias_moved"], counting())
    assert "secret" not in str(refused.value)
    assert webhooks.all() == ()


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("http://host/x?a=b#c", "host"),
        ("HTTPS://Host:65535", "host"),
        ("http://127.0.0.1:8080/", "127.0.0.1"),
        ("http://[::1]:80/x", "..1"),
        ("http://host/" + "x" * 1988, "host"),
    ],
)
def test_the_host_of_a_url_is_a_name(address, host):
    assert check_url(address) == host


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"kinds": []}, "a kind of event at least"),
        ({"kinds": ["alias_moves"]}, "alias_moved"),
        ({"name": "a/b"}, "cannot be a name"),
        ({"after": 1}, "newest is 0"),
        ({"after": -1}, "newest is 0"),
    ],
)
def test_what_cannot_be_a_webhook_is_refused(webhooks, asked, says):
    wanted = {"kinds": ["alias_moved"], "random_bytes": counting(), **asked}
    with pytest.raises(InvalidRecord, match=says):
        webhooks.create(URL, **wanted)


def test_two_webhooks_have_two_names_and_there_are_at_most_a_hundred(webhooks):
    random_bytes = counting()
    webhooks.create(URL, ["alias_moved"], random_bytes)
    with pytest.raises(NameTaken, match=r"'serving\.example' already"):
        webhooks.create("https://serving.example/other", ["alias_moved"], random_bytes)
    for number in range(1, MOST):
        webhooks.create(URL, ["alias_moved"], random_bytes, name=f"w{number}")
    with pytest.raises(InvalidRecord, match="100 webhooks"):
        webhooks.create(URL, ["alias_moved"], random_bytes, name="one more")
    webhooks.delete("w7")
    webhooks.create(URL, ["alias_moved"], random_bytes, name="one more")


def test_a_webhook_is_paused_once_resumed_and_deleted(webhooks):
    webhooks.create(URL, ["alias_moved"], counting(), name="w")
    paused = webhooks.pause("w")
    assert paused.paused_at is not None
    assert webhooks.pause("w") == paused, "since when it stands still does not change"
    assert webhooks.resume("w") == replace(paused, paused_at=None)
    webhooks.delete("w")
    assert webhooks.all() == ()
    for step in (webhooks.pause, webhooks.resume, webhooks.delete, webhooks.get):
        with pytest.raises(NotRecorded, match="webhook 'w'"):
            step("w")


@pytest.mark.parametrize("sql", [
    "UPDATE webhook SET acknowledged = acknowledged - 1", "UPDATE webhook SET url = 'http://elsewhere'",
    "UPDATE webhook SET secret = 'x'", "UPDATE webhook SET name = 'x'", "UPDATE webhook SET key = 'x'",
    "UPDATE webhook_kind SET kind = 'arm_bound'", "DELETE FROM webhook_kind",
])  # fmt: skip
def test_the_database_itself_keeps_a_webhook_as_it_was_made(ledger, webhooks, draft, raw, sql):
    ledger.register(draft())
    webhooks.create(URL, ["alias_moved"], counting())
    with pytest.raises(sa.exc.IntegrityError, match="matinee: "):
        raw(sql)


# --- the secret --------------------------------------------------------------------------------------------


def test_a_secret_is_in_no_value_that_is_handed_out(webhooks):
    webhook, secret = webhooks.create(URL, ["alias_moved"], counting())
    shown = [repr(webhook), repr(webhooks.all()), repr(webhooks.pause(webhook.name)), repr(webhooks)]
    event = Event(1, NEW_YEAR, VersionDeleted("m", 1, "d"))
    parcel = Parcel("k", "n", URL, secret, event, 0, "lease", NEW_YEAR)
    shown += [repr(parcel), str(parcel)]
    assert not any(secret.removeprefix("whsec_") in text for text in shown)


def test_a_secret_is_in_no_error_of_the_database(webhooks, raw):
    """SQLAlchemy shows the parameters of a statement that failed; the secret is one of this one's."""
    raw("ALTER TABLE webhook DROP COLUMN last_error")
    secret = new_secret(lambda size: b"\x5a" * size)
    try:
        with pytest.raises(sa.exc.DBAPIError) as failed:
            webhooks.create(URL, ["alias_moved"], lambda size: b"\x5a" * size)
    finally:
        raw("ALTER TABLE webhook ADD COLUMN last_error TEXT NOT NULL DEFAULT ''")
    chain = [failed.value, failed.value.__cause__, failed.value.__context__]
    assert not any(secret.removeprefix("whsec_") in str(error) for error in chain)
    assert "INSERT INTO webhook" in str(failed.value), "it is that statement which failed"


# --- the schema --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def test_the_tables_go_down_with_data_in_and_come_up_again(kind, tmp_path, request, draft):
    url = (
        f"sqlite:///{tmp_path}/r.db" if kind == "sqlite" else request.getfixturevalue("new_postgres_schema")()
    )
    ours = {"outbox", "webhook", "webhook_kind"}
    for weights in range(2):
        with open_registry(url, str(tmp_path / "artifacts")) as ledger:
            ledger.register(draft(weights=weights))
            assert [(event.id, event.subject) for event in ledger.events()] == [(1, f"ranker/{weights + 1}")]
        database = Database(url)
        webhook, _ = Webhooks(database, utc_now).create(URL, ["alias_moved"], counting())
        assert webhook.acknowledged == 1
        with database.connection() as connection:
            assert ours <= set(sa.inspect(connection).get_table_names())
        migrate(database, "0004")
        with database.connection() as connection:
            assert not ours & set(sa.inspect(connection).get_table_names())
        database.close()
