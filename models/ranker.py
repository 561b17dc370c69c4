"""Ranking: calibrated chances of play, completion and retention, and what is chosen, from features of user and title."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import artifact
from models.arrays import Arrays
from models.artifact import Artifact, ArtifactError
from models.calibration import Calibration
from models.choice import Fusion, over_typical
from models.data import Float32
from models.inputs import Standardiser
from models.mapped import tensor_of
from models.network import RankerNetwork, places
from models.objective import HeadScores
from models.settings import RankerConfig
from models.signature import Signature

KIND = "ranker"


@dataclass(frozen=True)
class Ranker:
    """The ranking model ready to serve. `serving_position` is NaN when training knew no positions.

    `fusion` weighs its choice head against the retriever's score; None where it learned from no candidates. `about` says
    of feature tables, by name, whether they are about the `user`, the `title` or something else.
    """

    network: RankerNetwork
    inputs: Standardiser
    calibration: Mapping[str, Calibration]
    serving_position: float
    config: RankerConfig
    signature: Signature
    fusion: Fusion | None = None
    about: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def heads(self) -> tuple[str, ...]:
        """The outcomes it predicts: those its training data had labels for."""
        return self.network.heads

    def score(
        self, features: Float32, position: Float32 | None = None, retrieval: Float32 | None = None
    ) -> HeadScores:
        """Calibrated scores of (n, F) raw features, NaN where null.

        Without `position` (n,) every title is scored as if shown in the same, the serving position. With `retrieval`
        (n,), the retriever's scores, the rows are one user's candidates, and `choice` is among the answers.

        Raises:
            WrongWidth: `features` is not (n, F).
            MalformedData: `retrieval` is not one finite score a row.
        """
        return self.scored(self.logits(features, position), retrieval)

    def scored(self, logits: Mapping[str, Float32], retrieval: Float32 | None = None) -> HeadScores:
        """What `score` makes of the logits by head."""
        scores = {head: self.calibration[head](logits[head]) for head in self.heads if head != "choice"}
        if retrieval is not None and self.fusion is not None:
            scores["choice"] = over_typical(self.fusion(logits["choice"], retrieval))
        return HeadScores(**scores)

    def logits(self, features: Float32, position: Float32 | None = None) -> dict[str, Float32]:
        """What `score` calibrates, by head."""
        inputs = torch.from_numpy(self.inputs.transform(features))
        with torch.inference_mode():
            logits = self.network(inputs, self.places(len(features), position))
        return {head: logit.numpy() for head, logit in logits.items()}

    def places(self, n: int, position: Float32 | None = None) -> Tensor:
        """Rows (n,) of the tables of places, those of the serving position where none are given."""
        if position is None:
            position = np.full(n, self.serving_position, dtype=np.float32)
        return places(torch.from_numpy(position), self.config.positions)

    def save(self, folder: Path) -> str:
        """Write the ranker as one artifact and return its digest."""
        weights: dict[str, NDArray[np.float32]] = {
            f"network.{name}": tensor.cpu().numpy() for name, tensor in self.network.state_dict().items()
        }
        documents = {
            "config": self.config.model_dump(mode="json"),
            "signature": self.signature.to_json(),
            "heads": [
                {"head": head, **(asdict(self.calibration[head]) if head in self.calibration else {})}
                for head in self.heads
            ],  # in their order
            "serving": {
                "position": None if np.isnan(self.serving_position) else self.serving_position,
                "fusion": None if self.fusion is None else asdict(self.fusion),
            },
            "about": dict(self.about),
            "metrics": dict(self.metrics),
        }
        arrays = {"weights": weights, "inputs": self.inputs.to_arrays("inputs")}
        return artifact.save(Artifact(KIND, arrays, documents), folder)

    @classmethod
    def load(cls, folder: Path) -> Ranker:
        """Read a ranker.

        Raises:
            ArtifactError: the folder is not one whole ranker.
        """
        found = artifact.load(folder, KIND)
        documents = found.documents
        config = RankerConfig.recorded(documents["config"])
        signature = Signature.from_json(documents["signature"])
        inputs = Standardiser.from_arrays(found.arrays["inputs"], "inputs")
        if signature.width != inputs.n_features:
            raise ArtifactError(
                folder, f"{signature.width} features signed, {inputs.n_features} standardised."
            )
        serving = documents["serving"]
        heads = {one.pop("head"): one for one in documents["heads"]}
        return cls(
            network=_network(folder, found.arrays["weights"], inputs.width, tuple(heads), config),
            inputs=inputs,
            calibration={head: Calibration(**fitted) for head, fitted in heads.items() if fitted},
            serving_position=float("nan") if serving["position"] is None else float(serving["position"]),
            config=config,
            signature=signature,
            fusion=None if serving["fusion"] is None else Fusion(**serving["fusion"]),
            about=documents["about"],
            metrics=documents["metrics"],
        )


def _network(
    folder: Path, weights: Arrays, width: int, heads: tuple[str, ...], config: RankerConfig
) -> RankerNetwork:
    network = RankerNetwork(width, heads, config)
    state = {name.removeprefix("network."): tensor_of(array) for name, array in weights.items()}
    state.setdefault("selection.weight", network.selection.weight)  # rankers of before have none: zeros
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as problem:
        raise ArtifactError(folder, f"its weights do not fit its config: {problem}") from problem
    return network.eval()
