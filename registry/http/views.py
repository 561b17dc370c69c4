"""The shapes of our own API: what goes in, what comes out. All are frozen and take nothing they do not know."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from registry.canonical import check_text
from registry.outbox import Kind
from registry.states import RunState


def _storable(text: str) -> str:
    return check_text("text", text)


Text = Annotated[str, AfterValidator(_storable), Field(max_length=10_000)]
"""Text that every database can hold: no NUL, no lone surrogate."""
Short = Annotated[Text, Field(min_length=1, max_length=250)]
Number = Annotated[int, Field(ge=1, le=999_999_999, description="The number of a version.")]
Reason = Annotated[Text, Field(min_length=1, max_length=1000, description="Why; it stays in the history.")]


class View(BaseModel):
    """The root of every shape."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)


def _example(**value: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [value]})


class MetricView(View):
    """A measured number on one data set and split."""

    model_config = _example(key="recall", value=0.41, dataset="kuairand", split="test", k=200)

    key: Text
    value: float = Field(allow_inf_nan=False)
    dataset: Text = ""
    split: Text = ""
    k: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        None, description="The cut-off, if it has one."
    )


class FileView(View):
    """A file of a version."""

    path: str
    sha256: str
    size: int = Field(description="In bytes.")
    media_type: str


class DocumentView(View):
    """A document beside a version: a report, a figure."""

    model_config = _example(name="report.html", media_type="text/html", size=81920, sha256="e3b0…")

    name: str
    media_type: str
    size: int = Field(description="In bytes.")
    sha256: str


class InputView(View):
    """A matrix that a model takes."""

    name: str
    service: str = Field(description="The digest of the feature service that its columns are, in order.")
    dtype: str


