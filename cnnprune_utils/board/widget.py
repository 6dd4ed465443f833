"""The gate board in JupyterLab, with a kernel behind it. Needs the ``anywidget`` package."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import anywidget
import numpy as np
import traitlets
from torch import nn

from ..batches import Split
from ..plan import Plan
from .facts import Facts, facts_of
from .pictures import Pictures, grey

_SHOWN = 12  # changed answers that are drawn; all are counted


class Board(anywidget.AnyWidget):
    """One switch per filter. The browser knows every sub-network's numbers; Python looks at the pictures.

    Attributes:
        plan: the closed gates, as a plan; setting it sets the switches.
        known: the measured facts of all sub-networks.
        closed, picture: what the browser asks for: the number of closed gates (see :mod:`.facts`), and a picture.
        view: Python's answer: the picture, its feature maps, and the answers that changed.
    """

    _esm = (files(__package__) / "board.js").read_text(encoding="utf-8")
    _css = (files(__package__) / "board.css").read_text(encoding="utf-8")
    facts = traitlets.Unicode().tag(sync=True)
    n_pictures = traitlets.Int().tag(sync=True)
    closed = traitlets.Int().tag(sync=True)
    picture = traitlets.Int().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)

    def __init__(self, model: nn.Module, split: Split, *, class_names: Sequence[str], n_pictures: int) -> None:
        self.known: Facts = facts_of(model, split)
        self._pictures = Pictures(model, split.subset(min(n_pictures, len(split))))
        self._before = self._pictures.answers(0)
        measured = (
            f"Measured on {len(split):,} images with the network given to the board; gates are closed, and nothing is "
            f"trained after. Feature maps and changed answers: {len(self._pictures):,} of these images. Percentile: "
            "the share of the networks of this size, with a filter in every layer, that are no more accurate."
        )
        super().__init__(
            facts=self.known.to_json(classes=list(class_names), measured=measured),
            n_pictures=len(self._pictures),
            view=self._look(0, 0),
        )

    def __repr__(self) -> str:
        return f"Board({sum(self.known.layers.values())} gates, {self.known.n:,} images)"

    @property
    def plan(self) -> Plan:
        return self.known.plan(self.closed)

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self.closed = self.known.number(plan)

    @traitlets.validate("closed")
    def _check_closed(self, proposal: Any) -> int:
        if not 0 <= proposal["value"] < len(self.known.correct):
            raise traitlets.TraitError(f"closed={proposal['value']}: from 0 to {len(self.known.correct) - 1}.")
        return int(proposal["value"])

    @traitlets.validate("picture")
    def _check_picture(self, proposal: Any) -> int:
        if not 0 <= proposal["value"] < len(self._pictures):
            raise traitlets.TraitError(f"picture={proposal['value']}: from 0 to {len(self._pictures) - 1}.")
        return int(proposal["value"])

    @traitlets.observe("closed", "picture")
    def _look_again(self, _: Any) -> None:
        if self.view.get("closed") != self.closed or self.view.get("picture") != self.picture:
            self.view = self._look(self.closed, self.picture)

    def _look(self, closed: int, picture: int) -> dict[str, Any]:
        now = self._pictures.answers(closed)
        changed = np.flatnonzero(now != self._before).tolist()
        return {
            "closed": closed,
            "changed": {"n": len(changed), "shown": [self._seen(i, int(now[i])) for i in changed[:_SHOWN]]},
            "maps": self._maps(closed, picture),
            **self._seen(picture, int(now[picture])),
        }

    def _seen(self, picture: int, answer: int) -> dict[str, Any]:
        image = self._pictures.image(picture)
        return {
            "picture": picture,
            "image": {"height": image.shape[0], "width": image.shape[1], "bytes": image.tobytes()},
            "label": self._pictures.label(picture),
            "answer": answer,
            "before": int(self._before[picture]),
        }

    def _maps(self, closed: int, picture: int) -> list[dict[str, Any]]:
        """Return the maps as bytes; white is the layer's maximum in the whole network, so that maps compare."""
        now, whole = (self._pictures.maps(picture, gates) for gates in (closed, 0))
        maps, first = [], 0
        for n in self.known.layers.values():
            most = float(max(map_.max() for map_ in whole[first : first + n]))
            for map_ in now[first : first + n]:
                maps.append({"height": map_.shape[0], "width": map_.shape[1], "bytes": grey(map_, most).tobytes()})
            first += n
        return maps
