"""The chat page: a Gradio app over `frontend.service`.

Chats are in Redis. `tabs` says whose they are, `conversation` what may be done next, `answer`
follows a job, `reading` knows which tab reads which, `wording`, `markup` and `export` say how it is
written, `shown` makes it values of components, `uploads` takes pictures in. `handlers`,
`attaching`, `history` and `model_list` are the page's events, `page`, `message_box` and
`chats_panel` lay it out, `web` are its plain HTTP parts and `app` serves it. For two models at a
time `battle` is what a tab remembers, `battle_handlers` are the events, `battle_shown` makes values
of them and `battle_page` lays it out.
Importing this package does not import gradio; importing `page` or what handles events does.
"""
