# A stand-in for gcr.io/distroless/cc-debian12:nonroot. It holds only the shared libraries that Rust
# programs need, and a user without root privileges.
ARG DEBIAN_IMAGE
FROM ${DEBIAN_IMAGE} AS parts
RUN mkdir -p /parts/etc /parts/tmp /parts/usr/local/bin \
 && chmod 1777 /parts/tmp \
 && for library in libc.so.6 libm.so.6 libgcc_s.so.1 libresolv.so.2 libnss_dns.so.2 libnss_files.so.2; do \
      find /lib/ /usr/lib/ -name "$library" | head -n 1 | xargs cp --parents --dereference --target-directory=/parts || exit; \
    done \
 && loader=$(find /lib64/ /lib/ -maxdepth 1 -name 'ld-linux-*' | head -n 1) \
 && cp --parents --dereference "$loader" /parts \
 && echo 'hosts: files dns' >/parts/etc/nsswitch.conf \
 && echo 'nonroot:x:65532:65532::/nonexistent:/sbin/nologin' >/parts/etc/passwd \
 && echo 'nonroot:x:65532:' >/parts/etc/group

FROM scratch
COPY --from=parts /parts /
USER 65532:65532
