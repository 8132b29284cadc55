from .commands import DEFAULT_STORAGE as DEFAULT_STORAGE
from .entry import (
    Accuracy as Accuracy,
)
from .entry import (
    Entry as Entry,
)
from .entry import (
    Environment as Environment,
)
from .entry import (
    Figure as Figure,
)
from .entry import (
    Scores as Scores,
)
from .entry import (
    Speedup as Speedup,
)
from .entry import (
    TargetCost as TargetCost,
)
from .entry import (
    Training as Training,
)
from .errors import LeaderboardError as LeaderboardError
from .exchange import read_entries as read_entries
from .exchange import write_entries as write_entries
from .pareto import front as front
from .pareto import hypervolume as hypervolume
from .pareto import non_dominated as non_dominated
from .query import Board as Board
from .query import Query as Query
from .query import Row as Row
from .query import Track as Track
from .query import parse_latency as parse_latency
from .report import report_html as report_html
from .report import write_report as write_report
from .store import Reference as Reference
from .store import Store as Store
