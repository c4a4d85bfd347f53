"""The least that answers a webhook: FastAPI and uvicorn, as zonerw uses them, and one route.

python benchmarks/bare.py ADDRESS PORT
"""

import sys

import uvicorn
from fastapi import FastAPI, Request, Response

app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)


@app.post("/webhook")
async def webhook(request: Request) -> Response:
    """Give the body back."""
    return Response(await request.body(), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        app,
        host=sys.argv[1],
        port=int(sys.argv[2]),
        log_config=None,
        access_log=False,
        server_header=False,
    )
