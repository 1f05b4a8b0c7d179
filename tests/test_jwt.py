"""Bearer tokens: who is let in, as whom, and what happens when the issuer is slow, hostile or away."""

import asyncio
import base64
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from base.errors import InvalidToken, ServerBusy
from handlers.issuers import KEYS_TTL_S, PAUSE_S, RETRY_S, Issuer, _key_address, _UnusableError
from handlers.tokens import LEEWAY_S, SCOPES, scopes_of
from handlers.wellknown import PATHS as WELL_KNOWN
from storage.embedded import Cluster
from tests.issuer import AUDIENCE, DISCOVERY, JWKS, IssuerServer, bearing, issuing, jwk, key_named, verified
from tests.support import PATHS, Asker, Home, Reply, add_tenant, asking, build_home, diagnosed, patient, until
from tests.test_bad_input import Wire


async def _fill(home: Home) -> None:
    home.keys["one"] = await add_tenant(home.database, "one", [patient("a"), patient("only-here", active=True)])
    home.keys["two"] = await add_tenant(home.database, "two", [patient("a", active=False)])
    home.keys["alone"] = await add_tenant(home.database, "alone", exclusive=True)


@pytest.fixture(scope="module")
def home(cluster: Cluster, template: str) -> Home:
    return build_home(cluster, template, "jwt", _fill)


@pytest.fixture
async def issuer() -> AsyncIterator[IssuerServer]:
    async with issuing() as server:
        yield server


class Clock:
    """Where keys and tokens are remembered, it is `ahead` seconds later than it is."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("handlers.issuers.monotonic", clock)
    monkeypatch.setattr("base.remembered.monotonic", clock)
    return clock


@asynccontextmanager
async def trusting(home: Home, *issuers: IssuerServer, path: str = "direct", **settings: Any) -> AsyncIterator[Asker]:
    """A server that takes tokens of these issuers."""
    urls = tuple(issuer.url for issuer in issuers)
    async with asking(home, path, **{"jwt_issuers": urls, "jwt_audience": AUDIENCE, **settings}) as ask:
        yield ask


async def bear(ask: Asker, token: str, path: str = "/patients/a", method: str = "GET", **headers: str) -> Reply:
    return await ask.once(path, None, method, **bearing(token), **headers)


def refused(reply: Reply) -> str:
    """Checks that a token was called bad, and returns why."""
    assert reply.headers["WWW-Authenticate"] == 'Bearer realm="sluice", error="invalid_token"'
    return diagnosed(reply, 401, "login")


# Who is let in


@pytest.mark.parametrize("path", PATHS)
async def test_a_token_reads(home: Home, issuer: IssuerServer, path: str) -> None:
    """A token gives its tenant the same bytes as that tenant's key, on either path."""
    async with trusting(home, issuer, path=path) as ask:
        for url in ("/patients/a", "/fhir/Patient?_count=1"):
            by_key, by_token = await ask.once(url), await bear(ask, issuer.token(), url)
            assert (by_token.status, by_token.path, by_token.body) == (200, path, by_key.body)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(f"{key}-1", name) for key in ("rsa",) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")]
    + [("P-256", "ES256"), ("P-384", "ES384"), ("P-521", "ES512"), ("ed-1", "EdDSA")],
)
async def test_algorithms(home: Home, issuer: IssuerServer, key: str, algorithm: str) -> None:
    """Each asymmetric algorithm is taken, whether the key names it or not."""
    async with trusting(home, issuer) as ask:
        issuer.keys = [jwk(key), jwk("rsa-2")]
        assert (await bear(ask, issuer.token(key, algorithm))).status == 200
    async with trusting(home, issuer) as ask:
        issuer.keys = [jwk(key, alg=algorithm, use="sig")]
        assert (await bear(ask, issuer.token(key, algorithm))).status == 200


def _parts(token: str) -> list[Any]:
    return [json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2]]


def _joined(header: Any, payload: Any, signature: str) -> str:
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, payload))
    return ".".join([*encoded, signature])


