"""Questions about people, made for `selector.py`: a context is one sentence that answers, and others that do not.

What does not answer is *about the same person* (something else), *about other people* (something else), about nobody, or
*adversarial* (Jia and Liang 2017, *Adversarial examples for evaluating reading comprehension systems*): it answers the very
same question about another person, in any of its wordings. Contexts to learn from are short and seldom adversarial; those to
be judged on are long and have several such sentences. Names are put together of two parts, so that most of a test's people
were never learnt from.
"""

import random

FIRST = """Anna Bruno Clara David Elena Felix Greta Hugo Irene Jonas Karin Lukas Maria Nils Olga Paul Rosa Simon Tessa Victor Wanda
Yusuf Zoe Adrian Bella Cyrus Diana Edgar Fiona Gavin Helen Isaac Julia Kevin Laura Marcus Nora Oscar Petra Ralph""".split()
LAST = """Adler Brandt Carver Dalton Ellis Fischer Grant Hoffman Irving Jensen Keller Lambert Morris Novak Olsen Parker Quinn
Ramsey Sawyer Turner Ulrich Vaughn Walker Young Ziegler Abbott Barker Collins Dixon Emerson Foster Gibson Harper Ingram Jordan
Kramer Lawson Mercer Norton Osborne""".split()
CITIES = """Bonn Oslo Rome Lima Delhi Paris Tokyo Cairo Boston Madrid Lisbon Vienna Dublin Prague Sydney Toronto Chicago
Athens Berlin Warsaw Moscow Geneva Milan Seoul""".split()

# What is asked, how it is told, and what may be the answer.
RELATIONS = [
    (
        ["Where does {} live?", "In which city is the home of {}?", "What town is {} a resident of?"],
        ["{} lives in {}.", "{} has had a flat in {} for years.", "The home of {} is in {}.", "{} is a resident of {}."],
        CITIES,
    ),
    (
        ["Where was {} born?", "What is the birthplace of {}?", "Which city did {} come into the world in?"],
        ["{} was born in {}.", "The birthplace of {} is {}.", "{} came into the world in {}, on a cold morning."],
        CITIES,
    ),
    (
        ["Which instrument does {} play?", "What does {} make music with?", "What does {} practise on in the evening?"],
        ["{} plays the {}.", "{} is known to play the {} rather well.", "{} practises on the {} in the evening."],
        "piano violin guitar trumpet flute cello drums harp organ clarinet saxophone accordion banjo tuba".split(),
    ),
    (
        ["What does {} do for a living?", "What is the profession of {}?", "Which job does {} have?"],
        ["{} works as a {}.", "{} has been a {} for ten years.", "The profession of {} is that of a {}."],
        "teacher lawyer doctor farmer baker pilot nurse painter writer plumber carpenter butcher chemist tailor".split(),
    ),
    (
        ["Which animal does {} keep?", "What kind of pet does {} have?", "What animal lives with {}?"],
        ["{} keeps a {}.", "{} has a {} as a pet.", "In the house of {} there is a {}."],
        "dog cat parrot rabbit hamster turtle snake goat horse pony lizard spider duck goose".split(),
    ),
    (
        ["What does {} like to drink?", "What is the favourite drink of {}?", "What is {} fond of drinking?"],
        ["{} likes to drink {}.", "The favourite drink of {} is {}.", "{} is fond of {}."],
        "tea coffee milk beer wine cider cocoa lemonade water whisky juice rum".split(),
    ),
    (
        ["Which sport does {} do?", "What does {} do on the sports ground?", "What kind of sport is {} good at?"],
        ["{} does {} twice a week.", "{} is good at {}.", "The sport of {} is {}."],
        "tennis football swimming boxing rowing fencing golf cricket rugby hockey skiing judo".split(),
    ),
    (
        ["In which year did {} retire?", "When did {} stop working?", "What year did {} leave work for good?"],
        ["{} retired in {}.", "{} stopped working in {}.", "{} left work for good in {}."],
        [str(year) for year in range(1961, 2019)],
    ),
    (
        ["Whom did {} marry?", "Who is {} married to?", "Who became the spouse of {}?"],
        ["{} married {}.", "{} is married to {}.", "The wedding of {} and {} was in May."],
        FIRST,
    ),
    (
        ["How does {} get to work?", "What does {} travel to work by?", "Which way of going to work has {} chosen?"],
        ["{} gets to work by {}.", "{} goes to work by {} every day.", "Every morning {} travels to work by {}."],
        "bus car train tram bicycle ferry taxi scooter motorcycle boat".split(),
    ),
]
OF_NOBODY = """The weather was fine for most of the week. | The train was late again, as it often is. | The shop at the corner opens at nine. |
Nobody knew what to say about it. | The garden is full of flowers in spring. | There was music in the street until midnight. |
A new bridge will be built next year. | The museum is closed on Mondays. | The old mill by the river burnt down. |
Tickets are sold at the entrance. | It had rained for three days. | The road to the coast is narrow and steep. |
Prices have gone up since the summer. | The library has bought new chairs. | A storm is expected in the north. |
The market takes place on Saturdays.""".split("|")


def question(draw, name, adversarial, others):
    """A record of SQuAD's kind: a context of the evidence, so many adversarial sentences, and so many others."""
    people = [f"{first} {last}" for first, last in zip(draw.sample(FIRST, 3 + adversarial), draw.sample(LAST, 3 + adversarial))]
    person, *strangers = people
    relation = draw.choice(RELATIONS)
    asked, told, values = relation
    answer, *wrong = draw.sample([value for value in values if value not in " ".join(people)], adversarial + 1)
    evidence = draw.choice(told)
    evidence, at = evidence.format(person, answer), evidence.rindex("{}") - 2 + len(person)
    sentences = [evidence]
    sentences += [draw.choice(told).format(other, instead) for other, instead in zip(strangers, wrong)]
    for kind in (draw.randrange(3) for _ in range(others)):
        _, about, more = draw.choice([other for other in RELATIONS if other is not relation])
        about, value = draw.choice(about), draw.choice(more)
        whom = [person, draw.choice(strangers[adversarial:]), None][kind]
        sentences.append(about.format(whom, value) if whom else draw.choice(OF_NOBODY).strip())
    draw.shuffle(sentences)
    context = " ".join(sentences)
    start = context.index(evidence) + at
    assert context[start:].startswith(answer)
    answers = {"text": [answer], "answer_start": [start]}
    return {"id": name, "question": draw.choice(asked).format(person), "context": context, "answers": answers}
