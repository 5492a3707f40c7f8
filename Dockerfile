# The image: one static file and its licence. `docker build .` builds the program within; `make image` brings one that was built outside (BINARY=prebuilt), for
# machines without a container engine or base images. Both ways run tools/binary.sh.
ARG BINARY=

FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
RUN tools/binary.sh /meshcert

FROM scratch AS prebuilt
ARG TARGETARCH
COPY target/image/$TARGETARCH/meshcert /meshcert

# The default stands here, for buildah before 1.29 (Debian 12) looks for a stage by the one of an ARG in vain: https://github.com/containers/buildah/issues/4312
FROM ${BINARY:-build} AS binary

FROM scratch
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="meshcert" \
      org.opencontainers.image.description="Watches the certificates of hosted service meshes, alerts before they end, and renews them safely" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/meshcert/meshcert" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY LICENSE /LICENSE
COPY --from=binary /meshcert /usr/bin/meshcert
USER 65532:65532
EXPOSE 9794 9795
ENTRYPOINT ["/usr/bin/meshcert"]
CMD ["serve"]