def _changed(issuer: IssuerServer, **claims: Any) -> str:
    """A good token's signature under other claims."""
    token = issuer.token()
    header, payload = _parts(token)
    return _joined(header, payload | claims, token.rsplit(".", 1)[1])


def _unsigned(issuer: IssuerServer, name: str) -> str:
    header, payload = _parts(issuer.token())
    return _joined(header | {"alg": name}, payload, "")


def _by_public_key(issuer: IssuerServer, form: Encoding) -> str:
    """As if the key that everybody knows were the secret of HS256."""
    public = key_named("rsa-1").public_key()
    secret = public.public_bytes(form, PublicFormat.SubjectPublicKeyInfo)
    header, payload = _parts(issuer.token())
    signing = _joined(header | {"alg": "HS256"}, payload, "").rstrip(".")
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(signing.encode(), secret)
    return f"{signing}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def _now(seconds: float) -> int:
    return int(time.time() + seconds)


Forge = Callable[[IssuerServer], str]
FORGED: dict[str, tuple[Forge, str]] = {
    "expired": (lambda i: i.token(exp=_now(-LEEWAY_S - 2)), "this token has expired"),
    "no end": (lambda i: i.token(exp=None), "does not say whom it is for and how long"),
    "an end that is none": (lambda i: i.token(exp="soon"), "cannot be verified"),
    "an endless end": (lambda i: i.token(exp=10**400), "cannot be verified"),
    "not yet": (lambda i: i.token(nbf=_now(LEEWAY_S + 5)), "not good yet"),
    "issued tomorrow": (lambda i: i.token(iat=_now(86400)), "not good yet"),
    "for another": (lambda i: i.token(aud="https://other.example/fhir"), "not meant for this server"),
    "for a longer name": (lambda i: i.token(aud=AUDIENCE + "/"), "not meant for this server"),
    "for nobody": (lambda i: i.token(aud=None), "whom it is for"),
    "of another": (lambda i: i.token(iss="https://other.example"), "not one that is trusted"),
    "of nobody": (lambda i: i.token(iss=None), "not one that is trusted"),
    "of a list": (lambda i: _changed(i, iss=["x"]), "not one that is trusted"),
    "of almost the same": (lambda i: i.token(iss=i.url + "/"), "not one that is trusted"),
    "unsigned": (lambda i: _unsigned(i, "none"), "signed here by one of"),
    "unsigned, by a name": (lambda i: _unsigned(i, "RS256"), "signature is not its issuer's"),
    "None": (lambda i: _unsigned(i, "None"), "signed here by one of"),
    "public key as secret": (lambda i: _by_public_key(i, Encoding.PEM), "signed here by one of"),
    "public key as secret, DER": (lambda i: _by_public_key(i, Encoding.DER), "signed here by one of"),
    "other claims": (lambda i: _changed(i, tenant="two"), "signature is not its issuer's"),
    "cut signature": (lambda i: i.token()[:-2], "signature is not its issuer's"),
    "no signature": (lambda i: i.token().rsplit(".", 1)[0] + ".", "signature is not its issuer's"),
    "another's key": (lambda i: i.token("rsa-2", kid="rsa-1"), "signature is not its issuer's"),
    "unknown key": (lambda i: i.token("rsa-2"), "key is not one of its issuer's"),
    "key without a name": (lambda i: i.token(kid=None), "key is not one of its issuer's"),
    "key for encryption": (lambda i: i.token("rsa-3"), "key is not one of its issuer's"),
    "key of another algorithm": (lambda i: i.token("rsa-4", "PS256"), "key is not one of its issuer's"),
    "key of another kind": (lambda i: i.token("P-256", "ES256", kid="rsa-1"), "key is not one of its issuer's"),
    "weak key": (lambda i: i.token("weak-1"), "key is not one of its issuer's"),
    "unknown must": (lambda i: jwt.encode({"iss": i.url}, key_named("rsa-1"), "RS256", headers={"crit": ["x"]}), "can be read"),
    "dots": (lambda _: "..", "can be read"),
    "no base64": (lambda _: "a b.c.d", "can be read"),
    "no JSON": (lambda _: "YQ.YQ.YQ", "can be read"),
    "no object": (lambda _: _joined([], [], "YQ"), "can be read"),
    "strange letters": (lambda _: "\xff.\xfe.\xe9", "can be read"),
    "deep": (lambda _: _joined({}, {}, "YQ").replace(".", f".{'W1tb' * 2500}", 1), "can be read"),
}


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")  # the one who signs is warned, too
@pytest.mark.parametrize("name", FORGED)
async def test_forged(home: Home, issuer: IssuerServer, name: str) -> None:
    """A token that is wrong in one thing is refused for that, while the same one that is right in all is let in."""
    forge, why = FORGED[name]
    keys = [jwk("rsa-1"), jwk("rsa-3", use="enc"), jwk("rsa-4", alg="RS256")]
    issuer.keys = [*keys, *([jwk("weak-1")] if name == "weak key" else [])]
    async with trusting(home, issuer) as ask:
        assert why in refused(await bear(ask, forge(issuer)))
        assert (await bear(ask, issuer.token())).status == 200


