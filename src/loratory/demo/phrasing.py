"""How customers of the telecom data set word a goal: openings, cores, endings, distractors, typos.

A question is composed from small parts, so that every intent has hundreds of surface forms. All chance comes from
the `random.Random` that is passed in, and only through its `random()` method, whose sequence Python promises to keep
between versions; so one seed gives one text everywhere.
"""

import random
from collections.abc import Sequence
from typing import TypeVar, cast

from loratory.demo.intents import PRODUCTS, Goal, Product, Service

T = TypeVar("T")

# Shares of the optional parts of a question.
_GREETING, _BACKGROUND, _ENDING, _TYPO, _CONTEXT, _BY_CONTEXT, _VAGUE = 0.35, 0.15, 0.4, 0.12, 0.1, 0.08, 0.05

GREETINGS = ("Hi.", "Hello.", "Good morning.", "Good evening.", "Hey there!", "Quick question:", "Sorry to ask.")
BACKGROUNDS = (
    "I have been with you for {n} years.",
    "I paid {price} last time.",
    "I am abroad next month.",
    "My phone is about {n} years old.",
    "I already called {n} times.",
    "We are {n} people at home.",
    "My {other} can stay.",
    "The {other} is fine.",
)
ENDINGS = (
    "Thanks.",
    "Thank you!",
    "Cheers.",
    "It is urgent.",
    "No rush.",
    "My number ends in {digits}.",
    "Customer number {digits}.",
    "Please answer by text.",
    "Is that possible today?",
)
REQUEST_OPENINGS = (
    ("I want to ", "."),
    ("I'd like to ", "."),
    ("Please help me ", "."),
    ("Can I ", "?"),
    ("How do I ", "?"),
    ("How can I ", "?"),
    ("Is it possible to ", "?"),
    ("I need to ", "."),
    ("What do I have to do to ", "?"),
    ("I was hoping to ", "."),
    ("Where do I ", "?"),
    ("I am trying to ", "."),
)
CANCEL = (
    "cancel my {a}",
    "get rid of the {a}",
    "stop the {a}",
    "end my {a}",
    "drop the {a}",
    "remove the {a} from my account",
    "unsubscribe from the {a}",
    "terminate the {a} early",
)
CANCEL_STATEMENTS = (
    "I no longer need the {a}.",
    "Do not renew my {a}.",
    "Why am I still paying for the {a}? I never use it.",
    "The {a} has to go.",
    "Take the {a} off my bill.",
    "I am done with the {a}.",
)
INTRO = (
    "know what the {a} costs",
    "learn more about the {a}",
    "see what is in the {a}",
    "find the price of the {a}",
    "understand the {a} before I decide",
    "read the terms of the {a}",
)
INTRO_STATEMENTS = (
    "How much is the {a}?",
    "Tell me about the {a}.",
    "What does the {a} include?",
    "A friend mentioned the {a}, what is it?",
    "Is the {a} any good?",
    "I saw an advert for the {a}.",
    "Could you describe the {a}?",
)
ACTIVATE = (
    "activate the {a}",
    "add the {a} to my account",
    "sign up for the {a}",
    "start the {a} today",
    "order the {a}",
    "turn on the {a}",
    "get the {a} for my son",
)
ACTIVATE_STATEMENTS = (
    "I will take the {a}.",
    "Give me the {a}, please.",
    "Put the {a} on my line.",
    "The {a} sounds right, go ahead.",
    "Sign me up for the {a}.",
    "Let's do the {a} from Monday.",
)
SWITCH = (
    "switch from the {a} to the {b}",
    "swap my {a} for the {b}",
    "replace the {a} with the {b}",
    "change my {a} into the {b}",
    "have the {b} instead of the {a}",
    "give up the {a} and take the {b}",
)
SWITCH_STATEMENTS = (
    "Out with the {a}, in with the {b}.",
    "The {a} no longer suits me, I want the {b}.",
    "Cancel the {a} and set up the {b}.",
    "I would rather have the {b} than my {a}.",
)
INTRO_ACTIVATE = (
    "hear the price of the {a} and then order it",
    "know what the {a} costs and sign up",
    "see the details of the {a} and turn it on",
    "learn about the {a} and start it right away",
)
INTRO_ACTIVATE_STATEMENTS = (
    "How much is the {a}, and can you activate it?",
    "Tell me about the {a} and add it to my line.",
    "What is in the {a}? I will take it.",
    "Give me the price of the {a}, then switch it on.",
    "Describe the {a} and sign me up.",
)
COMPARE = (
    "compare the {a} with the {b}",
    "know the difference between the {a} and the {b}",
    "see the prices of the {a} and the {b}",
    "choose between the {a} and the {b}",
)
COMPARE_STATEMENTS = (
    "Which is better, the {a} or the {b}?",
    "What do the {a} and the {b} cost?",
    "The {a} or the {b}, which one suits me?",
    "Tell me about both the {a} and the {b}.",
)
_CORES = {
    "cancel": (CANCEL, CANCEL_STATEMENTS),
    "intro": (INTRO, INTRO_STATEMENTS),
    "activate": (ACTIVATE, ACTIVATE_STATEMENTS),
    "switch": (SWITCH, SWITCH_STATEMENTS),
    "intro_activate": (INTRO_ACTIVATE, INTRO_ACTIVATE_STATEMENTS),
    "compare": (COMPARE, COMPARE_STATEMENTS),
}


