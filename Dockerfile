# The images of docker-compose.yml that are ours: NSD, and zonerw beside NSD's tools.
#
# Both are Debian 12 with its own NSD and Python, as on a machine that is set up by hand (README.md):
# the same versions as the tests try. The users' numbers are what the files in the volumes belong to.

FROM debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171 AS debian

FROM debian AS nsd
# Before the package, which would give nsd whatever number is free. In group nsd, zonerw may read
# NSD's configuration and use its socket.
RUN groupadd --gid 10053 nsd \
    && groupadd --gid 10054 zonerw \
    && useradd --uid 10053 --gid nsd --home-dir /nonexistent --shell /usr/sbin/nologin nsd \
    && useradd --uid 10054 --gid zonerw --groups nsd \
        --home-dir /nonexistent --shell /usr/sbin/nologin zonerw
# The package makes keys for its control over TCP, the same in every container: there is a socket.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends nsd \
    && rm -rf /var/lib/apt/lists/* /etc/nsd/*.key /etc/nsd/*.pem
# A volume that is new gets what the image has at its place, owner and mode too. In /run is NSD's
# socket, where the examples have it.
RUN install -d /etc/nsd/nsd.conf.d /etc/zonerw/zones \
    && install -d -o nsd -g nsd -m 0755 /run /var/lib/nsd \
    && install -d -o zonerw -g nsd -m 0755 /var/lib/nsd/zones \
    && install -d -o zonerw -g zonerw -m 0755 /etc/zonerw/secrets \
    && install -d -o zonerw -g zonerw -m 0700 /var/lib/zonerw \
    && ln -s /etc/zonerw/secrets/nsd.key /etc/nsd/transfer.key
COPY docker/nsd.conf /etc/nsd/nsd.conf
USER nsd
CMD ["/usr/sbin/nsd", "-d"]

FROM debian AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
COPY . /build
WORKDIR /build
# In the environment, the constraints hold for what builds the wheel too.
RUN python3 -m venv --without-pip /opt/zonerw \
    && PIP_CONSTRAINT=/build/constraints.txt \
        python3 -m pip --python /opt/zonerw/bin/python install --no-cache-dir .

FROM nsd AS zonerw
USER root
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
# They are in a volume, and seem to be where the examples say.
RUN ln -s /etc/zonerw/secrets/transfer.key /etc/zonerw/secrets/webhook.token \
        /etc/zonerw/secrets/operator.token /etc/zonerw/
COPY --from=build /opt/zonerw /opt/zonerw
COPY docker/make-secrets /opt/zonerw/bin/make-secrets
ENV PATH=/opt/zonerw/bin:$PATH
ENV PYTHONDONTWRITEBYTECODE=1
USER zonerw
CMD ["zonerw", "actions"]
