"""What goes around a certificate in a message: chain, source, frame; and what memory keeps."""

import base64
import json
from hashlib import sha1, sha256
from typing import Any

import pytest

from ctparse import bounded
from ctparse.certificate import CertificateReader
from ctparse.entry import Entry, Malformed, Unreadable
from ctparse.wire_messages import MessageWriter, Source
from tests.ctparse.derbuild import attribute, certificate, common_name, dns, name, subject_alt_name
from tests.ctparse.reading import SEEN, SOURCE, link, new_writer, write


def chain_of(*certificates: bytes) -> bytes:
    return b"".join(len(each).to_bytes(3) + each for each in certificates)


def data(message_json: bytes) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(message_json)["data"]
    return read


class TestFrame:
    def test_fields(self) -> None:
        der = certificate(subject_alt_name(dns("b.example")))
        message = write(der)
        full = json.loads(message.full)
        assert list(full) == ["message_type", "data"]
        leaf = full["data"].pop("leaf_cert")
        assert full["data"] == {
            "update_type": "X509LogEntry",
            "chain": [],
            "cert_index": 7,
            "cert_link": link(7),
            "seen": SEEN,
            "submission_timestamp": 1779302893.443,
            "source": {
                "name": "Example 'Log2026'",
                "url": "https://log.example/2026/",
                "operator": "Example",
                "type": "rfc6962",
            },
        }
        assert base64.b64decode(leaf["as_der"]) == der
        assert json.loads(message.domains) == {
            "message_type": "dns_entries",
            "data": ["a.example", "b.example"],
        }

    def test_fingerprints(self) -> None:
        der = certificate()
        message = write(der)
        assert message.sha256 == sha256(der).digest()
        assert message.sha1 == sha1(der, usedforsecurity=False).digest()
        leaf = data(message.lite)["leaf_cert"]
        assert leaf["sha256"] == message.sha256.hex(":").upper()
        assert leaf["fingerprint"] == leaf["sha1"] == message.sha1.hex(":").upper()

    def test_precert(self) -> None:
        assert data(write(certificate(), is_precert=True).lite)["update_type"] == "PrecertLogEntry"

    def test_a_certificate_without_names_has_an_empty_list(self) -> None:
        message = write(certificate(subject=name()))
        assert message.domains == b'{"message_type":"dns_entries","data":[]}'


class TestHostileText:
    """Texts from certificates and configuration stay inside their strings."""

    hostile = '","id":"1-1","x":"\\\n\r\0\u2028\x7f</script>{}[]'

    def test_in_a_certificate(self) -> None:
        der = certificate(
            subject_alt_name(dns(self.hostile), b"\x82\x04\xff\xfe\x00\x0a"),
            subject=name(
                attribute("2.5.4.3", self.hostile.encode()),
                attribute("2.5.4.10", self.hostile.encode("utf-16-be"), 0x1E),
            ),
            issuer=common_name(self.hostile),
        )
        message = write(der, chain=chain_of(der))
        for text in (message.full, message.lite, message.domains):
            assert b"\n" not in text
            assert b"\r" not in text
            assert b"\0" not in text
            text.decode()
        leaf = data(message.full)["leaf_cert"]
        assert leaf["subject"]["CN"] == leaf["subject"]["O"] == self.hostile
        assert leaf["issuer"]["aggregated"] == f"/CN={self.hostile}"
        assert leaf["all_domains"] == [self.hostile, "ÿþ\0\n"]
        assert json.loads(message.domains)["data"] == leaf["all_domains"]

    def test_alone_as_cn(self) -> None:
        """The commonest subject has a path of its own."""
        for text in ('a"b', "a\\b", "a\nb", "a\0b"):
            leaf = data(write(certificate(subject=common_name(text))).lite)["leaf_cert"]
            assert leaf["subject"]["CN"] == text
            assert leaf["subject"]["aggregated"] == f"/CN={text}"

    def test_in_configuration(self) -> None:
        source = Source(self.hostile, self.hostile, self.hostile, "rfc6962")
        writer = MessageWriter(source, lambda _: self.hostile, lambda _: ())
        message = write(certificate(), writer)
        assert b"\n" not in message.full
        assert data(message.full)["source"]["name"] == self.hostile
        assert data(message.full)["cert_link"] == self.hostile


