"""How the page looks. Only fonts that the machine has: a closed network has no others."""

from __future__ import annotations

from typing import Any

FONTS = ["system-ui", "Segoe UI", "Roboto", "Liberation Sans", "DejaVu Sans", "sans-serif"]
MONO = ["ui-monospace", "Consolas", "Liberation Mono", "monospace"]
# draw.NORMAL, draw.ANOMALY, draw.PART: told apart by every kind of colour vision.
CSS = """
.gradio-container { max-width: 1500px !important; margin: 0 auto !important; } .gradio-container main { width: 100%; }
#header { align-items: center; } #title h1 { margin: 0; font-size: 1.6rem; font-weight: 700; color: var(--body-text-color); }
#upload .wrap { font-size: 1rem; line-height: 1.3; padding-top: 22px; } #upload .icon-wrap { display: none; }
#samples { border: 0; padding: 0; background: transparent; } #samples .thumbnail-item { width: 100%; height: auto; aspect-ratio: 1; }
#samples .grid-container { grid-template-columns: repeat(auto-fill, minmax(46px, 1fr)); grid-template-rows: none;
  grid-auto-rows: auto; gap: 6px; padding: 0; }
#samples .grid-wrap { min-height: 0; max-height: 130px; padding: 2px; overflow-y: auto; }
.html-container { padding: 0 !important; } #feedback button { white-space: nowrap; }
.banner, .banner .word, .banner .score, .banner .about { color: #fff; }
.banner { border-radius: 8px; padding: 14px 18px; color: #fff; min-height: 58px; }
.banner .head { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 18px; }
.banner .symbol { display: inline-flex; align-items: center; justify-content: center; width: 1.6em; height: 1.6em; border-radius: 50%;
  background: #fff; font-size: 1.3rem; font-weight: 700; }
.banner .word { font-size: 1.9rem; font-weight: 700; letter-spacing: .02em; line-height: 1.1; }
.banner .score { font-size: 1.15rem; } .banner .about { margin-left: auto; opacity: .92; font-size: .95rem; }
.banner .sentence { margin: 10px 0 0; font-size: 1.12rem; line-height: 1.45; color: #fff; overflow-wrap: anywhere; }
.banner.normal { background: rgb(0, 115, 90); } .banner.normal .symbol { color: rgb(0, 115, 90); }
.banner.anomaly { background: rgb(190, 45, 20); } .banner.anomaly .symbol { color: rgb(190, 45, 20); border-radius: 4px; }
.banner.failed { background: repeating-linear-gradient(135deg, #3a3a3a 0 18px, #2b2b2b 18px 36px); border: 3px solid #f5c518; }
.banner.failed .symbol { color: #2b2b2b; background: #f5c518; border-radius: 4px; }
.banner.busy { background: #4a5560; } .banner.busy .symbol { color: #4a5560; }
.banner.idle { background: var(--background-fill-secondary); color: var(--body-text-color);
  border: 1px dashed var(--border-color-primary); }
.note { font-size: .95rem; color: var(--body-text-color-subdued); padding: 2px 0; overflow-wrap: anywhere; }
.note.good { color: rgb(0, 115, 90); } .note.bad { color: rgb(190, 45, 20); }
.dark .note.good { color: #5fd3b4; } .dark .note.bad { color: #ff9c85; }
.note.effect { font-size: 1.05rem; line-height: 2; color: var(--body-text-color); }
.chip { color: #fff; font-weight: 700; border-radius: 6px; padding: 3px 10px; }
.chip.normal { background: rgb(0, 115, 90); } .chip.anomaly { background: rgb(190, 45, 20); }
.server { text-align: right; font-size: .95rem; } .server .up { color: rgb(0, 115, 90); } .server .down { color: rgb(190, 45, 20); }
.dark .server .up { color: #5fd3b4; } .dark .server .down { color: #ff9c85; }
.scroll { overflow-x: auto; } table.products { width: 100%; border-collapse: collapse; }
table.products th, table.products td { text-align: left; padding: 6px 10px; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; }
#view img { cursor: crosshair; user-select: none; } #drag { display: none; }
#band { position: fixed; z-index: 1000; pointer-events: none; border: 2px solid rgb(86, 180, 233);
  box-shadow: 0 0 0 1px #000, inset 0 0 0 1px #000; }
"""


def theme(themes: Any) -> Any:
    """`themes`: `gradio.themes`."""
    return themes.Default(primary_hue="slate", neutral_hue="gray", radius_size="sm", font=FONTS, font_mono=MONO)
