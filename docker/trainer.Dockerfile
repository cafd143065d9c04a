# An institution's trainer: torch, and what reads the data. It needs no network.
#
#   docker build -f docker/trainer.Dockerfile -t ipfl-trainer .                           with CUDA
#   docker build -f docker/trainer.Dockerfile -t ipfl-trainer --build-arg TORCH=cpu .     a third of it,
#                                                  and --build-arg TORCH_INDEX=PyTorch's index for the CPU
#
# or: make image-trainer [TORCH=cpu]. It runs with a read-only root file system and a tmpfs on /tmp.
# It builds with BuildKit and without.
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

# torch is a layer of its own. Its CPU build has a version of its own (+cpu), which is not on PyPI: give
# the index for the CPU that PyTorch's installation page names, unless pip is configured to look there.
FROM dependencies AS torch
ARG TORCH=cuda
ARG TORCH_INDEX=
COPY --from=requirements /src/trainer.txt ./
RUN wanted=$(cat trainer.txt) \
    && install="python3 -m pip --python /opt/ipfl/bin/python install --root /extra --constraint constraints.txt" \
    && case "$TORCH" in \
        cpu) $install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$wanted+cpu" \
            || { echo "no CPU build of torch: give --build-arg TORCH_INDEX=URL, PyTorch's index for the CPU" >&2; exit 1; } ;; \
        cuda) $install "$wanted" ;; \
        *) echo "TORCH is $TORCH: give cuda or cpu" >&2; exit 1 ;; \
    esac \
    # Headers and static libraries, for those who build extensions of it.
    && rm -rf /extra/opt/ipfl/lib/python3.*/site-packages/torch/include /extra/opt/ipfl/lib/python3.*/site-packages/torch/lib/*.a

FROM dependencies AS build
# The demo's data, 57 kB of scikit-learn's wheel, which nothing imports.
RUN python3 -m pip download --no-deps --dest /tmp/wheel --constraint constraints.txt scikit-learn \
    && cd /opt/ipfl/lib/python3.*/site-packages && mkdir -p /project/"$PWD" && cd /project/"$PWD" \
    && python3 -c 'import glob, zipfile; wheel = zipfile.ZipFile(*glob.glob("/tmp/wheel/*.whl")); [wheel.extract(name) for name in wheel.namelist() if name.endswith(("/data/digits.csv.gz", "/COPYING"))]'
COPY . .
RUN python3 -m pip wheel --no-deps --wheel-dir /wheel . \
    && python3 -m pip --python /opt/ipfl/bin/python install --root /project --no-deps /wheel/*.whl

FROM ${BASE}
COPY --from=dependencies /opt/ipfl /opt/ipfl
COPY --from=torch /extra/opt/ipfl /opt/ipfl
# Where volumes go: a new one takes the folder's owner.
RUN install -d -o 10001 -g 10001 -m 0700 /data /state /market /run/ipfl
COPY --from=build /project/opt/ipfl /opt/ipfl
# The user has no name, which torch would ask for.
ENV PATH=/opt/ipfl/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    LOGNAME=ipfl \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
# A number, so that an orchestrator can see that it isn't root.
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["ipfl"]
CMD ["trainer", "/data/institution.toml", "--listen", "unix:///run/ipfl/trainer.sock"]
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-m", "ipfl_flower.cli.health", "trainer", "unix:///run/ipfl/trainer.sock"]
# Last: they change with every commit.
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ipfl-trainer" \
      org.opencontainers.image.description="An institution's trainer for an ipfl-flower market: torch, data, models, limits" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
