"""The budget of unfinished handshakes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.addresses import address_group
from mtlsd.tls.budget import HandshakeBudget


class AddressGroupTests(SynchronousTestCase):
    """What counts as one address."""

    def test_groups(self) -> None:
        """A subscriber's /64 would be as many addresses as it likes, or two of IPv4 would be one."""
        self.assertEqual(address_group("192.0.2.1"), "192.0.2.1")
        self.assertEqual(address_group("2001:db8::1"), address_group("2001:db8::ffff:1"))
        self.assertNotEqual(address_group("2001:db8:0:1::1"), address_group("2001:db8:0:2::1"))
        self.assertEqual(address_group("fe80::1%eth0"), address_group("fe80::2"))
        self.assertEqual(address_group("not:an:address"), "not:an:address")


class HandshakeBudgetTests(SynchronousTestCase):
    """Who floods, pays."""

    def test_oldest_goes(self) -> None:
        """The newcomer would be dropped, and a flood would keep everybody out."""
        budget: HandshakeBudget[int] = HandshakeBudget(2)
        self.assertEqual([budget.add(nth, "192.0.2.1") for nth in range(4)], [None, None, 0, 1])
        self.assertEqual(budget.everything(), [2, 3])

    def test_heaviest_pays(self) -> None:
        """A flood from one address would push out the handshakes of another."""
        budget: HandshakeBudget[str] = HandshakeBudget(3, fair_share=1)
        budget.add("slow", "192.0.2.1")
        budget.add("flood 1", "192.0.2.2")
        budget.add("flood 2", "192.0.2.2")
        self.assertEqual(budget.add("flood 3", "192.0.2.2"), "flood 1")
        self.assertEqual(budget.add("other", "192.0.2.3"), "flood 2")

    def test_fair_share(self) -> None:
        """An office behind one address would be pushed out by a flood that comes from thousands of them."""
        budget: HandshakeBudget[str] = HandshakeBudget(100)
        for nth in range(95):
            budget.add(f"flood {nth}", f"192.0.2.{nth}")
        gone = []
        for nth in range(8):
            gone += [budget.add(f"office {nth}", "198.51.100.1"), budget.add(f"late {nth}", f"203.0.113.{nth}")]
        self.assertEqual([victim for victim in gone if victim], [f"flood {nth}" for nth in range(11)])

    def test_remove(self) -> None:
        """A handshake that is over would go on taking room, or be dropped for another."""
        budget: HandshakeBudget[int] = HandshakeBudget(1)
        budget.add(1, "192.0.2.1")
        budget.remove(1, "192.0.2.1")
        budget.remove(1, "192.0.2.1")
        self.assertEqual(len(budget), 0)
        self.assertIsNone(budget.add(2, "192.0.2.2"))
        budget.remove(3, "192.0.2.2")
        self.assertEqual(len(budget), 1)

    @given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=80), st.integers(1, 8), st.integers(0, 3))
    def test_against_a_plain_model(self, steps: list[tuple[int, bool]], limit: int, fair: int) -> None:
        """The bookkeeping would go wrong after some sequence that nobody thought of."""
        budget: HandshakeBudget[int] = HandshakeBudget(limit, fair)
        model: list[tuple[int, str]] = []
        for serial, (host, adding) in enumerate(steps):
            address = f"192.0.2.{host}"
            if adding:
                expected = None
                if len(model) >= limit:
                    counts = {where: sum(entry[1] == where for entry in model) for _, where in model}
                    heaviest = {where for where, count in counts.items() if count == max(counts.values())}
                    victim = budget.add(serial, address)
                    if max(counts.values()) <= fair:
                        self.assertEqual(victim, model[0][0])
                    else:
                        self.assertIn(victim, [next(e[0] for e in model if e[1] == where) for where in heaviest])
                    model = [entry for entry in model if entry[0] != victim]
                else:
                    self.assertIs(budget.add(serial, address), expected)
                model.append((serial, address))
            elif model:
                gone = model.pop(host % len(model))
                budget.remove(*gone)
            self.assertEqual(len(budget), len(model))
            self.assertEqual(sorted(budget.everything()), sorted(entry[0] for entry in model))
