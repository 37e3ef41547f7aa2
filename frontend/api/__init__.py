"""The HTTP doors: thin translations between HTTP and `frontend.service`.

`app` builds the Flask application. OpenAI's door: `openai` has the routes, `schemas` and `content`
read requests, `sse` writes streams. The original systems' door: `controller` and `worker` have the
routes, `control` guards registrations, `registration`, `payload` and `payload_content` read
requests, `frames` writes streams. For both, `answer` and `client` carry answers back, `errors`
turns failures into replies, and `server` runs it all in gunicorn. Importing this package imports
neither flask nor gevent.
"""
