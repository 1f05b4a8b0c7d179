# Two stages: what builds (pip, its cache, the sources) stays behind; what runs is Python, a venv and a user without rights.
#
#   docker build -t sluice .
#   docker run -p 8080:8080 -v sluice:/data sluice                                   PostgreSQL inside, its data in the volume
#   docker run -p 8080:8080 -e SLUICE_DATABASE_URL_FILE=/run/secrets/database sluice one of your own
#
# Other commands are arguments: `docker run ... sluice worker`, with --no-healthcheck, for only `serve` answers on the port.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim-bookworm AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/sluice
# The dependencies before the sources: they change seldom, and then this layer is not built anew.
COPY requirements.lock /src/
RUN /opt/sluice/bin/pip install --require-hashes -r /src/requirements.lock
COPY pyproject.toml /src/
COPY app /src/app/
COPY base /src/base/
COPY handlers /src/handlers/
COPY ingestion /src/ingestion/
COPY metrics /src/metrics/
COPY r4 /src/r4/
COPY simulator /src/simulator/
COPY storage /src/storage/
COPY tenants /src/tenants/
# Without isolation: the build uses the setuptools that the lock has pinned, and downloads nothing.
RUN /opt/sluice/bin/pip install --no-deps --no-build-isolation /src

FROM python:${PYTHON}-slim-bookworm
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Sluice" \
      org.opencontainers.image.description="A multi-tenant healthcare backend whose warm tenants are answered through channels" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --system --gid 10001 sluice \
 && useradd --system --uid 10001 --gid sluice --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin sluice \
 && install --directory --owner=sluice --group=sluice --mode=0700 /data
COPY --from=builder /opt/sluice /opt/sluice
ENV PATH=/opt/sluice/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SLUICE_HOST=0.0.0.0 \
    SLUICE_DATA_DIR=/data/sluice
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /
# The database is a folder below, for a fresh volume of a file system of its own holds lost+found already.
VOLUME ["/data"]
EXPOSE 8080
# Without curl, which the image does not have; and past any proxy that the environment names.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('SLUICE_PORT', '8080') + '/health/live', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["sluice"]
CMD ["serve"]
