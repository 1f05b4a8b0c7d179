"""What the page is made of: our few files, and plotly's, which come with the packages. Read and compressed once a process.

Each stands at a path that has its hash, and may be kept for ever.
"""

import asyncio
import hashlib
import re
import threading
import zlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from string import Template

from aiohttp import web

from handlers.encoding import takes_gzip
from handlers.reports_answers import has_etag

ROUTE = "/console/static/{digest}/{name}"
_KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_PLOTLY = "plotly.min.js"
_OURS = ("theme.css", "console.css", "theme.js", "drawing.js", "console.js", "icon.svg")
_GZIP = 31
_FOREVER = "public, max-age=31536000, immutable"
_lock = threading.Lock()
_own_style = re.compile(rb'getElementById\("([0-9a-f]{64})"\)').search


@dataclass(frozen=True, slots=True)
class Asset:
    body: bytes
    packed: bytes
    """By gzip."""
    kind: str
    digest: str

    @classmethod
    def of(cls, name: str, body: bytes) -> "Asset":
        kind = f"{_KINDS[name.rpartition('.')[2]]}; charset=utf-8"
        return cls(body, zlib.compress(body, 9, _GZIP), kind, hashlib.sha256(body).hexdigest()[:16])


def _assets() -> dict[str, Asset]:
    with _lock:  # so that the first few who come share the work
        return _read()


@lru_cache(maxsize=1)
def _read() -> dict[str, Asset]:
    """By name. Takes half a second, nearly all of it for plotly."""
    ours = {name: files("handlers.console").joinpath(name).read_bytes() for name in _OURS}
    plotly = files("plotly").joinpath("package_data", _PLOTLY).read_bytes()
    return {name: Asset.of(name, body) for name, body in {**ours, _PLOTLY: plotly}.items()}


@lru_cache(maxsize=4)
def _page(name: str) -> Template:
    """With the assets' paths filled in; what is left is said at each request."""
    assets = _assets()
    paths = {name.replace(".", "_"): ROUTE.format(digest=asset.digest, name=name) for name, asset in assets.items()}
    # Plotly makes a style element for maps, which our policy forbids and no plot of ours needs, unless one of this id is there.
    found = _own_style(assets[_PLOTLY].body)
    text = files("handlers.console").joinpath(name).read_text(encoding="utf-8")
    return Template(Template(text).safe_substitute(paths, plotly_style=found[1].decode() if found else "none"))


async def page(name: str, **said: str) -> str:
    """`said` stands in the HTML as it is: escape it."""
    return (await asyncio.to_thread(_page, name)).substitute(said)


async def asset(request: web.Request) -> web.Response:
    """Of an older page, what stands there today: better than nothing, but not to be kept."""
    found = (await asyncio.to_thread(_assets)).get(request.match_info["name"])
    if found is None:
        raise web.HTTPNotFound
    is_packed = takes_gzip(request.headers.get("Accept-Encoding", ""))
    etag = f'"{found.digest}{"-gzip" if is_packed else ""}"'
    current = request.match_info["digest"] == found.digest
    headers = {
        "Cache-Control": _FOREVER if current else "no-cache",
        "ETag": etag,
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    if has_etag(request.headers.get("If-None-Match", ""), etag):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = found.kind
    if is_packed:
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=found.packed if is_packed else found.body, headers=headers)
