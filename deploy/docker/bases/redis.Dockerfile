# A stand-in for redis:7-bookworm, with the same user, data folder and port.
ARG DEBIAN_IMAGE
FROM ${DEBIAN_IMAGE}
RUN groupadd --system --gid 999 redis \
 && useradd --system --uid 999 --gid redis --home-dir /data --no-create-home redis \
 && apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends redis-server \
 && rm -rf /var/lib/apt/lists/* \
 && install --directory --owner=redis --group=redis /data
VOLUME /data
WORKDIR /data
EXPOSE 6379
CMD ["redis-server"]
