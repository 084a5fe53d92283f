"""Chat templates with tools for the tiny tokenizer: as Qwen's are, one that keeps thinking among tools, another dialect."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from pilotrl.prompts.chat import Chat

MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
"""Tokens of their own, and not special, as Qwen3 has them."""
HERMES = r"""{%- if tools %}<|system|>{{ messages[0].content if messages[0].role == 'system' else 'Be kind.' }}
# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Answer with <tool_call>{"name": ..., "arguments": ...}</tool_call>.<|end|>
{%- elif messages[0].role == 'system' %}<|system|>{{ messages[0].content }}<|end|>{%- endif %}
{%- for m in messages %}
{%- if m.role == 'user' %}<|user|>{{ m.content }}<|end|>
{%- elif m.role == 'assistant' %}<|assistant|>{{ m.content }}
{%- for call in m.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{%- endfor %}<|end|>
{%- elif m.role == 'tool' %}
{%- if loop.previtem.role != 'tool' %}<|user|>{%- endif %}{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}
{%- if loop.last or loop.nextitem.role != 'tool' %}<|end|>{%- endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{%- endif %}"""
KEEPING = HERMES.replace(
    "<|assistant|>{{ m.content }}\n",
    "<|assistant|>{%- if loop.index0 > last.at %}{{ m.content }}{%- else %}{{ m.content.split('</think>')[-1] }}"
    "{%- endif %}\n",
).replace(
    "{%- for m in messages %}\n",
    "{%- set last = namespace(at=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}{%- set last.at = loop.index0 %}"
    "{%- endif %}{%- endfor %}{%- for m in messages %}\n",
    1,
)
"""Drops the thinking of replies before the last user's message (Qwen3)."""
OTHER = HERMES.replace('<tool_call>\n{"name": "', '{"name": "').replace("\n</tool_call>{%- endfor", "{%- endfor")
"""Writes calls as bare JSON (Llama 3)."""


def chat_of(tokenizer: Any, template: str = HERMES) -> Chat:
    """The tiny tokenizer with a template; the marks of calls and thoughts are tokens."""
    other = deepcopy(tokenizer)
    other.add_tokens([*MARKS])
    other.chat_template = template
    return Chat(other)
