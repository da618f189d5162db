from __future__ import annotations

import contextlib
import ipaddress
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedkube.pki.authority import SKEW, Authority

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
LIFE = timedelta(days=2)
URI = "fedkube://run-1/worker/worker-0"


@pytest.fixture(scope="module")
def authority():
    return Authority("run-1", NOW, LIFE)


def load(pem):
    return x509.load_pem_x509_certificate(pem)


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def verify(authority, pem, at=NOW):
    """The chain by cryptography's rules; which purpose is right is looked at below, by TLS."""
    any_purpose = verification.ExtensionPolicy.webpki_defaults_ee().require_present(
        x509.ExtendedKeyUsage, verification.Criticality.CRITICAL, None
    )
    return (
        verification.PolicyBuilder()
        .store(verification.Store([load(authority.certificate())]))
        .time(at)
        .extension_policies(
            ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(), ee_policy=any_purpose
        )
        .build_client_verifier()
        .verify(load(pem), [])
    )


# ------------------------------------------------------------- the chain


@pytest.mark.parametrize("at", [NOW - SKEW, NOW, NOW + LIFE], ids=["begin", "now", "end"])
@pytest.mark.parametrize("server", [False, True])
def test_a_certificate_is_verified_as_long_as_it_lives(authority, at, server):
    certificate, _ = authority.issue("worker 0", URI, server=server)
    chain = verify(authority, certificate, at)
    assert [each.subject for each in chain.chain][1:] == [load(authority.certificate()).subject]
    assert [name.value for name in chain.subjects] == [URI]


@pytest.mark.parametrize(
    "at", [NOW - SKEW - timedelta(seconds=1), NOW + LIFE + timedelta(seconds=1)]
)
def test_before_its_time_and_after_it_a_certificate_is_refused(authority, at):
    certificate, _ = authority.issue("worker 0", URI)
    with pytest.raises(verification.VerificationError, match="not valid at"):
        verify(authority, certificate, at)


def test_another_runs_certificate_is_refused_even_under_the_same_name(authority):
    certificate, _ = Authority("run-1", NOW, LIFE).issue("worker 0", URI)
    with pytest.raises(verification.VerificationError, match="candidates exhausted"):
        verify(authority, certificate)


# ------------------------------------------------------------- roles, by a TLS handshake


@pytest.fixture(scope="module")
def today():
    """OpenSSL looks at the clock, so these certificates are of today."""
    return Authority("run-1", datetime.now(UTC), timedelta(hours=1))


