"""What customers of the telecom data set want, and the answer codes that the operator's system expects.

Data only: products with their prices, services, and `goals()`, which spells out every answer with its share. The
words in which customers ask for them are composed in `phrasing.py`. Everything here is invented.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Family = Literal["cancel", "intro", "activate", "service", "switch", "intro_activate", "compare", "combined"]

# Percent of all rows per family; within a family Zipf's law (weight 1 / rank) in the order of the tables below.
FAMILY_PERCENT: dict[Family, int] = {
    "cancel": 19,
    "intro": 16,
    "activate": 17,
    "service": 23,
    "switch": 8,
    "intro_activate": 6,
    "compare": 4,
    "combined": 7,
}


@dataclass(frozen=True, slots=True)
class Product:
    """Something on the price list.

    Attributes:
        code: The operator's number for it, the part behind the underscore of an answer code.
        prices: Monthly prices as the operator's system prints them; two where the first year is cheaper.
        names: Phrases that name it and nothing else; each follows "the" or "my".
        vague: A phrase that fits this product and its neighbour, so that nobody can be right every time.
        plan: The name as the account context prints it, for products that are somebody's main plan.
    """

    code: int
    prices: tuple[str, ...]
    names: tuple[str, ...]
    vague: str
    plan: str | None = None

    @property
    def intro(self) -> str:
        """The answer that introduces it: the code, then its prices."""
        return "|".join((f"intro_{self.code}", *self.prices))


@dataclass(frozen=True, slots=True)
class Service:
    """A request that concerns no product.

    Attributes:
        answer: Its answer code.
        requests: Verb phrases that follow "I want to" or "can you".
        statements: Whole sentences that mean the same without asking for it.
    """

    answer: str
    requests: tuple[str, ...]
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing a customer can want: the expected answer and what the question is about.

    Attributes:
        family: How the question is composed.
        answer: Answer codes joined with "|".
        share: Share of all rows; the shares of all goals sum to 1.
        subjects: The products or services asked for, in the order of the answer.
    """

    family: Family
    answer: str
    share: Fraction
    subjects: tuple[Product, ...] | tuple[Service, ...]


PRODUCTS: tuple[Product, ...] = (
    Product(98, ("29.9",), ("Unlimited Max plan", "unlimited plan", "no-limits tariff"), "big plan", "Unlimited Max"),
    Product(68, ("39.9",), ("Family Share plan", "family plan", "plan for four lines"), "big plan", "Family Share"),
    Product(111, ("9.9", "11.9"), ("Student plan", "student tariff", "plan for students"), "small plan", "Student"),
    Product(18, ("7.9",), ("Lite 5 plan", "5 GB plan", "Lite tariff"), "small plan", "Lite 5"),
    Product(310, ("4.9",), ("Data Booster", "10 GB booster", "extra data booster"), "data add-on"),
    Product(501, ("6.9",), ("Movie Pack", "film channels", "cinema package"), "TV pack"),
    Product(210, ("3.9",), ("Europe Pass", "Europe roaming pass", "EU travel pass"), "travel option"),
    Product(28, ("14.9",), ("Everyday 20 plan", "20 GB plan", "Everyday tariff"), "middle plan", "Everyday 20"),
    Product(404, ("34.9", "44.9"), ("Fibre 500", "fast fibre line", "500 megabit fibre"), "home internet", "Fibre 500"),
    Product(305, ("2.9",), ("Night Surf option", "night data option", "midnight data deal"), "data add-on"),
    Product(402, ("24.9",), ("Fibre 100", "basic fibre line", "100 megabit fibre"), "home internet", "Fibre 100"),
    Product(507, ("8.9",), ("Sports Pack", "football channels", "sports package"), "TV pack"),
)

