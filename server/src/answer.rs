//! One request to one response.
//!
//! In: a request and the site's folder. Out: a response whose body is read from the file as it is sent.
//! Failure: 404, 405, 416 or 500 with a line of text; none names a path of this machine.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use std::io::{Seek, SeekFrom};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use crate::conditions::{Decision, decide};
use crate::path::SitePath;
use crate::source::{Content, Refusal, Source, open};

/// A year, the longest that caches honour.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// Kept by caches only to be asked again, with `If-None-Match`.
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
/// Bytes read from a large file at a time.
const CHUNK: usize = 256 * 1024;

/// Answers one request.
pub(crate) async fn answer(State(site): State<Arc<PathBuf>>, request: Request) -> Response {
    let method = request.method();
    if method != Method::GET && method != Method::HEAD {
        return refuse_method();
    }
    let Some(path) = SitePath::from_request(request.uri().path()) else {
        return plain(StatusCode::NOT_FOUND);
    };
    let wanted = path.clone();
    let opened = tokio::task::spawn_blocking(move || open(&site, &wanted)).await;
    let source = match opened {
        Ok(Ok(source)) => source,
        Ok(Err(Refusal::NotFound)) => return plain(StatusCode::NOT_FOUND),
        Ok(Err(Refusal::Failed)) | Err(_) => return plain(StatusCode::INTERNAL_SERVER_ERROR),
    };
    let decision = decide(method, request.headers(), source.len, &source.etag);
    respond(method, &path, source, decision)
}

fn respond(method: &Method, path: &SitePath, source: Source, decision: Decision) -> Response {
    let (status, start, len) = match decision {
        Decision::Whole => (StatusCode::OK, 0, source.len),
        Decision::Part { start, len } => (StatusCode::PARTIAL_CONTENT, start, len),
        Decision::NotModified => (StatusCode::NOT_MODIFIED, 0, 0),
        Decision::Unsatisfiable => return unsatisfiable(source.len),
    };
    let mut headers = validators(path, &source.etag);
    if decision != Decision::NotModified {
        put(&mut headers, CONTENT_TYPE, path.content_type());
        put(&mut headers, ACCEPT_RANGES, "bytes");
        headers.insert(CONTENT_LENGTH, len.into());
    }
    if status == StatusCode::PARTIAL_CONTENT {
        put(&mut headers, CONTENT_RANGE, &format!("bytes {start}-{}/{}", start + len - 1, source.len));
    }
    // A HEAD gets the Content-Length of its GET: UEFI HTTP boot asks for it first.
    let empty = method == Method::HEAD || len == 0;
    let body = if empty { Ok(Body::empty()) } else { body(source.content, start, len) };
    match body {
        Ok(body) => response(status, headers, body),
        Err(error) => {
            log::error!("serving {}: seeking to {start}: {error}", path.relative());
            plain(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// The headers that a 304 bears too.
fn validators(path: &SitePath, etag: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, if path.is_immutable() { IMMUTABLE } else { NO_CACHE });
    put(&mut headers, ETAG, etag);
    headers
}

/// The bytes from `start`, `len` of them. A file that is cut meanwhile ends the connection early, so that the
/// client sees a body shorter than its Content-Length.
fn body(content: Content, start: u64, len: u64) -> std::io::Result<Body> {
    match content {
        Content::Whole(bytes) => {
            let start = usize::try_from(start).map_err(std::io::Error::other)?;
            let len = usize::try_from(len).map_err(std::io::Error::other)?;
            Ok(Body::from(bytes.slice(start..start + len)))
        }
        Content::Open(mut file) => {
            file.seek(SeekFrom::Start(start))?;
            let chunk = usize::try_from(len).unwrap_or(CHUNK).min(CHUNK);
            let limited = tokio::fs::File::from_std(file).take(len);
            Ok(Body::from_stream(ReaderStream::with_capacity(limited, chunk)))
        }
    }
}

fn unsatisfiable(len: u64) -> Response {
    let mut response = plain(StatusCode::RANGE_NOT_SATISFIABLE);
    put(response.headers_mut(), CONTENT_RANGE, &format!("bytes */{len}"));
    response
}

fn refuse_method() -> Response {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED);
    put(response.headers_mut(), ALLOW, "GET, HEAD");
    response
}

/// A status with its name as text. Never kept by a cache for long: what is missing now may be published next.
fn plain(status: StatusCode) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, NO_CACHE);
    put(&mut headers, CONTENT_TYPE, "text/plain; charset=utf-8");
    let text = status.canonical_reason().unwrap_or("error").to_lowercase();
    response(status, headers, Body::from(text + "\n"))
}

fn response(status: StatusCode, headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    headers.insert(name, HeaderValue::from_str(value).expect("made of visible ASCII by us"));
}
