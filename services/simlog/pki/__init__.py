"""Certificate authorities and the certificates that they issue, in DER.

Guarantees: the number of a certificate and the seed determine every byte of it; certificates and
precertificates are well-formed and match in pairs (`tests/simlog/pki/test_certificates.py`).

How: `authorities` has the issuers and their styles, `certificates` makes certificate number n with
`der_writer`, which joins encoded pieces.
"""
