# tokentape as a container image: one binary on Debian.
FROM rust:1.95-bookworm AS build
WORKDIR /src
RUN apt-get update && apt-get install -y --no-install-recommends perl pkg-config && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cargo build --release --locked --package tape

# The user is not called tape: Debian has a group of that name already. A new volume that is mounted
# on /data takes over the folder's owner.
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --home-dir /data --no-create-home tokentape && install -d -o tokentape -g tokentape /data /data/tables
COPY --from=build /src/target/release/tape /usr/local/bin/tape
USER tokentape
ENV TAPE_HOME=/data
ENTRYPOINT ["tape"]
CMD ["--help"]
