# The market's web page and API. What it runs is in the server's image, and so are all of its layers:
#
#   make image-console        (first makes ipfl-server, on which this is based)
#
# It runs with a read-only root file system, and reads the ledger from a volume that is mounted
# read-only; deploy/compose says what else is mounted. It builds with BuildKit and without.
ARG SERVER=ipfl-server:latest

FROM ${SERVER}
USER 0
# Where the tokens' volume goes: a new one takes the folder's owner.
RUN install -d -o 10001 -g 10001 -m 0700 /console
# A number, so that an orchestrator can see that it isn't root.
USER 10001:10001
EXPOSE 8080
CMD ["console", "/market/ledger.db", "--host", "0.0.0.0", "--operator-token-file", "/console/operator-token", "--tokens", "/console/tokens"]
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-m", "ipfl_flower.cli.health", "console", "127.0.0.1:8080"]
# Last: they change with every commit.
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ipfl-console" \
      org.opencontainers.image.description="A market's web page and API, read from its ledger; no torch" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
