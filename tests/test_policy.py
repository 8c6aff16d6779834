"""Who is let in.  `make mutate` changes mtlsd/policy.py line by line, and these tests have to notice."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.identity import Certificate, Key
from mtlsd.policy import (
    KINDS,
    LIMITS,
    Allowed,
    Decision,
    Denied,
    Limits,
    Newcomer,
    Reason,
    approval,
    decide,
    remedy,
    remedy_of_end,
    welcome,
)
from mtlsd.registry.records import Authorization, Standing, Tombstone

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)

LEAF = Certificate(
    fingerprint="ab" * 32,
    subject="CN=alice",
    not_before=NOW - timedelta(days=1),
    not_after=NOW + timedelta(days=1),
    key=Key("EC P-256", 256),
    size=400,
)
OTHER = replace(LEAF, fingerprint="cd" * 32)


def authorization(leaf: Certificate = LEAF, ends: datetime | None = None) -> Authorization:
    return Authorization("alice", leaf, ends or leaf.not_after)


def judged(leaf: Certificate = LEAF, **changes: object) -> Decision:
    """Decide on *leaf* with *changes*, authorized as it then is."""
    changed = replace(leaf, **changes)  # type: ignore[arg-type]
    return decide(changed, authorization(changed), NOW)


class DecideTests(SynchronousTestCase):
    def test_an_authorized_certificate_is_allowed(self) -> None:
        """Nobody would get in; and a resource would not know who it is."""
        standing = authorization()
        decision = decide(LEAF, standing, NOW)
        self.assertEqual(decision, Allowed(standing))
        assert isinstance(decision, Allowed)
        self.assertIs(decision.authorization, standing)

    def test_no_certificate(self) -> None:
        """Whoever shows nothing would get in, or be told to authorize what there is not."""
        for standing in (None, authorization(), Tombstone(LEAF.fingerprint)):
            self.assertEqual(decide(None, standing, NOW), Denied(Reason.NO_CERTIFICATE))

    def test_an_unknown_certificate(self) -> None:
        """Anybody with any certificate would get in."""
        self.assertEqual(decide(LEAF, None, NOW), Denied(Reason.UNKNOWN_CERTIFICATE))

    def test_somebody_elses_authorization(self) -> None:
        """A registry that answers for the wrong certificate must not let that certificate in."""
        self.assertEqual(decide(LEAF, authorization(OTHER), NOW), Denied(Reason.UNKNOWN_CERTIFICATE))
        lesser = replace(LEAF, fingerprint="00" * 32)
        self.assertEqual(decide(LEAF, authorization(lesser), NOW), Denied(Reason.UNKNOWN_CERTIFICATE))

    def test_an_equal_fingerprint_is_the_same_certificate(self) -> None:
        """Texts that are equal without being one object are equal: otherwise nobody read from a file would get in."""
        copied = "".join(LEAF.fingerprint)
        standing = authorization(replace(LEAF, fingerprint=str(bytes(copied, "ascii"), "ascii")))
        self.assertEqual(decide(LEAF, standing, NOW), Allowed(standing))

    def test_a_tombstone(self) -> None:
        """Revoked would not mean out."""
        self.assertEqual(decide(LEAF, Tombstone(LEAF.fingerprint), NOW), Denied(Reason.REVOKED))

    def test_a_tombstone_wins_over_every_other_reason(self) -> None:
        """The operator would be told to renew what somebody revoked on purpose."""
        worst = replace(LEAF, key=Key("RSA", 1024), size=10**6, not_before=NOW + TICK, not_after=NOW - TICK)
        self.assertEqual(decide(worst, Tombstone(LEAF.fingerprint), NOW), Denied(Reason.REVOKED))

    def test_both_ends_belong_to_the_validity(self) -> None:
        """RFC 5280 4.1.2.5: a certificate that is made and used within one second would be refused."""
        standing = authorization()
        self.assertEqual(decide(LEAF, standing, LEAF.not_before), Allowed(standing))
        self.assertEqual(decide(LEAF, standing, LEAF.not_after), Allowed(standing))
        self.assertEqual(decide(LEAF, standing, LEAF.not_before - TICK), Denied(Reason.NOT_YET_VALID))
        self.assertEqual(decide(LEAF, standing, LEAF.not_after + TICK), Denied(Reason.EXPIRED))

    def test_a_grace_outlasts_the_certificate(self) -> None:
        """An operator's `grace` would do nothing."""
        standing = authorization(ends=LEAF.not_after + timedelta(days=7))
        self.assertEqual(decide(LEAF, standing, LEAF.not_after + timedelta(days=7)), Allowed(standing))
        self.assertEqual(decide(LEAF, standing, LEAF.not_after + timedelta(days=7) + TICK), Denied(Reason.EXPIRED))

    def test_a_retired_certificate_ends_early(self) -> None:
        """An operator's `[retire]` time would do nothing: the old certificate of a rotation stays good."""
        standing = authorization(ends=NOW - TICK)
        self.assertEqual(decide(LEAF, standing, NOW), Denied(Reason.EXPIRED))

    def test_a_weak_key_is_refused_though_authorized(self) -> None:
        """A key that can be factored is anybody's."""
        self.assertEqual(judged(key=Key("RSA", 1024)), Denied(Reason.WEAK_KEY))
        self.assertEqual(judged(key=Key("unknown", 0)), Denied(Reason.WEAK_KEY))

    def test_a_huge_certificate_is_refused_though_authorized(self) -> None:
        """A stranger's certificate is work before it is refused; the bound is on its size."""
        self.assertIsInstance(judged(size=16_384), Allowed)
        self.assertEqual(judged(size=16_385), Denied(Reason.TOO_LARGE))

    def test_other_limits_can_be_given(self) -> None:
        """Limits that are passed in would be ignored."""
        tight = Limits(certificate=399)
        self.assertEqual(decide(LEAF, authorization(), NOW, tight), Denied(Reason.TOO_LARGE))
        self.assertEqual(decide(LEAF, authorization(), NOW, Limits(algorithms=frozenset())), Denied(Reason.WEAK_KEY))

    def test_the_first_thing_to_put_right_is_named(self) -> None:
        """Telling a stranger with a weak key to be authorized sends the operator twice."""
        weak = replace(LEAF, key=Key("RSA", 1024), not_after=NOW - TICK)
        self.assertEqual(decide(weak, None, NOW), Denied(Reason.WEAK_KEY))
        self.assertEqual(decide(replace(weak, size=10**6), None, NOW), Denied(Reason.TOO_LARGE))
        ended = replace(LEAF, not_after=NOW - TICK)
        self.assertEqual(decide(ended, None, NOW), Denied(Reason.UNKNOWN_CERTIFICATE))

    @settings(deadline=None, database=None)
    @given(
        st.one_of(st.none(), st.sampled_from([LEAF, OTHER])),
        st.sampled_from([None, authorization(), authorization(OTHER), Tombstone(LEAF.fingerprint)]),
        st.integers(-5 * 24 * 3600, 5 * 24 * 3600),
    )
    def test_only_its_own_authorization_lets_anybody_in(self, leaf: Certificate | None, standing: Standing, seconds: int) -> None:
        """Whatever comes together, a certificate that is not authorized, now, must not get in."""
        now = NOW + timedelta(seconds=seconds)
        right = (
            leaf is not None
            and isinstance(standing, Authorization)
            and standing.certificate == leaf
            and leaf.not_before <= now <= leaf.not_after
        )
        self.assertEqual(isinstance(decide(leaf, standing, now), Allowed), right)


