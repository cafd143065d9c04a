"""Receipts: what is refused when it is read, what a flipped byte does, keys, checks one by one."""

import dataclasses
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from support.rounds import four_distances, four_terms, play, settled

from ipfl_flower.ledger import Ledger
from ipfl_flower.market import Rules, Terms
from ipfl_flower.notary import Minutes
from ipfl_flower.receipts import (
    Purchase,
    ReceiptError,
    Sale,
    SignedReceipt,
    check,
    load_or_make_key,
    public_hex,
    read_public_key,
    sign,
    verify_signature,
)
from ipfl_flower.receipts.encoding import SIZE_MAX, canonical, parse

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture(scope="module")
def receipts(tmp_path_factory):
    """Return the receipts of one institution, which buys and sells, of three rounds in a ledger."""
    rounds = [settled(n, four_terms(), four_distances(n), Rules()) for n in range(3)]
    with Ledger.open(tmp_path_factory.mktemp("receipts") / "ledger.db") as ledger:
        play(ledger, rounds, {"market": "of four"})
        found = [Minutes.of(ledger, settlement).receipt(1) for settlement in rounds]
        assert found[0].market == ledger.head(before=0)
        assert [r.head for r in found] == [item.head for item in ledger.rounds()]
        assert found[2].balance == ledger.balances()["institution 1"]
    assert all(r.bought and r.sold for r in found)
    return found


def changed(receipt, **values):
    return dataclasses.replace(receipt, **values)


def test_receipts_of_consecutive_rounds_chain(receipts):
    before = None
    for receipt in receipts:
        assert check(receipt, receipt.terms, before) == []
        before = receipt


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"terms": Terms(141, 0.25, 2e4)}, "own samples was settled as 141, reported was 140"),
        ({"terms": Terms(140, 0.25, 2e4, 0.001)}, "its budget is 0.001 credits"),
        ({"terms": Terms(140, 1e3, 2e4)}, "a sale costs it 1000000000"),
        ({"terms": Terms(140, float("inf"), 2e4)}, "sold to 3 with N = 140, c = inf"),
        ({"terms": Terms(140, 0.25, 0.0)}, "models with N = 140, K = 0.0"),
        ({"terms": Terms(0, 0.25, 2e4)}, "models with N = 0"),
        ({"declined": True}, "declined its row and bought all the same"),
        ({"net": 1}, "net is 1, its lines come to"),
        ({"balance": 1}, "balance is 1, due is"),
        ({"round": 0}, "round 0 builds on head"),
        ({"round": 1}, "round 1 comes after the receipt of round 1"),
        ({"previous": "0" * 64}, "builds on head 000000000000, the receipt of round 1 ended at"),
        ({"head": "0" * 64, "previous": "0" * 64}, "the round has not moved the chain's head"),
        ({"market": "0" * 64}, "market is 000"),
        ({"fingerprint": "0" * 64}, "fingerprint is 000"),
        ({"institution": "somebody"}, "institution is somebody, the receipt of round 1 said"),
        ({"rules": Rules(distance_weight=9.0)}, "rules is Rules"),
        ({"sold": (Sale("institution 1", 10**7),)}, "trades with itself"),
        ({"bought": (Purchase("x", 0, 0, 0.0, 0.0),)}, "bought from x, which has no samples"),
        ({"bought": (Purchase("x", 10**6, 5, 0.0, 1.0),)}, "bought from x at cost 1 what adds"),
        ({"bought": (Purchase("x", 1, 2**53, 1e308, 1e308),)}, "bought from x, whose price has no"),
        ({"bought": (Purchase("x", 10**9, 500, 0.0, 1.0),)}, "credits in all for what is worth"),
        ({"bought": (Purchase("x", 1, 500, 0.0, 1.0),)}, "pays x 1, due is from 1000000 to"),
    ],
)
def test_each_check_says_what_does_not_fit(receipts, values, said):
    findings = check(changed(receipts[2], **values), receipts[2].terms, receipts[1])
    assert any(said in finding for finding in findings), findings


def test_after_a_round_without_a_receipt_the_chain_goes_on_unchecked(receipts):
    assert check(receipts[2], receipts[2].terms, receipts[0]) == []
    assert check(receipts[2], None) == []


def test_a_flipped_bit_anywhere_in_a_stored_receipt_is_found(receipts):
    signed = sign(receipts[1], KEY)
    content = signed.to_json().encode()
    for place in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            try:
                read = SignedReceipt.from_json(damaged.decode("ascii"))
            except (ReceiptError, UnicodeDecodeError):
                continue
            assert not verify_signature(read, signed.key), (place, bit)


def test_a_text_cut_or_written_in_another_way_is_refused(receipts):
    text = sign(receipts[1], KEY).to_json()
    for other in (text[:-1], text + "\n", text.replace(",", ", "), text.replace(":", " :")):
        with pytest.raises(ReceiptError):
            SignedReceipt.from_json(other)


