"""Malformed and unusual certificates, as some authorities issue them."""

import json
from typing import Any

import pytest

from ctparse import der
from ctparse.certificate import MAX_BYTES, CertificateReader
from ctparse.entry import Unreadable
from tests.ctparse.derbuild import (
    NULL,
    SHA256_RSA,
    algorithm,
    attribute,
    certificate,
    common_name,
    dns,
    extension,
    name,
    oid,
    subject_alt_name,
    time,
    tlv,
)
from tests.ctparse.reading import leaf_cert, write


def read(der_bytes: bytes) -> dict[str, Any]:
    return leaf_cert(write(der_bytes))


def problems(der_bytes: bytes) -> tuple[str, ...]:
    return write(der_bytes).problems


class TestOutline:
    def test_a_plain_one_has_no_problems(self) -> None:
        assert problems(certificate(subject_alt_name(dns("a.example")))) == ()

    def test_version_1(self) -> None:
        leaf = read(certificate(version=b"", serial=b"\x0a\x1b"))
        assert leaf["serial_number"] == "0A1B"
        assert leaf["extensions"] == {}
        assert leaf["all_domains"] == ["a.example"]

    @pytest.mark.parametrize(
        ("serial", "shown"),
        [
            (b"\x00\xb9\x97", "B997"),
            (b"\x0a\x1b", "0A1B"),
            (b"\x00\x00", "00"),
            (b"", "00"),
            (b"\xff\x80", "FF80"),  # negative: the octets as they are
            (b"\x7f" * 40, "7F" * 40),  # twice as long as RFC 5280 allows
        ],
    )
    def test_serial_numbers(self, serial: bytes, shown: str) -> None:
        assert read(certificate(serial=serial))["serial_number"] == shown

    def test_unique_ids_are_stepped_over(self) -> None:
        ids = tlv(0x81, b"\0one") + tlv(0x82, b"\0two")
        leaf = read(certificate(subject_alt_name(dns("b.example")), unique_ids=ids))
        assert leaf["all_domains"] == ["a.example", "b.example"]

    def test_bytes_after_the_certificate(self) -> None:
        given = certificate() + b"more"
        assert problems(given) == ("4 bytes follow the certificate",)
        assert read(given)["subject"]["CN"] == "a.example"

    @pytest.mark.parametrize(
        "given",
        [
            b"",
            b"\x30",
            b"\x30\x80\x00\x00",
            b"not a certificate at all",
            certificate()[:-1],
            tlv(der.SEQUENCE, tlv(der.SEQUENCE, tlv(der.INTEGER, b"\1"))),
            certificate(serial=b"\1" * 20)[:60],
            certificate().replace(tlv(der.INTEGER, b"\1"), tlv(der.BOOLEAN, b"\1"), 1),
        ],
    )
    def test_without_an_outline_it_is_unreadable(self, given: bytes) -> None:
        with pytest.raises(Unreadable, match=r"\w"):
            write(given)


