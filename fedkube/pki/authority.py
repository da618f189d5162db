"""A certificate authority of one run, and the certificates that it gives out.

Keys are P-256: gRPC's TLS supports it everywhere, and making one takes well under a millisecond.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Clocks of peers may differ by this much.
SKEW = timedelta(minutes=5)


class Authority:
    """Signs certificates; its key stays in this object and is never written.

    ``subject``: the authority's name. ``now``: from when it is valid. ``lifetime``: of the
    authority and of every certificate it signs.
    """

    def __init__(self, subject: str, now: datetime, lifetime: timedelta) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(subject)
        self._begin = now.astimezone(UTC) - SKEW
        self._end = now.astimezone(UTC) + lifetime
        key_id = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self._cert = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(key_id, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def certificate(self) -> bytes:
        """The authority's own certificate, PEM."""
        return self._cert.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        common_name: str,
        uri: str,
        hosts: Sequence[str] = (),
        *,
        server: bool = False,
        client: bool | None = None,
    ) -> tuple[bytes, bytes]:
        """A certificate and its key, both PEM.

        ``uri``: the holder's identity. ``hosts``: the names and addresses it may be reached by.
        ``server``: whether it accepts connections. ``client``: whether it makes them; whoever does
        not accept any does, if nothing is said.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
        names += [_host(host) for host in hosts]
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH] if server else []
        if client or (client is None and not server):
            purposes.append(ExtendedKeyUsageOID.CLIENT_AUTH)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            self._builder(_name(common_name), key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return (
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._begin)
            .not_valid_after(self._end)
        )


def seconds_left(certificate: bytes, now: datetime) -> float:
    """How long a certificate, PEM, still holds."""
    ends = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    return (ends - now).total_seconds()


def _name(common_name: str) -> x509.Name:
    # 64 characters is X.509's limit of a common name; identity is in the URI, not here.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
