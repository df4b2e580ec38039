//! One log line a request: `GET /configs/demo/latest 200 11 0.4ms`.
//!
//! In: what was asked and the response. Out: the same response, whose body counts the bytes that were handed
//! to the connection and writes the line when it ends, or is dropped because the client went away.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

/// Longer paths are cut in the log.
const MAX_PATH: usize = 200;

/// Middleware: answers through `next` and logs when the body has been sent.
pub(crate) async fn log_request(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let path: String = request.uri().path().chars().take(MAX_PATH).collect();
    let mut line = Line { started, what: format!("{} {path}", request.method()), status: 0, bytes: 0 };
    let response = next.run(request).await;
    line.status = response.status().as_u16();
    response.map(|body| Body::new(Logged { body, line }))
}

/// What the line will say; it is written on drop.
struct Line {
    started: Instant,
    what: String,
    status: u16,
    bytes: u64,
}

impl Drop for Line {
    fn drop(&mut self) {
        let milliseconds = self.started.elapsed().as_secs_f64() * 1000.0;
        log::info!("{} {} {} {milliseconds:.1}ms", self.what, self.status, self.bytes);
    }
}

struct Logged {
    body: Body,
    line: Line,
}

impl HttpBody for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.line.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