class TestChain:
    issuer = certificate(subject=common_name("Example CA"), issuer=common_name("Example Root"))
    root = certificate(subject=common_name("Example Root"), issuer=common_name("Example Root"))

    def test_same_fields_as_the_leaf_but_for_domains_and_der(self) -> None:
        message = write(certificate(), chain=chain_of(self.issuer, self.root))
        issuer, root = data(message.full)["chain"]
        alone = data(write(self.issuer).lite)["leaf_cert"]
        del alone["all_domains"]
        assert issuer == alone
        assert root["subject"]["CN"] == "Example Root"

    def test_chain_der(self) -> None:
        message = write(
            certificate(), new_writer(chain_der=True), chain=chain_of(self.issuer, self.root)
        )
        found = [base64.b64decode(each["as_der"]) for each in data(message.full)["chain"]]
        assert found == [self.issuer, self.root]

    def test_unreadable_certificates_are_left_out_and_reported(self) -> None:
        message = write(certificate(), chain=chain_of(b"what", self.root))
        assert [each["subject"]["CN"] for each in data(message.full)["chain"]] == ["Example Root"]
        assert len(message.problems) == 1
        assert message.problems[0].startswith("chain certificate 0: ")

    def test_a_malformed_chain_is_left_out_and_reported(self) -> None:
        message = write(certificate(), chain=b"\0\0\x09one")
        assert data(message.full)["chain"] == []
        assert message.problems[0].startswith("chain: ")

    def test_each_chain_is_resolved_once(self) -> None:
        resolved: list[bytes] = []

        def resolve(chain: bytes) -> list[bytes]:
            resolved.append(chain)
            return [self.issuer]

        writer = MessageWriter(SOURCE, link, resolve)
        chains = [b"f" * 32, b"g" * 32, b"f" * 32, b"g" * 32, bytes(bytearray(b"f" * 32))]
        for chain in chains:
            write(certificate(), writer, chain=chain)
        assert resolved == chains[:2]

    def test_chains_that_begin_alike_are_distinguished(self) -> None:
        writer = new_writer()
        roots = [certificate(subject=common_name(f"Root {n}")) for n in range(3)]
        for _ in range(2):
            for n, root in enumerate(roots):
                message = write(certificate(), writer, chain=chain_of(self.issuer, root))
                assert data(message.full)["chain"][1]["subject"]["CN"] == f"Root {n}"

    def test_memory_for_chains_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ctparse.wire_messages._MAX_CHAINS_BYTES", 20_000)
        writer = new_writer()
        for serial in range(200):
            issuer = certificate(serial=serial.to_bytes(2))
            message = write(certificate(), writer, chain=chain_of(issuer))
            found = data(message.full)["chain"][0]["serial_number"]
            assert int(found, 16) == serial
            held = sum(len(chain.raw) + len(chain.json) for chain in writer._chains.values())
            assert held <= 20_000

    def test_other_errors_of_resolve_reach_the_caller(self) -> None:
        def resolve(_: bytes) -> list[bytes]:
            raise LookupError("issuer not fetched")

        with pytest.raises(LookupError):
            write(certificate(), MessageWriter(SOURCE, link, resolve))

    def test_resolve_may_raise_malformed(self) -> None:
        def resolve(_: bytes) -> list[bytes]:
            raise Malformed("half a fingerprint")

        message = write(certificate(), MessageWriter(SOURCE, link, resolve))
        assert message.problems == ("chain: half a fingerprint",)


class TestReader:
    def test_writers_may_share_one(self, certificates: list[bytes]) -> None:
        shared = CertificateReader()
        writers = [new_writer(reader=shared) for _ in range(2)]
        for der in certificates:
            assert write(der, writers[0]) == write(der, writers[1]) == write(der)

    def test_full_caches_start_over(
        self, certificates: list[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bounded, "_MAX_ENTRIES", 5)
        writer = new_writer()
        for _ in range(3):
            for der in certificates:
                assert write(der, writer) == write(der)
        reader = writer._reader
        for held in (reader._names, reader._minutes, reader._extensions._known):
            assert 0 < len(held) <= 5

    def test_unreadable_entries_leave_no_state(self, certificates: list[bytes]) -> None:
        writer = new_writer()
        with pytest.raises(Unreadable):
            writer.write(Entry(0, 0, False, b"\x30\0", b"", b""), bytes(32), SEEN)
        assert write(certificates[0], writer) == write(certificates[0])