SERVICES: tuple[Service, ...] = (
    Service(
        "balance_1",
        ("check my balance", "see how much credit I have left", "know what is left on my prepaid card"),
        ("What is my balance right now?", "No idea how much credit I still have.", "How much money is on my card?"),
    ),
    Service(
        "usage_12",
        ("check how much data I have used", "see my remaining gigabytes", "look up my data usage"),
        ("How many GB are left this month?", "I wonder if my data is nearly used up.", "Is there any data left?"),
    ),
    Service(
        "bill_7",
        ("understand a charge on my bill", "have my bill explained", "find out why my bill is so high"),
        ("My bill is far higher than usual.", "There is a fee on my bill I do not know.", "Why was I charged more?"),
    ),
    Service(
        "speed_71",
        ("fix my slow internet", "find out why pages load so slowly", "get a faster connection on my phone"),
        ("My mobile data is crawling.", "Videos buffer all evening.", "The connection is painfully slow today."),
    ),
    Service(
        "topup_3",
        ("top up my phone", "add credit to my prepaid card", "put 20 on my card"),
        ("My credit ran out and I want to refill it.", "Where can I recharge my card?", "I need more credit."),
    ),
    Service(
        "outage_72",
        ("report that I have no signal at all", "find out if the network is down", "report an outage in my street"),
        ("Nothing works, there is no network here.", "No bars since this morning.", "The whole area is offline."),
    ),
    Service(
        "sim_40",
        ("order a new SIM card", "replace my damaged SIM", "get a replacement SIM"),
        ("My SIM card is broken.", "The phone says invalid SIM.", "My old SIM does not fit the new phone."),
    ),
    Service(
        "block_90",
        ("block my number", "lock my line because my phone is gone", "report a stolen phone"),
        ("Somebody stole my phone.", "I lost my phone on the train.", "My handset was taken, stop all calls."),
    ),
    Service(
        "invoice_8",
        ("get a copy of my invoice", "download last month's invoice", "have the invoice sent by email"),
        ("I never received the invoice.", "My employer needs the invoice as a PDF.", "Where do I find old invoices?"),
    ),
    Service(
        "refund_14",
        ("get my money back", "ask for a refund", "reclaim a double payment"),
        ("I paid twice by mistake.", "You took the money two times.", "I was billed wrongly and want it back."),
    ),
    Service(
        "puk_31",
        ("get my PUK code", "unlock my SIM after three wrong PINs", "find the PUK"),
        ("My phone asks for a PUK.", "I typed the wrong PIN three times.", "The SIM is locked and wants eight digits."),
    ),
    Service(
        "esim_41",
        ("move to an eSIM", "get a QR code for my eSIM", "use an eSIM instead of the plastic card"),
        ("My new phone only takes eSIM.", "The eSIM code does not scan.", "I want no plastic SIM any more."),
    ),
    Service(
        "port_52",
        ("take my number to another provider", "get the porting code", "keep my number when I leave"),
        (
            "I am leaving but the number comes with me.",
            "My new provider asks for a transfer code.",
            "Number move, please.",
        ),
    ),
    Service(
        "address_61",
        ("change my address", "update where my post goes", "register my new flat"),
        ("I moved house last week.", "My letters still go to the old place.", "We have a new address."),
    ),
    Service(
        "forward_35",
        ("forward my calls", "send calls to my landline", "redirect calls while I am away"),
        ("Calls should ring at my office instead.", "All calls should go to my wife's phone.", "Set up a diversion."),
    ),
)

_PRODUCT = {product.code: product for product in PRODUCTS}
_SERVICE = {service.answer: service for service in SERVICES}

# (what is cancelled, what is activated instead)
_SWITCHES = ((18, 28), (28, 98), (402, 404), (98, 68), (111, 98), (501, 507), (305, 310))
_INTRODUCED_AND_ACTIVATED = (111, 98, 310, 404, 210, 68)
_COMPARED = ((18, 28), (98, 68), (402, 404), (501, 507))
_COMBINED = (
    ("block_90", "sim_40"),
    ("bill_7", "refund_14"),
    ("balance_1", "topup_3"),
    ("address_61", "invoice_8"),
    ("usage_12", "speed_71"),
    ("port_52", "invoice_8"),
    ("puk_31", "sim_40"),
    ("outage_72", "refund_14"),
)


def goals() -> tuple[Goal, ...]:
    """Return every goal with its share of the rows, families in the order of `FAMILY_PERCENT`."""
    members: dict[Family, list[tuple[str, tuple[Product, ...] | tuple[Service, ...]]]] = {
        "cancel": [(f"cancel_{product.code}", (product,)) for product in PRODUCTS],
        "intro": [(product.intro, (product,)) for product in PRODUCTS],
        "activate": [(f"activate_{product.code}", (product,)) for product in PRODUCTS],
        "service": [(service.answer, (service,)) for service in SERVICES],
        "switch": [(f"cancel_{a}|activate_{b}", (_PRODUCT[a], _PRODUCT[b])) for a, b in _SWITCHES],
        "intro_activate": [
            (f"{_PRODUCT[code].intro}|activate_{code}", (_PRODUCT[code],)) for code in _INTRODUCED_AND_ACTIVATED
        ],
        "compare": [(f"{_PRODUCT[a].intro}|{_PRODUCT[b].intro}", (_PRODUCT[a], _PRODUCT[b])) for a, b in _COMPARED],
        "combined": [(f"{a}|{b}", (_SERVICE[a], _SERVICE[b])) for a, b in _COMBINED],
    }
    found = []
    for family, percent in FAMILY_PERCENT.items():
        weights = [Fraction(1, rank) for rank in range(1, len(members[family]) + 1)]
        for (answer, subjects), weight in zip(members[family], weights, strict=True):
            found.append(Goal(family, answer, percent * weight / (100 * sum(weights)), subjects))
    return tuple(found)