class WelcomeTests(SynchronousTestCase):
    """Who may ask to join."""

    def welcomed(
        self, standing: Standing = None, key_is_revoked: bool = False, now: datetime = NOW, **changes: object
    ) -> Newcomer | Denied:
        return welcome(replace(LEAF, **changes), standing, key_is_revoked, now)  # type: ignore[arg-type]

    def test_a_stranger(self) -> None:
        """Nobody could join."""
        for now in (NOW, LEAF.not_before, LEAF.not_after):
            self.assertEqual(self.welcomed(now=now), Newcomer(LEAF))

    def test_who_is_known(self) -> None:
        """One certificate would be two clients; even where the registry mixes two certificates up."""
        self.assertEqual(self.welcomed(authorization()), Denied(Reason.NOT_ALLOWED))
        self.assertEqual(self.welcomed(authorization(OTHER)), Denied(Reason.NOT_ALLOWED))

    def test_who_is_out(self) -> None:
        """Whoever was shut out would be back, with the certificate or with only its key."""
        weak = Key("RSA", 1024)
        for standing, key_is_revoked in ((Tombstone(LEAF.fingerprint), False), (None, True), (authorization(), True)):
            self.assertEqual(self.welcomed(standing, key_is_revoked), Denied(Reason.REVOKED))
            self.assertEqual(self.welcomed(standing, key_is_revoked, key=weak, size=99_999), Denied(Reason.REVOKED))

    def test_what_is_not_fit(self) -> None:
        """What nobody may have would get in by an invite."""
        self.assertEqual(self.welcomed(key=Key("RSA", 1024)), Denied(Reason.WEAK_KEY))
        self.assertEqual(self.welcomed(size=LIMITS.certificate), Newcomer(replace(LEAF, size=LIMITS.certificate)))
        self.assertEqual(self.welcomed(size=LIMITS.certificate + 1), Denied(Reason.TOO_LARGE))
        self.assertEqual(self.welcomed(size=LIMITS.certificate + 1, key=Key("DSA", 1)), Denied(Reason.TOO_LARGE))
        self.assertEqual(self.welcomed(authorization(), key=Key("DSA", 1)), Denied(Reason.WEAK_KEY))
        self.assertEqual(self.welcomed(now=LEAF.not_before - TICK), Denied(Reason.NOT_YET_VALID))
        self.assertEqual(self.welcomed(now=LEAF.not_after + TICK), Denied(Reason.EXPIRED))