class TestValidity:
    @pytest.mark.parametrize(
        ("given", "shown"),
        [
            (time("260520174812Z"), 1779299292),
            (time("2605201748Z"), 1779299280),
            (time("260520194812+0200"), 1779299292),
            (time("260520154812-0200"), 1779299292),
            (time("491231235959Z"), 2524607999),
            (time("500101000000Z"), -631152000),
            (time("20260520174812Z", der.GENERALIZED_TIME), 1779299292),
            (time("20260520174812.999Z", der.GENERALIZED_TIME), 1779299292),
            (time("20260520194812+0200", der.GENERALIZED_TIME), 1779299292),
            (time("99991231235959Z", der.GENERALIZED_TIME), 253402300799),
        ],
    )
    def test_forms_of_time(self, given: bytes, shown: int) -> None:
        validity = tlv(der.SEQUENCE, given, time("260818184800Z"))
        leaf = read(certificate(validity=validity))
        assert leaf["not_before"] == shown
        assert leaf["not_after"] == 1787078880

    @pytest.mark.parametrize(
        "given",
        [
            time("261320174812Z"),
            time("260230174812Z"),
            time("260520174860Z"),
            time("260520-74812Z"),
            time("20260520174812Z"),
            # Local time of an unknown zone (X.680 sections 46 and 47).
            time("260520174812"),
            time("2605201748"),
            time("20260520174812", der.GENERALIZED_TIME),
            time("20260520174812.999", der.GENERALIZED_TIME),
            time("00000520174812Z", der.GENERALIZED_TIME),
            time("26052017481\u00b2Z"),
            time(""),
            tlv(der.INTEGER, b"\1"),
        ],
    )
    def test_an_invalid_time_is_null(self, given: bytes) -> None:
        message = write(certificate(validity=tlv(der.SEQUENCE, time("260520174812Z"), given)))
        leaf = leaf_cert(message)
        assert (leaf["not_before"], leaf["not_after"]) == (1779299292, None)
        assert len(message.problems) == 1
        assert message.problems[0].startswith("validity: ")

    def test_a_missing_time_is_null(self) -> None:
        message = write(certificate(validity=tlv(der.SEQUENCE, time("260520174812Z"))))
        assert leaf_cert(message)["not_after"] is None
        assert message.problems == ("validity: a time is missing",)

    def test_a_minute_is_not_confused_with_another(self) -> None:
        reader = CertificateReader()
        times = ["260520174812Z", "260520174859Z", "260520174900Z", "260521174812Z"]
        found = [
            reader.read(certificate(validity=tlv(der.SEQUENCE, time(text), time(text)))).not_before
            for text in times * 2
        ]
        assert found == [1779299292, 1779299339, 1779299340, 1779385692] * 2


class TestNames:
    def test_every_attribute_that_is_shown(self) -> None:
        subject = name(
            attribute("2.5.4.6", b"US"),
            attribute("2.5.4.8", b"WA"),
            attribute("2.5.4.7", b"Redmond"),
            attribute("2.5.4.10", b"Example"),
            attribute("2.5.4.11", b"one"),
            attribute("2.5.4.11", b"two"),
            attribute("2.5.4.5", b"serial"),
            attribute("2.5.4.3", b"a.example"),
            attribute("1.2.840.113549.1.9.1", b"x@a.example", 0x16),
        )
        assert read(certificate(subject=subject))["subject"] == {
            "C": "US",
            "CN": "a.example",
            "L": "Redmond",
            "O": "Example",
            "OU": "two",
            "ST": "WA",
            "aggregated": "/C=US/CN=a.example/L=Redmond/O=Example/OU=one/OU=two/ST=WA",
            "email_address": "x@a.example",
        }

    def test_several_attributes_in_one_rdn(self) -> None:
        rdn = tlv(der.SET, attribute("2.5.4.3", b"a.example"), attribute("2.5.4.10", b"Example"))
        subject = read(certificate(subject=tlv(der.SEQUENCE, rdn)))["subject"]
        assert subject["aggregated"] == "/CN=a.example/O=Example"

    def test_the_empty_name(self) -> None:
        subject = read(certificate(subject=name()))["subject"]
        assert subject.pop("aggregated") == ""
        assert set(subject.values()) == {None}

    @pytest.mark.parametrize(
        ("tag", "octets", "shown"),
        [
            (0x0C, "Bücher".encode(), "Bücher"),
            (0x13, b"plain", "plain"),
            (0x13, b"not * printable & all", "not * printable & all"),
            (0x14, "Bücher".encode("latin-1"), "Bücher"),
            (0x14, "Bücher".encode(), "Bücher"),
            (0x16, b"\xe9t\xe9", "été"),
            (0x04, b"octets", "octets"),
            (0x18, b"20260520174812Z", "20260520174812Z"),
            (0x1A, b"visible", "visible"),
            (0x1C, "Bücher🐘".encode("utf-32-be"), "Bücher🐘"),
            (0x1C, b"\xff\xff\xff\xff\0\0\0A", "\ufffdA"),
            (0x1E, "Bücher🐘".encode("utf-16-be"), "Bücher🐘"),
            (0x1E, b"\0A\xd8\x00\0B", "A\ufffdB"),  # a lone surrogate
            (0x1E, b"\0A\0", "A\ufffd"),  # half a character
            (0x0C, b"\xff\xfe", "ÿþ"),
            (0x0C, b'a\0b\n\r\t\x1b"\\</script>\x7f', 'a\0b\n\r\t\x1b"\\</script>\x7f'),
            (0x0C, b"", ""),
        ],
    )
    def test_string_types(self, tag: int, octets: bytes, shown: str) -> None:
        message = write(certificate(subject=name(attribute("2.5.4.3", octets, tag))))
        assert leaf_cert(message)["subject"]["CN"] == shown
        assert message.problems == ()

    def test_a_value_that_is_no_string_is_left_out(self) -> None:
        subject = name(attribute("2.5.4.3", b"\1", der.INTEGER), attribute("2.5.4.10", b"Example"))
        message = write(certificate(subject=subject))
        assert leaf_cert(message)["subject"]["aggregated"] == "/O=Example"
        assert message.problems == ("subject: tag 0x02 is not a string type",)

    def test_a_broken_name_keeps_the_attributes_before_the_defect(self) -> None:
        broken = tlv(der.SEQUENCE, tlv(der.SET, attribute("2.5.4.3", b"a.example")), b"\x31\x7f")
        message = write(certificate(subject=broken, issuer=broken))
        assert leaf_cert(message)["issuer"]["CN"] == "a.example"
        assert [text.partition(":")[0] for text in message.problems] == ["issuer", "subject"]


