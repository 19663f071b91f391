"""The page's layout, and which action each of its events runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import gradio as gr

from . import actions, pictures, words
from .plant import Plant
from .session import Session, Update

SWITCHES = ("alarm", "learn", "missed", "running")
KEEP_S = 3600  # a user's pictures after the last step
ONE_AT_A_TIME = {"concurrency_id": "products", "concurrency_limit": 1}  # two enrolments of one product would overwrite each other


class Page:
    """The components, by the names that an `Update` has for them."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.part: dict[str, Any] = {"session": gr.State(Session(), time_to_live=KEEP_S)}
        self._header()
        with gr.Tab("Inspect"), gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=340):
                self._input()
            with gr.Column(scale=7, min_width=400):
                self._output()
        with gr.Tab("Products"):
            self._products()

    def _header(self) -> None:
        setup = self.plant.setup
        with gr.Row(equal_height=True, elem_id="header"):
            gr.HTML("<h1>Sightline</h1>", elem_id="title", padding=False)
            self.part["server"] = gr.HTML(elem_id="server", padding=False)
            self.url = gr.Textbox(
                setup.url, label="Server", info=None, visible=setup.any_server, elem_id="url", max_lines=1, scale=0, min_width=240,
                show_label=False, container=False, placeholder="HOST:PORT of the server, then Enter",
            )  # fmt: skip

    def _input(self) -> None:
        part = self.part
        part["upload"] = gr.File(label="Picture of a part", height=110, elem_id="upload")
        if self.plant.samples:
            self.samples = gr.Gallery(
                [sample.seen for sample in self.plant.samples], show_label=False, allow_preview=False, object_fit="cover", buttons=[],
                height="auto", elem_id="samples", interactive=False,
            )  # fmt: skip
        part["view"] = gr.Image(label="The part", interactive=False, buttons=[], format="png", height=340, elem_id="view")
        self.drag = gr.Textbox(elem_id="drag", show_label=False, container=False)  # not shown: drag.SCRIPT writes it
        part["hint"] = gr.HTML(words.note(words.HINT), elem_id="hint", padding=False)
        with gr.Row(equal_height=True):
            part["box"] = gr.Textbox(
                show_label=False,
                container=False,
                placeholder="Box: left, top, right, bottom in pixels",
                elem_id="box",
                max_lines=1,
                scale=4,
            )
            self.clear = gr.Button("Clear box", elem_id="clear", scale=1, min_width=110)
        with gr.Row(equal_height=True):
            self.product = gr.Dropdown(
                [("No product", "")], value="", label="Product", elem_id="product", allow_custom_value=True, scale=2, min_width=130
            )
            self.prompt = gr.Textbox(
                label="Question", placeholder="Any anomaly, where, and what?", elem_id="prompt", max_lines=3, scale=3, min_width=200,
            )  # fmt: skip
        with gr.Accordion("Compare with normal pictures of your own, this time only", open=False):
            self.references = gr.File(label="1 to 16 normal parts", file_count="multiple", height=120, elem_id="references")
        with gr.Row():
            self.go = gr.Button("Inspect", variant="primary", elem_id="inspect", scale=4)
            part["running"] = gr.Button("Stop", elem_id="stop", interactive=False, scale=1, min_width=90)

    def _output(self) -> None:
        part = self.part
        part["banner"] = gr.HTML(words.EMPTY, elem_id="banner", padding=False)
        part["result"] = gr.Image(
            label="Result", interactive=False, format="png", height=440, elem_id="result", buttons=["download", "fullscreen"]
        )
        part["layer"] = gr.Radio(list(pictures.LAYERS), value=pictures.DEFECTS, show_label=False, container=False, elem_id="layer")
        with gr.Column(elem_id="feedback"):
            with gr.Row():
                self.operator = gr.Textbox(label="Operator", elem_id="operator", max_lines=1, min_width=120)
                self.remark = gr.Textbox(label="Was the answer wrong? Remark", elem_id="remark", max_lines=1, min_width=160, scale=2)
            with gr.Row():
                part["alarm"] = gr.Button("False alarm", elem_id="alarm", interactive=False, min_width=120)
                part["learn"] = gr.Button("False alarm: learn as normal", elem_id="learn", interactive=False, scale=2, min_width=220)
                part["missed"] = gr.Button("Missed defect", elem_id="missed", interactive=False, min_width=120)
        part["effect"] = gr.HTML(elem_id="effect", padding=False)
        part["chat"] = gr.Chatbot(
            label="Further questions about this picture", height=220, elem_id="chat", render_markdown=False, feedback_options=None,
            buttons=[], allow_tags=False, latex_delimiters=[], placeholder="After the verdict, ask on.",
        )  # fmt: skip
        with gr.Row(equal_height=True):
            part["question"] = gr.Textbox(
                show_label=False, container=False, placeholder="What could have caused it?", elem_id="question", max_lines=3, scale=5
            )
            self.send = gr.Button("Ask", elem_id="ask", scale=1, min_width=90)
        with gr.Accordion("Report", open=False):
            part["report"] = gr.JSON(show_label=False, elem_id="report")

    def _products(self) -> None:
        self.part["listing"] = gr.HTML(elem_id="listing")
        with gr.Row(equal_height=False):
            with gr.Column():
                self.name = gr.Textbox(label="Enrol a product: name (a-z, 0-9, - and _)", elem_id="name", max_lines=1)
                self.good = gr.File(label="1 to 500 pictures of normal parts", file_count="multiple", height=160, elem_id="good")
                self.description = gr.Textbox(label="What it is, told to the language model", elem_id="description", max_lines=2)
                self.enroll = gr.Button("Enrol", variant="primary", elem_id="enroll")
                self.part["outcome"] = gr.HTML(elem_id="outcome")
            with gr.Column():
                self.chosen = gr.Dropdown([], label="Enrolled product", elem_id="chosen", allow_custom_value=True)
                with gr.Row():
                    self.describe = gr.Button("Describe", elem_id="describe")
                    self.remove = gr.Button("Remove", variant="stop", elem_id="remove")
                self.recipe = gr.JSON(label="Recipe", elem_id="recipe")

    def wire(self, load: Callable[..., Any]) -> None:
        """Every event. `load`: the page's own, when a browser opens it."""
        part, plant, session = self.part, self.plant, self.part["session"]
        asked = [self.url, session, self.prompt, self.product, self.references, part["box"], part["layer"]]
        inspect = self._event(self._stream(partial(actions.inspect, plant)), asked)
        ask = self._event(self._stream(actions.ask), [session, part["question"], part["chat"]])
        running = [self.go.click(**inspect), self.prompt.submit(**inspect), self.send.click(**ask), part["question"].submit(**ask)]
        part["chat"].clear(**self._event(self._once(actions.forget), [session]), cancels=running)
        part["running"].click(**self._event(self._once(actions.stopped), [session]), cancels=running)

        part["upload"].upload(**self._event(self._once(actions.take), [part["upload"]]), cancels=running)
        if plant.samples:
            self.samples.select(**self._event(self._sample, []), cancels=running)
        part["view"].select(**self._event(self._click, [session]))
        self.drag.change(**self._event(self._once(actions.drag), [session, self.drag]))
        for event in (part["box"].submit, part["box"].blur):
            event(**self._event(self._once(actions.type_box), [session, part["box"]]))
        self.clear.click(**self._event(self._once(actions.clear_box), [session]))

        said = [session, self.operator, self.remark]
        part["layer"].input(**self._event(self._once(actions.switch), [session, part["layer"]]))
        part["alarm"].click(**self._event(self._once(partial(actions.complain, plant, "false_alarm")), said))
        part["missed"].click(**self._event(self._once(partial(actions.complain, plant, "missed")), said))
        learn = self._stream(partial(actions.learn, plant))
        part["learn"].click(**self._event(learn, [self.url, *said, part["layer"]]), **ONE_AT_A_TIME)
        self._wire_products(load)

    def _wire_products(self, load: Callable[..., Any]) -> None:
        plant = self.plant
        connect = self._event(self._once(partial(actions.connect, plant)), [self.url])
        load(**connect)
        self.url.submit(**connect)
        enroll = self._stream(partial(actions.enroll, plant))
        self.enroll.click(**self._event(enroll, [self.url, self.name, self.good, self.description]), **ONE_AT_A_TIME)
        self.remove.click(**self._event(self._once(partial(actions.remove, plant)), [self.url, self.chosen]), **ONE_AT_A_TIME)
        shown = {"inputs": [self.url, self.chosen], "outputs": self.recipe, "api_visibility": "private"}
        self.describe.click(partial(actions.describe, plant), **shown)

    def _click(self, session: Session, at: gr.SelectData) -> dict[Any, Any]:
        return self._shown(actions.click(session, *at.index))

    def _sample(self, at: gr.SelectData) -> dict[Any, Any]:
        return self._shown(actions.take(self.plant.samples[at.index].path))

    def _once(self, action: Callable[..., Update]) -> Callable[..., dict[Any, Any]]:
        return lambda *given: self._shown(action(*given))

    def _stream(self, action: Callable[..., Iterator[Update]]) -> Callable[..., Iterator[dict[Any, Any]]]:
        def run(*given: Any) -> Iterator[dict[Any, Any]]:
            yield from map(self._shown, action(*given))  # closed with its user's page, and the request with it

        return run

    def _event(self, function: Callable[..., Any], inputs: list[Any]) -> dict[str, Any]:
        """An event's arguments: what runs, on what, and the components that it may change."""
        outputs = [*self.part.values(), self.product, self.chosen]
        return {"fn": function, "inputs": inputs, "outputs": outputs, "show_progress": "hidden", "api_visibility": "private"}

    def _shown(self, update: Mapping[str, Any]) -> dict[Any, Any]:
        shown: dict[Any, Any] = {}
        for name, value in update.items():
            if name == "choices":
                shown[self.product] = gr.update(choices=[("No product", ""), *value])
                shown[self.chosen] = gr.update(choices=value)
            else:
                shown[self.part[name]] = gr.update(interactive=value) if name in SWITCHES else value
        return shown or {self.part["hint"]: gr.skip()}  # Gradio takes no empty answer


def build(plant: Plant) -> Any:
    with gr.Blocks(title="Sightline", analytics_enabled=False, delete_cache=(600, KEEP_S)) as blocks:
        page = Page(plant)
        page.wire(blocks.load)
    return blocks.queue(default_concurrency_limit=plant.setup.users, max_size=64, api_open=False)