class LimitsTests(SynchronousTestCase):
    def test_rsa_from_2048_to_8192_bits(self) -> None:
        """Less can be broken; more is a cheap way to keep a server busy."""
        for bits, sound in (
            (1024, False),
            (2047, False),
            (2048, True),
            (4096, True),
            (8192, True),
            (8193, False),
            (16384, False),
        ):
            self.assertEqual(LIMITS.sound(Key("RSA", bits)), sound, bits)

    def test_sane_curves_and_post_quantum_keys(self) -> None:
        """These are what `openssl req` makes with its usual options."""
        for algorithm in ("EC P-256", "EC P-384", "EC P-521", "Ed25519", "Ed448", "ML-DSA-44", "ML-DSA-65", "ML-DSA-87"):
            self.assertTrue(LIMITS.sound(Key(algorithm, 1)), algorithm)

    def test_only_some(self) -> None:
        """A kind that the operator has left out would be taken; or one that can be let in could not be named."""
        self.assertEqual(LIMITS.only(tuple(KINDS)), LIMITS)
        keys = [Key(algorithm, 3072) for algorithm in KINDS.values()]
        for kind, algorithm in KINDS.items():
            self.assertEqual([key.algorithm for key in keys if LIMITS.only((kind,)).sound(key)], [algorithm])
        self.assertFalse(LIMITS.only(("rsa",)).sound(Key("RSA", 1024)))

    def test_nothing_else(self) -> None:
        """What is not known to be sound is refused, RSA with a strange exponent among it."""
        for algorithm in (
            "EC secp256k1",
            "EC P-192",
            "DSA",
            "unknown",
            "",
            "RSA with an unusual exponent",
            "rsa",
            "RSA-PSS",
            "A",
            "Z",
        ):
            self.assertFalse(LIMITS.sound(Key(algorithm, 4096)), algorithm)

    def test_rsa_is_matched_by_what_it_says(self) -> None:
        """A name that is put together at run time is the same name: else every RSA client would be refused."""
        self.assertTrue(LIMITS.sound(Key("RSA-2048"[:3], 2048)))

    def test_the_numbers(self) -> None:
        """The documentation promises them."""
        self.assertEqual(LIMITS, Limits())
        self.assertEqual((LIMITS.rsa_least, LIMITS.rsa_most, LIMITS.certificate, LIMITS.chain), (2048, 8192, 16384, 4))


class ValueTests(SynchronousTestCase):
    def test_nobody_changes_a_decision(self) -> None:
        """A refusal that some later code can turn round is none."""
        for value, field in ((Denied(Reason.REVOKED), "reason"), (Allowed(authorization()), "authorization"), (LIMITS, "chain")):
            self.assertRaises(FrozenInstanceError, setattr, value, field, None)
            self.assertFalse(hasattr(value, "__dict__"))

    def test_decisions_are_compared_by_value(self) -> None:
        """Callers and tests compare decisions with ==."""
        self.assertEqual(Denied(Reason.REVOKED), Denied(Reason.REVOKED))
        self.assertNotEqual(Denied(Reason.REVOKED), Denied(Reason.EXPIRED))

    def test_the_reasons_are_a_contract(self) -> None:
        """Scripts look for these words in the audit log."""
        self.assertEqual(
            [str(reason) for reason in Reason],
            [
                "authorized",
                "unknown-certificate",
                "revoked",
                "no-certificate",
                "expired",
                "not-yet-valid",
                "weak-key",
                "too-large",
                "bad-handshake",
                "plain-http",
                "old-protocol",
                "no-common-protocol",
                "timeout",
                "closed",
                "over-limit",
                "not-allowed",
                "internal-error",
            ],
        )