class OutputView(View):
    """An array that a model gives back."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] = Field(description="null: as many as were asked about.")
    meaning: str


class SignatureView(View):
    """What goes in, what comes out, and the libraries it was made with."""

    inputs: tuple[InputView, ...]
    outputs: tuple[OutputView, ...]
    framework: Mapping[str, str]


class ColumnView(View):
    """One column of an input: a feature as it was declared when the model was trained."""

    view: str
    name: str
    digest: str
    dtype: str


class VersionView(View):
    """One version of a model, whole."""

    model_config = _example(
        name="ranker", number=3, ref="ranker/3", digest="5d41…", created_at="2026-01-31T06:00:00Z",
        created_by="pipeline", source="kuairand", config={"layers": 2}, seed=0,
        signature={"inputs": [{"name": "ranking", "service": "c4ca…", "dtype": "float32"}], "framework": {"torch": "2.13.0"},
        "outputs": [{"name": "play", "dtype": "float32", "shape": [None], "meaning": "probability of a play"}]},
        training_set="9b74…", upstream={"retriever": "retriever/2"}, metrics=[{"key": "play_auc", "value": 0.71, "dataset": "kuairand",
        "split": "test", "k": None}], params={"learning_rate": "0.001"}, tags={"team": "home"},
        aliases=["champion"], files=[{"path": "weights.safetensors", "sha256": "e3b0…", "size": 1024,
        "media_type": "application/vnd.safetensors"}],
    )  # fmt: skip

    name: str
    number: int
    ref: str = Field(description="How to name this version for good.")
    digest: str
    created_at: datetime
    created_by: str
    source: str
    config: Mapping[str, Any]
    seed: int | None
    signature: SignatureView
    training_set: str | None = Field(description="The digest of the training set it learned from.")
    upstream: Mapping[str, str] = Field(description="Versions it was trained behind, by role.")
    metrics: tuple[MetricView, ...]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    files: tuple[FileView, ...]


class GivenInputView(View):
    """A matrix that a model takes."""

    name: Short
    service: Short = Field(description="The digest of a recorded feature service.")
    dtype: Short = "float32"


class GivenOutputView(View):
    """An array that a model gives back."""

    name: Short
    dtype: Short = "float32"
    shape: Annotated[tuple[Annotated[int, Field(ge=1)] | None, ...], Field(max_length=8)] = (None,)
    meaning: Text = ""


class GivenSignatureView(View):
    """What goes in, what comes out, and the libraries it was made with."""

    inputs: Annotated[tuple[GivenInputView, ...], Field(max_length=100)] = ()
    outputs: Annotated[tuple[GivenOutputView, ...], Field(max_length=100)] = ()
    framework: Mapping[Short, Short] = {}


class DraftView(View):
    """A version to be registered, but for its files, which were sent ahead to `PUT /v1/uploads/{upload}/…`."""

    model_config = _example(
        upload="ranker-monday", metrics=[{"key": "play_auc", "value": 0.71, "dataset": "world", "split": "test"}],
        params={"learning_rate": 0.001}, training_set="9b74…", upstream={"retriever": "retriever/2"},
        signature={"inputs": [{"name": "ranking", "service": "c4ca…"}], "outputs": [{"name": "play"}]}, seed=0,
    )  # fmt: skip

    upload: Annotated[Text, Field(min_length=1, description="The folder that the files were sent to.")]
    metrics: Annotated[tuple[MetricView, ...], Field(max_length=1000)] = ()
    params: Mapping[Short, bool | int | Annotated[float, Field(allow_inf_nan=False)] | Text] = {}
    tags: Mapping[Short, Annotated[Text, Field(max_length=100_000)]] = {}
    config: Mapping[Text, Any] = {}
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    signature: GivenSignatureView = GivenSignatureView()
    training_set: Short | None = Field(None, description="The digest of a recorded training set.")
    upstream: Mapping[Short, Text] = Field({}, description="Versions it was trained behind, by role.")
    source: Text = ""
    description: Text = Field("", description="Of the model, where this is its first version.")


class UploadView(View):
    """A file that was sent ahead."""

    sha256: str
    size: int = Field(description="In bytes.")


class PageView(View):
    """One page of a search."""

    versions: tuple[VersionView, ...]
    next_page_token: str | None = Field(description="Pass it back as `page_token`; null on the last page.")


class ModelView(View):
    """A model with its newest version and where its aliases stand."""

    model_config = _example(
        name="ranker", description="Ranks candidates.", created_at="2026-01-01T06:00:00Z", versions=3, latest=3,
        aliases={"champion": 3},
    )  # fmt: skip

    name: str
    description: str
    created_at: datetime
    versions: int
    latest: int | None
    aliases: Mapping[str, int]


class PromotionView(View):
    """Where an alias is to go. With `expect`, only if it stands there now (null: if it does not exist yet)."""

    model_config = _example(version=3, expect=2, reason="recall@200 +4 % at equal latency")

    version: Number
    expect: Number | None = Field(
        None, description="Compare-and-set; left out, the alias moves from anywhere."
    )
    reason: Reason
    evidence: Mapping[Text, Any] = Field(
        {}, description="Kept in the history beside metrics and gate reports."
    )


class ReasonView(View):
    """Why something is done."""

    model_config = _example(reason="completion fell after the release")

    reason: Reason


class MoveView(View):
    """One entry of an alias's history."""

    name: str
    alias: str
    kind: str
    from_number: int | None
    to_number: int | None
    at: datetime
    by: str
    reason: str
    evidence: Mapping[str, Any]


class TagView(View):
    """The value of a tag."""

    model_config = _example(value="home")

    value: Annotated[Text, Field(max_length=100_000)]


class MetricsView(View):
    """Metrics to add to a version."""

    metrics: Annotated[tuple[MetricView, ...], Field(min_length=1, max_length=1000)]


class LiveView(View):
    """A version in use, and where."""

    model_config = _example(ref="ranker/3", kind="alias", where="champion", since="2026-01-31T06:00:00Z")

    ref: str
    kind: Literal["alias", "bento", "arm"]
    where: str
    since: datetime


class BindingView(View):
    """What an arm serves for one parameter: a pinned version, or a value."""

    parameter: str
    version: str | None
    value: Any


class ArmView(View):
    """An arm of an experiment."""

    name: str
    bindings: tuple[BindingView, ...]


class StateView(View):
    """One change of an experiment's state."""

    state: RunState
    at: datetime
    by: str
    reason: str


