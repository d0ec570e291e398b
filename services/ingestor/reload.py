"""A newer configuration, in the middle of the work.

Which logs there are follows it in the catalog; here is the rest: what is written to Redis, and how
much of it is kept.
"""

from functools import partial

from certbus.streams.publisher import Publisher
from certbus.streams.retention import Trimmer
from certconf.current import Present
from certconf.settings import Config
from ingestor.config import publisher_settings, retention
from ingestor.redis_retry import Patience


async def apply_changes(
    present: Present, config: Config, publisher: Publisher, trimmer: Trimmer, patience: Patience
) -> None:
    """Go by each newer configuration as it comes, until cancelled.

    Args:
        present: has them.
        config: what everything else was made from.
        publisher: writes other streams from then on, and so do those of all other ingestors.
        trimmer: keeps more or less from then on.
        patience: what to do while Redis is away.
    """
    while True:
        config = await present.newer(than=config)
        trimmer.keep(retention(config))
        await patience(partial(publisher.configure, publisher_settings(config)))