async def test_bytes_that_are_no_text(home: Home, issuer: IssuerServer) -> None:
    """A token of bytes that are no UTF-8 is refused as any other that cannot be read."""
    async with trusting(home, issuer) as ask:
        url = urlsplit(ask.server.url)
        wire = Wire(url.hostname or "", url.port or 0, "")
        answer = await wire.send(b"GET /patients/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff.\xed\xa0\x80.\xfe\r\n\r\n")
        assert (answer.status, answer.refused) == (401, True)
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


async def test_leeway(home: Home, issuer: IssuerServer) -> None:
    """Clocks may differ by half a minute, either way."""
    async with trusting(home, issuer) as ask:
        assert (await bear(ask, issuer.token(exp=_now(5 - LEEWAY_S)))).status == 200
        assert (await bear(ask, issuer.token(nbf=_now(LEEWAY_S - 5), iat=_now(LEEWAY_S - 5)))).status == 200


async def test_audience(home: Home, issuer: IssuerServer) -> None:
    """Unless it is said, the audience is the FHIR base; a token may name others beside it."""
    async with trusting(home, issuer, jwt_audience="", base_url="https://said.example") as ask:
        assert (await bear(ask, issuer.token(aud=["x", "https://said.example/fhir"]))).status == 200
        assert "not meant for this server" in refused(await bear(ask, issuer.token()))


async def test_two_issuers(home: Home, issuer: IssuerServer) -> None:
    """Each issuer's keys are good for its own tokens, and for no other issuer's."""
    async with issuing() as other:
        other.keys = [jwk("rsa-2")]
        async with trusting(home, issuer, other) as ask:
            assert (await bear(ask, issuer.token())).status == 200
            assert (await bear(ask, other.token("rsa-2"))).status == 200
            assert refused(await bear(ask, other.token("rsa-2", iss=issuer.url)))
            assert refused(await bear(ask, other.token("rsa-2", kid="rsa-1", iss=issuer.url)))


async def test_unnamed_key(home: Home, issuer: IssuerServer) -> None:
    """A token need not name its key when its issuer has only one for the algorithm."""
    issuer.keys = [jwk("rsa-1"), jwk("P-256")]
    async with trusting(home, issuer) as ask:
        assert (await bear(ask, issuer.token(kid=None))).status == 200


async def test_no_issuers(home: Home, issuer: IssuerServer) -> None:
    """Where no issuer is configured a token is an unknown key like any other, and nobody is asked."""
    async with asking(home, "direct") as ask:
        reply = await bear(ask, issuer.token())
        assert diagnosed(reply, 401, "login") == "this key is unknown or was revoked"
        assert reply.headers["WWW-Authenticate"] == 'Bearer realm="sluice"'
    assert not issuer.asked