class TestDomains:
    @pytest.mark.parametrize(
        ("cn", "sans", "domains"),
        [
            ("a.example", ["b.example", "a.example"], ["a.example", "b.example"]),
            ("*.a.example", [], ["*.a.example"]),
            ("a_b.example", [], ["a_b.example"]),
            ("bücher.example", [], ["bücher.example"]),
            ("a.example.", [], ["a.example."]),
            ("Example Inc.", ["a.example"], ["a.example"]),
            ("192.0.2.1", [], []),
            ("x@a.example", [], []),
            ("localhost", [], []),
            ("localhost", ["localhost"], ["localhost"]),
            ("a..example", [], []),
            (("a" * 63 + ".") * 4, [], []),
            ("", ["", "a.example", "A.example", "a.example"], ["a.example", "A.example"]),
        ],
    )
    def test_cn_first_if_it_is_one_and_no_repeats(
        self, cn: str, sans: list[str], domains: list[str]
    ) -> None:
        given = certificate(subject_alt_name(*map(dns, sans)), subject=common_name(cn))
        assert read(given)["all_domains"] == domains
        assert json.loads(write(given).domains)["data"] == domains

    def test_the_name_of_a_ca_is_no_domain(self) -> None:
        is_ca = extension("2.5.29.19", tlv(der.SEQUENCE, tlv(der.BOOLEAN, b"\xff")))
        leaf = read(certificate(is_ca, subject=common_name("ca.example")))
        assert leaf["is_ca"] is True
        assert leaf["all_domains"] == []

    def test_two_thousand_names(self) -> None:
        names = [f"host-{number}.{'x' * 30}.example" for number in range(2000)]
        leaf = read(certificate(subject_alt_name(*map(dns, names))))
        assert leaf["all_domains"] == ["a.example", *names]
        assert leaf["extensions"]["subjectAltName"] == ", ".join(f"DNS:{name}" for name in names)


