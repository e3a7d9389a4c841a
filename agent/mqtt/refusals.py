# SPDX-License-Identifier: Apache-2.0
"""What a broker's refusal means and what to do about it: one sentence each."""

from __future__ import annotations

import errno
import socket
import ssl

from agent.errors import BrokerError, printable

CONNECTION_LOST = 0x80  # the link ended without a DISCONNECT packet
KEEPALIVE_TIMEOUT = 0x8D  # MQTT 5, 3.14.2.1
SESSION_TAKEN_OVER = 0x8E
NOBODY = KEEPALIVE_TIMEOUT  # what ends a connection without saying anything about a message in flight

NOT_AUTHORISED = 0x87
TOPIC_NAME_INVALID = 0x90
PAYLOAD_FORMAT_INVALID = 0x99
MAYBE_THIS_ROW = frozenset({0x80, 0x83})  # unspecified and implementation specific: may be about one message alone

# DISCONNECT reasons that say something about the broker or the link, never about a message in flight.
BLAMELESS = frozenset({0x89, 0x8B, KEEPALIVE_TIMEOUT, SESSION_TAKEN_OVER, 0x96, 0x97, 0x98, 0x9C, 0x9D, 0x9F, 0xA0})

# PUBACK reasons, MQTT 5, 3.4.2.1.
PUBACK_REASONS = {
    0x80: "unspecified_error",
    0x83: "implementation_specific_error",
    NOT_AUTHORISED: "not_authorised",
    TOPIC_NAME_INVALID: "topic_name_invalid",
    0x91: "packet_identifier_in_use",
    0x97: "quota_exceeded",
    PAYLOAD_FORMAT_INVALID: "payload_format_invalid",
}

_CONNACK_5 = {
    0x84: "does not speak MQTT 5: upgrade it, or set broker.protocol to '3.1.1' and read what that costs",
    0x85: "refuses this client id: the broker's rules and the certificate's name disagree",
    0x86: "does not know the certificate's name: was it revoked? If not, carry the site's rules to it again; Mosquitto"
    " also needs 'use_identity_as_username true' on its TLS listener",
    NOT_AUTHORISED: "does not authorise this client: its certificate was revoked, or its name is not in the ACL",
    0x88: "is not available at the moment: look at the broker",
    0x89: "is busy at the moment: look at the broker's load",
    0x8A: "has banned this client: look at the broker's ban list",
    0x95: "refuses the size of the first packet: raise max_packet_size",
    0x97: "says that a quota is exceeded: raise the broker's limits",
    0x9C: "asks for another server: correct broker.host",
    0x9D: "has moved: correct broker.host",
    0x9F: "sees too many connections: wait, and look for two clients with one identity",
}
_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED (openssl-verify(1)); Python's ssl has no name for it
_CONNACK_3 = {1: 0x84, 2: 0x85, 3: 0x88, 4: 0x86, 5: NOT_AUTHORISED}  # MQTT 3.1.1, table 3.1

# Words of OpenSSL for what the broker said about our certificate.
_ALERTS = (
    ("unknown ca", "does not know the authority of this certificate: give the broker this site's ca.crt"),
    ("certificate revoked", "says that this certificate is revoked: ask the site's owner for a new identity"),
    ("certificate expired", "says that this certificate is expired: compare the clocks, then have a new one issued"),
    ("certificate required", "asks for a certificate and got none: check tls.crt and tls.key"),
    ("bad certificate", "refuses this certificate: have a new one issued by the site's authority"),
    ("certificate unknown", "refuses this certificate: have a new one issued by the site's authority"),
    ("eof occurred", "closed the connection before MQTT began: it may not accept this certificate; look at its log"),
    # In TLS 1.3 the broker's alert may be overtaken by its reset of the connection.
    ("reset by peer", "closed the connection before MQTT began: it may not accept this certificate; look at its log"),
    ("handshake failure", "refuses the TLS handshake: check that it asks for a certificate of this site"),
    ("wrong version number", "does not speak TLS on this port: correct the port"),
    ("protocol version", "speaks no TLS 1.2 or newer: upgrade the broker"),
)


class ConnectionLostError(BrokerError):
    """An established connection ended; ``reason`` is the DISCONNECT code or ``CONNECTION_LOST``.

    ``refused`` says what of the broker this side ended it for.
    """

    def __init__(self, reason: int, place: str, refused: str = "") -> None:
        words = {
            KEEPALIVE_TIMEOUT: "stopped answering: check the network",
            SESSION_TAKEN_OVER: "gave the session to another client: another unit or program uses this certificate, or"
            " this one runs twice",
            0x8B: "is shutting down: wait for its restart",
        }
        sentence = words.get(reason, f"closed the connection (reason 0x{reason:02x}): look at its log")
        ended = f"the connection to the broker {place} was ended from here: {refused}"
        super().__init__(ended if refused else f"the broker {place} {sentence}")
        self.reason = reason


def explain_connack(place: str, code: int, protocol: str) -> str:
    """Sentence for a refused CONNECT."""
    if protocol != "5":
        code = _CONNACK_3.get(code, code)
    return f"the broker {place} {_CONNACK_5.get(code, f'refuses the session (reason 0x{code:02x}): look at its log')}"


def explain_tls(place: str, error: Exception) -> str:
    """Sentence for a connection that failed before MQTT began."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = printable(error.verify_message or "not verified")
        if error.verify_code == _EXPIRED:
            return (
                f"the certificate of {place} has expired, or this clock is ahead: make a new one at the site (postern"
                " site broker HOST), carry it to the broker, restart that"
            )
        return (
            f"the certificate of {place} is not accepted ({reason}): check ca.crt, or whether the invitation is of this"
            " broker's site, the name of the host and both clocks"
        )
    if isinstance(error, socket.gaierror):
        return f"the name of the broker {place} is unknown: correct the host or the name server"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens at {place}: start the broker or correct host and port"
    if isinstance(error, TimeoutError):
        return f"the broker {place} does not answer: check the network and the firewall"
    if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"there is no way to {place}: check the network"
    said = str(error).lower().replace("_", " ")
    for words, sentence in _ALERTS:
        if words in said:
            return f"the broker {place} {sentence}"
    return f"the connection to the broker {place} failed ({printable(str(error))}): look at the broker's log"
