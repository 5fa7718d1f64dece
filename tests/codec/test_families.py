from __future__ import annotations

from openvla.codec.conversation import CHATS
from openvla.codec.families import FAMILIES
from openvla.codec.prompt import PROMPTS


def test_every_language_model_has_a_prompt_and_a_chat_format() -> None:
    assert {family.chat for family in FAMILIES.values()} == set(CHATS)
    assert set(CHATS) < set(PROMPTS)


def test_the_space_token_is_llamas_in_the_llama_family_alone() -> None:
    llama = {name for name, family in FAMILIES.items() if family.suffix == 29871}
    assert llama == {name for name in FAMILIES if name.startswith(("llama2", "vicuna"))}
    assert all(FAMILIES[name].suffix is None for name in FAMILIES if name.startswith(("phi", "qwen")))


def test_llama_pads_with_the_first_id_beyond_its_vocabulary() -> None:
    assert (FAMILIES["vicuna-v15-7b"].bos, FAMILIES["vicuna-v15-7b"].eos, FAMILIES["vicuna-v15-7b"].pad) == (
        1,
        2,
        32000,
    )