async def test_keys_beside_tokens(home: Home, issuer: IssuerServer) -> None:
    """Where tokens are taken keys go on, unknown ones are refused as before, and a revoked issuer takes nothing from them."""
    issuer.leaves()
    async with trusting(home, issuer) as ask:
        assert (await ask.once("/patients/a")).status == 200
        reply = await bear(ask, "sluice_unknown")
        assert diagnosed(reply, 401, "login") == "this key is unknown or was revoked"
        assert reply.headers["WWW-Authenticate"] == 'Bearer realm="sluice"'


# As whom, and what for


@pytest.mark.parametrize("path", PATHS)
async def test_tenants_are_apart(home: Home, issuer: IssuerServer, path: str) -> None:
    """A token of one tenant reads nothing of another, by no id, search, validator or cursor."""
    async with trusting(home, issuer, path=path) as ask:
        one, two = issuer.token(), issuer.token(tenant="two")
        assert ("active" in (await bear(ask, one)).json, (await bear(ask, two)).json["active"]) == (False, False)
        for headers in ({}, {"If_None_Match": "*"}):
            assert (await bear(ask, one, "/patients/only-here", **headers)).status == (304 if headers else 200)
            assert diagnosed(await bear(ask, two, "/patients/only-here", **headers), 404, "not-found")
        assert "entry" not in (await bear(ask, two, "/patients?_id=only-here")).json
        following = (await bear(ask, one, "/patients?_count=1")).json["link"][1]["url"].partition("?")[2]
        assert (await bear(ask, one, f"/patients?{following}")).status == 200
        assert diagnosed(await bear(ask, two, f"/patients?{following}"), 400, "invalid")


@pytest.mark.parametrize("named", [{"tenant": "three"}, {"tenant": None}, {"tenant": 1}, {"tenant": "ONE"}, {"tenant": "o\0"}])
async def test_unknown_tenant(home: Home, issuer: IssuerServer, named: dict[str, Any]) -> None:
    """A good token that names no tenant of ours may do nothing."""
    async with trusting(home, issuer) as ask:
        reply = await bear(ask, issuer.token(**named))
        assert diagnosed(reply, 403, "forbidden") == "this token's claim tenant names no tenant of this server"


async def test_tenant_claim(home: Home, issuer: IssuerServer) -> None:
    """The claim that names the tenant is the configured one, and no other."""
    async with trusting(home, issuer, jwt_tenant_claim="https://x/org") as ask:
        named: dict[str, Any] = {"tenant": "one", "https://x/org": "two"}
        token = issuer.token(**named)
        assert (await verified(ask.server, token)).tenant == "two"
        assert diagnosed(await bear(ask, issuer.token()), 403, "forbidden")


async def test_exclusive(home: Home, issuer: IssuerServer) -> None:
    """A tenant that never shares a statement does not share one because it came by a token."""
    async with trusting(home, issuer) as ask:
        shared, alone = [await verified(ask.server, issuer.token(tenant=name)) for name in ("one", "alone")]
        assert (shared.exclusive, alone.exclusive) == (False, True)


SCOPED = {
    "system/*.read": {"read"}, "system/*.rs": {"read"}, "system/*.*": {"read"}, "system/*.cruds": {"read"},
    "user/*.read": {"read"}, "user/*.rs": {"read"}, "user/*.*": {"read"}, "openid user/*.rs launch": {"read"},
    "sluice/warm": {"warm"}, "sluice/report": {"report"}, "sluice/warm system/*.rs sluice/report": {"read", "warm", "report"},
    "patient/*.rs user/*.rs": {"read"}, "patient/*.read": set(), "patient/*.*": set(), "patient/Patient.rs": set(),
    "user/Patient.read": set(), "user/Patient.rs": set(), "system/Encounter.rs": set(), "user/*.rs?_tag=x": set(),
    "system/*.write": set(), "system/*.r": set(), "system/*.s": set(), "system/*.cud": set(), "system/*.sr": set(),
    "user/*.": set(), "xuser/*.rs": set(), "user/*.rsx": set(), "user/x.rs": set(), "operate": set(), "sluice/operate": set(),
    "read warm report": set(), "SYSTEM/*.RS": set(), "": set(),
}  # fmt: skip


