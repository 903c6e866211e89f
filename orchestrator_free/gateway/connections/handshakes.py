"""WebSockets whose handshake may fail: a client that is refused, or speaks nonsense, costs the log one quiet line.

Uvicorn takes an answer other than 101 for a failure of the application, and text that is no UTF-8 for an error: whoever
wants to would fill the log.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from orchestrator_free import logs

_log = logs.logger("orchestrator_free.gateway")

#: what uvicorn and websockets log as errors though it is a client's doing
_CLIENTS_DOING: Final = ("Invalid UTF-8 sequence", "opening handshake failed", "closing handshake failed")
_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def quiet() -> None:
    """Let uvicorn's log say what is wrong here, not what clients do wrong."""
    logging.getLogger("uvicorn.error").addFilter(_worth_saying)


def _worth_saying(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_CLIENTS_DOING)


class WebSocket(WebSocketsSansIOProtocol):
    """Uvicorn's protocol; give it to uvicorn as `ws`."""

    async def send(self, message: Any) -> None:
        """Send what the application says; a refusal that has been sent is the end of the handshake."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body") and self.initial_response:
            self.handshake_complete = True
            _log.debug("a WebSocket was refused", status=self.initial_response[0])

    def data_received(self, data: bytes) -> None:
        """Take what comes; a head that cannot be parsed, which uvicorn leaves open without an answer, is refused."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            _log.debug("a WebSocket's handshake cannot be parsed", reason=str(self.conn.handshake_exc.__cause__))
            self.handshake_complete = True  # there is nothing left to say at a shutdown
            self.transport.write(_BAD_REQUEST)
            self.transport.close()