def phrase(goal: Goal, rng: random.Random) -> tuple[str, str]:
    """Return one way to ask for a goal: the question, and the account context (mostly empty)."""
    if goal.family in ("service", "combined"):
        core = _ask_services(cast(tuple[Service, ...], goal.subjects), rng)
        context = _account(pick(PRODUCTS, rng), rng) if rng.random() < _CONTEXT else ""
    else:
        core, context = _ask_products(goal.family, cast(tuple[Product, ...], goal.subjects), rng)
    greeting = [pick(GREETINGS, rng)] if rng.random() < _GREETING else []
    background = [_fill(pick(BACKGROUNDS, rng), goal, rng)] if rng.random() < _BACKGROUND else []
    ending = [_fill(pick(ENDINGS, rng), goal, rng)] if rng.random() < _ENDING else []
    question = " ".join([*greeting, *background, core, *ending])
    return (_mistype(question, rng) if rng.random() < _TYPO else question), context


def pick(options: Sequence[T], rng: random.Random) -> T:
    """Return one option, all equally likely, by `rng.random()` alone."""
    return options[int(rng.random() * len(options))]


def _ask_products(family: str, products: tuple[Product, ...], rng: random.Random) -> tuple[str, str]:
    """Return the core of a question about products, and the account context."""
    names = [pick(product.names, rng) for product in products]
    context = ""
    first = products[0]
    if first.plan is not None and family in ("cancel", "switch") and rng.random() < _BY_CONTEXT:
        names[0], context = "current plan", _account(first, rng)
    elif family in ("cancel", "intro", "activate") and rng.random() < _VAGUE:
        names[0] = first.vague
    elif rng.random() < _CONTEXT:
        context = _account(pick(PRODUCTS, rng), rng)
    requests, statements = _CORES[family]
    core = _request(pick(requests, rng), rng) if rng.random() < 0.6 else pick(statements, rng)
    return core.format(a=names[0], b=names[-1]), context


def _ask_services(services: tuple[Service, ...], rng: random.Random) -> str:
    """Return the core of a question about one service, or about two in their order."""
    if len(services) == 2:
        first, second = services
        if rng.random() < 0.5:
            return _request(f"{pick(first.requests, rng)} and {pick(second.requests, rng)}", rng)
        return f"{pick(first.statements, rng)} I also want to {pick(second.requests, rng)}."
    return _request(pick(services[0].requests, rng), rng) if rng.random() < 0.5 else pick(services[0].statements, rng)


def _request(verb_phrase: str, rng: random.Random) -> str:
    opening, mark = pick(REQUEST_OPENINGS, rng)
    return f"{opening}{verb_phrase}{mark}"


def _account(product: Product, rng: random.Random) -> str:
    """Return a line as an operator's screen shows it; products that are no plan appear as an option."""
    line = f"Plan: {product.plan}" if product.plan is not None else f"Option: {product.names[0]}"
    return f"{line}; data left: {int(rng.random() * 30)} GB" if rng.random() < 0.3 else line


def _fill(text: str, goal: Goal, rng: random.Random) -> str:
    """Fill the slots of a background or an ending; another product never is one that the goal is about."""
    others = [product for product in PRODUCTS if product not in goal.subjects]
    return text.format(
        n=2 + int(rng.random() * 8),
        price=pick(pick(PRODUCTS, rng).prices, rng),
        digits=f"{int(rng.random() * 10000):04d}",
        other=pick(pick(others, rng).names, rng),
    )


def _mistype(text: str, rng: random.Random) -> str:
    """Return the text as typed in haste: all lower case, unpunctuated, or with a letter lost or two swapped."""
    kind = int(rng.random() * 4)
    if kind == 0:
        return text.lower()
    if kind == 1:
        return text.rstrip(".?!")
    letters = [i for i in range(1, len(text) - 2) if text[i].isalpha() and text[i + 1].isalpha()]
    at = pick(letters, rng)
    return text[:at] + text[at + 1 :] if kind == 2 else text[:at] + text[at + 1] + text[at] + text[at + 2 :]