@pytest.mark.parametrize("scope", SCOPED)
def test_scopes(scope: str) -> None:
    """Reading is given by scopes of all types and patients alone; operating by none."""
    assert scopes_of({"scope": scope}) == SCOPED[scope]
    assert scopes_of({"scope": scope.split()}) == SCOPED[scope]
    assert scopes_of({"scp": scope}) == SCOPED[scope]


def test_strange_scopes() -> None:
    """Scopes of another form give nothing; those that we tell apps of all give something."""
    for strange in (None, 5, {"system/*.rs": 1}, [["system/*.rs"]], [None], True):
        assert scopes_of({"scope": strange}) == frozenset()
    assert scopes_of({}) == frozenset()
    assert all(scopes_of({"scope": scope}) for scope in SCOPES)


async def test_scopes_are_kept_to(home: Home, issuer: IssuerServer) -> None:
    """What a token does not give is 403, with words for what would give it; nothing lets it operate."""
    async with trusting(home, issuer) as ask:
        for scope in ("patient/*.read", "user/Patient.read", "sluice/warm", "system/*.write"):
            words = diagnosed(await bear(ask, issuer.token(scope=scope)), 403, "forbidden")
            assert "no scope of one patient or one type" in words
        reader, warmer = issuer.token(), issuer.token(scope="sluice/warm")
        assert (await bear(ask, reader, "/warm-up", "POST")).status == 403
        assert (await bear(ask, warmer, "/warm-up", "POST")).status == 201
        assert (await bear(ask, warmer, "/warm-up", "DELETE")).json["tenant"] == "one"
        greedy = issuer.token(scope="system/*.* sluice/operate operate")
        assert diagnosed(await bear(ask, greedy, X_Sluice_Force="direct"), 403, "forbidden")
        assert "operate" not in (await verified(ask.server, greedy)).scopes


async def test_nothing_of_a_token_is_told(home: Home, issuer: IssuerServer, capfd: pytest.CaptureFixture[str]) -> None:
    """No part of a token, and nothing that it says, is in a log line or a refusal."""
    canary = "Kanarienvogel"
    claims = {"sub": canary, "jti": canary, "fhirUser": f"Practitioner/{canary}"}
    answers = b""
    async with trusting(home, issuer, access_log="all") as ask:
        told: list[dict[str, Any]] = [{name: canary} for name in ("aud", "tenant", "iss", "kid", "scope")]
        for more in ({}, {"exp": 1}, *told):
            token = issuer.token(**{**claims, **more})
            reply = await bear(ask, token)
            assert (reply.status == 200) == (not more)
            answers += reply.body + str(reply.headers).encode()
            answers += (await bear(ask, token[:-9])).body
    written = "".join(capfd.readouterr()) + answers.decode()
    assert "request.answered" in written
    assert canary not in written
    assert "eyJ" not in written


