# The operator's side: SuperLink, executor, and the `ipfl` command (run, admit, ledger …); no torch.
#
#   docker build -f docker/server.Dockerfile -t ipfl-server .        or: make images
#
# It runs with a read-only root file system; deploy/compose says what is mounted where. It builds
# with BuildKit and without.
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

# What this image needs on top goes into layers of its own: a ledger may be on PostgreSQL.
FROM dependencies AS build
COPY --from=requirements /src/postgres.txt ./
RUN python3 -m pip --python /opt/ipfl/bin/python install --root /extra --constraint constraints.txt --requirement postgres.txt
COPY . .
RUN python3 -m pip wheel --no-deps --wheel-dir /wheel . \
    && python3 -m pip --python /opt/ipfl/bin/python install --root /project --no-deps /wheel/*.whl

FROM ${BASE}
COPY --from=dependencies /opt/ipfl /opt/ipfl
COPY --from=build /extra/opt/ipfl /opt/ipfl
# Where volumes go: a new one takes the folder's owner.
RUN install -d -o 10001 -g 10001 -m 0700 /authority /certificates /superlink-certificates /superexec /superlink /market /exchange
COPY --from=build /project/opt/ipfl /opt/ipfl
# As in cli/fleet.py: no calls to strangers, one thread, and memory that goes back to the system.
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
# Last: they change with every commit.
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ipfl-server" \
      org.opencontainers.image.description="The operator of an ipfl-flower market: SuperLink, executor, ledger; no torch" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