class TestExtensions:
    def test_general_names_of_every_kind(self) -> None:
        directory = name(attribute("2.5.4.6", b"US"), attribute("2.5.4.3", b"x"))
        other = oid("1.3.6.1.4.1.311.20.2.3") + tlv(0xA0, tlv(0x0C, b"x@y"))
        given = subject_alt_name(
            dns("a.example"),
            tlv(0x87, bytes((192, 0, 2, 1))),
            tlv(0x87, bytes.fromhex("20010db8000000000000000000000001")),
            tlv(0x81, b"x@a.example"),
            tlv(0x86, b"https://a.example/"),
            tlv(0xA4, directory),
            tlv(0x88, oid("1.2.3.4")[2:]),
            tlv(0xA0, other),
        )
        assert read(certificate(given))["extensions"]["subjectAltName"] == (
            "DNS:a.example, IP Address:192.0.2.1, IP Address:2001:db8::1, email:x@a.example, "
            "URI:https://a.example/, DirName:/C=US/CN=x, Registered ID:1.2.3.4, "
            "othername:1.3.6.1.4.1.311.20.2.3"
        )

    @pytest.mark.parametrize(
        "odd",
        [
            tlv(0x87, b"\1\2\3"),
            tlv(0x88, b""),
            tlv(0x88, b"\x80"),
            tlv(0x88, b"\xff" * 5000 + b"\1"),
            tlv(0xA0, b"\1"),
            tlv(0xA3, b"x400"),
            tlv(0xA4, b"\x31\0"),
            tlv(0x9F, b"\x81\1"),
        ],
    )
    def test_an_odd_general_name_is_left_out_alone(self, odd: bytes) -> None:
        message = write(certificate(subject_alt_name(dns("b.example"), odd, dns("c.example"))))
        assert leaf_cert(message)["extensions"]["subjectAltName"] == "DNS:b.example, DNS:c.example"
        assert len(message.problems) == 1

    @pytest.mark.parametrize(
        ("dotted", "key", "value", "shown"),
        [
            ("2.5.29.15", "keyUsage", b"\x03\x02\x05\xa0", "Digital Signature, Key Encipherment"),
            ("2.5.29.15", "keyUsage", b"\x03\x03\x07\xff\x80", None),
            ("2.5.29.15", "keyUsage", b"\x03\x01\x00", ""),
            # Unused bits that are set (X.690 section 8.6.2.3): one unused, two octets, all.
            ("2.5.29.15", "keyUsage", b"\x03\x02\x01\x81", "Digital Signature"),
            ("2.5.29.15", "keyUsage", b"\x03\x03\x07\x80\xff", "Digital Signature, Decipher Only"),
            ("2.5.29.19", "basicConstraints", b"\x30\x00", "CA:FALSE"),
            ("2.5.29.19", "basicConstraints", b"\x30\x06\x01\x01\xff\x02\x01\x00", "CA:TRUE"),
            ("2.5.29.19", "basicConstraints", b"\x30\x03\x01\x01\x01", "CA:TRUE"),
            (
                "2.5.29.37",
                "extendedKeyUsage",
                tlv(
                    der.SEQUENCE,
                    oid("1.3.6.1.4.1.311.10.3.4"),
                    oid("1.3.6.1.5.5.7.3.2"),
                    oid("1.3.6.1.5.5.7.3.1"),
                ),
                "serverAuth, clientAuth, 1.3.6.1.4.1.311.10.3.4",
            ),
            ("2.5.29.35", "authorityKeyIdentifier", b"\x30\x04\x80\x02\x00\xb5", "keyid:00:b5"),
            ("2.5.29.14", "subjectKeyIdentifier", b"\x04\x02\x51\xb7", "keyid:51:b7"),
            (
                "2.5.29.32",
                "certificatePolicies",
                tlv(
                    der.SEQUENCE,
                    tlv(der.SEQUENCE, oid("2.23.140.1.2.1")),
                    tlv(der.SEQUENCE, oid("1.3.6.1.4.1.4146.1"), tlv(der.SEQUENCE, NULL)),
                ),
                "Policy: 2.23.140.1.2.1\nPolicy: 1.3.6.1.4.1.4146.1\n",
            ),
            (
                "1.3.6.1.5.5.7.1.1",
                "authorityInfoAccess",
                tlv(
                    der.SEQUENCE,
                    tlv(der.SEQUENCE, oid("1.3.6.1.5.5.7.48.1"), tlv(0x86, b"http://o.example")),
                    tlv(der.SEQUENCE, oid("1.3.6.1.5.5.7.48.2"), tlv(0x82, b"dns.example")),
                    tlv(der.SEQUENCE, oid("1.3.6.1.5.5.7.48.2"), tlv(0x86, b"http://i.example")),
                ),
                "URI:http://o.example, URI:http://i.example",
            ),
        ],
    )
    def test_texts(self, dotted: str, key: str, value: bytes, shown: str | None) -> None:
        every_usage = (
            "Digital Signature, Content Commitment, Key Encipherment, Data Encipherment, "
            "Key Agreement, Certificate Signing, CRL Signing, Encipher Only, Decipher Only"
        )
        for critical in (False, True):
            message = write(certificate(extension(dotted, value, critical=critical)))
            expected = every_usage if shown is None else shown
            assert leaf_cert(message)["extensions"] == {key: expected}
            assert message.problems == ()

    @pytest.mark.parametrize("value", [b"\x03\x00", b"\x03\x02\x08\x80", b"\x03\x01\x07"])
    def test_a_bit_string_with_an_impossible_count_of_unused_bits(self, value: bytes) -> None:
        message = write(certificate(extension("2.5.29.15", value)))
        assert leaf_cert(message)["extensions"] == {}
        assert len(message.problems) == 1
        assert "unused bits" in message.problems[0]

    @pytest.mark.parametrize(
        ("dotted", "value"),
        [
            ("2.5.29.17", b"\x30\x00"),
            ("2.5.29.32", b"\x30\x00"),
            ("2.5.29.35", b"\x30\x00"),
            ("1.3.6.1.5.5.7.1.1", b"\x30\x00"),
            ("2.5.29.31", b"anything"),
        ],
    )
    def test_nothing_to_show_is_no_problem(self, dotted: str, value: bytes) -> None:
        message = write(certificate(extension(dotted, value)))
        assert leaf_cert(message)["extensions"] == {}
        assert message.problems == ()

    @pytest.mark.parametrize(
        "dotted",
        [
            "2.5.29.14",
            "2.5.29.15",
            "2.5.29.17",
            "2.5.29.19",
            "2.5.29.32",
            "2.5.29.35",
            "2.5.29.37",
            "1.3.6.1.5.5.7.1.1",
        ],
    )
    @pytest.mark.parametrize("value", [b"", b"\x30", b"\x30\x7f", b"\x05\x00", b"\x30\x02\x30\x05"])
    def test_an_unreadable_extension_is_left_out_alone(self, dotted: str, value: bytes) -> None:
        policy = tlv(der.SEQUENCE, tlv(der.SEQUENCE, oid("2.23.140.1.2.1")))
        other = "2.5.29.32" if dotted != "2.5.29.32" else "2.5.29.54"
        message = write(certificate(extension(dotted, value), extension(other, policy)))
        shown = leaf_cert(message)["extensions"]
        assert set(shown) == ({"certificatePolicies"} if other == "2.5.29.32" else set())
        assert len(message.problems) == 1

    def test_an_unreadable_extension_stays_unreadable_when_repeated(self) -> None:
        reader = CertificateReader()
        given = certificate(extension("2.5.29.15", b"\x30\x00"))
        first, second = reader.read(given), reader.read(given)
        assert first.problems == second.problems
        assert len(first.problems) == 1

    def test_an_extension_given_twice_is_shown_once(self) -> None:
        twice = [extension("2.5.29.15", bytes((3, 2, 5, bits))) for bits in (0x80, 0x20)]
        message = write(certificate(*twice))
        assert message.lite.count(b'"keyUsage"') == 1
        assert message.problems == ("Extensions: one of them is given twice",)

    def test_extensions_that_do_not_fit(self) -> None:
        good = extension("2.5.29.15", b"\x03\x02\x05\x80")
        message = write(certificate(good, b"\x30\x7f\x06\x03"))
        assert leaf_cert(message)["extensions"] == {"keyUsage": "Digital Signature"}
        assert len(message.problems) == 1

    def test_a_known_extension_is_not_seen_beyond_the_last_byte(self) -> None:
        """A last extension that claims more bytes than its list has, and finds them outside."""
        reader = CertificateReader()
        known = extension("2.5.29.15", b"\x03\x02\x05\x80")
        reader.read(certificate(known))
        whole = certificate(known)
        at = whole.index(known)
        cut = bytearray(whole)
        cut[at - 1] -= 1  # the SEQUENCE around it ends a byte earlier
        found = reader.read(bytes(cut))
        assert found.extensions == {}
        assert len(found.problems) == 1

    def test_poison_marks_precertificates(self) -> None:
        poison = extension("1.3.6.1.4.1.11129.2.4.3", NULL, critical=True)
        assert read(certificate(poison))["extensions"] == {"ctlPoisonByte": True}
        assert "ctlPoisonByte" not in read(certificate())["extensions"]
        precert = leaf_cert(write(certificate(), is_precert=True))
        assert precert["extensions"] == {"ctlPoisonByte": True}


