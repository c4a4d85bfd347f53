"""Certificates that vouch for themselves, made by openssl."""

import subprocess
from pathlib import Path

CA_CONF = """\
[ca]
default_ca = own
[own]
database = {folder}/index
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
policy = any
x509_extensions = leaf
[any]
commonName = supplied
[leaf]
subjectAltName = DNS:www.example.invalid, IP:127.0.0.1
"""


def openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)  # noqa: S607


def make_certificate(folder: Path, ends: str) -> tuple[Path, Path]:
    """A certificate for www.example.invalid that vouches for itself, and its key."""
    key, request, made = folder / "key.pem", folder / "request.pem", folder / "certificate.pem"
    (folder / "index").touch()
    (folder / "ca.conf").write_text(CA_CONF.format(folder=folder))
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-new", *curve, "-keyout", key, "-out", request, "-subj", f"/CN={folder.name}")
    lifetime = ["-startdate", "20200101000000Z", "-enddate", ends]
    paths = ["-config", folder / "ca.conf", "-keyfile", key, "-in", request, "-out", made]
    openssl("ca", "-selfsign", "-batch", "-notext", *lifetime, *paths)
    return made, key
