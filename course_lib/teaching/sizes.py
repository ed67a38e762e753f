"""Sizes of published networks: the numbers behind the lesson Motivation and its figures.

Every number is in the abstract or a table of the work that is cited; ``says`` quotes its words.
"""

from typing import NamedTuple


class Size(NamedTuple):
    """The number of parameters of a published network."""

    name: str  #: of the network
    year: int  #: of its first public version
    parameters: float  #: how many
    language: bool  #: whether it is a language model
    cite: str  #: its key in ``book/references.bib``
    says: str  #: the words of the source


SIZES = (
    Size("LeNet-5", 1998, 60e3, False, "lecun1998mnist", "only 60,000 trainable free parameters"),
    Size("AlexNet", 2012, 60e6, False, "krizhevsky2012alexnet", "60 million parameters"),
    Size("VGG-16", 2014, 138e6, False, "simonyan2015vgg", "138 (table 2, in millions)"),
    Size("MobileNet", 2017, 4.2e6, False, "howard2017mobilenets", "4.2 (table 4, in millions)"),
    Size("BERT large", 2018, 340e6, True, "devlin2019bert", "Total Parameters=340M"),
    Size("GPT-2", 2019, 1.5e9, True, "radford2019gpt2", "a 1.5B parameter Transformer"),
    Size("Megatron-LM", 2019, 8.3e9, True, "shoeybi2019megatron", "up to 8.3 billion parameters"),
    Size("T5", 2019, 11e9, True, "raffel2020t5", "models up to 11 billion parameters"),
    Size("GPT-3", 2020, 175e9, True, "brown2020gpt3", "175 billion parameters"),
    Size("Chinchilla", 2022, 70e9, True, "hoffmann2022chinchilla", "with 70B parameters"),
    Size("PaLM", 2022, 540e9, True, "chowdhery2023palm", "a 540-billion parameter"),
    Size("Llama 3", 2024, 405e9, True, "grattafiori2024llama3", "with 405B parameters"),
    Size("DeepSeek-V3", 2024, 671e9, True, "deepseek2024v3", "671B total parameters"),
)