class TestAlgorithms:
    @pytest.mark.parametrize(
        ("signature", "shown"),
        [
            (SHA256_RSA, "sha256, rsa"),
            (algorithm("1.2.840.113549.1.1.5"), "sha1, rsa"),
            (algorithm("1.2.840.10045.4.3.3", b""), "ecdsa, sha384"),
            (algorithm("1.3.101.112", b""), "ed25519"),
            (algorithm("1.2.3.4.5"), "1.2.3.4.5"),
            (algorithm("1.2.840.113549.1.1.10", b""), "sha1, rsa-pss"),
            (algorithm("1.2.840.113549.1.1.10", tlv(der.SEQUENCE)), "sha1, rsa-pss"),
            (
                algorithm(
                    "1.2.840.113549.1.1.10",
                    tlv(der.SEQUENCE, tlv(0xA0, algorithm("2.16.840.1.101.3.4.2.2"))),
                ),
                "sha384, rsa-pss",
            ),
        ],
    )
    def test_texts(self, signature: bytes, shown: str) -> None:
        message = write(certificate(signature=signature))
        assert leaf_cert(message)["signature_algorithm"] == shown
        assert message.problems == ()

    @pytest.mark.parametrize(
        "signature",
        [
            tlv(der.SEQUENCE),
            tlv(der.SEQUENCE, tlv(der.INTEGER, b"\1")),
            algorithm("1.2.840.113549.1.1.10", tlv(der.SEQUENCE, tlv(0xA0))),
            algorithm("1.2.840.113549.1.1.10", tlv(der.SEQUENCE, tlv(0xA0, tlv(der.SEQUENCE)))),
        ],
    )
    def test_none_is_null(self, signature: bytes) -> None:
        message = write(certificate(signature=signature))
        assert leaf_cert(message)["signature_algorithm"] is None
        assert len(message.problems) == 1


