# An institution's SuperNode: Flower, this project's bridge to the trainer, and nothing to steal.
#
#   docker build -f docker/supernode.Dockerfile -t ipfl-supernode .        or: make images
#
# It runs with a read-only root file system and a tmpfs on /tmp; docs/reference/trainer.md has the
# command. It builds with BuildKit and without.
ARG BASE=python:3.11-slim-bookworm

# What is needed, a list for each extra: nothing else in pyproject.toml touches the layers below.
FROM ${BASE} AS requirements
WORKDIR /src
COPY pyproject.toml ./
RUN python3 -c 'import pathlib, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; [pathlib.Path(f"{extra}.txt").write_text("\n".join(needs)) for extra, needs in {"base": project["dependencies"], **project["optional-dependencies"]}.items()]'

# This stage is the same in every image: it is built, stored and pulled once.
FROM ${BASE} AS dependencies
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv --without-pip /opt/ipfl
COPY constraints.txt ./
COPY --from=requirements /src/base.txt ./
RUN python3 -m pip --python /opt/ipfl/bin/python install --constraint constraints.txt --requirement base.txt \
    # With it Flower installs what an operator's app asks for. Here nothing is installed at run time.
    && python3 -m pip --python /opt/ipfl/bin/python uninstall --yes uv

FROM dependencies AS build
COPY . .
RUN python3 -m pip wheel --no-deps --wheel-dir /wheel . \
    && python3 -m pip --python /opt/ipfl/bin/python install --root /project --no-deps /wheel/*.whl

FROM ${BASE}
COPY --from=dependencies /opt/ipfl /opt/ipfl
# Where volumes go: a new one takes the folder's owner.
RUN install -d -o 10001 -g 10001 -m 0700 /institution /state /exchange /run/ipfl
COPY --from=build /project/opt/ipfl /opt/ipfl
# Everything that is ever written goes to /tmp. The rest is as in cli/fleet.py: no calls to strangers,
# one thread, and memory that goes back to the system.
ENV PATH=/opt/ipfl/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    FLWR_HOME=/tmp/flwr \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    MALLOC_ARENA_MAX=2 \
    MALLOC_MMAP_THRESHOLD_=1048576 \
    OMP_NUM_THREADS=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
# A number, so that an orchestrator can see that it isn't root.
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["ipfl"]
CMD ["supernode", "/institution", "--trainer", "unix:///run/ipfl/trainer.sock"]
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-m", "ipfl_flower.cli.health", "supernode", "/institution"]
# Last: they change with every commit.
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ipfl-supernode" \
      org.opencontainers.image.description="Flower's SuperNode and the bridge to an institution's trainer; no torch, no data" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