def hostile(path, value):
    """Return a change of one field of a signed receipt's object; no value: leave it out."""

    def change(whole):
        *way, last = path
        for name in way:
            whole = whole[name]
        if value is None:
            del whole[last]
        else:
            whole[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (hostile(["signature"], None), "the signed receipt has no field 'signature'"),
        (hostile(["signature"], "00"), "signature must be 128 hexadecimal digits, is '00'"),
        (hostile(["key"], "A" * 64), "key must be 64 hexadecimal digits, is 'AAA"),
        (hostile(["more"], 1), "the signed receipt has an unknown field 'more'"),
        (hostile(["receipt"], 5), "the receipt must be an object, is 5"),
        (hostile(["receipt", "version"], 2), "has version 2, this software reads version 1"),
        (hostile(["receipt", "version"], True), "has version True"),
        (hostile(["receipt", "market"], 3), "market must be 64 hexadecimal digits, is 3"),
        (hostile(["receipt", "round"], -1), "round must be an integer of at least 0, is -1"),
        (hostile(["receipt", "round"], True), "round must be an integer"),
        (hostile(["receipt", "net"], 2**63), "net must be an integer"),
        (hostile(["receipt", "net"], 1.0), "net must be an integer"),
        (hostile(["receipt", "institution"], "a\nb"), "must be an institution's name, is 'a"),
        (hostile(["receipt", "declined"], 0), "declined must be true or false, is 0"),
        (hostile(["receipt", "terms", "cost"], 0.5), "terms.cost must be a float in hexadecimal"),
        (hostile(["receipt", "terms", "cost"], "0x1"), "terms.cost must be a float in hexadecimal"),
        (hostile(["receipt", "terms", "cost"], "nan"), "terms: cost is nan"),
        (hostile(["receipt", "terms", "cost"], "0x1p+9999"), "must be a float in hexadecimal"),
        (hostile(["receipt", "terms", "samples"], 2**60), "terms: samples is"),
        (hostile(["receipt", "rules", "payment"], "gift"), "rules: payment is 'gift'"),
        (hostile(["receipt", "rules", "payment"], []), "rules: selection and payment must be"),
        (hostile(["receipt", "bought"], []), "bought must be an object, is []"),
        (hostile(["receipt", "bought", "x"], {}), "bought from 'x' has no field 'amount'"),
        (
            hostile(["receipt", "bought", "institution 0", "distance"], "nan"),
            "distance nan or cost 0.125 is out of range",
        ),
        (
            hostile(["receipt", "bought", "institution 0", "samples"], 2**60),
            "bought from 'institution 0': samples is",
        ),
        (hostile(["receipt", "sold"], 1), "sold must be an object, is 1"),
        (hostile(["receipt", "sold", "x" * 300], 1), "sold must be an institution's name"),
        (hostile(["receipt", "sold", "x"], -1), "sold to 'x': amount must be an integer"),
    ],
)
def test_a_hostile_receipt_gets_a_line_that_names_the_field(receipts, change, said):
    whole = json.loads(sign(receipts[1], KEY).to_json())
    change(whole)
    with pytest.raises(ReceiptError) as caught:
        SignedReceipt.from_json(canonical(whole))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is no JSON"),
        ("[1]", "it is no JSON object"),
        ("[" * 100_000, "it is no JSON"),
        ("9" * 10_000, "it is no JSON"),
        ('{"a":1,"a":1}', "it is not in canonical form"),
        ('{"a":NaN}', "it is no JSON"),
        (" " * (SIZE_MAX + 1), "at most 4194304 are read"),
    ],
)
def test_what_is_no_receipt_at_all_is_refused(text, said):
    with pytest.raises(ReceiptError, match=said):
        parse(text)


def test_a_key_is_made_once_for_this_user_alone_and_found_again(tmp_path):
    path = tmp_path / "keys" / "receipt.key"
    key = load_or_make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert public_hex(load_or_make_key(path).public_key()) == public_hex(key.public_key())
    assert list(path.parent.iterdir()) == [path]


def test_a_key_that_others_can_read_or_that_is_none_is_refused(tmp_path):
    path = tmp_path / "receipt.key"
    load_or_make_key(path)
    path.chmod(0o640)
    with pytest.raises(ReceiptError, match="can be read by others: chmod 600"):
        load_or_make_key(path)
    path.chmod(0o600)
    path.write_text("damaged")
    with pytest.raises(ReceiptError, match="holds no private key: restore it from a backup"):
        load_or_make_key(path)
    other = generate_private_key(SECP256R1())
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ReceiptError, match="a key of another kind"):
        load_or_make_key(path)
    with pytest.raises(ReceiptError, match="can't be read or written"):
        load_or_make_key(path / "below a file")


def test_a_public_key_is_read_from_digits_or_pem(tmp_path):
    path = tmp_path / "operator.pub"
    path.write_text(public_hex(KEY.public_key()).upper() + "\n")
    assert read_public_key(path) == public_hex(KEY.public_key())
    path.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert read_public_key(path) == public_hex(KEY.public_key())
    path.write_bytes(
        generate_private_key(SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(ReceiptError, match="holds no operator's public key"):
        read_public_key(path)
    path.write_bytes(b"-----BEGIN nothing")
    with pytest.raises(ReceiptError, match="holds no operator's public key"):
        read_public_key(path)
    with pytest.raises(ReceiptError, match="can't be read: No such file"):
        read_public_key(tmp_path / "absent")
