"""Ways to tell people: a webhook that takes Slack's JSON, and e-mail over SMTP. Neither is trusted to answer.

A channel accepts a message or raises :class:`ChannelError`, within :data:`DEADLINE` seconds. What it raises says nothing
of a URL or a password.
"""

from __future__ import annotations

import os
import smtplib
import ssl
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import requests
import urllib3

from deepstreaks_dask.errors import DepotError
from deepstreaks_dask.service.clock import clocked, clocked_session, deadline
from deepstreaks_dask.service.credentials import WEBHOOK, Credentials, read_private
from deepstreaks_dask.service.outbox import Message, Outbox

DEADLINE = 20.0
"""Seconds for a message."""

_MAX_ANSWER_BYTES = 2**16
_MAX_TEXT_LENGTH = 30_000  # characters; Slack takes 40,000


class ChannelError(Exception):
    """A message was not accepted, or nobody knows whether it was."""


class Channel(Protocol):
    """Somebody to be told."""

    name: str

    def deliver(self, message: Message) -> None:
        """Deliver a message; what is raised means that it is to be delivered again."""
        ...


class Webhook:
    """Posts ``{"text": …}``, as Slack, Mattermost, Rocket.Chat and others take it, with the header ``Idempotency-Key``.

    Parameters
    ----------
    url : str
        ``https://…``; a secret.
    timeout : float
        Seconds for all of it.
    allow_plaintext : bool
        Whether it may be ``http://``.

    Raises
    ------
    DepotError
        If it is no such URL.
    """

    def __init__(
        self, url: str, *, timeout: float = DEADLINE, allow_plaintext: bool = False
    ) -> None:
        try:
            parts = urlsplit(url.strip())
            host = parts.hostname
        except ValueError:
            host = None
        if not host or parts.scheme not in ("https", "http"):
            raise DepotError("the webhook is no URL that begins with https://")
        if parts.scheme != "https" and not allow_plaintext:
            raise DepotError(
                f"the webhook at {host}, whose URL is a secret, would be called without encryption: use https://, or "
                "give --allow-plaintext where nobody else is on the way"
            )
        self.name = f"webhook {host}"
        self._url, self._timeout = url.strip(), timeout

    def deliver(self, message: Message) -> None:
        """Post a message.

        Parameters
        ----------
        message : Message
            To be delivered.

        Raises
        ------
        ChannelError
            If the other side did not accept it, or nobody knows whether it did.
        """
        body = {"text": _for_slack(f"*{message.subject}*\n{message.text}")}
        headers = {"Idempotency-Key": message.key, "Accept-Encoding": "identity"}
        try:
            with (
                deadline(self._timeout, idle=self._timeout),
                clocked_session() as session,
                session.post(
                    self._url,
                    json=body,
                    headers=headers,
                    timeout=self._timeout,
                    stream=True,
                    allow_redirects=False,
                    auth=lambda request: request,  # none of a .netrc
                ) as response,
            ):
                status = response.status_code
                response.raw.read(_MAX_ANSWER_BYTES, decode_content=False)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise ChannelError(f"{self.name}: {type(error).__name__}") from None
        if not 200 <= status < 300:
            raise ChannelError(f"{self.name} answers {status}")


