"""The note that each workflow made by build.py carries, in English and in Chinese."""

# ruff: noqa: RUF001 - Chinese punctuation is meant

from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORDS = {
    note: [(HERE / f"{note}.{language}.md").read_text("utf-8") for language in ("en", "zh")]
    for note in ("template", "emoji")
}

INSIDE = (
    "It is inside the subgraph: open that to set it. With the subgraph open during a run, what the "
    "run did stands on the node.",
    "它在子图内部：打开子图即可设置；运行时若子图处于打开状态，实际结果会显示在节点上。",
)
AFTERWARDS = ("What a run did stands on it afterwards.", "运行结束后，实际结果显示在节点上。")
COMPARED = (
    "\n**A** is the template as it is, **B** the same with the node, from one seed. **Fidelity "
    "Report** measures how near B is to A; it does not say which is better.\n",
    "\n**A** 是原样的模板，**B** 加上该节点，种子相同。**Fidelity Report** 衡量 B 与 A "
    "有多接近，不判断哪个更好。\n",
)
EXPERTS = (
    "The two experts have one each; nothing crosses from one to the other.",
    "两个专家模型各有一个，互不影响。",
)
LIGHTNING = (
    "\n**Few-step LoRAs:** with the template's switch for its LoRA on, runs have 8 steps or fewer, "
    "and the node leaves them as they are.\n",
    "\n**少步 LoRA：** 打开模板中的 LoRA 开关后步数不超过 8，节点不做改动。\n",
)
SECOND_STAGE = (
    "\nThe second, 3-step stage is left alone. `euler_ancestral` draws noise, so the video is "
    "another one than without the node, as it is with any change.\n",
    "\n第二阶段只有 3 步，保持不变。`euler_ancestral` 会加入噪声，"
    "因此视频会与不用节点时不同，任何改动都是如此。\n",
)
PAPER = (
    ", in the setting of the paper (shift 3, cfg 4 and 3, uni_pc, 30 steps; no few-step LoRA)",
    "，采用论文的设置（shift 3，cfg 4 和 3，uni_pc，30 步；不用少步 LoRA）",
)
SWITCHED = ("flux2", "qwen_image", "qwen_image_edit", "wan22_14b_t2v", "wan22_14b_i2v", "anima")


def note_of(workflow: Any) -> str:
    """Both languages' text for one of build.py's workflows."""
    return "\n".join(
        words.format(
            title=workflow.title,
            template=workflow.template,
            steps=workflow.steps,
            calls=workflow.calls,
            consumer=("its sampler", "采样器")[i],
            changed=PAPER[i] if workflow.name.endswith("paper") else "",
            where=_where(workflow, i),
            extra=_extra(workflow.name, i),
        )
        for i, words in enumerate(WORDS[workflow.note])
    )


def _where(workflow: Any, i: int) -> str:
    flat = workflow.name in ("sd35_large", "wan22_5b", "ab_compare", "emoji")
    told = [(AFTERWARDS if flat else INSIDE)[i]]
    return " ".join([*told, *([EXPERTS[i]] if len(workflow.samplers) > 1 else [])])


def _extra(name: str, i: int) -> str:
    if name == "ltx2_t2v":
        return SECOND_STAGE[i]
    if name == "ab_compare":
        return COMPARED[i]
    return LIGHTNING[i] if name.removesuffix("_dev") in SWITCHED else ""
