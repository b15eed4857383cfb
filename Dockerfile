# tokentape as a container image: one binary on Debian.
FROM rust:1.95-bookworm AS build
WORKDIR /src
RUN apt-get update && apt-get install -y --no-install-recommends perl pkg-config && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cargo build --release --locked --package tape

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /data tape && mkdir -p /data && chown tape /data
COPY --from=build /src/target/release/tape /usr/local/bin/tape
USER tape
VOLUME /data
ENV TAPE_HOME=/data
ENTRYPOINT ["tape"]
CMD ["--help"]
