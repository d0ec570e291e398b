"""A newer configuration, in the middle of the work.

Which logs there are follows it in the catalog; here is the rest: what is written to Redis, and how
much of it is kept.
"""

from functools import partial

from certbus.streams.publisher import Publisher
from certbus.streams.retention import Trimmer
from certconf.current import ConfigHolder
from certconf.settings import Config
from ingestor.config import publisher_settings, retention
from ingestor.redis_retry import RedisRetry


async def apply_changes(
    present: ConfigHolder,
    config: Config,
    publisher: Publisher,
    trimmer: Trimmer,
    patience: RedisRetry,
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
        config = await present.wait_for_change(than=config)
        trimmer.set_limits(retention(config))
        await patience(partial(publisher.configure, publisher_settings(config)))
