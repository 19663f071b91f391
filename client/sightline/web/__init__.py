"""The web page (extra `web`): `sightline web`. Only `page` and `app` import Gradio, and only once the page is started."""
