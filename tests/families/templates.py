"""Chat templates in the form of the published ones, without parts for video and tools.

Each function takes the text that stands for a picture.
"""

from __future__ import annotations

QWEN_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
TEXT = "{{ c['text'] }}"


def parts(picture: str, text: str = TEXT) -> str:
    """The contents of a message, pictures and texts in their order."""
    return (
        "{% for c in m['content'] %}{% if c['type'] == 'image' %}" + picture
        + "{% else %}" + text + "{% endif %}{% endfor %}"
    )  # fmt: skip


def conversation(message: str, opening: str = "", asking: str = "") -> str:
    """``message`` for each message ``m``; ``asking`` where the model is to answer."""
    asked = "{% if add_generation_prompt %}" + asking + "{% endif %}" if asking else ""
    return opening + "{% for m in messages %}" + message + "{% endfor %}" + asked


def role(user: str, assistant: str) -> str:
    return "{% if m['role'] == 'user' %}" + user + "{% else %}" + assistant + "{% endif %}"


def chatml(picture: str, *, system: bool = True, opening: str = "") -> str:
    hello = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    first = "{% if loop.first and m['role'] != 'system' %}" + hello + "{% endif %}"
    message = "<|im_start|>{{ m['role'] }}\n" + parts(picture) + "<|im_end|>\n"
    return conversation((first if system else "") + message, opening, "<|im_start|>assistant\n")


def thinking(picture: str) -> str:
    """ChatML that writes an empty thought into the last answer alone, as Qwen3's does."""
    last = (
        "{%- set ns = namespace(last=0) -%}{%- for m in messages -%}{%- if m['role'] == 'user' -%}"
        "{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    )
    thought = (
        "{% if m['role'] == 'assistant' and loop.index0 > ns.last %}<think>\n\n</think>\n\n"
        "{% endif %}"
    )
    message = "<|im_start|>{{ m['role'] }}\n" + thought + parts(picture) + "<|im_end|>\n"
    return conversation(message, last, "<|im_start|>assistant\n<think>\n")


def gemma(picture: str, begin: str = "<start_of_turn>", end: str = "<end_of_turn>") -> str:
    name = "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    message = begin + name + parts(picture, "{{ c['text'] | trim }}") + end + "\n"
    return conversation(message, "{{ bos_token }}", begin + "model\n")


def llama3(picture: str, left: str = "<|start_header_id|>", right: str = "<|end_header_id|>",
           end: str = "<|eot_id|>") -> str:  # fmt: skip
    content = parts(picture, "{{ c['text'] | trim }}")
    message = left + "{{ m['role'] }}" + right + "\n\n" + content + end
    return conversation(message, "{{ bos_token }}", left + "assistant" + right + "\n\n")


def mistral(picture: str) -> str:
    said = "{% for c in m['content'] %}" + TEXT + "{% endfor %}{{ eos_token }}"
    return conversation(role("[INST]" + parts(picture) + "[/INST]", said), "{{ bos_token }}")


def llava_next(picture: str) -> str:
    asked = (
        "[INST] {% for c in m['content'] if c['type'] == 'image' %}" + picture + "\n{% endfor %}"
        "{% for c in m['content'] if c['type'] == 'text' %}" + TEXT + "{% endfor %} [/INST]"
    )
    said = "{% for c in m['content'] %}{{ ' ' + c['text'] }}</s> {% endfor %}"
    return conversation(role(asked, said))


def cohere(picture: str) -> str:
    begin, end = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"
    who = role("<|USER_TOKEN|>", "<|CHATBOT_TOKEN|><|START_RESPONSE|>")
    close = "{% if m['role'] == 'assistant' %}<|END_RESPONSE|>{% endif %}"
    asking = begin + "<|CHATBOT_TOKEN|><|START_RESPONSE|>"
    return conversation(begin + who + parts(picture) + close + end, "{{ bos_token }}", asking)


def glm(picture: str) -> str:
    """No token ends an answer: the next question's does."""
    who = role("<|user|>\n", "<|assistant|>\n")
    return conversation(who + parts(picture), "[gMASK]<sop>", "<|assistant|>\n")


def llava(picture: str, user: str = "USER") -> str:
    """That of llava-hf, with marks around what is generated; an answer ends in a blank alone."""
    pictures = "{% for c in m['content'] if c['type'] == 'image' %}" + picture + "\n{% endfor %}"
    asked = "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] + ' ' }}{% endfor %}"
    said = (
        "{% for c in m['content'] if c['type'] == 'text' %}"
        "{% generation %}{{ c['text'] + ' ' }}{% endgeneration %}{% endfor %}"
    )
    who = role(user + ": ", "ASSISTANT: ")
    return conversation(who + pictures + role(asked, said), "", "ASSISTANT:")


def deepseek(picture: str) -> str:
    who = role("User: ", "Assistant: ")
    close = role("\n\n", "{{ eos_token }}")
    return conversation(who + parts(picture) + close, "", "Assistant:")


def idefics(picture: str = "<image>", opening: str = "<|im_start|>") -> str:
    colon = "{% if m['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    name = "{{ m['role'] | capitalize }}"
    message = name + colon + parts(picture) + "<end_of_utterance>\n"
    return conversation(message, opening, "{{ 'Assistant:' }}")


def emu(picture: str = "<image>") -> str:
    asked = (
        " USER: {% for c in m['content'] if c['type'] == 'image' %}" + picture + "{% endfor %}"
        "{% for c in m['content'] if c['type'] == 'text' %}" + TEXT + "{% endfor %} "
    )
    said = " ASSISTANT:{% for c in m['content'] %} " + TEXT + "{% endfor %}{{ eos_token }}"
    return conversation(role(asked, said), "", " ASSISTANT:")