class ExperimentView(View):
    """A run of an experiment."""

    name: str
    layer: str
    state: RunState
    digest: str
    config: Mapping[str, Any]
    arms: tuple[ArmView, ...]
    history: tuple[StateView, ...]


class ReadoutView(View):
    """What came of an experiment."""

    id: int
    experiment: str
    created_at: datetime
    verdict: Mapping[str, Any]


class CallerView(View):
    """Whose token this is."""

    model_config = _example(name="ada", role="engineer")

    name: str
    role: str


class EntryView(View):
    """One line of the audit log."""

    model_config = _example(
        id=17, at="2026-01-31T06:00:00Z", name="ada", role="engineer", action="promote",
        token="0f3a…",  # noqa: S106 - the key of a token is no secret
        target="ranker@champion to 3", status=200, problem="",
    )  # fmt: skip

    id: int
    at: datetime
    token: str = Field(description="The token's key; the token itself is nowhere.")
    name: str
    role: str
    action: str
    target: str
    status: int
    problem: str


class EventView(View):
    """Something that happened to the ledger; docs/events.md shows the payload of each kind."""

    model_config = _example(
        id=42, kind="alias_moved", subject="ranker@champion", at="2026-01-31T06:00:00Z",
        payload={"name": "ranker", "alias": "champion", "move": "promote", "from_number": 2, "to_number": 3,
                 "by": "ada", "reason": "recall@200 +4 %"},
    )  # fmt: skip

    id: int = Field(description="1, 2, 3, … without a gap.")
    kind: Kind
    subject: str
    at: datetime
    payload: Mapping[str, Any]


class WebhookView(View):
    """A webhook and how far it has been told; its secret is nowhere."""

    model_config = _example(
        name="serving", url="https://serving.example/hooks", kinds=["alias_moved"], created_at="2026-01-31T06:00:00Z",
        paused_at=None, acknowledged=42, lag=0, attempts=0, last_attempt_at="2026-01-31T06:00:01Z", last_status=200,
        last_error="", next_attempt_at=None, key="0f3a…",
    )  # fmt: skip

    key: str = Field(description="Part of every `webhook-id`.")
    name: str
    url: str
    kinds: tuple[Kind, ...]
    created_at: datetime
    paused_at: datetime | None
    acknowledged: int = Field(description="The last event that was answered with 2xx.")
    lag: int = Field(description="Events of its kinds behind that.")
    attempts: int = Field(description="Attempts in a row that failed.")
    last_attempt_at: datetime | None
    last_status: int | None
    last_error: str
    next_attempt_at: datetime | None


class NewWebhookView(View):
    """A webhook to be made."""

    model_config = _example(url="https://serving.example/hooks", kinds=["alias_moved"], name="serving")

    url: Annotated[Text, Field(description="http or https, without a user or password.")]
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1, max_length=100)]
    name: Text | None = Field(None, description="The URL's host if left out.")
    after: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        None, description="The event it begins behind, 0 for all there ever were; the newest if left out."
    )


class CreatedWebhookView(View):
    """A webhook just made, with the secret that its messages are signed with. It is not shown again."""

    webhook: WebhookView
    secret: str = Field(description="`whsec_` and 32 random bytes in base64 (Standard Webhooks).")


class PauseView(View):
    """Whether a webhook is to stand still."""

    model_config = _example(paused=True)

    paused: bool


class FieldProblemView(View):
    """One field that is wrong, and why."""

    field: str
    reason: str


class ProblemView(BaseModel):
    """Why a request was refused. What a program needs to go on stands beside it, such as `current`."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "error": "AliasMoved",
                    "message": "ranker@champion was expected at ranker/2 and is at ranker/3: …",
                    "problems": [{"field": "expect", "reason": "…"}],
                    "current": 3,
                }
            ]
        },
    )

    error: str = Field(description="The name of the refusal, for programs.")
    message: str = Field(description="What is wrong and what would be right, for people.")
    problems: tuple[FieldProblemView, ...] = ()


class MlflowProblemView(View):
    """Why a request was refused, in MLflow's form."""

    model_config = _example(
        error_code="RESOURCE_DOES_NOT_EXIST", message="the ledger has no model 'rnaker'. …"
    )

    error_code: str
    message: str
