"""An authority for one test run, and what it certifies, in PEM files as openssl makes them."""

import subprocess
from pathlib import Path

DAYS = "2"


class Authority:
    """A directory with ca.pem, and certificates with keys that it has signed."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self._openssl("req", "-x509", *self._new("ca"), "-subj", "/CN=test authority")
        (directory / "index.txt").touch()
        (directory / "ca.conf").write_text(
            "[ca]\ndefault_ca=it\n[it]\ndatabase=index.txt\ndefault_md=sha256\n"
        )

    @property
    def certificate(self) -> Path:
        return self.directory / "ca.pem"

    def issue(self, name: str, subject: str, alternative: str | None = None) -> tuple[Path, Path]:
        """A certificate and its key.

        subject:     common name.
        alternative: as "DNS:a.example,IP:127.0.0.1".
        """
        more = [] if alternative is None else ["-addext", f"subjectAltName={alternative}"]
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key"]
        self._openssl("req", "-x509", *self._new(name), *signed, "-subj", f"/CN={subject}", *more)
        return self.directory / f"{name}.pem", self.directory / f"{name}.key"

    def issue_expired(self, name: str, subject: str) -> None:
        """A certificate that was good until yesterday, and its key."""
        self._openssl("req", "-new", *self._key(name), "-out", "request", "-subj", f"/CN={subject}")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "-1"]
        self._openssl("x509", "-req", "-in", "request", *signed, "-out", f"{name}.pem")

    def revoke(self, certificate: Path | None = None) -> Path:
        """The list of revoked certificates, with one more."""
        authority = ["-config", "ca.conf", "-cert", "ca.pem", "-keyfile", "ca.key"]
        if certificate is not None:
            self._openssl("ca", *authority, "-revoke", certificate.name)
        self._openssl("ca", *authority, "-gencrl", "-crldays", DAYS, "-out", "crl.pem")
        return self.directory / "crl.pem"

    def _new(self, name: str) -> list[str]:
        return [*self._key(name), "-out", f"{name}.pem", "-days", DAYS]

    def _key(self, name: str) -> list[str]:
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        return [*key, "-keyout", f"{name}.key"]

    def _openssl(self, *words: str) -> None:
        """Run it; keys are made with 0600."""
        subprocess.run(
            ["openssl", *words], cwd=self.directory, check=True, capture_output=True, umask=0o077
        )
