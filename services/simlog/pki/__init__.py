"""Certificate authorities and the certificates that they issue, in DER."""