class TestBounds:
    """What a certificate can be made to cost."""

    def test_a_thousand_problems_are_a_few(self) -> None:
        odd_names = [tlv(0x87, b"")] * 1000
        odd_attributes = [attribute("2.5.4.3", b"", der.INTEGER)] * 1000
        odd_extensions = [extension("2.5.29.15", b"")] * 1000
        for given in (
            certificate(subject_alt_name(*odd_names)),
            certificate(subject=name(*odd_attributes), issuer=name(*odd_attributes)),
            certificate(*odd_extensions),
        ):
            assert 0 < len(problems(given)) <= 16

    def test_a_certificate_of_megabytes_is_unreadable(self) -> None:
        filling = extension("2.5.29.99", bytes(3 << 20))
        with pytest.raises(Unreadable, match="certificate of 3,146,223 bytes"):
            write(certificate(filling))

    def test_the_largest_certificate_that_is_read(self) -> None:
        around = len(certificate(extension("2.5.29.99", bytes(MAX_BYTES // 2)))) - MAX_BYTES // 2
        largest = certificate(extension("2.5.29.99", bytes(MAX_BYTES - around)))
        assert len(largest) == MAX_BYTES
        assert problems(largest) == ()
        with pytest.raises(Unreadable, match="more than 524,288"):
            write(certificate(extension("2.5.29.99", bytes(MAX_BYTES - around + 1))))

    def test_a_certificate_of_ten_thousand_names_is_read(self) -> None:
        names = [dns(f"{number:06}.{'x' * 24}.example") for number in range(10_000)]
        assert len(read(certificate(subject_alt_name(*names)))["all_domains"]) == 10_001
