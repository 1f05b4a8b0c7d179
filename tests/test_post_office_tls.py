"""TLS to a post office: old keys are taken, strangers are not."""

import base64
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ingestion.post_office.client import Refused, open_post_office
from tests.odd_post_office import FILES, LIMITS, LOGIN, PASSWORD, answering, failure, listing

# RFC 2409, 6.2: 1024 bits, as the post office's keys.
OAKLEY_2 = bytes.fromhex(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
    "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
    "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE65381FFFFFFFFFFFFFFFF"
)
# PKCS #3, DHParameter: the prime, and the generator 2.
DH = b"\x30\x81\x87\x02\x81\x81\x00" + OAKLEY_2 + b"\x02\x01\x02"
DH_PEM = f"-----BEGIN DH PARAMETERS-----\n{base64.encodebytes(DH).decode()}-----END DH PARAMETERS-----\n"


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "post office")])
    start = datetime.now(UTC) - timedelta(days=1)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), start, start + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "identity.pem"
    path.write_bytes(made.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


@pytest.fixture
def old_server(identity: Path, tmp_path: Path) -> ssl.SSLContext:
    """TLS 1.2 with a Diffie-Hellman key of 1024 bits and nothing else."""
    (tmp_path / "dh.pem").write_text(DH_PEM)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("DHE-RSA-AES128-GCM-SHA256:@SECLEVEL=0")
    context.load_dh_params(str(tmp_path / "dh.pem"))
    return context


async def test_a_weak_key_is_taken(identity: Path, old_server: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trusted server whose key exchange is too short for the default is answered all the same."""
    monkeypatch.setenv("SSL_CERT_FILE", str(identity))
    async with answering(listing(FILES), tls=old_server) as asked, open_post_office(LIMITS) as office:
        assert asked.url.startswith("https")
        assert len(await office.mailbox(asked.url, LOGIN, PASSWORD).new()) == 2


async def test_a_stranger_gets_no_password(old_server: ssl.SSLContext) -> None:
    """A certificate that nobody vouches for ends the call at once, before anything is sent, and the error says so."""
    async with answering(listing(FILES), tls=old_server) as asked, open_post_office(LIMITS) as office:
        error = await failure(office.mailbox(asked.url, LOGIN, PASSWORD))
    assert isinstance(error, Refused)
    assert "certificate is not trusted" in str(error)
    assert asked.bodies == []