# Remembering


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens whose signature was checked."""
    seen: list[str] = []
    real = jwt.decode

    def decode(token: str, *given: Any, **options: Any) -> Any:
        seen.append(token)
        return real(token, *given, **options)

    monkeypatch.setattr("handlers.tokens.jwt.decode", decode)
    return seen


async def test_remembered(home: Home, issuer: IssuerServer, clock: Clock, decoded: list[str]) -> None:
    """A token that was verified is not verified again until the time of keys, or its own, is over."""
    async with trusting(home, issuer, key_ttl_s=200.0) as ask:
        long, short = issuer.token(exp=_now(900)), issuer.token(exp=_now(100))
        for ahead, expected in ((0, 2), (90, 2), (102, 3), (198, 3), (203, 5)):
            clock.ahead = float(ahead)
            await verified(ask.server, long)
            await verified(ask.server, short)
            assert len(decoded) == expected, ahead


async def test_refusals_are_not_remembered(home: Home, issuer: IssuerServer, clock: Clock) -> None:
    """A token that came before its key was published is good afterwards."""
    async with trusting(home, issuer, key_ttl_s=300.0) as ask:
        token = issuer.token("rsa-2")
        with pytest.raises(InvalidToken):
            await verified(ask.server, token)
        issuer.keys.append(jwk("rsa-2"))
        clock.ahead = PAUSE_S + 1
        assert (await verified(ask.server, token)).tenant == "one"


async def test_a_crowd_verifies_once(home: Home, issuer: IssuerServer, decoded: list[str]) -> None:
    """Those who come with one token at once share its verification, and its issuer is asked once."""
    async with trusting(home, issuer, key_ttl_s=60.0) as ask:
        token = issuer.token()
        replies = await asyncio.gather(*(bear(ask, token) for _ in range(50)))
        assert {reply.status for reply in replies} == {200}
        assert decoded == [token]
        assert issuer.asked == {DISCOVERY: 1, JWKS: 1}


# The issuer


async def test_flood_of_unknown_keys(home: Home, issuer: IssuerServer, clock: Clock) -> None:
    """However many unknown keys are named, the issuer is asked once in a while."""
    async with trusting(home, issuer) as ask:
        for asked in (1, 2):
            flood = [issuer.token("rsa-2", kid=f"no-{asked}-{number}") for number in range(60)]
            for reply in await asyncio.gather(*(bear(ask, token) for token in flood)):
                assert "key is not one of its issuer's" in refused(reply)
            assert (await bear(ask, issuer.token())).status == 200
            assert issuer.asked == {DISCOVERY: asked, JWKS: asked}
            clock.ahead += PAUSE_S + 1


async def test_rotation(home: Home, issuer: IssuerServer, clock: Clock) -> None:
    """A new key is fetched when the first token comes that names it; the old one goes with the issuer's list."""
    async with trusting(home, issuer, key_ttl_s=0.0) as ask:
        assert (await bear(ask, issuer.token())).status == 200
        issuer.keys = [jwk("rsa-2")]
        clock.ahead += PAUSE_S + 1
        assert (await bear(ask, issuer.token("rsa-2"))).status == 200
        assert issuer.asked[JWKS] == 2
        assert "key is not one of its issuer's" in refused(await bear(ask, issuer.token("rsa-1")))


async def test_withdrawn_key(issuer: IssuerServer, clock: Clock) -> None:
    """A key that its issuer has withdrawn is good no longer than keys are kept, and nobody waits while they are renewed."""
    trusted = Issuer(issuer.url)
    assert await trusted.key("rsa-1", "RS256") is not None
    issuer.keys = [jwk("rsa-2")]
    clock.ahead = KEYS_TTL_S - 1
    assert await trusted.key("rsa-1", "RS256") is not None
    assert issuer.asked[JWKS] == 1
    clock.ahead = KEYS_TTL_S + 1
    assert await trusted.key("rsa-1", "RS256") is not None
    await until(lambda: issuer.asked[JWKS] == 2 and trusted._asking is None)
    assert await trusted.key("rsa-1", "RS256") is None
    assert await trusted.key("rsa-2", "RS256") is not None


async def test_issuer_away(home: Home, issuer: IssuerServer, clock: Clock) -> None:
    """While an issuer is away its known keys go on, however old; what needs it is 503, and is served when it is back."""
    async with trusting(home, issuer, key_ttl_s=0.0) as ask:
        assert (await bear(ask, issuer.token())).status == 200
        issuer.leaves()
        for ahead in (KEYS_TTL_S + 1, 10 * KEYS_TTL_S):
            clock.ahead = ahead
            assert (await bear(ask, issuer.token())).status == 200
            await until(lambda: ask.server.services.tokens.issuers[issuer.url]._asking is None)  # type: ignore[union-attr]
        reply = await bear(ask, issuer.token("rsa-2"))
        assert diagnosed(reply, 503, "transient")
        assert reply.headers["Retry-After"] == "1"
        issuer.answers, issuer.keys = {}, [jwk("rsa-2")]
        clock.ahead += RETRY_S + 0.1
        assert (await bear(ask, issuer.token("rsa-2"))).status == 200
        assert refused(await bear(ask, issuer.token("rsa-3")))


