"""Signature algorithms -> the text certstream shows: "sha256, rsa" but "ecdsa, sha256".

The order of the two words is the seed's, which clients compare with. An algorithm without a name
here is shown as its OID.
"""

from ctparse import der

_ALGORITHMS = {
    "1.2.840.113549.1.1.2": "md2, rsa",
    "1.2.840.113549.1.1.4": "md5, rsa",
    "1.2.840.113549.1.1.5": "sha1, rsa",
    "1.2.840.113549.1.1.11": "sha256, rsa",
    "1.2.840.113549.1.1.12": "sha384, rsa",
    "1.2.840.113549.1.1.13": "sha512, rsa",
    "1.2.840.113549.1.1.14": "sha224, rsa",
    "1.2.840.10040.4.3": "dsa, sha1",
    "2.16.840.1.101.3.4.3.1": "dsa, sha224",
    "2.16.840.1.101.3.4.3.2": "dsa, sha256",
    "1.2.840.10045.4.1": "ecdsa, sha1",
    "1.2.840.10045.4.3.1": "ecdsa, sha224",
    "1.2.840.10045.4.3.2": "ecdsa, sha256",
    "1.2.840.10045.4.3.3": "ecdsa, sha384",
    "1.2.840.10045.4.3.4": "ecdsa, sha512",
    "1.3.101.112": "ed25519",
    "1.3.101.113": "ed448",
}
_RSASSA_PSS = "1.2.840.113549.1.1.10"
_DEFAULT_PSS_HASH = "1.3.14.3.2.26"
_HASHES = {
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}


def signature_algorithm(value: bytes) -> str:
    """Name the algorithm, given the contents of an AlgorithmIdentifier.

    Raises:
        der.DerError: it holds no object identifier.
    """
    oid, stop = der.expect(value, 0, len(value), der.OBJECT_IDENTIFIER, "algorithm")
    algorithm = der.dotted(value[oid:stop])
    if algorithm == _RSASSA_PSS:
        return f"{_pss_hash(value[stop:])}, rsa-pss"
    return _ALGORITHMS.get(algorithm, algorithm)


def _pss_hash(parameters: bytes) -> str:
    """Find hashAlgorithm in RSASSA-PSS-params; it is optional (RFC 4055 section 3.1)."""
    algorithm = _DEFAULT_PSS_HASH
    if parameters:
        for tag, start, stop in der.sequence(parameters, "RSASSA-PSS-params"):
            if tag == 0xA0:
                hashing = parameters[start:stop]
                at, end = der.only(hashing, der.SEQUENCE, "hashAlgorithm")
                at, end = der.expect(hashing, at, end, der.OBJECT_IDENTIFIER, "hashAlgorithm")
                algorithm = der.dotted(hashing[at:end])
    return _HASHES.get(algorithm, algorithm)
