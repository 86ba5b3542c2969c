"""A stage in work, as one member of a gang has it."""

from dataclasses import dataclass

from vilam3.model.checkpoint import Loaded
from vilam3.recipe import Recipe
from vilam3.settings import Stage
from vilam3.train.ahead import Ahead
from vilam3.train.batches import Feed
from vilam3.train.energy import Meter
from vilam3.train.kept import KeptModels
from vilam3.train.ledger import Ledger
from vilam3.train.order import Control, Order
from vilam3.train.peers import Peers
from vilam3.train.sharded import Checkpoints
from vilam3.train.strategy import Strategy


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """All that a member needs for its part of a stage."""

    order: Order
    recipe: Recipe
    settings: Stage
    inputs: dict[str, str]
    loaded: Loaded
    feed: Feed
    ahead: Ahead
    strategy: Strategy
    checkpoints: Checkpoints
    models: KeptModels
    peers: Peers
    control: Control
    ledger: Ledger
    meter: Meter

    @property
    def steps(self) -> int:
        """Of the stage, if nothing ends it early."""
        return self.settings.planned_steps(self.feed.sizes)