def context(side, folder):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if side == "server" else ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(folder / "ca.pem")
    made.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def handshake(server, client, host):
    """Both ends in memory, in turns; raises what either of them raises."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        context("client", client).wrap_bio(down, up, server_hostname=host),
        context("server", server).wrap_bio(up, down, server_side=True),
    ]
    for end in ends * 3:
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    # Under TLS 1.3 a client learns only now that its certificate was refused.
    assert ends[1].getpeercert()
    return ends[1].getpeercert()["subjectAltName"]


@pytest.fixture
def issue_to(today, tmp_path):
    """OpenSSL reads its certificates from files."""

    def issue(name, hosts=(), *, server=False, client=None, by=today):
        certificate, key = by.issue(name, URI, hosts, server=server, client=client)
        folder = tmp_path / name
        folder.mkdir()
        (folder / "ca.pem").write_bytes(by.certificate())
        (folder / "cert.pem").write_bytes(certificate)
        (folder / "key.pem").write_bytes(key)
        return folder

    return issue


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_server_and_worker_shake_hands(issue_to, host):
    server = issue_to("server", ("127.0.0.1", "localhost"), server=True)
    assert handshake(server, issue_to("worker"), host) == (("URI", URI),)


def test_a_server_under_another_name_is_refused(issue_to):
    server = issue_to("server", ("localhost",), server=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(server, issue_to("worker"), "elsewhere")


def test_a_worker_cannot_pose_as_a_server(issue_to):
    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        handshake(issue_to("posing", ("localhost",)), issue_to("worker"), "localhost")


def test_a_relay_serves_and_connects(issue_to):
    relay = issue_to("relay", ("localhost",), server=True, client=True)
    server = issue_to("server", ("localhost",), server=True)
    assert handshake(relay, issue_to("worker"), "localhost") == (("URI", URI),)
    assert handshake(server, relay, "localhost")[0] == ("URI", URI)


def test_a_server_cannot_pose_as_a_worker(issue_to):
    server = issue_to("server", ("localhost",), server=True)
    posing = issue_to("posing", ("localhost",), server=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        handshake(server, posing, "localhost")


def test_a_worker_of_another_run_is_refused(issue_to, today, tmp_path):
    server = issue_to("server", ("localhost",), server=True)
    other = issue_to("worker", by=Authority("run-1", datetime.now(UTC), timedelta(hours=1)))
    (other / "ca.pem").write_bytes(today.certificate())
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get|signature failure"):
        handshake(server, other, "localhost")


def test_a_leaf_cannot_sign(issue_to, today):
    """A worker with its own key and certificate makes another worker: nobody believes it."""
    server, worker = issue_to("server", ("localhost",), server=True), issue_to("worker")
    forger = Authority("worker", datetime.now(UTC), timedelta(hours=1))
    forger._key = serialization.load_pem_private_key((worker / "key.pem").read_bytes(), None)
    forged = issue_to("forged", by=forger)
    (forged / "ca.pem").write_bytes(today.certificate())
    chain = (forged / "cert.pem").read_bytes() + (worker / "cert.pem").read_bytes()
    (forged / "cert.pem").write_bytes(chain)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"invalid CA|unable to get"):
        handshake(server, forged, "localhost")


# ------------------------------------------------------------- what the certificates say


def test_the_authority_may_sign_certificates_and_nothing_else(authority):
    certificate = load(authority.certificate())
    basic = extension(certificate, x509.BasicConstraints)
    assert basic.critical
    assert (basic.value.ca, basic.value.path_length) == (True, 0)
    usage = extension(certificate, x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature


@pytest.mark.parametrize(
    ("server", "purpose"),
    [(False, ExtendedKeyUsageOID.CLIENT_AUTH), (True, ExtendedKeyUsageOID.SERVER_AUTH)],
)
def test_a_leaf_may_do_one_thing(authority, server, purpose):
    certificate = load(authority.issue("x", URI, server=server)[0])
    assert not extension(certificate, x509.BasicConstraints).value.ca
    assert list(extension(certificate, x509.ExtendedKeyUsage).value) == [purpose]
    usage = extension(certificate, x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert not usage.crl_sign
    assert not usage.key_encipherment
    assert not usage.key_agreement


def test_the_names_are_the_identity_and_the_hosts(authority):
    certificate = load(authority.issue("x", URI, ("127.0.0.1", "::1", "localhost"))[0])
    names = extension(certificate, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [URI]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("::1"),
    ]


def test_the_key_belongs_to_the_certificate_and_is_p256(authority):
    certificate, key_pem = authority.issue("x", URI)
    key = serialization.load_pem_private_key(key_pem, None)
    assert isinstance(key.curve, ec.SECP256R1)
    assert key.public_key() == load(certificate).public_key()


def test_every_certificate_has_its_own_key_and_serial_number(authority):
    issued = [authority.issue("x", URI) for _ in range(5)]
    assert len({key for _, key in issued}) == 5
    assert len({load(certificate).serial_number for certificate, _ in issued}) == 5


def test_a_long_name_is_cut_and_the_identity_is_not(authority):
    long = URI + "x" * 100
    certificate = load(authority.issue("n" * 100, long)[0])
    (name,) = certificate.subject
    assert name.value == "n" * 64
    names = extension(certificate, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [long]


def test_a_time_of_any_zone_means_the_same_moment():
    zone = datetime(2026, 6, 1, 14, tzinfo=UTC).astimezone().tzinfo
    certificate = load(Authority("x", NOW.astimezone(zone), LIFE).certificate())
    assert certificate.not_valid_before_utc == NOW - SKEW
    assert certificate.not_valid_after_utc == NOW + LIFE


def test_the_authoritys_key_is_in_nothing_that_it_gives_out(authority):
    secret = authority._key.private_numbers().private_value.to_bytes(32, "big")
    certificate, key = authority.issue("x", URI)
    given = serialization.load_pem_private_key(key, None).private_numbers().private_value
    assert given.to_bytes(32, "big") != secret
    assert secret not in load(certificate).public_bytes(serialization.Encoding.DER)
    assert secret not in load(authority.certificate()).public_bytes(serialization.Encoding.DER)
