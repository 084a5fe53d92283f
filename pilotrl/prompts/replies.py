"""Where the action is in an executor's reply, in the forms `tagged` and `tool_call` of `agent.replies`; `line` is in `parsing`.

All takes time in proportion to the reply's length. Raises NotUnderstood for what has another form.
"""

from __future__ import annotations

from pilotrl.types import NotUnderstood

FORMS = ("line", "tagged", "tool_call")
"""What `agent.replies` may be."""
FENCE = "```"


def after_thinking(text: str, marks: str) -> str:
    """A reply without the thinking that it begins with: all up to `</think>`, where that is not part of the action, which
    begins with `marks`. The prompt may have held the `<think>`."""
    thought, closed, rest = text.partition("</think>")
    if text.lstrip().startswith("<think>") and not closed:
        raise NotUnderstood("<think> is not closed")
    return rest if closed and (thought.lstrip().startswith("<think>") or marks not in thought) else text


def tagged_action(text: str) -> str:
    """What stands in the one `<action>...</action>` or, without that, in the one code block that a reply ends with."""
    said = after_thinking(text, "<action>")
    if "<action>" not in said and "</action>" not in said:
        return _filled(_block(said))
    before, _, rest = said.partition("<action>")
    action, closed, after = rest.partition("</action>")
    if "</action>" in before or not closed:
        raise NotUnderstood("<action> and </action> are not a pair")
    if "<action>" in rest:
        raise NotUnderstood("there is more than one <action>")
    if after.strip():
        raise NotUnderstood("there is text after </action>")
    return _filled(action)


def _block(said: str) -> str:
    _, *rest = said.split(FENCE)
    if not rest:
        raise NotUnderstood("there is no <action>...</action>, and no code block")
    if len(rest) != 2:
        raise NotUnderstood("there is more than one code block, or one that is not closed")
    _, line_end, block = rest[0].partition("\n")
    if not line_end:
        raise NotUnderstood(f"a code block begins on the line after {FENCE}")
    if rest[1].strip():
        raise NotUnderstood("there is text after the code block")
    return block


def _filled(action: str) -> str:
    if not action.strip():
        raise NotUnderstood("the action is empty")
    return action.strip()


def tool_calls(text: str) -> list[str]:
    """What stands in each `<tool_call>...</tool_call>` that a reply ends with: at least one."""
    before, *parts = after_thinking(text, "<tool_call>").split("<tool_call>")
    if not parts:
        raise NotUnderstood("there is no <tool_call>")
    found = [part.partition("</tool_call>") for part in parts]
    if "</tool_call>" in before or not all(closed for _, closed, _ in found):
        raise NotUnderstood("<tool_call> and </tool_call> are not pairs")
    if any(after.strip() for _, _, after in found):
        raise NotUnderstood("there is text after </tool_call>")
    return [call.strip() for call, _, _ in found]