class RemedyTests(SynchronousTestCase):
    def test_each_reason_has_its_command_or_none(self) -> None:
        """An operator pastes what the log says: a wrong command would put nothing right, or too much."""
        expected = dict.fromkeys(Reason) | {
            Reason.UNKNOWN_CERTIFICATE: "mtlsd authorize CERT.pem --name NAME",
            Reason.REVOKED: "mtlsd authorize CERT.pem --name NAME --again",
            Reason.EXPIRED: "mtlsd authorize NEW.pem --name NAME --add",
            Reason.WEAK_KEY: "mtlsd new NAME --out DIR",
            Reason.NO_CERTIFICATE: "mtlsd new NAME --out DIR",
        }
        self.assertEqual({reason: remedy(reason) for reason in Reason}, expected)
        self.assertEqual({reason: remedy(reason, LEAF, NOW) for reason in Reason}, expected)

    def test_what_has_ended_is_not_to_be_authorized(self) -> None:
        """The operator would authorize it, and see it refused as `expired`."""
        command = remedy(Reason.UNKNOWN_CERTIFICATE)
        self.assertEqual(remedy(Reason.UNKNOWN_CERTIFICATE, LEAF, LEAF.not_after), command)
        self.assertIsNone(remedy(Reason.UNKNOWN_CERTIFICATE, LEAF, LEAF.not_after + TICK))
        self.assertEqual(remedy(Reason.UNKNOWN_CERTIFICATE, LEAF, LEAF.not_before - TICK), command)
        self.assertEqual(remedy(Reason.UNKNOWN_CERTIFICATE, LEAF), command)
        self.assertEqual(remedy(Reason.UNKNOWN_CERTIFICATE, None, NOW), command)

    def test_kept(self) -> None:
        """What is kept is approved with one line; nothing else has that as its remedy, and nothing that would be refused."""
        for reason in Reason:
            found = remedy(reason, LEAF, NOW, kept=True)
            if reason is Reason.UNKNOWN_CERTIFICATE:
                self.assertEqual(found, f"mtlsd approve {LEAF.fingerprint} --name NAME")
                self.assertEqual(found, approval(LEAF.fingerprint))
            else:
                self.assertEqual(found, remedy(reason, LEAF, NOW))
        self.assertIsNone(remedy(Reason.UNKNOWN_CERTIFICATE, LEAF, LEAF.not_after + TICK, kept=True))
        self.assertEqual(remedy(Reason.UNKNOWN_CERTIFICATE, None, NOW, kept=True), remedy(Reason.UNKNOWN_CERTIFICATE))

    def test_before_the_end(self) -> None:
        """Where clients renew by themselves, the operator would be sent for a file that nobody has to carry."""
        by_hand = "mtlsd authorize NEW.pem --name alice --add"
        self.assertEqual(remedy_of_end("alice", renews=False), by_hand)
        self.assertEqual(remedy_of_end("alice", renews=True), f"mtlsd renew, at the client; or {by_hand}")

    def test_nothing_from_the_certificate_is_in_it(self) -> None:
        """A CN like `$(reboot)` would end up in an operator's root shell."""
        hostile = replace(LEAF, subject="CN=$(reboot)")
        for reason in Reason:
            self.assertNotIn("reboot", remedy(reason, hostile, NOW) or "")

    def test_a_reason_is_matched_by_what_it_says(self) -> None:
        """Reasons that are read back from a log are the same reasons."""
        self.assertIs(Reason("revoked"), Reason.REVOKED)
        for reason in Reason:
            self.assertEqual(remedy(Reason(str(reason))), remedy(reason))


class AffordableTests(SynchronousTestCase):
    """What it costs to check a signature above a leaf, whatever it is worth."""

    def test_rsa(self) -> None:
        """A key of a stranger's issuer could cost sixty handshakes; an old, small one of an honest one would count."""
        for bits, affordable in ((1, True), (1024, True), (8192, True), (8193, False), (16384, False)):
            self.assertIs(LIMITS.affordable(Key("RSA", bits)), affordable, bits)

    def test_others(self) -> None:
        """A kind of key that nobody has looked at would be worked with."""
        for algorithm in sorted(LIMITS.algorithms):
            self.assertIs(LIMITS.affordable(Key(algorithm, 99_999)), True, algorithm)
        for algorithm in ("DSA", "RSA with an unusual exponent", "EC secp256k1", "unknown", "", "Q", "SSA"):
            self.assertIs(LIMITS.affordable(Key(algorithm, 2048)), False, algorithm)
