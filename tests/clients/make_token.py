"""Makes keys and tokens with openssl and Python's own HMAC: nothing of the broker's is in it.

    make_token.py keys DIRECTORY                     rsa, p256, p384, ed (.key, .pem) and secret
    make_token.py jwks DIRECTORY [NAME=KID ...]      a set of public keys, or of the secret
    make_token.py sign DIRECTORY ALGORITHM KEY HEADER CLAIMS

HEADER and CLAIMS are JSON; the header's "alg" is ALGORITHM if it has none of its own.
"""

import base64
import hashlib
import hmac
import json
import pathlib
import secrets
import subprocess
import sys

KEYS = {
    "rsa": ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "p256": ["EC", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
    "p384": ["EC", "-pkeyopt", "ec_paramgen_curve:secp384r1"],
    "ed": ["ED25519"],
}
CURVES = {"p256": ("P-256", 32), "p384": ("P-384", 48)}


def openssl(*arguments, data=None):
    done = subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True)
    return done.stdout


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def make_keys(directory):
    for name, kind in KEYS.items():
        key = str(directory / f"{name}.key")
        openssl("genpkey", "-algorithm", *kind, "-out", key)
        openssl("pkey", "-in", key, "-pubout", "-out", str(directory / f"{name}.pem"))
    (directory / "secret").write_text(secrets.token_hex(32) + "\n")


def jwk(directory, name, kid):
    if name == "secret":
        secret = (directory / "secret").read_text().strip()
        return {"kty": "oct", "kid": kid, "k": encode(secret.encode())}
    der = openssl("pkey", "-pubin", "-in", str(directory / f"{name}.pem"), "-outform", "DER")
    if name == "ed":
        return {"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encode(der[-32:])}
    if name in CURVES:
        curve, size = CURVES[name]
        x, y = der[-2 * size : -size], der[-size:]
        return {"kty": "EC", "crv": curve, "kid": kid, "x": encode(x), "y": encode(y)}
    modulus = openssl("rsa", "-pubin", "-in", str(directory / "rsa.pem"), "-modulus", "-noout")
    number = bytes.fromhex(modulus.decode().strip().split("=")[1])
    return {"kty": "RSA", "use": "sig", "kid": kid, "n": encode(number), "e": "AQAB"}


def fixed(der, size):
    """ECDSA's two numbers, one after the other."""
    at, numbers = 2 + (der[1] == 0x81), b""
    for _ in range(2):
        end = at + 2 + der[at + 1]
        numbers += der[at + 2 : end].lstrip(b"\0").rjust(size, b"\0")
        at = end
    return numbers


def signature(directory, algorithm, key, text):
    key = str(directory / key)
    size = algorithm[2:]
    if algorithm.startswith("HS"):
        secret = pathlib.Path(key).read_bytes().rstrip(b"\n")
        return hmac.new(secret, text, getattr(hashlib, f"sha{size}")).digest()
    if algorithm == "EdDSA":
        message = directory / f"message-{secrets.token_hex(8)}"
        message.write_bytes(text)
        signed = openssl("pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", str(message))
        message.unlink()
        return signed
    pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"]
    options = pss if algorithm.startswith("PS") else []
    signed = openssl("dgst", f"-sha{size}", "-sign", key, *options, data=text)
    return fixed(signed, int(size) // 8) if algorithm.startswith("ES") else signed


def sign(directory, algorithm, key, header, claims):
    header = {"alg": algorithm, "typ": "JWT"} | json.loads(header)
    text = ".".join(encode(part.encode()) for part in (json.dumps(header), claims)).encode()
    return f"{text.decode()}.{encode(signature(directory, algorithm, key, text))}"


def main(what, directory, *rest):
    directory = pathlib.Path(directory)
    if what == "keys":
        make_keys(directory)
    elif what == "jwks":
        keys = [jwk(directory, *pair.split("=")) for pair in rest]
        print(json.dumps({"keys": keys}))
    else:
        print(sign(directory, *rest), end="")


main(*sys.argv[1:])