class Mail:
    """Sends plain text to one recipient, with the message's key in ``Message-ID``.

    Parameters
    ----------
    server : str
        ``smtps://host:465``, or ``smtp://host:25`` (587 with credentials), where STARTTLS is used if the server has it.
    sender, recipient : str
        Addresses.
    credentials : Credentials, optional
        Only sent over TLS, unless ``allow_plaintext``.
    timeout : float
        Seconds for all of it.
    allow_plaintext : bool
        Whether credentials may go to a server without TLS.
    context : ssl.SSLContext, optional
        Which certificates are trusted; the system's by default.

    Raises
    ------
    DepotError
        If one of them cannot be used.
    """

    def __init__(
        self,
        server: str,
        sender: str,
        recipient: str,
        *,
        credentials: Credentials | None = None,
        timeout: float = DEADLINE,
        allow_plaintext: bool = False,
        context: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(server)
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname or parts.username:
            raise DepotError(
                "--smtp: give smtps://HOST or smtp://HOST, with a port if it is another, and no password"
            )
        for address in (sender, recipient):
            plain = address.isascii() and address.isprintable() and "@" in address
            if not plain or parseaddr(address)[1] != address:
                raise DepotError(f"{address!r} is no e-mail address")
        self.name = f"mail {recipient}"
        self._secure, self._host = parts.scheme == "smtps", parts.hostname
        self._port = parts.port or (465 if self._secure else 587 if credentials else 25)
        self._sender, self._recipient = sender, recipient
        self._credentials, self._timeout = credentials, timeout
        self._allow_plaintext = allow_plaintext
        self._context = context or ssl.create_default_context()

    def deliver(self, message: Message) -> None:
        """Send a message.

        Parameters
        ----------
        message : Message
            To be delivered.

        Raises
        ------
        ChannelError
            If the other side did not accept it, or nobody knows whether it did.
        """
        try:
            with deadline(self._timeout, idle=self._timeout):
                self._send(self._compose(message))
        except ChannelError:
            raise
        except (smtplib.SMTPException, OSError, EOFError) as error:
            code = getattr(error, "smtp_code", "")
            raise ChannelError(
                f"{self.name} over {self._host}: {type(error).__name__} {code}".strip()
            ) from None

    def _send(self, mail: EmailMessage) -> None:
        where = self._host, self._port
        server = (
            _SecureServer(*where, timeout=self._timeout, context=self._context)
            if self._secure
            else _Server(*where, timeout=self._timeout)
        )
        try:
            server.ehlo()
            if not self._secure and server.has_extn("starttls"):
                server.starttls(context=self._context)
                server.ehlo()
            elif self._credentials and not self._secure and not self._allow_plaintext:
                raise ChannelError(
                    f"{self.name}: {self._host} offers no TLS for the password: use smtps://, or give --allow-plaintext"
                )
            if self._credentials:
                server.login(self._credentials.user, self._credentials.password)
            server.send_message(mail, self._sender, [self._recipient])
        finally:
            server.close()  # no QUIT: what is accepted is accepted

    def _compose(self, message: Message) -> EmailMessage:
        mail = EmailMessage()
        mail["Subject"] = f"DeepStreaks: {' '.join(message.subject.split())}"
        mail["From"], mail["To"] = self._sender, self._recipient
        mail["Date"] = formatdate()
        mail["Message-ID"] = f"<{message.key}@{self._sender.rpartition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.text)
        return mail


class _Server(smtplib.SMTP):
    """A server whose answers obey the current clock."""

    def getreply(self) -> tuple[int, bytes]:
        if self.file is None and self.sock is not None:
            self.file = clocked(self.sock.makefile("rb"), self.sock)
        return super().getreply()


class _SecureServer(_Server, smtplib.SMTP_SSL):
    pass


def deliver_all(
    outbox: Outbox, channels: Sequence[Channel], failed: Callable[[ChannelError], None]
) -> int:
    """Deliver what is due to every channel; a channel that fails is left alone until the next call.

    Parameters
    ----------
    outbox : Outbox
        With the messages.
    channels : sequence of Channel
        Those to be told.
    failed : callable
        Called with the error of each channel that failed.

    Returns
    -------
    int
        Messages that were accepted.
    """
    accepted = 0
    for channel in channels:
        for message in outbox.due(channel.name):
            try:
                channel.deliver(message)
            except Exception as error:  # one message that cannot be sent must not keep the others
                known = isinstance(error, ChannelError)
                why = str(error) if known else f"{channel.name}: {type(error).__name__}"
                outbox.failed(message.key, channel.name, why)
                failed(ChannelError(why))
                break
            outbox.delivered(message.key, channel.name)
            accepted += 1
    return accepted


def read_webhook(file: Path | None) -> str | None:
    """Return the webhook's URL from a file, mode 600, or else from the environment; None if there is none."""
    return read_private(file).strip() if file is not None else os.environ.get(WEBHOOK) or None


def _for_slack(text: str) -> str:
    """Escape what Slack would take for markup."""
    text = text[:_MAX_TEXT_LENGTH]
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