async def test_issuer_away_from_the_start(home: Home, issuer: IssuerServer, clock: Clock) -> None:
    """A server starts without its issuer, refuses tokens with 503 without hammering it, and takes them once it is there."""
    issuer.leaves()
    async with trusting(home, issuer) as ask:
        for reply in [await bear(ask, issuer.token(jti=str(number))) for number in range(20)]:
            assert diagnosed(reply, 503, "transient")
        assert issuer.asked[DISCOVERY] <= 2  # aiohttp asks once more when somebody hangs up
        issuer.answers = {}
        clock.ahead = RETRY_S + 0.1
        assert (await bear(ask, issuer.token())).status == 200


async def test_issuer_that_ends_with_a_slash(issuer: IssuerServer) -> None:
    """An issuer's name is kept to the letter, and its document is where the standard says, slash or not."""
    issuer.document = {"issuer": issuer.url + "/"}
    assert await Issuer(issuer.url + "/").key("rsa-1", "RS256") is not None
    assert issuer.asked == {DISCOVERY: 1, JWKS: 1}
    with pytest.raises(ServerBusy):
        await Issuer(issuer.url).key("rsa-1", "RS256")


async def test_slow_issuer(issuer: IssuerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for an issuer longer than its time."""
    monkeypatch.setattr("handlers.issuers._TIMEOUT_S", 0.05)
    issuer.speaks.clear()
    async with asyncio.timeout(5):
        with pytest.raises(ServerBusy):
            await Issuer(issuer.url).key("rsa-1", "RS256")
    assert issuer.asked == {DISCOVERY: 1}


def _document(
    status: int = 200, headers: dict[str, str] | None = None, **changed: Any
) -> Callable[[IssuerServer], web.Response]:
    """A good document, but for the status, or what is changed."""
    return lambda i: web.json_response({"issuer": i.url, "jwks_uri": i.url + JWKS, **changed}, status=status, headers=headers)


def _keys(status: int = 200, headers: dict[str, str] | None = None) -> Callable[[IssuerServer], web.Response]:
    return lambda i: web.json_response({"keys": i.keys}, status=status, headers=headers)


def _said(body: bytes, **headers: str) -> Callable[[IssuerServer], web.Response]:
    return lambda _: web.Response(body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


HOSTILE: dict[str, dict[str, Callable[[IssuerServer], web.Response]]] = {
    "sends elsewhere": {DISCOVERY: _document(302, {"Location": "/elsewhere"})},
    "sends elsewhere for keys": {JWKS: _keys(307, {"Location": "/elsewhere"})},
    "is another": {DISCOVERY: _document(issuer="https://other.example")},
    "has no keys' address": {DISCOVERY: _document(jwks_uri=None)},
    "names an address that we do not go to": {DISCOVERY: _document(jwks_uri="file:///keys")},
    "fails": {DISCOVERY: _document(500)},
    "fails for keys": {JWKS: _keys(404)},
    "says too much": {JWKS: lambda i: web.json_response({"keys": i.keys, "more": " " * 300_000})},
    "says nothing": {DISCOVERY: _said(b"")},
    "says no JSON": {DISCOVERY: _said(b"<html>")},
    "says a list": {DISCOVERY: _said(b"[]")},
    "says deep things": {JWKS: _said(b"[" * 100_000)},
    "has no list of keys": {JWKS: _said(b'{"keys":{}}')},
    "compresses unasked": {
        JWKS: lambda i: web.Response(
            body=gzip.compress(json.dumps({"keys": i.keys}).encode()), headers={"Content-Encoding": "gzip"}
        )
    },
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_issuer(issuer: IssuerServer, name: str) -> None:
    """What an issuer may not answer makes its tokens 503, and leads nowhere else."""
    issuer.answers = {path: answer(issuer) for path, answer in HOSTILE[name].items()}
    trusted = Issuer(issuer.url)
    with pytest.raises(ServerBusy):
        await trusted.key("rsa-1", "RS256")
    assert set(issuer.asked) <= {DISCOVERY, JWKS}
    issuer.answers = {}
    trusted._ask_next = 0.0
    assert await trusted.key("rsa-1", "RS256") is not None


@pytest.mark.parametrize(
    ("issuer_url", "given", "good"),
    [
        ("https://x.example", "https://keys.example/k", True),
        ("https://x.example", "http://keys.example/k", False),
        ("https://x.example", "http://127.0.0.1/k", False),
        ("http://127.0.0.1:1", "http://127.0.0.1:2/k", True),
        ("http://127.0.0.1:1", "http://192.0.2.1/k", False),
        ("https://x.example", "file:///etc/passwd", False),
        ("https://x.example", "https://[", False),
        ("https://x.example", "", False),
        ("https://x.example", ["https://keys.example/k"], False),
    ],
)
def test_where_keys_may_be(issuer_url: str, given: Any, good: bool) -> None:
    """Keys come by https, from wherever the issuer says; of one on this machine, from this machine."""
    try:
        assert (_key_address(issuer_url, given), good) == (given, True)
    except _UnusableError:
        assert not good


@pytest.mark.parametrize(
    "odd",
    [5, None, {}, {"kty": ["RSA"]}, {"kty": "RSA", "n": 5, "e": []}, {"kty": "oct", "k": "c2VjcmV0", "kid": "rsa-1"},
     {"kty": "RSA", "n": "AQAB", "e": "AQAB"}, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, {"kty": "EC", "crv": "x"},
     {"kty": "OKP", "crv": "Ed25519", "x": ""}, {"kty": "RSA", "n": "ü", "e": "\0"}, {"kty": "EC", "crv": "secp256k1"}],
)  # fmt: skip
async def test_odd_keys(issuer: IssuerServer, odd: Any) -> None:
    """A key that cannot be used is passed over, and the others are used."""
    issuer.keys = [odd, jwk("rsa-1")]
    trusted = Issuer(issuer.url)
    assert await trusted.key("rsa-1", "RS256") is not None
    assert [name for name, _, _ in trusted._keys] == ["rsa-1"] * 6


# What an app is told


@pytest.mark.parametrize("path", WELL_KNOWN)
async def test_smart_configuration(home: Home, issuer: IssuerServer, path: str) -> None:
    """An app learns without a key where to get a token: what the issuer says, and of SMART what is true here."""
    issuer.document = {
        "authorization_endpoint": "https://login.example/authorize",
        "token_endpoint": "https://login.example/token",
        "userinfo_endpoint": "https://login.example/me",
        "registration_endpoint": 5,
        "grant_types_supported": ["authorization_code", "implicit", "client_credentials"],
        "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"],
        "code_challenge_methods_supported": ["plain", "S256"],
        "scopes_supported": ["openid", "patient/*.rs"],
    }
    async with issuing() as other, trusting(home, issuer, other) as ask:
        reply = await ask.once(path, None)
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
        assert reply.json == {
            "issuer": issuer.url,
            "jwks_uri": issuer.url + JWKS,
            "authorization_endpoint": "https://login.example/authorize",
            "token_endpoint": "https://login.example/token",
            "grant_types_supported": ["authorization_code", "client_credentials"],
            "token_endpoint_auth_methods_supported": issuer.document["token_endpoint_auth_methods_supported"],
            "scopes_supported": list(SCOPES),
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "capabilities": ["client-public", "client-confidential-symmetric", "client-confidential-asymmetric"],
        }
        head = await ask.once(path, None, "HEAD")
        assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", reply.headers["Content-Length"])
        assert not other.asked


async def test_no_smart_configuration(home: Home, issuer: IssuerServer) -> None:
    """Without an issuer there is no such document; while it was never reached, it is 503."""
    async with asking(home, "direct") as ask:
        for path in WELL_KNOWN:
            assert diagnosed(await ask.once(path, None), 404, "not-found")
    issuer.leaves()
    async with trusting(home, issuer) as ask:
        assert diagnosed(await ask.once(WELL_KNOWN[0], None), 503, "transient")
