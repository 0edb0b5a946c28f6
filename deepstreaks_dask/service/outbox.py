"""Messages that are still to be delivered, in the service's state.

A message is queued in the transaction that records what it tells, once for each channel, and is taken out once the other
side has accepted it. So every message is delivered at least once. A kill, or a connection that breaks, between the other
side's acceptance and our note of it delivers the message again, with the same key, by which receivers can drop the second
one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.dialects.sqlite import insert

from deepstreaks_dask.service.schema import outbox, told

_MAX_PAUSE = 3600.0  # seconds


@dataclass(frozen=True)
class Message:
    """What people are told.

    Attributes
    ----------
    key : str
        The same for the same message, and for no other.
    subject, text : str
        In plain text; ``text`` has several lines.
    """

    key: str
    subject: str
    text: str


class Outbox:
    """Messages by channel.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        Of the state.
    channels : sequence of str
        Names of the channels that new messages are for.
    """

    def __init__(self, engine: Engine, channels: Iterable[str] = ()) -> None:
        self._engine, self.channels = engine, tuple(channels)

    def queue(self, connection: Connection, message: Message) -> None:
        """Queue a message for every channel, within a transaction; one that was queued before is not queued again.

        Parameters
        ----------
        connection : sqlalchemy.Connection
            Of the transaction.
        message : Message
            To be delivered.
        """
        now = time.time()
        for channel in self.channels:
            row = {
                "key": message.key,
                "channel": channel,
                "subject": message.subject,
                "text": message.text,
                "queued": now,
                "next": now,
                "tries": 0,
                "error": "",
            }
            connection.execute(insert(outbox).values(**row).on_conflict_do_nothing())

    def untold(self, connection: Connection, ids: Iterable[str]) -> set[str]:
        """Return the candidates that nobody was told of yet, and note that they are told in this transaction.

        Parameters
        ----------
        connection : sqlalchemy.Connection
            Of the transaction.
        ids : iterable of str
            Of candidates.

        Returns
        -------
        set of str
            Those that are new.
        """
        new = set()
        for name in ids:
            row = insert(told).values(id=name).on_conflict_do_nothing()
            if connection.execute(row).rowcount:
                new.add(name)
        return new

    def due(self, channel: str) -> list[Message]:
        """Return the messages to deliver to a channel now, the oldest first."""
        waits = outbox.c.sent.is_(None) & (outbox.c.next <= time.time())
        query = select(outbox.c.key, outbox.c.subject, outbox.c.text)
        query = query.where((outbox.c.channel == channel) & waits)
        query = query.order_by(outbox.c.queued, outbox.c.key)
        with self._engine.connect() as connection:
            return [Message(*row) for row in connection.execute(query)]

    def delivered(self, key: str, channel: str) -> None:
        """Note that the other side has accepted a message.

        Parameters
        ----------
        key, channel : str
            Of the message.
        """
        self._change(key, channel, sent=time.time(), error="")

    def failed(self, key: str, channel: str, error: str) -> None:
        """Note that a message could not be delivered; each failure doubles the pause before the next attempt.

        Parameters
        ----------
        key, channel : str
            Of the message.
        error : str
            What went wrong.
        """
        here = (outbox.c.key == key) & (outbox.c.channel == channel)
        with self._engine.connect() as connection:
            tries = connection.execute(select(outbox.c.tries).where(here)).scalar_one() + 1
        pause = min(30.0 * 2.0 ** min(tries, 10), _MAX_PAUSE)
        self._change(key, channel, tries=tries, next=time.time() + pause, error=error[:500])

    def waiting(self) -> int:
        """Return the number of messages that are still to be delivered to the present channels."""
        here = outbox.c.sent.is_(None) & outbox.c.channel.in_(self.channels)
        with self._engine.connect() as connection:
            return connection.execute(select(func.count()).where(here)).scalar_one()

    def wake(self) -> None:
        """Let all messages be tried again at once."""
        with self._engine.begin() as connection:
            waits = outbox.c.sent.is_(None)
            connection.execute(update(outbox).where(waits).values(next=time.time()))

    def _change(self, key: str, channel: str, **values: object) -> None:
        here = (outbox.c.key == key) & (outbox.c.channel == channel)
        with self._engine.begin() as connection:
            connection.execute(update(outbox).where(here).values(**values))
