"""The front of several studies as files."""

from __future__ import annotations

import json

from vodbench.front.files import FRONT_FILES
from vodbench.front.joint import JointFront, joint_json
from vodbench.storage import join, make_folder, write_bytes, write_text


def draw_joint(front: JointFront, out: str) -> list[str]:
    """Write front.html (interactive), front.png and front.json into ``out``; returns their URLs."""
    # plotly and matplotlib take a second to import: not for studies that are refused.
    from vodbench.front.joint_figure import joint_figure
    from vodbench.front.joint_picture import joint_png

    make_folder(out)
    write_text(join(out, "front.html"), joint_figure(front).to_html(include_plotlyjs=True, full_html=True))
    write_bytes(join(out, "front.png"), joint_png(front))
    write_text(join(out, "front.json"), json.dumps(joint_json(front), indent=1))
    return [join(out, name) for name in FRONT_FILES]
