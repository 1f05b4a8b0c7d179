"""Reads, lists, paging and the review, on the direct path."""

from tests.support import add_tenant, encounter, patient, served


async def test_smoke(database: str) -> None:
    """A resource is read."""
    key = await add_tenant(
        database,
        "one",
        [
            patient("a", name=[{"family": "Ng"}], birthDate="1980-02-03"),
            encounter("e", "2024-01-01", subject={"reference": "Patient/a"}),
        ],
    )
    async with served(database, keys={"one": key}) as server:
        for path in (
            "/patients/a",
            "/fhir/Patient/a",
            "/patients",
            "/fhir/Patient?name=n&birthdate=1980",
            "/encounters?patient=a",
            "/reviews/e",
            "/patients?_count=0",
            "/patients/zz",
            "/patients/%25",
            "/fhir/Claim",
            "/fhir/Foo",
            "/nope",
            "/patients?birthdate=x",
        ):
            reply = await server.get(path)
            print(path, reply.status, reply.headers.get("ETag"), reply.headers.get("Server-Timing"), reply.body.decode()[:300])
        print((await server.get("/patients/a", None)).body)
        print((await server.get("/metrics", None)).body.decode()[-500:])
        r = await server.get("/warm-up", method="POST")
        print(r.status, r.body)
        for p in ("/patients/a", "/patients", "/reviews/e"):
            r = await server.get(p)
            print(r.status, r.headers, r.body[:100])
        print((await server.get("/warm-up", method="DELETE")).body)
        print((await server.get("/warm-up")).body)
        assert 0
