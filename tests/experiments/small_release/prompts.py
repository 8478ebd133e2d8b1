"""A small release of our own, with the builders of the public one and none of its words."""

import re

from inference_utils.reflector_tool_notes import system_prompt

SYSTEM_PROMPT = "Be {kind}."
PLANNER_SLOT, REFINED_SLOT, FEEDBACK_SLOT = "[[P]]", "[[R]]", "[[F]]"
HIE_MATH_EXPERT_SLOT, HIE_CODE_EXPERT_SLOT = "[[hm]]", "[[hc]]"
HIE_SCIENCE_EXPERT_SLOT, HIE_FEEDBACK_SLOT = "[[hs]]", "[[hf]]"
DISTILL_EXPERT_SLOT, DISTILL_FEEDBACK_SLOT = "[[de]]", "[[de]]f"
DELIBERATION_REFLECTOR_SLOT, DELIBERATION_FEEDBACK_SLOT = "[[r]]", "[[t]]"


def get_system_prompt(mas_design="chain", mas_role=None):
    return system_prompt if mas_design == "deliberation" else SYSTEM_PROMPT


def build_code_interface_prompt(task_type, fn_name=None):
    if task_type != "function":
        return "A program, in {braces}."
    return f"A function `{fn_name}`." if fn_name else "A function."


def build_hie_task_context(question, mas_task="math", task_type="complete", fn_name=None):
    if mas_task == "code":
        return f"{build_code_interface_prompt(task_type, fn_name)} Code: {question}\n"
    if mas_task == "choice":
        question = question.rstrip()
        if "choose the correct option" not in question.lower():
            question += "\nChoose the correct option {here}."
    return f"Q: {question}\n"


def _end(question, mas_task):
    if mas_task == "math" and re.search(r"(?m)^[A-D]\. ", question):
        mas_task = "choice"
    return {"code": "```", "choice": "\\boxed{A}", "math": "\\boxed{1}"}.get(mas_task, "Say it.")


def build_hie_expert_prompt(question, hie_role, mas_task="math", task_type="", fn_name=None):
    return f"{hie_role} {build_hie_task_context(question, mas_task, task_type, fn_name)}"


def build_hie_expert_prompt_with_feedback_slot(
    question, hie_role, mas_task="math", task_type="complete", fn_name=None
):
    task = build_hie_task_context(question, mas_task, task_type, fn_name)
    return f"{hie_role} {HIE_FEEDBACK_SLOT}\n{task}"


def build_hie_summarizer_prompt_with_slots(question, mas_task="math", task_type="", fn_name=None):
    task = build_hie_task_context(question, mas_task, task_type, fn_name)
    slots = HIE_MATH_EXPERT_SLOT + HIE_CODE_EXPERT_SLOT + HIE_SCIENCE_EXPERT_SLOT
    return f"Sum {slots} {task}{_end(question, mas_task)}"


def build_distill_expert_prompt(question, mas_task="math", task_type="complete", fn_name=None):
    return "Teach " + build_hie_task_context(question, mas_task, task_type, fn_name)


def build_distill_expert_prompt_with_feedback_slot(
    question, mas_task="math", task_type="complete", fn_name=None
):
    task = build_hie_task_context(question, mas_task, task_type, fn_name)
    return f"Teach {DISTILL_FEEDBACK_SLOT} {task}"


def build_distill_learner_prompt_with_slot(question, mas_task="math", task_type="", fn_name=None):
    task = build_hie_task_context(question, mas_task, task_type, fn_name)
    return f"Learn {DISTILL_EXPERT_SLOT} {task}{_end(question, mas_task)}"


def build_deliberation_reflector_prompt(question, mas_task="math", task_type="", fn_name=None):
    return "Reflect " + build_hie_task_context(question, mas_task, task_type, fn_name)


def build_deliberation_reflector_prompt_with_feedback_slot(
    question, mas_task="math", task_type="complete", fn_name=None
):
    task = build_hie_task_context(question, mas_task, task_type, fn_name)
    return f"Reflect {DELIBERATION_FEEDBACK_SLOT} {task}"


def build_deliberation_toolcaller_prompt_with_slot(
    question, mas_task="math", task_type="complete", fn_name=None
):
    task = build_hie_task_context(question, mas_task, task_type, fn_name)
    return f"Call {DELIBERATION_REFLECTOR_SLOT} {task}{_end(question, mas_task)}"


def build_code_planner_prompt(question, task_type, fn_name=None):
    return f"Plan code. {build_code_interface_prompt(task_type, fn_name)} {question}"


def build_code_planner_prompt_with_feedback_slot(question, task_type, fn_name=None):
    interface = build_code_interface_prompt(task_type, fn_name)
    return f"Plan code anew. {interface} {question} {FEEDBACK_SLOT}"


def build_code_refiner_prompt_with_slot(question, task_type, fn_name=None):
    interface = build_code_interface_prompt(task_type, fn_name)
    return f"Refine code. {interface} {question} {PLANNER_SLOT}"


def build_code_solver_prompt_with_slots(
    question, task_type, args=None, mas_shape="chain", fn_name=None
):
    assert mas_shape == "chain" and args.solver_pre_question == 0
    interface = build_code_interface_prompt(task_type, fn_name)
    return f"{interface} {REFINED_SLOT} {question} {_end(question, 'code')}"


def build_math_planner_prompt(question):
    return f"Plan {question} {{}}"


def build_math_planner_prompt_with_feedback_slot(question):
    return f"Plan {question} anew {FEEDBACK_SLOT}"


def build_math_refiner_prompt_with_slot(question):
    return f"Refine {question} {PLANNER_SLOT}"


def build_math_solver_prompt_with_slots(question, args=None, mas_shape="chain"):
    assert mas_shape == "chain" and args.solver_pre_question == 0
    end = _end(question, "math")
    if "{A}" in end and args.choice_old_prompt == 2:
        end = "Old: " + end
    return f"Solve {REFINED_SLOT} {question} {end}"


def build_reasoning_planner_prompt(question):
    return f"Think of {question}"


def build_reasoning_planner_prompt_with_feedback_slot(question):
    return f"Think of {question} anew {FEEDBACK_SLOT}"


def build_reasoning_refiner_prompt_with_slot(question):
    return f"Think better of {question} {PLANNER_SLOT}"


def build_reasoning_solver_prompt_with_slots(question, args=None, mas_shape="chain"):
    return f"Answer {REFINED_SLOT} {question}"
