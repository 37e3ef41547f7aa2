"""The chat page: a Gradio app over `frontend.service`.

`conversation` is what a tab remembers, `answer` follows a job, `wording` and `markup` say how both
are shown, `uploads` takes pictures in, `handlers` are the page's events, `page` lays it out, `web`
are its plain HTTP parts and `app` serves it. Importing this package does not import gradio;
importing `page` or `handlers` does.
"""
