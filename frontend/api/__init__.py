"""The OpenAI-compatible HTTP door: a thin translation between HTTP and `frontend.service`.

`app` builds the Flask application, `openai` has the routes, `schemas` and `content` read requests,
`answer`, `sse` and `client` carry answers back, `errors` turns every failure into OpenAI's error
object, and `server` runs it all in gunicorn. Importing this package imports neither flask nor
gevent.
"""
